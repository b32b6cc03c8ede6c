"""What the record says about the next run: cases side by side, verdicts so far, the next recipe and its cost."""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple, get_args

from policies.buckets import NOISE_FACTOR, BucketVerdict, Prediction, RunEvidence
from policies.cases import CaseTable
from policies.comparison import compare
from policies.dose import Harm, dose, harm_of, judge_dose
from policies.exhaustion import LEAST_RUNS, ExhaustionVerdict, RunFact, judge_exhaustion, run_fact
from policies.findings import ceilings, reference_tokens
from policies.gate import GateVerdict
from policies.looks import looks_of
from policies.recipes import (
    Lengths,
    RecipeProposal,
    Tried,
    as_judged,
    first_recipe,
    next_recipes,
    tried,
    with_recipe,
)
from policies.target import find_target, is_ceiling_above
from policies.view import View
from policies.walltime import (
    LEAST_ITERS,
    RunEstimate,
    StepSample,
    estimate_run_s,
    lengths_from_quantiles,
    padded_batches,
    rows_at_once,
    step_time,
)
from state.records import Action, Instrument, Json, Run, Side

INSTRUMENTS: tuple[Instrument, ...] = get_args(Instrument)


def case_table(view: View, candidate: str, parent: str = "") -> CaseTable:
    """Return the cases of a candidate, its parent and the base, all under today's harness.

    Args:
        view: The record.
        candidate: Weights hash of the candidate.
        parent: Weights hash of what it started from; where the campaign starts when left out.
    """
    current = {
        a.key
        for a in view.actions
        if a.kind in {"evaluate", "confirm"}
        and a.inputs.get("harness") == view.identity("harness")
        and a.key not in view.void.evaluations
    }
    sides: dict[Side, str] = {
        "base": view.identity("weights"),
        "parent": parent or view.start,
        "candidate": candidate,
    }
    names = dict.fromkeys(sides.values())
    rows = (row for name in names for row in view.measured.get(name, ()) if row.evaluation in current)
    return CaseTable.from_measurements(rows, sides, view.noise, view.goal.track.ranges)


def evidence_of(view: View, run: Run, table: CaseTable, confirmation: GateVerdict | None) -> RunEvidence:
    """Return all that a verdict on one run stands on."""
    predicted = Prediction.model_validate(run.predicted) if run.predicted else None
    return RunEvidence(
        run=run.id,
        gate=view.goal.gate,
        cases=table,
        ceilings=ceilings(view.beliefs, "selection"),
        confirmation=confirmation,
        predicted=predicted,
        control=view.goal.evaluation.control,
        noise_floor=view.goal.evaluation.noise_floor,
        dense=view.goal.evaluation.dense,
        looks=looks_of(view, run),
        stopped=_stopped_unsaved(view, run),
    )


def _stopped_unsaved(view: View, run: Run) -> str:
    """Return the word of the guard that left a run without an adapter, or an empty text."""
    ended = [a for a in view.actions if a.kind == "train" and a.inputs.get("recipe_hash") == run.recipe_hash]
    failed = ended[-1].result if ended and ended[-1].state == "failed" else {}
    return str((failed.get("exit") or {}).get("verdict") or "")


class Parent(NamedTuple):
    """What a run starts from."""

    name: str
    """`base`, `start` (the campaign's adapter), or a run's id."""
    weights: str
    adapter: str
    """Artifact hash of a run's adapter; empty for the others."""
    fixed: Json
    """Recipe keys that its adapter has decided."""
    is_fused: bool = False
    """It is a model of its own: a run's adapter and base made one."""


def parent_of(view: View, instrument: Instrument) -> Parent:
    """Return what a class starts from: a run, as `run_before` says, or the campaign's start."""
    run = run_before(view, instrument)
    if run is not None:
        trained = next(
            a
            for a in reversed(view.actions)
            if a.kind == "train" and a.state == "done" and a.inputs.get("recipe_hash") == run.recipe_hash
        )
        own = Parent(run.id, str(trained.result.get("weights")), run.adapter, _shape_of(run))
        made = fusion(view, run.adapter) if view.goal.search.carry == "fused" else None
        if made is None or made.state != "done" or loss_of(view, own.weights, str(made.result["weights"])):
            return own
        return Parent(run.id, str(made.result["weights"]), "", {}, is_fused=True)
    if view.start == view.identity("weights"):
        return Parent("base", view.start, "", {})
    return Parent("start", view.start, "", _fixed_keys(view))


def run_before(view: View, instrument: Instrument) -> Run | None:
    """Return the run that a class starts from: the best of an earlier class that made progress, if there is one.

    A class that is exhausted from there is tried once from a flat run whose control moved, and gone on with from that
    one if it gets somewhere.
    """
    ours = [run for run in view.runs if run.instrument == instrument]
    if sum(run.bucket == "C" for run in ours) >= LEAST_RUNS:
        facts = _facts(view)
        flat = {fact.run for fact in facts if fact.bucket == "C"}
        again = next((run.parent for run in reversed(ours) if run.parent in flat), "")
        asked = again or _exhaustion(view, instrument, facts, best_before(view, instrument)).start_from
        if asked:
            return next(run for run in view.runs if run.id == asked)
    return best_before(view, instrument)


def _shape_of(run: Run) -> Json:
    return {key: run.recipe[key] for key in _SHAPE if key in run.recipe}


def fusion(view: View, adapter: str) -> Action | None:
    """Return the newest fusion of an adapter with its base, whatever came of it."""
    return next((a for a in reversed(view.actions) if a.kind == "fuse" and a.inputs["adapter"] == adapter), None)


def loss_of(view: View, weights: str, fused: str) -> str:
    """Return by what a fused model misses the selection scores of adapter and base, empty where by no more than noise.

    Args:
        view: The record.
        weights: Hash of adapter and base.
        fused: Hash of the fused model; one that was not measured yet has missed nothing.
    """
    table = case_table(view, fused, weights)
    for condition in view.goal.gate.conditions:
        for metric in condition.metrics:
            ours, theirs = (table.mean(side, metric, "selection") for side in ("candidate", "parent"))
            if ours is None or theirs is None:
                continue
            if abs(ours.mean - theirs.mean) > view.goal.tolerance_for(metric):
                return f"fused it scores {ours.mean:.4g} on {metric}, as adapter and base {theirs.mean:.4g}"
    return ""


def best_before(view: View, instrument: Instrument) -> Run | None:
    """Return the best run of the classes before one that made progress: by slack, the later of equals."""
    order = view.goal.instruments
    earlier = order[: order.index(instrument)] if instrument in order else ()
    trained = {a.inputs.get("recipe_hash") for a in view.actions if a.kind == "train" and a.state == "done"}
    found = [
        run
        for run in view.runs
        if run.instrument in earlier
        and has_moved(view, run)
        and run.adapter
        and run.recipe_hash in trained
        and counts(view, run)
    ]
    return max(found, key=lambda run: (slack_of(view, run), view.runs.index(run)), default=None)


def has_moved(view: View, run: Run) -> bool:
    """Say whether a run made progress on the selection cases; what confirmation said of it chooses nothing."""
    verdict = verdict_of(view, run)
    return verdict is not None and verdict.tuned_by[0] in {"A", "B"}


def slack(verdict: BucketVerdict) -> float:
    """Return by how much the selection cases clear the gate's worst condition, negative where they do not."""
    return min(condition.slack for condition in verdict.gate.conditions)


def slack_of(view: View, run: Run) -> float:
    """Return the slack of a run by its newest verdict, minus infinity without one."""
    verdict = verdict_of(view, run)
    return slack(verdict) if verdict is not None else float("-inf")


_SHAPE = ("fine_tune_type", "num_layers", "lora_parameters")


def next_proposal(view: View, instrument: Instrument | None = None) -> RecipeProposal | None:
    """Return the first of `next_proposals`, or None when there is none."""
    return next(iter(next_proposals(view, instrument)), None)


def next_proposals(view: View, instrument: Instrument | None = None) -> list[RecipeProposal]:
    """Return configurations of a class that were never run: its first, or the remedies for its latest run, in order.

    Args:
        view: The record.
        instrument: Of the class; the campaign's first when left out.
    """
    chosen = instrument or view.goal.instruments[0]
    return [going_on(view, proposal) for proposal in _proposals(view, chosen)]


def going_on(view: View, proposal: RecipeProposal) -> RecipeProposal:
    """Return a proposal that goes on from the longest run that differs from it by its length alone, where one is saved.

    Every step follows from (weights, optimizer, step number, seed), so what comes out is what the whole run would have
    given, unless the learning rate was planned for another length, or the last steps made no whole update.
    """
    saved = {str(a.inputs.get("recipe_hash")): a for a in view.actions if a.key in view.resumable}
    asked, iters = proposal.recipe, int(proposal.recipe["iters"])
    # Rollouts earn by default what the gate asks for, so another gate teaches something else.
    since = max(view.taught_since, view.gate_since if proposal.instrument == "grpo" else 1)
    old = {decision.id for decision in view.decisions if decision.goal_version < since}
    alike = [
        run
        for run in view.runs
        if run.recipe_hash in saved
        and (run.instrument, run.parent_hash, run.seed) == (proposal.instrument, proposal.parent_hash, proposal.seed)
        and run.data_hash == view.identity("data")
        and run.decision not in old
        and _but_length(run.recipe) == _but_length(asked)
        and int(run.recipe["iters"]) < iters
    ]
    # The state that is saved is of a training's end: where an earlier save is better, going on would start from worse.
    worn = [run for run in alike if "judged_step" in _result_of(view, run)]
    shorter = [run for run in alike if run not in worn]
    if not shorter:
        if not worn:
            return proposal
        said = f"It starts again: {worn[-1].id} is best before its end, and only the state of its end could be gone on "
        return proposal.model_copy(update={"hypothesis": f"{proposal.hypothesis} {said}from."})
    run = max(shorter, key=lambda each: int(each.recipe["iters"]))
    step = int(run.recipe["iters"])
    whole = max(int(asked.get("grad_accumulation_steps", 1)), int(asked.get("updates_per_batch", 1)))
    is_same = run.recipe.get("lr_schedule") == asked.get("lr_schedule") and step % whole == 0
    said = f"It goes on from {run.id}'s state at step {step}."
    if not is_same:
        said += " It is not the same as a longer run: its learning rate was planned for another length."
    return proposal.model_copy(
        update={
            "continues": run.id,
            "from_step": step,
            "is_same": is_same,
            "hypothesis": f"{proposal.hypothesis} {said}",
        }
    )


def _but_length(recipe: Json) -> Json:
    """Return what a longer run has in common with a shorter one; a schedule's numbers may follow the length."""
    kept = {key: value for key, value in recipe.items() if key not in {"iters", "seed", "lr_schedule"}}
    schedule = recipe.get("lr_schedule")
    return {**kept, "lr_schedule": schedule.get("name") if isinstance(schedule, dict) else schedule}


def saved_by(view: View, run_id: str) -> tuple[str, str]:
    """Return the training and the save that a run can be gone on from.

    Raises:
        StopIteration: There is none.
    """
    run = next(run for run in view.runs if run.id == run_id)
    key = next(a.key for a in view.actions if a.key in view.resumable and a.inputs["recipe_hash"] == run.recipe_hash)
    return key, view.resumable[key]


def _proposals(view: View, chosen: Instrument) -> list[RecipeProposal]:
    rows = _rows(view, chosen)
    known = ceilings(view.beliefs, "selection")
    parent = parent_of(view, chosen)
    target = find_target(
        view.goal.gate,
        case_table(view, parent.weights, parent.weights),
        ceilings=known,
        noise_floor=view.goal.evaluation.noise_floor,
        dense=view.goal.evaluation.dense,
    )
    of_class = [run for run in view.runs if run.instrument == chosen and run.parent_hash == parent.weights]
    carried = _carried(view, parent.name)
    harms = [_harm(view, run) for run in view.runs if run not in of_class and _has_collapsed(view, run)]
    if all(run.bucket is None for run in of_class):
        first = first_recipe(
            view.goal,
            rows,
            instrument=chosen,
            parent=parent.name,
            parent_hash=parent.weights,
            data_hash=view.identity("data"),
            target=target,
            ceilings=known,
            fixed=parent.fixed,
            parameters=_parameters(view),
        )
        taken = judge_dose(first.recipe, rows.get("rows"), chosen, carried, harms)
        if taken.state == "fits":
            return [first]
        # A class that was never tried is begun gently rather than left out, unless nothing at all is left of it.
        recipe = {**first.recipe, "iters": taken.iters}
        return [with_recipe(first, recipe, view.identity("data"), taken.sentence)] if taken.iters >= LEAST_ITERS else []
    return next_recipes(
        [_tried(view, run) for run in of_class],
        parent=parent.name,
        parent_hash=parent.weights,
        data_hash=view.identity("data"),
        target=target,
        ceilings=known,
        rows=rows.get("rows"),
        fixed=parent.fixed,
        carried=carried,
        harms=harms,
        suggest=view.suggest,
        groups=rows.get("groups") if chosen == "sft" else None,
    )


def _parameters(view: View) -> int | None:
    """Return how many parameters the base has, as its weights' headers said."""
    belief = view.belief("model:base", "is_coherent")
    known = (belief.value or {}).get("n_parameters") if belief is not None else None
    return int(known) if known else None


def _rows(view: View, instrument: Instrument) -> Json:
    """Return the token census of what a class is trained on, empty before it was taken.

    Rollouts are as long as training rows, as far as is known before the first is sampled.
    """
    train = view.belief("data:train", "fits_sequence")
    of_class = {"dpo": view.belief("data:pairs", "fits_sequence"), "grpo": view.belief("data:rollouts", "cases")}
    own = of_class.get(instrument)
    found: Json = dict(train.value) if train is not None and train.value else {}
    return {**found, **own.value} if own is not None and own.value else found


def _carried(view: View, name: str) -> float:
    """Return the dose that a parent has taken, with its own parents; nothing for the campaign's start.

    An adapter to start from may tell its rank, scale and iterations, but not on how many rows it was trained, so its
    passes are not known. Every run of the campaign goes back to it: counted, it would raise all doses alike.
    """
    run = next((run for run in view.runs if run.id == name), None)
    if run is None:
        return 0.0
    recipe = as_judged(run.recipe, _result_of(view, run).get("judged_step"))
    return _carried(view, run.parent) + dose(recipe, _rows(view, run.instrument).get("rows"), run.instrument)


def _harm(view: View, run: Run) -> Harm:
    return harm_of(run.id, "collapsed", run.instrument, run.recipe, _carried(view, run.id))


def _has_collapsed(view: View, run: Run) -> bool:
    """Say whether a run's guard saw its generations collapse."""
    return _tried(view, run).stopped == "collapsed"


def _fixed_keys(view: View) -> Json:
    """Return the recipe keys that an adapter to go on from has decided: another shape would be another adapter."""
    belief = view.belief("identity:parent", "is")
    detail = belief.evidence[0].detail if belief is not None and belief.evidence else {}
    return dict(detail.get("recipe") or {})


def _tried(view: View, run: Run) -> Tried:
    """Return a run as the recipe rules see it."""
    result = _result_of(view, run)
    # A run that a guard ended before its first save has no result, only the guard's word.
    result = {"verdict": (result.get("exit") or {}).get("verdict"), **result}
    losses = [{"val_loss": loss} for loss in result.get("val_losses") or ()]
    lengths = _lengths(view, run, str(result.get("weights") or ""))
    return tried(run, verdict_of(view, run), result, losses, lengths, refused=_refused(view, run))


def _result_of(view: View, run: Run) -> Json:
    """Return what the newest training of a run ended with, at the save that it is judged at; empty before."""
    ended = [a for a in view.actions if a.kind == "train" and a.inputs.get("recipe_hash") == run.recipe_hash]
    return ended[-1].result if ended else {}


def _refused(view: View, run: Run) -> list[str]:
    """Return the conditions that confirmation did not show of a run; none where it was not opened for it."""
    judged = next((d for d in reversed(view.decisions) if d.run == run.id and "bucket" in d.verdict), None)
    if judged is None or "selection" not in judged.verdict:
        return []
    return [each["id"] for each in judged.verdict["gate"]["conditions"] if not each["holds"]]


def _lengths(view: View, run: Run, weights: str) -> Lengths | None:
    """Return the mean answer lengths of a run, its start and the references, on the selection cases that both answered.

    The references are those of the cases; where these have none, the demonstrations that a run learned from.
    """
    ours, theirs = (
        {(row.split, row.case): row.output_tokens for row in view.measured.get(side, ()) if row.use == "selection"}
        for side in (weights, run.parent_hash)
    )
    shared = ours.keys() & theirs.keys()
    known = reference_tokens(view.beliefs, "selection")
    cases = sorted(shared & known.keys()) or sorted(shared)
    if not cases:
        return None
    # No answer is longer than the decode budget, however long its reference is.
    needed = [min(known[case], view.goal.evaluation.max_tokens) for case in cases if case in known]
    taught = _rows(view, "sft").get("mean_answer") if run.instrument == "sft" else None
    reference = sum(needed) / len(needed) if needed else taught
    means = [sum(side[case] for case in cases) / len(cases) for side in (ours, theirs)]
    return Lengths(run=means[0], start=means[1], reference=reference, cases=len(cases))


PROGRESS_ALPHA = 0.16
"""One-sided level, about one standard error, at which a run counts as further than the best one before it."""


def progressed(view: View) -> frozenset[str]:
    """Return the runs that got further than every run of their class before them, which moving the target is not yet.

    Compared on the cases that both answered: by more than the noise floor and one standard error.
    """
    found: set[str] = set()
    best: dict[tuple[Instrument, str], str] = {}
    trained = {a.inputs.get("recipe_hash"): a.result for a in view.actions if a.kind == "train" and a.state == "done"}
    for run in view.runs:
        verdict = verdict_of(view, run) if has_moved(view, run) and counts(view, run) else None
        weights = str((trained.get(run.recipe_hash) or {}).get("weights") or "")
        if verdict is None or verdict.target is None:
            continue
        place = (run.instrument, run.parent_hash)
        if place in best:
            change = compare(
                case_table(view, weights, best[place]),
                verdict.target.metric,
                use="selection",
                alpha=PROGRESS_ALPHA,
            )
            gain = verdict.target.sign * (change.estimate or 0.0)
            floor = max(view.goal.evaluation.noise_floor, NOISE_FACTOR * change.noise_sd)
            if not change.excludes(0.0) or gain <= floor:
                continue
        best[place] = weights
        found.add(run.id)
    return frozenset(found)


def verdict_of(view: View, run: Run) -> BucketVerdict | None:
    """Return the verdict that the record holds on a run."""
    for decision in reversed(view.decisions):
        if decision.run == run.id and "bucket" in decision.verdict:
            return BucketVerdict.model_validate(decision.verdict["bucket"])
    return None


def counts(view: View, run: Run) -> bool:
    """Say whether a run's verdict counts: on sound premises, by today's harness, gate and metric of progress."""
    newest = next((d for d in reversed(view.decisions) if d.run == run.id and d.bucket is not None), None)
    if newest is None:
        return True
    measured_under = newest.verdict.get("harness", view.identity("harness"))
    is_sound = run.id not in view.void.verdicts and not view.is_closed(newest)
    is_read = newest.verdict.get("dense", {}) == view.goal.evaluation.dense
    is_read = is_read and newest.goal_version >= view.gate_since
    return is_sound and is_read and measured_under == view.identity("harness")


def exhaustion_of(view: View) -> list[ExhaustionVerdict]:
    """Return one verdict per instrument that the campaign may use."""
    facts = _facts(view)
    return [_exhaustion(view, name, facts, best_before(view, name)) for name in view.goal.instruments]


def _facts(view: View) -> list[RunFact]:
    """Return what exhaustion needs of each run whose verdict counts."""
    judged = ((run, verdict_of(view, run)) for run in view.runs if counts(view, run))
    return [run_fact(run, verdict) for run, verdict in judged if verdict is not None]


def _exhaustion(view: View, instrument: Instrument, facts: Sequence[RunFact], start: Run | None) -> ExhaustionVerdict:
    """Return the verdict on one class, whose runs start from a run or from the campaign's start."""
    weights = str(_result_of(view, start).get("weights") or "") if start is not None else view.start
    known = ceilings(view.beliefs, "selection")
    is_above = is_ceiling_above(view.goal.gate, case_table(view, "", weights), known)
    return judge_exhaustion(instrument, facts, is_ceiling_above_gate=is_above)


def estimate_of(view: View, recipe: Json, instrument: Instrument | None = None) -> RunEstimate:
    """Return how long a recipe takes here: from this campaign's own runs once there is one, else from timed steps.

    Args:
        view: The record.
        recipe: mlx-lm keys.
        instrument: Whose steps; the campaign's first when left out. Before its first run, those of the others are
            scaled by what a step of each is assumed to cost.
    """
    chosen = instrument or view.goal.instruments[0]
    samples: dict[Instrument, list[StepSample]] = {}
    timed: dict[Instrument, list[StepSample]] = {}
    fixed_s = 0.0
    for action in view.actions:
        steps = _steps_of(view, action)
        tokens, steps_s, iters = (action.result.get(name) for name in ("padded_tokens", "steps_s", "iters"))
        if steps is not None and tokens and steps_s and iters:
            trained, size = steps
            sample = StepSample(batch_size=size, padded_tokens=tokens / iters / size, seconds=steps_s / iters)
            (timed if action.kind == "pace" else samples).setdefault(trained, []).append(sample)
            # From the start of the process to its first step: interpreter, imports, weights and kernels.
            told = float(action.result.get("startup_s") or 0.0)
            fixed_s = max(told, float(action.result.get("wall_s") or 0.0) - steps_s)
    lengths, full = _sized(view, recipe, chosen)
    return estimate_run_s(step_time(samples, chosen, _remembered(view), timed), lengths, full, fixed_s)


def tokens_of(view: View, recipe: Json, instrument: Instrument) -> float:
    """Return how many tokens a recipe will train on, padding included, by the lengths that were counted."""
    lengths, full = _sized(view, recipe, instrument)
    tops = padded_batches(lengths, full["batch_size"], full["max_seq_length"])
    return float(full["iters"] * full["batch_size"] * sum(tops) / len(tops))


def _sized(view: View, recipe: Json, instrument: Instrument) -> tuple[list[int], Json]:
    """Return lengths that stand for the rows of an instrument's data, and the recipe with the rows of a step."""
    row = _rows(view, instrument)
    longest = float(row.get("max_tokens") or 512)
    lengths = lengths_from_quantiles(float(row.get("p50") or longest), float(row.get("p95") or longest), longest)
    full: Json = {"iters": 100, "batch_size": 4, "max_seq_length": 2048, **recipe}
    full["batch_size"] = rows_at_once(full, instrument)
    # Each length stands for many rows: as often as a batch is large, so that batches of like length can form.
    return lengths * int(full["batch_size"]), full


def _steps_of(view: View, action: Action) -> tuple[Instrument, int] | None:
    """Return the instrument of the steps that an action trained and the rows of each, None where it trained none."""
    if action.kind == "pace":
        instrument: Instrument = action.inputs["instrument"]
        return instrument, rows_at_once(action.inputs["recipe"], instrument)
    run = next(
        (r for r in view.runs if action.kind == "train" and r.recipe_hash == action.inputs.get("recipe_hash")), None
    )
    return None if run is None else (run.instrument, rows_at_once(run.recipe, run.instrument))


def _remembered(view: View) -> dict[Instrument, list[StepSample]]:
    """Return the steps that earlier campaigns with these weights were timed at on this machine."""
    belief = view.belief("machine:steps", "step_time")
    value: Json = belief.value if belief is not None and belief.status == "fresh" else {}
    found: dict[Instrument, list[StepSample]] = {}
    for name in INSTRUMENTS:
        found[name] = [StepSample.model_validate(row) for row in value.get(name, ())]
    return found


def evaluation_s(view: View) -> float:
    """Return how long measuring one side on one use of the splits takes here, seconds; zero before it was done once."""
    took = [
        action.finished_at - action.created_at
        for action in view.actions
        if action.kind in {"evaluate", "confirm"} and action.state == "done" and action.finished_at is not None
        if "look" not in action.inputs
    ]
    return median(took) if took else 0.0


def planned_s(view: View) -> float:
    """Return what the campaign would have spent on training, seconds: its runs at the expected time of one."""
    runs = view.goal.budget.runs or view.goal.search.max_runs or view.goal.search.max_runs_without_progress
    proposal = next_proposal(view)
    recipe = proposal.recipe if proposal is not None else view.goal.first_recipe
    return estimate_of(view, recipe).seconds * max(0, runs - len(view.runs))
