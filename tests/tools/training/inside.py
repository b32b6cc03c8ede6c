"""Child process: what needs MLX to be said about losses, gradients and set-up; prints one JSON object.

The random model's answers are compared with mlx-lm's own loss and with the formula in numpy.
"""

import inspect
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten, tree_map
from mlx_lm.tuner.datasets import CacheDataset, CompletionsDataset
from mlx_lm.tuner.trainer import default_loss, iterate_batches

from state.errors import ConfigError
from tests.tools.evaluation.worlds import write_lines
from tests.tools.training.blocks import padded
from tests.tools.training.jobs import RECIPE
from tools.models.load import load_model
from tools.training.data import Batch, Cursor, Row, collate
from tools.training.instruments import Setting, build
from tools.training.loop import build_optimizer, prepare
from tools.training.losses import arrays, demonstration_loss, measure
from tools.training.recipe import validate_recipe

PADDED = [Row([5, 17, 29, 40, 1], 3), Row([7, 8, 9, 10, 11, 12, 13, 14, 1], 4), Row([90, 91, 1], 1)]
WHOLE = [Row([*range(30, 62), 1], 20), Row([*range(60, 92), 1], 24)]
"""As long as the batch is wide: there is no padding that stock's mask could count; and longer than their answers."""

LONGEST = 40
"""`max_seq_length` of `FILES`; the template takes four tokens of a row, each letter one."""
FILES: dict[str, list[tuple[str, str]]] = {
    "padded": [("abcdefgh", "xyz"), ("a", "xyzxyzxyz"), ("abc", "x" * 25)],
    "whole": [("abcdef", "x" * 30), ("abcdefghij", "y" * 26)],
    "mixed": [("abcdef", "x" * 30), ("abcdef", "x" * 29), ("abc", "y" * 50), ("ab", "z")],
}
"""Prompts and completions; `whole` has no padding, and `mixed` a row of 40 tokens, one of 39, one to cut, a short one.
"""


def fresh(model: Path, **recipe: Any) -> Any:
    """Return the model with trainable adapters that are not zero."""
    loaded, _ = load_model(model, None, "float32")
    prepare(loaded, validate_recipe(RECIPE | recipe), None)
    mx.random.seed(1)
    loaded.update(tree_map(lambda part: part + 0.1 * mx.random.normal(part.shape), loaded.trainable_parameters()))
    mx.eval(loaded.parameters())
    return loaded


def by_hand(model: Any, rows: list[Row]) -> float:
    """Return the mean loss per learned token, row by row without padding, in float64."""
    losses: list[float] = []
    for row in rows:
        logits = np.array(model(mx.array([row.tokens[:-1]]))[0]).astype(np.float64)
        for place in range(row.learned_from, len(row.tokens)):
            scores = logits[place - 1]
            losses.append(float(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[row.tokens[place]]))
    return float(np.mean(losses))


def stock(rows: list[Row], shorter_by: int) -> tuple[mx.array, mx.array]:
    """Return stock's batch of the same rows; `shorter_by` 1 takes its mask back from the padding."""
    return mx.array(padded(rows)[0]), mx.array([[row.learned_from, len(row.tokens) - shorter_by] for row in rows])


def losses(model: Any) -> dict[str, Any]:
    """Compare values."""
    found: dict[str, Any] = {}
    for name, rows in {"padded": PADDED, "whole": WHOLE}.items():
        batch = collate(rows)
        model.train()
        found[name] = {
            "ours": measure(model, demonstration_loss, [batch])[0],
            "parts": measure(model, demonstration_loss, [collate([row]) for row in rows])[0],
            "by_hand": by_hand(model, rows),
            "stock": float(default_loss(model, *stock(rows, 0))[0]),
            "stock_targets": int(default_loss(model, *stock(rows, 0))[1]),
            "stock_mended": float(default_loss(model, *stock(rows, 1))[0]),
            "targets": batch.weight,
            "is_training_after": model.training,
        }
    return found


def gradients(model: Any, rows: list[Row], shorter_by: int) -> dict[str, float]:
    """Return the largest difference of ours from stock's gradient, and the largest entry of either."""
    ours = nn.value_and_grad(model, demonstration_loss)(model, *arrays(collate(rows)))[1]
    theirs = nn.value_and_grad(model, default_loss)(model, *stock(rows, shorter_by))[1]
    return apart(ours, theirs, collate(rows).weight)


def apart(ours: Any, theirs: Any, targets: int) -> dict[str, float]:
    """Return how far our summed gradient is from stock's mean over as many targets."""
    pairs = list(zip(tree_flatten(ours), tree_flatten(theirs), strict=True))
    return {
        "parameters": len(pairs),
        "largest": max(float(mx.abs(two).max()) for _, (_, two) in pairs),
        "difference": max(float(mx.abs(one / targets - two).max()) for (_, one), (_, two) in pairs),
        "names_differ": sum(first != second for (first, _), (second, _) in pairs),
    }


def switched(folder: Path, model: Any, *, exact_mask: bool) -> dict[str, Any]:
    """Compare with stock from the file to the gradients: its own data set, batches and loss against a recipe's."""
    _, tokenizer = load_model(folder, None, "float32")
    found: dict[str, Any] = {}
    for name, pairs in FILES.items():
        data = [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
        path = write_lines(folder.parent / f"{name}.jsonl", data)
        for masks in (True, False):
            keys = {"max_seq_length": LONGEST, "batch_size": len(data), "truncate": True, "mask_prompt": masks}
            batch, loss = of_recipe(path, model, tokenizer, keys | {"exact_mask": exact_mask})
            rows = CacheDataset(CompletionsDataset(data, tokenizer, "prompt", "completion", mask_prompt=masks))
            with redirect_stdout(sys.stderr):
                # It warns of the row that it cuts.
                theirs = next(iter(iterate_batches(rows, len(data), LONGEST)))
            (value, targets), gradient = nn.value_and_grad(model, default_loss)(model, *theirs)
            (total, _), summed = nn.value_and_grad(model, loss)(model, *arrays(batch))
            found[f"{name} {'answers' if masks else 'all'}"] = {
                "stock": float(value),
                "stock_targets": int(targets),
                "followed_by_padding": int((theirs[1][:, 1] < theirs[0].shape[1]).sum()),
                "ours": float(total) / batch.weight,
                "targets": batch.weight,
                "gradients": apart(summed, gradient, batch.weight),
            }
    return found


def of_recipe(path: Path, model: Any, tokenizer: Any, keys: dict[str, Any]) -> tuple[Batch, Any]:
    """Return the first batch of a file as a job would learn it, and its loss."""
    inputs = {"instrument": "sft", "data": {"train": str(path)}}
    setting = Setting(inputs, validate_recipe(RECIPE | keys), model, tokenizer, "", path.parent, print)
    objective = build(setting).objective
    return next(objective.batches(Cursor()))[0], objective.loss


def checkpointing(model: Path) -> dict[str, float]:
    """Return the slope of the loss along its gradient, dropout on: measured, and as the gradient says."""
    batch = arrays(collate(WHOLE))
    found: dict[str, float] = {}
    for name, is_on in {"plain": False, "checkpointed": True}.items():
        lora = {"rank": 2, "scale": 2.0, "dropout": 0.5}
        loaded = fresh(model, lora_parameters=lora, grad_checkpoint=is_on)
        values = loaded.trainable_parameters()
        mx.random.seed(3)
        gradient = nn.value_and_grad(loaded, demonstration_loss)(loaded, *batch)[1]
        norm = float(mx.sqrt(sum((mx.square(part).sum() for _, part in tree_flatten(gradient)), mx.array(0.0))))
        sides = []
        for step in (1e-3, -1e-3):
            loaded.update(tree_map(lambda value, part, by=step / norm: value + by * part, values, gradient))
            mx.random.seed(3)
            sides.append(float(demonstration_loss(loaded, *batch)[0]))
        found[name] = norm
        found[f"{name}_measured"] = (sides[0] - sides[1]) / 2e-3
    return found


def options() -> dict[str, list[str]]:
    """Return what the installed optimizers and schedules take."""
    kinds = {"adam": optim.Adam, "adamw": optim.AdamW, "muon": optim.Muon, "sgd": optim.SGD}
    kinds["adafactor"] = optim.Adafactor
    schedules = ("cosine_decay", "exponential_decay", "linear_schedule", "step_decay")
    found = {name: list(inspect.signature(kind).parameters) for name, kind in kinds.items()}
    return found | {name: list(inspect.signature(getattr(optim, name)).parameters) for name in schedules}


def first_steps() -> dict[str, float]:
    """Return how far one update of a parameter of 1 with gradient 1 goes, at a learning rate of 0.1."""
    recipes: dict[str, dict[str, Any]] = {
        "adam": {"optimizer": "adam"},
        "uncorrected": {"optimizer": "adam", "optimizer_config": {"adam": {"bias_correction": False}}},
        "sgd": {"optimizer": "sgd"},
        "adafactor": {"optimizer": "adafactor", "optimizer_config": {"adafactor": {"scale_parameter": False}}},
        "scheduled": {"optimizer": "sgd", "lr_schedule": {"name": "linear_schedule", "arguments": [0.02, 0.0, 10]}},
    }
    found = {}
    for name, recipe in recipes.items():
        optimizer = build_optimizer(validate_recipe({"learning_rate": 0.1} | recipe))
        after = optimizer.apply_gradients({"w": mx.ones((2, 2))}, {"w": mx.ones((2, 2))})
        found[name] = 1 - float(after["w"][0, 0])
    return found


def refusals(model: Path) -> list[str]:
    """Return the sentences about recipes that only the model or MLX can refuse."""
    recipes: list[dict[str, Any]] = [
        {"lora_parameters": {"rank": 2, "keys": ["attention.query"]}},
        {"lora_parameters": {"rank": 2, "keys": ["input_layernorm"]}},
        {"optimizer": "adam", "optimizer_config": {"adam": {"eps": -1.0}}},
        {"lr_schedule": {"name": "linear_schedule", "arguments": [1e-3, 0.0, 0]}},
        {"optimizer": "sgd", "optimizer_config": {"sgd": {"nesterov": True}}},
    ]
    said = []
    for recipe in recipes:
        checked = validate_recipe(RECIPE | recipe)
        try:
            prepare(load_model(model)[0], checked, None)
            build_optimizer(checked)
            said.append("")
        except ConfigError as error:
            said.append(error.sentence)
    return said


def trainable(model: Path) -> dict[str, list[str]]:
    """Return the names of what is trained under several recipes."""
    recipes: dict[str, dict[str, Any]] = {
        "last layer": {"num_layers": 1},
        "dora": {"fine_tune_type": "dora"},
        "full": {"fine_tune_type": "full", "num_layers": 1},
        "keys": {"lora_parameters": {"rank": 2, "keys": ["self_attn.q_proj"]}},
    }
    found = {}
    for name, recipe in recipes.items():
        loaded = load_model(model)[0]
        prepare(loaded, validate_recipe(RECIPE | recipe), None)
        found[name] = [path for path, _ in tree_flatten(loaded.trainable_parameters())]
    return found


def main(folder: Path) -> None:
    """Print everything at once: starting costs more than all of it."""
    model = fresh(folder)
    found = {
        "losses": losses(model),
        "gradients": {"whole": gradients(model, WHOLE, 0), "padded": gradients(model, PADDED, 1)},
        "exact_mask": {
            "off": switched(folder, model, exact_mask=False),
            "on": switched(folder, model, exact_mask=True),
        },
        "options": options(),
        "first_steps": first_steps(),
        "refusals": refusals(folder),
        "trainable": trainable(folder),
        # Last: it changes the layers' class for good.
        "checkpointing": checkpointing(folder),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
