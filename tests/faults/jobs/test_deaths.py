import importlib.util
import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from state.files import write_json
from state.paths import JobPaths
from tests.faults.jobs.harness import (
    BACKEND,
    ROOT,
    assert_done_once,
    content,
    ended,
    kill,
    running_at,
    spec,
    starts,
    supervisor,
    until,
    worker,
)
from tools.jobs.locks import is_held, try_lock
from tools.jobs.processes import identify, is_alive

pytestmark = pytest.mark.faults


def test_after_the_supervisors_death_three_launches_adopt_the_one_worker(folder: Path) -> None:
    job = spec(steps=80)
    BACKEND.launch(folder, job)
    first = running_at(folder, 3)
    assert kill(supervisor(folder))
    assert BACKEND.status(folder).state == "orphaned"
    for _ in range(3):
        BACKEND.launch(folder, job)
    assert worker(folder) == first
    record = ended(folder)
    assert (record.state, record.restarts, record.is_adopted) == ("finished", 0, True)
    # It was nobody's child at its end, so its status could not be seen.
    assert (record.code, record.signal) == (None, None)
    assert len(starts(folder)) == 1
    assert_done_once(folder, 80)


def test_an_orphan_that_finished_meanwhile_gets_its_record(folder: Path) -> None:
    job = spec(steps=20, delay_s=0.1)
    BACKEND.launch(folder, job)
    running_at(folder, 3)
    assert kill(supervisor(folder))
    until(lambda: not is_held(folder / "lock"), "the orphan ends")
    assert BACKEND.status(folder).state == "lost"
    BACKEND.launch(folder, job)
    assert ended(folder).state == "finished"
    assert len(starts(folder)) == 1
    assert_done_once(folder, 20)


def test_a_killed_worker_is_started_again_and_finishes(folder: Path) -> None:
    BACKEND.launch(folder, spec(steps=20, delay_s=0.1))
    first = running_at(folder, 5)
    assert kill(first)
    record = ended(folder)
    assert (record.state, record.restarts, record.code) == ("finished", 1, 0)
    assert starts(folder)[1]["from"] >= 5
    assert_done_once(folder, 20)


def test_a_killed_orphan_is_started_again_by_whoever_adopted_it(folder: Path) -> None:
    job = spec(steps=40, delay_s=0.1)
    BACKEND.launch(folder, job)
    first = running_at(folder, 3)
    assert kill(supervisor(folder))
    BACKEND.launch(folder, job)
    until(lambda: BACKEND.status(folder).state == "running", "adopted")
    assert kill(first)
    record = ended(folder)
    assert (record.state, record.restarts, record.is_adopted) == ("finished", 1, False)
    assert_done_once(folder, 40)


def test_with_both_dead_the_job_is_lost_and_a_launch_resumes_it(folder: Path) -> None:
    job = spec(steps=20, delay_s=0.1)
    BACKEND.launch(folder, job)
    first = running_at(folder, 4)
    assert kill(supervisor(folder))
    assert kill(first)
    assert BACKEND.status(folder).state == "lost"
    BACKEND.launch(folder, job)
    record = ended(folder)
    assert (record.state, record.restarts) == ("finished", 1)
    assert_done_once(folder, 20)


def test_deaths_together_with_the_supervisor_do_not_count_as_restarts_allowed(folder: Path) -> None:
    job = spec(steps=20, delay_s=0.1, max_restarts=0)
    BACKEND.launch(folder, job)
    for step in (3, 6):
        alive = running_at(folder, step)
        assert kill(supervisor(folder))
        kill(alive)
        BACKEND.launch(folder, job)
    record = ended(folder)
    assert (record.state, record.restarts) == ("finished", 2)
    assert_done_once(folder, 20)


def test_a_supervisor_killed_before_the_worker_wrote_its_identity_leaves_one_worker(folder: Path) -> None:
    job = spec(before_begin_s=1.5)
    BACKEND.launch(folder, job)
    # The lock is inherited at the start of the worker, long before it begins.
    until(lambda: _has_child(folder), "the worker is started")
    assert kill(supervisor(folder))
    assert not (folder / "worker.json").exists()
    assert BACKEND.status(folder).state == "orphaned"
    BACKEND.launch(folder, job)
    record = ended(folder)
    assert (record.state, record.is_adopted) == ("finished", True)
    assert len(starts(folder)) == 1
    assert_done_once(folder)


def test_an_orphan_that_never_writes_its_identity_is_found_by_its_command_and_stopped(folder: Path) -> None:
    job = spec(before_begin_s=600, stop_grace_s=0.5)
    BACKEND.launch(folder, job)
    until(lambda: _has_child(folder), "the worker is started")
    assert kill(supervisor(folder))
    BACKEND.stop(folder, "anna", "it hangs")
    record = ended(folder)
    assert (record.state, record.by) == ("stopped", "anna")
    assert not is_held(folder / "lock")


def _has_child(folder: Path) -> bool:
    above = supervisor(folder)
    if above is None or not is_alive(above):
        return False
    return any("tests.faults.quick_worker" in child.cmdline() for child in psutil.Process(above.pid).children())


def test_a_supervisor_killed_before_it_started_a_worker_leaves_nothing_behind(folder: Path) -> None:
    # What such a death leaves: a specification, a start record, free locks, no worker.
    paths = JobPaths(folder)
    folder.mkdir()
    paths.spec.write_text(spec().model_dump_json())
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    identity = identify(dead.pid)
    dead.wait()
    assert identity is not None
    write_json(paths.start, {**identity.to_json(), "tally": {"starts": 1, "is_open": True}})
    for path in (paths.lock, paths.supervisor_lock):
        path.touch()
    assert BACKEND.status(folder).state == "lost"
    BACKEND.launch(folder, spec())
    assert ended(folder).state == "finished"
    assert_done_once(folder)


def test_a_result_without_an_exit_record_is_not_done_again(folder: Path) -> None:
    folder.mkdir()
    (folder / "job.json").write_text(spec().model_dump_json())
    write_json(folder / "result.json", {"steps": 10, "verdict": "diverged"})
    BACKEND.launch(folder, spec())
    record = ended(folder)
    assert (record.state, record.verdict) == ("finished", "diverged")
    assert starts(folder) == []


def test_the_identity_of_another_boot_is_not_trusted(folder: Path) -> None:
    # The pid is alive (ours), but was written before a reboot: nobody works here, and nobody is killed.
    folder.mkdir()
    (folder / "job.json").write_text(spec().model_dump_json())
    me = identify(os.getpid())
    assert me is not None
    write_json(folder / "worker.json", {**me.to_json(), "boot_id": "an earlier boot"})
    write_json(folder / "start.json", {**me.to_json(), "boot_id": "an earlier boot"})
    assert BACKEND.status(folder).state == "lost"
    BACKEND.launch(folder, spec())
    assert ended(folder).state == "finished"
    assert_done_once(folder)


def test_a_process_with_the_pid_of_a_dead_worker_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    paths = JobPaths(folder)
    paths.spec.write_text(spec().model_dump_json())
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    holder = try_lock(paths.lock)
    try:
        found = identify(bystander.pid)
        assert found is not None
        before = {"create_time": found.create_time - 100, "start_ticks": (found.start_ticks or 0) - 1}
        write_json(paths.worker, {**found.to_json(), **before})
        BACKEND.launch(folder, spec())
        # It looks for the worker behind the held lock, and must not take the bystander for it.
        until(lambda: BACKEND.status(folder).heartbeat_at, "the supervisor looks")
        assert starts(folder) == []
        assert holder is not None
        os.close(holder)
        assert ended(folder).state == "finished"
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert_done_once(folder)


def test_a_suspended_worker_survives_its_supervisor(folder: Path) -> None:
    job = spec(steps=40, delay_s=0.1)
    BACKEND.launch(folder, job)
    first = running_at(folder, 3)
    assert kill(first, signal.SIGSTOP)
    assert kill(supervisor(folder))
    assert is_alive(first)
    assert kill(first, signal.SIGCONT)
    BACKEND.launch(folder, job)
    assert ended(folder).restarts == 0
    assert_done_once(folder, 40)


def test_a_suspended_supervisor_keeps_its_job(folder: Path) -> None:
    job = spec(steps=20, delay_s=0.1)
    BACKEND.launch(folder, job)
    running_at(folder, 3)
    above = supervisor(folder)
    assert kill(above, signal.SIGSTOP)
    BACKEND.launch(folder, job)
    assert supervisor(folder) == above
    until((folder / "result.json").exists, "the worker goes on alone")
    assert BACKEND.status(folder).state == "running"
    assert kill(above, signal.SIGCONT)
    assert ended(folder).code == 0
    assert_done_once(folder, 20)


def test_term_to_the_supervisor_saves_the_worker_and_the_next_launch_resumes(folder: Path) -> None:
    job = spec(steps=40, delay_s=0.1)
    BACKEND.launch(folder, job)
    first = running_at(folder, 3)
    above = supervisor(folder)
    assert kill(above, signal.SIGTERM)
    until(lambda: not is_alive(above), "the supervisor leaves")
    assert not is_alive(first)
    assert BACKEND.status(folder).state == "lost"
    BACKEND.launch(folder, job)
    record = ended(folder)
    assert (record.state, record.restarts) == ("finished", 1)
    assert_done_once(folder, 40)


def test_grandchildren_die_with_the_worker(folder: Path) -> None:
    BACKEND.launch(folder, spec(grandchild=True, steps=3))
    child = until(lambda: _grandchild(folder), "the grandchild")
    ended(folder)
    until(lambda: identify(child) is None, "the grandchild is gone")


def test_grandchildren_of_an_orphan_die_with_it_and_do_not_hold_its_lock(folder: Path) -> None:
    job = spec(grandchild=True, steps=40, delay_s=0.1)
    BACKEND.launch(folder, job)
    child = until(lambda: _grandchild(folder), "the grandchild")
    first = running_at(folder, 2)
    assert kill(supervisor(folder))
    assert kill(first)
    assert identify(child) is not None
    assert not is_held(folder / "lock")
    BACKEND.launch(folder, job)
    assert ended(folder).state == "finished"
    until(lambda: identify(child) is None, "the grandchild is gone")
    assert_done_once(folder, 40)


def _grandchild(folder: Path) -> int:
    path = folder / "out" / "grandchild"
    text = path.read_text() if path.exists() else ""
    return int(text) if text else 0


def test_a_worker_started_by_hand_beside_a_live_one_leaves(folder: Path) -> None:
    BACKEND.launch(folder, spec(hang_at=3))
    running_at(folder, 2)
    command = [sys.executable, "-m", "tests.faults.quick_worker", str(folder)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 75
    assert len(starts(folder)) == 1
    assert content(folder / "worker.json")["pid"] == starts(folder)[0]["pid"]


def test_a_folder_that_is_deleted_under_its_job_ends_both_processes_and_the_next_job_there_is_left_alone(
    folder: Path,
) -> None:
    BACKEND.launch(folder, spec(steps=10_000))
    processes = [running_at(folder, 2), supervisor(folder)]
    shutil.rmtree(folder, ignore_errors=True)
    BACKEND.launch(folder, spec(steps=40))
    until(lambda: not any(is_alive(each) for each in processes), "the old job's processes leave")
    assert ended(folder).state == "finished"
    assert len(starts(folder)) == 1
    assert_done_once(folder, 40)


def test_a_queued_job_whose_folder_is_deleted_leaves_the_queue(folder: Path, tmp_path: Path) -> None:
    before = tmp_path / "before"
    BACKEND.launch(before, spec("k0", steps=10_000))
    running_at(before, 1)
    BACKEND.launch(folder, spec())
    until(JobPaths(folder).waiting.exists, "it waits")
    waiting = supervisor(folder)
    shutil.rmtree(folder)
    until(lambda: not is_alive(waiting), "its supervisor leaves")
    assert not folder.exists()


def test_the_runner_of_the_three_campaigns_leaves_no_job_of_an_agent_that_is_gone(folder: Path) -> None:
    found = importlib.util.spec_from_file_location("smollm2_run", ROOT / "runbooks" / "smollm2" / "run.py")
    assert found is not None
    assert found.loader is not None
    runner = importlib.util.module_from_spec(found)
    found.loader.exec_module(runner)
    home = folder.parent
    job = home / "sorting_small" / "jobs" / "k1"
    BACKEND.launch(job, spec(steps=100_000))
    at_work, log = running_at(job, 1), io.StringIO()
    # The agent ends at once: its file is not there.
    with (home / "log.txt").open("w") as log_file:
        campaign = runner.Campaign("sorting", "small", home / "none.yaml", home)
        assert campaign.run(runner.Clock(None), log_file) == 2
    assert not is_alive(at_work)
    record = ended(job)
    assert (record.state, record.by) == ("stopped", "person"), "the same command goes on with it"
    assert f"{job} outlived its agent" in (home / "log.txt").read_text()
    campaign._stop_jobs(log)
    assert log.getvalue() == "", "what has ended is left alone"
