"""What a worker process does first and last: identity, input, rows, result.

A worker's main is `context = begin(sys.argv[1])`, its work, then `context.finish(result)` and exit 0 (or `BAD_OUTCOME`
with a result that is usable but bad). While `context.should_stop` is false it works; when it turns true it saves what
it can and leaves by `context.leave_stopped()`. A mistake of the user ends by `context.fail(sentence)`: no restart.

Imports the standard library, psutil and `state` only: it must be cheap and safe in every worker.
"""

import errno
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

import psutil

from state.errors import VigilError
from state.files import read_json, write_json
from state.log import log_error, log_info, log_warning, passed_over, start_log
from state.paths import JobPaths
from tools.jobs.locks import try_lock
from tools.jobs.privacy import keep_words_out, stay_offline
from tools.jobs.processes import identify
from tools.machine.sandbox_child import can_filter, close_network

LOCK_VARIABLE = "VIGIL_LOCK_FD"
"""Environment variable with the number of the inherited lock descriptor."""

TURN_VARIABLE = "VIGIL_TURN_FD"
"""Environment variable with the number of the inherited descriptor of the job's turn at the accelerator."""

NETWORK_VARIABLE = "VIGIL_NETWORK"
"""Environment variable that says `closed` where the worker, which opens a stranger's tokenizer, needs no network."""

USER_ERROR = 2
"""Exit status of `fail`: the same input would fail again."""

BAD_OUTCOME = 3
"""Exit status of a worker whose result is written and usable, but bad (diverged)."""

STOPPED = 75
"""Exit status of a worker that was asked to stop and can be resumed."""


NOTE_EVERY_S = 10.0
"""Seconds between two notes that work goes on."""

NO_DISK = 74
"""Exit status of a worker whose disk was full; it goes on from its newest save once there is room."""

_LITTLE_BYTES = 131_072
"""Free space below which an error of a library that names no cause is the disk's."""


class WorkerContext:
    """A worker's side of its job folder.

    Args:
        folder: The job folder.
        spec: The content of job.json.
        lock: Descriptor of the job's lock, kept open until the process ends.
    """

    def __init__(self, folder: Path, spec: dict[str, Any], lock: int) -> None:
        self.folder = JobPaths(folder)
        self.key = str(spec["key"])
        self.input: dict[str, Any] = spec["input"]
        self._lock = lock
        self._should_stop = False
        self._step = self._prepared = 0
        self._noted_at = time.monotonic()
        _cut_partial_line(self.folder.metrics)
        self._metrics = os.open(self.folder.metrics, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @property
    def should_stop(self) -> bool:
        """Whether a stop was asked for; ask it between two steps."""
        self.note_work(0)
        return self._should_stop

    def note_work(self, count: int) -> None:
        """Tell now and then that work goes on between two steps, and how many things were prepared so far."""
        self._prepared += count
        if (now := time.monotonic()) - self._noted_at >= NOTE_EVERY_S:
            self._noted_at = now
            self.emit({"step": self._step, "prepared": self._prepared})

    @property
    def is_private(self) -> bool:
        """Whether case text must not be written: only scores, lengths and case ids are."""
        return self.input.get("privacy") == "redact"

    @property
    def age_s(self) -> float:
        """Seconds since this process was started: interpreter, imports and loading so far."""
        return time.time() - psutil.Process().create_time()

    def request_stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """Note that a stop was asked for; the handler of SIGTERM."""
        self._should_stop = True

    def emit(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl with its wall time `t`.

        A row with a higher `step` than all before counts as progress. NaN and infinities are kept: guards see them.
        """
        self._step = row["step"] if isinstance(row.get("step"), int) else self._step
        line = json.dumps({**row, "t": time.time()}, ensure_ascii=False) + "\n"
        # One write of the whole line: a kill leaves it out or in, never half.
        data = line.encode()
        if os.write(self._metrics, data) < len(data):
            # The rest of the disk took a part: the next row would be swallowed by it.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder.metrics))

    def finish(self, result: dict[str, Any]) -> None:
        """Write result.json, the worker's last file: from here on the job is done, whatever happens to the process."""
        write_json(self.folder.result, result)
        verdict = str(result.get("verdict") or "")
        (log_warning if verdict else log_info)("worker.end", step=self._step, verdict=verdict)

    def fail(self, sentence: str, **fields: Any) -> NoReturn:
        """End with a sentence that a person can act on; the supervisor does not try again.

        Args:
            sentence: What is wrong and how to mend it.
            fields: More of the error (what, value, limit, where), as JSON values.
        """
        write_json(self.folder.error, {"sentence": sentence, **fields})
        log_error("worker.refused", what=fields.get("what", ""), step=self._step)
        raise SystemExit(USER_ERROR)

    def refuse(self, error: VigilError) -> NoReturn:
        """End with an error's sentence, and with the exit code that says whether a person can mend it."""
        self.fail(error.sentence, what=error.what, where=error.where, exit_code=error.exit_code)

    def leave_stopped(self) -> NoReturn:
        """End as stopped and resumable, after saving."""
        log_info("worker.stopped", step=self._step)
        raise SystemExit(STOPPED)


_at_work: list[WorkerContext] = []
"""The context of this process; empty where it is no worker's."""


def tick(count: int = 1) -> None:
    """Note that a row was read, rendered or graded, a file hashed, or a batch measured; elsewhere it does nothing.

    What takes long between two steps calls it for each of its many parts, so that 200,000 rows are not taken for a
    stall, and one endless template is.
    """
    for context in _at_work:
        context.note_work(count)


def tell_phase(words: str) -> None:
    """Say what is done before the first step, and until the first report; a job that only loads is told as loading.

    No step stands in the row: it is no progress, and its time is none of a step.
    """
    for context in _at_work:
        context.emit({"phase": words})


def begin(folder: Path | str) -> WorkerContext:
    """Take up a job: keep its lock, write worker.json, listen for SIGTERM; call it before the hub's client is imported.

    Side effects: changes the environment so that nothing asks the network, and closes it for good where the supervisor
    says so; replaces the SIGTERM handler, and the hooks
    of uncaught exceptions where case text is private; cuts a torn last line of metrics.jsonl.

    Raises:
        SystemExit: Another process works in this folder (status `STOPPED`), or there is no job.json.
    """
    stay_offline()
    if os.environ.get(NETWORK_VARIABLE) == "closed" and can_filter():
        close_network(has_local=True)
    paths = JobPaths(Path(folder).resolve())
    spec = read_json(paths.spec)
    if spec is None:
        raise SystemExit(f"{paths.spec} does not exist; a worker is started by its supervisor.")
    lock = _inherited_lock(paths)
    if lock is None:
        lock = try_lock(paths.lock)
    if lock is None:
        raise SystemExit(STOPPED)
    _keep_turn()
    _write_identity(paths)
    context = WorkerContext(paths.folder, spec, lock)
    signal.signal(signal.SIGTERM, context.request_stop)
    if context.is_private:
        keep_words_out()
    start_log(paths.worker_log, is_private=context.is_private, campaign=paths.campaign, job=context.key)
    log_info("worker.start", kind=str(spec.get("kind", "")), module=str(spec.get("module", "")))
    _tell_full_disk(context)
    _at_work[:] = [context]
    return context


def run_job(work: Callable[[WorkerContext], int | None], folder: Path | str) -> int:
    """Take up a job and do it; return the exit status. An error of ours becomes the job's own, and ends the process."""
    context = begin(folder)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        return work(context) or 0
    except VigilError as error:
        context.refuse(error)


def answer_request(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """Answer the JSON object on standard input with another, offline; `why` says what kept it from being answered."""
    stay_offline()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    request = json.load(sys.stdin)
    try:
        response = answer(request)
    except VigilError as error:
        response = {"why": error.sentence}
    except Exception as error:  # noqa: BLE001 - models and adapters of strangers raise anything
        response = {"why": f"{type(error).__name__}: {str(error)[:200]}"}
    # A line of its own: libraries print without ending theirs.
    sys.stdout.write("\n" + json.dumps(response) + "\n")
    return 0


def _tell_full_disk(context: WorkerContext) -> None:
    """Have an error that nobody catches end the process as `NO_DISK` where the disk was full: no fault of the job's."""
    before = sys.excepthook

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log_error("worker.failed", error)
        before(kind, error, trace)
        is_full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
        # MLX says only that it could not write.
        if is_full or shutil.disk_usage(context.folder.folder).free < _LITTLE_BYTES:
            sys.stderr.flush()
            os._exit(NO_DISK)

    sys.excepthook = tell


def _inherited_lock(paths: JobPaths) -> int | None:
    """Return the descriptor that the supervisor passed on, if it is this job's lock."""
    text = os.environ.pop(LOCK_VARIABLE, "")
    if not text.isdigit():
        return None
    descriptor = int(text)
    try:
        is_this_lock = os.path.samestat(os.fstat(descriptor), paths.lock.stat())
    except OSError:
        return None
    if not is_this_lock:
        return None
    # Children of the worker (graders) must not keep the job locked after it.
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - takes no keywords
    return descriptor


def _keep_turn() -> None:
    """Keep the accelerator while this process lives, and no longer: its children must not."""
    text = os.environ.pop(TURN_VARIABLE, "")
    if text.isdigit():
        with passed_over("turn.not_kept", OSError):
            os.set_inheritable(int(text), False)  # noqa: FBT003 - takes no keywords


def _write_identity(paths: JobPaths) -> None:
    me = identify(os.getpid())
    identity = me.to_json() if me else {"pid": os.getpid()}
    write_json(paths.worker, {**identity, "started_at": time.time()})


def _cut_partial_line(path: Path) -> None:
    """Remove what follows the last newline, left by a power cut or a full disk."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)
