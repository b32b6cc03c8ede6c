"""Quantize a model, put an adapter on it and fuse it, by mlx-lm itself: `python -m … FOLDER SIZE [--dequantize]`.

FOLDER gets `base` (4 bits), `adapters` and `fused`. SIZE is the spread of the low-rank pair's second half: what
preferences leave is 0.0005, what many passes of demonstrations do is 0.05.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.faults.campaign.world import BASE

LAYERS, WIDTH, RANK = 6, 128, 4


def adapter(folder: Path, size: float, model: str = "base", **config: Any) -> None:
    """Write an adapter of the tiny base's query projections."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    tensors = {}
    for layer in range(LAYERS):
        module = f"model.layers.{layer}.self_attn.q_proj"
        tensors[f"{module}.lora_a"] = rng.normal(0, 0.1, (WIDTH, RANK)).astype(np.float32)
        tensors[f"{module}.lora_b"] = rng.normal(0, size, (RANK, WIDTH)).astype(np.float32)
    save_file(tensors, folder / "adapters.safetensors")
    lora = {"rank": RANK, "scale": 2.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
    said = {"model": model, "fine_tune_type": "lora", "num_layers": LAYERS, "lora_parameters": lora, **config}
    (folder / "adapter_config.json").write_text(json.dumps(said))


def fuse(folder: Path, *options: str) -> None:
    """Fuse base and adapter of a folder into `fused`."""
    places = {"--model": "base", "--adapter-path": "adapters", "--save-path": "fused"}
    named = [text for option, name in places.items() for text in (option, str(folder / name))]
    subprocess.run([sys.executable, "-m", "mlx_lm", "fuse", *named, *options], check=True, capture_output=True)


def main(argv: list[str]) -> int:
    """Do it all."""
    from mlx_lm import convert

    folder, size, *options = argv
    # In float32: a product of half precision takes a CPU ten times as long.
    convert(str(BASE), str(Path(folder) / "base"), quantize=True, q_group_size=64, q_bits=4, dtype="float32")
    adapter(Path(folder) / "adapters", float(size))
    fuse(Path(folder), *options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
