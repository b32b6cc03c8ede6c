"""What is believed about the gate and the baseline, from ceilings and the base's cases."""

import pytest

from policies.checks import base_table, baseline_beliefs, ceilings, decode_curves, gate_beliefs
from policies.comparison import CaseTable
from policies.ledger import LEDGER
from state.records import Belief, Measurement
from tests.policies.rehearsal import goal


def ceiling(mean: float | None, use: str = "selection") -> Belief:
    value = {"score": {"mean": mean, "n": 40}, "control": {"mean": 1.0, "n": 40}}
    return Belief(
        id=f"B-{use}", subject=f"harness:main.{use}", claim="ceiling", statement="c", value=value, tag="confirmed"
    )


def measured(score: float, evaluation: str = "E1") -> list[Measurement]:
    return [
        Measurement(
            evaluation=evaluation,
            side="base",
            split="main",
            use="selection",
            case=f"c{number}",
            metrics={"score": score},
            finish_reason="stop",
            prompt_tokens=1,
            output_tokens=1,
            harness="h",
            weights="w",
        )
        for number in range(40)
    ]


def test_before_a_ceiling_is_known_nothing_is_said_about_the_gate() -> None:
    assert gate_beliefs(goal(), [], CaseTable()) == []


def test_a_gate_below_the_ceiling_is_believed_reachable_and_stands_on_the_census() -> None:
    found = gate_beliefs(goal(), [ceiling(1.0)], CaseTable())
    assert [(b.subject, b.claim, b.status) for b in found] == [("gate:score", "below_ceiling", "fresh")]
    assert found[0].premises == ("B-selection",)


def test_what_no_gold_was_measured_for_is_not_said_to_be_below_its_ceiling() -> None:
    table = base_table(measured(0.5), "w", frozenset({"E1"}))
    assert gate_beliefs(goal(), [ceiling(None)], CaseTable()) == []
    found = gate_beliefs(goal(), [ceiling(None)], table)
    assert [(b.claim, b.status) for b in found] == [("reachable_from_base", "fresh"), ("decidable", "fresh")]
    assert found[0].statement.startswith("Within reach of the base: ")
    either = {"conditions": [{"id": "either", "any_of": ["main.score", "main.control"], "min": 0.75}]}
    assert gate_beliefs(goal(gate=either), [ceiling(None)], CaseTable()) == []
    counted = goal(gate={"conditions": [{"id": "n", "metric": "main.score", "statistic": "count", "min": 30}]})
    assert gate_beliefs(counted, [ceiling(1.0)], CaseTable()) == [], "how many cases there are is not known yet"
    said = {b.claim: b.statement for b in gate_beliefs(counted, [ceiling(1.0)], table)}
    assert said["below_ceiling"].startswith("Within reach of the ceiling and base: ")


def test_a_gate_above_the_ceiling_is_refuted_with_the_number_and_the_budget_that_would_do() -> None:
    curve = Belief(
        subject="harness:main.selection",
        claim="decode_curve",
        statement="b",
        value={"score": [[64, 0.5], [96, 0.8], [128, 1.0]]},
        tag="confirmed",
    )
    found = gate_beliefs(goal(), [ceiling(0.5), curve], CaseTable())
    assert [(b.status, b.severity, b.mode) for b in found] == [("refuted", "hard_stop", "P1")]
    assert "0.5" in found[0].statement
    assert "128" in found[0].fix
    assert "96 is the least" in found[0].fix


def test_a_ceiling_too_low_on_the_confirmation_cases_alone_is_found_too() -> None:
    found = gate_beliefs(goal(), [ceiling(1.0), ceiling(0.4, "confirmation")], CaseTable())
    assert any(b.status == "refuted" and b.claim == "below_ceiling" for b in found)


def test_the_base_adds_whether_the_gate_can_be_reached_from_it() -> None:
    table = base_table(measured(0.5), "w", frozenset({"E1"}))
    found = gate_beliefs(goal(), [ceiling(1.0)], table)
    assert ("reachable_from_base", "fresh") in {(b.claim, b.status) for b in found}


def test_measurements_of_another_evaluation_are_not_the_base() -> None:
    table = base_table([*measured(0.5, "old"), *measured(0.7, "E1")], "w", frozenset({"E1"}))
    mean = table.mean("base", "main.score", "selection")
    assert mean is not None
    assert mean.mean == pytest.approx(0.7)


def test_a_base_off_its_expected_score_is_a_hard_stop_and_within_tolerance_it_is_confirmed() -> None:
    expected = goal(baseline={"expected": {"main.score": 0.75, "main.control": 0.9}, "tolerance": 0.05})
    table = base_table(measured(0.5), "w", frozenset({"E1"}))
    off = [b for b in gate_beliefs(expected, [ceiling(1.0)], table) if b.subject == "model:base"]
    assert [(b.claim, b.status, b.severity, b.mode) for b in off] == [
        ("reproduces.main.score", "refuted", "hard_stop", "P12")
    ]
    near = base_table(measured(0.72), "w", frozenset({"E1"}))
    found = [b for b in gate_beliefs(expected, [ceiling(1.0)], near) if b.subject == "model:base"]
    assert [b.status for b in found] == ["fresh"]
    assert baseline_beliefs(goal(), {}) == []


def test_the_lab_rule_stops_0_against_9_of_12_and_passes_9() -> None:
    rule = goal(baseline={"expected": {"main.score": 9 / 12}, "tolerance": 1 / 12})
    for score, status in ((0.0, "refuted"), (9 / 12, "fresh"), (8 / 12, "fresh"), (7 / 12, "refuted")):
        table = base_table(measured(score), "w", frozenset({"E1"}))
        found = [b for b in gate_beliefs(rule, [ceiling(1.0)], table) if b.subject == "model:base"]
        assert [b.status for b in found] == [status], score


def test_ceilings_and_curves_are_read_from_the_beliefs_that_stand() -> None:
    stale = ceiling(0.1).model_copy(update={"status": "stale"})
    assert ceilings([stale, ceiling(0.9)], "selection") == {"main.score": 0.9, "main.control": 1.0}
    assert ceilings([ceiling(None)], "selection") == {"main.control": 1.0}
    assert decode_curves([ceiling(1.0)], "selection") == {}


def test_what_can_no_longer_be_said_of_the_gate_comes_back_stale_with_what_it_was() -> None:
    stood = next(b for b in gate_beliefs(goal(), [ceiling(0.5)], CaseTable()) if b.status == "refuted")
    stood = stood.model_copy(update={"id": "B7", "premises": ("B1",)})
    mended = [ceiling(1.0), stood]
    [said] = [b for b in gate_beliefs(goal(), mended, CaseTable()) if b.subject == stood.subject]
    assert said.status == "fresh", "the same claim, judged again"
    unknown = gate_beliefs(goal(), [stood], CaseTable())
    assert [(b.status, b.id, b.premises) for b in unknown] == [("stale", "", ())]
    assert stood.statement in unknown[0].statement
    assert unknown[0].evidence[0].ref == "B7"


def test_a_stale_ceiling_neither_stops_nor_counts() -> None:
    stale = ceiling(0.5).model_copy(update={"status": "stale"})
    assert gate_beliefs(goal(), [stale], CaseTable()) == []
    assert [b.status for b in gate_beliefs(goal(), [ceiling(0.5)], CaseTable())] == ["refuted"]


def test_what_the_confirmation_cases_can_show_is_believed_before_the_first_run() -> None:
    table = base_table(measured(0.5), "w", frozenset({"E1"}))
    known = [ceiling(1.0), ceiling(1.0, "confirmation")]
    [told] = [b for b in gate_beliefs(goal(), known, table) if b.claim == "decidable"]
    assert (told.status, told.severity, told.value["n"]) == ("fresh", "note", 40)
    assert told.statement.startswith("score: there are 40; ")
    spent = Belief(subject=LEDGER[0], claim=LEDGER[1], statement="", value={"next_alpha": 0.001}, tag="confirmed")
    for read, level in ((spent, "0.001"), (spent.model_copy(update={"value": {"next_alpha": 0.0}}), "0.025")):
        [left] = [b for b in gate_beliefs(goal(), [*known, read], table) if b.claim == "decidable"]
        assert f" at alpha {level}" in left.statement
    fast = goal(gate={"conditions": [{"id": "score", "metric": "main.score", "min": 0.85}]})
    assert "decidable" not in {b.claim for b in gate_beliefs(fast, known, table) if b.severity == "hard_stop"}
    [stop] = [b for b in gate_beliefs(fast, [*known, spent], table) if b.severity == "hard_stop"]
    assert "at alpha 0.001 would be" in stop.statement
    zero = goal(gate={"conditions": [{"id": "zero", "metric": "main.score", "against": "parent", "min": 0}]})
    [never] = [b for b in gate_beliefs(zero, known, table) if b.claim == "decidable"]
    assert (never.status, never.severity, never.mode) == ("refuted", "warning", "P5")
    assert "no number of cases can tell" in never.statement
    assert never.fix
