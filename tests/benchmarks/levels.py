"""How often a gate condition on a dense score holds where it should not, and where it should: level and power.

`python -m tests.benchmarks.levels` prints the table that is kept in runbooks/levels.md, a row a null world and number
of cases. Each world has the very mean that its condition asks for, so that "holds" is a false acceptance. A cell fails
where the one-sided lower 99 % limit of its rate is above the nominal level, or the rate above 1.3 times it.
Power is that of the same world moved by a distance; beside it stands the most that any test could have which keeps its
level where losses as large as the whole scale are as rare as they can be without showing.
"""

import argparse
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from policies import power, significance
from policies.comparison import CaseTable, Noise
from policies.gate import judge_condition
from policies.power import cases_needed
from state.goal import Condition, Gate
from state.records import Side

Sample = NDArray[np.float64]
"""Shape (n,): scores or paired differences."""

Draw = Callable[[np.random.Generator, int], Sample]
"""(random numbers, n) -> n scores or paired differences."""

SIZES = (12, 20, 40, 80, 200, 400)
LEVELS = (0.05, 0.05 / 3)
REPLICATES = 2_000
MANY = 20_000
"""Replicates where the nominal level is below 0.05."""

MOST_OF_NOMINAL = 1.3
RESAMPLES, IMAGINARY = 4_000, 0.25
"""Of the replaced bootstrap: resamples, and how far from the mean its two imaginary cases lay."""

LIMIT = float(stats.norm.ppf(0.99))


@dataclass(frozen=True)
class World:
    """A null world: what is drawn, and the bound that its mean lies at exactly.

    Args:
        name: What it is called in the table.
        draw: One sample.
        bound: Its mean, which is what the condition asks to be exceeded.
        is_paired: Differences in [-1, 1]; else scores in [0, 1].
    """

    name: str
    draw: Draw
    bound: float = 0.0
    is_paired: bool = True


def _mixed(rng: np.random.Generator, n: int, share: float, rare: float, usual: Sample) -> Sample:
    return np.where(rng.random(n) < share, rare, np.clip(usual, -1, 1))


def _rare_losses(share: float, noise: float) -> Draw:
    gain = share / (1 - share)
    return lambda rng, n: _mixed(rng, n, share, -1.0, rng.normal(gain, noise, n))


def _at_margin(margin: float, noise: float) -> Draw:
    return lambda rng, n: _mixed(rng, n, margin, -1.0, rng.normal(0, noise, n))


def _near_binary(mean: float) -> Draw:
    high, low = 0.98, 0.02
    share = (mean - low) / (high - low)
    return lambda rng, n: np.where(rng.random(n) < share, high, low) + rng.uniform(-0.01, 0.01, n)


def _ties(share: float) -> Draw:
    def draw(rng: np.random.Generator, n: int) -> Sample:
        place = rng.random(n)
        return np.where(place < 5 * share / 6, 0.1, np.where(place < share, -0.5, 0.0))

    return draw


def _outliers(rng: np.random.Generator, n: int) -> Sample:
    return _mixed(rng, n, 0.05, -0.4, rng.normal(0.4 * 0.05 / 0.95, 0.05, n))


def _skewed(sign: float) -> Draw:
    # A truncated exponential has this mean: its end is far enough out for the scale not to be met.
    scale, end = 0.15, 1.0
    mean = scale - end / math.expm1(end / scale)
    return lambda rng, n: sign * (mean + scale * np.log1p(-rng.random(n) * -math.expm1(-end / scale)))


def _bimodal(rng: np.random.Generator, n: int) -> Sample:
    return np.where(rng.random(n) < 0.9, 0.06, -0.54) + rng.uniform(-0.05, 0.05, n)


def _normal(spread: float) -> Draw:
    return lambda rng, n: np.clip(rng.normal(0, spread, n), -1, 1)


WORLDS = (
    World("no worse at a margin of 0.05, whole losses", _at_margin(0.05, 0.0), -0.05),
    World("no worse at a margin of 0.1, whole losses and noise", _at_margin(0.1, 0.1), -0.1),
    World("value below 0.95, near-binary", _near_binary(0.95), 0.95, is_paired=False),
    World("value below 0.8, near-binary", _near_binary(0.8), 0.8, is_paired=False),
    World("value below 0.5, near-binary", _near_binary(0.5), 0.5, is_paired=False),
    World("no gain, 2 % whole losses", _rare_losses(0.02, 0.02)),
    World("no gain, 5 % whole losses in noise", _rare_losses(0.05, 0.25)),
    World("no gain, ties", _ties(0.2)),
    World("no gain, outliers", _outliers),
    World("no gain, skewed to losses", _skewed(1.0)),
    World("no gain, skewed to gains", _skewed(-1.0)),
    World("no gain, bimodal", _bimodal),
    World("no gain, normal with sd 0.1", _normal(0.1)),
    World("no gain, normal with sd 0.25", _normal(0.25)),
)


def holds(world: World, sample: Sample, alpha: float) -> bool:
    """Return whether a condition that asks for the world's bound holds on a sample.

    The lower bound is at or above a number where the quantile there is at or below the one asked, which takes a tenth
    of the time that finding the bound takes; a test holds the two against each other.
    """
    points, counts = np.unique(sample, return_counts=True)
    floor = -1.0 if world.is_paired else 0.0
    return all(
        _passes(part, world.bound) for part in significance.bound_parts(points, counts.astype(np.float64), alpha, floor)
    )


def _passes(part: significance.Weighted, bound: float) -> bool:
    distances = part.points - bound
    if float(part.shapes @ distances) <= 0:
        return False
    return float(distances.min()) >= 0 or significance.signed_root(distances, part.shapes)[2] <= part.wanted


def draws(world: World, n: int, replicates: int, *, seed: int, shift: float = 0.0) -> Iterator[Sample]:
    """Yield samples of a world moved up by `shift`."""
    rng = np.random.Generator(np.random.PCG64([seed, n]))
    return (np.minimum(world.draw(rng, n) + shift, 1.0) for _ in range(replicates))


def rate(world: World, n: int, alpha: float, replicates: int, *, seed: int, shift: float = 0.0) -> float:
    """Return how often the condition holds, its world moved up by `shift`."""
    return sum(holds(world, each, alpha) for each in draws(world, n, replicates, seed=seed, shift=shift)) / replicates


def replaced_rate(world: World, n: int, alpha: float, replicates: int, *, seed: int, shift: float = 0.0) -> float:
    """Return the same of the percentile bootstrap that stood here before (d6f2c95), with its two imaginary cases."""
    rng = np.random.Generator(np.random.PCG64(0))
    drawn = rng.multinomial(n + 2, np.full(n + 2, 1 / (n + 2)), size=RESAMPLES) / (n + 2)
    held = 0
    samples = draws(world, n, replicates, seed=seed, shift=shift)
    while part := list(itertools.islice(samples, 200)):
        scores = np.array(part)
        center = scores.mean(axis=1, keepdims=True)
        scores = np.concatenate([scores, center - IMAGINARY, center + IMAGINARY], axis=1)
        held += int((np.quantile(drawn @ scores.T, alpha, axis=0) >= world.bound).sum())
    return held / replicates


def is_kept(found: float, alpha: float, replicates: int) -> bool:
    """Return whether a rate is one that a test of its nominal level may show."""
    error = math.sqrt(found * (1 - found) / replicates)
    return found - LIMIT * error <= alpha and found <= MOST_OF_NOMINAL * alpha


def most_power(gain: float, n: int, alpha: float) -> float:
    """Return the most power of any test that keeps its level against losses of the whole scale that do not show.

    A world that gains `gain` but for a share of whole losses which makes its mean 0 looks the same while no case shows
    a loss, so that a valid test accepts no more often than alpha over the probability of that.
    """
    return min(1.0, alpha / (1 - gain / (1 + gain)) ** n)


def rows(replicates: int, seed: int, sizes: tuple[int, ...], levels: tuple[float, ...]) -> Iterator[str]:
    """Yield the table's lines."""
    yield (
        "| null world | cases | level asked | false acceptance | kept | power at 2.5 sd of the mean "
        "| no valid test above | bootstrap: false acceptance | its power | ours at most 10 points below |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for world, n, alpha in itertools.product(WORLDS, sizes, levels):
        count = replicates if alpha >= 0.05 else replicates * MANY // REPLICATES
        found = rate(world, n, alpha, count, seed=seed)
        spread = float(np.std(world.draw(np.random.Generator(np.random.PCG64(seed)), 20_000)))
        gain = 2.5 * spread / math.sqrt(n)
        some = max(200, replicates // 2)
        ours = rate(world, n, alpha, some, seed=seed + 1, shift=gain)
        before = replaced_rate(world, n, alpha, replicates, seed=seed)
        theirs = replaced_rate(world, n, alpha, some, seed=seed + 1, shift=gain)
        kept = ["yes" if is_kept(each, alpha, of) else "**no**" for each, of in ((found, count), (before, replicates))]
        below = "" if kept[1] != "yes" else "yes" if ours >= theirs - 0.1 else f"**{theirs - ours:.0%}**"
        bound = f"{most_power(gain, n, alpha):.0%}" if world.is_paired else ""
        yield (
            f"| {world.name} | {n} | {alpha:.4f} | {found:.4f} | {kept[0]} | {ours:.0%} | {bound} "
            f"| {before:.4f} ({kept[1]}) | {theirs:.0%} | {below} |"
        )


@dataclass(frozen=True)
class Told:
    """A condition, what is measured before it is asked how many cases would tell, and the world that is assumed then.

    Args:
        name: What it is called in the table.
        condition: Of the gate; it judges `s.m`.
        draw: (random numbers, n) -> scores of the start and of the candidate at the truth that is assumed.
        openings: Of the confirmation cases, which share the level.
        delta: `gate.meaningful_delta`.
        ceiling: What the references score.
        noise: What the order of 400 cases moves a mean by.
        has_run: A candidate was measured before, so that the variation is known; else the start alone.
    """

    name: str
    condition: Condition
    draw: Callable[[np.random.Generator, int], tuple[Sample, Sample]]
    openings: int = 3
    delta: float | None = None
    ceiling: float | None = None
    noise: float = 0.0
    has_run: bool = False

    def table(self, rng: np.random.Generator, n: int, *, has_run: bool = True) -> CaseTable:
        """Return a draw as what was measured."""
        start, candidate = self.draw(rng, n)
        sides: dict[Side, Sample] = {"parent": start, "base": start, **({"candidate": candidate} if has_run else {})}
        cells: dict[Side, Any] = {
            side: {"s": {"selection": {f"{case:06d}": {"m": float(score)} for case, score in enumerate(scores)}}}
            for side, scores in sides.items()
        }
        noise = {"s.m": Noise(sd=self.noise, n=400)} if self.noise else {}
        return CaseTable.model_construct(cells=cells, means={}, changes={}, noise=noise)


def _rates(before: float, after: float) -> Callable[[np.random.Generator, int], tuple[Sample, Sample]]:
    def draw(rng: np.random.Generator, n: int) -> tuple[Sample, Sample]:
        return np.where(rng.random(n) < before, 1.0, 0.0), np.where(rng.random(n) < after, 1.0, 0.0)

    return draw


def _flips(gained: float, lost: float) -> Callable[[np.random.Generator, int], tuple[Sample, Sample]]:
    def draw(rng: np.random.Generator, n: int) -> tuple[Sample, Sample]:
        place = rng.random(n)
        other = (rng.random(n) < 0.5) * 1.0
        start = np.where(place < gained, 0.0, np.where(place < gained + lost, 1.0, other))
        return start, np.where(place < gained + lost, 1 - start, start)

    return draw


def _shares(gain: float, noise: float, losses: float) -> Callable[[np.random.Generator, int], tuple[Sample, Sample]]:
    def draw(rng: np.random.Generator, n: int) -> tuple[Sample, Sample]:
        start = rng.uniform(0.4, 0.6, n)
        moved = np.clip(start + gain + rng.normal(0, noise, n), 0.0, 1.0)
        return start, np.where(rng.random(n) < losses, 0.0, moved)

    return draw


def _dense_value(rng: np.random.Generator, n: int) -> tuple[Sample, Sample]:
    # Moved from 0.5 to 0.8: three of five answers become perfect, as is assumed of a start that was measured.
    start = rng.beta(2, 2, n)
    return start, np.where(rng.random(n) < 0.6, 1.0, rng.beta(2, 2, n))


TOLD = (
    Told("0/1 value, half the gap beyond 0.8", Condition(metric="s.m", min=0.8), _rates(0.6, 0.9)),
    Told(
        "0/1 value, the references' 0.86 above 0.8", Condition(metric="s.m", min=0.8), _rates(0.6, 0.86), 1, 0.2, 0.86
    ),
    Told("0/1 value at most 0.15", Condition(metric="s.m", max=0.15), _rates(0.4, 0.05), delta=0.1),
    Told("dense value, 0.1 beyond 0.7", Condition(metric="s.m", min=0.7), _dense_value, delta=0.1),
    Told(
        "0/1 no worse, margin 0.05",
        Condition(metric="s.m", against="parent", min=-0.05),
        _flips(0.05, 0.05),
        has_run=True,
    ),
    Told(
        "0/1 no worse, margin 0.08, in half precision",
        Condition(metric="s.m", against="parent", min=-0.08),
        _flips(0.05, 0.05),
        noise=0.02,
        has_run=True,
    ),
    Told(
        "dense no worse, margin 0.05, rare whole losses",
        Condition(metric="s.m", against="parent", min=-0.05),
        _shares(0.005, 0.1, 0.01),
        has_run=True,
    ),
    Told(
        "dense gain of 0.1, one of two metrics",
        Condition(any_of=("s.m", "s.other"), against="parent", min=0.1),
        _shares(0.15, 0.15, 0.0),
        delta=0.05,
        has_run=True,
    ),
    Told(
        "dense gain of 0.05, where whole losses that do not show decide",
        Condition(metric="s.m", against="parent", min=0.0, test="superiority"),
        _shares(0.05, 0.1, 0.0),
        openings=1,
        delta=0.05,
        has_run=True,
    ),
    Told(
        "0/1 more wins than losses, in half precision",
        Condition(metric="s.m", against="parent", min=0.0, test="superiority"),
        _flips(0.2, 0.1),
        delta=0.1,
        noise=0.02,
        has_run=True,
    ),
)
"""Worlds in which "N cases would tell" is held against campaigns."""

PILOT = 40_000
"""Cases on which the start, or an earlier run, was measured; many, so that what is assumed is what is drawn."""


def told_power(told: Told, replicates: int, *, seed: int) -> tuple[int, float]:
    """Return how many cases are said to tell, and how often so many do."""
    rng = np.random.Generator(np.random.PCG64(seed))
    gate = Gate(conditions=(told.condition,), max_confirmations=told.openings, meaningful_delta=told.delta)
    alpha = gate.confirmation_alpha
    needed = cases_needed(
        told.condition,
        "s.m",
        alpha / len(told.condition.metrics),
        cases=told.table(rng, PILOT, has_run=told.has_run),
        delta=told.delta,
        ceiling=told.ceiling,
    )
    if needed is None or needed.most is None:
        raise ValueError(f"no number of cases is said to tell {told.name}")
    n = needed.most
    held = [
        judge_condition(told.condition, told.table(rng, n), alpha, use="selection").holds for _ in range(replicates)
    ]
    return n, sum(held) / replicates


def told_rows(replicates: int, seed: int) -> Iterator[str]:
    """Yield a table of how often the cases said to tell do."""
    yield "| condition | openings | cases said to tell | how often they do |"
    yield "| --- | --- | --- | --- |"
    for told in TOLD:
        n, found = told_power(told, replicates, seed=seed)
        yield f"| {told.name} | {told.openings} | {n} | {found:.1%} |"


DISTANCES = (0.02, 0.05, 0.1, 0.2)


def _worlds_by_spread(alpha: float, distance: float) -> Iterator[tuple[str, power._World, bool]]:
    """Yield what is asked, the truth, and whether scores are 0/1; the truth lies a distance above what is asked."""
    normal = special.ndtri((np.arange(400) + 0.5) / 400)
    for spread in (0.0, 0.05, 0.1, 0.25, 0.5):
        apart = np.clip(spread * normal, -1, 1)
        yield f"no worse, differences of sd {spread}", power._World(power._sample(apart), -distance, -1.0, alpha), False
        gain = np.clip(apart + distance, -1, 1)
        yield f"a gain, differences of sd {spread}", power._World(power._sample(gain), 0.0, -1.0, alpha), False
    for share in (0.05, 0.1, 0.2, 0.4):
        kept, moved = power._changes(share, 0.0), power._changes(share, distance)
        yield f"no worse, {share:.0%} of 0/1 answers change", power._World(kept, -distance, -1.0, alpha), True
        if distance <= share:
            yield f"a gain, {share:.0%} of 0/1 answers change", power._World(moved, 0.0, -1.0, alpha), True


def least_rows() -> Iterator[str]:
    """Yield the fewest cases for a power of 0.5 and of 0.8, by spread and distance from what is asked."""
    yield "| asked and true | distance | level | cases for a power of 0.5 | of 0.8 |"
    yield "| --- | --- | --- | --- | --- |"
    for alpha in LEVELS:
        for distance in DISTANCES:
            for name, world, is_binary in _worlds_by_spread(alpha, distance):
                half, most = (power._cases(world, is_paired=True, is_binary=is_binary, wanted=w) for w in (0.5, 0.8))
                yield f"| {name} | {distance} | {alpha:.4f} | {half} | {most} |"
    for threshold in (0.5, 0.8, 0.9):
        for distance in DISTANCES:
            if threshold + distance > 1:
                continue
            for alpha in LEVELS:
                half, most = (power._counted(threshold + distance, threshold, alpha, wanted) for wanted in (0.5, 0.8))
                yield f"| a 0/1 rate above {threshold} | {distance} | {alpha:.4f} | {half} | {most} |"


def main() -> None:
    """Print the tables: levels and power, the least cases, and what the number of cases said to tell is worth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=REPLICATES, help="of a cell at 0.05; ten times as many below")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--levels", type=float, nargs="*", default=LEVELS)
    given = parser.parse_args()
    tables = (
        told_rows(given.replicates, given.seed),
        least_rows(),
        rows(given.replicates, given.seed, tuple(given.sizes), tuple(given.levels)),
    )
    for table in tables:
        for line in itertools.chain(table, [""]):
            print(line, flush=True)


if __name__ == "__main__":
    main()
