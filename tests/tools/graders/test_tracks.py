"""The tracks of the runbooks, trace extraction and documents: their data, and what their graders pay."""

import importlib.util
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

RUNBOOKS = Path(__file__).resolve().parents[3] / "runbooks"
TRACK, DOCUMENTS = RUNBOOKS / "trace_extraction", RUNBOOKS / "documents"
Json = dict[str, Any]


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


GRADER, MAKER, WRITER = (
    module(path) for path in (TRACK / "grade.py", TRACK / "make_data.py", DOCUMENTS / "make_data.py")
)
OF_TASK = {task: module(DOCUMENTS / f"grade_{task}.py") for task in WRITER.TASKS}


def rows(name: str, track: Path = TRACK) -> list[Json]:
    return [json.loads(line) for line in (track / name).read_text().splitlines()]


GOLD = rows("gold.jsonl")


@pytest.mark.parametrize(("maker", "track"), [(MAKER, TRACK), (WRITER, DOCUMENTS)], ids=["traces", "documents"])
def test_the_shipped_data_are_what_the_generator_writes(
    maker: ModuleType, track: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gold.jsonl").write_bytes((TRACK / "gold.jsonl").read_bytes())
    monkeypatch.setattr(maker, "HERE", tmp_path)
    maker.main()
    written = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (track / "data").iterdir()}


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


@pytest.mark.parametrize("task", OF_TASK)
def test_references_of_documents_are_paid_in_full_and_what_was_given_is_not(task: str) -> None:
    for row in rows(f"data/{task}_confirmation.jsonl", DOCUMENTS):
        grade = OF_TASK[task].grade
        assert (grade(row, row["reference"])["strict"], grade(row, row["reference"])["composite"]) == (1, 1)
        assert grade(row, row["prompt"])["strict"] == grade(row, "")["composite"] == 0


def _without_last(text: str) -> str:
    return " ".join(text.split(". ")[:-1]) + "."


OUTPUTS: dict[str, tuple[str, Callable[[Json], str], float, float]] = {
    "padded": ("revision", lambda case: f"{case['reference']} " * 4, 0.0, 0.3),
    "as it was": ("revision", lambda case: case["report"], 0.0, 0.3),
    "a sentence more": ("revision", lambda case: f"{case['reference']} The mayor praised it.", 0.3, 0.9),
    "a figure more": ("revision", lambda case: f"{case['reference']} It cost 7000 euros.", 0.3, 0.9),
    "another doer": ("revision", lambda case: case["reference"].replace(case["facts"][0]["who"][4:], "army"), 0.3, 0.9),
    "a fact less": ("revision", lambda case: _without_last(case["reference"]), 0.3, 0.9),
    "no marker": ("citation", lambda case: case["prompt"].rpartition("\n")[2], 0.0, 0.2),
    "a claim more": ("citation", lambda case: f"{case['reference']} Everybody is pleased [1].", 0.3, 0.9),
    "no such source": ("citation", lambda case: case["reference"].replace("[1]", "[7]"), 0.3, 0.9),
    "another figure": ("citation", lambda case: case["reference"].replace("percent", "percent of 1900"), 0.3, 0.9),
    "a source for all": ("citation", lambda case: case["reference"].replace("[no source]", "[1]"), 0.3, 0.9),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_documents_that_pad_lose_or_invent_stay_in_their_range(name: str) -> None:
    task, answer, least, most = OUTPUTS[name]
    case = rows(f"data/{task}_selection.jsonl", DOCUMENTS)[0]
    assert answer(case) != case["reference"]
    scores = OF_TASK[task].grade(case, answer(case))
    assert least <= scores["composite"] <= most
    assert scores["strict"] == 0


def test_facts_in_another_order_or_with_other_words_between_are_kept() -> None:
    [case, *_] = rows("data/revision_selection.jsonl", DOCUMENTS)
    turned = " ".join(f"{part}." for part in reversed(case["reference"].rstrip(".").split(". ")))
    assert OF_TASK["revision"].grade(case, turned)["strict"] == 1
