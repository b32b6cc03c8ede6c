"""What a job folder holds, as values: the specification before, the status during, the exit record after."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from state.errors import DamagedFileError
from state.files import read_json, read_object
from state.paths import JobPaths
from state.records import ExitRecord, Guard, JobKind, JobState, Json, Record


class JobSpec(Record):
    """job.json: everything a supervisor needs, fixed before anything starts and never changed."""

    key: str
    """The action's key; one folder per key."""
    kind: JobKind
    module: str
    """Worker program, run as `python -m MODULE FOLDER`."""
    input: Json = Field(default_factory=dict)
    """The worker's own input; every path in it is absolute."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment on top of the supervisor's; no credentials, the file is readable."""
    guards: tuple[Guard, ...] = ()
    """Stop conditions, evaluated mechanically."""
    stop_grace_s: float = Field(default=30.0, ge=0)
    """From TERM to KILL, seconds: time for the worker to save."""
    max_restarts: int = Field(default=3, ge=0)
    """Deaths of the worker of its own answered by a restart; kills, reboots and full disks do not count."""
    max_restarts_without_progress: int = Field(default=2, ge=0)
    """Restarts in a row, after deaths of its own, without a row of a higher step."""
    restart_pause_s: float = Field(default=0.5, ge=0)
    """Pause before a restart after a death without progress, doubled each time, seconds."""
    steps: int = Field(default=0, ge=0)
    """Steps in all: iters for training, cases for evaluation."""
    created_at: float = 0.0
    """Unix seconds; not part of the job's identity."""

    @property
    def uses_accelerator(self) -> bool:
        """Whether it loads weights, so that it waits for its turn; a census reads tokens and grades texts only."""
        return self.kind not in {"census", "notice"}


class StopRequest(Record):
    """stop.json: who wants the job to end; the first request stays."""

    by: str
    reason: str = ""
    verdict: str = ""
    guard: Json | None = None
    asked_at: float = 0.0


class JobStatus(Record):
    """A job as its folder shows it now."""

    key: str
    kind: JobKind
    state: JobState
    step: int = 0
    """Step of the last row."""
    steps: int = 0
    heartbeat_at: float | None = None
    """When the supervisor last noted that it lives, Unix seconds."""
    started_at: float | None = None
    """First start of the worker."""
    restarts: int = 0
    exit: ExitRecord | None = None
    supervisor: Json = Field(default_factory=dict)
    """pid, create_time, boot_id; of the last supervisor, alive or not."""
    worker: Json = Field(default_factory=dict)
    """pid, create_time, boot_id; of the last worker, alive or not."""
    last: dict[str, Any] = Field(default_factory=dict)
    """The last row of metrics.jsonl."""
    waits_for: Json = Field(default_factory=dict)
    """`since` and `ahead` while a supervisor waits for its turn; empty otherwise."""

    @property
    def is_ended(self) -> bool:
        """Whether there is an exit record: nothing will happen in this folder any more."""
        return self.exit is not None

    @property
    def needs_launch(self) -> bool:
        """Whether nobody stands over the job: whoever polls it calls `launch` again then.

        One `launch` is not enough for ever: a supervisor may die right after it was seen alive.
        """
        return self.state in ("queued", "orphaned", "lost") and not self.waits_for


_File = TypeVar("_File", bound=Record)


def read_record(path: Path, kind: type[_File]) -> _File | None:
    """Return what a file of a job folder holds, or None where there is no such file.

    Raises:
        DamagedFileError: It holds something else.
    """
    value = read_json(path)
    if value is None and not path.exists():
        return None
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DamagedFileError(path, f"{place or 'the whole'}: {first['msg']}") from error


@dataclass
class StartCounters:
    """What must be known across supervisors; part of start.json."""

    starts: int = 0
    """Starts of the worker, attempts included."""
    deaths: int = 0
    """Deaths of the worker of its own that its supervisor outlived."""
    fruitless: int = 0
    """Deaths in a row of its own without a higher step."""
    killed: int = 0
    """Starts in a row that something outside ended without a higher step: a kill, a reboot, a full disk."""
    starved: int = 0
    """Of those in a row, the ones that the system killed for want of memory, where it tells."""
    reboots: int = 0
    """Boots of the machine while the worker ran: a power cut, or a kernel that gave up on the load."""
    boot: str = ""
    """The boot in which the last worker was started."""
    best_step: int = -1
    """Highest step when the last worker was started."""
    is_open: bool = False
    """A worker was started and its end has not been counted."""
    started_at: float | None = None
    notes: list[dict[str, Any]] = field(default_factory=list)


def read_start_counters(paths: JobPaths) -> StartCounters:
    """Return the tally in start.json, an empty one before the first supervisor.

    Raises:
        DamagedFileError: It holds something else.
    """
    start = read_object(paths.start)
    try:
        known = StartCounters(**start.get("tally", {}))
    except TypeError as error:
        raise DamagedFileError(paths.start, f"its tally cannot be read ({error})") from error
    counts = (known.starts, known.deaths, known.fruitless, known.killed, known.starved, known.reboots, known.best_step)
    if not all(type(count) is int for count in counts) or not isinstance(known.started_at, float | int | None):
        raise DamagedFileError(paths.start, "its tally holds other values than numbers")
    notes = known.notes if isinstance(known.notes, list) else [None]
    if not all(isinstance(note, dict) and "position" in note for note in notes):
        raise DamagedFileError(paths.start, "the notes of its tally are no guards")
    return known
