"""The operator's log: what each process did and when, as JSON lines in a file of its own.

The agent writes into the campaign's folder, supervisor and worker into the job's; `vigil log` merges them by time.
Before `start_log` every call does nothing, so a command that only reads pays for no log. Lines hold names, ids and
numbers, never a text of a row, a prompt, an output, an answer or a person, and no variable of the environment; of an
error its type and place, and its own words only where no case text is private. A log that cannot be written stops no
work.

structlog makes the lines; it is imported by `start_log`, late, for what it costs.
"""

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Literal

Level = Literal["debug", "info", "warning", "error"]
"""debug: what was passed over; info: what was done; warning: what a person may want to look at; error: what failed."""

LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")

LIMIT_BYTES = 4_000_000
"""A log larger than this is put aside, once: a process leaves at most twice as much."""

CONTEXT_VARIABLE = "VIGIL_LOG"
"""Environment variable with what a job's processes bind of the agent that launched it: JSON of plain words."""

VERBOSE_VARIABLE = "VIGIL_LOG_LEVEL"
"""Environment variable with the lowest level that is written; all when left out."""

_LONGEST = 200
"""Characters of a value: names and places are short, and a text would be longer."""

_MOST_PARTS = 16
"""Parts of a list that are written."""


class _File:
    """One process's file, private to its user; a line is one write, so that a kill leaves it out or in.

    Args:
        path: The file; it grows up to `LIMIT_BYTES`, then it is moved to `.1` and begun anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._size = 0
        self._is_cut = False
        """Whether a full disk or a kill cut the last line: the next one begins on a line of its own."""
        self.lost = 0
        """Lines that could not be written, or not whole: a full disk, a folder that is gone."""

    def write(self, line: str) -> None:
        """Append a line; one that cannot be written is counted, and nothing else."""
        data = line.encode(errors="backslashreplace") + b"\n"
        try:
            if self._descriptor is not None and self._size + len(data) > LIMIT_BYTES:
                self.close()
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            if self._descriptor is None:
                flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                self._descriptor = os.open(self._path, flags, 0o600)
                self._size = os.fstat(self._descriptor).st_size
                self._is_cut = self._size > 0 and os.pread(self._descriptor, 1, self._size - 1) != b"\n"
            data = b"\n" * self._is_cut + data
            written = os.write(self._descriptor, data)
            self._size += written
            self._is_cut = written < len(data)
            self.lost += self._is_cut
        except OSError:
            self.lost += 1

    def close(self) -> None:
        """Let the file go; the next line opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _structlog() -> Any:
    """Import structlog without rich, which it takes along for consoles: every supervisor and worker pays for it."""
    is_new = "rich" not in sys.modules
    if is_new:
        sys.modules["rich"] = None  # type: ignore[assignment]  # as the import system marks what may not be imported
    try:
        import structlog

        return structlog
    finally:
        if is_new:
            del sys.modules["rich"]


class _Log:
    """The log of this process.

    Args:
        file: Where lines go; None: to the terminal only.
        level: The lowest that is written.
        is_private: Leave out an error's own words.
        echo: Where lines go besides, as one sentence each.
    """

    def __init__(
        self, file: _File | None, level: Level, *, is_private: bool, echo: Callable[[str], None] | None
    ) -> None:
        structlog = _structlog()
        self.file = file
        self.is_private = is_private
        self.echo = echo
        self.least = LEVELS.index(level)
        self._render = structlog.processors.JSONRenderer(ensure_ascii=False, default=_plain)
        self._drop = structlog.DropEvent
        self.logger = structlog.wrap_logger(
            None,
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _bounded,
                self._write,
            ],
            wrapper_class=structlog.BoundLogger,
            cache_logger_on_first_use=False,
        )

    def _write(self, _logger: Any, level: str, line: MutableMapping[str, Any]) -> str:
        first = {"timestamp": line.pop("timestamp"), "level": level, "event": line.pop("event")}
        if self.file is not None:
            text = self._render(None, level, {**first, **line})
            self.file.write(text if isinstance(text, str) else text.decode())
        if self.echo is not None:
            self.echo(sentence({**first, **line}))
        raise self._drop


_log: list[_Log] = []
"""The log of this process; empty where none was begun."""


def start_log(
    path: Path | None,
    *,
    is_private: bool = False,
    level: Level | None = None,
    echo: Callable[[str], None] | None = None,
    **bound: Any,
) -> None:
    """Begin this process's log; what is already there is gone on with.

    Args:
        path: Its file; None for the terminal alone.
        is_private: Leave out the words of errors, which may quote a case.
        level: The lowest that is written; as `VIGIL_LOG_LEVEL` says when left out.
        echo: Where each line goes besides, as one sentence.
        bound: What every line says: campaign, epoch, decision, job.
    """
    wanted = level or os.environ.get(VERBOSE_VARIABLE, "")
    least: Level = next((each for each in LEVELS if each == wanted), "debug")
    stop_log()
    _log[:] = [_Log(_File(path) if path is not None else None, least, is_private=is_private, echo=echo)]
    _structlog().contextvars.clear_contextvars()
    bind_log(**{**_handed(), **bound, "pid": os.getpid()})


def log_privately(*, is_private: bool) -> None:
    """Leave out the words of errors from here on, or have them again: the campaign's file may be edited meanwhile."""
    for log in _log:
        log.is_private = is_private


def stop_log() -> None:
    """End it: calls do nothing again."""
    for log in _log:
        if log.file is not None:
            log.file.close()
    _log.clear()


def bind_log(**fields: Any) -> None:
    """Have every later line of this process say these as well; None takes a field back."""
    if not _log:
        return
    from structlog.contextvars import bind_contextvars, unbind_contextvars

    unbind_contextvars(*(name for name, value in fields.items() if value is None))
    bind_contextvars(**{name: value for name, value in fields.items() if value is not None})


def hand_on(**fields: Any) -> None:
    """Have the processes that this one starts bind these words, so that their lines name what launched them.

    None takes a word back.

    Side effects: sets `VIGIL_LOG` in the environment.
    """
    known = {**_handed(), **fields}
    os.environ[CONTEXT_VARIABLE] = json.dumps({name: value for name, value in known.items() if value is not None})


def _handed() -> dict[str, Any]:
    try:
        context = json.loads(os.environ.get(CONTEXT_VARIABLE, "{}"))
    except ValueError:
        return {}
    return {str(name): value for name, value in context.items()} if isinstance(context, dict) else {}


def log_debug(event: str, **fields: Any) -> None:
    """Write what was passed over."""
    _event("debug", event, fields)


def log_info(event: str, **fields: Any) -> None:
    """Write what was done."""
    _event("info", event, fields)


def log_warning(event: str, **fields: Any) -> None:
    """Write what a person may want to look at."""
    _event("warning", event, fields)


def log_error(event: str, failure: BaseException | None = None, **fields: Any) -> None:
    """Write what failed: of an exception its type and place, and its own words where no case text is private."""
    _event("error", event, {**fields, **(_of(failure) if failure is not None else {})})


@contextlib.contextmanager
def passed_over(event: str, *kinds: type[BaseException], **fields: Any) -> Iterator[None]:
    """Suppress errors of these kinds, with a debug line on each.

    Args:
        event: What was passed over, as a word: `heartbeat.not_written`.
        kinds: Of errors.
        fields: More of the line.
    """
    try:
        yield
    except kinds as failure:
        _event("debug", event, {**fields, **_of(failure)})


def _of(failure: BaseException) -> dict[str, Any]:
    frames = traceback.extract_tb(failure.__traceback__)
    fields: dict[str, Any] = {"error": type(failure).__name__}
    if frames:
        fields["at"] = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
    if isinstance(failure, OSError) and failure.errno is not None:
        fields["errno"] = failure.errno
    if _log and not _log[0].is_private:
        fields["words"] = str(failure)
    return fields


def _event(level: Level, event: str, fields: Mapping[str, Any]) -> None:
    for log in _log:
        if LEVELS.index(level) >= log.least:
            # Whatever goes wrong here: the log is for those who look on, and the work is what they look at.
            with contextlib.suppress(Exception):
                getattr(log.logger, level)(event, **fields)


def _bounded(_logger: Any, _level: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep values short, and leave out what says nothing."""
    return {name: _short(value) for name, value in line.items() if value not in (None, "")}


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _LONGEST else f"{value[: _LONGEST - 1]}…"
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_short(part) for part in list(value)[:_MOST_PARTS]]
    if isinstance(value, Mapping):
        return {str(name): _short(part) for name, part in list(value.items())[:_MOST_PARTS]}
    return value


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else type(value).__name__


def sentence(line: Mapping[str, Any]) -> str:
    """Return a line as a person reads it: time, level, event, and the rest as `name=value`."""
    rest = [f"{name}={value}" for name, value in line.items() if name not in {"timestamp", "level", "event"}]
    return " ".join([str(line.get("timestamp", ""))[11:19], f"{line.get('level', ''):<7}", str(line["event"]), *rest])
