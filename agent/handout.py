"""What is handed out with a promoted adapter: the report, the whole record, and a card that says what was shown."""

from pathlib import Path

from agent.reading import verdicts, view
from agent.report import write_report
from agent.session import Session
from state.export import export
from state.files import write_atomic
from state.records import Decision


def write(session: Session, decision: Decision, folder: Path) -> None:
    """Write `report.html`, `export.jsonl` and `CARD.txt` beside the adapter and the models that go with it.

    Args:
        session: This sitting.
        decision: To export a promotion; it is later than the promotion and earlier than the campaign's end.
        folder: Where to; `adapter/` is there.
    """
    write_report(view.gather(session.paths, file=str(session.loaded.path)), folder / "report.html")
    with (folder / "export.jsonl").open("w", encoding="utf-8") as stream:
        export(session.paths, stream)
    write_atomic(folder / "CARD.txt", card(session, decision, folder))


def card(session: Session, decision: Decision, folder: Path) -> str:
    """Return the card as Markdown: what it is, on which model, and each condition of the gate with its interval."""
    promotion = session.store.read.decision(str(decision.action_inputs["promotion"]))
    run = next(run for run in session.store.read.runs() if run.id == promotion.run)
    spec = session.goal.model
    weights = next((b.value for b in session.standing() if b.subject == "identity:weights"), "unknown")
    revision = f"revision {session.revision}" if session.revision else "a local folder"
    start = "" if run.parent == "base" else f", trained on from {run.parent}"
    under = (folder / "model").is_dir()
    start += ": `model/`, that run and its base fused" if under else ""
    gate = promotion.verdict["gate"]
    conditions = [f"- {verdicts.said(row)}" for row in gate["conditions"]]
    lines = [
        f"# {session.goal.campaign}: {run.id}",
        "",
        f"- Base model: {spec.path}, {revision}, hash {weights}{start}.",
        f"- Adapter: `adapter/`, hash {decision.action_inputs['adapter']}.",
        f"- Trained by {run.instrument}, seed {run.seed}, on data with hash {run.data_hash}.",
        f"- Promoted by decision {promotion.id} ({promotion.rule}) of the campaign {session.goal.campaign}.",
        f"- Use: `mlx_lm.generate --model {'model' if under else spec.path} --adapter-path adapter --prompt ...`",
        *_fused(session, str(decision.action_inputs.get("fused", ""))),
        "",
        "## What was shown, on cases that no tuning has seen",
        "",
        *conditions,
        "",
        "`report.html` and `export.jsonl` are the report and the whole record as they stood after the promotion and",
        "before the campaign's own end was written.",
    ]
    return "\n".join(lines) + "\n"


def _fused(session: Session, key: str) -> list[str]:
    """Return what is to be said of the fused model: how far it is from what was judged, since it was not judged."""
    if not key:
        return []
    result = next(action.result for action in session.store.read.actions() if action.key == key)
    said = (
        f"- `fused/` is base and adapter as one model, dequantized: on {result['positions']} positions of training rows"
        f" {result['same']} have the same likeliest token; it is {result['kl']:.2g} nats away, the base alone"
        f" {result['kl_base']:.2g}. The gate was judged with the adapter beside its base."
    )
    return [said]
