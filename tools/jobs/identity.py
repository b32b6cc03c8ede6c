"""Who a process is: pid, start and boot, so that a reused pid is never taken for the process that had it before.

On Linux the start is counted in clock ticks since boot and compared exactly: the wall-clock form that psutil gives
moves when the clock is stepped (facts/durability.md section 2.1). Elsewhere the wall-clock form is fixed at the
process's birth and compared with a tolerance.
"""

import functools
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

TOLERANCE_S = 0.05
"""Largest difference between two readings of one process's creation time, seconds."""

_DEAD_STATES = frozenset({psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD})


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, on one boot of one machine."""

    pid: int
    create_time: float
    """Unix seconds, as the wall clock stood."""
    boot_id: str
    start_ticks: int | None = None
    """Clock ticks from boot to the process's start; None where the system does not tell."""

    def to_json(self) -> dict[str, Any]:
        """Return the form that start.json and worker.json hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> "ProcessIdentity | None":
        """Return the identity in a start.json or worker.json, or None where there is none in it."""
        if not isinstance(value, dict) or not isinstance(value.get("pid"), int):
            return None
        ticks, born = value.get("start_ticks"), value.get("create_time", 0.0)
        if not isinstance(born, int | float):
            return None
        return cls(
            pid=value["pid"],
            create_time=float(born),
            boot_id=str(value.get("boot_id", "")),
            start_ticks=ticks if isinstance(ticks, int) else None,
        )


@functools.cache
def boot_id() -> str:
    """Return what changes with every boot; an empty string where the system does not tell."""
    if sys.platform == "darwin":
        answer = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=False
        )
        return answer.stdout.strip()
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start_ticks(pid: int) -> int | None:
    """Return field 22 of /proc/PID/stat (proc(5)), None where there is no such file."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may hold spaces and parentheses; what follows the last one is plain.
    return int(text.rpartition(")")[2].split()[19])


def _read(pid: int) -> tuple[ProcessIdentity, bool] | None:
    """Return who has a pid and whether it is dead but not yet reaped; None where nobody has it."""
    try:
        process = psutil.Process(pid)
        is_dead = process.status() in _DEAD_STATES
        created = process.create_time()
    except psutil.Error:
        return None
    return ProcessIdentity(pid, created, boot_id(), _start_ticks(pid)), is_dead


def identify(pid: int) -> ProcessIdentity | None:
    """Return the identity of a live process, or None for one that is gone or a zombie."""
    found = _read(pid)
    return None if found is None or found[1] else found[0]


def is_same(one: ProcessIdentity, other: ProcessIdentity) -> bool:
    """Tell whether two identities name one process."""
    if one.pid != other.pid or one.boot_id != other.boot_id:
        return False
    if one.start_ticks is not None and other.start_ticks is not None:
        return one.start_ticks == other.start_ticks
    return abs(one.create_time - other.create_time) <= TOLERANCE_S


def is_alive(identity: ProcessIdentity | None) -> bool:
    """Tell whether this very process runs now; zombies and other processes under its pid do not count."""
    current = None if identity is None else identify(identity.pid)
    return identity is not None and current is not None and is_same(identity, current)


def is_reused(identity: ProcessIdentity) -> bool:
    """Tell whether its pid may belong to another process: another one has it, or the machine was booted since."""
    if identity.boot_id != boot_id():
        return True
    found = _read(identity.pid)
    return found is not None and not is_same(identity, found[0])
