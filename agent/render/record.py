"""Everything the reading commands show, gathered into one plain dict: jobs and their pace, sleep, stops, questions."""

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.render import typed
from agent.render.words import clock, count, duration, number, shortened
from policies.drafts import leave_for
from state.errors import DamagedFileError
from state.files import json_row, read_json, read_object
from state.hashing import hash_file
from state.lease import holder
from state.paths import CampaignPaths, JobPaths
from state.reading import open_reader
from state.records import Approval, Request
from tools.jobs.locks import is_held
from tools.jobs.spec import read_start_counters

View = dict[str, Any]


def fraction(job: View) -> float | None:
    """Return a job's progress, [0, 1], None where its length is not known."""
    steps = job.get("steps") or 0
    return min(1.0, (job.get("step") or 0) / steps) if steps else None


_RECENT = 20
"""Reports whose pace counts: a machine that others use now was perhaps idle an hour ago."""

_PAUSE_S = 60.0
"""A longer time between two reports, and ten times the usual one, is sleep or a freeze and no work."""


def pace(rows: Iterable[View], begun_at: float | None) -> View:
    """Return the working time of recent steps, from the rows that a worker reported.

    Args:
        rows: The last rows of metrics.jsonl, oldest first, with `step` and `t` (Unix seconds).
        begun_at: When the worker that runs now was started; the time between it and the one before is no work.

    Returns:
        `step_s` (seconds per step), `report_s` (between two reports) and `at` (the last report), each None where
        nothing tells it.
    """
    marks: list[tuple[int, float]] = []
    spans: list[tuple[float, int]] = []
    for row in rows:
        step, at = row.get("step"), row.get("t")
        if not isinstance(step, int) or not isinstance(at, (int, float)):
            continue
        if "resumed_from" in row:
            # Steps from here on are this sitting's, or an earlier run's that is gone on from.
            marks.append((step, float(at)))
            begun_at = None
            continue
        last = marks[-1] if marks else None
        # A validation reports its step again: what it took belongs to the steps after it.
        if last is not None and step == last[0]:
            continue
        is_same_sitting = last is not None and not (begun_at is not None and last[1] < begun_at <= at)
        if last is not None and is_same_sitting and step > last[0] and at > last[1]:
            spans.append((at - last[1], step - last[0]))
        marks.append((step, float(at)))
    at_last = marks[-1][1] if marks else None
    if not spans and len(marks) == 1 and begun_at is not None and marks[0][0] > 0 and begun_at < marks[0][1]:
        # With the time it took to load: too long rather than no word at all.
        spans = [(marks[0][1] - begun_at, marks[0][0])]
    recent = spans[-_RECENT:]
    if not recent:
        return {"step_s": None, "report_s": None, "at": at_last}
    usual = sorted(seconds / steps for seconds, steps in recent)[len(recent) // 2]
    kept = [each for each in recent if each[0] <= max(_PAUSE_S, 10 * usual * each[1])]
    seconds, steps = (sum(column) for column in zip(*(kept or recent), strict=True))
    return {"step_s": seconds / steps, "report_s": seconds / len(kept or recent), "at": at_last}


def eta_s(job: View, now: float) -> float | None:
    """Return the seconds that a job still works, at the pace of its recent steps."""
    found = job.get("pace") or {}
    if fraction(job) is None or found.get("step_s") is None:
        return None
    # It goes on between two reports, and no further than to the next one until that one is there.
    since = min(max(0.0, now - found["at"]), found["report_s"])
    left = int(job["steps"]) - int(job.get("step") or 0)
    return float(max(0.0, left * found["step_s"] - since))


_DOING = {
    "training": "Training",
    "evaluation": "Evaluating",
    "census": "Checking tokens and grader",
    "fuse": "Fusing",
    "notice": "Notifying",
    "pace": "Trying out a few steps",
}
_SIDES = {"base": "the base", "parent": "the parent"}


def subject(job: View) -> str:
    """Return what a job does, as a person would say it: `Evaluating R2 on the confirmation cases`."""
    about = job.get("about") or {}
    whom = job.get("run") or _SIDES.get(str(about.get("side") or ""), "")
    on = f" on the {about['use']} cases" if job["kind"] == "evaluation" and about.get("use") else ""
    return f"{_DOING.get(job['kind'], job['kind'])} {whom}".strip() + on


def parts(job: View, now: float) -> list[tuple[int, str]]:
    """Return what there is to say of a job at work: in the order to say it, each with its rank; 0 is never left out."""
    if job.get("waits_for"):
        return [(0, f"{subject(job)}: queued, {waits(job['waits_for'])}")]
    noun = {"evaluation": "answer", "census": "case"}.get(job["kind"], "step")
    done, left, last = fraction(job), eta_s(job, now), job.get("last") or {}
    step = int(job.get("step") or 0)
    if done is not None and step:
        found = [(0, f"{subject(job)}: {noun} {step:,} of {job['steps']:,}"), (4, f"{100 * done:.0f} %")]
    elif step:
        found = [(0, f"{subject(job)}: {count(step, noun)} done")]
    else:
        found = [(0, f"{subject(job)}: {_STATES.get(job['state']) or job.get('phase') or 'loading'}")]
    if step and job.get("phase"):
        # Taken up again: it does not go on from there yet.
        found.append((1, job["phase"]))
    if job["state"] == "orphaned":
        found.append((3, "its supervisor is gone"))
    if left is not None and step:
        found.append((1, f"about {duration(max(1.0, left))} left" if step < job["steps"] else "finishing"))
    elif (begun := job.get("begun_at") or job.get("started_at")) is not None:
        # Of this sitting: what lay between it and the one before was no work.
        found.append((1, f"{duration(now - float(begun))} so far"))
    if last.get("train_loss") is not None:
        found.append((2, f"loss {number(last['train_loss'])}{_direction(job)}"))
    if last.get("tokens_per_s") is not None:
        found.append((3, f"{float(last['tokens_per_s']):,.0f} tokens/s"))
    if last.get("val_loss") is not None:
        found.append((5, f"validation loss {number(last['val_loss'])}"))
    if unplugged := _unplugged(job.get("power") or {}):
        found.append((2, unplugged))
    return found


_STATES = {"queued": "queued", "starting": "starting"}


def _direction(job: View) -> str:
    now, was = (job.get("last") or {}).get("train_loss"), job.get("loss_before")
    return "" if now is None or was is None or now == was else (" ↓" if now < was else " ↑")


def line(job: View, now: float, width: int) -> str:
    """Return a job at work in one line of at most `width` columns; what matters least is left out first."""
    found = parts(job, now)
    while len(text := ", ".join(words for _, words in found)) > width and any(rank for rank, _ in found):
        found.remove(max(found))
    return shortened(text, width)


def progress(job: View, now: float) -> str:
    """Return a job at work as a sentence."""
    return ", ".join(words for _, words in parts(job, now)) + "."


def outcome(job: View) -> str:
    """Return how a job went, once it has ended."""
    ending, last = job.get("exit") or {}, job.get("last") or {}
    took = f" in {duration(ending['wall_s'])}" if ending.get("wall_s") is not None else ""
    done = fraction(job)
    noun = "answers" if job["kind"] == "evaluation" else "steps"
    far = f"{job['step']:,} of {job['steps']:,} {noun}" if done is not None else "done"
    losses = "".join(
        f", {label} {number(last[key])}"
        for key, label in (("train_loss", "loss"), ("val_loss", "validation loss"))
        if last.get(key) is not None
    )
    how = "" if ending.get("state") == "finished" else f"; {ending.get('state') or 'it ended'}"
    why = f": {ending['reason'].rstrip('.')}" if how and ending.get("reason") else ""
    return f"{subject(job)}: {far}{took}{losses}{how}{why}."


def _unplugged(power: View) -> str:
    if power.get("source") != "battery":
        return ""
    percent = power.get("battery_percent")
    return "on battery" if percent is None else f"on battery at {percent:.0f} %"


def waits(waits_for: View) -> str:
    """Return for whom a job waits, the one that has the accelerator first."""
    first, *others = waits_for.get("ahead") or [{}]
    holder = f"{first.get('kind') or 'a job'} of {first.get('campaign') or 'an unknown campaign'}"
    behind = f" and {count(len(others), 'job')} before it" if others else ""
    return f"{holder} has the accelerator{behind}; since {clock(waits_for.get('since'))[-5:]}"


def saved_s(job: View) -> float:
    """Return the seconds a job did not spend because it was stopped, at its own pace."""
    done = fraction(job)
    wall = float((job.get("exit") or {}).get("wall_s") or 0.0)
    return wall * (1 - done) / done if done else 0.0


def stopped(view: View) -> list[str]:
    """Return a sentence for each thing that was stopped before its end, newest first."""
    sentences = []
    for decision in reversed(view.get("decisions") or []):
        if decision["action"] == "halt":
            saved = decision["action_inputs"].get("saved_s")
            spared = f"; about {duration(saved)} of training were not spent" if saved else "; nothing was trained"
            sentences.append(f"The campaign, by hard stop ({decision['rule']}, {decision['id']}){spared}.")
            break
    for job in reversed(view.get("jobs") or []):
        ending = job.get("exit") or {}
        if ending.get("state") == "stopped" or ending.get("verdict"):
            why = ending.get("verdict") or ending.get("reason") or "no reason was left"
            sentences.append(
                f"{job['run'] or job['kind']} at step {job['step']} of {job['steps']} by"
                f" {ending.get('by') or 'unknown'}: {why.rstrip('.')}; about {duration(saved_s(job))} saved."
            )
    return sentences


def figures(view: View) -> View:
    """Return the night's numbers: seconds by what they were, peak memory, swap and temperature, restarts, agent starts.

    `held_back_s` are seconds under thermal pressure or a bounded clock, `freed_gb` what a retention rule deleted.
    """
    exits = [job.get("exit") or {} for job in view.get("jobs") or []]

    def total(key: str) -> float:
        return sum(float(row.get(key) or 0.0) for row in exits)

    def peak(key: str) -> float:
        return max((float(row.get(key) or 0.0) for row in exits), default=0.0)

    return {
        "jobs": len(exits),
        "failed": sum(row.get("state") == "failed" for row in exits),
        "worked_s": total("wall_s"),
        "slept_s": total("slept_s"),
        "frozen_s": total("frozen_s"),
        "on_battery_s": total("on_battery_s"),
        "lid_closed_s": total("lid_closed_s"),
        "held_back_s": total("held_back_s"),
        "hottest_c": peak("hottest_c"),
        "kept_awake": all(row.get("kept_awake_by") for row in exits if "kept_awake_by" in row),
        "peak_rss_gb": peak("peak_rss_gb"),
        "peak_swap_gb": peak("peak_swap_gb"),
        "restarts": sum(int(job.get("restarts") or 0) for job in view.get("jobs") or []),
        "freed_gb": sum(a["result"].get("freed_bytes", 0) for a in view.get("actions") or []) / 1e9,
        "agent_starts": int(view["campaign"].get("agent_starts") or 0),
    }


def format_night(view: View) -> str:
    """Return the night as one sentence."""
    row = figures(view)
    slept = f"slept {duration(row['slept_s'])}" if row["slept_s"] >= 1 else "no sleep"
    slept += "" if row["slept_s"] < 1 or row["kept_awake"] else " (nothing kept it awake)"
    frozen = f", frozen {duration(row['frozen_s'])}" if row["frozen_s"] >= 1 else ""
    seen = {"on_battery_s": "on battery", "lid_closed_s": "lid closed", "held_back_s": "held back"}
    seen_s = "".join(f", {duration(row[key])} {words}" for key, words in seen.items() if row[key] >= 1)
    # Swap is the whole machine's: a Mac keeps some in use, so the figure is told and not judged here.
    swap = f"the machine's swap at most {number(row['peak_swap_gb'], 1)} GB" if row["peak_swap_gb"] else "no swap"
    failed = f", {row['failed']} failed" if row["failed"] else ""
    freed = f" {row['freed_gb']:.3g} GB of saves were deleted by retention." if row["freed_gb"] else ""
    return (
        f"{count(row['jobs'], 'job')}{failed}, {duration(row['worked_s'])} of work; {slept}{frozen}{seen_s}; "
        f"peak memory {number(row['peak_rss_gb'], 2)} GB, {swap}; {count(row['restarts'], 'restart')} of jobs, "
        f"{count(row['agent_starts'], 'start')} of the agent.{freed}"
    )


_TAIL_BYTES = 16_384
_MOST_FIGURE = 1e18
"""No count of ours is larger; what is could not be told as a fraction."""
ALIVE = frozenset({"queued", "starting", "running", "orphaned"})
"""States of a job at work."""


def gather(paths: CampaignPaths, *, file: str = "", with_cases: bool = False, with_beliefs: bool = True) -> View:
    """Return the campaign as plain values.

    Args:
        paths: The campaign's files.
        file: Path of its YAML file, to be named in advice, where it is known.
        with_cases: Also every measured case, which may be thousands.
        with_beliefs: Also the beliefs, which may be a hundred thousand.

    Returns:
        `campaign`, `goal` (newest version), `goals`, `beliefs` (not the superseded ones), `decisions`, `runs`, `jobs`
        (each with `about`, whose answers to which cases it makes, `last`, its last metrics row, `loss_before`, `pace`
        of its recent steps, `waits_for` while others have the accelerator, `power`, `machine`: memory, swap and heat
        now), `approvals`
        (an open one with `unapplied`, the first answer that waits for the holder, or None),
        `leaves` (what is answered beforehand), `commitments`, `actions`, `measurements` (when asked for), `holder`
        (None when no agent runs), `promoted` (folder), `model` (folder that the promoted adapter belongs on), `root`,
        `now`, `damaged` (a sentence for each file beside the record that is not as it was written) and what printed
        commands need (typed.py).

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
            "beliefs": reader.beliefs_about() if with_beliefs else [],
            "decisions": reader.decisions(),
            "runs": reader.runs(),
            "actions": actions,
            "jobs": [with_folder(paths, _told(job, done.get(job["key"]))) for job in reader.jobs()],
            "approvals": _with_answers(reader.approvals(), requests := reader.requests()),
            "leaves": _leaves(requests, reader.approvals()),
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


def _leaves(requests: list[View], questions: list[View]) -> list[View]:
    """Return what a person answers beforehand, by kind of question, while it lasts."""
    given = [Request.model_validate(row) for row in requests if row["kind"] == "allow"]
    asked = [Approval.model_validate(row) for row in questions] if given else []
    found = ((kind, leave_for(kind, given, asked, time.time())) for kind in sorted({row.target for row in given}))
    return [{"kind": kind, **asdict(leave)} for kind, leave in found if leave is not None]


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
    if job["state"] not in ALIVE:
        _compare(files, job, damaged)
        return {**job, "last": {}, "damaged": damaged}
    rows, begun_at, beat = list(_tail(files, damaged)), _begun_at(files, damaged), _beat(files)
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
        "pace": pace(rows, begun_at),
        "begun_at": begun_at,
        "phase": _phase(rows, begun_at),
        "step": step,
        "state": state,
        "exit": ending or job.get("exit") or {},
        # The row's is when it was asked for; it may have waited for hours.
        "started_at": _started_at(files, damaged) or job.get("started_at"),
        "waits_for": waits_for,
        "power": power if isinstance(power := beat.get("power"), dict) else {},
        "machine": now if isinstance(now := beat.get("now"), dict) else {},
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
        return read_start_counters(files).started_at
    except DamagedFileError as error:
        damaged.append(error.sentence)
        return None


def _exit(files: JobPaths, damaged: list[str]) -> View:
    """Return the end of a job that is not yet copied into its row, empty where there is none."""
    if not files.exit.exists():
        return {}
    # Late: a campaign at rest has none, and pays for no models.
    from state.records import ExitRecord
    from tools.jobs.spec import read_record

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


def _beat(files: JobPaths) -> View:
    """Return what the supervisor saw last of power, memory and heat; empty where none is told."""
    try:
        seen = read_json(files.heartbeat)
    except ValueError:
        # Not synced, so a power cut may leave it empty.
        return {}
    return seen if isinstance(seen, dict) else {}


def about(inputs: View) -> View:
    """Return whose answers to which cases an action's job makes; empty where it makes none."""
    return {key: inputs[key] for key in ("side", "use") if inputs.get(key)}


def _begun_at(files: JobPaths, damaged: list[str]) -> float | None:
    """Return when the worker that works now was started, Unix seconds."""
    found = _object(files.worker, damaged).get("create_time")
    if not _is_moment(found or 0):
        damaged.append(DamagedFileError(files.worker, "its create_time is no number").sentence)
        return None
    return float(found) if found else None


def _is_figure(value: object) -> bool:
    """Say whether a value is a number that can be shown; NaN and infinities are."""
    return isinstance(value, float) or (type(value) is int and abs(value) < _MOST_FIGURE)


def _is_moment(value: object) -> bool:
    """Say whether a value is Unix seconds that a calendar has."""
    return _is_figure(value) and 0 <= float(value) < _LAST_MOMENT  # type: ignore[arg-type]  # it is a number


_LAST_MOMENT = 2.0**37
"""Unix seconds in the year 6325; NaN and infinities are not below it."""


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
        if row is None or type(row.get("step", 0)) is not int or not _is_moment(row.get("t", 0)):
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
