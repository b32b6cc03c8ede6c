"""Verdicts as people read them, and what a person may type next: every printed command is built here.

A command names its campaign, its home where that is not the one taken by default, and itself by a path where the shell
does not know it; all of it quoted for a shell. Lines of commands are never wrapped, cut or ended by a full stop.
"""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from agent.render.places import find_home
from agent.render.words import block, clock, columns, duration, near, number, signed, wrapped
from state.errors import DamagedFileError
from state.files import read_object
from state.paths import CampaignPaths
from state.records import BEST_FIRST

View = dict[str, Any]

MARKS = {"holds": "holds", "fails": "fails", "undecided": "open"}
"""Word for each state of a condition; undecided: the cases cannot tell."""

BUCKETS = {"A": "passed", "B": "improved", "C": "no change", "D": "regressed", "U": "inconclusive"}
"""Word for each bucket."""


def judged(view: View) -> list[View]:
    """Return every verdict, oldest first: decision, run, rule, bucket, gate, and the detail behind the bucket."""
    rows = []
    for decision in view.get("decisions") or []:
        detail = decision.get("verdict") or {}
        if decision.get("bucket") and detail.get("gate"):
            rows.append(
                {
                    "decision": decision["id"],
                    "run": decision["run"],
                    "rule": decision["rule"],
                    "bucket": decision["bucket"],
                    "gate": detail["gate"],
                    "detail": detail.get("bucket") or {},
                }
            )
    return rows


def best(view: View) -> View | None:
    """Return the best run's verdict with its target row (None where the verdict compared nothing).

    It is the promoted one, where one is. Within a bucket it is the one that the planner would train on: with the most
    slack, the later of equals.
    """
    # Of each run the newest verdict: an edited gate judges again, and bucket A may be of the old one.
    rows = list({row["run"]: row for row in judged(view)}.values())
    promoted = [row for row in rows if row["run"] == (view.get("campaign") or {}).get("promoted")]
    rows = promoted or rows
    if not rows:
        return None
    # The first of equals is taken, so they are looked at from the newest on.
    chosen = min(reversed(rows), key=lambda row: (BEST_FIRST.index(row["bucket"]), -slack(row)))
    return {**chosen, "target": target_row(chosen)}


def slack(verdict: View) -> float:
    """Return by how much the selection cases clear the gate's worst condition, negative where they do not.

    The same figure as `policies.next_run.slack`, from the plain values of the record.
    """
    gate = verdict["detail"].get("gate") or verdict["gate"]
    return min((_slack(row) for row in gate["conditions"]), default=float("-inf"))


def _slack(row: View) -> float:
    sign, unit = row.get("sign", 1), 1 if row["statistic"] == "mean" else max(1, row["n"])
    near = row["low"] if sign > 0 else row["high"]
    if near is None or row.get("bound") is None:
        return float("-inf")
    return float(sign * (near - row["bound"]) / unit)


def target_row(verdict: View) -> View | None:
    """Return what happened to the target: metric, value, reference, cases rescued and broken, cases in all."""
    target = verdict["detail"].get("target") or {}
    conditions = verdict["gate"]["conditions"]
    row = next((row for row in conditions if row["id"] == target.get("condition")), None)
    row = row or next((row for row in conditions if row["reference"] is not None), None)
    if row is None:
        return None
    return {
        "metric": row["metric"],
        "value": row["value"],
        "reference": row["reference"],
        "rescued": len(row["rescued"]),
        "broken": len(row["broken"]),
        "rescued_cases": list(row["rescued"]),
        "broken_cases": list(row["broken"]),
        "n": row["n"],
        "use": verdict["gate"]["use"],
        "sign": row.get("sign", 1),
    }


def bucket_name(letter: str | None) -> str:
    """Return a bucket in a word, with its letter: `improved (B)`; empty where there is none."""
    return f"{BUCKETS[letter]} ({letter})" if letter else ""


def score(view: View, run: str) -> View | None:
    """Return what a run scored by its newest verdict, None where it has none or was not measured.

    Returns:
        `metric`, `value`, `reference` (the side compared with), `low` and `high`: the interval of the value, or of the
        difference to the reference where `is_difference`, `level` [0, 1], `n` and `use`: on how many of which cases.
    """
    verdict = next((row for row in reversed(judged(view)) if row["run"] == run), None)
    return score_of(verdict) if verdict else None


def score_of(verdict: View) -> View | None:
    """Return what a verdict says that its run scored, as `score` does."""
    target = target_row(verdict)
    if target is None or target["value"] is None:
        return None
    of_metric = (row for row in verdict["gate"]["conditions"] if row["metric"] == target["metric"])
    rows = [row for row in of_metric if row["low"] is not None]
    row = next((row for row in rows if row["against"] == "value"), rows[0] if rows else {})
    return {
        **{key: target[key] for key in ("metric", "value", "reference", "n", "use")},
        "low": row.get("low"),
        "high": row.get("high"),
        "level": 1 - 2 * row["alpha"] if row else None,
        "is_difference": bool(row) and row["against"] != "value",
    }


def scored(found: View | None) -> str:
    """Return a score with its interval: `0.853 (0.826 to 0.880)`."""
    if found is None:
        return ""
    text = number(found["value"])
    if found["low"] is None:
        return text
    if found["is_difference"] and found["reference"] is not None:
        span = f"{signed(found['low'])} to {signed(found['high'])}"
        return f"{text}, {signed(found['value'] - found['reference'])} ({span})"
    return f"{text} ({number(found['low'])} to {number(found['high'])})"


def asked(condition: View) -> str:
    """Return a condition of the campaign file as a person would say it."""
    metrics = [condition["metric"]] if condition.get("metric") else list(condition.get("any_of") or ())
    what = metrics[0] if len(metrics) == 1 else "the best of " + ", ".join(metrics)
    what += " as a count" if condition.get("statistic") == "count" else ""
    against = condition.get("against", "value")
    if condition.get("statistic") == "new_failures":
        what = f"new failures of {what} against the {against}"
    elif against != "value":
        what += f" minus the {against}'s"
    word, sign, threshold = ("at least", 1, condition.get("min"))
    if threshold is None:
        word, sign, threshold = "at most", -1, condition["max"]
    # A margin stands only where no change is asked for, and then it is what the verdict uses.
    margin = condition.get("margin")
    bound = threshold if margin is None else -sign * margin + 0.0
    granted = "" if bound == threshold else f" (with its margin: {word} {bound:g})"
    return f"{what} {word} {threshold:g}{granted}"


def said(row: View) -> str:
    """Return a judged condition: what was asked, what was measured, how sure."""
    question = row.get("question") or _asked_then(row)
    if row["estimate"] is None:
        return f"{question}: not measured."
    digits = 3 if row["statistic"] == "mean" else 1
    is_level = row["against"] == "value" or row["statistic"] == "new_failures"
    shown = number(row["estimate"], digits) if is_level else signed(row["estimate"], digits)
    interval = ""
    if row["low"] is not None:
        level = f"{100 * (1 - 2 * row['alpha']):.3g} %"
        interval = (
            f" ({level} interval {number(row['low'], digits)} to {number(row['high'], digits)}, {row['n']} cases)"
        )
    label = f"; {row['label']}" if row["label"] else ""
    more, needed = "", row["cases_needed"]
    if row["decided"] == "undecided" and needed is not None and needed > row["n"]:
        more = f"; about {needed} cases would tell"
    elif row["decided"] == "undecided" and needed is None and row.get("assumed_truth") is not None:
        more = "; no number of cases can tell"
    return f"{question}: {shown}{interval}{label}{more}."


def _asked_then(row: View) -> str:
    """Return what a condition of an earlier version's record asked, from its fields; its id where it has too few."""
    if row.get("threshold") is None or "sign" not in row:
        return str(row["id"])
    bounds = {"min" if row["sign"] > 0 else "max": row["threshold"]}
    margin = None if row.get("bound") in {None, row["threshold"]} else -row["sign"] * row["bound"]
    return asked({**{name: row.get(name) for name in ("metric", "statistic", "against")}, **bounds, "margin": margin})


def base_mean(view: View, metric: str) -> float | None:
    """Return the base's mean on the selection cases, as believed."""
    split, _, name = metric.partition(".")
    for belief in view.get("beliefs") or []:
        if belief["subject"] == f"score:base.{split}.selection" and belief["status"] == "fresh":
            value = ((belief.get("value") or {}).get("means") or {}).get(name)
            return None if value is None else float(value)
    return None


_MOST_FIGURES = 8


def place(paths: CampaignPaths, file: str = "") -> View:
    """Return what printed commands need to know of a campaign and of the shell they are typed in.

    Args:
        paths: The campaign's files.
        file: Its YAML file, where it was just given.

    Returns:
        `name`, `elsewhere` (the home, where commands must be told of it), `here` (the folder they are typed in), `bin`
        (folder of our programs, where the shell does not find them), `file` (as typed here).
    """
    here = str(Path.cwd())
    known = file or _source(paths)
    return {
        "name": paths.name,
        "here": here,
        "elsewhere": str(paths.home) if paths.home.resolve() != find_home(None).resolve() else "",
        "bin": _bin(),
        "file": near(known, here) if known else "",
    }


def from_anywhere(view: View, home: Path) -> View:
    """Return a view whose commands can be typed in any folder, for who reads them in a browser."""
    file = view["file"] and str(Path(view["here"]) / view["file"])
    return {**view, "here": "", "elsewhere": str(home), "file": file}


def _source(paths: CampaignPaths) -> str:
    """Return the campaign's file as it was run last, empty where nobody knows: a printed command then says FILE."""
    try:
        return str(read_object(paths.source).get("file") or "")
    except DamagedFileError:
        return ""


def _bin() -> str:
    """Return the folder of our programs where the shell that asks would not find them, or would find others."""
    ours = Path(sys.prefix) / "bin" / "vigil"
    seen = shutil.which("vigil")
    is_ours = seen is not None and Path(seen).resolve() == ours.resolve()
    return "" if is_ours or not ours.is_file() else str(ours.parent)


def runbook(given: str) -> str:
    """Return where a runbook lies, as it can be opened from here; empty where this installation has none.

    Args:
        given: Its path below `runbooks/`, with or without that, and the anchor of a section.
    """
    name, hash_mark, anchor = given.removeprefix("runbooks/").partition("#")
    path = Path(__file__).resolve().parents[2] / "runbooks" / name
    return near(str(path), str(Path.cwd())) + hash_mark + anchor if given and path.is_file() else ""


def program(view: View, name: str) -> str:
    """Return one of our programs as the shell finds it."""
    folder = view.get("bin")
    return shlex.quote(near(str(Path(folder) / name), view.get("here"))) if folder else name


def command(view: View, *words: str) -> str:
    """Return a command of ours, told of the home where it has to be.

    Args:
        view: As `place` or `gather` returns it.
        words: The command and what it is given.
    """
    elsewhere = view.get("elsewhere")
    told = ["--home", near(elsewhere, view.get("here"))] if elsewhere else []
    return f"{program(view, 'vigil')} {shlex.join([*words, *told])}"


def of_campaign(view: View, *words: str) -> str:
    """Return a command of ours on this campaign: `vigil watch NAME`."""
    return command(view, *words, _name(view))


def of_row(view: View, verb: str, row: str, *words: str) -> str:
    """Return a command of ours on one row of this campaign: `vigil approve NAME:Q2`."""
    return command(view, verb, named(view, row), *words)


def named(view: View, row: str) -> str:
    """Return an id that is understood whatever else the home holds: `NAME:Q2`."""
    return f"{_name(view)}:{row}"


def run(view: View) -> str:
    """Return the command that goes on with the campaign."""
    return command(view, "run", view.get("file") or "FILE")


def _name(view: View) -> str:
    return str(view.get("name") or view["campaign"]["name"])


def answers(view: View, question: View) -> list[tuple[str, str]]:
    """Return what answers a question: a word on it, and the command."""
    why = ["--reason", "WHY"] if question.get("kind") == "override" else []
    return [
        ("yes", of_row(view, "approve", question["id"], *why)),
        ("no", of_row(view, "reject", question["id"], "--reason", "WHY")),
    ]


def question(view: View, row: View) -> list[str]:
    """Return a question that waits: what is asked, its figures, until when, and the commands that answer it."""
    lines = wrapped(f"{_name(view)}:{row['id']} waits for you ({row['kind']}): {row['question']}", columns())
    lines += block("", f"Asked {clock(row['asked_at'])}.", indent=2) if row.get("asked_at") else []
    for text in question_figures(view, row):
        lines += block("", text, indent=2)
    if row.get("deadline_at"):
        lines += block("", f"Unanswered at {clock(row['deadline_at'])} it becomes {row['unanswered']}.", indent=2)
    if said := row.get("unapplied"):
        lines += block("", f"{said['answer']} by {said['by']}, not yet applied; a running agent does, or:", indent=2)
        return [*lines, f"  {run(view)}"]
    return lines + [f"  {word + ':':<4} {typed}" for word, typed in answers(view, row)]


def leave(row: View) -> str:
    """Return what a person answers beforehand, as a sentence."""
    return (
        f"{row['by']} says yes beforehand to each {row['kind']} until {clock(row['until'])}: {row['left']} of"
        f" {row['runs']} left ({row['request']})."
    )


def question_figures(view: View, row: View) -> list[str]:
    """Return what a question rests on: for a promotion each condition of the gate, for a launch what it costs."""
    decision = next((each for each in view.get("decisions") or [] if each["id"] == row["decision"]), None)
    if decision is None:
        return []
    if row["kind"] == "promotion":
        of_run = [each for each in judged(view) if each["run"] == decision["run"]]
        conditions = of_run[-1]["gate"]["conditions"] if of_run else []
        return [f"{MARKS[each['decided']]:<5} {said(each)}" for each in conditions[:_MOST_FIGURES]]
    name = decision["run"] or decision["action_inputs"].get("run")
    run = next((each for each in view.get("runs") or [] if each["id"] == name), None)
    if row["kind"] != "launch" or run is None:
        return []
    foreseen = run["predicted"]
    figures = [f"costs about {duration(run['cost_s_estimate'])}"] if run["cost_s_estimate"] else []
    if {"metric", "low", "high"} <= foreseen.keys():
        figures.append(f"expected: {foreseen['metric']} from {number(foreseen['low'])} to {number(foreseen['high'])}")
    return figures
