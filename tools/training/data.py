"""Training rows as tokens with the exact positions that are learned, and which rows share a batch.

The stock trainer sorts by the number of JSON keys, drops the tail and keeps its batches for the whole run
(facts/mlx_training.md 2.2, 2.3). Here every row is seen once per epoch, rows of like length share a batch, and epochs
differ. A function of (seed, epoch) needs no saved state: a resumed run finds its place by counting.

Batches have few shapes, whatever the data: each new one costs a GPU kernels and plans, and a compiled step a trace.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from state.errors import ConfigError
from state.recipe import PAD_TO
from tools.evaluation.prompts import Rendered, Tokens
from tools.evaluation.rendered import Source, rendered_rows

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
    chosen: list[Shape] = []
    answers = 1
    for rows in buckets(lengths, batch_size):
        shape = shape_of([lengths[row] for row in rows], [targets[row] for row in rows])
        answers = max(answers, shape.answers)
        chosen.append(Shape(shape.width, answers))
    return chosen


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


@dataclass(frozen=True)
class Row:
    """One row.

    Args:
        tokens: The whole row, end token included; after it one of padding where `exact_mask: false` has that learned.
        learned_from: First position that is a target; at least 1, since nothing predicts the first token.
        is_cut: Whether the row was longer than `max_seq_length` and lost its end.
    """

    tokens: Tokens
    learned_from: int
    is_cut: bool = False

    @property
    def targets(self) -> int:
        """Tokens that are learned."""
        return len(self.tokens) - self.learned_from


_PADDING = 0
"""The token that batches are padded with, here and in the stock trainer, whatever the tokenizer names."""


def read_rows(
    source: Source,
    tokenizer: Any,
    *,
    max_seq_length: int,
    mask_prompt: bool,
    truncate: bool,
    exact_mask: bool = True,
) -> list[Row]:
    """Return a data file as rows of tokens.

    Args:
        source: The file, and where its tokens are kept.
        tokenizer: mlx-lm tokenizer wrapper.
        max_seq_length: Most tokens a row may have.
        mask_prompt: Learn the answer alone.
        truncate: Cut what is longer.
        exact_mask: Learn nothing after a row's last token; false learns what the stock trainer does.

    Raises:
        ConfigError: As `rendered_rows` and `fitting_row`.
    """
    fit = partial(fitting_row, max_seq_length=max_seq_length, mask_prompt=mask_prompt, truncate=truncate)
    rows = [fit(rendered, f"{source.path}:{line}") for line, rendered in rendered_rows(source, tokenizer)]
    return rows if exact_mask else [_with_padding(row, max_seq_length) for row in rows]


def _with_padding(row: Row, max_seq_length: int) -> Row:
    """Return a row with the padding that the stock trainer learns after it, where its batch has any.

    Its mask is `steps <= length`, one too many (facts/mlx_training.md 2, found 1). It pads to one more than the longest
    row rounded up to 32, and to `max_seq_length` at most: only a row as long as that is followed by nothing.
    """
    return replace(row, tokens=[*row.tokens, _PADDING]) if len(row.tokens) < max_seq_length else row


def fitting_row(
    rendered: Rendered, where: str, *, max_seq_length: int, mask_prompt: bool, truncate: bool, what: str = "the row"
) -> Row:
    """Return rendered text as a row.

    Args:
        rendered: Tokens, and where the answer begins.
        where: File and line.
        max_seq_length: Most tokens a row may have.
        mask_prompt: Learn the answer alone.
        truncate: Cut what is longer.
        what: The row's name in a refusal.

    Raises:
        ConfigError: The row is longer than `max_seq_length` and may not be cut, or nothing of it would be learned. The
            stock trainer cuts the answer with a warning, and a prompt that long gives a NaN loss and exit code 0.
    """
    tokens = rendered.tokens[:max_seq_length]
    start = max(1, rendered.prompt_length) if mask_prompt else 1
    if start >= len(tokens):
        raise ConfigError(
            f"{where}: nothing is left to learn, the prompt alone has {rendered.prompt_length} tokens "
            f"of max_seq_length {max_seq_length}; raise it or remove the row.",
            what="recipe.max_seq_length",
            value=rendered.prompt_length,
            limit=max_seq_length,
            where=where,
        )
    if len(rendered.tokens) > max_seq_length and not truncate:
        raise ConfigError(
            f"{where}: {what} has {len(rendered.tokens)} tokens and recipe.max_seq_length is "
            f"{max_seq_length}; raise it, remove the row, or set recipe.truncate: true.",
            what="recipe.max_seq_length",
            value=len(rendered.tokens),
            limit=max_seq_length,
            where=where,
        )
    return Row(tokens, start, len(rendered.tokens) > max_seq_length)


Answers = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]


def answers(rows: Sequence[Row], known: Sequence[Shape] = ()) -> Answers:
    """Return what a loss over rows needs: logits where something may be learned, and nowhere else.

    Args:
        rows: Of one batch.
        known: Shapes to choose from; the rows' own where there is none.

    Returns:
        inputs: shape (rows, width), what the model is called with.
        places: shape (rows, answers), positions of each row, none twice.
        targets: shape (rows, answers), the tokens after those places.
        mask: shape (rows, answers), 1 where the target is learned; padding never is.
    """
    shape = fitting(known, [len(row.tokens) for row in rows], [row.targets for row in rows])
    tokens = np.zeros((len(rows), 1 + shape.width), dtype=np.int32)
    places = np.zeros((len(rows), shape.answers), dtype=np.int32)
    mask = np.zeros((len(rows), shape.answers), dtype=np.float32)
    for place, row in enumerate(rows):
        tokens[place, : len(row.tokens)] = row.tokens
        first = min(row.learned_from - 1, shape.width - shape.answers)
        places[place] = first + np.arange(shape.answers)
        mask[place, row.learned_from - 1 - first : len(row.tokens) - 1 - first] = 1.0
    return tokens[:, :-1], places, np.take_along_axis(tokens, places + 1, axis=1), mask


def answers_after(rows: Sequence[Row]) -> Answers:
    """Return what a loss over answers to one prompt needs where that is computed once for all.

    Args:
        rows: Of one batch; all begin with the same prompt of two tokens or more.

    Returns:
        The prompt but its last token, shape (1, tokens); that token and the answer but its last; the answer; and where
        it is, each shape (rows, longest answer).
    """
    start = rows[0].learned_from
    shape = len(rows), max(row.targets for row in rows)
    inputs, targets = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int32)
    mask = np.zeros(shape, dtype=np.float32)
    for place, row in enumerate(rows):
        inputs[place, : row.targets] = row.tokens[start - 1 : -1]
        targets[place, : row.targets] = row.tokens[start:]
        mask[place, : row.targets] = 1.0
    return np.array([rows[0].tokens[: start - 1]], dtype=np.int32), inputs, targets, mask


def collate(rows: Sequence[Row], known: Sequence[Shape] = ()) -> Batch:
    """Return rows as one batch of demonstrations: `arrays` are those of `answers`, `weight` the learned tokens."""
    arrays = answers(rows, known)
    learned = sum(row.targets for row in rows)
    return Batch(
        arrays=arrays,
        weight=learned,
        rows=len(rows),
        learned_tokens=learned,
        real_tokens=sum(len(row.tokens) for row in rows),
        padded_tokens=arrays[0].size + len(rows),
    )
