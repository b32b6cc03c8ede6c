"""What watching costs: processor time of agent and supervisor while a job trains, and the size of the two databases.

python -m tests.benchmarks.overhead [--seconds N] [--decisions N]

A real agent and its real supervisor watch a training that sleeps half a second per step, so that what is counted is
theirs alone. Processor seconds are those that the kernel counted for each process, from the moment that the training
has begun: starting Python is not watching. The second figure is the size of a store and a file of checkpoints after so
many decisions, each with a belief, four measured cases, an action, a commitment and a run beside it.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
from langgraph.checkpoint.base import empty_checkpoint

from agent.loop import open_saver, prune
from state.clock import FakeClock
from state.lease import Lease
from state.paths import CampaignPaths
from state.store import Store
from tests.faults.campaign import world
from tests.faults.campaign.reboot import processes_of
from tests.faults.store.lives import fill

MOST_SHARE = 0.005
"""Of one core."""

MOST_MB = 50.0
_RECIPE = {"batch_size": 4, "iters": 100_000, "max_seq_length": 128, "learning_rate": 0.001}
_SETTLED_S = 15.0
"""Ticks of a supervisor grow from 0.05 s to 1 s in the first seconds of a job."""


def watching(folder: Path, seconds: float) -> dict[str, float]:
    """Return the share of one core that agent and supervisor used while a job trained.

    Raises:
        AssertionError: No training came up.
    """
    campaign, home = world.write_campaign(folder / "files", recipe=_RECIPE), folder / "home"
    os.environ.update({"QUICK_STEP_S": "0.5", "XDG_STATE_HOME": str(folder / "machine")})
    agent = world.start(campaign, home)
    try:
        deadline = time.monotonic() + 180
        while not list(home.glob("storm/jobs/*/out/steps/000003")):
            if time.monotonic() > deadline or agent.poll() is not None:
                raise AssertionError(world.words(home))
            time.sleep(0.2)
        time.sleep(_SETTLED_S)
        watched = {"agent": psutil.Process(agent.pid)}
        for process in processes_of(home):
            if "tools.jobs.supervisor" in process.cmdline():
                watched["supervisor"] = process
        before, started = {name: _cpu_s(process) for name, process in watched.items()}, time.monotonic()
        time.sleep(seconds)
        took_s = time.monotonic() - started
        return {name: (_cpu_s(process) - before[name]) / took_s for name, process in watched.items()}
    finally:
        for process in processes_of(home):
            process.kill()
        agent.wait()


def _cpu_s(process: psutil.Process) -> float:
    """Return user and system seconds of a process and of the programs that it started and that have ended."""
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def databases_mb(folder: Path, decisions: int) -> dict[str, float]:
    """Return decimal megabytes of store and checkpoints after so many decisions, write-ahead logs with them."""
    paths, clock = CampaignPaths(folder / "sizes", "night"), FakeClock()
    with Lease.acquire(paths, clock) as lease, Store.open(paths, clock, lease) as store:
        fill(store, decisions)
        store_mb = _mb(paths.db)
    saver = open_saver(paths.graph)
    with closing(saver.conn):
        config: Any = {"configurable": {"thread_id": "night", "checkpoint_ns": ""}}
        for step in range(3 * decisions):
            config = saver.put(config, empty_checkpoint(), {"step": step, "source": "loop"}, {})
            saver.put_writes(config, [("deciding", {"decision": f"D{step}"})], "task")
            if step % 50 == 49:
                prune(saver)
        return {"store": store_mb, "checkpoints": _mb(paths.graph)}


def _mb(path: Path) -> float:
    return sum(file.stat().st_size for file in path.parent.glob(path.name + "*")) / 1e6


def main(argv: Sequence[str] | None = None) -> int:
    """Print both figures; return 1 where a bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="how long is watched")
    parser.add_argument("--decisions", type=int, default=1000, help="steps of the campaign whose databases are weighed")
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        sizes = databases_mb(folder, asked.decisions)
        for what, size in sizes.items():
            print(f"{what}: {size:.1f} MB after {asked.decisions:,} steps", flush=True)
        shares = watching(folder, asked.seconds)
    for what, share in shares.items():
        print(f"{what}: {share:.3%} of a core over {asked.seconds:g} s of training")
    print(f"Together {sum(shares.values()):.3%} of a core (bound {MOST_SHARE:.1%}), ", end="")
    print(f"{sum(sizes.values()):.1f} MB (bound {MOST_MB:g} MB).")
    return int(sum(shares.values()) > MOST_SHARE or sum(sizes.values()) > MOST_MB)


if __name__ == "__main__":
    sys.exit(main())
