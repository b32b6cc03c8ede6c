"""A trajectory as the replay reads it: cycles, the tracks they go through, and what is said about each.

A track grows by a cycle at a time, and every question is asked again at each of them. So each answer is kept and only
taken further: what a probe asks costs the new cycles, not all of them.
"""

from typing import Literal, NamedTuple, get_args

from pydantic import Field

from policies.checks import is_one_measurement
from policies.comparison import CaseTable, Mean
from policies.gate import Decided
from policies.verdict import Prediction
from state.goal import Condition, Gate, Search
from state.records import Bucket, Finding, Instrument, Json, Record

Known = Literal["before training", "before evaluation", "after evaluation"]
"""The earliest moment at which a finding could have been made; only the first saves a cycle."""


class RecordedCondition(Record):
    """One gate condition as somebody wrote it down."""

    id: str
    asked: str
    """As written: `composite_delta >= -0.005`."""
    op: str
    """`>=`, `<=`, `>`, `<`, `==`, or `abs_delta<=`: how far the parent may be from what it is expected to score."""
    threshold: float
    condition: Condition | None = None
    """The same question about figures of the record; None: the record has no such figures."""
    value: float | None = None
    """What the record says was measured."""
    holds: bool | None = None
    """What the record says of it; None: not judged there."""


class Cycle(Record):
    """One recorded cycle: an experiment, or a measurement without training."""

    id: str
    track: str = ""
    """Cycles of one track share task and harness."""
    kind: str = "none"
    """Instrument in the record's own word."""
    instrument: Instrument | None = None
    """None: nothing was trained, or `foreign` says what was done."""
    gate: Gate | None = None
    """The conditions that figures of the record can answer."""
    conditions: tuple[RecordedCondition, ...] = ()
    passed: bool | None = None
    bucket: Bucket | None = None
    """The record's own verdict."""
    cases: CaseTable = CaseTable()
    is_measured: bool = False
    """The candidate has figures."""
    has_confirmation: bool = False
    """The record tells confirmation cases from those that runs were compared on."""
    is_confirmed: bool = False
    """The gate is judged on confirmation cases, or on the only ones there are."""
    ceilings: dict[str, float] = Field(default_factory=dict)
    """`split.metric` -> what the references score through the harness; left out: withheld or never measured."""
    budgets: dict[str, tuple[tuple[int, float], ...]] = Field(default_factory=dict)
    """`split.metric` -> (max_tokens, ceiling) pairs."""
    harness_gate: tuple[Condition, ...] = ()
    """What the harness file says the campaign is after, whatever the cycle's own gate asks."""
    predicted: Prediction | None = None
    control: str | None = None
    noise_floor: float = 0.0
    alpha: float | None = None
    """Level that the recorded opening of confirmation was judged at; the gate's own where it is not told."""
    dense: dict[str, str] = Field(default_factory=dict)
    search: Search = Search()
    looks: int = 1
    """Saves that were compared before the run was judged at the best; the level of its verdict is divided by it."""
    wall_s: float | None = None
    """Training time, seconds."""
    notes: Json = Field(default_factory=dict)
    """`recipe`, `data`, `train`, `artifact_bytes` and `evaluated_on` in the record's own shape."""

    @property
    def foreign(self) -> str:
        """The record's word for an instrument that is none of Vigil's, empty otherwise; it may have trained or not."""
        is_known = self.instrument is not None or self.kind in {"", "none", *get_args(Instrument)}
        return "" if is_known else self.kind

    def figure(self, side: Literal["base", "parent", "candidate"], metric: str) -> Mean | None:
        """Return one side's mean of a `split.metric`."""
        return self.cases.mean(side, metric, "confirmation") or self.cases.mean(side, metric, "selection")


class Halt(Record):
    """A hard stop that the record itself holds."""

    sentence: str
    fix: str
    mode: str = ""
    claim: str = ""
    saved_s: float = 0.0
    """Training time not spent, by the record's own estimate, seconds."""


class Trajectory(Record):
    """Cycles in the order in which they were run."""

    cycles: tuple[Cycle, ...]
    halt: Halt | None = None


class ReplayFinding(Finding):
    """Something that the record shows and that bears on a cycle."""

    known: Known
    others: tuple[str, ...] = ()
    """Other conditions that it holds for; the sentence ends with their names and a full stop."""

    @property
    def prevents(self) -> bool:
        """Whether it would have kept the cycle from being trained."""
        return self.severity == "hard_stop" and self.known == "before training"


class ReplayedCondition(Record):
    """One gate condition, judged again."""

    id: str
    asked: str
    metric: str
    """The metric judged; empty where the record's own number was taken."""
    is_plain: bool
    """Decided by the bare number."""
    is_difference: bool
    """The value is candidate minus parent or base."""
    value: float | None
    """The value, or the difference."""
    low: float | None
    high: float | None
    n: int
    method: str
    holds: bool
    decided: Decided
    label: str
    p_two_sided: float | None
    cases_needed: int | None
    recorded: bool | None
    """What the record says of it."""
    agrees: bool | None
    """Whether it says the same; None: it says nothing."""


class NextStep(Record):
    """What Vigil would have done after, or instead of, a cycle."""

    action: Literal["halt", "promote", "measure", "train", "conclude"]
    rule: str
    sentence: str


class ReplayedCycle(Record):
    """A cycle, judged again."""

    id: str
    track: str
    instrument: str
    """In the record's own word; empty where no instrument of Vigil's was used."""
    foreign: str
    """An instrument that is none of Vigil's, in the record's own word."""
    gate: tuple[ReplayedCondition, ...]
    passed: bool | None
    """Whether every condition holds; None: there was no gate."""
    bucket: Bucket | None
    rule: str
    """The bucket's rule; empty where there is no bucket."""
    sentence: str
    recorded_bucket: Bucket | None
    recorded_passed: bool | None
    agrees: bool | None
    """Whether gate and bucket are as recorded, as far as the record has them."""
    findings: tuple[ReplayFinding, ...]
    next: NextStep


class Stop(Record):
    """The first moment at which Vigil would have refused to spend."""

    cycle: str
    """The cycle that would not have been trained; empty: the campaign was halted before any."""
    track: str
    when: Known
    mode: str
    claim: str
    sentence: str
    fix: str


class Saved(Record):
    """What would not have been spent."""

    cycles: int
    ids: tuple[str, ...]
    hours: float
    """Of the cycles whose time is recorded."""
    unknown: tuple[str, ...]
    """Saved cycles whose time is not recorded."""


class Replay(Record):
    """A whole trajectory, judged again."""

    cycles: tuple[ReplayedCycle, ...]
    first_stop: Stop | None
    saved: Saved
    sentences: tuple[str, ...]
    """What to take away, for people."""


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
