import os
import subprocess
import sys
from dataclasses import replace

import pytest

from tools.jobs.processes import ProcessIdentity, boot_id, identify, is_alive, is_reused, is_same


def me() -> ProcessIdentity:
    found = identify(os.getpid())
    assert found is not None
    return found


def test_this_process_is_alive_and_itself() -> None:
    assert is_alive(me())
    assert not is_reused(me())
    assert ProcessIdentity.from_json(me().to_json()) == me()


def test_another_start_under_the_same_pid_is_another_process() -> None:
    one = me()
    other = replace(
        one, create_time=one.create_time - 5, start_ticks=None if one.start_ticks is None else one.start_ticks - 500
    )
    assert not is_alive(other)
    assert is_reused(other)


@pytest.mark.skipif(sys.platform != "linux", reason="ticks since boot are read on Linux")
def test_a_step_of_the_clock_does_not_make_another_process() -> None:
    assert is_alive(replace(me(), create_time=me().create_time - 3600))


def test_without_ticks_the_creation_time_is_compared_with_a_tolerance() -> None:
    one = replace(me(), start_ticks=None)
    assert is_same(one, replace(one, create_time=one.create_time + 0.02))
    assert not is_same(one, replace(one, create_time=one.create_time + 1.0))


def test_another_boot_makes_another_process() -> None:
    assert boot_id()
    other = replace(me(), boot_id="before")
    assert not is_alive(other)
    assert is_reused(other)


def test_a_zombie_is_not_alive_and_a_reaped_process_is_nobody() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = identify(child.pid)
    assert is_alive(found)
    assert child.stdin is not None
    child.stdin.close()
    # Ended, not reaped: waitid leaves it a zombie.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(found)
    assert found is not None
    assert not is_reused(found)
    child.wait()
    assert identify(child.pid) is None
    assert not is_reused(found)


@pytest.mark.parametrize("value", [None, {}, [], {"pid": "7"}, "x"])
def test_what_holds_no_identity_is_nobody(value: object) -> None:
    assert ProcessIdentity.from_json(value) is None
    assert not is_alive(None)
