"""What macOS tells: `pmset`, `caffeinate`, `ioreg`, `sysctl`.

Written from the programs' manuals and sample outputs; none of it was run on a Mac.
"""

import re

from tools.machine.facts import Heat, LidState, Power, Sleep, Source, System

_SOURCES: dict[str, Source] = {"AC Power": "mains", "Battery Power": "battery", "UPS Power": "battery"}
_PRESSURE = "com.apple.system.thermalpressurelevel"
_LIDS: dict[str, LidState] = {"Yes": "closed", "No": "open"}


def power(system: System) -> Power:
    """Return source and charge from `pmset -g batt`, the lid from `ioreg`."""
    answer = system.ask("pmset", "-g", "batt")
    output = answer.out if answer else ""
    drawn = re.search(r"drawing from '([^']+)'", output)
    charge = re.search(r"(\d+)%", output)
    shell = system.ask("ioreg", "-r", "-k", "AppleClamshellState", "-d", "1")
    lid = re.search(r'"AppleClamshellState"\s*=\s*(\w+)', shell.out if shell else "")
    return Power(
        source=_SOURCES.get(drawn[1], "") if drawn else "",
        percent=float(charge[1]) if charge else None,
        lid=_LIDS.get(lid[1], "") if lid else "",
        asked="pmset -g batt",
    )


def settings(system: System) -> dict[str, int]:
    """Return the settings in use by name, as `pmset -g` lists them; empty where it is not there."""
    answer = system.ask("pmset", "-g")
    pairs = re.findall(r"^\s*(\w+)\s+(\d+)\b", answer.out if answer else "", re.MULTILINE)
    return {name: int(value) for name, value in pairs}


def sleep(system: System) -> Sleep:
    """Return the idle time that is set, and whether `caffeinate` holds it off."""
    known = settings(system)
    is_off = known.get("SleepDisabled") == 1
    answer = system.ask("caffeinate", "-i", "true")
    works = answer is not None and answer.status == 0
    why_not = "" if works else "there is no caffeinate" if answer is None else f"caffeinate said: {answer.last_words}"
    return Sleep(
        can_sleep=not is_off,
        after_min=known.get("sleep"),
        blocker="caffeinate" if works else "",
        why_not=why_not,
        closing_sleeps=not is_off,
        asked="pmset -g, caffeinate -i",
    )


def heat(system: System) -> Heat:
    """Return what the system does against heat, the clock it allows (Intel only), and the low-power mode."""
    pressure = system.ask("notifyutil", "-g", _PRESSURE)
    level = re.search(rf"{re.escape(_PRESSURE)}\s+(\d+)", pressure.out if pressure else "")
    answer = system.ask("pmset", "-g", "therm")
    # Apple silicon records no limit here, however hot it is: silence says nothing.
    limit = re.search(r"CPU_Speed_Limit\s*=\s*(\d+)", answer.out if answer else "")
    known = settings(system)
    return Heat(
        speed_share=float(limit[1]) / 100 if limit else None,
        pressure=int(level[1]) if level else None,
        is_saving=1 in {known.get("lowpowermode"), known.get("powermode")},
        asked=f"notifyutil -g {_PRESSURE}, pmset -g therm",
    )


def wired_limit_mb(system: System) -> int | None:
    """Return the memory that the GPU may wire, MB; 0: the system's own share, about two thirds to three quarters."""
    answer = system.ask("sysctl", "-n", "iogpu.wired_limit_mb")
    output = answer.out.strip() if answer else ""
    return int(output) if output.isdigit() else None


def is_translated(system: System) -> bool:
    """Tell whether processes of ours run under Rosetta, where MLX finds no Metal."""
    answer = system.ask("sysctl", "-n", "sysctl.proc_translated")
    return answer is not None and answer.out.strip() == "1"


def awake_command(system: System, pid: int) -> list[str] | None:
    """Return the command that holds idle, disk and system sleep off until a process ends.

    Not covered: a lid that is closed on battery, which nothing holds off.
    """
    caffeinate = system.which("caffeinate")
    return None if caffeinate is None else [caffeinate, "-ims", "-w", str(pid)]


def plans(system: System) -> tuple[list[str], list[str], str]:
    """Return hours of sleep, restart or shutdown that are set, updates that may restart it, and who told."""
    answer = system.ask("pmset", "-g", "sched")
    output = answer.out if answer else ""
    certain = [
        line.strip() for line in output.splitlines() if re.match(r"\s*(\[\d+\]\s*)?(sleep|shutdown|restart)\b", line)
    ]
    updates = system.ask(
        "defaults", "read", "/Library/Preferences/com.apple.SoftwareUpdate", "AutomaticallyInstallMacOSUpdates"
    )
    is_automatic = updates is not None and updates.out.strip() == "1"
    possible = ["macOS installs updates by itself"] if is_automatic else []
    return certain, possible, "pmset -g sched, SoftwareUpdate settings" if answer else ""
