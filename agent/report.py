"""The report: one HTML file that opens from disk with no network, and the same as text.

Everything is inlined; text of models and people goes through jinja2's autoescape, so a case that holds markup is shown
and never run. It is built from the record alone and can be written again at any time.
"""

from pathlib import Path
from typing import Any

from agent import curves
from agent.reading import decisions, flips, night, page, tally, verdicts
from agent.reading.view import with_measurements
from agent.reading.words import clock, count, duration, number, signed, table
from agent.summary import summarize
from state.files import read_jsonl, write_atomic
from state.paths import CampaignPaths, JobPaths

View = dict[str, Any]

_TEMPLATES = Path(__file__).with_name("templates")


def report_data(view: View) -> View:
    """Return everything the report tells, as plain values.

    Args:
        view: `agent.reading.view.gather`, with or without cases; they are read where missing.
    """
    view = with_measurements(view)
    root = Path(view["root"])
    found = tally.of_campaign(CampaignPaths(root.parent, root.name))
    return {
        "name": view["campaign"]["name"],
        "state": view["campaign"]["state"],
        "sentence": view["campaign"]["sentence"],
        "written_at": clock(view["now"]),
        "summary": summarize(view),
        "goal": view["goal"],
        "edits": [goal for goal in view["goals"] if goal["version"] > 1],
        "gate": _gate(view),
        "decisions": [_decision(view, row) for row in view["decisions"]],
        "runs": [_run(view, row) for row in view["runs"]],
        "jobs": view["jobs"],
        "flips": flips.flips(view),
        "beliefs": [row for row in view["beliefs"] if not row["superseded_by"]],
        "approvals": view["approvals"],
        "commitments": [decisions.commitment(row) for row in view["commitments"]],
        "night": night.format_night(view),
        "stopped": night.stopped(view),
        "tally": found,
        "findings": tally.sentence(found),
    }


def _gate(view: View) -> View | None:
    verdict = verdicts.best(view)
    if verdict is None:
        return None
    rows = [
        {**row, "mark": verdicts.MARKS[row["decided"]], "said": verdicts.said(row)}
        for row in verdict["gate"]["conditions"]
    ]
    return {
        "run": verdict["run"],
        "use": verdict["gate"]["use"],
        "sentence": verdict["gate"]["sentence"],
        "conditions": rows,
    }


def _decision(view: View, row: View) -> View:
    """Return a decision with what was asked about it and what it committed us to."""
    return {
        **row,
        "at": clock(row["made_at"]),
        "questions": [q for q in view["approvals"] if q["decision"] == row["id"]],
        "plans": [decisions.commitment(c) for c in view["commitments"] if c["decision"] == row["id"]],
    }


def _run(view: View, row: View) -> View:
    job = next((job for job in view["jobs"] if job["run"] == row["id"] and job["kind"] == "training"), None)
    verdict = next((v for v in reversed(verdicts.judged(view)) if v["run"] == row["id"]), None)
    target = verdicts.target_row(verdict) if verdict else None
    moved = ""
    if target is not None and target["value"] is not None and target["reference"] is not None:
        change = signed(target["value"] - target["reference"])
        cases = f"{target['n']} {target['use']} cases"
        moved = f"{target['metric']} {number(target['reference'])} → {number(target['value'])} ({change}, {cases})"
    foreseen = row["predicted"]
    return {
        **row,
        "moved": moved,
        "expected": f"{foreseen.get('metric')} {number(foreseen.get('low'))} to {number(foreseen.get('high'))}"
        if foreseen
        else "",
        "took": duration(row["cost_s_actual"]) if row["cost_s_actual"] is not None else "",
        "curve": _curve(view, row, job) if job else "",
    }


def _curve(view: View, run: View, job: View) -> str:
    rows = read_jsonl(JobPaths(Path(view["root"]) / job["folder"]).metrics)

    def points(key: str) -> list[curves.Point]:
        # A restarted worker repeats steps it had reported; the last report of a step counts.
        latest = {
            row["step"]: row[key]
            for row in rows
            if isinstance(row.get(key), (int, float)) and isinstance(row.get("step"), int)
        }
        return [(float(step), float(latest[step])) for step in sorted(latest)]

    series = [
        curves.Series("train loss", "#2f6f9f", points("train_loss")),
        curves.Series("validation loss", "#c2571a", points("val_loss"), is_dotted=True),
    ]
    return curves.plot(f"Loss of {run['id']}", "iteration", series)


def report_html(view: View) -> str:
    """Return the page."""
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=number, clock=clock, signed=signed, duration=duration, bucket=verdicts.bucket_name)
    # Our own SVG: every text in it was escaped when it was drawn.
    environment.filters["drawing"] = Markup
    return environment.get_template("report.html").render(report_data(view))


def write_report(view: View, out: Path | None = None) -> Path:
    """Write the page, whole or not at all, and return where it is.

    Args:
        view: The campaign.
        out: Where to; beside the store when left out.
    """
    path = out.absolute() if out else Path(view["root"]) / "report.html"
    write_atomic(path, report_html(view))
    return path


def report_page(view: View) -> list[str]:
    """Return one page of text: the summary, then each training and each verdict with its evidence."""
    return [*summarize(view), "", "Trainings and verdicts", *page.format_page(view)]


def report_text(view: View) -> list[str]:
    """Return the same as text: the summary, then decisions, runs, flips and beliefs in full."""
    data = report_data(view)
    lines = [*data["summary"], "", "Decisions"]
    for row in data["decisions"]:
        lines += ["", *decisions.format_decision(view, row)]
    runs = [(r["id"], r["state"], r["bucket"] or "", r["took"], r["expected"], r["moved"]) for r in data["runs"]]
    lines += ["", "Runs", *table(("id", "state", "bucket", "time", "predicted", "measured"), runs, 70)]
    for flip in data["flips"]:
        head = f"{flip['run']}: {count(flip['rescued'], 'case')} improved, {flip['broken']} worse, of {flip['n']}"
        lines += ["", f"Flips of {head} ({flip['metric']}, {flip['use']})"]
        lines += [
            f"  {flips.WORDS[row['change']]:<8} {row['case']}: {number(row['before'])} -> {number(row['after'])}"
            for row in flip["rows"]
        ]
    lines += ["", "Findings", data["findings"], *tally.format_tally(data["tally"])]
    lines += ["", "Beliefs"]
    for row in data["beliefs"]:
        lines.append(f"  {row['id']} [{row['tag']}, {row['status']}] {row['subject']}: {row['statement']}")
        lines += [f"      To confirm: {row['fix']}"] if row["tag"] == "assumed" and row["fix"] else []
    return lines
