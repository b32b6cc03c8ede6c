"""Everything the reading commands show, gathered into one plain dict. Standard library only: no pydantic, no store.

Rows come from `state/reading.py`; what a running job has done since its row was copied comes from its folder.
"""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from agent.reading import night, typed
from state.errors import DamagedFileError
from state.files import json_row, read_json, read_object
from state.hashing import hash_file
from state.lease import holder
from state.paths import CampaignPaths, JobPaths
from state.reading import open_reader
from tools.jobs.locks import is_held
from tools.jobs.tally import read_tally

View = dict[str, Any]

_TAIL_BYTES = 16_384
_MOST_FIGURE = 1e18
"""No count of ours is larger; what is could not be told as a fraction."""
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
        (folder), `model` (folder that the promoted adapter belongs on), `root`, `now`, `damaged` (a sentence for each
        file beside the record that is not as it was written) and what printed commands need (agent/reading/typed.py).

    Raises:
        NotFoundError: There is no such campaign.
    """
    with open_reader(paths) as reader, reader.snapshot():
        goals, actions = reader.goals(), reader.actions()
        done = {row["key"]: row for row in actions}
        view: View = {
            "campaign": reader.campaign(),
            "goal": goals[-1] if goals else None,
            "goals": goals,
            "beliefs": reader.beliefs_about(),
            "decisions": reader.decisions(),
            "runs": reader.runs(),
            "actions": actions,
            "jobs": [with_folder(paths, _told(job, done.get(job["key"]))) for job in reader.jobs()],
            "approvals": _with_answers(reader.approvals(), reader.requests()),
            "commitments": reader.commitments(),
            "measurements": reader.measurements() if with_cases else [],
        }
    link, damaged = paths.promoted, [sentence for job in view["jobs"] for sentence in job["damaged"]]
    switched = _object(paths.root / "promoted.json", damaged)
    file = file or str(_object(paths.source, damaged).get("file") or "")
    return {
        **view,
        "damaged": damaged,
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


def _told(job: View, action: View | None) -> View:
    """Return a job's row with what its act has to add: whose answers it makes, and what it cost before its first step.

    Args:
        job: The row.
        action: Its act's; its result has start, imports, weights and kernels as `startup_s`.
    """
    given, made = (action["inputs"], action["result"] or {}) if action is not None else ({}, {})
    return {**job, "about": about(given), "startup_s": made.get("startup_s")}


def with_folder(paths: CampaignPaths, job: View) -> View:
    """Return a job's row with what its folder has to add, and `damaged`, a sentence for each file that is not whole.

    While it works, that is the last metrics row, and an end not yet copied; once it has ended, all is on record, and
    the files are only held against that.
    """
    files, damaged = JobPaths(paths.root / job["folder"]), list[str]()
    if job["state"] not in _ALIVE:
        _compare(files, job, damaged)
        return {**job, "last": {}, "damaged": damaged}
    rows, begun_at = list(_tail(files, damaged)), _begun_at(files, damaged)
    last = _merged(rows)
    losses = [row["train_loss"] for row in rows if _is_figure(row.get("train_loss"))]
    ending = _exit(files, damaged)
    state = ending.get("state", job["state"])
    step = max(int(job.get("step") or 0), int(last.get("step") or 0))
    waits_for = _waiting(files, damaged) if not ending and is_held(files.supervisor_lock) else {}
    if waits_for:
        state = "queued"
    return {
        **job,
        "last": last,
        "loss_before": losses[-2] if len(losses) > 1 else None,
        "pace": night.pace(rows, begun_at),
        "begun_at": begun_at,
        "phase": _phase(rows, begun_at),
        "step": step,
        "state": state,
        "exit": ending or job.get("exit") or {},
        # The row's is when it was asked for; it may have waited for hours.
        "started_at": _started_at(files, damaged) or job.get("started_at"),
        "waits_for": waits_for,
        "power": _power(files),
        "damaged": damaged,
    }


def _object(path: Path, damaged: list[str]) -> View:
    """Return the object in a file; empty where there is none, or where it is damaged, which is said."""
    try:
        return read_object(path)
    except DamagedFileError as error:
        damaged.append(error.sentence)
        return {}


def _compare(files: JobPaths, job: View, damaged: list[str]) -> None:
    """Hold the files of a job that has ended against the record, which has all of them that is ever shown."""
    known = job["exit"] or {}
    ending = _object(files.exit, damaged)
    # Its keys may be those of an older version, or of a later one.
    if any(known.get(key, value) != value for key, value in ending.items()):
        damaged.append(DamagedFileError(files.exit, "it is not the end that is on record").sentence)
    if known.get("result_hash") and files.result.exists() and hash_file(files.result) != known["result_hash"]:
        damaged.append(DamagedFileError(files.result, "it is not what the job wrote").sentence)
    spec = _object(files.spec, damaged)
    if spec and (spec.get("key"), spec.get("kind")) != (job["key"], job["kind"]):
        damaged.append(DamagedFileError(files.spec, "it is another job than the one on record").sentence)
    _started_at(files, damaged)
    list(_tail(files, damaged))


def _started_at(files: JobPaths, damaged: list[str]) -> float | None:
    """Return when a job's worker was first started, Unix seconds."""
    try:
        return read_tally(files).started_at
    except DamagedFileError as error:
        damaged.append(error.sentence)
        return None


def _exit(files: JobPaths, damaged: list[str]) -> View:
    """Return the end of a job that is not yet copied into its row, empty where there is none."""
    if not files.exit.exists():
        return {}
    # Late: a campaign at rest has none, and pays for no models.
    from tools.jobs.spec import ExitRecord, read_record

    try:
        found = read_record(files.exit, ExitRecord)
    except DamagedFileError as error:
        damaged.append(error.sentence)
        found = None
    return found.model_dump(mode="json", exclude_unset=True) if found is not None else {}


def _waiting(files: JobPaths, damaged: list[str]) -> View:
    """Return for whom a job waits, empty where it does not."""
    found = _object(files.waiting, damaged)
    ahead = found.get("ahead") or []
    is_whole = isinstance(ahead, list) and all(isinstance(each, dict) for each in ahead)
    if is_whole and isinstance(found.get("since"), int | float | None):
        return found
    damaged.append(DamagedFileError(files.waiting, "nobody is named in it").sentence)
    return {}


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


def _begun_at(files: JobPaths, damaged: list[str]) -> float | None:
    """Return when the worker that works now was started, Unix seconds."""
    found = _object(files.worker, damaged).get("create_time")
    if not _is_figure(found or 0):
        damaged.append(DamagedFileError(files.worker, "its create_time is no number").sentence)
        return None
    return float(found) if found else None


def _is_figure(value: object) -> bool:
    """Say whether a value is a number that can be shown; NaN and infinities are."""
    return isinstance(value, float) or (type(value) is int and abs(value) < _MOST_FIGURE)


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
        merged |= {key: value for key, value in row.items() if _is_figure(value)}
    return merged


def _tail(files: JobPaths, damaged: list[str]) -> Iterator[View]:
    """Yield the last rows of metrics.jsonl, reading its end only; a torn last line is left out, another one is said."""
    try:
        with files.metrics.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _TAIL_BYTES))
            *lines, _torn = stream.read().split(b"\n")
    except FileNotFoundError:
        return
    lost = 0
    for line in lines[1:] if size > _TAIL_BYTES else lines:
        row = json_row(line)
        if row is None or type(row.get("step", 0)) is not int:
            lost += 1
        else:
            yield row
    # A row takes a few hundred bytes: not one whole line in all these is damage too.
    if lost or (size > _TAIL_BYTES and len(lines) < 2):  # noqa: PLR2004 - the first is cut
        damaged.append(DamagedFileError(files.metrics, f"{lost or 'all'} of its last lines are no rows").sentence)


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
