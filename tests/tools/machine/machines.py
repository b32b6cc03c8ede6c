"""Machines on disk: programs are tiny executable scripts, files lie below a root."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from tools.machine.facts import System

BATTERY = """Now drawing from 'Battery Power'
 -InternalBattery-0 (id=4653155)\t71%; discharging; 4:01 remaining present: true
"""
MAINS = """Now drawing from 'AC Power'
 -InternalBattery-0 (id=4653155)\t100%; charged; 0:00 remaining present: true
"""
SETTINGS = """System-wide power settings:
Currently in use:
 standby              1
 Sleep On Power Button 1
 powernap             1
 disksleep            10
 sleep                1 (sleep prevented by sharingd, coreaudiod)
 displaysleep         2
 lowpowermode         0
"""
THERM = """Note: No thermal warning level has been recorded
Note: No performance warning level has been recorded
Note: No CPU power status has been recorded
"""
SCHEDULE = """Repeating power events:
  wakepoweron at 6:00AM every day
  shutdown at 11:00PM every day
Scheduled power events:
 [0]  wake at 07/25/2026 05:54:35 by 'com.apple.alarm.user-visible-com.apple.acmd.alarm'
"""
PRESSURE = "com.apple.system.thermalpressurelevel"


def program(
    folder: Path, name: str, answers: Mapping[str, str] | str = "", *, status: int = 0, error: str = ""
) -> Path:
    """Write a program that answers by its arguments.

    Args:
        folder: Where it lies.
        name: Its name.
        answers: Arguments joined by spaces -> what it prints; a plain text is printed whatever it is asked.
        status: Its exit status.
        error: What it writes to standard error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["#!/bin/sh"]
    if isinstance(answers, str):
        lines.append(f"printf %s {shlex.quote(answers)}")
    else:
        cases = [f"{shlex.quote(asked)}) printf %s {shlex.quote(said)} ;;" for asked, said in answers.items()]
        lines += ['case "$*" in', *cases, "*) exit 64 ;;", "esac"]
    if error:
        lines.append(f"echo {shlex.quote(error)} >&2")
    path = folder / name
    path.write_text("\n".join([*lines, f"exit {status}", ""]))
    path.chmod(0o755)
    return path


def script(folder: Path, name: str, body: str) -> Path:
    """Write a program with a body of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def mac(
    folder: Path,
    *,
    batt: str = MAINS,
    settings: str = SETTINGS,
    therm: str = THERM,
    sched: str = "",
    pressure: str | None = "0",
    lid: str = "No",
    translated: str = "0",
    wired_mb: str = "0",
    updates: str = "0",
) -> System:
    """Return a Mac whose programs say what sample outputs of real ones say."""
    bin_ = folder / "bin"
    program(bin_, "pmset", {"-g batt": batt, "-g": settings, "-g therm": therm, "-g sched": sched})
    program(bin_, "caffeinate")
    program(bin_, "ioreg", f'  | {{\n      "AppleClamshellState" = {lid}\n    }}\n')
    program(bin_, "sysctl", {"-n sysctl.proc_translated": translated, "-n iogpu.wired_limit_mb": wired_mb})
    program(bin_, "defaults", updates)
    if pressure is not None:
        program(bin_, "notifyutil", f"{PRESSURE} {pressure}\n")
    return System("darwin", folder, str(bin_))


def linux(
    folder: Path, files: Mapping[str, str] | None = None, *, inhibits: bool = True, synced: str = "yes"
) -> System:
    """Return a Linux laptop's programs over files that are given by name."""
    bin_ = folder / "bin"
    refusal = "" if inhibits else "Failed to inhibit: Access denied"
    program(bin_, "systemd-inhibit", status=0 if inhibits else 1, error=refusal)
    program(bin_, "timedatectl", f"{synced}\n")
    program(bin_, "tail")
    put(folder, {"sys/power/state": "freeze mem disk\n", **(files or {})})
    return System("linux", folder, str(bin_))


def put(root: Path, files: Mapping[str, str]) -> None:
    """Write files below a root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def laptop(*, status: str = "Discharging", online: str = "0", lid: str = "open") -> dict[str, str]:
    """Return the files of a laptop's power supplies and lid."""
    return {
        "sys/class/power_supply/AC/type": "Mains\n",
        "sys/class/power_supply/AC/online": f"{online}\n",
        "sys/class/power_supply/BAT0/type": "Battery\n",
        "sys/class/power_supply/BAT0/capacity": "64\n",
        "sys/class/power_supply/BAT0/status": f"{status}\n",
        "sys/class/power_supply/mouse/type": "Battery\n",
        "sys/class/power_supply/mouse/scope": "Device\n",
        "sys/class/power_supply/mouse/capacity": "5\n",
        "proc/acpi/button/lid/LID0/state": f"state:      {lid}\n",
    }


def zone(number: int, now_c: float, hot_c: float) -> dict[str, str]:
    """Return the files of a thermal zone."""
    folder = f"sys/class/thermal/thermal_zone{number}"
    return {
        f"{folder}/temp": f"{now_c * 1000:.0f}\n",
        f"{folder}/trip_point_0_type": "passive\n",
        f"{folder}/trip_point_0_temp": "1000\n",
        f"{folder}/trip_point_1_type": "critical\n",
        f"{folder}/trip_point_1_temp": f"{hot_c * 1000:.0f}\n",
    }
