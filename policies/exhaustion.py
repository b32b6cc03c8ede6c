"""When an instrument class has nothing more to give (the rule at the end of `facts/failure_modes.md`).

At least three runs that differ on different axes, target flat, a control moved (training works), the ceiling above the
gate, and the comparison had power. Anything less is *uninformative*, never *exhausted*.
All that shows is that the class does not move the target from where these runs started: before it is given up it is
tried once from a flat run whose control moved, so from weights that training did change.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

from policies.buckets import ALPHA, UNREADABLE, BucketVerdict, Movement
from policies.significance import detectable_difference
from state.records import Bucket, Instrument, Record, Run

LEAST_RUNS = 3
"""Runs that must agree."""

LEAST_AXES = 2
"""Different axes, beside the starting run, on which they must differ."""

InstrumentClass = Literal["demonstration", "preference", "rollout"]
"""Where supervision acts: on given answers, on pairs of answers, on the model's own generation."""

CLASSES: dict[Instrument, InstrumentClass] = {"sft": "demonstration", "dpo": "preference", "grpo": "rollout"}


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
        target, found = verdict.target, verdict.comparisons[0] if verdict.comparisons else None
        if target is None or found is None or not found.n or verdict.rule in {*UNREADABLE, "U.coarse"}:
            return False
        # A parent that meets the bound by its number is short of it by no figure: then all that is left up to a perfect
        # score is what a class could show.
        room = target.gap if target.gap > 0 else target.sign * (target.scale.best(target.sign) - target.parent)
        if detectable_difference(share * found.spread, found.n, ALPHA) * found.scale.width > room:
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
    missing = _missing(ours, counted, is_ceiling_above_gate=is_ceiling_above_gate)
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


def _missing(ours: list[RunFact], counted: list[RunFact], *, is_ceiling_above_gate: bool | None) -> tuple[str, ...]:
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
