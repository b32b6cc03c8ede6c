"""What Linux tells: sysfs, logind's settings, `systemd-inhibit`, `timedatectl`."""

import os
import re
from pathlib import Path

from tools.machine.facts import Heat, LidState, Power, Sleep, Source, System

_SUPPLY = "sys/class/power_supply"
_INHIBIT = ("--what=sleep:idle", "--who=vigil", "--why=a fine-tuning job is running", "--mode=block")
_SLEEPS = frozenset({"suspend", "hibernate", "hybrid-sleep", "suspend-then-hibernate", "sleep"})
_ALARMS = frozenset({"hot", "critical"})


def power(system: System) -> Power:
    """Return source and charge from sysfs, the lid from /proc/acpi."""
    lids: dict[str, LidState] = {"open": "open", "closed": "closed"}
    lid_state = " ".join(filter(None, (system.read(name) for name in system.glob("proc/acpi/button/lid/*/state"))))
    lid = lids.get(lid_state.rpartition(" ")[2], "")
    source, percent = _supplies(system)
    # Servers list no supply at all; where the folder itself is missing, nothing is told.
    is_inferred = not source and percent is None and (system.root / _SUPPLY).is_dir()
    return Power("mains" if is_inferred else source, percent, lid, f"/{_SUPPLY}", is_inferred)


def _supplies(system: System) -> tuple[Source, float | None]:
    source: Source = ""
    percent: float | None = None
    for folder in system.glob(f"{_SUPPLY}/*"):
        kind = system.read(f"{folder}/type") or ""
        if kind == "Battery" and system.read(f"{folder}/scope") != "Device":
            percent = system.number(f"{folder}/capacity")
            is_draining = system.read(f"{folder}/status") == "Discharging"
            source = source or ("battery" if is_draining else "mains")
        elif kind in {"Mains", "USB"} and system.read(f"{folder}/online") == "1":
            source = "mains"
    return source, percent


def logind(system: System) -> dict[str, str]:
    """Return logind's settings, later files over earlier ones."""
    drop_ins = [
        name
        for place in ("usr/lib", "lib", "run", "etc")
        for name in system.glob(f"{place}/systemd/logind.conf.d/*.conf")
    ]
    files = ["etc/systemd/logind.conf", *sorted(drop_ins, key=lambda name: Path(name).name)]
    settings = {}
    for line in "\n".join(system.read(name) or "" for name in files).splitlines():
        key, is_set, value = line.partition("=")
        if is_set and not key.lstrip().startswith(("#", ";")):
            settings[key.strip()] = value.strip()
    return settings


def sleep(system: System) -> Sleep:
    """Return whether the machine can sleep, when it does, and whether logind lets a job hold it off.

    Not covered: what a desktop does when nobody types; such settings are its own.
    """
    written = logind(system)
    idle = written.get("IdleAction", "ignore") in _SLEEPS
    blocker, why_not = _try_inhibitor(system)
    return Sleep(
        can_sleep=bool(system.read("sys/power/state")) and not _is_masked(system),
        after_min=_minutes(written.get("IdleActionSec", "30min")) if idle else None,
        blocker=blocker,
        why_not=why_not,
        closing_sleeps=written.get("HandleLidSwitch", "suspend") in _SLEEPS,
        asked="/sys/power/state, logind.conf, systemd-inhibit",
    )


def _is_masked(system: System) -> bool:
    unit = system.root / "etc/systemd/system/sleep.target"
    return unit.is_symlink() and str(unit.readlink()) == os.devnull


def _minutes(text: str) -> int | None:
    """Return whole minutes of a systemd time span such as 30min, 2h or 900; None where it says something longer."""
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = text[len(digits) :].strip()
    seconds = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "hr": 3600}
    return int(digits) * seconds[unit] // 60 if digits.isdigit() and unit in seconds else None


def _try_inhibitor(system: System) -> tuple[str, str]:
    """Return the program that keeps the machine awake, or empty and why it does not."""
    answer = system.ask("systemd-inhibit", *_INHIBIT, "true")
    if answer is None:
        return "", "there is no systemd-inhibit"
    if answer.status != 0:
        return "", f"systemd-inhibit said: {answer.last_words}"
    return "systemd-inhibit", ""


def heat(system: System) -> Heat:
    """Return the thermal zone nearest to its hot or critical point, and the clock that is allowed."""
    nearest: tuple[float, float] | None = None
    for zone in system.glob("sys/class/thermal/thermal_zone*"):
        now = system.number(f"{zone}/temp")
        limits = [
            system.number(name.replace("_type", "_temp"))
            for name in system.glob(f"{zone}/trip_point_*_type")
            if system.read(name) in _ALARMS
        ]
        # Some firmware declares a limit of 0 or below for "none".
        limit = min((each for each in limits if each is not None and each > 0), default=None)
        if now is None or limit is None:
            continue
        if nearest is None or limit - now < nearest[1] - nearest[0]:
            nearest = (now, limit)
    return Heat(
        hottest_c=nearest[0] / 1000 if nearest else None,
        limit_c=nearest[1] / 1000 if nearest else None,
        speed_share=_speed_share(system),
        is_saving=system.read("sys/firmware/acpi/platform_profile") == "low-power",
        asked="/sys/class/thermal, cpufreq",
    )


def _speed_share(system: System) -> float | None:
    """Return the smallest share of its full clock that a core is allowed."""
    shares = []
    for folder in system.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq"):
        allowed, full = system.number(f"{folder}/scaling_max_freq"), system.number(f"{folder}/cpuinfo_max_freq")
        if allowed and full:
            shares.append(min(1.0, allowed / full))
    return min(shares, default=None)


def is_synchronized(system: System) -> bool | None:
    """Tell whether a time service holds the clock; None where nobody tells."""
    if (system.root / "run/systemd/timesync/synchronized").exists():
        return True
    answer = system.ask("timedatectl", "show", "-p", "NTPSynchronized", "--value")
    output = answer.out.strip() if answer else ""
    return {"yes": True, "no": False}.get(output)


def awake_command(system: System, pid: int) -> list[str] | None:
    """Return the command that blocks sleep until a process ends; None without systemd as the system's manager.

    Not covered: a closed lid, which logind does not count as sleep that a job may block.
    """
    inhibit, tail = system.which("systemd-inhibit"), system.which("tail")
    if inhibit is None or tail is None or not (system.root / "run/systemd/system").is_dir():
        return None
    return [inhibit, *_INHIBIT, tail, f"--pid={pid}", "-f", os.devnull]


def plans(system: System) -> tuple[list[str], list[str], str]:
    """Return restarts that will come, restarts that may, and who told."""
    certain = []
    if (scheduled := system.read("run/systemd/shutdown/scheduled")) is not None:
        fields = dict(line.split("=", 1) for line in scheduled.splitlines() if "=" in line)
        certain.append(f"{fields.get('MODE', 'shutdown')} by shutdown(8)")
    written = "\n".join(system.read(name) or "" for name in system.glob("etc/apt/apt.conf.d/*"))
    is_automatic = re.findall(r'^\s*Unattended-Upgrade::Automatic-Reboot\s+"(\w+)"', written, re.MULTILINE)
    possible = ["unattended-upgrades may restart it"] if is_automatic[-1:] in (["true"], ["1"], ["yes"]) else []
    return certain, possible, "/run/systemd/shutdown, apt.conf.d"


def memory_kills(system: System) -> int | None:
    """Return how many processes the system has killed for want of memory, None where it does not tell.

    By our control group where it counts them, else of the whole machine; a Mac tells nothing.
    """
    groups = (line.split(":", 2) for line in (system.read("proc/self/cgroup") or "").splitlines())
    named = {kind: place.strip("/") for _, kind, place in (each for each in groups if len(each) == 3)}  # noqa: PLR2004 - as cgroups(7) has a line
    files = [
        f"sys/fs/cgroup/{named.get('', '')}/memory.events",
        "sys/fs/cgroup/memory.events",
        f"sys/fs/cgroup/memory/{named.get('memory', '')}/memory.oom_control",
        "proc/vmstat",
    ]
    for name in files:
        for line in (system.read(name) or "").splitlines():
            what, _, count = line.partition(" ")
            if what == "oom_kill" and count.isdigit():
                return int(count)
    return None
