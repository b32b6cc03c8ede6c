"""Numbers within a class, once the rules have tried theirs: what is searched, and what the runs so far say of it.

The sampler itself is handed in (`View.suggest`); it is told every run on record each time, so that it needs no memory
of its own and a kill loses nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from policies.dose import MAX_EPOCHS, USUAL_SHAPE
from state.records import Json

Suggest = Callable[[Mapping[str, Json], Sequence[tuple[Json, float]], int, int], list[Json]]
"""(space, what was told, seed, how many) -> that many proposals, name -> value. The same arguments, the same proposals.

A space is name -> {low, high, log, is_int} or {choices}; what was told is (name -> value, how far the target moved).
"""

LEAST_TOLD = 6
"""Judged runs of a class from one parent before a sampler has something to go by."""

ASKED = 4
"""Proposals asked for at once; some may have been run, or be too much."""

LEAST_PASSES = 0.5
"""Passes over the data from which on it is searched, up to MAX_EPOCHS."""

_LR_FACTOR = 10.0
_RANKS = (4, 8, 16, 32)
_SCALES = (2.5, 5.0, 10.0, 20.0)


def numbers_of(recipe: Mapping[str, Any]) -> Json:
    """Return the numbers of a recipe that are searched."""
    shape = {**USUAL_SHAPE, **(recipe.get("lora_parameters") or {})}
    return {
        "learning_rate": float(recipe["learning_rate"]),
        "iters": int(recipe["iters"]),
        "rank": int(shape["rank"]),
        "scale": float(shape["scale"]),
    }


def space_of(told: Sequence[Json], rows: int | None, batch_size: int, fixed: Mapping[str, Any]) -> dict[str, Json]:
    """Return what is searched: the usual ranges, wide enough for everything that was run.

    Args:
        told: The numbers of the runs so far, at least one.
        rows: Training rows; where unknown, up to twice and down to half of what was run.
        batch_size: Rows of an iteration.
        fixed: Keys decided by the adapter that runs go on from.
    """
    iters = [int(each["iters"]) for each in told]
    least, most = min(iters) / 2, max(iters) * 2.0
    if rows:
        least, most = LEAST_PASSES * rows / batch_size, MAX_EPOCHS * rows / batch_size
    rates = [float(each["learning_rate"]) for each in told]
    # The first run's rate fits the model's size, so it lies in the middle.
    usual = rates[0]
    space: dict[str, Json] = {
        "learning_rate": {
            "low": min(usual / _LR_FACTOR, *rates),
            "high": max(usual * _LR_FACTOR, *rates),
            "log": True,
            "is_int": False,
        },
        "iters": {
            "low": min(max(1, math.floor(least)), *iters),
            "high": max(math.ceil(most), *iters),
            "log": True,
            "is_int": True,
        },
    }
    if "lora_parameters" not in fixed:
        for name, usual_choices in (("rank", _RANKS), ("scale", _SCALES)):
            space[name] = {"choices": sorted({*usual_choices, *(each[name] for each in told)})}
    return space


def with_numbers(recipe: Json, numbers: Mapping[str, Any]) -> Json:
    """Return a recipe with other numbers; a learning rate is kept to three digits."""
    shape = {**USUAL_SHAPE, **(recipe.get("lora_parameters") or {})}
    changed = {name: numbers[name] for name in ("rank", "scale") if name in numbers}
    return {
        **recipe,
        "learning_rate": float(f"{numbers['learning_rate']:.3g}"),
        "iters": int(numbers["iters"]),
        "lora_parameters": {**shape, **changed},
    }
