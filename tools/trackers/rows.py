"""Rows of one run as trackers and tables get them: each step once, then what its verdicts measured.

The rows of a run only ever grow at their end, however often its worker was restarted or read half way: the n-th is the
same row whenever it is asked for. So what a tracker holds is told by their number alone.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from state.files import json_row
from state.log import passed_over
from state.paths import JobPaths

VERDICT = "verdict/"
"""How the names of a verdict's figures begin."""
_MARKS = frozenset({"step", "t"})
_NOTES = frozenset({"prepared", "resumed_from"})
"""Fields of rows that say where a worker is, and are no report."""


@dataclass(frozen=True)
class Row:
    """Figures of one step.

    Args:
        step: Of the training.
        t: When, Unix seconds.
        values: Name -> figure; NaN and infinities are kept.
        texts: Name -> word.
    """

    step: int
    t: float
    values: dict[str, float]
    texts: dict[str, str] = field(default_factory=dict)


class Steps:
    """The rows of one run's trainings, read on from where they were read before.

    A restarted worker repeats steps that it had reported, and they come out the same: of each field the first report
    of a step counts.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._highest: dict[str, int] = {}
        self._read: dict[Path, int] = {}

    def read(self, folders: Iterable[JobPaths]) -> list[Row]:
        """Return all rows so far; a last line that is not whole waits."""
        for folder in folders:
            with passed_over("tracker.no_metrics", FileNotFoundError), folder.metrics.open("rb") as stream:
                stream.seek(self._read.get(folder.metrics, 0))
                whole = stream.read().rpartition(b"\n")[0]
                for line in whole.split(b"\n"):
                    self._add(json_row(line) or {})
                self._read[folder.metrics] = self._read.get(folder.metrics, 0) + (len(whole) + 1 if whole else 0)
        return self.rows

    def _add(self, row: dict[str, Any]) -> None:
        step = row.get("step")
        if type(step) is not int or _NOTES & row.keys():
            return
        new = {
            name: float(value)
            for name, value in row.items()
            if name not in _MARKS and type(value) in {int, float} and step > self._highest.get(name, -1)
        }
        if new:
            self._highest |= dict.fromkeys(new, step)
            self.rows.append(Row(step, float(row.get("t") or 0.0), new))


@dataclass(frozen=True)
class Tracked:
    """One run as a tracker has it.

    Args:
        campaign: Its campaign.
        run: Its id.
        mark: Tells it from runs of that id in other campaigns of that name, and in a record that went back to a copy.
        config: Recipe and what else does not change.
        rows: In their order.
    """

    campaign: str
    run: str
    mark: str
    config: dict[str, Any]
    rows: list[Row]

    @property
    def name(self) -> str:
        """What the tracker calls it."""
        return f"{self.run}-{self.mark}"


def mark_of(*parts: object) -> str:
    """Return six hexadecimal digits that follow from some words."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:6]


def verdict_row(step: int, t: float, gate: dict[str, Any], words: dict[str, str]) -> Row:
    """Return what a verdict measured: each condition's metric with its interval, and how many conditions hold."""
    values = {f"{VERDICT}conditions_held": float(sum(row["decided"] == "holds" for row in gate["conditions"]))}
    for row in gate["conditions"]:
        name = VERDICT + str(row["metric"] or row["id"])
        named = {"": row["value"], "/reference": row["reference"]}
        named |= {f"/{row['against']}_{end}": row[end] for end in ("low", "high")}
        values |= {f"{name}{end}": float(figure) for end, figure in named.items() if figure is not None}
    return Row(step, t, values, words)
