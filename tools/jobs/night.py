"""Night conditions: keeping the machine awake, telling sleep and freezes from work, and seeing power and heat."""

import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from state.log import passed_over
from tools.machine.facts import Heat, Power, awake_command, heat_of, power_of
from tools.machine.system import System

FREEZE_S = 10.0
"""A longer gap between two ticks, seconds, is a freeze: ticks come every second, and a busy machine delays by a few."""

LOOK_S = 60.0
"""Seconds between two looks at power and heat: on macOS each look starts five short programs."""

ASK_S = 1.5
"""Longest answer of one of them, seconds; all together stay below a freeze."""

MOST_STARTS = 3
"""Times the program that keeps the machine awake is started."""


def suspended_s() -> float:
    """Return seconds this machine has slept since boot: the difference of a clock that counts sleep and one that stops.

    Unlike wall minus monotonic time it is blind to steps of the wall clock. 0.0 where the system does not tell.
    """
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC) - time.clock_gettime(time.CLOCK_UPTIME_RAW)
    return 0.0


@dataclass
class Pulse:
    """Adds up what the time between ticks was: work, sleep of the machine, or a freeze of this process.

    Only work counts toward guards: a job is not stalled because nobody could look.
    """

    worked_s: float = 0.0
    slept_s: float = 0.0
    frozen_s: float = 0.0
    _monotonic: float | None = None
    _suspended: float = 0.0

    def tick(self, monotonic: float, suspended: float) -> None:
        """Take the time since the last tick into account.

        Args:
            monotonic: Seconds of a clock that stops while the machine sleeps.
            suspended: Seconds slept since boot.
        """
        if self._monotonic is not None:
            gap = monotonic - self._monotonic
            if gap > FREEZE_S:
                self.frozen_s += gap
            else:
                self.worked_s += gap
            # The two clocks are read one after the other: their difference jitters by far less than this.
            if suspended - self._suspended > 1.0:
                self.slept_s += suspended - self._suspended
        self._monotonic = monotonic
        self._suspended = suspended


class Awake:
    """What keeps the machine awake while a process lives; it ends by itself when the process does.

    Sleep that comes all the same (a closed lid, another's command) is noticed by `Pulse`, not prevented.

    Args:
        pid: The process.
        system: The machine.
    """

    def __init__(self, pid: int, system: System) -> None:
        self.lapses = 0
        """Times it was ended by others, or could not hold."""
        self._pid = pid
        self._system = system
        self._program = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def by(self) -> str:
        """Name of the program that keeps the machine awake now; empty: none does."""
        return "" if self._process is None else self._program

    def begin(self) -> None:
        """Keep the machine awake from now on, where there is a way to; begun twice, it is one."""
        command = awake_command(self._system, self._pid)
        if command is None or self._process is not None or self.lapses >= MOST_STARTS:
            return
        self._program, quiet = Path(command[0]).name, subprocess.DEVNULL
        # A machine that cannot start it still runs the job.
        with passed_over("awake.not_started", OSError):
            self._process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)

    def look(self) -> None:
        """Start it again if it has ended, a few times: where it is not allowed it ends at once."""
        if self._process is None or self._process.poll() is None:
            return
        self._process = None
        self.lapses += 1
        if self.lapses < MOST_STARTS:
            self.begin()

    def end(self) -> None:
        """Let the machine sleep again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Conditions:
    """Adds up under which conditions a job worked: battery, lid, heat.

    Args:
        system: The machine; its programs are given up after a short while, so that ticks go on.
    """

    def __init__(self, system: System) -> None:
        self.power = Power()
        self.on_battery_s = 0.0
        self.lid_closed_s = 0.0
        self.held_back_s = 0.0
        self.hottest_c = 0.0
        self._heat = Heat()
        self._worked_s = 0.0
        self._system = replace(system, timeout_s=ASK_S)

    def look(self, worked_s: float) -> dict[str, float]:
        """Look at power and heat.

        Args:
            worked_s: Seconds of work so far; those since the last look count for what that look saw.

        Returns:
            Signals for guards; what is not told is no signal, and the charge is one only while it falls.
        """
        self.credit(worked_s)
        self.power, self._heat = power_of(self._system), heat_of(self._system)
        self.hottest_c = max(self.hottest_c, self._heat.hottest_c or 0.0)
        signals = {
            "battery_percent": self.power.percent if self.power.source == "battery" else None,
            "heat_margin_c": self._heat.margin_c,
            "clock_share": self._heat.speed_share,
            "thermal_pressure": self._heat.pressure,
        }
        return {name: float(value) for name, value in signals.items() if value is not None}

    def credit(self, worked_s: float) -> None:
        """Count the work since the last look or credit for what the last look saw."""
        gap, self._worked_s = worked_s - self._worked_s, worked_s
        self.on_battery_s += gap * (self.power.source == "battery")
        self.lid_closed_s += gap * (self.power.lid == "closed")
        self.held_back_s += gap * self._heat.is_held_back
