"""Whether an adapter folder belongs on a model folder; standard library and `state` only, nothing is loaded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from state.hashing import HashCache
from state.records import Json
from tools.models.identity import (
    ADAPTER_FILES,
    WEIGHTS,
    Header,
    HeaderError,
    Problem,
    Tensor,
    read_header,
    read_object,
    weights_hash,
)

_SHAPE_KEYS = ("fine_tune_type", "num_layers", "lora_parameters")


def adapter_problems(adapter: Path, model: Path, cache: HashCache | None = None) -> list[Problem]:
    """Return why an adapter is not one of this model; empty where nothing speaks against it.

    An adapter that Vigil trained names the weights it was trained on. Of any other only names and shapes can be held
    against the model: an adapter of another fine-tune of the same architecture passes.

    Args:
        adapter: Adapter folder.
        model: Model folder.
        cache: Known content hashes.
    """
    missing = [name for name in ADAPTER_FILES if not (adapter / name).is_file()]
    if missing:
        return [
            Problem(
                f"Adapter folder {adapter} lacks {' and '.join(missing)}; name a complete adapter folder.",
                {"kind": "incomplete", "missing": missing},
            )
        ]
    try:
        header = read_header(adapter / "adapters.safetensors")
    except (HeaderError, OSError) as error:
        return [
            Problem(
                f"{adapter / 'adapters.safetensors'} cannot be read as safetensors: {error}; train or copy it again.",
                {"kind": "unreadable"},
            )
        ]
    return [*_lineage(adapter, model, cache), *_shapes(adapter, header, model)]


def _lineage(adapter: Path, model: Path, cache: HashCache | None) -> Iterator[Problem]:
    trained_on = read_object(adapter / "run.json").get("model_weights")
    if not trained_on:
        return
    here = weights_hash(model, None, cache)
    if trained_on != here:
        yield Problem(
            f"The adapter {adapter} was trained on the weights {str(trained_on)[:12]}, but {model} holds {here[:12]}; "
            "name the model that it was trained on.",
            {"kind": "parent", "trained_on": trained_on, "model": here},
        )


def _shapes(adapter: Path, header: Header, model: Path) -> Iterator[Problem]:
    """Hold each low-rank pair against the matrix it is added to."""
    weights = _tensors(model)
    if not weights:
        return
    config = read_object(model / "config.json").get("quantization")
    bits = int(config.get("bits") or 0) if isinstance(config, dict) else 0
    for name, tensor in header.tensors.items():
        module, _, leaf = name.rpartition(".")
        found = weights.get(f"{module}.weight")
        if leaf not in {"lora_a", "lora_b"} or len(tensor.shape) != 2:  # noqa: PLR2004 - a matrix
            continue
        if found is None:
            yield Problem(
                f"The adapter {adapter} adapts {module}, which {model} does not have; it is of another model.",
                {"kind": "shape", "module": module},
            )
            return
        ours, theirs = _side(leaf, tensor, found, bits)
        if ours != theirs:
            what = "inputs" if leaf == "lora_a" else "outputs"
            yield Problem(
                f"The adapter {adapter} has {ours} {what} at {module}, where {model} has {theirs}; "
                "it is of another model.",
                {"kind": "shape", "module": module, "adapter": ours, "model": theirs},
            )
            return


def _side(leaf: str, tensor: Tensor, weight: Tensor, bits: int) -> tuple[int, int]:
    """Return the adapter's and the matrix's size on the side that must agree; packed words are unpacked."""
    if leaf == "lora_b":
        return tensor.shape[1], weight.shape[0]
    packed = 32 // bits if bits and weight.dtype == "U32" else 1
    return tensor.shape[0], weight.shape[-1] * packed


def _tensors(model: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in sorted(model.glob(WEIGHTS)):
        try:
            found |= read_header(path).tensors
        except (HeaderError, OSError):
            continue
    return found


def adapter_recipe(adapter: Path) -> Json:
    """Return the recipe keys that decide an adapter's shape, as its folder has them."""
    config: dict[str, Any] = read_object(adapter / "adapter_config.json")
    return {key: config[key] for key in _SHAPE_KEYS if config.get(key) is not None}
