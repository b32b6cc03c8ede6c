import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.clock import FakeClock
from state.errors import CorruptError, StoreError
from state.journal import decode, encode, image, verify
from state.records import Evidence
from state.schema import TABLES, Column
from state.store import Store
from tests.state import samples

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, width=32) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
SUBJECTS = st.sampled_from(["model:parent", "data:train"])
CLAIMS = st.sampled_from(["ceiling", "is"])
STATUSES = st.sampled_from(["fresh", "stale", "refuted", "contradicted"])

STEPS = st.one_of(
    st.tuples(st.just("believe"), SUBJECTS, CLAIMS, VALUES, STATUSES),
    st.tuples(st.just("mark"), st.integers(1, 6), STATUSES),
    st.tuples(st.just("refute"), st.integers(1, 6)),
    st.tuples(st.just("act"), st.integers(1, 3), st.sampled_from(["intend", "finish", "fail"])),
    st.tuples(st.just("decide"), st.text(max_size=3), st.booleans()),
    st.tuples(st.just("measure"), st.integers(1, 3)),
    st.tuples(st.just("answer"), st.sampled_from(["yes", "no"])),
)


def take(store: Store, step: tuple[Any, ...]) -> None:
    """Take one step; what the store refuses is part of the game."""
    with suppress(StoreError):
        _take(store, *step)


def _take(store: Store, what: str, *given_: Any) -> None:
    if what == "believe":
        subject, claim, value, status = given_
        premises = ("B1",) if claim == "is" else ()
        store.knowing.believe(samples.belief(subject, claim, value, status=status, premises=premises))
    elif what == "mark":
        store.knowing.mark(f"B{given_[0]}", given_[1])
    elif what == "refute":
        store.knowing.refute(f"B{given_[0]}", Evidence(kind="probe", ref="P1", summary="No."))
    elif what == "act":
        store.doing.intend(samples.action(f"k{given_[0]}"))
        if given_[1] != "intend":
            getattr(store.doing, given_[1])(f"k{given_[0]}", {"n": 1})
    elif what == "decide":
        store.deciding.decide(samples.decision(given_[0]), run=samples.run() if given_[1] else None)
    elif what == "measure":
        store.knowing.measure(samples.measurement(f"c{index}") for index in range(given_[0]))
    else:
        store.agent.ask(samples.approval())
        store.agent.answer("Q1", given_[0], "ada")


@contextmanager
def played(steps: list[tuple[Any, ...]]) -> Iterator[tuple[Store, sqlite3.Connection]]:
    """A store in memory after some steps, its connection free of the authorizer."""
    with Store.in_memory(FakeClock()) as store:
        store.agent.begin(samples.goal())
        for step in steps:
            take(store, step)
        store._connection.set_authorizer(None)
        yield store, store._connection


def tables_of(connection: sqlite3.Connection) -> dict[tuple[str, str], str]:
    found = {}
    for table in TABLES.values():
        cursor = connection.execute(f'SELECT * FROM "{table.name}"')  # noqa: S608 - our own names
        names = [field[0] for field in cursor.description]
        for row in cursor:
            values = dict(zip(names, row, strict=True))
            found[table.name, str(values[table.key])] = image(table, values)
    return found


@given(st.lists(STEPS, max_size=12))
@settings(max_examples=60, deadline=None)
def test_replaying_the_journal_gives_the_tables(steps: list[tuple[Any, ...]]) -> None:
    with played(steps) as (_, connection):
        replayed = {
            (table, row_id): row_json
            for table, row_id, row_json in connection.execute(
                "SELECT table_name, row_id, row_json FROM journal ORDER BY seq"
            )
        }
        assert replayed == tables_of(connection)
        assert verify(connection, Path("memory")) == connection.execute("SELECT max(seq) FROM journal").fetchone()[0]


@given(st.lists(STEPS, max_size=12))
@settings(max_examples=60, deadline=None)
def test_at_most_one_belief_per_claim_is_fresh_and_the_newest_stands(steps: list[tuple[Any, ...]]) -> None:
    with played(steps) as (store, _):
        for place in {(belief.subject, belief.claim) for belief in store.read.beliefs()}:
            beliefs = [b for b in store.read.beliefs() if (b.subject, b.claim) == place]
            assert sum(belief.status == "fresh" for belief in beliefs) <= 1
            standing = [belief.id for belief in beliefs if not belief.superseded_by]
            assert standing == [belief.id for belief in beliefs[-len(standing) :]]
            assert 1 <= len(standing) <= 2, "two only where they contradict each other"


@given(st.lists(STEPS, min_size=1, max_size=6), st.data())
@settings(max_examples=150, deadline=None)
def test_any_changed_byte_of_an_image_breaks_the_chain(steps: list[tuple[Any, ...]], data: st.DataObject) -> None:
    with played(steps) as (_, connection):
        rows = connection.execute("SELECT seq, row_json FROM journal").fetchall()
        seq, text = data.draw(st.sampled_from(rows))
        raw = bytearray(text.encode())
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
        connection.execute("UPDATE journal SET row_json = CAST(? AS TEXT) WHERE seq = ?", (bytes(raw), seq))
        with pytest.raises(CorruptError):
            verify(connection, Path("memory"))


@given(VALUES, st.none() | st.floats(allow_nan=False, allow_infinity=False))
@settings(deadline=None)
def test_a_row_and_its_image_say_what_the_record_says(value: Any, cost: float | None) -> None:
    for record, table in (
        (samples.belief(value=value), TABLES["belief"]),
        (samples.run(recipe={"x": value}, cost_s_actual=cost, bucket="B"), TABLES["run"]),
        (samples.action(is_safe_to_retry=False), TABLES["action"]),
    ):
        row = encode(table, record.model_dump(mode="json"))
        assert json.loads(image(table, row)) == json.loads(json.dumps(decode(table, row)))
        again = type(record).model_validate(decode(table, row))
        assert encode(table, again.model_dump(mode="json")) == row


def test_a_row_of_an_older_file_lacks_a_column_and_gets_its_default() -> None:
    table = replace(TABLES["meta"], columns=(*TABLES["meta"].columns, Column("n", "integer", since=2, default="7")))
    assert decode(table, {"name": "epoch", "value": "1"}) == {"name": "epoch", "value": "1", "n": 7}
