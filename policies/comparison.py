"""One metric of a candidate against a number or another side: estimate, bounds, and the test that gave them.

Paired on the cases both sides have; unpaired from published means where there are none, and said so.
"""

import math
from typing import Any, Literal, NamedTuple

from policies import significance
from policies.cases import CaseTable, Scale
from policies.significance import Interval
from state.goal import Against, Statistic
from state.records import Record, Side, SplitUse

Method = Literal["exact", "bounded", "bootstrap", "unpaired", "none"]
"""exact: 0/1 scores; bounded: dense scores; bootstrap: dense scores as records of earlier versions have them; unpaired:
Wilson-based, no cases at hand; none: nothing to compare."""


class Comparison(Record):
    """What the data says about one metric; in the metric's unit, counts for a count, per-case spread as a share."""

    metric: str
    use: SplitUse
    against: Against
    value: float | None = None
    """The candidate's statistic."""
    reference: float | None = None
    """The other side's statistic; for a value, the parent's when it was measured."""
    estimate: float | None = None
    """What is judged: the value, or the difference candidate minus reference."""
    low: float | None = None
    high: float | None = None
    typical: Interval | None = None
    """Bounds for cases like these, where nothing rarer than they show is allowed for: for reading movement, never for
    a gate. None: the bounds above."""
    alpha: float
    """One-sided level of each bound."""
    n: int = 0
    excluded: int = 0
    """Cases left out because a side lacks them or its grader could not say."""
    step: float = 0.0
    """Smallest change of the statistic that one whole case can make."""
    spread: float = 0.0
    """Standard deviation of the scores or paired differences, per case."""
    noise_sd: float = 0.0
    """Standard deviation that the order of the cases alone gives the estimate; the bounds allow for it."""
    is_binary: bool = False
    better: int = 0
    """Cases whose score is higher than the reference's."""
    worse: int = 0
    higher: tuple[str, ...] = ()
    """Ids of those cases."""
    lower: tuple[str, ...] = ()
    p_two_sided: float | None = None
    """Exact paired sign test against the reference side."""
    method: Method = "none"
    scale: Scale = Scale()

    @property
    def unit(self) -> float:
        """What a share comes to in the unit of the estimate: the scale's width, times the cases for a count."""
        return round(self.step * self.n, 9) or 1.0

    @property
    def start(self) -> float:
        """The estimate of a share of zero; of a difference that is zero."""
        return self.scale.low * self.unit / self.scale.width if self.against == "value" else 0.0

    @property
    def interval(self) -> Interval | None:
        """The bounds, if there is anything to compare."""
        if self.low is None or self.high is None:
            return None
        return Interval(low=self.low, high=self.high)

    def excludes(self, value: float) -> bool:
        """Return whether the estimate lies beyond a value by more than the noise of its cases."""
        interval = self.typical or self.interval
        return interval is not None and interval.excludes(value)


def reference_side(against: Against) -> Side:
    """Return the side whose cases are set beside the candidate's."""
    return "base" if against == "base" else "parent"


def compare(
    cases: CaseTable,
    metric: str,
    *,
    use: SplitUse,
    against: Against = "parent",
    alpha: float = 0.025,
    statistic: Statistic = "mean",
    side: Side = "candidate",
) -> Comparison:
    """Compare one side's metric with a number (`value`: bounds of the metric itself) or with another side.

    Args:
        cases: What was measured.
        metric: `split.metric`.
        use: Which part of the split.
        against: What the estimate is relative to.
        alpha: One-sided level of each bound.
        statistic: mean; count: the sum over cases; new_failures: cases that lost full marks.
        side: Whose metric it is.
    """
    blank = Comparison(metric=metric, use=use, against=against, alpha=alpha, scale=cases.scale(metric))
    table = _Question(cases, metric, use, against, alpha, statistic, side)
    known, _ = cases.values(side, metric, use)
    pairs = cases.aligned(side, reference_side(against), metric, use)
    if statistic == "new_failures":
        return _new_failures(blank, table)
    if pairs.cases and against != "value":
        return _paired(blank, table)
    if known and against == "value":
        return _single(blank, table)
    return _unpaired(blank, table)


class _Question(NamedTuple):
    """The arguments of `compare`, carried together."""

    cases: CaseTable
    metric: str
    use: SplitUse
    against: Against
    alpha: float
    statistic: Statistic
    side: Side

    @property
    def other(self) -> Side:
        """The side set beside it."""
        return reference_side(self.against)

    def times(self, n: int) -> float:
        """Return what a mean over n cases is multiplied with."""
        return 1.0 if self.statistic == "mean" else float(n)

    @property
    def scale(self) -> Scale:
        """The metric's."""
        return self.cases.scale(self.metric)


def _changes(blank: Comparison, asked: _Question) -> Comparison:
    """Set the case-by-case differences to the reference side."""
    pairs = asked.cases.aligned(asked.side, asked.other, asked.metric, asked.use)
    if not pairs.cases:
        return blank
    higher = tuple(case for case, d in zip(pairs.cases, pairs.differences, strict=True) if d > 0)
    lower = tuple(case for case, d in zip(pairs.cases, pairs.differences, strict=True) if d < 0)
    p_two_sided = significance.sign_p_two_sided(len(higher), len(lower))
    reference = sum(pairs.reference) / len(pairs.cases) * asked.times(len(pairs.cases))
    return blank.model_copy(
        update={
            "higher": higher,
            "lower": lower,
            "better": len(higher),
            "worse": len(lower),
            "p_two_sided": p_two_sided,
            "reference": reference,
        }
    )


def _paired(blank: Comparison, asked: _Question) -> Comparison:
    pairs = asked.cases.aligned(asked.side, asked.other, asked.metric, asked.use)
    n, scale = len(pairs.cases), asked.scale
    differences = [each / scale.width for each in pairs.differences]
    unit = asked.times(n) * scale.width
    binary = significance.is_binary([scale.share(each) for each in (*pairs.candidate, *pairs.reference)])
    center = sum(differences) / n
    noise = asked.cases.noise.get(asked.metric)
    noise_sd = 0.0 if noise is None else noise.of(n) / scale.width
    by = significance.normal_quantile(1 - asked.alpha) * noise_sd
    bounds = _widened(significance.paired_interval(differences, asked.alpha), center, by)
    typical = None if binary else _widened(significance.typical_interval(differences, asked.alpha), center, by)
    return _changes(blank, asked).model_copy(
        update={
            "value": sum(pairs.candidate) / n * asked.times(n),
            "estimate": center * unit,
            "noise_sd": noise_sd * unit,
            **bounds.scaled(unit).model_dump(),
            "typical": None if typical is None else typical.scaled(unit),
            "n": n,
            "excluded": pairs.excluded,
            "step": unit / n,
            "spread": _deviation(differences),
            "is_binary": binary,
            "method": "exact" if binary else "bounded",
        }
    )


def _widened(bounds: Interval, center: float, by: float) -> Interval:
    """Return bounds that allow for a second, independent source of chance: half-widths add as their squares do."""
    if not by:
        return bounds
    return Interval(
        low=center - math.hypot(center - bounds.low, by),
        high=center + math.hypot(bounds.high - center, by),
    )


def _new_failures(blank: Comparison, asked: _Question) -> Comparison:
    """Count the cases that had full marks and lost them; without cases of both sides nothing is known."""
    pairs = asked.cases.aligned(asked.side, asked.other, asked.metric, asked.use)
    n = len(pairs.cases)
    if not n:
        return blank
    full = asked.scale.high
    broken = [before >= full > after for before, after in zip(pairs.reference, pairs.candidate, strict=True)]
    flags = [float(each) for each in broken]
    bounds = significance.exact_interval(sum(broken), n, asked.alpha).scaled(n)
    return blank.model_copy(
        update={
            "value": sum(flags),
            "estimate": sum(flags),
            **bounds.model_dump(),
            "n": n,
            "excluded": pairs.excluded,
            "step": 1.0,
            "spread": _deviation(flags),
            "is_binary": True,
            "better": sum(broken),
            "higher": tuple(case for case, each in zip(pairs.cases, broken, strict=True) if each),
            "method": "exact",
        }
    )


def _single(blank: Comparison, asked: _Question) -> Comparison:
    known, unknown = asked.cases.values(asked.side, asked.metric, asked.use)
    values = [asked.scale.share(each) for each in known.values()]
    n = len(values)
    split = asked.metric.partition(".")[0]
    ours, theirs = (asked.cases.cases(side, split, asked.use) for side in (asked.side, asked.other))
    unit = asked.times(n) * asked.scale.width
    bounds = significance.mean_interval(values, asked.alpha)
    mean = sum(known.values()) / n * asked.times(n)
    binary = significance.is_binary(values)
    return _changes(blank, asked).model_copy(
        update={
            "value": mean,
            "estimate": mean,
            **bounds.scaled(unit, asked.scale.low * asked.times(n)).model_dump(),
            "n": n,
            "excluded": unknown + len(theirs.keys() - ours.keys()),
            "step": unit / n,
            "spread": _deviation(values),
            "is_binary": binary,
            "method": "exact" if binary else "bounded",
        }
    )


def _unpaired(blank: Comparison, asked: _Question) -> Comparison:
    ours = asked.cases.mean(asked.side, asked.metric, asked.use)
    theirs = asked.cases.mean(asked.other, asked.metric, asked.use)
    scale = asked.scale
    reference = None if theirs is None else theirs.mean * asked.times(theirs.n)
    if ours is None or not 0 <= (mine := scale.share(ours.mean)) <= 1:
        return blank.model_copy(update={"reference": reference})
    times = asked.times(ours.n)
    unit, start = times * scale.width, 0.0
    found: dict[str, Any] = {"value": ours.mean * times, "reference": reference, "n": ours.n, "step": unit / ours.n}
    found |= _known_changes(asked)
    other = None if theirs is None else scale.share(theirs.mean)
    method: Method = "unpaired"
    variance = mine * (1 - mine)
    if asked.against == "value":
        bounds, estimate, start = significance.wilson(mine, ours.n, asked.alpha), mine, scale.low * times
    elif theirs is not None and other is not None and 0 <= other <= 1:
        estimate, variance = mine - other, variance + other * (1 - other)
        bounds = significance.unpaired_difference(mine, ours.n, other, theirs.n, asked.alpha)
        found["reference"] = theirs.mean * times
        if "better" in found and ours.n == theirs.n:
            # The two totals allow one answer only, so the pairs are known though no case was published.
            gone = [1.0] * found["better"] + [-1.0] * found["worse"]
            pairs = [*gone, *(0.0 for _ in range(ours.n - len(gone)))]
            bounds, method = significance.paired_interval(pairs, asked.alpha), "exact"
            variance = _deviation(pairs) ** 2
    else:
        return blank.model_copy(update=found)
    found |= {"estimate": start + estimate * unit, "spread": math.sqrt(variance), "method": method}
    return blank.model_copy(update=found | bounds.scaled(unit, start).model_dump())


def _known_changes(asked: _Question) -> dict[str, Any]:
    """Return wins, losses and their exact test, where they were published without the cases."""
    changes = asked.cases.changes.get(asked.metric)
    if changes is None or asked.side != "candidate" or asked.other != "parent":
        return {}
    p_two_sided = significance.sign_p_two_sided(changes.higher, changes.lower)
    return {"better": changes.higher, "worse": changes.lower, "p_two_sided": p_two_sided}


def _deviation(values: list[float]) -> float:
    center = sum(values) / len(values)
    return math.sqrt(sum((value - center) ** 2 for value in values) / max(1, len(values) - 1))
