"""Prompts that hold a table or a list: their rows, and what is odd about each.

A table is three or more lines with the same number of cells, separated by comma, tab, bar or semicolon; a list is three
or more lines with a bullet or a number before them. Odd is what differs from the column's majority. Prose is neither.
"""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Oddity = Literal["unit", "marker", "blank", "kind", "width", "duplicate", "annotation", "separator"]
"""unit: an amount with a unit where most are plain, or inside words; marker: `n/a`, `?`, …; blank: an empty cell where
most are filled; kind: words where most cells are numbers; width: a cell too many or too few; duplicate: equal to an
earlier row; annotation: a line among the rows that is none; separator: a line without letters and digits."""

_LINE_END = re.compile(r"\r\n|\r|\n")
_DELIMITERS = (",", "\t", "|", ";")
_BULLET = re.compile(r"\s*(?:[-*•+]|\d{1,4}[.)])\s+")
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"[-+]?\d[\d.,' ]*")
_AMOUNT = re.compile(r"[$€£¥]\s?\d|\d\s?(?:[$€£¥%]|[kmbKMB]n?\b)")
_MARKERS = frozenset(
    {"n/a", "na", "nan", "null", "none", "tbd", "tba", "?", "??", "-", "--", "unknown", "missing", "#n/a"}
)
_ODD_KINDS: dict[str, Oddity] = {"blank": "blank", "marker": "marker", "amount": "unit"}
"""Kind of cell -> oddity of a row that has one where the column's majority is another kind."""
_LEAST_ROWS = 3
_MOST_LINES = 2_000
_MOST_LINE_CHARS = 5_000
"""A longer line is no row of a table that someone reads."""


@dataclass(frozen=True)
class Row:
    """One line of a table or list."""

    cells: tuple[str, ...]
    """Without white space at the edges."""
    oddities: frozenset[Oddity]
    words: tuple[str, ...]
    """Letters and digits of the line in small letters."""

    @property
    def is_data(self) -> bool:
        """Whether the line is a row at all, first of its kind."""
        return not self.oddities & {"duplicate", "annotation", "separator"}


def lines_of(text: str) -> list[str]:
    """Return the lines with something in them, the first 2,000; none of a text with a line of over 5,000 characters."""
    lines = [line for line in _LINE_END.split(text) if line.strip()][:_MOST_LINES]
    return [] if any(len(line) > _MOST_LINE_CHARS for line in lines) else lines


def words_of(line: str) -> tuple[str, ...]:
    """Return the runs of letters and digits of a line in small letters."""
    return tuple(_WORD.findall(line.casefold()))


def rows_of(text: str) -> list[Row]:
    """Return the rows of the table or list in a text, without its header; nothing when there is none."""
    lines = lines_of(text)
    split = _cells_of_table(lines) or _cells_of_list(lines)
    if split is None:
        return []
    cells, width = split
    data = [row for row in cells if len(row) == width]
    if _is_header(data[0], data[1:]):
        data = data[1:]
        first = next(place for place, row in enumerate(cells) if len(row) == width)
        cells = cells[first + 1 :]
    columns = [Counter(map(_kind, column)).most_common(1)[0][0] for column in zip(*data, strict=True)]
    seen: set[tuple[str, ...]] = set()
    rows = []
    for row in cells:
        oddities = _line_oddities(row, width, seen) or _cell_oddities(row, columns)
        seen.add(row)
        rows.append(Row(row, oddities, words_of(" ".join(row))))
    return rows


def _cells_of_table(lines: Sequence[str]) -> tuple[list[tuple[str, ...]], int] | None:
    """Return the cells of the lines from the first row to the last, and how many cells a row has."""
    counts = {
        delimiter: max(Counter(line.count(delimiter) for line in lines if delimiter in line).values(), default=0)
        for delimiter in _DELIMITERS
    }
    delimiter = max(counts, key=counts.__getitem__)
    if counts[delimiter] < _LEAST_ROWS:
        return None
    cells = [_split(line, delimiter) for line in lines]
    # Quotes and outer bars can leave one cell of a line that holds delimiters.
    widths = Counter(len(row) for row in cells if len(row) > 1)
    width = max(widths, key=widths.__getitem__, default=0)
    places = [place for place, row in enumerate(cells) if len(row) == width]
    return (cells[places[0] : places[-1] + 1], width) if len(places) >= _LEAST_ROWS else None


def _cells_of_list(lines: Sequence[str]) -> tuple[list[tuple[str, ...]], int] | None:
    items: list[tuple[str, ...]] = [(line[match.end() :].strip(),) for line in lines if (match := _BULLET.match(line))]
    return (items, 1) if len(items) >= _LEAST_ROWS else None


def _split(line: str, delimiter: str) -> tuple[str, ...]:
    cells = next(csv.reader([line], delimiter=delimiter)) if '"' in line else line.split(delimiter)
    if delimiter == "|" and len(cells) > 2 and not cells[0].strip() and not cells[-1].strip():  # noqa: PLR2004 - two edges
        cells = cells[1:-1]
    return tuple(cell.strip() for cell in cells)


def _is_header(first: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> bool:
    return not any(_has_digit(cell) for cell in first) and any(_has_digit(cell) for row in others for cell in row)


def _has_digit(text: str) -> bool:
    return any(map(str.isdigit, text))


def _kind(cell: str) -> str:
    if not cell:
        return "blank"
    if cell.casefold() in _MARKERS:
        return "marker"
    if _NUMBER.fullmatch(cell):
        return "number"
    return "amount" if _AMOUNT.search(cell) else "words"


def _line_oddities(row: tuple[str, ...], width: int, seen: set[tuple[str, ...]]) -> frozenset[Oddity]:
    if not any(map(str.isalnum, "".join(row))):
        return frozenset({"separator"})
    if abs(len(row) - width) > 1 or (len(row) != width and len(row) == 1):
        return frozenset({"annotation"})
    if row in seen:
        return frozenset({"duplicate"})
    return frozenset({"width"}) if len(row) != width else frozenset()


def _cell_oddities(row: tuple[str, ...], columns: Sequence[str]) -> frozenset[Oddity]:
    found: set[Oddity] = set()
    for cell, usual in zip(row, columns, strict=True):
        kind = _kind(cell)
        if kind != usual and kind in _ODD_KINDS:
            found.add(_ODD_KINDS[kind])
        elif kind == "words" and usual == "number":
            found.add("kind")
    return frozenset(found)
