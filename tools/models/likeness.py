"""How alike models answer: log-probabilities of the next token on the same rows, and how far they lie apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def told(folder: Path, adapter: Path | None, dtype: str | None, rows: Sequence[Sequence[int]]) -> Any:
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

    from tools.models.load import load_model

    model, _ = load_model(folder, adapter, dtype)
    model.eval()
    found = []
    for row in rows:
        logits = model(mx.array([row]))[0].astype(mx.float32)
        found.append(np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True), dtype=np.float32))
    return np.concatenate(found)


def divergence(wanted: Any, seen: Any) -> float:
    """Return the mean divergence of what is seen from what was wanted, nats."""
    import numpy as np

    each = (np.exp(wanted) * (wanted - seen)).sum(axis=1, dtype=np.float64)
    return float(np.maximum(each, 0.0).mean())


def agreeing(wanted: Any, seen: Any) -> int:
    """Return at how many positions the likeliest token is the same."""
    return int((wanted.argmax(axis=1) == seen.argmax(axis=1)).sum())
