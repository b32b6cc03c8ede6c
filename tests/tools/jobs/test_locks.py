import os
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

from tools.jobs.locks import is_held, try_lock


def test_a_lock_is_held_by_one_and_free_again_after(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path)
    first = try_lock(path)
    assert first is not None
    assert is_held(path)
    assert try_lock(path) is None
    os.close(first)
    assert not is_held(path)


def test_asking_does_not_make_the_file(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "lock")
    assert list(tmp_path.iterdir()) == []


def test_an_inherited_lock_lives_as_long_as_the_heir(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = try_lock(path)
    assert lock is not None
    heir = subprocess.Popen([sys.executable, "-c", "input()"], stdin=PIPE, pass_fds=(lock,))
    os.close(lock)
    was_held = is_held(path)
    heir.communicate(b"\n")
    assert was_held
    assert not is_held(path)


def test_a_lock_is_not_inherited_unless_it_is_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = try_lock(path)
    assert lock is not None
    child = subprocess.Popen([sys.executable, "-c", "print(); input()"], stdin=PIPE, stdout=PIPE, close_fds=False)
    assert child.stdout is not None
    child.stdout.readline()
    os.close(lock)
    is_free = not is_held(path)
    child.communicate(b"\n")
    assert is_free


def test_a_taker_outlasts_a_look_by_another(tmp_path: Path) -> None:
    # A reader of states takes the lock for an instant; the taker must not be turned away by it.
    path = tmp_path / "lock"
    path.touch()
    program = (
        "import fcntl, sys, time; s = open(sys.argv[1]); fcntl.flock(s, fcntl.LOCK_SH); print(flush=True);"
        "time.sleep(0.06)"
    )
    looker = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=PIPE)
    assert looker.stdout is not None
    looker.stdout.readline()
    lock = try_lock(path)
    looker.communicate()
    assert lock is not None
    os.close(lock)
