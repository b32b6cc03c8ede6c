"""Beliefs found by indexes, whatever else a store holds, and what was once refuted."""

from typing import Any

import pytest

from state.paths import CampaignPaths
from state.reading import Reader, open_reader
from state.records import Evidence
from state.store import Store
from tests.state import samples

NO = Evidence(kind="person", ref="ada", summary="No.")


@pytest.fixture
def kept(store: Store, paths: CampaignPaths) -> CampaignPaths:
    store.knowing.believe(samples.belief("data:train", value=1, tag="inferred"))
    store.knowing.believe(samples.belief("data:train", value=2, tag="inferred"))
    store.knowing.believe(samples.belief("data:trainer", tag="assumed"))
    store.knowing.believe(samples.belief("model:base"))
    store.knowing.believe(samples.belief("dat", claim="other"))
    store.knowing.mark("B4", "stale")
    store.knowing.refute("B5", NO)
    return paths


def ids(reader: Reader, *arguments: str, **asked: object) -> list[str]:
    return [row["id"] for row in reader.beliefs_about(*arguments, **asked)]  # type: ignore[arg-type]


def test_beliefs_are_found_by_how_their_subject_begins(kept: CampaignPaths) -> None:
    with open_reader(kept) as reader:
        assert ids(reader, "data:") == ["B2", "B3"]
        assert ids(reader, "data:train", with_history=True) == ["B1", "B2", "B3"]
        assert ids(reader) == ["B2", "B3", "B4", "B5"]
        assert ids(reader, with_history=True) == ["B1", "B2", "B3", "B4", "B5"]
        assert ids(reader, "nothing:") == []
        assert reader.beliefs_about("model:") == reader.beliefs("model:base")


def test_beliefs_are_found_by_what_is_wrong_with_them(kept: CampaignPaths) -> None:
    with open_reader(kept) as reader:
        assert ids(reader, statuses=("stale", "refuted")) == ["B4", "B5"]
        assert ids(reader, "d", statuses=("stale", "refuted")) == ["B5"]
        assert ids(reader, is_assumed=True) == ["B3"]
        assert len(ids(reader, most=2)) == 2
        counts = {(row["status"], row["tag"]): row["n"] for row in reader.belief_counts()}
    assert counts == {
        ("fresh", "assumed"): 1, ("fresh", "inferred"): 1, ("refuted", "confirmed"): 1, ("stale", "confirmed"): 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ({"prefix": "data:"}, "belief_standing"),
        ({"is_assumed": True}, "belief_assumed"),
        ({"statuses": ("stale", "refuted")}, "idx_belief_status"),
    ],
)
def test_no_question_reads_the_whole_table(kept: CampaignPaths, asked: dict[str, Any], index: str) -> None:
    said: list[str] = []
    with open_reader(kept) as reader:
        reader._connection.set_trace_callback(said.append)
        reader.beliefs_about(**asked)
        plan = reader.select(f"EXPLAIN QUERY PLAN {said[0]}")
    assert index in str(plan[0]["detail"]), plan


def test_what_was_refuted_once_is_remembered_after_it_was_mended(store: Store, paths: CampaignPaths) -> None:
    store.knowing.believe(samples.belief("gate:a", status="refuted", value={"status": "refuted"}))
    store.knowing.mark("B1", "stale")
    store.knowing.believe(samples.belief("gate:b", value={"status": "refuted"}))
    store.knowing.believe(samples.belief("gate:c"))
    store.knowing.refute("B3", NO)
    with open_reader(paths) as reader:
        found = reader.refuted_ever()
    assert [(row["id"], row["subject"]) for row in found] == [("B1", "gate:a"), ("B3", "gate:c")]
    assert all(row["refuted_at"] > 0 for row in found)


def test_cases_are_counted_by_evaluation_split_and_use(store: Store, paths: CampaignPaths) -> None:
    store.knowing.measure([samples.measurement(f"c{number}") for number in range(3)])
    store.knowing.measure([samples.measurement("c1", evaluation="k3", side="candidate", run="R1")])
    with open_reader(paths) as reader:
        rows = reader.measurement_counts()
    assert [(row["evaluation"], row["side"], row["run"], row["n"]) for row in rows] == [
        ("k2", "base", "", 3),
        ("k3", "candidate", "R1", 1),
    ]


def test_evidence_of_an_earlier_version_says_by_a_field_which_probe_formed_a_belief() -> None:
    for given, detail in (
        ({"kind": "probe", "summary": "Refuted by a stale shard."}, {"refuted_by": "a stale shard"}),
        ({"kind": "probe", "summary": "It was not Refuted by it."}, {}),
        ({"kind": "probe", "summary": "Refuted by x.", "detail": {"n": 1}}, {"n": 1}),
        ({"kind": "file", "summary": "Refuted by x."}, {}),
    ):
        assert Evidence.model_validate({"ref": "p", **given}).detail == detail
    same = Evidence(kind="file", ref="p", summary="s")
    assert Evidence.model_validate(same) == same
