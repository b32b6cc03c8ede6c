"""A published log judged again: the lab's gates, buckets and stops, and what a record shows of each failure mode."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from policies.replay.published import HarnessGate, PublishedCycle, PublishedHarness
from policies.replay.records import Halt, Trajectory
from policies.replay.verdicts import replay, replayed_gate
from policies.verdict import Prediction
from tests.policies.trajectory import (
    BASE,
    HARNESS,
    LOG,
    MODEL,
    Json,
    cycle,
    finding,
    gate,
    gate_v1,
    log,
    one,
    regular,
    replayed,
    stress,
    trajectory,
)

WITHHELD = replayed(LOG)
KNOWN = replayed(LOG, HARNESS)


# The lab


@pytest.mark.parametrize(
    ("name", "failing"),
    [
        ("collab_sft_v1", ["stress_data_preservation_mean"]),
        ("collab_sft_v2", ["stress_data_preservation_mean"]),
        ("collab_sft_v3", ["stress_data_preservation_mean"]),
        (
            "collab_dpo_v0",
            ["composite_delta", "best_of_unit_format_completeness_delta", "stress_data_preservation_mean"],
        ),
        ("collab_sft_v0", ["composite_delta", "rh_like_delta"]),
        ("trace_dpo_v0", ["fused_baseline", "tier_accuracy>=9/12"]),
        ("trace_dpo_v1", []),
        ("collab_base", []),
    ],
)
@pytest.mark.parametrize("found", [WITHHELD, KNOWN], ids=["withheld", "known"])
def test_recorded_gates_reproduce_whatever_is_known_of_the_harness(found: Any, name: str, failing: list[str]) -> None:
    row = one(found, name)
    assert [condition.id for condition in row.gate if not condition.holds] == failing
    assert row.passed is (not failing)
    assert all(condition.is_plain for condition in row.gate)
    assert all(condition.agrees in {True, None} for condition in row.gate)


@pytest.mark.parametrize(
    ("name", "bucket"),
    [
        ("collab_sft_v1", "C"),
        ("collab_sft_v2", "C"),
        ("collab_sft_v3", "C"),
        ("collab_dpo_v0", "D"),
        ("trace_dpo_v1", "A"),
        ("trace_dpo_v0", None),
        ("trace_sft", None),
        ("collab_base", None),
    ],
)
def test_with_the_ceiling_withheld_the_buckets_follow_from_the_figures(name: str, bucket: str | None) -> None:
    assert one(WITHHELD, name).bucket == bucket


def test_only_a_recorded_hypothesis_makes_the_third_run_a_refutation() -> None:
    predicted = {"metric": "stress.data_preservation", "low": 0.5, "high": 1.0}
    row = one(replayed(log(collab_sft_v3={"predicted": predicted})), "collab_sft_v3")
    assert (row.bucket, row.rule, row.agrees) == ("D", "D.prediction", True)
    assert (one(WITHHELD, "collab_sft_v3").rule, one(WITHHELD, "collab_sft_v3").agrees) == ("C.flat", False)
    entry = PublishedCycle.model_validate({"id": "x", "predicted": predicted})
    assert entry.predicted == Prediction(metric="stress.data_preservation", low=0.5, high=1.0)


def test_with_the_harness_known_the_campaign_stops_before_its_first_cycle() -> None:
    assert KNOWN.first_stop is not None
    assert (KNOWN.first_stop.cycle, KNOWN.first_stop.mode) == ("collab_sft_v0", "P1")
    assert KNOWN.first_stop.when == "before training"
    assert "0.25" in KNOWN.first_stop.sentence
    assert "768" in KNOWN.first_stop.fix
    assert {one(KNOWN, name).bucket for name in ("collab_sft_v1", "collab_sft_v2", "collab_sft_v3")} == {"U"}
    assert one(KNOWN, "collab_base").next.action == "halt"
    assert one(KNOWN, "trace_base").next.rule == "ceiling.first"
    modes = {f.mode for f in one(KNOWN, "collab_dpo_v0").findings if f.severity == "hard_stop"}
    assert modes == {"P1", "P2", "P3"}
    assert one(KNOWN, "collab_dpo_v0").next.sentence.endswith("Then see to P2, P3.")


def test_what_would_have_been_saved_is_told_with_what_is_not_on_record() -> None:
    assert KNOWN.saved.cycles == 6
    assert KNOWN.saved.unknown == ("trace_dpo_v0", "collab_sft_v0")
    assert KNOWN.saved.hours == pytest.approx((8 + 61 + 63 + 23) / 60)
    said = " ".join(KNOWN.sentences)
    assert "Vigil would have stopped before collab_sft_v0 (mode P1)" in said
    assert "It would also have refused to train trace_dpo_v0 (2)." in said
    assert "6 of 8 training cycles" in said
    assert "at least 2.6 hours" in said
    assert WITHHELD.saved.ids == ("trace_dpo_v0", "collab_sft_v0", "collab_dpo_v0")


def test_every_gate_condition_and_bucket_on_record_is_compared() -> None:
    assert "32 of 32 gate conditions come out as recorded." in WITHHELD.sentences
    assert "3 of 4 buckets are as recorded; not collab_sft_v3 D, here C." in WITHHELD.sentences
    changed = log()
    changed[3]["gate"]["conditions"][1]["passed"] = False
    changed[3]["gate"]["passed"] = False
    said = replayed(changed)
    assert any("not trace_dpo_v1: tier_accuracy" in sentence for sentence in said.sentences)
    assert one(said, "trace_dpo_v1").agrees is False


def test_a_parent_at_nought_of_twelve_stops_and_one_at_nine_passes() -> None:
    stopped = one(WITHHELD, "trace_dpo_v0")
    found = finding(stopped, "2")
    assert found is not None
    assert found.prevents
    assert "194 bytes smaller" in found.sentence
    assert (stopped.next.action, stopped.next.rule) == ("halt", "hard_stop.2")
    assert finding(one(WITHHELD, "trace_dpo_v1"), "2") is None
    without_sizes = one(replayed(log(trace_dpo_v0={"artifact_bytes": None, "base": None})), "trace_dpo_v0")
    found = finding(without_sizes, "P12", "reproduces")
    assert found is not None
    assert "off by 9, 1 allowed" in found.sentence
    grown = {"base_4bit": 10, "fused": 20, "adapter": 5}
    assert finding(one(replayed(log(trace_dpo_v0={"artifact_bytes": grown})), "trace_dpo_v0"), "2") is None


def test_a_promotion_by_bare_numbers_is_labelled_with_its_p_value_and_the_cases_it_would_need() -> None:
    row = one(WITHHELD, "trace_dpo_v1")
    accuracy = row.gate[1]
    assert accuracy.label == "plain, not significant (exact paired p = 0.25 two-sided)"
    assert (accuracy.p_two_sided, accuracy.cases_needed, accuracy.n) == (0.25, 31, 12)
    assert (row.next.action, row.rule) == ("promote", "A.confirmed")
    assert "promoted, not significant: tier_accuracy (exact paired p = 0.25 two-sided)" in row.next.sentence
    assert row.next.sentence.endswith(
        "Significance would need 31 cases for tier_accuracy, 15 cases for prospective_and_flip. "
        "More cases of the same result would not make parse_errors significant."
    )
    assert any(sentence.startswith("trace_dpo_v1 was promoted by a bare number") for sentence in WITHHELD.sentences)
    found = finding(row, "P5", "significant")
    assert found is not None
    assert "p = 0.25" in found.sentence


def test_a_promotion_that_a_test_bears_out_is_not_labelled() -> None:
    entry = {
        "id": "large",
        "instrument": "sft",
        "regular": {"n": 200, "overall_correct": 190},
        "base": {"regular": {"n": 200, "overall_correct": 0}},
        "gate": gate(("overall_correct", ">=", 100, 190, True)),
    }
    row = replayed([entry]).cycles[0]
    assert (row.bucket, row.next.sentence) == ("A", "Ask for the promotion of large.")
    assert finding(row, "P5", "significant") is None
    assert replayed([entry]).first_stop is None
    assert replayed([entry]).sentences[0] == "Nothing on record would have stopped Vigil before a cycle."


def test_without_published_cases_the_intervals_are_wilson_based_and_said_to_be() -> None:
    row = one(WITHHELD, "collab_sft_v2")
    assert all("Wilson" in condition.method for condition in row.gate)
    last = row.gate[-1]
    assert last.low == pytest.approx(0.142, abs=1e-3)
    assert last.high == pytest.approx(0.402, abs=1e-3)
    assert any("Wilson-based and unpaired" in sentence for sentence in WITHHELD.sentences)


def test_a_margin_below_one_case_is_a_finding_and_a_wide_one_is_not() -> None:
    for name in ("collab_sft_v1", "collab_sft_v2", "collab_sft_v3", "collab_dpo_v0", "trace_dpo_v1"):
        assert finding(one(WITHHELD, name), "P5") is not None
    found = finding(one(WITHHELD, "collab_dpo_v0"), "P5", "resolvable")
    assert found is not None
    assert found.value["conditions"] == ["composite_delta", "data_preservation_delta", "rh_like_delta"]
    wide = {
        "id": "wide",
        "instrument": "sft",
        "regular": regular(0.99, 1.0, 1.0),
        "base": BASE,
        "gate": gate(("composite_delta", ">=", -0.3, 0.0331, True)),
    }
    assert finding(replayed([wide]).cycles[0], "P5") is None


def test_ten_hundredths_more_than_what_is_left_cannot_be_reached() -> None:
    found = finding(one(WITHHELD, "collab_sft_v0"), "4")
    assert found is not None
    assert found.prevents
    assert "0.0431" in found.sentence
    assert finding(one(WITHHELD, "collab_sft_v1"), "4") is None


def test_one_measurement_counted_twice_is_seen_once_there_are_three_different_figures() -> None:
    found = finding(one(WITHHELD, "collab_sft_v2"), "P4")
    assert found is not None
    assert found.value["metrics"] == ["regular.data_preservation", "regular.rh_like"]
    assert finding(replayed([LOG[7]]).cycles[0], "P4") is None


# What else a record shows


def test_a_base_with_two_scores_is_told_where_it_differs() -> None:
    found = finding(one(WITHHELD, "collab_sft_v1"), "P12")
    assert found is not None
    assert found.value["metrics"] == ["stress.composite", "stress.unit_consistency"]
    assert finding(one(WITHHELD, "collab_sft_v2"), "P12") is None


def test_a_gate_that_misquotes_its_own_figures_is_told() -> None:
    entries = log(collab_sft_v2={"gate": gate_v1((0.5, 0, 0, 0.1375, 0.25), "PPPPF")})
    found = finding(one(replayed(entries), "collab_sft_v2"), "P12", "agrees")
    assert found is not None
    assert "composite_delta was 0.5" in found.sentence


def test_two_conditions_of_one_name_are_each_held_against_their_own_number() -> None:
    entry = simple("x", 0.9, n=40)
    asked = {"name": "ok", "metric": "s.ok"}
    entry["gate"]["conditions"] = [
        {**asked, "op": ">=", "threshold": 0.99, "value": 0.9},
        {**asked, "op": ">=", "threshold": 0.1, "value": 0.2},
    ]
    row = replayed([entry]).cycles[0]
    found = [f.sentence for f in row.findings if f.claim == "agrees"]
    assert found == ["The gate says ok was 0.2; the record's own figures give 0.9."]
    assert [condition.holds for condition in row.gate] == [False, True]
    entry["gate"]["conditions"] = [
        {**asked, "op": ">=", "threshold": 0.1, "value": 0.9},
        {**asked, "op": ">=", "threshold": 0.95, "value": 0.9},
    ]
    found = [f.sentence for f in replayed([entry]).cycles[0].findings if f.claim == "significant"]
    assert found, "0.95 lies within the interval of 0.9 on 40 cases, and 0.1 does not"


def test_judged_on_other_weights_than_trained_on_stops_the_judging() -> None:
    found = finding(one(WITHHELD, "collab_dpo_v0"), "P2")
    assert found is not None
    assert not found.prevents
    entries = log(collab_dpo_v0={"eval_base_model_reported": "fused third run", "data": {}})
    assert finding(one(replayed(entries), "collab_dpo_v0"), "P2") is None
    only = log(collab_dpo_v0={"data": {"drop_fraction": [0, 0.7]}})
    row = one(replayed(only), "collab_dpo_v0")
    assert row.next.sentence.startswith("Do not judge it")
    assert finding(row, "P3") is None


@pytest.mark.parametrize("data", [{"drop_fraction": [0.3, 0.7]}, {"drop_fraction": [0.3], "train_pairs": 80}])
def test_pairs_made_by_removal_are_told_apart_by_length(data: Json) -> None:
    found = finding(one(replayed(log(collab_dpo_v0={"data": data})), "collab_dpo_v0"), "P3")
    assert found is not None
    assert "30 %" in found.sentence
    assert finding(one(replayed(log(collab_sft_v2={"data": data})), "collab_sft_v2"), "P3") is None


def test_most_answers_deleting_is_one_policy_and_a_third_is_not() -> None:
    assert finding(one(WITHHELD, "collab_sft_v1"), "5") is not None
    entries = log(collab_sft_v1={"data": {"deletion_ratio": 0.306, "deletion_ratio_note": "of both"}})
    assert finding(one(replayed(entries), "collab_sft_v1"), "5") is None


def test_sixteen_passes_are_a_dose_and_two_and_a_half_are_not() -> None:
    assert finding(one(WITHHELD, "collab_sft_v0"), "1") is not None
    entries = log(collab_sft_v0={"recipe": {"epochs": 2.5}})
    assert finding(one(replayed(entries), "collab_sft_v0"), "1") is None


@pytest.mark.parametrize(
    ("estimate", "fires"),
    [([10, 15], True), ([30, 70], False), (20, True), ([250, 300], True), (None, False), (0, False)],
)
def test_an_estimate_off_by_two_is_told(estimate: Any, fires: bool) -> None:  # noqa: FBT001 - a parameter of the test
    train = {"wall_minutes": 61, "estimated_wall_before_run_minutes": estimate}
    row = one(replayed(log(collab_sft_v2={"train": train})), "collab_sft_v2")
    assert (finding(row, "10") is not None) is fires


def test_a_resumed_run_that_starts_afresh_lost_its_save() -> None:
    assert finding(one(WITHHELD, "collab_sft_v3"), "12") is None
    train = {"resume_check": {"phase2_iter1_val": 1.05, "fresh_start_val": 1.109}}
    row = one(replayed(log(collab_sft_v3={"train": train})), "collab_sft_v3")
    found = finding(row, "12")
    assert found is not None
    assert found.severity == "hard_stop"
    assert finding(one(replayed(log(collab_sft_v3={"train": {"resume_check": []}})), "collab_sft_v3"), "12") is None


def test_a_first_loss_of_ln_two_is_noted_and_proves_nothing() -> None:
    assert finding(one(WITHHELD, "trace_dpo_v0"), "P6") is not None
    other = {"loss_curve": [{"iter": 1, "train_loss": 0.5}]}
    assert finding(one(replayed(log(trace_dpo_v0={"train": other})), "trace_dpo_v0"), "P6") is None


def test_pairs_told_apart_without_a_better_target_are_mode_fourteen() -> None:
    found = finding(one(WITHHELD, "collab_dpo_v0"), "14")
    assert found is not None
    assert "by iteration 50 of 150" in found.sentence
    assert finding(one(WITHHELD, "trace_dpo_v1"), "14") is None
    assert finding(one(WITHHELD, "trace_dpo_v0"), "14") is None
    curve = {"loss_curve": [{"phase": 1, "points": [{"iter": None, "train_loss": 0.001}]}, "done", {"points": 3}]}
    found = finding(one(replayed(log(collab_dpo_v0={"train": curve})), "collab_dpo_v0"), "14")
    assert found is not None
    assert "iteration" not in found.sentence
    assert finding(one(replayed(log(collab_dpo_v0={"train": {"loss_curve": "fell"}})), "collab_dpo_v0"), "14") is None


def test_three_equal_scores_point_at_the_instrument_until_its_ceiling_is_known() -> None:
    row = one(WITHHELD, "collab_sft_v3")
    found = finding(row, "P1", "same_score")
    assert found is not None
    assert (row.next.action, row.next.rule) == ("measure", "instrument.first")
    assert finding(one(WITHHELD, "collab_sft_v2"), "P1") is None
    assert finding(one(KNOWN, "collab_sft_v3"), "P1", "same_score") is None
    assert finding(one(WITHHELD, "collab_dpo_v0"), "P1") is None


# What Vigil would have done next


def simple(name: str, after: float, instrument: str = "sft", n: int = 400, **more: Any) -> Json:
    """Return a cycle with one condition, 0.8 of `s.ok` asked, that started from 0.5."""
    return {
        "id": name,
        "instrument": instrument,
        "s": {"n": n, "ok": after, "side": after},
        "base": {"s": {"n": n, "ok": 0.5, "side": 0.2}},
        "gate": {"conditions": [{"name": "ok", "op": ">=", "threshold": 0.8, "metric": "s.ok"}]},
        "control": "s.side",
        **more,
    }


OPEN = {
    "max_tokens": 64,
    "gate": {"metric": "s.ok", "min": 0.8},
    "cases": [{"rows": 1, "gold_tokens": 10}, {"rows": 1, "gold_tokens": 20}],
}


@pytest.mark.parametrize(
    ("after", "bucket", "action", "rule"),
    [
        (0.62, "B", "train", "progress"),
        (0.51, "C", "train", "flat"),
        (0.3, "D", "train", "regressed"),
        (0.85, "A", "promote", "A.confirmed"),
    ],
)
def test_each_bucket_has_its_next_step(after: float, bucket: str, action: str, rule: str) -> None:
    row = replayed([simple("r", after)]).cycles[0]
    assert (row.bucket, row.next.action, row.next.rule) == (bucket, action, rule)
    known = replayed([simple("r", after)], OPEN).cycles[0]
    assert known.bucket == bucket
    assert "gold" not in known.next.sentence


def test_too_few_cases_ask_for_a_better_measurement() -> None:
    row = replayed([simple("r", 0.5, n=8)]).cycles[0]
    assert (row.bucket, row.next.action, row.next.rule) == ("U", "measure", "measurement.first")


FLAT = [
    simple("r1", 0.51, recipe={"rank": 4}),
    simple("r2", 0.51, recipe={"rank": 8}),
    simple("r3", 0.512, recipe={"rank": 8}, data={"rows": 2}),
]


def test_three_flat_runs_exhaust_a_class_only_below_a_measured_ceiling() -> None:
    rules = [row.next.rule for row in replayed(FLAT, OPEN).cycles]
    assert rules == ["flat", "flat", "class.next"]
    assert [row.next.rule for row in replayed(FLAT).cycles] == ["flat", "flat", "ceiling.first"]


def test_a_log_that_says_where_runs_started_is_told_to_try_the_class_from_a_flat_one_once() -> None:
    said = [{**entry, "parent": "base"} for entry in FLAT]
    row = replayed(said, OPEN).cycles[-1]
    assert (row.next.action, row.next.rule) == ("train", "class.start")
    assert row.next.sentence.endswith("It is tried once from r3, which moved the control, before it is given up.")
    again = simple("r4", 0.51, recipe={"rank": 8}, parent="r3")
    assert replayed([*said, again], OPEN).cycles[-1].next.rule == "class.next"


def test_three_runs_that_prove_nothing_end_a_campaign_whose_ceiling_is_known() -> None:
    nothing_moved = [{**entry, "control": None, "s": {**entry["s"], "side": 0.2}} for entry in FLAT]
    assert replayed(nothing_moved, OPEN).cycles[-1].next.rule == "runs.no_progress"
    something_did = [{**entry, "control": None} for entry in FLAT]
    assert replayed(something_did, OPEN).cycles[-1].next.rule == "class.next"


def test_a_class_is_judged_by_its_own_runs() -> None:
    mixed = [*FLAT[:2], simple("d1", 0.51, "dpo", recipe={"rank": 8}), FLAT[2]]
    assert replayed(mixed, OPEN).cycles[2].next.rule == "runs.no_progress"
    assert replayed(mixed, OPEN).cycles[3].next.rule == "class.next"


def test_a_measurement_below_a_known_and_sufficient_ceiling_leads_to_training() -> None:
    measured = {"id": "base", "s": {"n": 400, "ok": 0.5}}
    assert replayed([measured], OPEN).cycles[0].next.rule == "recipe.first"


def test_a_cycle_without_gate_or_without_figures_has_no_bucket_and_is_measured_first() -> None:
    ungated = one(WITHHELD, "trace_sft")
    assert (ungated.bucket, ungated.next.rule) == (None, "run.measure")
    assert "no gate on record" in ungated.sentence
    assert "Write down the gate" in ungated.next.sentence
    unmeasured = replayed([{**simple("r", 0.5), "s": None}]).cycles[0]
    assert "never measured" in unmeasured.sentence
    assert "Measure it" in unmeasured.next.sentence


# Reading


@pytest.mark.parametrize(
    ("op", "threshold", "value", "holds"),
    [
        (">=", 1, 1, True),
        (">", 1, 1, False),
        (">", 1, 2, True),
        ("<=", 1, 1, True),
        ("<", 1, 1, False),
        ("<", 1, 0, True),
        ("==", 2, 2, True),
        ("==", 2, 3, False),
        ("abs_delta<=", 1, -1, True),
        ("abs_delta<=", 1, -2, False),
    ],
)
def test_a_number_without_figures_is_judged_as_recorded(op: str, threshold: float, value: float, holds: bool) -> None:  # noqa: FBT001 - a parameter of the test
    (row,) = replayed_gate(cycle({"id": "x", "instrument": "sft", "gate": gate(("other", op, threshold, value, None))}))
    assert (row.holds, row.metric, row.low, row.agrees) == (holds, "", None, None)
    assert row.method.startswith("as recorded")


def test_a_condition_is_read_from_its_name_or_from_its_keys() -> None:
    entry = simple("x", 0.9)
    entry["gate"]["conditions"] = [
        {"name": "s_ok_mean", "op": ">=", "threshold": 0.8},
        {"name": "s_ok_delta", "op": ">=", "threshold": 0.1},
        {"name": "mine", "op": "<=", "threshold": 0.95, "metric": "s.ok", "against": "base"},
        {"name": "s_best_of_ok_side_delta", "op": ">=", "threshold": 0.1},
        {"name": "s_best_of_ok_other_delta", "op": ">=", "threshold": 0.1, "value": 0.2},
        {"name": "s_ok_mean", "op": "==", "threshold": 0.9, "value": 0.9},
    ]
    asked = [row.condition for row in cycle(entry).conditions]
    said = [None if c is None else (c.metrics, c.against, c.sign, c.threshold) for c in asked]
    assert said == [
        (("s.ok",), "value", 1, 0.8),
        (("s.ok",), "parent", 1, 0.1),
        (("s.ok",), "base", -1, 0.95),
        (("s.ok", "s.side"), "parent", 1, 0.1),
        None,
        None,
    ]


def test_a_word_that_begins_two_names_means_neither() -> None:
    entry = simple("x", 0.9)
    entry["s"] |= {"unit_one": 1.0, "unit_two": 1.0}
    entry["gate"]["conditions"] = [{"name": "s_unit_mean", "op": ">=", "threshold": 0.8}]
    assert cycle(entry).conditions[0].condition is None


def test_figures_of_a_condition_that_are_missing_leave_the_records_own_number() -> None:
    entry = simple("x", 0.9)
    entry["s"] = {"n": 10, "side": 0.5}
    entry["gate"]["conditions"][0] |= {"value": 0.9}
    (row,) = replayed_gate(cycle(entry))
    assert (row.metric, row.value, row.holds) == ("", 0.9, True)


def test_what_is_no_share_of_cases_is_left_out() -> None:
    entry = {"id": "x", "regular": {"n": 10, "tokens": 2.5, "name": "x", "flag": True, "pair": [1, 2, 3], "ok": 0.5}}
    assert list(cycle(entry).cases.means["candidate"]) == ["regular.ok"]
    for n in (None, 0, -1, 10**30, 2.5):
        assert cycle({"id": "x", "regular": {"n": n, "ok": 0.5}}).cases.means["candidate"] == {}


def test_a_margin_is_fine_enough_on_thousands_of_cases() -> None:
    entry = simple("r", 0.51, n=100_000)
    entry["gate"]["conditions"] = [{"name": "s_ok_delta", "op": ">=", "threshold": 0}]
    assert finding(replayed([entry]).cycles[0], "P5", "resolvable") is None
    entry = simple("r", 0.51, n=400)
    entry["gate"]["conditions"] = [{"name": "s_ok_delta", "op": ">=", "threshold": 0}]
    assert finding(replayed([entry]).cycles[0], "P5", "resolvable") is not None


@pytest.mark.parametrize(
    ("train", "recipe", "seconds"),
    [
        ({"wall_minutes": 2}, {}, 120.0),
        ({"wall_minutes_by_phase": [1, 2]}, {}, 180.0),
        ({"wall_minutes_by_phase": []}, {}, None),
        ({"s_per_iter": 2}, {"iters": 10}, 20.0),
        ({"s_per_iter": 2}, {}, None),
    ],
)
def test_training_time_is_read_as_stated_by_phase_or_by_iteration(train: Json, recipe: Json, seconds: Any) -> None:
    assert cycle({"id": "x", "instrument": "sft", "train": train, "recipe": recipe}).wall_s == seconds


def test_the_ceiling_is_what_the_gold_shows_within_the_decode_budget() -> None:
    harness = PublishedHarness.model_validate(HARNESS)
    assert harness.ceiling == 0.25
    assert harness.curve[0] == (512, 0.25)
    assert harness.curve[-1] == (768, 1.0)
    uncounted = copy.deepcopy(HARNESS)
    for case in uncounted["cases"]:
        del case["rows_counted_at_512"]
        case["gold_tokens_without_last_newline"] = case["gold_tokens"] - 1
    assert PublishedHarness.model_validate(uncounted).ceiling == 0.25


def test_a_harness_belongs_to_the_tracks_it_names_or_to_those_with_its_split() -> None:
    anonymous = {**HARNESS, "measured": {}}
    assert one(replayed(LOG, anonymous), "collab_sft_v1").bucket == "U"
    assert trajectory(LOG, anonymous).cycles[0].ceilings == {}
    open_gate = {**HARNESS, "gate": {"metric": "stress.data_preservation"}}
    assert one(replayed(LOG, open_gate), "collab_sft_v1").bucket == "U"
    assert finding(one(replayed(LOG, open_gate), "collab_sft_v0"), "P1") is None
    assert HarnessGate(metric="s.ok").min is None


def test_a_harness_without_cases_is_refused() -> None:
    with pytest.raises(ValidationError):
        PublishedHarness.model_validate({**HARNESS, "cases": []})


def test_a_halt_on_record_is_the_stop_where_no_cycle_was_refused() -> None:
    halt = Halt(
        sentence="The gate is above the ceiling.", fix="Raise it.", mode="P1", claim="below_ceiling", saved_s=7200
    )
    found = replay(Trajectory(cycles=(), halt=halt))
    assert found.first_stop is not None
    assert (found.first_stop.cycle, found.first_stop.mode) == ("", "P1")
    assert found.sentences[:2] == (
        "Vigil would have stopped before any training (mode P1): The gate is above the ceiling. Raise it.",
        "Saved: 2.0 hours of training.",
    )
    bare = replay(Trajectory(cycles=(), halt=Halt(sentence="Stopped.", fix="")))
    assert bare.sentences == ("Vigil would have stopped before any training: Stopped.",)


def test_what_is_saved_is_told_without_a_number_where_no_time_is_on_record() -> None:
    found = replayed(log(collab_sft_v1={"train": {}})[5:6])
    assert (
        "Saved: 1 of 1 training cycles (collab_sft_v0); the time of collab_sft_v0 is not on record." in found.sentences
    )


def test_an_instrument_that_is_none_of_vigils_is_named_and_nothing_is_said_of_its_training() -> None:
    row = replayed([simple("r", 0.9, "ppo")]).cycles[0]
    assert (row.instrument, row.foreign, row.bucket) == ("", "ppo", None)
    assert row.sentence == "r used ppo, which is none of sft, dpo and grpo, so it has no bucket."
    assert replayed([simple("r", 0.9, "SFT")]).cycles[0].instrument == "sft"
    for word in ("none", "None", ""):
        row = replayed([simple("r", 0.9, word)]).cycles[0]
        assert (row.foreign, row.sentence) == ("", "r trained nothing, so it has no bucket.")


def test_what_another_instrument_scored_is_no_second_score_of_the_base() -> None:
    def after(kind: str) -> Any:
        first = simple("first", 0.9, kind, recipe={"model": "m"})
        return finding(replayed([first, simple("r", 0.51, recipe={"model": "m"})]).cycles[1], "P12", "baseline")

    assert after("none") is not None
    assert after("ppo") is None


# What must hold whatever is recorded


@settings(max_examples=25)
@given(order=st.permutations(range(len(LOG))))
def test_the_order_of_cycles_changes_no_gate_bucket_or_own_finding(order: list[int]) -> None:
    found = replayed([LOG[place] for place in order])
    for row in WITHHELD.cycles:
        other = one(found, row.id)
        assert (other.gate, other.bucket, other.rule, other.sentence) == (row.gate, row.bucket, row.rule, row.sentence)
        own = {"1", "2", "4", "5", "10", "12", "14", "P2", "P3", "P5", "P6"}
        assert [f for f in other.findings if f.mode in own] == [f for f in row.findings if f.mode in own]
    assert set(found.saved.ids) == set(WITHHELD.saved.ids)


shares = st.integers(0, 40).map(lambda passed: passed / 40)


@settings(max_examples=60)
@given(
    before=shares, after=shares, gain=shares, asked=st.sampled_from([0.5, 0.85]), margin=st.sampled_from([0.0, -0.1])
)
def test_a_better_figure_never_makes_a_recorded_condition_fail(
    before: float, after: float, gain: float, asked: float, margin: float
) -> None:
    def held(score: float) -> list[bool]:
        entry = simple("r", score, n=40)
        entry["base"]["s"]["ok"] = before
        entry["gate"]["conditions"] = [
            {"name": "s_ok_mean", "op": ">=", "threshold": asked},
            {"name": "s_ok_delta", "op": ">=", "threshold": margin},
        ]
        return [row.holds for row in replayed_gate(cycle(entry))]

    worse, better = held(after), held(min(1.0, after + gain))
    assert all(b or not a for a, b in zip(worse, better, strict=True))


cycles = st.builds(
    simple,
    st.just("r"),
    shares,
    st.sampled_from(["sft", "dpo", "none"]),
    st.sampled_from([8, 40, 400]),
    recipe=st.fixed_dictionaries({"rank": st.sampled_from([4, 8, 16])}),
    data=st.fixed_dictionaries({"rows": st.sampled_from([1, 2])}),
)


SPOILT: dict[str, Json] = {
    "sound": {},
    "weak": {"s": {"n": 8, "ok": 0.5, "side": 1.0}, "base": {"s": {"n": 8, "ok": 0.5, "side": 0.0}}},
    "unmeasured": {"s": None},
    "uncontrolled": {"control": None, "s": {"n": 400, "ok": 0.5, "side": 0.2}},
}
"""What is wrong with a run -> what it looks like; each but the first can prove nothing."""

flat_runs = st.tuples(st.sampled_from([*["sound"] * 15, *SPOILT]), st.sampled_from([0.49, 0.5, 0.51]))
CEILINGS: dict[float | None, Json | None] = {
    None: None,
    0.5: {**OPEN, "cases": [{"rows": 1, "gold_tokens": 10}, {"rows": 1, "gold_tokens": 90}]},
    1.0: OPEN,
}


@pytest.mark.parametrize("ceiling", CEILINGS)
def test_exhaustion_never_follows_from_weak_capped_or_unmeasured_runs(ceiling: float | None) -> None:
    seen = {"draws": 0, "exhausted": 0}

    @settings(max_examples=60)
    @given(runs=st.lists(flat_runs, min_size=3, max_size=6))
    def check(runs: list[tuple[str, float]]) -> None:
        entries = [
            {**simple(f"r{place}", after, recipe={"rank": place}, data={"rows": place // 2 % 2}), **SPOILT[kind]}
            for place, (kind, after) in enumerate(runs)
        ]
        found = replayed(entries, CEILINGS[ceiling])
        ends = [place for place, row in enumerate(found.cycles) if row.next.rule == "class.next"]
        seen["draws"] += 1
        seen["exhausted"] += bool(ends)
        for place in ends:
            kinds = [kind for kind, _ in runs[: place + 1]]
            assert kinds.count("sound") >= 3
            assert not {"weak", "uncontrolled"} & set(kinds)

    check()
    if ceiling == 1.0:
        assert seen["exhausted"] >= seen["draws"] / 6, seen
    else:
        assert not seen["exhausted"], "the gold was not measured, or scores less than is asked"


@settings(max_examples=60)
@given(entry=cycles)
def test_a_promoted_cycle_passes_its_own_gate(entry: Json) -> None:
    row = replayed([entry]).cycles[0]
    if row.bucket == "A":
        assert row.passed
        assert all(condition.holds for condition in row.gate)


def test_the_fixture_speaks_of_the_published_figures() -> None:
    assert BASE["stress"] == stress(0.645, 0.2, 0.7)
    assert {entry["recipe"]["model"] for entry in LOG if "recipe" in entry} == {MODEL, "fused third run"}


def base_and(
    n: int, base: Json, run: Json, *conditions: tuple[str, str, float, float | None, bool | None], **more: Any
) -> Json:
    """Return one trained cycle on the stress split."""
    entry = {"id": "a", "track": "T", "instrument": "sft", "recipe": {"iters": 100}, "regular": None}
    return {**entry, "stress": {"n": n, **run}, "base": {"stress": {"n": n, **base}}, "gate": gate(*conditions), **more}


@pytest.mark.parametrize(
    ("base", "run", "asked", "bucket"),
    [
        ({"accuracy": 78.0}, {"accuracy": 62.0}, ("stress_accuracy", ">=", 85, 62.0, False), "D"),
        ({"accuracy": 78.5}, {"accuracy": 96}, ("stress_accuracy", ">=", 85, 96, True), "A"),
        ({"accuracy": 0.78}, {"accuracy": 0.62}, ("stress_accuracy", ">=", 85, 62.0, False), "D"),
        ({"accuracy": 78.0}, {"accuracy": 62.0}, ("stress_accuracy", ">=", 0.85, 0.62, False), "D"),
        ({"accuracy_pct": 78}, {"accuracy_pct": 62}, ("stress_accuracy_pct", ">=", 85, 62, False), "D"),
        ({"error_pct": 2.5}, {"error_pct": 40.0}, ("stress_error_pct", "<=", 5, 40.0, False), "D"),
        ({"accuracy": 78.0}, {"accuracy": 88.0}, ("stress_accuracy_delta", ">=", 5, 10.0, True), "A"),
        ({"accuracy": 0.5}, {"accuracy": 0.6}, ("stress_accuracy", ">=", 0.85, 0.6, False), "B"),
    ],
)
def test_figures_in_percent_are_judged_as_the_shares_that_they_are(
    base: Json, run: Json, asked: tuple[str, str, float, float | None, bool | None], bucket: str
) -> None:
    row = one(replayed([base_and(400, base, run, asked)]), "a")
    assert row.bucket == bucket, row.sentence
    assert row.gate[0].agrees
    assert finding(row, "P12") is None, "the gate's number and the figures are one"
    assert finding(row, "P5", "on_scale") is None


@pytest.mark.parametrize(
    ("name", "before", "after", "op", "threshold", "bucket", "value"),
    [
        ("overall_correct", 0, 1, ">=", 9, "U", 1.0),
        ("solved", 0, 1, ">=", 9, "U", 1.0),
        ("solved", 1, 0, ">=", 9, "U", 0.0),
        ("overall_correct", 1, 11, ">=", 9, "A", 11.0),
        ("parse_errors", 0, 1, "==", 0, "U", 1.0),
        ("format_validity", 1.0, 0.0, ">=", 0.5, "D", 0.0),
    ],
)
def test_whole_numbers_are_counts_where_the_gate_or_the_name_says_so(  # noqa: PLR0917 - columns of a table
    name: str, before: float, after: float, op: str, threshold: float, bucket: str, value: float
) -> None:
    asked = (f"stress_{name}", op, threshold, float(after), bucket == "A")
    row = one(replayed([base_and(12, {name: before}, {name: after}, asked)]), "a")
    assert (row.bucket, row.gate[0].value) == (bucket, value), row.sentence


def test_a_figure_of_another_unit_or_of_no_gate_is_no_percentage() -> None:
    units = {"mean_tokens": 62.5, "latency": 3.5}
    entry = base_and(40, units, units, ("stress_mean_tokens", "<=", 80, 62.5, True))
    assert cycle(entry).cases.means["candidate"] == {}


def test_a_score_above_the_ceiling_contradicts_it_and_nothing_is_said_of_what_training_can_meet() -> None:
    harness = {**HARNESS, "gate": {"metric": "stress.preserved", "min": 0.85}, "measured": {"a": 0.92}}
    asked = ("stress_preserved", ">=", 0.85, 0.92, True)
    found = replayed([base_and(200, {"preserved": 0.2}, {"preserved": 0.92}, asked)], harness)
    row = one(found, "a")
    told = finding(row, "P1")
    assert told is not None
    assert (told.claim, told.severity, told.known) == ("agrees_with_ceiling", "hard_stop", "after evaluation")
    assert told.sentence.startswith("a scored 0.92 on stress.preserved, better than the reference answers score")
    assert (row.bucket, row.next.rule, found.saved.cycles, found.first_stop) == ("A", "hard_stop.P1", 0, None)
    before = one(replayed([base_and(200, {"preserved": 0.6}, {"preserved": 0.2}, asked)], harness), "a")
    base = finding(before, "P1")
    assert base is not None
    assert base.sentence.startswith("the base scored 0.6")
    under = one(replayed([base_and(200, {"preserved": 0.1}, {"preserved": 0.2}, asked)], harness), "a")
    stays = finding(under, "P1")
    assert stays is not None
    assert stays.claim == "below_ceiling"


def test_an_any_of_whose_other_metric_moved_is_promoted_and_a_broken_floor_on_another_split_is_not() -> None:
    either = {
        "id": "e",
        "instrument": "SFT",
        "regular": {"n": 400, "unit": 0.9, "date": 0.5, "composite": 0.9},
        "base": {"regular": {"n": 400, "unit": 0.7, "date": 0.5, "composite": 0.9}},
        "gate": gate(
            ("regular_best_of_unit_date_delta", ">=", 0.02, 0.2, True),
            ("regular_composite_delta", ">=", -0.005, 0.0, True),
        ),
    }
    row = one(replayed([either]), "e")
    assert (row.bucket, row.instrument) == ("A", "sft")
    assert "regular.unit went from 0.7 to 0.9" in row.sentence
    floor = base_and(
        200,
        {"preserved": 0.4},
        {"preserved": 0.7},
        ("stress_preserved", ">=", 0.85, 0.7, False),
        ("regular_floor", ">=", 0.9, 0.2, False),
        regular={"n": 200, "floor": 0.2},
    )
    floor["base"]["regular"] = {"n": 200, "floor": 0.97}
    assert one(replayed([floor]), "a").rule == "D.condition_broken"
