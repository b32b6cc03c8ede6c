"""Power, lid and sleep, as the programs and files of two systems tell them."""

from pathlib import Path

import pytest

from tests.tools.machine import machines
from tools.machine import readiness
from tools.machine.facts import System, awake_command, power_of, sleep_of
from tools.machine.readiness import Line

OTHER = System("sunos5", Path("/nowhere"), "/nowhere")


def outcome(line: Line) -> tuple[str, str]:
    return line.outcome, line.statement


def test_a_mac_on_its_battery_would_not_last_the_night(tmp_path: Path) -> None:
    line = readiness.power(machines.mac(tmp_path, batt=machines.BATTERY))
    assert line.outcome == "bad"
    assert line.statement.startswith("It runs from its battery, battery at 71 %")
    assert line.value == {"source": "battery", "battery_percent": 71.0, "lid": "open"}
    assert line.fix == "Plug it in."


def test_a_mac_on_mains_with_its_lid_closed_says_both(tmp_path: Path) -> None:
    line = readiness.power(machines.mac(tmp_path, lid="Yes"))
    assert outcome(line) == ("good", "It runs from mains, battery at 100 %. The lid is closed.")


def test_a_mac_without_a_battery_runs_from_mains(tmp_path: Path) -> None:
    found = power_of(machines.mac(tmp_path, batt="Now drawing from 'AC Power'\n", lid=""))
    assert (found.source, found.percent, found.lid) == ("mains", None, "")


def test_a_mac_on_the_battery_of_its_ups_is_on_battery(tmp_path: Path) -> None:
    said = "Now drawing from 'UPS Power'\n -Back-UPS (id=1)\t93%; discharging; 0:24 remaining present: true\n"
    assert power_of(machines.mac(tmp_path, batt=said)).source == "battery"


@pytest.mark.parametrize("said", ["", "Now drawing from 'Moon Power'\n", "nonsense"])
def test_a_mac_that_names_no_source_is_not_told(tmp_path: Path, said: str) -> None:
    line = readiness.power(machines.mac(tmp_path, batt=said, lid="Perhaps"))
    assert line.outcome == "not_told"


def test_a_laptop_with_linux_on_its_battery_would_not_last_and_a_mouse_is_no_battery_of_it(tmp_path: Path) -> None:
    line = readiness.power(machines.linux(tmp_path, machines.laptop()))
    assert line.outcome == "bad"
    assert line.value == {"source": "battery", "battery_percent": 64.0, "lid": "open"}


def test_a_laptop_with_linux_that_charges_is_on_mains(tmp_path: Path) -> None:
    files = machines.laptop(status="Charging", online="1", lid="closed")
    line = readiness.power(machines.linux(tmp_path, files))
    assert outcome(line) == ("good", "It runs from mains, battery at 64 %. The lid is closed.")
    assert not line.is_inferred


def test_a_server_without_any_supply_is_inferred_to_be_on_mains(tmp_path: Path) -> None:
    system = machines.linux(tmp_path)
    (tmp_path / "sys/class/power_supply").mkdir(parents=True)
    line = readiness.power(system)
    assert outcome(line) == ("good", "It has no battery, so it runs from mains.")
    assert line.belief(1, 0.0).tag == "inferred"


def test_without_the_folder_of_supplies_power_is_not_told(tmp_path: Path) -> None:
    assert readiness.power(machines.linux(tmp_path)).outcome == "not_told"


def test_a_mac_is_kept_awake_by_caffeinate_and_its_lid_is_warned_about(tmp_path: Path) -> None:
    line = readiness.sleep(machines.mac(tmp_path))
    assert line.outcome == "good"
    assert "asleep after 1 min without input; caffeinate keeps it awake" in line.statement
    assert line.fix == "Leave the lid open."


def test_a_mac_that_sleeps_and_has_no_caffeinate_would_fall_asleep(tmp_path: Path) -> None:
    system = machines.mac(tmp_path)
    (tmp_path / "bin" / "caffeinate").unlink()
    line = readiness.sleep(system)
    assert line.outcome == "bad"
    assert "nothing of ours can keep it awake: there is no caffeinate" in line.statement


def test_a_mac_whose_caffeinate_fails_repeats_its_words(tmp_path: Path) -> None:
    system = machines.mac(
        tmp_path, settings=machines.SETTINGS.replace("sleep                1", "sleep                0")
    )
    machines.program(tmp_path / "bin", "caffeinate", status=1, error="Failed to create assertion")
    line = readiness.sleep(system)
    assert line.outcome == "good"
    assert line.statement.startswith("It does not fall asleep by itself")
    assert "caffeinate said: Failed to create assertion" in line.statement


def test_a_mac_with_sleep_disabled_cannot_fall_asleep(tmp_path: Path) -> None:
    line = readiness.sleep(machines.mac(tmp_path, settings=" SleepDisabled\t\t1\n" + machines.SETTINGS))
    assert outcome(line) == ("good", "It cannot fall asleep.")


def test_a_mac_without_pmset_and_caffeinate_is_not_told(tmp_path: Path) -> None:
    line = readiness.sleep(System("darwin", tmp_path, str(tmp_path)))
    assert line.outcome == "not_told"


def test_linux_holds_sleep_off_with_an_inhibitor(tmp_path: Path) -> None:
    line = readiness.sleep(machines.linux(tmp_path))
    assert line.outcome == "good"
    assert "systemd-inhibit keeps it awake" in line.statement
    assert "Closing the lid still sends it to sleep." in line.statement


def test_linux_that_sleeps_when_idle_and_refuses_inhibitors_would_fall_asleep(tmp_path: Path) -> None:
    files = {
        "etc/systemd/logind.conf": "[Login]\n#IdleAction=ignore\nIdleAction=suspend\nIdleActionSec=20min\n",
        "etc/systemd/logind.conf.d/lid.conf": "[Login]\nHandleLidSwitch=ignore\n",
    }
    line = readiness.sleep(machines.linux(tmp_path, files, inhibits=False))
    assert line.outcome == "bad"
    assert line.value == {"can_sleep": True, "after_min": 20, "blocker": "", "closing_sleeps": False}
    assert "systemd-inhibit said: Failed to inhibit: Access denied" in line.statement
    assert "Closing the lid" not in line.statement


def test_linux_without_an_inhibitor_and_without_an_idle_setting_is_not_told(tmp_path: Path) -> None:
    system = machines.linux(tmp_path)
    (tmp_path / "bin" / "systemd-inhibit").unlink()
    line = readiness.sleep(system)
    assert line.outcome == "not_told"
    assert "there is no systemd-inhibit" in line.statement


@pytest.mark.parametrize(("written", "minutes"), [("900", 15), ("2h", 120), ("45 min", 45), ("1h 30min", None)])
def test_the_time_spans_of_systemd_are_read(tmp_path: Path, written: str, minutes: int | None) -> None:
    files = {"etc/systemd/logind.conf": f"IdleAction=hibernate\nIdleActionSec={written}\n"}
    assert sleep_of(machines.linux(tmp_path, files)).after_min == minutes


def test_linux_whose_sleep_target_is_masked_cannot_sleep(tmp_path: Path) -> None:
    system = machines.linux(tmp_path)
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    (tmp_path / "etc/systemd/system/sleep.target").symlink_to("/dev/null")
    assert outcome(readiness.sleep(system)) == ("good", "It cannot fall asleep.")


def test_linux_that_knows_no_sleep_state_cannot_sleep(tmp_path: Path) -> None:
    assert not sleep_of(machines.linux(tmp_path, {"sys/power/state": "\n"})).can_sleep


def test_of_other_systems_nothing_is_claimed() -> None:
    lines = [
        readiness.power(OTHER),
        readiness.sleep(OTHER),
        readiness.heat(OTHER),
        readiness.restart(OTHER),
        readiness.logout(OTHER),
    ]
    assert {line.outcome for line in lines} == {"not_told"}
    assert awake_command(OTHER, 1) is None


def test_a_mac_is_kept_awake_for_as_long_as_a_process_lives(tmp_path: Path) -> None:
    system = machines.mac(tmp_path)
    assert awake_command(system, 7) == [str(tmp_path / "bin/caffeinate"), "-ims", "-w", "7"]
    (tmp_path / "bin" / "caffeinate").unlink()
    assert awake_command(system, 7) is None


def test_linux_is_kept_awake_where_systemd_manages_it(tmp_path: Path) -> None:
    system = machines.linux(tmp_path)
    assert awake_command(system, 7) is None
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    command = awake_command(system, 7) or []
    assert command[0] == str(tmp_path / "bin/systemd-inhibit")
    assert command[-4:] == [str(tmp_path / "bin/tail"), "--pid=7", "-f", "/dev/null"]
