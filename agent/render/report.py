"""The report: one HTML file that opens from disk with no network, and the same as text; cases that a run turned.

The page is for a colleague who has a minute: the verdict in a sentence, the runs' scores with their intervals, the
gate, the cases that got worse, recipe and data; all else is folded. Everything is inlined; text of models and people
goes through jinja2's autoescape, so a case that holds markup is shown and never run. It is built from the record alone
and can be written again at any time.
"""

import math
from pathlib import Path
from typing import Any

from agent.render import card, cases, curves, record, summary, typed, why
from agent.render.record import with_measurements
from agent.render.summary import summarize
from agent.render.words import block, clock, count, duration, finalized, listed, number, shortened, signed, table
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
        "verdict": verdict_of(view),
        "card": card.card_of(view) if typed.best(view) else None,
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
    }


_STATES = {"promoted": "Promoted", "not_promoted": "Not promoted", "halted": "Halted", "waiting": "Not decided yet"}


def verdict_of(view: View) -> str:
    """Return the verdict as one sentence: which run, from where to where, how sure, and what the gate still lacks."""
    best = typed.best(view)
    found = typed.score(view, best["run"]) if best else None
    campaign = view["campaign"]
    if best is None or found is None or found["reference"] is None:
        return campaign["sentence"] or summary.headline(view)
    interval = "no interval"
    if found["low"] is not None:
        span = f"{number(found['low'])} to {number(found['high'])}"
        interval = f"{100 * found['level']:.3g} % interval {span}{' of the change' if found['is_difference'] else ''}"
    moved = f"{found['metric']} from {number(found['reference'])} to {number(found['value'])}"
    told = (
        f"{_STATES.get(campaign['state'], 'So far')}: {best['run']}, {typed.bucket_name(best['bucket'])}, takes {moved}"
    )
    rows = best["gate"]["conditions"]
    lacks = [row["id"] for row in rows if row["decided"] != "holds"]
    gate = f"{len(rows) - len(lacks)} of {count(len(rows), 'gate condition')} hold"
    lacks_said = f", not {listed(lacks)}" if lacks else ""
    return f"{told} ({interval}, {count(found['n'], 'case')}, {USES[found['use']]}); {gate}{lacks_said}."


USES = {"selection": "not held out", "confirmation": "held out"}
"""Which cases a figure is of, in a word."""
_KINDS = {
    "base": "#7c8896",
    "passed": "#2f9e57",
    "improved": "#3b82c4",
    "no change": "#a8842c",
    "inconclusive": "#9a62c7",
    "regressed": "#d0443a",
    "held out": "#d0661f",
}
"""Colour of a point in the plot of all runs."""


def scores(view: View) -> str:
    """Draw the target of each judged run on the selection cases, and of the best one on held-out cases too."""
    best = typed.best(view)
    if best is None or best["target"] is None:
        return ""
    metric, gates = best["target"]["metric"], {row["run"]: row for row in typed.judged(view)}
    drawn = []
    for run, verdict in gates.items():
        kind = typed.BUCKETS[verdict["bucket"]]
        drawn.append(_estimate(verdict["detail"].get("gate") or verdict["gate"], metric, run, kind))
    conditions = [row for row in best["gate"]["conditions"] if row["metric"] == metric]
    if best["gate"]["use"] == "confirmation" and best["detail"].get("gate"):
        drawn.append(_estimate(best["gate"], metric, f"{best['run']} held out", "held out"))
    base = typed.base_mean(view, metric)
    shown = [curves.Estimate("base", base, None, None, "base")] if base is not None else []
    asked = next((row for row in conditions if row["against"] == "value" and row["statistic"] == "mean"), None)
    levels = {"the gate asks": float(asked["bound"])} if asked else {}
    shown += [row for row in drawn if row is not None]
    return curves.estimates(f"{metric} of each run", shown, _KINDS, levels)


def _estimate(gate: View, metric: str, name: str, kind: str) -> curves.Estimate | None:
    rows = [row for row in gate["conditions"] if row["metric"] == metric and row["value"] is not None]
    if not rows:
        return None
    spans = [row for row in rows if row["low"] is not None and row["statistic"] == "mean"]
    row = next((row for row in spans if row["against"] == "value"), spans[0] if spans else None)
    if row is None:
        return curves.Estimate(name, rows[0]["value"], None, None, kind)
    # Of a difference: the interval is drawn around what it is a difference to.
    start = 0.0 if row["against"] == "value" else row["reference"]
    return curves.Estimate(name, row["value"], start + row["low"], start + row["high"], kind)


def _losses(view: View) -> list[str]:
    """Draw training and validation loss of the best run and the newest ones over each other."""
    best = typed.best(view)
    folders = {job["run"]: job["folder"] for job in view["jobs"] if job["kind"] == "training" and job["run"]}
    order = [best["run"]] if best else []
    runs = [run for run in dict.fromkeys([*order, *reversed(folders)]) if run in folders][: len(curves.COLOURS)]
    rows = {run: read_jsonl(JobPaths(Path(view["root"]) / folders[run]).metrics) for run in sorted(runs)}
    drawn = []
    for key, name in (("train_loss", "Training loss"), ("val_loss", "Validation loss")):
        lines = [
            curves.Series(run, colour, _points(rows[run], key), is_dotted=key == "val_loss")
            for run, colour in zip(rows, curves.COLOURS, strict=False)
        ]
        if svg := curves.plot(f"{name} of {', '.join(rows)}", "iteration", lines):
            drawn.append(f"<figure><figcaption>{name}</figcaption>{svg}</figure>")
    return drawn


def _points(rows: list[View], key: str) -> list[curves.Point]:
    # A restarted worker repeats steps it had reported; the last report of a step counts.
    latest = {
        row["step"]: row[key]
        for row in rows
        if isinstance(row.get(key), (int, float)) and isinstance(row.get("step"), int)
    }
    return [(float(step), float(latest[step])) for step in sorted(latest) if math.isfinite(latest[step])]


_SHOWN, _MOST_REGRESSED = {"fixed": 3, "wrong": 3}, 6
"""Cases of the best run that are shown with their texts, by what became of them; of the regressed, of each metric."""


def _changed(view: View) -> View | None:
    """Return the best run's cases by what became of them, some with their texts; None where no run was judged."""
    best = typed.best(view)
    if best is None or best["target"] is None:
        return None
    found: View = {"groups": [], "regressed": []}
    for kind, most in _SHOWN.items():
        some = cases.page(view, best["run"], "", kind, 0)
        found |= {key: some[key] for key in ("run", "metric", "counts", "n", "use", "is_redacted")}
        found["groups"].append((kind, cases.FILTERS[kind], [_brief(row) for row in some["rows"][:most]]))
    # What got better in one metric may have got worse in another that the gate asks about.
    for metric in sorted(some["metrics"], key=lambda each: each != found["metric"]):
        worse = cases.page(view, best["run"], metric, "regressed", 0)
        shown = [_brief(row) for row in worse["rows"][:_MOST_REGRESSED]]
        if shown or metric == found["metric"]:
            found["regressed"].append((metric, worse["counts"]["regressed"], worse["n"], shown))
    return found


def _brief(case: View) -> View:
    """Return a case with texts of at most `_TEXT` characters."""
    words, left = [], _TEXT
    for kind, text in case["words"]:
        words += [(kind, text[:left])] if left > 0 else []
        left -= len(text)
    told = {
        key: case[key] if len(case[key]) <= _TEXT else f"{case[key][:_TEXT]}…"
        for key in ("prompt", "reference", "base")
    }
    return {**case, **told, "words": [*words, ("same", "…")] if left < 0 else words}


_MOST_BELIEFS = 300


def report_html(view: View) -> str:
    """Return the page."""
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finalized,
    )
    environment.filters.update(
        number=number, clock=clock, signed=signed, duration=duration, bucket=typed.bucket_name, said=typed.said
    )
    # Our own SVG: every text in it was escaped when it was drawn.
    environment.filters["drawing"] = Markup
    view = with_measurements(view)
    drawn = {"scores": scores(view), "losses": _losses(view), "changed": _changed(view), "uses": card.USES}
    data = report_data(view)
    more = len(data["beliefs"]) - _MOST_BELIEFS
    return environment.get_template("report.html").render(data, **drawn, more_beliefs=max(0, more), most=_MOST_BELIEFS)


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
