import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from state.errors import CorruptError, LimitExceededError, MigrationError
from state.journal import TABLE_OF
from state.paths import CampaignPaths
from state.records import Record
from state.schema import (
    APPLICATION_ID,
    JOURNAL_COLUMNS,
    MIGRATIONS,
    SCHEMA_VERSION,
    SQL_TYPES,
    TABLES,
    WRITERS,
    Column,
    add_column,
    check_header,
    connect,
    migrate,
    migrations,
)
from state.store import Store

PLACE = Path("state.db")


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    opened = connect(":memory:")
    yield opened
    opened.close()


@pytest.mark.parametrize("kind", TABLE_OF, ids=lambda kind: kind.__name__)
def test_each_record_field_has_its_column(kind: type[Record]) -> None:
    table = TABLE_OF[kind]
    assert [column.name for column in table.columns] == list(kind.model_fields)
    for column in table.columns:
        annotation = kind.model_fields[column.name].annotation
        assert column.is_optional == (type(None) in getattr(annotation, "__args__", ()))


def test_each_table_of_records_has_one_writing_node() -> None:
    owned = [table for tables in WRITERS.values() for table in tables]
    assert sorted(owned) == sorted(set(TABLES) - {"meta"})


def test_every_table_is_strict_and_typed(connection: sqlite3.Connection) -> None:
    migrate(connection, PLACE)
    strict = dict(connection.execute("SELECT name, strict FROM pragma_table_list"))
    for table in TABLES.values():
        assert strict[table.name] == 1
        found = {row[1]: row[2] for row in connection.execute(f'PRAGMA table_info("{table.name}")')}
        assert found == {"number": "INTEGER", **{each.name: SQL_TYPES[each.kind] for each in table.columns}}
    found = {row[1]: row[2] for row in connection.execute("PRAGMA table_info(journal)")}
    assert tuple(found) == JOURNAL_COLUMNS
    with pytest.raises(sqlite3.IntegrityError, match="cannot store TEXT value in INTEGER column"):
        connection.execute("INSERT INTO goal VALUES (1, 'one', 'c', 'f', '{}', '[]', 1.0)")


def test_the_header_says_whose_file_it_is_and_how_old(connection: sqlite3.Connection) -> None:
    assert check_header(connection, PLACE) == 0
    migrate(connection, PLACE)
    assert check_header(connection, PLACE) == SCHEMA_VERSION
    assert connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    assert [each.name for each in migrations().pending(_database(connection))] == []


def test_there_is_one_migration_per_version(connection: sqlite3.Connection) -> None:
    assert tuple(each.name for each in migrations().pending(_database(connection))) == MIGRATIONS
    assert len(MIGRATIONS) == SCHEMA_VERSION


def test_a_newer_file_is_refused(connection: sqlite3.Connection) -> None:
    migrate(connection, PLACE)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    said = rf"newer Vigil \(schema {SCHEMA_VERSION + 1}, this one knows {SCHEMA_VERSION}\)"
    with pytest.raises(MigrationError, match=said):
        check_header(connection, PLACE)


def test_a_database_of_something_else_is_refused(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE note (text)")
    with pytest.raises(CorruptError, match="not a store of Vigil"):
        check_header(connection, PLACE)


def test_a_migration_that_fails_leaves_the_file_as_it_was(connection: sqlite3.Connection) -> None:
    steps = migrations()

    @steps(name="9999_broken")  # type: ignore[untyped-decorator]  # sqlite-utils has no types here
    def broken(database: object) -> None:
        connection.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(MigrationError, match="no such table: nowhere"):
        migrate(connection, PLACE, steps)
    assert check_header(connection, PLACE) == 0
    assert not connection.in_transaction


def test_a_migration_on_a_full_disk_says_so(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA max_page_count=4")
    with pytest.raises(LimitExceededError, match="is full"):
        migrate(connection, PLACE)
    assert check_header(connection, PLACE) == 0


def test_a_later_column_comes_with_a_default_in_each_row(connection: sqlite3.Connection) -> None:
    migrate(connection, PLACE)
    connection.execute("INSERT INTO meta VALUES (1, 'epoch', '3')")
    add_column(_database(connection), TABLES["meta"], Column("host", since=9, default="here"))
    add_column(_database(connection), TABLES["meta"], Column("until", "real", is_optional=True, since=9))
    assert connection.execute("SELECT * FROM meta").fetchall() == [(1, "epoch", "3", "here", None)]


def test_a_fresh_store_opens_with_the_schema_and_nothing_else(store: Store, paths: CampaignPaths) -> None:
    assert paths.db.exists()
    assert store.read.beliefs() == []


def _database(connection: sqlite3.Connection) -> object:
    from sqlite_utils import Database

    return Database(connection)
