"""The report: one HTML file that opens from disk with no network, and the same as text; cases that a run turned.

Everything is inlined; text of models and people goes through jinja2's autoescape, so a case that holds markup is shown
and never run. It is built from the record alone and can be written again at any time.
"""

from pathlib import Path
from typing import Any

from agent.render import cases, curves, record, summary, typed, why
from agent.render.record import with_measurements
from agent.render.summary import summarize
from agent.render.words import block, clock, count, duration, number, shortened, signed, table
from state.files import read_jsonl, write_atomic
from state.paths import CampaignPaths, JobPaths

View = dict[str, Any]

WORDS = {"rescued": "improved", "broken": "worse"}
"""How a changed case is called."""
_MOST = 40
"""Flips shown per run; the counts are always told whole."""
_TEXT = 900
"""Characters of an answer that are shown."""


def flips(view: View) -> list[View]:
    """Return one table per judged run: run, metric, counts, rows (case, both scores, both answers).

    Answers are left out where the campaign keeps its texts private (`privacy: redact`).

    Args:
        view: As gathered with cases.
    """
    return [table for verdict in typed.judged(view) if (table := _table(view, verdict)) is not None]


def _table(view: View, verdict: View) -> View | None:
    target = typed.target_row(verdict)
    if target is None:
        return None
    changed = [("rescued", case) for case in target["rescued_cases"]] + [
        ("broken", case) for case in target["broken_cases"]
    ]
    split, _, metric = target["metric"].partition(".")
    ours = _cases(view, verdict["run"], "candidate", split, target["use"])
    theirs = _cases(view, "", "base", split, target["use"])
    hidden = ((view["goal"] or {}).get("spec") or {}).get("privacy") == "redact"
    rows = []
    for change, case in changed[:_MOST]:
        one, other = theirs.get(case, {}), ours.get(case, {})
        rows.append(
            {
                "change": change,
                "case": case,
                "before": (one.get("metrics") or {}).get(metric),
                "after": (other.get("metrics") or {}).get(metric),
                "text_before": "" if hidden else _text(view, one),
                "text_after": "" if hidden else _text(view, other),
            }
        )
    return {
        "run": verdict["run"],
        "bucket": verdict["bucket"],
        "metric": target["metric"],
        "use": target["use"],
        "rescued": target["rescued"],
        "broken": target["broken"],
        "n": target["n"],
        "is_redacted": hidden,
        "rows": rows,
    }


def _cases(view: View, run: str, side: str, split: str, use: str) -> dict[str, View]:
    """Return the newest measurement of each case of one side."""
    return {
        row["case"]: row
        for row in view["measurements"]
        if row["run"] == run and row["side"] == side and row["split"] == split and row["use"] == use
    }


def _text(view: View, measured: View) -> str:
    text = cases.answer(view, measured)
    return text if len(text) <= _TEXT else shortened(text, _TEXT)


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
        lines += block(f"      {typed.MARKS[row['decided']]}", typed.said(row), indent=13, lines=2)
    return lines


_TEMPLATES = Path(__file__).with_name("templates")


def report_data(view: View) -> View:
    """Return everything the report tells, as plain values.

    Args:
        view: `agent.render.record.gather`, with or without cases; they are read where missing.
    """
    view = with_measurements(view)
    root = Path(view["root"])
    found = summary.of_campaign(CampaignPaths(root.parent, root.name))
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
        "flips": flips(view),
        "beliefs": [row for row in view["beliefs"] if not row["superseded_by"]],
        "approvals": view["approvals"],
        "commitments": [why.commitment(row) for row in view["commitments"]],
        "night": record.format_night(view),
        "stopped": record.stopped(view),
        "tally": found,
        "findings": summary.sentence(found),
    }


def _gate(view: View) -> View | None:
    verdict = typed.best(view)
    if verdict is None:
        return None
    rows = [
        {**row, "mark": typed.MARKS[row["decided"]], "said": typed.said(row)} for row in verdict["gate"]["conditions"]
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
        "plans": [why.commitment(c) for c in view["commitments"] if c["decision"] == row["id"]],
    }


def _run(view: View, row: View) -> View:
    job = next((job for job in view["jobs"] if job["run"] == row["id"] and job["kind"] == "training"), None)
    verdict = next((v for v in reversed(typed.judged(view)) if v["run"] == row["id"]), None)
    target = typed.target_row(verdict) if verdict else None
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
    environment.filters.update(number=number, clock=clock, signed=signed, duration=duration, bucket=typed.bucket_name)
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
    return [*summarize(view), "", "Trainings and verdicts", *format_page(view)]


def report_text(view: View) -> list[str]:
    """Return the same as text: the summary, then why, runs, flips and beliefs in full."""
    data = report_data(view)
    lines = [*data["summary"], "", "Decisions"]
    for row in data["decisions"]:
        lines += ["", *why.format_decision(view, row)]
    runs = [(r["id"], r["state"], r["bucket"] or "", r["took"], r["expected"], r["moved"]) for r in data["runs"]]
    lines += ["", "Runs", *table(("id", "state", "bucket", "time", "predicted", "measured"), runs, 70)]
    for flip in data["flips"]:
        head = f"{flip['run']}: {count(flip['rescued'], 'case')} improved, {flip['broken']} worse, of {flip['n']}"
        lines += ["", f"Flips of {head} ({flip['metric']}, {flip['use']})"]
        lines += [
            f"  {WORDS[row['change']]:<8} {row['case']}: {number(row['before'])} -> {number(row['after'])}"
            for row in flip["rows"]
        ]
    lines += ["", "Findings", data["findings"], *summary.format_tally(data["tally"])]
    lines += ["", "Beliefs"]
    for row in data["beliefs"]:
        lines.append(f"  {row['id']} [{row['tag']}, {row['status']}] {row['subject']}: {row['statement']}")
        lines += [f"      To confirm: {row['fix']}"] if row["tag"] == "assumed" and row["fix"] else []
    return lines
