"""The best run of the classes before, made one model with its base for the next class: fused, verified, measured."""

from policies.aftermath import FUSE_S
from policies.confirmation import measure
from policies.drafts import Draft, draft
from policies.guards import evaluation_guards
from policies.memory import limit_gb
from policies.proposals import best_before, fusion, loss_of, parent_of
from policies.view import View
from state.records import Alternative, Instrument


def fuse_first(view: View, instrument: Instrument) -> Draft | None:
    """Make, then measure, the model that a class is to start from, where the campaign file asks for a fused one.

    What could not be fused, or scores otherwise than adapter and base, is carried as an adapter.
    """
    run = best_before(view, instrument) if view.goal.search.carry == "fused" else None
    if run is None:
        return None
    made = fusion(view, run.adapter)
    if made is None:
        guards = evaluation_guards(wall_s=FUSE_S, memory_gb=limit_gb(view.beliefs))
        inputs = {
            "adapter": run.adapter,
            "weights": parent_of(view, instrument).weights,
            "guards": [guard.model_dump(mode="json") for guard in guards],
        }
        sentence = (
            f"Fuse {run.id} into its base, dequantized, in a fresh folder, for {instrument} to start from; it has to "
            "answer as base and adapter do."
        )
        return draft(view, "fuse", "carry.fuse", sentence, inputs, run_id=run.id)
    if made.state != "done":
        return None
    sentence = f"Measure {run.id} fused: it has to score what adapter and base did before {instrument} starts from it."
    return measure(view, "parent", str(made.result["weights"]), "selection", "carry.measure", sentence)


def not_fused(view: View, instrument: Instrument) -> tuple[Alternative, ...]:
    """Say why a class starts from an adapter although the campaign file asks for a fused model."""
    run = best_before(view, instrument) if view.goal.search.carry == "fused" else None
    if run is None or parent_of(view, instrument).is_fused:
        return ()
    made = fusion(view, run.adapter)
    fused = str(made.result.get("weights") or "") if made is not None else ""
    lost = loss_of(view, parent_of(view, instrument).weights, fused) if fused else "it could not be fused"
    return (Alternative(action="fuse", reason=f"{run.id} is carried as an adapter: {lost}"),)
