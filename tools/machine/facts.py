"""Facts about power, sleep and heat, in one shape for all systems, and the programs and files that they come from.

A program that is absent, hangs or cannot be started is an answer of its own (None), never an error.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from state.records import Json

_USUAL = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
"""Searched after PATH: services are started with a shorter one."""


@dataclass(frozen=True)
class Answer:
    """What a program said."""

    status: int
    out: str
    error: str

    @property
    def last_words(self) -> str:
        """The last line it wrote to standard error, or else to standard output; empty where it said nothing."""
        lines = [line.strip() for line in (self.error or self.out).splitlines() if line.strip()]
        return lines[-1] if lines else ""


@dataclass(frozen=True)
class System:
    """One machine.

    Args:
        platform: `sys.platform`: darwin or linux; of others nothing is known.
        root: Folder that /proc, /sys, /etc and /run are looked for in.
        path: Folders of programs, separated by colons; PATH and the usual ones by default.
        timeout_s: Longest wait for the answer of one program, seconds.
    """

    platform: str = sys.platform
    root: Path = Path("/")
    path: str = field(default_factory=lambda: f"{os.environ.get('PATH', '')}:{_USUAL}")
    timeout_s: float = 10.0

    def which(self, program: str) -> str | None:
        """Return where a program is, None where there is none."""
        return shutil.which(program, path=self.path)

    def ask(self, program: str, *arguments: str) -> Answer | None:
        """Run a program that reports something; None where it is absent, does not start or does not end."""
        path = self.which(program)
        if path is None:
            return None
        try:
            done = subprocess.run(
                [path, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.timeout_s,
                check=False,
                # What it says is read by us, so it must not be translated.
                env={**os.environ, "LC_ALL": "C"},
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return Answer(done.returncode, done.stdout, done.stderr)

    def read(self, name: str) -> str | None:
        """Return a file's text without white space around it, None where it cannot be read.

        Args:
            name: Path below the root, without a leading slash.
        """
        try:
            return (self.root / name).read_text(errors="replace").strip()
        except OSError:
            return None

    def number(self, name: str) -> float | None:
        """Return the number in a file, None where there is none."""
        try:
            return float(self.read(name) or "")
        except ValueError:
            return None

    def glob(self, pattern: str) -> list[str]:
        """Return the names below the root that match, sorted."""
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.glob(pattern))


Source = Literal["mains", "battery", ""]
"""Where the current comes from; empty: not told."""

LidState = Literal["open", "closed", ""]
"""Empty: there is no lid, or it is not told."""


NEARLY_ALL = 0.95
"""A share of the full clock below it is a bound that somebody or the heat has set."""


@dataclass(frozen=True)
class Power:
    """Where the current comes from, and the lid."""

    source: Source = ""
    percent: float | None = None
    """Charge of the machine's own battery, [0, 100]; None: it has none, or it is not told."""
    lid: LidState = ""
    asked: str = ""
    """Program or files that told."""
    is_inferred: bool = False
    """No source was named; a machine without a battery has mains or nothing."""

    def to_json(self) -> Json:
        """Return the form that start.json and the exit record hold."""
        return {"source": self.source, "battery_percent": self.percent, "lid": self.lid}


@dataclass(frozen=True)
class Sleep:
    """Whether the machine falls asleep by itself, and whether a job can keep it awake."""

    can_sleep: bool = True
    """False: it is not able to, or sleep is switched off."""
    after_min: int | None = None
    """Minutes without input until it sleeps, as set; None: not told."""
    blocker: str = ""
    """Program that keeps it awake while a job runs; empty: none works here."""
    why_not: str = ""
    """What stands against it."""
    closing_sleeps: bool = True
    """Whether closing the lid sends it to sleep, although a job runs."""
    asked: str = ""


@dataclass(frozen=True)
class Heat:
    """Whether the machine is held back by its temperature or by a setting."""

    hottest_c: float | None = None
    """Temperature of the sensor nearest to its limit, degrees Celsius."""
    limit_c: float | None = None
    """Temperature at which that sensor asks for action."""
    speed_share: float | None = None
    """Share of the full clock that is allowed now, [0, 1]; None: not told."""
    pressure: int | None = None
    """What macOS does against heat now: 0 nothing, 1 moderate, 2 heavy, 3 and 4 about to sleep; None: not told."""
    is_saving: bool = False
    """A low-power mode is switched on."""
    asked: str = ""

    @property
    def margin_c(self) -> float | None:
        """Degrees Celsius to the limit of the sensor nearest to it; None: not told."""
        return None if self.hottest_c is None or self.limit_c is None else self.limit_c - self.hottest_c

    @property
    def is_held_back(self) -> bool:
        """Whether the clock is bounded, or the system acts against heat, now."""
        return bool(self.pressure) or (self.speed_share is not None and self.speed_share < NEARLY_ALL)

    @property
    def is_told(self) -> bool:
        """Whether any figure was told."""
        return (self.margin_c, self.speed_share, self.pressure) != (None, None, None)

    def to_json(self) -> Json:
        """Return all figures."""
        return {**asdict(self), "margin_c": self.margin_c}


def power_of(system: System) -> Power:
    """Return the power source, the charge and the lid now."""
    from tools.machine import linux, mac

    ask = {"darwin": mac.power, "linux": linux.power}.get(system.platform)
    return ask(system) if ask else Power()


def sleep_of(system: System) -> Sleep:
    """Return how the machine sleeps; tries for an instant to keep it awake."""
    from tools.machine import linux, mac

    ask = {"darwin": mac.sleep, "linux": linux.sleep}.get(system.platform)
    return ask(system) if ask else Sleep()


def heat_of(system: System) -> Heat:
    """Return temperature and throttling now."""
    from tools.machine import linux, mac

    ask = {"darwin": mac.heat, "linux": linux.heat}.get(system.platform)
    return ask(system) if ask else Heat()


def awake_command(system: System, pid: int) -> list[str] | None:
    """Return the command that keeps the machine awake while a process lives, None where there is none."""
    from tools.machine import linux, mac

    ask = {"darwin": mac.awake_command, "linux": linux.awake_command}.get(system.platform)
    return ask(system, pid) if ask else None
