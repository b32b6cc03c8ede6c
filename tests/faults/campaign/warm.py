"""Agents that begin where their imports end: forked from a process that has imported an agent already.

An agent spends a second and a half on its imports, and a kill in there tells nothing. Thousands of kills are paid for
this way. Each agent is still a process in a session of its own, and dies by KILL like any other. The process
that forks does nothing else: it has no threads, and no database was ever open in it. Off but within `heated`.

`python -m tests.faults.campaign.warm` is that process: a request a line, as JSON, and a line for each start and end.
"""

import contextlib
import gc
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.faults.campaign import world

_AN_ERROR = 70
_forkers: list["subprocess.Popen[bytes]"] = []
_ends: dict[int, int] = {}
"""Pid -> exit code of what has ended."""
_alive: set[int] = set()


class Forked:
    """A forked agent, with what is used of `subprocess.Popen`.

    Args:
        pid: Its process; its group has the same number.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        """Return its exit code, minus the signal that ended it, or None while it lives."""
        while self.pid not in _ends and _read(0.0):
            pass
        return _ends.get(self.pid)

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code.

        Raises:
            subprocess.TimeoutExpired: It lives after so many seconds.
        """
        end = time.monotonic() + (1e9 if timeout is None else timeout)
        while self.pid not in _ends:
            if not _read(max(0.0, end - time.monotonic())) and time.monotonic() >= end:
                raise subprocess.TimeoutExpired("agent", timeout or 0.0)
        return _ends[self.pid]


Agent = subprocess.Popen[bytes] | Forked


@contextlib.contextmanager
def heated() -> Iterator[None]:
    """Have the process that forks: within, `start` asks it."""
    forker = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.campaign.warm"],
        cwd=world.ROOT,
        env={**os.environ, "PYTHONPATH": str(world.ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    _forkers.append(forker)
    try:
        yield
    finally:
        end_all()
        _forkers.remove(forker)
        # It leaves at the end of its input.
        forker.communicate()


def is_hot() -> bool:
    """Say whether agents are forked."""
    return bool(_forkers)


def start(campaign: Path, home: Path, *, wait: bool = True, bend: dict[str, Any] | None = None) -> Agent:
    """Start an agent as `world.start` does, forked where this is hot."""
    if not is_hot():
        return world.start(campaign, home, wait=wait, bend=bend)
    argv = world.command(campaign, home, wait=wait, bend=bend)[2:]
    home.parent.mkdir(parents=True, exist_ok=True)
    request = {"argv": argv, "log": str(home.with_suffix(".log")), "environment": dict(os.environ)}
    assert _forkers[-1].stdin is not None
    _forkers[-1].stdin.write(json.dumps(request).encode() + b"\n")
    _forkers[-1].stdin.flush()
    while (pid := _read(60.0)) <= 0:
        pass
    return Forked(pid)


def run(
    campaign: Path, home: Path, *, wait: bool = True, timeout_s: float = 240, bend: dict[str, Any] | None = None
) -> int:
    """Run an agent to its end and return its exit code."""
    return start(campaign, home, wait=wait, bend=bend).wait(timeout=timeout_s)


def end_all() -> None:
    """Kill the forked agents that are left."""
    for pid in list(_alive):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        Forked(pid).wait()


def _read(timeout_s: float) -> int:
    """Read one line of the process that forks: return the pid that started, -1 for one that ended, 0 for none in time.

    Raises:
        RuntimeError: That process has died.
    """
    stdout = _forkers[-1].stdout
    assert stdout is not None
    if not select.select([stdout], [], [], timeout_s)[0]:
        return 0
    line = bytearray()
    # By hand: a buffered reader would hide further lines from select.
    while not line.endswith(b"\n"):
        if not (byte := os.read(stdout.fileno(), 1)):
            raise RuntimeError("The process that forks agents has died.")
        line += byte
    row = json.loads(line)
    if "code" in row:
        _ends[row["pid"]] = row["code"]
        _alive.discard(row["pid"])
        return -1
    # The number may have been an earlier agent's.
    _ends.pop(row["pid"], None)
    _alive.add(row["pid"])
    return int(row["pid"])


def main() -> None:
    """Fork an agent for each request, and tell of each that ends."""
    from tests.faults.campaign import bent, drive  # noqa: F401 - what agents inherit

    gc.collect()
    gc.freeze()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _reap()
        if 0 in ready:
            line = bytearray()
            while not line.endswith(b"\n"):
                if not (chunk := os.read(0, 1 << 16)):
                    return
                line += chunk
            _tell({"pid": _fork(json.loads(line))})


def _tell(row: dict[str, int]) -> None:
    os.write(1, json.dumps(row).encode() + b"\n")


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            _tell({"pid": ended[0], "code": os.waitstatus_to_exitcode(ended[1])})


def _fork(request: dict[str, Any]) -> int:
    """Return the pid of a new agent, once it leads its own group."""
    pid = os.fork()
    if pid == 0:
        _become(request)
    with contextlib.suppress(ProcessLookupError):
        while os.getpgid(pid) != pid:
            time.sleep(0.0002)
    return pid


def _become(request: dict[str, Any]) -> None:
    """Be the agent, in a session of its own; never returns."""
    code = _AN_ERROR
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.environ["PYTHONPATH"] = str(world.ROOT)
        os.closerange(3, 4096)
        _stand_for(os.open(os.devnull, os.O_RDONLY), 0)
        _stand_for(os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), 1, 2)
        from tests.faults.campaign import bent, drive

        sys.argv = request["argv"]
        code = (bent if sys.argv[0].endswith("bent") else drive).main()
    except BaseException:  # noqa: BLE001 - said as the interpreter would, in the log
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _stand_for(opened: int, *numbers: int) -> None:
    for number in numbers:
        os.dup2(opened, number)
    os.close(opened)


if __name__ == "__main__":
    main()
