from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.comparison import CaseTable, Mean, Noise, Scale, compare
from policies.gate import judge_condition, judge_gate
from policies.target import find_target
from policies.verdict import BucketVerdict, Prediction, RunEvidence, judge_run
from state.goal import Condition, Gate
from state.records import Belief, Bucket
from tests.policies.lab import BASE, GATE, REASON, lab_table, ones, table
from tests.policies.rehearsal import Rehearsal

CEILING = {"stress.data_preservation": 0.25}
VALUE = Gate(conditions=(Condition(metric="s.ok", min=0.8),))
GUARDED = Gate(
    conditions=(Condition(metric="s.ok", min=0.8), Condition(metric="s.safe", against="parent", min=0.0, margin=0.1))
)


def evidence(gate: Gate, before: int, after: int, n: int = 40, **more: object) -> RunEvidence:
    cases = table(parent={"s.ok": ones(before, n)}, candidate={"s.ok": ones(after, n)})
    return RunEvidence.model_validate({"gate": gate, "cases": cases, **more})


@pytest.mark.parametrize("cycle", ["v1", "v2", "v3", "dpo_v0"])
def test_every_cycle_of_the_lab_is_uninformative_once_the_ceiling_is_known(cycle: str) -> None:
    verdict = judge_run(RunEvidence(run=cycle, gate=GATE, cases=lab_table(cycle), ceilings=CEILING))
    assert (verdict.bucket, verdict.rule, verdict.is_capped, verdict.had_power) == ("U", "U.capped", True, False)
    assert "0.25" in verdict.sentence
    assert not verdict.is_promising


@pytest.mark.parametrize(("cycle", "bucket"), [("v2", "C"), ("v3", "C"), ("dpo_v0", "D")])
def test_the_labs_verdicts_follow_when_the_ceiling_is_withheld(cycle: str, bucket: str) -> None:
    verdict = judge_run(RunEvidence(run=cycle, gate=GATE, cases=lab_table(cycle)))
    assert verdict.bucket == bucket
    assert "unpaired" in verdict.sentence


def test_a_recorded_hypothesis_turns_v3_into_a_refutation() -> None:
    predicted = Prediction(metric="stress.data_preservation", low=0.5, high=1.0)
    verdict = judge_run(RunEvidence(run="v3", gate=GATE, cases=lab_table("v3"), predicted=predicted))
    assert (verdict.bucket, verdict.rule) == ("D", "D.prediction")
    assert "between 0.5 and 1" in verdict.sentence


def test_the_labs_target_is_stress_preservation_and_meaningful_is_half_its_gap() -> None:
    target = find_target(GATE, CaseTable(means={"parent": BASE}))
    assert target is not None
    assert (target.condition, target.metric) == ("5", "stress.data_preservation")
    assert target.gap == pytest.approx(0.65)
    assert target.delta == pytest.approx(0.325)


def test_the_base_stands_in_for_a_parent_that_was_not_measured() -> None:
    target = find_target(GATE, CaseTable(means={"base": BASE}))
    assert target is not None
    assert target.parent == 0.2


def test_an_any_of_is_represented_by_its_roomiest_metric() -> None:
    gate = Gate(conditions=(GATE.conditions[3],))
    target = find_target(gate, CaseTable(means={"parent": BASE}), ceilings={"regular.unit": 1.0})
    assert target is not None
    assert target.metric == "regular.unit"
    assert target.gap == pytest.approx(0.02)
    low = Gate(conditions=(Condition(any_of=("s.a", "s.b"), max=0.1),))
    means = CaseTable(means={"parent": {"s.b": Mean(mean=0.5, n=10)}})
    found = find_target(low, means)
    assert found is not None
    assert (found.metric, found.sign) == ("s.b", -1)
    assert found.gap == pytest.approx(0.4)


def test_a_difference_to_the_base_is_measured_from_the_base() -> None:
    gate = Gate(conditions=(Condition(metric="s.a", against="base", min=0.3),))
    means = {"parent": {"s.a": Mean(mean=0.5, n=10)}, "base": {"s.a": Mean(mean=0.4, n=10)}}
    target = find_target(gate, CaseTable.model_validate({"means": means}))
    assert target is not None
    assert target.threshold == pytest.approx(0.7)
    assert find_target(gate, CaseTable.model_validate({"means": {"parent": means["parent"]}})) is None


def test_a_target_that_holds_already_has_one_case_as_its_meaningful_delta() -> None:
    above = table(parent={"s.ok": ones(36, 40)})
    target, noisy_one = (find_target(VALUE, above, noise_floor=floor) for floor in (0.01, 0.05))
    assert target is not None
    assert target.gap < 0
    assert target.delta == pytest.approx(1 / 40)
    assert noisy_one is not None
    assert noisy_one.delta == pytest.approx(0.05), "no less than what is noise"
    assert "beyond" in target.sentence


SAFE = Condition(id="safe", metric="s.safe", against="parent", min=0.0, margin=0.1)
OK = Condition(id="ok", metric="s.ok", min=0.8)
FORM = Condition(id="form", metric="s.form", min=0.9)


@pytest.mark.parametrize(
    ("conditions", "primary", "metric"),
    [
        ((OK, FORM), None, "s.ok"),
        ((FORM, OK), None, "s.form"),
        ((SAFE, OK), None, "s.ok"),
        ((SAFE,), None, "s.safe"),
        ((OK, FORM), "form", "s.form"),
        ((FORM, OK), "s.ok", "s.ok"),
        ((SAFE, OK), "safe", "s.safe"),
    ],
)
def test_the_target_is_what_the_gate_names_or_its_first_demand_and_never_what_is_furthest(
    conditions: tuple[Condition, ...], primary: str | None, metric: str
) -> None:
    """Further from its bound than the others at this parent: the one that is not asked for first, each time."""
    scores = {"s.ok": ones(30, 40), "s.form": ones(0, 40), "s.safe": ones(40, 40)}
    for cases in (table(parent=scores), table(parent={**scores, "s.ok": ones(0, 40), "s.form": ones(34, 40)})):
        target = find_target(Gate(conditions=conditions, primary=primary), cases)
        assert target is not None
        assert target.metric == metric


def test_of_an_any_of_the_alternative_nearest_to_holding_is_the_target_if_it_can_get_there() -> None:
    cases = table(parent={"s.a": ones(10, 40), "s.b": ones(20, 40)})
    either = Condition(id="either", any_of=("s.a", "s.b"), min=0.8)
    assert found_in(Gate(conditions=(either,)), cases, {}) == "s.b"
    assert found_in(Gate(conditions=(either,)), cases, {"s.b": 0.7}) == "s.a", "not above its ceiling"
    assert found_in(Gate(conditions=(either,), primary="s.a"), cases, {}) == "s.a"


def test_a_count_is_a_target_by_the_mean_that_it_comes_to() -> None:
    few = Condition(id="few", metric="s.no", statistic="count", max=4)
    target = find_target(Gate(conditions=(few,)), table(parent={"s.no": ones(10, 40)}))
    assert target is not None
    assert (target.threshold, target.sign) == (0.1, -1)
    assert target.gap == pytest.approx(0.15)
    assert found_in(Gate(conditions=(few, OK)), table(parent={"s.ok": ones(30, 40)}), {}) == "s.ok"


def found_in(gate: Gate, cases: CaseTable, ceilings: dict[str, float]) -> str:
    target = find_target(gate, cases, ceilings=ceilings)
    assert target is not None
    return target.metric


def test_what_was_not_measured_is_no_target_and_the_next_condition_is() -> None:
    gate = Gate(conditions=(FORM, OK))
    assert found_in(gate, table(parent={"s.ok": ones(30, 40)}), {}) == "s.ok"
    assert find_target(Gate(conditions=(FORM, OK), primary="form"), table(parent={"s.ok": ones(30, 40)})) is None


def test_no_measurement_is_no_information() -> None:
    verdict = judge_run(RunEvidence(gate=VALUE, cases=CaseTable()))
    assert (verdict.bucket, verdict.rule, verdict.comparisons) == ("U", "U.unmeasured", ())
    assert verdict.sentence == "the run: the target has no scores on both sides, so nothing can be told."


def test_a_training_that_left_no_adapter_is_not_blamed_on_the_measurement() -> None:
    verdict = judge_run(RunEvidence(gate=VALUE, cases=CaseTable(), stopped="collapsed"))
    assert (verdict.bucket, verdict.rule) == ("U", "U.unmeasured")
    assert "a guard ended its training before the first save (collapsed): no adapter" in verdict.sentence
    assert "scores" not in verdict.sentence


def test_a_target_that_moved_is_progress() -> None:
    verdict = judge_run(evidence(VALUE, 8, 24))
    assert (verdict.bucket, verdict.movement, verdict.had_power) == ("B", "moved", True)


def test_a_target_that_fell_is_refuted() -> None:
    verdict = judge_run(evidence(VALUE, 24, 8))
    assert (verdict.rule, verdict.movement) == ("D.target_lost", "lost")


def test_a_target_that_stayed_is_a_concern() -> None:
    assert judge_run(evidence(VALUE, 8, 8)).rule == "C.flat"


def test_an_interval_that_shows_neither_is_uninformative() -> None:
    verdict = judge_run(evidence(VALUE, 26, 28))
    assert (verdict.rule, verdict.movement, verdict.had_power) == ("U.power", "unclear", False)


def test_a_ruler_coarser_than_the_question_is_uninformative() -> None:
    gate = VALUE.model_copy(update={"meaningful_delta": 0.02})
    assert judge_run(evidence(gate, 8, 9)).rule == "U.coarse"


@pytest.mark.parametrize(("rise", "n", "rule"), [(0.02, 18, "U.power"), (0.0, 18, "U.power"), (0.0, 400, "C.flat")])
def test_a_dense_score_moves_by_less_than_a_case_and_shows_absence_only_by_many(rise: float, n: int, rule: str) -> None:
    parent = [0.1 + 0.02 * (case % 3) for case in range(n)]
    candidate = [score + rise * (case % 7) for case, score in enumerate(parent)]
    gate = VALUE.model_copy(update={"meaningful_delta": 0.05})
    cases = table(parent={"s.ok": parent}, candidate={"s.ok": candidate})
    verdict = judge_run(RunEvidence(gate=gate, cases=cases, noise_floor=0.2))
    assert (verdict.rule, verdict.had_power) == (rule, n > 18)


def test_a_clear_movement_below_the_noise_floor_is_no_movement() -> None:
    assert judge_run(evidence(VALUE, 8, 24, noise_floor=0.5)).movement == "unclear"


def test_a_movement_within_the_noise_floor_is_told_as_one() -> None:
    assert "That is within the noise floor of 0.5" in judge_run(evidence(VALUE, 8, 24, noise_floor=0.5)).sentence


@pytest.mark.parametrize(("after", "rule"), [(40, "C.flat"), (32, "D.target_lost")])
def test_a_parent_that_meets_the_gate_is_not_replaced_by_what_is_no_better(after: int, rule: str) -> None:
    met = Gate(conditions=(Condition(metric="s.ok", min=0.5),), meaningful_delta=0.2)
    given = evidence(met, 40, after)
    verdict = judge_run(given.model_copy(update={"confirmation": judge_gate(met, given.cases)}))
    assert (verdict.rule, verdict.is_win, verdict.gate.holds) == (rule, False, True)
    kept = Gate(conditions=(Condition(metric="s.ok", against="parent", min=0, margin=0.5),))
    given = evidence(kept, 40, after)
    verdict = judge_run(given.model_copy(update={"confirmation": judge_gate(kept, given.cases)}))
    assert (verdict.rule, verdict.is_win) == ("A.confirmed", True), "no more is asked than that"


def test_delta_is_never_more_than_the_gap_that_is_left() -> None:
    gate = VALUE.model_copy(update={"meaningful_delta": 0.7})
    verdict = judge_run(evidence(gate, 8, 24, ceilings={"s.ok": 0.85}))
    assert verdict.rule == "B.moved"
    assert verdict.target is not None
    assert verdict.target.delta == pytest.approx(0.6)
    near = Gate(conditions=(Condition(metric="s.ok", min=0.55),), meaningful_delta=0.4)
    assert judge_run(evidence(near, 20, 23)).rule == "U.power", "within 0.4, and beyond the gate's own number"


def test_a_broken_no_worse_condition_outweighs_progress() -> None:
    cases = table(
        parent={"s.ok": ones(8, 40), "s.safe": ones(40, 40)}, candidate={"s.ok": ones(24, 40), "s.safe": ones(20, 40)}
    )
    verdict = judge_run(RunEvidence(gate=GUARDED, cases=cases))
    assert (verdict.rule, verdict.movement) == ("D.no_worse_broken", "moved")
    assert "s.safe" in verdict.sentence


def test_new_failures_are_a_limit_and_never_the_target() -> None:
    limit = Condition(metric="s.ok", statistic="new_failures", against="parent", max=3)
    cases = table(parent={"s.ok": ones(30, 60)}, candidate={"s.ok": [*[0.0] * 15, *[1.0] * 45]})
    assert find_target(Gate(conditions=(limit,)), cases) is None
    verdict = judge_run(RunEvidence(gate=Gate(conditions=(*VALUE.conditions, limit)), cases=cases))
    assert verdict.target is not None
    assert (verdict.target.condition, verdict.rule) == ("s.ok>=0.8", "D.no_worse_broken")
    assert "new failures of s.ok against the parent at most 3" in verdict.sentence
    predicted = Prediction(metric="s.ok", low=0.9, high=1.0)
    gate = Gate(conditions=(limit, *VALUE.conditions))
    better = table(parent={"s.ok": ones(8, 40)}, candidate={"s.ok": ones(24, 40)})
    assert judge_run(RunEvidence(gate=gate, cases=better, predicted=predicted)).rule == "D.prediction"


def test_only_the_confirmation_split_promotes() -> None:
    cases = table(parent={"s.ok": ones(8, 40)}, candidate={"s.ok": ones(40, 40)})
    selected = judge_gate(VALUE, cases, use="selection")
    confirmed = judge_gate(VALUE, cases, use="confirmation")
    assert selected.holds
    assert judge_run(RunEvidence(gate=VALUE, cases=cases, confirmation=selected)).bucket == "B"
    verdict = judge_run(RunEvidence(gate=VALUE, cases=cases, confirmation=confirmed))
    assert (verdict.bucket, verdict.rule) == ("A", "A.confirmed")
    assert verdict.is_promising


def test_a_gate_met_by_a_change_within_the_noise_floor_is_no_promotion() -> None:
    cases = table(parent={"s.ok": ones(39, 40)}, candidate={"s.ok": ones(40, 40)})
    confirmed = judge_gate(VALUE, cases, use="confirmation")
    assert confirmed.holds
    told = RunEvidence(gate=VALUE, cases=cases, confirmation=confirmed)
    assert judge_run(told).bucket == "A"
    assert judge_run(told.model_copy(update={"noise_floor": 0.01})).bucket == "A"
    assert judge_run(told.model_copy(update={"noise_floor": 0.05})).bucket != "A"


@pytest.mark.parametrize(
    ("gate", "before", "after", "cases", "ceiling", "rule"),
    [
        (Gate(conditions=(Condition(metric="s.ok", against="parent", min=0.2),)), 4, 12, 40, 0.3, "B.moved"),
        (Gate(conditions=(Condition(metric="s.ok", min=0.9),), meaningful_delta=0.2), 8, 8, 10, 1.0, "U.power"),
        (Gate(conditions=(Condition(metric="s.ok", min=0.25),)), 8, 8, 40, 1.0, "U.power"),
    ],
    ids=["as much as the references score", "as much room as progress needs", "as fine as progress needs"],
)
def test_sums_that_are_equal_on_paper_cap_nothing_and_are_fine_enough(  # noqa: PLR0917 - columns of a table
    gate: Gate, before: int, after: int, cases: int, ceiling: float, rule: str
) -> None:
    measured = table(parent={"s.ok": ones(before, cases)}, candidate={"s.ok": ones(after, cases)})
    verdict = judge_run(RunEvidence(gate=gate, cases=measured, ceilings={"s.ok": ceiling}))
    assert verdict.rule == rule, verdict.sentence


def test_a_change_of_a_dense_score_as_large_as_the_noise_floor_on_paper_is_noise() -> None:
    measured = table(parent={"s.kept": [0.1] * 400}, candidate={"s.kept": [0.4] * 400})
    gate = Gate(conditions=(Condition(metric="s.kept", min=0.8),), meaningful_delta=0.35)
    verdict = judge_run(RunEvidence(gate=gate, cases=measured, noise_floor=0.3))
    assert (verdict.movement, verdict.rule) == ("flat", "C.flat"), verdict.sentence


def test_track_a_is_promoted_by_its_plain_gate() -> None:
    gate = Gate(conditions=(Condition(metric="trace.ok", min=0.75, test="plain", reason=REASON),))
    cases = table(parent={"trace.ok": ones(9, 12)}, candidate={"trace.ok": ones(12, 12)})
    verdict = judge_run(RunEvidence(gate=gate, cases=cases, confirmation=judge_gate(gate, cases)))
    assert verdict.bucket == "A"


def test_a_confirmation_that_failed_leaves_the_verdict_to_the_selection_cases() -> None:
    cases = table(parent={"s.ok": ones(8, 40)}, candidate={"s.ok": ones(30, 40)})
    verdict = judge_run(RunEvidence(gate=VALUE, cases=cases, confirmation=judge_gate(VALUE, cases)))
    assert verdict.bucket == "B"


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (24, "0 of 1 gate conditions hold on the selection cases; not s.ok>=0.8 (0.6 measured, at least 0.8 asked"),
        (40, "the gate holds on the selection cases, unconfirmed."),
    ],
)
def test_progress_says_what_the_gate_said_on_selection(after: int, said: str) -> None:
    verdict = judge_run(evidence(VALUE, 8, after))
    assert verdict.rule == "B.moved"
    assert said in verdict.sentence


def test_what_confirmation_shows_broken_refuses_the_promotion_and_makes_no_verdict() -> None:
    sides = {"parent": {"s.ok": ones(8, 40), "s.safe": ones(38, 40)}}
    cases = table(**sides, candidate={"s.ok": ones(38, 40), "s.safe": ones(38, 40)})
    broken = judge_gate(GUARDED, table(**sides, candidate={"s.ok": ones(38, 40), "s.safe": ones(2, 40)}))
    verdict = judge_run(RunEvidence(gate=GUARDED, cases=cases, confirmation=broken))
    assert (verdict.bucket, verdict.rule) == verdict.tuned_by == ("B", "B.moved")


def test_a_confirmed_gate_stays_what_the_selection_cases_say_for_the_next_recipe() -> None:
    cases = table(parent={"s.ok": ones(8, 40)}, candidate={"s.ok": ones(39, 40)})
    verdict = judge_run(RunEvidence(gate=VALUE, cases=cases, confirmation=judge_gate(VALUE, cases)))
    assert (verdict.bucket, verdict.tuned_by) == ("A", ("B", "B.moved"))
    gone = table(parent={"s.ok": ones(8, 40)}, candidate={"s.ok": [*ones(35, 35), *[None] * 5]})
    missing = judge_run(RunEvidence(gate=VALUE, cases=gone, confirmation=judge_gate(VALUE, cases)))
    assert missing.rule == "U.missing", "sound scores come before the promotion"


@pytest.mark.parametrize(("sd", "floor", "bucket"), [(0.01, 0.0, "A"), (0.01, 0.02, "U"), (0.2, 0.0, "U")])
def test_what_the_order_of_the_cases_moves_is_no_least_gain_of_a_gate_that_asks_for_no_loss(
    sd: float, floor: float, bucket: str
) -> None:
    """Nothing changed but what half precision rounds otherwise; a larger noise shows in the bounds, not in a rule."""
    gate = Gate(conditions=(Condition(metric="s.ok", against="parent", min=0.0, margin=0.1),))
    same = RunEvidence(gate=gate, cases=table(parent={"s.ok": ones(60, 80)}, candidate={"s.ok": ones(60, 80)}))
    noise = noisy(same.model_copy(update={"noise_floor": floor}), sd, n=80)
    verdict = judge_run(noise.model_copy(update={"confirmation": judge_gate(gate, noise.cases)}))
    assert verdict.bucket == bucket, verdict.sentence


def test_a_gain_of_less_than_twice_the_order_noise_is_no_win_where_more_is_asked() -> None:
    cases = noisy(evidence(VALUE, 36, 38), 0.03).cases
    told = RunEvidence(gate=VALUE, cases=cases, confirmation=judge_gate(VALUE, cases))
    assert told.confirmation is not None
    assert told.confirmation.holds
    assert not judge_run(told).is_win
    assert judge_run(told.model_copy(update={"cases": evidence(VALUE, 36, 38).cases})).is_win


def test_progress_says_which_condition_confirmation_did_not_show() -> None:
    cases = table(parent={"s.ok": ones(8, 40)}, candidate={"s.ok": ones(40, 40)})
    gate = VALUE.model_copy(update={"conditions": (*VALUE.conditions, Condition(id="rare", metric="s.bad", max=0.1))})
    failed = judge_gate(gate, table(candidate={"s.ok": ones(34, 40), "s.bad": ones(12, 40)}))
    verdict = judge_run(RunEvidence(gate=VALUE, cases=cases, confirmation=failed))
    assert verdict.rule == "B.moved"
    assert "hold on the confirmation cases; not s.ok>=0.8 (0.85 measured, at least 0.8 asked of its" in verdict.sentence
    assert "rare (0.3 measured" in verdict.sentence
    assert "asked 0.80 of s.ok" in verdict.sentence


def test_a_dense_metric_is_told_beside_what_the_gate_asks_of_the_strict_one() -> None:
    cases = table(
        parent={"s.ok": ones(0, 40), "s.kept": [0.1] * 40}, candidate={"s.ok": ones(8, 40), "s.kept": [0.5] * 40}
    )
    verdict = judge_run(RunEvidence(gate=VALUE, cases=cases, dense={"s.ok": "s.kept"}))
    assert "s.kept went from 0.1 to 0.5" in verdict.sentence
    assert "read in place of s.ok (0 to 0.2); asked 0.80 of s.ok." in verdict.sentence
    assert verdict.target is not None
    assert (verdict.target.asked_metric, verdict.target.asked) == ("s.ok", 0.8)


@pytest.mark.parametrize(
    ("after", "low", "high", "rule"),
    [(24, 0.9, 1.0, "D.prediction"), (24, 0.5, 1.0, "B.moved"), (24, 0.2, 0.3, "B.moved")],
)
def test_a_prediction_is_contradicted_by_less_not_by_more(after: int, low: float, high: float, rule: str) -> None:
    predicted = Prediction(metric="s.ok", low=low, high=high)
    assert judge_run(evidence(VALUE, 8, after, predicted=predicted)).rule == rule


def test_a_prediction_of_fewer_failures_is_contradicted_by_more() -> None:
    gate = Gate(conditions=(Condition(metric="s.ok", max=0.1),))
    predicted = Prediction(metric="s.ok", low=0.0, high=0.2)
    assert judge_run(evidence(gate, 39, 20, predicted=predicted)).rule == "D.prediction"


def test_a_prediction_about_an_unmeasured_metric_contradicts_nothing() -> None:
    assert judge_run(evidence(VALUE, 8, 24, predicted=Prediction(metric="s.none", low=0.9, high=1.0))).bucket == "B"


def test_the_control_says_whether_training_did_anything() -> None:
    cases = table(
        parent={"s.ok": ones(8, 40), "s.c": ones(5, 40), "s.d": ones(5, 40)},
        candidate={"s.ok": ones(8, 40), "s.c": ones(30, 40), "s.d": ones(5, 40)},
    )
    moved = judge_run(RunEvidence(gate=VALUE, cases=cases, control="s.c"))
    assert moved.control_moved is True
    assert [comparison.metric for comparison in moved.comparisons] == ["s.ok", "s.c", "s.d"]
    assert judge_run(RunEvidence(gate=VALUE, cases=cases, control="s.d")).control_moved is False
    assert judge_run(RunEvidence(gate=VALUE, cases=cases, control="s.none")).control_moved is None
    assert judge_run(RunEvidence(gate=VALUE, cases=cases)).control_moved is None
    assert not moved.control_lost
    lower = table(
        parent={"s.ok": ones(8, 40), "s.c": ones(30, 40)}, candidate={"s.ok": ones(8, 40), "s.c": ones(5, 40)}
    )
    fallen = judge_run(RunEvidence(gate=VALUE, cases=lower, control="s.c"))
    assert (fallen.control_moved, fallen.control_lost) == (False, True)


def test_a_verdict_survives_json() -> None:
    verdict = judge_run(evidence(VALUE, 8, 24))
    assert BucketVerdict.model_validate_json(verdict.model_dump_json()) == verdict


counts = st.integers(0, 40)


@settings(max_examples=80)
@given(
    before=counts,
    after=counts,
    ceiling=st.none() | st.floats(0, 1),
    low=st.none() | st.floats(0, 1),
    delta=st.none() | st.floats(0.01, 0.5),
    noise=st.floats(0, 0.3),
    is_confirmed=st.booleans(),
)
def test_every_evidence_gets_one_bucket_by_precedence(  # noqa: PLR0917 - one argument per kind of evidence
    before: int,
    after: int,
    ceiling: float | None,
    low: float | None,
    delta: float | None,
    noise: float,
    is_confirmed: bool,  # noqa: FBT001 - drawn by hypothesis
) -> None:
    gate = VALUE.model_copy(update={"meaningful_delta": delta})
    base = evidence(gate, before, after, noise_floor=noise)
    given_evidence = base.model_copy(
        update={
            "ceilings": {} if ceiling is None else {"s.ok": ceiling},
            "predicted": None if low is None else Prediction(metric="s.ok", low=low, high=1.0),
            "confirmation": judge_gate(gate, base.cases) if is_confirmed else None,
        }
    )
    verdict = judge_run(given_evidence)
    assert verdict == judge_run(given_evidence)
    assert verdict.bucket in get_args(Bucket)
    assert verdict.rule.startswith(verdict.bucket)
    confirmed = given_evidence.confirmation is not None and given_evidence.confirmation.holds
    # What the parent did as well is no win, whatever the gate says.
    confirmed = confirmed and (after - before) / 40 - noise > 1e-9
    if confirmed:
        assert verdict.bucket == "A"
    elif verdict.is_capped:
        assert verdict.bucket == "U"
    elif verdict.movement == "lost":
        assert verdict.bucket == "D"
    elif verdict.bucket == "B":
        assert verdict.movement == "moved"
    elif verdict.bucket == "C":
        assert verdict.movement == "flat"


@settings(max_examples=40)
@given(before=counts, after=counts)
def test_the_order_of_cases_does_not_change_a_verdict(before: int, after: int) -> None:
    cases = table(parent={"s.ok": ones(before, 40)}, candidate={"s.ok": ones(after, 40)})
    rows = cases.cells["candidate"]["s"]["selection"]
    turned = dict(reversed(list(rows.items())))
    other = cases.model_copy(
        update={"cells": {**cases.cells, "candidate": {"s": {"selection": turned, "confirmation": turned}}}}
    )
    assert judge_run(RunEvidence(gate=VALUE, cases=cases)) == judge_run(RunEvidence(gate=VALUE, cases=other))


def test_progress_is_read_on_a_denser_metric_of_the_same_outputs_where_one_is_named() -> None:
    cases = table(parent={"s.ok": ones(4, 40), "s.kept": ones(20, 40)})
    dense = {"s.ok": "s.kept"}
    found = find_target(VALUE, cases, ceilings={"s.kept": 0.9}, dense=dense)
    assert found is not None
    assert (found.metric, found.parent, found.threshold, found.condition) == (
        "s.kept",
        0.5,
        0.9,
        VALUE.conditions[0].id,
    )
    assert found.delta == pytest.approx(0.2)
    full = find_target(VALUE, cases, ceilings={"s.kept": 0.5}, dense=dense)
    assert full is not None
    assert full.metric == "s.ok", "the denser one has nothing left to show"
    other = find_target(VALUE, cases, dense={"s.ok": "s.never"})
    assert other is not None
    assert other.metric == "s.ok"


def noisy(found: RunEvidence, sd: float, n: int = 40) -> RunEvidence:
    cases = found.cases.model_copy(update={"noise": {"s.ok": Noise(sd=sd, n=n)}})
    return found.model_copy(update={"cases": cases})


def test_a_change_that_the_order_of_the_cases_alone_makes_is_no_movement() -> None:
    gain = evidence(VALUE, 10, 22)
    quiet, loud = judge_run(noisy(gain, 0.02)), judge_run(noisy(gain, 0.16))
    assert judge_run(gain).movement == quiet.movement == "moved"
    assert loud.movement != "moved", "0.3 is less than twice 0.16"
    assert loud.bucket == "U"


def test_order_noise_widens_the_bounds_as_a_second_source_of_chance_and_shrinks_with_more_cases() -> None:
    plain = compare(evidence(VALUE, 10, 22).cases, "s.ok", use="selection")
    wide = compare(noisy(evidence(VALUE, 10, 22), 0.08, n=10).cases, "s.ok", use="selection")
    assert plain.noise_sd == 0
    assert wide.noise_sd == pytest.approx(0.04), "40 cases have half the noise of 10"
    assert plain.estimate == wide.estimate == pytest.approx(0.3)
    assert plain.low is not None
    assert wide.low is not None
    assert 0.3 - wide.low == pytest.approx(((0.3 - plain.low) ** 2 + (1.959964 * 0.04) ** 2) ** 0.5)
    of_others = noisy(evidence(VALUE, 10, 22), 0.5).cases.model_copy(update={"noise": {"s.no": Noise(sd=1, n=1)}})
    assert compare(of_others, "s.ok", use="selection").low == plain.low


def test_an_exact_test_alone_shows_no_gain_that_the_order_of_the_cases_could_make() -> None:
    condition = Condition(metric="s.ok", against="parent", min=0.0, test="superiority")
    gain = evidence(VALUE, 10, 22)
    assert judge_condition(condition, gain.cases, 0.05, use="selection").decided == "holds"
    assert judge_condition(condition, noisy(gain, 0.02).cases, 0.05, use="selection").decided == "holds"
    assert judge_condition(condition, noisy(gain, 0.3).cases, 0.05, use="selection").decided == "undecided"


def test_what_the_order_moves_is_what_stands_about_it() -> None:
    value = {"noise_sd": {"s.ok": 0.02, "other.f1": 0.1}, "cases": {"s": 50, "other": 9}, "orders": 4, "differ": 0.1}
    belief = Belief(id="N", subject="harness:order", claim="noise", statement="measured", value=value, tag="confirmed")
    view = Rehearsal(beliefs=[belief]).view()
    assert view.noise == {"s.ok": Noise(sd=0.02, n=50), "other.f1": Noise(sd=0.1, n=9)}
    assert Rehearsal().view().noise == {}
    stale = belief.model_copy(update={"status": "stale"})
    assert Rehearsal(beliefs=[stale]).view().noise == {}


HALF_LOST = [None if case % 2 == 0 else float(case % 4 == 1) for case in range(80)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([1.0, 0.0] * 40, HALF_LOST),
        ([1.0, 0.0] * 40, [None, 0.0] * 40),
        ([0.0] * 80, [*ones(6, 6), *[None] * 74]),
        (HALF_LOST, [1.0] * 80),
    ],
    ids=["the right ones are gone", "the rest is unchanged", "six are left", "the start's are gone"],
)
def test_more_missing_scores_than_the_gate_accepts_tell_nothing(
    before: list[float | None], after: list[float | None]
) -> None:
    cases = table(parent={"s.ok": before}, candidate={"s.ok": after})
    verdict = judge_run(RunEvidence(gate=VALUE, cases=cases))
    assert (verdict.rule, verdict.had_power) == ("U.missing", False)
    assert "cases have no score of s.ok on both sides" in verdict.sentence


@pytest.mark.parametrize(("missing", "rule"), [(4, "B.moved"), (5, "U.missing")])
def test_a_tenth_may_be_missing_of_any_condition(missing: int, rule: str) -> None:
    safe = [*[None] * missing, *ones(40 - missing, 40 - missing)]
    cases = table(
        parent={"s.ok": ones(8, 40), "s.safe": ones(40, 40)}, candidate={"s.ok": ones(24, 40), "s.safe": safe}
    )
    verdict = judge_run(RunEvidence(gate=GUARDED, cases=cases))
    assert verdict.rule == rule, verdict.sentence


FLOOR = Condition(id="floor", metric="s.safe", min=0.7)
ERRORS = Condition(id="errors", metric="s.safe", statistic="count", max=3)
OTHERS = Condition(id="others", any_of=("s.safe", "s.form"), min=0.7)
GAIN = Condition(id="gain", metric="s.safe", against="parent", min=0.05)


@pytest.mark.parametrize(
    ("condition", "before", "after", "rule"),
    [
        (FLOOR, 56, 8, "D.condition_broken"),
        (FLOOR, 40, 8, "D.condition_broken"),
        (FLOOR, 20, 4, "B.moved"),
        (FLOOR, 56, 38, "B.moved"),
        (FLOOR, 32, 40, "B.moved"),
        (ERRORS, 1, 30, "D.condition_broken"),
        (ERRORS, 20, 30, "B.moved"),
        (OTHERS, 56, 8, "D.condition_broken"),
        (GAIN, 40, 8, "D.condition_broken"),
        (GAIN, 40, 39, "B.moved"),
    ],
    ids=[
        "a floor that the start met",
        "a floor that the start was not shown to miss",
        "a floor that the start missed",
        "a floor that the run may meet",
        "a rise that is not enough",
        "a count that the start met",
        "a count that the start missed",
        "an any-of that the start met by one",
        "an improvement that became a loss",
        "an improvement that may be one",
    ],
)
def test_what_the_start_met_and_the_run_is_shown_to_break_outweighs_progress(
    condition: Condition, before: int, after: int, rule: str
) -> None:
    sides = {
        "base": {"s.ok": ones(8, 60), "s.safe": ones(before, 60), "s.form": ones(0, 60)},
        "parent": {"s.ok": ones(8, 60), "s.safe": ones(before, 60), "s.form": ones(0, 60)},
        "candidate": {"s.ok": ones(30, 60), "s.safe": ones(after, 60), "s.form": ones(0, 60)},
    }
    gate = Gate(conditions=(*VALUE.conditions, condition), primary="s.ok")
    verdict = judge_run(RunEvidence(gate=gate, cases=table(**sides)))
    assert (verdict.rule, verdict.movement) == (rule, "moved"), verdict.sentence
    assert (f"was {before / 60:.4g} before" in verdict.sentence) == (rule == "D.condition_broken")


def test_a_loss_within_the_noise_floor_breaks_nothing() -> None:
    sides = {
        "parent": {"s.ok": ones(8, 60), "s.safe": ones(56, 60)},
        "candidate": {"s.ok": ones(60, 60), "s.safe": ones(30, 60)},
    }
    gate = Gate(conditions=(*VALUE.conditions, FLOOR))
    told = RunEvidence(gate=gate, cases=table(**sides))
    assert judge_run(told).rule == "D.condition_broken"
    assert judge_run(told.model_copy(update={"noise_floor": 0.5})).rule == "B.moved"


def test_a_loss_that_is_shown_needs_no_power_of_the_target() -> None:
    cases = table(
        parent={"s.ok": ones(26, 40), "s.safe": ones(38, 40)}, candidate={"s.ok": ones(28, 40), "s.safe": ones(6, 40)}
    )
    verdict = judge_run(RunEvidence(gate=GUARDED, cases=cases))
    assert (verdict.rule, verdict.movement, verdict.had_power) == ("D.no_worse_broken", "unclear", True)


def test_the_strict_metric_that_was_lost_outweighs_what_the_denser_one_gained() -> None:
    cases = table(
        parent={"s.ok": ones(20, 40), "s.kept": [0.5] * 40}, candidate={"s.ok": ones(4, 40), "s.kept": [0.8] * 40}
    )
    told = RunEvidence(gate=VALUE, cases=cases, dense={"s.ok": "s.kept"})
    assert (judge_run(told).rule, judge_run(told).movement) == ("D.target_lost", "moved")
    kept = table(
        parent={"s.ok": ones(20, 40), "s.kept": [0.5] * 40}, candidate={"s.ok": ones(19, 40), "s.kept": [0.8] * 40}
    )
    assert judge_run(told.model_copy(update={"cases": kept})).rule == "B.moved"


def test_a_gate_that_holds_on_confirmation_is_a_promotion_whatever_the_ceiling_says() -> None:
    for ceiling in (0.7, 0.82):
        given_evidence = evidence(VALUE, 20, 40, ceilings={"s.ok": ceiling})
        confirmed = given_evidence.model_copy(update={"confirmation": judge_gate(VALUE, given_evidence.cases)})
        assert judge_run(confirmed).rule == "A.confirmed"


EITHER = Gate(
    conditions=(
        Condition(id="safe", metric="s.safe", against="parent", min=0.0, margin=0.1),
        Condition(id="either", any_of=("s.unit", "s.date"), against="parent", min=0.05),
    )
)


def either(unit: int, date: int, n: int = 100) -> CaseTable:
    return table(
        parent={"s.safe": ones(80, n), "s.unit": ones(60, n), "s.date": ones(40, n)},
        candidate={"s.safe": ones(81, n), "s.unit": ones(unit, n), "s.date": ones(date, n)},
    )


@pytest.mark.parametrize(("unit", "date", "moved"), [(90, 40, "s.unit"), (90, 38, "s.unit"), (60, 75, "s.date")])
def test_the_alternative_that_came_closest_to_holding_is_the_target_and_the_win(
    unit: int, date: int, moved: str
) -> None:
    cases = either(unit, date)
    confirmation = judge_gate(EITHER, cases)
    chosen = judge_run(RunEvidence(gate=EITHER, cases=cases))
    assert (chosen.rule, chosen.is_win, chosen.is_promising) == ("B.moved", True, True)
    assert chosen.target is not None
    assert (chosen.target.metric, chosen.comparisons[0].alpha) == (moved, 0.0125)
    assert judge_run(RunEvidence(gate=EITHER, cases=cases, confirmation=confirmation)).rule == "A.confirmed"


def test_a_primary_alternative_stays_the_target_whatever_the_other_does() -> None:
    gate = EITHER.model_copy(update={"primary": "s.date"})
    verdict = judge_run(RunEvidence(gate=gate, cases=either(90, 40)))
    assert verdict.target is not None
    assert (verdict.target.metric, verdict.comparisons[0].alpha) == ("s.date", 0.025)


def test_the_closest_alternative_is_passed_over_where_its_ceiling_keeps_it_from_holding() -> None:
    gate = Gate(conditions=(Condition(id="either", any_of=("s.unit", "s.date"), min=0.9),))
    verdict = judge_run(RunEvidence(gate=gate, cases=either(80, 60), ceilings={"s.unit": 0.85}))
    assert verdict.target is not None
    assert (verdict.target.metric, verdict.rule) == ("s.date", "B.moved")


def in_full(gate: Gate, cases: CaseTable, **more: Any) -> BucketVerdict:
    """Judge a run whose confirmation cases say what its selection cases do."""
    return judge_run(RunEvidence(gate=gate, cases=cases, confirmation=judge_gate(gate, cases), **more))


def test_a_gate_that_holds_is_a_promotion_whichever_condition_the_start_had_lacked() -> None:
    either_of = Gate(conditions=(Condition(id="either", any_of=("s.unit", "s.date"), min=0.8),))
    beaten = in_full(either_of, either(97, 40), ceilings={"s.unit": 0.7, "s.date": 1.0})
    assert beaten.target is not None
    assert (beaten.rule, beaten.target.metric) == ("A.confirmed", "s.unit"), "a ceiling that a run beat is none"
    still = in_full(either_of.model_copy(update={"primary": "s.date"}), either(97, 40))
    assert still.target is not None
    assert (still.rule, still.target.metric) == ("A.confirmed", "s.date")
    first = Gate(conditions=(FLOOR.model_copy(update={"min": 0.5}), Condition(metric="s.unit", min=0.8)))
    second = judge_run(RunEvidence(gate=first, cases=either(97, 40)))
    assert second.target is not None
    assert (second.rule, second.target.metric, second.is_win) == ("B.moved", "s.unit", True), "the first is met already"
    assert in_full(first, either(97, 40)).rule == "A.confirmed"
    assert in_full(first, either(97, 40), noise_floor=0.5).rule != "A.confirmed", "a gain within the noise floor"
    unmeasured = Gate(conditions=(OK, *first.conditions))
    assert judge_run(RunEvidence(gate=unmeasured, cases=either(97, 40))).is_win


@pytest.mark.parametrize("score", [61.0, 1.5, -3.0])
def test_a_score_off_its_scale_promotes_nothing_and_says_so(score: float) -> None:
    given = table(parent={"s.ok": [0.6] * 40}, candidate={"s.ok": [score] * 40})
    verdict = in_full(VALUE, given)
    assert (verdict.rule, verdict.had_power, verdict.is_promising) == ("U.off_scale", False, False)
    assert f"s.ok scored {score:g} on a case, and its scale is from 0 to 1" in verdict.sentence
    assert verdict.gate.conditions[0].sentence.endswith(f"({score:g}, where 0 to 1 is declared), so it does not hold.")
    assert "not s.ok>=0.8 (a score lies off its scale" in verdict.gate.sentence
    declared = given.model_copy(update={"scales": {"ok": Scale(low=-9.0, high=99.0)}})
    assert judge_run(RunEvidence(gate=VALUE, cases=declared)).rule != "U.off_scale"


def test_a_loss_that_is_shown_is_told_though_the_ceiling_caps_what_could_be_gained() -> None:
    cases = table(
        parent={"s.ok": ones(26, 40), "s.safe": ones(38, 40)}, candidate={"s.ok": ones(26, 40), "s.safe": ones(6, 40)}
    )
    assert judge_run(RunEvidence(gate=GUARDED, cases=cases, ceilings={"s.ok": 0.7})).rule == "D.no_worse_broken"
    assert judge_run(evidence(VALUE, 30, 10, ceilings={"s.ok": 0.77})).rule == "D.target_lost"
    assert judge_run(evidence(VALUE, 20, 22, ceilings={"s.ok": 0.7})).rule == "U.capped"


@pytest.mark.parametrize(("n", "rule"), [(3, "U.power"), (4, "U.power"), (5, "U.power"), (6, "D.target_lost")])
def test_a_few_equal_differences_show_no_loss(n: int, rule: str) -> None:
    cases = table(parent={"s.ok": [0.5] * n}, candidate={"s.ok": [0.499] * n})
    verdict = judge_run(RunEvidence(gate=VALUE, cases=cases))
    assert verdict.rule == rule, verdict.sentence
    assert ("too few cases for an interval" in verdict.sentence) == (n <= 3)
    assert "inf" not in verdict.sentence


@pytest.mark.parametrize(
    ("after", "safe", "n", "rule"),
    [
        (28, 37, 40, "U.power"),
        (26, 37, 40, "U.power"),
        (40, 37, 40, "B.moved"),
        (52, 74, 80, "C.flat"),
        (52, 60, 80, "D.no_worse_broken"),
    ],
)
def test_a_plain_no_worse_condition_that_luck_may_have_broken_proves_no_power_and_no_loss(
    after: int, safe: int, n: int, rule: str
) -> None:
    plain = Condition(metric="s.safe", against="parent", min=0.0, test="plain", reason=REASON)
    cases = table(
        parent={"s.ok": ones(26 * n // 40, n), "s.safe": ones(76 * n // 80, n)},
        candidate={"s.ok": ones(after, n), "s.safe": ones(safe, n)},
    )
    verdict = judge_run(RunEvidence(gate=Gate(conditions=(*VALUE.conditions, plain)), cases=cases))
    assert verdict.rule == rule, verdict.sentence
    assert ("by the bare number only, which shows no loss" in verdict.sentence) == (rule == "C.flat")
