"""What vigil-audit.yaml says of evaluations, and what a harness file says of itself."""

from pathlib import Path
from typing import Any

import pytest

from tests.tools.probes.looks import look, of, only, project, settings, why_not
from tools.probes.evaluations import gold_of


def evaluated(folder: Path, rows: list[Any], **values: Any) -> Path:
    project(folder, cases_jsonl=rows, notes_txt="no JSON\n")
    return settings(folder, evaluations=[{"name": "e", "data": "cases.jsonl", "max_tokens": 100, **values}])


def counted(*tokens: int) -> list[dict[str, Any]]:
    return [{"prompt": f"case {n}, please", "reference": "x", "tokens": size} for n, size in enumerate(tokens)]


def test_a_budget_that_shows_every_gold_is_no_finding(tmp_path: Path) -> None:
    found = look(evaluated(tmp_path / "p", counted(*[90] * 40), tokens_field="tokens", gate={"min": 0.9}))
    assert found.report.findings == []
    assert {"P1", "P5", "8"} <= set(found.report.checked)


def test_cut_golds_are_a_note_where_the_gate_is_within_reach_and_a_warning_where_most_are_cut(tmp_path: Path) -> None:
    one = only(
        look(evaluated(tmp_path / "a", counted(*[90] * 36, *[300] * 4), tokens_field="tokens", gate={"min": 0.8})), "P1"
    )
    assert (one.severity, "4 of 40 reference answers of e are cut" in one.sentence) == ("note", True)
    two = only(
        look(evaluated(tmp_path / "b", counted(*[90] * 10, *[300] * 30), tokens_field="tokens", gate={"min": 0.2})),
        "P1",
    )
    assert (two.severity, "within reach" in two.sentence) == ("warning", True)
    three = only(look(evaluated(tmp_path / "c", counted(*[90] * 30, *[300] * 10), tokens_field="tokens")), "P1")
    assert (three.severity, "no gate is stated" in three.sentence) == ("warning", True)


def test_a_score_of_parts_is_held_against_what_the_parts_can_score(tmp_path: Path) -> None:
    rows = counted(*[201] * 40)
    asked = {"tokens_field": "tokens", "score": "share"}
    found = only(look(evaluated(tmp_path / "p", rows, gate={"min": 0.75}, **asked)), "P1")
    assert found.severity == "hard_stop"
    assert (found.value["ceiling"], found.value["smallest_max_tokens"]) == (0.5, 150)
    assert only(look(evaluated(tmp_path / "q", rows, gate={"min": 0.5}, **asked)), "P1").severity == "warning"


def test_a_gain_is_added_to_its_base_where_there_is_room(tmp_path: Path) -> None:
    rows = counted(*[90] * 20, *[300] * 20)
    gate = {"base": 0.4, "gain": 0.25}
    found = only(look(evaluated(tmp_path / "p", rows, tokens_field="tokens", gate=gate)), "P1")
    assert found.value["gate"] == pytest.approx(0.65)


def test_a_count_that_some_cases_lack_is_told(tmp_path: Path) -> None:
    rows = [*counted(5, 6), {"prompt": "a third", "reference": "x", "tokens": "7"}]
    found = look(evaluated(tmp_path / "p", rows, tokens_field="tokens"))
    assert "Not every case of e has a whole number above 0 under `tokens`" in only(found, "8").sentence
    assert "lacks `tokens`" in why_not(found, "P1")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"data": "gone.jsonl"}, "The data of e, gone.jsonl, are no file here"),
        ({"data": "notes.txt"}, "hold no case: no line is a JSON object"),
        ({"gold_field": "gold"}, "3 of 3 cases of e have no `gold` (first: line 1)"),
        ({"outputs": "gone.jsonl"}, "the outputs of e, hold no text"),
        ({"outputs": "cases.jsonl", "output_field": "said"}, "the outputs of e, hold no text"),
    ],
)
def test_files_and_fields_that_are_not_there_are_told(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    found = look(evaluated(tmp_path / "p", counted(5, 6, 7), **values))
    assert said in only(found, "8").sentence


def test_cases_without_reference_answers_have_no_ceiling(tmp_path: Path) -> None:
    found = look(evaluated(tmp_path / "p", [{"prompt": f"say {n} times"} for n in range(9)]))
    assert "evaluation:e has no reference answers" in why_not(found, "P1")


@pytest.mark.parametrize(
    ("data", "field", "gold"),
    [
        ({"reference": "r"}, None, "r"),
        ({"answer": 42}, None, "42"),
        ({"answer": True}, None, None),
        ({"reference": "", "completion": "c"}, None, "c"),
        ({"gold": ""}, "gold", ""),
        ({"chosen": [{"role": "assistant", "content": "a"}]}, None, "a"),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, None, "a"),
        ({"messages": [{"role": "user", "content": "q"}]}, None, None),
        ({"reference": "r"}, "gold", None),
        ({}, None, None),
    ],
)
def test_the_reference_answer_is_found_under_its_usual_names(
    data: dict[str, Any], field: str | None, gold: str | None
) -> None:
    assert gold_of(data, field) == gold


@pytest.mark.parametrize(
    ("n", "gate", "modes"),
    [
        (40, {"min": 0.85}, []),
        (12, {"min": 0.85}, ["P5"]),
        (3, {"min": 1.0}, ["P5"]),
        (40, {"base": 0.3, "gain": 0.2}, []),
        (40, {"base": 0.3, "gain": 0.05}, ["P5"]),
        (40, {"gain": 0.01}, ["P5"]),
        (40, {"base": 0.9, "gain": 0.2}, ["4"]),
        (40, {"base": 0.9}, []),
    ],
)
def test_a_gate_is_held_against_its_room_and_its_number_of_cases(
    tmp_path: Path, n: int, gate: dict[str, float], modes: list[str]
) -> None:
    found = look(evaluated(tmp_path / "p", counted(*[50] * n), tokens_field="tokens", gate=gate))
    assert [row.mode for row in found.report.sorted_findings] == modes


def test_the_number_of_cases_that_would_do_is_named(tmp_path: Path) -> None:
    found = only(look(evaluated(tmp_path / "p", counted(*[50] * 12), gate={"min": 0.85})), "P5")
    assert found.value["cases_needed"] == 19
    assert "even 12 of 12 right is compatible with a true score of 0.779" in found.sentence
    gain = only(look(evaluated(tmp_path / "q", counted(*[50] * 40), gate={"gain": 0.05})), "P5")
    assert (gain.value["p"], gain.value["cases_needed"]) == (0.25, 100)


def test_outputs_that_loop_are_told_and_varied_ones_are_not(tmp_path: Path) -> None:
    rows = [{"prompt": f"list {n}", "reference": f"- item {n}\n- thing {n * 3}\n- piece {n * 7}"} for n in range(12)]
    folder = evaluated(tmp_path / "p", rows, outputs="said.jsonl")
    project(folder, said_jsonl=[{"response": f"- loop {n}\n" * 20} for n in range(12)])
    found = only(look(folder), "1")
    assert found.severity == "hard_stop"
    assert "12 outputs of e have collapsed beside the 12 reference answers" in found.sentence
    project(folder, said_jsonl=[{"messages": [{"role": "assistant", "content": r["reference"]}]} for r in rows])
    assert "1" in look(folder).report.checked
    assert of(look(folder), "1") == []


def test_outputs_without_references_or_outside_the_project_are_not_checked(tmp_path: Path) -> None:
    folder = evaluated(tmp_path / "p", [{"prompt": "say it"}], outputs="../said.jsonl")
    assert "lead outside" in why_not(look(folder), "1")
    folder = evaluated(tmp_path / "q", [{"prompt": "say it", "output": "it"}], outputs="cases.jsonl")
    assert "no reference answers to hold" in why_not(look(folder), "1")


HARNESS = {"max_tokens": 10, "gate": {"metric": "a.b", "min": 0.9}}


def test_a_harness_file_is_judged_by_its_own_count(tmp_path: Path) -> None:
    cases = [{"rows": 2, "gold_tokens": 8 + n, "rows_counted_at_10": 2 if n < 3 else 1} for n in range(10)]
    found = only(look(project(tmp_path / "p", harness_json={**HARNESS, "cases": cases})), "P1")
    assert "3/10 = 0.3" in found.sentence
    assert "reachable is 15 (9 of 10 references whole), counted as `gold_tokens` - 1" in found.sentence
    bare = [{"gold_tokens": 9, "gold_tokens_without_last_newline": 8} for _ in range(10)]
    assert of(look(project(tmp_path / "q", harness_json={**HARNESS, "cases": bare})), "P1") == []


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"max_tokens": 5, "cases": {}},
        {"max_tokens": 5, "cases": []},
        {"max_tokens": 0, "cases": [{"gold_tokens": 5}]},
        {"max_tokens": 5, "cases": [{"gold_tokens": 5}, {}]},
        '{"max_tokens": 5, "cases": [',
        '{"max_tokens": 5, "cases": [7]}',
    ],
)
def test_other_json_is_no_harness_file(tmp_path: Path, value: Any) -> None:
    folder = project(tmp_path / "p", harness_json=value, data__train_jsonl=[{"text": "a text"}])
    assert "P1" not in look(folder).report.checked


def test_a_harness_without_a_gate_tells_what_it_cuts(tmp_path: Path) -> None:
    value = {"max_tokens": 5, "gate": {"min": True}, "cases": [{"gold_tokens": 9}] * 4}
    assert only(look(project(tmp_path / "p", harness_json=value)), "P1").severity == "warning"
