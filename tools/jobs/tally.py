"""What one supervisor of a job must know of those before it."""

from dataclasses import dataclass, field
from typing import Any

from state.errors import DamagedFileError
from state.files import read_object
from state.paths import JobPaths


@dataclass
class Tally:
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
    best_step: int = -1
    """Highest step when the last worker was started."""
    is_open: bool = False
    """A worker was started and its end has not been counted."""
    started_at: float | None = None
    notes: list[dict[str, Any]] = field(default_factory=list)


def read_tally(paths: JobPaths) -> Tally:
    """Return the tally in start.json, an empty one before the first supervisor.

    Raises:
        DamagedFileError: It holds something else.
    """
    found = read_object(paths.start)
    try:
        tally = Tally(**found.get("tally", {}))
    except TypeError as error:
        raise DamagedFileError(paths.start, f"its tally cannot be read ({error})") from error
    counts = (tally.starts, tally.deaths, tally.fruitless, tally.killed, tally.best_step)
    if not all(type(count) is int for count in counts) or not isinstance(tally.started_at, float | int | None):
        raise DamagedFileError(paths.start, "its tally holds other values than numbers")
    return tally
