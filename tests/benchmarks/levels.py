"""How often a gate condition on a dense score holds where it should not, and where it should: level and power.

`python -m tests.benchmarks.levels` prints the table that is kept in runbooks/levels.md, a row a null world and number
of cases. Each world has the very mean that its condition asks for, so that "holds" is a false acceptance. A cell fails
where the one-sided lower 99 % limit of its rate is above the nominal level, or the rate above 1.3 times it.
Power is that of the same world moved by a distance; beside it stands the most that any test could have which keeps its
level where losses as large as the whole scale are as rare as they can be without showing.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from policies import significance

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


def holds(world: World, sample: Sample, alpha: float, bound: float) -> bool:
    """Return whether a condition "at least bound" holds on a sample."""
    values = [float(each) for each in sample]
    found = (
        significance.paired_interval(values, alpha) if world.is_paired else significance.mean_interval(values, alpha)
    )
    return found.low >= bound


def rate(world: World, n: int, alpha: float, replicates: int, *, seed: int, shift: float = 0.0) -> float:
    """Return how often the condition holds, its world moved up by `shift`."""
    rng = np.random.Generator(np.random.PCG64([seed, n]))
    samples = (np.minimum(world.draw(rng, n) + shift, 1.0) for _ in range(replicates))
    return sum(holds(world, sample, alpha, world.bound) for sample in samples) / replicates


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
    yield "| null world | cases | level | false acceptance | kept | power at 2.5 sd of the mean | at most possible |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for world in WORLDS:
        for n in sizes:
            for alpha in levels:
                count = replicates if alpha >= 0.05 else replicates * MANY // REPLICATES
                found = rate(world, n, alpha, count, seed=seed)
                spread = float(np.std(world.draw(np.random.Generator(np.random.PCG64(seed)), 20_000)))
                gain = 2.5 * spread / math.sqrt(n)
                power = rate(world, n, alpha, max(200, replicates // 5), seed=seed + 1, shift=gain)
                kept = "yes" if is_kept(found, alpha, count) else "**no**"
                bound = f"{most_power(gain, n, alpha):.0%}" if world.is_paired else ""
                yield f"| {world.name} | {n} | {alpha:.4f} | {found:.4f} | {kept} | {power:.0%} | {bound} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=REPLICATES, help="of a cell at 0.05; ten times as many below")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--levels", type=float, nargs="*", default=LEVELS)
    given = parser.parse_args()
    for line in rows(given.replicates, given.seed, tuple(given.sizes), tuple(given.levels)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
