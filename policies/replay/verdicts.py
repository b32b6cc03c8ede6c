"""Judge a recorded trajectory with the policies of a campaign: gate, bucket, findings, next step, and what was spent.

Published gates are applied as recorded, by bare numbers, with Wilson-based intervals beside them where no cases were
published; an export's gates are applied with their own tests. A cycle is judged from its own figures; what is said of
its place among others (P4, equal scores, exhaustion) looks at the cycles of its track up to it.
"""

from collections.abc import Sequence
from typing import NamedTuple, get_args

from policies.cost import Estimate, Spent, affordable
from policies.gate import GateVerdict, judge_condition, judge_gate
from policies.recipes import axis_of
from policies.replay.probes import findings, out_of_reach
from policies.replay.records import (
    Cycle,
    NextStep,
    RecordedCondition,
    Replay,
    ReplayedCondition,
    ReplayedCycle,
    ReplayFinding,
    Saved,
    Stop,
    Track,
    Trajectory,
)
from policies.significance import EPSILON
from policies.target import is_ceiling_above
from policies.verdict import (
    BucketVerdict,
    ExhaustionVerdict,
    RunEvidence,
    RunFact,
    conclusion,
    judge_exhaustion,
    judge_run,
)
from state.goal import Budget, Gate
from state.hashing import hash_json
from state.records import CLASSES, Bucket, Instrument, Json, SplitUse

_UNLIMITED = affordable(Budget(), Spent(), Estimate(), 0.0, 0.0)


class _Judged(NamedTuple):
    """A trained cycle with its bucket."""

    cycle: Cycle
    instrument: Instrument
    gate: Gate
    verdict: BucketVerdict
    fact: RunFact
    """What exhaustion needs of it; its axis is told from the run of its class before it."""


def replay(trajectory: Trajectory) -> Replay:
    """Judge every cycle again, and say where Vigil would have stopped."""
    cycles: list[ReplayedCycle] = []
    tracks: dict[str, Track] = {}
    judged: dict[str, list[_Judged]] = {}
    for cycle in trajectory.cycles:
        track, history = tracks.setdefault(cycle.track, Track()), judged.setdefault(cycle.track, [])
        track.add(cycle)
        gate = replayed_gate(cycle)
        verdict = replayed_bucket(cycle, gate)
        if verdict is not None and cycle.instrument is not None and cycle.gate is not None:
            fact = _fact(cycle, cycle.instrument, verdict, history)
            history.append(_Judged(cycle, cycle.instrument, cycle.gate, verdict, fact))
        seen = findings(cycle, track, gate)
        following = _next(cycle, gate, seen, history)
        cycles.append(_replayed(cycle, gate, verdict, seen, following))
    prevented = [row for row in cycles if row.instrument and any(f.prevents for f in row.findings)]
    ids = {row.id for row in prevented}
    times = {cycle.id: cycle.wall_s for cycle in trajectory.cycles if cycle.id in ids}
    saved = Saved(
        cycles=len(prevented),
        ids=tuple(row.id for row in prevented),
        hours=(sum(s for s in times.values() if s) + (trajectory.halt.saved_s if trajectory.halt else 0.0)) / 3600,
        unknown=tuple(name for name, seconds in times.items() if not seconds),
    )
    stop = _first_stop(trajectory, prevented)
    return Replay(
        cycles=tuple(cycles), first_stop=stop, saved=saved, sentences=_sentences(trajectory, cycles, stop, saved)
    )


# One cycle


def replayed_gate(cycle: Cycle) -> tuple[ReplayedCondition, ...]:
    """Return a cycle's conditions, judged again from the record's figures, or from its own numbers without them."""
    return tuple(_condition(cycle, recorded) for recorded in cycle.conditions)


def _use(cycle: Cycle) -> SplitUse:
    return "confirmation" if cycle.is_confirmed else "selection"


def _condition(cycle: Cycle, recorded: RecordedCondition) -> ReplayedCondition:
    if recorded.condition is None or cycle.gate is None:
        return _as_recorded(recorded)
    level = cycle.alpha or (cycle.gate.confirmation_alpha if cycle.is_confirmed else cycle.gate.alpha / cycle.looks)
    verdict = judge_condition(
        recorded.condition,
        cycle.cases,
        level,
        use=_use(cycle),
        delta=cycle.gate.meaningful_delta,
        ceilings=cycle.ceilings,
    )
    if verdict.estimate is None and recorded.value is not None:
        return _as_recorded(recorded)
    return ReplayedCondition(
        id=recorded.id,
        asked=recorded.asked,
        metric=verdict.metric,
        is_plain=verdict.test == "plain",
        is_difference=verdict.against != "value" and verdict.statistic != "new_failures",
        value=verdict.estimate,
        low=verdict.low,
        high=verdict.high,
        n=verdict.n,
        method=verdict.method,
        holds=verdict.holds,
        decided=verdict.decided,
        label=verdict.label,
        p_two_sided=verdict.p_two_sided,
        cases_needed=verdict.cases_needed,
        recorded=recorded.holds,
        agrees=None if recorded.holds is None else recorded.holds == verdict.holds,
    )


def _as_recorded(recorded: RecordedCondition) -> ReplayedCondition:
    """Return a condition judged by the number that the record gives, which has no cases and no interval."""
    value = recorded.value
    holds = value is not None and _meets(recorded, value)
    return ReplayedCondition(
        id=recorded.id,
        asked=recorded.asked,
        metric="",
        is_plain=True,
        is_difference="delta" in recorded.op or recorded.id.endswith("_delta"),
        value=value,
        low=None,
        high=None,
        n=0,
        method="not measured" if value is None else "as recorded: no figures to judge it from",
        holds=holds,
        decided="undecided" if value is None else "holds" if holds else "fails",
        label="",
        p_two_sided=None,
        cases_needed=None,
        recorded=recorded.holds,
        agrees=None if recorded.holds is None else recorded.holds == holds,
    )


def _meets(recorded: RecordedCondition, value: float) -> bool:
    bound = recorded.threshold
    if recorded.op == "abs_delta<=":
        return abs(value) <= bound + EPSILON
    if recorded.op == "==":
        return abs(value - bound) <= EPSILON
    sign = 1 if recorded.op.startswith(">") else -1
    return sign * (value - bound) > (-EPSILON if recorded.op.endswith("=") else EPSILON)


def replayed_bucket(cycle: Cycle, gate: Sequence[ReplayedCondition]) -> BucketVerdict | None:
    """Return a cycle's bucket; None where nothing was trained, asked or measured."""
    if cycle.instrument is None or cycle.gate is None or (not cycle.is_measured and cycle.bucket is None):
        return None
    return judge_run(
        RunEvidence(
            run=cycle.id,
            gate=cycle.gate,
            cases=cycle.cases,
            ceilings=cycle.ceilings,
            confirmation=_confirmation(cycle, gate),
            predicted=cycle.predicted,
            control=cycle.control,
            noise_floor=cycle.noise_floor,
            dense=cycle.dense,
            looks=cycle.looks,
        )
    )


def _confirmation(cycle: Cycle, gate: Sequence[ReplayedCondition]) -> GateVerdict | None:
    """Return the gate's verdict where promotion may be told from it; every recorded condition counts."""
    if cycle.gate is None or not cycle.is_confirmed:
        return None
    verdict = judge_gate(cycle.gate, cycle.cases, cycle.alpha, use="confirmation", ceilings=cycle.ceilings)
    if cycle.has_confirmation:
        return verdict
    held = sum(row.holds for row in gate)
    return verdict.model_copy(
        update={
            "holds": held == len(gate),
            "sentence": f"{held} of {len(gate)} gate conditions hold on the only cases there are.",
        }
    )


def _replayed(
    cycle: Cycle,
    gate: tuple[ReplayedCondition, ...],
    verdict: BucketVerdict | None,
    seen: tuple[ReplayFinding, ...],
    following: NextStep,
) -> ReplayedCycle:
    passed = all(row.holds for row in gate) if gate else None
    bucket: Bucket | None = None if verdict is None else verdict.bucket
    told = [(cycle.passed, passed), (cycle.bucket, bucket)]
    said = [ours == theirs for theirs, ours in told if theirs is not None]
    return ReplayedCycle(
        id=cycle.id,
        track=cycle.track,
        instrument="" if cycle.instrument is None else cycle.kind,
        foreign=cycle.foreign,
        gate=gate,
        passed=passed,
        bucket=bucket,
        rule="" if verdict is None else verdict.rule,
        sentence=_unjudged(cycle) if verdict is None else verdict.sentence,
        recorded_bucket=cycle.bucket,
        recorded_passed=cycle.passed,
        agrees=all(said) if said else None,
        findings=seen,
        next=following,
    )


_OURS = " and ".join(get_args(Instrument)).replace(" and ", ", ", 1)
"""Vigil's instruments, to stand in a sentence."""


def _unjudged(cycle: Cycle) -> str:
    if cycle.foreign:
        return f"{cycle.id} used {cycle.foreign}, which is none of {_OURS}, so it has no bucket."
    if cycle.instrument is None:
        return f"{cycle.id} trained nothing, so it has no bucket."
    if not cycle.conditions:
        return f"{cycle.id} has no gate on record, so it has no bucket."
    return f"{cycle.id} was never measured, so it has no bucket."


# What Vigil would have done next


def _next(
    cycle: Cycle,
    gate: Sequence[ReplayedCondition],
    seen: Sequence[ReplayFinding],
    history: Sequence[_Judged],
) -> NextStep:
    """Return the next step, by the order in which a campaign asks: halt, measure, promote, judge, go on or end."""
    stops = [finding for finding in seen if finding.severity == "hard_stop"]
    if stops:
        first = stops[0]
        instead = "Do not train it" if first.prevents else "Do not judge it"
        others = ", ".join(finding.mode for finding in stops[1:])
        more = f" Then see to {others}." if others else ""
        return _step("halt", f"hard_stop.{first.mode}", f"{instead}. {first.fix}{more}")
    if cycle.instrument is None:
        return _before_training(cycle)
    if not history or history[-1].cycle is not cycle:
        why = "Write down the gate" if not cycle.conditions else "Measure it beside its parent"
        return _step("measure", "run.measure", f"{why} before another cycle is trained.")
    verdict = history[-1].verdict
    if verdict.bucket == "A":
        rows = [row for row in gate if "not significant" in row.label]
        labels = ", ".join(row.id + row.label.partition("not significant")[2] for row in rows)
        said = f", labelled promoted, not significant: {labels}.{_more_cases(rows)}" if labels else "."
        return _step("promote", verdict.rule, f"Ask for the promotion of {cycle.id}{said}")
    return _go_on(history, seen)


def _more_cases(rows: Sequence[ReplayedCondition]) -> str:
    """Return what would make bare numbers significant; a result on its bound stays there, however many cases say it."""
    needed = [f"{row.cases_needed} cases for {row.id}" for row in rows if row.cases_needed]
    never = [row.id for row in rows if not row.cases_needed]
    told = f" Significance would need {', '.join(needed)}." if needed else ""
    return told + (f" More cases of the same result would not make {', '.join(never)} significant." if never else "")


def _before_training(cycle: Cycle) -> NextStep:
    if found := out_of_reach(cycle):
        return _step("halt", f"hard_stop.{found[0].mode}", f"Train nothing yet. {found[0].fix}")
    if not cycle.ceilings:
        return _step("measure", "ceiling.first", _MEASURE)
    return _step("train", "recipe.first", "Train: nothing that was measured speaks against it.")


_MEASURE = (
    "Run the reference answers through this harness, decode budget included, before another cycle: it costs seconds."
)

_CONFIRM = "Its gate holds on selection: open the confirmation cases, or keep the last opening for what gets further."

_FOLLOWS: dict[Bucket, tuple[str, str]] = {
    "B": ("progress", "Stay in the class and tune toward the condition that fails."),
    "C": ("flat", "Change the axis: another one than the last run's."),
    "D": ("regressed", "Go back to the parent, with another axis or another method."),
    "U": ("measurement.first", "Mend the measurement before another cycle: more cases, a denser metric."),
}


def _go_on(history: Sequence[_Judged], seen: Sequence[ReplayFinding]) -> NextStep:
    last = history[-1]
    suspicion = next((finding for finding in seen if finding.claim == "same_score"), None)
    if suspicion is not None:
        return _step("measure", "instrument.first", suspicion.fix)
    exhaustion = _exhaustion(last, history)
    if exhaustion.start_from and last.fact.parent:
        return _step("train", "class.start", exhaustion.sentence)
    if exhaustion.state == "exhausted":
        return _step("train", "class.next", f"{exhaustion.sentence} Go on with the next instrument class.")
    if exhaustion.state == "uninformative" and not last.cycle.ceilings:
        return _step("measure", "ceiling.first", f"{exhaustion.sentence} {_MEASURE}")
    stop = conclusion(
        buckets=[judged.verdict.bucket for judged in history],
        search=last.cycle.search,
        budget=_UNLIMITED,
    )
    if stop is not None:
        return _step("conclude", stop.rule, stop.sentence)
    is_unconfirmed = last.cycle.has_confirmation and not last.cycle.is_confirmed
    if last.verdict.bucket == "B" and last.verdict.gate.holds and is_unconfirmed:
        return _step("measure", "confirm", _CONFIRM)
    rule, sentence = _FOLLOWS[last.verdict.bucket]
    sentence += "" if last.cycle.ceilings else f" {_MEASURE}"
    return _step("measure" if last.verdict.bucket == "U" else "train", rule, sentence)


def _step(action: str, rule: str, sentence: str) -> NextStep:
    return NextStep.model_validate({"action": action, "rule": rule, "sentence": sentence})


def _exhaustion(judged: _Judged, history: Sequence[_Judged]) -> ExhaustionVerdict:
    """Return the verdict on the cycle's instrument class, from the cycles of its track so far."""
    above = is_ceiling_above(judged.gate, judged.cycle.cases, judged.cycle.ceilings)
    return judge_exhaustion(judged.instrument, [other.fact for other in history], is_ceiling_above_gate=above)


def _fact(cycle: Cycle, instrument: Instrument, verdict: BucketVerdict, before: Sequence[_Judged]) -> RunFact:
    ours, same = _settings(cycle), CLASSES[instrument]
    earlier = next((other.cycle for other in reversed(before) if CLASSES[other.instrument] == same), None)
    found = "start" if earlier is None else axis_of(_settings(earlier), ours)
    return RunFact(
        run=cycle.id,
        instrument=instrument,
        axis=str(cycle.notes.get("axis") or found),
        recipe_hash=hash_json(ours),
        bucket=verdict.bucket,
        movement=verdict.movement,
        control_moved=_control_moved(cycle, verdict),
        is_capped=verdict.is_capped,
        had_power=verdict.had_power,
        parent=str(cycle.notes.get("parent") or ""),
    )


def _control_moved(cycle: Cycle, verdict: BucketVerdict) -> bool | None:
    """Return whether training did anything: by the declared control, else by any other metric of the same outputs."""
    if verdict.control_moved is not None:
        return verdict.control_moved
    moved = (
        found.excludes(0.0) and abs(found.estimate or 0.0) > cycle.noise_floor for found in verdict.comparisons[1:]
    )
    return True if any(moved) else None


def _settings(cycle: Cycle) -> Json:
    return {**(cycle.notes.get("recipe") or {}), "data": cycle.notes.get("data") or {}}


# The end


def _first_stop(trajectory: Trajectory, prevented: Sequence[ReplayedCycle]) -> Stop | None:
    """Return the first refusal: what the harness shows is known before any cycle, everything else cycle by cycle."""
    stops = [(row, finding) for row in prevented for finding in row.findings if finding.prevents]
    stops.sort(key=lambda stop: stop[1].mode != "P1")
    if stops:
        return _stop(*stops[0])
    halt = trajectory.halt
    if halt is None:
        return None
    return Stop(
        cycle="",
        track=next((cycle.track for cycle in trajectory.cycles), ""),
        when="before training",
        mode=halt.mode,
        claim=halt.claim,
        sentence=halt.sentence,
        fix=halt.fix,
    )


def _stop(row: ReplayedCycle, finding: ReplayFinding) -> Stop:
    return Stop(
        cycle=row.id,
        track=row.track,
        when=finding.known,
        mode=finding.mode,
        claim=finding.claim,
        sentence=finding.sentence,
        fix=finding.fix,
    )


def _sentences(
    trajectory: Trajectory, cycles: Sequence[ReplayedCycle], stop: Stop | None, saved: Saved
) -> tuple[str, ...]:
    lines = []
    if stop is None:
        lines.append("Nothing on record would have stopped Vigil before a cycle.")
    else:
        where = f"before {stop.cycle}" if stop.cycle else "before any training"
        mode = f" (mode {stop.mode})" if stop.mode else ""
        lines.append(f"Vigil would have stopped {where}{mode}: {stop.sentence} {stop.fix}".strip())
        lines += _other_stops(cycles, stop)
    if saved.cycles or saved.hours:
        lines.append(_savings(trajectory, saved))
    lines += _agreement(cycles)
    lines += [f"{row.id} was promoted by a bare number: {row.next.sentence}" for row in cycles if _is_labelled(row)]
    if any("unpaired" in row.method for cycle in cycles for row in cycle.gate):
        lines.append(
            "No cases were published for some figures: their intervals are Wilson-based and unpaired, which is wider "
            "than the same cases paired would be."
        )
    return tuple(lines)


def _other_stops(cycles: Sequence[ReplayedCycle], stop: Stop) -> list[str]:
    """Return which cycles were refused for a reason of their own."""
    refused = []
    for row in cycles:
        modes = [finding.mode for finding in row.findings if finding.prevents] if row.instrument else []
        if modes and stop.mode not in modes:
            refused.append(f"{row.id} ({', '.join(modes)})")
    return [f"It would also have refused to train {', '.join(refused)}."] if refused else []


def _is_labelled(row: ReplayedCycle) -> bool:
    return row.bucket == "A" and "not significant" in row.next.sentence


def _savings(trajectory: Trajectory, saved: Saved) -> str:
    trained = sum(cycle.instrument is not None for cycle in trajectory.cycles)
    least = "at least " if saved.unknown else ""
    gone = f"; the time of {', '.join(saved.unknown)} is not on record" if saved.unknown else ""
    cycles = f"{saved.cycles} of {trained} training cycles ({', '.join(saved.ids)})" if saved.cycles else ""
    hours = f"{least}{saved.hours:.1f} hours of training" if saved.hours else ""
    return f"Saved: {' and '.join(part for part in (cycles, hours) if part)}{gone}."


def _agreement(cycles: Sequence[ReplayedCycle]) -> list[str]:
    rows = [(cycle.id, row) for cycle in cycles for row in cycle.gate if row.agrees is not None]
    lines = []
    if rows:
        other = ", ".join(f"{cycle}: {row.id}" for cycle, row in rows if not row.agrees)
        same = sum(row.agrees is True for _, row in rows)
        lines.append(f"{same} of {len(rows)} gate conditions come out as recorded{f'; not {other}' if other else ''}.")
    told = [cycle for cycle in cycles if cycle.recorded_bucket is not None and cycle.bucket is not None]
    moved = [f"{c.id} {c.recorded_bucket}, here {c.bucket}" for c in told if c.recorded_bucket != c.bucket]
    if told:
        listed = "; ".join(moved)
        same = len(told) - len(moved)
        lines.append(f"{same} of {len(told)} buckets are as recorded{f'; not {listed}' if moved else ''}.")
    return lines
