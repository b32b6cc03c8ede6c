"""Tests and intervals behind every verdict: exact where the scores are 0/1, a percentile bootstrap elsewhere.

Every level is one-sided: `alpha=0.025` on both bounds is the usual 95 % interval.
The bootstrap is the percentile kind on purpose: with fixed resamples each bound only rises when a case improves, which
BCa and studentized bounds do not promise. It adds two imaginary cases, so that no interval has zero width.
Not covered: with fewer than about 40 cases of a dense score, a rare large loss that no case shows stays invisible
(simulated: 3 % of cases losing 0.5 pass a one-sided 5 % test in 17 % of draws at 40 cases, 9 % at 80).
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from state.records import Record

RESAMPLES = 4000
"""Enough for a bound at alpha 0.0167 to stand on 67 resamples."""

DENSE_SPREAD = 0.25
"""Distance of the two imaginary cases from the mean of a dense score; simulated coverage 0.94 to 0.97 at 5 %."""

_ON_PAPER = 1e-9
"""Sums of floats that are this near are equal on paper: no number of cases tells them apart."""

POWER = 0.8
"""Probability of seeing an effect that exists, when the number of cases is planned."""


class Interval(Record):
    """Two one-sided bounds."""

    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """Return whether a value lies outside."""
        return not self.low <= value <= self.high

    def within(self, radius: float) -> bool:
        """Return whether the whole interval lies inside ± radius."""
        return -radius <= self.low and self.high <= radius

    def scaled(self, factor: float) -> "Interval":
        """Return the interval in another unit; the factor is positive."""
        return Interval(low=self.low * factor, high=self.high * factor)


def is_binary(values: Sequence[float]) -> bool:
    """Return whether all scores are 0 or 1."""
    return all(value in (0.0, 1.0) for value in values)


@lru_cache(maxsize=256)
def normal_quantile(share: float) -> float:
    """Return what a share of a standard normal lies below."""
    return float(special.ndtri(share))


def sign_p(better: int, worse: int) -> float:
    """Return the one-sided exact p-value of more wins than losses: the sign test, McNemar's exact test on 0/1 scores.

    Ties carry no information and are left out.
    """
    return binomial_p(better, better + worse, 0.5)


def sign_p_two_sided(better: int, worse: int) -> float:
    """Return the two-sided exact p-value: 9/12 against 12/12, three wins and no loss, is 0.25."""
    return min(1.0, 2 * min(sign_p(better, worse), sign_p(worse, better)))


def implied_changes(before: int, after: int, n: int) -> tuple[int, int] | None:
    """Return how many of n 0/1 cases rose and fell where the two totals allow one answer only, else None.

    9 and 12 of 12 are three wins and no loss: nothing is left that could have been lost.
    """
    gained, fewest_lost = after - before, max(0, before - after)
    most_lost = min(before, n - after)
    return (gained + fewest_lost, fewest_lost) if most_lost == fewest_lost else None


def binomial_p(successes: int, n: int, threshold: float) -> float:
    """Return the exact one-sided p-value of a success rate above a threshold in [0, 1]."""
    # The incomplete beta functions are what scipy.stats computes with; importing it costs every process half a second.
    return float(special.betainc(successes, n - successes + 1, min(max(threshold, 0.0), 1.0))) if successes else 1.0


@lru_cache(maxsize=4096)
def exact_interval(successes: int, n: int, alpha: float) -> Interval:
    """Return the Clopper-Pearson bounds of a success rate, each at one-sided alpha."""
    low = float(special.betaincinv(successes, n - successes + 1, alpha)) if successes else 0.0
    high = float(special.betaincinv(successes + 1, n - successes, 1 - alpha)) if successes < n else 1.0
    return Interval(low=low, high=high)


def wilson(mean: float, n: int, alpha: float = 0.025) -> Interval:
    """Return the Wilson score bounds of a mean in [0, 1].

    For a score that is not 0/1 they are too wide rather than too narrow: no variable in [0, 1] with that mean varies
    more than a 0/1 one. 8/40 gives 0.105 to 0.348.
    """
    z = normal_quantile(1 - alpha)
    center = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(low=max(0.0, center - half), high=min(1.0, center + half))


def unpaired_difference(mean: float, n: int, other: float, other_n: int, alpha: float = 0.025) -> Interval:
    """Return bounds of `mean - other` when no cases were published: Newcombe's square-and-add of two Wilson intervals.

    Source: Newcombe 1998, method 10. Means in [0, 1]. Wider than a paired interval on the same cases.
    """
    ours, theirs = wilson(mean, n, alpha), wilson(other, other_n, alpha)
    below = math.hypot(mean - ours.low, theirs.high - other)
    above = math.hypot(ours.high - mean, other - theirs.low)
    return Interval(low=max(-1.0, mean - other - below), high=min(1.0, mean - other + above))


@lru_cache(maxsize=16)
def _weights(n: int, seed: int) -> NDArray[np.float64]:
    """Return shape (RESAMPLES, n): how often each case is drawn, divided by n."""
    rng = np.random.Generator(np.random.PCG64(seed))
    drawn = rng.integers(0, n, size=(RESAMPLES, n))
    counts = np.zeros((RESAMPLES, n))
    np.add.at(counts, (np.arange(RESAMPLES)[:, None], drawn), 1.0 / n)
    return counts


def resampled_means(values: Sequence[float], imaginary: tuple[float, float], seed: int) -> NDArray[np.float64]:
    """Return RESAMPLES means of the cases and two imaginary ones, each redrawn with replacement; not to be changed."""
    return _means((*values, *imaginary), seed)


@lru_cache(maxsize=64)
def _means(sample: tuple[float, ...], seed: int) -> NDArray[np.float64]:
    """Return the resampled means; one comparison is asked for by the gate, the bucket and the report."""
    means: NDArray[np.float64] = _weights(len(sample), seed) @ np.asarray(sample, dtype=np.float64)
    means.setflags(write=False)
    return means


def mean_interval(values: Sequence[float], alpha: float, seed: int = 0) -> tuple[Interval, NDArray[np.float64] | None]:
    """Return bounds of a mean score and the resampled means; exact and None for 0/1 scores.

    Args:
        values: One score per case, in the order of the case ids.
        alpha: One-sided level of each bound.
        seed: Of the resamples.
    """
    if is_binary(values):
        return exact_interval(round(sum(values)), len(values), alpha), None
    center = sum(values) / len(values)
    means = resampled_means(values, (center - DENSE_SPREAD, center + DENSE_SPREAD), seed)
    return _percentiles(means, alpha), means


def paired_interval(
    differences: Sequence[float], alpha: float, seed: int = 0, *, binary: bool = False
) -> tuple[Interval, NDArray[np.float64]]:
    """Return bounds of a mean paired difference, and the resampled means.

    For 0/1 scores the imaginary cases are one won and one lost (as Agresti and Min 2005 add to the discordant cells),
    and the bounds also allow for losses (wins) that no case happened to show, by the exact bound on their share:
    40 cases without any change leave room for -0.072 at alpha 0.05.

    Args:
        differences: Candidate minus reference, one per case, in the order of the case ids.
        alpha: One-sided level of each bound.
        seed: Of the resamples.
        binary: The scores on both sides are 0/1.
    """
    n = len(differences)
    center = sum(differences) / n
    imaginary = (-1.0, 1.0) if binary else (center - DENSE_SPREAD, center + DENSE_SPREAD)
    means = resampled_means(differences, imaginary, seed)
    bounds = _percentiles(means, alpha)
    if binary:
        won, lost = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
        unseen_low = won / n - exact_interval(lost, n, alpha).high
        unseen_high = exact_interval(won, n, alpha).high - lost / n
        bounds = Interval(low=min(bounds.low, unseen_low), high=max(bounds.high, unseen_high))
    return bounds, means


def _percentiles(means: NDArray[np.float64], alpha: float) -> Interval:
    low, high = np.quantile(means, [alpha, 1 - alpha])
    return Interval(low=float(low), high=float(high))


def bootstrap_p(means: NDArray[np.float64], bound: float, sign: int) -> float:
    """Return the share of resampled means that do not pass a bound, never zero."""
    missed = int(np.count_nonzero(sign * (means - bound) <= 0))
    return (missed + 1) / (len(means) + 1)


def cases_for_significance(spread: float, distance: float, alpha: float) -> int | None:
    """Return how many cases the same mean and spread would need to pass a bound, or None when they point away from it.

    Args:
        spread: Standard deviation of the scores or paired differences.
        distance: How far the estimate lies on the right side of the bound.
        alpha: One-sided level.
    """
    if distance <= _ON_PAPER:
        return None
    return max(2, math.ceil((normal_quantile(1 - alpha) * spread / distance) ** 2))


_FAR = 1000
"""From twice as many wins on, the number of cases needed is told to a tenth of a percent."""


def cases_for_sign_test(better: int, worse: int, n: int, alpha: float) -> int | None:
    """Return how many cases the exact paired test needs if wins and losses keep their shares; None if not more wins.

    Three wins and no loss in 12 cases need 20 cases at one-sided 0.05: five wins, 0.5**5 = 0.031.
    """
    if better <= worse:
        return None
    # Only one more win can lower the p-value, so the counts in between need no look.
    wins = better
    while True:
        cases = -(-wins * n // better)
        if sign_p(wins, worse * cases // n) <= alpha:
            return cases
        wins += max(1, wins // _FAR)


def cases_for_difference(spread: float, difference: float, alpha: float) -> int:
    """Return how many paired cases show a true difference with probability POWER (normal approximation).

    Args:
        spread: Expected standard deviation of the paired differences.
        difference: True distance from the bound, positive.
        alpha: One-sided level.
    """
    z = normal_quantile(1 - alpha) + normal_quantile(POWER)
    return max(2, math.ceil((z * spread / difference) ** 2))


def detectable_difference(spread: float, n: int, alpha: float) -> float:
    """Return the smallest true difference that n paired cases show with probability POWER (normal approximation)."""
    return (normal_quantile(1 - alpha) + normal_quantile(POWER)) * spread / math.sqrt(n)


def cases_for_perfect_score(threshold: float, alpha: float) -> int:
    """Return how many cases, all passed, put the exact lower bound at a threshold in (0, 1): 0.85 needs 19 at 0.05."""
    return math.ceil(math.log(alpha) / math.log(threshold))
