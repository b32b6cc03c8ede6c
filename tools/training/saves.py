"""Saved steps: everything a training needs to go on as if it had never stopped; worker processes only.

A save is a folder `saves/<step>/` that appears by one rename: adapter, optimizer, and `state.json` written last. Random
numbers need no state: the loop seeds each step from (seed, step). The newest two and the best by validation stay.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from state.files import fsync_folder, read_json, write_json
from state.records import Json
from tools.models.headers import HeaderError, read_header
from tools.training.batching import Cursor

_KEPT = 2
_WEIGHTS = ("adapters.safetensors", "optimizer.safetensors")


@dataclass
class Progress:
    """Where a training stands after a step.

    Args:
        step: Micro-steps done.
        cursor: Place in the data of the next batch.
        trained_tokens: Learned tokens so far.
        padded_tokens: Positions computed so far, padding included.
        steps_s: Seconds spent on training steps alone, validation and saves left out.
        seen_rows: Rows of the first epoch seen so far.
        train_loss: Mean since the last report, nats per token.
        val_losses: (step, nats per token), oldest first.
        probe_loss: Loss of the batch at `cursor`, dropout off: what a load of this save must reproduce.
        environment: What bit-for-bit equality depends on.
        data: Hash of the training file; the cursor means nothing in another one.
    """

    step: int = 0
    cursor: Cursor = field(default_factory=Cursor)
    trained_tokens: int = 0
    padded_tokens: int = 0
    steps_s: float = 0.0
    seen_rows: int = 0
    train_loss: float | None = None
    val_losses: list[tuple[int, float]] = field(default_factory=list)
    probe_loss: float | None = None
    environment: Json = field(default_factory=dict)
    data: str = ""

    @classmethod
    def from_json(cls, value: Json) -> "Progress":
        """Return what `state.json` holds."""
        losses = [(int(step), float(loss)) for step, loss in value["val_losses"]]
        return cls(**{**value, "cursor": Cursor(**value["cursor"]), "val_losses": losses})


def write_adapter(folder: Path, model: Any, config: Json) -> None:
    """Write an adapter folder that any `mlx_lm` command opens."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "adapter_config.json", config)
    _write_arrays(folder / "adapters.safetensors", model.trainable_parameters())


def _write_arrays(path: Path, tree: Any) -> None:
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
    _write_arrays(side / "optimizer.safetensors", optimizer.state)
    write_json(side / "state.json", asdict(progress))
    shutil.rmtree(target, ignore_errors=True)
    side.rename(target)
    fsync_folder(saves)
    _drop_old(saves, progress)
    return target


def _drop_old(saves: Path, progress: Progress) -> None:
    whole = sorted(path.parent for path in saves.glob("[0-9]*/state.json"))
    losses = dict(progress.val_losses)
    # Of the steps that were saved: the best validation of all may stand between two saves.
    measured = [folder for folder in whole if int(folder.name) in losses]
    best = min(measured, key=lambda folder: losses[int(folder.name)], default=None)
    for folder in whole[:-_KEPT]:
        if folder != best:
            shutil.rmtree(folder, ignore_errors=True)


def newest(saves: Path) -> tuple[Path, Progress] | None:
    """Return the newest whole save, or None; a torn one is passed over."""
    for folder in sorted((path.parent for path in saves.glob("[0-9]*/state.json")), reverse=True):
        try:
            value = read_json(folder / "state.json")
            is_whole = all(map(_is_whole, (folder / name for name in _WEIGHTS)))
        except (json.JSONDecodeError, HeaderError, OSError):
            continue
        if value is not None and is_whole:
            return folder, Progress.from_json(value)
    return None


def _is_whole(path: Path) -> bool:
    """Whether a file of arrays has the size its header declares."""
    return path.stat().st_size == read_header(path).declared_bytes


def _read_arrays(path: Path) -> list[tuple[str, Any]]:
    loaded: Any = mx.load(str(path))
    return list(loaded.items())


def restore(folder: Path, model: Any, optimizer: Any) -> None:
    """Put a save's adapter and optimizer state in place.

    Raises:
        ValueError: The save holds other parameters than the model trains.
    """
    weights = _read_arrays(folder / "adapters.safetensors")
    expected = {name for name, _ in tree_flatten(model.trainable_parameters())}
    if {name for name, _ in weights} != expected:
        raise ValueError(f"The save {folder.name} holds other parameters than this recipe trains.")
    model.update(tree_unflatten(weights))
    optimizer.init(model.trainable_parameters())
    optimizer.state = tree_unflatten(_read_arrays(folder / "optimizer.safetensors"))
    mx.eval(model.parameters(), optimizer.state)
