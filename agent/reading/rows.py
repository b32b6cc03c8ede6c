"""One row of the record by its id, as people read it: a run with how it was trained, a job, a belief, a question."""

from pathlib import Path
from typing import Any

from agent.reading import decisions, night, typed, verdicts
from agent.reading.view import with_premises
from agent.reading.words import block, clock, count, duration, listed, number
from state.errors import NotFoundError
from state.paths import CampaignPaths
from state.reading import open_reader

View = dict[str, Any]

TABLES = {"R": "runs", "Q": "approvals", "D": "decisions", "J": "jobs", "B": "beliefs", "C": "commitments"}
"""First letter of an id -> where the view has its rows."""

_MOST_VALUES = 12


def find_row_in(view: View, row: str) -> View:
    """Return a row by its id.

    Raises:
        NotFoundError: There is none.
    """
    name = TABLES[row[0].upper()]
    rows = view[name]
    if name == "beliefs":
        # The view leaves out what was superseded.
        root = Path(view["root"])
        with open_reader(CampaignPaths(root.parent, root.name)) as reader:
            rows = reader.table("belief", id=row.upper()) or rows
    found = next((each for each in rows if each["id"] == row.upper()), None)
    if found is None:
        last = f"; the last is {rows[-1]['id']}" if rows else "; there are none yet"
        raise NotFoundError(f"{view['campaign']['name']} has no {row.upper()}{last}.", what=name, value=row)
    return dict(found)


def format_row(view: View, row: str) -> list[str]:
    """Return a row as lines."""
    return _TOLD[row[0].upper()](view, find_row_in(view, row))


def _decision(view: View, row: View) -> list[str]:
    return decisions.format_decision(with_premises(view, row), row, is_walked=True)


def _run(view: View, row: View) -> list[str]:
    verdict = verdicts.bucket_name(row["bucket"]) or "no verdict yet"
    lines = block("", f"{row['id']}, {row['state']}, {verdict}: {row['hypothesis']}", indent=0)
    lines += training(row)
    if (found := verdicts.score(view, row["id"])) is not None:
        before = f", {number(found['reference'])} before" if found["reference"] is not None else ""
        level = "" if found["level"] is None else f"{100 * found['level']:.3g} % interval; "
        lines += block(
            "Score", f"{found['metric']} {verdicts.scored(found)}{before} ({level}{found['n']} {found['use']} cases)."
        )
    for job in [job for job in view["jobs"] if job["run"] == row["id"]]:
        lines += block("Job", f"{job['id']}: {night.outcome(job) if job['exit'] else night.progress(job, view['now'])}")
    for each in [each for each in view["decisions"] if each["run"] == row["id"] and (each["bucket"] or _trains(each))]:
        lines += block(each["id"], each["sentence"], lines=4)
    why = [each["id"] for each in view["decisions"] if each["run"] == row["id"] and each["bucket"]]
    return [*lines, *([f"Why: {typed.of_row(view, 'why', why[-1])}"] if why else [])]


def _trains(decision: View) -> bool:
    return bool(decision["action"] == "train")


def training(run: View) -> list[str]:
    """Return how a run was trained: from what, by which method, with which recipe, in what time."""
    took = f", {duration(run['cost_s_actual'])} of work" if run["cost_s_actual"] is not None else ""
    planned = f", {duration(run['cost_s_estimate'])} expected" if run["cost_s_estimate"] else ""
    start = "the base" if run["parent"] in {"", "base"} else run["parent"]
    lines = block("Trained", f"{run['instrument'].upper()} from {start}, seed {run['seed']}{took}{planned}.")
    recipe = ", ".join(f"{key} {_value(value)}" for key, value in run["recipe"].items())
    return lines + block("Recipe", f"{recipe}.", lines=8)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_value(each)}" for key, each in value.items()) + "}"
    return listed(map(_value, value), _MOST_VALUES) if isinstance(value, list) else str(value)


def _job(view: View, row: View) -> list[str]:
    how = night.outcome(row) if row["exit"] else night.progress(row, view["now"])
    lines = block("", f"{row['id']}, {row['state']}: {how}", indent=0)
    lines += block("Folder", str(Path(view["root"]) / row["folder"]))
    if row["restarts"]:
        lines += block("Restarts", f"{count(row['restarts'], 'start')} after the first.")
    last = [line for line in (row["exit"].get("last_lines") or [])[-6:] if line.strip()]
    return lines + [line for text in last for line in block("Said", text)]


def belief(row: View) -> list[str]:
    """Return a belief as lines, with what it was seen by."""
    mark = row["tag"] if row["status"] == "fresh" else f"{row['tag']}, {row['status']}"
    lines = block(row["id"], f"[{mark}] {row['subject']} {row['claim']}: {row['statement']}", indent=6, lines=12)
    for seen in row["evidence"]:
        lines += block("", f"{seen['kind']} {seen['ref']}: {seen['summary']}", indent=6)
    if row["fix"] and row["status"] != "fresh":
        lines += block("", f"What to do: {row['fix']}", indent=6)
    return lines


def _belief(view: View, row: View) -> list[str]:
    return [*belief(row), f"Impact: {typed.command(view, 'beliefs', '--impact', typed.named(view, row['id']))}"]


def question(view: View, row: View) -> list[str]:
    """Return a question as lines: with what answers it where it waits, else with its answer."""
    if row["answer"] is None:
        return typed.question(view, row)
    said = f"{row['answer']} by {row['answered_by']}, {clock(row['answered_at'])}"
    why = f": {row['reason']}" if row["reason"] and row["answered_by"] != "policy" else ""
    return block("", f"{row['id']} {row['kind']}: {said}{why}", indent=2)


def _question(view: View, row: View) -> list[str]:
    return [*question(view, row), *block("", row["question"], indent=2)] if row["answer"] else question(view, row)


def _commitment(_view: View, row: View) -> list[str]:
    return block("", decisions.commitment(row), indent=0, lines=8)


_TOLD = {"R": _run, "Q": _question, "D": _decision, "J": _job, "B": _belief, "C": _commitment}
