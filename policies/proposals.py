"""What the record says about the next run: cases side by side, verdicts so far, the next recipe and its cost."""

from typing import NamedTuple

from policies.buckets import BucketVerdict, Prediction, RunEvidence
from policies.cases import CaseTable
from policies.exhaustion import ExhaustionVerdict, judge_exhaustion, run_fact
from policies.findings import ceilings
from policies.gate import GateVerdict
from policies.recipes import RecipeProposal, Tried, first_recipe, next_recipe, tried
from policies.target import find_target
from policies.view import View
from policies.walltime import RunEstimate, StepSample, estimate_run_s, fit, lengths_from_quantiles
from state.records import Instrument, Json, Run, Side


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
    return CaseTable.from_measurements((row for row in view.measurements if row.evaluation in current), sides)


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
        seed=view.goal.seed,
    )


class Parent(NamedTuple):
    """What a run starts from."""

    name: str
    """`base`, `start` (the campaign's adapter), or a run's id."""
    weights: str
    adapter: str
    """Artifact hash of a run's adapter; empty for the others."""
    fixed: Json
    """Recipe keys that its adapter has decided."""


def parent_of(view: View, instrument: Instrument) -> Parent:
    """Return what a class starts from: the best run of an earlier class that made progress, or the campaign's start."""
    order = view.goal.instruments
    earlier = order[: order.index(instrument)] if instrument in order else ()
    trained = {a.inputs.get("recipe_hash"): a.result for a in view.actions if a.kind == "train" and a.state == "done"}
    best = [
        run
        for run in view.runs
        if run.instrument in earlier
        and run.bucket in {"A", "B"}
        and run.adapter
        and run.recipe_hash in trained
        and counts(view, run)
    ]
    if best:
        run = min(best, key=lambda run: (run.bucket != "A", -view.runs.index(run)))
        shape = {key: run.recipe[key] for key in _SHAPE if key in run.recipe}
        return Parent(run.id, str(trained[run.recipe_hash].get("weights")), run.adapter, shape)
    if view.start == view.identity("weights"):
        return Parent("base", view.start, "", {})
    return Parent("start", view.start, "", _fixed_keys(view))


_SHAPE = ("fine_tune_type", "num_layers", "lora_parameters")


def next_proposal(view: View, instrument: Instrument | None = None) -> RecipeProposal | None:
    """Return the next configuration of a class that was never run, from its first or its latest run's diagnosis.

    Args:
        view: The record.
        instrument: Of the class; the campaign's first when left out.
    """
    chosen = instrument or view.goal.instruments[0]
    census = view.belief("data:train", "fits_sequence")
    rows = dict(census.value) if census is not None and census.value else {}
    known = ceilings(view.beliefs, "selection")
    parent = parent_of(view, chosen)
    target = find_target(
        view.goal.gate,
        case_table(view, parent.weights, parent.weights),
        ceilings=known,
        noise_floor=view.goal.evaluation.noise_floor,
    )
    of_class = [run for run in view.runs if run.instrument == chosen and run.parent_hash == parent.weights]
    if all(run.bucket is None for run in of_class):
        return first_recipe(
            view.goal,
            rows,
            instrument=chosen,
            parent=parent.name,
            parent_hash=parent.weights,
            data_hash=view.identity("data"),
            target=target,
            ceilings=known,
            fixed=parent.fixed,
        )
    return next_recipe(
        [_tried(view, run) for run in of_class],
        parent=parent.name,
        parent_hash=parent.weights,
        data_hash=view.identity("data"),
        target=target,
        ceilings=known,
        rows=rows.get("rows"),
        fixed=parent.fixed,
    )


def _fixed_keys(view: View) -> Json:
    """Return the recipe keys that an adapter to go on from has decided: another shape would be another adapter."""
    belief = view.belief("identity:parent", "is")
    detail = belief.evidence[0].detail if belief is not None and belief.evidence else {}
    return dict(detail.get("recipe") or {})


def _tried(view: View, run: Run) -> Tried:
    """Return a run as the recipe rules see it."""
    ended = [a for a in view.actions if a.kind == "train" and a.inputs.get("recipe_hash") == run.recipe_hash]
    result = ended[-1].result if ended else {}
    # A run that a guard ended before its first save has no result, only the guard's word.
    result = {"verdict": (result.get("exit") or {}).get("verdict"), **result}
    return tried(run, verdict_of(view, run), result, [{"val_loss": loss} for loss in result.get("val_losses") or ()])


def verdict_of(view: View, run: Run) -> BucketVerdict | None:
    """Return the verdict that the record holds on a run."""
    for decision in reversed(view.decisions):
        if decision.run == run.id and "bucket" in decision.verdict:
            return BucketVerdict.model_validate(decision.verdict["bucket"])
    return None


def counts(view: View, run: Run) -> bool:
    """Say whether a run's verdict counts: on sound premises, and under today's harness."""
    newest = next((d for d in reversed(view.decisions) if d.run == run.id and d.bucket is not None), None)
    if newest is None:
        return True
    measured_under = newest.verdict.get("harness", view.identity("harness"))
    is_sound = run.id not in view.void.verdicts and not view.is_closed(newest)
    return is_sound and measured_under == view.identity("harness")


def exhaustion_of(view: View) -> list[ExhaustionVerdict]:
    """Return one verdict per instrument that the campaign may use."""
    judged = ((run, verdict_of(view, run)) for run in view.runs if counts(view, run))
    facts = [run_fact(run, verdict) for run, verdict in judged if verdict is not None]
    known = ceilings(view.beliefs, "selection")
    metrics = [(c, m) for c in view.goal.gate.conditions if c.against == "value" for m in c.metrics]
    above = all(c.sign * (known[m] - c.threshold) >= 0 for c, m in metrics if m in known)
    is_above = above if all(m in known for _, m in metrics) else None
    return [judge_exhaustion(name, facts, is_ceiling_above_gate=is_above) for name in view.goal.instruments]


def estimate_of(view: View, recipe: Json) -> RunEstimate:
    """Return how long a recipe takes here: from this campaign's own runs once there is one."""
    samples, fixed_s = [], 0.0
    for action in view.actions:
        run = next(
            (r for r in view.runs if action.kind == "train" and r.recipe_hash == action.inputs.get("recipe_hash")), None
        )
        tokens, steps_s, iters = (action.result.get(name) for name in ("padded_tokens", "steps_s", "iters"))
        if run is not None and tokens and steps_s and iters:
            size = int(run.recipe["batch_size"])
            samples.append(StepSample(batch_size=size, padded_tokens=tokens / iters / size, seconds=steps_s / iters))
            fixed_s = max(0.0, float(action.result.get("wall_s") or 0.0) - steps_s)
    census = view.belief("data:train", "fits_sequence")
    row = dict(census.value) if census is not None and census.value else {}
    longest = float(row.get("max_tokens") or 512)
    lengths = lengths_from_quantiles(float(row.get("p50") or longest), float(row.get("p95") or longest), longest)
    full = {"iters": 100, "batch_size": 4, "max_seq_length": 2048, **recipe}
    # Each length stands for many rows: as often as a batch is large, so that batches of like length can form.
    return estimate_run_s(fit(samples), lengths * int(full["batch_size"]), full, fixed_s)


def planned_s(view: View) -> float:
    """Return what the campaign would have spent on training, seconds: its runs at the expected time of one."""
    runs = view.goal.budget.runs or view.goal.search.max_runs or view.goal.search.max_runs_without_progress
    proposal = next_proposal(view)
    return estimate_of(view, proposal.recipe if proposal is not None else view.goal.recipe).seconds * max(
        0, runs - len(view.runs)
    )
