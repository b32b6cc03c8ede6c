"""The process between Vigil and a program of somebody else's: `python -I sandbox_child.py LIMITS PROGRAM ARGUMENT…`.

It closes the network, starts the program in a session of its own, weighs it together with all that it starts, and ends
all of it: at a broken limit, when the program ends, when it is told to (TERM), when its own parent is gone. The
program's stderr passes through here and only its end is kept, so prints take no room. At its own end one line of JSON
on stderr says how the program ended: `code` (negative: of a signal), `why` (the limit that was broken) and `said`.

LIMITS is `Limits` of sandbox.py as JSON. Run by path, and of the standard library alone (on Linux with -S too): it is
started once for each grader. Not covered: memory between two looks, where only `RLIMIT_DATA` bounds each process
(Linux), and a program that kills this very process.
"""

import contextlib
import ctypes
import errno
import json
import os
import resource
import select
import signal
import struct
import sys
import time
from typing import Any

_TAIL_BYTES = 4096
_LOOK_S = 0.1
_SHARE = 20
"""A look at all processes is followed by so many times its own length without one."""
_OTHER_TASKS = 512
"""Tasks that other programs of the user may start meanwhile."""
_READ_BYTES, _PAUSE_S = 1 << 16, 0.01
_MAPPED = 4
"""Times the limit that may be mapped and never touched; what is resident is looked at."""
_END_S = 60.0
"""Longest that ending everything may take: what forks on and on is killed faster than it grows."""

NOT_STARTED = 126
"""Exit code where the program could not be started."""

_PR_SET_PDEATHSIG, _PR_SET_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 1, 36, 38, 22, 2
_CALLS = {
    "x86_64": (0xC000003E, 41, (101, 310, 311, 425, 438)),
    "aarch64": (0xC00000B7, 198, (117, 270, 271, 425, 438)),
}
"""Machine -> AUDIT_ARCH, the number of socket(2), and those of ptrace, process_vm_readv, process_vm_writev,
io_uring_setup and pidfd_getfd, by which a socket is had without it (the kernel's syscall tables)."""
_AF_UNIX = 1
_OTHER_CALLS = 0x40000000
"""Numbers from here on are of x32, which has a socket(2) of its own."""


def can_filter() -> bool:
    """Say whether this system lets a process give up its network (seccomp(2))."""
    if sys.platform != "linux" or os.uname().machine not in _CALLS:
        return False
    # Without a filter the call cannot succeed: it says EFAULT where filters are known, EINVAL where they are not.
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, None, 0, 0) != 0 and ctypes.get_errno() == errno.EFAULT


def close_network(*, has_local: bool) -> None:
    """Let this process and all that it starts open no socket any more, for good.

    Args:
        has_local: Whether sockets of this machine (AF_UNIX) stay; multiprocessing uses them.

    Raises:
        OSError: The system refuses.
    """
    arch, socket_call, others = _CALLS[os.uname().machine]
    unreachable, allowed, denied = 0x00050000 | errno.ENETUNREACH, 0x7FFF0000, 0x00050000 | errno.EPERM
    load, equal, above, end = 0x20, 0x15, 0x35, 0x06
    tests = [(equal, n) for n in others]
    tail = [(equal, 0, 3 if has_local else 2, socket_call), (load, 0, 0, 16)]
    tail += [(equal, 1, 0, _AF_UNIX)] if has_local else []
    tail += [(end, 0, 0, unreachable), (end, 0, 0, allowed), (end, 0, 0, denied)]
    head = [(load, 0, 0, 4), (equal, 0, len(tests) + len(tail) + 1, arch), (load, 0, 0, 0)]
    head += [(above, len(tests) + len(tail) - 1, 0, _OTHER_CALLS)]
    middle = [(op, len(tests) - place + len(tail) - 2, 0, n) for place, (op, n) in enumerate(tests)]
    program = b"".join(struct.pack("HBBI", *row) for row in [*head, *middle, *tail])
    held = ctypes.create_string_buffer(program, len(program))
    given = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, given, 0, 0):
        raise OSError(ctypes.get_errno(), "the network could not be closed")


def _bound(kind: int, wanted: int) -> None:
    """Lower a limit of this process for good; one that is lower already stays."""
    _, most = resource.getrlimit(kind)
    wanted = wanted if most == resource.RLIM_INFINITY else min(most, wanted)
    resource.setrlimit(kind, (wanted, wanted))


def _tasks() -> int:
    """Return how many tasks this user has now: Linux counts them all against `RLIMIT_NPROC`, but for root's."""
    total = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            total += len(os.listdir(f"/proc/{name}/task")) if os.stat(f"/proc/{name}").st_uid == os.getuid() else 0
    return total


def _seen() -> list[int]:
    """Return the family as the kernel lists it from here down, which costs nothing and may lack what just forked."""
    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        return _family()
    found: list[int] = []
    left = [os.getpid()]
    for pid in left:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                found += map(int, _read(f"/proc/{pid}/task/{task}/children").split())
                left += found[len(left) - 1 :]
    return found


def _family() -> list[int]:
    """Return the numbers of all processes below this one; zombies too, on Linux."""
    if sys.platform != "linux":
        import psutil

        return [one.pid for one in psutil.Process().children(recursive=True)]
    below: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:
            # The name in parentheses may hold spaces and parentheses; what follows the last one is plain.
            below.setdefault(int(stat.read().rpartition(b")")[2].split()[1]), []).append(int(name))
    found = list(below.get(os.getpid(), ()))
    for pid in found:
        found += below.get(pid, ())
    return found


def _memory(pids: list[int], most: int) -> int:
    """Return the resident bytes of some processes, pages that they share counted once where it is that they exceed."""
    if sys.platform != "linux":
        import psutil

        total = 0
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                total += int(psutil.Process(pid).memory_info().rss)
        return total
    pages = sum(int((_read(f"/proc/{pid}/statm").split() or [b"0", b"0"])[1]) for pid in pids)
    if (total := pages * os.sysconf("SC_PAGE_SIZE")) <= most:
        return total
    lines = [line.split() for pid in pids for line in _read(f"/proc/{pid}/smaps_rollup").splitlines()]
    return sum(int(line[1]) << 10 for line in lines if line[0] == b"Pss:") or total


def _read(path: str) -> bytes:
    with contextlib.suppress(OSError), open(path, "rb") as stream:
        return stream.read()
    return b""


def _become(limits: dict[str, Any], said: int, command: list[str]) -> None:
    """Turn this process, just forked, into the program."""
    try:
        os.setsid()
        os.dup2(said, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, 0, limits["nice"])
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            # Should memory run out, the system ends this first.
            with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
                score.write("1000")
            if os.getuid():
                _bound(resource.RLIMIT_NPROC, _tasks() + limits["processes"] + _OTHER_TASKS)
            if limits["memory_bytes"]:
                _bound(resource.RLIMIT_DATA, _MAPPED * limits["memory_bytes"])
            if not limits["network"] and can_filter():
                close_network(has_local=bool(limits["local"]))
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execvp(command[0], command)  # noqa: S606 - the user's own command, no shell
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode("utf-8", "replace"))
    finally:
        os._exit(NOT_STARTED)


class _Watch:
    """The program at work.

    Args:
        limits: As given.
        child: Its process, the head of its group.
        said: Where its stderr is read.
        woken: Where the numbers of signals are read.
    """

    def __init__(self, limits: dict[str, Any], child: int, said: int, woken: int) -> None:
        self._limits, self._child, self._said, self._woken = limits, child, said, woken
        self._parent = os.getppid()
        self._open = [said, woken]
        self._tail = b""
        self._code: int | None = None
        self._why = ""

    def run(self) -> dict[str, Any]:
        """Look on until it is over; end all that is left and return how it went."""
        next_at = 0.0
        while self._code is None and not self._why:
            is_told = self._listen(_LOOK_S)
            self._reap()
            if is_told or os.getppid() != self._parent:
                break
            if (now := time.monotonic()) >= next_at:
                self._why = self._broken()
                next_at = now + max(_LOOK_S, _SHARE * (time.monotonic() - now))
        self._end_all()
        while self._said in self._open and select.select([self._said], [], [], 0)[0]:
            self._listen(0)
        return {"code": self._code, "why": self._why, "said": self._tail.decode("utf-8", "replace")}

    def _listen(self, wait_s: float) -> bool:
        """Take what was written, or wait for it; return whether the end was asked for."""
        ready = select.select(self._open, [], [], wait_s)[0]
        if self._said in ready:
            data = os.read(self._said, _READ_BYTES)
            self._tail = (self._tail + data)[-_TAIL_BYTES:]
            if not data:
                self._open.remove(self._said)
            elif len(data) == _READ_BYTES:
                # It goes before other programs: one that writes without end is held back by its full pipe.
                time.sleep(_PAUSE_S)
        return self._woken in ready and signal.SIGTERM in os.read(self._woken, 512)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == self._child:
                    self._code = os.waitstatus_to_exitcode(found[1])

    def _broken(self) -> str:
        """Return which limit is broken, nothing where none is."""
        found = _seen()
        if len(found) > self._limits["processes"]:
            return f"ran more than {self._limits['processes']} processes"
        most = self._limits["memory_bytes"]
        return f"needed more than {most / 1e9:.3g} GB of memory" if most and _memory(found, most) > most else ""

    def _end_all(self) -> None:
        ends_at = time.monotonic() + _END_S
        while time.monotonic() < ends_at:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child, signal.SIGKILL)
            for one in _family():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(one, signal.SIGKILL)
            self._reap()
            if not _family():
                return
            time.sleep(0.01)


def main() -> int:
    """Run the program under its limits; return its exit code, 128 and more where a signal ended it."""
    limits, command = json.loads(sys.argv[1]), sys.argv[2:]
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    if sys.platform == "linux":
        limits["nice"] = os.getpriority(os.PRIO_PROCESS, 0)
        # Whatever the program starts, this looks on in time; where it may not go first it goes with the others.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        # What the program leaves behind becomes ours, however it tries to get away.
        ctypes.CDLL(None).prctl(_PR_SET_SUBREAPER, 1, 0, 0, 0)
    said, speaks = os.pipe()
    child = os.fork()
    if child == 0:
        _become(limits, speaks, command)
    os.close(speaks)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nothing, stream)
    ended = _Watch(limits, child, said, woken).run()
    os.write(2, (json.dumps(ended) + "\n").encode())
    code = ended["code"]
    return NOT_STARTED if code is None else code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
