"""Heat, planned restarts, logins and the clock."""

import datetime as dt
import zoneinfo
from pathlib import Path

import pytest

from state.clock import FakeClock
from tests.tools.machine import machines
from tools.machine import readiness
from tools.machine.facts import System

NOW = 1_800_000_000.0


def test_a_mac_without_pressure_is_cool(tmp_path: Path) -> None:
    line = readiness.heat(machines.mac(tmp_path))
    assert (line.outcome, line.statement) == ("good", "Thermal pressure 0 of 4.")


def test_a_mac_under_pressure_is_held_back(tmp_path: Path) -> None:
    line = readiness.heat(machines.mac(tmp_path, pressure="2"))
    assert line.outcome == "warn"
    assert "thermal pressure 2 of 4" in line.statement


def test_the_silence_of_pmset_on_apple_silicon_is_no_good_news(tmp_path: Path) -> None:
    assert readiness.heat(machines.mac(tmp_path, pressure=None)).outcome == "not_told"


def test_an_intel_mac_says_what_clock_is_left(tmp_path: Path) -> None:
    line = readiness.heat(machines.mac(tmp_path, therm="CPU Power notify\n\tCPU_Speed_Limit \t= 58\n", pressure=None))
    assert line.outcome == "warn"
    assert line.value["speed_share"] == 0.58
    assert "58 % of the full clock" in line.statement


@pytest.mark.parametrize("key", ["lowpowermode         1", "powermode            1"])
def test_the_low_power_mode_of_a_mac_is_warned_about(tmp_path: Path, key: str) -> None:
    line = readiness.heat(machines.mac(tmp_path, settings=machines.SETTINGS.replace("lowpowermode         0", key)))
    assert line.outcome == "warn"
    assert line.statement.startswith("A low-power mode is on")


def test_the_sensor_nearest_to_its_limit_counts(tmp_path: Path) -> None:
    files = machines.zone(0, 40, 60) | machines.zone(1, 70, 105) | {"sys/class/thermal/thermal_zone2/temp": "50000\n"}
    line = readiness.heat(machines.linux(tmp_path, files))
    assert (line.outcome, line.statement) == ("good", "40 of 60 degrees Celsius.")
    assert line.value["margin_c"] == 20.0


def test_a_sensor_near_its_limit_is_warned_about(tmp_path: Path) -> None:
    line = readiness.heat(machines.linux(tmp_path, machines.zone(0, 98, 100)))
    assert line.outcome == "warn"
    assert "98 of 100 degrees Celsius" in line.statement


def test_a_clock_that_is_held_down_is_warned_about(tmp_path: Path) -> None:
    files = {
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1800000\n",
        "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "3600000\n",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_max_freq": "3600000\n",
        "sys/devices/system/cpu/cpu1/cpufreq/cpuinfo_max_freq": "3600000\n",
        "sys/devices/system/cpu/cpu2/cpufreq/scaling_max_freq": "none\n",
    }
    line = readiness.heat(machines.linux(tmp_path, files))
    assert line.outcome == "warn"
    assert line.value["speed_share"] == 0.5


def test_a_full_clock_is_good(tmp_path: Path) -> None:
    files = dict.fromkeys(
        [f"sys/devices/system/cpu/cpu0/cpufreq/{name}_max_freq" for name in ("scaling", "cpuinfo")], "3600000\n"
    )
    assert readiness.heat(machines.linux(tmp_path, files)).outcome == "good"


def test_linux_in_its_low_power_profile_is_warned_about(tmp_path: Path) -> None:
    line = readiness.heat(machines.linux(tmp_path, {"sys/firmware/acpi/platform_profile": "low-power\n"}))
    assert line.outcome == "warn"


def test_without_sensors_heat_is_not_told(tmp_path: Path) -> None:
    assert readiness.heat(machines.linux(tmp_path)).outcome == "not_told"


def test_a_shutdown_at_a_fixed_hour_ends_the_night_and_a_wake_does_not(tmp_path: Path) -> None:
    line = readiness.restart(machines.mac(tmp_path / "one", sched=machines.SCHEDULE))
    assert line.outcome == "bad"
    assert line.value["certain"] == ["shutdown at 11:00PM every day"]
    quiet = machines.SCHEDULE.replace("  shutdown at 11:00PM every day\n", "")
    assert readiness.restart(machines.mac(tmp_path / "two", sched=quiet)).outcome == "good"


def test_updates_that_a_mac_installs_by_itself_are_warned_about(tmp_path: Path) -> None:
    line = readiness.restart(machines.mac(tmp_path, updates="1"))
    assert line.outcome == "warn"
    assert "install-service" in line.fix


def test_a_mac_without_pmset_is_not_told_of_plans(tmp_path: Path) -> None:
    assert readiness.restart(System("darwin", tmp_path, str(tmp_path))).outcome == "not_told"


def test_a_shutdown_that_is_scheduled_on_linux_ends_the_night(tmp_path: Path) -> None:
    files = {"run/systemd/shutdown/scheduled": "USEC=1800000000000000\nWARN_WALL=1\nMODE=reboot\n"}
    line = readiness.restart(machines.linux(tmp_path, files))
    assert (line.outcome, line.value["certain"]) == ("bad", ["reboot by shutdown(8)"])


def test_upgrades_that_restart_linux_are_warned_about_unless_switched_off_later(tmp_path: Path) -> None:
    on = {"etc/apt/apt.conf.d/50unattended": '//  comment\nUnattended-Upgrade::Automatic-Reboot "true";\n'}
    assert readiness.restart(machines.linux(tmp_path / "on", on)).outcome == "warn"
    off = {**on, "etc/apt/apt.conf.d/99own": 'Unattended-Upgrade::Automatic-Reboot "false";\n'}
    assert readiness.restart(machines.linux(tmp_path / "off", off)).outcome == "good"


def test_logind_that_ends_processes_at_logout_fails_the_night(tmp_path: Path) -> None:
    files = {"etc/systemd/logind.conf": "KillUserProcesses=yes\n", "run/systemd/system/x": ""}
    line = readiness.logout(machines.linux(tmp_path, files))
    assert line.outcome == "bad"
    assert "enable-linger" in line.fix


def test_logind_that_leaves_processes_alone_is_good(tmp_path: Path) -> None:
    files = {"etc/systemd/logind.conf": "KillUserProcesses=no\n", "run/systemd/system/x": ""}
    assert readiness.logout(machines.linux(tmp_path, files)).outcome == "good"


def test_the_default_of_logind_is_not_told(tmp_path: Path) -> None:
    line = readiness.logout(machines.linux(tmp_path, {"run/systemd/system/x": ""}))
    assert line.outcome == "not_told"


def test_without_systemd_a_logout_ends_nothing(tmp_path: Path) -> None:
    assert readiness.logout(machines.linux(tmp_path)).outcome == "good"


def test_a_clock_held_by_a_time_service_is_good(tmp_path: Path) -> None:
    line = readiness.clock(machines.linux(tmp_path), FakeClock(NOW), 0.01, lambda at: 3600)
    assert line.outcome == "good"
    assert "held by a time service" in line.statement
    (tmp_path / "bin" / "timedatectl").unlink()
    machines.put(tmp_path, {"run/systemd/timesync/synchronized": ""})
    assert readiness.clock(machines.linux(tmp_path, synced="no"), FakeClock(NOW), 0.0, lambda at: 0).outcome == "good"


def test_a_clock_that_nothing_holds_is_warned_about(tmp_path: Path) -> None:
    line = readiness.clock(machines.linux(tmp_path, synced="no"), FakeClock(NOW), 0.0, lambda at: 0)
    assert line.outcome == "warn"
    assert "timedatectl set-ntp" in line.fix


def test_on_a_mac_who_holds_the_clock_is_not_told(tmp_path: Path) -> None:
    assert readiness.clock(machines.mac(tmp_path), FakeClock(NOW), 0.0, lambda at: 0).outcome == "not_told"


def test_a_clock_that_jumped_while_it_was_looked_at_is_warned_about(tmp_path: Path) -> None:
    line = readiness.clock(machines.linux(tmp_path), FakeClock(NOW), -3600.0, lambda at: 0)
    assert line.outcome == "warn"
    assert "moved by -3600.0 s" in line.statement


def test_a_clock_that_stands_in_the_past_fails_the_night(tmp_path: Path) -> None:
    line = readiness.clock(machines.linux(tmp_path), FakeClock(86_400.0), 0.0, lambda at: 0)
    assert line.outcome == "bad"
    assert "1970" in line.statement


def test_the_night_when_the_clocks_go_back_is_told_with_its_hour(tmp_path: Path) -> None:
    zone = zoneinfo.ZoneInfo("Europe/Berlin")

    def offset(at: float) -> int:
        found = dt.datetime.fromtimestamp(at, tz=zone).utcoffset()
        assert found is not None
        return int(found.total_seconds())

    evening = dt.datetime(2036, 10, 25, 22, 0, tzinfo=zone).timestamp()
    change = dt.datetime(2036, 10, 26, 1, 0, tzinfo=dt.UTC).timestamp()
    assert readiness.change_of_time(evening, offset) == (change, -3600)
    assert readiness.change_of_time(evening - 3 * 86_400, offset) is None
    line = readiness.clock(machines.linux(tmp_path), FakeClock(evening), 0.0, offset)
    assert line.outcome == "warn"
    assert "put back by 60 min at 2036-10-26 03:00." in line.statement
