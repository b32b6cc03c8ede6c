"""Opening a model folder with mlx-lm, and how alike two models answer; for worker processes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from state.errors import ConfigError
from state.log import log_info
from tools.machine.sandbox import held
from tools.models.identity import coherence_problems

_OPENED_S = 120.0
"""Processor seconds to open a tokenizer; a vocabulary of 262,144 tokens takes four."""

_FATAL = frozenset({"no_folder", "no_config", "no_tokenizer", "no_weights", "unreadable", "truncated"})


def _refuse_unloadable(folder: Path, kinds: frozenset[str]) -> None:
    for problem in coherence_problems(folder):
        if problem.detail["kind"] in kinds:
            raise ConfigError(problem.sentence, what="model", where=str(folder))


def load_tokenizer(folder: Path) -> Any:
    """Return mlx-lm's tokenizer wrapper of a model folder, with the end tokens that `mlx_lm.load` would use.

    Raises:
        ConfigError: The folder has no config or tokenizer, or opening it takes more than any honest one does.
    """
    _refuse_unloadable(folder, frozenset({"no_folder", "no_config", "no_tokenizer"}))
    from mlx_lm.utils import load_config
    from mlx_lm.utils import load_tokenizer as load

    # Opening it renders its template to see whether it thinks.
    with held(f"The tokenizer in {folder}", _OPENED_S):
        return load(folder, eos_token_ids=load_config(folder).get("eos_token_id"))


def load_model(folder: Path, adapter: Path | None = None, dtype: str | None = None) -> tuple[Any, Any]:
    """Return (model, tokenizer wrapper).

    Args:
        folder: Model folder.
        adapter: Adapter folder to put on top.
        dtype: `float32`, `float16` or `bfloat16` for the model's floating parameters; as stored when None. An adapter's
            stay as stored: in half precision a small update of them would be rounded away.

    Raises:
        ConfigError: The folder cannot be loaded, or the adapter does not fit it.
    """
    _refuse_unloadable(folder, _FATAL)
    log_info("phase", phase="load", dtype=dtype or "stored", has_adapter=adapter is not None)
    import mlx.core as mx
    from mlx_lm import load

    try:
        model, tokenizer = load(str(folder), adapter_path=str(adapter) if adapter else None)[:2]
    except (ValueError, KeyError, TypeError) as error:
        on_top = f" with adapter {adapter}" if adapter else ""
        raise ConfigError(
            f"mlx-lm cannot load {folder}{on_top}: {str(error)[:200]}.", what="model", where=str(folder)
        ) from error
    if dtype is not None:
        adapters = [(part, _factors(part)) for part in model.modules()]
        model.set_dtype(getattr(mx, dtype))
        for part, factors in adapters:
            part.update(factors)
    return model, tokenizer


def _factors(part: Any) -> dict[str, Any]:
    """Return an adapted layer's own parameters; of any other layer none."""
    return {name: part[name] for name in ("lora_a", "lora_b", "m") if name in part} if "lora_a" in part else {}


def next_token_logps(folder: Path, adapter: Path | None, dtype: str | None, rows: Sequence[Sequence[int]]) -> Any:
    """Return the log-probabilities of the next token at every position of some rows.

    Args:
        folder: Of the model.
        adapter: Beside it, or none.
        dtype: To compute in; the stored one when None.
        rows: Token ids.

    Returns:
        An array of shape (positions, vocabulary), float32. One model is in memory at a time.
    """
    import mlx.core as mx
    import numpy as np

    model, _ = load_model(folder, adapter, dtype)
    model.eval()
    rows_of_logps = []
    for row in rows:
        logits = model(mx.array([row]))[0].astype(mx.float32)
        rows_of_logps.append(np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True), dtype=np.float32))
    return np.concatenate(rows_of_logps)


def divergence(wanted: Any, actual: Any) -> float:
    """Return the mean divergence of the actual from what was wanted, nats."""
    import numpy as np

    each = (np.exp(wanted) * (wanted - actual)).sum(axis=1, dtype=np.float64)
    return float(np.maximum(each, 0.0).mean())


def agreeing(wanted: Any, actual: Any) -> int:
    """Return at how many positions the likeliest token is the same."""
    return int((wanted.argmax(axis=1) == actual.argmax(axis=1)).sum())
