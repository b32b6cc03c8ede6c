"""Preference pairs as tokens, the reference's view of them, and their objective; worker processes only.

The reference is the parent: the weights that training starts from, a parent's adapter included. Its log-probabilities
are computed once, before the first step, and kept on disk. Switching adapters off would give the same numbers for a
fresh LoRA or DoRA on the base, but not under a parent's adapter nor in full training, and costs a forward pass each
step where this costs one for the whole run.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from state.errors import ConfigError
from state.records import Json
from tools.evaluation.rendered import Source, rendered_pairs
from tools.training.data import Batch, Cursor, Row, Shape, answers, fitting_row, shapes
from tools.training.losses import PREFERENCE_COLUMNS, preference_loss
from tools.training.objective import Objective, bucketed, validation_groups
from tools.training.recipe import PreferenceRecipe

SEPARATED_LOSS = 0.01
"""A sigmoid loss of 0.01 gives the chosen side odds of 100 to 1: there is nothing left to learn (mode 14)."""

Reference = NDArray[np.float32]
"""shape (pairs, 2): log-probabilities of chosen and rejected under the reference, nats."""


@dataclass(frozen=True)
class Pair:
    """One pair as tokens; both sides begin with the same prompt."""

    chosen: Row
    rejected: Row

    @property
    def length(self) -> int:
        """Tokens of the longer side: what a batch is padded to."""
        return max(len(self.chosen.tokens), len(self.rejected.tokens))

    @property
    def targets(self) -> int:
        """Learned tokens of the side that has more."""
        return max(self.chosen.targets, self.rejected.targets)


def read_pairs(source: Source, tokenizer: Any, *, max_seq_length: int, truncate: bool) -> list[Pair]:
    """Return a file of pairs as tokens.

    Raises:
        ConfigError: As `rendered_pairs` and `fitting_row`; or both sides are the same tokens, once cut.
    """
    pairs = []
    sides: list[Row] = []
    for line, rendered in rendered_pairs(source, tokenizer):
        where = f"{source.path}:{line}"
        what = "the rejected side" if sides else "the chosen side"
        sides.append(
            fitting_row(rendered, where, max_seq_length=max_seq_length, mask_prompt=True, truncate=truncate, what=what)
        )
        if len(sides) == 1:
            continue
        if np.array_equal(sides[0].tokens, sides[1].tokens):
            raise ConfigError(
                f"{where}: cut to {max_seq_length} tokens, both sides are the same; raise recipe.max_seq_length or "
                "remove the pair.",
                what="recipe.max_seq_length",
                limit=max_seq_length,
                where=where,
            )
        pairs.append(Pair(*sides))
        sides = []
    return pairs


def collate_pairs(pairs: Sequence[Pair], reference: Reference, known: Sequence[Shape] = ()) -> Batch:
    """Return pairs as one batch: `arrays` are those of `answers` and the reference, chosen sides first."""
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    arrays = answers(rows, known)
    return Batch(
        arrays=(*arrays, reference.T.reshape(-1)),
        weight=len(pairs),
        rows=len(pairs),
        learned_tokens=sum(row.targets for row in rows),
        real_tokens=sum(len(row.tokens) for row in rows),
        padded_tokens=arrays[0].size + len(rows),
    )


class Preferences(Objective):
    """Learning which of two answers is better, tied to the reference.

    Args:
        recipe: For the loss, batches and validation.
        train: Training pairs.
        train_reference: The reference's view of them.
        valid: Validation pairs; may be empty.
        valid_reference: The reference's view of them.
    """

    is_steady = True

    def __init__(
        self,
        recipe: PreferenceRecipe,
        train: list[Pair],
        train_reference: Reference,
        valid: list[Pair],
        valid_reference: Reference,
    ) -> None:
        self._recipe = recipe
        self._train, self._train_reference = train, train_reference
        self._valid, self._valid_reference = valid, valid_reference
        self._lengths = [pair.length for pair in train]
        self._shapes, self._valid_shapes = (_shapes(pairs, recipe.batch_size) for pairs in (train, valid))
        self._loss = preference_loss(recipe.beta, recipe.loss_type, recipe.label_smoothing)
        self._separated_loss = _separated_loss(recipe)

    def batches(self, cursor: Cursor) -> Iterator[tuple[Batch, Cursor]]:
        """See `Objective`."""
        for rows, after in bucketed(self._lengths, self._recipe, cursor):
            yield collate_pairs([self._train[row] for row in rows], self._train_reference[rows], self._shapes), after

    def validation(self) -> list[Batch]:
        """See `Objective`."""
        groups = validation_groups([pair.length for pair in self._valid], self._recipe)
        return [
            collate_pairs([self._valid[row] for row in rows], self._valid_reference[rows], self._valid_shapes)
            for rows in groups
        ]

    def loss(self, model: Any, *arrays: Any) -> tuple[Any, Any]:
        """See `Objective`."""
        return self._loss(model, *arrays)

    def report(self, figures: NDArray[np.float64]) -> Json:
        """Return means over pairs; `accuracy` is the share whose chosen side has the higher implicit reward."""
        columns = dict(zip(PREFERENCE_COLUMNS, figures.T, strict=True))
        margins = columns["chosen_reward"] - columns["rejected_reward"]
        return {
            "accuracy": float((margins > 0).mean()),
            "margin": float(margins.mean()),
            **{name: float(values.mean()) for name, values in columns.items()},
        }

    def is_separated(self, loss: float, figures: NDArray[np.float64]) -> bool:
        """See `Objective`: the loss is as good as its smallest value and every pair is ranked right."""
        return loss < self._separated_loss and self.report(figures)["accuracy"] == 1.0


def _shapes(pairs: Sequence[Pair], batch_size: int) -> list[Shape]:
    return shapes([pair.length for pair in pairs], [pair.targets for pair in pairs], batch_size)


def _separated_loss(recipe: PreferenceRecipe) -> float:
    """Return the loss under which pairs count as separated: label smoothing keeps its floor above zero."""
    share = recipe.label_smoothing
    floor = -sum(part * float(np.log(part)) for part in (share, 1 - share) if part > 0)
    return floor + SEPARATED_LOSS


def length_statistics(pairs: Sequence[Pair]) -> Json:
    """Return how long both sides' answers are, in tokens, and how often the chosen one is the longer."""
    sides = {
        "chosen": np.array([pair.chosen.targets for pair in pairs]),
        "rejected": np.array([pair.rejected.targets for pair in pairs]),
    }
    statistics: Json = {
        f"{name}_length": {
            "mean": float(lengths.mean()),
            "std": float(lengths.std()),
            "min": int(lengths.min()),
            "max": int(lengths.max()),
        }
        for name, lengths in sides.items()
    }
    return statistics | {"chosen_longer_share": float((sides["chosen"] > sides["rejected"]).mean())}


def reference_key(weights: str, pairs: Sequence[Pair], settings: Json) -> str:
    """Return the name of a cached reference.

    The tokens stand for data, tokenizer, template, system text and cutting at once.

    Args:
        weights: Hash of the reference's weights.
        pairs: In their order.
        settings: Whatever else changes the numbers: dtype, library versions.
    """
    key_hash = sha256(json.dumps([weights, settings], sort_keys=True).encode())
    for pair in pairs:
        for row in (pair.chosen, pair.rejected):
            key_hash.update(json.dumps([row.learned_from, np.asarray(row.tokens).tolist()]).encode())
    return key_hash.hexdigest()


def reference_logps(
    model: Any,
    pairs: Sequence[Pair],
    file: Path,
    *,
    batch_size: int,
    emit: Callable[[Json], None],
) -> Reference:
    """Return the reference's log-probabilities, from their file or computed into it.

    Args:
        model: As its parent left it: called before a save is put in place.
        pairs: In their order.
        file: Cache, named by `reference_key`.
        batch_size: Pairs at a time.
        emit: Takes a row per batch, so that a long pass is not taken for a stall.

    Side effects: writes the file; leaves the model in the mode it was in.
    """
    import mlx.core as mx

    from tools.training.losses import answer_logps
    from tools.training.saves import write_arrays

    if file.is_file():
        loaded: Any = mx.load(str(file))
        return np.array(loaded["reference"])
    values = np.zeros((len(pairs), 2), dtype=np.float32)
    ordered = sorted(range(len(pairs)), key=lambda place: pairs[place].length)
    known = _shapes(pairs, batch_size)
    was_training = model.training
    model.eval()
    for start in range(0, len(ordered), batch_size):
        places = ordered[start : start + batch_size]
        *rows, _ = collate_pairs([pairs[place] for place in places], values[places], known).arrays
        logps = answer_logps(model, *map(mx.array, rows))
        values[places] = np.array(logps).reshape(2, -1).T
        emit({"step": 0, "reference_pairs": start + len(places)})
    model.train(was_training)
    file.parent.mkdir(parents=True, exist_ok=True)
    side = file.with_name(f".{file.name}.part.safetensors")
    write_arrays(side, {"reference": mx.array(values)})
    side.replace(file)
    return values
