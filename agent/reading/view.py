"""Everything the reading commands show, gathered into one plain dict. Standard library only: no pydantic, no store.

Rows come from `state/reading.py`; what a running job has done since its row was copied comes from its folder.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from agent.reading import night, typed
from state.files import read_json
from state.lease import holder
from state.paths import CampaignPaths, JobPaths
from state.reading import open_reader
from tools.jobs.locks import is_held

View = dict[str, Any]

_TAIL_BYTES = 16_384
_ALIVE = frozenset({"queued", "starting", "running", "orphaned"})


def gather(paths: CampaignPaths, *, file: str = "", with_cases: bool = False) -> View:
    """Return the campaign as plain values.

    Args:
        paths: The campaign's files.
        file: Path of its YAML file, to be named in advice, where it is known.
        with_cases: Also every measured case, which may be thousands.

    Returns:
        `campaign`, `goal` (newest version), `goals`, `beliefs` (not the superseded ones), `decisions`, `runs`, `jobs`
        (each with `about`, whose answers to which cases it makes, `last`, its last metrics row, `loss_before`, `pace`
        of its recent steps, `waits_for` while others have the accelerator, `power`), `approvals`
        (an open one with `unapplied`, the first answer that waits for the holder, or None),
        `commitments`, `actions`, `measurements` (when asked for), `holder` (None when no agent runs), `promoted`
        (folder), `model` (folder that the promoted adapter belongs on), `root`, `now`, and what printed commands need
        (agent/reading/typed.py).

    Raises:
        NotFoundError: There is no such campaign.
    """
    with open_reader(paths) as reader, reader.snapshot():
        goals, actions = reader.goals(), reader.actions()
        inputs = {row["key"]: row["inputs"] for row in actions}
        view: View = {
            "campaign": reader.campaign(),
            "goal": goals[-1] if goals else None,
            "goals": goals,
            "beliefs": reader.beliefs_about(),
            "decisions": reader.decisions(),
            "runs": reader.runs(),
            "actions": actions,
            "jobs": [with_folder(paths, {**job, "about": about(inputs.get(job["key"], {}))}) for job in reader.jobs()],
            "approvals": _with_answers(reader.approvals(), reader.requests()),
            "commitments": reader.commitments(),
            "measurements": reader.measurements() if with_cases else [],
        }
    link = paths.promoted
    switched = read_json(paths.root / "promoted.json") or {}
    return {
        **view,
        "model": switched.get("model", ""),
        **typed.place(paths, file),
        "holder": holder(paths),
        "promoted": str(link) if link.exists() else "",
        "root": str(paths.root),
        "now": time.time(),
    }


def _with_answers(questions: list[View], requests: list[View]) -> list[View]:
    """Return the questions, each open one with the first answer to it that was not applied yet."""
    given: dict[str, View] = {}
    for row in requests:
        if row["kind"] in {"approve", "reject"} and row["applied_at"] is None:
            said = "yes" if row["kind"] == "approve" else "no"
            given.setdefault(row["target"], {"answer": said, "by": row["by"]})
    return [row if row["answer"] is not None else {**row, "unapplied": given.get(row["id"])} for row in questions]


def with_folder(paths: CampaignPaths, job: View) -> View:
    """Return a job's row with what its folder has to add: the last metrics row, and an end not yet copied."""
    files = JobPaths(paths.root / job["folder"])
    if job["state"] not in _ALIVE:
        # What it cost before its first step: start, imports, weights, kernels.
        result = read_json(files.result)
        return {**job, "last": {}, "startup_s": result.get("startup_s") if isinstance(result, dict) else None}
    rows, begun_at = list(_tail(files)), _begun_at(files)
    last = _merged(rows)
    losses = [row["train_loss"] for row in rows if row.get("train_loss") is not None]
    ending = read_json(files.exit) or {}
    state = ending.get("state", job["state"]) if ending else job["state"]
    step = max(int(job.get("step") or 0), int(last.get("step") or 0))
    waits_for = (read_json(files.waiting) or {}) if not ending and is_held(files.supervisor_lock) else {}
    if waits_for:
        state = "queued"
    # The row's is when it was asked for; it may have waited for hours.
    started_at = (read_json(files.start) or {}).get("tally", {}).get("started_at") or job["started_at"]
    return {
        **job,
        "last": last,
        "loss_before": losses[-2] if len(losses) > 1 else None,
        "pace": night.pace(rows, begun_at),
        "begun_at": begun_at,
        "phase": _phase(rows, begun_at),
        "step": step,
        "state": state,
        "exit": ending or job["exit"],
        "started_at": started_at,
        "waits_for": waits_for,
        "power": _power(files),
    }


def _power(files: JobPaths) -> View:
    """Return power source, charge and lid as the supervisor saw them last; empty where none is told."""
    try:
        seen = read_json(files.heartbeat)
    except ValueError:
        # Not synced, so a power cut may leave it empty.
        return {}
    found = seen.get("power") if isinstance(seen, dict) else None
    return found if isinstance(found, dict) else {}


def about(inputs: View) -> View:
    """Return whose answers to which cases an action's job makes; empty where it makes none."""
    return {key: inputs[key] for key in ("side", "use") if inputs.get(key)}


def _begun_at(files: JobPaths) -> float | None:
    """Return when the worker that works now was started, Unix seconds."""
    found = read_json(files.worker)
    return float(found["create_time"]) if isinstance(found, dict) and found.get("create_time") else None


def _phase(rows: list[View], begun_at: float | None) -> str:
    """Return what the worker that works now does before its first step or report; empty once it told a step."""
    for row in reversed(rows):
        if row.get("phase") and float(row.get("t") or 0.0) >= (begun_at or 0.0):
            return str(row["phase"])
        if isinstance(row.get("step"), int) and "prepared" not in row:
            break
    return ""


def _merged(rows: Iterable[View]) -> View:
    """Return the newest figure of each field."""
    merged: View = {}
    for row in rows:
        merged |= {key: value for key, value in row.items() if value is not None}
    return merged


def _tail(files: JobPaths) -> Iterator[View]:
    """Yield the last rows of metrics.jsonl, reading its end only; a torn line is left out."""
    try:
        with files.metrics.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _TAIL_BYTES))
            lines = stream.read().splitlines()
    except FileNotFoundError:
        return
    for line in lines[1:] if size > _TAIL_BYTES else lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


def with_premises(view: View, decision: View) -> View:
    """Return the view with the beliefs that a decision stands on, over any number of steps, and no others."""
    root = Path(view["root"])
    found: dict[str, View] = {}
    wanted = [premise["belief"] for premise in decision["premises"]]
    with open_reader(CampaignPaths(root.parent, root.name)) as reader:
        while wanted:
            name = wanted.pop()
            if name not in found:
                for row in reader.table("belief", id=name):
                    found[name] = row
                    wanted += row["premises"]
    return {**view, "beliefs": list(found.values())}


def with_measurements(view: View) -> View:
    """Return the view with every measured case, read where the view was gathered without them."""
    if view["measurements"]:
        return view
    root = Path(view["root"])
    with open_reader(CampaignPaths(root.parent, root.name)) as reader:
        return {**view, "measurements": reader.measurements()}
