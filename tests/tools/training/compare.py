"""Child process: makes a 4-bit model (`quantize FROM TO`), or compares logits (`logits BASE ADAPTER FUSED`)."""

import json
import sys
from pathlib import Path

import mlx.core as mx
from mlx_lm import convert

from tools.models.load import load_model

TOKENS = mx.array([[3, 60, 61, 62, 1, 4, 90, 91, 92, 1]])


def logits(base: str, adapter: str, fused: str) -> dict[str, float]:
    """Return how far the fused model is from base with adapter, and how far that is from the base alone."""
    alone = load_model(Path(base), None, "float32")[0](TOKENS)
    together = load_model(Path(base), Path(adapter), "float32")[0](TOKENS)
    merged = load_model(Path(fused), None, "float32")[0](TOKENS)
    return {
        "difference": float(mx.abs(merged - together).max()),
        "effect": float(mx.abs(together - alone).max()),
    }


def main(what: str, *folders: str) -> None:
    """Do one of the two."""
    if what == "quantize":
        convert(folders[0], folders[1], quantize=True, q_group_size=32, q_bits=4)
        return
    print(json.dumps(logits(*folders)))


if __name__ == "__main__":
    main(*sys.argv[1:])
