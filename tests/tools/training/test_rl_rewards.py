"""What a rollout earns and how groups compare, by hand; the recipe's keys; and the completion log. No MLX."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.errors import ConfigError
from tests.tools.evaluation.fake_tokenizer import FakeTokenizer
from tests.tools.evaluation.worlds import write_lines
from tools.graders.contract import Grade
from tools.graders.host import Item
from tools.training.data import Row
from tools.training.recipe import RolloutRecipe, validate_recipe
from tools.training.reinforcement import HeldOut, RolloutLog
from tools.training.rollouts import (
    UNTOLD_UPDATES,
    Rollout,
    Scheme,
    Scored,
    Task,
    group_advantages,
    read_tasks,
    require_rewards,
    reward_facts,
    signal_facts,
    signal_prompts,
)

SCHEME = Scheme({"kept": 1.0, "strict": 0.5, "unused": 0.0}, {"extra": 0.25}, cut_cost=0.5)
FULL: dict[str, float | None] = {"kept": 0.8, "strict": 1.0, "extra": 0.4, "other": None}


def test_a_reward_is_the_weighed_metrics_less_the_penalties() -> None:
    assert SCHEME.reward(FULL) == pytest.approx(0.8 + 0.5 - 0.1)
    assert SCHEME.reward(FULL, is_cut=True) == pytest.approx(0.8 + 0.5 - 0.1 - 0.5)
    assert SCHEME.scale == 1.5, "what full marks without a penalty earn"


@pytest.mark.parametrize("lost", ["kept", "strict", "extra"])
def test_what_was_not_measured_leaves_a_rollout_out_and_is_no_zero(lost: str) -> None:
    assert SCHEME.reward({**FULL, lost: None}) is None
    assert SCHEME.reward({name: value for name, value in FULL.items() if name != lost}) is None


def test_a_cut_rollout_is_left_out_where_it_is_masked() -> None:
    masked = Scheme({"kept": 1.0}, {}, cut_cost=None)
    assert masked.reward(FULL, is_cut=True) is None
    assert masked.reward(FULL) == 0.8


def test_a_metric_with_a_range_of_its_own_earns_its_share_of_it() -> None:
    percent = Scheme({"percent": 1.0, "strict": 0.5}, {"lost": 1.0}, None, {"percent": (0, 100), "lost": (-10, 10)})
    assert percent.reward({"percent": 80.0, "strict": 1.0, "lost": 0.0}) == pytest.approx(0.8 + 0.5 - 0.5)


def test_duplicated_and_fabricated_rows_cost_more_than_the_row_count_pays() -> None:
    from tools.graders.spreadsheet_clean.generate import eval_row, generate_case
    from tools.graders.spreadsheet_clean.grade import grade

    case = eval_row(generate_case(7, 0, "stress", (12, 12)))
    gold = str(case["reference"]).splitlines()
    # The lab's count is met by any rows; the proposal's explicit penalty is what tells them apart.
    scheme = Scheme({"data_preservation": 1.0, "composite": 0.5}, {"extra_rows": 1.0}, cut_cost=0.5)
    outputs = {
        "gold": gold,
        "short": gold[:7],
        "duplicated": [*gold[:7], *gold[1:7]],
        "fabricated": [*gold[:7], *(f"1999Q{n},1,1,1," for n in range(1, 7))],
    }
    earned = {name: scheme.reward(grade(case, "\n".join(lines))) for name, lines in outputs.items()}
    known = {name: value for name, value in earned.items() if value is not None}
    assert known.keys() == outputs.keys()
    assert max(known, key=lambda name: known[name]) == "gold"
    unpunished = Scheme(scheme.weights, {}, cut_cost=0.5)
    for name in ("duplicated", "fabricated"):
        full = unpunished.reward(grade(case, "\n".join(outputs[name])))
        assert full is not None
        assert full > known["short"] + 0.5, "without the penalty it pays like the gold"
        assert known[name] <= known["gold"] - 0.5


def test_advantages_compare_a_group_with_itself() -> None:
    assert group_advantages([1.0, 0.0, None, 0.5], is_scaled=False) == [0.5, -0.5, 0.0, 0.0]
    scaled = group_advantages([1.0, 0.0, None, 0.5], is_scaled=True)
    assert scaled == pytest.approx([1.2247, -1.2247, 0.0, 0.0], rel=1e-3)


@pytest.mark.parametrize("rewards", [[0.3, 0.3, 0.3], [None, 0.3], [None, None], [0.3, None, 0.3]])
def test_a_group_in_which_nothing_can_be_compared_is_skipped(rewards: list[float | None]) -> None:
    assert group_advantages(rewards, is_scaled=True) is None
    assert group_advantages(rewards, is_scaled=False) is None


@given(rewards=st.lists(st.none() | st.floats(-10, 10), min_size=2, max_size=12), is_scaled=st.booleans())
def test_advantages_sum_to_nothing_and_keep_the_order_of_rewards(
    rewards: list[float | None],
    is_scaled: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    found = group_advantages(rewards, is_scaled=is_scaled)
    if found is None:
        return
    assert sum(found) == pytest.approx(0, abs=1e-6)
    pairs = [(reward, gain) for reward, gain in zip(rewards, found, strict=True) if reward is not None]
    assert all(a[1] <= b[1] for a in pairs for b in pairs if a[0] < b[0])
    assert all(math.isfinite(gain) for gain in found)


def test_facts_leave_out_what_nobody_measured_and_count_it() -> None:
    scored = [
        Scored(1.0, {"kept": 1.0, "strict": None, "extra": 0.0}),
        Scored(0.5, {"kept": 0.5, "strict": None, "extra": 0.0}),
        Scored(None, {}, "the grader raised"),
    ]
    found = reward_facts(Scheme({"kept": 1.0, "strict": 0.0}, {"extra": 1.0}, None), scored)
    assert (found["reward"], found["reward_std"]) == (0.75, 0.25)
    assert (found["reward_kept"], found["reward_strict"], found["reward_extra"]) == (0.75, None, 0.0)
    assert (found["rewards_missing"], found["grader_errors"]) == (1, 1)


def test_a_grader_that_can_tell_nothing_is_endured_for_a_few_updates() -> None:
    lost, found = [Scored(None, {}, "it raised.")] * 4, [Scored(0.1, {"kept": 0.1})]
    require_rewards([lost] * (UNTOLD_UPDATES - 1))
    require_rewards([found, *[lost] * (UNTOLD_UPDATES - 1)])
    require_rewards([lost, found, *[lost] * (UNTOLD_UPDATES - 1)])
    with pytest.raises(ConfigError, match="nothing of any of 12 rollouts in 3 updates: it raised; repair it"):
        require_rewards([found, *[lost] * UNTOLD_UPDATES])
    with pytest.raises(ConfigError, match="None of 3 rollouts in 3 updates has a reward: the decode budget cut them"):
        require_rewards([[Scored(None, {"kept": 1.0})]] * UNTOLD_UPDATES)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"group_size": 1}, "`recipe.group_size`: input should be greater than or equal to 2."),
        ({"grad_accumulation_steps": 2}, "`recipe`: `grad_accumulation_steps` has no meaning for rollouts"),
        ({"mask_prompt": False}, "`recipe`: `mask_prompt: false` has no meaning for rollouts"),
        (
            {"exact_mask": False},
            "`recipe`: `exact_mask: false` has no meaning for rollouts: only what was sampled is learned.",
        ),
        ({"reward_weights": {}}, "`recipe.reward_weights`: dictionary should have at least 1 item"),
        ({"reward_weights": {"kept": 0.0}}, "`recipe`: `reward_weights` are all zero"),
        (
            {"reward_weights": {"kept": -1.0}},
            "`recipe.reward_weights.kept`: input should be greater than or equal to 0",
        ),
        (
            {"reward_weights": {"kept": 1.0}, "reward_penalties": {"kept": 1.0}},
            "`recipe`: `reward_weights` and `reward_penalties` both name kept",
        ),
        ({"truncated": "keep"}, "`recipe.truncated`: input should be 'mask' or 'penalize'."),
        ({"entropy_flor": 0.1}, "`recipe.entropy_flor` is no key of a recipe; did you mean `entropy_floor`?"),
        ({"loss_type": "sigmoid"}, "`recipe.loss_type`: input should be 'grpo', 'bnpo' or 'dr_grpo'."),
        ({"epsilon": 0.0}, "`recipe.epsilon`: input should be greater than 0."),
        ({"length_jump": 1.0}, "`recipe.length_jump`: input should be greater than 1."),
    ],
)
def test_what_a_recipe_for_rollouts_cannot_say_is_refused(recipe: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        validate_recipe(recipe, "grpo")
    assert said in refused.value.sentence


def test_keys_of_rollouts_are_those_of_mlx_lm_and_of_mlx_lm_lora() -> None:
    recipe = validate_recipe({"grpo_loss_type": "grpo", "epsilon_high": 0.28, "learning_rate": 1e-5}, "grpo")
    assert isinstance(recipe, RolloutRecipe)
    assert (recipe.loss_type, recipe.clip) == ("grpo", (0.8, 1.28))
    assert RolloutRecipe().clip == (0.8, 1.2)
    with pytest.raises(ConfigError, match=r"`recipe.group_size` is no key of a recipe; it is one of grpo"):
        validate_recipe({"group_size": 4}, "sft")


def test_lengths_are_compared_with_the_reference_or_the_prompt(tmp_path: Path) -> None:
    cases = [{"id": "a", "prompt": "one two", "reference": "three four five"}, {"id": "b", "prompt": "one two three"}]
    tokenizer = FakeTokenizer()
    tasks = read_tasks(write_lines(tmp_path / "c.jsonl", cases), tokenizer, None, longest=500)
    assert [task.case["id"] for task in tasks] == ["a", "b"]
    assert tasks[1].usual == len(tasks[1].prompt)
    assert 0 < tasks[0].usual != len(tasks[0].prompt)
    with pytest.raises(ConfigError, match=r"the prompt of case a has \d+ tokens"):
        read_tasks(tmp_path / "c.jsonl", tokenizer, None, longest=1)


def rollout(case: str, sample: int, text: str) -> Rollout:
    return Rollout(Task({"id": case}, [1, 2], 2), sample, Row([1, 2, 3, 4], 2), text, is_cut=sample == 1)


class _Length:
    """Grades by length."""

    def forget_hangs(self) -> None:
        """Have nothing to forget."""

    def grade(self, items: Iterable[Item]) -> list[Grade]:
        return [Grade(str(case["id"]), {"kept": float(len(text))}) for case, text, _ in items]


def test_held_out_cases_are_answered_as_rollouts_are_and_always_by_the_same_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def answered(_model: Any, _tokenizer: Any, tasks: Any, **how: Any) -> list[Rollout]:
        asked.append(how)
        return [rollout(str(task.case["id"]), 0, "four") for task in tasks]

    monkeypatch.setattr("tools.training.reinforcement.roll_out", answered)
    grader: Any = _Length()
    held_out = HeldOut(
        model=None,
        tokenizer=None,
        tasks=[Task({"id": "a"}, [1, 2], 2)],
        grader=grader,
        scheme=SCHEME,
        signs={"kept": 1},
        max_tokens=77,
        temperature=0.7,
        seed=5,
        batch_size=9,
        path=tmp_path / "held_out.jsonl",
        should_stop=lambda: False,
    )
    for step in (0, 8, 8):
        taken = held_out.take(step)
        assert taken is not None
        assert taken[1] == {"a": 4.0}
    assert len(asked) == 2, "what was measured is read again"
    assert asked[0].pop("should_stop") is asked[1].pop("should_stop")
    how = {"group_size": 1, "max_tokens": 77, "temperature": 0.7, "seed": 5, "update": 0, "concurrency": 9}
    assert asked == [how, how]


def test_the_log_forgets_later_updates_and_a_torn_line_and_is_one_line_per_rollout(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    log = RolloutLog(path, is_private=False)
    log.rewind(0)
    assert not path.exists()
    rollouts = [rollout("a", 0, "line\u2028two\nthree"), rollout("a", 1, "x")]
    for update in (1, 2):
        log.add(update, rollouts, [Scored(1.0, {"kept": 1.0}), Scored(None, {}, "why")], [0.5, 0.0])
    with path.open("a") as stream:
        stream.write('{"update": 3, "metrics": {"kept": 1.0}')
    log.rewind(1)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["update"], row["sample"]) for row in rows] == [(1, 0), (1, 1)]
    assert rows[0] == {
        "update": 1,
        "case": "a",
        "sample": 0,
        "reward": 1.0,
        "advantage": 0.5,
        "metrics": {"kept": 1.0},
        "grader_error": "",
        "output_tokens": 2,
        "finish_reason": "stop",
        "characters": 14,
        "text": "line\u2028two\nthree",
    }
    assert (rows[1]["finish_reason"], rows[1]["reward"], rows[1]["grader_error"]) == ("length", None, "why")
    private = RolloutLog(tmp_path / "private.jsonl", is_private=True)
    private.add(1, rollouts, [Scored(1.0), Scored(1.0)], [0.0, 0.0])
    assert [json.loads(line)["text"] for line in (tmp_path / "private.jsonl").read_text().splitlines()] == ["", ""]


def answered(rewards: list[float | None], *, cut: int = 0, **others: list[float]) -> tuple[list[Rollout], list[Scored]]:
    """Return answers with these rewards, in groups one after the other; `others` are metrics beside the reward."""
    task = Task({"id": "a"}, [1], 1)
    rollouts = [Rollout(task, n, Row([1, 2], 1), "x", n < cut) for n in range(len(rewards))]
    metrics = [{"kept": reward, **{name: row[n] for name, row in others.items()}} for n, reward in enumerate(rewards)]
    return rollouts, [Scored(reward, grade) for reward, grade in zip(rewards, metrics, strict=True)]


def test_what_the_start_earns_is_told_by_pass_at_k_and_by_the_groups_whose_rewards_differ() -> None:
    scheme = Scheme({"kept": 1.0}, {}, cut_cost=None)
    found = signal_facts(scheme, *answered([1.0, 0.0, 0.2, 0.2, None, 0.0], cut=1), 2)
    assert found["pass_at_1"] == pytest.approx(1 / 6)
    assert found["pass_at_k"] == pytest.approx(1 / 3)
    assert (found["prompts"], found["samples"], found["answers"], found["right"]) == (3, 2, 6, 1)
    assert (found["groups_that_differ"], found["cut"], found["missing"], found["denser"]) == (1, 1, 1, "")
    assert found["reward_spread"] == pytest.approx(0.5 / 3)


def test_where_no_reward_differs_the_metric_that_differs_most_is_named() -> None:
    scheme = Scheme({"kept": 1.0}, {}, cut_cost=0.0)
    found = signal_facts(scheme, *answered([0.0] * 4, near=[0.1, 0.2, 0.3, 0.4], even=[0.5, 0.6, 0.5, 0.5]), 2)
    assert (found["groups_that_differ"], found["denser"], found["denser_groups"]) == (0, "near", 2)
    nothing = signal_facts(Scheme({"kept": 1.0}, {}, cut_cost=None), *answered([None, None], cut=2), 2)
    assert (nothing["pass_at_1"], nothing["missing"], "reward" in nothing) == (0.0, 2, False)


@pytest.mark.parametrize(("group_size", "prompts"), [(2, 64), (8, 16), (64, 8)])
def test_a_few_prompts_are_asked_whatever_the_size_of_a_group(group_size: int, prompts: int) -> None:
    assert signal_prompts(group_size) == prompts


def test_what_is_charged_is_logged_apart_from_what_is_earned() -> None:
    row = reward_facts(SCHEME, [Scored(SCHEME.reward(FULL, is_cut=True), FULL)])
    assert row["reward_earned"] == pytest.approx(0.8 + 0.5)
    assert row["reward_charged"] == pytest.approx(0.1 + 0.5)
    assert row["reward"] == pytest.approx(row["reward_earned"] - row["reward_charged"])
    assert "reward_charged" not in reward_facts(Scheme({"kept": 1.0}, {}, cut_cost=None), [Scored(0.8, FULL)])


def test_a_cut_answer_is_charged_only_where_the_recipe_says_so() -> None:
    asked: list[dict[str, Any]] = [{}, {"truncation_penalty": 0.25}, {"truncated": "penalize"}, {"truncated": "mask"}]
    found = [validate_recipe(each, "grpo") for each in asked]
    assert [each.truncated for each in found if isinstance(each, RolloutRecipe)] == [
        "mask",
        "penalize",
        "penalize",
        "mask",
    ]
