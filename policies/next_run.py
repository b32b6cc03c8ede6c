"""Which run comes next and at what cost: its recipe, its place among the classes, which save is judged.

A run is measured at its end first. Other saves that may be better, those with a lower validation loss or any where none
was measured, are then looked at on a seeded part of the cases that the gate's own metric is of. The run is judged at
the best of them, at a level divided by how many there were. Looks that would cost much beside the training are left
out, and the decision to measure the run says so. What they cost is counted in tokens, never in seconds: a busy machine
looks at the same saves as a quiet one.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import NamedTuple, get_args

from policies import cost
from policies.checks import ceilings, reference_tokens
from policies.comparison import CaseTable, compare
from policies.cost import (
    LEAST_ITERS,
    RunEstimate,
    StepSample,
    cut_to_time,
    estimate_run_s,
    least_iters,
    lengths_from_quantiles,
    padded_batches,
    prior,
    refusal,
    rows_together,
    step_time,
    timed_step,
)
from policies.drafts import Draft, draft, is_same
from policies.gate import GateVerdict
from policies.history import View
from policies.recipes import (
    Harm,
    Lengths,
    RecipeProposal,
    Tried,
    as_judged,
    dose,
    first_recipe,
    harm_of,
    judge_dose,
    next_recipes,
    tried,
    with_recipe,
)
from policies.target import aim_of, find_target, is_ceiling_above, own_metric
from policies.verdict import (
    LEAST_RUNS,
    NOISE_FACTOR,
    BucketVerdict,
    ExhaustionVerdict,
    Prediction,
    RunEvidence,
    RunFact,
    StopVerdict,
    conclusion,
    could_tell,
    judge_exhaustion,
    run_fact,
)
from state.goal import name_of, split_of
from state.recipe import DEFAULTS, SHAPE_KEYS, schedule_but_length, setting
from state.records import CLASSES, Action, Alternative, Guard, Instrument, Json, Run, Save, Side, TrainResult

MOST_SHARE = 0.25
"""Share of a training's cost that looking at its other saves may have."""

READ_COST, ANSWER_COST = 1 / 3, 3.0
"""What a token of a prompt and one of an answer cost beside a trained one. Read, it needs a third of the operations;
decoded, as many, which on two cores take about as long as the others and on an H200 ten times as long as training
(runbooks/measured.md: 36,700 trained and 3,600 decoded tokens a second of the same model)."""


def may_be_better(saves: Sequence[Save]) -> list[Save]:
    """Return the saves before the last that may be better than it.

    Args:
        saves: Oldest first; the last is what the training delivered.
    """
    if not saves:
        return []
    last = saves[-1]
    lower = [save for save in saves[:-1] if last.val_loss is None or (save.val_loss or math.inf) < last.val_loss]
    return [save for save in lower if save.weights != last.weights]


def evaluate_save(view: View, run: Run, trained: Action) -> Draft | None:
    """Look at the next save of a run that may be better than its end, unless that is dear or was done."""
    if why_not(view, trained) or _is_opened(view, run):
        return None
    saves = trained.made.saves
    for save in may_be_better(saves):
        inputs = _inputs(view, run.id, save)
        if _taken(view, inputs) is None:
            part = inputs["look"]
            sentence = (
                f"Look at the save of {run.id} at step {save.step} on {part['cases']} selection cases of "
                f"{part['split']}: it may be better than the end, at step {saves[-1].step}."
            )
            return draft(view, "evaluate", "run.look", sentence, inputs, run_id=run.id)
    return None


def _is_opened(view: View, run: Run) -> bool:
    """Say whether the confirmation cases were opened for a run: what was confirmed is what it is judged at."""
    wanted = {"run": run.id, "harness": view.identity("harness")}
    return any(a.kind == "confirm" and a.state == "done" and is_same(a.inputs, wanted) for a in view.actions)


def why_not(view: View, trained: Action) -> str:
    """Return why saves that may be better are not looked at; empty where they are, and where there are none."""
    others = may_be_better(trained.made.saves)
    if not others:
        return ""
    if not view.goal.evaluation.look_cases:
        return "evaluation.look_cases is 0"
    return _too_dear(len(others) * _tokens_of_part(view), trained.made.padded_tokens)


def _too_dear(cost: float, trained: float) -> str:
    """Return why looks are too dear beside a training, empty where they are not; both in trained tokens."""
    if cost <= MOST_SHARE * trained:
        return ""
    return f"that would cost as much as {cost:,.0f} trained tokens, and the run has {trained:,.0f}"


def skipped(view: View, trained: Action) -> tuple[Alternative, ...]:
    """Say that saves which may be better are not looked at, and why."""
    reason = why_not(view, trained)
    steps = ", ".join(str(save.step) for save in may_be_better(trained.made.saves))
    return (Alternative(action="evaluate", reason=f"the saves at step {steps}: {reason}"),) if reason else ()


def _tokens_of_part(view: View) -> float:
    """Return what one look costs in trained tokens, by the base's prompts and answers; zero before it was measured."""
    (split, _), harness = _metric(view), view.identity("harness")
    each = [
        READ_COST * row.prompt_tokens + ANSWER_COST * row.output_tokens
        for row in view.measurements
        if (row.side, row.split, row.use, row.harness) == ("base", split, "selection", harness)
    ]
    return view.goal.evaluation.look_cases * math.fsum(each) / max(1, len(each))


def _inputs(view: View, run: str, save: Save) -> Json:
    return {
        "side": "candidate",
        "run": run,
        "harness": view.identity("harness"),
        "weights": save.weights,
        "adapter": save.adapter,
        "look": {
            "use": "selection",
            "split": _metric(view)[0],
            "cases": view.goal.evaluation.look_cases,
            "step": save.step,
        },
    }


def _taken(view: View, inputs: Json) -> Action | None:
    """Return the look at a save that was taken, on however many cases: an edit of their number judges nothing anew."""
    wanted = {name: value for name, value in inputs.items() if name != "look"}
    place = {name: value for name, value in inputs["look"].items() if name != "cases"}
    matching = (a for a in view.actions if a.kind == "evaluate" and a.state == "done" and is_same(a.inputs, wanted))
    at_place = (a for a in matching if is_same(a.inputs.get("look") or {}, place))
    return next((a for a in at_place if a.key not in view.invalidated.evaluations), None)


FIRST_SHARE = 0.25
"""Share of a run's steps before which nobody looks: what is lost in the first steps may come back."""


def interim(view: View, recipe: Json, instrument: Instrument, tokens: float) -> tuple[Json, str]:
    """Return how a run is looked at while it trains, or nothing and why it is not.

    A run that has lost, at two looks in a row, what its start could do on a part of the selection cases is stopped by a
    guard that is fixed at launch. It can only end a run, so it takes nothing from the level of a verdict.

    Args:
        view: The record.
        recipe: Of the run.
        instrument: Rollouts are held against cases of their own.
        tokens: That it will train on, padding included.
    """
    cases = view.goal.evaluation.look_cases
    if CLASSES[instrument] == "rollout" or not cases:
        return {}, ""
    iters, every = int(recipe["iters"]), int(setting(recipe, "steps_per_eval"))
    first = math.ceil(FIRST_SHARE * iters)
    if why := _too_dear((1 + iters // every - (first - 1) // every) * _tokens_of_part(view), tokens):
        return {}, f"no look at it while it trains: {why}"
    split, metric = _metric(view)
    sign = aim_of(view.goal.gate).direction
    return {"split": split, "metric": metric, "sign": sign, "cases": cases, "first": first}, ""


HOPELESS = Guard(signal="interim_lost", op=">", threshold=0.5, patience=2, verdict="hopeless")
"""Two looks in a row that found the target lost."""


def at_best_saves(view: View) -> View:
    """Return the view in which each training's result is the best of its saves, where all that may be were looked at.

    `weights` and `adapter` are then of that save, `looks` is how many were compared, and `judged_step` its step, where
    it is not the end.
    """
    return replace(view, actions=tuple(_at_best(view, action) for action in view.actions))


def _at_best(view: View, trained: Action) -> Action:
    saves = trained.made.saves if trained.kind == "train" else ()
    others = may_be_better(saves)
    looks = [_taken(view, _inputs(view, str(trained.inputs.get("run")), save)) for save in others]
    if not others or None in looks:
        return trained
    scores = _scores(view, [*others, saves[-1]])
    parts = [scores.get(look.key, {}) for look in looks if look is not None]
    ended = {case: score for name in _of_weights(view, saves[-1]) for case, score in scores.get(name, {}).items()}
    sign = aim_of(view.goal.gate).direction
    # Of equals the later: the end is what the recipe meant.
    shared = set(ended).intersection(*parts)
    # Exact sums, rounded: two saves that are equal on paper are equal in every process.
    means = [round(math.fsum(sign * part[case] for case in shared), 9) for part in (*parts, ended)]
    best = max(range(len(means)), key=lambda place: (means[place], place)) if shared else len(others)
    save = [*others, saves[-1]][best]
    best_save: Json = {"weights": save.weights, "adapter": save.adapter, "looks": len(means)}
    best_save |= {"judged_step": save.step} if save is not saves[-1] else {}
    return trained.model_copy(update={"result": {**trained.result, **best_save}})


def _of_weights(view: View, save: Save) -> list[str]:
    """Return the evaluations that measured a save on all selection cases under today's harness."""
    wanted = {"weights": save.weights, "use": "selection", "harness": view.identity("harness")}
    return [a.key for a in view.actions if a.kind == "evaluate" and a.state == "done" and is_same(a.inputs, wanted)]


def _scores(view: View, saves: Sequence[Save]) -> dict[str, dict[str, float]]:
    """Return evaluation -> case -> score of the gate's own metric, of some saves."""
    split, metric = _metric(view)
    scores: dict[str, dict[str, float]] = {}
    for row in (row for save in saves for row in view.measured.get(save.weights, ())):
        score = row.metrics.get(metric) if row.split == split and row.use == "selection" else None
        if score is not None:
            scores.setdefault(row.evaluation, {})[row.case] = score
    return scores


def _metric(view: View) -> tuple[str, str]:
    """Return split and name of the metric that saves are compared by: the gate's own, or what it is read on."""
    own = own_metric(view.goal.gate)
    read = view.goal.evaluation.dense.get(own, own)
    return split_of(read), name_of(read)


def saves_compared(view: View, run: Run) -> int:
    """Return how many saves of a run were compared before it was judged at the best of them; one where none were."""
    return view.trained(run).looks or 1


def judged_at(trained: TrainResult) -> str:
    """Say at which save a run is judged and how many were compared; empty where its end is all there is."""
    looks, step = trained.looks, trained.judged_step
    where = "its end" if step is None else f"its save of step {step}"
    return f" It is judged at {where}, the best of {looks} compared, at a level divided by {looks}." if looks else ""


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
        and a.key not in view.invalidated.evaluations
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
        looks=saves_compared(view, run),
        stopped=_stopped_unsaved(view, run),
    )


def _stopped_unsaved(view: View, run: Run) -> str:
    """Return the word of the guard that left a run without an adapter, or an empty text."""
    training = view.training(run)
    return training.guard_word if training is not None and training.state == "failed" else ""


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
        own = Parent(run.id, view.trained(run).weights, run.adapter, _shape_of(run))
        made = fusion(view, run.adapter) if view.goal.search.start_from == "fused" else None
        if made is None or made.state != "done" or loss_of(view, own.weights, made.made.weights):
            return own
        return Parent(run.id, made.made.weights, "", {}, is_fused=True)
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
        start = again or _exhaustion(view, instrument, facts, best_before(view, instrument)).start_from
        if start:
            return view.run(start)
    return best_before(view, instrument)


def _shape_of(run: Run) -> Json:
    return {key: run.recipe[key] for key in SHAPE_KEYS if key in run.recipe}


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
    for _, metric in view.goal.gate.demands:
        ours, theirs = (table.mean(side, metric, "selection") for side in ("candidate", "parent"))
        if ours is None or theirs is None:
            continue
        if abs(ours.mean - theirs.mean) > view.goal.tolerance_for(metric):
            return f"fused it scores {ours.mean:.4g} on {metric}, as adapter and base {theirs.mean:.4g}"
    return ""


def best_before(view: View, instrument: Instrument) -> Run | None:
    """Return the best run of the classes before one that made progress: by slack, the later of equals."""
    order = view.goal.instruments
    classes_before = order[: order.index(instrument)] if instrument in order else ()
    eligible = [
        run
        for run in view.runs
        if run.instrument in classes_before
        and has_moved(view, run)
        and run.adapter
        and (training := view.training(run)) is not None
        and training.state == "done"
        and counts(view, run)
    ]
    return max(eligible, key=lambda run: (slack_of(view, run), view.runs.index(run)), default=None)


def has_moved(view: View, run: Run) -> bool:
    """Say whether a run made progress on the selection cases; what confirmation said of it chooses nothing."""
    verdict = view.verdict(run)
    return verdict is not None and verdict.tuned_by[0] in {"A", "B"}


def slack(verdict: BucketVerdict) -> float:
    """Return by how much the selection cases clear the gate's worst condition, negative where they do not."""
    return min(condition.slack for condition in verdict.gate.conditions)


def slack_of(view: View, run: Run) -> float:
    """Return the slack of a run by its newest verdict, minus infinity without one."""
    verdict = view.verdict(run)
    return slack(verdict) if verdict is not None else float("-inf")


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
    recipe, iters = proposal.recipe, int(proposal.recipe["iters"])
    # Rollouts earn by default what the gate asks for, so another gate teaches something else.
    since = max(view.taught_since, view.gate_since if CLASSES[proposal.instrument] == "rollout" else 1)
    old = {decision.id for decision in view.decisions if decision.goal_version < since}
    alike = [
        run
        for run in view.runs
        if run.recipe_hash in saved
        and (run.instrument, run.parent_hash, run.seed) == (proposal.instrument, proposal.parent_hash, proposal.seed)
        and run.data_hash == view.identity("data")
        and run.decision not in old
        and _but_length(run.recipe) == _but_length(recipe)
        and int(run.recipe["iters"]) < iters
    ]
    # The state that is saved is of a training's end: where an earlier save is better, going on would start from worse.
    worn = [run for run in alike if view.trained(run).judged_step is not None]
    shorter = [run for run in alike if run not in worn]
    if not shorter:
        if not worn:
            return proposal
        why = f"It starts again: {worn[-1].id} is best before its end, and only the state of its end could be gone on "
        return proposal.model_copy(update={"hypothesis": f"{proposal.hypothesis} {why}from."})
    run = max(shorter, key=lambda each: int(each.recipe["iters"]))
    step = int(run.recipe["iters"])
    whole = max(int(setting(recipe, "grad_accumulation_steps")), int(setting(recipe, "updates_per_batch")))
    is_same = run.recipe.get("lr_schedule") == recipe.get("lr_schedule") and step % whole == 0
    sentence = f"It goes on from {run.id}'s state at step {step}."
    if not is_same:
        sentence += " It is not the same as a longer run: its learning rate was planned for another length."
    return proposal.model_copy(
        update={
            "continues": run.id,
            "from_step": step,
            "is_same": is_same,
            "hypothesis": f"{proposal.hypothesis} {sentence}",
        }
    )


def _but_length(recipe: Json) -> Json:
    """Return what a longer run has in common with a shorter one."""
    kept = {key: value for key, value in recipe.items() if key not in {"iters", "seed"}}
    return {**kept, "lr_schedule": schedule_but_length(recipe.get("lr_schedule"))}


def saved_by(view: View, run_id: str) -> tuple[str, str]:
    """Return the training and the save that a run can be gone on from.

    Raises:
        StopIteration: There is none.
    """
    hashes = {run.recipe_hash for run in view.runs if run.id == run_id}
    key = next(a.key for a in view.actions if a.key in view.resumable and a.inputs["recipe_hash"] in hashes)
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
        groups=rows.get("groups") if CLASSES[chosen] == "demonstration" else None,
    )


def _parameters(view: View) -> int | None:
    """Return how many parameters the base has, as its weights' headers said."""
    belief = view.belief("model:base", "is_coherent")
    known = (belief.value or {}).get("n_parameters") if belief is not None else None
    return int(known) if known else None


def _flops(view: View) -> float | None:
    """Return the operations per second that a matrix product was measured at, None on a GPU; OpenBLAS has threads."""
    belief = view.belief("machine:blas", "speed")
    speed = (belief.value or {}) if belief is not None else {}
    threads = speed.get("threads", 1) if speed.get("library") else 1
    return speed["gflops_after"] * 1e9 * threads if "gflops_after" in speed else None


def _rows(view: View, instrument: Instrument) -> Json:
    """Return the token census of what a class is trained on, empty before it was taken.

    Rollouts are as long as training rows, as far as is known before the first is sampled.
    """
    train = view.belief("data:train", "fits_sequence")
    of_class = {
        "preference": view.belief("data:pairs", "fits_sequence"),
        "rollout": view.belief("data:rollouts", "cases"),
    }
    own = of_class.get(CLASSES[instrument])
    census: Json = dict(train.value) if train is not None and train.value else {}
    return {**census, **own.value} if own is not None and own.value else census


def _carried(view: View, name: str) -> float:
    """Return the dose that a parent has taken, with its own parents; nothing for the campaign's start.

    An adapter to start from may tell its rank, scale and iterations, but not on how many rows it was trained, so its
    passes are not known. Every run of the campaign goes back to it: counted, it would raise all doses alike.
    """
    run = view.run(name)
    if run is None:
        return 0.0
    recipe = as_judged(run.recipe, view.trained(run).judged_step)
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
    training, trained = view.training(run), view.trained(run)
    if training is not None:
        # A run that a guard ended before its first save has no result, only the guard's word.
        trained = trained.model_copy(update={"verdict": training.guard_word})
    return tried(run, view.verdict(run), trained, _lengths(view, run, trained.weights), refused=_refused(view, run))


def _refused(view: View, run: Run) -> list[str]:
    """Return the conditions that confirmation did not show of a run; none where it was not opened for it."""
    judged = view.judged(run.id)
    judgement = view.judgement(judged) if judged is not None else None
    return [] if judgement is None or judgement.selection is None else [each.id for each in judgement.gate.failing]


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
    taught = _rows(view, "sft").get("mean_answer") if CLASSES[run.instrument] == "demonstration" else None
    reference = sum(needed) / len(needed) if needed else taught
    means = [sum(side[case] for case in cases) / len(cases) for side in (ours, theirs)]
    return Lengths(run=means[0], start=means[1], reference=reference, cases=len(cases))


PROGRESS_ALPHA = 0.16
"""One-sided level, about one standard error, at which a run counts as further than the best one before it."""


def progressed(view: View) -> frozenset[str]:
    """Return the runs that got further than every run of their class before them, which moving the target is not yet.

    Compared on the cases that both answered: by more than the noise floor and one standard error.
    """
    further: set[str] = set()
    best: dict[tuple[Instrument, str], str] = {}
    for run in view.runs:
        verdict = view.verdict(run) if has_moved(view, run) and counts(view, run) else None
        weights = view.trained(run).weights
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
        further.add(run.id)
    return frozenset(further)


def counts(view: View, run: Run) -> bool:
    """Say whether a run's verdict counts: on sound premises, by today's harness, gate and metric of progress."""
    newest = view.judged(run.id)
    if newest is None:
        return True
    judgement, harness = view.judgement(newest), view.identity("harness")
    is_sound = run.id not in view.invalidated.verdicts and not view.is_closed(newest)
    is_read = (judgement.dense if judgement is not None else {}) == view.goal.evaluation.dense
    is_of_today = judgement is None or (judgement.harness or harness) == harness
    return is_sound and is_read and is_of_today and newest.goal_version >= view.gate_since


def exhaustion_of(view: View) -> list[ExhaustionVerdict]:
    """Return one verdict per instrument that the campaign may use."""
    facts = _facts(view)
    return [_exhaustion(view, name, facts, best_before(view, name)) for name in view.goal.instruments]


def _facts(view: View) -> list[RunFact]:
    """Return what exhaustion needs of each run whose verdict counts."""
    judged = ((run, view.verdict(run)) for run in view.runs if counts(view, run))
    return [run_fact(run, verdict) for run, verdict in judged if verdict is not None]


def _exhaustion(view: View, instrument: Instrument, facts: Sequence[RunFact], start: Run | None) -> ExhaustionVerdict:
    """Return the verdict on one class, whose runs start from a run or from the campaign's start."""
    weights = view.trained(start).weights if start is not None else view.start
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
        if (steps := _steps_of(view, action)) is not None and (sample := timed_step(action.made, steps[1])):
            (timed if action.kind == "pace" else samples).setdefault(steps[0], []).append(sample)
            # From the start of the process to its first step: interpreter, imports, weights and kernels.
            fixed_s = max(action.made.startup_s, (action.made.wall_s or 0.0) - action.made.steps_s)
    lengths, full = _sized(view, recipe, chosen)
    step = step_time(samples, chosen, _remembered(view), timed, prior(_parameters(view), _flops(view)))
    return estimate_run_s(step, lengths, full, fixed_s)


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
    full: Json = {key: DEFAULTS[key] for key in ("iters", "batch_size", "max_seq_length")} | recipe
    full["batch_size"] = rows_together(full, instrument)
    # Each length stands for many rows: as often as a batch is large, so that batches of like length can form.
    return lengths * int(full["batch_size"]), full


def _steps_of(view: View, action: Action) -> tuple[Instrument, int] | None:
    """Return the instrument of the steps that an action trained and the rows of each, None where it trained none."""
    if action.kind == "pace":
        instrument: Instrument = action.inputs["instrument"]
        return instrument, rows_together(action.inputs["recipe"], instrument)
    run = next(
        (r for r in view.runs if action.kind == "train" and r.recipe_hash == action.inputs.get("recipe_hash")), None
    )
    return None if run is None else (run.instrument, rows_together(run.recipe, run.instrument))


def _remembered(view: View) -> dict[Instrument, list[StepSample]]:
    """Return the steps that earlier campaigns with these weights were timed at on this machine."""
    belief = view.belief("machine:steps", "step_time")
    value: Json = belief.value if belief is not None and belief.status == "fresh" else {}
    steps: dict[Instrument, list[StepSample]] = {}
    for name in INSTRUMENTS:
        steps[name] = [StepSample.model_validate(row) for row in value.get(name, ())]
    return steps


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


FOLLOW_UPS = 2
"""Runs that each class not tried yet is left time for: its first, and one that follows from it."""


LEAST_OUT = 2
"""Idle runs in a row that must exclude the gate before their class waits for those that nobody tried."""

LATER = 2.0
"""A later run against the first: the first remedy for one that got further and not far enough is twice its steps."""


@dataclass(frozen=True)
class Choice:
    """The next run of a class, as the time left allows it.

    Args:
        proposal: What to run; None: nothing is left to try, or nothing fits.
        estimate: What it costs, or what the first proposal would have cost.
        left: What the budget leaves beside it.
        was_proposed: Some recipe was left that was never run, whether or not it fits.
        skipped: Proposals that came first and were not taken.
    """

    proposal: RecipeProposal | None
    estimate: RunEstimate
    left: cost.BudgetVerdict
    was_proposed: bool
    skipped: tuple[Alternative, ...] = ()


def choose(view: View, instrument: Instrument) -> Choice:
    """Return the first proposal that fits the time left at the speed measured here, or one cut to fit.

    What a remedy costs does not change its place: on a busy machine the same runs follow from the same results.
    """
    proposals = next_proposals(view, instrument)
    measuring_s = 2 * evaluation_s(view)
    priced = [(each, estimate_of(view, each.added, instrument)) for each in proposals]
    fitting: list[Choice] = []
    cut: list[Choice] = []
    skipped: list[Alternative] = []
    for proposal, estimate in priced:
        if refused := refusal(view.beliefs, instrument, proposal.recipe):
            skipped.append(Alternative(action=proposal.rule, reason=refused))
            continue
        left = affords(view, estimate.seconds + measuring_s, instrument=instrument)
        fitted = proposal if left.is_affordable else None
        if fitted is None and left.nearest_s is not None and left.limit in {"until", "hours", "class_hours"}:
            fitted = _cut(view, proposal, estimate, left.nearest_s - measuring_s)
            if fitted is not None and any(fitted.recipe_hash == run.recipe_hash for run in view.runs):
                skipped.append(Alternative(action=proposal.rule, reason="cut to the time left it was run already"))
                continue
            estimate = estimate_of(view, fitted.added, instrument) if fitted is not None else estimate  # noqa: PLW2901 - the cut one's
        if fitted is None:
            skipped.append(Alternative(action=proposal.rule, reason=left.sentence))
        else:
            (fitting if fitted is proposal else cut).append(Choice(fitted, estimate, left, was_proposed=True))
    # What is left of a remedy that is cut may be hardly another recipe than the last: whole ones come first.
    if fitting:
        skipped += [
            Alternative(action=each.rule, reason="it would have to be cut to fit") for each in _proposed_by_class(cut)
        ]
    else:
        fitting = cut
    if not fitting:
        recipe = proposals[0].added if proposals else view.goal.recipe_of(instrument)
        estimate = estimate_of(view, recipe, instrument)
        left = affords(view, estimate.seconds + measuring_s, instrument=instrument)
        return Choice(None, estimate, left, bool(proposals), tuple(skipped))
    return replace(fitting[0], skipped=tuple(skipped))


def _proposed_by_class(choices: Sequence[Choice]) -> list[RecipeProposal]:
    return [choice.proposal for choice in choices if choice.proposal is not None]


def _cut(view: View, proposal: RecipeProposal, estimate: RunEstimate, left_s: float) -> RecipeProposal | None:
    """Return a proposal with as many iterations as fit the time left, or None when that would be pointless.

    A class that nobody tried is begun with few rather than passed over.
    """
    least = LEAST_ITERS if is_first_of(view, proposal.instrument) else least_iters(proposal.added)
    recipe = cut_to_time(proposal.added, estimate, left_s, least)
    if recipe is None:
        return None
    recipe = {**recipe, "iters": proposal.from_step + int(recipe["iters"])}
    why = (
        f"Cut from {proposal.recipe['iters']} to {recipe['iters']} iterations: the whole would take "
        f"{cost.minutes(estimate.seconds)} and {cost.minutes(left_s)} are left for training."
    )
    return with_recipe(proposal, recipe, view.identity("data"), why)


def whole_of(view: View, first: RunEstimate) -> str:
    """Return in a sentence what a campaign takes from its first training on: if that is enough, and with all its runs.

    Args:
        view: The record, its base measured.
        first: What its first training costs.
    """
    each_s = evaluation_s(view)
    # A run is measured once; the confirmation answers other cases with the base and with the run.
    one_s = first.seconds + 3 * each_s
    most = min((runs for runs in (view.goal.budget.runs, view.goal.search.max_runs) if runs is not None), default=1)
    if most == 1:
        return f"With its measurements and the confirmation about {cost.minutes(one_s)}."
    all_s = one_s + (most - 1) * (LATER * first.seconds + each_s)
    return (
        f"In all about {cost.minutes(one_s)} if this run is enough, {cost.minutes(all_s)} with the {most} runs "
        "that are allowed."
    )


def is_first_of(view: View, instrument: Instrument) -> bool:
    """Say whether no run of a class was planned yet."""
    return all(run.instrument != instrument for run in view.runs)


def affords(
    view: View, seconds: float, *, runs: int = 1, use_reserve: bool = False, instrument: Instrument | None = None
) -> cost.BudgetVerdict:
    """Return whether the budget affords an act, and its class where one is named."""
    verdict = cost.affordable(
        view.goal.budget,
        cost.Spent(
            runs=sum(action.kind == "train" and not _was_lost(view, action) for action in view.actions),
            disk_gb=view.used_gb,
            queued_s=cost.queued_s(view.actions),
        ),
        cost.Estimate(seconds=seconds, runs=runs),
        view.now,
        view.campaign.started_at,
        utc_offset_s=view.utc_offset_s,
        use_reserve=use_reserve,
    )
    if instrument is None or instrument not in view.goal.budget.class_hours:
        return verdict
    hours = view.goal.budget.class_hours[instrument]
    return cost.within_class(verdict, instrument, hours, _spent_s(view, instrument), seconds)


def _was_lost(view: View, action: Action) -> bool:
    """Say whether a training failed and its run was set aside: one begun again in its place counts for both."""
    lost = {run.id for run in view.runs if run.state == "lost"}
    return action.state == "failed" and action.inputs.get("run") in lost


def _spent_s(view: View, instrument: Instrument) -> float:
    """Return what the runs of a class took so far, their measurements included, seconds; waiting is not counted."""
    runs = {run.id for run in view.runs if run.instrument == instrument}
    done = [action for action in view.actions if action.inputs.get("run") in runs and action.finished_at is not None]
    return sum((action.finished_at or 0.0) - action.created_at for action in done) - cost.queued_s(done)


def class_end(view: View, instrument: Instrument, choice: Choice) -> StopVerdict | None:
    """Return why a class has nothing more to give, or why the campaign may spend no more."""
    judged = [run for run in view.runs if run.bucket is not None and counts(view, run)]
    of_class = [run for run in judged if run.instrument == instrument]
    # What was planned for another gate is no reason to give this one up.
    planned = {decision.id: decision.goal_version for decision in view.decisions}
    old = {run.id for run in of_class if planned.get(run.decision, view.goal_version) < view.gate_since}
    active = progressed(view) | old
    idle = next((place for place, run in enumerate(reversed(of_class)) if run.id in active), len(of_class))
    if view.goal.search.goal == "best" and {run.bucket for run in of_class[len(of_class) - idle :]} != {"U"}:
        # The best is looked for while the budget allows: no run that stood still ends that.
        idle = 0
    exhaustion = [row for row in exhaustion_of(view) if row.instrument == instrument]
    if any(row.start_from for row in exhaustion):
        # Flat from one start is no reason to give the class up before it was tried from another.
        exhaustion, idle = [], 0
    return conclusion(
        buckets=[run.bucket for run in of_class if run.bucket is not None],
        search=view.goal.search,
        budget=choice.left if choice.proposal is None else choice.left.model_copy(update={"is_affordable": True}),
        exhaustion=exhaustion,
        has_proposal=choice.was_proposed,
        judged=len(judged),
        idle=idle,
        is_blind=_is_blind(view, of_class[len(of_class) - idle :]),
    )


def _exclude_gate(view: View, runs: Sequence[Run]) -> bool:
    """Say whether runs trained, as their control says, and the whole interval of each one's target misses the gate."""
    verdicts = [verdict for run in runs if (verdict := view.verdict(run)) is not None]
    return len(verdicts) >= LEAST_OUT and all(_excludes_gate(verdict) for verdict in verdicts)


def _excludes_gate(verdict: BucketVerdict) -> bool:
    target, comparison = verdict.target, verdict.comparisons[0] if verdict.comparisons else None
    shown = None if comparison is None else comparison.typical or comparison.interval
    if target is None or shown is None or verdict.control_moved is not True or verdict.is_capped:
        return False
    return (shown.high if target.sign > 0 else -shown.low) < target.gap


def _is_blind(view: View, runs: Sequence[Run]) -> bool:
    """Say whether the measurement of runs could not have told a class that reaches the gate from their parent."""
    verdicts = [view.verdict(run) for run in runs]
    return not could_tell([verdict for verdict in verdicts if verdict is not None])


def in_order(view: View) -> list[Instrument]:
    """Return the classes in the order in which they are asked: those that are getting somewhere, then as written."""
    further = progressed(view)
    moving = {run.instrument for run in view.runs if run.id in further}
    return sorted(view.goal.instruments, key=lambda name: name not in moving)


def postponed(
    view: View, instrument: Instrument, choice: Choice, without_signal: Collection[Instrument] = ()
) -> StopVerdict | None:
    """Return why a class that got nowhere yet waits for those that nobody tried.

    Two of its runs trained and exclude what the gate asks, or the time left would not reach for the others.
    A class is exhausted by three runs and never by fewer; it is gone on with once the others had their first.

    Args:
        view: The record.
        instrument: The class's.
        choice: Its next run.
        without_signal: Classes that have nothing to learn from, and wait for no time.
    """
    ours = [run for run in view.runs if run.instrument == instrument and run.bucket is not None]
    further = progressed(view)
    others = (name for name in view.goal.instruments if name != instrument and name not in without_signal)
    untried = [name for name in others if is_first_of(view, name)]
    if not ours or any(run.id in further for run in ours):
        return None
    firsts = {name: choose(view, name) for name in untried}
    waiting = [name for name, first in firsts.items() if first.proposal is not None]
    if waiting and view.goal.search.goal == "gate" and _exclude_gate(view, ours):
        return StopVerdict(
            rule="class.later",
            sentence=f"{' and '.join(run.id for run in ours)} moved the control, and their intervals exclude what the "
            f"gate asks of the target: {instrument} is not exhausted, and waits for {' and '.join(waiting)}, which "
            "nobody tried yet.",
        )
    if choice.left.left_s is None:
        return None
    later_s = sum(first.estimate.seconds for first in firsts.values() if first.proposal is not None)
    own_s = max(1, LEAST_RUNS - len(ours)) * choice.estimate.seconds
    if not later_s or own_s + FOLLOW_UPS * later_s <= choice.left.left_s:
        return None
    return StopVerdict(
        rule="class.later",
        sentence=f"{instrument} has not moved the target in {len(ours)} runs and is not exhausted; the time left is "
        f"kept for {' and '.join(waiting)}, which nobody tried yet.",
    )
