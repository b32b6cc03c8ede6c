"""The simulated laboratory's priors: what a campaign's hidden truth may be, drawn from a seed.

Committed before any policy was tuned against them. Abilities are in probit units: a case of difficulty d ~ N(0, 1) is
passed by weights of ability a with chance Φ(a - d), up to the weights' own luck on that case.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy import stats

from state.records import Instrument

Kind = Literal["sft", "preferences", "rollouts", "nothing", "capped", "coarse", "noisy", "dense", "long"]
"""What is true of a campaign: which class of instruments reaches the gate, or why none can be seen to.

capped: the harness cuts answers off, so that not even the gold meets the gate. coarse: a dozen cases, and an effect
smaller than what is asked. noisy: the weights' luck from case to case and from seed to seed is large; SFT helps in half
of these campaigns and nothing in the others. dense: a case scores anywhere between 0 and 1; each class helps in a
quarter of these campaigns, nothing in the last. long: demonstrations or preferences help, and only
by many passes: a higher rate or a larger adapter does a third of what as many more passes do, and all of their harm.
"""

KINDS: tuple[Kind, ...] = get_args(Kind)

INSTRUMENTS: tuple[Instrument, ...] = ("sft", "dpo", "grpo")

BUDGET_H = 24.0
"""Wall time of a campaign."""

STARTING_LR: dict[Instrument, float] = {"sft": 1e-4, "dpo": 1e-5, "grpo": 2e-5}
"""Where the best learning rate lies in the middle of the prior, at two passes, rank 8 and scale 10."""

STEP_COST: dict[Instrument, float] = {"sft": 1.0, "dpo": 2.0, "grpo": 10.0}
"""Time of an iteration against one of SFT."""

_HELPS: dict[Kind, Instrument] = {"sft": "sft", "preferences": "dpo", "rollouts": "grpo"}

_CASES = (80, 120, 200)
_COARSE_CASES = (10, 12, 16)

_BLUR = 0.8
"""How far, in the unit of difficulty, a dense score spreads from 0 to 1 around the ability that just passes a case."""

_THIRD = 1 / 3
_ROWS = (240, 400, 800)


@dataclass(frozen=True)
class Truth:
    """What nobody in the simulation may look at."""

    kind: Kind
    seed: int
    cases: int
    """Of each of the two splits and of each of their two uses."""
    base: float
    """The base's true score on the target."""
    threshold: float
    """What the gate asks of it."""
    gains: dict[Instrument, float]
    """Ability that an instrument adds at its best dose."""
    optimum: dict[Instrument, float]
    """Doublings of the usual dose at which it does so."""
    tolerance: float
    """Doublings beyond the optimum at which training collapses."""
    luck: float
    """Standard deviation of the weights' own luck on a case."""
    run_spread: float
    """Standard deviation of ability from one seed to the next."""
    capped: float
    """Share of the cases whose answer the harness cannot show."""
    rows: int
    step_s: float
    """Seconds of one SFT iteration of four rows."""
    blur: float = 0.0
    """Zero: a case is passed or not; else it scores Φ((ability - difficulty) / blur)."""
    rate_counts: float = 1.0
    """Doublings of passes that a doubling of rate, scale or rank is worth."""

    @property
    def is_promotable(self) -> bool:
        """Whether some instrument meets the gate at its best dose."""
        best = max(self.gains.values())
        return self.score(self.ability + best) >= self.threshold

    @property
    def ability(self) -> float:
        """The base's, on the target."""
        return float(stats.norm.ppf(self.base)) * self.width

    @property
    def width(self) -> float:
        """Standard deviation of difficulty, luck and blur together."""
        return float(np.sqrt(1.0 + self.luck**2 + self.blur**2))

    def score(self, ability: float) -> float:
        """Return the true score that weights of an ability have through this harness."""
        return float(stats.norm.cdf(ability / self.width)) * (1 - self.capped)


def draw(kind: Kind, seed: int) -> Truth:
    """Return one campaign's truth."""
    rng = np.random.Generator(np.random.PCG64([KINDS.index(kind), seed]))
    cases = int(rng.choice(_COARSE_CASES if kind == "coarse" else _CASES))
    base = float(rng.uniform(0.3, 0.55))
    threshold = base + float(rng.uniform(0.12, 0.25))
    luck = float(rng.uniform(0.7, 1.2) if kind == "noisy" else rng.uniform(0.1, 0.4))
    run_spread = float(rng.uniform(0.1, 0.2) if kind == "noisy" else rng.uniform(0.02, 0.08))
    blur = _BLUR if kind == "dense" else 0.0
    width = float(np.sqrt(1.0 + luck**2 + blur**2))
    reached = min(0.97, threshold + float(rng.uniform(0.08, 0.2)))
    enough = float(stats.norm.ppf(reached) - stats.norm.ppf(base)) * width
    gains = {name: float(rng.normal(0.0, 0.03)) for name in INSTRUMENTS}
    helps_in_noise = bool(rng.random() < 0.5)
    if kind in _HELPS:
        gains[_HELPS[kind]] = enough
    if kind == "capped" or (kind == "noisy" and helps_in_noise):
        gains["sft"] = enough
    if kind == "coarse":
        part = threshold - float(rng.uniform(0.03, 0.08))
        gains["sft"] = float(stats.norm.ppf(part) - stats.norm.ppf(base)) * width
    capped = 1 - (threshold - float(rng.uniform(0.02, 0.15))) if kind == "capped" else 0.0
    optimum = {name: float(rng.normal(0.5, 1.0)) for name in INSTRUMENTS}
    if kind == "dense" and (helper := int(rng.integers(4))) < len(INSTRUMENTS):
        gains[INSTRUMENTS[helper]] = enough
    if kind == "long":
        name: Instrument = ("sft", "dpo")[int(rng.integers(2))]
        gains[name], optimum[name] = enough, float(rng.uniform(1.0, 1.8))
    return Truth(
        kind=kind,
        seed=seed,
        cases=cases,
        base=base,
        threshold=threshold,
        gains=gains,
        optimum=optimum,
        tolerance=float(rng.uniform(2.0, 4.0)),
        luck=luck,
        run_spread=run_spread,
        capped=capped,
        rows=int(rng.choice(_ROWS)),
        step_s=float(rng.uniform(3.0, 8.0)),
        blur=blur,
        rate_counts=_THIRD if kind == "long" else 1.0,
    )
