"""Verified copies of the store, and going back to one.

A backup appears under its name only after it was verified and synced. Which are kept goes by the length of their
journals: clocks go back. Restoring never deletes: the damaged files are moved aside, and with them the place in the
loop, which may be ahead of the record that is restored.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from state.clock import Clock
from state.errors import CorruptError, NotFoundError, StoreError
from state.files import fsync_path
from state.journal import Head, HeadFile, head_of, verify, verify_chain, verify_head, verify_pages
from state.lease import Lease
from state.paths import CampaignPaths
from state.schema import SCHEMA_VERSION, check_header, connect, connect_to_read, spoken_errors

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
    """Return the backups, the shortest journal first; one that cannot be read at all is the shortest."""
    return sorted(paths.backups.glob("*.db"), key=lambda path: (_seq(path), path.name))


def _seq(path: Path) -> int:
    return _seq_of(path, *_stamp(path))


@lru_cache(maxsize=16)
def _seq_of(path: Path, *_stamp: int) -> int:
    try:
        with closing(_as_it_is(path)) as connection:
            return head_of(connection).seq
    except (sqlite3.Error, UnicodeError):
        return -1


def _stamp(path: Path) -> tuple[int, int, int]:
    """Return what changes with a file: a backup is written once, and looked at once by each process."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _as_it_is(path: Path) -> sqlite3.Connection:
    """Open one self-contained file without changing it or making others beside it."""
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)


def newest_age_s(paths: CampaignPaths, clock: Clock) -> float | None:
    """Return the age of the newest backup in seconds, or None where there is none; negative under a clock set back."""
    there = backups(paths)
    return clock.now() - there[-1].stat().st_mtime if there else None


def acknowledged(paths: CampaignPaths) -> Head | None:
    """Return a write that the store must hold: the newest on file, else that of the newest sound backup.

    Read it before the store is: the store only grows.
    """
    known = HeadFile.read(paths.head)
    return known if known is not None else _newest_sound(paths)[1]


def _newest_sound(paths: CampaignPaths) -> tuple[Path, Head] | tuple[None, None]:
    for candidate in reversed(backups(paths)):
        if (head := _sound_head(candidate)) is not None:
            return candidate, head
    return None, None


@contextmanager
def with_offer(paths: CampaignPaths) -> Iterator[None]:
    """Let an error about a damaged store say also what a restore gives back."""
    try:
        yield
    except CorruptError as error:
        raise CorruptError(f"{error.sentence} {_offer(paths)}", value=error.value, where=error.where) from error


def _offer(paths: CampaignPaths) -> str:
    """Return what a restore would give back, and which decisions it would lose."""
    candidate, head = _newest_sound(paths)
    if candidate is None or head is None:
        return (
            f"There is no sound backup in {paths.backups}: keep the files as they are, and copy them before anything."
        )
    with closing(_as_it_is(candidate)) as connection:
        kept = _decisions(connection, 0)
    known = HeadFile.read(paths.head)
    of = f" of {known.seq}" if known is not None and known.seq > head.seq else ""
    upto = f", decisions up to {kept[-1]}" if kept else ", no decision"
    lost = _lost_decisions(paths.db, head.seq)
    gone = f"; {', '.join(lost)} would be decided again" if lost else ""
    return f"It holds {head.seq}{of} writes{upto}{gone}. What jobs did since is found again in their folders."


def _decisions(connection: sqlite3.Connection, after: int) -> list[str]:
    sql = "SELECT row_id FROM journal WHERE table_name = 'decision' AND seq > ? GROUP BY row_id ORDER BY min(seq)"
    return [str(row[0]) for row in connection.execute(sql, (after,))]


def _lost_decisions(path: Path, after: int) -> list[str]:
    """Return the decisions that a damaged store still shows after a write; none where it shows nothing."""
    try:
        with closing(connect_to_read(path)) as connection:
            return _decisions(connection, after)
    except (sqlite3.Error, UnicodeError):
        return []


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
            fsync_path(side)
            os.utime(side, (clock.now(), clock.now()))
            side.replace(target)
        finally:
            side.unlink(missing_ok=True)
        fsync_path(paths.backups)
    for old in backups(paths)[:-KEEP]:
        old.unlink()
    return target


def verify_readable(connection: sqlite3.Connection, paths: CampaignPaths, known: Head | None) -> int:
    """Check all of a store as it stands, of this version or an older one.

    Args:
        connection: To it.
        paths: The campaign's files.
        known: A write that it must hold, from `acknowledged`, taken before the connection read anything.

    Returns:
        Its schema version, 0 for one that was never begun.

    Raises:
        CorruptError: A check failed.
        MigrationError: A newer Vigil wrote it.
    """
    version = check_header(connection, paths.db)
    if version:
        _verify_any_version(connection, paths.db)
    if known is not None:
        verify_head(connection, paths.db, known)
    return version


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
    """Go back to the longest backup that passes its checks.

    Side effects: moves the store's files, the loop's checkpoint and backups that failed to `damaged-<time>/`; nothing
    is deleted.

    Raises:
        NotFoundError: No backup passes its checks; nothing was moved.
        StoreError: The lease is not held.
    """
    if not lease.is_held or lease.paths != paths:
        raise StoreError(f"Restoring {paths.name} needs its lease.", what="lease", where=str(paths.lock))
    # What becomes the store is read to its end now, whatever was found before.
    _verified_head.cache_clear()
    candidate, head = _newest_sound(paths)
    if candidate is None or head is None:
        raise NotFoundError(
            f"There is no verified backup in {paths.backups}; nothing was changed.",
            what="backup",
            where=str(paths.backups),
        )
    known = HeadFile.read(paths.head)
    last = max((seq for seq in (_last_seq(paths.db), known.seq if known else None) if seq is not None), default=None)
    longer = backups(paths)[backups(paths).index(candidate) + 1 :]
    moved_to = _move_aside(paths, clock, longer)
    side = paths.root / ".restored.part"
    side.write_bytes(candidate.read_bytes())
    fsync_path(side)
    side.replace(paths.db)
    fsync_path(paths.root)
    lost = None if last is None else max(0, last - head.seq)
    return Restored(backup=candidate, moved_to=moved_to, kept=head.seq, lost=lost)


def _sound_head(candidate: Path) -> Head | None:
    """Return the last write of a backup, or None where it fails its checks."""
    return _verified_head(candidate, *_stamp(candidate))


@lru_cache(maxsize=16)
def _verified_head(candidate: Path, *_stamp: int) -> Head | None:
    try:
        with closing(_as_it_is(candidate)) as connection:
            _verify_any_version(connection, candidate)
            return head_of(connection)
    except (sqlite3.Error, UnicodeError, StoreError):
        return None


def _last_seq(path: Path) -> int | None:
    """Return the last write that a damaged store still shows."""
    if not path.exists():
        return None
    try:
        with closing(connect_to_read(path)) as connection:
            return head_of(connection).seq
    except (sqlite3.Error, UnicodeError):
        # Not UTF-8: SQLite names what is damaged, in its own bytes.
        return None


def _move_aside(paths: CampaignPaths, clock: Clock, others: list[Path]) -> Path:
    """Move what a restore replaces to a folder of its own.

    The head last: killed in between, the store is gone, which everybody notices, and never shorter without a word.
    """
    stamp = datetime.fromtimestamp(clock.now(), UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    folder = paths.root / f"damaged-{stamp}"
    number = 1
    while folder.exists():
        number += 1
        folder = folder.with_name(f"damaged-{stamp}-{number}")
    folder.mkdir()
    parts = [base.with_name(base.name + suffix) for base in (paths.graph, paths.db) for suffix in ("", "-wal", "-shm")]
    for part in (*reversed(parts), *others, paths.head):
        if part.exists():
            part.replace(folder / part.name)
    return folder
