"""Training rows as tokens, with the exact positions that are learned."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from state.errors import ConfigError
from tools.evaluation.prompts import Rendered, Tokens
from tools.evaluation.rendered import Source, rendered_rows
from tools.training.batching import Batch, Shape, fitting


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
