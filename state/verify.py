"""Checks of a store: pages, chain, and rows against their last images.

SQLite's own page check alone missed 79 of 100 one-byte flips (facts/durability.md section 5, design section 2); the
chain and the images notice whatever changes a row. Bytes that belong to no row, such as free space, may change
unnoticed and harm nothing.
"""

import hashlib
import json
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from state.connection import restore_advice
from state.errors import ConfigError, CorruptError
from state.hashing import canonical_json
from state.log import log_debug, passed_over
from state.rows import image, link
from state.tables import JOURNAL_COLUMNS, MIGRATIONS, SQL_TYPES, TABLES, Table


class Head(NamedTuple):
    """The journal's newest row: everything before it follows from its chain."""

    seq: int
    chain: str


_NOTHING = Head(0, "")


def head_of(connection: sqlite3.Connection) -> Head:
    """Return the head of a journal; seq 0 where nothing was written."""
    row = connection.execute("SELECT seq, chain FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
    return Head(*row) if row else _NOTHING


class HeadFile:
    """The newest acknowledged head, kept outside the store: a store that lost its log is a sound store without it.

    Written in place after each commit and not synced by itself: it may be older than the store after a power cut, never
    newer, so it raises no false alarm, and costs a commit microseconds. It is synced where the store is closed.

    Args:
        path: The file; made where there is none.
        store: The store; who may read it may read this.
    """

    _SIZE = 128

    def __init__(self, path: Path, store: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with passed_over("head.mode_not_set", PermissionError):
            os.fchmod(self._descriptor, stat.S_IMODE(store.stat().st_mode))

    @classmethod
    def read(cls, path: Path) -> Head | None:
        """Return what a file holds; None where it is missing, torn or damaged itself, which says nothing.

        Raises:
            ConfigError: It is there and may not be read, so that nobody could tell whether writes are lost.
        """
        try:
            seq, chain, check = path.read_text(encoding="ascii").split()
        except PermissionError as error:
            raise ConfigError(
                f"{path} may not be read, and without it nobody can tell whether the last writes are there; let its"
                " owner give it the permissions that the store beside it has.",
                where=str(path),
            ) from error
        except (OSError, ValueError):
            log_debug("head.not_read")
            return None
        return Head(int(seq), chain) if check == cls._check(seq, chain) and seq.isdecimal() else None

    @staticmethod
    def _check(seq: str, chain: str) -> str:
        return hashlib.sha256(f"{seq} {chain}".encode()).hexdigest()[:16]

    def write(self, head: Head) -> None:
        """Put a head in place of the one before; on a full disk that one stays, which is as true."""
        seq = str(head.seq)
        line = f"{seq} {head.chain} {self._check(seq, head.chain)}".ljust(self._SIZE - 1) + "\n"
        with passed_over("head.not_written", OSError):
            os.pwrite(self._descriptor, line.encode(), 0)

    def close(self) -> None:
        """Sync it and let it go."""
        with passed_over("head.not_synced", OSError):
            os.fsync(self._descriptor)
        os.close(self._descriptor)


def verify(connection: sqlite3.Connection, path: Path) -> int:
    """Check a whole store of this version's schema.

    Returns:
        The journal's last seq, 0 where nothing was ever written.

    Raises:
        CorruptError: Something changed that no writer of ours wrote.
    """
    verify_pages(connection, path)
    last = verify_chain(connection, path)
    verify_rows(connection, path)
    return last


def verify_pages(connection: sqlite3.Connection, path: Path) -> None:
    """Let SQLite check its pages and indexes; the check of indexes costs a fifth more than `quick_check`.

    Raises:
        CorruptError: A page or an index is damaged.
    """
    try:
        said = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(5)")]
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise _corrupt(path, str(error)) from error
    if said != ["ok"]:
        raise _corrupt(path, said[0])


def verify_chain(connection: sqlite3.Connection, path: Path) -> int:
    """Check that each journal row continues the one before.

    Raises:
        CorruptError: A row was changed, removed or added.
    """
    previous, expected = "", 0
    columns = ", ".join(JOURNAL_COLUMNS)
    try:
        for *entry, chain in connection.execute(f"SELECT {columns} FROM journal ORDER BY seq"):  # noqa: S608 - our own names
            expected += 1
            seq, at, epoch, node, table, row_id, row_json = entry
            if seq != expected:
                raise _corrupt(path, f"journal row {expected} is missing")
            if link(previous, (seq, at, epoch, node, table, row_id, row_json)) != chain:
                raise _corrupt(path, f"journal row {seq} is not what was written")
            previous = chain
    except (sqlite3.DatabaseError, UnicodeError) as error:
        raise _corrupt(path, str(error)) from error
    return expected


def verify_head(connection: sqlite3.Connection, path: Path, known: Head) -> None:
    """Check that a journal holds a row that was acknowledged.

    Raises:
        CorruptError: It is shorter, or another row stands there.
    """
    try:
        row = connection.execute("SELECT chain FROM journal WHERE seq = ?", (known.seq,)).fetchone()
        last = head_of(connection).seq
    except sqlite3.OperationalError:
        # No tables at all: the file was emptied, or all that it held stood in a log that is gone.
        row, last = None, 0
    if row is None and known.seq:
        raise _corrupt(path, f"it ends after {last} of at least {known.seq} writes that were acknowledged")
    if row is not None and row[0] != known.chain:
        raise _corrupt(path, f"write {known.seq} is another one than was acknowledged")


def verify_rows(connection: sqlite3.Connection, path: Path) -> None:
    """Check that the tables are as they were made, and each row equals its last image in the journal.

    A request that nobody has dealt with yet has no image: other processes insert it.

    Raises:
        CorruptError: A row differs, is missing, or was never written by us.
    """
    try:
        _verify_tables(connection, path)
        for table in TABLES.values():
            images = dict(_last_images(connection, table))
            for row in _rows(connection, table):
                key = str(row[table.key])
                expected = images.pop(key, None)
                if expected is None and table.name == "request" and row["applied_at"] is None:
                    continue
                if expected is None or not _is_same(table, image(table, row), expected):
                    raise _corrupt(path, f"{table.name} {key} is not what was written")
            for key in images:
                raise _corrupt(path, f"{table.name} {key} is missing")
    except (sqlite3.DatabaseError, UnicodeError, ValueError) as error:
        raise _corrupt(path, str(error)) from error


def _verify_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Check what SQLite does not: a changed name in the schema is a sound schema to it."""
    for table in TABLES.values():
        expected = {column.name: (SQL_TYPES[column.kind], int(not column.is_optional)) for column in table.columns}
        found = {row[1]: (row[2], row[3]) for row in connection.execute(f'PRAGMA table_info("{table.name}")')}
        found.pop("number", None)
        if found != expected:
            raise _corrupt(path, f"the table {table.name} is {'not as it was made' if found else 'missing'}")
    applied = tuple(row[0] for row in connection.execute("SELECT name FROM _sqlite_migrations ORDER BY id"))
    if applied != MIGRATIONS:
        raise _corrupt(path, "the list of migrations is not what was written")


def _last_images(connection: sqlite3.Connection, table: Table) -> Iterator[tuple[str, str]]:
    return connection.execute(
        "SELECT row_id, row_json FROM journal WHERE seq IN"
        " (SELECT max(seq) FROM journal WHERE table_name = ? GROUP BY row_id) ORDER BY seq",
        (table.name,),
    )


def _rows(connection: sqlite3.Connection, table: Table) -> Iterator[dict[str, Any]]:
    cursor = connection.execute(f'SELECT * FROM "{table.name}" ORDER BY number')  # noqa: S608 - our own names
    names = [field[0] for field in cursor.description]
    for row in cursor:
        yield dict(zip(names, row, strict=True))


def _is_same(table: Table, now: str, then: str) -> bool:
    """Compare a row with an image that may be older than some of its columns."""
    if now == then:
        return True
    added = {column.name: column for column in table.columns if column.since > 1}
    if not added:
        return False
    filled = {name: json.loads(column.default or "null") for name, column in added.items()}
    return now == canonical_json({**filled, **json.loads(then)})


def _corrupt(path: Path, found: str) -> CorruptError:
    return CorruptError(f"The store {path} is damaged: {found}. {restore_advice(path)}", value=found, where=str(path))
