"""A prompt computed once for all of its answers, with its gradient; worker processes only.

The answers of a group begin with one prompt, mostly longer than they are. Its keys and values serve all of them, and
what each answer says of them adds up in their gradient: the same loss and gradient as row by row, up to rounding. With
dropout the answers share one draw over the prompt.
"""

from typing import Any

import mlx.core as mx
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import KVCache, make_prompt_cache

from tools.training.head import logits_at

_LOOK = (24, 8)
"""Tokens of the prompt and of the answer by which a model is looked at."""

_ALIKE = {mx.float32: 1e-4}
_ALIKE_IN_HALF = 0.05
"""Largest difference of a logit, as a share of the largest one, at which both ways say the same."""


class _Prompt:
    """One layer's keys and values: the prompt's, kept, and for each call after it those of answers behind them."""

    def __init__(self) -> None:
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self.offset = 0

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Return what is attended to, shape (rows, heads, positions, width)."""
        if self.keys is None or self.values is None:
            self.keys, self.values, self.offset = keys, values, keys.shape[2]
            return keys, values
        return _behind(self.keys, keys), _behind(self.values, values)

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> Any:  # noqa: FBT001, FBT002 - as mlx-lm's caches have it
        """Return the mask of the next n positions, as mlx-lm's caches do."""
        if return_array or window_size is not None:
            return create_causal_mask(n, self.offset, window_size=window_size)
        return "causal" if n > 1 else None


def _behind(prompt: mx.array, answers: mx.array) -> mx.array:
    return mx.concatenate([mx.broadcast_to(prompt, (answers.shape[0], *prompt.shape[1:])), answers], axis=2)


def logits_after(model: Any, prompt: mx.array, inputs: mx.array) -> mx.array:
    """Return the logits at each position of answers to one prompt, shape (rows, width, vocabulary).

    Args:
        model: Called with tokens and caches, gives logits.
        prompt: shape (1, tokens), all of it but its last token.
        inputs: shape (rows, width), that token and the answer's but its last.
    """
    caches = [_Prompt() for _ in make_prompt_cache(model)]
    # Its logits are never looked at, so they are never computed.
    model(prompt, cache=caches)
    logits: mx.array = model(inputs, cache=caches)
    return logits


def can_share(model: Any, prompt: list[int]) -> bool:
    """Say whether a model gives the same logits this way as row by row, tried on a prompt.

    Args:
        model: Its layers keep keys and values of all positions, or it cannot.
        prompt: Any; repeated where it is short.
    """
    if any(type(cache) is not KVCache for cache in make_prompt_cache(model)):
        return False
    before, behind = _LOOK
    tokens = (prompt * (before + behind))[: before + behind + 1]
    was_training = model.training
    model.eval()
    try:
        rows = mx.array([tokens[before:-1], tokens[before:-1][::-1]])
        ours = logits_after(model, mx.array([tokens[:before]]), rows)
        whole = mx.concatenate([mx.broadcast_to(mx.array([tokens[:before]]), (2, before)), rows], axis=1)
        theirs = logits_at(model, whole, mx.broadcast_to(mx.arange(before, before + rows.shape[1]), rows.shape))
        apart, largest = (float(mx.abs(part.astype(mx.float32)).max()) for part in (ours - theirs, theirs))
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        # A model that asks its caches for something else.
        return False
    finally:
        model.train(was_training)
    return apart <= _ALIKE.get(ours.dtype, _ALIKE_IN_HALF) * largest
