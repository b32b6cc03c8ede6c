"""The campaign on one screen, at most 40 lines of 100 columns, and what was found by the domain that caught it.

A finding is a belief that was refuted at some time, mended or not, a job that a guard stopped, or a failure that a
person noted. Saved is what was not spent because of it; cost is what had been spent on work that stood on it. Standard
library only.
"""

import shlex
from collections.abc import Callable
from typing import Any

from agent.render import record, typed
from agent.render.why import gather_standing, impact
from agent.render.words import (
    INDENT,
    WIDTH,
    block,
    clock,
    columns,
    count,
    duration,
    near,
    number,
    shortened,
    signed,
    table,
)
from state.errors import VigilError
from state.paths import CampaignPaths
from state.reading import open_reader
from state.records import CAMPAIGN_ENDED

View = dict[str, Any]

_KNOWING = ("1", "2", "3", "5", "7", "11", "P1", "P2", "P3", "P6", "P7", "P8", "P9", "P10", "P11", "P12")
_DOING = ("9", "10", "12")
_DECIDING = ("4", "6", "8", "13", "14", "15", "P4", "P5")

DOMAINS = {
    **dict.fromkeys(_KNOWING, "knowing"),
    **dict.fromkeys(_DOING, "doing"),
    **dict.fromkeys(_DECIDING, "deciding"),
}
"""Failure mode -> the domain that catches it."""

_GUARDED = {"collapsed": "1", "stalled": "9", "out_of_time": "10", "loss_collapsed": "14", "rewards_equal": "P10"}
"""A guard's word -> the failure mode that it watches for; other guards watch the machine or the arithmetic."""

_ORDER = ("knowing", "doing", "deciding")
NOTES = "note:"
"""How the subject of a noted failure begins."""


def of_campaign(paths: CampaignPaths) -> View:
    """Return a campaign's tally, read from its record.

    Raises:
        NotFoundError: There is no such campaign.
    """
    view = gather_standing(paths)
    with open_reader(paths) as reader:
        return tally({**view, "approvals": reader.approvals(), "refuted": reader.refuted_ever()})


def tally(view: View) -> View:
    """Return findings and their sums by domain.

    Args:
        view: As `impact` takes it, with `jobs`, `approvals`, and `refuted`: beliefs that were refuted at some time.

    Returns:
        `findings`, oldest first (domain, mode, source, sentence, at, saved_s, cost_s; None: nobody knows), and
        `domains`, one row for each of the three (findings, modes with their counts, saved_s, cost_s).
    """
    findings = [*_refuted(view), *_stopped(view), *_noted(view)]
    findings.sort(key=lambda row: row["at"])
    return {"domains": [_sum(domain, findings) for domain in _ORDER], "findings": findings}


def _finding(  # noqa: PLR0917 - the columns of a row
    mode: str, source: str, sentence: str, at: float, saved_s: float | None, cost_s: float | None, domain: str = ""
) -> View:
    return {
        "domain": domain or DOMAINS.get(mode, "knowing"),
        "mode": mode,
        "source": source,
        "sentence": sentence,
        "at": at,
        "saved_s": saved_s,
        "cost_s": cost_s,
    }


def _refuted(view: View) -> list[View]:
    """Return one finding per claim and mode that was refuted, however often it was looked at again."""
    saved = _saved(view)
    walls = {job["key"]: float((job["exit"] or {}).get("wall_s") or 0.0) for job in view["jobs"]}
    claims: dict[tuple[str, str, str], list[View]] = {}
    for row in view["refuted"]:
        claims.setdefault((row["subject"], row["claim"], row["mode"]), []).append(row)
    findings = []
    for rows in claims.values():
        reached = [impact(view, row["id"]) for row in rows]
        stood = {act["key"] for found in reached for act in found["actions"]}
        # A denied score takes its own measurement down, though no decision stood on it.
        stood |= {cases["evaluation"] for found in reached for cases in found["measured"]}
        findings.append(
            _finding(
                rows[0]["mode"],
                rows[0]["id"],
                f"{rows[0]['subject']} {rows[0]['claim']}: {rows[0]['statement']}",
                rows[0]["refuted_at"],
                max(saved.get(row["id"], 0.0) for row in rows),
                sum(walls.get(key, 0.0) for key in stood),
            )
        )
    return findings


def _saved(view: View) -> dict[str, float]:
    """Return belief -> seconds of training that a halt on it spared; the first of several stops has it all.

    A person who went on against the stop spared nothing.
    """
    overridden = {row["decision"] for row in view["approvals"] if row["kind"] == "override" and row["answer"] == "yes"}
    spared = {}
    for row in view["decisions"]:
        first = row["action_inputs"].get("belief")
        if row["action"] == "halt" and first and first not in overridden:
            spared[first] = float(row["action_inputs"].get("saved_s") or 0.0)
    return spared


def _stopped(view: View) -> list[View]:
    """Return one finding per job that a guard stopped."""
    findings = []
    for job in view["jobs"]:
        ending = job["exit"] or {}
        word = ending.get("verdict") or ""
        if not word:
            continue
        mode = _GUARDED.get(word, "")
        said = f"{job['kind']} {job['run']} at step {job['step']} of {job['steps']}: {ending.get('reason') or word}"
        spent = float(ending.get("wall_s") or 0.0)
        findings.append(
            _finding(
                mode,
                job["id"],
                said,
                float(job["finished_at"] or 0.0),
                record.saved_s(job),
                spent,
                DOMAINS.get(mode, "doing"),
            )
        )
    return findings


def _noted(view: View) -> list[View]:
    notes = [row for row in view["beliefs"] if row["subject"].startswith(NOTES) and not row["superseded_by"]]
    return [
        _finding(row["mode"], row["id"], row["statement"], row["formed_at"], None, None, row["value"].get("domain", ""))
        for row in notes
    ]


def _sum(domain: str, findings: list[View]) -> View:
    rows = [row for row in findings if row["domain"] == domain]
    modes: dict[str, int] = {}
    for row in rows:
        modes[row["mode"] or "none"] = modes.get(row["mode"] or "none", 0) + 1
    return {
        "domain": domain,
        "findings": len(rows),
        "modes": modes,
        "saved_s": sum(row["saved_s"] or 0.0 for row in rows),
        "cost_s": sum(row["cost_s"] or 0.0 for row in rows),
    }


def format_tally(found: View) -> list[str]:
    """Return the tally as lines: sums by domain, then each finding."""
    rows = [
        (row["domain"], row["findings"], duration(row["saved_s"]), duration(row["cost_s"]), _modes(row["modes"]))
        for row in found["domains"]
    ]
    lines = table(("domain", "findings", "saved", "cost", "modes"), rows)
    for row in found["findings"]:
        known = row["saved_s"] is not None
        times = f" Saved {duration(row['saved_s'])}, cost {duration(row['cost_s'])}." if known else ""
        text = (
            f"{row['domain']}, mode {row['mode'] or 'none'}, {clock(row['at'])}: {row['sentence'].rstrip('.')}.{times}"
        )
        lines += block(row["source"], text, indent=6)
    return lines


def sentence(found: View) -> str:
    """Return the tally as one sentence."""
    parts = [
        f"{row['domain']} {row['findings']} ({duration(row['saved_s'])} saved, {duration(row['cost_s'])} cost)"
        for row in found["domains"]
    ]
    return f"{count(len(found['findings']), 'finding')}: {', '.join(parts)}."


def _modes(modes: dict[str, int]) -> str:
    return ", ".join(mode if n == 1 else f"{mode} ({n} times)" for mode, n in modes.items()) or "-"


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

_EFFECTS = frozenset({"notify", "export", "delete", "fuse"})
"""Acts that the campaign does not wait for: one that fails is told, and the work goes on."""


def summarize(view: View) -> list[str]:
    """Return the summary's lines.

    Args:
        view: `agent.render.record.gather`: campaign, goal, beliefs, decisions, runs, jobs, approvals, commitments,
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


def headline(view: View) -> str:
    """Return how the campaign stands and since when, as one sentence."""
    campaign = view["campaign"]
    state = campaign["state"]
    idle = state == "running" and view.get("holder") is None and "holder" in view
    words = "has no agent running; started again, it goes on" if idle else _HEADS.get(state, state)
    started = campaign.get("started_at") or view["now"]
    took = duration((campaign.get("ended_at") or view["now"]) - started)
    return f"{campaign['name']} {words}; started {clock(started)}, {took}."


def brief(paths: CampaignPaths) -> View:
    """Return a campaign as a row of a list: how it stands, its best run with its score, how many questions wait."""
    row: View = {"name": paths.name, "state": "", "best": "", "score": "", "waiting": 0, "started": "", "sentence": ""}
    try:
        view = record.gather(paths)
    except VigilError as error:
        return {**row, "state": "not readable", "sentence": error.sentence}
    campaign, best = view["campaign"], typed.best(view)
    is_left = campaign["state"] == "running" and view["holder"] is None
    return {
        **row,
        "state": "no agent" if is_left else campaign["state"].replace("_", " "),
        "best": f"{best['run']} {typed.bucket_name(best['bucket'])}" if best else "",
        "score": typed.scored(typed.score(view, best["run"])) if best else "",
        "waiting": sum(each["answer"] is None and not each.get("unapplied") for each in view["approvals"]),
        "started": clock(campaign["started_at"]),
        "sentence": campaign["sentence"] or "",
    }


def _head(view: View) -> list[str]:
    told = view["campaign"].get("sentence")
    return [headline(view), *(block("", told, indent=2, lines=4) if told else [])]


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
    verdict = typed.best(view)
    if verdict is None:
        return _unjudged(view)
    gate = verdict["gate"]
    rows = gate["conditions"]
    held = sum(row["decided"] == "holds" for row in rows)
    told = f"{verdict['run']}: {held} of {count(len(rows), 'condition')} hold on the {gate['use']} cases."
    lines = block("Gate", told)
    for row in rows[:_MAX_CONDITIONS]:
        lines += block(f"  {typed.MARKS[row['decided']]}", typed.said(row), lines=2)
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
        base = typed.base_mean(view, metrics[0]) if metrics else None
        stands = f"; the base has {number(base)}" if base is not None else "; not measured yet"
        lines += block("" if lines else "Gate", typed.asked(condition) + stands + ".", lines=2)
    return lines


def _openings(view: View) -> list[str]:
    """Say what of alpha is spent on the confirmation cases, by the ledger as the campaign read it last."""
    told = [b["statement"] for b in view.get("beliefs") or [] if b["subject"] == "ledger:confirmation"]
    return block("Openings", told[-1], lines=3) if told else []


def _best(view: View) -> list[str]:
    best = typed.best(view)
    runs = view.get("runs") or []
    judged = [run for run in runs if run.get("bucket")]
    tally = ", ".join(f"{run['id']} {typed.bucket_name(run['bucket'])}" for run in judged)
    if best is None:
        return block("Runs", f"{count(len(runs), 'run')} planned, none judged yet." if runs else "No run yet.")
    row = best["target"]
    lines = block("Runs", f"{count(len(judged), 'run')} judged: {tally}.")
    if row is None:
        return lines
    name = f"{best['run']}, {typed.bucket_name(best['bucket'])}"
    if row["value"] is None:
        return block("Best run", f"{name}: {row['metric']} was not measured.") + lines
    change = f"{row['metric']} {number(row['reference'])} -> {number(row['value'])}"
    if row["reference"] is not None and row["value"] is not None:
        change += f" ({signed(row['value'] - row['reference'])})"
    flips = f"{count(row['rescued'], 'case')} improved, {row['broken']} worse"
    told = f"{name}: {change}, {flips}, of {row['n']} {row['use']} cases."
    return block("Best run", told) + lines


def _stopped_early(view: View) -> list[str]:
    sentences = record.stopped(view)
    return [
        line for index, text in enumerate(sentences[:3]) for line in block("" if index else "Stopped", text, lines=2)
    ]


def _live(view: View) -> list[str]:
    alive = (job for job in view.get("jobs") or [] if job["state"] in {"starting", "running", "orphaned"})
    waiting = (job for job in view.get("jobs") or [] if job.get("waits_for"))
    job = next(alive, None) or next(waiting, None)
    if job is None or view["campaign"]["state"] in CAMPAIGN_ENDED:
        return []
    return block("Now", record.progress(job, view["now"]))


def _night(view: View) -> list[str]:
    return block("Run stats", record.format_night(view))


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
    if view["campaign"]["state"] in CAMPAIGN_ENDED - {"stopped"}:
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
    _head, _goal, _gate, _openings, _best, _live, _stopped_early, _night, _assumed, _warned,
    _failed_effects, _next, _person, _type,
)  # fmt: skip
