"""What the loop needs of an objective, and the objective of demonstrations; worker processes only."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from state.records import Json
from tools.training.batching import Batch, Cursor, batches_from
from tools.training.data import Row, collate
from tools.training.losses import demonstration_loss
from tools.training.recipe import Recipe


class Objective(Protocol):
    """What is learned from, and how it is scored; the loop asks nothing else."""

    def batches(self, cursor: Cursor) -> Iterator[tuple[Batch, Cursor]]:
        """Yield (batch, the cursor after it) without end, starting at a cursor; the same bits for the same cursor."""
        ...

    def validation(self) -> Sequence[Batch]:
        """Return what validation measures; may be empty."""
        ...

    def loss(self, model: Any, *arrays: Any) -> tuple[Any, Any]:
        """Return the summed loss of a batch and its figures, shape (rows, columns)."""
        ...

    def report(self, figures: NDArray[np.float64]) -> Json:
        """Return what a metrics row says about the rows since the last one."""
        ...

    def is_separated(self, loss: float, figures: NDArray[np.float64]) -> bool:
        """Say whether a step's loss leaves nothing to learn, so that generation should be looked at (mode 14)."""
        ...


class Demonstrations:
    """Learning answers by their likelihood.

    Args:
        recipe: For batches and validation.
        train: Training rows.
        valid: Validation rows; may be empty.
    """

    def __init__(self, recipe: Recipe, train: list[Row], valid: list[Row]) -> None:
        self._recipe = recipe
        self._train = train
        self._valid = valid
        self._lengths = [len(row.tokens) for row in train]

    def batches(self, cursor: Cursor) -> Iterator[tuple[Batch, Cursor]]:
        """See `Objective`."""
        for rows, after in bucketed(self._lengths, self._recipe, cursor):
            yield collate([self._train[row] for row in rows]), after

    def validation(self) -> list[Batch]:
        """See `Objective`."""
        groups = validation_groups([len(row.tokens) for row in self._valid], self._recipe)
        return [collate([self._valid[row] for row in rows]) for rows in groups]

    def loss(self, model: Any, *arrays: Any) -> tuple[Any, Any]:
        """See `Objective`."""
        return demonstration_loss(model, *arrays)

    def report(self, figures: NDArray[np.float64]) -> Json:
        """Return nothing: the mean loss, which every row has, says it all."""
        del figures
        return {}

    def is_separated(self, loss: float, figures: NDArray[np.float64]) -> bool:
        """Return False: demonstrations learned by heart show in what is generated, which is sampled anyway."""
        del loss, figures
        return False


def bucketed(lengths: Sequence[int], recipe: Recipe, cursor: Cursor) -> Iterator[tuple[list[int], Cursor]]:
    """Yield (rows of a batch, the cursor after it) as the recipe asks."""
    return batches_from(lengths, recipe.batch_size, recipe.seed, cursor, bucketing=recipe.length_bucketing)


def validation_groups(lengths: Sequence[int], recipe: Recipe) -> list[list[int]]:
    """Return the rows of each validation batch.

    The whole set in batches of like length, the tail included; or a few from short to long if the recipe asks.
    """
    ordered = sorted(range(len(lengths)), key=lambda row: lengths[row])
    size = recipe.batch_size
    groups = [ordered[at : at + size] for at in range(0, len(ordered), size)]
    wanted = len(groups) if recipe.val_batches < 0 else min(recipe.val_batches, len(groups))
    return [groups[(2 * place + 1) * len(groups) // (2 * wanted)] for place in range(wanted)]
