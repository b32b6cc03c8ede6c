"""What moves while a campaign works: the record, curves of its runs, and the word that something new is to be seen."""

import asyncio
import math
import os
import threading
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from agent.render import typed
from agent.render.curves import Point
from agent.render.record import ALIVE, gather, with_folder
from state.files import json_row
from state.lease import holder
from state.log import passed_over
from state.paths import CampaignPaths, JobPaths

View = dict[str, Any]

AXES = {"step": "step", "tokens": "trained_tokens", "time": "t"}
"""What a curve may run over -> the field of a metrics row that tells it."""
METRICS = ("train_loss", "val_loss")
"""Fields that are drawn."""
_GRID = 140
"""Points of one curve: on a screen more are not told apart, and 200 runs are below 300 kB."""
_LEAST_GRID = 30
_MOST_POINTS = 30_000
"""Of all curves together; more of them get fewer points each."""
_WHOLE_BYTES = 200_000
"""A longer file is read at places that lie evenly apart; of a rare field all rows are read."""
_PLACES = 400
_MOST_RARE = 2_000
EVERY_S = 1.0
"""Seconds between two looks for something new: a few stats each, however many look on."""
_SEARCH_S = 10.0
"""Seconds between two looks for which job is at work, and between two words of one that only goes on."""
_WHOLE_S = 60.0
"""Seconds after which a record is read whole although it has not changed: files beside it may have."""
_MOST_VIEWS = 16
_NOISE_SHARE = 0.1
"""Of a curve's reports, the share over which their spread is taken."""
_LEAST_REPORTS = 12
"""Fewer reports have no spread that could be told from a trend."""


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


def trained(view: View) -> dict[str, Path]:
    """Return the folder of each run's newest training."""
    jobs = (job for job in view["jobs"] if job["kind"] == "training" and job["run"])
    return {job["run"]: Path(view["root"]) / job["folder"] for job in jobs}


class Curves:
    """Curves of many runs on one grid; each file is read again only where it has changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, str, str], tuple[tuple[int, int], list[Point]]] = {}

    def of(
        self, view: View, metric: str, by: str, wanted: Sequence[str] = (), most: int = -1
    ) -> dict[str, list[Point]]:
        """Return the curve of each run that has one.

        Args:
            view: The campaign as gathered.
            metric: One of `METRICS`.
            by: One of `AXES`.
            wanted: Runs in the order to look; all as they were trained when left out.
            most: So many at most, and no more files are read; below 0 all.
        """
        folders = trained(view)
        found: dict[str, list[Point]] = {}
        for run in wanted or folders:
            if len(found) == most:
                break
            if run in folders and (curve := self._read(JobPaths(folders[run]).metrics, metric, by)):
                found[run] = curve
        return found

    def _read(self, path: Path, metric: str, by: str) -> list[Point]:
        key, stamp = (path, metric, by), _stamp(path)
        known = self._known.get(key)
        if known is None or known[0] != stamp:
            known = self._known[key] = (stamp, points(path, metric, by))
        return known[1]


def on_grid(curves: dict[str, list[Point]], banded: str = "") -> View:
    """Return curves at common places, each the mean of the reports around it.

    Args:
        curves: Points of each run, x ascending.
        banded: The run whose noise is told.

    Returns:
        `x`; `runs` with `id` and `y`, None where a curve has not begun or ended; `band`, None or `low` and `high`: one
        standard deviation of the reports around their mean.
    """
    if not curves:
        return {"x": [], "runs": [], "band": None}
    low = min(curve[0][0] for curve in curves.values())
    high = max(curve[-1][0] for curve in curves.values())
    n = max(_LEAST_GRID, min(_GRID, _MOST_POINTS // len(curves)))
    width = (high - low) / (n - 1)
    places = [low + index * width for index in range(n)] if width else [low]
    rows = [{"id": name, "y": [_rounded(_at(curve, x, width / 2)) for x in places]} for name, curve in curves.items()]
    band = None
    if edges := noise(curves.get(banded, [])):
        low_edge, high_edge = ([(x, edge[side]) for x, *edge in edges] for side in (0, 1))
        band = {
            "low": [_rounded(_at(low_edge, x)) for x in places],
            "high": [_rounded(_at(high_edge, x)) for x in places],
        }
    return {"x": [_rounded(x) for x in places], "runs": rows, "band": band}


def noise(curve: Sequence[Point]) -> list[tuple[float, float, float]]:
    """Return x, lower and upper edge of a curve's noise: one standard deviation of its reports around their mean.

    Empty where there are too few reports to tell it. What the mean of five moves is the curve's own way, and no noise.
    """
    if len(curve) < _LEAST_REPORTS:
        return []
    values = [y for _, y in curve]
    ways = [_mean(values[max(0, place - 2) : place + 3]) for place in range(len(values))]
    # Of the squares around a mean of five, a fifth is in the mean.
    squares = [1.25 * (value - way) ** 2 for value, way in zip(values, ways, strict=True)]
    half = max(5, round(len(curve) * _NOISE_SHARE / 2))
    spreads = [math.sqrt(_mean(squares[max(0, place - half) : place + half + 1])) for place in range(len(values))]
    return [(x, way - by, way + by) for (x, _), way, by in zip(curve, ways, spreads, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _at(curve: Sequence[Point], x: float, half: float = 0.0) -> float | None:
    """Return a curve's mean around a place, or its value between two of its points; None outside of them."""
    slack = 1e-9 * max(1.0, abs(x))
    if x < curve[0][0] - slack or x > curve[-1][0] + slack:
        return None
    # Where it begins and ends, its own first and last point.
    if curve[0][0] + half < x < curve[-1][0] - half:
        near = curve[bisect_left(curve, (x - half,)) : bisect_left(curve, (x + half,))]
        if len(near) > 1:
            return sum(y for _, y in near) / len(near)
    right = min(bisect_left(curve, (x,)), len(curve) - 1)
    left = max(0, right - 1)
    (x0, y0), (x1, y1) = curve[left], curve[right]
    return y1 if x1 == x0 or x >= x1 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _stamp(path: Path) -> tuple[int, int]:
    with passed_over("web.not_there", OSError):
        found = path.stat()
        # Whoever reads makes an empty log beside the store: nothing was written.
        if found.st_size:
            return found.st_mtime_ns, found.st_size
    return 0, 0


class Views:
    """Campaigns as gathered, without beliefs: a record that has not changed is read once, however many look on."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[str, float, View]] = {}
        self._locks: dict[Path, threading.Lock] = {}
        self._n_campaigns = 0

    def of(self, paths: CampaignPaths, n_campaigns: int = 0) -> View:
        """Return a campaign; of its jobs at work and its holder what is true now.

        Args:
            paths: The campaign's files.
            n_campaigns: How many a page that shows all of them walks through: so many are kept from then on.

        Raises:
            VigilError: It cannot be read.
        """
        with self._locks.setdefault(paths.root, threading.Lock()):
            stamp, at = store_mark(paths), time.monotonic()
            known = self._known.pop(paths.root, None)
            if known is None or known[0] != stamp or at - known[1] > _WHOLE_S:
                known = stamp, at, typed.from_anywhere(gather(paths, with_beliefs=False), paths.home)
            self._known[paths.root] = known
            # In the order of a walk, the oldest is the one that the next walk asks for first.
            self._n_campaigns = n_campaigns or self._n_campaigns
            if len(self._known) > max(_MOST_VIEWS, self._n_campaigns):
                self._known.pop(next(iter(self._known)), None)
        jobs = [with_folder(paths, job) if job["state"] in ALIVE else job for job in known[2]["jobs"]]
        return {**known[2], "jobs": jobs, "holder": holder(paths), "now": time.time()}


def store_mark(paths: CampaignPaths) -> str:
    """Return what changes whenever a campaign's record does."""
    return repr([_stamp(paths.db), _stamp(paths.db.with_name(f"{paths.db.name}-wal"))])


class Marks:
    """What changes when a campaign has something new to show; looked at once a second for all who look on."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._seen: dict[Path, tuple[float, tuple[str, str]]] = {}
        self._jobs: dict[Path, tuple[float, JobPaths | None]] = {}

    def of(self, paths: CampaignPaths) -> tuple[str, str]:
        """Return the record's mark and that of the job at work."""
        at = time.monotonic()
        known = self._seen.get(paths.root)
        if known is None or at - known[0] >= self._every_s:
            known = self._seen[paths.root] = at, (store_mark(paths), self._job(paths, at))
        return known[1]

    def _job(self, paths: CampaignPaths, at: float) -> str:
        searched, job = self._jobs.get(paths.root, (-math.inf, None))
        if at - searched >= _SEARCH_S * self._every_s:
            with passed_over("web.no_jobs", OSError):
                # A supervisor puts a new heartbeat into its folder every few seconds.
                newest = max(os.scandir(paths.jobs), key=lambda entry: entry.stat().st_mtime_ns, default=None)
                job = None if newest is None else JobPaths(Path(newest.path))
            self._jobs[paths.root] = at, job
        if job is None:
            return ""
        return repr([_stamp(job.metrics), int(_stamp(job.heartbeat)[0] / 1e9 / _SEARCH_S)])


async def changes(
    campaigns: Sequence[CampaignPaths], marks: Marks, is_over: Callable[[], bool], every_s: float = EVERY_S
) -> AsyncIterator[bytes]:
    """Yield server-sent events: `change` for a record, `job` for a job at work, a comment that keeps the line open.

    Args:
        campaigns: Looked at.
        marks: Shared by all who look on.
        is_over: Whether the server ends.
        every_s: Seconds between two looks.
    """
    known, silent = [marks.of(paths) for paths in campaigns], 0
    yield b"retry: 5000\n\nevent: hello\ndata: .\n\n"
    while not is_over():
        await asyncio.sleep(every_s)
        seen, silent = [marks.of(paths) for paths in campaigns], silent + 1
        if seen != known:
            is_record = any(new[0] != old[0] for new, old in zip(seen, known, strict=True))
            known, silent = seen, 0
            yield b"event: change\ndata: .\n\n" if is_record else b"event: job\ndata: .\n\n"
        elif silent * every_s >= _QUIET_S:
            silent = 0
            yield b": still here\n\n"


_QUIET_S = 20.0
"""Proxies and phones close a line on which nothing came for longer."""
