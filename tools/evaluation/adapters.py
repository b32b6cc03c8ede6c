"""Adapters while a model generates: put into the weights where those are dense; worker processes only.

A decoding step's time is the number of its operations where the GPU waits for the next one, and adapters double to
quadruple it (facts/real_model.md, section 4). In half precision the answers differ from those with the adapter apart,
so whoever judges says which form it asks.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

Form = Literal["merged", "apart", "none"]
"""merged: in the weights; apart: beside them, as an adapter folder is used; none: the model has no adapter."""

_MEMORY_SHARE = 0.4
"""Of the memory that is free, for a second copy of the adapted weights, or for a quantized base in full numbers."""


@contextmanager
def merged_adapters(model: Any, chance: str | None = None) -> Iterator[Form]:
    """Have adapters in the weights of dense layers while it holds; tell the form.

    Quantized layers keep theirs, in fewer operations: put into 4 bits a small delta is lost. So do all where a second
    copy of the weights would not fit into memory. Either way layers are put back as they were.

    Args:
        model: mlx-lm model.
        chance: What random rounding follows from. A weight in bfloat16 has 8 bits: rounded to the nearest, a delta
            below a 512th of it is lost in every weight; rounded at random it is there on average. None: to the nearest,
            as `mlx_lm.fuse` does and a fused model has it.
    """
    import mlx.core as mx
    from mlx.utils import tree_unflatten

    adapted = [(name, part) for name, part in model.named_modules() if "lora_a" in part]
    dense = [(name, part) for name, part in adapted if hasattr(part, "fuse") and "scales" not in _base(part)]
    if sum(_base(part).weight.nbytes for _, part in dense) > _MEMORY_SHARE * free_memory():
        dense = []
    merged = [(name, _merged(part, None if chance is None else f"{chance}:{name}")) for name, part in dense]
    mx.eval([part.parameters() for _, part in merged])
    lean = [(name, _lean(part)) for name, part in adapted if name not in dict(dense) and _is_plain(part)]
    model.update_modules(tree_unflatten([*merged, *lean]))
    try:
        yield "none" if not adapted else "merged" if len(dense) == len(adapted) else "apart"
    finally:
        model.update_modules(tree_unflatten([(name, part) for name, part in adapted]))


@contextmanager
def used_as(model: Any, form: str) -> Iterator[str]:
    """Have a model's adapter used as asked while it holds; tell the form.

    Args:
        model: mlx-lm model.
        form: `apart`: as an adapter folder is used; `fused`: as a fused model has it; else what is quicker, and on
            average says what the adapter apart says.
    """
    if form == "apart":
        yield "apart" if any("lora_a" in part for part in model.modules()) else "none"
    elif form == "fused":
        from mlx.utils import tree_unflatten

        adapters = [name for name, part in model.named_modules() if "lora_a" in part]
        inner = {f"{name}.{kind}" for name in adapters for kind in ("linear", "embedding")}
        whole = [
            (name, part)
            for name, part in model.named_modules()
            if name in adapters or ("scales" in part and name not in inner)
        ]
        try:
            fuse(model)
            yield "fused" if adapters else "none"
        finally:
            model.update_modules(tree_unflatten(whole))
    else:
        with merged_adapters(model, "evaluation") as merged:
            yield merged


def no_room(model: Any, form: str) -> str:
    """Return why a model's adapter cannot be used as asked, empty where it can.

    A fused model is held beside the weights that it was made of, and of a quantized base it is several times as large.

    Args:
        model: mlx-lm model.
        form: See `used_as`.
    """
    if form != "fused" or not any("lora_a" in part for part in model.modules()):
        return ""
    adapted = {id(_base(part)) for part in model.modules() if "lora_a" in part}
    more = sum(
        _full_bytes(part) for part in model.modules() if "scales" in part or ("weight" in part and id(part) in adapted)
    )
    free = free_memory()
    if more <= _MEMORY_SHARE * free:
        return ""
    return (
        f"fused, its weights would take {more / 1e9:.2f} GB beside those that it is loaded with, and {free / 1e9:.2f} "
        f"GB are free, of which {_MEMORY_SHARE:.0%} may be used for that"
    )


def _full_bytes(part: Any) -> int:
    """Return the bytes of a layer's weights in the precision that they are computed in."""
    if "scales" not in part:
        return int(part.weight.nbytes)
    # Scales of one byte are of formats whose numbers are computed in half precision.
    return int(part.weight.nbytes * 8 // part.bits * max(2, part.scales.dtype.size))


def fuse(model: Any) -> None:
    """Put a model's adapters into its weights for good; quantized ones are dequantized, or small deltas would be lost.

    Side effects: the model's layers become plain ones.
    """
    from mlx.utils import tree_unflatten
    from mlx_lm.utils import dequantize_model

    fused = [(name, part.fuse(dequantize=True)) for name, part in model.named_modules() if hasattr(part, "fuse")]
    model.update_modules(tree_unflatten(fused))
    if any("scales" in part for part in model.modules()):
        dequantize_model(model)


def _base(part: Any) -> Any:
    return part.embedding if "embedding" in part else part.linear


def _merged(part: Any, chance: str | None) -> Any:
    """Return a layer with its adapter in the weights, in their own precision."""
    import mlx.core as mx

    base = _base(part)
    kind = base.weight.dtype
    if chance is None or kind != mx.bfloat16:
        fused = part.fuse()
        fused.weight = fused.weight.astype(kind)
        return fused
    whole = base.weight
    base.weight = whole.astype(mx.float32)
    try:
        fused = part.fuse()
    finally:
        base.weight = whole
    fused.weight = _rounding()(fused.weight, random_key(chance))
    return fused


@cache
def _rounding() -> Any:
    """Return `_rounded_at_random` in few operations: there are hundreds of weights."""
    import mlx.core as mx

    return mx.compile(_rounded_at_random)


def _rounded_at_random(weight: Any, key: Any) -> Any:
    """Return float32 numbers as bfloat16, up or down with the chance that makes them right on average."""
    import mlx.core as mx

    # bfloat16 is the upper half of a float32: what is added to the lower half carries over as often as it should.
    bits = weight.astype(mx.float32).view(mx.uint32) + mx.random.randint(0, 1 << 16, weight.shape, mx.uint32, key)
    return (bits & 0xFFFF0000).view(mx.float32).astype(mx.bfloat16)


def random_key(text: str) -> Any:
    """Return a random key that follows from a text."""
    import mlx.core as mx

    return mx.random.key(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little"))


def _is_plain(part: Any) -> bool:
    from mlx_lm.tuner.lora import LoRALinear

    return type(part) is LoRALinear


def _lean(part: Any) -> Any:
    """Return a layer whose adapter takes three operations instead of up to seven.

    Adapters are in float32 beside half-precision weights, and cast at both ends. Here both factors are cast once, the
    scale in the second.
    """
    import mlx.core as mx
    from mlx import nn

    class Lean(nn.Module):  # type: ignore[misc]  # MLX has no types for its modules
        def __init__(self) -> None:
            super().__init__()
            kind = part.linear.get("scales", part.linear.weight).dtype
            self.linear = part.linear
            self.down = part.lora_a.astype(kind)
            self.up = (part.scale * part.lora_b).astype(kind)

        def __call__(self, inputs: mx.array) -> mx.array:
            outputs: mx.array = mx.addmm(self.linear(inputs), inputs @ self.down, self.up)
            return outputs

    return Lean()


def free_memory() -> int:
    """Return the bytes that are left for arrays, by what the device says, else by what the machine has free."""
    import mlx.core as mx
    import psutil

    info = mx.device_info()
    known = (info.get(name) for name in ("max_recommended_working_set_size", "total_memory", "memory_size"))
    limit = next((int(each) for each in known if each), 0)
    return max(0, limit - mx.get_active_memory()) if limit else int(psutil.virtual_memory().available)
