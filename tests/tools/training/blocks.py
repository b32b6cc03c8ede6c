"""Rows as one block with their exact mask: what stock mlx-lm is given, and what our batches are held against."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tools.training.data import Row, shape_of


def padded(rows: Sequence[Row]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return tokens, shape (rows, padded length), padding 0; and 1 where the next token is learned, one narrower."""
    width = shape_of([len(row.tokens) for row in rows], [1]).width
    tokens = np.zeros((len(rows), 1 + width), dtype=np.int32)
    mask = np.zeros((len(rows), width), dtype=np.float32)
    for place, row in enumerate(rows):
        tokens[place, : len(row.tokens)] = row.tokens
        mask[place, row.learned_from - 1 : len(row.tokens) - 1] = 1.0
    return tokens, mask
