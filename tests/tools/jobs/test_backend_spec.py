"""What every backend must do, whatever is behind it; run on each implementation."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from state.errors import JobNotStartedError, NotFoundError, ToolUnavailableError
from state.files import read_jsonl
from state.records import ExitRecord
from tests.faults.jobs.harness import (
    assert_done_once,
    clear,
    content,
    kill,
    running_at,
    spec,
    starts,
    steps_done,
    supervisor,
    until,
    violations,
    worker,
)
from tests.tools.jobs.engines import ENGINES, Engine
from tools.jobs.backend import Backend
from tools.jobs.folder import last_lines
from tools.jobs.processes import is_alive
from tools.jobs.spec import JobSpec

KILLS = int(os.environ.get("VIGIL_KILLS", "10"))


@pytest.fixture(params=ENGINES, ids=lambda kind: kind.__name__.lower())
def engine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    made: Engine = request.param()
    yield made
    clear(tmp_path / "job")
    made.settle()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "job"


def launch(engine: Backend, folder: Path, job: JobSpec) -> None:
    """Launch as an agent does: an engine that does not answer is asked again."""
    for _ in range(3):
        with contextlib.suppress(ToolUnavailableError):
            engine.launch(folder, job)
            return
    raise AssertionError("the engine never answered")


def stop(engine: Backend, folder: Path, by: str, reason: str) -> None:
    """Stop as an agent does."""
    with contextlib.suppress(ToolUnavailableError):
        engine.stop(folder, by, reason)


def tend(engine: Backend, folder: Path, job: JobSpec) -> ExitRecord:
    """Poll to the end, launching again whenever nobody stands over the job."""

    def has_ended() -> bool:
        status = engine.status(folder)
        if status.needs_launch:
            launch(engine, folder, job)
        return status.is_ended

    until(has_ended, f"the end of {folder}")
    until(lambda: not is_alive(supervisor(folder)), "the supervisor leaves")
    record = engine.status(folder).exit
    assert record is not None
    return record


def test_a_job_runs_to_its_end_once_however_often_it_is_launched(engine: Engine, folder: Path) -> None:
    for _ in range(3):
        launch(engine, folder, spec())
    record = tend(engine, folder, spec())
    assert (record.state, record.restarts, len(starts(folder))) == ("finished", 0, 1)
    assert_done_once(folder)
    assert set(engine.settle()) <= {0, 75}


def test_nothing_happens_in_a_folder_that_has_its_exit_record(engine: Engine, folder: Path) -> None:
    launch(engine, folder, spec(steps=3))
    tend(engine, folder, spec(steps=3))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "supervisor.log"}
    launch(engine, folder, spec(steps=3))
    engine.requeue(folder)
    engine.settle()
    stop(engine, folder, "anna", "too late")
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "supervisor.log"}
    # The folder itself and the lock may be touched, no record may.
    assert {path for path in before if before[path] != after[path]} <= {folder, folder / "supervisor.lock"}
    assert engine.status(folder).state == "finished"
    assert len(starts(folder)) == 1


def test_the_state_follows_from_the_folder_alone(engine: Engine, folder: Path) -> None:
    with pytest.raises(NotFoundError):
        engine.status(folder)
    job = spec(hang_at=4, steps=10)
    launch(engine, folder, job)
    running_at(folder, 3)
    asked_by_another = type(engine)().status(folder)
    assert (asked_by_another.state, asked_by_another.steps) == ("running", 10)
    assert asked_by_another.step in {3, 4}
    stop(engine, folder, "anna", "")
    tend(engine, folder, job)
    assert type(engine)().status(folder).state == "stopped"


def test_another_job_for_the_same_folder_is_refused(engine: Engine, folder: Path) -> None:
    launch(engine, folder, spec())
    with pytest.raises(JobNotStartedError, match="already holds another job: input"):
        engine.launch(folder, spec(delay_s=0.5))
    assert tend(engine, folder, spec()).state == "finished"


def test_a_stop_saves_and_the_first_request_stays(engine: Engine, folder: Path) -> None:
    job = spec(hang_at=5)
    launch(engine, folder, job)
    running_at(folder, 4)
    stop(engine, folder, "anna", "enough")
    stop(engine, folder, "bob", "me too")
    record = tend(engine, folder, job)
    assert (record.state, record.by, record.reason, record.code) == ("stopped", "anna", "enough", 75)
    launch(engine, folder, job)
    assert engine.status(folder).state == "stopped"
    assert len(starts(folder)) == 1


def test_a_supervisor_that_is_killed_is_replaced_and_the_worker_goes_on(engine: Engine, folder: Path) -> None:
    job = spec(hang_at=5)
    launch(engine, folder, job)
    first = running_at(folder, 3)
    assert kill(supervisor(folder))
    launch(engine, folder, job)
    until(lambda: is_alive(supervisor(folder)), "another supervisor")
    assert worker(folder) == first
    stop(engine, folder, "anna", "")
    record = tend(engine, folder, job)
    assert (record.state, record.is_adopted, len(starts(folder))) == ("stopped", True, 1)


def test_a_job_that_lost_everybody_goes_on_from_its_last_step(engine: Engine, folder: Path) -> None:
    job = spec(steps=20)
    launch(engine, folder, job)
    running_at(folder, 5)
    while kill(supervisor(folder)) or kill(worker(folder)):
        pass
    assert tend(engine, folder, job).state == "finished"
    assert_done_once(folder, 20)
    assert starts(folder)[-1]["from"] >= 5


def test_kills_between_launches_never_make_two_workers(engine: Engine, folder: Path) -> None:
    job = spec(steps=60, max_restarts=1000, max_restarts_without_progress=1000, restart_pause_s=0)
    launch(engine, folder, job)
    for number in range(KILLS):
        until(lambda n=number: steps_done(folder) > n or engine.status(folder).is_ended, "a step")  # type: ignore[misc]  # a default argument
        kill(worker(folder) if number % 2 else supervisor(folder), signal.SIGKILL)
        launch(engine, folder, job)
        engine.requeue(folder)
    assert tend(engine, folder, job).state == "finished"
    assert violations(folder) == []
    assert_done_once(folder, 60)


def test_rows_and_words_can_be_read_by_anybody(engine: Engine, folder: Path) -> None:
    job = spec(steps=4, crash={"at": 3, "times": 1, "how": "exit"})
    launch(engine, folder, job)
    tend(engine, folder, job)
    assert [row["step"] for row in read_jsonl(folder / "metrics.jsonl")] == [1, 2, 3, 4]
    assert last_lines(folder / "log.txt", 5) == ["crashing at step 3"]
    assert content(folder / "job.json")["key"] == "k1"
