"""`vigil watch`: a campaign at work, live in a terminal, line by line elsewhere. It only looks."""

import time
from typing import Any

from agent.reading import night, typed
from agent.reading.view import gather
from agent.reading.words import block, clock, columns, count, duration, number, shortened, wrapped
from agent.terminal import EVERY_S, Terminal
from state.errors import CorruptError
from state.paths import CampaignPaths

View = dict[str, Any]

_ALIVE = frozenset({"starting", "running", "orphaned"})
_ENDED = frozenset({"promoted", "not_promoted", "halted", "stopped", "failed"})


def watch_campaign(paths: CampaignPaths, terminal: Terminal, *, every_s: float = 1.0, once: bool = False) -> None:
    """Show progress until the campaign ends or nobody runs it.

    Args:
        paths: The campaign's files.
        terminal: Where; without one that can be written over, a line is printed whenever another thing begins,
            and once a minute.
        every_s: Seconds between looks.
        once: Print one line and return.

    Raises:
        CorruptError: A file beside the record is damaged; said after the last look.
    """
    seen: tuple[Any, ...] = ()
    next_at = 0.0
    while True:
        view = gather(paths)
        job = current(view)
        mark = (view["campaign"]["state"], len(view["decisions"]), job and job["id"], job and job["state"])
        is_last = once or is_over(view)
        if terminal.is_live and not once:
            panel = _panel(view, columns() - 1)
            # The last one stays on the screen.
            terminal.print(panel) if is_last else terminal.show(panel)
        elif mark != seen or (job is not None and view["now"] >= next_at):
            terminal.print([line(view)])
            seen, next_at = mark, view["now"] + EVERY_S
        if is_last:
            if view["damaged"]:
                raise CorruptError(" ".join(view["damaged"]))
            return
        time.sleep(every_s)


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


def _panel(view: View, width: int) -> list[str]:
    """Return what a terminal shows of a campaign at work, each line at most `width` columns wide."""
    job = current(view)
    lines = wrapped(position(view), width)
    if job is not None:
        done = night.fraction(job)
        lines += [_bar(done, min(width, 60))] if done is not None else []
        lines += wrapped(night.progress(job, view["now"]), width)
        lines += wrapped(_gauges(job), width) if _gauges(job) else []
    lines += block("", f"Last decision: {_last_sentence(view)}", indent=0, lines=3)
    for row in view["approvals"]:
        if row["answer"] is None:
            lines += typed.question(view, row)
    return lines


def _bar(done: float, width: int) -> str:
    full = round(done * (width - 7))
    return f"{'━' * full}{'╌' * (width - 7 - full)} {100 * done:4.0f} %"


def _gauges(job: View) -> str:
    """Return the figures of a job that its progress does not tell."""
    last = job.get("last") or {}
    parts = [
        f"{number(last[key], digits)} {unit}"
        for key, unit, digits in (
            ("learning_rate", "learning rate", 7),
            ("iterations_per_second", "it/s", 2),
            ("trained_tokens", "tokens", 0),
            ("peak_memory_gb", "GB peak memory", 2),
        )
        if last.get(key) is not None
    ]
    parts += [f"restarted {count(job['restarts'], 'time')}"] if job.get("restarts") else []
    return ", ".join(parts)
