"""Logits where they are asked for: the prompt's positions need none; worker processes only.

A vocabulary of 150,000 tokens makes the output layer a quarter of a small model's work, and its logits in float32 the
largest arrays of a step.
"""

from typing import Any

import mlx.core as mx
from mlx import nn

_PLACES = "_places"


def logits_at(model: Any, inputs: mx.array, places: mx.array) -> mx.array:
    """Return a model's logits at some positions of each row, shape (rows, places, vocabulary).

    What comes after the model's layers (norms aside) works on each position alone: the output layer, a scale, a cap. So
    the layers' output is cut to the wanted positions before the model goes on with it. A model that is built otherwise
    gives all logits, and the wanted ones are taken from them.

    Args:
        model: Called with tokens, gives logits.
        inputs: shape (rows, width).
        places: shape (rows, places), positions of each row; fewer than `width`, or all in order.
    """
    if places.shape[1] == inputs.shape[1]:
        every: mx.array = model(inputs)
        return every
    body = getattr(model, "model", None)
    if isinstance(body, nn.Module):
        _let_cut(type(body))
        vars(body)[_PLACES] = places
    try:
        logits: mx.array = model(inputs)
    finally:
        if isinstance(body, nn.Module):
            del vars(body)[_PLACES]
    return logits if logits.shape[1] == places.shape[1] else _cut(logits, places)


def _cut(values: mx.array, places: mx.array) -> mx.array:
    return mx.take_along_axis(values, places[..., None], axis=1)


def _let_cut(kind: Any) -> None:
    """Have a class cut its output to the positions that an instance is told to.

    Side effects: changes the class, in this process for good; once, whoever asks again.
    """
    plain = kind.__call__
    if hasattr(plain, "whole"):
        return

    def cut(body: Any, *args: Any, **kwargs: Any) -> Any:
        found = plain(body, *args, **kwargs)
        places = vars(body).get(_PLACES)
        return found if places is None or not isinstance(found, mx.array) else _cut(found, places)

    cut.whole = plain  # type: ignore[attr-defined]
    kind.__call__ = cut
