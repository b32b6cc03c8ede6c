"""The campaign on one screen: at most 40 lines of 100 columns (more of narrower ones), sentences with numbers.

`summarize` is pure and takes the plain dicts that the reading commands gather (`agent/reading/view.py`), so the end of
a run, `vigil status` and the text report say the same. Standard library only.
"""

import shlex
from collections.abc import Callable
from typing import Any

from agent.reading import night, typed, verdicts
from agent.reading.words import INDENT, WIDTH, block, clock, columns, count, duration, near, number, shortened, signed

MAX_LINES = 40
"""A screen of 45 lines with the prompt and the command on it."""

_MAX_CONDITIONS = 8

_HEADS = {
    "running": "is running",
    "waiting": "waits for a person",
    "promoted": "ended: promoted",
    "not_promoted": "ended: not promoted",
    "halted": "halted by a hard stop",
    "stopped": "was stopped",
    "failed": "failed",
}

_BOOKS = ("action:", "identity:", "ledger:")
"""Subjects that keep books for the planner; a person asks about the others."""

_ENDED = frozenset({"promoted", "not_promoted", "halted", "stopped", "failed"})

_EFFECTS = frozenset({"notify", "export", "delete", "fuse"})
"""Acts that the campaign does not wait for: one that fails is told, and the work goes on."""

View = dict[str, Any]


def summarize(view: View) -> list[str]:
    """Return the summary's lines.

    Args:
        view: `agent.reading.view.gather`: campaign, goal, beliefs, decisions, runs, jobs, approvals, commitments,
            holder, home, now.
    """
    sections = [section(view) for section in _SECTIONS]
    # Narrow lines say less each, so there may be more of them.
    most = MAX_LINES * WIDTH // columns()
    # What a person must do and what to type stand last and are never cut; the longest middle section gives way.
    while sum(map(len, sections)) > most:
        longest = max(range(1, len(sections) - 2), key=lambda index: len(sections[index]))
        if len(sections[longest]) <= 1:
            break
        sections[longest] = sections[longest][:-1]
    *told, commands = sections
    return [_fitting(line) for section in told for line in section][: most - len(commands)] + commands


def _fitting(line: str) -> str:
    return line if len(line) <= columns() else shortened(line, columns())


def _head(view: View) -> list[str]:
    campaign = view["campaign"]
    state = campaign["state"]
    idle = state == "running" and view.get("holder") is None and "holder" in view
    words = "has no agent running; started again, it goes on" if idle else _HEADS.get(state, state)
    started = campaign.get("started_at") or view["now"]
    took = duration((campaign.get("ended_at") or view["now"]) - started)
    lines = [f"{campaign['name']} {words}; started {clock(started)}, {took}."]
    if campaign.get("sentence"):
        lines += block("", campaign["sentence"], indent=2, lines=4)
    return lines


def _goal(view: View) -> list[str]:
    goal = view.get("goal")
    if not goal:
        return []
    spec = goal["spec"]
    budget = spec.get("budget") or {}
    limits = [f"until {budget['until']}"] if budget.get("until") else []
    limits += [duration(budget["hours"] * 3600)] if budget.get("hours") else []
    limits += [f"{number(budget['disk_gb'], 1)} GB"] if budget.get("disk_gb") else []
    limits += [count(budget["runs"], "run")] if budget.get("runs") else []
    track = spec["track"]
    task = track.get("name") or track.get("grader") or " ".join(track.get("command") or ())
    conditions = count(len(spec["gate"]["conditions"]), "gate condition")
    best = spec.get("search", {}).get("goal") == "best"
    limits += ["used to its end for the best run, which is then confirmed once"] if best else []
    edits = f" Version {goal['version']}: {' '.join(goal['difference'])}" if goal["version"] > 1 else ""
    return block(
        "Goal",
        f"{spec['model']['path']} on {task}; {conditions}, at most {spec['gate']['max_confirmations']} looks at the "
        f"confirmation cases; budget {', '.join(limits) or 'not limited'}.{edits}",
    )


def _gate(view: View) -> list[str]:
    verdict = verdicts.best(view)
    if verdict is None:
        return _unjudged(view)
    gate = verdict["gate"]
    rows = gate["conditions"]
    held = sum(row["decided"] == "holds" for row in rows)
    told = f"{verdict['run']}: {held} of {count(len(rows), 'condition')} hold on the {gate['use']} cases."
    lines = block("Gate", told)
    for row in rows[:_MAX_CONDITIONS]:
        lines += block(f"  {verdicts.MARKS[row['decided']]}", verdicts.said(row), lines=2)
    if len(rows) > _MAX_CONDITIONS:
        lines.append(f"{'':{INDENT}}and {len(rows) - _MAX_CONDITIONS} more, in {verdict['decision']}.")
    return lines


def _unjudged(view: View) -> list[str]:
    """Say the conditions, and what the base scores, while no run was judged."""
    goal = view.get("goal")
    if not goal:
        return []
    lines: list[str] = []
    for condition in goal["spec"]["gate"]["conditions"][:_MAX_CONDITIONS]:
        metrics = [condition["metric"]] if condition.get("metric") else list(condition.get("any_of") or ())
        base = verdicts.base_mean(view, metrics[0]) if metrics else None
        stands = f"; the base has {number(base)}" if base is not None else "; not measured yet"
        lines += block("" if lines else "Gate", verdicts.asked(condition) + stands + ".", lines=2)
    return lines


def _openings(view: View) -> list[str]:
    """Say what of alpha is spent on the confirmation cases, by the ledger as the campaign read it last."""
    told = [b["statement"] for b in view.get("beliefs") or [] if b["subject"] == "ledger:confirmation"]
    return block("Openings", told[-1], lines=3) if told else []


def _best(view: View) -> list[str]:
    best = verdicts.best(view)
    runs = view.get("runs") or []
    judged = [run for run in runs if run.get("bucket")]
    tally = ", ".join(f"{run['id']} {verdicts.bucket_name(run['bucket'])}" for run in judged)
    if best is None:
        return block("Runs", f"{count(len(runs), 'run')} planned, none judged yet." if runs else "No run yet.")
    row = best["target"]
    lines = block("Runs", f"{count(len(judged), 'run')} judged: {tally}.")
    if row is None:
        return lines
    name = f"{best['run']}, {verdicts.bucket_name(best['bucket'])}"
    if row["value"] is None:
        return block("Best run", f"{name}: {row['metric']} was not measured.") + lines
    change = f"{row['metric']} {number(row['reference'])} -> {number(row['value'])}"
    if row["reference"] is not None and row["value"] is not None:
        change += f" ({signed(row['value'] - row['reference'])})"
    flips = f"{count(row['rescued'], 'case')} improved, {row['broken']} worse"
    told = f"{name}: {change}, {flips}, of {row['n']} {row['use']} cases."
    return block("Best run", told) + lines


def _stopped(view: View) -> list[str]:
    sentences = night.stopped(view)
    return [
        line for index, text in enumerate(sentences[:3]) for line in block("" if index else "Stopped", text, lines=2)
    ]


def _live(view: View) -> list[str]:
    alive = (job for job in view.get("jobs") or [] if job["state"] in {"starting", "running", "orphaned"})
    waiting = (job for job in view.get("jobs") or [] if job.get("waits_for"))
    job = next(alive, None) or next(waiting, None)
    if job is None or view["campaign"]["state"] in _ENDED:
        return []
    return block("Now", night.progress(job, view["now"]))


def _night(view: View) -> list[str]:
    return block("Run stats", night.format_night(view))


def _assumed(view: View) -> list[str]:
    standing = [b for b in view.get("beliefs") or [] if b["status"] == "fresh" and not b["subject"].startswith(_BOOKS)]
    assumed = [b for b in standing if b["tag"] == "assumed"]
    confirmed = sum(b["tag"] == "confirmed" for b in standing)
    tally = f"{count(len(standing), 'belief')}, {confirmed} confirmed"
    if not assumed:
        return block("Unverified", f"Nothing ({tally}).")
    first = " ".join(b["statement"] + (f" To confirm: {b['fix']}" if b.get("fix") else "") for b in assumed[:2])
    return block("Unverified", f"{len(assumed)} of {tally}: {first}")


def _warned(view: View) -> list[str]:
    """Say what was found and did not halt: a warning nobody reads warns nobody."""
    found = [
        b
        for b in view.get("beliefs") or []
        if b["status"] == "refuted" and b.get("severity") == "warning" and not b.get("superseded_by")
    ]
    if not found:
        return []
    others = f" And {len(found) - 1} more, in beliefs --stale." if len(found) > 1 else ""
    return block("Warnings", f"{shortened(found[0]['statement'], 200)}{others}", lines=3)


def _failed_effects(view: View) -> list[str]:
    """Say which notice, export or deletion failed: the campaign goes on without it."""
    failed = [a for a in view.get("actions") or [] if a["kind"] in _EFFECTS and a["state"] == "failed"]
    if not failed:
        return []
    told: View = failed[-1]["result"]
    why = (told.get("error") or {}).get("sentence") or (told.get("exit") or {}).get("reason") or "no reason was left"
    others = f" And {len(failed) - 1} more." if len(failed) > 1 else ""
    return block("Warnings", f"{failed[-1]['kind']} failed: {why}{others}", lines=2)


def _next(view: View) -> list[str]:
    if view["campaign"]["state"] in _ENDED - {"stopped"}:
        return []
    lines: list[str] = []
    for row in [row for row in view.get("commitments") or [] if row["status"] == "open"][:2]:
        will, when, unless = (row[key].rstrip(".") for key in ("will", "when", "cancelled_by"))
        text = f"{row['id']}: {will}, when {when}; cancelled by {unless}."
        lines += block("" if lines else "Plan", text)
    newest = (view.get("decisions") or [None])[-1]
    if not lines and newest is not None:
        lines = block("Plan", newest["sentence"])
    return lines


def _person(view: View) -> list[str]:
    lines: list[str] = []
    for row in [row for row in view.get("approvals") or [] if row["answer"] is None][:3]:
        deadline = (
            f" Unanswered at {clock(row['deadline_at'])} means {row['unanswered']}." if row.get("deadline_at") else ""
        )
        question = f"{row['question']}{deadline}"
        if said := row.get("unapplied"):
            question = f"{said['answer']} by {said['by']}, not yet applied. {row['question']}"
        lines += block("" if lines else "For you", f"{row['id']} ({row['kind']}): {question}", lines=3)
    if lines:
        return lines
    answered = [row for row in view.get("approvals") or [] if row["kind"] == "promotion" and row["answer"]]
    said = "".join(f" {row['id']} (promotion) was answered {row['answer']} by {_who(row)}." for row in answered[-1:])
    return block("For you", f"Nothing waits for you.{said}")


def _who(row: View) -> str:
    reason = f" ({row['reason']})" if row.get("reason") else ""
    return f"{row['answered_by']}{reason}"


def _type(view: View) -> list[str]:
    """Return what to type next: a word on it, and the command, which nothing wraps or cuts."""
    rows = _TYPED.get(view["campaign"]["state"], _typed_running)(view)
    width = max(len(word) for word, _ in rows) + 2
    lines = [f"{'':{INDENT}}{word + ':':<{width}}{command}" for word, command in rows]
    return [f"{'Next':<{INDENT}}{lines[0].lstrip()}", *lines[1:]]


_Rows = list[tuple[str, str]]


def _typed_running(view: View) -> _Rows:
    waiting = (row for row in view.get("approvals") or [] if row["answer"] is None and not row.get("unapplied"))
    question = next(waiting, None)
    rows = typed.answers(view, question) if question else []
    if view.get("holder") is None and "holder" in view:
        return [*rows, ("go on", typed.run(view))]
    return [*rows, ("look on", typed.of_campaign(view, "watch")), ("save and end", typed.of_campaign(view, "stop"))]


def _typed_promoted(view: View) -> _Rows:
    model = near(view.get("model") or view["goal"]["spec"]["model"]["path"], view.get("here"))
    adapter = near(view.get("promoted") or "ADAPTER", view.get("here"))
    asked = shlex.join(["--model", model, "--adapter-path", adapter, "--prompt", "..."])
    return [("try it", f"{typed.program(view, 'mlx_lm.generate')} {asked}"), _report(view)]


def _report(view: View) -> tuple[str, str]:
    return "report", typed.of_campaign(view, "report")


def _last_decision(view: View) -> _Rows:
    decisions = [row for row in view.get("decisions") or [] if row.get("bucket")] or view.get("decisions") or []
    return [("why", typed.of_row(view, "why", decisions[-1]["id"]))] if decisions else []


def _typed_halted(view: View) -> _Rows:
    stops = [row for row in view.get("decisions") or [] if row["action"] == "halt"]
    named = str(stops[-1]["action_inputs"].get("belief") or "") if stops else ""
    status = next((row["status"] for row in view.get("beliefs") or [] if row["id"] == named), "")
    # Whatever rule halted: what was found false can be gone against, what is only assumed has to be settled.
    spec = (view.get("goal") or {}).get("spec") or {}
    is_final = ((spec.get("approvals") or {}).get("override") or {}).get("mode") == "reject"
    is_open = status == "contradicted" or (status == "refuted" and not is_final)
    against = [("go on regardless", typed.of_row(view, "approve", named, "--reason", "WHY"))] if is_open else []
    return [*_last_decision(view), ("after the fix", typed.run(view)), *against]


_TYPED: dict[str, Callable[[View], _Rows]] = {
    "promoted": _typed_promoted,
    "not_promoted": lambda view: [*_last_decision(view), _report(view), ("after an edit", typed.run(view))],
    "halted": _typed_halted,
    "stopped": lambda view: [("go on", typed.run(view))],
    "failed": lambda view: [
        ("jobs", typed.of_campaign(view, "jobs")),
        *_last_decision(view),
        ("again", typed.run(view)),
    ],
}

_SECTIONS = (
    _head, _goal, _gate, _openings, _best, _live, _stopped, _night, _assumed, _warned, _failed_effects, _next, _person,
    _type,
)  # fmt: skip
