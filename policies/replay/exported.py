"""Vigil's own export, read as a trajectory: each run with its cases, its gate and the verdict on record."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from policies.buckets import Prediction
from policies.cases import CaseTable, Noise, scales_of
from policies.replay.probes import number, part
from policies.replay.records import Cycle, Halt, RecordedCondition, Trajectory
from state.goal import Condition, Gate, Goal
from state.records import Action, Belief, Decision, GoalVersion, Json, Measurement, Record, Run, Side

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
        cycles=tuple(_cycle(export, run) for run in export.runs),
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


def _cycle(export: _Export, run: Run) -> Cycle:
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
        alpha=number(recorded.get("alpha")) if is_confirmed and recorded.get("use") == "confirmation" else None,
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
            known = {metric: (number(moved[metric]), counts.get(metric.partition(".")[0])) for metric in moved}
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
