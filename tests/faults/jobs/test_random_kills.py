"""Kills at random moments: of the supervisor, the worker, both, or a launcher in the middle of its launch.

`VIGIL_KILLS=1000 python -m pytest tests/faults/jobs/test_random_kills.py` for more than the default.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from state.files import read_jsonl
from tests.faults.jobs.harness import (
    BACKEND,
    ROOT,
    assert_done_once,
    clear,
    ended,
    spec,
    starts,
    supervisor,
    until,
    worker,
)
from tools.jobs.identity import is_alive
from tools.jobs.spec import ExitRecord, JobSpec

pytestmark = pytest.mark.faults

KILLS = int(os.environ.get("VIGIL_KILLS", "20"))
STEPS = 150
KILLS_PER_JOB = 10

LAUNCHER = (
    "import sys; from pathlib import Path; from tools.jobs.local import LocalBackend;"
    "from tools.jobs.spec import JobSpec;"
    "LocalBackend().launch(Path(sys.argv[1]), JobSpec.model_validate_json(sys.argv[2]))"
)


@dataclass
class Tried:
    """What was killed, for the report of a failure."""

    kills: dict[str, int] = field(default_factory=dict)

    def count(self, what: str) -> None:
        """Count a kill that hit a live process."""
        self.kills[what] = self.kills.get(what, 0) + 1

    @property
    def total(self) -> int:
        """Kills that hit."""
        return sum(self.kills.values())


def launch_and_maybe_die(folder: Path, job: JobSpec, chance: random.Random, tried: Tried) -> None:
    """Launch from another process, which is killed at a random moment; then launch twice more, as an agent would."""
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(folder), job.model_dump_json()], cwd=ROOT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        launcher.wait(timeout=chance.uniform(0.05, 1.0))
    if launcher.poll() is None:
        launcher.kill()
        tried.count("launcher")
    launcher.wait()
    BACKEND.launch(folder, job)
    BACKEND.launch(folder, job)


def kill_one(folder: Path, what: str, tried: Tried) -> None:
    """Kill without waiting for it to be gone, as a crash does."""
    identity = supervisor(folder) if what == "supervisor" else worker(folder)
    if identity is not None and is_alive(identity):
        with contextlib.suppress(ProcessLookupError):
            os.kill(identity.pid, signal.SIGKILL)
            tried.count(what)


def torment(folder: Path, job: JobSpec, chance: random.Random, tried: Tried) -> None:
    """Kill at random moments until the job has ended or has had its share."""
    launch_and_maybe_die(folder, job, chance, tried)
    before = tried.total
    while tried.total - before < KILLS_PER_JOB and not (folder / "exit.json").exists():
        time.sleep(chance.uniform(0, 0.5))
        for what in chance.choice([["supervisor"], ["worker"], ["supervisor", "worker"], ["worker", "supervisor"]]):
            kill_one(folder, what, tried)
        if chance.random() < 0.2:
            launch_and_maybe_die(folder, job, chance, tried)
        else:
            BACKEND.launch(folder, job)


def tend(folder: Path, job: JobSpec) -> ExitRecord:
    """Poll the job to its end as an agent does: the supervisor that a launch saw alive may have been dying."""

    def is_ended() -> bool:
        status = BACKEND.status(folder)
        if status.needs_launch:
            BACKEND.launch(folder, job)
        return status.is_ended

    until(is_ended, f"the end of {folder}")
    return ended(folder)


def test_random_kills_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    seed = int(os.environ.get("VIGIL_SEED", str(random.randrange(10**6))))
    chance, tried, number = random.Random(seed), Tried(), 0
    try:
        while tried.total < KILLS:
            number += 1
            folder = tmp_path / f"job{number}"
            job = spec(
                f"k{number}", steps=STEPS, max_restarts=10_000, max_restarts_without_progress=10_000, restart_pause_s=0
            )
            torment(folder, job, chance, tried)
            record = tend(folder, job)
            assert (record.state, record.reason) == ("finished", ""), seed
            assert_done_once(folder, STEPS)
            assert {row["step"] for row in read_jsonl(folder / "metrics.jsonl")} == set(range(1, STEPS + 1)), seed
            assert record.restarts + 1 >= len(starts(folder)), seed
    finally:
        clear(tmp_path)
    print(f"seed {seed}: {tried.total} kills {tried.kills} over {number} jobs")
