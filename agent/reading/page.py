"""One page: what was trained, why, and each verdict with its evidence. Standard library only."""

from typing import Any

from agent.reading import verdicts
from agent.reading.words import block, clock, duration

View = dict[str, Any]

_ENDS = frozenset({"halt", "conclude", "promote"})


def format_page(view: View) -> list[str]:
    """Return the decisions that shaped a campaign, each verdict with what the gate's conditions showed."""
    runs = {run["id"]: run for run in view["runs"]}
    lines: list[str] = []
    for decision in view["decisions"]:
        if decision["action"] == "train":
            lines += ["", *_training(decision, runs.get(decision["run"], {}))]
        elif decision["bucket"]:
            lines += _verdict(decision)
        elif decision["action"] in _ENDS or decision["action"] == "judge":
            lines += ["", *block(_label(decision), decision["sentence"], indent=13, lines=6)]
    return lines


def _label(decision: View) -> str:
    return f"{decision['id']} {clock(decision['made_at'])[-5:]}"


def _training(decision: View, run: View) -> list[str]:
    lines = block(_label(decision), decision["sentence"], indent=13, lines=4)
    parent = run.get("parent")
    took = f"; it took {duration(run['cost_s_actual'])}" if run.get("cost_s_actual") is not None else ""
    foreseen = decision["prediction"]
    predicted = (
        f"; predicted {foreseen['metric']} {foreseen['low']:.3g} to {foreseen['high']:.3g}"
        if foreseen.get("metric") is not None
        else ""
    )
    said = f"From {parent}{predicted}{took}." if parent else ""
    lost = " It was lost and has no verdict." if run.get("state") == "lost" else ""
    return lines + (block("", f"{said}{lost}", indent=13) if said or lost else [])


def _verdict(decision: View) -> list[str]:
    lines = block(_label(decision), decision["sentence"], indent=13, lines=4)
    for row in ((decision["verdict"] or {}).get("gate") or {}).get("conditions") or ():
        lines += block(f"      {verdicts.MARKS[row['decided']]}", verdicts.said(row), indent=13, lines=2)
    return lines
