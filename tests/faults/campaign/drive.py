"""`python -m tests.faults.campaign.drive CAMPAIGN HOME wait|no-wait [KIND=MODULE …]`: `vigil run` with quick workers.

A kind that is named runs the module beside it, such as `census=tools.evaluation.census`; the others run quick ones.
"""

import sys
from functools import partial
from pathlib import Path

from agent.render.watch import Terminal
from agent.runner import run_campaign
from state.errors import VigilError

QUICK = "tests.faults.campaign.quick"


def main() -> int:
    """Run the campaign and return the exit code of the command line."""
    campaign, home, wait = sys.argv[1:4]
    workers = {"census": QUICK, "evaluation": QUICK, "training": QUICK, "fuse": QUICK}
    workers |= dict(named.split("=", 1) for named in sys.argv[4:])
    terminal = Terminal(partial(print, end="", flush=True))
    try:
        end = run_campaign(Path(campaign), Path(home), wait=wait == "wait", workers=workers, terminal=terminal)  # type: ignore[arg-type]  # the keys are kinds
    except VigilError as error:
        print(error.sentence)
        return error.exit_code
    print(end.sentence)
    return end.exit_code


if __name__ == "__main__":
    sys.exit(main())
