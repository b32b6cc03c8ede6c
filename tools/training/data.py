"""Training rows as tokens, with the exact positions that are learned."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from state.errors import ConfigError
from tools.evaluation.prompts import render_training
from tools.tracks.formats import iter_data
from tools.training.batching import padded_length


@dataclass(frozen=True)
class Row:
    """One row.

    Args:
        tokens: The whole row, end token included.
        learned_from: First position that is a target; at least 1, since nothing predicts the first token.
        is_cut: Whether the row was longer than `max_seq_length` and lost its end.
    """

    tokens: list[int]
    learned_from: int
    is_cut: bool = False

    @property
    def targets(self) -> int:
        """Tokens that are learned."""
        return len(self.tokens) - self.learned_from


@dataclass(frozen=True)
class Batch:
    """Padded rows.

    Args:
        tokens: shape (rows, padded length), padding is 0.
        mask: shape (rows, padded length - 1), 1 where the *next* token is learned; padding never is.
    """

    tokens: NDArray[np.int32]
    mask: NDArray[np.float32]

    @property
    def targets(self) -> int:
        """Tokens that are learned."""
        return int(self.mask.sum())


def read_rows(
    path: Path, tokenizer: Any, *, max_seq_length: int, mask_prompt: bool, system: str | None, truncate: bool
) -> list[Row]:
    """Return a data file as rows of tokens.

    Raises:
        ConfigError: A row is longer than `max_seq_length` and may not be cut, or nothing of it would be learned. The
            stock trainer cuts the answer with a warning, and a prompt that long gives a NaN loss and exit code 0.
    """
    rows = []
    for item in iter_data(path):
        rendered = render_training(tokenizer, item.row, system)
        tokens = rendered.tokens[:max_seq_length]
        start = max(1, rendered.prompt_length) if mask_prompt else 1
        if start >= len(tokens):
            raise ConfigError(
                f"{path}:{item.line}: nothing is left to learn, the prompt alone has {rendered.prompt_length} tokens "
                f"of max_seq_length {max_seq_length}; raise it or remove the row.",
                what="recipe.max_seq_length",
                value=rendered.prompt_length,
                limit=max_seq_length,
                where=f"{path}:{item.line}",
            )
        if len(rendered.tokens) > max_seq_length and not truncate:
            raise ConfigError(
                f"{path}:{item.line}: the row has {len(rendered.tokens)} tokens and recipe.max_seq_length is "
                f"{max_seq_length}; raise it, remove the row, or set recipe.truncate: true.",
                what="recipe.max_seq_length",
                value=len(rendered.tokens),
                limit=max_seq_length,
                where=f"{path}:{item.line}",
            )
        rows.append(Row(tokens, start, len(rendered.tokens) > max_seq_length))
    return rows


def collate(rows: list[Row]) -> Batch:
    """Return rows as one padded batch with its exact mask."""
    width = padded_length([len(row.tokens) for row in rows])
    tokens = np.zeros((len(rows), width), dtype=np.int32)
    mask = np.zeros((len(rows), width - 1), dtype=np.float32)
    for place, row in enumerate(rows):
        tokens[place, : len(row.tokens)] = row.tokens
        mask[place, row.learned_from - 1 : len(row.tokens) - 1] = 1.0
    return Batch(tokens, mask)
