"""The cycles of one track as a replay goes through them, with what comparing them needs.

A track grows by a cycle at a time, and every question is asked again at each of them. So each answer is kept and only
taken further: what a probe asks costs the new cycles, not all of them.
"""

from typing import NamedTuple

from policies.cases import Mean
from policies.checks import is_one_measurement
from policies.replay.records import Cycle


class Sides(NamedTuple):
    """A metric of one cycle."""

    base: Mean | None
    candidate: Mean | None


class Pairs:
    """Pairs of figures, and whether all of them lie on one straight line."""

    def __init__(self) -> None:
        self.count = 0
        self.cycles = 0
        """Cycles that were looked at for them."""
        self._points: dict[tuple[float, float], None] = {}
        self._is_line: bool | None = None

    @property
    def distinct(self) -> int:
        """How many different pairs there are."""
        return len(self._points)

    def add(self, left: Mean | None, right: Mean | None) -> None:
        """Take in one pair, if both were measured."""
        if left is None or right is None:
            return
        self.count += 1
        point = (left.mean, right.mean)
        if point not in self._points:
            self._points[point] = None
            self._is_line = None

    def is_line(self) -> bool:
        """Return whether they are one measurement; a pair that is there already says nothing new."""
        if self._is_line is None:
            self._is_line = is_one_measurement(self._points)
        return self._is_line


class Track:
    """The cycles of one track, oldest first, up to the one that is looked at."""

    def __init__(self) -> None:
        self.cycles: list[Cycle] = []
        self.untrained: list[int] = []
        """Places of the cycles that trained nothing."""
        self._columns: dict[str, list[Sides]] = {}
        self._pairs: dict[tuple[str, str], Pairs] = {}
        self._equal: dict[str, tuple[int, dict[Mean, list[str]]]] = {}

    def add(self, cycle: Cycle) -> None:
        """Go on to the next cycle."""
        if cycle.instrument is None and not cycle.foreign:
            self.untrained.append(len(self.cycles))
        self.cycles.append(cycle)

    def column(self, metric: str) -> list[Sides]:
        """Return a `split.metric` of every cycle."""
        column = self._columns.setdefault(metric, [])
        for cycle in self.cycles[len(column) :]:
            column.append(Sides(cycle.figure("base", metric), cycle.figure("candidate", metric)))
        return column

    def pairs(self, one: str, other: str) -> Pairs:
        """Return two metrics beside each other, of the base and the candidate of every cycle."""
        found = self._pairs.setdefault((one, other), Pairs())
        for left, right in zip(self.column(one)[found.cycles :], self.column(other)[found.cycles :], strict=True):
            found.add(left.base, right.base)
            found.add(left.candidate, right.candidate)
        found.cycles = len(self.cycles)
        return found

    def equal_scores(self, metric: str, score: Mean) -> list[str]:
        """Return the ids of the trained cycles whose candidate has one and the same score."""
        seen, by_score = self._equal.get(metric, (0, {}))
        column = self.column(metric)
        for cycle, sides in zip(self.cycles[seen:], column[seen:], strict=True):
            if cycle.instrument is not None and sides.candidate is not None:
                by_score.setdefault(sides.candidate, []).append(cycle.id)
        self._equal[metric] = (len(column), by_score)
        return by_score.get(score, [])
