"""The best run of the classes before, made one model with its base for the next class: fused, verified, measured."""

from policies.aftermath import FUSE_S
from policies.confirmation import measure
from policies.drafts import Draft, draft
from policies.guards import measuring_guards
from policies.memory import limit_gb
from policies.proposals import fusion, loss_of, parent_of, run_before
from policies.view import View
from state.records import Alternative, Instrument, Json, Run


def fuse_again(view: View) -> Draft | None:
    """Make a fused model again that is gone or changed, before anything else is spent; give up where that fails."""
    for adapter in sorted(view.torn):
        run = next(run for run in view.runs if run.adapter == adapter)
        tried = fusion(view, adapter)
        what = f"The fused model of {run.id} is gone or no longer as it was made"
        if tried is not None and tried.state == "failed" and tried.key not in view.earlier:
            why = (tried.result.get("exit") or {}).get("reason") or "no reason was left"
            inputs = {"state": "failed", "after": len(view.earlier)}
            return draft(view, "conclude", "tool.failed", f"{what}, and it could not be made again: {why}", inputs)
        return _fuse(view, run, "carry.again", f"{what}; it is made again from adapter and base, in a fresh folder.")
    return None


def _fuse(view: View, run: Run, rule: str, sentence: str) -> Draft:
    trained = next(a for a in view.actions if a.kind == "train" and a.result.get("adapter") == run.adapter)
    guards = measuring_guards(wall_s=FUSE_S, memory_gb=limit_gb(view.beliefs))
    inputs: Json = {
        "adapter": run.adapter,
        "weights": str(trained.result.get("weights")),
        "guards": [guard.model_dump(mode="json") for guard in guards],
    }
    made = sum(a.kind == "fuse" and a.state == "done" and a.inputs["adapter"] == run.adapter for a in view.actions)
    # One that was made is another act than one that is made again: its folder is a fresh one.
    inputs |= {"attempt": made + 1} if made else {}
    return draft(view, "fuse", rule, sentence, inputs, run_id=run.id)


def fuse_first(view: View, instrument: Instrument) -> Draft | None:
    """Make, then measure, the model that a class is to start from, where the campaign file asks for a fused one.

    What could not be fused, or scores otherwise than adapter and base, is carried as an adapter.
    """
    run = run_before(view, instrument) if view.goal.search.carry == "fused" else None
    if run is None:
        return None
    made = fusion(view, run.adapter)
    if made is None:
        sentence = (
            f"Fuse {run.id} into its base, dequantized, in a fresh folder, for {instrument} to start from; it has to "
            "answer as base and adapter do."
        )
        return _fuse(view, run, "carry.fuse", sentence)
    if made.state != "done":
        return None
    sentence = f"Measure {run.id} fused: it has to score what adapter and base did before {instrument} starts from it."
    return measure(view, "parent", str(made.result["weights"]), "selection", "carry.measure", sentence)


def not_fused(view: View, instrument: Instrument) -> tuple[Alternative, ...]:
    """Say why a class starts from an adapter although the campaign file asks for a fused model."""
    run = run_before(view, instrument) if view.goal.search.carry == "fused" else None
    if run is None or parent_of(view, instrument).is_fused:
        return ()
    made = fusion(view, run.adapter)
    fused = str(made.result.get("weights") or "") if made is not None else ""
    lost = loss_of(view, parent_of(view, instrument).weights, fused) if fused else "it could not be fused"
    return (Alternative(action="fuse", reason=f"{run.id} is carried as an adapter: {lost}"),)
