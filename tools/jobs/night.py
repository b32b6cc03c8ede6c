"""Night conditions: keeping the machine awake, and telling sleep and freezes from work."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from shutil import which

FREEZE_S = 10.0
"""A longer gap between two ticks, seconds, is a freeze: ticks come every second, and a busy machine delays by a few."""


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


def awake_command(pid: int) -> list[str] | None:
    """Return the command that keeps this machine awake while a process lives, None where there is none."""
    if sys.platform == "darwin":
        return ["/usr/bin/caffeinate", "-ims", "-w", str(pid)]
    inhibit, tail = which("systemd-inhibit"), which("tail")
    if inhibit is None or tail is None or not Path("/run/systemd/system").is_dir():
        return None
    why = "--why=a fine-tuning job is running"
    return [inhibit, "--what=sleep:idle", "--who=vigil", why, "--mode=block", tail, f"--pid={pid}", "-f", os.devnull]


def keep_awake(pid: int) -> "subprocess.Popen[bytes] | None":
    """Keep the machine awake until the process ends; it ends by itself when the process does."""
    command = awake_command(pid)
    if command is None:
        return None
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        # Sleep is then noticed instead of prevented; a job is worth running without it.
        return None
