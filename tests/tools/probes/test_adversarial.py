"""Bad outputs are bad, and a metric that pays for one is named together with what punishes it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.records import Finding
from tests.tools.probes.texts import HOSTILE, sentence
from tools.graders.spreadsheet_clean.generate import Case, generate_cases
from tools.graders.spreadsheet_clean.grade import grade
from tools.probes.outputs import OUTPUTS, Scores, adversarial_outputs, judge_adversarial

TABLE = "name,amount\nann,12\nbob,34\ncid,56"


def test_a_table_gets_every_kind_of_bad_output() -> None:
    outputs = adversarial_outputs("Clean this.\nann;12", TABLE)
    assert set(outputs) == set(OUTPUTS)
    assert outputs["half"] == TABLE[: len(TABLE) // 2].rstrip()
    assert outputs["duplicate_whole"] == f"{TABLE}\n{TABLE}"
    assert outputs["duplicate_lines"].splitlines()[:4] == ["name,amount", "name,amount", "ann,12", "ann,12"]
    assert outputs["drop_lines"] == "name,amount\nbob,34"
    assert outputs["fabricate"] == f"{TABLE}\ncid,67"
    assert outputs["hide"] == "Notes: name,amount ann,12 bob,34 cid,56"


def test_a_label_has_no_lines_to_drop_and_no_length_to_repeat() -> None:
    assert set(adversarial_outputs("Good or bad?", "good")) == {"empty", "echo", "half"}
    assert "half" not in adversarial_outputs("Good or bad?", "")


def test_a_paragraph_can_be_said_twice() -> None:
    text = sentence(1)
    assert adversarial_outputs("Write.", text)["duplicate_whole"] == f"{text}\n{text}"


@pytest.mark.parametrize(
    ("last", "made_up"), [("one two", "two one"), ("same", "same same"), ("a1", "a2"), ("99", "00"), ("x x", "x x x x")]
)
def test_a_made_up_line_says_something_else(last: str, made_up: str) -> None:
    assert adversarial_outputs("", f"first\n{last}")["fabricate"].splitlines()[-1] == made_up


def test_an_input_that_needs_no_change_is_rightly_repeated() -> None:
    assert "echo" not in adversarial_outputs(f"{TABLE}\n", TABLE)


@given(st.text(), st.text())
def test_no_output_is_the_reference_and_all_are_deterministic(prompt: str, reference: str) -> None:
    outputs = adversarial_outputs(prompt, reference)
    assert all(text.split() != reference.split() for text in outputs.values())
    assert outputs == adversarial_outputs(prompt, reference)
    assert set(outputs) <= set(OUTPUTS)


def test_hostile_texts_are_read_like_any_other() -> None:
    for text in HOSTILE:
        assert text.split() or adversarial_outputs("x", text) == {"echo": "x"}


def judged(case_list: list[Case], signs: dict[str, int]) -> list[Finding]:
    """Return the verdict over the shipped grader's scores for the metrics with a sign."""
    outputs = [adversarial_outputs(case.prompt, case.reference) for case in case_list]

    def scores(texts: list[str | None]) -> dict[str, Scores]:
        grades = [
            {} if text is None else grade({"reference": case.reference, "rows": case.rows}, text)
            for case, text in zip(case_list, texts, strict=True)
        ]
        return {metric: [row.get(metric) for row in grades] for metric in signs}

    by_kind = {kind: scores([row.get(kind) for row in outputs]) for kind in OUTPUTS}
    return judge_adversarial(by_kind, scores([case.reference for case in case_list]), signs)


CASES = list(generate_cases(300, 12, "stress", (6, 9)))


def test_the_labs_composite_as_the_only_reward_is_a_hard_stop_for_duplicates_and_fabrications() -> None:
    [finding] = judged(CASES, {"composite": 1})
    assert (finding.mode, finding.severity) == ("P10", "hard_stop")
    assert set(finding.value["unpunished"]) == {"duplicate_whole", "duplicate_lines", "fabricate"}
    assert "No other metric punishes that." in finding.sentence
    assert "12 of 12 cases" in finding.sentence


def test_a_strict_metric_is_silent() -> None:
    assert judged(CASES, {"strict": 1}) == []


def test_what_another_metric_punishes_is_a_note_that_names_it() -> None:
    [finding] = judged(CASES, {"composite": 1, "extra_rows": -1})
    assert finding.severity == "note"
    assert "All of that is punished by extra_rows." in finding.sentence


def test_what_is_punished_by_different_metrics_is_told_apart() -> None:
    gold = {"a": [1.0], "b": [1.0], "c": [1.0]}
    scores = {
        "echo": {"a": [1.0], "b": [0.0], "c": [1.0]},
        "empty": {"a": [1.0], "b": [1.0], "c": [0.5]},
        "mine": {"a": [1.0], "b": [1.0], "c": [1.0]},
    }
    stops = judge_adversarial(scores, gold, {"a": 1, "b": 0, "c": 1})
    assert [finding.value["unpunished"] for finding in stops] == [["echo", "mine"], ["echo", "mine"]]
    assert "Punished elsewhere: no text by c." in stops[0].sentence
    [note, *_] = judge_adversarial({"echo": scores["echo"], "empty": scores["empty"]}, gold, {"a": 1, "b": 1, "c": 1})
    assert note.severity == "note"
    assert "Punished elsewhere: the input repeated by b; no text by c." in note.sentence


def test_a_metric_that_pays_in_half_of_the_cases_or_has_no_scores_is_silent() -> None:
    assert judge_adversarial({"echo": {"a": [1.0, 0.0]}}, {"a": [1.0, 1.0]}, {"a": 1}) == []
    assert judge_adversarial({"echo": {"a": [None]}}, {"a": [1.0]}, {"a": 1}) == []
    assert judge_adversarial({"echo": {}}, {}, {"a": 1}) == []
    assert judge_adversarial({}, {"a": [1.0]}, {"a": 1}) == []


def test_a_score_within_rounding_of_the_reference_is_as_much() -> None:
    [finding] = judge_adversarial({"echo": {"a": [0.3]}}, {"a": [0.1 + 0.2]}, {"a": 1})
    assert finding.severity == "hard_stop"


def test_metrics_of_which_less_is_better_are_not_judged_as_rewards() -> None:
    assert judge_adversarial({"empty": {"length": [0.0]}}, {"length": [9.0]}, {"length": -1}) == []
