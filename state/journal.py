"""The journal: each write's row as it then stood, chained by hash; rows to records and back, and the checks.

Rows are changed only through `Writer`, which appends the image in the same transaction. Replaying the journal gives
the tables; a changed byte breaks the chain.

SQLite's own page check alone missed 79 of 100 one-byte flips (facts/durability.md section 5, design section 2); the
chain and the images notice whatever changes a row. Bytes that belong to no row, such as free space, may change
unnoticed and harm nothing.
"""

import hashlib
import json
import math
import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_origin

from state.errors import ConfigError, CorruptError, NotFoundError
from state.hashing import canonical_json
from state.log import log_debug, passed_over
from state.records import (
    Action,
    Approval,
    Belief,
    Campaign,
    Commitment,
    Decision,
    GoalVersion,
    Job,
    Measurement,
    Record,
    Request,
    Run,
)
from state.schema import JOURNAL_COLUMNS, MIGRATIONS, SQL_TYPES, TABLES, Column, Table, restore_advice

Row = dict[str, Any]
"""Column name -> what SQLite holds."""

_FLAGS = {0: "false", 1: "true"}
_NOTHING: Mapping[tuple[str, str], Any] = {}


def finite(value: Any) -> Any:
    """Return a JSON value with `NaN`, `Infinity` and `-Infinity` as words: JSON has no such numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def json_text(value: Any) -> str:
    """Return the canonical JSON text of a nested field; non-finite numbers become words."""
    try:
        return canonical_json(value)
    except ValueError:
        return canonical_json(finite(value))


def encode(table: Table, values: Mapping[str, Any]) -> Row:
    """Return the row of a record's values (`model_dump(mode="python")` or a part of it)."""
    return {name: _encoded(table.column(name), value) for name, value in values.items()}


def _encoded(column: Column, value: Any) -> Any:
    if column.kind == "json":
        return json_text(value)
    if value is None:
        return None
    if column.kind == "flag":
        return int(value)
    return float(value) if column.kind == "real" else value


def decode(table: Table, row: Mapping[str, Any], known: Mapping[tuple[str, str], Any] = _NOTHING) -> dict[str, Any]:
    """Return a record's values from a row; `number` is left out, a column that an older file lacks has its default.

    Args:
        table: Where the row is from.
        row: Its columns.
        known: (column, stored text) -> value, for nested texts that were read before.
    """
    values = {}
    for column in table.columns:
        if column.name not in row:
            values[column.name] = json.loads(column.default or "null")
            continue
        stored = row[column.name]
        place = (column.name, stored)
        values[column.name] = known[place] if column.kind == "json" and place in known else _decoded(column, stored)
    return values


def _decoded(column: Column, stored: Any) -> Any:
    if column.kind == "json":
        return json.loads(stored)
    return bool(stored) if column.kind == "flag" else stored


@cache
def _by_name(table: Table) -> tuple[Column, ...]:
    return tuple(sorted(table.columns, key=lambda each: each.name))


def image(table: Table, row: Mapping[str, Any]) -> str:
    """Return the canonical JSON of a whole row."""
    parts = []
    for column in _by_name(table):
        stored = row[column.name]
        if column.kind == "json":
            text = stored
        elif column.kind == "flag":
            text = _FLAGS.get(stored, json.dumps(stored))
        else:
            text = json.dumps(stored, ensure_ascii=False)
        parts.append(f'"{column.name}":{text}')
    return "{" + ",".join(parts) + "}"


def link(previous: str, entry: tuple[int, float, int, str, str, str, str]) -> str:
    """Return the chain value of a journal row: everything in it, and the chain before it.

    Args:
        previous: Chain value of the row before, empty for the first.
        entry: seq, at, epoch, node, table_name, row_id, row_json.
    """
    seq, at, epoch, node, table, row_id, row_json = entry
    text = "\x1f".join((previous, str(seq), repr(at), str(epoch), node, table, row_id, row_json))
    return hashlib.sha256(text.encode()).hexdigest()


AnyRecord = TypeVar("AnyRecord", bound=Record)

TABLE_OF: dict[type[Record], Table] = {
    Campaign: TABLES["campaign"],
    GoalVersion: TABLES["goal"],
    Belief: TABLES["belief"],
    Action: TABLES["action"],
    Job: TABLES["job"],
    Run: TABLES["run"],
    Measurement: TABLES["measurement"],
    Decision: TABLES["decision"],
    Commitment: TABLES["commitment"],
    Approval: TABLES["approval"],
    Request: TABLES["request"],
}
"""Which table holds which record."""


def records(kind: type[AnyRecord], rows: Iterable[Row]) -> list[AnyRecord]:
    """Return the records of rows.

    Tuples are built once for each text that holds them: thousands of beliefs stand on the same twelve fingerprints.
    """
    table = TABLE_OF[kind]
    tuples = [name for name, field in kind.model_fields.items() if get_origin(field.annotation) is tuple]
    known: dict[tuple[str, str], Any] = {}
    built = []
    for row in rows:
        record = kind.model_validate(decode(table, row, known))
        known.update(((name, row[name]), getattr(record, name)) for name in tuples if name in row)
        built.append(record)
    return built


class Rows:
    """Typed reading over one connection.

    Args:
        connection: Where the tables are.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def select(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Row]:
        """Return rows as dictionaries."""
        cursor = self._connection.execute(sql, parameters)
        names = [field[0] for field in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def stored(self, table: Table, /, **equals: Any) -> list[Row]:
        """Return a table's rows whose columns have these values, in the order of writing; None asks for nothing.

        Raises:
            KeyError: There is no such column.
        """
        wanted = {name: value for name, value in equals.items() if value is not None}
        where = " AND ".join(f'"{table.column(name).name}" = ?' for name in wanted) or "1"
        sql = f'SELECT * FROM "{table.name}" WHERE {where} ORDER BY number'  # noqa: S608 - our own names
        return self.select(sql, tuple(wanted.values()))

    def find(self, kind: type[AnyRecord], /, **equals: Any) -> list[AnyRecord]:
        """Return the records whose fields have these values, as `stored` finds them."""
        return records(kind, self.stored(TABLE_OF[kind], **equals))

    @property
    def changes(self) -> int | None:
        """Rows written through this connection so far; None in a transaction, which may still be undone."""
        return None if self._connection.in_transaction else self._connection.total_changes

    def one(self, kind: type[AnyRecord], /, **equals: Any) -> AnyRecord:
        """Return the first record whose fields have these values.

        Raises:
            NotFoundError: There is none.
        """
        rows = self.find(kind, **equals)
        if not rows:
            named = " ".join(str(value) for value in equals.values())
            raise NotFoundError(
                f"There is no {TABLE_OF[kind].name} {named}".rstrip() + ".", what=TABLE_OF[kind].name, value=named
            )
        return rows[0]

    def get(self, kind: type[AnyRecord], key: Any) -> AnyRecord:
        """Return one record by its id.

        Raises:
            NotFoundError: There is none.
        """
        return self.one(kind, **{TABLE_OF[kind].key: key})

    def last(self, kind: type[AnyRecord]) -> AnyRecord | None:
        """Return the record written last, or None."""
        table = TABLE_OF[kind]
        rows = self.select(f'SELECT * FROM "{table.name}" ORDER BY number DESC LIMIT 1')  # noqa: S608 - our own names
        return kind.model_validate(decode(table, rows[0])) if rows else None

    def next_id(self, kind: type[Record]) -> str:
        """Return the id that the next new record gets."""
        table = TABLE_OF[kind]
        return f"{table.letter}{self.next_number(table)}"

    def next_number(self, table: Table) -> int:
        """Return the place of the next row; nothing is ever deleted, so places are not reused."""
        return int(self._connection.execute(f'SELECT coalesce(max(number), 0) + 1 FROM "{table.name}"').fetchone()[0])  # noqa: S608 - our own names


class Writer(Rows):
    """Journaled writing inside one open transaction.

    Args:
        database: The sqlite-utils database over the transaction's connection.
        node: Who writes.
        epoch: The holder's number.
        now: Time of the write, Unix seconds.
    """

    def __init__(self, database: Any, node: str, epoch: int, now: float) -> None:
        super().__init__(database.conn)
        self._database = database
        self._node = node
        self.epoch = epoch
        self.now = now

    def insert(self, record: AnyRecord) -> AnyRecord:
        """Add a record; where its table gives ids and it has none, it gets the next one."""
        table = TABLE_OF[type(record)]
        number = self.next_number(table)
        if table.letter and not getattr(record, table.key):
            record = record.model_copy(update={table.key: f"{table.letter}{number}"})
        self.insert_row(table, number, record.model_dump(mode="json"))
        return record

    def update(self, record: AnyRecord, **changes: Any) -> AnyRecord:
        """Change fields of a record that is there; what is equal already is not written.

        Raises:
            pydantic.ValidationError: A field is unknown or of the wrong type.
        """
        table = TABLE_OF[type(record)]
        changed = type(record).model_validate({**record.model_dump(), **changes})
        before, after = encode(table, record.model_dump(mode="json")), encode(table, changed.model_dump(mode="json"))
        difference = {name: value for name, value in after.items() if value != before[name]}
        if difference:
            self.update_row(table, after, difference)
        return changed

    def insert_row(self, table: Table, number: int, values: Mapping[str, Any]) -> None:
        """Add a row and its image."""
        row = encode(table, values)
        self._database[table.name].insert({"number": number, **row})
        self._append(table, row)

    def update_row(self, table: Table, row: Row, difference: Row) -> None:
        """Change columns of a row and add its new image.

        Args:
            table: Where it is.
            row: The whole row after the change.
            difference: The columns that change.
        """
        name = f'SELECT number FROM "{table.name}" WHERE "{table.key}" = ?'  # noqa: S608 - our own names
        number = self._connection.execute(name, (row[table.key],)).fetchone()[0]
        self._database[table.name].update(number, difference)
        self._append(table, row)

    def _append(self, table: Table, row: Row) -> None:
        last = self._connection.execute("SELECT seq, chain FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
        seq, previous = (last[0] + 1, last[1]) if last else (1, "")
        entry = (seq, float(self.now), self.epoch, self._node, table.name, str(row[table.key]), image(table, row))
        names = ("seq", "at", "epoch", "node", "table_name", "row_id", "row_json", "chain")
        self._database["journal"].insert(dict(zip(names, (*entry, link(previous, entry)), strict=True)))


class Head(NamedTuple):
    """The journal's newest row: everything before it follows from its chain."""

    seq: int
    chain: str


_NO_ROWS = Head(0, "")


def head_of(connection: sqlite3.Connection) -> Head:
    """Return the head of a journal; seq 0 where nothing was written."""
    row = connection.execute("SELECT seq, chain FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
    return Head(*row) if row else _NO_ROWS


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
        faults = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(5)")]
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise _corrupt(path, str(error)) from error
    if faults != ["ok"]:
        raise _corrupt(path, faults[0])


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
        columns = {row[1]: (row[2], row[3]) for row in connection.execute(f'PRAGMA table_info("{table.name}")')}
        columns.pop("number", None)
        if columns != expected:
            raise _corrupt(path, f"the table {table.name} is {'not as it was made' if columns else 'missing'}")
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


def _corrupt(path: Path, fault: str) -> CorruptError:
    return CorruptError(f"The store {path} is damaged: {fault}. {restore_advice(path)}", value=fault, where=str(path))
