"""Who a process is (pid, start, boot), and a worker as its supervisor sees it: started, or adopted as an orphan.

On Linux the start is counted in clock ticks since boot and compared exactly: the wall-clock form that psutil gives
moves when the clock is stepped (facts/durability.md section 2.1). Elsewhere the wall-clock form is fixed at the
process's birth and compared with a tolerance.
"""

import functools
import os
import resource
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from state.log import passed_over

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
    known = _read(pid)
    return None if known is None or known[1] else known[0]


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
    current = _read(identity.pid)
    return current is not None and not is_same(identity, current[0])


GB = 1e9


@dataclass(frozen=True)
class Ended:
    """How a worker ended; both None when it could not be seen."""

    code: int | None = None
    signal: int | None = None

    def words(self) -> str:
        """Say it."""
        if self.signal is not None:
            with passed_over("signal.unnamed", ValueError):
                return f"died of signal {self.signal} ({signal.Signals(self.signal).name})"
            return f"died of signal {self.signal}"
        return "ended unseen" if self.code is None else f"ended with status {self.code}"


class Worker(Protocol):
    """What the supervisor needs of a worker. Its process group has its pid for a number."""

    pid: int

    def poll(self) -> Ended | None:
        """Return how it ended, None while it lives. What is left of its group is killed with it."""

    def ask_to_stop(self) -> None:
        """Send TERM, and wake it if it is suspended."""

    def kill(self) -> None:
        """Send KILL to its group."""

    def rss_gb(self) -> float:
        """Return its resident memory now, or its peak once it has ended where that can be known."""


def kill_group(group: int) -> None:
    """Send KILL to a process group; one that is gone, or not ours to kill, is left."""
    with passed_over("group.not_killed", ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _ask(pid: int) -> None:
    with passed_over("worker.gone", ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)


def _rss_gb(pid: int) -> float:
    try:
        return float(psutil.Process(pid).memory_info().rss) / GB
    except psutil.Error:
        return 0.0


class ChildWorker:
    """A worker this supervisor started.

    Args:
        process: The child, in a session and group of its own.
    """

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.pid = process.pid
        self._process = process
        self._peak_gb: float | None = None

    def poll(self) -> Ended | None:
        """Return how it ended, None while it lives."""
        if not self._has_exited():
            return None
        # While the leader is a zombie its number cannot be taken, so this kills its group and no other.
        kill_group(self.pid)
        status = self._process.wait()
        self._peak_gb = _largest_child_gb()
        return Ended(code=status) if status >= 0 else Ended(signal=-status)

    def _has_exited(self) -> bool:
        if sys.platform == "darwin":
            return self._process.poll() is not None
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def ask_to_stop(self) -> None:
        """Send TERM, and wake it if it is suspended."""
        _ask(self.pid)

    def kill(self) -> None:
        """Send KILL to its group."""
        kill_group(self.pid)

    def rss_gb(self) -> float:
        """Return its resident memory now, or the peak once it has ended."""
        return self._peak_gb if self._peak_gb is not None else _rss_gb(self.pid)


def _largest_child_gb() -> float:
    """Return the peak of the largest reaped child; ru_maxrss is in bytes on macOS, in KiB on Linux (getrusage(2))."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak / GB if sys.platform == "darwin" else peak * 1024 / GB


class AdoptedWorker:
    """A worker whose supervisor died. It is not our child: when it is gone, how it ended cannot be seen."""

    def __init__(self, identity: ProcessIdentity) -> None:
        self.pid = identity.pid
        self._identity = identity

    def poll(self) -> Ended | None:
        """Return that it ended, None while it lives."""
        if is_alive(self._identity):
            return None
        clear_group(self._identity)
        return Ended()

    def ask_to_stop(self) -> None:
        """Send TERM, and wake it if it is suspended."""
        if is_alive(self._identity):
            _ask(self.pid)

    def kill(self) -> None:
        """Send KILL to its group."""
        clear_group(self._identity)

    def rss_gb(self) -> float:
        """Return its resident memory now."""
        return _rss_gb(self.pid) if is_alive(self._identity) else 0.0


def clear_group(leader: ProcessIdentity) -> None:
    """Kill what is left of a worker's group, unless its number belongs to another process by now.

    A number is not given to a new process while a group carries it: if another process has it, our group was empty.
    Not covered: another leader that took the number and died too, leaving a group of its own.
    """
    if not is_reused(leader):
        kill_group(leader.pid)


def find_by_command(module: str, folder: Path) -> ProcessIdentity | None:
    """Look for a live worker by its command line: for one that has not written worker.json yet."""
    tail = ["-m", module, str(folder)]
    for process in psutil.process_iter():
        try:
            is_worker = process.cmdline()[-3:] == tail
        except psutil.Error:
            continue
        if is_worker and (worker := identify(process.pid)) is not None:
            return worker
    return None
