"""Numbers and times as people say them, and text that fits a terminal."""

import math
import shutil
import textwrap
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from state.text import shown

WIDTH = 100
"""Columns of the widest line: longer ones are hard to read."""

_NARROW = 40
"""A window that is narrower shows wrapped lines, rather than one word on each."""


def columns() -> int:
    """Return how wide a line may be: the terminal's width (or COLUMNS), at most and by default `WIDTH`."""
    return min(WIDTH, max(_NARROW, shutil.get_terminal_size((WIDTH, 24)).columns))


def finalized(value: object) -> object:
    """Return what a page's template prints: markup of our own as it is, every plain text as `shown`."""
    return shown(value) if type(value) is str else value


def number(value: Any, digits: int = 3) -> str:
    """Return a figure with as many decimals as mean something; `not measured` for None."""
    if value is None:
        return "not measured"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def signed(value: float, digits: int = 3) -> str:
    """Return a difference with its sign."""
    return f"{value:+.{digits}f}"


def near(path: str, here: str | None) -> str:
    """Return a path as typed in the folder `here`: relative where it lies below it."""
    return str(Path(path).relative_to(here)) if here and Path(path).is_relative_to(here) else path


def duration(seconds: float | None) -> str:
    """Return seconds as `45 s`, `3 min`, `2 h 10 min`."""
    if seconds is None:
        return "unknown time"
    seconds = max(0.0, float(seconds))
    if seconds < 90:  # noqa: PLR2004 - up to a minute and a half, seconds say more
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:  # noqa: PLR2004 - the same for minutes
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def clock(moment: float | None) -> str:
    """Return Unix seconds as local `2026-11-23 07:30`."""
    return "-" if moment is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def count(n: int, noun: str, plural: str = "") -> str:
    """Return `1 run`, `2 runs`."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def listed(items: Iterable[str], limit: int = 5) -> str:
    """Return the first items separated by commas, and how many more there are."""
    rows = list(items)
    more = f" and {len(rows) - limit} more" if len(rows) > limit else ""
    return ", ".join(rows[:limit]) + more


def shortened(text: str, limit: int) -> str:
    """Return one line of at most `limit` characters, cut after a whole word where the line begins with one."""
    line = " ".join(str(text).split())
    if len(line) <= limit:
        return line
    cut = line[: limit - 1]
    whole = cut if line[limit - 1] == " " else cut.rpartition(" ")[0] or cut
    return whole.rstrip() + "…"


def wrapped(text: str, width: int) -> list[str]:
    """Return a text as lines that end between two words; a word that is wider than a line stays whole."""
    return textwrap.wrap(" ".join(text.split()), width, break_long_words=False, break_on_hyphens=False) or [""]


INDENT = 12
"""Columns of a paragraph's label."""


def block(label: str, text: str, indent: int = INDENT, lines: int = 3) -> list[str]:
    """Return a labelled paragraph, wrapped at words.

    Args:
        label: Stands before the first line.
        text: What is said.
        indent: Columns of the label.
        lines: At most so many lines of `WIDTH` columns; more of narrower ones, so that no less is said.
    """
    width = columns() - indent
    found = wrapped(text, width)
    most = math.ceil(lines * (WIDTH - indent) / width)
    if len(found) > most:
        found = [*found[: most - 1], shortened(found[most - 1], width - 2).removesuffix("…") + " …"]
    heads = [label.ljust(indent)] + [" " * indent] * (len(found) - 1)
    return [(head + line).rstrip() for head, line in zip(heads, found, strict=True)]


_LEAST = 20
"""Columns of a table's last one, however narrow the terminal."""
_MOST_ROWS = 2
"""Lines of one entry in a table's last column."""


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], last_width: int = 60) -> list[str]:
    """Return aligned lines: the last column is wrapped at words, the others are as wide as their widest entry.

    Args:
        headers: Of the columns.
        rows: Their entries.
        last_width: Most columns of the last one, where the line has as many.
    """
    cells = [list(headers), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers) - 1)]
    left = sum(widths) + 2 * len(widths)
    last = max(_LEAST, min(last_width, columns() - left))
    lines = []
    for row in cells:
        told = wrapped(row[-1], last)
        if len(told) > _MOST_ROWS:
            told = [*told[: _MOST_ROWS - 1], shortened(" ".join(told[_MOST_ROWS - 1 :]), last)]
        first = "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=False))
        lines += [(first + told[0]).rstrip(), *(" " * left + each for each in told[1:])]
    return lines
