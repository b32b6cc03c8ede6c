"""Decisions as people read them: what was chosen, on what, against what, and what came of it."""

from collections.abc import Iterable
from typing import Any

from agent.reading import typed, verdicts, walk
from agent.reading.words import block, clock, count, number
from state.errors import NotFoundError

View = dict[str, Any]


def find_decision(view: View, given: str) -> View:
    """Return the decision meant by its id, or by that of the run it judged or planned, or of what it led to.

    Raises:
        NotFoundError: There is none.
    """
    rows = view["decisions"]
    wanted = given.upper()
    of_run = [row for row in rows if row["run"].upper() == wanted]
    led = {each["id"]: each["decision"] for name in ("approvals", "commitments") for each in view[name]}
    acted = {each["key"]: each["decision"] for each in view["actions"]}
    led |= {each["id"]: acted.get(each["key"]) for each in view["jobs"]}
    wanted = led.get(wanted) or wanted
    found = [row for row in rows if row["id"].upper() == wanted] or [row for row in of_run if row["bucket"]] or of_run
    if found:
        return dict(found[-1])
    last = f"; the last is {rows[-1]['id']}. All: {typed.of_campaign(view, 'why')}" if rows else "; none was made yet."
    raise NotFoundError(
        f"{view['campaign']['name']} has no decision {given!r}{last}",
        what="decision",
        value=given,
    )


_DEEPEST = 100
"""Levels of premises that `--json` nests."""


def public(row: View) -> View:
    """Return a decision as `--json` gives it."""
    first = ("id", "rule", "bucket", "action", "premises")
    return {**{key: row[key] for key in first}, **{key: value for key, value in row.items() if key not in first}}


def walked(view: View, row: View) -> View:
    """Return a decision as `--json` gives it, with `tree`: its premises down to the bytes (agent/reading/walk.py)."""
    return {**public(row), "tree": walk.tree(view, row, depth=_DEEPEST)}


def format_decision(view: View, row: View, *, is_walked: bool = False, beside: Iterable[str] = ()) -> list[str]:
    """Return a decision in full, as lines.

    Args:
        view: As gathered.
        row: The decision.
        is_walked: Follow its premises down to the bytes they stand on.
        beside: Lines on what it is about, to stand before the premises, which are long.
    """
    lines = [
        f"{row['id']}, {clock(row['made_at'])}: {row['action']} by {row['rule']}, goal version {row['goal_version']}"
    ]
    lines += block("", row["sentence"], indent=2, lines=6)
    lines += [*beside, *_prediction(row), *_grounds(row), *_verdict(row), *_alternatives(row)]
    for question in [q for q in view["approvals"] if q["decision"] == row["id"]]:
        lines += ["Question", *block("", _answered(question), indent=2, lines=4)]
    for plan in [c for c in view["commitments"] if c["decision"] == row["id"]]:
        lines += ["Commitment", *block("", commitment(plan), indent=2, lines=5)]
    return lines + (walk.format_premises(view, row) if is_walked else _premises(row))


def commitment(row: View) -> str:
    """Return a commitment as a sentence."""
    implied = "; ".join(f"{outcome}: {then}" for outcome, then in row["implies"].items())
    closed = f" by {row['closed_by']}" if row["closed_by"] else ""
    return (
        f"{row['id']} ({row['status']}{closed}): {row['will'].rstrip('.')}, when {row['when'].rstrip('.')}. "
        f"{implied + '. ' if implied else ''}Cancelled by {row['cancelled_by'].rstrip('.')}."
    )


def _premises(row: View) -> list[str]:
    if not row["premises"]:
        return []
    lines = ["Because"]
    for premise in row["premises"]:
        lines += block("", f"{premise['belief']} [{premise['tag']}] {premise['statement']}", indent=2, lines=3)
    return lines


def _alternatives(row: View) -> list[str]:
    if not row["alternatives"]:
        return []
    lines = ["Not chosen"]
    for other in row["alternatives"]:
        lines += block("", f"{other['action']}: {other['reason']}", indent=2, lines=3)
    return lines


def _prediction(row: View) -> list[str]:
    foreseen = row["prediction"]
    if not {"metric", "low", "high"} <= foreseen.keys():
        return []
    return [f"Predicted  {foreseen['metric']} from {number(foreseen['low'])} to {number(foreseen['high'])}"]


def _grounds(row: View) -> list[str]:
    """Return the figures that a planned run rests on."""
    found = (row["verdict"] or {}).get("grounds") or {}
    known = {name: value for name, value in found.items() if value not in (None, "", [], {})}
    shown = ", ".join(f"{name.replace('_', ' ')} {_figures(value)}" for name, value in known.items())
    return block("Figures", f"{shown}.", lines=6) if shown else []


def _figures(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_figures(each)}" for name, each in value.items() if each is not None) + ")"
    if isinstance(value, list):
        return ", ".join(_figures(each) for each in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _verdict(row: View) -> list[str]:
    gate = (row["verdict"] or {}).get("gate")
    if not gate:
        return []
    bucket = f"{verdicts.bucket_name(row['bucket'])}; " if row["bucket"] else ""
    lines = block("Verdict", f"{bucket}{gate['sentence']}", lines=3)
    for condition in gate["conditions"]:
        text = f"{verdicts.MARKS[condition['decided']]:<9} {verdicts.said(condition)}"
        if condition["rescued"] or condition["broken"]:
            text += f" {count(len(condition['rescued']), 'case')} improved, {len(condition['broken'])} worse."
        lines += block("", text, indent=2, lines=3)
    return lines


def _answered(question: View) -> str:
    if question["answer"] is None:
        deadline = (
            f"; unanswered at {clock(question['deadline_at'])} it means {question['unanswered']}"
            if question["deadline_at"]
            else ""
        )
        return f"{question['id']} ({question['kind']}) waits for an answer{deadline}."
    why = f": {question['reason']}" if question["reason"] else ""
    said = f"was answered {question['answer']} by {question['answered_by']}, {clock(question['answered_at'])}"
    return f"{question['id']} ({question['kind']}) {said}{why}."
