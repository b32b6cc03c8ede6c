"""Which rows share a batch and what it is padded to, as a pure function of lengths, seed and epoch.

The stock trainer sorts by the number of JSON keys, drops the tail and keeps its batches for the whole run
(facts/mlx_training.md 2.2, 2.3). Here every row is seen once per epoch, rows of like length share a batch, and epochs
differ. A function of (seed, epoch) needs no saved state: a resumed run finds its place by counting.

Batches have few shapes, whatever the data: each new one costs a GPU kernels and plans, and a compiled step a trace.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from state.recipe import PAD_TO

MOST_SHAPES = 10
"""Widths of a data set's batches. On the quickstart's rows, 143 to 877 tokens, ten leave 6 % padding, six 10 %."""


@dataclass(frozen=True)
class Shape:
    """What a batch is padded to.

    Args:
        width: Positions that the model computes, per row.
        answers: Positions of them whose next token may be learned.
    """

    width: int
    answers: int

    def rounded(self, step: int) -> "Shape":
        """Return the shape padded to multiples of a step, so that batches of like length have one shape."""
        return Shape(-(-self.width // step) * step, -(-self.answers // step) * step)


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


def shape_of(lengths: Sequence[int], targets: Sequence[int]) -> Shape:
    """Return the smallest shape that rows fit into.

    Args:
        lengths: Tokens of each row.
        targets: Learned tokens of each.
    """
    width = _padded(max(lengths) - 1)
    return Shape(width, min(width, _padded(max(targets))))


def _padded(length: int) -> int:
    return -(-length // PAD_TO) * PAD_TO


def buckets(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return all rows, shortest first, in at most `MOST_SHAPES` parts of whole batches that pad least.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows of a batch; only the last part may hold another number of rows than a multiple of it.
    """
    if not lengths:
        return []
    ordered = sorted(range(len(lengths)), key=lambda row: lengths[row])
    ends: dict[int, int] = {}
    for end in [*range(batch_size, len(ordered), batch_size), len(ordered)]:
        ends[_padded(lengths[ordered[end - 1]] - 1)] = end
    cuts = _cheapest_cuts(list(ends), list(ends.values()))
    return [ordered[start:end] for start, end in pairwise([0, *cuts])]


def _cheapest_cuts(widths: list[int], ends: list[int]) -> list[int]:
    """Return which ends to cut at, so that few parts, each as wide as its last, hold the fewest positions."""
    wide, starts = np.array(widths), np.array([0, *ends])
    costs = np.full(len(starts), np.inf)
    costs[0] = 0
    chosen: list[NDArray[Any]] = []
    for _ in range(min(MOST_SHAPES, len(ends))):
        each = costs[:-1, None] + (starts[None, 1:] - starts[:-1, None]) * wide[None, :]
        each[np.tril_indices(len(ends), -1)] = np.inf
        chosen.append(each.argmin(axis=0))
        costs = np.concatenate([[0.0], each.min(axis=0)])
    last, cuts = len(ends), []
    for before in reversed(chosen):
        if last:
            cuts.append(ends[last - 1])
            last = int(before[last - 1])
    return cuts[::-1]


def shapes(lengths: Sequence[int], targets: Sequence[int], batch_size: int) -> list[Shape]:
    """Return the shapes of a data set's batches, the smallest first.

    Args:
        lengths: Tokens of each row.
        targets: Learned tokens of each.
        batch_size: Rows of a batch.
    """
    found: list[Shape] = []
    answers = 1
    for rows in buckets(lengths, batch_size):
        shape = shape_of([lengths[row] for row in rows], [targets[row] for row in rows])
        answers = max(answers, shape.answers)
        found.append(Shape(shape.width, answers))
    return found


def fitting(known: Sequence[Shape], lengths: Sequence[int], targets: Sequence[int]) -> Shape:
    """Return the first shape that rows fit into; their own where none is known."""
    own = shape_of(lengths, targets)
    return next((shape for shape in known if shape.width >= own.width and shape.answers >= own.answers), own)


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
    parts = buckets(lengths, batch_size) if bucketing else [list(range(len(lengths)))]
    batches: list[list[int]] = []
    for part in parts:
        rows = order.permutation(part).tolist()
        batches += [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
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
