"""The ways a table gets messy: four seeded noise kinds for regular tables and one mix for stress tables.

Every function changes the messy body in place and leaves the gold rows alone, except where the noise takes information
away for good (blank notes), which is said at the function. Shares and counts are the lab's (facts/lab.md 3.3).
"""

import random
from dataclasses import dataclass
from typing import Literal

COLUMNS = ("Quarter", "Revenue", "OpEx", "Headcount", "Notes")
"""Header of every gold table. Revenue and OpEx are in thousands of dollars."""

Difficulty = Literal["easy", "medium", "hard"]
"""How much noise a regular table carries."""

_ANNOTATIONS = ("# exported from ledger", "Note: figures unaudited", "Source: finance team", "# page 1 of 1")
_MARKERS = ("n/a", "TBD", "?", "see memo", "to check", "pending")
_REGIONS = ("North", "South", "East", "West")
_SEPARATOR = ["---"] * len(COLUMNS)
_QUARTERS_A_YEAR = 4

_M_SHARE = 0.35
_K_SHARE = 0.10
_BLANK_NOTE_SHARE = 0.20
_MARKER_SHARE = 0.15
_BLANK_HEADCOUNT_SHARE = 0.08


@dataclass
class Draft:
    """A table on its way from clean to messy."""

    gold: list[list[str]]
    """The rows a perfect answer holds, in order, without the header."""
    header: list[str]
    """Header of the messy table."""
    body: list[list[str]]
    """Lines of the messy table as cells; an empty list is a blank line."""


def draft_of(gold: list[list[str]]) -> Draft:
    """Return a draft whose messy side still equals the gold."""
    return Draft(gold=gold, header=list(COLUMNS), body=[list(row) for row in gold])


def in_millions(thousands: str) -> str:
    """Return an amount of thousands in the notation that must be converted: `1250` -> `$1.250 M`."""
    return f"${int(thousands) / 1000:.3f} M"


def hidden_in_notes(note: str, thousands: str) -> str:
    """Return a note with an amount in millions tucked into it: `promo` -> `promo $1.250M`."""
    return f"{note} ${int(thousands) / 1000:.3f}M".strip()


def _insert(rng: random.Random, body: list[list[str]], row: list[str], first: int = 0) -> None:
    body.insert(rng.randint(first, len(body)), row)


def _use_millions(row: list[str]) -> None:
    row[1], row[2] = in_millions(row[1]), in_millions(row[2])


def _use_thousands_suffix(row: list[str]) -> None:
    row[1], row[2] = f"${row[1]}K", f"${row[2]}K"


def _fabricated_row(rng: random.Random) -> list[str]:
    """Return a row that a reader can tell from a real one: a year far ahead, and its note says so."""
    quarter = f"{rng.randint(2031, 2039)}Q{rng.randint(1, _QUARTERS_A_YEAR)}"
    return [quarter, str(rng.randint(800, 4000)), str(rng.randint(500, 3000)), str(rng.randint(8, 60)), "projected"]


def add_preservation_noise(rng: random.Random, draft: Draft, difficulty: Difficulty) -> None:
    """Add blank lines, duplicated rows, and on hard tables an annotation and a fabricated row."""
    duplicates = {"easy": 0, "medium": 1, "hard": 2}[difficulty]
    for position in sorted(rng.sample(range(len(draft.gold)), min(duplicates, len(draft.gold))), reverse=True):
        _insert(rng, draft.body, list(draft.gold[position]), first=position + 1)
    if difficulty == "hard":
        _insert(rng, draft.body, [rng.choice(_ANNOTATIONS)])
        _insert(rng, draft.body, _fabricated_row(rng))
    most_blanks = {"easy": 2, "medium": 3, "hard": 4}[difficulty]
    for _ in range(rng.randint(1 if difficulty == "easy" else 2, most_blanks)):
        _insert(rng, draft.body, [])


def add_units_noise(rng: random.Random, draft: Draft, difficulty: Difficulty) -> None:
    """Write some rows in millions; on hard tables hide half of those amounts in Notes and use a K suffix elsewhere."""
    n_rows = len(draft.gold)
    least, part = {"easy": (1, 5), "medium": (2, 3), "hard": (3, 2)}[difficulty]
    chosen = rng.sample(range(n_rows), min(n_rows, max(least, n_rows // part)))
    hidden = set(chosen[: len(chosen) // 2]) if difficulty == "hard" else set()
    for position, row in enumerate(draft.body):
        if position in hidden:
            row[4] = hidden_in_notes(row[4], row[1])
        elif position in chosen:
            _use_millions(row)
        elif difficulty == "hard" and rng.random() < 0.15:  # noqa: PLR2004 - the lab's share
            _use_thousands_suffix(row)


def add_format_noise(rng: random.Random, draft: Draft, difficulty: Difficulty) -> None:
    """Add an annotation row always, padded cells on medium tables, wrong widths and a separator on hard ones.

    A row whose Notes cell was dropped loses its note in the gold as well: nothing in the prompt says what it was.
    """
    for row, gold_row in zip(draft.body, draft.gold, strict=True):
        if difficulty == "medium" and rng.random() < 0.30:  # noqa: PLR2004 - the lab's share
            row[:] = [f" {cell} " for cell in row]
        elif difficulty == "hard" and rng.random() < 0.25:  # noqa: PLR2004 - the lab's share
            if rng.random() < 0.5:  # noqa: PLR2004 - half and half
                row.append("x")
            else:
                row.pop()
                gold_row[4] = ""
    if difficulty == "hard":
        _insert(rng, draft.body, list(_SEPARATOR))
    _insert(rng, draft.body, [rng.choice(_ANNOTATIONS)])


def add_completeness_noise(rng: random.Random, draft: Draft, difficulty: Difficulty) -> None:
    """Blank most notes (easy, in the gold too), add a Region column (medium), or rename two headers (hard)."""
    if difficulty == "easy":
        for row, gold_row in zip(draft.body, draft.gold, strict=True):
            if rng.random() >= 0.20:  # noqa: PLR2004 - the lab keeps one note in five
                row[4] = gold_row[4] = ""
    elif difficulty == "medium":
        draft.header.append("Region")
        for row in draft.body:
            row.append(rng.choice(_REGIONS))
    else:
        draft.header[1], draft.header[4] = "Rev", "Comments"


def add_stress_noise(rng: random.Random, draft: Draft) -> None:
    """Make every row look odd in some way while every row stays real.

    Blank notes, note markers and blank headcounts stand in the gold too: the answer must keep them as they are.
    """
    for row, gold_row in zip(draft.body, draft.gold, strict=True):
        if rng.random() < _M_SHARE:
            _use_millions(row)
        elif rng.random() < _K_SHARE:
            _use_thousands_suffix(row)
        if rng.random() < _BLANK_NOTE_SHARE:
            row[4] = gold_row[4] = ""
        elif rng.random() < _MARKER_SHARE:
            row[4] = gold_row[4] = rng.choice(_MARKERS)
        if rng.random() < _BLANK_HEADCOUNT_SHARE:
            row[3] = gold_row[3] = ""
