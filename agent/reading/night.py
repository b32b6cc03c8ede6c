"""What happened to the machine and the jobs: progress, stops with the time they saved, sleep, memory, restarts."""

from typing import Any

from agent.reading.words import clock, count, duration, number

View = dict[str, Any]


def fraction(job: View) -> float | None:
    """Return a job's progress, [0, 1], None where its length is not known."""
    steps = job.get("steps") or 0
    return min(1.0, (job.get("step") or 0) / steps) if steps else None


def eta_s(job: View, now: float) -> float | None:
    """Return the seconds a running job still needs if it goes on at its mean pace."""
    done, started = fraction(job), job.get("started_at")
    if not done or started is None:
        return None
    return max(0.0, (now - float(started)) * (1 - done) / done)


def progress(job: View, now: float) -> str:
    """Return a running job as a sentence."""
    done, left = fraction(job), eta_s(job, now)
    name = f"{job['kind']} {job['run']}".strip()
    if job.get("waits_for"):
        return f"{name} ({job['id']}), queued: {waits(job['waits_for'])}."
    text = f"{name} ({job['id']}), {job['state']}"
    if done is not None:
        text += f", step {job['step']} of {job['steps']} ({100 * done:.0f} %)"
    if left is not None:
        text += f", about {duration(left)} left"
    last = job.get("last") or {}
    for key, label in (("train_loss", "train loss"), ("val_loss", "validation loss"), ("tokens_per_s", "tokens/s")):
        if last.get(key) is not None:
            text += f", {label} {number(last[key], 0 if key == 'tokens_per_s' else 3)}"
    return f"{text}{_unplugged(job.get('power') or {})}."


def _unplugged(power: View) -> str:
    if power.get("source") != "battery":
        return ""
    percent = power.get("battery_percent")
    return ", on battery" if percent is None else f", on battery at {percent:.0f} %"


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


def told(view: View) -> str:
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
