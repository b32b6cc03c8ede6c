"""The fuse worker on a library that forgets the adapter: `python -m tests.tools.training.fuse_nothing JOB`."""

from typing import Any

from mlx_lm.tuner.lora import LoRALinear

from tools.training import fuse


def main() -> int:
    """Run the worker with layers that fuse into what they were before."""
    whole = LoRALinear.fuse
    LoRALinear.fuse = _forget
    try:
        return fuse.main()
    finally:
        LoRALinear.fuse = whole


def _forget(layer: Any, *, dequantize: bool = False) -> Any:
    return layer.linear
