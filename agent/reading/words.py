"""Numbers and times as people say them, and text that fits a terminal. Standard library only."""

import textwrap
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

WIDTH = 100
"""Columns of a line that any terminal shows whole."""


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
    """Return one line of at most `limit` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def block(label: str, text: str, indent: int = 10, lines: int = 3) -> list[str]:
    """Return a labelled paragraph of at most `lines` lines of `WIDTH` columns."""
    wrapped = textwrap.wrap(" ".join(text.split()), WIDTH - indent, break_on_hyphens=False) or [""]
    if len(wrapped) > lines:
        wrapped = wrapped[:lines]
        # Cut after a whole word, unless one word fills the line.
        wrapped[-1] = textwrap.shorten(wrapped[-1], WIDTH - indent - 2, placeholder="", break_on_hyphens=False) + " …"
    heads = [label.ljust(indent)] + [" " * indent] * (len(wrapped) - 1)
    return [(head + line).rstrip() for head, line in zip(heads, wrapped, strict=True)]


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], last_width: int = 60) -> list[str]:
    """Return aligned lines; the last column is cut, the others are as wide as their widest entry."""
    cells = [[str(cell) for cell in row[:-1]] + [shortened(str(row[-1]), last_width)] for row in rows]
    widths = [max(len(row[i]) for row in [list(headers), *cells]) for i in range(len(headers))]
    lines = [list(headers), *cells]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in lines]
