"""Kills of supervisors and workers at random moments, and of launchers in the middle of a launch."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from state.files import read_jsonl
from state.records import ExitRecord
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
from tests.faults.parts.contract import Batch, Part
from tools.jobs.processes import is_alive
from tools.jobs.spec import JobSpec

STEPS = 150
KILLS_PER_JOB = 10

LAUNCHER = (
    "import sys; from pathlib import Path; from tools.jobs.backend import LocalBackend;"
    "from tools.jobs.spec import JobSpec;"
    "LocalBackend().launch(Path(sys.argv[1]), JobSpec.model_validate_json(sys.argv[2]))"
)


@dataclass
class Tried:
    """What was killed."""

    kills: dict[str, int] = field(default_factory=dict)

    def count(self, what: str) -> None:
        """Count a kill that hit a live process."""
        self.kills[what] = self.kills.get(what, 0) + 1

    @property
    def total(self) -> int:
        """Kills of supervisors and workers that hit."""
        return self.kills.get("supervisor", 0) + self.kills.get("worker", 0)


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


def kills(seed: int, folder: Path, most: int) -> Batch:
    """Torment one job, then tend it to its end."""
    del most
    tried, job_folder = Tried(), folder / "job"
    job = spec(f"k{seed}", steps=STEPS, max_restarts=10_000, max_restarts_without_progress=10_000, restart_pause_s=0)
    try:
        torment(job_folder, job, random.Random(seed), tried)
        record = tend(job_folder, job)
        found = wrong(job_folder, record)
    except AssertionError as error:
        found = [" ".join(str(error).split())[:300]]
    finally:
        clear(folder)
    return Batch(tried.total, tuple(f"seed {seed}: {each}" for each in found), {"jobs": 1, **tried.kills})


def wrong(folder: Path, record: ExitRecord) -> list[str]:
    """Return what is wrong with a job that ought to have finished, each step done once."""
    found = [] if (record.state, record.reason) == ("finished", "") else [f"it {record.state}: {record.reason}"]
    try:
        assert_done_once(folder, STEPS)
    except AssertionError as error:
        found.append(" ".join(str(error).split())[:300])
    if {row["step"] for row in read_jsonl(folder / "metrics.jsonl")} != set(range(1, STEPS + 1)):
        found.append("a step has no row")
    if record.restarts + 1 < len(starts(folder)):
        found.append(f"{len(starts(folder))} starts, {record.restarts} restarts on record")
    return found


PARTS = (Part("kill_job", "kill -9 of supervisor, worker or both at random moments", 1000, kills),)
