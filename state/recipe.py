"""What a recipe leaves open and the trainer, the estimate of time and that of memory must fill in alike."""

from collections.abc import Mapping
from typing import Any

DEFAULTS: Mapping[str, Any] = {
    "batch_size": 4,
    "fine_tune_type": "lora",
    "grad_accumulation_steps": 1,
    "iters": 100,
    "mask_prompt": True,
    "max_seq_length": 2048,
    "num_layers": -1,
    "optimizer": "adamw",
    "steps_per_eval": 200,
    "steps_per_report": 10,
    "group_size": 8,
    "max_completion_length": 512,
    "rollout_concurrency": 64,
    "updates_per_batch": 1,
}
"""What the trainer takes where a recipe leaves a key out; a test holds them to `tools/training/recipe.py`."""

PAD_TO = 8
"""Positions that a model computes per row are a multiple of this."""

ROLLOUTS_TOGETHER = {False: 8, True: 64}
"""Whether MLX computes with CUDA -> rollouts computed together in an update where the recipe does not say; few shapes
count for more than tokens there. On Metal nobody measured it."""

STILL_FALLING = 0.01
"""Share that the newest validation loss lies below all before it, from which more training is worth trying."""

SHAPE_KEYS = ("fine_tune_type", "num_layers", "lora_parameters")
"""What a run that goes on from an adapter keeps of its recipe."""

_LENGTH_AT = {"cosine_decay": 1, "linear_schedule": 2, "step_decay": 2}
"""Schedule -> which of its arguments is a number of updates."""


def setting(recipe: Mapping[str, Any], key: str) -> Any:
    """Return what a key of `DEFAULTS` is in a recipe."""
    return recipe.get(key, DEFAULTS[key])


def schedule_but_length(schedule: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what a recipe's `lr_schedule` has in common with that of a longer run: all but its number of updates."""
    if schedule is None:
        return None
    length_at = _LENGTH_AT.get(schedule["name"])
    numbers = [float(each) for at, each in enumerate(schedule["arguments"]) if at != length_at]
    warmup = {key: float(schedule.get(key) or 0) for key in ("warmup", "warmup_init")}
    return {"name": schedule["name"], "arguments": numbers, **warmup}
