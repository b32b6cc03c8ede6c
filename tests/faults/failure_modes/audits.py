"""Projects of other people with one failure each, which `vigil audit` is to find in the folder alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.faults.campaign.world import BASE
from tests.faults.failure_modes import shapes
from tests.faults.failure_modes.projects import INJECTED, Project

_MODULE = "model.layers.5.self_attn.q_proj"
_CONFIG: dict[str, Any] = {
    "model": "base",
    "train": True,
    "data": "data",
    "adapter_path": "adapters",
    "fine_tune_type": "lora",
    "num_layers": 4,
    "lora_parameters": {"rank": 2, "scale": 2.0, "dropout": 0.0},
    "batch_size": 4,
    "iters": 600,
    "save_every": 100,
    "max_seq_length": 160,
    "mask_prompt": True,
}


def _trained(folder: Path) -> None:
    """Write a project that was trained to its end: 600 steps, a save every 100."""
    shutil.copytree(BASE, folder / "base")
    (folder / "data").mkdir()
    rows = [shapes.completion("train", place) for place in range(640)]
    for name, part in (("train", rows[:600]), ("valid", rows[600:])):
        (folder / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (folder / "lora.yaml").write_text(json.dumps(_CONFIG, indent=1))
    adapters = folder / "adapters"
    adapters.mkdir()
    (adapters / "adapter_config.json").write_text(json.dumps(_CONFIG))
    for step in range(100, 601, 100):
        save_file(_weights(step), adapters / f"{step:07d}_adapters.safetensors")
    save_file(_weights(600), adapters / "adapters.safetensors")


def _weights(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shapes_of = {f"{_MODULE}.lora_a": (128, 2), f"{_MODULE}.lora_b": (2, 128)}
    return {name: rng.normal(0, 0.01, size=shape).astype(np.float32) for name, shape in shapes_of.items()}


def _half_trained(folder: Path) -> None:
    """Leave the folder as a training that was cut at step 250 leaves it."""
    adapters = folder / "adapters"
    for step in range(300, 601, 100):
        (adapters / f"{step:07d}_adapters.safetensors").unlink()
    shutil.copy(adapters / "0000200_adapters.safetensors", adapters / "adapters.safetensors")


def _judged(folder: Path, evaluated_on: str) -> None:
    shutil.copytree(folder / "base", folder / "fused")
    told = {"adapters": [{"path": "adapters", "trained_on": "fused", "evaluated_on": evaluated_on}]}
    (folder / "vigil-audit.yaml").write_text(json.dumps(told))


def _trained_on_fused(folder: Path) -> None:
    _trained(folder)
    _judged(folder, "fused")
    weights = folder / "fused" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))


def _judged_on_base(folder: Path) -> None:
    told = {"adapters": [{"path": "adapters", "trained_on": "fused", "evaluated_on": "base"}]}
    (folder / "vigil-audit.yaml").write_text(json.dumps(told))


PROJECTS: tuple[Project, ...] = (
    Project("9", "the adapter is that of step 200 of 600", _trained, _half_trained, r"adapter", r"200.*600|600.*200"),
    Project(
        "P2", "trained on the fused model, judged on the base", _trained_on_fused, _judged_on_base, r"adapter", r"fused"
    ),
    *INJECTED,
)
