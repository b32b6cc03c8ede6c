"""Processes of Vigil that begin where their imports end: forked from one that has imported all of `agent` already.

An agent spends a second and a half of the processor on its imports, a command half of that, and the suite starts
hundreds. Each is still a process in a session of its own, and dies by KILL like any other. The process that forks does
nothing else: it has no threads, and no database was ever open in it. It starts with the first that is asked for, and
leaves with `cool`. Within `cold` agents are started as a person starts them.

`python -m tests.faults.campaign.warm` is that process: a request a line, as JSON, and a line for each start and end.
"""

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from state.errors import VigilError
from tests.faults.campaign import world

_AN_ERROR = 70
_TRACED = "COVERAGE_PROCESS_CONFIG"
"""Variable by which coverage is told to trace a new process."""
_forkers: list["subprocess.Popen[bytes]"] = []
_colds: list[bool] = []
_ends: dict[int, int] = {}
"""Pid -> exit code of what has ended."""
_alive: set[int] = set()


class Forked:
    """A forked process, with what is used of `subprocess.Popen`.

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
                raise subprocess.TimeoutExpired("a forked process", timeout or 0.0)
        return _ends[self.pid]

    def kill(self) -> None:
        """End it by KILL, where it has not ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


Agent = subprocess.Popen[bytes] | Forked


@contextlib.contextmanager
def cold() -> Iterator[None]:
    """Start agents and commands, within, as a person starts them."""
    _colds.append(True)
    try:
        yield
    finally:
        _colds.pop()


def is_hot() -> bool:
    """Say whether agents are forked."""
    return not _colds


def start(
    campaign: Path,
    home: Path,
    *,
    wait: bool = True,
    log: Path | None = None,
    bend: dict[str, Any] | None = None,
    workers: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Agent:
    """Start an agent as `world.start` does, forked where this is hot."""
    if not is_hot():
        return world.start(campaign, home, wait=wait, log=log, bend=bend, workers=workers, environment=environment)
    _, _, module, *arguments = world.command(campaign, home, wait=wait, bend=bend, workers=workers)
    log = log or home.with_suffix(".log")
    return _forked(module, arguments, out=log, errors=log, environment=environment)


def run(
    campaign: Path,
    home: Path,
    *,
    wait: bool = True,
    timeout_s: float = 240,
    bend: dict[str, Any] | None = None,
    workers: Mapping[str, str] | None = None,
) -> int:
    """Run an agent to its end and return its exit code."""
    return start(campaign, home, wait=wait, bend=bend, workers=workers).wait(timeout=timeout_s)


def vigil(*arguments: str, home: Path | None = None, timeout_s: float = 400) -> "subprocess.CompletedProcess[str]":
    """Run a command of the command line in a process of its own; return what it said.

    Args:
        arguments: The command's words.
        home: Its VIGIL_HOME; None: that of this process.
        timeout_s: Seconds after which it is killed.

    Raises:
        subprocess.TimeoutExpired: It took longer.
    """
    environment = {} if home is None else {"VIGIL_HOME": str(home)}
    if not is_hot():
        return subprocess.run(
            [sys.executable, "-m", "agent.cli", *arguments],
            cwd=world.ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    with tempfile.TemporaryDirectory() as folder:
        out, errors = Path(folder, "out"), Path(folder, "errors")
        process = _forked("agent.cli", arguments, out=out, errors=errors, environment=environment)
        try:
            code = process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        return subprocess.CompletedProcess(arguments, code, out.read_text(), errors.read_text())


def _forked(
    module: str, arguments: Sequence[str], *, out: Path, errors: Path, environment: Mapping[str, str] | None = None
) -> Forked:
    """Fork a process that runs a module's `main`; what it says is appended to two files."""
    out.parent.mkdir(parents=True, exist_ok=True)
    request = {
        "module": module,
        "arguments": list(arguments),
        "out": str(out),
        "errors": str(errors),
        "environment": {**os.environ, "PYTHONPATH": str(world.ROOT), **(environment or {})},
    }
    stdin = _forker().stdin
    assert stdin is not None
    stdin.write(json.dumps(request).encode() + b"\n")
    stdin.flush()
    while (pid := _read(60.0)) <= 0:
        pass
    return Forked(pid)


def _forker() -> "subprocess.Popen[bytes]":
    """Return the process that forks, started where there is none."""
    if not _forkers:
        # It is not traced itself: each that it forks begins anew.
        environment = {name: value for name, value in os.environ.items() if name != _TRACED}
        _forkers.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.faults.campaign.warm"],
                cwd=world.ROOT,
                env={**environment, "PYTHONPATH": str(world.ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
    return _forkers[0]


def cool() -> None:
    """End the process that forks, and what is left of what it forked."""
    if _forkers:
        end_all()
        # It leaves at the end of its input.
        _forkers.pop().communicate()


def end_all() -> None:
    """Kill the forked processes that are left."""
    for pid in list(_alive):
        Forked(pid).kill()
        Forked(pid).wait()


def _read(timeout_s: float) -> int:
    """Read one line of the process that forks: return the pid that started, -1 for one that ended, 0 for none in time.

    Raises:
        RuntimeError: That process has died.
    """
    stdout = _forkers[0].stdout
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
    """Fork a process for each request, and tell of each that ends."""
    import coverage  # noqa: F401 - what those inherit that are traced

    import agent
    from tests.faults.campaign import bent, drive  # noqa: F401 - what agents inherit

    for module in pkgutil.walk_packages(agent.__path__, "agent."):
        importlib.import_module(module.name)
    _measure_once()
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


def _measure_once() -> None:
    """Measure here what each agent would measure of this machine at its start: a second of matrix products."""
    from tools.machine.blas import matrix_speed, worker_env
    from tools.probes import machine

    measure, known = matrix_speed, dict[frozenset[tuple[str, str]], Any]()

    def speed(env: Mapping[str, str]) -> Any:
        asked = frozenset(env.items())
        if asked not in known:
            known[asked] = measure(env)
        return known[asked]

    machine.matrix_speed = speed  # type: ignore[attr-defined]  # one name in one module
    preloaded = worker_env()
    # Where it cannot be measured each agent finds that out by itself.
    with contextlib.suppress(VigilError, OSError):
        speed({name: value for name, value in preloaded.items() if name != "LD_PRELOAD"})
        speed(preloaded)


def _tell(row: dict[str, int]) -> None:
    os.write(1, json.dumps(row).encode() + b"\n")


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            _tell({"pid": ended[0], "code": os.waitstatus_to_exitcode(ended[1])})


def _fork(request: dict[str, Any]) -> int:
    """Return the pid of a new process, once it leads its own group."""
    pid = os.fork()
    if pid == 0:
        _become(request)
    with contextlib.suppress(ProcessLookupError):
        while os.getpgid(pid) != pid:
            time.sleep(0.0002)
    return pid


def _become(request: dict[str, Any]) -> NoReturn:
    """Be the process that was asked for, in a session of its own."""
    code: Any = _AN_ERROR
    tracer = None
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.closerange(3, 4096)
        _stand_for(os.open(os.devnull, os.O_RDONLY), 0)
        for name, number in (("out", 1), ("errors", 2)):
            _stand_for(os.open(request[name], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), number)
        module = importlib.import_module(request["module"])
        sys.argv = [str(module.__file__), *request["arguments"]]
        if _TRACED in os.environ:
            from coverage import process_startup

            tracer = process_startup()
            # Its jobs are not: supervisors and workers are traced where they alone are tested.
            del os.environ[_TRACED]
        code = module.main()
    except SystemExit as left:
        code = left.code
    except BaseException:  # noqa: BLE001 - said as the interpreter would, in the log
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if tracer is not None:
            tracer.stop()
            tracer.save()
        os._exit(code if isinstance(code, int) else int(code is not None))


def _stand_for(opened: int, number: int) -> None:
    os.dup2(opened, number)
    os.close(opened)


if __name__ == "__main__":
    main()
