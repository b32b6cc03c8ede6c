"""Child process: our losses over pairs and their gradients on the random model; writes one file of arrays."""

import json
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten
from mlx_lm.tuner.lora import LoRALinear

from tests.tools.training.inside import fresh
from tools.models.load import load_model
from tools.training.data import Row
from tools.training.loop import prepare
from tools.training.losses import answer_logps, arrays, preference_loss
from tools.training.preferences import Pair, collate_pairs, reference_logps
from tools.training.recipe import validate_recipe

KINDS: dict[str, tuple[float, str, float]] = {
    "sigmoid": (0.1, "sigmoid", 0.0),
    "smoothed": (0.5, "sigmoid", 0.2),
    "ipo": (0.3, "ipo", 0.0),
    "hinge": (0.05, "hinge", 0.0),
}
"""Name -> beta, kind, label smoothing."""

SCALE = 2.0
PAIRS = [
    Pair(Row([3, 17, 29, 40, 51, 62, 1], 4), Row([3, 17, 29, 40, 73, 1], 4)),
    Pair(Row([3, 8, 9, 10, 1], 3), Row([3, 8, 9, *range(90, 104), 1], 3)),
    Pair(Row([3, 99, 120, 121, 122, 123, 1], 2), Row([3, 99, 122, 121, 120, 1], 2)),
]


def adapters_off(model: Any) -> Any:
    """Return answers' log-probabilities with the adapters switched off: what the cached reference stands for."""
    layers = [module for _, module in model.named_modules() if isinstance(module, LoRALinear)]
    for layer in layers:
        layer.scale = 0.0
    *rows, _ = arrays(collate_pairs(PAIRS, np.zeros((3, 2), np.float32)))
    logps = answer_logps(model, *rows)
    mx.eval(logps)
    for layer in layers:
        layer.scale = SCALE
    return logps


def main(folder: Path, out: Path) -> None:
    """Write everything at once."""
    loaded, _ = load_model(folder, None, "float32")
    rows: list[dict[str, Any]] = []
    reference = reference_logps(loaded, PAIRS, out / "reference.safetensors", batch_size=2, emit=rows.append)
    again = reference_logps(loaded, PAIRS, out / "reference.safetensors", batch_size=2, emit=rows.append)
    prepare(loaded, validate_recipe({"fine_tune_type": "dora", "num_layers": -1}), None)
    dora = reference_logps(loaded, PAIRS, out / "dora.safetensors", batch_size=3, emit=rows.append)
    model = fresh(folder, lora_parameters={"rank": 2, "scale": SCALE, "dropout": 0.0})
    found = {
        "reference": mx.array(reference),
        "again": mx.array(again),
        "dora": mx.array(dora),
        "off": adapters_off(model).reshape(2, -1).T,
    }
    batch = arrays(collate_pairs(PAIRS, reference))
    for name, settings in KINDS.items():
        (loss, figures), gradient = nn.value_and_grad(model, preference_loss(*settings))(model, *batch)
        found |= {f"{name}.loss": loss, f"{name}.figures": figures}
        found |= {f"{name}.gradient.{path}": part for path, part in tree_flatten(gradient)}
    found |= {f"weights.{path}": part for path, part in tree_flatten(model.parameters())}
    mx.save_safetensors(str(out / "found.safetensors"), found, metadata={"format": "mlx"})
    print(json.dumps(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
