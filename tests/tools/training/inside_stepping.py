"""Child process: steps compiled, plain and refused on the random model, and logits cut before the head; prints JSON."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from tests.tools.training.inside import fresh
from tools.training.data import Row, answers, collate
from tools.training.loop import Stepper, build_optimizer
from tools.training.losses import arrays, demonstration_loss, logits_at
from tools.training.recipe import validate_recipe

BATCHES = [collate([Row([*range(20, 20 + size)], 2)]) for size in (5, 19, 6, 20)]
"""Two shapes."""

Loss = Callable[..., tuple[Any, Any]]


def trained(folder: Path, wrap: Callable[[Loss], Loss], *, is_compiled: bool) -> dict[str, Any]:
    """Do two updates of two batches each, with dropout."""
    model = fresh(folder, lora_parameters={"rank": 2, "scale": 2.0, "dropout": 0.5}, num_layers=1)
    optimizer = build_optimizer(validate_recipe({"optimizer": "sgd", "learning_rate": 0.1}))
    optimizer.init(model.trainable_parameters())
    calls: list[int] = []
    said: list[str] = []

    def counted(*given: Any) -> tuple[Any, Any]:
        calls.append(1)
        return wrap(demonstration_loss)(*given)

    step = Stepper(model, optimizer, counted, max_grad_norm=1.0, is_compiled=is_compiled, tell=said.append)
    gradient: Any = None
    weight, losses, norms = 0, [], []
    for turn in range(2):
        for place, batch in enumerate(BATCHES):
            weight += batch.weight
            is_update = place % 2 == 1
            loss, figures, gradient, norm = step(arrays(batch), gradient, weight, 4 * turn + place, is_update=is_update)
            assert figures is None
            losses.append(float(loss))
            if norm is not None:
                norms.append(float(norm))
                weight = 0
    weights = {name: float(mx.abs(part).sum()) for name, part in tree_flatten(model.trainable_parameters())}
    return {"losses": losses, "norms": norms, "weights": weights, "calls": len(calls), "said": said}


def looking(loss: Loss) -> Loss:
    """Return a loss that asks for a value while it is traced."""

    def looked(*given: Any) -> tuple[Any, Any]:
        found, figures = loss(*given)
        return found + 0 * float(found), figures

    return looked


class _Odd(nn.Module):  # type: ignore[misc]  # MLX has no types
    """A model whose layers do not stand where others have them."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def __call__(self, tokens: Any) -> Any:
        return self.inner(tokens)


def heads(model: Any) -> dict[str, float]:
    """Return how far cut logits are from the same places of all logits."""
    model.eval()
    rows = [Row([*range(20, 60)], 30), Row([*range(20, 53)], 29), Row([*range(30, 60)], 19)]
    inputs, places, *_ = map(mx.array, answers(rows))
    whole = mx.take_along_axis(model(inputs), places[..., None], axis=1)
    every = mx.array([[*range(inputs.shape[1])]] * len(rows))
    ways = {
        "cut": logits_at(model, inputs, places),
        "again": logits_at(model, inputs, places),
        "elsewhere": logits_at(_Odd(model), inputs, places),
    }
    found = {name: float(mx.abs(logits - whole).max()) for name, logits in ways.items()}
    found["all"] = float(mx.abs(logits_at(model, inputs, every) - model(inputs)).max())
    found["places"], found["width"] = places.shape[1], inputs.shape[1]
    return found


def main(folder: Path) -> None:
    """Print everything at once."""
    found: dict[str, Any] = {"plain": trained(folder, lambda loss: loss, is_compiled=False)}
    mx.enable_compile()
    found["compiled"] = trained(folder, lambda loss: loss, is_compiled=True)
    found["refused"] = trained(folder, looking, is_compiled=True)
    mx.disable_compile()
    found["heads"] = heads(fresh(folder))
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
