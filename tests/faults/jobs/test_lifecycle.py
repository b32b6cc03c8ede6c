import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from state.errors import JobNotStartedError, NotFoundError
from state.files import read_jsonl
from state.hashing import hash_file
from state.paths import JobPaths
from tests.faults.jobs.harness import (
    BACKEND,
    ROOT,
    assert_done_once,
    content,
    ended,
    running_at,
    spec,
    starts,
    steps_done,
    supervisor,
    until,
)
from tools.jobs.processes import is_alive

pytestmark = pytest.mark.faults

LAUNCHER = """
import os, sys
from pathlib import Path
from tools.jobs.backend import LocalBackend
from tools.jobs.spec import JobSpec
LocalBackend().launch(Path(sys.argv[1]), JobSpec.model_validate_json(sys.argv[2]))
"""

DYING_LAUNCHER = LAUNCHER + "os.kill(os.getpid(), 9)"


def test_a_job_runs_to_its_end_and_leaves_a_record(folder: Path) -> None:
    BACKEND.launch(folder, spec(result={"adapter": "out/adapter"}))
    record = ended(folder)
    assert (record.state, record.code, record.signal, record.by) == ("finished", 0, None, "worker")
    assert record.restarts == 0
    assert record.result_hash == hash_file(folder / "result.json")
    assert record.peak_rss_gb > 0.005
    assert record.started_at is not None
    assert record.started_at < record.finished_at
    assert_done_once(folder)
    status = BACKEND.status(folder)
    assert (status.state, status.step, status.steps, status.is_ended) == ("finished", 10, 10, True)


def test_three_launches_start_one_worker(folder: Path) -> None:
    for _ in range(3):
        BACKEND.launch(folder, spec())
    ended(folder)
    BACKEND.launch(folder, spec())
    assert len(starts(folder)) == 1
    assert_done_once(folder)


def test_launchers_at_once_start_one_worker(folder: Path) -> None:
    job = spec(steps=15)
    folder.mkdir()
    command = [sys.executable, "-c", LAUNCHER, str(folder), job.model_dump_json()]
    launchers = [subprocess.Popen(command, cwd=ROOT) for _ in range(4)]
    assert [launcher.wait() for launcher in launchers] == [0, 0, 0, 0]
    ended(folder)
    assert len(starts(folder)) == 1
    assert_done_once(folder, 15)


def test_a_launcher_that_dies_leaves_the_job_running(folder: Path) -> None:
    job = spec(steps=30, delay_s=0.1)
    died = subprocess.run(
        [sys.executable, "-c", DYING_LAUNCHER, str(folder), job.model_dump_json()], cwd=ROOT, check=False
    )
    assert died.returncode == -9
    assert ended(folder).restarts == 0
    assert_done_once(folder, 30)


def test_the_launcher_has_no_zombies(folder: Path) -> None:
    BACKEND.launch(folder, spec(steps=2))
    ended(folder)
    assert [child.pid for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE] == []


def test_supervisor_and_worker_have_sessions_of_their_own(folder: Path) -> None:
    BACKEND.launch(folder, spec(hang_at=2))
    worker = running_at(folder, 1)
    above = supervisor(folder)
    assert above is not None
    assert os.getsid(above.pid) == above.pid
    assert os.getpgid(worker.pid) == worker.pid
    assert os.getsid(0) not in (os.getsid(above.pid), os.getsid(worker.pid))


def test_a_bad_outcome_with_a_result_is_finished(folder: Path) -> None:
    BACKEND.launch(folder, spec(code=3, result={"verdict": "diverged"}))
    record = ended(folder)
    assert (record.state, record.code, record.verdict) == ("finished", 3, "diverged")


def test_a_mistake_of_the_user_is_not_tried_again(folder: Path) -> None:
    BACKEND.launch(folder, spec(crash={"at": 3, "how": "fail", "times": 9}))
    record = ended(folder)
    assert (record.state, record.code, record.restarts) == ("failed", 2, 0)
    assert record.reason == "The data file has no rows; add some."
    assert record.last_lines == ("crashing at step 3",)


def test_a_crash_is_answered_by_a_restart_that_resumes(folder: Path) -> None:
    BACKEND.launch(folder, spec(crash={"at": 5, "how": "exit", "times": 1}))
    record = ended(folder)
    assert (record.state, record.restarts) == ("finished", 1)
    assert [start["from"] for start in starts(folder)] == [0, 4]
    assert_done_once(folder)


def test_crashes_without_progress_end_the_job(folder: Path) -> None:
    BACKEND.launch(folder, spec(crash={"at": 1, "how": "exit", "times": 99}, max_restarts=50))
    record = ended(folder)
    assert (record.state, record.code, record.restarts) == ("failed", 1, 2)
    assert record.reason == "The worker ended with status 1; 3 starts in a row made no progress."
    assert record.last_lines[-1] == "crashing at step 1"


def test_crashes_with_progress_end_the_job_after_the_allowed_restarts(folder: Path) -> None:
    # Step files from before the crash are kept, so a crash "at the last step" comes after progress only once:
    # a worker that dies at once counts against the other limit, which is set out of reach here.
    BACKEND.launch(
        folder,
        spec(crash={"at": 3, "how": "exit", "times": 99}, max_restarts=1, max_restarts_without_progress=50),
    )
    record = ended(folder)
    assert (record.state, record.code, record.restarts) == ("failed", 1, 1)
    assert record.reason == "The worker ended with status 1 after 1 restarts; 1 are allowed."


def test_kills_are_no_failure_of_the_job_however_often_they_come_before_any_progress(folder: Path) -> None:
    crash = {"at": 4, "how": "kill", "times": 7}
    BACKEND.launch(folder, spec(crash=crash, max_restarts=0, max_restarts_without_progress=0, restart_pause_s=0))
    record = ended(folder)
    assert (record.state, record.restarts) == ("finished", 7)
    assert_done_once(folder)


def test_a_job_without_disk_space_is_left_to_go_on_once_there_is_room(folder: Path) -> None:
    job = spec(crash={"at": 4, "how": "full", "times": 4}, max_restarts=0, restart_pause_s=0)
    BACKEND.launch(folder, job)
    record = ended(folder)
    assert (record.state, record.by, record.code, record.waits_for_room) == ("stopped", "disk", 74, True)
    assert "goes on from its newest save once there is room" in record.reason
    (folder / "exit.json").unlink()
    BACKEND.launch(folder, job)
    assert ended(folder).state == "finished"
    assert_done_once(folder)


def test_a_worker_that_does_not_exist_fails_with_its_words(folder: Path) -> None:
    BACKEND.launch(folder, spec(module="tests.faults.no_such_worker", max_restarts=0))
    record = ended(folder)
    assert record.state == "failed"
    assert "no_such_worker" in record.last_lines[-1]


def test_another_job_for_the_same_key_is_refused(folder: Path) -> None:
    BACKEND.launch(folder, spec(steps=2))
    with pytest.raises(JobNotStartedError, match=r"already holds another job: input, steps would differ"):
        BACKEND.launch(folder, spec(steps=3))
    ended(folder)
    assert steps_done(folder) == 2


def test_the_time_of_creation_does_not_make_another_job(folder: Path) -> None:
    BACKEND.launch(folder, spec(steps=2, created_at=1.0))
    BACKEND.launch(folder, spec(steps=2, created_at=2.0))
    assert ended(folder).state == "finished"
    assert content(folder / "job.json")["created_at"] == 1.0


def test_an_empty_folder_has_no_job(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="There is no job in"):
        BACKEND.status(tmp_path)
    with pytest.raises(NotFoundError):
        BACKEND.stop(tmp_path, "anna", "")
    assert list(tmp_path.iterdir()) == []


def test_a_written_job_that_nobody_started_is_queued(folder: Path) -> None:
    folder.mkdir()
    (folder / "job.json").write_text(spec().model_dump_json())
    assert BACKEND.status(folder).state == "queued"


def test_a_supervisor_that_cannot_start_is_reported_with_its_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "broken" / "psutil"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('psutil is broken here')")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    with pytest.raises(JobNotStartedError, match="psutil is broken here"):
        BACKEND.launch(folder, spec())
    assert BACKEND.status(folder).state == "queued"


def test_a_job_file_that_cannot_be_read_ends_the_job(folder: Path) -> None:
    folder.mkdir()
    (folder / "job.json").write_text("{}")
    done = subprocess.run([sys.executable, "-m", "tools.jobs.supervisor", str(folder)], cwd=ROOT, check=False)
    assert done.returncode == 0
    assert content(folder / "exit.json")["state"] == "failed"


def test_a_supervisor_in_the_foreground_stays_until_the_end(folder: Path) -> None:
    folder.mkdir()
    (folder / "job.json").write_text(spec(steps=3).model_dump_json())
    done = subprocess.run([sys.executable, "-m", "tools.jobs.supervisor", str(folder)], cwd=ROOT, check=False)
    assert done.returncode == 0
    assert BACKEND.status(folder).state == "finished"


def test_a_second_supervisor_leaves(folder: Path) -> None:
    BACKEND.launch(folder, spec(hang_at=2))
    running_at(folder, 1)
    second = subprocess.run(
        [sys.executable, "-m", "tools.jobs.supervisor", str(folder)], cwd=ROOT, check=False, timeout=60
    )
    assert second.returncode == 75
    assert is_alive(supervisor(folder))


def test_how_it_stands_can_be_read_while_it_runs(folder: Path) -> None:
    BACKEND.launch(folder, spec(hang_at=4))
    until(lambda: len(read_jsonl(JobPaths(folder).metrics)) == 3, "three rows")
    status = BACKEND.status(folder)
    assert (status.state, status.step, status.last["train_loss"]) == ("running", 3, 1 / 3)
    assert status.heartbeat_at is not None
