"""What moves while a campaign works: curves of its runs, and the word that there is something new to see."""

import asyncio
import os
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from agent.render.curves import Point
from state.files import json_row
from state.log import passed_over
from state.paths import CampaignPaths, JobPaths

View = dict[str, Any]

AXES = {"step": "step", "tokens": "trained_tokens", "time": "t"}
"""What a curve may run over -> the field of a metrics row that tells it."""
METRICS = ("train_loss", "val_loss")
"""Fields that are drawn."""
_GRID = 140
"""Points of one curve: on a screen more are not told apart, and 200 runs are below 300 kB."""
_WHOLE_BYTES = 200_000
"""A longer file is read at places that lie evenly apart; of a rare field all rows are read."""
_PLACES = 400
_MOST_RARE = 2_000
EVERY_S = 1.0
"""Seconds between two looks for something new: three stats each."""


def points(path: Path, metric: str, by: str) -> list[Point]:
    """Return one curve of a training, x ascending.

    Args:
        path: metrics.jsonl.
        metric: Field of a row.
        by: One of `AXES`; `time` counts from the first row.
    """
    with passed_over("web.no_metrics", OSError):
        data = path.read_bytes()
        rows = [row for line in _lines(data, metric) if (row := json_row(line)) is not None]
        if by == "time" and rows:
            first = min((row["t"] for row in rows if _is_number(row.get("t"))), default=0.0)
            rows = [{**row, "t": row["t"] - first} for row in rows if _is_number(row.get("t"))]
        field = AXES[by]
        # A restarted worker repeats steps it had reported; the last report of a step counts.
        latest = {row[field]: row[metric] for row in rows if _is_number(row.get(metric)) and _is_number(row.get(field))}
        return [(float(x), float(latest[x])) for x in sorted(latest)]
    return []


def _lines(data: bytes, metric: str) -> Iterable[bytes]:
    if len(data) <= _WHOLE_BYTES:
        return data.split(b"\n")
    mark, at, rare = f'"{metric}"'.encode(), -1, list[int]()
    while len(rare) <= _MOST_RARE and (at := data.find(mark, at + 1)) >= 0:
        rare.append(at)
    even = [index * (len(data) - 1) // _PLACES for index in range(_PLACES)] + [data.rfind(mark)]
    return [_line_at(data, place) for place in (rare if len(rare) <= _MOST_RARE else even)]


def _line_at(data: bytes, place: int) -> bytes:
    end = data.find(b"\n", place)
    return data[data.rfind(b"\n", 0, place) + 1 : end if end >= 0 else len(data)]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


class Curves:
    """Curves of many runs on one grid; each file is read again only where it has changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, str, str], tuple[tuple[int, int], list[Point]]] = {}

    def of(self, view: View, metric: str, by: str) -> dict[str, list[Point]]:
        """Return the curve of each run that has one.

        Args:
            view: The campaign as gathered.
            metric: One of `METRICS`.
            by: One of `AXES`.
        """
        found = {}
        for job in view["jobs"]:
            if job["kind"] == "training" and job["run"]:
                curve = self._read(JobPaths(Path(view["root"]) / job["folder"]).metrics, metric, by)
                if curve:
                    found[job["run"]] = curve
        return found

    def _read(self, path: Path, metric: str, by: str) -> list[Point]:
        key, stamp = (path, metric, by), _stamp(path)
        known = self._known.get(key)
        if known is None or known[0] != stamp:
            known = self._known[key] = (stamp, points(path, metric, by))
        return known[1]


def on_grid(curves: dict[str, list[Point]]) -> View:
    """Return curves at common places: `x`, and `runs` with `id` and `y`, None where a curve has not begun or ended."""
    if not curves:
        return {"x": [], "runs": []}
    low = min(curve[0][0] for curve in curves.values())
    high = max(curve[-1][0] for curve in curves.values())
    width = (high - low) / (_GRID - 1)
    places = [low + index * width for index in range(_GRID)] if width else [low]
    rows = [{"id": name, "y": [_rounded(_at(curve, x)) for x in places]} for name, curve in curves.items()]
    return {"x": [_rounded(x) for x in places], "runs": rows}


def _at(curve: Sequence[Point], x: float) -> float | None:
    """Return a curve's value at a place between two of its points, None outside of them."""
    slack = 1e-9 * max(1.0, abs(x))
    if x < curve[0][0] - slack or x > curve[-1][0] + slack:
        return None
    right = min(bisect_left(curve, (x,)), len(curve) - 1)
    left = max(0, right - 1)
    (x0, y0), (x1, y1) = curve[left], curve[right]
    return y1 if x1 == x0 or x >= x1 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _stamp(path: Path) -> tuple[int, int]:
    with passed_over("web.not_there", OSError):
        found = path.stat()
        return found.st_mtime_ns, found.st_size
    return 0, 0


def mark(paths: CampaignPaths) -> str:
    """Return what changes whenever a campaign has something new to show: its store, or the reports of its last job."""
    files = [paths.db, paths.db.with_name(f"{paths.db.name}-wal")]
    with passed_over("web.no_jobs", OSError):
        newest = max(os.scandir(paths.jobs), key=lambda entry: entry.stat().st_mtime_ns, default=None)
        files += [] if newest is None else [JobPaths(Path(newest.path)).metrics]
    return repr([_stamp(file) for file in files])


async def changes(paths: CampaignPaths, is_over: Callable[[], bool], every_s: float = EVERY_S) -> AsyncIterator[bytes]:
    """Yield server-sent events: one whenever there is something new, and a comment at times that keeps the line open.

    Args:
        paths: The campaign's files.
        is_over: Whether the server ends.
        every_s: Seconds between two looks.
    """
    known, silent = mark(paths), 0
    yield b"retry: 5000\n\nevent: hello\ndata: .\n\n"
    while not is_over():
        await asyncio.sleep(every_s)
        seen, silent = mark(paths), silent + 1
        if seen != known:
            known, silent = seen, 0
            yield b"event: change\ndata: .\n\n"
        elif silent * every_s >= _QUIET_S:
            silent = 0
            yield b": still here\n\n"


_QUIET_S = 20.0
"""Proxies and phones close a line on which nothing came for longer."""
