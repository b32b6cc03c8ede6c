from dataclasses import replace

import pytest

from policies.cost import Estimate, Spent, affordable
from policies.next_run import choose, estimate_of
from policies.pace import NO_SIGNAL, PASSED_OVER, advice, passed_over, without_signal
from policies.verdict import StopVerdict
from state.goal import Budget
from state.records import Approval, Belief, Evidence, Json
from tests.policies.rehearsal import Rehearsal, goal

ITERS = 5000
LONG = {"batch_size": 4, "iters": ITERS, "max_seq_length": 128}
"""Assumed to take 16 minutes, 4 to 62."""


def campaign(hours: float | None, step_s: float = 0.1) -> Rehearsal:
    """Return a campaign of long runs and so many hours, on a machine whose steps take so long."""
    return Rehearsal(goal=goal(budget={"hours": hours, "reserve_min": 0}, recipe=LONG), step_s=step_s)


def until_trained(play: Rehearsal) -> Rehearsal:
    """Go on to the first training, or to the end."""
    while "train" not in play.kinds() and play.step() != "ended":
        pass
    return play


def test_steps_are_timed_where_the_assumed_time_of_a_run_may_or_may_not_fit() -> None:
    play = until_trained(campaign(hours=0.5))
    assert play.kinds() == ["census", "evaluate", "pace", "train"]
    [timing] = [decision for decision in play.decisions if decision.action == "pace"]
    assert timing.sentence == (
        "Time a few steps of sft first: its run is assumed to take 16 min (4 min to 62 min), "
        "and 28 min are left for it."
    )


def test_a_quick_machine_trains_the_whole_run_that_an_assumption_would_have_cut() -> None:
    play = until_trained(campaign(hours=0.3, step_s=0.02))
    assert play.runs[0].recipe["iters"] == ITERS
    assert "timed in a few steps on this machine" in play.decisions[-1].sentence


def test_a_slow_machine_cuts_the_run_before_it_begins() -> None:
    play = until_trained(campaign(hours=1.0, step_s=1.4))
    assert play.runs[0].recipe["iters"] < ITERS
    assert "Cut from 5000" in play.decisions[-1].sentence


def test_a_machine_too_slow_for_any_of_it_trains_nothing() -> None:
    play = until_trained(campaign(hours=1.0, step_s=600.0))
    assert play.kinds()[-2:] == ["pace", "conclude"]


@pytest.mark.parametrize("hours", [None, 0.0335, 20.0])
def test_nothing_is_timed_where_the_assumption_settles_it(hours: float | None) -> None:
    assert "pace" not in until_trained(campaign(hours)).kinds()


def test_a_guess_ends_no_run_that_gets_on_while_the_budget_lasts_and_a_measured_time_does() -> None:
    def bounds(play: Rehearsal) -> list[float]:
        guards = [decision.action_inputs["guards"] for decision in play.decisions if decision.action == "train"]
        return [float(guard["threshold"]) for of_run in guards for guard in of_run if guard["signal"] == "wall_s"]

    guessed = until_trained(campaign(hours=20.0))
    assert bounds(guessed)[0] == pytest.approx(20 * 3600, rel=0.01)
    timed = until_trained(campaign(hours=0.5, step_s=0.001))
    assert bounds(timed)[0] < 0.5 * 3600
    endless = until_trained(campaign(hours=None))
    assert bounds(endless)[0] > 3600, "without a budget an assumption is all there is"


def test_steps_that_could_not_be_timed_are_not_tried_again() -> None:
    play = campaign(hours=0.5)
    play.fails = {"pace": 1}
    assert until_trained(play).kinds() == ["census", "evaluate", "pace", "train"]
    assert "assumed, no step was timed here" in play.decisions[-1].sentence


def test_after_its_first_run_a_campaign_plans_with_that() -> None:
    play = until_trained(campaign(hours=0.5))
    assert estimate_of(play.view(), LONG).source == "measured"


def test_another_class_is_scaled_from_steps_that_were_timed() -> None:
    play = campaign(hours=0.5)
    while "pace" not in play.kinds():
        play.step()
    ours, theirs = (estimate_of(play.view(), LONG, name) for name in ("sft", "dpo"))
    assert (ours.source, theirs.source) == ("timed", "assumed")
    assert theirs.step_s == pytest.approx(3 * ours.step_s, rel=0.1), "two rows a pair, half as dear again each"


BLIND: Json = {
    "prompts": 32,
    "samples": 8,
    "answers": 256,
    "right": 0,
    "pass_at_1": 0.0,
    "pass_at_k": 0.0,
    "groups_that_differ": 0,
    "cut": 0,
    "missing": 0,
    "reward": 0.0,
    "reward_spread": 0.0,
    "denser": "",
    "denser_groups": 0,
}
SEEING = {**BLIND, "right": 9, "pass_at_1": 9 / 256, "pass_at_k": 0.25, "groups_that_differ": 8}


def of_rollouts(*instruments: str, **signal: Json) -> Rehearsal:
    files = {"train": "train.jsonl", "rollouts": "rollouts.jsonl"}
    return Rehearsal(goal=goal(instruments=instruments, data=files), signal=signal)


def to_the_end(play: Rehearsal) -> Rehearsal:
    while play.step() != "ended":
        pass
    return play


def test_rollouts_alone_whose_rewards_never_differ_are_refused_before_training_with_figures_and_fix() -> None:
    play = to_the_end(of_rollouts("grpo", base=BLIND))
    assert play.kinds() == ["census", "evaluate", "pace", "halt"]
    assert play.campaign.state == "halted"
    said = play.decisions[-1].sentence
    assert "of 256 answers to 32 prompts 0 earn the full reward (pass@1 0.000, pass@8 0.000)" in said
    assert "What would help: demonstrations first (`instruments: [sft, grpo]` with data.train)" in said
    [noted] = [decision for decision in play.decisions if decision.rule == NO_SIGNAL and decision.action == "judge"]
    assert noted.verdict["signal"] == BLIND, "the figures are on record with the decision"


def test_rollouts_whose_rewards_differ_are_trained() -> None:
    play = of_rollouts("grpo", base=SEEING)
    assert until_trained(play).kinds() == ["census", "evaluate", "pace", "train"]


def test_an_answer_that_nobody_could_tell_holds_nothing_back() -> None:
    play = of_rollouts("grpo")
    assert until_trained(play).kinds() == ["census", "evaluate", "pace", "train"]
    play = of_rollouts("grpo")
    play.fails = {"pace": 1}
    assert until_trained(play).kinds() == ["census", "evaluate", "pace", "train"]


def test_other_classes_go_on_where_rollouts_have_no_signal_and_the_campaign_says_why_at_its_end() -> None:
    starts = {"base": BLIND} | {f"R{n}": BLIND for n in range(1, 9)}
    play = of_rollouts("grpo", "sft", **starts)
    play.score = lambda weights, case: 0.1
    to_the_end(play)
    kinds = play.kinds()
    assert kinds.index("pace") < kinds.index("train")
    assert {run.instrument for run in play.runs} == {"sft"}
    assert play.campaign.state == "not_promoted"
    assert "grpo is not run from the base" in play.decisions[-1].sentence


def test_rollouts_are_asked_from_where_they_would_start() -> None:
    play = of_rollouts("sft", "grpo", base=BLIND, **{f"R{n}": SEEING for n in range(1, 9)})
    play.score = lambda weights, case: (0.4 if weights.startswith("weights") else 0.6) + 0.001 * (case % 7 - 3)
    to_the_end(play)
    timed = [action.inputs["parent"] for action in play.actions if action.kind == "pace"]
    assert timed
    assert timed[0] != "base", "the best run on demonstrations is what they would start from"
    assert "grpo" in {run.instrument for run in play.runs}


def test_a_person_may_take_rollouts_without_signal_upon_them() -> None:
    play = of_rollouts("grpo", base=BLIND)
    while play.kinds()[-1:] != ["pace"]:
        play.step()
    seen = (Evidence(kind="job", ref=play.actions[-1].key, summary="asked"),)
    facts = {"subject": "reward:base", "claim": "tells_answers_apart", "statement": "none", "tag": "confirmed"}
    play.believe(Belief(id="B99", status="refuted", severity="warning", evidence=seen, **facts))
    play.approvals.append(
        Approval(id="Q9", kind="override", decision="B99", question="Go on?", answer="yes", answered_by="ana")
    )
    assert until_trained(play).kinds()[-1] == "train"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, "or a denser metric in recipes.grpo.reward_weights."),
        ({"denser": "placed", "denser_groups": 20}, "such as placed, which differs in 20 of 32."),
        ({"denser": "placed", "denser_groups": 7}, "or a denser metric in recipes.grpo.reward_weights."),
        ({"cut": 250}, "or a higher recipes.grpo.max_completion_length (it cut 250 of 256 answers)."),
    ],
)
def test_what_would_help_follows_from_the_figures(changes: Json, named: str) -> None:
    assert advice({**BLIND, **changes}).endswith(named)


def test_a_class_without_signal_keeps_no_time_from_the_others() -> None:
    play = of_rollouts("sft", "grpo", base=BLIND)
    assert without_signal(play.view()) == set(), "nobody has asked yet"
    alone = to_the_end(of_rollouts("grpo", base=BLIND))
    assert without_signal(alone.view()) == {"grpo"}


@pytest.mark.parametrize(("runs", "said"), [(3, "with the 3 runs that are allowed"), (1, "With its measurements")])
def test_before_anything_is_trained_the_scores_and_the_length_of_the_whole_are_said(runs: int, said: str) -> None:
    play = Rehearsal(goal=goal(budget={"runs": runs}))
    while "train" not in play.kinds():
        play.step()
    measuring = next(d for d in play.decisions if d.rule == "baseline.first")
    assert measuring.sentence.startswith("The reference answers score 1 on main.score (asked: at least 0.75). Measure")
    training = play.decisions[-1]
    assert training.sentence.startswith("The base scores 0.5 on main.score (asked: at least 0.75). Train R1")
    assert said in training.sentence


def test_a_gate_that_names_no_number_is_told_none() -> None:
    relative = {"conditions": [{"id": "gain", "metric": "main.score", "against": "base", "min": 0.1}]}
    play = Rehearsal(goal=goal(gate=relative))
    while "train" not in play.kinds():
        play.step()
    assert next(d for d in play.decisions if d.rule == "baseline.first").sentence.startswith("Measure the base")
    assert play.decisions[-1].sentence.startswith("Train R1")


SHORT = {"sft": 0.05}
"""Three minutes, in which a run that is assumed to take nineteen does not fit by any of the assumption."""


def of_classes(step_s: float, class_hours: Json) -> Rehearsal:
    files = {"train": "train.jsonl", "pairs": "pairs.jsonl"}
    more = {"instruments": ["sft", "dpo"], "data": files, "recipe": LONG}
    return Rehearsal(goal=goal(budget={"runs": 2, "class_hours": class_hours}, **more), step_s=step_s)


def test_a_class_in_whose_time_a_few_iterations_fit_is_timed_and_begun_with_them() -> None:
    play = until_trained(of_classes(1.0, SHORT))
    assert play.kinds() == ["census", "evaluate", "pace", "train"]
    assert play.runs[0].instrument == "sft"
    assert 20 <= play.runs[0].recipe["iters"] < 200
    assert "Cut from 5000 to" in play.decisions[-1].sentence


def test_a_class_in_whose_time_nothing_fits_is_passed_over_with_a_sentence_and_a_decision_on_record() -> None:
    play = until_trained(of_classes(60.0, SHORT))
    assert play.kinds()[:3] == ["census", "evaluate", "pace"]
    assert play.runs[0].instrument == "dpo"
    [told] = [decision for decision in play.decisions if decision.rule == PASSED_OVER]
    assert told.action == "judge"
    assert told.sentence.startswith("sft is passed over, though no run of it was made: The budget does not allow")
    assert "of the 0.05 hours that budget.class_hours gives sft. Its run: 5000 iterations of 49.20 s" in told.sentence
    assert "More time for it is given by budget.class_hours; " in told.sentence
    assert (told.verdict["instrument"], told.verdict["limit"]) == ("sft", "class_hours")
    assert 0 < told.verdict["left_s"] <= 180
    assert told.verdict["estimate"]["seconds"] > 180
    to_the_end(play)
    assert [decision.rule for decision in play.decisions].count(PASSED_OVER) == 1, "said once"


@pytest.mark.parametrize(
    ("budget", "used", "words"),
    [
        ({"runs": 1}, Spent(runs=1), "0 of 1 runs are left. "),
        ({"disk_gb": 0.1}, Spent(disk_gb=0.2), " More room is given by budget.disk_gb, or by retention.saves."),
    ],
)
def test_a_class_that_runs_or_disk_keep_out_is_not_told_to_take_more_time(
    budget: Json, used: Spent, words: str
) -> None:
    play = until_trained(of_classes(1.0, SHORT))
    view, limits = play.view(), Budget.model_validate(budget)
    left = affordable(limits, used, Estimate(seconds=1.0, runs=1, disk_gb=0.1), now=1.0, started=0.0)
    choice = replace(choose(view, "dpo"), left=left)
    told = passed_over(view, "dpo", choice, StopVerdict(rule="budget.gone", sentence=left.sentence))
    assert told is not None
    assert words in told.decision.sentence
    assert ("More runs are given by budget.runs." in told.decision.sentence) is (left.limit == "runs")
    assert "More time" not in told.decision.sentence


def test_an_only_class_in_whose_time_nothing_fits_ends_the_campaign_which_says_so() -> None:
    play = to_the_end(campaign(hours=1.0, step_s=600.0))
    assert PASSED_OVER not in [decision.rule for decision in play.decisions]
    assert play.decisions[-1].rule == "budget.gone"
