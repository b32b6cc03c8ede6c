"""The store of one campaign: what is true, kept through any crash.

One SQLite file, written by the holder of the lease alone; other processes insert requests (`state/requests.py`) and
read (`state/reading.py`). Each node gets a handle that writes its own tables only, held to it by SQLite's authorizer.
Every write is one transaction with its image in the journal, and checks the lease's epoch inside it.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from sqlite_utils import Database

from state import backup
from state.clock import Clock
from state.connection import configure, connect, connect_to_read, restore_advice, spoken_errors, spoken_sql_errors
from state.errors import CorruptError, LeaseLostError, StoreError
from state.files import sweep
from state.handles import Agent, Deciding, Doing, Knowing
from state.journal import Rows, Writer
from state.lease import Lease, Unshared
from state.paths import CampaignPaths
from state.records import Campaign
from state.schema import check_header, migrate
from state.scope import authorizer
from state.tables import SCHEMA_VERSION, TABLES
from state.verify import Head, HeadFile, head_of, verify_rows
from state.views import Views

BACKUP_EVERY_S = 3600.0
"""Opening makes a backup when the newest is older, so that a crash loop does not push the good ones out."""


class Holder(Protocol):
    """What the store asks of a lease."""

    epoch: int

    @property
    def is_held(self) -> bool:
        """Whether writing is still allowed."""


class Store:
    """A campaign's record, open for writing.

    Args:
        connection: An open, migrated and verified connection.
        place: The file, for messages.
        clock: Time of writes.
        lease: The right to write.
    """

    def __init__(self, connection: sqlite3.Connection, place: Path, clock: Clock, lease: Holder) -> None:
        self._connection = connection
        self._place = place
        self._clock = clock
        self._lease = lease
        self._paths: CampaignPaths | None = None
        self._head: HeadFile | None = None
        self._mutex = threading.RLock()
        self._nodes: list[str] = []
        self._database = Database(connection)
        self._connection.set_authorizer(authorizer(""))
        self.read = Views(self._reading)
        self.knowing = Knowing(self._writing("knowing"))
        self.doing = Doing(self._writing("doing"))
        self.deciding = Deciding(self._writing("deciding"))
        self.agent = Agent(self._writing("agent"), self._reading)

    @classmethod
    def open(cls, paths: CampaignPaths, clock: Clock, lease: Lease) -> Self:
        """Open a campaign's store, checked from end to end, and become its one writer.

        Side effects: creates or migrates the file (after a backup), raises the epoch, makes a backup when the newest
        is older than an hour.

        Raises:
            LeaseLostError: The lease is not held, or is another campaign's.
            MigrationError: A newer Vigil wrote the file, or a migration failed.
            CorruptError: A check failed; the sentence says how to restore.
            LimitExceededError: The disk is full.
        """
        if not lease.is_held or lease.paths != paths:
            raise LeaseLostError(f"Opening {paths.name} needs its lease.", what="lease", where=str(paths.lock))
        _sweep(paths)
        known = backup.acknowledged(paths)
        with backup.with_offer(paths), spoken_errors(paths.db):
            _refuse_missing(paths, known)
            _look(paths, known)
            connection = connect(paths.db)
            try:
                _prepare(connection, paths, clock)
                store = cls(connection, paths.db, clock, lease)
                store._paths = paths
                store._head = HeadFile(paths.head, paths.db)
                store._take_over()
                age_s = backup.newest_age_s(paths, clock)
                # Under a clock that was set back the newest seems to come from the future.
                if age_s is None or not 0 <= age_s < BACKUP_EVERY_S:
                    store.backup()
            except BaseException:
                connection.close()
                raise
        return store

    @classmethod
    def in_memory(cls, clock: Clock) -> Self:
        """Return a store that no other process sees and no crash survives, for tests and rehearsals."""
        place = Path(":memory:")
        connection = connect(str(place))
        migrate(connection, place)
        store = cls(connection, place, clock, Unshared())
        store._take_over()
        return store

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Join several writes into one: all are kept or none. A transaction inside another is a part of it.

        Raises:
            LeaseLostError: Another process has taken the campaign; nothing was written.
            LimitExceededError: The disk is full; nothing was written.
            StoreError: SQLite refused.
        """
        with self._mutex, spoken_sql_errors(self._place):
            if self._connection.in_transaction:
                with self._database.atomic():
                    yield
                return
            # Deferred transactions that read first failed at once in half of all cases with two writers.
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._check_lease()
                yield
                self._connection.execute("COMMIT")
                if self._head is not None:
                    self._head.write(head_of(self._connection))
            finally:
                # After a commit, and where SQLite has rolled back by itself, this does nothing.
                self._connection.rollback()

    def backup(self) -> Path:
        """Make a verified copy now and keep the newest three.

        Raises:
            StoreError: The store is in memory.
            CorruptError: The copy failed its checks, so the store is damaged.
            LimitExceededError: The disk is full.
        """
        if self._paths is None:
            raise StoreError("A store in memory has no backups.", what="backup")
        with self._mutex:
            return backup.backup(self._connection, self._paths, self._clock)

    def close(self) -> None:
        """Close the file; the lease stays with whoever acquired it."""
        self._connection.close()
        if self._head is not None:
            self._head.close()
            self._head = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _reading(self) -> Iterator[Rows]:
        with self._mutex, spoken_errors(self._place):
            yield Rows(self._connection)

    def _writing(self, node: str) -> Callable[[], AbstractContextManager[Writer]]:
        return partial(self._write, node)

    @contextmanager
    def _write(self, node: str) -> Iterator[Writer]:
        """Open a transaction in one node's name: its tables can be written, no others."""
        with self.transaction(), spoken_errors(self._place):
            self._nodes.append(node)
            self._connection.set_authorizer(authorizer(node))
            try:
                yield Writer(self._database, node, self._lease.epoch, self._clock.now())
            finally:
                self._nodes.pop()
                self._connection.set_authorizer(authorizer(self._nodes[-1] if self._nodes else ""))

    def _epoch(self) -> int:
        row = self._connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
        return int(row[0]) if row else 0

    def _check_lease(self) -> None:
        epoch = self._epoch()
        if not self._lease.is_held or epoch != self._lease.epoch:
            raise LeaseLostError(
                f"This process no longer holds the campaign (it is number {self._lease.epoch} of {epoch});"
                " nothing was written.",
                what="epoch",
                value=self._lease.epoch,
                limit=epoch,
                where=str(self._place),
            )

    def _take_over(self) -> None:
        """Raise the epoch, which shuts every earlier holder out, and count the start."""
        self._lease.epoch = self._epoch()
        with self._write("lease") as writer:
            epoch = self._lease.epoch + 1
            writer.epoch = epoch
            meta = TABLES["meta"]
            row = {"name": "epoch", "value": str(epoch)}
            if epoch == 1:
                writer.insert_row(meta, 1, row)
            else:
                writer.update_row(meta, row, {"value": row["value"]})
            for campaign in writer.find(Campaign):
                writer.update(campaign, epoch=epoch, agent_starts=campaign.agent_starts + 1)
        self._lease.epoch = epoch


def _sweep(paths: CampaignPaths) -> None:
    """Delete what killed processes left half written; nobody else who holds the campaign is alive."""
    sweep(paths.root, ".promoted.*")
    sweep(paths.root, ".restored.part")
    sweep(paths.backups, ".*.part*")
    sweep(paths.artifacts, ".*")
    for folder in paths.jobs.glob("*"):
        sweep(folder)


def _refuse_missing(paths: CampaignPaths, known: Head | None) -> None:
    """Refuse to begin anew where a store was lost: its jobs may still be running."""
    is_there = paths.db.exists() and paths.db.stat().st_size > 0
    if not is_there and (known is not None or backup.backups(paths)):
        raise CorruptError(
            f"The store {paths.db} is gone or empty, but there are backups of it. {restore_advice(paths.db)}",
            where=str(paths.db),
        )


def _look(paths: CampaignPaths, known: Head | None) -> None:
    """Check a file as it is; read-only, since a writer drops what it cannot read of the log, and with it what was."""
    if not paths.db.exists() or paths.db.stat().st_size == 0:
        return
    with closing(connect_to_read(paths.db)) as connection:
        backup.verify_readable(connection, paths, known)


def _prepare(connection: sqlite3.Connection, paths: CampaignPaths, clock: Clock) -> None:
    """Bring a checked file to this version."""
    version = check_header(connection, paths.db)
    configure(connection)
    if 0 < version < SCHEMA_VERSION:
        backup.backup(connection, paths, clock)
    if version < SCHEMA_VERSION:
        migrate(connection, paths.db)
        verify_rows(connection, paths.db)
