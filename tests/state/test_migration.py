"""A store as the first version left it: read as it is, written by other commands, brought up to date by its holder."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from state.clock import FakeClock
from state.errors import MigrationError
from state.journal import json_text, link
from state.lease import Lease
from state.paths import CampaignPaths
from state.reading import open_reader
from state.schema import SCHEMA_VERSION, connect
from state.store import Store, insert_request
from tests.state import samples

APPLIED = {
    "id": "X1",
    "kind": "stop",
    "target": "",
    "by": "ada",
    "reason": "bed",
    "made_at": 40.0,
    "applied_at": 41.0,
    "outcome": "stopping",
}
"""A request as version 1 kept it."""


@pytest.fixture
def old(paths: CampaignPaths, clock: FakeClock, lease: Lease) -> CampaignPaths:
    """A campaign whose file is of version 1, with a belief and a request that was applied."""
    with Store.open(paths, clock, lease) as store:
        store.agent.begin(samples.goal())
        store.knowing.believe(samples.belief("data:train", tag="assumed"))
    connection = connect(paths.db)
    for statement in (
        "DROP INDEX belief_standing",
        "DROP INDEX belief_assumed",
        "ALTER TABLE request DROP COLUMN payload",
        "DELETE FROM _sqlite_migrations WHERE id = 2",
        "PRAGMA user_version=1",
    ):
        connection.execute(statement)
    connection.execute("INSERT INTO request VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)", tuple(APPLIED.values()))
    seq, chain = connection.execute("SELECT seq, chain FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
    entry = (seq + 1, 41.0, 1, "agent", "request", "X1", json_text(APPLIED))
    connection.execute("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*entry, link(chain, entry)))
    connection.close()
    return paths


def indexes(path: Path) -> set[str]:
    with sqlite3.connect(path) as connection:
        found = {str(row[0]) for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    connection.close()
    return found


def test_an_old_file_is_read_with_the_new_column_s_default(old: CampaignPaths) -> None:
    with open_reader(old) as reader:
        assert reader.requests() == [{**APPLIED, "payload": {}}]
        assert [row["subject"] for row in reader.beliefs_about("data:", is_assumed=True)] == ["data:train"]


def test_an_old_file_takes_the_requests_it_has_room_for(old: CampaignPaths) -> None:
    assert insert_request(old, samples.request()).id == "X2"
    with pytest.raises(MigrationError, match="older Vigil; run vigil run FILE once"):
        insert_request(old, samples.request(kind="note", payload={"mode": "11"}))
    with open_reader(old) as reader:
        assert [row["id"] for row in reader.requests()] == ["X1", "X2"]


def test_its_holder_brings_an_old_file_up_to_date_with_everything_in_it(
    old: CampaignPaths, clock: FakeClock, lease: Lease
) -> None:
    insert_request(old, samples.request())
    before: dict[str, Any] = {}
    with open_reader(old) as reader:
        before = {"beliefs": reader.beliefs(), "requests": reader.requests()}
    with Store.open(old, clock, lease) as store:
        assert [request.id for request in store.agent.pending_requests()] == ["X2"]
        assert store.agent.apply_request("X2", "answered yes").payload == {}
    assert {"belief_standing", "belief_assumed"} <= indexes(old.db)
    Store.open(old, clock, lease).close()
    with open_reader(old) as reader:
        assert reader.beliefs() == before["beliefs"]
        assert reader.requests()[0] == before["requests"][0]
        assert reader.select("PRAGMA user_version") == [{"user_version": SCHEMA_VERSION}]
    assert insert_request(old, samples.request(kind="note", payload={"mode": "11"})).payload == {"mode": "11"}
