"""Verified copies of the store, and going back to one.

A backup appears under its name only after it was verified and synced. Restoring never deletes: the damaged file is
moved aside. After a restore every action key must be reconciled with the job folders before anything acts.
"""

import os
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from state.clock import Clock
from state.connection import connect, spoken_errors
from state.errors import CorruptError, NotFoundError, StoreError
from state.files import fsync_folder
from state.lease import Lease
from state.paths import CampaignPaths
from state.schema import check_header
from state.tables import SCHEMA_VERSION
from state.verify import verify, verify_chain, verify_pages

KEEP = 3
"""How many backups are kept, the newest."""


@dataclass(frozen=True)
class Restored:
    """What a restore did.

    Args:
        backup: The copy that is the store now.
        moved_to: Folder with the damaged files.
        kept: Journal rows of the backup.
        lost: Journal rows after it, or None where the damaged file could not say.
    """

    backup: Path
    moved_to: Path
    kept: int
    lost: int | None

    @property
    def sentence(self) -> str:
        """What was lost, for a person."""
        lost = "an unknown number of" if self.lost is None else str(self.lost)
        return (
            f"Restored {self.backup.name} with {self.kept} writes; {lost} later writes are lost."
            f" The damaged store is in {self.moved_to}. Jobs are found again by their folders."
        )


def backups(paths: CampaignPaths) -> list[Path]:
    """Return the backups, oldest first."""
    return sorted(paths.backups.glob("*.db"))


def newest_age_s(paths: CampaignPaths, clock: Clock) -> float | None:
    """Return the age of the newest backup in seconds, or None where there is none."""
    there = backups(paths)
    return clock.now() - there[-1].stat().st_mtime if there else None


def backup(connection: sqlite3.Connection, paths: CampaignPaths, clock: Clock) -> Path:
    """Copy the store while it is in use, verify the copy, and keep the newest three.

    Raises:
        CorruptError: The copy failed its checks, so the store itself is damaged.
        LimitExceededError: The disk is full.
    """
    stamp = datetime.fromtimestamp(clock.now(), UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    target = paths.backups / f"{stamp}.db"
    side = paths.backups / f".{stamp}.part"
    with spoken_errors(paths.db):
        paths.backups.mkdir(parents=True, exist_ok=True)
        try:
            _copy(connection, side, paths.db)
            _sync(side)
            os.utime(side, (clock.now(), clock.now()))
            side.replace(target)
        finally:
            side.unlink(missing_ok=True)
        fsync_folder(paths.backups)
    for old in backups(paths)[:-KEEP]:
        old.unlink()
    return target


def _copy(connection: sqlite3.Connection, side: Path, source: Path) -> None:
    """Copy into one self-contained file and check it."""
    copy = connect(side)
    try:
        connection.backup(copy)
        # The copy inherits WAL mode; a backup must not need a second file.
        copy.execute("PRAGMA journal_mode=DELETE")
        _verify_any_version(copy, source)
    finally:
        copy.close()


def _verify_any_version(connection: sqlite3.Connection, path: Path) -> int:
    """Check all that can be checked of a store, which may be older than this version's schema."""
    if check_header(connection, path) == SCHEMA_VERSION:
        return verify(connection, path)
    verify_pages(connection, path)
    return verify_chain(connection, path)


def restore_latest(paths: CampaignPaths, clock: Clock, lease: Lease) -> Restored:
    """Go back to the newest backup that passes its checks.

    Side effects: moves the store's files to `damaged-<time>/`; nothing is deleted.

    Raises:
        NotFoundError: No backup passes its checks; nothing was moved.
        StoreError: The lease is not held.
    """
    if not lease.is_held or lease.paths != paths:
        raise StoreError(f"Restoring {paths.name} needs its lease.", what="lease", where=str(paths.lock))
    for candidate in reversed(backups(paths)):
        kept = _writes(candidate)
        if kept is not None:
            break
    else:
        raise NotFoundError(
            f"There is no verified backup in {paths.backups}; nothing was changed.",
            what="backup",
            where=str(paths.backups),
        )
    last = _last_seq(paths.db)
    moved_to = _move_aside(paths, clock)
    side = paths.root / ".restored.part"
    side.write_bytes(candidate.read_bytes())
    _sync(side)
    side.replace(paths.db)
    fsync_folder(paths.root)
    return Restored(backup=candidate, moved_to=moved_to, kept=kept, lost=None if last is None else max(0, last - kept))


def _writes(candidate: Path) -> int | None:
    """Return how many writes a backup holds, or None where it fails its checks."""
    connection = sqlite3.connect(f"{candidate.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        return _verify_any_version(connection, candidate)
    except (sqlite3.Error, UnicodeError, CorruptError):
        return None
    finally:
        connection.close()


def _last_seq(path: Path) -> int | None:
    """Return the last write that a damaged store still shows."""
    if not path.exists():
        return None
    connection = connect(path)
    try:
        return int(connection.execute("SELECT coalesce(max(seq), 0) FROM journal").fetchone()[0])
    except (sqlite3.Error, UnicodeError):
        # Not UTF-8: SQLite names what is damaged, in its own bytes.
        return None
    finally:
        connection.close()


def _move_aside(paths: CampaignPaths, clock: Clock) -> Path:
    stamp = datetime.fromtimestamp(clock.now(), UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    folder = paths.root / f"damaged-{stamp}"
    folder.mkdir()
    for suffix in ("", "-wal", "-shm"):
        part = paths.db.with_name(paths.db.name + suffix)
        if part.exists():
            part.replace(folder / part.name)
    return folder


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
