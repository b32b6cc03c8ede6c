"""From a job's input to the objective that it asks for; worker processes only."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from state.records import Json
from tools.training.data import read_rows
from tools.training.environment import environment
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
from tools.training.recipe import PreferenceRecipe, Recipe


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
    """

    inputs: Json
    recipe: Any
    model: Any
    tokenizer: Any
    weights: str
    out: Path
    emit: Callable[[Json], None]


@dataclass(frozen=True)
class Built:
    """An objective and what the job's result says about its data.

    Args:
        objective: For the loop.
        data: Training file.
        rows: Rows or pairs in it.
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
            Path(files[name]),
            setting.tokenizer,
            max_seq_length=recipe.max_seq_length,
            mask_prompt=recipe.mask_prompt,
            system=setting.inputs.get("system"),
            truncate=recipe.truncate,
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
            Path(files[name]),
            setting.tokenizer,
            max_seq_length=recipe.max_seq_length,
            system=setting.inputs.get("system"),
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


_BUILDERS: dict[str, Callable[[Setting], Built]] = {"sft": _demonstrations, "dpo": _preferences}
