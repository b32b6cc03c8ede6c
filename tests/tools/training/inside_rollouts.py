"""Child process: our losses over rollouts and their gradients on the random model; writes one file of arrays."""

import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten, tree_map

from tests.tools.training.inside import fresh
from tools.models.load import load_model
from tools.training.data import Row, answers
from tools.training.losses import rollout_loss, token_scores
from tools.training.recipe import RolloutRecipe
from tools.training.reinforcement import Reinforcement

SCALE = 2.0
BETA, CLIP, MOST_TOKENS = 0.3, (0.8, 1.3), 24
ROWS = [
    Row([3, 17, 29, 40, 51, 62, 1], 4),
    Row([3, 17, 29, 40, 73, 1], 4),
    Row([3, 8, 9, *range(30, 50), *range(90, 104), 1], 23),
    Row([3, 99, 120, 121, 122, 123, 124], 2),
]
ADVANTAGES = [1.2, -0.7, 0.4, -1.6]
KINDS: dict[str, tuple[str, float, bool]] = {
    "grpo": ("grpo", 1.0, False),
    "bnpo": ("bnpo", 0.7, False),
    "dr_grpo": ("dr_grpo", 1.4, False),
    "once": ("dr_grpo", 0.7, True),
}
"""Name -> kind, temperature, whether rollouts serve one update."""


def parents_view(model: Any, sampled: Any, temperature: float) -> Any:
    """Return log-probabilities under the parent as training has it: its own parameters, put in place for a pass."""
    objective = Reinforcement.__new__(Reinforcement)
    objective._model = model
    objective._recipe = RolloutRecipe(temperature=temperature)
    now = model.trainable_parameters()
    # The parent of a fresh adapter: its second factor is zero.
    parent = tree_map(mx.zeros_like, now)
    found = objective._logps(sampled, parent)
    for (name, one), (_, two) in zip(tree_flatten(now), tree_flatten(model.trainable_parameters()), strict=True):
        assert mx.array_equal(one, two), f"{name} is not what it was"
    return found


def main(folder: Path, out: Path) -> None:
    """Write everything at once."""
    model = fresh(folder, lora_parameters={"rank": 2, "scale": SCALE, "dropout": 0.0})
    plain, _ = load_model(folder, None, "float32")
    *parts, mask = answers(ROWS)
    sampled = [mx.array(part) for part in parts]
    assert sampled[1].shape[1] < sampled[0].shape[1], "or every position has logits"
    chance = np.random.default_rng(3)
    found: dict[str, Any] = {"mask": mx.array(mask)}
    for name, (kind, temperature, is_once) in KINDS.items():
        parent = parents_view(model, sampled, temperature)
        off, _ = token_scores(plain, *sampled, temperature=temperature)
        now, _ = token_scores(model, *sampled, temperature=temperature)
        # Rollouts of an earlier policy: some ratios lie outside the clip on either side.
        old = np.array(now) + chance.normal(0, 0.3, mask.shape).astype(np.float32)
        # Padding must not count, whatever stands there.
        old[mask == 0], parent[mask == 0] = -500.0, 500.0
        loss = rollout_loss(
            kind, beta=BETA, clip=CLIP, temperature=temperature, most_tokens=MOST_TOKENS, is_on_policy=is_once
        )
        batch = [mx.array(part) for part in (mask, np.array(ADVANTAGES, np.float32), old, parent)]
        (value, figures), gradient = nn.value_and_grad(model, loss)(model, *sampled, *batch)
        found |= {f"{name}.loss": value, f"{name}.figures": figures, f"{name}.old": mx.array(old)}
        found |= {f"{name}.parent": mx.array(parent), f"{name}.plain": off}
        found |= {f"{name}.gradient.{path}": part for path, part in tree_flatten(gradient)}
    found |= {f"weights.{path}": part for path, part in tree_flatten(model.parameters())}
    mx.save_safetensors(str(out / "found.safetensors"), found, metadata={"format": "mlx"})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
