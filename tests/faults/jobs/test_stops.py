import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from state.errors import JobNotStartedError, LimitExceededError
from state.files import write_json
from state.records import Guard, JobKind
from tests.faults.jobs.harness import (
    BACKEND,
    ROOT,
    assert_done_once,
    clear,
    content,
    ended,
    kill,
    running_at,
    spec,
    starts,
    steps_done,
    supervisor,
    until,
)
from tools.jobs.locks import is_held
from tools.jobs.processes import is_alive

pytestmark = pytest.mark.faults


def test_a_person_stops_a_job_and_the_worker_saves_first(folder: Path) -> None:
    BACKEND.launch(folder, spec(steps=1000))
    running_at(folder, 3)
    BACKEND.stop(folder, "anna", "the data are wrong")
    BACKEND.stop(folder, "ben", "too late")
    record = ended(folder)
    assert (record.state, record.by, record.reason) == ("stopped", "anna", "the data are wrong")
    assert (record.code, record.signal, record.verdict) == (75, None, "")
    assert not (folder / "result.json").exists()


def test_a_stopped_job_is_never_started_again(folder: Path) -> None:
    job = spec(steps=1000)
    BACKEND.launch(folder, job)
    running_at(folder, 2)
    BACKEND.stop(folder, "anna", "")
    ended(folder)
    BACKEND.launch(folder, job)
    BACKEND.stop(folder, "anna", "again")
    assert BACKEND.status(folder).state == "stopped"
    assert len(starts(folder)) == 1


def test_a_stop_of_a_finished_job_changes_nothing(folder: Path) -> None:
    BACKEND.launch(folder, spec(steps=2))
    before = ended(folder)
    BACKEND.stop(folder, "anna", "")
    assert BACKEND.status(folder).exit == before
    assert not (folder / "stop.json").exists()


def test_a_stop_before_the_start_ends_the_job_without_a_worker(folder: Path) -> None:
    folder.mkdir()
    (folder / "job.json").write_text(spec().model_dump_json())
    BACKEND.stop(folder, "anna", "not needed")
    record = ended(folder)
    assert (record.state, record.by, record.started_at) == ("stopped", "anna", None)
    assert starts(folder) == []


def test_a_stop_of_an_orphan_finds_somebody_to_do_it(folder: Path) -> None:
    BACKEND.launch(folder, spec(steps=1000))
    orphan = running_at(folder, 3)
    assert kill(supervisor(folder))
    BACKEND.stop(folder, "anna", "")
    record = ended(folder)
    assert (record.state, record.by, record.is_adopted) == ("stopped", "anna", True)
    assert not is_alive(orphan)


def test_a_worker_that_ignores_term_is_killed_after_the_grace(folder: Path) -> None:
    BACKEND.launch(folder, spec(steps=100_000, ignore_term=True, stop_grace_s=0.3))
    running_at(folder, 2)
    BACKEND.stop(folder, "anna", "")
    record = ended(folder)
    assert (record.state, record.code, record.signal) == ("stopped", None, 9)
    assert not is_held(folder / "lock")


def test_a_suspended_worker_is_woken_to_save_when_it_is_stopped(folder: Path) -> None:
    BACKEND.launch(folder, spec(steps=1000))
    suspended = running_at(folder, 2)
    assert kill(suspended, signal.SIGSTOP)
    BACKEND.stop(folder, "anna", "")
    assert ended(folder).code == 75


def test_a_supervisor_killed_while_it_stops_is_followed_by_one_that_does(folder: Path) -> None:
    job = spec(steps=100_000, ignore_term=True, stop_grace_s=1.0)
    BACKEND.launch(folder, job)
    stubborn = running_at(folder, 2)
    BACKEND.stop(folder, "anna", "")
    assert kill(supervisor(folder))
    assert is_alive(stubborn)
    BACKEND.launch(folder, job)
    record = ended(folder)
    assert (record.state, record.by) == ("stopped", "anna")
    assert not is_alive(stubborn)
    assert len(starts(folder)) == 1


def test_a_stop_file_made_by_hand_is_a_stop(folder: Path) -> None:
    BACKEND.launch(folder, spec(steps=1000))
    running_at(folder, 2)
    (folder / "stop.json").touch()
    record = ended(folder)
    assert (record.state, record.by) == ("stopped", "person")


def test_a_worker_that_is_sent_term_by_a_stranger_is_started_again(folder: Path) -> None:
    BACKEND.launch(folder, spec(steps=30, delay_s=0.1))
    assert kill(running_at(folder, 3), signal.SIGTERM)
    record = ended(folder)
    assert (record.state, record.restarts) == ("finished", 1)
    assert_done_once(folder, 30)


def test_a_loss_that_is_not_finite_stops_the_job_with_a_verdict(folder: Path) -> None:
    guard = Guard(signal="train_loss", op="non_finite", verdict="diverged")
    BACKEND.launch(folder, spec(steps=1000, nan_at=5, guards=(guard,)))
    record = ended(folder)
    assert (record.state, record.by, record.verdict, record.code) == ("stopped", "guard", "diverged", 75)
    assert record.reason == "train_loss was nan at step 5, not finite."
    assert record.guard is not None
    assert (record.guard["value"], record.guard["step"]) == ("nan", 5)


def test_a_guard_that_fired_is_remembered_by_the_next_supervisor(folder: Path) -> None:
    # The rows that fire were written while nobody looked.
    guard = Guard(signal="train_loss", op="non_finite", verdict="diverged")
    job = spec(nan_at=4, hang_at=6, guards=(guard,))
    BACKEND.launch(folder, job)
    running_at(folder, 1)
    assert kill(supervisor(folder))
    running_at(folder, 5)
    BACKEND.launch(folder, job)
    record = ended(folder)
    assert (record.state, record.verdict, record.is_adopted) == ("stopped", "diverged", True)
    assert len(starts(folder)) == 1


def test_the_verdict_of_a_guard_outlives_supervisor_and_worker(folder: Path) -> None:
    # A signal of the supervisor, unlike a row, cannot be read again by the next one.
    guard = Guard(signal="rss_gb", op=">", threshold=0.1, verdict="out_of_memory")
    job = spec(steps=100_000, heavy_bytes=150_000_000, ignore_term=True, stop_grace_s=600, guards=(guard,))
    BACKEND.launch(folder, job)
    until((folder / "stop.json").exists, "the guard fires")
    stubborn = running_at(folder, 1)
    assert kill(supervisor(folder))
    assert kill(stubborn)
    BACKEND.launch(folder, job)
    record = ended(folder)
    assert (record.state, record.by, record.verdict) == ("stopped", "guard", "out_of_memory")
    assert len(starts(folder)) == 1


def test_a_finite_loss_does_not_stop_the_job(folder: Path) -> None:
    guards = (
        Guard(signal="train_loss", op="non_finite", verdict="diverged"),
        Guard(signal="wall_s", op=">", threshold=500, verdict="out_of_time"),
        Guard(signal="seconds_since_progress", op=">", threshold=500, verdict="stalled"),
        Guard(signal="rss_gb", op=">", threshold=500, verdict="out_of_memory"),
        Guard(signal="disk_free_gb", op="<", threshold=0.000001, verdict="out_of_disk"),
    )
    BACKEND.launch(folder, spec(guards=guards))
    record = ended(folder)
    assert (record.state, record.verdict, record.guard, record.notes) == ("finished", "", None, ())


def test_wall_time_stops_the_job(folder: Path) -> None:
    guard = Guard(signal="wall_s", op=">", threshold=0.5, verdict="out_of_time")
    BACKEND.launch(folder, spec(steps=100_000, guards=(guard,)))
    record = ended(folder)
    assert (record.state, record.by, record.verdict) == ("stopped", "guard", "out_of_time")
    assert record.wall_s > 0.5


def test_a_worker_suspended_longer_than_the_stall_guard_allows_is_stopped_and_saves(folder: Path) -> None:
    guard = Guard(signal="seconds_since_progress", op=">", threshold=1.5, verdict="stalled")
    BACKEND.launch(folder, spec(steps=1000, guards=(guard,)))
    suspended = running_at(folder, 3)
    assert kill(suspended, signal.SIGSTOP)
    record = ended(folder)
    assert (record.state, record.verdict, record.code) == ("stopped", "stalled", 75)
    assert len(starts(folder)) == 1


def test_a_worker_that_hangs_is_ended_and_the_record_says_so_whatever_its_kind(folder: Path) -> None:
    guard = Guard(signal="seconds_since_progress", op=">", threshold=1.5, verdict="stalled")
    kinds = get_args(JobKind)
    for kind in kinds:
        BACKEND.launch(folder / kind, spec(kind, kind=kind, guards=(guard,), hang_at=2))
    for kind in kinds:
        record = ended(folder / kind)
        assert (record.state, record.by, record.verdict) == ("stopped", "guard", "stalled"), kind
        assert "seconds_since_progress" in record.reason, kind
        assert len(starts(folder / kind)) == 1, kind


def test_a_full_disk_is_seen_by_a_guard(folder: Path) -> None:
    guard = Guard(signal="disk_free_gb", op="<", threshold=1e9, verdict="out_of_disk")
    BACKEND.launch(folder, spec(steps=100_000, guards=(guard,)))
    assert ended(folder).verdict == "out_of_disk"


def test_a_guard_that_only_notes_is_recorded_once_and_the_job_goes_on(folder: Path) -> None:
    guard = Guard(signal="train_loss", op="<", threshold=0.6, action="note", verdict="low_loss")
    BACKEND.launch(folder, spec(guards=(guard,), crash={"at": 6, "how": "kill", "times": 1}))
    record = ended(folder)
    assert (record.state, record.restarts, record.verdict) == ("finished", 1, "")
    assert [(note["verdict"], note["step"]) for note in record.notes] == [("low_loss", 2)]


def test_a_result_that_is_written_when_the_guard_fires_counts(folder: Path) -> None:
    # Only the last step has the loss that fires: by the time anybody reads it, the worker has its result.
    guard = Guard(signal="train_loss", op="<", threshold=0.101, verdict="collapsed")
    BACKEND.launch(folder, spec(steps=10, delay_s=0, guards=(guard,)))
    record = ended(folder)
    assert (record.state, record.verdict) == ("finished", "collapsed")
    assert_done_once(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("mounting a small file system needs root on Linux")
    point = tmp_path / "small"
    point.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(point)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    yield point
    clear(point)
    subprocess.run(["/bin/umount", "--lazy", str(point)], check=True)


def fill(disk: Path) -> Path:
    """Leave not one block free."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
        while True:
            stream.write(b"0" * 4096)
    assert shutil.disk_usage(disk).free == 0
    return ballast


def test_on_a_full_disk_the_end_is_recorded_from_the_reserve(small_disk: Path) -> None:
    folder = small_disk / "job"
    BACKEND.launch(folder, spec(hang_at=4, steps=5))
    running_at(folder, 3)
    stop_ready(folder)
    fill(small_disk)
    os.link(folder / "stop.ready", folder / "stop.json")
    record = ended(folder)
    assert (record.state, record.by) == ("stopped", "anna")
    assert not (folder / ".reserve").exists()


def stop_ready(folder: Path) -> None:
    """Write a request to stop under another name, while there is room for it."""
    write_json(folder / "stop.ready", {"by": "anna"})


def test_without_any_room_the_record_waits_until_there_is_some(small_disk: Path) -> None:
    folder = small_disk / "job"
    BACKEND.launch(folder, spec(hang_at=4, steps=5))
    orphan = running_at(folder, 3)
    stop_ready(folder)
    # The reserve is used up by somebody else, as a careless clean-up would have it.
    (folder / ".reserve").write_bytes(b"")
    ballast = fill(small_disk)
    os.link(folder / "stop.ready", folder / "stop.json")
    until(lambda: not is_alive(orphan), "the worker has ended")
    assert BACKEND.status(folder).state == "running"
    assert is_alive(supervisor(folder))
    ballast.unlink()
    assert ended(folder).state == "stopped"


def test_a_worker_without_room_for_its_files_leaves_the_job_to_go_on_once_there_is_room(small_disk: Path) -> None:
    folder = small_disk / "job"
    BACKEND.launch(folder, spec(big_bytes=3_000_000))
    record = ended(folder)
    assert record.waits_for_room
    assert f"The disk of {folder} is full" in record.reason
    assert not (folder / "result.json").exists()
    assert steps_done(folder) == 10


def test_a_launch_on_a_full_disk_is_one_sentence_and_starts_nothing(small_disk: Path) -> None:
    fill(small_disk)
    with pytest.raises(LimitExceededError, match="is full; free some space"):
        BACKEND.launch(small_disk / "job", spec())
    assert not (small_disk / "job" / "job.json").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JobNotStartedError, match="cannot be written: Not a directory"):
        BACKEND.launch(tmp_path / "file" / "job", spec())


def test_the_time_of_a_stop_is_recorded(folder: Path) -> None:
    before = time.time()
    BACKEND.launch(folder, spec(steps=1000))
    running_at(folder, 1)
    BACKEND.stop(folder, "anna", "")
    ended(folder)
    assert before <= content(folder / "stop.json")["asked_at"] <= time.time()


def test_jobs_can_be_stopped_from_the_command_line_of_another_process(folder: Path) -> None:
    BACKEND.launch(folder, spec(steps=1000))
    running_at(folder, 1)
    program = (
        "import sys; from pathlib import Path; from tools.jobs.backend import LocalBackend;"
        "LocalBackend().stop(Path(sys.argv[1]), 'anna', 'enough')"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], cwd=ROOT, check=True)
    assert ended(folder).reason == "enough"
