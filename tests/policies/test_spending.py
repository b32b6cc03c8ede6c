import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import cost, guards
from policies.cost import (
    Estimate,
    MemoryLimits,
    Spent,
    StepSample,
    affordable,
    cut_to_time,
    estimate_run_s,
    fit,
    minutes,
    padded_batches,
)
from state.goal import Budget
from state.records import Action, Guard, Json
from tools.training.data import shape_of

HOUR = 3600.0
MIDNIGHT = 1_700_006_400.0
"""A UTC midnight."""

RECIPE = {"iters": 100, "batch_size": 4, "max_seq_length": 512, "steps_per_report": 10}


def test_until_seven_means_the_next_morning_for_a_campaign_started_in_the_evening() -> None:
    evening = MIDNIGHT + 22 * HOUR
    assert cost.deadline_at("07:00", evening) == MIDNIGHT + 31 * HOUR
    assert cost.deadline_at("23:30", evening) == MIDNIGHT + 23.5 * HOUR
    assert cost.deadline_at("23:30", evening, utc_offset_s=2 * HOUR) == MIDNIGHT + 45.5 * HOUR
    assert cost.deadline_at(None, evening) is None


def test_the_first_broken_limit_is_named_with_its_numbers() -> None:
    limits = Budget(until="07:00", hours=20, runs=3, disk_gb=2)
    start = MIDNIGHT + 22 * HOUR
    fits = affordable(limits, Spent(), Estimate(seconds=HOUR, runs=1, disk_gb=1), start, start)
    assert (fits.is_affordable, fits.limit, fits.left_s, fits.left_runs) == (True, "", 9 * HOUR, 3)
    late = affordable(limits, Spent(), Estimate(seconds=10 * HOUR), start, start)
    assert (late.is_affordable, late.limit) == (False, "until")
    assert late.sentence == "It would take 10.0 h and 9.0 h are left of the budget (until 07:00)."
    spent = affordable(limits, Spent(runs=3), Estimate(runs=1), start, start)
    assert (spent.limit, spent.sentence) == ("runs", "0 of 3 runs are left.")
    full = affordable(limits, Spent(disk_gb=1.5), Estimate(disk_gb=1), start, start)
    assert full.sentence == "It would take 1.00 GB and 0.50 of 2 GB are left."
    hours = affordable(Budget(hours=1), Spent(), Estimate(seconds=2 * HOUR), start, start)
    assert "(1 hours)" in hours.sentence


def test_waiting_for_other_campaigns_costs_no_hours_but_does_not_move_the_morning() -> None:
    waited = Action(key="k1", kind="train", decision="D1", result={"exit": {"queued_s": 3 * HOUR}})
    spent = Spent(queued_s=cost.queued_s([waited, Action(key="k2", kind="promote", decision="D2")]))
    start = MIDNIGHT + 22 * HOUR
    assert affordable(Budget(hours=4), spent, Estimate(), start + 3 * HOUR, start).left_s == 4 * HOUR
    assert affordable(Budget(hours=4), Spent(), Estimate(), start + 3 * HOUR, start).left_s == HOUR
    assert affordable(Budget(until="07:00"), spent, Estimate(), start + 3 * HOUR, start).left_s == 6 * HOUR


def test_after_the_deadline_nothing_is_affordable_however_short() -> None:
    assert not affordable(Budget(hours=1), Spent(), Estimate(), 2 * HOUR, 0.0).is_affordable


def test_without_limits_everything_fits() -> None:
    verdict = affordable(Budget(), Spent(runs=99), Estimate(seconds=1e6, runs=1, disk_gb=1e3), 1e6, 0.0)
    assert (verdict.is_affordable, verdict.left_s) == (True, None)
    assert "no time limit" in verdict.sentence


def test_the_reserve_is_kept_for_confirmation() -> None:
    limits = Budget(hours=1, reserve_min=15)
    assert not affordable(limits, Spent(), Estimate(seconds=50 * 60), 0.0, 0.0).is_affordable
    assert affordable(limits, Spent(), Estimate(seconds=50 * 60), 0.0, 0.0, use_reserve=True).is_affordable


def test_durations_read_as_people_say_them() -> None:
    assert [minutes(seconds) for seconds in (45, 720, 12_600)] == ["45 s", "12 min", "3.5 h"]


@given(
    hours=st.floats(0.01, 100),
    elapsed=st.floats(0, 1e6),
    seconds=st.floats(0, 1e6),
    runs=st.integers(1, 9),
    used=st.integers(0, 9),
    reserve=st.floats(0, 120),
)
def test_an_affordable_plan_never_exceeds_the_budget(  # noqa: PLR0917 - one argument per limit
    hours: float, elapsed: float, seconds: float, runs: int, used: int, reserve: float
) -> None:
    limits = Budget(hours=hours, runs=runs, reserve_min=reserve)
    verdict = affordable(limits, Spent(runs=used), Estimate(seconds=seconds, runs=1), elapsed, 0.0)
    if verdict.is_affordable:
        assert elapsed + seconds + reserve * 60 <= hours * HOUR + 1e-6
        assert used + 1 <= runs


def test_without_measured_steps_the_time_is_assumed_and_says_so() -> None:
    estimate = estimate_run_s(fit([]), [100] * 40, RECIPE)
    assert (estimate.source, fit([]).samples) == ("assumed", 0)
    assert "assumed" in estimate.sentence
    assert estimate.high_s == pytest.approx(4 * estimate.seconds)
    assert estimate.step_s == pytest.approx(4 * 104 / 1400)


def test_a_step_that_nobody_timed_costs_what_the_model_multiplies_at_the_measured_speed() -> None:
    """SmolLM2-135M, 16 rows of 48 tokens on one core at 130 GFLOP/s, took 4.0 s (runbooks/smollm2/small.txt)."""
    on_cpu = cost.prior(134_515_008, 130e9)
    assert 4.0 / 1.5 < on_cpu.seconds(16, 48) < 4.0 * 1.5
    assert cost.prior(134_515_008).seconds(16, 48) < on_cpu.seconds(16, 48) / 5
    assert cost.prior(None, 130e9) == cost.prior()


def test_one_measured_length_scales_the_prior() -> None:
    step = fit([StepSample(batch_size=4, padded_tokens=128, seconds=2 * 4 * 128 / 1400)])
    assert step.source == "measured"
    assert step.linear_s == pytest.approx(2 / 1400)


def test_measured_lengths_recover_all_three_terms() -> None:
    truth = cost.prior().model_copy(update={"constant_s": 0.3, "quadratic_s": 1e-6})
    lengths = (64, 128, 256, 512, 1024)
    samples = [StepSample(batch_size=4, padded_tokens=size, seconds=truth.seconds(4, size)) for size in lengths]
    step = fit(samples)
    assert step.seconds(4, 2048) == pytest.approx(truth.seconds(4, 2048), rel=1e-3)
    assert step.error == 1.2


def test_scattered_steps_widen_the_estimate() -> None:
    samples = [
        StepSample(batch_size=1, padded_tokens=size, seconds=size / 1000 * factor)
        for size, factor in ((64, 2), (128, 0.5), (256, 2), (512, 0.5))
    ]
    assert fit(samples).error > 2


def test_rows_are_padded_to_the_longest_of_their_batch() -> None:
    assert padded_batches([10, 40, 33, 600], 2, 512) == [32, 512]
    assert padded_batches([1], 2, 512) == [8]


@given(st.lists(st.integers(2, 500), min_size=1, max_size=9))
def test_the_trainer_pads_rows_as_the_estimate_of_time_does(lengths: list[int]) -> None:
    assert padded_batches(lengths, len(lengths), 512) == [shape_of(lengths, [1] * len(lengths)).width]


def test_quantiles_stand_in_for_lengths() -> None:
    lengths = cost.lengths_from_quantiles(100, 200, 300)
    assert (len(lengths), sorted(lengths)[9], max(lengths)) == (20, 100, 300)


def measured(tokens_per_s: float) -> cost.StepTime:
    return cost.fit([StepSample(batch_size=4, padded_tokens=128, seconds=512 / tokens_per_s)])


def test_a_run_that_does_not_fit_is_cut_or_refused() -> None:
    estimate = estimate_run_s(measured(1400), [100] * 40, RECIPE, fixed_s=10)
    assert cut_to_time(RECIPE, estimate, estimate.seconds) == RECIPE
    cut = cut_to_time(RECIPE, estimate, estimate.seconds / 2)
    assert cut is not None
    assert 20 <= cut["iters"] < 50
    assert cut_to_time(RECIPE, estimate, 12.0) is None
    assert cost.least_iters(RECIPE) == 50


def test_another_class_is_timed_by_the_assumed_ratio_until_it_was_timed_itself() -> None:
    sample = StepSample(batch_size=4, padded_tokens=128, seconds=1.0)
    sft = cost.step_time({"sft": [sample]}, "sft")
    dpo = cost.step_time({"sft": [sample]}, "dpo")
    assert dpo.seconds(4, 128) == pytest.approx(1.5 * sft.seconds(4, 128))
    assert (sft.source, dpo.source, dpo.error) == ("measured", "assumed", cost.ASSUMED_ERROR)
    slow = StepSample(batch_size=4, padded_tokens=128, seconds=7.0)
    assert cost.step_time({"sft": [sample], "dpo": [slow]}, "dpo").seconds(4, 128) == pytest.approx(7.0)
    assert cost.step_time({}, "grpo").source == "assumed"


@given(left=st.floats(0, 400), rate=st.floats(500, 5000), fixed=st.floats(0, 100))
def test_a_cut_run_fits_also_when_it_is_a_fifth_slower_than_expected(left: float, rate: float, fixed: float) -> None:
    step = measured(rate)
    cut = cut_to_time(RECIPE, estimate_run_s(step, [100] * 40, RECIPE, fixed), left)
    if cut is not None:
        taken = estimate_run_s(step, [100] * 40, cut, fixed)
        assert (taken.seconds if cut == RECIPE else taken.high_s) <= left + 1e-6


def test_training_is_guarded_against_divergence_stall_time_and_disk() -> None:
    found = guards.training_guards(RECIPE, step_s=0.5, wall_s=1000.0)
    verdicts = {guard.verdict for guard in found}
    assert verdicts == {"diverged", "collapsed", "loss_collapsed", "stalled", "out_of_time", "out_of_disk"}
    limits = {guard.signal: guard.threshold for guard in found}
    assert limits["wall_s"] == 10000.0
    assert limits["seconds_since_progress"] == 300.0


def test_training_is_guarded_against_generations_that_collapse_and_a_loss_that_teaches_nothing() -> None:
    found = {guard.verdict: guard for guard in guards.training_guards(RECIPE, step_s=0.5, wall_s=1000.0)}
    assert guards.sentence_of(found["collapsed"]) == "Stop when sample_collapsed > 0.5: collapsed."
    assert guards.sentence_of(found["loss_collapsed"]) == "Stop when early_moved < 0.5: loss_collapsed."


@pytest.mark.parametrize(
    ("recipe", "threshold"),
    [
        ({"loss_type": "sigmoid", "beta": 0.01}, guards.RUNAWAY_LOSS),
        ({"loss_type": "ipo"}, 100.0),
        ({"dpo_cpo_loss_type": "ipo", "beta": 0.05}, 400.0),
        ({"loss_type": "ipo", "beta": 1.0}, guards.RUNAWAY_LOSS),
    ],
)
def test_a_loss_that_begins_high_has_not_run_away(recipe: Json, threshold: float) -> None:
    found = guards.training_guards({**RECIPE, **recipe}, step_s=0.5, wall_s=1000.0)
    (runaway,) = (guard for guard in found if guard.signal == "train_loss" and guard.op == ">")
    assert runaway.threshold == pytest.approx(threshold)
    start = (1 / (2 * recipe.get("beta", 0.1))) ** 2
    assert runaway.threshold > 3.9 * start or recipe.get("loss_type") == "sigmoid"


def test_a_loss_that_is_as_large_as_its_rewards_is_held_to_no_bound_but_being_finite() -> None:
    rollouts = {**RECIPE, "group_size": 8, "kl_ceiling": 0.5}
    unscaled, scaled = (
        guards.training_guards({**rollouts, "scale_rewards": is_scaled}, step_s=0.5, wall_s=1000.0)
        for is_scaled in (False, True)
    )
    assert [guard.op for guard in unscaled if guard.signal == "train_loss"] == ["non_finite"]
    assert [guard.op for guard in scaled if guard.signal == "train_loss"] == ["non_finite", ">"]
    assert "kl_runaway" in {guard.verdict for guard in unscaled}


def test_what_is_known_beforehand_adds_guards() -> None:
    found = guards.training_guards(
        RECIPE, step_s=0.5, wall_s=1000.0, first_val_loss=2.0, memory=MemoryLimits(8.0, 64.0), left_s=600.0
    )
    by_verdict = {guard.verdict: guard for guard in found}
    assert by_verdict["overfit"].threshold == 3.0
    limits = {guard.signal: guard.threshold for guard in found if guard.verdict == "out_of_memory"}
    assert limits == {"rss_gb": 64.0, "peak_memory_gb": 8.0}, "the GPU's size does not bound the host's memory"
    assert by_verdict["out_of_time"].threshold == 600.0


@pytest.mark.parametrize(
    ("wall_s", "left_s", "limit_s"),
    [
        (0.0, None, 259_200.0),
        (0.0, 900.0, 900.0),
        (0.0, -5.0, 60.0),
        (100.0, -5.0, 1000.0),
        (100.0, 5000.0, 5000.0),
        (1.0, 5.0, 60.0),
        (10.0, None, 600.0),
        (400.0, None, 4000.0),
    ],
)
def test_a_job_that_measures_is_guarded_and_ended_by_the_budget_or_by_its_own_known_length(
    wall_s: float, left_s: float | None, limit_s: float
) -> None:
    found = {
        guard.verdict: guard
        for guard in guards.measuring_guards(wall_s=wall_s, left_s=left_s, memory=MemoryLimits(8.0, 8.0))
    }
    assert set(found) - {"out_of_time"} == {"stalled", "out_of_disk", "out_of_memory"}
    assert found["out_of_time"].threshold == limit_s


@pytest.mark.parametrize(
    ("guard", "sentence"),
    [
        (
            Guard(signal="train_loss", op="non_finite", verdict="diverged"),
            "Stop when train_loss is not a finite number: diverged.",
        ),
        (
            Guard(signal="val_loss", op=">", threshold=3, patience=2, verdict="overfit"),
            "Stop when val_loss > 3 2 times in a row: overfit.",
        ),
        (Guard(signal="wall_s", op=">", threshold=3600, action="note"), "Note when wall time exceeds 60 min: wall_s."),
        (
            Guard(signal="seconds_since_progress", op=">", threshold=300, verdict="stalled"),
            "Stop when time without progress exceeds 5 min: stalled.",
        ),
    ],
)
def test_guards_read_as_sentences(guard: Guard, sentence: str) -> None:
    assert guards.sentence_of(guard) == sentence


def test_runaway_is_above_guessing_among_a_whole_vocabulary() -> None:
    assert math.log(151_643) < guards.RUNAWAY_LOSS
