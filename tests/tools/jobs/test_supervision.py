import errno
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from subprocess import PIPE
from threading import Thread

import pytest

from state.files import read_json, write_json
from state.paths import JobPaths, MachinePaths
from state.records import ExitRecord, Guard
from tests.faults.jobs.harness import (
    BACKEND,
    ROOT,
    assert_done_once,
    clear,
    content,
    ended,
    running_at,
    spec,
    starts,
    steps_done,
    until,
)
from tests.tools.machine import machines
from tools.jobs import observe, supervisor
from tools.jobs.locks import Turn
from tools.jobs.processes import Ended
from tools.jobs.spec import JobSpec, JobStatus
from tools.jobs.supervisor import OpenJob, Supervision, open_job
from tools.machine.sandbox import BROKE, KILLED, network_closed_by


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    clear(tmp_path)


def opened(folder: Path, job: JobSpec) -> OpenJob:
    """Become the supervisor in this process."""
    JobPaths(folder).spec.write_text(job.model_dump_json())
    found = open_job(folder)
    assert isinstance(found, OpenJob)
    return found


def record(folder: Path) -> ExitRecord:
    return ExitRecord.model_validate(read_json(folder / "exit.json"))


def test_a_process_left_behind_that_keeps_the_lock_ends_the_job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOCK_WAIT_S", 0.1)
    program = "import fcntl, sys; s = open(sys.argv[1], 'w'); fcntl.flock(s, fcntl.LOCK_EX); print(flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", program, str(folder / "lock")], stdin=PIPE, stdout=PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    assert Supervision(opened(folder, spec())).run() == 0
    holder.communicate(b"\n")
    assert record(folder).state == "failed"
    assert record(folder).reason == "A process left behind by the worker still holds the job's lock."
    assert starts(folder) == []


def test_an_interpreter_that_is_gone_is_a_failure_with_its_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert Supervision(opened(folder, spec(max_restarts=0))).run() == 0
    assert (record(folder).state, record(folder).code) == ("failed", 2)
    assert "could not be started" in record(folder).last_lines[-1]


def test_the_machine_may_sleep_again_when_the_job_has_ended(folder: Path) -> None:
    system = machines.mac(folder / "machine")
    machines.script(folder / "machine" / "bin", "caffeinate", 'exec tail --pid="$3" -f /dev/null')
    supervised = Supervision(opened(folder, spec(steps=2)), system=system)
    assert supervised.run() == 0
    found = record(folder)
    assert (found.kept_awake_by, found.awake_lapses) == ("caffeinate", 0)
    child = supervised._awake._process
    assert child is not None
    assert child.returncode == -signal.SIGKILL


def test_a_job_that_waits_for_the_accelerator_lets_the_machine_sleep(folder: Path) -> None:
    system, machine = machines.mac(folder / "machine"), MachinePaths(folder / "state")
    machines.script(folder / "machine" / "bin", "caffeinate", 'exec tail --pid="$3" -f /dev/null')
    other = Turn.take(machine, {"campaign": "other"})
    assert other is not None
    supervised = Supervision(opened(folder, spec(steps=2)), system=system, machine=machine)
    life = Thread(target=supervised.run)
    life.start()
    until((folder / "waiting.json").exists, "the job waits")
    assert supervised._awake.by == ""
    assert content(folder / "start.json")["kept_awake_by"] == ""
    other.release()
    life.join()
    assert record(folder).kept_awake_by == "caffeinate"


def test_battery_lid_and_heat_are_recorded_at_the_start_and_at_the_end(folder: Path) -> None:
    system = machines.mac(folder / "machine", batt=machines.BATTERY, lid="Yes", pressure="1")
    assert Supervision(opened(folder, spec(steps=2)), system=system).run() == 0
    unplugged = {"source": "battery", "battery_percent": 71.0, "lid": "closed"}
    assert content(folder / "start.json")["power"] == unplugged
    found = record(folder)
    assert found.power == unplugged
    assert found.on_battery_s == found.lid_closed_s == found.held_back_s
    assert content(folder / "heartbeat")["power"] == unplugged


def test_a_guard_on_the_battery_saves_and_stops_before_it_is_empty(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observe, "SLOW_S", 0.2)
    monkeypatch.setattr(observe, "LOOK_S", 0.5)
    system = machines.mac(folder / "machine", batt=machines.BATTERY)
    low = Guard(signal="battery_percent", op="<", threshold=75.0, verdict="battery_low")
    assert Supervision(opened(folder, spec(steps=10**6, guards=(low,))), system=system).run() == 0
    assert (record(folder).state, record(folder).verdict) == ("stopped", "battery_low")
    assert record(folder).reason == "battery_percent was 71, < 75."


def test_a_result_that_is_no_json_is_a_failure(folder: Path) -> None:
    (folder / "result.json").write_text("{")
    assert Supervision(opened(folder, spec())).run() == 0
    assert record(folder).state == "failed"
    assert record(folder).reason.startswith("result.json is not JSON")


def test_a_supervisor_has_nothing_to_do_where_there_is_a_record(folder: Path) -> None:
    opened(folder, spec())
    write_json(folder / "exit.json", {"state": "stopped"})
    command = [sys.executable, "-m", "tools.jobs.supervisor", str(folder)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    assert starts(folder) == []


def test_stops_are_no_deaths_so_a_job_that_is_opened_again_goes_on(folder: Path) -> None:
    # The agent opens a job again that a person had stopped, by taking stop.json and exit.json out of the way.
    job = spec(steps=60, max_restarts=0, max_restarts_without_progress=0)
    for time in range(3):
        done = steps_done(folder)
        BACKEND.launch(folder, job)
        running_at(folder, done + 2)
        BACKEND.stop(folder, "anna", "")
        assert ended(folder).state == "stopped"
        (folder / "stop.json").unlink()
        (folder / "exit.json").rename(folder / f"exit.{time}.json")
    BACKEND.launch(folder, job)
    last = ended(folder)
    assert (last.state, last.restarts) == ("finished", 3)
    assert_done_once(folder, 60)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (Ended(code=3), "ended with status 3"),
        (Ended(signal=9), "died of signal 9 (SIGKILL)"),
        (Ended(signal=250), "died of signal 250"),
        (Ended(), "ended unseen"),
    ],
)
def test_an_end_is_said_in_words(how: Ended, words: str) -> None:
    assert how.words() == words


@pytest.mark.parametrize("state", ["queued", "orphaned", "lost"])
def test_a_job_that_nobody_stands_over_needs_a_launch(state: str) -> None:
    assert JobStatus.model_validate({"key": "k", "kind": "training", "state": state}).needs_launch


@pytest.mark.parametrize("state", ["starting", "running", "finished", "failed", "stopped"])
def test_a_job_with_a_supervisor_or_an_end_needs_none(state: str) -> None:
    assert not JobStatus.model_validate({"key": "k", "kind": "training", "state": state}).needs_launch


def test_a_job_that_is_killed_again_and_again_ends_at_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "MAX_KILLS", 3)
    job = spec(crash={"at": 1, "how": "kill", "times": 99}, restart_pause_s=0)
    assert Supervision(opened(folder, job)).run() == 0
    found = record(folder)
    assert (found.state, found.restarts) == ("failed", 2)
    assert found.reason == (
        "The worker died of signal 9 (SIGKILL); 3 starts in a row were ended from outside before any progress."
    )


@pytest.mark.parametrize(
    ("how", "state", "said"), [("cpu", "finished", ""), ("held", "failed", KILLED), ("broken", "failed", BROKE)]
)
def test_a_limit_on_processor_time_or_an_abort_is_blamed_on_the_template_only_within_a_text(
    folder: Path, how: str, state: str, said: str
) -> None:
    job = spec(crash={"at": 3, "how": how, "times": 2}, restart_pause_s=0, delay_s=0)
    assert Supervision(opened(folder, job)).run() == 0
    found = record(folder)
    assert (found.state, found.reason, found.restarts) == (state, said, 2 if state == "finished" else 0)


@pytest.mark.skipif(network_closed_by() != "seccomp", reason="nothing here closes a process's network")
@pytest.mark.parametrize(("grader", "said"), [(None, "Network is unreachable."), ({"network": True}, "It reached.")])
def test_a_worker_has_no_network_unless_its_grader_has(folder: Path, grader: dict[str, bool] | None, said: str) -> None:
    job = spec(crash={"at": 1, "how": "reach"}, grader=grader, delay_s=0)
    assert Supervision(opened(folder, job)).run() == 0
    assert record(folder).reason == ("It reached." if Path("/dev/nvidiactl").exists() else said)


def test_a_job_that_the_system_kills_for_want_of_memory_is_not_started_a_third_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = count()
    monkeypatch.setattr(supervisor, "memory_kills", lambda _system: next(counted))
    job = spec(crash={"at": 3, "how": "kill", "times": 99}, restart_pause_s=0)
    assert Supervision(opened(folder, job)).run() == 0
    found = record(folder)
    # The first start got on to step 2, so it counts for nothing.
    assert (found.state, found.by, found.verdict, found.restarts) == ("stopped", "guard", "out_of_memory", 2)
    said = (
        "The worker died of signal 9 (SIGKILL): the system killed it for want of memory, 2 starts in a row before any"
    )
    assert found.reason.startswith(said)
    assert not found.waits_for_room


_INTERACTIVITY = "Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)"
_METAL = "libc++abi: terminating due to uncaught exception of type std::runtime_error: [METAL] Command buffer execution"


@pytest.mark.parametrize(
    ("says", "verdict"),
    [
        (
            f"{_METAL} failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
            "out_of_memory",
        ),
        ("RuntimeError: [metal::malloc] Resource limit (499000) exceeded.", "out_of_memory"),
        (f"{_METAL} failed: {_INTERACTIVITY}", "gpu_timeout"),
        (
            f"{_METAL} failed: Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)",
            "gpu_timeout",
        ),
        ("RuntimeError: cudaMallocAsync(&buf, size, stream) failed: out of memory", "out_of_memory"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "out_of_memory"),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "out_of_memory"),
    ],
)
def test_a_worker_on_whose_load_the_machine_gives_up_is_stopped_with_the_reason(
    folder: Path, says: str, verdict: str
) -> None:
    job = spec(crash={"at": 1, "how": "abort", "times": 99, "says": says}, restart_pause_s=0)
    assert Supervision(opened(folder, job)).run() == 0
    found = record(folder)
    assert (found.state, found.by, found.verdict, found.restarts) == ("stopped", "guard", verdict, 1)
    assert "hold less at once" in found.reason


def test_a_death_that_says_nothing_is_not_told_by_what_an_earlier_start_printed(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    job = opened(folder, spec(crash={"at": 1, "how": "abort", "times": 99}, restart_pause_s=0))
    JobPaths(folder).log.write_text("RuntimeError: [metal::malloc] Resource limit (499000) exceeded.\n")
    assert Supervision(job).run() == 0
    assert (record(folder).state, record(folder).verdict) == ("failed", "")


def test_a_machine_that_boots_anew_twice_within_one_job_ends_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boots = count()
    monkeypatch.setattr(supervisor, "boot_id", lambda: f"boot {next(boots)}")
    job = spec(crash={"at": 3, "how": "kill", "times": 2}, restart_pause_s=0)
    assert Supervision(opened(folder, job)).run() == 0
    found = record(folder)
    assert (found.state, found.by, found.verdict) == ("stopped", "guard", "rebooted")
    assert "booted anew 2 times" in found.reason


def test_a_disk_that_is_full_before_the_worker_starts_leaves_the_job_to_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = opened(folder, spec(steps=2))

    def full(_: Supervision) -> Ended:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Supervision, "_start", full)
    assert Supervision(job).run() == 0
    assert record(folder).waits_for_room
