"""Real trainings that are killed and resumed: SFT, DPO and GRPO on a small random model, compared bit for bit."""

import json
import random
import signal
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.faults.parts.contract import Batch, Part
from tests.tools.evaluation.worlds import make_model, write_lines
from tests.tools.training.jobs import adapter_bytes, outcome, rows, run, training_job, work
from tests.tools.training.rl import rollout_job

POINTS = 10
_DROPOUT = {"rank": 2, "scale": 2.0, "dropout": 0.3}
_STEPS = 24
_PAIRS = [
    {"prompt": "abcdefgh"[: 1 + n % 8], "chosen": "xyz" * (1 + n * 5 % 6), "rejected": "zq" * (1 + n * 7 % 8)}
    for n in range(11)
]
Make = Callable[[Path, Path], Path]
"""(job folder, base model) -> a training job, written and not begun."""


def _sft(folder: Path, model: Path) -> Path:
    train = write_lines(folder.parent / "train.jsonl", rows(11, 20))
    recipe = {"iters": _STEPS, "save_every": 5, "lora_parameters": _DROPOUT, "grad_accumulation_steps": 2}
    return training_job(folder, model, train, recipe=recipe)


def _dpo(folder: Path, model: Path) -> Path:
    pairs = write_lines(folder.parent / "pairs.jsonl", _PAIRS)
    recipe = {"iters": _STEPS, "save_every": 5, "batch_size": 2, "beta": 0.2, "lora_parameters": _DROPOUT}
    data = {"pairs": str(pairs), "valid_pairs": None}
    return training_job(folder, model, pairs, data=data, recipe=recipe, instrument="dpo")


def _grpo(folder: Path, model: Path) -> Path:
    recipe: dict[str, Any] = {"iters": _STEPS, "save_every": 5, "lora_parameters": _DROPOUT, "optimizer": "adam"}
    return rollout_job(folder, model, recipe)


def _resumed(make: Make) -> Callable[[int, Path, int], Batch]:
    def batch(seed: int, folder: Path, most: int) -> Batch:
        """Kill one training at ten steps, resuming it after each, and compare its weights with an uninterrupted run."""
        dice, found = random.Random(seed), []
        count = min(most, POINTS)
        model = make_model(folder / "model")
        jobs = [folder / name / "job" for name in ("whole", "killed")]
        for job in jobs:
            job.parent.mkdir()
            make(job, model)
        whole, killed = jobs
        work(whole)
        hits = 0
        for step in sorted(dice.sample(range(2, _STEPS), count)):
            hits += _kill_at(killed, step)
        work(killed)
        if adapter_bytes(killed) != adapter_bytes(whole):
            found.append(f"after {hits} kills the weights are others than those of the run that was not interrupted")
        if hits and not outcome(killed)["resumed_from"]:
            found.append("the last resume began anew")
        return Batch(hits, tuple(found))

    return batch


def _kill_at(job: Path, step: int) -> bool:
    """Let a worker kill itself once it has reported a step; return whether it came so far."""
    told = {"job": str(job), "signal": "SIGKILL", "at_step": step}
    return run("tests.tools.training.driver", json.dumps([told])).returncode == -signal.SIGKILL


def _why_not() -> str:
    return "" if find_spec("mlx") else "MLX is not installed"


PARTS = tuple(
    Part(f"resume_{name}", f"{what} killed ten times: weights bit for bit as without", POINTS, _resumed(make), _why_not)
    for name, what, make in (("sft", "SFT", _sft), ("dpo", "DPO", _dpo), ("grpo", "GRPO", _grpo))
)
