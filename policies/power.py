"""How many cases would tell: the fewest with which a condition of the gate holds four times of five.

It means one thing wherever it is said: the test that the gate uses shows the condition with probability `POWER`, were
the truth what is assumed here. That is, where the condition

- is met by no change: a true difference of 0;
- asks for a score or an improvement: δ beyond the bound, at most the references' score. δ is the gate's, else half of
  the gap from where runs start, or of what is left up to the references where that was not measured; a start that is
  further already stays where it is;
- is `test: plain`, so that the bare number decides: what was measured.

How much cases vary is taken from the scores or paired differences at hand, moved to that truth. Before a candidate was
measured it is bracketed, by answers that change no more than the truth asks and by answers that have nothing to do with
the start's; before the start was, by answers that are all alike and by answers that are right or wrong. Exact tests are
counted out. Behind the bounds of a mean stands a likelihood ratio, whose signed root is taken as normal; how often the
number said then tells is held against simulated campaigns in `tests/benchmarks/levels`.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from policies import significance
from policies.comparison import CaseTable
from policies.significance import EPSILON, POWER, Weighted
from state.goal import Condition
from state.records import Record, Side, SplitUse

MOST_CASES = 10_000_000
"""What would take more cases than this, no number of cases is said to tell."""

Basis = Literal["measured", "0/1", "bracketed", "least"]
"""What the variation of cases is taken from. measured: scores or paired differences at hand; 0/1: scores of 0 and 1
with that mean, the most that a score varies; bracketed: from the least change to unrelated answers; least: nothing is
measured, from all answers alike to answers that are right or wrong and change no more than they must."""

_FEW = 300
"""Up to so many cases each number is tried: an exact test has more power on some number of cases than on the next."""

_POINTS = 128
"""Different values that measured scores are told in."""


class Needed(Record):
    """How many cases would tell a condition, and what that stands on; figures per case, in the metric's unit."""

    truth: float
    """The mean or difference that is assumed."""
    bound: float
    """What it must be shown to pass."""
    least: int | None
    """The fewest cases; with variation not measured, where answers change no more than the truth asks. None: no number
    of cases can tell."""
    most: int | None
    """The same, where answers vary as much as they may; equal to `least` where the variation is known."""
    basis: Basis


class _Sample(NamedTuple):
    """What one case may give, with how often."""

    values: tuple[float, ...]
    """Ascending."""
    of_value: tuple[float, ...]
    """The share of cases that give each, positive, of sum 1."""

    @property
    def points(self) -> NDArray[np.float64]:
        """The values, shape (n_values,)."""
        return np.array(self.values)

    @property
    def shares(self) -> NDArray[np.float64]:
        """Their shares, shape (n_values,)."""
        return np.array(self.of_value)

    @property
    def mean(self) -> float:
        """The mean of the values."""
        return float(self.points @ self.shares)


class _World(NamedTuple):
    """A truth of which the lower bound is to pass a number; more is better."""

    sample: _Sample
    bound: float
    floor: float
    """The worst that one case may give."""
    alpha: float
    noise: float = 0.0
    """Standard deviation that the order of the cases gives a mean, times the root of their number."""


class _Known(NamedTuple):
    """What is measured of one metric of one condition, as shares of its scale."""

    condition: Condition
    """What is asked, by a test."""
    is_plain: bool
    """The bare number decides, and the test only says how sure it is."""
    differences: tuple[float, ...]
    """Candidate minus start, of the cases that both have."""
    candidate: tuple[float, ...]
    start: tuple[float, ...]
    mean: float | None
    """The start's."""
    n: int
    """Cases of the candidate, else of the start; 0: neither was measured."""
    result: float | None
    """The candidate's mean."""

    @property
    def is_paired(self) -> bool:
        """Whether differences are judged; a plain score is held against the start's where that has its cases."""
        return self.condition.against != "value" or self.is_plain_gain

    @property
    def is_plain_gain(self) -> bool:
        """Whether a bare number is asked that more wins than losses would make sure."""
        return self.is_plain and not self.condition.allows_no_change and bool(self.differences)

    @property
    def is_binary(self) -> bool:
        """Whether the scores at hand are all 0 or 1; true where only a mean is at hand, or nothing."""
        return significance.is_binary((*self.candidate, *self.start))


def cases_needed(
    condition: Condition,
    metric: str,
    alpha: float,
    *,
    cases: CaseTable | None = None,
    use: SplitUse = "selection",
    delta: float | None = None,
    ceiling: float | None = None,
    n: int | None = None,
) -> Needed | None:
    """Return how many cases would tell a condition; None where nothing can be said: a count of unknown many cases.

    Args:
        condition: What is asked.
        metric: `split.metric`, one of the condition's.
        alpha: One-sided level of the test, divided by the metrics of an any-of.
        cases: What is measured by now, with or without the candidate.
        use: Which part of the splits.
        delta: `gate.meaningful_delta`.
        ceiling: What the references score.
        n: Cases that a count is of; those measured when left out.
    """
    table = cases or CaseTable()
    scale, known = table.scale(metric), _known(condition, metric, table, use)
    known = known if n is None else known._replace(n=n)
    if condition.statistic != "mean" and not known.n:
        return None
    if condition.statistic == "new_failures":
        return _of_failures(known, alpha)
    is_level, sign = condition.against == "value", condition.sign
    threshold = known.condition.bound / (1 if condition.statistic == "mean" else known.n)
    bound = scale.share(threshold) if is_level else threshold / scale.width
    known_delta = None if delta is None else delta / scale.width
    truth = _truth(known, bound, known_delta, None if ceiling is None else scale.share(ceiling))
    bound = 0.0 if known.is_plain_gain else bound
    noise = table.noise.get(metric)
    samples, basis = _samples(known, sign, sign * truth)
    worlds = [
        _World(
            sample,
            sign * bound,
            -1.0 if known.is_paired or sign < 0 else 0.0,
            alpha,
            noise.of(1) / scale.width if noise is not None and known.is_paired else 0.0,
        )
        for sample in samples
    ]
    counts = [_cases(world, is_paired=known.is_paired, is_binary=known.is_binary) for world in worlds]
    start = 0.0 if known.is_paired else scale.low
    truth, bound = (start + each * scale.width for each in (truth, bound))
    return Needed(truth=truth, bound=bound, least=counts[0], most=counts[-1], basis=basis)


def _known(condition: Condition, metric: str, cases: CaseTable, use: SplitUse) -> _Known:
    side: Side = "base" if condition.against == "base" or cases.mean("parent", metric, use) is None else "parent"
    scale, means = cases.scale(metric), [cases.mean(each, metric, use) for each in ("candidate", side)]
    differences = [each / scale.width for each in cases.aligned("candidate", side, metric, use).differences]
    changes, n = cases.changes.get(metric), next((mean.n for mean in means if mean is not None), 0)
    if changes is not None and not differences and means[0] is not None and side == "parent":
        kept = n - changes.higher - changes.lower
        differences = [1.0] * changes.higher + [-1.0] * changes.lower + [0.0] * kept
    result, mean = (None if each is None else scale.share(each.mean) for each in means)
    candidate, start = (
        tuple(scale.share(score) for score in cases.values(each, metric, use)[0].values())
        for each in ("candidate", side)
    )
    return _Known(
        condition=condition.model_copy(update={"test": "auto"}) if condition.kind == "plain" else condition,
        is_plain=condition.kind == "plain",
        differences=tuple(differences),
        candidate=candidate,
        start=start,
        mean=mean,
        n=n,
        result=result,
    )


def _truth(known: _Known, bound: float, delta: float | None, ceiling: float | None) -> float:
    """Return the mean or difference that is assumed, per case."""
    condition, sign = known.condition, known.condition.sign
    if known.is_plain and known.result is not None:
        return known.result - (known.mean or 0.0 if known.is_paired else 0.0)
    if condition.kind == "non_inferiority":
        return 0.0
    best = (1.0 if sign > 0 else 0.0) if ceiling is None else ceiling
    start = known.mean
    if condition.against != "value":
        best = best - start if start is not None else float(sign)
        start = 0.0
    gap = None if start is None else sign * (bound - start)
    if delta is None:
        # A start that lies on the bound is short of it by nothing: then as where it is not known.
        left = sign * (best - bound) if gap is None or abs(gap) <= EPSILON else max(gap, 0.0)
        delta = left / 2
    wanted = sign * bound + delta
    return sign * min(max(wanted, sign * start) if start is not None else wanted, sign * best)


def _of_failures(known: _Known, alpha: float) -> Needed:
    """Return how many cases show that few enough newly fail, were as many gained as lost."""
    bound = known.condition.bound / known.n
    basis: Basis = "bracketed" if known.start else "least"
    full = sum(score >= 1 for score in known.start) / max(1, len(known.start))
    shares = [0.0, full * (1 - full)]
    if known.differences:
        changed = sum(abs(each) > EPSILON for each in known.differences)
        shares, basis = [changed / 2 / len(known.differences)], "measured"
    counts = [_counted(1 - share, 1 - bound, alpha) for share in shares]
    return Needed(truth=shares[0], bound=bound, least=counts[0], most=counts[-1], basis=basis)


def _samples(known: _Known, sign: int, truth: float) -> tuple[list[_Sample], Basis]:
    """Return what one case may give at a truth, from the least to the most variation; more is better."""
    alike = _Sample((truth,), (1.0,))
    if not known.is_paired:
        if known.mean is None and known.result is None:
            return [alike, _binary(truth, sign)], "least"
        if known.is_binary:
            return [_binary(truth, sign)], "measured" if known.candidate else "0/1"
        scores = _sample([sign * each for each in known.candidate or known.start])
        return [_moved(scores, truth, sign)], "measured"
    if known.differences:
        differences = [sign * each for each in known.differences]
        if known.is_binary:
            return [_changes(sum(each != 0 for each in differences) / len(differences), truth)], "measured"
        sample = _sample(differences)
        return [_sample(np.clip(sample.points + truth - sample.mean, -1, 1), sample.shares)], "measured"
    if known.mean is None:
        return [alike, _changes(0.0, truth)], "least"
    start = _sample([sign * each for each in known.start]) if known.start else _binary(sign * known.mean, sign)
    after = _moved(start, start.mean + truth, sign)
    apart = np.subtract.outer(after.points, start.points).ravel()
    unrelated = _sample(apart, np.multiply.outer(after.shares, start.shares).ravel())
    if known.result is not None:
        return [unrelated], "0/1"
    return [_changes(0.0, truth) if known.is_binary else alike, unrelated], "bracketed"


def _sample(values: Sequence[float] | NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> _Sample:
    """Return scores as a distribution, neighbours joined at their mean where there are many."""
    points, place = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True)
    shares = _summed(place, np.ones(len(place)) if weights is None else weights)
    shares /= shares.sum()
    if len(points) > _POINTS:
        # By value and not by share: a few whole losses stay apart from the rest.
        part = np.minimum((points - points[0]) / (points[-1] - points[0]) * _POINTS, _POINTS - 1).astype(np.intp)
        whole, total = _summed(part, shares), _summed(part, shares * points)
        points, shares = total[whole > 0] / whole[whole > 0], whole[whole > 0]
    kept = shares > EPSILON
    return _Sample(tuple(points[kept].tolist()), tuple(shares[kept].tolist()))


def _summed(place: NDArray[np.intp], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of the weights of each place."""
    return np.asarray(np.bincount(place, weights=weights), dtype=np.float64)


def _binary(mean: float, sign: int) -> _Sample:
    """Return scores of 0 and 1 with a mean; negative ones where less is better."""
    share = mean if sign > 0 else 1 + mean
    return _sample([0.0, 1.0] if sign > 0 else [-1.0, 0.0], np.array([1 - share, share]))


def _changes(share: float, mean: float) -> _Sample:
    """Return differences of 0/1 scores with a mean, of which at least a share is none."""
    changed = max(share, abs(mean))
    return _sample([-1.0, 0.0, 1.0], np.array([(changed - mean) / 2, 1 - changed, (changed + mean) / 2]))


def _moved(sample: _Sample, mean: float, sign: int) -> _Sample:
    """Return scores of another mean: a share of them goes to the end of the scale, the others stay."""
    low, high = (0.0, 1.0) if sign > 0 else (-1.0, 0.0)
    end = high if mean > sample.mean else low
    share = 0.0 if end == sample.mean else (mean - sample.mean) / (end - sample.mean)
    return _sample(np.append(sample.points, end), np.append((1 - share) * sample.shares, share))


@lru_cache(maxsize=4096)
def _cases(world: _World, *, is_paired: bool, is_binary: bool, wanted: float = POWER) -> int | None:
    """Return the fewest cases whose lower bound passes a number with the power wanted, None where none does."""
    if world.sample.mean - world.bound <= EPSILON:
        return None
    is_binary = is_binary and len(set(world.sample.values) - {-1.0, 0.0, 1.0}) == 0
    if is_binary and not is_paired:
        return _counted(world.sample.mean - world.floor, world.bound - world.floor, world.alpha, wanted)
    if not (is_binary and abs(world.bound) <= EPSILON):
        return _fewest(partial(_bound_power, world), wanted)
    worse, better = (float(world.sample.shares[world.sample.points == end].sum()) for end in (-1.0, 1.0))
    exact = partial(_sign_power, worse, better, world.alpha)
    # An exact test of the cases knows nothing of what their order alone would change.
    return _fewest((lambda n: min(exact(n), _bound_power(world, n))) if world.noise else exact, wanted)


def _fewest(power: Callable[[int], float], wanted: float) -> int | None:
    """Return the least number with the power wanted, which grows with the number but for small steps."""
    low, high = 0, 16
    while power(high) < wanted:
        low, high = high, 2 * high
        if high > MOST_CASES:
            return None
    while high - low > max(1, high // 500):
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= wanted else (middle, high)
    return high


@lru_cache(maxsize=1024)
def _counted(share: float, rate: float, alpha: float, wanted: float = POWER) -> int | None:
    """Return the fewest 0/1 cases that show a success rate above a threshold with the power wanted, exactly."""
    if share - rate <= EPSILON:
        return None
    few = np.arange(1, _FEW + 1)
    enough = np.flatnonzero(_counted_power(share, rate, alpha, few) >= wanted)
    if len(enough):
        return int(few[enough[0]])
    return _fewest(lambda n: float(_counted_power(share, rate, alpha, np.array([n]))[0]), wanted)


def _counted_power(share: float, rate: float, alpha: float, n: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how often n cases of a success rate pass the exact test of a threshold (`significance.binomial_p`)."""
    if rate <= 0:
        return np.ones(len(n))
    # So many successes or more are as rare as alpha at the threshold; above n there is no such number.
    least = np.ceil(special.bdtrik(1 - alpha, n, rate) - EPSILON) + 1
    return np.where(least > n, 0.0, special.betainc(least, np.maximum(n - least, 0) + 1, min(share, 1.0)))


def _sign_power(worse: float, better: float, alpha: float, n: int) -> float:
    """Return how often the sign test of n cases shows more wins than losses.

    Args:
        worse: Share of cases that lose.
        better: Share that win.
        alpha: One-sided level.
        n: Cases.
    """
    changed = min(1.0, worse + better)
    width = 8 * math.sqrt(n * changed) + 8
    counts = np.arange(max(1, int(n * changed - width)), min(n, int(n * changed + width)) + 1)
    chance = np.exp(
        special.gammaln(n + 1)
        - special.gammaln(counts + 1)
        - special.gammaln(n - counts + 1)
        + special.xlogy(counts, changed)
        + special.xlog1py(n - counts, -changed)
    )
    return float(chance @ _counted_power(better / (worse + better), 0.5, alpha, counts))


def _bound_power(world: _World, n: int) -> float:
    """Return how often the lower bound of n cases' mean passes the number (`significance.bound_parts`)."""
    sample, bound, counts = world.sample, world.bound, n * world.sample.shares
    if world.noise:
        # Half-widths add as their squares do, so the bound of the cases alone must pass a higher number.
        half = sample.mean - significance.lower_bound(sample.points, counts, world.alpha, world.floor)
        bound += math.hypot(half, significance.normal_quantile(1 - world.alpha) * world.noise / math.sqrt(n)) - half
    parts = significance.bound_parts(sample.points, counts, world.alpha, world.floor)
    return min(_passing(part, sample, n, bound) for part in parts)


def _passing(part: Weighted, sample: _Sample, n: int, bound: float) -> float:
    """Return how often one of the bounds passes a number: the signed root behind it is normal, of this mean and spread.

    By the envelope theorem the likelihood ratio moves with a case by the logarithm that is its part of it.
    """
    distances = part.points - bound
    if float(part.shapes @ distances) <= EPSILON or n <= 1:
        return 0.0
    if float(distances.min()) >= 0:
        return 1.0
    theta, root, found = significance.signed_root(distances, part.shapes)
    logs = _influence(part, sample, lambda gap: np.log1p(-theta * gap), lambda gap: -theta / (1 - theta * gap), bound)
    slopes = _influence(part, sample, lambda gap: gap / (1 - theta * gap), lambda gap: (1 - theta * gap) ** -2.0, bound)
    spread = part.unit * math.sqrt(n * _variance(logs, sample)) / max(-root, EPSILON)
    if spread <= EPSILON:
        return float(found <= part.wanted + EPSILON)
    # The saddlepoint follows the noise, which raises the ratio; the root's own spread is no part of its mean.
    slope = distances / (1 - theta * distances)
    gained = part.unit**2 * n * _variance(slopes, sample) / float(part.shapes @ slope**2)
    middle = -math.sqrt(max(0.0, root**2 + gained - spread**2)) + found - root
    return float(special.ndtr((part.wanted - middle) / spread))


def _influence(
    part: Weighted,
    sample: _Sample,
    of: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    slope: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    bound: float,
) -> NDArray[np.float64]:
    """Return what a case of each value adds to a sum over the cases of a function of their distance from the bound.

    Cases without a weight of their own count by their mean, so by the tangent there; one that takes a place of its own
    moves another out of it.
    """
    own = of(sample.points - bound)
    if part.own.min() == 1:
        return own
    rest = part.points[-1:]
    tangent = of(rest - bound) + slope(rest - bound) * (sample.points - rest)
    extra = own - tangent
    moved: NDArray[np.float64] = tangent + part.own * (extra - extra[np.flatnonzero(part.own)[-1]])
    return moved


def _variance(values: NDArray[np.float64], sample: _Sample) -> float:
    return float(sample.shares @ (values - float(sample.shares @ values)) ** 2)
