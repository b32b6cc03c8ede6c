"""What the record says about the next run: cases side by side, verdicts so far, the next recipe and its cost."""

from policies.buckets import BucketVerdict, Prediction, RunEvidence
from policies.cases import CaseTable
from policies.exhaustion import ExhaustionVerdict, judge_exhaustion, run_fact
from policies.findings import ceilings
from policies.gate import GateVerdict
from policies.recipes import RecipeProposal, Tried, first_recipe, next_recipe, tried
from policies.target import find_target
from policies.view import View
from policies.walltime import RunEstimate, StepSample, estimate_run_s, fit, lengths_from_quantiles
from state.records import Json, Run, Side


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


def next_proposal(view: View) -> RecipeProposal | None:
    """Return the next configuration that was never run, from the first or from the latest run's diagnosis."""
    census = view.belief("data:train", "fits_sequence")
    rows = dict(census.value) if census is not None and census.value else {}
    known = ceilings(view.beliefs, "selection")
    target = find_target(
        view.goal.gate, case_table(view, view.start), ceilings=known, noise_floor=view.goal.evaluation.noise_floor
    )
    parent = "base" if view.start == view.identity("weights") else "start"
    fixed = _fixed_keys(view)
    if all(run.bucket is None for run in view.runs):
        return first_recipe(
            view.goal,
            rows,
            parent=parent,
            parent_hash=view.start,
            data_hash=view.identity("data"),
            target=target,
            ceilings=known,
            fixed=fixed,
        )
    return next_recipe(
        [_tried(view, run) for run in view.runs],
        parent=parent,
        parent_hash=view.start,
        data_hash=view.identity("data"),
        target=target,
        ceilings=known,
        rows=rows.get("rows"),
        fixed=fixed,
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
    measured_under = newest.verdict.get("harness") if newest is not None else None
    return run.id not in view.void.verdicts and measured_under in {None, view.identity("harness")}


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
