import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.machine import machines
from tools.jobs import observe
from tools.jobs.observe import Awake, Conditions, Pulse, suspended_s
from tools.machine.facts import System


def test_time_between_ticks_is_work() -> None:
    pulse = Pulse()
    for second in range(5):
        pulse.tick(float(second), 100.0)
    assert (pulse.worked_s, pulse.slept_s, pulse.frozen_s) == (4.0, 0.0, 0.0)


def test_the_sleep_of_the_machine_is_not_work() -> None:
    pulse = Pulse()
    pulse.tick(0.0, 0.0)
    # The machine's own clock stood still for an hour.
    pulse.tick(1.0, 3600.0)
    assert (pulse.worked_s, pulse.slept_s, pulse.frozen_s) == (1.0, 3600.0, 0.0)


def test_a_freeze_of_the_supervisor_is_not_work() -> None:
    pulse = Pulse()
    pulse.tick(0.0, 0.0)
    pulse.tick(600.0, 0.0)
    pulse.tick(601.0, 0.0)
    assert (pulse.worked_s, pulse.slept_s, pulse.frozen_s) == (1.0, 0.0, 600.0)


def test_time_slept_before_the_job_is_not_its_own() -> None:
    pulse = Pulse()
    pulse.tick(50.0, 9000.0)
    assert pulse.slept_s == 0.0


def test_the_machine_tells_how_long_it_slept() -> None:
    assert suspended_s() > -1.0


@pytest.fixture
def awake(tmp_path: Path) -> Iterator[Awake]:
    """A Mac whose caffeinate waits for a process, as the real one does with -w."""
    system = machines.mac(tmp_path)
    machines.script(tmp_path / "bin", "caffeinate", 'exec tail --pid="$3" -f /dev/null')
    found = Awake(os.getpid(), system)
    yield found
    found.end()


def child_of(awake: Awake) -> "subprocess.Popen[bytes]":
    assert awake._process is not None
    return awake._process


def test_the_machine_is_kept_awake_until_it_may_sleep_again(awake: Awake) -> None:
    assert awake.by == ""
    awake.begin()
    assert awake.by == "caffeinate"
    child = child_of(awake)
    awake.check()
    assert child.poll() is None
    awake.end()
    assert child.returncode is not None
    assert awake.lapses == 0


def test_what_keeps_the_machine_awake_ends_with_the_process_it_serves(tmp_path: Path) -> None:
    system = machines.mac(tmp_path)
    machines.script(tmp_path / "bin", "caffeinate", 'exec tail --pid="$3" -s 0.01 -f /dev/null')
    served = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    awake = Awake(served.pid, system)
    awake.begin()
    served.communicate(b"\n")
    assert child_of(awake).wait(timeout=60) == 0


def test_what_was_ended_by_others_is_begun_again(awake: Awake) -> None:
    awake.begin()
    before = child_of(awake)
    before.kill()
    before.wait()
    awake.check()
    assert (awake.lapses, awake.by) == (1, "caffeinate")
    assert child_of(awake).pid != before.pid


def test_where_it_is_not_allowed_it_is_given_up_after_a_few_times(tmp_path: Path) -> None:
    awake = Awake(os.getpid(), machines.mac(tmp_path))
    awake.begin()
    for lapse in range(1, observe.MOST_STARTS + 1):
        # The program of this machine ends at once.
        child_of(awake).wait()
        awake.check()
        assert awake.lapses == lapse
    awake.check()
    assert (awake.lapses, awake.by) == (observe.MOST_STARTS, "")
    awake.end()


def test_a_machine_without_such_a_program_runs_jobs_all_the_same(tmp_path: Path) -> None:
    for system in (System("linux", tmp_path, str(tmp_path)), System("darwin", tmp_path, str(tmp_path))):
        awake = Awake(os.getpid(), system)
        awake.begin()
        awake.check()
        awake.end()
        assert (awake.by, awake.lapses) == ("", 0)


def test_a_program_that_cannot_be_started_is_no_error(tmp_path: Path) -> None:
    system = machines.mac(tmp_path)
    (tmp_path / "bin" / "caffeinate").write_text("#!/no/such/interpreter\n")
    awake = Awake(os.getpid(), system)
    awake.begin()
    assert awake.by == ""


def test_work_counts_for_the_conditions_that_were_seen(tmp_path: Path) -> None:
    unplugged = machines.laptop(lid="closed") | machines.zone(0, 80, 105)
    conditions = Conditions(machines.linux(tmp_path, unplugged))
    assert conditions.read(0.0) == {"battery_percent": 64.0, "heat_margin_c": 25.0}
    machines.put(tmp_path, machines.laptop(status="Charging", online="1") | machines.zone(0, 70, 105))
    assert conditions.read(60.0) == {"heat_margin_c": 35.0}
    conditions.credit(100.0)
    assert (conditions.on_battery_s, conditions.lid_closed_s, conditions.held_back_s) == (60.0, 60.0, 0.0)
    assert conditions.hottest_c == 80.0
    assert conditions.power.to_json() == {"source": "mains", "battery_percent": 64.0, "lid": "open"}


def test_a_mac_under_thermal_pressure_is_held_back(tmp_path: Path) -> None:
    conditions = Conditions(machines.mac(tmp_path, pressure="2", therm="\tCPU_Speed_Limit \t= 90\n"))
    assert conditions.read(0.0) == {"thermal_pressure": 2.0, "clock_share": 0.9}
    conditions.credit(30.0)
    assert conditions.held_back_s == 30.0


def test_a_machine_that_tells_nothing_gives_no_signals(tmp_path: Path) -> None:
    conditions = Conditions(System("linux", tmp_path, str(tmp_path)))
    assert conditions.read(10.0) == {}
    conditions.credit(20.0)
    assert (conditions.on_battery_s, conditions.lid_closed_s, conditions.held_back_s) == (0.0, 0.0, 0.0)
