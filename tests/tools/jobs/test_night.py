import os
import sys
from pathlib import Path

import pytest

from tools.jobs import night
from tools.jobs.night import Pulse, awake_command, suspended_s


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


def test_a_mac_is_kept_awake_while_the_process_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert awake_command(7) == ["/usr/bin/caffeinate", "-ims", "-w", "7"]


def test_linux_without_systemd_has_no_command_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(night, "which", lambda name: None)
    assert awake_command(7) is None
    assert night.keep_awake(os.getpid()) is None


def test_linux_with_systemd_holds_an_inhibitor_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(night, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(Path, "is_dir", lambda self: True)
    command = awake_command(7)
    assert command is not None
    assert command[0] == "/bin/systemd-inhibit"
    assert command[-4:] == ["/bin/tail", "--pid=7", "-f", "/dev/null"]


def test_a_machine_that_cannot_start_the_command_still_runs_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(night, "awake_command", lambda pid: ["/no/such/program"])
    assert night.keep_awake(os.getpid()) is None
