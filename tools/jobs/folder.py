"""A job's folder: written once, read as it stands, a request to stop left in it; logs of bounded size.

A backend adds one thing, how a supervisor comes to stand over the folder. It may bring none, or two, or one long after
it was asked: the folder's locks, key and exit record make the job happen once all the same.
"""

import errno
import os
import shutil
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from state.errors import JobNotStartedError, LimitExceededError, NotFoundError
from state.files import fsync_path, json_row, read_json, read_object, side_of
from state.paths import JobPaths
from state.records import ExitRecord, JobState
from tools.jobs.locks import is_held
from tools.jobs.processes import ProcessIdentity
from tools.jobs.spec import JobSpec, JobStatus, StopRequest, read_record, read_start_counters


def write_once(path: Path, text: str) -> bool:
    """Write a whole, synced file unless there is one already; return whether it is ours that stands.

    Raises:
        OSError: It cannot be written (full disk, no permission).
    """
    side = side_of(path)
    # Not mkstemp: the file is readable to whom the person's umask says.
    descriptor = os.open(side, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        # Unlike a rename, a link never replaces: of two writers at once one wins and the other learns of it.
        os.link(side, path)
    except FileExistsError:
        return False
    finally:
        side.unlink(missing_ok=True)
    fsync_path(path.parent)
    return True


def ask_for_stop(paths: JobPaths, request: StopRequest) -> bool:
    """Leave a request to stop; return False where an earlier one stands."""
    return write_once(paths.stop, request.model_dump_json(indent=1))


def stop_request(paths: JobPaths) -> StopRequest | None:
    """Return the request to stop that stands, if any."""
    try:
        value: Any = read_json(paths.stop)
        return None if value is None else StopRequest.model_validate(value)
    except ValueError:
        # Somebody made it by hand: whoever touches a file of this name wants the job to stop.
        return StopRequest(by="person", reason="stop.json is there, but cannot be read.")


LIMIT_BYTES = 10_000_000
"""A log larger than this is put aside."""

KEEP = 2
"""Logs kept aside; a job's output takes at most (KEEP + 1) x LIMIT_BYTES and what is written between two looks."""


def last_lines(path: Path, count: int, window_bytes: int = 64_000) -> list[str]:
    """Return the last lines of a text file, reading its end only; a missing file has none."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - window_bytes))
            text = stream.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    # The first line of a window that does not start at the file's beginning is cut.
    lines = text.splitlines()[1 if size > window_bytes else 0 :]
    return lines[-count:] if count > 0 else []


def put_aside_if_large(path: Path, limit_bytes: int = LIMIT_BYTES, keep: int = KEEP) -> bool:
    """Copy a large log to `.1` (moving `.1` to `.2` and so on) and empty it.

    It is emptied in place because the worker holds it open, in append mode; what it writes between the copy and the
    cut is lost.

    Returns:
        Whether it was put aside.
    """
    try:
        if path.stat().st_size <= limit_bytes:
            return False
    except FileNotFoundError:
        return False
    for number in range(keep, 1, -1):
        older = _aside(path, number - 1)
        if older.exists():
            older.replace(_aside(path, number))
    shutil.copyfile(path, _aside(path, 1))
    os.truncate(path, 0)
    return True


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}.{number}{path.suffix}")


RUNBOOK = "stuck_job.md"


class FolderBackend(ABC):
    """Keeps nothing in memory, so any process may ask about any job."""

    @abstractmethod
    def serve(self, paths: JobPaths) -> None:
        """See to it that a supervisor holds the job or the job has ended; bringing one too many does no harm.

        Raises:
            JobNotStartedError: None came up.
            ToolUnavailableError: The engine did not answer; whether one comes up is not known, so ask again.
        """

    def launch(self, folder: Path, spec: JobSpec) -> None:
        """See to it that the job of this folder runs, is adopted, or has ended; safe to repeat.

        Side effects: writes job.json where there is none; starts a supervisor where there is none and no exit record.

        Raises:
            JobNotStartedError: The folder holds another job or cannot be written, or no supervisor came up.
            LimitExceededError: The disk is full.
        """
        paths = JobPaths(folder.resolve())
        try:
            paths.folder.mkdir(parents=True, exist_ok=True)
            if not paths.spec.exists():
                write_once(paths.spec, spec.model_dump_json(indent=1))
            supervisor_log(paths).touch()
        except OSError as error:
            raise _unwritable(paths, error) from error
        _refuse_another(paths, spec)
        self.serve(paths)

    def status(self, folder: Path) -> JobStatus:
        """Return how the job stands, from its locks, identities and exit record alone.

        Raises:
            NotFoundError: There is no job in the folder.
        """
        paths = JobPaths(folder.resolve())
        spec = _spec(paths)
        state, record = _state(paths)
        start = read_object(paths.start)
        counters = read_start_counters(paths)
        last = _last_row(paths)
        waits_for = _waits_for(paths, state)
        return JobStatus(
            key=spec.key,
            kind=spec.kind,
            state="queued" if waits_for else state,
            step=int(last.get("step", 0)),
            steps=spec.steps,
            heartbeat_at=_modified_at(paths.heartbeat),
            started_at=counters.started_at,
            restarts=max(0, counters.starts - 1),
            exit=record,
            supervisor=_identity(start),
            worker=_identity(read_json(paths.worker)),
            last=last,
            waits_for=waits_for,
        )

    def stop(self, folder: Path, by: str, reason: str) -> None:
        """Ask for the job's end; the first request stays, an ended job is left.

        Side effects: writes stop.json; starts a supervisor to act on it where there is none.

        Raises:
            NotFoundError: There is no job in the folder.
            JobNotStartedError: It had no supervisor and none came up to act.
        """
        paths = JobPaths(folder.resolve())
        _spec(paths)
        if paths.exit.exists():
            return
        ask_for_stop(paths, StopRequest(by=by, reason=reason, asked_at=time.time()))
        self.serve(paths)


def _spec(paths: JobPaths) -> JobSpec:
    spec = read_record(paths.spec, JobSpec)
    if spec is None:
        raise NotFoundError(f"There is no job in {paths.folder}.", what="job", where=str(paths.folder))
    return spec


def _unwritable(paths: JobPaths, error: OSError) -> JobNotStartedError | LimitExceededError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LimitExceededError(
            f"The disk of {paths.folder} is full; free some space, then run the same command again.",
            what="disk_free_gb",
            where=str(paths.folder),
            runbook="disk_full.md",
        )
    return JobNotStartedError(
        f"The job folder {paths.folder} cannot be written: {error.strerror}.", what="folder", where=str(paths.folder)
    )


def _refuse_another(paths: JobPaths, spec: JobSpec) -> None:
    """Refuse a folder whose job.json says something else: one key, one job, for ever."""
    ours = spec.model_dump(mode="json", exclude={"created_at"})
    theirs = _spec(paths).model_dump(mode="json", exclude={"created_at"})
    different = sorted(name for name in ours if ours[name] != theirs[name])
    if different:
        raise JobNotStartedError(
            f"The folder {paths.folder} already holds another job: {', '.join(different)} would differ.",
            what="job.json",
            value=different,
            where=str(paths.spec),
            runbook=RUNBOOK,
        )


def supervisor_log(paths: JobPaths) -> Path:
    """Return where a supervisor's own words go."""
    return paths.folder / "supervisor.log"


def _state(paths: JobPaths) -> tuple[JobState, ExitRecord | None]:
    """Tell the states apart; the exit record is looked for again after the locks, which it outdates."""
    if (record := _exit(paths)) is not None:
        return record.state, record
    if is_held(paths.supervisor_lock):
        return ("running" if paths.worker.exists() else "starting"), None
    if is_held(paths.lock):
        return "orphaned", None
    if (record := _exit(paths)) is not None:
        return record.state, record
    return ("lost" if paths.start.exists() else "queued"), None


def _waits_for(paths: JobPaths, state: JobState) -> dict[str, Any]:
    """Return whom a living supervisor waits for; what one that was killed meanwhile left is not believed."""
    return read_object(paths.waiting) if state in ("starting", "running") else {}


def _exit(paths: JobPaths) -> ExitRecord | None:
    return read_record(paths.exit, ExitRecord)


def _last_row(paths: JobPaths) -> dict[str, Any]:
    """Return the last whole row that has a step, reading the file's end only."""
    rows = (json_row(line) for line in reversed(last_lines(paths.metrics, 50)))
    return next((row for row in rows if row is not None and isinstance(row.get("step"), int)), {})


def _modified_at(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def _identity(value: Any) -> dict[str, Any]:
    identity = ProcessIdentity.from_json(value)
    return {} if identity is None else identity.to_json()
