"""Saved steps: everything a training needs to go on as if it had never stopped; worker processes only.

A save is a folder `saves/<step>/` that appears by one rename: adapter, optimizer, and `state.json` with their hashes
written last. Random numbers need no state: the loop seeds each step from (seed, step).
"""

import os
import platform
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from state.files import fsync_path, write_json
from state.records import Json
from tools.evaluation.harness import package_version
from tools.training.progress import Progress, drop_old, seal

_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _library(preloaded: str) -> str:
    """Return the name of the file itself, in which a version stands; the link to it is called alike everywhere."""
    return Path(preloaded).resolve().name if preloaded else ""


def environment() -> Json:
    """Return wheel versions, BLAS library, thread counts and core type."""
    return {
        "mlx": package_version("mlx"),
        "mlx-lm": package_version("mlx-lm"),
        "blas": _library(os.environ.get("LD_PRELOAD", "").split(":")[0]),
        "threads": {name: os.environ.get(name, "") for name in _THREADS},
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "is_compile_off": os.environ.get("MLX_DISABLE_COMPILE", "") == "1",
    }


def write_adapter(folder: Path, model: Any, config: Json) -> None:
    """Write an adapter folder that any `mlx_lm` command opens."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "adapter_config.json", config)
    write_arrays(folder / "adapters.safetensors", model.trainable_parameters())


def write_arrays(path: Path, tree: Any) -> None:
    """Write arrays to the disk itself: after a power cut the marker must not stand beside an empty file."""
    # Without metadata MLX writes `null` there, which the format does not allow and `newest` takes for a torn file.
    mx.save_safetensors(str(path), dict(tree_flatten(tree)), metadata={"format": "mlx"})
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def save(saves: Path, model: Any, optimizer: Any, config: Json, progress: Progress) -> Path:
    """Write one save, whole or not at all, and drop what is no longer needed."""
    target = saves / f"{progress.step:07d}"
    side = saves / f".{target.name}.tmp"
    shutil.rmtree(side, ignore_errors=True)
    write_adapter(side, model, config)
    write_arrays(side / "optimizer.safetensors", optimizer.state)
    seal(side, progress)
    shutil.rmtree(target, ignore_errors=True)
    side.rename(target)
    fsync_path(saves)
    drop_old(saves, progress)
    return target


def _read_arrays(path: Path) -> list[tuple[str, Any]]:
    loaded: Any = mx.load(str(path))
    return list(loaded.items())


def restore_weights(folder: Path, model: Any) -> None:
    """Put a save's weights in place.

    Raises:
        ValueError: The save holds other parameters than the model trains.
    """
    weights = _read_arrays(folder / "adapters.safetensors")
    expected = {name for name, _ in tree_flatten(model.trainable_parameters())}
    if {name for name, _ in weights} != expected:
        raise ValueError(f"The save {folder.name} holds other parameters than this recipe trains.")
    model.update(tree_unflatten(weights))
    mx.eval(model.parameters())


def restore(folder: Path, model: Any, optimizer: Any) -> None:
    """Put a save's weights and optimizer state in place.

    Raises:
        ValueError: As `restore_weights`.
    """
    restore_weights(folder, model)
    optimizer.init(model.trainable_parameters())
    optimizer.state = tree_unflatten(_read_arrays(folder / "optimizer.safetensors"))
    mx.eval(optimizer.state)
