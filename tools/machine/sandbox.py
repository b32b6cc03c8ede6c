"""Limits on what a stranger's files may cost: templates and tokenizers inside a worker, and a worker that is asked.

A chat template is a program, and the model folder it comes from is not ours. `held` bounds what it does with one text:
processor time by a timer, since a template cannot sleep, and address space where the system counts it (Linux). What C
code does in one piece (a filter over an endless loop) no handler interrupts; past `KILLED_AFTER_S` the system ends the
process with SIGXCPU, and its supervisor says `KILLED` where the file of `HELD_VARIABLE` tells that it was held: others
send that signal too. `ask` bounds a whole child: time, resident memory of its group,
and what it prints.

Not covered: the network, which `tools.jobs.privacy.stay_offline` closes to libraries alone.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

import psutil

from state.errors import ConfigError
from state.log import passed_over
from state.records import Json
from tools.machine.blas import worker_env

TEXT_S = 10.0
"""Processor seconds for one text; a conversation of a million tokens takes less than one to render."""

KILLED_AFTER_S = 40
"""Processor seconds for one text after which the system ends the process."""

KILLED = (
    f"The model's chat template or tokenizer took more than {KILLED_AFTER_S} s of processor time for one text, in one "
    "operation; mend `chat_template` in the model folder."
)

HELD_VARIABLE = "VIGIL_HELD"
"""Environment variable with the file in which a process writes its number while it is held."""

TEXT_BYTES = 2 << 30
"""Address space that one text may take beyond what the process has."""

MOST_CHARS = 8 << 20
"""Characters that a text may be rendered to: more tokens than any model reads."""

ASKED_S = 300.0
ASKED_BYTES = 8 << 30
ASKED_OUTPUT_BYTES = 64 << 20
"""Seconds, resident memory and output of a child that is asked."""

_LOOK_S = 0.1
_WEIGHED_EVERY_S = 1.0
"""Memory is looked at this often: finding a process's children reads the table of all processes."""

_FRESH_S = 0.05
"""The size of the address space is looked up this often: it takes longer than rendering a short text. Between two texts
further apart weights may have been loaded, or a GPU's memory mapped."""


class OverLimitError(ConfigError):
    """One text took more time, memory or room than any honest one does."""


@contextmanager
def held(what: str, cpu_s: float = TEXT_S) -> Iterator[None]:
    """Bound what is done with one text.

    Args:
        what: What does it, at the head of the sentence.
        cpu_s: Processor seconds of this process.

    Raises:
        OverLimitError: It takes longer, or needs more than `TEXT_BYTES`.

    Side effects: uses SIGPROF and its timer, and the soft limits of address space and processor time meanwhile. Does
    nothing outside the main thread, which alone takes signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def spent(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise OverLimitError(f"{what} took more than {cpu_s:g} s of processor time for one text.", what="chat_template")

    before = signal.signal(signal.SIGPROF, spent)
    limits = {kind: resource.getrlimit(kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU)}
    try:
        _lower(resource.RLIMIT_CPU, int(time.process_time() + max(cpu_s, KILLED_AFTER_S)) + 1, limits)
        if room := _address_space():
            _lower(resource.RLIMIT_AS, room + TEXT_BYTES, limits)
        # Again each second: a library that swallows the first one is asked again.
        signal.setitimer(signal.ITIMER_PROF, cpu_s, 1.0)
        _say_held(os.getpid())
        yield
    except MemoryError as error:
        raise OverLimitError(
            f"{what} needed more than {TEXT_BYTES >> 30} GB of memory for one text.", what="chat_template"
        ) from error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        _say_held(0)
        for kind, limit in limits.items():
            resource.setrlimit(kind, limit)
        signal.signal(signal.SIGPROF, before)


_held_files: dict[str, int] = {}
"""Path -> its descriptor: a file is opened once, since a short text takes less time than that."""


def _say_held(process: int) -> None:
    if path := os.environ.get(HELD_VARIABLE):
        with passed_over("held.not_written", OSError):
            if path not in _held_files:
                _held_files[path] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.pwrite(_held_files[path], process.to_bytes(8, "little"), 0)


def held_process(path: Path) -> int:
    """Return the number of the process that was held last and has not been let go; 0 where there is none."""
    return int.from_bytes(path.read_bytes()[:8], "little") if path.exists() else 0


def _lower(kind: int, wanted: int, limits: dict[int, tuple[int, int]]) -> None:
    soft, hard = limits[kind]
    bounds = [bound for bound in (wanted, soft, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(kind, (min(bounds), hard))


_known_space = (-_FRESH_S, 0)


def _address_space() -> int:
    """Return the bytes of address space in use as of just now; 0 where the system does not say."""
    global _known_space  # noqa: PLW0603 - a measurement of this process, kept for a moment
    now = time.monotonic()
    if now - _known_space[0] >= _FRESH_S:
        try:
            pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        except (OSError, ValueError):
            pages = 0
        _known_space = now, pages * resource.getpagesize()
    return _known_space[1]


def ask(module: str, request: Json, what: str, *, most_bytes: int | None = ASKED_BYTES) -> Json:
    """Return what a module answers to a request on its standard input; `why` where it does not.

    Args:
        module: What to run as a process of its own; it prints one line of JSON last.
        request: What it is asked.
        what: What it does, for the sentence about a limit.
        most_bytes: Resident memory of its group; None where it loads weights.
    """
    # -P: the folder this runs in may be a user's, with a package called tools.
    command = [sys.executable, "-P", "-m", module]
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as told:
        asked.write(json.dumps(request).encode())
        asked.seek(0)
        try:
            # What loads weights multiplies with them, on Linux CPUs twenty times as fast with OpenBLAS.
            env = {**os.environ, **(worker_env() if most_bytes is None else {})}
            child = subprocess.Popen(command, env=env, stdin=asked, stdout=said, stderr=told, start_new_session=True)
            why = _watched(child, what, (said, told), most_bytes)
            if why or child.returncode:
                return {"why": why or _last_line(told) or f"it ended with status {child.returncode}"}
            return dict(json.loads(_last_line(said, ASKED_OUTPUT_BYTES)))
        except (OSError, ValueError) as error:
            return {"why": f"{type(error).__name__}: {error}"[:200]}


def _watched(
    child: "subprocess.Popen[bytes]", what: str, outputs: tuple[IO[bytes], ...], most_bytes: int | None
) -> str:
    """Wait for a child; return which limit it broke, nothing where it ended by itself.

    Side effects: kills the child's group when it has broken one, and when this is interrupted.
    """
    weighed_at = time.monotonic()
    ends_at = weighed_at + ASKED_S
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                child.wait(_LOOK_S)
                return ""
            now = time.monotonic()
            if now > ends_at:
                return f"{what} took longer than {ASKED_S:g} s"
            if most_bytes is not None and now - weighed_at >= _WEIGHED_EVERY_S:
                weighed_at = now
                if _resident(child.pid) > most_bytes:
                    return f"{what} needed more than {most_bytes >> 30} GB of memory"
            if sum(os.fstat(output.fileno()).st_size for output in outputs) > ASKED_OUTPUT_BYTES:
                return f"{what} printed more than {ASKED_OUTPUT_BYTES >> 20} MB"
    finally:
        if child.poll() is None:
            with passed_over("sandbox.gone", ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _resident(pid: int) -> int:
    """Return the memory that a process and its children hold, bytes."""
    total = 0
    with passed_over("sandbox.process_gone", psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with passed_over("sandbox.process_gone", psutil.Error):
                total += int(one.memory_info().rss)
    return total


def _last_line(stream: IO[bytes], most: int = 4096) -> str:
    stream.seek(max(0, stream.seek(0, os.SEEK_END) - most))
    lines = stream.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines and most > len(lines[-1]) else lines[-1][:200] if lines else ""
