"""Kernel locks that die with their holders: two of a job's folder, and the accelerator's, in turn.

They hold on one machine with a local disk; on a shared file system another claim is needed (issue of the engines).

A turn is a numbered file, locked by the supervisor that waits and inherited by its worker: it lives while either lives,
and the kernel frees it with the last of them. Whose number is the lowest of the living has the accelerator; nothing
expires, so nothing is taken from a job that was only suspended. What changes the queue does so under `queue.lock`.

Covered are jobs under our supervisor and one user on one machine: another program on the same GPU is not seen, and the
short trial steps of a probe (`tools/probes/capability.py`) do not wait.
"""

import contextlib
import fcntl
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from state.errors import ConfigError
from state.files import ensure_local_disk, read_json
from state.log import passed_over
from state.paths import MachinePaths

_PROBE_RETRIES = 10
_PROBE_PAUSE_S = 0.02


def try_lock(path: Path) -> int | None:
    """Take an exclusive lock and return its descriptor, or None where another process holds it.

    The lock lives as long as any process has the descriptor. `is_held` takes the lock for an instant, so one refusal
    proves nothing: the call asks several times within a quarter of a second.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for attempt in range(_PROBE_RETRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt + 1 < _PROBE_RETRIES:
                time.sleep(_PROBE_PAUSE_S)
        else:
            return descriptor
    os.close(descriptor)
    return None


def is_held(path: Path) -> bool:
    """Tell whether some process holds the lock; a missing file is held by none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def machine_paths(environment: Mapping[str, str] = os.environ) -> MachinePaths:
    """Return where this user's campaigns on this machine meet.

    That is the user's state folder (`XDG_STATE_HOME`, by default `~/.local/state`). A network file system would be
    shared with other machines, and some users have no folder they may write to: both meet in the temporary folder.

    Raises:
        ConfigError: The folder there is another user's, or others may write to it.
    """
    named = environment.get("XDG_STATE_HOME", "")
    folder = Path(named) if Path(named).is_absolute() else Path("~/.local/state").expanduser()
    place = MachinePaths(folder / "vigil")
    try:
        ensure_local_disk(folder)
        place.turns.mkdir(parents=True, exist_ok=True)
        is_usable = os.access(place.turns, os.W_OK)
    except (OSError, ConfigError):
        is_usable = False
    if not is_usable:
        place = MachinePaths(Path(tempfile.gettempdir()) / f"vigil-{os.getuid()}")
        place.folder.mkdir(mode=0o700, exist_ok=True)
        # Anyone may make a folder of that name there, and what is in it decides what a campaign may still promote.
        owner = place.folder.lstat()
        if not stat.S_ISDIR(owner.st_mode) or owner.st_uid != os.getuid() or owner.st_mode & 0o022:
            raise ConfigError(
                f"{place.folder} is not a folder of yours that you alone can write; set XDG_STATE_HOME to one.",
                where=str(place.folder),
            )
        place.turns.mkdir(mode=0o700, exist_ok=True)
    return place


@dataclass
class Turn:
    """A place in the queue, from `take` to `release` or the end of every process that has its descriptor."""

    paths: MachinePaths
    number: int
    descriptor: int

    @classmethod
    def take(cls, paths: MachinePaths, who: Mapping[str, Any]) -> Self | None:
        """Take the next number; None where another process is changing the queue just now.

        Args:
            paths: Where campaigns meet.
            who: What others are told about the job: `campaign`, `kind`, `key`, `pid`, `since`.

        Raises:
            OSError: The folder cannot be written.
        """
        with _changing(paths) as is_ours:
            if not is_ours:
                return None
            number = max((known for known, _ in _turns(paths)), default=0) + 1
            path = paths.turn(number)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # For people's eyes only, so a full disk does not matter.
            with passed_over("turn.not_described", OSError):
                os.write(descriptor, json.dumps(dict(who)).encode())
            return cls(paths, number, descriptor)

    def ahead(self) -> list[dict[str, Any]] | None:
        """Return who is before us, the one that has the accelerator first; None where it cannot be told now.

        Side effects: removes the turns of the dead.
        """
        with _changing(self.paths) as is_ours:
            if not is_ours:
                return None
            living = []
            for number, path in _turns(self.paths):
                if number >= self.number:
                    continue
                if is_held(path):
                    living.append(_who(path))
                else:
                    path.unlink(missing_ok=True)
            return living

    @property
    def is_standing(self) -> bool:
        """Whether the others still see us; not when somebody removed the file."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), self.paths.turn(self.number).stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let the next one go on."""
        if self.is_standing:
            self.paths.turn(self.number).unlink(missing_ok=True)
        os.close(self.descriptor)


def queue(paths: MachinePaths) -> list[dict[str, Any]]:
    """Return who has the accelerator and who waits for it, in their order; changes nothing."""
    return [_who(path) for _, path in _turns(paths) if is_held(path)]


@contextlib.contextmanager
def _changing(paths: MachinePaths) -> Iterator[bool]:
    """Hold the queue while it is looked through or changed; yields False where another process has it."""
    # Never waited for: a supervisor must go on looking at requests to stop, whoever was suspended with this lock.
    paths.turns.mkdir(parents=True, exist_ok=True)
    lock = try_lock(paths.queue_lock)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def _turns(paths: MachinePaths) -> list[tuple[int, Path]]:
    turns = [(int(path.stem), path) for path in paths.turns.glob("*.json") if path.stem.isdigit()]
    return sorted(turns)


def _who(path: Path) -> dict[str, Any]:
    with passed_over("turn.not_read", ValueError, OSError):
        value = read_json(path)
        if isinstance(value, dict):
            return value
    return {}
