"""Tests and intervals behind every verdict: exact where the scores are 0/1, bounds for bounded means elsewhere.

Every level is one-sided: `alpha=0.025` on both bounds is the usual 95 % interval.
A bound of a mean is the lower of two, each a quantile of a randomly weighted mean of the cases (`_weighted_quantile`),
so that each only rises when a case improves. The first is the Bayesian bootstrap widened to Student's t. The second
also weighs one case at the worst end of the scale, which no case may have shown: n cases without any loss leave room
for a share of 1 - alpha^(1/n) of answers lost whole. Levels under seven kinds of null worlds, and the power, are in
`python -m tests.benchmarks.levels`; the bounds are not proven for every distribution.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from state.records import Record

_SHARE = 0.75
"""Share of alpha that the resampled bound is taken at; simulated: with it no null world exceeds its level at a skew
that 400 cases show."""

EPSILON = 1e-9
"""Sums of floats that are equal on paper are equal here: 34/40 meets 0.85."""

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

    def scaled(self, factor: float, start: float = 0.0) -> "Interval":
        """Return the interval in another unit, of which `start` is the zero; the factor is positive."""
        return Interval(low=start + self.low * factor, high=start + self.high * factor)


def is_binary(values: Sequence[float]) -> bool:
    """Return whether all scores are 0 or 1."""
    return all(value in (0.0, 1.0) for value in values)


@lru_cache(maxsize=256)
def normal_quantile(share: float) -> float:
    """Return what a share of a standard normal lies below."""
    return float(special.ndtri(share))


@lru_cache(maxsize=256)
def _student_quantile(share: float, freedom: int) -> float:
    return float(special.stdtrit(freedom, share))


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


def mean_interval(values: Sequence[float], alpha: float, scale: tuple[float, float] = (0.0, 1.0)) -> Interval:
    """Return bounds of the mean of scores; exact for scores that are all 0 or 1 on a scale from 0 to 1.

    Args:
        values: One score per case.
        alpha: One-sided level of each bound, below 0.5.
        scale: The least and the largest score that a case can have.
    """
    if scale == (0.0, 1.0) and is_binary(values):
        return exact_interval(round(sum(values)), len(values), alpha)
    low, high = min(scale[0], *values), max(scale[1], *values)
    return Interval(
        low=_lower_bound(tuple(values), alpha, low), high=-_lower_bound(tuple(-each for each in values), alpha, -high)
    )


def paired_interval(differences: Sequence[float], alpha: float, width: float = 1.0) -> Interval:
    """Return bounds of a mean paired difference: 40 cases without any change leave room for -0.072 at alpha 0.05.

    Args:
        differences: Candidate minus reference, one per case.
        alpha: One-sided level of each bound, below 0.5.
        width: From the least to the largest score that a case can have, so the largest difference.
    """
    return mean_interval(differences, alpha, (-width, width))


def typical_interval(values: Sequence[float], alpha: float) -> Interval:
    """Return bounds of a mean for cases like these: what no case shows, such as a rare whole loss, is not allowed for.

    For reading movement, never for a gate. Each bound is the wider of Student's t and the resampled one: few cases
    that carry all of a gain do not pass for many. Below six cases, which hardly vary by luck as often as not, a bound
    excludes 0 only where the exact sign test does too.

    Args:
        values: One score or difference per case.
        alpha: One-sided level of each bound, below 0.5.
    """
    n, center = len(values), sum(values) / len(values)
    if n <= _FEWEST:
        return Interval(low=-math.inf, high=math.inf)
    half = -_student_quantile(alpha, n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    points, counts = _counted(values)
    low = _weighted_quantile(*_resampled(points, counts, alpha)[:3])
    high = -_weighted_quantile(*_resampled(-points[::-1], counts[::-1], alpha)[:3])
    low, high = min(low, center - half), max(high, center + half)
    if n < _FEW_SIGNS:
        better, worse = (sum(sign * value > 0 for value in values) for sign in (1, -1))
        low = low if sign_p(better, worse) <= alpha else min(low, 0.0)
        high = high if sign_p(worse, better) <= alpha else max(high, 0.0)
    return Interval(low=low, high=high)


class Weighted(NamedTuple):
    """Cases whose mean, their weights being Dirichlet distributed, is a lower bound of the true mean at a level."""

    points: NDArray[np.float64]
    """Shape (n_points,), values."""
    shapes: NDArray[np.float64]
    """Shape (n_points,), positive; what stands in for one case has `unit`."""
    wanted: float
    """The standard normal quantile of its level."""
    unit: float
    own: NDArray[np.float64]
    """Shape (n_values,): the share of each value's cases that keep their own weight; the others stand as their mean,
    which is the last point."""


@lru_cache(maxsize=4096)
def _lower_bound(values: tuple[float, ...], alpha: float, floor: float) -> float:
    """Return the lower bound of a mean whose cases lie at or above `floor`."""
    return lower_bound(*_counted(values), alpha, floor)


def _counted(values: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the values that there are, ascending, and how often each."""
    points, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    return points, counts.astype(np.float64)


def lower_bound(points: NDArray[np.float64], counts: NDArray[np.float64], alpha: float, floor: float) -> float:
    """Return the lower bound of a mean, of values in ascending order and how often each was seen."""
    return min(_weighted_quantile(*part[:3]) for part in bound_parts(points, counts, alpha, floor))


def bound_parts(
    points: NDArray[np.float64], counts: NDArray[np.float64], alpha: float, floor: float
) -> tuple[Weighted, ...]:
    """Return the two bounds of which the lower one is the bound of a mean: what was seen, and what was not.

    The order statistics below the square root of n keep weights of their own in the second bound, as rare losses would
    need; the rest stand as their mean, whose noise the first bound covers.

    Args:
        points: Shape (n_points,), the values, ascending.
        counts: Shape (n_points,), how often; expected numbers of cases need not be whole.
        alpha: One-sided level of the bound.
        floor: The least that a case may give.
    """
    n = round(float(counts.sum()))
    kept = np.clip(math.isqrt(n - 1) + 1 - (np.cumsum(counts) - counts), 0.0, counts)
    others = counts - kept
    rest = float(others.sum())
    own = kept > 0
    unseen = Weighted(
        np.concatenate(([floor], points[own], [others @ points / rest] if rest > EPSILON else [])),
        np.concatenate(([1.0], kept[own], [rest] if rest > EPSILON else [])),
        _unseen_quantile(n, alpha),
        1.0,
        kept / counts,
    )
    return (unseen,) if n <= _FEWEST else (unseen, _resampled(points, counts, _SHARE * alpha))


def _resampled(points: NDArray[np.float64], counts: NDArray[np.float64], alpha: float) -> Weighted:
    """Return the Bayesian bootstrap's bound, widened as Student's t asks; of more cases than `_FEWEST`."""
    n = round(float(counts.sum()))
    share = (normal_quantile(alpha) / _student_quantile(alpha, n - 1)) ** 2
    # The variance of the weighted mean is that of the cases over (n shape + 1).
    shape = max(1 / n, ((n - 1) * share - 1) / n)
    return Weighted(points, shape * counts, normal_quantile(alpha), shape, np.ones(len(points)))


@lru_cache(maxsize=4096)
def _unseen_quantile(n: int, alpha: float) -> float:
    """Return the quantile with which n cases without a loss leave room for exactly 1 - alpha^(1/n) of whole losses.

    The saddlepoint's own is a few parts in a thousand off: 204 cases for a margin that 203 show.
    """
    kept = alpha ** (1 / n)
    return signed_root(np.array([-kept, 1 - kept]), np.array([1.0, n]))[2]


_FEWEST = 3
"""Up to so many cases Student's t says nothing that the other bound does not."""

_FEW_SIGNS = 6
"""Fewer differences, all of one sign, show nothing at 0.025 by the exact sign test."""

_STEPS = 60
"""Most Newton steps, each halved back into its bracket; 5 are usual."""


def _weighted_quantile(points: NDArray[np.float64], shapes: NDArray[np.float64], wanted: float) -> float:
    """Return a quantile of a mean of points whose weights are Dirichlet distributed.

    The mean lies at or below m with the probability that a sum of Gamma(shape) variables times (point - m) is at most
    0; that probability is taken from the saddlepoint (Lugannani and Rice 1980 in the form of Barndorff-Nielsen 1986).
    For one point at each end of the scale it is the Beta quantile of Clopper and Pearson, to a few parts in a thousand.

    Args:
        points: Shape (n,), the values.
        shapes: Shape (n,), positive.
        wanted: The standard normal quantile of its level, negative.
    """
    low, high = float(points.min()), float(shapes @ points / shapes.sum())
    if high - low <= EPSILON:
        return low
    middle, total = (low + high) / 2, float(shapes.sum())
    theta, steps = 0.0, 0
    while True:
        steps += 1
        theta, root, found = signed_root(points - middle, shapes, theta)
        low, high = (middle, high) if found < wanted else (low, middle)
        slope = theta * total / root if root else math.inf
        step = middle + (wanted - found) / slope
        last, middle = middle, step if low < step < high else (low + high) / 2
        if steps == _STEPS or abs(middle - last) <= EPSILON * (1 + abs(middle)):
            return middle


def signed_root(
    distances: NDArray[np.float64], shapes: NDArray[np.float64], start: float = 0.0
) -> tuple[float, float, float]:
    """Return what a normal quantile is for the share of weighted means that lie below a number.

    Args:
        distances: Shape (n,), of the points from the number, which lies between the least and the largest of them.
        shapes: Shape (n,), positive.
        start: Where the saddlepoint is looked for first.

    Returns:
        The saddlepoint, the signed root of twice the likelihood ratio, and that root corrected: the quantile.
    """
    theta = _saddlepoint(distances, shapes, start)
    rest = 1 - theta * distances
    root = math.copysign(math.sqrt(max(0.0, 2 * float(shapes @ np.log(rest)))), theta)
    curvature = theta * math.sqrt(float(shapes @ (distances / rest) ** 2))
    # Nearer to its mean than this the correction is 0/0.
    return theta, root, root + math.log(curvature / root) / root if abs(root) > EPSILON**0.5 else 0.0


def _saddlepoint(distances: NDArray[np.float64], shapes: NDArray[np.float64], start: float) -> float:
    """Return where the cumulant generating function of the sum of Gamma(shape) times distance is least."""
    low, high = 1 / float(distances.min()), 1 / float(distances.max())
    theta, steps = start if low < start < high else 0.0, 0
    while True:
        steps += 1
        terms = distances / (1 - theta * distances)
        slope = float(shapes @ terms)
        low, high = (theta, high) if slope < 0 else (low, theta)
        step = theta - slope / float(shapes @ terms**2)
        # No step goes more than half way to the bracket's end: beside a pole the next ones would be as good as none.
        last, theta = theta, min(max(step, (low + theta) / 2), (high + theta) / 2)
        if steps == _STEPS or abs(theta - last) <= EPSILON * (1 + abs(theta)):
            return theta


def cases_for_unseen(share: float, alpha: float) -> int:
    """Return how many cases without a loss show that at most this share of answers is lost: 0.02 needs 203 at 0.0167.

    Args:
        share: In (0, 1).
        alpha: One-sided level.
    """
    return math.ceil(math.log(alpha) / math.log1p(-share))


def detectable_difference(spread: float, n: int, alpha: float) -> float:
    """Return the smallest true difference that n paired cases show with probability POWER (normal approximation)."""
    return (normal_quantile(1 - alpha) + normal_quantile(POWER)) * spread / math.sqrt(n)
