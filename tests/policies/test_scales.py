"""Percent and counts judged by their declared range: the same decisions as the shares they stand for, in their unit."""

from typing import Any

import pytest

from policies.checks import beyond_reach, least_cases, reachability
from policies.comparison import CaseTable, Mean, Noise, Scale, scales_of
from policies.gate import judge_condition, judge_gate
from policies.recipes import first_recipe
from policies.target import find_target
from policies.verdict import BucketVerdict, RunEvidence, could_tell, judge_run
from state.goal import Condition, Gate
from state.records import Finding
from tests.policies.lab import ones, table
from tests.policies.test_recipes import goal

LOW, HIGH = -50.0, 150.0
"""A range that begins below zero, so that a zero taken for its lower end would show."""
WIDTH = HIGH - LOW
RANGES = {"x": (LOW, HIGH)}

DENSE = [0.2 + 0.6 * (case % 11) / 10 for case in range(80)]
BETTER = [min(1.0, score + (0.15 if case % 3 else -0.05)) for case, score in enumerate(DENSE)]
SIDES = {
    "0/1": (ones(30, 80), [*ones(58, 79), 0.0]),
    "dense": (DENSE, BETTER),
    "lost": (ones(60, 80), ones(20, 80)),
    "same": (ones(70, 80), ones(70, 80)),
}
ASKED: dict[str, dict[str, Any]] = {
    "at least": {"min": 0.6},
    "at most": {"max": 0.9},
    "gain": {"against": "parent", "min": 0.1},
    "no worse": {"against": "parent", "min": 0.0, "margin": 0.1},
    "plain": {"against": "base", "min": 0.05, "test": "plain", "reason": "few cases"},
    "missed by none": {"min": 0.0},
}


def put(score: float) -> float:
    return LOW + WIDTH * score


def in_unit(asked: dict[str, Any]) -> dict[str, Any]:
    """Return what is asked of a share, asked in the range's unit."""
    is_value = asked.get("against", "value") == "value"
    number = put if is_value else lambda each: WIDTH * each
    return {key: number(each) if key in {"min", "max", "margin"} else each for key, each in asked.items()}


def both(sides: str) -> tuple[CaseTable, CaseTable]:
    """Return scores as shares, and in the range's unit."""
    start, run = SIDES[sides]
    shares = table(base={"s.x": start}, parent={"s.x": start}, candidate={"s.x": run})
    put_on = {name: [put(each) for each in scores] for name, scores in (("start", start), ("run", run))}
    scaled = table(base={"s.x": put_on["start"]}, parent={"s.x": put_on["start"]}, candidate={"s.x": put_on["run"]})
    return shares, scaled.model_copy(update={"scales": scales_of(RANGES)})


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_declared_range_gives_the_decisions_of_the_shares_and_its_own_numbers(
    sides: str, name: str, noise: float
) -> None:
    asked = {"id": "x", "metric": "s.x", **ASKED[name]}
    ours, theirs = both(sides)
    if noise:
        ours, theirs = (
            each.model_copy(update={"noise": {"s.x": Noise(sd=sd, n=80)}})
            for each, sd in ((ours, noise), (theirs, WIDTH * noise))
        )
    share = judge_condition(Condition.model_validate(asked), ours, 0.05)
    scaled = judge_condition(Condition.model_validate(in_unit(asked)), theirs, 0.05)
    assert (scaled.decided, scaled.label, scaled.method) == (share.decided, share.label, share.method)
    assert scaled.cases_needed == share.cases_needed
    assert scaled.p == pytest.approx(share.p) if share.p is not None else scaled.p is None
    number = put if share.against == "value" else lambda each: WIDTH * each
    for one, other in ((scaled.estimate, share.estimate), (scaled.low, share.low), (scaled.high, share.high)):
        assert one is not None
        assert other is not None
        assert one == pytest.approx(number(other), abs=1e-6)
    assert scaled.slack == pytest.approx(share.slack)


@pytest.mark.parametrize("sides", SIDES)
def test_a_run_has_the_bucket_that_its_shares_have(sides: str) -> None:
    gates = [
        Gate(conditions=(Condition.model_validate({"id": "x", "metric": "s.x", **asked}),), meaningful_delta=delta)
        for asked, delta in (({"min": 0.8}, 0.1), (in_unit({"min": 0.8}), 0.1 * WIDTH))
    ]
    verdicts: list[BucketVerdict] = []
    for asked, cases in zip(gates, both(sides), strict=True):
        told = RunEvidence(gate=asked, cases=cases, confirmation=judge_gate(asked, cases))
        verdicts.append(judge_run(told))
    share, scaled = verdicts
    assert (scaled.rule, scaled.movement, scaled.is_win) == (share.rule, share.movement, share.is_win)
    assert could_tell([scaled]) == could_tell([share])
    assert scaled.target is not None
    assert share.target is not None
    assert scaled.target.delta == pytest.approx(WIDTH * share.target.delta)
    ends = [
        first_recipe(goal(), {"rows": 100}, target=target).predicted["high"] for target in (share.target, scaled.target)
    ]
    assert ends == [1.0, HIGH]


def found(asked: dict[str, Any], start: float, *, is_scaled: bool, ceiling: float | None = None) -> list[Finding]:
    number = put if is_scaled else float
    condition = Condition.model_validate({"id": "x", "metric": "s.x", **(in_unit(asked) if is_scaled else asked)})
    known = {} if ceiling is None else {"s.x": number(ceiling)}
    base = {"s.x": Mean(mean=number(start), n=80)}
    return reachability(Gate(conditions=(condition,)), known, base, scales=scales_of(RANGES) if is_scaled else None)


@pytest.mark.parametrize(
    ("asked", "start", "ceiling"),
    [
        ({"min": 0.8}, 0.5, 0.6),
        ({"min": 1.2}, 0.5, 0.9),
        ({"min": 0.99}, 0.5, None),
        ({"against": "base", "min": 0.4}, 0.8, None),
        ({"against": "base", "min": 0.001}, 0.5, None),
        ({"against": "base", "min": 0.0, "margin": 0.02}, 0.5, None),
        ({"min": 0.4}, 0.5, 0.9),
        ({"min": 0.7}, 0.5, 0.9),
    ],
)
def test_what_is_said_before_the_first_run_is_what_is_said_of_shares(
    asked: dict[str, Any], start: float, ceiling: float | None
) -> None:
    share, scaled = (found(asked, start, is_scaled=is_scaled, ceiling=ceiling) for is_scaled in (False, True))
    said = [(each.claim, each.severity, each.value.get("cases_needed")) for each in share]
    assert [(each.claim, each.severity, each.value.get("cases_needed")) for each in scaled] == said


@pytest.mark.parametrize("name", ASKED)
def test_the_least_cases_of_a_range_are_those_of_its_shares(name: str) -> None:
    share, scaled = (
        Condition.model_validate({"metric": "s.x", **asked}) for asked in (ASKED[name], in_unit(ASKED[name]))
    )
    assert least_cases(scaled, 0.05, scales_of(RANGES)) == least_cases(share, 0.05)


def test_a_score_beyond_its_declared_range_is_refused_by_name() -> None:
    asked = Gate(conditions=(Condition(metric="s.pct", min=70.0),))
    percent = scales_of({"pct": (0.0, 100.0)})
    assert [each.claim for each in reachability(asked, {}, {"s.pct": Mean(mean=62, n=80)}, scales=percent)] == []
    assert beyond_reach(asked, {"s.pct": 90.0}, {"s.pct": Mean(mean=62, n=80)}, scales=percent) == []
    [finding] = reachability(asked, {}, {"s.pct": Mean(mean=162, n=80)}, scales=percent)
    assert finding.sentence == "s.pct scores 162, and a score must lie between 0 and 100 to be judged."
    assert "track.ranges" in finding.fix


def test_a_range_may_be_of_one_split_and_lost_full_marks_are_those_of_the_range() -> None:
    limit = Condition(metric="s.x", statistic="new_failures", against="parent", max=2)
    _, scaled = both("lost")
    assert judge_condition(limit, scaled, 0.05).estimate == 40
    assert scaled.scale("s.x") == Scale(low=LOW, high=HIGH)
    narrow = scaled.model_copy(update={"scales": {"s.x": Scale(high=2.0), "x": Scale(high=9.0)}})
    assert (narrow.scale("s.x").high, narrow.scale("t.x").high, narrow.scale("t.y").high) == (2.0, 9.0, 1.0)


def test_a_count_of_a_range_is_its_sum_over_the_cases() -> None:
    rows = table(parent={"s.rows": [4.0] * 40}, candidate={"s.rows": [1.0] * 30 + [0.0] * 10})
    rows = rows.model_copy(update={"scales": scales_of({"rows": (0.0, 20.0)})})
    few = Condition(metric="s.rows", statistic="count", max=300)
    verdict = judge_condition(few, rows, 0.05)
    assert (verdict.estimate, verdict.decided) == (30, "holds")
    target = find_target(Gate(conditions=(few,)), rows)
    assert target is not None
    assert (target.threshold, target.gap) == (7.5, -3.5)
    assert target.delta == pytest.approx(0.5), "one case of forty, from 0 to 20"


def test_of_an_any_of_with_unlike_ranges_the_alternative_with_the_smaller_share_to_go_is_the_target() -> None:
    cases = table(parent={"s.pct": [60.0] * 40, "s.x": [0.2] * 40})
    cases = cases.model_copy(update={"scales": scales_of({"pct": (0.0, 100.0)})})
    either = Condition(any_of=("s.x", "s.pct"), against="parent", min=0.5)
    target = find_target(Gate(conditions=(either,)), cases)
    assert target is not None
    assert target.metric == "s.pct"
