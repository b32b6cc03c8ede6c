"""What the loop needs of an objective, and the objective of demonstrations; worker processes only."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from state.records import Json
from tools.training.data import Batch, Cursor, Row, batches_from, collate, shapes
from tools.training.losses import Loss, demonstration_loss
from tools.training.recipe import Recipe


class Objective(ABC):
    """What is learned from, and how it is scored; the loop asks nothing else."""

    stride = 1
    """Steps between two places where a run may be saved: those that learn from one sample belong together."""

    is_steady = False
    """Whether batches have few shapes and follow from the data alone: then a step is compiled, and the next one begins
    before its loss is looked at."""

    @property
    def fault(self) -> str:
        """Why the weights are not fit to be judged now, a word, or empty; a save made meanwhile is no healthy one."""
        return ""

    def begin(self) -> list[Json] | None:
        """Look at the parent, whose weights the model still has; return metrics rows, None where a stop was asked for.

        Called once, after everything that is to be trained is trainable and before a save is put in place.
        """
        return []

    def signal(self) -> Json | None:
        """Return what there is to learn from before anything is learned, empty where that needs no look.

        None where a stop was asked for meanwhile.
        """
        return {}

    @abstractmethod
    def batches(self, cursor: Cursor) -> Iterator[tuple[Batch, Cursor]]:
        """Yield (batch, the cursor after it), starting at a cursor; the same bits for the same cursor and weights.

        Ends only where a stop was asked for while a batch was made.
        """

    @abstractmethod
    def validation(self) -> Sequence[Batch]:
        """Return what validation measures; may be empty."""

    @abstractmethod
    def loss(self, model: Any, *arrays: Any) -> tuple[Any, Any]:
        """Return the summed loss of arrays and their figures, shape (rows, columns)."""

    @abstractmethod
    def report(self, figures: NDArray[np.float64]) -> Json:
        """Return what a metrics row says about the rows since the last one."""

    def probe(self, cursor: Cursor) -> tuple[Loss, Batch]:
        """Return a loss and a batch that tell weights apart: what a save gives must be what its load gives."""
        batch, _ = next(self.batches(cursor))
        return self.loss, batch

    def learned(self, figures: NDArray[np.float64]) -> None:
        """Take note of a step's figures."""
        del figures

    def watch(self, step: int, *, is_due: bool) -> list[Json]:
        """Look at the model beside its training, where it is due by `steps_per_eval`; return metrics rows."""
        del step, is_due
        return []

    def notes(self) -> Json:
        """Return what a save must keep of the objective, as JSON."""
        return {}

    def recall(self, notes: Json) -> None:
        """Go on from the notes of a save."""
        del notes

    def is_separated(self, loss: float, figures: NDArray[np.float64]) -> bool:
        """Say whether a step's loss leaves nothing to learn, so that generation should be looked at (mode 14)."""
        del loss, figures
        return False


class Demonstrations(Objective):
    """Learning answers by their likelihood."""

    is_steady = True

    def __init__(self, recipe: Recipe, train: list[Row], valid: list[Row]) -> None:
        self._recipe = recipe
        self._train = train
        self._valid = valid
        self._lengths = [len(row.tokens) for row in train]
        self._shapes, self._valid_shapes = (
            shapes([len(row.tokens) for row in rows], [row.targets for row in rows], recipe.batch_size)
            for rows in (train, valid)
        )

    def batches(self, cursor: Cursor) -> Iterator[tuple[Batch, Cursor]]:
        """See `Objective`."""
        for rows, after in bucketed(self._lengths, self._recipe, cursor):
            yield collate([self._train[row] for row in rows], self._shapes), after

    def validation(self) -> list[Batch]:
        """See `Objective`."""
        groups = validation_groups([len(row.tokens) for row in self._valid], self._recipe)
        return [collate([self._valid[row] for row in rows], self._valid_shapes) for rows in groups]

    def loss(self, model: Any, *arrays: Any) -> tuple[Any, Any]:
        """See `Objective`."""
        return demonstration_loss(model, *arrays)

    def report(self, figures: NDArray[np.float64]) -> Json:
        """Return nothing: the mean loss, which every row has, says it all."""
        del figures
        return {}


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
