"""Say what MLX is here: `python -m tools.machine.mlx_child` prints one JSON object.

A program of its own: importing MLX takes a backend for the life of a process, and where none works it may abort.
"""

import json
import sys
from importlib.metadata import version
from typing import Any

_SIZE = 8


def describe_mlx() -> dict[str, Any]:
    """Return MLX's version, backend, device, and the device's own figures."""
    import mlx.core as mx

    is_metal = bool(mx.metal.is_available())
    device = str(mx.default_device())
    backend = "metal" if is_metal else "cuda" if "gpu" in device else "cpu"
    # One real product: a backend that imports and cannot compute is found here and not at night.
    total = mx.sum(mx.ones((_SIZE, _SIZE)) @ mx.ones((_SIZE, _SIZE))).item()
    return {
        "version": version("mlx"),
        "backend": backend,
        "device": device,
        "computes": total == _SIZE**3,
        "info": {name: value for name, value in mx.device_info().items() if isinstance(value, int | str)},
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(describe_mlx()) + "\n")
