"""The schema: named migrations, the file's header, and the refusal of what is newer or not ours."""

import sqlite3
from pathlib import Path
from typing import Any

from state.connection import restore_advice, spoken
from state.errors import CorruptError, MigrationError
from state.tables import APPLICATION_ID, MIGRATIONS, SCHEMA_VERSION, SQL_TYPES, TABLES, Column, Table


def check_header(connection: sqlite3.Connection, path: Path) -> int:
    """Return the schema version of a file, 0 for an empty one.

    Raises:
        CorruptError: The file is a database of something else, or its header was changed.
        MigrationError: A newer Vigil wrote the file.
    """
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    is_empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if is_empty and application_id == 0 and version == 0:
        return 0
    if application_id != APPLICATION_ID:
        raise CorruptError(
            f"{path} is not a store of Vigil: its header says {application_id:#x}, not {APPLICATION_ID:#x}."
            f" {restore_advice(path)}",
            what="application_id",
            value=application_id,
            where=str(path),
        )
    if version > SCHEMA_VERSION:
        raise MigrationError(
            f"{path} was written by a newer Vigil (schema {version}, this one knows {SCHEMA_VERSION}); use that one."
            f" Where none was used, its header is damaged: {restore_advice(path)}",
            what="user_version",
            value=version,
            limit=SCHEMA_VERSION,
            where=str(path),
        )
    if version != (applied := _migrated(connection)):
        raise CorruptError(
            f"The store {path} is damaged: its header says schema {version}, and it was brought to {applied}."
            f" {restore_advice(path)}",
            what="user_version",
            value=version,
            where=str(path),
        )
    return version


def _migrated(connection: sqlite3.Connection) -> int:
    """Return how many migrations a file has seen, 0 where it does not say."""
    named = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = '_sqlite_migrations'").fetchone()[0]
    return int(connection.execute("SELECT count(*) FROM _sqlite_migrations").fetchone()[0]) if named else 0


def migrations() -> Any:
    """Return the named migrations; sqlite-utils is imported here, so that readers never pay for it."""
    from sqlite_utils.migrations import Migrations

    steps = Migrations("vigil")

    @steps(name=MIGRATIONS[0])  # type: ignore[untyped-decorator]  # sqlite-utils has no types here
    def records(database: Any) -> None:
        for table in TABLES.values():
            _create(database, table)
        _create_journal(database)

    @steps(name=MIGRATIONS[1])  # type: ignore[untyped-decorator]  # sqlite-utils has no types here
    def requests_with_payload(database: Any) -> None:
        add_column(database, TABLES["request"], TABLES["request"].column("payload"))
        # What stands is asked for far more often than history, and a claim may have been revised a million times.
        database.execute("CREATE INDEX belief_standing ON belief (subject, claim) WHERE superseded_by = ''")
        database.execute("CREATE INDEX belief_assumed ON belief (number) WHERE tag = 'assumed' AND superseded_by = ''")

    return steps


def migrate(connection: sqlite3.Connection, path: Path, steps: Any = None) -> None:
    """Bring a file to this version's schema, in one transaction with its version.

    Raises:
        LimitExceededError: The disk is full; the file is as it was.
        MigrationError: A migration failed; the file is as it was.
    """
    from sqlite_utils import Database

    connection.execute("BEGIN IMMEDIATE")
    try:
        (steps or migrations()).apply(Database(connection))
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        connection.rollback()
        if (said := spoken(error, path)).what == "disk":
            raise said from error
        raise MigrationError(
            f"{path} could not be brought to schema {SCHEMA_VERSION}: {error}. It is as it was before.",
            where=str(path),
        ) from error


def _create(database: Any, table: Table) -> None:
    """Create one table as version 1 had it; later columns come with their own migration."""
    columns = [column for column in table.columns if column.since == 1]
    database[table.name].create(
        {"number": "INTEGER", **{column.name: SQL_TYPES[column.kind] for column in columns}},
        pk="number",
        not_null={column.name for column in columns if not column.is_optional},
        strict=True,
    )
    for group in table.unique:
        database[table.name].create_index(list(group), unique=True)
    for group in table.indexes:
        database[table.name].create_index(list(group))
    if table.name == "belief":
        # Held by the file itself, whatever a writer forgets: one fresh belief per claim.
        database.execute("CREATE UNIQUE INDEX belief_one_fresh ON belief (subject, claim) WHERE status = 'fresh'")


def _create_journal(database: Any) -> None:
    types = {"seq": int, "at": float, "epoch": int}
    names = ("seq", "at", "epoch", "node", "table_name", "row_id", "row_json", "chain")
    database["journal"].create(
        {name: types.get(name, str) for name in names}, pk="seq", not_null=set(names), strict=True
    )
    database["journal"].create_index(["table_name", "row_id", "seq"])


def add_column(database: Any, table: Table, column: Column) -> None:
    """Add a later version's column, with its default in every row there is."""
    database[table.name].add_column(
        column.name, SQL_TYPES[column.kind], not_null_default=None if column.is_optional else column.default
    )
