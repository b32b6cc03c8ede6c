from dataclasses import replace

import pytest

from state import schema
from state.clock import FakeClock
from state.errors import CorruptError
from state.journal import verify
from state.lease import Lease
from state.paths import CampaignPaths
from state.records import Request
from state.schema import TABLES, Column, connect
from state.store import Store, insert_request
from tests.state import samples


@pytest.fixture
def filled(store: Store, paths: CampaignPaths) -> CampaignPaths:
    """A closed store with a row in each table."""
    store.agent.begin(samples.goal())
    store.knowing.believe(samples.belief(value=1))
    store.knowing.believe(samples.belief(value=2))
    store.knowing.measure([samples.measurement()])
    store.deciding.decide(samples.decision(), [samples.commitment()], samples.run())
    store.doing.intend(samples.action())
    store.doing.record_job(samples.job())
    store.agent.ask(samples.approval())
    store.close()
    return paths


def tamper(paths: CampaignPaths, statement: str) -> None:
    """Change a store behind its back."""
    connection = connect(paths.db)
    connection.execute(statement)
    connection.close()


def check(paths: CampaignPaths) -> int:
    connection = connect(paths.db)
    try:
        return verify(connection, paths.db)
    finally:
        connection.close()


def test_a_store_that_nobody_touched_passes(filled: CampaignPaths) -> None:
    assert check(filled) == 13


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE belief SET tag = 'assumed' WHERE id = 'B2'", "belief B2 is not what was written"),
        ("UPDATE action SET is_safe_to_retry = 2", "action k1 is not what was written"),
        ("UPDATE run SET bucket = 'A'", "run R1 is not what was written"),
        ("DELETE FROM decision", "decision D1 is missing"),
        ("INSERT INTO meta VALUES (2, 'own', '1')", "meta own is not what was written"),
        ("UPDATE journal SET row_json = replace(row_json, '0.5', '0.6')", "journal row 7 is not what was written"),
        ("UPDATE journal SET at = at + 1 WHERE seq = 4", "journal row 4 is not what was written"),
        ("UPDATE journal SET node = 'doing' WHERE seq = 2", "journal row 2 is not what was written"),
        ("DELETE FROM journal WHERE seq = 5", "journal row 5 is missing"),
        ("DELETE FROM journal WHERE seq = 13", "approval Q1 is not what was written"),
        ("UPDATE campaign SET epoch = 9", "campaign night is not what was written"),
        ("UPDATE _sqlite_migrations SET name = 'x' WHERE id = 1", "the list of migrations is not what was written"),
        ("UPDATE goal SET spec = '{'", "goal 1 is not what was written"),
        ("UPDATE journal SET row_id = cast(x'ff' AS TEXT) WHERE seq = 4", "Could not decode to UTF-8"),
        ("UPDATE job SET kind = cast(x'ff' AS TEXT)", "Could not decode to UTF-8"),
    ],
)
def test_what_changes_behind_the_stores_back_is_named(filled: CampaignPaths, statement: str, found: str) -> None:
    tamper(filled, statement)
    with pytest.raises(CorruptError, match=f"{found}.*vigil run --restore"):
        check(filled)


def test_opening_a_changed_store_is_refused(filled: CampaignPaths, clock: FakeClock, lease: Lease) -> None:
    tamper(filled, "UPDATE belief SET statement = 'All is well.'")
    with pytest.raises(CorruptError, match="belief B1 is not what was written"):
        Store.open(filled, clock, lease)


def test_a_request_has_an_image_once_it_was_dealt_with(paths: CampaignPaths, clock: FakeClock, lease: Lease) -> None:
    Store.open(paths, clock, lease).close()
    insert_request(paths, samples.request())
    with Store.open(paths, clock, lease) as store:
        store.agent.apply_request("X1", "answered yes")
    assert check(paths) == 3
    tamper(paths, "UPDATE request SET outcome = 'answered no'")
    with pytest.raises(CorruptError, match="request X1"):
        check(paths)


def test_a_changed_name_in_the_schema_is_noticed(filled: CampaignPaths) -> None:
    data = filled.db.read_bytes()
    filled.db.write_bytes(data.replace(b'"is_safe_to_retry"', b'"is_safe_to_retrx"', 1))
    with pytest.raises(CorruptError, match="the table action is not as it was made"):
        check(filled)


def test_a_damaged_page_is_named(filled: CampaignPaths) -> None:
    data = bytearray(filled.db.read_bytes())
    data[4096 : 2 * 4096] = bytes(4096)
    filled.db.write_bytes(bytes(data))
    with pytest.raises(CorruptError, match=r"is damaged"):
        check(filled)


def test_a_page_that_belongs_to_nothing_is_named(filled: CampaignPaths) -> None:
    tamper(filled, "CREATE INDEX own ON belief (fix)")
    connection = connect(filled.db)
    connection.execute("PRAGMA writable_schema=ON")
    connection.execute("DELETE FROM sqlite_master WHERE name = 'own'")
    connection.close()
    with pytest.raises(CorruptError, match="never used"):
        check(filled)


def test_an_overwritten_header_is_no_database(filled: CampaignPaths, clock: FakeClock, lease: Lease) -> None:
    data = filled.db.read_bytes()
    filled.db.write_bytes(bytes(100) + data[100:])
    with pytest.raises(CorruptError, match=r"not a database.*vigil run --restore"):
        Store.open(filled, clock, lease)


def test_an_image_older_than_a_column_is_filled_with_its_default(
    filled: CampaignPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    tamper(filled, "ALTER TABLE meta ADD COLUMN host TEXT NOT NULL DEFAULT 'here'")
    added = Column("host", since=2, default='"here"')
    meta = replace(TABLES["meta"], columns=(*TABLES["meta"].columns, added))
    monkeypatch.setitem(schema.TABLES, "meta", meta)
    assert check(filled) == 13
    tamper(filled, "UPDATE meta SET host = 'there'")
    with pytest.raises(CorruptError, match="meta epoch"):
        check(filled)


def test_a_check_that_cannot_read_the_tables_says_so(filled: CampaignPaths) -> None:
    tamper(filled, "DROP TABLE job")
    with pytest.raises(CorruptError, match="the table job is missing"):
        check(filled)
    tamper(filled, "DROP TABLE journal")
    with pytest.raises(CorruptError, match="no such table: journal"):
        check(filled)


def test_a_request_without_outcome_may_be_any(filled: CampaignPaths) -> None:
    insert_request(filled, Request(kind="stop", by="ada"))
    assert check(filled) == 13
