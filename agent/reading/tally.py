"""What the campaign found, by the domain that caught it, with the time each finding cost or saved.

A finding is a belief that was refuted at some time, mended or not, a job that a guard stopped, or a failure that a
person noted. Saved is what was not spent because of it; cost is what had been spent on work that stood on it. Standard
library only.
"""

from typing import Any

from agent.reading import night
from agent.reading.impact import gathered, impact
from agent.reading.words import block, clock, count, duration, table
from state.paths import CampaignPaths
from state.reading import open_reader

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
    view = gathered(paths)
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
                night.saved_s(job),
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
