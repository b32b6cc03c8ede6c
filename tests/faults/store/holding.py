"""A process that tries to take a campaign, says whether it could, and waits for a line."""

import sys
from pathlib import Path

from state.clock import SystemClock
from state.errors import LeaseLostError
from state.lease import Lease
from state.paths import CampaignPaths


def main() -> None:
    """Print `held` or the refusal's sentence."""
    try:
        Lease.acquire(CampaignPaths(Path(sys.argv[1]), "night"), SystemClock())
    except LeaseLostError as error:
        print(error.sentence, flush=True)
    else:
        print("held", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
