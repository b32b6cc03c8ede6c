"""What people run instead: keep-if-better, random search, Optuna's TPE, greedy, successive halving, and a bandit.

Written to be fair, and frozen before Vigil's search was changed again: what is tuned afterwards is Vigil's alone. They
train in the same world, under the same guard against collapse, with the same classes and the usual ranges, and start
from each class's usual settings, no first run of rollouts longer than Vigil's own. The same census looks at the harness
and the base before anything is trained, and ends the same campaigns. A recipe that differs from an earlier one by more
iterations alone goes on from its state and costs the added steps. Each may promote by either of two judges:

number: as such loops are written. All cases are one evaluation set; what reaches the gate's numbers is promoted.
gate: the search looks at half of the cases and whatever reaches the numbers there is put to Vigil's own gate on the
    other half, at most three times, so that only the search differs from Vigil's.

A baseline stops after `patience` trainings without a new best, once it has seen each class and, where it halves, once
its schedule is done; what was not seen is tried before it stops. Where nothing can meet the gate that is all that ends
it before the budget does, so the patience of each player is the one with the fewest hours to the right verdict
(`PATIENCE`); any other can be asked for, and a long one misses less.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from policies.comparison import CaseTable
from policies.gate import judge_gate
from state.goal import Gate
from state.hashing import hash_json
from state.records import Instrument, Json, Side, SplitUse
from tests.policies.rehearsal import ACT_S
from tests.simulation.outcome import Outcome
from tests.simulation.priors import BUDGET_H, INSTRUMENTS, STARTING_LR, Truth
from tests.simulation.vigil import census, goal_of
from tests.simulation.world import MARGIN, Weights, World

Judge = Literal["number", "gate"]

_EPOCHS: dict[Instrument, tuple[float, float]] = {"sft": (0.5, 8.0), "dpo": (0.5, 8.0), "grpo": (0.5, 4.0)}
_RANKS = (4, 8, 16, 32)
_SCALES = (5.0, 10.0, 20.0)

_PER_ROW = 0.25
"""Iterations for each row, of a batch of four: one pass."""

_FIRST: dict[Instrument, tuple[int, int]] = {"sft": (120, 1000), "dpo": (120, 1000), "grpo": (100, 100)}
"""Fewest and most iterations of a first run, between which it takes one pass: as Vigil's were when this was frozen."""

PATIENCE: dict[tuple[str, Judge], int] = {
    ("keep if better", "number"): 6,
    ("keep if better", "gate"): 6,
    ("random search", "number"): 4,
    ("random search", "gate"): 1,
    ("Optuna TPE", "number"): 6,
    ("Optuna TPE", "gate"): 6,
    ("greedy", "number"): 1,
    ("greedy", "gate"): 1,
    ("halving", "number"): 1,
    ("halving", "gate"): 1,
    ("halving then climb", "number"): 1,
    ("halving then climb", "gate"): 1,
    ("bandit", "number"): 1,
    ("bandit", "gate"): 2,
}
"""Trainings without a new best after which each stops: the one of 1, 2, 3, 4 and 6 with the fewest mean hours on tuning
seeds 0 to 39 of each kind, which no report uses."""


class Trial(NamedTuple):
    """One proposal and what became of it."""

    instrument: Instrument
    recipe: Json
    value: float
    """What the loop maximises."""
    number: int
    """Seed of its training."""


class Proposer(Protocol):
    """What chooses the next training."""

    schedule: int
    """Trainings that it makes whatever comes of them."""

    def ask(self, done: list[Trial]) -> tuple[Instrument, Json] | None:
        """Return the next class and recipe; None: nothing is left to try."""

    def tell(self, value: float) -> None:
        """Hear how the last one did."""


def recipe_of(truth: Truth, instrument: Instrument, doublings: float, epochs: float, rank: int, scale: float) -> Json:  # noqa: PLR0917 - the numbers of a recipe
    """Return a recipe; the learning rate in doublings of the class's usual one."""
    return {
        "learning_rate": STARTING_LR[instrument] * 2**doublings,
        "iters": max(20, round(epochs * truth.rows / 4)),
        "batch_size": 4,
        "lora_parameters": {"rank": rank, "scale": scale, "dropout": 0.0},
    }


def first_of(truth: Truth, name: Instrument) -> tuple[Instrument, Json]:
    """Return a class's usual settings."""
    least, most = _FIRST[name]
    recipe = recipe_of(truth, name, 0, 2, 8, 10.0)
    return name, {**recipe, "iters": min(most, max(least, math.ceil(truth.rows * _PER_ROW)))}


class KeepIfBetter:
    """Change one thing of the best so far; every third proposal tries another class from its usual settings."""

    schedule = 0

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.rng = np.random.Generator(np.random.PCG64([truth.seed, 1]))

    def ask(self, done: list[Trial]) -> tuple[Instrument, Json]:
        """Return a mutation of the best."""
        tried = [trial.instrument for trial in done]
        if not done:
            return first_of(self.truth, "sft")
        untried = [name for name in INSTRUMENTS if name not in tried]
        if untried and len(done) % 3 == 0:
            return first_of(self.truth, untried[0])
        best = max(done, key=lambda trial: trial.value)
        recipe = dict(best.recipe)
        match int(self.rng.integers(4)):
            case 0:
                recipe["learning_rate"] *= float(self.rng.choice([0.5, 2.0]))
            case 1:
                low, high = (bound * self.truth.rows / 4 for bound in _EPOCHS[best.instrument])
                recipe["iters"] = round(float(np.clip(recipe["iters"] * self.rng.choice([0.5, 2.0]), low, high)))
            case 2:
                recipe["lora_parameters"] = {**recipe["lora_parameters"], "rank": int(self.rng.choice(_RANKS))}
            case _:
                recipe["lora_parameters"] = {**recipe["lora_parameters"], "scale": float(self.rng.choice(_SCALES))}
        return best.instrument, recipe

    def tell(self, value: float) -> None:
        """Hear nothing: the trials are the memory."""


class RandomSearch:
    """A class and a recipe drawn anew each time."""

    schedule = 0

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.rng = np.random.Generator(np.random.PCG64([truth.seed, 2]))

    def ask(self, done: list[Trial]) -> tuple[Instrument, Json]:
        """Return any class, any recipe of the usual ranges; each class's usual settings first."""
        if len(done) < len(INSTRUMENTS):
            return first_of(self.truth, INSTRUMENTS[len(done)])
        name = INSTRUMENTS[int(self.rng.integers(len(INSTRUMENTS)))]
        low, high = _EPOCHS[name]
        epochs = float(np.exp(self.rng.uniform(np.log(low), np.log(high))))
        rank, scale = int(self.rng.choice(_RANKS)), float(self.rng.choice(_SCALES))
        return name, recipe_of(self.truth, name, float(self.rng.uniform(-3, 3)), epochs, rank, scale)

    def tell(self, value: float) -> None:
        """Hear nothing."""


class OptunaTPE:
    """One study over class and numbers, each class's usual settings enqueued first."""

    schedule = 0

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(seed=truth.seed, n_startup_trials=5)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self.trial: Any = None
        for name in INSTRUMENTS:
            epochs = first_of(truth, name)[1]["iters"] * 4 / truth.rows
            self.study.enqueue_trial({"class": name, "doublings": 0.0, "epochs": epochs, "rank": 8, "scale": 10.0})

    def ask(self, done: list[Trial]) -> tuple[Instrument, Json]:
        """Return the study's next trial."""
        trial = self.trial = self.study.ask()
        name = cast("Instrument", trial.suggest_categorical("class", list(INSTRUMENTS)))
        doublings = trial.suggest_float("doublings", -3.0, 3.0)
        epochs = min(trial.suggest_float("epochs", 0.25, 8.0, log=True), _EPOCHS[name][1])
        rank = trial.suggest_categorical("rank", list(_RANKS))
        scale = trial.suggest_categorical("scale", list(_SCALES))
        return name, recipe_of(self.truth, name, doublings, epochs, rank, scale)

    def tell(self, value: float) -> None:
        """Tell the study."""
        self.study.tell(self.trial, value)


class Greedy:
    """Each class once, then climb from the best: the move that helped again, else the next."""

    schedule = len(INSTRUMENTS)

    def __init__(self, truth: Truth) -> None:
        self.truth = truth

    def ask(self, done: list[Trial]) -> tuple[Instrument, Json] | None:
        """Return a class's first, or a step up from the best."""
        if len(done) < self.schedule:
            return first_of(self.truth, INSTRUMENTS[len(done)])
        return climbed(self.truth, done, INSTRUMENTS)

    def tell(self, value: float) -> None:
        """Hear nothing."""


def climbed(truth: Truth, done: list[Trial], classes: Sequence[Instrument]) -> tuple[Instrument, Json] | None:
    """Return the first step from the best trial of some classes that was not made: longer, faster, gentler, wider."""
    best = max((trial for trial in done if trial.instrument in classes), key=lambda trial: trial.value)
    recipe, shape = best.recipe, best.recipe["lora_parameters"]
    most = int(_EPOCHS[best.instrument][1] * truth.rows * _PER_ROW)
    steps = (
        {**recipe, "iters": min(most, 2 * recipe["iters"])},
        {**recipe, "learning_rate": 2 * recipe["learning_rate"]},
        {**recipe, "learning_rate": recipe["learning_rate"] / 2},
        {**recipe, "lora_parameters": {**shape, "rank": min(32, 2 * shape["rank"])}},
    )
    tried = [trial.recipe for trial in done if trial.instrument == best.instrument]
    return next(((best.instrument, step) for step in steps if step not in tried), None)


class Halving:
    """Each class at its usual rate and twice it, half as long; the better half goes on twice as long, and again."""

    schedule = 10
    """Six at half the usual length, three at the usual one, one at twice that."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth

    def ask(self, done: list[Trial]) -> tuple[Instrument, Json] | None:
        """Return the next of the round."""
        rounds = ((0, 6), (6, 3), (9, 1))
        if len(done) < rounds[0][1]:
            name, recipe = first_of(self.truth, INSTRUMENTS[len(done) // 2])
            rate = recipe["learning_rate"] * (1 + len(done) % 2)
            return name, {**recipe, "learning_rate": rate, "iters": max(20, recipe["iters"] // 2)}
        for (before, of), (start, count) in pairwise(rounds):
            if start <= len(done) < start + count:
                best = sorted(done[before : before + of], key=lambda trial: -trial.value)[len(done) - start]
                return best.instrument, {**best.recipe, "iters": 2 * best.recipe["iters"]}
        return None

    def tell(self, value: float) -> None:
        """Hear nothing."""


class HalvingThenClimb:
    """Each class half as long as usual; the better two as long as usual; then climb from the best."""

    schedule = len(INSTRUMENTS) + 2

    def __init__(self, truth: Truth) -> None:
        self.truth = truth

    def ask(self, done: list[Trial]) -> tuple[Instrument, Json] | None:
        """Return the next of the round, then a step up from the best."""
        if len(done) < len(INSTRUMENTS):
            name, recipe = first_of(self.truth, INSTRUMENTS[len(done)])
            return name, {**recipe, "iters": recipe["iters"] // 2}
        if len(done) < self.schedule:
            best = sorted(done[: len(INSTRUMENTS)], key=lambda trial: -trial.value)[len(done) - len(INSTRUMENTS)]
            return best.instrument, {**best.recipe, "iters": 2 * best.recipe["iters"]}
        return climbed(self.truth, done, INSTRUMENTS)

    def tell(self, value: float) -> None:
        """Hear nothing."""


class Bandit:
    """Each class once, then a step of the class whose best, with what is not known of it, promises most (UCB1)."""

    schedule = len(INSTRUMENTS)
    _WIDTH = 0.05
    """What is not known of a class tried once, in the unit of the score."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth

    def ask(self, done: list[Trial]) -> tuple[Instrument, Json] | None:
        """Return a class's first, or a step up from the best of the most promising class."""
        if len(done) < self.schedule:
            return first_of(self.truth, INSTRUMENTS[len(done)])

        def promise(name: Instrument) -> float:
            values = [trial.value for trial in done if trial.instrument == name]
            return max(values) + self._WIDTH * math.sqrt(2 * math.log(len(done)) / len(values))

        steps = (climbed(self.truth, done, [name]) for name in sorted(INSTRUMENTS, key=promise, reverse=True))
        return next((step for step in steps if step is not None), None)

    def tell(self, value: float) -> None:
        """Hear nothing."""


BASELINES: dict[str, Callable[[Truth], Proposer]] = {
    "keep if better": KeepIfBetter,
    "random search": RandomSearch,
    "Optuna TPE": OptunaTPE,
    "greedy": Greedy,
    "halving": Halving,
    "halving then climb": HalvingThenClimb,
    "bandit": Bandit,
}


def play(truth: Truth, name: str, judge: Judge, patience: int | None = None) -> Outcome:
    """Run one baseline to its end.

    Args:
        truth: The campaign's.
        name: One of `BASELINES`.
        judge: How it promotes.
        patience: Trainings without a new best before it stops; its own of `PATIENCE` when left out.
    """
    world, proposer = World(truth), BASELINES[name](truth)
    most = PATIENCE[name, judge] if patience is None else patience
    uses: tuple[SplitUse, ...] = ("selection", "confirmation") if judge == "number" else ("selection",)
    is_ended, census_s = census(truth)
    if is_ended:
        return Outcome.of(world, None, census_s / 3600, 0, "hard_stop")
    base = _means(world, world.base, uses)
    # The census measured the base on the selection cases.
    left_s = BUDGET_H * 3600 - census_s - (world.evaluation_s + ACT_S) * (len(uses) - 1)
    done: list[Trial] = []
    opened, idle = 0, 0
    while True:
        asked = proposer.ask(done) if idle < most or len(done) < proposer.schedule else None
        unseen = [name for name in INSTRUMENTS if all(trial.instrument != name for trial in done)]
        if asked is None and not unseen:
            return Outcome.of(world, None, BUDGET_H - left_s / 3600, len(done), "patience")
        instrument, recipe = asked or first_of(truth, unseen[0])
        since, number = _begun(done, instrument, recipe)
        found = world.train(world.base, instrument, recipe, number, since)
        left_s -= found.seconds + ACT_S + (world.evaluation_s + ACT_S) * len(uses)
        if left_s < 0:
            return Outcome.of(world, None, BUDGET_H, len(done), "budget.gone")
        main, regular = _means(world, found.weights, uses)
        kept = regular >= base[1] - MARGIN
        value = main if kept else main - 1.0
        is_better = value > max((trial.value for trial in done), default=base[0])
        idle = 0 if is_better or len(done) < proposer.schedule else idle + 1
        if asked is not None:
            proposer.tell(value)
        done.append(Trial(instrument, recipe, value, number))
        if not (kept and main >= truth.threshold):
            continue
        hours = BUDGET_H - left_s / 3600
        if judge == "number":
            return Outcome.of(world, found.weights, hours, len(done), "goal.reached")
        gate = goal_of(truth).gate
        if opened < gate.max_confirmations:
            left_s -= (world.evaluation_s + ACT_S) * (2 if opened == 0 else 1)
            opened += 1
            if _holds(world, gate, found.weights):
                return Outcome.of(world, found.weights, BUDGET_H - left_s / 3600, len(done), "goal.reached")


def _begun(done: list[Trial], instrument: Instrument, recipe: Json) -> tuple[int, int]:
    """Return iteration and seed of the longest trial that a recipe goes on from; zero and a new seed for none."""
    rest = {**recipe, "iters": 0}
    shorter = [
        (int(trial.recipe["iters"]), trial.number)
        for trial in done
        if trial.instrument == instrument and {**trial.recipe, "iters": 0} == rest
        if trial.recipe["iters"] < recipe["iters"]
    ]
    return max(shorter, default=(0, int(hash_json([recipe, len(done)])[:6], 16)))


def _means(world: World, weights: Weights, uses: tuple[SplitUse, ...]) -> tuple[float, float]:
    """Return the target's and the regular split's mean over the cases that the player looks at."""
    found = [world.scores(weights, use) for use in uses]
    return (
        float(np.mean([part["main"]["score"].mean() for part in found])),
        float(np.mean([part["regular"]["score"].mean() for part in found])),
    )


def _holds(world: World, gate: Gate, weights: Weights) -> bool:
    """Put weights to the gate on the confirmation cases."""
    sides: dict[Side, Weights] = {"base": world.base, "parent": world.base, "candidate": weights}
    cells: Any = {side: _cells(world.scores(each, "confirmation")) for side, each in sides.items()}
    return judge_gate(gate, CaseTable.model_construct(cells=cells)).holds


def _cells(scores: dict[str, dict[str, NDArray[np.float64]]]) -> Json:
    return {
        split: {
            "confirmation": {
                f"{number:03d}": {name: float(column[number]) for name, column in metrics.items()}
                for number in range(len(metrics["score"]))
            }
        }
        for split, metrics in scores.items()
    }
