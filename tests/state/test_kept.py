"""Beliefs are kept between reads: the same answers as reading anew, whatever was written or undone meanwhile."""

import pytest

from state.records import Belief, Evidence
from state.store import Store
from tests.state import samples


def test_beliefs_read_again_are_the_very_same_until_one_changes(store: Store) -> None:
    for number in range(3):
        store.knowing.believe(samples.belief(f"data:{number}"))
    first = store.read.beliefs()
    again = store.read.beliefs()
    assert again == first
    assert all(ours is theirs for ours, theirs in zip(again, first, strict=True))
    store.knowing.mark("B2", "stale")
    changed = store.read.beliefs()
    assert [belief.status for belief in changed] == ["fresh", "stale", "fresh"]
    assert changed[0] is first[0]
    assert store.read.belief("B2") == changed[1]


def test_a_caller_that_changes_its_list_changes_no_other(store: Store) -> None:
    store.knowing.believe(samples.belief())
    store.read.beliefs().clear()
    assert len(store.read.beliefs()) == 1


def test_what_was_read_in_a_transaction_and_undone_is_forgotten(store: Store) -> None:
    store.knowing.believe(samples.belief())

    def undone() -> None:
        with store.transaction():
            store.knowing.refute("B1", Evidence(kind="person", ref="ada", summary="No."))
            store.knowing.believe(samples.belief("data:new"))
            assert [belief.status for belief in store.read.beliefs()] == ["refuted", "fresh"]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        undone()
    assert [belief.status for belief in store.read.beliefs()] == ["fresh"]
    store.knowing.believe(samples.belief("data:other"))
    assert [belief.subject for belief in store.read.beliefs()] == ["model:parent", "data:other"]


def test_what_stands_leaves_history_out(store: Store) -> None:
    store.knowing.believe(samples.belief(value=1, tag="inferred"))
    store.knowing.believe(samples.belief(value=2))
    store.knowing.believe(samples.belief("data:train"))
    store.knowing.mark("B3", "stale")
    assert [(belief.id, belief.status) for belief in store.read.all_standing()] == [("B2", "fresh"), ("B3", "stale")]
    assert [belief.id for belief in store.read.find(Belief, status="superseded")] == ["B1"]
