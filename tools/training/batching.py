"""Which rows share a batch, as a pure function of lengths, seed and epoch.

The stock trainer sorts by the number of JSON keys, drops the tail and keeps its batches for the whole run
(facts/mlx_training.md 2.2, 2.3). Here every row is seen once per epoch, rows of like length share a batch, and epochs
differ. A function of (seed, epoch) needs no saved state: a resumed run finds its place by counting.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BUCKETS = 16
"""Batches that are sorted together: enough to cut padding, few enough that batches stay mixed."""

PAD_TO = 8
"""Padded lengths are multiples of this, so that a handful of shapes recur."""


@dataclass(frozen=True)
class Cursor:
    """The place in the data of the next batch.

    Args:
        epoch: From 0.
        position: Batch within the epoch, from 0.
    """

    epoch: int = 0
    position: int = 0


@dataclass(frozen=True)
class Batch:
    """What one micro-step computes on.

    Args:
        arrays: What the objective's loss takes after the model; nothing where there is nothing to learn.
        weight: What its summed loss is divided by: learned tokens, pairs or rollouts.
        rows: Rows of the data.
        learned_tokens: Tokens that are targets.
        real_tokens: Positions that hold a token.
        padded_tokens: Positions computed, padding included.
        more: Further arrays of the same step, computed one after another to bound memory.
    """

    arrays: tuple[NDArray[Any], ...]
    weight: int
    rows: int
    learned_tokens: int
    real_tokens: int
    padded_tokens: int
    more: tuple[tuple[NDArray[Any], ...], ...] = ()

    @property
    def parts(self) -> tuple[tuple[NDArray[Any], ...], ...]:
        """All arrays, part by part."""
        return (self.arrays, *self.more) if self.arrays else ()


def epoch_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int, *, bucketing: bool = True
) -> list[list[int]]:
    """Return the rows of each batch of one epoch; every row stands in exactly one.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows per batch; the last one of a run over the data may hold fewer.
        seed: Of the run.
        epoch: From 0.
        bucketing: Whether rows of like length are put together.
    """
    order = np.random.default_rng([seed, epoch])
    rows = order.permutation(len(lengths)).tolist()
    window = batch_size * _BUCKETS if bucketing else batch_size
    batches: list[list[int]] = []
    for start in range(0, len(rows), window):
        part = rows[start : start + window]
        if bucketing:
            part = sorted(part, key=lambda row: lengths[row])
        batches += [part[at : at + batch_size] for at in range(0, len(part), batch_size)]
    return [batches[place] for place in order.permutation(len(batches)).tolist()]


def batches_from(
    lengths: Sequence[int], batch_size: int, seed: int, cursor: Cursor, *, bucketing: bool = True
) -> Iterator[tuple[list[int], Cursor]]:
    """Yield (rows of a batch, the cursor after it) without end, starting at a cursor."""
    epoch, position = cursor.epoch, cursor.position
    while True:
        batches = epoch_batches(lengths, batch_size, seed, epoch, bucketing=bucketing)
        while position < len(batches):
            rows = batches[position]
            position += 1
            yield rows, Cursor(epoch, position)
        epoch, position = epoch + 1, 0


def padded_length(lengths: Sequence[int]) -> int:
    """Return the length a batch is padded to."""
    return -(-max(lengths) // PAD_TO) * PAD_TO


def padding_share(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Return the share of positions that hold no token, [0, 1)."""
    real = sum(lengths[row] for batch in batches for row in batch)
    padded = sum(len(batch) * padded_length([lengths[row] for row in batch]) for batch in batches)
    return 1 - real / padded
