"""How the simulated world answers: trainings, and the cases that their weights pass.

Everything is a function of the truth and of what was trained, so that all players meet the same world.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from state.hashing import hash_json
from state.records import Instrument, Json, SplitUse
from tests.simulation.priors import STARTING_LR, STEP_COST, Truth

USUAL_EPOCHS = 2.0
CASE_S = 1.5
"""Seconds to generate and grade one case."""

FIXED_S = 120.0
"""Seconds to load, validate and save."""

HARM_FROM = 1.0
"""Doublings beyond the optimum from which other skills suffer."""

MARGIN = 0.1
"""How much the regular split may lose."""

_REGULAR = 1.4
"""Ability on the regular split: it passes nine of ten."""


@dataclass(frozen=True)
class Weights:
    """What came out of a training, or the base."""

    name: str
    ability: float
    regular: float
    control: float


class Trained(NamedTuple):
    """A training as its log shows it."""

    weights: Weights
    seconds: float
    share: float
    """How much of the iterations were made."""
    stopped: str
    """The word of the guard that ended it; empty where none did."""


class World:
    """One campaign's world."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.base = Weights("base", truth.ability, _REGULAR * truth.width, 0.0)

    def train(self, parent: Weights, instrument: Instrument, recipe: Json, seed: int, since: int = 0) -> Trained:
        """Return what a recipe makes of a parent.

        Args:
            parent: What is trained.
            instrument: By which class.
            recipe: How.
            seed: A longer run of the same seed has the luck of the shorter one.
            since: Iteration that it goes on from: what comes out is the same, and the time is that of the others.
        """
        truth = self.truth
        path = hash_json([parent.name, instrument, {**_dose_keys(recipe), "iters": 0}, seed])[:16]
        rng = _rng(truth.seed, path)
        beyond, reached = self._progress(instrument, recipe)
        ability = parent.ability + truth.gains[instrument] * reached + truth.run_spread * rng.standard_normal()
        harm = max(0.0, beyond - HARM_FROM)
        stopped, share = "", 1.0
        if beyond > truth.tolerance:
            seen = rng.random() < 0.7
            stopped, share = ("collapsed", 0.4) if seen else ("", 1.0)
            ability -= 0.3 if seen else 1.5
        regular = parent.regular - 0.35 * harm - (1.0 if beyond > truth.tolerance else 0.0)
        control = parent.control + (1.2 if instrument == "sft" else 0.8) * reached
        weights = Weights(f"{path}:{recipe['iters']}", ability, regular, control)
        return Trained(weights, self.train_s(instrument, recipe, since) * share, share, stopped)

    def _progress(self, instrument: Instrument, recipe: Json) -> tuple[float, float]:
        """Return how many doublings a recipe is beyond the best dose, and how much of the class's gain it reaches."""
        passes, pull = dose(self.truth, instrument, recipe)
        beyond = passes + pull - self.truth.optimum[instrument]
        taught = beyond - (1 - self.truth.rate_counts) * pull
        return beyond, 1 / (1 + math.exp(-1.6 * (taught + 1)))

    def val_loss(self, instrument: Instrument, recipe: Json) -> float:
        """Return the validation loss after a recipe; 1 before any."""
        beyond, reached = self._progress(instrument, recipe)
        return (1.0 - 0.4 * reached) * (1 + 0.1 * max(0.0, beyond - HARM_FROM))

    def train_s(self, instrument: Instrument, recipe: Json, since: int = 0) -> float:
        """Return how long a training takes, seconds: all of it, or what is added from an iteration on."""
        rows = (int(recipe["iters"]) - since) * int(recipe["batch_size"])
        return FIXED_S + rows / 4 * self.truth.step_s * STEP_COST[instrument]

    @property
    def evaluation_s(self) -> float:
        """Seconds to measure one side on one use of both splits."""
        return 2 * self.truth.cases * CASE_S

    def scores(self, weights: Weights, use: SplitUse) -> dict[str, dict[str, NDArray[np.float64]]]:
        """Return split -> metric -> score of each case; the control is 0/1 in every world."""
        truth = self.truth
        hard = _difficulties(truth.seed, use, truth.cases)
        rng = _rng(truth.seed, f"{weights.name} {use}")
        luck = rng.standard_normal((3, truth.cases)) * truth.luck
        shown = _shown(truth.seed, use, truth.cases) >= truth.capped
        control = weights.control + luck[1] > hard[1]
        main = _scored(weights.ability + luck[0] - hard[0], truth)
        regular = _scored(weights.regular + luck[2] - hard[2], truth)
        return {"main": {"score": main * shown, "control": control.astype(float)}, "regular": {"score": regular}}

    def ceiling(self, use: SplitUse) -> float:
        """Return what the references score on the target."""
        return float((_shown(self.truth.seed, use, self.truth.cases) >= self.truth.capped).mean())

    def deserves(self, weights: Weights) -> bool:
        """Whether weights truly meet the gate."""
        truth = self.truth
        lost = _share(self.base.regular / truth.width) - _share(weights.regular / truth.width)
        return truth.score(weights.ability) >= truth.threshold and lost <= MARGIN


def _scored(ahead: NDArray[np.float64], truth: Truth) -> NDArray[np.float64]:
    """Return scores by how far ability and luck are ahead of each case's difficulty."""
    if not truth.blur:
        return (ahead > 0).astype(float)
    return np.round(special.ndtr(ahead / truth.blur), 3)


def dose(truth: Truth, instrument: Instrument, recipe: Json) -> tuple[float, float]:
    """Return a recipe's dose in doublings of the usual one: by its passes, and by how hard each step pulls."""
    shape = recipe.get("lora_parameters", {})
    epochs = recipe["iters"] * recipe["batch_size"] / truth.rows
    return math.log2(epochs / USUAL_EPOCHS), float(
        math.log2(recipe["learning_rate"] / STARTING_LR[instrument])
        + 0.5 * math.log2(shape.get("scale", 10.0) / 10)
        + 0.25 * math.log2(shape.get("rank", 8) / 8)
        - 0.5 * min(1.0, 5 * shape.get("dropout", 0.0))
    )


def _dose_keys(recipe: Json) -> Json:
    return {key: recipe.get(key) for key in ("learning_rate", "iters", "batch_size", "lora_parameters")}


def _rng(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return np.random.Generator(np.random.PCG64([seed, int.from_bytes(digest, "big")]))


@lru_cache(maxsize=64)
def _difficulties(seed: int, use: SplitUse, cases: int) -> NDArray[np.float64]:
    return _rng(seed, f"difficulty {use}").standard_normal((3, cases))


@lru_cache(maxsize=64)
def _shown(seed: int, use: SplitUse, cases: int) -> NDArray[np.float64]:
    return _rng(seed, f"shown {use}").random(cases)


def _share(ability: float) -> float:
    return 0.5 * (1 + math.erf(ability / math.sqrt(2)))
