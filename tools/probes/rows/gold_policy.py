"""What gold answers do to each row of the table or list in their prompt (mode 5).

A model that sees odd rows only ever removed learns to remove what is odd. The lab's golds held 147 deletions and not
one row preserved and converted; on long tables of odd but real rows its models were judged for dropping them. Rows are
followed by their text and their first cell, so a gold that says rows in other words, or all of them in one line, is
passed over. Not covered: whether an ordinary row should have been kept.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from state.records import Finding
from tools.probes.rows.tables import Oddity, Row, lines_of, rows_of, words_of

__all__ = ["PolicyCensus", "check_gold_policy", "policy_census"]

Fate = Literal["kept", "stripped", "converted", "deleted"]
"""kept: the same words; stripped: some of its words left out; converted: with other words; deleted: not there."""

_DATA_KINDS: tuple[Oddity, ...] = ("unit", "marker", "blank", "kind", "width")
"""Oddities of rows that are rows: they could be kept, or kept and converted."""
_WORDS: dict[Oddity, str] = {
    "unit": "an amount with a unit",
    "marker": "a marker such as n/a",
    "blank": "an empty cell",
    "kind": "words in a column of numbers",
    "width": "a cell too many or too few",
}
_SAME_ROW = 0.5
"""Share of the shorter side's words that an input row and a gold line must have in common to be one row. Low, because
the line is one that no row equals: taking it for an edited row is the careful side."""
_MOST_LINES_OF_A_WORD = 50
_MOST_COMPARED = 8
"""Gold lines that are compared in full with one row: those that share most of its words."""
_LEAST_ORDINARY_KEPT = 0.5
"""A gold that keeps fewer of the ordinary rows is no edited copy of its prompt; it says nothing about policy."""
_LEAST_DELETED = 10
_LEAST_PROMPTS = 5
_MOST_SURVIVING_SHARE = 0.02
_LEAST_REMOVED_IN_ALL = 20
_LEAST_REMOVED_OF_A_KIND = 5
_LEAST_KINDS = 2


@dataclass
class PolicyCensus:
    """Counts over all golds."""

    golds: int = 0
    """Prompts with a table or list whose gold is an edited copy of it."""
    ordinary: Counter[Fate] = field(default_factory=Counter)
    odd: dict[Oddity, Counter[Fate]] = field(default_factory=dict)
    """Oddity -> fate -> rows; a row with two oddities counts under both."""
    prompts: Counter[Oddity] = field(default_factory=Counter)
    """Oddity -> golds that delete a row with it."""

    def survived(self, kind: Oddity) -> int:
        """Return the rows with an oddity that are in the gold, in whatever form."""
        fates = self.odd.get(kind, Counter())
        return fates.total() - fates["deleted"]

    def deleted(self, kind: Oddity) -> int:
        """Return the rows with an oddity that are not in the gold."""
        return self.odd.get(kind, Counter())["deleted"]


def policy_census(rows: Iterable[tuple[str, str]]) -> PolicyCensus:
    """Count what golds do to the rows of their prompts.

    Args:
        rows: (prompt, gold).
    """
    census = PolicyCensus()
    for prompt, gold in rows:
        lines = rows_of(prompt)
        if lines:
            _count(census, lines, _fates(lines, gold))
    return census


def check_gold_policy(rows: Iterable[tuple[str, str]]) -> list[Finding]:
    """Report golds that only ever remove what is odd.

    Fires when rows with one oddity (a unit, a marker, an empty cell, …) are always deleted, or when odd lines of
    several kinds, duplicates or rows among them, are removed and no row at all is kept with a change.

    Args:
        rows: (prompt, gold).

    Returns:
        Nothing, or one warning with the counts.
    """
    census = policy_census(rows)
    one_sided = [kind for kind in _DATA_KINDS if _is_always_deleted(census, kind)]
    if one_sided:
        reasons = " and ".join(
            f"rows with {_WORDS[kind]} are deleted {census.deleted(kind)} times and kept {census.survived(kind)} times"
            for kind in one_sided
        )
        return [_finding(census, reasons)]
    return [_finding(census, _removal_in_words(census))] if _is_all_removal(census) else []


def _count(census: PolicyCensus, rows: Sequence[Row], fates: Sequence[Fate]) -> None:
    ordinary = [fate for row, fate in zip(rows, fates, strict=True) if not row.oddities]
    kept = len(ordinary) - ordinary.count("deleted")
    if not kept or kept < _LEAST_ORDINARY_KEPT * len(ordinary):
        return
    census.golds += 1
    census.ordinary.update(ordinary)
    deleted: set[Oddity] = set()
    for row, fate in zip(rows, fates, strict=True):
        for kind in row.oddities:
            census.odd.setdefault(kind, Counter())[fate] += 1
            if fate == "deleted":
                deleted.add(kind)
    census.prompts.update(deleted)


def _fates(rows: Sequence[Row], gold: str) -> list[Fate]:
    """Return what a gold does to each row; each gold line stands for one row at most."""
    lines = [words for line in lines_of(gold) if (words := words_of(line))]
    whole = Counter(lines)
    fates: list[Fate] = []
    for row in rows:
        is_kept = whole[row.words] > 0
        whole[row.words] -= is_kept
        fates.append("kept" if is_kept else "deleted")
    left = _Lines(list((+whole).elements()))
    for place, row in enumerate(rows):
        if fates[place] == "deleted" and row.is_data:
            line = left.take(row)
            if line is not None:
                fates[place] = _edit(row.words, line)
    return fates


class _Lines:
    """Gold lines that no row equals, found by the words in them."""

    def __init__(self, lines: Sequence[tuple[str, ...]]) -> None:
        self._lines = dict(enumerate(lines))
        self._places: dict[str, list[int]] = {}
        for place, line in self._lines.items():
            for word in set(line):
                self._places.setdefault(word, []).append(place)

    def take(self, row: Row) -> tuple[str, ...] | None:
        """Take out the line that is this row, edited; None when there is none."""
        near: Counter[int] = Counter()
        for word in set(row.words):
            places = self._places.get(word, [])
            # A word in many lines tells nothing, and following it would make large tables slow.
            near.update(place for place in places[:_MOST_LINES_OF_A_WORD] if place in self._lines)
        scores = {place: _likeness(row, self._lines[place]) for place, _ in near.most_common(_MOST_COMPARED)}
        best = max(scores, key=scores.__getitem__, default=-1)
        return self._lines.pop(best) if scores.get(best, 0.0) >= _SAME_ROW else None


def _likeness(row: Row, line: tuple[str, ...]) -> float:
    """Return how much an input row and a gold line share, in [0, 2]; an equal first cell weighs as much as the rest."""
    shared = (Counter(row.words) & Counter(line)).total() / max(1, min(len(row.words), len(line)))
    key = words_of(row.cells[0])
    return shared + float(len(row.cells) > 1 and bool(key) and line[: len(key)] == key)


def _edit(row: tuple[str, ...], line: tuple[str, ...]) -> Fate:
    return "stripped" if Counter(line) <= Counter(row) else "converted"


def _is_always_deleted(census: PolicyCensus, kind: Oddity) -> bool:
    deleted, survived = census.deleted(kind), census.survived(kind)
    is_often = deleted >= _LEAST_DELETED and census.prompts[kind] >= _LEAST_PROMPTS
    return is_often and survived <= _MOST_SURVIVING_SHARE * (deleted + survived)


def _is_all_removal(census: PolicyCensus) -> bool:
    kinds: list[Oddity] = [kind for kind in census.odd if census.deleted(kind) >= _LEAST_REMOVED_OF_A_KIND]
    removed = sum(map(census.deleted, kinds))
    survived = sum(map(census.survived, _DATA_KINDS))
    changed = sum(fates["stripped"] + fates["converted"] for fates in (census.ordinary, *census.odd.values()))
    has_rows = any(kind == "duplicate" or kind in _DATA_KINDS for kind in kinds)
    return removed >= _LEAST_REMOVED_IN_ALL and len(kinds) >= _LEAST_KINDS and has_rows and not survived + changed


def _removal_in_words(census: PolicyCensus) -> str:
    counts = sorted(((census.deleted(kind), kind) for kind in census.odd), reverse=True)
    listed = ", ".join(f"{count} {kind}" for count, kind in counts if count)
    return (
        f"odd lines are deleted {sum(count for count, _ in counts)} times ({listed}) and no row is kept with a change"
    )


def _finding(census: PolicyCensus, reasons: str) -> Finding:
    return Finding(
        mode="5",
        severity="warning",
        claim="gold_teaches_removal_only",
        sentence=f"In {census.golds} golds {reasons}: what is odd is only ever removed, never preserved and converted.",
        value={
            "golds": census.golds,
            "ordinary": dict(census.ordinary),
            "odd": {kind: dict(fates) for kind, fates in sorted(census.odd.items())},
        },
        fix="Add rows whose gold keeps the odd lines and converts them, as many as those whose gold removes some.",
    )
