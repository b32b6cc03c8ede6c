"""Limits on what a stranger's files may cost: templates and tokenizers inside a worker, and a worker that is asked.

A chat template is a program, and the model folder it comes from is not ours. `held` bounds what it does with one text:
processor time by a timer, since a template cannot sleep, and address space where the system counts it (Linux). What C
code does in one piece (a filter over an endless loop) no handler interrupts; past `KILLED_AFTER_S` the system ends the
process with SIGXCPU, and its supervisor says `KILLED` where the file of `HELD_VARIABLE` tells that it was held: others
send that signal too.

`start` bounds a whole program, the user's grader or one of ours that reads a stranger's files: memory and number of all
processes that it starts, its prints, its environment, and its network; all of it ends with it (sandbox_child.py).
`ask` is one question to such a program, with a limit on time.

Not covered: a program's own user may read what the user may, other processes' environments included; the network is
closed on Linux (seccomp), on macOS by `sandbox-exec` (never tried there), elsewhere not.
"""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

from state.errors import ConfigError
from state.log import passed_over
from state.records import Json
from tools.machine.blas import worker_env
from tools.machine.sandbox_child import can_filter

TEXT_S = 10.0
"""Processor seconds for one text; a conversation of a million tokens takes less than one to render."""

KILLED_AFTER_S = 40
"""Processor seconds for one text after which the system ends the process."""

KILLED = (
    f"The model's chat template or tokenizer took more than {KILLED_AFTER_S} s of processor time for one text, in one "
    "operation; mend `chat_template` in the model folder."
)

BROKE = (
    "The model's chat template or tokenizer broke down on one text, or needed more than 2 GB of memory for it; mend "
    "`tokenizer.json` or `chat_template` in the model folder."
)

HELD_ENDS: dict[int, str] = {
    signal.SIGXCPU: KILLED,
    signal.SIGABRT: BROKE,
    signal.SIGSEGV: BROKE,
    signal.SIGBUS: BROKE,
}
"""What is said of a process that a signal ended while it was held: a tokenizer that lacks memory aborts."""

HELD_VARIABLE = "VIGIL_HELD"
"""Environment variable with the file in which a process writes its number while it is held."""

TEXT_BYTES = 2 << 30
"""Address space that one text may take beyond what the process has."""

MOST_CHARS = 8 << 20
"""Characters that a text may be rendered to: more tokens than any model reads."""

ASKED_S = 300.0
ASKED_BYTES = 4 << 30
ASKED_OUTPUT_BYTES = 64 << 20
"""Seconds, resident memory and output of a child that is asked."""

_LOOK_S = 0.1
_ENDED_S = 70.0
"""How long ending a program and all that it started may take."""

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
    global _is_held  # noqa: PLW0603 - the limits are this process's
    if _is_held or threading.current_thread() is not threading.main_thread():
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
        _is_held = True
        yield
    except MemoryError as error:
        raise OverLimitError(
            f"{what} needed more than {TEXT_BYTES >> 30} GB of memory for one text.", what="chat_template"
        ) from error
    except BaseException as error:
        # What a tokenizer in Rust raises where it breaks down is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise OverLimitError(f"{what} broke down on one text: {str(error)[:100]}.", what="chat_template") from error
    finally:
        _is_held = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        _say_held(0)
        for kind, limit in limits.items():
            resource.setrlimit(kind, limit)
        signal.signal(signal.SIGPROF, before)


_is_held = False

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


_CHILD = Path(__file__).with_name("sandbox_child.py")
_SANDBOX_EXEC = Path("/usr/bin/sandbox-exec")
_PROFILE = "(version 1)(allow default)(deny network*)"

GRADER_GB = 4.0
"""Resident memory of a grader or a probe with all that it starts, unless the campaign file says otherwise."""


@dataclass(frozen=True)
class Limits:
    """What a program may take, with all that it starts.

    Args:
        memory_bytes: Resident; None: as much as there is.
        processes: At most so many.
        network: Whether it may open connections.
        local: Whether it may open sockets of this machine, as multiprocessing does.
    """

    memory_bytes: int | None = int(GRADER_GB * 1e9)
    processes: int = max(64, 4 * (os.cpu_count() or 1))
    network: bool = False
    local: bool = True


def network_closed_by() -> str:
    """Return what closes a program's network here; empty where nothing does."""
    if sys.platform == "darwin":
        return _SANDBOX_EXEC.name if _SANDBOX_EXEC.exists() else ""
    return "seccomp" if can_filter() else ""


def limits_said(limits: Limits) -> str:
    """Return a sentence's end that says what a program may take."""
    by = network_closed_by()
    closed = f"without network ({by})" if by else "with the network open, which this system cannot close,"
    network = "with network" if limits.network else closed
    memory = f"{limits.memory_bytes / 1e9:g} GB of memory" if limits.memory_bytes else "any memory"
    return f"{network}, at most {memory} and {limits.processes} processes"


_PASSED = re.compile(
    r"PATH|HOME|LANG(UAGE)?|LC_\w+|TMP|TEMP|TMPDIR|TZ|USER|LOGNAME|SHELL|TERM|COLUMNS|PWD|VIRTUAL_ENV|CONDA_\w+"
    r"|PYTHON\w*|(LD|DYLD)_\w+|(CUDA|NVIDIA|OMP|OPENBLAS|MKL|VECLIB|NUMEXPR|MLX|JAVA|NODE|XDG|VIGIL)_\w+"
    r"|(HF|HUGGINGFACE|TRANSFORMERS|TOKENIZERS|DISABLE_TELEMETRY|DO_NOT_TRACK)\w*|MALLOC_\w+|COV\w+"
)
_PASSED_ON = re.compile(r"(?i:\w+_proxy)|SSL_CERT_\w+|\w+_CA_BUNDLE|DISPLAY|WAYLAND_DISPLAY|DBUS_SESSION_BUS_ADDRESS")
"""What a program that uses the network is given beside."""
_SECRET = re.compile(r"(?i)TOKEN(?!IZERS)|SECRET|PASS|PWD.|CREDENTIAL|AUTH|(^|_)(API_?)?KEYS?($|_)")


def clean_env(
    named: Iterable[str] = (), *, network: bool = False, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the environment that a program of somebody else's is given: what it needs to run, and nothing secret.

    Args:
        named: What else it is given by name, as the campaign file says.
        network: Whether it uses the network.
        environ: Of this process.
    """

    def is_passed(name: str) -> bool:
        known = _PASSED.fullmatch(name) or (network and _PASSED_ON.fullmatch(name))
        return name in wanted or (known is not None and known is not False and not _SECRET.search(name))

    wanted = frozenset(named)
    return {name: value for name, value in environ.items() if is_passed(name)}


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Args:
        code: Its exit code; negative: of the signal that ended it; None where it was ended before.
        why: The limit that it broke; empty where it broke none.
        said: The end of what it wrote to stderr.
    """

    code: int | None
    why: str = ""
    said: str = ""

    @property
    def words(self) -> str:
        """How it ended, in words of ours."""
        if self.why:
            return f"was ended: it {self.why}"
        if self.code is None:
            return "was ended"
        return f"was killed by signal {-self.code}" if self.code < 0 else f"ended with exit code {self.code}"


def start(
    command: Sequence[str], limits: Limits, told: IO[bytes], *, env: Mapping[str, str], **given: Any
) -> "subprocess.Popen[bytes]":
    """Start a program under limits, in a session of its own.

    Args:
        command: It is looked up as the system does, from the folder `cwd` where a path is given.
        limits: What it may take.
        told: A file of its own, which says how it ended (`ending_of`).
        env: Its whole environment.
        given: More for `subprocess.Popen`: `cwd`, `stdin`, `stdout`.

    Raises:
        OSError: There is no such program, or it cannot be run.
    """
    program, folder = command[0], Path(given.get("cwd") or ".")
    if shutil.which(str(folder / program) if "/" in program else program, path=env.get("PATH")) is None:
        is_there = "/" in program and (folder / program).exists()
        raise (
            PermissionError(13, "Permission denied") if is_there else FileNotFoundError(2, "No such file or directory")
        )
    if not limits.network and network_closed_by() == _SANDBOX_EXEC.name:
        command = [str(_SANDBOX_EXEC), "-p", _PROFILE, *command]
    alone = ["-I", "-S"] if sys.platform == "linux" else ["-I"]
    return subprocess.Popen(
        [sys.executable, *alone, str(_CHILD), json.dumps(asdict(limits)), *command],
        env=dict(env),
        stderr=told,
        start_new_session=True,
        **given,
    )


def ending_of(process: "subprocess.Popen[bytes]", told: IO[bytes]) -> Ended:
    """Return how a program that is over ended; what stood over it may itself have been killed."""
    told.seek(0)
    with passed_over("sandbox.no_ending", ValueError, TypeError, IndexError):
        return Ended(**json.loads(told.read().splitlines()[-1]))
    return Ended(process.returncode)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a program and all that it started."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_ENDED_S)
        # Only a child not yet waited for still owns its group's number.
        if process.poll() is None:
            with passed_over("sandbox.gone", ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()


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
    limits = Limits(memory_bytes=most_bytes, local=False)
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as told:
        asked.write(json.dumps(request).encode())
        asked.seek(0)
        try:
            # What loads weights multiplies with them, on Linux CPUs twenty times as fast with OpenBLAS.
            env = {**clean_env(), **(worker_env() if most_bytes is None else {})}
            child = start(command, limits, told, env=env, stdin=asked, stdout=said)
            why = _watched(child, what, said)
            ended = ending_of(child, told)
            if why or ended.why or ended.code:
                last = ended.said.strip().splitlines()
                broken = f"{what} {ended.why}" if ended.why else HELD_ENDS.get(-(ended.code or 0), "")
                return {"why": why or broken or (last or [f"it ended with status {ended.code}"])[-1][:200]}
            return dict(json.loads(_last_line(said)))
        except (OSError, ValueError) as error:
            return {"why": f"{type(error).__name__}: {error}"[:200]}


def _watched(child: "subprocess.Popen[bytes]", what: str, said: IO[bytes]) -> str:
    """Wait for a child; return which limit it broke, nothing where it ended by itself or broke one of `Limits`.

    Side effects: ends the child with all that it started when it has broken one, and when this is interrupted.
    """
    ends_at = time.monotonic() + ASKED_S
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                child.wait(_LOOK_S)
                return ""
            if time.monotonic() > ends_at:
                return f"{what} took longer than {ASKED_S:g} s"
            if os.fstat(said.fileno()).st_size > ASKED_OUTPUT_BYTES:
                return f"{what} printed more than {ASKED_OUTPUT_BYTES >> 20} MB"
    finally:
        end(child)


def _last_line(stream: IO[bytes]) -> bytes:
    stream.seek(max(0, stream.seek(0, os.SEEK_END) - ASKED_OUTPUT_BYTES))
    return (stream.read().strip().splitlines() or [b""])[-1]
