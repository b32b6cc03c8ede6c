"""From a job's input to the objective that it asks for; worker processes only."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from state.errors import ConfigError
from state.records import Json
from tools.evaluation.prompts import render_prompt
from tools.evaluation.rendered import source_of
from tools.evaluation.worker import read_split
from tools.graders.contract import GraderSpec
from tools.graders.host import Grader
from tools.training.data import read_rows
from tools.training.objective import Demonstrations, Objective
from tools.training.preferences import (
    Pair,
    Preferences,
    Reference,
    length_statistics,
    read_pairs,
    reference_key,
    reference_logps,
)
from tools.training.recipe import PreferenceRecipe, Recipe, RolloutRecipe
from tools.training.reinforcement import HeldOut, Interim, Reinforcement, RolloutLog
from tools.training.rollouts import Scheme, Task, read_tasks
from tools.training.saves import environment


@dataclass(frozen=True)
class Setting:
    """What an objective is built from.

    Args:
        inputs: The job's input.
        recipe: Validated for the instrument.
        model: As its parent left it.
        tokenizer: mlx-lm tokenizer wrapper.
        weights: Hash of the model's weights, a parent's adapter included.
        out: The job's `out/` folder.
        emit: Takes a metrics row.
        resources: Closes at the job's end what it needs meanwhile: a grader's process.
        should_stop: Whether a stop was asked for.
        is_private: Whether case text must not be written.
    """

    inputs: Json
    recipe: Any
    model: Any
    tokenizer: Any
    weights: str
    out: Path
    emit: Callable[[Json], None]
    resources: ExitStack = field(default_factory=ExitStack)
    should_stop: Callable[[], bool] = lambda: False
    is_private: bool = False


@dataclass(frozen=True)
class Built:
    """An objective and what the job's result says about its data.

    Args:
        objective: For the loop.
        data: Training file.
        rows: Rows, pairs or cases in it.
        facts: Fields of the result.
    """

    objective: Objective
    data: Path
    rows: int
    facts: Json


def build(setting: Setting) -> Built:
    """Return the objective of the job's instrument.

    Raises:
        ConfigError: The data cannot be learned from as asked; file and line are named.
    """
    return _BUILDERS[str(setting.inputs["instrument"])](setting)


def _demonstrations(setting: Setting) -> Built:
    recipe: Recipe = setting.recipe
    files = setting.inputs["data"]
    train, valid = (
        read_rows(
            source_of(setting.inputs, files[name]),
            setting.tokenizer,
            max_seq_length=recipe.max_seq_length,
            mask_prompt=recipe.mask_prompt,
            truncate=recipe.truncate,
            exact_mask=recipe.exact_mask,
        )
        if files.get(name)
        else []
        for name in ("train", "valid")
    )
    facts: Json = {"truncated_rows": sum(row.is_cut for row in train)}
    return Built(Demonstrations(recipe, train, valid), Path(files["train"]), len(train), facts)


def _preferences(setting: Setting) -> Built:
    recipe: PreferenceRecipe = setting.recipe
    files = setting.inputs["data"]
    train, valid = (
        read_pairs(
            source_of(setting.inputs, files[name]),
            setting.tokenizer,
            max_seq_length=recipe.max_seq_length,
            truncate=recipe.truncate,
        )
        if files.get(name)
        else []
        for name in ("pairs", "valid_pairs")
    )
    objective = Preferences(recipe, train, _reference(setting, train), valid, _reference(setting, valid))
    facts: Json = {
        "truncated_rows": sum(pair.chosen.is_cut or pair.rejected.is_cut for pair in train),
        **length_statistics(train),
    }
    return Built(objective, Path(files["pairs"]), len(train), facts)


def _reference(setting: Setting, pairs: list[Pair]) -> Reference:
    if not pairs:
        return np.zeros((0, 2), dtype=np.float32)
    settings = {"dtype": setting.inputs.get("dtype"), "mlx": environment()["mlx"]}
    key = reference_key(setting.weights, pairs, settings)
    cache = Path(setting.inputs.get("reference_cache") or setting.out / "reference")
    return reference_logps(
        setting.model,
        pairs,
        cache / f"{key}.safetensors",
        batch_size=setting.recipe.batch_size,
        emit=setting.emit,
    )


def _rollouts(setting: Setting) -> Built:
    """Return the objective of rollouts.

    Reads of the input, beside `data.rollouts`: `grader` (`GraderSpec`); `reward`, {metric: weight} where the recipe
    names none; and `held_out`, `{"cases": {"name", "use", "file", "case_ids"}, "metrics": {metric: +1 or -1},
    "max_tokens"}`, the cases that are graded as the gate does, or none.
    """
    recipe: RolloutRecipe = setting.recipe
    inputs = setting.inputs
    path = Path(inputs["data"]["rollouts"])
    longest = recipe.max_seq_length - recipe.max_completion_length
    tasks = read_tasks(path, setting.tokenizer, inputs.get("system"), longest=longest)
    spec = GraderSpec.model_validate({**inputs["grader"], "is_private": setting.is_private})
    grader = setting.resources.enter_context(Grader(spec))
    scheme = Scheme(
        weights=recipe.reward_weights or inputs.get("reward") or {},
        ranges=inputs.get("ranges") or {},
        penalties=recipe.reward_penalties,
        cut_cost=recipe.truncation_penalty if recipe.truncated == "penalize" else None,
    )
    if not scheme.weights:
        raise ConfigError(
            "Nothing says what a rollout earns; name the track's metrics in recipe.reward_weights.",
            what="recipe.reward_weights",
        )
    objective = Reinforcement(
        recipe=recipe,
        model=setting.model,
        tokenizer=setting.tokenizer,
        tasks=tasks,
        grader=grader,
        scheme=scheme,
        log=RolloutLog(setting.out / "rollouts.jsonl", is_private=setting.is_private),
        held_out=_held_out(setting, grader, scheme),
        should_stop=setting.should_stop,
    )
    facts: Json = {"reward": {"weights": dict(scheme.weights), "penalties": dict(scheme.penalties)}}
    return Built(objective, path, len(tasks), facts)


def _held_out(setting: Setting, grader: Grader, scheme: Scheme) -> HeldOut | None:
    held_out = setting.inputs.get("held_out")
    if not held_out:
        return None
    split = read_split(held_out["cases"])
    system = setting.inputs.get("system")
    return HeldOut(
        model=setting.model,
        tokenizer=setting.tokenizer,
        tasks=[Task(case, render_prompt(setting.tokenizer, case, system), 1) for case in split.cases],
        grader=grader,
        scheme=scheme,
        signs={str(name): int(sign) for name, sign in held_out["metrics"].items()},
        max_tokens=int(held_out["max_tokens"]),
        temperature=setting.recipe.temperature,
        seed=setting.recipe.seed,
        batch_size=setting.recipe.rollout_concurrency,
        path=setting.out / "held_out.jsonl",
        should_stop=setting.should_stop,
    )


def interim_of(setting: Setting) -> Interim | None:
    """Return the early looks that the input asks for, None where it asks for none.

    `interim`: `{"cases": {"name", "use", "file", "case_ids"}, "metrics": {metric: +1 or -1}, "max_tokens", "first",
    "grader"}`, answered greedily as an evaluation does, from step `first` on.
    """
    interim = setting.inputs.get("interim")
    if not interim:
        return None
    spec = GraderSpec.model_validate({**interim["grader"], "is_private": setting.is_private})
    system = setting.inputs.get("system")
    held_out = HeldOut(
        model=setting.model,
        tokenizer=setting.tokenizer,
        tasks=[
            Task(case, render_prompt(setting.tokenizer, case, system), 1) for case in read_split(interim["cases"]).cases
        ],
        grader=setting.resources.enter_context(Grader(spec)),
        scheme=Scheme(weights={}, penalties={}, cut_cost=0.0),
        signs={str(name): int(sign) for name, sign in interim["metrics"].items()},
        max_tokens=int(interim["max_tokens"]),
        temperature=0.0,
        seed=setting.recipe.seed,
        batch_size=_INTERIM_BATCH,
        path=setting.out / "held_out.jsonl",
        should_stop=setting.should_stop,
    )
    return Interim(held_out, int(interim["first"]))


_INTERIM_BATCH = 8
"""Answers decoded together: looking must not need more memory than training."""


_BUILDERS: dict[str, Callable[[Setting], Built]] = {
    "sft": _demonstrations,
    "dpo": _preferences,
    "grpo": _rollouts,
}
