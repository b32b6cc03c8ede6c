import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.comparison import CaseTable, Changes, Mean
from policies.gate import ConditionVerdict, GateVerdict, judge_condition, judge_gate
from state.goal import Condition, Gate
from state.records import Measurement, Side
from tests.policies.lab import GATE, REASON, lab_table, ones, table


@pytest.mark.parametrize(
    ("cycle", "failing"),
    [("v1", ["5"]), ("v2", ["5"]), ("v3", ["5"]), ("dpo_v0", ["1", "4", "5"])],
)
def test_the_labs_gates_reproduce(cycle: str, failing: list[str]) -> None:
    verdict = judge_gate(GATE, lab_table(cycle), 0.05)
    assert [condition.id for condition in verdict.failing] == failing
    assert verdict.decided == "fails"
    assert "unpaired" in verdict.conditions[0].method


def test_a_missing_stress_result_does_not_hold() -> None:
    cases = lab_table("v1")
    without = {name: mean for name, mean in cases.means["candidate"].items() if not name.startswith("stress")}
    verdict = judge_gate(GATE, CaseTable(means={**cases.means, "candidate": without}), 0.05)
    assert verdict.conditions[-1].decided == "undecided"
    assert "Not measured" in verdict.conditions[-1].sentence
    assert not verdict.holds


def test_nine_to_twelve_of_twelve_holds_by_a_plain_test_and_is_labelled() -> None:
    gate = Gate(conditions=(Condition(metric="trace.ok", min=0.75, test="plain", reason=REASON),))
    cases = table(parent={"trace.ok": ones(9, 12)}, candidate={"trace.ok": ones(12, 12)})
    verdict = judge_gate(gate, cases, 0.05)
    condition = verdict.conditions[0]
    assert verdict.holds
    assert condition.p_two_sided == 0.25
    assert condition.label == "plain, not significant (exact paired p = 0.25 two-sided)"
    assert (condition.cases_needed, condition.assumed_truth) == (26, 0.25), "were what was measured the truth"
    assert condition.rescued == ("case_009", "case_010", "case_011")
    assert condition.broken == ()
    assert verdict.labels == (f"{condition.id}: {condition.label}",)


def test_the_same_result_by_a_real_test_is_undecided() -> None:
    condition = Condition(metric="trace.ok", against="parent", min=0.0, test="superiority")
    verdict = judge_condition(
        condition, table(parent={"trace.ok": ones(9, 12)}, candidate={"trace.ok": ones(12, 12)}), 0.05
    )
    assert verdict.decided == "undecided"
    assert verdict.p == 0.125
    assert (verdict.cases_needed, verdict.assumed_truth) == (107, 0.125), "half of what is left up to full marks"


def test_a_large_plain_gain_is_called_significant() -> None:
    condition = Condition(metric="trace.ok", min=0.75, test="plain", reason=REASON)
    verdict = judge_condition(
        condition, table(parent={"trace.ok": ones(2, 12)}, candidate={"trace.ok": ones(12, 12)}), 0.05
    )
    assert verdict.label.startswith("plain, also significant")
    assert verdict.cases_needed is None


def test_a_plain_value_without_a_parent_is_labelled_by_its_own_exact_test() -> None:
    condition = Condition(metric="s.ok", min=0.85, test="plain", reason=REASON)
    assert judge_condition(condition, table(candidate={"s.ok": ones(34, 40)}), 0.05).label == "plain, not significant"
    assert judge_condition(condition, table(candidate={"s.ok": ones(40, 40)}), 0.05).label == "plain, also significant"


def test_a_rate_above_its_threshold_must_be_shown_not_seen() -> None:
    condition = Condition(metric="s.ok", min=0.85)
    assert judge_condition(condition, table(candidate={"s.ok": ones(36, 40)}), 0.05).decided == "undecided"
    assert judge_condition(condition, table(candidate={"s.ok": ones(39, 40)}), 0.05).decided == "holds"
    assert judge_condition(condition, table(candidate={"s.ok": ones(20, 40)}), 0.05).decided == "fails"


def test_an_upper_bound_is_the_mirror_of_a_lower_one() -> None:
    condition = Condition(metric="s.rh", max=0.15)
    assert judge_condition(condition, table(candidate={"s.rh": ones(1, 40)}), 0.05).decided == "holds"
    assert judge_condition(condition, table(candidate={"s.rh": ones(4, 40)}), 0.05).decided == "undecided"
    verdict = judge_condition(condition, table(candidate={"s.rh": ones(20, 40)}), 0.05)
    assert verdict.decided == "fails"
    assert verdict.cases_needed is None


def test_a_count_is_judged_in_cases() -> None:
    condition = Condition(metric="s.rh", statistic="count", against="parent", max=2)
    cases = table(parent={"s.rh": ones(2, 80)}, candidate={"s.rh": ones(1, 80)})
    verdict = judge_condition(condition, cases, 0.05)
    assert (verdict.value, verdict.reference, verdict.estimate, verdict.step) == (1.0, 2.0, -1.0, 1.0)
    assert verdict.rescued == ("case_001",)
    value = Condition(metric="s.rh", statistic="count", max=20)
    assert judge_condition(value, cases, 0.05).decided == "holds"


def test_no_change_at_all_is_no_worse_only_within_a_margin_that_the_cases_can_show() -> None:
    cases = table(parent={"s.ok": ones(20, 40)}, candidate={"s.ok": ones(20, 40)})
    wide = Condition(metric="s.ok", against="parent", min=0.0, margin=0.1)
    narrow = Condition(metric="s.ok", against="parent", min=-0.02)
    assert judge_condition(wide, cases, 0.05).decided == "holds"
    verdict = judge_condition(narrow, cases, 0.05)
    assert verdict.decided == "undecided"
    assert verdict.cases_needed is not None
    assert verdict.cases_needed > 40


@pytest.mark.parametrize(("n", "decided"), [(40, "undecided"), (200, "holds")])
def test_a_dense_score_shows_no_worse_once_its_cases_leave_no_room_for_whole_losses(n: int, decided: str) -> None:
    base = [0.5 + 0.01 * (index % 7) for index in range(n)]
    moved = [score + 0.002 * (index % 3 - 1) for index, score in enumerate(base)]
    condition = Condition(metric="s.dense", against="parent", min=0.0, margin=0.02)
    verdict = judge_condition(condition, table(parent={"s.dense": base}, candidate={"s.dense": moved}), 0.05)
    assert verdict.decided == decided
    assert verdict.method == "paired bounds for scores on a scale"
    assert "at least 0 (with its margin: at least -0.02). Measured" in verdict.sentence


def test_an_improvement_of_a_dense_score_is_shown_beyond_its_threshold() -> None:
    base = [0.4 + 0.01 * (index % 5) for index in range(40)]
    cases = table(parent={"s.d": base}, candidate={"s.d": [score + 0.2 for score in base]})
    assert judge_condition(Condition(metric="s.d", against="parent", min=0.1), cases, 0.05).holds
    assert not judge_condition(Condition(metric="s.d", against="parent", min=0.2), cases, 0.05).holds
    assert judge_condition(Condition(metric="s.d", min=0.55), cases, 0.05).holds


def test_the_best_of_several_is_judged_at_a_divided_level() -> None:
    condition = Condition(any_of=("s.a", "s.b"), against="parent", min=0.1)
    cases = table(
        parent={"s.a": ones(10, 40), "s.b": ones(10, 40)}, candidate={"s.a": ones(10, 40), "s.b": ones(35, 40)}
    )
    verdict = judge_condition(condition, cases, 0.05)
    assert (verdict.metric, verdict.alpha, verdict.holds) == ("s.b", 0.025, True)


def test_the_best_of_several_prefers_a_measured_metric() -> None:
    condition = Condition(any_of=("s.none", "s.a"), min=0.9)
    assert judge_condition(condition, table(candidate={"s.a": ones(10, 40)}), 0.05).metric == "s.a"


def test_missing_scores_are_counted_and_too_many_keep_a_condition_from_holding() -> None:
    condition = Condition(metric="s.ok", min=0.5)
    few: list[float | None] = [*ones(38, 38), None, None]
    many: list[float | None] = [*ones(30, 30), *[None] * 10]
    verdict = judge_condition(condition, table(candidate={"s.ok": few}), 0.05)
    assert (verdict.excluded, verdict.n, verdict.holds) == (2, 38, True)
    assert "2 cases had no score" in verdict.sentence
    fewer = judge_condition(Condition(metric="main.score", min=0.1), table(candidate={"main.score": [1.0, None]}), 0.05)
    assert "(90 % interval 0.05 to 1, 1 case)" in fewer.sentence
    assert fewer.sentence.endswith(" 1 case had no score.")
    assert judge_condition(condition, table(candidate={"s.ok": many}), 0.05).decided == "undecided"
    plain = Condition(metric="s.ok", min=0.5, test="plain", reason=REASON)
    assert judge_condition(plain, table(candidate={"s.ok": many}), 0.05).decided == "undecided"


def test_published_means_outside_the_unit_scale_are_not_judged() -> None:
    cases = CaseTable(means={"candidate": {"s.tokens": Mean(mean=120.0, n=40)}, "parent": {}})
    assert judge_condition(Condition(metric="s.tokens", max=200), cases, 0.05).decided == "undecided"
    half = CaseTable(means={"candidate": {"s.ok": Mean(mean=0.5, n=40)}})
    verdict = judge_condition(Condition(metric="s.ok", against="parent", min=0.1), half, 0.05)
    assert (verdict.value, verdict.estimate, verdict.decided) == (0.5, None, "undecided")
    assert not verdict.is_met_by_estimate


def test_published_wins_and_losses_give_the_exact_test_that_means_alone_cannot() -> None:
    condition = Condition(metric="s.ok", statistic="count", min=9, test="plain", reason=REASON)
    means = {"parent": {"s.ok": Mean(mean=0.75, n=12)}, "candidate": {"s.ok": Mean(mean=1.0, n=12)}}
    known = CaseTable.model_validate({"means": means, "changes": {"s.ok": Changes(higher=3, lower=0)}})
    verdict = judge_condition(condition, known, 0.025)
    assert verdict.holds
    assert "unpaired" in verdict.method
    assert verdict.label == "plain, not significant (exact paired p = 0.25 two-sided)"
    assert verdict.cases_needed == 31
    assert judge_condition(condition, CaseTable.model_validate({"means": means}), 0.025).p_two_sided is None
    against_base = Condition(metric="s.ok", against="base", min=0.1)
    assert judge_condition(against_base, known, 0.025).p_two_sided is None


def test_unpaired_means_need_more_cases_than_they_have() -> None:
    verdict = judge_condition(Condition(metric="stress.data_preservation", min=0.2), lab_table("v1"), 0.05)
    assert verdict.decided == "undecided"
    assert verdict.cases_needed is not None
    assert verdict.is_met_by_estimate


def test_a_dense_value_that_never_varies_still_states_the_cases_it_needs() -> None:
    verdict = judge_condition(Condition(metric="s.d", min=0.49), table(candidate={"s.d": [0.5] * 10}), 0.05)
    assert verdict.decided == "undecided"
    assert verdict.cases_needed is not None


def test_confirmation_is_judged_at_a_divided_level() -> None:
    gate = Gate(conditions=(Condition(metric="s.ok", min=0.5),), alpha=0.06, max_confirmations=3)
    verdict = judge_gate(gate, table(candidate={"s.ok": ones(30, 40)}))
    assert verdict.alpha == pytest.approx(0.02)
    assert verdict.sentence == "1 of 1 gate conditions hold on the confirmation cases."


def test_an_undecided_gate_is_neither_held_nor_failed() -> None:
    gate = Gate(conditions=(Condition(metric="s.ok", min=0.5),))
    assert judge_gate(gate, table(candidate={"s.ok": ones(22, 40)})).decided == "undecided"


def test_a_verdict_survives_json() -> None:
    verdict = judge_gate(GATE, lab_table("v1"), 0.05)
    assert GateVerdict.model_validate_json(verdict.model_dump_json()) == verdict


NEW_FAILURES = Condition(metric="s.ok", statistic="new_failures", against="parent", max=6)


def test_new_failures_are_cases_that_lost_full_marks_whatever_else_was_won() -> None:
    parent, candidate = ones(20, 80), [*ones(0, 1), *ones(19, 19), *ones(60, 60)]
    verdict = judge_condition(NEW_FAILURES, table(parent={"s.ok": parent}, candidate={"s.ok": candidate}), 0.05)
    assert (verdict.value, verdict.n, verdict.step) == (1.0, 80, 1.0)
    assert (verdict.broken, verdict.rescued) == (("case_000",), ())
    assert verdict.decided == "holds"
    assert verdict.high is not None
    assert 4 < verdict.high < 6
    assert verdict.sentence.startswith("Asked: new failures of s.ok against the parent at most 6.")


def test_a_dense_score_that_was_not_full_cannot_newly_fail() -> None:
    parent, candidate = [1.0] * 20 + [0.9] * 20, [1.0] * 20 + [0.0] * 20
    none = judge_condition(NEW_FAILURES, table(parent={"s.ok": parent}, candidate={"s.ok": candidate}), 0.05)
    assert none.value == 0.0
    some = judge_condition(NEW_FAILURES, table(parent={"s.ok": parent}, candidate={"s.ok": [0.99] * 40}), 0.05)
    assert (some.value, some.decided) == (20.0, "fails")


def test_no_new_failure_at_all_is_shown_by_no_number_of_cases_and_asked_plainly() -> None:
    cases = table(parent={"s.ok": ones(40, 40)}, candidate={"s.ok": ones(40, 40)})
    strict = Condition(metric="s.ok", statistic="new_failures", against="parent", max=0)
    assert judge_condition(strict, cases, 0.05).decided == "undecided"
    assert judge_condition(strict.model_copy(update={"margin": 4.0}), cases, 0.05).decided == "holds"
    plain = Condition(metric="s.ok", statistic="new_failures", against="base", max=0, test="plain", reason=REASON)
    verdict = judge_condition(
        plain, cases.model_copy(update={"cells": {**cases.cells, "base": cases.cells["parent"]}}), 0.05
    )
    assert (verdict.decided, verdict.label) == ("holds", "plain, not significant")


def test_new_failures_without_cases_are_not_measured() -> None:
    verdict = judge_condition(NEW_FAILURES, CaseTable(means={"candidate": {"s.ok": Mean(mean=0.5, n=40)}}), 0.05)
    assert "Not measured" in verdict.sentence
    assert verdict.cases_needed is None


@settings(max_examples=40)
@given(cases=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=5, max_size=30), place=st.integers(0, 29))
def test_one_more_case_passed_never_adds_a_new_failure(cases: list[tuple[bool, bool]], place: int) -> None:
    parent, candidate = [float(before) for before, _ in cases], [float(after) for _, after in cases]
    better = list(candidate)
    better[place % len(cases)] = 1.0
    before = judge_condition(NEW_FAILURES, table(parent={"s.ok": parent}, candidate={"s.ok": candidate}), 0.05)
    after = judge_condition(NEW_FAILURES, table(parent={"s.ok": parent}, candidate={"s.ok": better}), 0.05)
    order = ["fails", "undecided", "holds"]
    assert order.index(after.decided) >= order.index(before.decided)


def test_cases_that_only_the_other_side_has_are_missing_and_not_passed() -> None:
    whole = table(parent={"s.ok": ones(30, 40)}, candidate={"s.ok": ones(20, 20)})
    for condition in (Condition(metric="s.ok", min=0.8), Condition(metric="s.ok", against="parent", min=0.02)):
        verdict = judge_condition(condition, whole, 0.05)
        assert (verdict.decided, verdict.excluded) == ("undecided", 20)
    assert judge_condition(Condition(metric="s.ok", min=0.8), table(candidate={"s.ok": ones(20, 20)}), 0.05).holds


def test_a_gate_met_by_bare_numbers_says_so_with_the_cases_that_would_settle_it() -> None:
    gate = Gate(conditions=(Condition(id="ok", metric="trace.ok", min=0.75, test="plain", reason=REASON),))
    cases = table(parent={"trace.ok": ones(9, 12)}, candidate={"trace.ok": ones(12, 12)})
    assert judge_gate(gate, cases, 0.025).sentence.endswith(
        "hold on the confirmation cases; by the bare number only: ok (a test would need 31 cases)."
    )
    assert "; by the bare number only" in judge_gate(gate, cases, 0.025, use="selection").sentence
    no_parent = table(candidate={"trace.ok": ones(34, 40)})
    lower = Gate(conditions=(Condition(id="ok", metric="trace.ok", min=0.85, test="plain", reason=REASON),))
    assert judge_gate(lower, no_parent, 0.025).sentence.endswith("by the bare number only: ok.")
    sure = table(parent={"trace.ok": ones(0, 12)}, candidate={"trace.ok": ones(12, 12)})
    assert judge_gate(gate, sure, 0.025).sentence.endswith("confirmation cases.")


def test_an_undecided_gate_says_its_numbers_and_one_number_of_cases_that_would_tell() -> None:
    gate = Gate(conditions=(Condition(id="no_worse", metric="s.ok", against="parent", min=-0.05),))
    cases = table(parent={"s.ok": ones(20, 40)}, candidate={"s.ok": [*ones(0, 1), *ones(19, 19), *ones(1, 20)]})
    verdict = judge_gate(gate, cases, 0.05)
    condition = verdict.conditions[0]
    assert verdict.decided == "undecided"
    needed = condition.cases_needed
    assert needed is not None
    assert needed > 40
    assert verdict.sentence.endswith(
        "not no_worse (0 measured, at least -0.05 asked of its lower bound, which is "
        f"{condition.low:.4g} on 40 cases, about {needed} cases would tell a true difference of 0)."
    )
    assert condition.sentence.endswith(
        f"The cases cannot tell. About {needed} cases would tell a true difference of 0."
    )
    lost = [*ones(0, 25), *ones(180, 375)]
    many = judge_gate(gate, table(parent={"s.ok": ones(200, 400)}, candidate={"s.ok": lost}), 0.05).conditions[0]
    assert (many.decided, many.cases_to_tell) == ("undecided", None), "as many as tell a difference of 0 are at hand"
    assert many.cases_needed is not None
    assert many.sentence.endswith("The cases cannot tell.")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"against": "parent", "min": 0.0}, "no number of cases can tell a true difference of 0 from what is asked"),
        ({"statistic": "new_failures", "against": "parent", "max": 0}, "no number of cases can tell"),
        ({"min": 0.52}, "no number of cases can tell a true 0.5 from what is asked"),
        ({"against": "parent", "min": 0.05}, "no number of cases can tell a true difference of +0.05"),
    ],
)
def test_what_is_assumed_to_be_true_at_the_bound_is_told_by_no_number_of_cases(
    asked: dict[str, object], said: str
) -> None:
    cases = table(parent={"s.ok": ones(18, 40)}, candidate={"s.ok": ones(19, 40)})
    condition = Condition.model_validate({"metric": "s.ok", **asked})
    verdict = judge_condition(condition, cases, 0.05, ceilings={"s.ok": 0.5})
    assert (verdict.decided, verdict.cases_needed, verdict.is_never_told) == ("undecided", None, True)
    assert said in judge_gate(Gate(conditions=(condition,)), cases, 0.05, ceilings={"s.ok": 0.5}).sentence


def test_a_record_of_an_earlier_version_is_read_without_its_second_number_of_cases() -> None:
    verdict = judge_condition(Condition(metric="s.ok", min=0.5), table(candidate={"s.ok": ones(30, 40)}), 0.05)
    assert ConditionVerdict.model_validate({**verdict.model_dump(), "cases_for_margin": 12}) == verdict
    assert ConditionVerdict.model_validate_json(verdict.model_dump_json()) == verdict


@pytest.mark.parametrize("missing", [4, 5])
def test_a_tenth_of_the_scores_may_be_missing_and_no_more(missing: int) -> None:
    scores: list[float | None] = [*ones(40 - missing, 40 - missing), *[None] * missing]
    verdict = judge_condition(Condition(metric="s.ok", min=0.5), table(candidate={"s.ok": scores}), 0.05)
    assert verdict.holds == (missing == 4)


def test_a_bound_that_is_missed_by_a_hair_is_missed() -> None:
    verdict = judge_condition(Condition(metric="s.ok", min=0.6), table(candidate={"s.ok": ones(19, 40)}), 0.05)
    assert verdict.high is not None
    above = Condition(metric="s.ok", min=verdict.high + 1e-4)
    assert judge_condition(above, table(candidate={"s.ok": ones(19, 40)}), 0.05).decided == "fails"
    below = Condition(metric="s.ok", min=verdict.high - 1e-4)
    assert judge_condition(below, table(candidate={"s.ok": ones(19, 40)}), 0.05).decided == "undecided"


def test_a_gate_that_does_not_hold_names_what_is_missing_by_its_numbers() -> None:
    conditions = [Condition(id="target", metric="s.ok", min=0.4), Condition(id="rare", metric="s.bad", max=0.1)]
    plain = Condition(id="plain", metric="s.bad", max=0.2, test="plain", reason=REASON)
    gone = Condition(id="gone", metric="s.none", min=0.5)
    gate = Gate(conditions=(*conditions, plain, gone, Condition(id="last", metric="s.none", min=0.1)))
    cases = table(candidate={"s.ok": ones(30, 40), "s.bad": ones(12, 40)})
    verdict = judge_gate(gate, cases, 0.05)
    high = verdict.conditions[1].high
    assert verdict.sentence == (
        "1 of 5 gate conditions hold on the confirmation cases; not rare (0.3 measured, at most 0.1 asked of its upper "
        f"bound, which is {high:.4g} on 40 cases), plain (0.3 measured, at most 0.2 asked), gone (not measured), last."
    )


def _measured(side: Side, weights: str, case: str, score: float) -> Measurement:
    return Measurement(
        evaluation="e",
        side=side,
        split="s",
        use="selection",
        case=case,
        metrics={"ok": score},
        finish_reason="stop",
        prompt_tokens=1,
        output_tokens=1,
        harness="h",
        weights=weights,
    )


def test_one_measurement_of_the_base_serves_as_parent_too() -> None:
    rows = [
        _measured("base", "w0", "a", 0.0),
        _measured("candidate", "w1", "a", 1.0),
        _measured("base", "w9", "a", 0.5),
    ]
    cases = CaseTable.from_measurements(rows, {"base": "w0", "parent": "w0", "candidate": "w1"})
    assert cases.mean("parent", "s.ok", "selection") == Mean(mean=0.0, n=1)
    assert cases.mean("base", "s.ok", "selection") == Mean(mean=0.0, n=1)
    assert CaseTable.from_measurements(rows).mean("base", "s.ok", "selection") == Mean(mean=0.5, n=1)


flips = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=5, max_size=30)
conditions = st.sampled_from(
    [
        Condition(metric="s.ok", min=0.6),
        Condition(metric="s.ok", against="parent", min=0.1),
        Condition(metric="s.ok", against="parent", min=0.0, test="superiority"),
        Condition(metric="s.ok", against="parent", min=-0.1),
        Condition(metric="s.ok", min=0.6, test="plain", reason=REASON),
    ]
)


@settings(max_examples=60)
@given(condition=conditions, cases=flips, place=st.integers(0, 29))
def test_a_condition_that_holds_still_holds_when_one_more_case_passes(
    condition: Condition, cases: list[tuple[bool, bool]], place: int
) -> None:
    parent = [float(before) for before, _ in cases]
    candidate = [float(after) for _, after in cases]
    better = list(candidate)
    better[place % len(cases)] = 1.0
    before = judge_condition(condition, table(parent={"s.ok": parent}, candidate={"s.ok": candidate}), 0.05)
    after = judge_condition(condition, table(parent={"s.ok": parent}, candidate={"s.ok": better}), 0.05)
    order = ["fails", "undecided", "holds"]
    assert order.index(after.decided) >= order.index(before.decided)


@settings(max_examples=40)
@given(won=st.integers(0, 10), lost=st.integers(0, 20), same=st.integers(1, 10), sign=st.sampled_from([1, -1]))
def test_more_cases_broken_than_rescued_is_never_an_improvement(won: int, lost: int, same: int, sign: int) -> None:
    parent = [0.0] * won + [1.0] * (won + lost) + [1.0] * same
    candidate = [1.0] * won + [0.0] * (won + lost) + [1.0] * same
    sides = {"parent": {"s.ok": parent}, "candidate": {"s.ok": candidate}}
    better = Condition(metric="s.ok", against="parent", min=0.0, test="superiority")
    if sign < 0:
        sides = {side: {"s.ok": [1 - x for x in row["s.ok"]]} for side, row in sides.items()}
        better = Condition(metric="s.ok", against="parent", max=0.0, test="superiority")
    assert not judge_condition(better, table(**sides), 0.05).holds


@settings(max_examples=40)
@given(cases=flips)
def test_a_lower_bound_on_failures_is_the_mirror_of_an_upper_bound_on_passes(cases: list[tuple[bool, bool]]) -> None:
    scores = {"parent": {"s.ok": [float(a) for a, _ in cases]}, "candidate": {"s.ok": [float(b) for _, b in cases]}}
    flipped = {side: {"s.ok": [1 - x for x in row["s.ok"]]} for side, row in scores.items()}
    low = judge_condition(Condition(metric="s.ok", min=0.6), table(**scores), 0.05)
    high = judge_condition(Condition(metric="s.ok", max=0.4), table(**flipped), 0.05)
    assert low.decided == high.decided
    assert low.rescued == high.rescued


def test_an_estimate_that_lies_on_its_bound_on_paper_is_undecided() -> None:
    condition = Condition(metric="s.kept", min=0.1)
    verdict = judge_condition(condition, table(candidate={"s.kept": [0.1] * 30}), 0.05)
    assert verdict.estimate is not None
    assert verdict.estimate > 0.1, "by the rounding of thirty sums"
    assert verdict.decided == "undecided"
    assert "would tell" not in verdict.sentence, "thirty would tell a true 0.55"


@pytest.mark.parametrize(
    ("asked", "scores"),
    [
        ({"max": 1.5, "statistic": "count"}, [1.0]),
        ({"max": 1.0, "statistic": "count"}, [1.0]),
        ({"max": 3.0, "statistic": "count"}, [1.0, 1.0, 1.0]),
        ({"max": 1.0}, [1.0, 1.0]),
        ({"min": 0.0}, [0.0, 0.0]),
        ({"max": 1.0}, [0.99, 0.98, 1.0]),
        ({"min": 0.0}, [0.01, 0.0, 0.02]),
    ],
)
def test_a_bound_that_no_score_can_miss_holds_without_a_test(asked: dict[str, object], scores: list[float]) -> None:
    condition = Condition.model_validate({"metric": "main.score", **asked})
    verdict = judge_condition(condition, table(candidate={"main.score": scores}), 0.05)
    assert (verdict.decided, verdict.p, verdict.cases_needed) == ("holds", None, None)
    most = len(scores) if condition.statistic == "count" else 1
    missable = condition.model_copy(update={"max": 0.9 * most} if condition.sign < 0 else {"min": 0.05})
    assert judge_condition(missable, table(candidate={"main.score": scores}), 0.05).decided != "holds"


def test_a_score_outside_the_scale_is_not_waved_through() -> None:
    condition = Condition(metric="main.score", max=1.0)
    scores = [0.2, 0.4, 0.9, 4.0]
    assert judge_condition(condition, table(candidate={"main.score": scores}), 0.05).decided == "undecided"


@pytest.mark.parametrize(("lost", "decided"), [(0, "undecided"), (2, "undecided"), (3, "undecided"), (20, "fails")])
def test_a_limit_that_no_cases_show_does_not_hold_by_the_count_alone(lost: int, decided: str) -> None:
    """At 0.0167 none of 80 leaves room for 3.99; with a true rate of twice the limit, half of all draws are within."""
    limit = Condition(id="few", metric="s.x", statistic="count", max=2)
    cases = table(parent={"s.x": ones(0, 80)}, candidate={"s.x": ones(lost, 80)})
    verdict = judge_condition(limit, cases, 0.05 / 3)
    assert (verdict.decided, verdict.label, verdict.cases_to_tell) == (decided, "", None), verdict.sentence
    by_count = limit.model_copy(update={"test": "plain", "reason": REASON})
    assert judge_condition(by_count, cases, 0.05 / 3).holds == (lost <= 2)


@pytest.mark.parametrize(("most", "holds"), [(3, False), (4, True)])
def test_a_limit_that_no_failure_in_these_cases_shows_is_tested(most: int, holds: bool) -> None:  # noqa: FBT001 - a table
    limit = Condition(metric="s.x", statistic="count", max=most)
    verdict = judge_condition(limit, table(candidate={"s.x": [0.0] * 80}, parent={"s.x": [0.0] * 80}), 0.05 / 3)
    assert verdict.holds == holds
    gone = table(candidate={"s.x": [0.0] * 60 + [None] * 20}, parent={"s.x": [0.0] * 80})
    assert not judge_condition(limit, gone, 0.05 / 3).holds
