"""The terminal speaks: sentences that stay, and below them a few lines on what goes on now, written over.

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

from agent.reading import night
from agent.reading.words import WIDTH, columns, printable, wrapped

View = dict[str, Any]

EVERY_S = 60.0
"""Between two lines on the same job where nothing can be written over."""

_FIRST_S = 5.0
"""Before the first of them: of a shorter job its outcome says it all."""

_TOP = 3
"""Lines from the top that stay where not all fit on the screen."""

_ENDED = frozenset({"finished", "failed", "stopped"})


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
        found = [printable(line) for line in lines]
        if not self.is_live:
            self._write("".join(f"{line}\n" for line in found))
            return
        if is_loud and found:
            found[0] = f"\a\x1b[1m{found[0]}\x1b[0m"
        self._write(self._erased() + "".join(f"{line}\n" for line in found))

    def show(self, now: View | str | Iterable[str]) -> None:
        """Say what goes on now: a job as gathered (agent/reading/view.py), or words; once it has ended, how it went."""
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
        if job["state"] in _ENDED:
            if job["kind"] != "notice":
                self.say(night.outcome(job))
        elif self.is_live:
            self._region([night.line(job, self._wall(), columns() - 1)])
        elif at >= self._next_at and not job.get("waits_for"):
            # For whom a job waits has been said where the wait began.
            self._next_at = at + EVERY_S
            self.say(night.progress(job, self._wall()))

    def _region(self, lines: list[str]) -> None:
        """Write lines in place of those that stand there; a command that is wider than the terminal is never cut."""
        size = shutil.get_terminal_size((WIDTH, 24))
        fitting = [printable(line) for line in lines]
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
