"""The lease of a campaign: a kernel lock that dies with its holder, and an epoch that tells holders apart.

The lock needs no expiry: the kernel releases it when the process ends, however it ends. The epoch is raised in the
store by each holder and compared in the same transaction as every write, so that a holder whose lock file was removed
under it cannot write any more. Both hold on a local disk only; network file systems are refused.
"""

import errno
import fcntl
import os
import shlex
import socket
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from state.clock import Clock
from state.errors import ConfigError, DamagedFileError, LeaseLostError, LimitExceededError, VigilError
from state.files import ensure_local_disk, read_json, write_json
from state.paths import CampaignPaths

_TRIES = 10
_PAUSE_S = 0.02
"""`holder` takes the lock for an instant, so one refusal proves nothing; ten within 0.2 s do."""


def holder_file(paths: CampaignPaths) -> Path:
    """Return where the holder says who it is."""
    return paths.lock.with_name("lock.json")


def _try_lock(descriptor: int, clock: Clock) -> bool:
    for attempt in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt + 1 < _TRIES:
                clock.sleep(_PAUSE_S)
        else:
            return True
    return False


def _identity(paths: CampaignPaths) -> dict[str, Any]:
    """Return what the last holder wrote about itself, empty where it wrote nothing readable."""
    try:
        known = read_json(holder_file(paths))
    except (DamagedFileError, OSError):
        return {}
    return known if isinstance(known, dict) else {}


def holder(paths: CampaignPaths) -> dict[str, Any] | None:
    """Return who holds a campaign (`pid`, `host`, `started`), or None where nobody does.

    The answer is empty where the holder has not yet said who it is.
    """
    try:
        descriptor = os.open(paths.lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _identity(paths)
    finally:
        os.close(descriptor)
    return None


class Lease:
    """The right to write one campaign, from `acquire` to `release` or the end of the process."""

    def __init__(self, paths: CampaignPaths, descriptor: int) -> None:
        self.paths = paths
        self.epoch = 0
        """Number of this holder; the store gives it when it is opened."""
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, paths: CampaignPaths, clock: Clock) -> Self:
        """Take the campaign, or say at once who has it.

        Side effects: creates the campaign's folder, the lock and `lock.json`. Children do not inherit the lock.

        Raises:
            LeaseLostError: Another process holds the campaign.
            ConfigError: The home is on a network file system or cannot be written.
            LimitExceededError: The disk is full.
        """
        ensure_local_disk(paths.home)
        descriptor = None
        try:
            paths.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if not _try_lock(descriptor, clock):
                raise _refusal(paths)
            write_json(holder_file(paths), {"pid": os.getpid(), "host": socket.gethostname(), "started": clock.now()})
        except (OSError, LeaseLostError) as error:
            if descriptor is not None:
                os.close(descriptor)
            if isinstance(error, OSError):
                raise _unwritable(paths, error) from error
            raise
        return cls(paths, descriptor)

    @property
    def is_held(self) -> bool:
        """Whether this object still has the lock; another one may have it too if the lock file was replaced."""
        return self._descriptor is not None

    def release(self) -> None:
        """Give the campaign back; doing it twice changes nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _refusal(paths: CampaignPaths) -> LeaseLostError:
    """Return the error that names the holder."""
    known = _identity(paths)
    who = "another process"
    if known:
        since = datetime.fromtimestamp(float(known["started"]), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        who = f"process {known['pid']} on {known['host']} since {since}"
    named = shlex.join([paths.name, "--home", str(paths.home)])
    return LeaseLostError(
        f"The campaign {paths.name} is held by {who}. To look on:\nvigil watch {named}",
        what="lease",
        value=known.get("pid"),
        where=str(paths.lock),
    )


def _unwritable(paths: CampaignPaths, error: OSError) -> VigilError:
    """Return the error for a folder that cannot be written or has no room."""
    if error.errno == errno.ENOSPC:
        return LimitExceededError(
            f"The disk of {paths.root} is full; free some space and run the same command again.",
            what="disk",
            where=str(paths.root),
        )
    return ConfigError(
        f"The campaign's folder {paths.root} cannot be written ({error.strerror}); choose another home with --home"
        " or VIGIL_HOME.",
        what="home",
        value=str(paths.home),
        where=str(paths.root),
    )


class Unshared:
    """The lease of a store in memory, which no other process can reach."""

    def __init__(self) -> None:
        self.epoch = 0
        self.is_held = True

    def release(self) -> None:
        """Let no one write any more."""
        self.is_held = False
