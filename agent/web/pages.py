"""What each page shows, as plain values from the record; nothing here writes."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

from agent.render import curves, record, report, summary, typed, watch, why
from agent.render.places import campaigns_in
from agent.render.record import with_premises
from agent.render.words import clock, count, duration, number, shortened, signed
from agent.web.live import METRICS, Curves, Views, noise, trained
from policies.drafts import FREELY
from state.errors import ConfigError, NotFoundError, VigilError
from state.files import json_row, read_object
from state.log import passed_over
from state.paths import CampaignPaths, JobPaths
from state.reading import open_reader
from state.records import CAMPAIGN_ENDED
from tools.data.cases import read_split, user_prompt
from tools.jobs.locks import machine_paths, queue

View = dict[str, Any]
Campaigns = Mapping[str, CampaignPaths]
"""What an address calls a campaign -> its files; by its name, and in a further home by `name@2`."""

_SORTS = {"id": "as planned", "score": "by score", "time": "by time", "verdict": "by verdict"}
_FAILED = ("refuted", "contradicted", "stale")
_MOST_BELIEFS = 200
RUNS = 50
"""Runs of one page; the next ones are asked for where the reader comes to its end."""
DECISIONS = 30


def known(homes: Sequence[Path]) -> dict[str, CampaignPaths]:
    """Return the campaigns that a page can name; one whose folder is no text has no address."""
    found: dict[str, CampaignPaths] = {}
    for place, home in enumerate(homes, start=1):
        for name in campaigns_in(home):
            if name.isprintable() or _is_text(name):
                found[name if place == 1 else f"{name}@{place}"] = CampaignPaths(home, name)
    return found


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def home(homes: Sequence[Path], views: Views) -> View:
    """Return all campaigns, those that need a person first, then those at work; what waits, and the queue."""
    campaigns = known(homes)
    rows = [_brief(key, paths, views, len(campaigns)) for key, paths in campaigns.items()]
    rows.sort(key=lambda row: (-len(row["questions"]), not row["error"], not row["is_idle"], not row["is_alive"]))
    waiting = [question for row in rows for question in row["questions"]]
    folders = [str(each) for each in homes]
    return {"rows": rows, "waiting": waiting, "folders": folders, "queue": _queue(campaigns)}


def _brief(key: str, paths: CampaignPaths, views: Views, n_campaigns: int) -> View:
    row: View = {"key": key, "folder": str(paths.home), "error": "", "questions": [], "is_alive": False}
    try:
        view = {**views.of(paths, n_campaigns), "key": key}
    except VigilError as error:
        return {**row, "is_idle": False, "error": error.sentence}
    best, is_over = typed.best(view), view["campaign"]["state"] in CAMPAIGN_ENDED
    return {
        **row,
        "questions": [_question(view, each) for each in view["approvals"] if _waits(each)],
        "is_alive": view["holder"] is not None,
        "is_idle": view["holder"] is None and not is_over,
        "again": typed.run(view),
        "head": summary.headline(view),
        "sentence": view["campaign"].get("sentence") or "",
        "best": _best(view, best) if best else None,
        "now": _now(view),
        "damaged": view["damaged"],
    }


def _waits(question: View) -> bool:
    return question["answer"] is None and not question.get("unapplied")


def _queue(campaigns: Campaigns) -> list[View]:
    """Return who has the accelerator, then who waits for it; jobs of other homes too."""
    with passed_over("web.no_queue", ConfigError, OSError):
        keys = {paths.name: key for key, paths in reversed(list(campaigns.items()))}
        return [
            {
                "what": f"{row.get('kind') or 'a job'} of {row.get('campaign') or 'an unknown campaign'}",
                "key": keys.get(str(row.get("campaign")), ""),
                "since": row["since"] if isinstance(row.get("since"), float) else None,
            }
            for row in queue(machine_paths())
        ]
    return []


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
    """Return the job at work: how it stands in a sentence, how far it is, its figures, and what it generated last."""
    job = watch.current(view)
    if job is None or view["campaign"]["state"] in CAMPAIGN_ENDED:
        return None
    return {
        "sentence": record.progress(job, view["now"]),
        "done": record.fraction(job),
        "gauges": watch.gauges(job),
        "samples": _samples(view, job),
    }


_MADE = {"training": ("samples.jsonl", "rollouts.jsonl"), "evaluation": ("cases.jsonl",)}
"""Kind of job -> the files of texts that it writes while it works."""
_MOST_SAMPLES = 3
_TAIL_BYTES = 32_768
_MOST_SAMPLE = 1_200


def _samples(view: View, job: View) -> list[View]:
    """Return the texts that a job generated last, the newest first; none of a campaign that keeps them private."""
    if _is_private(view):
        return []
    files = JobPaths(Path(view["root"]) / job["folder"])
    for name in _MADE.get(job["kind"], ()):
        if rows := _last_rows(files.out / name):
            prompts = _prompts(files, name)
            return [
                {
                    "label": _sampled(row),
                    "prompt": shortened(prompts.get(row.get("case", row.get("prompt")), ""), 300),
                    "text": str(row["text"])[:_MOST_SAMPLE],
                }
                for row in reversed(rows[-_MOST_SAMPLES:])
            ]
    return []


def _is_private(view: View) -> bool:
    return ((view["goal"] or {}).get("spec") or {}).get("privacy") == "redact"


def _sampled(row: View) -> str:
    parts = [f"{key} {row[key]}" for key in ("step", "update", "case") if row.get(key) is not None]
    parts += [f"prompt {row['prompt']}"] if isinstance(row.get("prompt"), int) else []
    parts += [f"reward {number(row['reward'])}"] if row.get("reward") is not None else []
    parts += [f"{name} {number(value)}" for name, value in list((row.get("metrics") or {}).items())[:3]]
    return ", ".join(parts)


def _last_rows(path: Path) -> list[View]:
    with passed_over("web.no_samples", OSError), path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _TAIL_BYTES))
        rows = (json_row(line) for line in stream.read().split(b"\n"))
        return [row for row in rows if row is not None and row.get("text")]
    return []


def _prompts(files: JobPaths, name: str) -> dict[Any, str]:
    """Return the prompts that a job samples, by their places or by the names of their cases."""
    with passed_over("web.no_prompts", ConfigError, OSError, KeyError, TypeError, ValueError):
        given = read_object(files.spec)["input"]
        if name == "samples.jsonl":
            asked = given["samples"]["cases"]
            of_file = {case["id"]: user_prompt(case) for case in read_split(Path(asked["file"]))}
            return {place: of_file[case] for place, case in enumerate(asked["case_ids"])}
        splits = given.get("splits") or ()
        return {case["id"]: user_prompt(case) for row in splits for case in read_split(Path(row["file"]))}
    return {}


def campaign(view: View) -> View:
    """Return the page of one campaign: verdict, what waits, best run, gate, what goes on now."""
    best = typed.best(view)
    goal = view["goal"]
    conditions = goal["spec"]["gate"]["conditions"] if goal else []
    return {
        "head": summary.headline(view),
        "sentence": view["campaign"].get("sentence") or "",
        "verdict": report.verdict_of(view) if best else "",
        "scores": _drawn_scores(view),
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


def _drawn_scores(view: View) -> str:
    """Return the scores of the newest runs, each with its interval, beside the base's, as SVG; empty without one."""
    newest = {run["id"] for run in view["runs"][-_MOST_DRAWN:]} | {(typed.best(view) or {"run": ""})["run"]}
    judged = [row for row in view["decisions"] if row["run"] in newest and row["bucket"]]
    if not judged:
        return ""
    root = Path(view["root"])
    with open_reader(CampaignPaths(root.parent, root.name)) as reader:
        base = reader.beliefs_about("score:base.", statuses=("fresh",))
    return report.scores({**view, "decisions": judged, "beliefs": base})


_MOST_DRAWN = 60
"""Runs whose scores stand side by side."""


def drawing(view: View, drawn: Curves, metric: str, by: str, chosen: list[str]) -> View:
    """Return the curves of at most four runs as SVG: those chosen, else the best and the newest."""
    best, most, folders = typed.best(view), len(curves.COLOURS), trained(view)
    newest = [*([best["run"]] if best else []), *reversed(folders)]
    found = (drawn.of(view, metric, by, chosen, most) if chosen else {}) or drawn.of(view, metric, by, newest, most)
    runs = list(found)
    band = noise(found[runs[0]]) if runs and metric == METRICS[0] else []
    lines = [
        curves.Series(run, colour, found[run], is_dotted=metric != METRICS[0])
        for run, colour in zip(runs, curves.COLOURS, strict=False)
    ]
    return {
        "svg": curves.plot(f"{metric} of {', '.join(runs)}", by, lines, band),
        "banded": runs[0] if band else "",
        "runs": runs,
        "hidden": len(folders) - len(runs),
        "metric": metric,
        "by": by,
    }


def _scores(view: View) -> dict[str, View]:
    """Return what each run scored by its newest verdict; those without one are left out."""
    newest = {row["run"]: row for row in typed.judged(view)}
    found = {run: typed.score_of(verdict) for run, verdict in newest.items()}
    return {run: each for run, each in found.items() if each is not None}


def runs(view: View, sort: str, bucket: str, start: int) -> View:
    """Return runs with score, verdict, what is new in their recipe, and cost."""
    found, recipes = _scores(view), {run["id"]: run["recipe"] for run in view["runs"]}
    rows = [{**run, "found": found.get(run["id"])} for run in view["runs"]]
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
    first: View = next(iter(recipes.values()), {})
    shown = [
        {
            **run,
            "verdict": typed.bucket_name(run["bucket"]) or run["state"],
            "score": typed.scored(run["found"]),
            "changed": changed(recipes.get(run["parent"], first), run["recipe"]),
        }
        for run in rows[start : start + RUNS]
    ]
    return {
        "rows": shown,
        "sort": sort,
        "sorts": _SORTS,
        "bucket": bucket,
        "buckets": {letter: typed.bucket_name(letter) for letter in buckets},
        "n": len(rows),
        "next": start + RUNS if start + RUNS < len(rows) else None,
    }


def changed(before: View, after: View) -> list[str]:
    """Return in what a recipe differs from another one, key by key."""
    one, other = _flat(before), _flat(after)
    return [
        f"{key} {_value(one.get(key))} → {_value(other.get(key))}"
        for key in dict.fromkeys((*other, *one))
        if one.get(key) != other.get(key)
    ]


def _flat(recipe: View, above: str = "") -> View:
    flat: View = {}
    for key, value in recipe.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return flat


def _value(value: Any) -> str:
    if value is None:
        return "not set"
    return shortened(value if isinstance(value, str) else json.dumps(value), 60)


Side = tuple[str, str, Sequence[tuple[str, str]], View]
"""One side of a table: its name, where it is told, figures, and a recipe."""


def beside(sides: Iterable[Side]) -> View:
    """Return sides as columns: what each says, and the recipe's keys in which they differ."""
    columns = list(sides)
    said = [dict(figures) for _, _, figures, _ in columns]
    recipes = [_flat(recipe) for *_, recipe in columns]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    differing = [key for key in keys if any(one.get(key) != other.get(key) for one, other in pairwise(recipes))]
    return {
        "columns": [(name, link) for name, link, _, _ in columns],
        "figures": [
            (key, [each.get(key, "") for each in said]) for key in dict.fromkeys(k for row in said for k in row)
        ],
        "recipe": [(key, [_value(recipe.get(key)) for recipe in recipes]) for key in differing],
        "is_same": not differing and len(columns) > 1,
    }


def overlaid(view: View, chosen: Sequence[str]) -> View:
    """Return the chosen runs side by side.

    Raises:
        NotFoundError: There is none of that name.
    """
    found, rows = _scores(view), {run["id"]: run for run in view["runs"]}
    sides: list[Side] = []
    for name in dict.fromkeys(each.upper() for each in chosen):
        if name not in rows:
            raise NotFoundError(f"{view['campaign']['name']} has no run {name}.", what="run", value=name)
        run, score = rows[name], found.get(name)
        figures = [
            ("verdict", typed.bucket_name(run["bucket"]) or run["state"]),
            ("score", f"{score['metric']} {typed.scored(score)}" if score else "not measured"),
            ("cases", f"{score['n']} {score['use']}" if score else ""),
            ("method", run["instrument"].upper()),
            ("starts from", run["parent"] or "base"),
            ("time", duration(run["cost_s_actual"]) if run["cost_s_actual"] is not None else ""),
            ("seed", str(run["seed"])),
        ]
        sides.append((name, f"cases?run={name}", figures, run["recipe"]))
    return beside(sides)


def compared(views: Sequence[View]) -> View:
    """Return campaigns side by side, by their best runs, and what these two did on the cases that they share."""
    sides: list[Side] = []
    for view in views:
        best, campaign = typed.best(view), view["campaign"]
        run = next((each for each in view["runs"] if best and each["id"] == best["run"]), None)
        score, spec = (typed.score(view, best["run"]) if best else None), (view["goal"] or {"spec": {}})["spec"]
        spent = record.figures(view)
        gate = [typed.MARKS[row["decided"]] for row in best["gate"]["conditions"]] if best else []
        track = spec.get("track") or {}
        figures = [
            ("state", campaign["state"].replace("_", " ")),
            ("best run", f"{best['run']}, {typed.bucket_name(best['bucket'])}" if best else "none judged"),
            ("score", f"{score['metric']} {typed.scored(score)}" if score else "not measured"),
            ("before", number(score["reference"]) if score and score["reference"] is not None else ""),
            ("cases", f"{score['n']} {score['use']}" if score else ""),
            ("gate", f"{gate.count('holds')} of {len(gate)} conditions hold" if gate else "not judged"),
            ("promoted", campaign["promoted"] or "no"),
            ("model", str((spec.get("model") or {}).get("path") or "")),
            ("task", str(track.get("name") or track.get("grader") or " ".join(track.get("command") or ()))),
            ("runs", str(len(view["runs"]))),
            ("work", duration(spent["worked_s"])),
            ("started", clock(campaign.get("started_at"))),
        ]
        sides.append((view["key"], f"/c/{quote(view['key'], safe='')}", figures, run["recipe"] if run else {}))
    return {**beside(sides), "shared": _shared(views) if len(views) == 2 else ""}  # noqa: PLR2004 - a pair


def _shared(views: Sequence[View]) -> str:
    """Return how the best runs of two campaigns did on the cases that both were measured on, as a sentence."""
    from policies.significance import paired_interval

    rows, told = [], []
    for view in views:
        best = typed.best(view)
        score = typed.score(view, best["run"]) if best else None
        if best is None or score is None:
            return "No score of both sides: nothing is compared case by case."
        split, _, metric = score["metric"].partition(".")
        root = Path(view["root"])
        with open_reader(CampaignPaths(root.parent, root.name)) as reader:
            measured = reader.measurements(run=best["run"], side="candidate", split=split, use=score["use"])
        told.append((split, metric, score["use"], (best["target"] or {}).get("sign", 1)))
        rows.append({row["case"]: row["metrics"].get(metric) for row in measured})
    if told[0][:3] != told[1][:3]:
        return "They were not judged by the same metric on the same kind of cases: nothing is compared case by case."
    pairs = [
        (float(rows[0][case]), float(rows[1][case]))
        for case in rows[0]
        if rows[0][case] is not None and rows[1].get(case) is not None
    ]
    if not pairs:
        return "They share no case by name: nothing is compared case by case."
    differences, sign = [after - before for before, after in pairs], told[0][3]
    width = max(1.0, *(abs(value) for pair in pairs for value in pair))
    bounds = paired_interval([each / width for each in differences], 0.025, 1.0).scaled(width)
    better = sum(sign * each > 0 for each in differences)
    worse = sum(sign * each < 0 for each in differences)
    mean = sum(differences) / len(differences)
    keys = [view["key"] for view in views]
    return (
        f"On {count(len(pairs), f'{told[0][2]} case')} of the same name {keys[1]} is better on {better}, worse on"
        f" {worse}; {told[0][0]}.{told[0][1]} {signed(mean)} against {keys[0]} (95 % interval {signed(bounds.low)} to"
        f" {signed(bounds.high)})."
    )


def decisions(view: View, start: int) -> View:
    """Return the timeline, newest first: what, why in three lines, what else was weighed."""
    rows = []
    newest = list(reversed(view["decisions"]))
    for row in newest[start : start + DECISIONS]:
        asked = [each for each in view["approvals"] if each["decision"] == row["id"]]
        rows.append(
            {
                **row,
                "verdict": typed.bucket_name(row["bucket"]),
                "why": [each["statement"] for each in row["premises"][:3]],
                "more": max(0, len(row["premises"]) - 3),
                "figures": _conditions(row)[:4],
                "questions": asked,
            }
        )
    return {"rows": rows, "next": start + DECISIONS if start + DECISIONS < len(newest) else None}


def _conditions(row: View) -> list[View]:
    gate = (row["verdict"] or {}).get("gate") or {"conditions": []}
    return [{"mark": typed.MARKS[each["decided"]], "said": typed.said(each)} for each in gate["conditions"]]


def decision(view: View, given: str) -> View:
    """Return one decision in full: what was weighed, and its premises down to the evidence."""
    row = why.find_decision(view, given)
    run = next((each for each in view["runs"] if each["id"] == row["run"]), None)
    with_them = with_premises(view, row)
    return {
        "title": f"{row['id']}: {row['action']} {row['run'] or ''}".strip(),
        "row": row,
        "verdict": typed.bucket_name(row["bucket"]),
        "figures": _conditions(row),
        "foreseen": row["prediction"] if {"metric", "low", "high"} <= row["prediction"].keys() else None,
        "questions": [_question(view, each) for each in view["approvals"] if each["decision"] == row["id"]],
        "plans": [why.commitment(each) for each in view["commitments"] if each["decision"] == row["id"]],
        "recipe": list(_flat(run["recipe"]).items()) if run else [],
        "trees": why.tree(with_them, row),
    }


def beliefs(paths: CampaignPaths, view: View, *, is_all: bool) -> View:
    """Return the beliefs, failed and stale ones first, then those that nobody has verified, then the others."""
    with open_reader(paths) as reader, reader.snapshot():
        counts = reader.belief_counts()
        total = sum(row["n"] for row in counts)
        failed = sorted(
            reader.beliefs_about(statuses=_FAILED, most=_MOST_BELIEFS), key=lambda row: _FAILED.index(row["status"])
        )
        assumed = reader.beliefs_about(statuses=("fresh",), is_assumed=True, most=_MOST_BELIEFS)
        others = reader.beliefs_about(statuses=("fresh",), most=_MOST_BELIEFS) if is_all else []
        everything = reader.beliefs_about() if total <= _MOST_WALKED else []
    shown = list({row["id"]: row for row in (*failed, *assumed, *others)}.values())[:_MOST_BELIEFS]
    carried = _carried(view["decisions"], everything)
    unsound = sum(row["n"] for row in counts if row["status"] != "fresh" or row["tag"] == "assumed")
    return {
        "rows": [{**row, "carries": carried.get(row["id"], []), "mark": _mark(row)} for row in shown],
        "counts": [(f"{row['status']}, {row['tag']}", row["n"]) for row in counts],
        "sound": total - unsound,
        "left_out": max(0, (total if is_all else unsound) - len(shown)),
        "is_all": is_all,
    }


def _mark(belief: View) -> str:
    """Return how a belief stands, as a style names it."""
    if belief["status"] in _FAILED[:2]:
        return "fails"
    return "open" if belief["status"] != "fresh" or belief["tag"] == "assumed" else "holds"


def _carried(decisions: Iterable[View], beliefs: Iterable[View]) -> dict[str, list[str]]:
    """Return which decisions and beliefs each belief is a premise of."""
    carried: dict[str, list[str]] = {}
    for row in decisions:
        for premise in row["premises"]:
            carried.setdefault(premise["belief"], []).append(row["id"])
    for row in beliefs:
        for premise in row["premises"]:
            carried.setdefault(premise, []).append(row["id"])
    return carried


_MOST_WALKED = 20_000
"""Beliefs over which everything that stands on one is followed in a page."""


def belief(paths: CampaignPaths, given: str) -> View:
    """Return one belief in full, and everything that stands on it.

    Raises:
        NotFoundError: There is none.
    """
    with open_reader(paths) as reader:
        row = reader.belief(given.upper())
        is_many = sum(each["n"] for each in reader.belief_counts()) > _MOST_WALKED
    found: View = {"title": f"{row['id']}: {row['subject']}", "row": row, "mark": _mark(row), "impact": {}}
    if is_many:
        return {**found, "sentence": f"vigil beliefs --impact {row['id']} says what stands on it."}
    impact = why.impact(why.gather_standing(paths), given)
    parts = {
        "Decisions": [(row["id"], row["sentence"]) for row in impact["decisions"]],
        "Runs": [(row["id"], typed.bucket_name(row["bucket"]) or row["state"]) for row in impact["runs"]],
        "Checks": [(row["id"], row["statement"]) for row in impact["beliefs"]],
    }
    return {
        **found,
        "sentence": impact["sentence"],
        "impact": {name: rows[:50] for name, rows in parts.items() if rows},
    }


def _question(view: View, row: View) -> View:
    return {
        **row,
        "campaign": view["key"],
        "figures": typed.question_figures(view, row),
        "needs_reason": row["kind"] == "override",
        "can_be_allowed": row["kind"] in FREELY,
        "is_late": row["answer"] is None and bool(row["deadline_at"]) and row["deadline_at"] <= view["now"],
    }


def inbox(homes: Sequence[Path], views: Views) -> View:
    """Return the questions of all campaigns: those that wait, then those that were answered, the newest first."""
    waiting: list[View] = []
    answered: list[View] = []
    errors: list[View] = []
    leaves: list[str] = []
    campaigns = known(homes)
    for key, paths in campaigns.items():
        try:
            view = {**views.of(paths, len(campaigns)), "key": key}
        except VigilError as error:
            errors.append({"name": key, "sentence": error.sentence})
            continue
        leaves += [f"{key}: {typed.leave(row)}" for row in view["leaves"]]
        for row in view["approvals"]:
            (waiting if row["answer"] is None else answered).append(_question(view, row))
    waiting.sort(key=lambda row: (bool(row.get("unapplied")), row["deadline_at"] or float("inf")))
    answered.sort(key=lambda row: -(row["answered_at"] or 0.0))
    said = count(len(waiting), "question")
    return {"waiting": waiting, "answered": answered[:50], "errors": errors, "said": said, "leaves": leaves}
