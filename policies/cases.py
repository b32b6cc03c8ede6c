"""Scores as policies read them: per case where there are cases, a mean and a count where only those were published."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from state.records import Measurement, Record, Side, SplitUse

_EPSILON = 1e-9
"""Sums of floats that are equal on paper are equal here."""

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
        return abs(self.share(score) - 0.5) <= 0.5 + _EPSILON


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
    return scales.get(metric) or scales.get(metric.partition(".")[2]) or _SHARES


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
        split, _, name = metric.partition(".")
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

    def aligned(self, side: Side, reference: Side, metric: str, use: SplitUse) -> Aligned:
        """Return one metric of two sides on the cases both have."""
        ours, _ = self.values(side, metric, use)
        theirs, _ = self.values(reference, metric, use)
        split = metric.partition(".")[0]
        everyone = {*self.cases(side, split, use), *self.cases(reference, split, use)}
        shared = tuple(case for case in ours if case in theirs)
        return Aligned(
            cases=shared,
            candidate=tuple(ours[case] for case in shared),
            reference=tuple(theirs[case] for case in shared),
            excluded=len(everyone) - len(shared),
        )
