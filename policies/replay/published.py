"""Trajectories read from what people have: a published log of cycles with a harness file, and Vigil's own export.

One object per cycle: `id`, `track`, `instrument`, `recipe`, `data`, one object of figures per split, `base` with the
same, `gate` with its conditions as they were applied, `bucket`, `train`. Decimals are means, of percent where a metric
goes above one somewhere in the log; whole numbers are counts of cases, where a metric or what is asked of it goes above
one, or its name counts (`parse_errors`); `[passed, cases]` is a count with its own cases.
A condition says in its name what it measures: `composite_delta`, `stress_rows_kept_mean`, `best_of_unit_format_delta`;
or by `metric` and `against` outright. What a log keeps beside the figures stays in `Cycle.notes`.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args

from pydantic import ConfigDict, Field

from policies import significance
from policies.comparison import CaseTable, Changes, Mean, Noise, Scale, scales_of
from policies.replay.probes import number, part
from policies.replay.records import Cycle, Halt, RecordedCondition, Trajectory
from policies.target import find_target
from policies.verdict import ALPHA, Prediction
from state.goal import Against, Condition, Gate, Goal, Metric, name_of, split_of
from state.records import (
    Action,
    Belief,
    Bucket,
    Decision,
    GoalVersion,
    Instrument,
    Json,
    Measurement,
    Record,
    Run,
    Side,
)

PLAIN = "applied as recorded"
"""Why a published gate is judged by bare numbers."""

ALIASES = {"tier_accuracy": "overall_correct", "rh": "rh_like"}
"""A condition's word for a figure that the log keeps under another name."""

_COUNTING = frozenset(
    {"correct", "count", "counts", "error", "errors", "failed", "failures", "parses", "passed", "wins"}
)
"""Words by which a figure's name says that it counts cases, though none of its numbers goes above one."""

_PERCENT_WORDS = frozenset({"pct", "percent", "percentage"})

_OTHER_UNITS = frozenset(
    {"chars", "kl", "length", "loss", "minutes", "ms", "perplexity", "ppl", "rows", "seconds", "tokens", "words"}
)
"""Words by which a figure's name says that it is in a unit of its own."""

_PERCENT = Scale(high=100.0)

MAX_CASES = 100_000
"""A figure said to stand on more cases than this is left out: no evaluation is that large."""

_MOST_TOKENS = 1_000_000

_SPLITS = ("regular", "stress")
Op = Literal[">=", "<=", ">", "<", "==", "abs_delta<="]


class _Loose(Record):
    """A part of a log that may hold more than the replay reads."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class PublishedCondition(_Loose):
    """One condition of a published gate."""

    name: str = Field(min_length=1)
    op: Op
    threshold: float
    value: float | None = None
    passed: bool | None = None
    metric: Metric | None = None
    """`split.metric`, where the name does not say it."""
    against: Against | None = None


class PublishedGate(_Loose):
    """A published gate and what it said."""

    name: str = ""
    conditions: tuple[PublishedCondition, ...] = ()
    passed: bool | None = None


class PublishedCycle(_Loose):
    """One entry of a published log."""

    id: str = Field(min_length=1)
    track: str = ""
    instrument: str = "none"
    recipe: Json | None = None
    data: Json | None = None
    base: Json | None = None
    gate: PublishedGate | None = None
    bucket: Bucket | None = None
    train: Json | None = None
    predicted: Prediction | None = None
    """Where the figure was expected before the run; most logs have none."""
    control: Metric | None = None


class HarnessCase(_Loose):
    """One case of a harness file."""

    rows: int = Field(gt=0)
    gold_tokens: int = Field(gt=0, le=_MOST_TOKENS)
    gold_tokens_without_last_newline: int | None = None


class HarnessGate(_Loose):
    """What a harness file's metric is asked for."""

    metric: Metric
    min: float | None = None
    max: float | None = None


class PublishedHarness(_Loose):
    """How a split was measured: the decode budget and the size of each reference answer."""

    max_tokens: int = Field(gt=0, le=_MOST_TOKENS)
    gate: HarnessGate
    measured: dict[str, float] = Field(default_factory=dict)
    """Cycle id -> score; says which track the harness belongs to."""
    cases: Annotated[tuple[HarnessCase, ...], Field(min_length=1)]

    @property
    def condition(self) -> Condition | None:
        """The gate as a condition; None where it names no bound."""
        if (self.gate.min is None) == (self.gate.max is None):
            return None
        return Condition(metric=self.gate.metric, min=self.gate.min, max=self.gate.max, test="plain", reason=PLAIN)

    @property
    def ceiling(self) -> float:
        """What the references score at the harness's decode budget."""
        counted = f"rows_counted_at_{self.max_tokens}"
        rows = [(case, (case.model_extra or {}).get(counted)) for case in self.cases]
        if all(isinstance(seen, int) for _, seen in rows):
            return sum(int(seen or 0) >= case.rows for case, seen in rows) / len(rows)
        return self.ceiling_at(self.max_tokens)

    def ceiling_at(self, max_tokens: int) -> float:
        """Return the share of reference answers that fit whole into a decode budget."""
        sizes = [case.gold_tokens_without_last_newline or case.gold_tokens for case in self.cases]
        return sum(size <= max_tokens for size in sizes) / len(sizes)

    @property
    def curve(self) -> tuple[tuple[int, float], ...]:
        """The ceiling at larger budgets, in steps of 128 tokens, up to the longest reference answer."""
        longest = max(case.gold_tokens for case in self.cases)
        budgets = range(self.max_tokens + 128, longest + 128, 128)
        return ((self.max_tokens, self.ceiling), *((tokens, self.ceiling_at(tokens)) for tokens in budgets))


def published_trajectory(entries: Sequence[PublishedCycle], harness: PublishedHarness | None = None) -> Trajectory:
    """Return a published log as a trajectory.

    Args:
        entries: The log, oldest first.
        harness: What is known of the evaluator; None withholds its ceiling.
    """
    splits = _splits(entries)
    fields = _fields(entries, splits)
    tracks = _tracks(entries, harness)
    cycles = []
    for entry in entries:
        cycle = _cycle(entry, splits, fields)
        cycles.append(cycle if harness is None or entry.track not in tracks else _measured_by(cycle, harness))
    return Trajectory(cycles=tuple(cycles))


def _splits(entries: Iterable[PublishedCycle]) -> tuple[str, ...]:
    named = {name for entry in entries for name, value in (entry.base or {}).items() if isinstance(value, dict)}
    return tuple(dict.fromkeys((*_SPLITS, *sorted(named))))


def _sides(entry: PublishedCycle, splits: Sequence[str]) -> list[tuple[str, Json, Json]]:
    """Return split, the candidate's figures and the base's, for each split."""
    extra = entry.model_extra or {}
    return [(split, _figures(extra.get(split)), _figures((entry.base or {}).get(split))) for split in splits]


def _figures(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


class _Fields(NamedTuple):
    """How the figures of a log are to be read, by their names."""

    counts: frozenset[str]
    """Of cases."""
    percents: frozenset[str]
    """Means from 0 to 100."""

    def scale(self, metric: str) -> Scale:
        """Return the scale of a `split.metric`."""
        return _PERCENT if name_of(metric) in self.percents else Scale()


def _fields(entries: Sequence[PublishedCycle], splits: Sequence[str]) -> _Fields:
    """Return which figures count cases and which are in percent.

    Counts are `[passed, cases]`, or whole numbers all through that one above one, the gate or the name calls so.
    """
    seen: dict[str, list[float]] = {}
    counts: set[str] = set()
    percents: set[str] = set()
    beyond: set[str] = set()
    for entry in entries:
        for _, *sides in _sides(entry, splits):
            for figures in sides:
                counts |= {name for name, value in figures.items() if _is_pair(value)}
                numbers = {name: value for name, value in figures.items() if _is_number(value) and name != "n"}
                for name, value in numbers.items():
                    seen.setdefault(name, []).append(value)
                n = figures.get("n")
                # More cases than there are is no count of them.
                beyond |= {name for name, value in numbers.items() if isinstance(n, int) and value > n}
    asked, above_one = _asked_for(entries, splits)
    for name, values in seen.items():
        words = set(name.lower().split("_"))
        is_counted = max(values) > 1 or name in above_one or not _COUNTING.isdisjoint(words)
        is_whole = all(isinstance(value, int) for value in values)
        if is_counted and is_whole and name not in beyond and _PERCENT_WORDS.isdisjoint(words):
            counts.add(name)
        is_percent = (name in asked and _OTHER_UNITS.isdisjoint(words)) or not _PERCENT_WORDS.isdisjoint(words)
        if is_percent and name not in counts and 1 < max(values) <= _PERCENT.high:
            percents.add(name)
    return _Fields(frozenset(counts), frozenset(percents))


def _asked_for(entries: Sequence[PublishedCycle], splits: Sequence[str]) -> tuple[set[str], set[str]]:
    """Return the figures that a gate asks for, and those of which it asks more than one and no more than all cases."""
    found: set[str] = set()
    above_one: set[str] = set()
    for entry in entries:
        figures = {
            f"{split}.{name}": side.get("n")
            for split, *sides in _sides(entry, splits)
            for side in sides
            for name in side
        }
        known = _Names(splits, frozenset(figures), _Fields(frozenset(), frozenset()))
        for row in () if entry.gate is None else entry.gate.conditions:
            metrics, _ = _asks(row, known) or ((), "value")
            sizes = [figures.get(metric) for metric in metrics]
            names = {name_of(metric) for metric in metrics}
            found |= names
            above_one |= names if all(isinstance(n, int) and 1 < row.threshold <= n for n in sizes) else set()
    return found, above_one


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tracks(entries: Iterable[PublishedCycle], harness: PublishedHarness | None) -> frozenset[str]:
    """Return the tracks that a harness file belongs to: those of the cycles it names, else those with its split."""
    if harness is None:
        return frozenset()
    rows = list(entries)
    named = {entry.track for entry in rows if entry.id in harness.measured}
    split = split_of(harness.gate.metric)
    return frozenset(named or {entry.track for entry in rows if isinstance((entry.model_extra or {}).get(split), dict)})


def _measured_by(cycle: Cycle, harness: PublishedHarness) -> Cycle:
    metric, condition = harness.gate.metric, harness.condition
    return cycle.model_copy(
        update={
            "ceilings": {metric: harness.ceiling},
            "budgets": {metric: harness.curve},
            "harness_gate": () if condition is None else (condition,),
        }
    )


_INSTRUMENTS: tuple[Instrument, ...] = get_args(Instrument)


def _cycle(entry: PublishedCycle, splits: Sequence[str], fields: _Fields) -> Cycle:
    candidate: dict[str, Mean] = {}
    base: dict[str, Mean] = {}
    for split, ours, theirs in _sides(entry, splits):
        candidate |= _means(split, ours, fields)
        base |= _means(split, theirs, fields)
    known = _Names(splits, frozenset(candidate) | frozenset(base), fields)
    recorded = entry.gate or PublishedGate()
    conditions = tuple(_condition(row, known) for row in recorded.conditions)
    asked = tuple(row.condition for row in conditions if row.condition is not None)
    cases = CaseTable(
        means={"candidate": candidate, "parent": base, "base": base},
        changes=_changes(base, candidate, fields.counts),
        scales=dict.fromkeys(fields.percents, _PERCENT),
    )
    kind = entry.instrument.lower()
    return Cycle(
        id=entry.id,
        track=entry.track,
        kind=kind,
        instrument=next((name for name in _INSTRUMENTS if kind.startswith(name)), None),
        gate=_gate(asked, cases) if asked else None,
        conditions=conditions,
        passed=recorded.passed,
        bucket=entry.bucket,
        cases=cases,
        is_measured=bool(candidate),
        is_confirmed=True,
        predicted=entry.predicted,
        control=entry.control,
        wall_s=_wall_s(entry.train or {}, entry.recipe or {}),
        notes={
            "recipe": entry.recipe or {},
            "data": entry.data or {},
            "train": entry.train or {},
            "base": {name: value for name, value in (entry.base or {}).items() if _is_number(value)},
            "parent": (entry.model_extra or {}).get("parent"),
            "artifact_bytes": _figures((entry.model_extra or {}).get("artifact_bytes")),
            "evaluated_on": (entry.model_extra or {}).get("eval_base_model_reported"),
        },
    )


def _gate(asked: Sequence[Condition], cases: CaseTable) -> Gate:
    """Return a published gate; its log names no metric that matters, so the one that its parent lacked most does."""
    alone = ((c.id, Gate(conditions=(c,), alpha=ALPHA, max_confirmations=1)) for c in asked)
    targets = {name: find_target(gate, cases, use="selection") for name, gate in alone}
    gaps = {name: target.gap / target.scale.width for name, target in targets.items() if target is not None}
    primary = max(gaps, key=lambda name: gaps[name], default=None)
    return Gate(conditions=tuple(asked), primary=primary, alpha=ALPHA, max_confirmations=1)


def _means(split: str, figures: Json, fields: _Fields) -> dict[str, Mean]:
    """Return `split.metric` -> mean of every figure that is a share of cases, or in percent."""
    n = figures.get("n")
    found = {}
    for name, value in figures.items():
        part, cases = value if _is_pair(value) else (value, n)
        if name == "n" or not _is_number(part) or not isinstance(cases, int) or not 0 < cases <= MAX_CASES:
            continue
        mean = part / cases if name in fields.counts else part
        if fields.scale(f"{split}.{name}").holds(mean):
            found[f"{split}.{name}"] = Mean(mean=mean, n=cases)
    return found


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, int) for v in value) and value[1] > 0  # noqa: PLR2004 - passed, cases


def _changes(base: Mapping[str, Mean], candidate: Mapping[str, Mean], counts: frozenset[str]) -> dict[str, Changes]:
    """Return wins and losses where two counts of the same cases allow one answer only."""
    found = {}
    for metric, ours in candidate.items():
        theirs = base.get(metric)
        if theirs is None or theirs.n != ours.n or name_of(metric) not in counts:
            continue
        implied = significance.implied_changes(round(theirs.mean * ours.n), round(ours.mean * ours.n), ours.n)
        if implied is not None and any(implied):
            found[metric] = Changes(higher=implied[0], lower=implied[1])
    return found


class _Names(NamedTuple):
    """What a condition's name may speak of."""

    splits: Sequence[str]
    metrics: frozenset[str]
    fields: _Fields

    def find(self, split: str, word: str) -> str | None:
        """Return the `split.metric` that a word means: by its name, by an alias, or as the only one it begins."""
        for name in (word, ALIASES.get(word, word), word.partition("_and_")[0]):
            if f"{split}.{name}" in self.metrics:
                return f"{split}.{name}"
        begun = [metric for metric in self.metrics if metric.startswith(f"{split}.{word}_")]
        return begun[0] if len(begun) == 1 else None


def _condition(row: PublishedCondition, known: _Names) -> RecordedCondition:
    asked = f"{re.split('[<>=]', row.name)[0]} {row.op} {row.threshold:g}"
    factor = _factor(row, known)
    value = None if row.value is None else row.value * factor
    row = row.model_copy(update={"threshold": row.threshold * factor, "value": value})
    return RecordedCondition(
        id=row.name,
        asked=asked,
        op=row.op,
        threshold=row.threshold,
        condition=_question(row, known),
        value=row.value,
        holds=row.passed,
    )


def _factor(row: PublishedCondition, known: _Names) -> float:
    """Return what a condition in percent of figures that are shares is multiplied with, or the other way round."""
    found = _asks(row, known)
    numbers = [abs(number) for number in (row.threshold, row.value) if number is not None]
    if found is None or found[1] != "value" or any(name_of(m) in known.fields.counts for m in found[0]):
        return 1.0
    is_percent = known.fields.scale(found[0][0]) is _PERCENT
    if is_percent:
        return _PERCENT.high if 0 < max(numbers) <= 1 else 1.0
    return 1 / _PERCENT.high if 1 < max(numbers) <= _PERCENT.high else 1.0


def _asks(row: PublishedCondition, known: _Names) -> tuple[tuple[str, ...], Against] | None:
    """Return the metrics of a condition and what they are compared with, as its keys or its name say."""
    return ((row.metric,), row.against or "value") if row.metric is not None else _read_name(row.name, known)


def _question(row: PublishedCondition, known: _Names) -> Condition | None:
    """Return what a published condition asks of the record's figures, or None where they cannot answer."""
    bounds = {">=": ("min",), "<=": ("max",), "==": ("max",) if row.threshold == 0 else ()}.get(row.op, ())
    found = _asks(row, known)
    if not bounds or found is None:
        return None
    metrics, against = found
    name = name_of(metrics[0])
    spec: Json = {"metric": metrics[0]} if len(metrics) == 1 else {"any_of": metrics}
    return Condition.model_validate(
        {
            **spec,
            "id": row.name,
            "against": against,
            "statistic": "count" if name in known.fields.counts else "mean",
            bounds[0]: row.threshold,
            "test": "plain",
            "reason": PLAIN,
        }
    )


def _read_name(name: str, known: _Names) -> tuple[tuple[str, ...], Against] | None:
    """Return the metrics and what they are compared with, as a condition's name says."""
    words = re.split("[<>=]", name)[0]
    against: Against = "parent" if words.endswith("_delta") else "value"
    words = words.removesuffix("_delta").removesuffix("_mean")
    split = next((split for split in known.splits if words.startswith(f"{split}_")), known.splits[0])
    words = words.removeprefix(f"{split}_")
    if not words.startswith("best_of_"):
        metric = known.find(split, words)
        return None if metric is None else ((metric,), against)
    several = [known.find(split, word) for word in words.removeprefix("best_of_").split("_")]
    metrics = tuple(metric for metric in several if metric is not None)
    return (metrics, against) if metrics and len(metrics) == len(several) else None


def _wall_s(train: Json, recipe: Json) -> float | None:
    """Return the training time: as stated, as the sum of its phases, or from seconds per iteration."""
    if _is_number(train.get("wall_minutes")):
        return 60 * float(train["wall_minutes"])
    phases = train.get("wall_minutes_by_phase")
    if isinstance(phases, list) and phases and all(_is_number(minutes) for minutes in phases):
        return 60 * float(sum(phases))
    if _is_number(train.get("s_per_iter")) and _is_number(recipe.get("iters")):
        return float(train["s_per_iter"] * recipe["iters"])
    return None


_Kind = TypeVar("_Kind", bound=Record)


TABLES: Mapping[str, type[Record]] = {
    "run": Run,
    "action": Action,
    "belief": Belief,
    "decision": Decision,
    "measurement": Measurement,
    "goal": GoalVersion,
}
"""The tables a replay reads, and what their rows are."""


class _Measured:
    """Measurements of one harness, by the weights that were measured, so that a run's are found without the others'."""

    def __init__(self, rows: Iterable[Measurement]) -> None:
        self.of: dict[str, list[Measurement]] = {}
        self.base = ""
        self.candidates: dict[str, str] = {}
        """Run -> weights."""
        for row in rows:
            self.of.setdefault(row.weights, []).append(row)
            if row.side == "base":
                self.base = row.weights
            else:
                self.candidates[row.run] = row.weights


class _Export:
    """The rows of an export, sorted by kind."""

    def __init__(self, rows: Sequence[Record]) -> None:
        def of(kind: type[_Kind]) -> list[_Kind]:
            return [row for row in rows if isinstance(row, kind)]

        self.runs = of(Run)
        self.actions = of(Action)
        self.beliefs = of(Belief)
        self.decisions = of(Decision)
        self.measurements = of(Measurement)
        self.goals = {row.version: Goal.model_validate(row.spec) for row in of(GoalVersion)}
        self._measured: dict[frozenset[str] | None, _Measured] = {}
        self.track = next((goal.campaign for goal in self.goals.values()), "")

    def measured(self, evaluations: frozenset[str] | None) -> _Measured:
        """Return what some evaluations measured, all of it for None."""
        if evaluations not in self._measured:
            rows = self.measurements
            chosen = rows if evaluations is None else [row for row in rows if row.evaluation in evaluations]
            self._measured[evaluations] = _Measured(chosen)
        return self._measured[evaluations]

    def verdict_on(self, run: Run) -> Decision | None:
        """Return the decision that gave a run its bucket; a later one replaces an earlier one."""
        return next((d for d in reversed(self.decisions) if d.run == run.id and d.bucket is not None), None)

    def goal_of(self, decision: Decision | None) -> Goal | None:
        """Return the goal that a verdict was given under, the newest where there is none."""
        version = max(self.goals, default=0) if decision is None else decision.goal_version
        return self.goals.get(version)


def exported_trajectory(rows: Sequence[Record]) -> Trajectory:
    """Return an export as a trajectory.

    Args:
        rows: Records of the tables in `TABLES`, in the order of writing.

    Raises:
        pydantic.ValidationError: A goal was recorded by a Vigil whose goals have other keys.
    """
    export = _Export(rows)
    halts = [decision for decision in export.decisions if decision.action == "halt"]
    return Trajectory(
        cycles=tuple(_exported_cycle(export, run) for run in export.runs),
        halt=_halt(export, halts[0]) if halts else None,
    )


def _halt(export: _Export, decision: Decision) -> Halt:
    belief = next((b for b in export.beliefs if b.id == decision.action_inputs.get("belief")), None)
    return Halt(
        sentence=belief.statement if belief is not None else decision.sentence,
        fix=belief.fix if belief is not None else "",
        mode=belief.mode if belief is not None else "",
        claim=belief.claim if belief is not None else "",
        saved_s=number(decision.action_inputs.get("saved_s")) or 0.0,
    )


def _exported_cycle(export: _Export, run: Run) -> Cycle:
    verdict = export.verdict_on(run)
    goal = export.goal_of(verdict)
    measuring = [action for action in export.actions if action.kind in {"evaluate", "confirm"}]
    looks = [a for a in measuring if "look" in a.inputs and a.inputs.get("run") == run.id]
    # What was looked at is a part of the cases, by which saves were compared; the run is judged on all of them.
    cases, is_measured, is_confirmed = _cases(export, run, [a for a in measuring if "look" not in a.inputs])
    made_at = math.inf if verdict is None else verdict.made_at
    ranges = {} if goal is None else goal.track.ranges
    cases = cases.model_copy(update={"noise": _noise(export.beliefs, made_at), "scales": scales_of(ranges)})
    recorded = {} if verdict is None else part(verdict.verdict, "gate")
    # Confirmation cases may have been opened for a gate that was edited since, and the verdict be one on selection.
    is_confirmed = is_confirmed and recorded.get("use", "confirmation") == "confirmation"
    cycle = Cycle(
        id=run.id,
        track=export.track,
        kind=run.instrument,
        instrument=None if run.state in {"planned", "lost"} else run.instrument,
        passed=recorded.get("holds"),
        bucket=verdict.bucket if verdict is not None else None,
        cases=cases,
        is_measured=is_measured,
        has_confirmation=True,
        is_confirmed=is_confirmed,
        ceilings=_ceilings(export.beliefs, before=made_at),
        predicted=Prediction.model_validate(run.predicted) if run.predicted else None,
        wall_s=run.cost_s_actual,
        notes={"recipe": run.recipe, "data": {"hash": run.data_hash}, "axis": run.axis, "parent": run.parent},
        looks=1 + len({a.inputs["look"]["step"] for a in looks}),
        # An opening was judged at what the ledger left then, whatever is left today.
        alpha=number(recorded.get("alpha")) if is_confirmed and "use" in recorded else None,
    )
    if goal is None:
        return cycle
    return cycle.model_copy(
        update={
            "gate": goal.gate,
            "conditions": _conditions(goal.gate, recorded),
            "control": goal.evaluation.control,
            "noise_floor": goal.evaluation.noise_floor,
            "dense": goal.evaluation.dense,
            "search": goal.search,
        }
    )


def _cases(export: _Export, run: Run, mine: Sequence[Action]) -> tuple[CaseTable, bool, bool]:
    """Return the run's cases beside its parent's and the base's under one harness, and which were measured."""
    own = next((action for action in reversed(mine) if action.inputs.get("run") == run.id), None)
    if own is None:
        found = export.measured(None)
    else:
        harness = own.inputs.get("harness")
        found = export.measured(frozenset(a.key for a in mine if a.inputs.get("harness") == harness))
    own_weights = found.candidates.get(run.id, "")
    weights: dict[Side, str] = {"base": found.base, "candidate": own_weights}
    weights = {side: name for side, name in weights.items() if name}
    weights["parent"] = run.parent_hash if run.parent_hash in found.of else found.base
    candidate = [row for row in found.of.get(own_weights, ()) if row.run == run.id]
    # What a later run was confirmed beside is no confirmation of this one.
    beside = (row for name in dict.fromkeys(weights.values()) if name != own_weights for row in found.of.get(name, ()))
    table = CaseTable.from_measurements((*beside, *candidate), weights)
    return table, bool(candidate), any(row.use == "confirmation" for row in candidate)


def _noise(beliefs: Sequence[Belief], before: float) -> dict[str, Noise]:
    """Return what the order of the cases was believed to move when a verdict was given."""
    found: dict[str, Noise] = {}
    for belief in beliefs:
        if (belief.subject, belief.claim) == ("harness:order", "noise") and belief.formed_at <= before:
            value: Json = belief.value if isinstance(belief.value, dict) else {}
            counts, moved = part(value, "cases"), part(value, "noise_sd")
            known = {metric: (number(moved[metric]), counts.get(split_of(metric))) for metric in moved}
            found = {
                metric: Noise(sd=sd, n=n) for metric, (sd, n) in known.items() if sd is not None and isinstance(n, int)
            }
    return found


def _ceilings(beliefs: Sequence[Belief], before: float) -> dict[str, float]:
    """Return what the gold scored on the selection cases, as believed when a verdict was given."""
    found: dict[str, float] = {}
    for belief in beliefs:
        split = belief.subject.removeprefix("harness:").removesuffix(".selection")
        if belief.claim == "ceiling" and belief.subject.endswith(".selection") and belief.formed_at <= before:
            value: Json = belief.value if isinstance(belief.value, dict) else {}
            means = {name: number(part(value, name).get("mean")) for name in value}
            found |= {f"{split}.{name}": mean for name, mean in means.items() if mean is not None}
    return found


def _conditions(gate: Gate, recorded: Json) -> tuple[RecordedCondition, ...]:
    rows = recorded.get("conditions")
    said = {str(row.get("id")): row for row in (rows if isinstance(rows, list) else ()) if isinstance(row, dict)}
    return tuple(_recorded(condition, said.get(condition.id) or {}) for condition in gate.conditions)


def _recorded(condition: Condition, said: Json) -> RecordedCondition:
    return RecordedCondition(
        id=condition.id,
        asked=condition.sentence,
        op=">=" if condition.sign > 0 else "<=",
        threshold=condition.threshold,
        condition=condition,
        value=said.get("estimate"),
        holds=said.get("holds"),
    )
