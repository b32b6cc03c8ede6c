"""A worker as its supervisor sees it: a child it started, or an orphan it adopted."""

import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from state.log import passed_over
from tools.jobs.identity import ProcessIdentity, identify, is_alive, is_reused

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
    """A worker whose supervisor died. It is not our child: when it is gone, how it ended cannot be seen.

    Args:
        identity: The process, as worker.json has it.
    """

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
        if is_worker and (found := identify(process.pid)) is not None:
            return found
    return None
