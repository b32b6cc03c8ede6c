"""What the tests of jobs share: folders, kills, deadlines, evidence."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from state.files import read_json, read_jsonl
from state.paths import JobPaths
from state.records import ExitRecord
from tools.jobs.backend import LocalBackend
from tools.jobs.processes import ProcessIdentity, is_alive
from tools.jobs.spec import JobSpec

ROOT = Path(__file__).parents[3]

DEADLINE_S = 60.0
"""Bound on every wait: generous, for machines with many tests at once; nothing waits for it to pass."""

BACKEND = LocalBackend()


def spec(key: str = "k1", *, guards: tuple[Any, ...] = (), **options: Any) -> JobSpec:
    """Return a job of the quick worker; fields of the specification go by name, the rest is the worker's input."""
    steps = options.setdefault("steps", 10)
    fields = {name: options.pop(name) for name in set(options) & set(JobSpec.model_fields) - {"steps"}}
    return JobSpec.model_validate(
        {
            "key": key,
            "kind": "training",
            "module": "tests.faults.quick_worker",
            "input": options,
            "env": {"PYTHONPATH": str(ROOT)},
            "guards": guards,
            "stop_grace_s": 10.0,
            "restart_pause_s": 0.05,
            "steps": steps,
            **fields,
        }
    )


Value = TypeVar("Value")


def until(ask: Callable[[], Value], what: str, deadline_s: float = DEADLINE_S) -> Value:
    """Ask again until the answer is true, and return it.

    Raises:
        AssertionError: It was not by the deadline.
    """
    end = time.monotonic() + deadline_s
    while not (answer := ask()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s:g} s: {what}")
        time.sleep(0.01)
    return answer


def ended(folder: Path) -> ExitRecord:
    """Wait for the exit record and for the supervisor to leave."""
    until((folder / "exit.json").exists, f"exit record in {folder}")
    until(lambda: not is_alive(supervisor(folder)), "the supervisor leaves")
    record = BACKEND.status(folder).exit
    assert record is not None
    return record


def supervisor(folder: Path) -> ProcessIdentity | None:
    """Return the identity in start.json."""
    return ProcessIdentity.from_json(read_json(JobPaths(folder).start))


def worker(folder: Path) -> ProcessIdentity | None:
    """Return the identity in worker.json."""
    return ProcessIdentity.from_json(read_json(JobPaths(folder).worker))


def kill(identity: ProcessIdentity | None, number: signal.Signals = signal.SIGKILL) -> bool:
    """Send a signal to a process that is surely the one meant, and for KILL wait until it is gone."""
    # A test that supervises in its own process finds itself in start.json.
    if identity is None or identity.pid == os.getpid() or not is_alive(identity):
        return False
    os.kill(identity.pid, number)
    if number == signal.SIGKILL:
        until(lambda: not is_alive(identity), "a killed process is gone")
    return True


def steps_done(folder: Path) -> int:
    """Return how many steps the quick worker has committed."""
    steps = folder / "out" / "steps"
    return len(list(steps.iterdir())) if steps.exists() else 0


def running_at(folder: Path, step: int) -> ProcessIdentity:
    """Wait until the worker has done a step, and return who it is."""
    until(lambda: steps_done(folder) >= step, f"step {step} in {folder}")
    found = worker(folder)
    assert found is not None
    return found


def content(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file that must be there."""
    value = read_json(path)
    assert isinstance(value, dict)
    return value


def starts(folder: Path) -> list[dict[str, Any]]:
    """Return the starts of the quick worker."""
    return read_jsonl(folder / "out" / "starts.jsonl")


def violations(folder: Path) -> list[dict[str, Any]]:
    """Return what the quick worker saw that must not be: two at once, a step done twice."""
    return read_jsonl(folder / "out" / "violations.jsonl")


def assert_done_once(folder: Path, steps: int = 10) -> None:
    """Assert that every step was done, by one worker at a time, once."""
    assert violations(folder) == []
    assert steps_done(folder) == steps
    assert content(folder / "result.json")["steps"] == steps


def clear(folder: Path) -> None:
    """End what a test left running in the job folders below."""
    for job in folder.rglob("job.json"):
        # The supervisor first: it would start the worker again.
        kill(supervisor(job.parent))
        identity = worker(job.parent)
        if is_alive(identity) and identity is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(identity.pid, signal.SIGKILL)
