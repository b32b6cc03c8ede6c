"""The verdict on one run (design section 5), when a class has nothing more to give, and when a search ends.

Exhaustion: the rule at the end of `facts/failure_modes.md`.

Precedence: U where the scores say nothing (unmeasured, missing, capped); A, D, B; U where the interval shows nothing
(too coarse, no power); C. What is shown, a movement or a loss, is its own proof that the measurement could show it. A
gate that holds on confirmation is A whatever δ and the ceiling say.
Comparisons are made on the selection cases; A needs a gate verdict on the confirmation cases.

At least three runs that differ on different axes, target flat, a control moved (training works), the ceiling above the
gate, and the comparison had power. Anything less is *uninformative*, never *exhausted*.
All that shows is that the class does not move the target from where these runs started: before it is given up it is
tried once from a flat run whose control moved, so from weights that training did change.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

from pydantic import Field

from policies.comparison import CaseTable, Comparison, compare, reference_side
from policies.cost import BudgetVerdict
from policies.gate import ConditionVerdict, GateVerdict, asks_no_worse, judge_gate, misses_cases
from policies.significance import EPSILON, Interval, detectable_difference
from policies.target import Target, find_target, is_met
from state.goal import Condition, Gate, Search, split_of
from state.records import CLASSES, Bucket, Instrument, Record, Run, SplitUse

ALPHA = 0.025
"""One-sided level of the comparisons: 95 % intervals, as the definitions say."""

NOISE_FACTOR = 2.0
"""A change counts as movement beyond so many standard deviations of what the order of the cases alone moves."""

UNREADABLE = frozenset({"U.unmeasured", "U.missing", "U.off_scale", "U.capped"})
"""Rules of U that say the scores themselves tell nothing, however many cases there are."""


Movement = Literal["moved", "lost", "flat", "unclear"]
"""What the target did: moved for the better, lost, stayed within ±δ, or the interval shows none of these."""


class Prediction(Record):
    """Where the candidate's mean of one metric was expected before the run."""

    metric: str
    low: float
    high: float


class RunEvidence(Record):
    """All a verdict on one run stands on."""

    run: str = "the run"
    gate: Gate
    cases: CaseTable
    """candidate and parent (and base) on the selection cases, measured by one harness."""
    ceilings: dict[str, float] = Field(default_factory=dict)
    """`split.metric` -> what the references score through the same harness; left out: not checked."""
    confirmation: GateVerdict | None = None
    """The gate on the confirmation cases, once they were opened for this run."""
    predicted: Prediction | None = None
    control: str | None = None
    """The metric declared beforehand that must move, or training did nothing."""
    noise_floor: float = 0.0
    dense: dict[str, str] = Field(default_factory=dict)
    """`split.metric` -> a denser metric of the same outputs, on which progress is read."""
    use: SplitUse = "selection"
    looks: int = 1
    """Saves that were compared on selection cases before the run is judged at the best; the level is divided by it."""
    stopped: str = ""
    """Word of the guard that ended the training before its first save: there is no adapter to measure."""


class BucketVerdict(Record):
    """The bucket of a run and what it rests on."""

    bucket: Bucket
    rule: str
    """`U.unmeasured`, `U.missing`, `U.off_scale`, `U.capped`, `U.coarse`, `U.power`, `A.confirmed`, `D.target_lost`,
    `D.no_worse_broken`, `D.condition_broken`, `D.prediction`, `B.moved`, `C.flat`."""
    sentence: str
    target: Target | None
    comparisons: tuple[Comparison, ...]
    """Target first, then the control, then the co-located metrics of the target's split."""
    gate: GateVerdict
    """The gate on the selection cases, for choosing; never a promotion."""
    movement: Movement
    control_moved: bool | None
    """None: no control was declared or measured."""
    control_lost: bool = False
    """The control was measured and fell beyond noise."""
    is_capped: bool
    had_power: bool
    """The comparison could tell meaningful progress from none, or a loss was shown."""
    is_promising: bool
    """Every condition is met by its estimate on the selection cases: worth an opening of confirmation."""
    is_win: bool = True
    """The target rose by more than the noise floor, or nothing asks that it should: worth a promotion."""
    on_selection: tuple[Bucket, str] | None = None
    """Bucket and rule as the selection cases alone say, by which recipes are chosen; None: the same as above."""

    @property
    def tuned_by(self) -> tuple[Bucket, str]:
        """Bucket and rule that the next recipe may follow from: what confirmation said never is."""
        return self.on_selection or (self.bucket, self.rule)


class _Reading(NamedTuple):
    """The target's comparison in the words of the definitions."""

    moved: bool
    lost: bool
    flat: bool

    @property
    def word(self) -> Movement:
        """The strongest of the three; a small but certain movement is movement."""
        if self.moved or self.lost:
            return "moved" if self.moved else "lost"
        return "flat" if self.flat else "unclear"


def judge_run(evidence: RunEvidence) -> BucketVerdict:
    """Return the bucket of a run; every evidence gets exactly one."""
    alpha = evidence.gate.alpha / evidence.looks
    selection = judge_gate(evidence.gate, evidence.cases, alpha, use=evidence.use, ceilings=evidence.ceilings)
    target = find_target(
        evidence.gate,
        evidence.cases,
        ceilings=evidence.ceilings,
        use=evidence.use,
        noise_floor=evidence.noise_floor,
        dense=evidence.dense,
        closest={verdict.id: verdict.metric for verdict in selection.conditions if verdict.estimate is not None},
        held=[verdict.id for verdict in selection.conditions if verdict.holds],
    )
    compared = None if target is None else _compared(evidence, target.metric, _alternatives(evidence.gate, target))
    reading = _read(target, compared, _floor(evidence, compared))
    is_win = _is_win(evidence, target, compared) or _wins_elsewhere(evidence, selection)
    ruled = _rule(evidence, selection, target, compared, reading)
    bucket, rule, sentence = _confirmed(evidence, target, compared, ruled) if is_win else ruled
    is_capped = rule == "U.capped"
    control = _control(evidence)
    return BucketVerdict(
        bucket=bucket,
        rule=rule,
        sentence=sentence,
        target=target,
        comparisons=_comparisons(evidence, compared),
        gate=selection,
        movement=reading.word,
        control_moved=None if control is None else control > 0,
        control_lost=control is not None and control < 0,
        is_capped=is_capped,
        had_power=bucket in {"A", "D"} or ((reading.moved or reading.flat) and rule not in {*UNREADABLE, "U.coarse"}),
        is_promising=not is_capped and is_promising(selection),
        is_win=is_win,
        on_selection=None if rule == ruled[1] else ruled[:2],
    )


def is_promising(selection: GateVerdict) -> bool:
    """Return whether every condition is met by its estimate."""
    return all(condition.is_met_by_estimate for condition in selection.conditions)


def _compared(evidence: RunEvidence, metric: str, alternatives: int = 1) -> Comparison:
    alpha = ALPHA / evidence.looks / alternatives
    return compare(evidence.cases, metric, use=evidence.use, alpha=alpha)


def _alternatives(gate: Gate, target: Target) -> int:
    """Return among how many metrics the target was chosen after they were measured; the level is divided by them."""
    wanted = next(each for each in gate.conditions if each.id == target.condition)
    return 1 if gate.primary in wanted.metrics else len(wanted.metrics)


def _read(target: Target | None, compared: Comparison | None, noise_floor: float) -> _Reading:
    interval = None if compared is None else compared.interval
    if target is None or compared is None or interval is None or compared.estimate is None:
        return _Reading(moved=False, lost=False, flat=False)
    shows = compared.excludes(0.0) and abs(compared.estimate) - noise_floor > EPSILON
    gains = target.sign * compared.estimate > 0
    return _Reading(moved=shows and gains, lost=shows and not gains, flat=interval.within(target.delta))


def _floor(evidence: RunEvidence, compared: Comparison | None) -> float:
    """Return what a movement must exceed: the least gain that the user named, and what the order of the cases makes."""
    return max(evidence.noise_floor, NOISE_FACTOR * compared.noise_sd if compared else 0.0)


def _confirmed(
    evidence: RunEvidence, target: Target | None, compared: Comparison | None, ruled: tuple[Bucket, str, str]
) -> tuple[Bucket, str, str]:
    """Return A where the gate holds on confirmation and the scores are sound, else what the selection cases told."""
    confirmation = evidence.confirmation
    if confirmation is None or not confirmation.holds or confirmation.use != "confirmation":
        return ruled
    if target is None or compared is None or ruled[1] in {"U.unmeasured", "U.missing", "U.off_scale"}:
        return ruled
    return "A", "A.confirmed", f"{evidence.run}: {_shown(evidence, target, compared)} {confirmation.sentence}"


def _rule(
    evidence: RunEvidence,
    selection: GateVerdict,
    target: Target | None,
    compared: Comparison | None,
    reading: _Reading,
) -> tuple[Bucket, str, str]:
    """Return what the selection cases say: bucket, rule and sentence, in the order of precedence."""
    if target is None or compared is None or compared.estimate is None:
        why = "the target has no scores on both sides, so nothing can be told."
        if evidence.stopped:
            why = f"a guard ended its training before the first save ({evidence.stopped}): no adapter to measure."
        return "U", "U.unmeasured", f"{evidence.run}: {why}"
    what = f"{evidence.run}: {_shown(evidence, target, compared)}"
    if missing := _missing(selection, compared):
        return "U", "U.missing", f"{what} {missing}"
    if off := _off_scale(evidence, selection, target):
        return "U", "U.off_scale", f"{evidence.run}: {off}"
    if reading.lost or (target.asked_metric and _is_lost(evidence, target.asked_metric, target.sign)):
        return "D", "D.target_lost", f"{what} The target was lost."
    broken = _broken(evidence, selection)
    if shown := next((verdict.sentence for verdict in broken if verdict.is_shown_to_miss), ""):
        return "D", "D.no_worse_broken", f"{what} A no-worse condition is broken. {shown}"
    if broken_by := _broken_condition(evidence, selection):
        return "D", "D.condition_broken", f"{what} {broken_by}"
    if (capped := _capped(target, evidence.ceilings, compared.value)) is not None:
        return "U", "U.capped", f"{what} {capped}"
    if not reading.moved:
        # A dense score moves by less than a case, so only its absence of movement asks for cases as fine as δ.
        if compared.step - target.delta > EPSILON and (compared.method != "bounded" or reading.flat):
            steps = f"with {compared.n} cases it moves in steps of {compared.step:.4g}."
            wanted = f"{target.delta:.4g} would be progress, and {steps}"
            return "U", "U.coarse", f"{what} {wanted}"
        if not reading.flat:
            return "U", "U.power", f"{what} {_unclear(target, compared, _floor(evidence, compared))}"
    if missed := _contradicted(evidence):
        return "D", "D.prediction", f"{what} {missed}"
    if reading.moved:
        if selection.holds and evidence.confirmation is None:
            progress = "It moved beyond noise, and the gate holds on the selection cases, unconfirmed."
            return "B", "B.moved", f"{what} {progress}"
        # Which condition is missing, by its numbers: the target alone may have reached what is asked of it.
        return "B", "B.moved", f"{what} It moved beyond noise. {(evidence.confirmation or selection).sentence}"
    # Where no cases were published, the bare number that `test: plain` asks for is all that can tell of a loss.
    if progress := next((verdict.sentence for verdict in broken if not _has_cases(evidence, verdict)), ""):
        return "D", "D.no_worse_broken", f"{what} A no-worse condition is broken. {progress}"
    missed = "a no-worse condition is missed by the bare number only, which shows no loss."
    lost = f"{missed} {broken[0].sentence}" if broken else "nothing was lost."
    return "C", "C.flat", f"{what} It stayed within ±{target.delta:.4g}, and {lost}"


def _is_win(evidence: RunEvidence, target: Target | None, compared: Comparison | None) -> bool:
    """Return whether what happened to the target could be called a win, were the gate confirmed.

    What a change within the noise floor meets, the parent meets by luck as well, or met before. No change at all will
    do only where the gate asks for no more than that, and the user named no least gain; what the order of the cases
    moves is no such gain, it widens the bounds that such a gate is judged by.
    """
    if target is None or compared is None or compared.estimate is None:
        return False
    if target.sign * compared.estimate - _floor(evidence, compared) > EPSILON:
        return True
    wanted = next(each for each in evidence.gate.conditions if each.id == target.condition)
    return not evidence.noise_floor and asks_no_worse(wanted)


def _wins_elsewhere(evidence: RunEvidence, selection: GateVerdict) -> bool:
    """Return whether a run gained, beyond noise, on what the gate asks for and the start does not meet.

    The target may stand still: another condition, or another alternative of an any-of, is what the start lacked.
    """
    for condition, verdict in zip(evidence.gate.conditions, selection.conditions, strict=True):
        if condition.statistic == "new_failures" or asks_no_worse(condition):
            continue
        if is_met(condition, evidence.cases, evidence.use) is False:
            compared = _compared(evidence, verdict.metric)
            if (
                compared.estimate is not None
                and verdict.sign * compared.estimate - _floor(evidence, compared) > EPSILON
            ):
                return True
    return False


def _unclear(target: Target, compared: Comparison, noise_floor: float) -> str:
    """Return why an interval tells nothing: it is too wide, or what it shows is no more than the noise floor."""
    if compared.excludes(0.0):
        return f"That is within the noise floor of {noise_floor:.4g}, and not within ±{target.delta:.4g} either."
    return f"The interval shows neither movement nor absence within ±{target.delta:.4g}."


def _level(alpha: float) -> str:
    """Return the level of an interval with one-sided bounds at alpha, `95 %`."""
    return f"{100 * (1 - 2 * alpha):.3g} %"


def _shown(evidence: RunEvidence, target: Target, compared: Comparison) -> str:
    strict = ""
    if target.asked_metric:
        ours = _compared(evidence, target.asked_metric)
        moved = f" ({ours.reference:.4g} to {ours.value:.4g})" if None not in {ours.reference, ours.value} else ""
        strict = f", read in place of {target.asked_metric}{moved}"
    shown = compared.typical or compared.interval or Interval(low=0.0, high=0.0)
    interval = f"{_level(compared.alpha)} interval {shown.low:+.4g} to {shown.high:+.4g}"
    interval = interval if math.isfinite(shown.high - shown.low) else "too few cases for an interval"
    paired = "" if compared.method in {"exact", "bounded"} else ", unpaired for want of cases"
    return (
        f"{target.metric} went from {compared.reference or 0:.4g} to {compared.value or 0:.4g}, "
        f"{compared.estimate or 0:+.4g} ({interval}, "
        f"{compared.n} cases{paired}){strict}; asked {target.asks}."
    )


def _missing(selection: GateVerdict, compared: Comparison) -> str:
    """Return which scores are missing beyond the share that the gate accepts, or an empty string.

    The missing cases may be the lost ones: the others then show neither progress nor its absence.
    """
    rows: tuple[Comparison | ConditionVerdict, ...] = (compared, *selection.conditions)
    for row in rows:
        if misses_cases(row.n, row.excluded):
            return f"{row.excluded} of {row.n + row.excluded} cases have no score of {row.metric} on both sides."
    return ""


def _off_scale(evidence: RunEvidence, selection: GateVerdict, target: Target) -> str:
    """Return which score lies off the scale that every bound is for, or an empty string."""
    for metric in dict.fromkeys((target.metric, *(verdict.metric for verdict in selection.conditions))):
        off = evidence.cases.off_scale(metric, evidence.use)
        if off is not None:
            scale = evidence.cases.scale(metric)
            return (
                f"{metric} scored {off:.4g} on a case, and its scale is from {scale.low:g} to {scale.high:g}, so"
                " nothing can be told: correct the grader, or declare the range in track.ranges."
            )
    return ""


def _capped(target: Target, ceilings: Mapping[str, float], value: float | None) -> str | None:
    """Return why the measurement could not have shown the gate met; where a run beats the gold, that is no bound."""
    ceiling = ceilings.get(target.metric)
    if ceiling is not None and value is not None and target.sign * (value - ceiling) > EPSILON:
        return None
    if ceiling is None or target.gap <= 0 or target.sign * (target.threshold - ceiling) <= EPSILON:
        return None
    return f"The references score {ceiling:.4g} through this harness: no adapter can show {target.threshold:.4g}."


def _broken(evidence: RunEvidence, selection: GateVerdict) -> list[ConditionVerdict]:
    """Return the verdicts on no-worse conditions that fail on the selection cases.

    Those of confirmation refuse a promotion and choose nothing: the next recipe would be tuned on its cases.
    """
    no_worse = {condition.id for condition in evidence.gate.conditions if asks_no_worse(condition)}
    return [verdict for verdict in selection.conditions if verdict.id in no_worse and verdict.decided == "fails"]


def _has_cases(evidence: RunEvidence, verdict: ConditionVerdict) -> bool:
    """Return whether a difference is judged case by case."""
    side = reference_side(verdict.against)
    return bool(evidence.cases.aligned("candidate", side, verdict.metric, evidence.use).cases)


def _broken_condition(evidence: RunEvidence, selection: GateVerdict) -> str:
    """Return which condition the start met, or was not shown to miss, and the run was shown to break; or ""."""
    for condition, verdict in zip(evidence.gate.conditions, selection.conditions, strict=True):
        if asks_no_worse(condition) or not verdict.is_shown_to_miss:
            continue
        for metric in condition.metrics:
            if _is_lost(evidence, metric, condition.sign) and _may_be_met(evidence, condition, metric):
                was = compare(evidence.cases, metric, use=evidence.use, against="value", side="parent")
                return f"A condition is broken, {metric} was {was.value or 0:.4g} before. {verdict.sentence}"
    return ""


def _is_lost(evidence: RunEvidence, metric: str, sign: int) -> bool:
    """Return whether a metric was shown to fall behind the start by more than noise."""
    compared = _compared(evidence, metric)
    below = compared.estimate is not None and sign * compared.estimate + _floor(evidence, compared) < -EPSILON
    return below and compared.excludes(0.0)


def _may_be_met(evidence: RunEvidence, condition: Condition, metric: str) -> bool:
    """Return whether the start was not shown to miss a condition; what is asked of it in addition, it never missed."""
    if condition.against == "parent":
        return True
    compared = compare(
        evidence.cases,
        metric,
        use=evidence.use,
        against=condition.against,
        alpha=evidence.gate.alpha / evidence.looks,
        statistic=condition.statistic,
        side="parent",
    )
    far = None if compared.interval is None else compared.interval.high if condition.sign > 0 else compared.interval.low
    return far is not None and condition.sign * (far - condition.threshold) >= -EPSILON


def _contradicted(evidence: RunEvidence) -> str:
    """Return how the prediction made before the run failed; doing better than predicted refutes nothing."""
    predicted = evidence.predicted
    if predicted is None:
        return ""
    compared = compare(
        evidence.cases,
        predicted.metric,
        use=evidence.use,
        against="value",
        alpha=ALPHA / evidence.looks,
    )
    interval = compared.interval
    if interval is None or compared.value is None:
        return ""
    too_low = interval.high < predicted.low and _sign_of(evidence.gate, predicted.metric) > 0
    too_high = interval.low > predicted.high and _sign_of(evidence.gate, predicted.metric) < 0
    if not (too_low or too_high):
        return ""
    return (
        f"Predicted before the run: {predicted.metric} between {predicted.low:.4g} and {predicted.high:.4g}; "
        f"measured {compared.value:.4g} ({_level(compared.alpha)} interval {interval.low:.4g} to {interval.high:.4g})."
    )


def _sign_of(gate: Gate, metric: str) -> int:
    """Return the direction the gate wants a metric to go; up where the gate does not name it."""
    return next((condition.direction for condition in gate.conditions if metric in condition.metrics), 1)


def _comparisons(evidence: RunEvidence, compared: Comparison | None) -> tuple[Comparison, ...]:
    """Return target, control and the other metrics of the target's outputs, each once."""
    if compared is None:
        return ()
    split = split_of(compared.metric)
    rows = evidence.cases.cases("candidate", split, evidence.use).values()
    names = {f"{split}.{name}" for row in rows for name in row}
    names |= {metric for metric in evidence.cases.means.get("candidate", {}) if split_of(metric) == split}
    co_located = sorted(names - {compared.metric})
    others = dict.fromkeys([evidence.control, *co_located] if evidence.control else co_located)
    return (compared, *(_compared(evidence, metric) for metric in others if metric != compared.metric))


def _control(evidence: RunEvidence) -> int | None:
    """Return whether the control rose (1) or fell (-1) beyond noise; None where none was declared or measured."""
    if evidence.control is None:
        return None
    compared = _compared(evidence, evidence.control)
    if compared.interval is None or compared.estimate is None:
        return None
    wanted = _sign_of(evidence.gate, evidence.control) * (1 if compared.estimate > 0 else -1)
    return wanted if compared.excludes(0.0) else 0


LEAST_RUNS = 3
"""Runs that must agree."""

LEAST_AXES = 2
"""Different axes, beside the starting run, on which they must differ."""


class RunFact(Record):
    """What exhaustion needs to know of one judged run."""

    run: str
    instrument: Instrument
    axis: str
    recipe_hash: str
    bucket: Bucket
    movement: Movement
    control_moved: bool | None
    is_capped: bool
    had_power: bool
    parent: str = ""
    """What it started from: `base`, `start` or a run's id; empty: not on record."""


class ExhaustionVerdict(Record):
    """Whether an instrument class is exhausted."""

    instrument: Instrument
    state: Literal["exhausted", "uninformative", "open"]
    """open: too few flat runs since the last progress. uninformative: enough runs, but they prove nothing. exhausted:
    from where they started; see `start_from`."""
    counted: tuple[str, ...]
    """Runs that count toward exhaustion."""
    missing: tuple[str, ...]
    """What keeps it from being exhausted, one phrase each."""
    sentence: str
    start_from: str = ""
    """The flat run that an exhausted class is to be tried from once more; empty: it is given up."""


def run_fact(run: Run, verdict: BucketVerdict) -> RunFact:
    """Return what exhaustion needs of a run and its verdict."""
    return RunFact(
        run=run.id,
        instrument=run.instrument,
        axis=run.axis,
        recipe_hash=run.recipe_hash,
        bucket=verdict.tuned_by[0],
        movement=verdict.movement,
        control_moved=verdict.control_moved,
        is_capped=verdict.is_capped,
        had_power=verdict.had_power,
        parent=run.parent,
    )


def could_tell(verdicts: Sequence[BucketVerdict]) -> bool:
    """Return whether runs beside one parent would probably have shown a class that reaches the gate as moved.

    None of them capped or coarser than the question, and the gap to the gate is one that as many cases with the spread
    seen here show four times of five. Of several runs the candidates' part of the spread averages out, half of it in
    one. Runs that tell nothing are no proof of absence, so they never count toward exhaustion; but where a gap this
    wide would have shown, they are no reason to mend the measurement before another class is tried.
    """
    share = math.sqrt((1 + 1 / max(1, len(verdicts))) / 2)
    for verdict in verdicts:
        target, compared = verdict.target, verdict.comparisons[0] if verdict.comparisons else None
        if target is None or compared is None or not compared.n or verdict.rule in {*UNREADABLE, "U.coarse"}:
            return False
        # A parent that meets the bound by its number is short of it by no figure: then all that is left up to a perfect
        # score is what a class could show.
        room = target.gap if target.gap > 0 else target.sign * (target.scale.best(target.sign) - target.parent)
        if detectable_difference(share * compared.spread, compared.n, ALPHA) * compared.scale.width > room:
            return False
    return True


def judge_exhaustion(
    instrument: Instrument, runs: Sequence[RunFact], *, is_ceiling_above_gate: bool | None
) -> ExhaustionVerdict:
    """Return whether a class is exhausted.

    Args:
        instrument: Any instrument of the class.
        runs: Judged runs of all classes, oldest first; runs before the last progress (A or B) of the class are not
            counted, since the parent was another one.
        is_ceiling_above_gate: Measured; None: not checked, which keeps the class from being exhausted.
    """
    name = CLASSES[instrument]
    flat = {run.run: run for run in runs if _counts(run)}
    since = _since_progress([run for run in runs if CLASSES[run.instrument] == name])
    again = [run for run in since if run.parent in flat]
    ours = [run for run in since if run not in again]
    counted = [run for run in ours if _counts(run)]
    verdict = partial(ExhaustionVerdict, instrument=instrument, counted=_ids(counted))
    if len({run.recipe_hash for run in ours}) < LEAST_RUNS:
        few = f"{len(ours)} {name} {'run' if len(ours) == 1 else 'runs'}"
        sentence = f"{few} since the last progress; {LEAST_RUNS} are needed before it can be exhausted."
        return verdict(state="open", missing=("runs",), sentence=sentence)
    missing = _still_wanted(ours, counted, is_ceiling_above_gate=is_ceiling_above_gate)
    if missing:
        sentence = f"{len(ours)} {name} runs without progress prove nothing yet: {'; '.join(missing)}."
        return verdict(state="uninformative", missing=missing, sentence=sentence)
    axes = ", ".join(sorted(_axes(counted)))
    start = counted[0].parent
    where = f" from {'the base' if start == 'base' else start}" if start not in {"", "start"} else " from this start"
    shown = (
        f"The {name} class is exhausted{where}: {len(counted)} runs ({', '.join(_ids(counted))}), varied by {axes}, "
        "left the target flat while the control moved, below a ceiling that allows the gate."
    )
    if not again:
        other = [run for run in flat.values() if CLASSES[run.instrument] != name] or counted
        sentence = f"{shown} It is tried once from {other[-1].run}, which moved the control, before it is given up."
        return verdict(state="exhausted", missing=(), sentence=sentence, start_from=other[-1].run)
    tried = ", ".join(f"{run.run} from {run.parent}" for run in again)
    sentence = f"{shown} Nor did it get anywhere from a run that moved the control ({tried})."
    return verdict(state="exhausted", missing=(), sentence=sentence)


def _since_progress(runs: list[RunFact]) -> list[RunFact]:
    last = max((place for place, run in enumerate(runs) if run.bucket in {"A", "B"}), default=-1)
    return runs[last + 1 :]


def _counts(run: RunFact) -> bool:
    """Return whether a run is evidence of exhaustion; a U never is."""
    usable = run.bucket != "U" and run.had_power and not run.is_capped
    return usable and run.movement == "flat" and run.control_moved is True


def _still_wanted(
    ours: list[RunFact], counted: list[RunFact], *, is_ceiling_above_gate: bool | None
) -> tuple[str, ...]:
    missing = []
    if is_ceiling_above_gate is not True:
        why = "was not measured" if is_ceiling_above_gate is None else "is below the gate"
        missing.append(f"the ceiling {why}")
    if any(run.bucket == "U" or not run.had_power or run.is_capped for run in ours):
        weak = [run.run for run in ours if run.bucket == "U" or not run.had_power or run.is_capped]
        missing.append(f"{', '.join(weak)} could not have shown it")
    if still := [run.run for run in ours if run.control_moved is not True]:
        missing.append(f"no control moved in {', '.join(still)}")
    if len({run.recipe_hash for run in counted}) < LEAST_RUNS:
        missing.append(f"{len(counted)} of {LEAST_RUNS} flat runs count")
    if len(_axes(counted)) < LEAST_AXES:
        missing.append(f"they differ on {len(_axes(counted))} of {LEAST_AXES} axes")
    return tuple(missing)


def _axes(runs: list[RunFact]) -> set[str]:
    return {run.axis for run in runs} - {"start"}


def _ids(runs: list[RunFact]) -> tuple[str, ...]:
    return tuple(run.run for run in runs)


class StopVerdict(Record):
    """Why a campaign concludes."""

    rule: str
    """`budget.gone`, `instruments.exhausted`, `runs.max`, `runs.no_progress`, `runs.unclear`,
    `measurement.first`, `nothing.left`."""
    sentence: str


def conclusion(
    *,
    buckets: Sequence[Bucket],
    search: Search,
    budget: BudgetVerdict,
    exhaustion: Sequence[ExhaustionVerdict] = (),
    has_proposal: bool = True,
    judged: int | None = None,
    idle: int | None = None,
    is_blind: bool = True,
) -> StopVerdict | None:
    """Return why a campaign concludes now, or None while another run is worth its cost.

    Args:
        buckets: Verdicts of the judged runs, oldest first; infrastructure failures have none.
        search: How long to go on looking.
        budget: Verdict on the cheapest next run.
        exhaustion: One verdict for each instrument class the campaign may use.
        has_proposal: A recipe that was never run is left.
        judged: Judged runs of all classes; those of `buckets` when left out.
        idle: Latest runs in a row that got no further than those before them; those without A or B when left out.
        is_blind: The measurement could not have shown even what the gate asks; where it could, runs whose interval
            tells nothing end their class and not the campaign.
    """
    if not budget.is_affordable:
        return _stop("budget.gone", f"The budget does not allow another run. {budget.sentence}")
    if exhaustion and all(verdict.state == "exhausted" for verdict in exhaustion):
        return _stop("instruments.exhausted", " ".join(verdict.sentence for verdict in exhaustion))
    count = len(buckets) if judged is None else judged
    if search.max_runs is not None and count >= search.max_runs:
        return _stop("runs.max", f"{count} runs are judged, as many as search.max_runs allows.")
    idle = runs_without_progress(buckets) if idle is None else idle
    if idle >= search.max_runs_without_progress and set(buckets[-idle:]) == {"U"}:
        what = "could not have shown anything" if is_blind else "showed neither movement nor its absence"
        return _stop(
            "measurement.first" if is_blind else "runs.unclear",
            f"{idle} runs in a row {what} (U): take more cases, a denser metric or a longer training first. "
            "Nothing is exhausted.",
        )
    if idle >= search.max_runs_without_progress:
        what = "The latest run" if idle == 1 else f"{idle} runs in a row"
        return _stop("runs.no_progress", f"{what} made no progress ({''.join(buckets[-idle:])}).")
    if not has_proposal:
        return _stop("nothing.left", f"After {count} runs no rule proposes a recipe that was not run already.")
    return None


def runs_without_progress(buckets: Sequence[Bucket]) -> int:
    """Return how many of the latest runs in a row got neither A nor B."""
    idle = 0
    for bucket in reversed(buckets):
        if bucket in {"A", "B"}:
            break
        idle += 1
    return idle


def _stop(rule: str, sentence: str) -> StopVerdict:
    return StopVerdict(rule=rule, sentence=sentence)
