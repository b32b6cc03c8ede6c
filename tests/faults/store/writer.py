"""A process that holds a campaign and writes without end: `python -m tests.faults.store.writer HOME [PAUSE_S]`.

Each line it prints is the number of a round whose every write has been acknowledged by the store. It pauses between
rounds where others want to write: SQLite's lock is not fair, and who asks at random moments may wait for ever.
"""

import sys
import time
from itertools import count
from pathlib import Path

from state.clock import SystemClock
from state.lease import Lease
from state.paths import CampaignPaths
from state.store import Store
from tests.state import samples


def main() -> None:
    """Write rounds of a belief, an action and its end, a decision with a run, and two measured cases."""
    paths, clock = CampaignPaths(Path(sys.argv[1]), "night"), SystemClock()
    pause_s = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    store = Store.open(paths, clock, Lease.acquire(paths, clock))
    store.agent.begin(samples.goal())
    for number in count(len(store.read.decisions()) + 1):
        key = f"k{number}"
        store.knowing.believe(samples.belief(value=number, tag="inferred"))
        store.doing.intend(samples.action(key))
        store.knowing.measure([samples.measurement("c1", key), samples.measurement("c2", key)])
        store.doing.finish(key, {"number": number})
        store.deciding.decide(samples.decision(f"Round {number}."), run=samples.run())
        print(number, flush=True)
        time.sleep(pause_s)


if __name__ == "__main__":
    main()
