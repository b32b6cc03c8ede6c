"""`vigil watch` and the live lines of `vigil run`: sentences that stay, and below them what goes on now.

On a terminal the lines are kept up to date in place, by plain ANSI, and everything is wrapped at words to its width.
Anywhere else each sentence is one line, and a job at work says where it is when it begins and once a minute.
"""

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from agent.render import record, typed
from agent.render.record import gather
from agent.render.words import WIDTH, block, clock, columns, count, duration, number, shortened, wrapped
from state.errors import CorruptError
from state.paths import CampaignPaths
from state.records import CAMPAIGN_ENDED, JOB_ENDED
from state.text import one_line

View = dict[str, Any]

EVERY_S = 60.0
"""Between two lines on the same job where nothing can be written over."""

_FIRST_S = 5.0
"""Before the first of them: of a shorter job its outcome says it all."""

_TOP = 3
"""Lines from the top that stay where not all fit on the screen."""


class Terminal:
    """Standard output, as whoever sits before it reads it.

    Args:
        write: Prints a text and flushes.
        is_live: Whether lines can be written over.
        now: Seconds that only go forward.
        wall: Unix seconds.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        *,
        is_live: bool | None = None,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._write = write
        self.is_live = can_be_written_over(sys.stdout) if is_live is None else is_live
        self._now = now
        self._wall = wall
        self._shown = 0
        self._text = ""
        self._job_key = ""
        self._next_at = 0.0

    def say(self, sentence: str) -> None:
        """Print a sentence that stays."""
        # Whoever reads a file has no width, and finds a sentence by its words.
        self.print(wrapped(sentence, columns()) if self.is_live else [" ".join(sentence.split())])

    def print(self, lines: Iterable[str], *, is_loud: bool = False) -> None:
        """Print lines that stay, as they are laid out; the first of loud ones stands out and rings."""
        found = [one_line(line) for line in lines]
        if not self.is_live:
            self._write("".join(f"{line}\n" for line in found))
            return
        if is_loud and found:
            found[0] = f"\a\x1b[1m{found[0]}\x1b[0m"
        self._write(self._erased() + "".join(f"{line}\n" for line in found))

    def show(self, now: View | str | Iterable[str]) -> None:
        """Say what goes on now: a job as gathered (record.py), or words; once it has ended, how it went."""
        if isinstance(now, dict):
            self._job(now)
        elif self.is_live:
            self._region([now] if isinstance(now, str) else list(now))

    def close(self) -> None:
        """Take the lines away that were written over."""
        if self._shown:
            self._write(self._erased())

    def _job(self, job: View) -> None:
        at = self._now()
        if job["key"] != self._job_key:
            self._job_key, self._next_at = str(job["key"]), at + _FIRST_S
        if job["state"] in JOB_ENDED:
            if job["kind"] != "notice":
                self.say(record.outcome(job))
        elif self.is_live:
            self._region([record.line(job, self._wall(), columns() - 1)])
        elif at >= self._next_at and not job.get("waits_for"):
            # For whom a job waits has been said where the wait began.
            self._next_at = at + EVERY_S
            self.say(record.progress(job, self._wall()))

    def _region(self, lines: list[str]) -> None:
        """Write lines in place of those that stand there; a command that is wider than the terminal is never cut."""
        size = shutil.get_terminal_size((WIDTH, 24))
        fitting = [one_line(line) for line in lines]
        rows = [max(1, math.ceil(len(line) / size.columns)) for line in fitting]
        # What has left the screen cannot be written over: the middle gives way, between what goes on and what to type.
        while len(rows) > 1 and sum(rows) >= size.lines:
            place = min(_TOP, len(rows) - 1)
            del fitting[place], rows[place]
        text = "\n".join(fitting)
        if self._shown and text == self._text:
            return
        self._write(f"{self._erased()}{text}")
        self._shown, self._text = sum(rows), text

    def _erased(self) -> str:
        """Return what takes the written lines away and goes to where they began."""
        up = f"\x1b[{self._shown - 1}A" if self._shown > 1 else ""
        erased = f"\r{up}\x1b[J" if self._shown else ""
        self._shown = 0
        return erased


def can_be_written_over(stream: TextIO) -> bool:
    """Say whether a stream is a terminal that understands ANSI."""
    return stream.isatty() and os.environ.get("TERM", "") not in {"", "dumb"}


_ALIVE = frozenset({"starting", "running", "orphaned"})


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
    return view["campaign"]["state"] in CAMPAIGN_ENDED or (view["holder"] is None and not running)


def line(view: View) -> str:
    """Return the campaign's position and its running job in one line."""
    job = current(view)
    at = record.progress(job, view["now"]) if job else shortened(_last_sentence(view), 90)
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
        done = record.fraction(job)
        lines += [_bar(done, min(width, 60))] if done is not None else []
        lines += wrapped(record.progress(job, view["now"]), width)
        lines += wrapped(gauges(job), width) if gauges(job) else []
    lines += block("", f"Last decision: {_last_sentence(view)}", indent=0, lines=3)
    for row in view["approvals"]:
        if row["answer"] is None:
            lines += typed.question(view, row)
    return lines


def _bar(done: float, width: int) -> str:
    full = round(done * (width - 7))
    return f"{'━' * full}{'╌' * (width - 7 - full)} {100 * done:4.0f} %"


def gauges(job: View) -> str:
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
    parts += _of_machine(job.get("machine") or {}, job.get("power") or {})
    parts += [f"restarted {count(job['restarts'], 'time')}"] if job.get("restarts") else []
    return ", ".join(parts)


def _of_machine(now: View, power: View) -> list[str]:
    """Return memory, swap, heat and power as they were seen last; what the system does not tell is left out."""
    known = {key: value for key, value in now.items() if isinstance(value, int | float)}
    parts = [f"{number(float(known['rss_gb']), 2)} GB in memory now"] if "rss_gb" in known else []
    parts += [f"machine's swap {number(float(known['swap_gb']), 1)} GB"] if "swap_gb" in known else []
    parts += [f"{known['hot_c']:.0f} °C"] if "hot_c" in known else []
    parts += [f"thermal pressure {known['thermal_pressure']:.0f} of 4"] if known.get("thermal_pressure") else []
    return [*parts, "on mains"] if power.get("source") == "mains" else parts
