"""`vigil watch`: a campaign at work, live in a terminal, line by line elsewhere. It only looks."""

import sys
import time
from typing import Any

import click

from agent.reading import night
from agent.reading.view import gather
from agent.reading.words import clock, count, duration, number, shortened
from state.paths import CampaignPaths

View = dict[str, Any]

_ALIVE = frozenset({"starting", "running", "orphaned"})
_ENDED = frozenset({"promoted", "not_promoted", "halted", "stopped", "failed"})


def watch_campaign(paths: CampaignPaths, *, every_s: float = 1.0, once: bool = False) -> None:
    """Show progress until the campaign ends or nobody runs it.

    Args:
        paths: The campaign's files.
        every_s: Seconds between looks.
        once: Print one line and return.
    """
    if once or not sys.stdout.isatty():
        _lines(paths, every_s, once=once)
    else:
        _live(paths, every_s)


def is_over(view: View) -> bool:
    """Say whether there is nothing to look at any more."""
    running = any(_is_alive(job) for job in view["jobs"])
    return view["campaign"]["state"] in _ENDED or (view["holder"] is None and not running)


def line(view: View) -> str:
    """Return the campaign's position and its running job in one line."""
    job = current(view)
    at = night.progress(job, view["now"]) if job else shortened(_last_sentence(view), 90)
    return f"{clock(view['now'])[-5:]}  {position(view)}; {at}"


def current(view: View) -> View | None:
    """Return the job that is running or waits for its turn, if any."""
    return next((job for job in reversed(view["jobs"]) if _is_alive(job)), None)


def _is_alive(job: View) -> bool:
    return job["state"] in _ALIVE or bool(job.get("waits_for"))


def position(view: View) -> str:
    """Return where the campaign is: state, runs so far and at most, questions, hours."""
    campaign, goal = view["campaign"], view["goal"]
    budget = (goal["spec"].get("budget") or {}) if goal else {}
    most = f" of at most {budget['runs']}" if budget.get("runs") else ""
    asked = sum(row["answer"] is None for row in view["approvals"])
    questions = f", {count(asked, 'question')} waiting" if asked else ""
    spent = duration((campaign.get("ended_at") or view["now"]) - (campaign.get("started_at") or view["now"]))
    return f"{campaign['name']} {campaign['state']}, run {len(view['runs'])}{most}{questions}, {spent}"


def _last_sentence(view: View) -> str:
    return str(view["decisions"][-1]["sentence"] if view["decisions"] else "nothing was decided yet")


def _lines(paths: CampaignPaths, every_s: float, *, once: bool) -> None:
    """Print a line whenever something moved."""
    seen: tuple[Any, ...] = ()
    while True:
        view = gather(paths)
        job = current(view)
        mark = (view["campaign"]["state"], len(view["decisions"]), job and job["id"], job and job["step"])
        if mark != seen:
            click.echo(line(view))
            seen = mark
        if once or is_over(view):
            return
        time.sleep(every_s)


def _live(paths: CampaignPaths, every_s: float) -> None:
    """Keep a small panel up to date; the last one stays on the screen."""
    from rich.live import Live

    before: View = {}
    with Live(auto_refresh=False) as live:
        while True:
            view = gather(paths)
            live.update(_panel(view, before), refresh=True)
            if is_over(view):
                return
            job = current(view)
            if job and job.get("last", {}).get("step") != before.get("step"):
                before = dict(job.get("last") or {})
            time.sleep(every_s)


def _panel(view: View, before: View) -> Any:
    from rich.console import Group
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    job = current(view)
    rows: list[Any] = []
    if job is not None:
        done = night.fraction(job)
        if done is not None:
            rows.append(ProgressBar(total=1.0, completed=done, width=60))
        rows.append(Text(night.progress(job, view["now"])))
        rows.append(Text(_gauges(job, before)))
    rows.append(Text(f"Last decision: {_last_sentence(view)}"))
    rows += [Text(f"{row['id']} waits: {row['question']}") for row in view["approvals"] if row["answer"] is None]
    return Panel(Group(*rows), title=Text(position(view)), title_align="left")


def _gauges(job: View, before: View) -> str:
    """Return the job's figures with the direction of its loss."""
    last = job.get("last") or {}
    loss, was = last.get("train_loss"), before.get("train_loss")
    arrow = "" if loss is None or was is None or loss == was else (" ↓" if loss < was else " ↑")
    parts = [f"loss {number(loss)}{arrow}"] if loss is not None else []
    for key, unit, digits in (
        ("learning_rate", "learning rate", 7),
        ("iterations_per_second", "it/s", 2),
        ("trained_tokens", "tokens", 0),
        ("peak_memory_gb", "GB peak memory", 2),
    ):
        if last.get(key) is not None:
            parts.append(f"{number(last[key], digits)} {unit}")
    if job.get("restarts"):
        parts.append(f"restarted {job['restarts']} times")
    return ", ".join(parts)
