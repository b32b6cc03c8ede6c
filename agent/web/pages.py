"""What each page shows, as plain values from the record; nothing here writes."""

from pathlib import Path
from typing import Any

from agent.render import curves, record, summary, typed, watch, why
from agent.render.places import campaigns_in
from agent.render.record import gather, with_premises
from agent.render.words import count
from agent.web.live import METRICS, Curves
from state.errors import VigilError
from state.paths import CampaignPaths
from state.records import CAMPAIGN_ENDED

View = dict[str, Any]

_SORTS = {"id": "as planned", "score": "by score", "time": "by time", "verdict": "by verdict"}
_FAILED = ("refuted", "contradicted", "stale")
_MOST_BELIEFS = 200


def known(home: Path) -> list[str]:
    """Return the campaigns that a page can name; one whose folder is no text has no address."""
    return [name for name in campaigns_in(home) if name.isprintable() or _is_text(name)]


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def home(folder: Path) -> View:
    """Return all campaigns, those that wait for a person first, then those at work, then the newest."""
    rows = [_brief(CampaignPaths(folder, name)) for name in known(folder)]
    rows.sort(key=lambda row: (-row["waiting"], not row["error"], not row["is_alive"]))
    return {"rows": rows, "waiting": sum(row["waiting"] for row in rows), "folder": str(folder)}


def _brief(paths: CampaignPaths) -> View:
    row: View = {"name": paths.name, "error": "", "waiting": 0, "is_alive": False}
    try:
        view = gather(paths)
    except VigilError as error:
        return {**row, "error": error.sentence}
    best = typed.best(view)
    return {
        **row,
        "waiting": sum(each["answer"] is None and not each.get("unapplied") for each in view["approvals"]),
        "is_alive": view["holder"] is not None,
        "head": summary.headline(view),
        "sentence": view["campaign"].get("sentence") or "",
        "best": _best(view, best) if best else None,
        "now": _now(view),
    }


def _best(view: View, best: View) -> View:
    found = typed.score(view, best["run"])
    return {
        "run": best["run"],
        "bucket": typed.bucket_name(best["bucket"]),
        "score": typed.scored(found),
        "metric": found["metric"] if found else "",
        "found": found,
        "target": best["target"],
        "decision": best["decision"],
    }


def _now(view: View) -> View | None:
    """Return the job at work: how it stands in a sentence, how far it is, and its figures."""
    job = watch.current(view)
    if job is None or view["campaign"]["state"] in CAMPAIGN_ENDED:
        return None
    return {
        "sentence": record.progress(job, view["now"]),
        "done": record.fraction(job),
        "gauges": watch.gauges(job),
        "id": job["id"],
    }


def campaign(view: View) -> View:
    """Return the page of one campaign: verdict, what waits, best run, gate, what goes on now."""
    best = typed.best(view)
    goal = view["goal"]
    conditions = goal["spec"]["gate"]["conditions"] if goal else []
    return {
        "head": summary.headline(view),
        "sentence": view["campaign"].get("sentence") or "",
        "state": view["campaign"]["state"],
        "best": _best(view, best) if best else None,
        "gate": [{"mark": typed.MARKS[row["decided"]], "said": typed.said(row)} for row in best["gate"]["conditions"]]
        if best
        else [{"mark": "open", "said": f"{typed.asked(row)}; not measured yet."} for row in conditions],
        "gate_use": best["gate"]["use"] if best else "",
        "now": _now(view),
        "waiting": [_question(view, row) for row in view["approvals"] if row["answer"] is None],
        "stopped": record.stopped(view)[:3],
        "stats": record.format_night(view),
        "last": view["decisions"][-1] if view["decisions"] else None,
        "promoted": view["promoted"] or "",
        "damaged": view["damaged"],
        "is_over": watch.is_over(view),
        "runs": len(view["runs"]),
        "planned": [why.commitment(row) for row in view["commitments"] if row["status"] == "open"][:5],
    }


def drawing(view: View, drawn: Curves, metric: str, by: str, chosen: list[str]) -> View:
    """Return the curves of at most four runs as SVG: those chosen, else the best and the newest."""
    found = drawn.of(view, metric, by)
    best = typed.best(view)
    wanted = [run for run in chosen if run in found] or [
        *([best["run"]] if best and best["run"] in found else []),
        *reversed(list(found)),
    ]
    runs = list(dict.fromkeys(wanted))[: len(curves.COLOURS)]
    lines = [
        curves.Series(run, colour, found[run], is_dotted=metric != METRICS[0])
        for run, colour in zip(runs, curves.COLOURS, strict=False)
    ]
    return {
        "svg": curves.plot(f"{metric} of {', '.join(runs)}", by, lines),
        "runs": runs,
        "hidden": len(found) - len(runs),
        "metric": metric,
        "by": by,
    }


def runs(view: View, sort: str, bucket: str) -> View:
    """Return all runs with score, verdict, recipe and cost."""
    rows = []
    for run in view["runs"]:
        found = typed.score(view, run["id"])
        rows.append(
            {
                **run,
                "verdict": typed.bucket_name(run["bucket"]) or run["state"],
                "found": found,
                "score": typed.scored(found),
                "changed": _changed(view, run),
            }
        )
    buckets = sorted({run["bucket"] for run in rows if run["bucket"]})
    rows = [run for run in rows if bucket in {"", run["bucket"]}]
    sort = sort if sort in _SORTS else "id"
    if sort == "score":
        sign = {row["run"]: (typed.target_row(row) or {}).get("sign", 1) for row in typed.judged(view)}
        rows.sort(key=lambda run: -sign[run["id"]] * run["found"]["value"] if run["found"] else float("inf"))
    elif sort == "time":
        rows.sort(key=lambda run: -(run["cost_s_actual"] or 0.0))
    elif sort == "verdict":
        rows.sort(key=lambda run: "ABCUD".find(run["bucket"] or "?") % 6)
    named = {letter: typed.bucket_name(letter) for letter in buckets}
    return {"rows": rows, "sort": sort, "sorts": _SORTS, "bucket": bucket, "buckets": named}


def _changed(view: View, run: View) -> list[str]:
    """Return in what a run's recipe differs from the run that it starts from, else from the campaign file's."""
    parent = next((each["recipe"] for each in view["runs"] if each["id"] == run["parent"]), None)
    goal = view["goal"]
    before = parent if parent is not None else (goal["spec"].get("recipe") or {} if goal else {})
    return [
        f"{key} {before.get(key, 'not set')} → {value}"
        for key, value in run["recipe"].items()
        if before.get(key) != value
    ][:8]


def decisions(view: View) -> View:
    """Return the timeline, newest first: what, why in three lines, what else was weighed."""
    rows = []
    for row in reversed(view["decisions"]):
        asked = [each for each in view["approvals"] if each["decision"] == row["id"]]
        rows.append(
            {
                **row,
                "verdict": typed.bucket_name(row["bucket"]),
                "why": [each["statement"] for each in row["premises"][:3]],
                "more": max(0, len(row["premises"]) - 3),
                "questions": asked,
            }
        )
    return {"rows": rows}


def decision(view: View, given: str) -> View:
    """Return one decision in full, down to the evidence."""
    row = why.find_decision(view, given)
    lines = why.format_decision(with_premises(view, row), row, is_walked=True)
    return {"title": f"{row['id']}: {row['action']} {row['run'] or ''}".strip(), "lines": lines}


def belief(paths: CampaignPaths, given: str) -> View:
    """Return one belief in full, and everything that stands on it."""
    found = why.impact(why.gather_standing(paths), given)
    return {
        "title": f"{found['belief']['id']}: {found['belief']['subject']}",
        "lines": [*why.belief(found["belief"]), "", "What stands on it", *why.format_impact(found)[1:]],
    }


def beliefs(view: View, *, is_all: bool) -> View:
    """Return the beliefs, failed and stale ones first, then those that nobody has verified, then the others."""
    order = {status: place for place, status in enumerate(_FAILED)}
    rank = {row["id"]: order.get(row["status"], 3 if row["tag"] == "assumed" else 4) for row in view["beliefs"]}
    rows = sorted(view["beliefs"], key=lambda row: rank[row["id"]])
    carried = _carried(view)
    shown = [row for row in rows if is_all or rank[row["id"]] < 4]  # noqa: PLR2004 - the last rank: sound
    return {
        "rows": [
            {**row, "carries": carried.get(row["id"], 0), "rank": rank[row["id"]]} for row in shown[:_MOST_BELIEFS]
        ],
        "sound": sum(each == 4 for each in rank.values()),  # noqa: PLR2004 - the same
        "left_out": max(0, len(shown) - _MOST_BELIEFS),
        "is_all": is_all,
    }


def _carried(view: View) -> dict[str, int]:
    """Return on how many decisions and beliefs each belief is a premise."""
    carried: dict[str, int] = {}
    for row in view["decisions"]:
        for premise in row["premises"]:
            carried[premise["belief"]] = carried.get(premise["belief"], 0) + 1
    for row in view["beliefs"]:
        for premise in row["premises"]:
            carried[premise] = carried.get(premise, 0) + 1
    return carried


def _question(view: View, row: View) -> View:
    return {
        **row,
        "campaign": view["campaign"]["name"],
        "figures": typed.question_figures(view, row),
        "needs_reason": row["kind"] == "override",
    }


def inbox(folder: Path) -> View:
    """Return the questions of all campaigns: those that wait, then those that were answered, the newest first."""
    waiting: list[View] = []
    answered: list[View] = []
    errors: list[View] = []
    for name in known(folder):
        try:
            view = gather(CampaignPaths(folder, name))
        except VigilError as error:
            errors.append({"name": name, "sentence": error.sentence})
            continue
        for row in view["approvals"]:
            (waiting if row["answer"] is None else answered).append(_question(view, row))
    waiting.sort(key=lambda row: (bool(row.get("unapplied")), row["deadline_at"] or float("inf")))
    answered.sort(key=lambda row: -(row["answered_at"] or 0.0))
    return {"waiting": waiting, "answered": answered[:50], "errors": errors, "said": count(len(waiting), "question")}
