"""What happened to the machine and the jobs: progress, stops with the time they saved, sleep, memory, restarts."""

from collections.abc import Iterable
from typing import Any

from agent.reading.words import clock, count, duration, number, shortened

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
