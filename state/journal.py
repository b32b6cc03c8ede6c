"""The journal: each write's row as it then stood, chained by hash to the write before.

Rows are changed only through `Writer`, which appends the image in the same transaction. Replaying the journal gives
the tables; a changed byte breaks the chain.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_origin

from state.errors import NotFoundError
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
from state.rows import Row, decode, encode, image, link
from state.tables import TABLES, Table

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
    found = []
    for row in rows:
        record = kind.model_validate(decode(table, row, known))
        known.update(((name, row[name]), getattr(record, name)) for name in tuples if name in row)
        found.append(record)
    return found


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

    def find(self, kind: type[AnyRecord], /, **equals: Any) -> list[AnyRecord]:
        """Return the records whose fields have these values, in the order of writing; None asks for nothing."""
        table = TABLE_OF[kind]
        asked = {name: value for name, value in equals.items() if value is not None}
        where = " AND ".join(f'"{table.column(name).name}" = ?' for name in asked) or "1"
        rows = self.select(f'SELECT * FROM "{table.name}" WHERE {where} ORDER BY number', tuple(asked.values()))  # noqa: S608 - our own names
        return records(kind, rows)

    @property
    def changes(self) -> int | None:
        """Rows written through this connection so far; None in a transaction, which may still be undone."""
        return None if self._connection.in_transaction else self._connection.total_changes

    def one(self, kind: type[AnyRecord], /, **equals: Any) -> AnyRecord:
        """Return the first record whose fields have these values.

        Raises:
            NotFoundError: There is none.
        """
        found = self.find(kind, **equals)
        if not found:
            named = " ".join(str(value) for value in equals.values())
            raise NotFoundError(
                f"There is no {TABLE_OF[kind].name} {named}".rstrip() + ".", what=TABLE_OF[kind].name, value=named
            )
        return found[0]

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
