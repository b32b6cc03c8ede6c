"""What the policies plan for rollouts: a first recipe, guards on the recipe's own bounds, and what a step costs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import cost, guards
from policies.next_run import estimate_of
from policies.recipes import MOST_UPDATES, first_recipe
from state.goal import Budget, Goal, problems
from state.records import Guard, Json
from tests.policies.rehearsal import Rehearsal
from tests.policies.rehearsal import goal as rehearsed_goal
from tests.policies.test_recipes import CENSUS, goal
from tools.training.recipe import RolloutRecipe, validate_recipe


def laddered(**grpo: Any) -> Goal:
    whole = goal().model_dump()
    data = {"train": "train.jsonl", "rollouts": "rollouts.jsonl"}
    changes: Json = {"instruments": ("sft", "grpo"), "recipes": {"grpo": grpo}, "data": data}
    return Goal.model_validate({**whole, **changes})


def test_a_first_recipe_of_rollouts_is_one_that_the_trainer_takes() -> None:
    recipe = first_recipe(laddered(), {"rows": 24_000, "max_tokens": 301}, instrument="grpo").recipe
    assert recipe["iters"] == MOST_UPDATES
    assert recipe["max_completion_length"] == 768, "a shorter budget than the evaluation's pays for short answers"
    assert recipe["max_seq_length"] == 1088, "301 + 768, rounded up"
    assert (recipe["save_every"], recipe["steps_per_eval"], recipe["steps_per_report"]) == (5, 5, 1)
    read = validate_recipe(recipe, "grpo")
    assert isinstance(read, RolloutRecipe)
    plain = RolloutRecipe()
    bounds = ("kl_ceiling", "entropy_floor", "length_jump", "group_size", "beta")
    assert {key: recipe[key] for key in bounds} == {key: getattr(plain, key) for key in bounds}, "one default, not two"


def test_the_campaign_files_own_numbers_win() -> None:
    recipe = first_recipe(laddered(iters=12, max_completion_length=90), CENSUS, instrument="grpo").recipe
    assert (recipe["iters"], recipe["max_completion_length"], recipe["max_seq_length"]) == (12, 90, 416)
    assert recipe["save_every"] == 4


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({}, set()),
        ({"kl_ceiling": None}, {"kl_runaway"}),
        ({"entropy_floor": None}, {"entropy_collapsed"}),
        ({"length_jump": None}, {"length_drift"}),
    ],
)
def test_rollouts_are_guarded_by_the_bounds_of_their_recipe(changes: Json, missing: set[str]) -> None:
    recipe = {**first_recipe(laddered(), CENSUS, instrument="grpo").recipe, **changes}
    found = guards.training_guards(recipe, step_s=1.0, wall_s=100.0)
    words = {"reward_hacking", "rewards_equal", "kl_runaway", "entropy_collapsed", "length_drift"}
    assert {guard.verdict for guard in found} & words == words - missing
    sentences = [guards.sentence_of(guard) for guard in found if guard.verdict == "length_drift"]
    assert sentences[:1] in (["Stop when length_ratio > 2 3 times in a row: length_drift."], [])


def test_demonstrations_have_none_of_these_guards() -> None:
    found = guards.training_guards(first_recipe(goal(), CENSUS).recipe, step_s=1.0, wall_s=100.0)
    signals = {"kl", "entropy_share", "length_ratio", "reward_gap", "zero_variance_share"}
    assert not {guard.signal for guard in found} & signals


def equal_rewards(recipe: Json) -> Guard:
    (found,) = (
        guard for guard in guards.training_guards(recipe, step_s=1.0, wall_s=100.0) if guard.verdict == "rewards_equal"
    )
    return found


@pytest.mark.parametrize(
    ("recipe", "reports"),
    [
        ({"group_size": 8, "steps_per_report": 1}, 32),
        ({"group_size": 8}, 4),
        ({"group_size": 8, "steps_per_report": 1, "iters": 40}, 20),
        ({"group_size": 8, "steps_per_report": 1, "iters": 10}, 8),
        ({"group_size": 8, "steps_per_report": 1, "iters": 100, "updates_per_batch": 4}, 13),
        ({"group_size": 8, "steps_per_report": 8, "iters": 400, "updates_per_batch": 4}, 16),
        ({"group_size": 2, "batch_size": 1, "steps_per_report": 1, "iters": 1000}, 500),
        ({"group_size": 64, "batch_size": 32, "steps_per_report": 10}, 1),
    ],
)
def test_rewards_are_equal_for_as_many_reports_as_hold_enough_rollouts(recipe: Json, reports: int) -> None:
    found = equal_rewards(recipe)
    assert (found.signal, found.patience, found.action) == ("zero_variance_share", reports, "stop")


def test_one_group_that_differs_is_no_report_of_equal_rewards() -> None:
    found = equal_rewards({"group_size": 8, "steps_per_report": 10})
    assert found.op == ">"
    assert 1 > found.threshold > 39 / 40
    assert guards.sentence_of(found) == "Stop when zero_variance_share > 0.999 4 times in a row: rewards_equal."


@given(
    group_size=st.integers(2, 64),
    batch_size=st.integers(1, 32),
    steps_per_report=st.integers(1, 50),
    updates_per_batch=st.integers(1, 8),
    iters=st.integers(1, 2000),
    passing=st.floats(0.05, 0.95),
)
def test_groups_that_are_equal_by_luck_do_not_stop_a_run(passing: float, **recipe: int) -> None:
    strides = recipe["steps_per_report"] // recipe["updates_per_batch"]
    groups = equal_rewards(recipe).patience * recipe["batch_size"] * max(1, strides)
    equal = passing ** recipe["group_size"] + (1 - passing) ** recipe["group_size"]
    assert equal**groups < 1e-5


def test_a_step_of_rollouts_is_estimated_by_its_rows() -> None:
    view = Rehearsal().view()
    one, eight = (
        estimate_of(view, {"iters": 10, "batch_size": 4, "group_size": size}, "grpo").seconds for size in (1, 8)
    )
    assert eight == pytest.approx(8 * one)


def test_rollouts_need_cases_of_their_own() -> None:
    without = laddered().model_copy(update={"data": goal().data})
    assert [p.sentence for p in problems(without)] == [
        "`instruments` names grpo, and `data.rollouts` names no file of cases."
    ]
    assert problems(laddered()) == []


def within(spent_s: float, seconds: float = 600.0, **limits: Any) -> cost.BudgetVerdict:
    verdict = cost.affordable(Budget(**limits), cost.Spent(), cost.Estimate(seconds=seconds), 0.0, 0.0)
    return cost.within_class(verdict, "grpo", 0.5, spent_s, seconds)


@pytest.mark.parametrize(
    ("spent_s", "limits", "limit", "left_s"),
    [
        (0.0, {}, "", 1800.0),
        (1200.0, {}, "", 600.0),
        (1201.0, {}, "class_hours", 599.0),
        (1900.0, {"hours": 1.0}, "class_hours", -100.0),
        (0.0, {"hours": 0.2}, "", 720.0),
        (0.0, {"hours": 0.1}, "hours", 360.0),
    ],
)
def test_a_class_has_hours_of_its_own_beside_the_campaigns(
    spent_s: float, limits: Json, limit: str, left_s: float
) -> None:
    found = within(spent_s, **limits)
    assert (found.limit, found.is_affordable) == (limit, not limit)
    assert found.nearest_s == pytest.approx(left_s)
    if limit == "class_hours":
        assert found.sentence.endswith("of the 0.5 hours that budget.class_hours gives grpo.")


def test_when_the_hours_of_a_class_are_spent_the_next_takes_over() -> None:
    whole = rehearsed_goal().model_dump()
    data = {"train": "train.jsonl", "rollouts": "rollouts.jsonl"}
    limits: Json = {**whole["budget"], "class_hours": {"sft": 0.9}}
    goal = Goal.model_validate({**whole, "instruments": ("sft", "grpo"), "data": data, "budget": limits})
    play = Rehearsal(goal=goal, score=lambda _weights, case: 0.5 + 0.001 * (case % 7 - 3))
    while not play.campaign.sentence and play.step() != "ended":
        # Every act takes a quarter of an hour.
        play.actions = [a.model_copy(update={"finished_at": a.created_at + 900.0}) for a in play.actions]
        if len(play.decisions) > 40:
            break
    spent = [run.instrument for run in play.runs]
    assert spent[0] == "sft"
    assert set(spent) == {"sft", "grpo"}
    first = next(d for d in play.decisions if d.action == "train" and "(grpo)" in d.sentence)
    assert any("budget.class_hours gives sft" in each.reason for each in first.alternatives)
    assert play.campaign.state == "not_promoted"
