"""One metric of a candidate against a number or another side: scores by case, estimate, bounds, and the test.

Paired on the cases both sides have; unpaired from published means where there are none, and said so.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field

from policies import significance
from policies.significance import EPSILON, Interval
from state.goal import Against, Statistic, name_of, split_of
from state.records import Measurement, Record, Side, SplitUse

Scores = dict[str, float | None]
"""Metric -> score of one case; None: the grader could not say."""


class Scale(Record):
    """The least and the largest score that one case can have, as `track.ranges` declares it; a share where it does not.

    Every test and bound is for shares: scores are put on 0 to 1 by it, and what comes out is told in their own unit.
    """

    low: float = 0.0
    high: float = 1.0

    @property
    def width(self) -> float:
        """From the least to the largest score."""
        return self.high - self.low

    def share(self, score: float) -> float:
        """Return a score between 0 and 1."""
        return (score - self.low) / self.width

    def best(self, sign: int) -> float:
        """Return the best score, where more is better (+1) or less is (-1)."""
        return self.high if sign > 0 else self.low

    def holds(self, score: float) -> bool:
        """Return whether a score lies on the scale, but for rounding."""
        return abs(self.share(score) - 0.5) <= 0.5 + EPSILON


class Mean(Record):
    """A mean over cases that are not at hand."""

    mean: float
    n: int = Field(ge=1)


class Changes(Record):
    """How many cases rose and fell from parent to candidate, where that is known without the cases."""

    higher: int = Field(ge=0)
    lower: int = Field(ge=0)


class Noise(Record):
    """What the order of the cases alone moves: in half precision the same weights round otherwise beside other rows."""

    sd: float = Field(ge=0)
    """Standard deviation of the difference of two means of the same weights."""
    n: int = Field(ge=1)
    """Cases it was measured on."""

    def of(self, n: int) -> float:
        """Return it for a mean over another number of cases."""
        return self.sd * math.sqrt(self.n / n)


def scales_of(ranges: Mapping[str, tuple[float, float]]) -> dict[str, Scale]:
    """Return declared ranges as scales."""
    return {metric: Scale(low=low, high=high) for metric, (low, high) in ranges.items()}


def scale_of(scales: Mapping[str, Scale], metric: str) -> Scale:
    """Return the scale of a `split.metric`, declared for it or for its metric in every split."""
    return scales.get(metric) or scales.get(name_of(metric)) or _SHARES


_SHARES = Scale()


class Aligned(Record):
    """One metric on the cases that both sides have, in the order of the case ids."""

    cases: tuple[str, ...]
    candidate: tuple[float, ...]
    reference: tuple[float, ...]
    excluded: int
    """Cases left out because a side lacks them or its grader could not say."""

    @property
    def differences(self) -> list[float]:
        """Candidate minus reference, one per case."""
        return [ours - theirs for ours, theirs in zip(self.candidate, self.reference, strict=True)]


class CaseTable(Record):
    """What was measured: side -> split -> use -> case -> metric -> score."""

    cells: dict[Side, dict[str, dict[SplitUse, dict[str, Scores]]]] = Field(default_factory=dict)
    means: dict[Side, dict[str, Mean]] = Field(default_factory=dict)
    """side -> `split.metric` -> mean; used only where a side has no cases of that split."""
    changes: dict[str, Changes] = Field(default_factory=dict)
    """`split.metric` -> how the 0/1 scores of the candidate differ from the parent's; used beside means only."""

    noise: dict[str, Noise] = Field(default_factory=dict)
    """`split.metric` -> what the order of the cases moves; empty in float32, where it moves nothing."""
    scales: dict[str, Scale] = Field(default_factory=dict)
    """Metric, by its own name or as `split.metric` -> its scale; left out: a share."""

    @classmethod
    def from_measurements(
        cls,
        rows: Iterable[Measurement],
        weights: Mapping[Side, str] | None = None,
        noise: Mapping[str, Noise] | None = None,
        ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> "CaseTable":
        """Return a table of measurements; a later row of the same side and case replaces an earlier one.

        Args:
            rows: Measurements of any weights.
            weights: Side -> weights hash: which measurements play which side. One measurement may play two (the base
                is the parent of the first run). Without it each row keeps the side it was taken for.
            noise: Of the harness.
            ranges: Metric -> least and largest score, as the campaign declares them.
        """
        cells: dict[Any, Any] = {}
        roles: dict[str, list[Side]] = {}
        for side, name in (weights or {}).items():
            roles.setdefault(name, []).append(side)
        for row in rows:
            for side in [row.side] if weights is None else roles.get(row.weights, ()):
                part = cells.setdefault(side, {}).setdefault(row.split, {}).setdefault(row.use, {})
                part[row.case] = dict(row.metrics)
        return cls(cells=cells, noise=dict(noise or {}), scales=scales_of(ranges or {}))

    def scale(self, metric: str) -> Scale:
        """Return the scale of a `split.metric`."""
        return scale_of(self.scales, metric)

    def cases(self, side: Side, split: str, use: SplitUse) -> dict[str, Scores]:
        """Return the scores of one side on one part of a split; empty when it was not measured."""
        return self.cells.get(side, {}).get(split, {}).get(use, {})

    def values(self, side: Side, metric: str, use: SplitUse) -> tuple[dict[str, float], int]:
        """Return case -> score of one `split.metric`, sorted by case, and how many cases had none."""
        split, name = split_of(metric), name_of(metric)
        rows = self.cases(side, split, use)
        scores = {case: rows[case].get(name) for case in sorted(rows)}
        known = {case: float(score) for case, score in scores.items() if score is not None}
        return known, len(scores) - len(known)

    def mean(self, side: Side, metric: str, use: SplitUse) -> Mean | None:
        """Return one side's mean, from its cases if there are any."""
        known, _ = self.values(side, metric, use)
        if known:
            return Mean(mean=sum(known.values()) / len(known), n=len(known))
        return self.means.get(side, {}).get(metric)

    def off_scale(self, metric: str, use: SplitUse) -> float | None:
        """Return the score of a `split.metric` that lies furthest off its scale, of any side; None where none does."""
        scale = self.scale(metric)
        scores = (score for side in self.cells for score in self.values(side, metric, use)[0].values())
        return max((score for score in scores if not scale.holds(score)), key=abs, default=None)

    def aligned(self, side: Side, reference: Side, metric: str, use: SplitUse) -> Aligned:
        """Return one metric of two sides on the cases both have."""
        ours, _ = self.values(side, metric, use)
        theirs, _ = self.values(reference, metric, use)
        split = split_of(metric)
        everyone = {*self.cases(side, split, use), *self.cases(reference, split, use)}
        shared = tuple(case for case in ours if case in theirs)
        return Aligned(
            cases=shared,
            candidate=tuple(ours[case] for case in shared),
            reference=tuple(theirs[case] for case in shared),
            excluded=len(everyone) - len(shared),
        )


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


def _changes(blank: Comparison, question: _Question) -> Comparison:
    """Set the case-by-case differences to the reference side."""
    pairs = question.cases.aligned(question.side, question.other, question.metric, question.use)
    if not pairs.cases:
        return blank
    higher = tuple(case for case, d in zip(pairs.cases, pairs.differences, strict=True) if d > 0)
    lower = tuple(case for case, d in zip(pairs.cases, pairs.differences, strict=True) if d < 0)
    p_two_sided = significance.sign_p_two_sided(len(higher), len(lower))
    reference = sum(pairs.reference) / len(pairs.cases) * question.times(len(pairs.cases))
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


def _paired(blank: Comparison, question: _Question) -> Comparison:
    pairs = question.cases.aligned(question.side, question.other, question.metric, question.use)
    n, scale = len(pairs.cases), question.scale
    differences = [each / scale.width for each in pairs.differences]
    unit = question.times(n) * scale.width
    binary = significance.is_binary([scale.share(each) for each in (*pairs.candidate, *pairs.reference)])
    center = sum(differences) / n
    noise = question.cases.noise.get(question.metric)
    noise_sd = 0.0 if noise is None else noise.of(n) / scale.width
    by = significance.normal_quantile(1 - question.alpha) * noise_sd
    bounds = _widened(significance.paired_interval(differences, question.alpha), center, by)
    typical = None if binary else _widened(significance.typical_interval(differences, question.alpha), center, by)
    return _changes(blank, question).model_copy(
        update={
            "value": sum(pairs.candidate) / n * question.times(n),
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


def _new_failures(blank: Comparison, question: _Question) -> Comparison:
    """Count the cases that had full marks and lost them; without cases of both sides nothing is known."""
    pairs = question.cases.aligned(question.side, question.other, question.metric, question.use)
    n = len(pairs.cases)
    if not n:
        return blank
    full = question.scale.high
    broken = [before >= full > after for before, after in zip(pairs.reference, pairs.candidate, strict=True)]
    flags = [float(each) for each in broken]
    bounds = significance.exact_interval(sum(broken), n, question.alpha).scaled(n)
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


def _single(blank: Comparison, question: _Question) -> Comparison:
    known, unknown = question.cases.values(question.side, question.metric, question.use)
    values = [question.scale.share(each) for each in known.values()]
    n = len(values)
    split = split_of(question.metric)
    ours, theirs = (question.cases.cases(side, split, question.use) for side in (question.side, question.other))
    unit = question.times(n) * question.scale.width
    bounds = significance.mean_interval(values, question.alpha)
    mean = sum(known.values()) / n * question.times(n)
    binary = significance.is_binary(values)
    return _changes(blank, question).model_copy(
        update={
            "value": mean,
            "estimate": mean,
            **bounds.scaled(unit, question.scale.low * question.times(n)).model_dump(),
            "n": n,
            "excluded": unknown + len(theirs.keys() - ours.keys()),
            "step": unit / n,
            "spread": _deviation(values),
            "is_binary": binary,
            "method": "exact" if binary else "bounded",
        }
    )


def _unpaired(blank: Comparison, question: _Question) -> Comparison:
    ours = question.cases.mean(question.side, question.metric, question.use)
    theirs = question.cases.mean(question.other, question.metric, question.use)
    scale = question.scale
    reference = None if theirs is None else theirs.mean * question.times(theirs.n)
    if ours is None or not 0 <= (mine := scale.share(ours.mean)) <= 1:
        return blank.model_copy(update={"reference": reference})
    times = question.times(ours.n)
    unit, start = times * scale.width, 0.0
    fields: dict[str, Any] = {"value": ours.mean * times, "reference": reference, "n": ours.n, "step": unit / ours.n}
    fields |= _known_changes(question)
    other = None if theirs is None else scale.share(theirs.mean)
    method: Method = "unpaired"
    variance = mine * (1 - mine)
    if question.against == "value":
        bounds, estimate, start = significance.wilson(mine, ours.n, question.alpha), mine, scale.low * times
    elif theirs is not None and other is not None and 0 <= other <= 1:
        estimate, variance = mine - other, variance + other * (1 - other)
        bounds = significance.unpaired_difference(mine, ours.n, other, theirs.n, question.alpha)
        fields["reference"] = theirs.mean * times
        if "better" in fields and ours.n == theirs.n:
            # The two totals allow one answer only, so the pairs are known though no case was published.
            gone = [1.0] * fields["better"] + [-1.0] * fields["worse"]
            pairs = [*gone, *(0.0 for _ in range(ours.n - len(gone)))]
            bounds, method = significance.paired_interval(pairs, question.alpha), "exact"
            variance = _deviation(pairs) ** 2
    else:
        return blank.model_copy(update=fields)
    fields |= {"estimate": start + estimate * unit, "spread": math.sqrt(variance), "method": method}
    return blank.model_copy(update=fields | bounds.scaled(unit, start).model_dump())


def _known_changes(question: _Question) -> dict[str, Any]:
    """Return wins, losses and their exact test, where they were published without the cases."""
    changes = question.cases.changes.get(question.metric)
    if changes is None or question.side != "candidate" or question.other != "parent":
        return {}
    p_two_sided = significance.sign_p_two_sided(changes.higher, changes.lower)
    return {"better": changes.higher, "worse": changes.lower, "p_two_sided": p_two_sided}


def _deviation(values: list[float]) -> float:
    center = sum(values) / len(values)
    return math.sqrt(sum((value - center) ** 2 for value in values) / max(1, len(values) - 1))
