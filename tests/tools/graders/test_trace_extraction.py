"""The track of trace extraction: its data, its twelve notes of our own, and what its grader pays."""

import importlib.util
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TRACK = Path(__file__).resolve().parents[3] / "runbooks" / "trace_extraction"
Json = dict[str, Any]


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"trace_{name}", TRACK / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


GRADER, MAKER = module("grade"), module("make_data")


def rows(name: str) -> list[Json]:
    return [json.loads(line) for line in (TRACK / name).read_text().splitlines()]


GOLD = rows("gold.jsonl")


def test_the_shipped_data_are_what_the_generator_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gold.jsonl").write_bytes((TRACK / "gold.jsonl").read_bytes())
    monkeypatch.setattr(MAKER, "HERE", tmp_path)
    MAKER.main()
    written = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (TRACK / "data").iterdir()}


def test_no_note_stands_in_two_files_and_each_tier_is_drawn_as_often() -> None:
    texts = Counter[str]()
    for path in (TRACK / "data").iterdir():
        texts.update({row["prompt"].partition("] ")[2] for row in rows(f"data/{path.name}")})
    texts.update(row["prompt"].partition("] ")[2] for row in GOLD)
    assert texts.most_common(1)[0][1] == 1
    assert Counter(row["tier"] for row in rows("data/confirmation.jsonl")) == dict.fromkeys(MAKER.TIERS, 50)


def test_the_twelve_notes_are_spread_as_the_labs_were() -> None:
    tiers = Counter(json.loads(row["reference"])["memory_tier"] for row in GOLD)
    assert tiers == {"episodic": 2, "semantic": 3, "procedural": 1, "prospective": 6}
    assert Counter(tag for row in GOLD for tag in row["tags"]) == {"tier": 12, "intent": 6, "aspiration": 4}


@pytest.mark.parametrize("name", ["gold.jsonl", "data/selection.jsonl", "data/confirmation.jsonl"])
def test_references_are_paid_in_full(name: str) -> None:
    for row in rows(name):
        assert set(GRADER.grade(row, row["reference"]).values()) == {1.0}


def test_what_a_pair_rejects_is_wrong_in_the_way_of_its_family() -> None:
    pairs = rows("data/pairs.jsonl")
    assert Counter(row["family"] for row in pairs) == MAKER.PAIR_SHARES
    for row in pairs:
        case = {"prompt": row["prompt"], "reference": row["chosen"]}
        assert GRADER.grade(case, row["chosen"])["strict"] == 1
        paid = GRADER.grade(case, row["rejected"])
        assert paid["strict"] == 0
        assert paid["no_advice" if row["family"] == "coaching" else "tier"] == 0


def changed(**fields: object) -> Callable[[Json], str]:
    return lambda record: json.dumps({**record, **fields})


@pytest.mark.parametrize(
    ("answer", "paid"),
    [
        (lambda _: "", {"dense": 0.0, "strict": 0.0}),
        (lambda _: "I would say it is a memory of work.", {"dense": 0.0}),
        (lambda record: json.dumps([record]), {"dense": 0.0}),
        (lambda record: json.dumps(record)[:-1] + ', "memory_tier": "semantic"}', {"dense": 0.0}),
        (lambda record: "[" * 100_000, {"dense": 0.0}),
        (lambda record: f"```json\n{json.dumps(record)}\n```", {"strict": 1.0}),
        (lambda record: f"Here it is: {json.dumps(record)}", {"dense": 0.0}),
        (changed(note="kind words"), {"parses": 0.0, "strict": 0.0, "tier": 1.0}),
        (changed(memory_tier="semantic", stated_intent=None), {"tier": 0.0, "intent": 0.0, "strict": 0.0}),
        (changed(stated_intent="bring a cake"), {"strict": 0.0, "tier": 1.0}),
        (changed(content_summary="Ines should be told; consider a reminder"), {"no_advice": 0.0, "strict": 0.0}),
        (changed(content_summary=17, timestamp=None), {"summary": 0.0, "copied": 0.8}),
        (changed(source_id="j-999"), {"copied": 0.8, "strict": 0.0}),
    ],
)
def test_outputs_that_want_to_be_paid_for_nothing_are_not(answer: Callable[[Json], str], paid: Json) -> None:
    [case] = [row for row in GOLD if row["id"] == "gold-006"]
    scores = GRADER.grade(case, answer(json.loads(case["reference"])))
    assert {name: scores[name] for name in paid} == pytest.approx(paid)
