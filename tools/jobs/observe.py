"""What a supervisor sees while its worker runs: rows, memory, disk, time; and what it leaves of it on disk."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from state.clock import Clock
from state.files import json_row, read_json
from state.log import passed_over
from state.paths import JobPaths
from state.records import Guard, Json
from tools.jobs.guards import Counters, Fired, evaluate
from tools.jobs.logs import put_aside_if_large
from tools.jobs.night import LOOK_S, Conditions, Pulse
from tools.jobs.processes import GB, Worker
from tools.machine.system import System

HEARTBEAT_S = 2.0
"""Seconds between two heartbeats."""

SLOW_S = 5.0
"""Seconds between two looks at disk, swap and the log's size."""


class RowReader:
    """Reads the whole rows that were appended to metrics.jsonl since the last call.

    Args:
        path: The file; it may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new_rows(self) -> list[dict[str, Any]]:
        """Return them, oldest first; a torn line is left for later, one that is no JSON object is left out."""
        with passed_over("metrics.none_yet", FileNotFoundError):
            if self._path.stat().st_size > self._offset:
                return list(self._read())
        return []

    def _read(self) -> list[dict[str, Any]]:
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [row for line in whole.splitlines() if (row := json_row(line)) is not None]


@dataclass
class Totals:
    """Figures that outlive a supervisor: the heartbeat file holds them."""

    worked_s: float = 0.0
    slept_s: float = 0.0
    frozen_s: float = 0.0
    queued_s: float = 0.0
    peak_rss_gb: float = 0.0
    peak_swap_gb: float = 0.0
    on_battery_s: float = 0.0
    lid_closed_s: float = 0.0
    held_back_s: float = 0.0
    hottest_c: float = 0.0


def read_totals(paths: JobPaths) -> tuple[Totals, float | None]:
    """Return what earlier supervisors of this job added up, and when the last of them was last seen alive."""
    try:
        value = read_json(paths.heartbeat)
    except ValueError:
        # Not synced, so a power cut may leave it empty: the figures start anew.
        value = None
    if not isinstance(value, dict):
        return Totals(), None
    figures = {name: float(value.get(name, 0.0)) for name in Totals.__dataclass_fields__}
    return Totals(**figures), float(value["at"]) if "at" in value else None


class Observer:
    """Looks at the job once a tick: new rows, guards, heartbeat.

    Args:
        paths: The job folder.
        guards: The job's guards.
        clock: Time.
        suspended: Seconds the machine slept since boot.
        system: The machine, whose power and heat are looked at.
    """

    def __init__(
        self,
        paths: JobPaths,
        guards: Sequence[Guard],
        clock: Clock,
        suspended: Callable[[], float],
        system: System | None = None,
    ) -> None:
        self.best_step = -1
        self.peak_rss_gb = 0.0
        self._paths = paths
        self._guards = guards
        self._clock = clock
        self._suspended = suspended
        self._reader = RowReader(paths.metrics)
        self._before, self._last_seen_at = read_totals(paths)
        self._pulse = Pulse()
        self._counters: Counters = {}
        self._progress_mark = 0.0
        self._queued_s = 0.0
        self._next_heartbeat = self._next_slow = self._next_night = clock.monotonic()
        self._night = Conditions(system or System())
        self._peak_swap_gb = 0.0
        self._first_swap_gb: float | None = None
        self._pulse.tick(clock.monotonic(), suspended())

    def catch_up(self) -> list[Fired]:
        """Read the rows that earlier supervisors may have read; return the guards that fire on them."""
        return self._judge({})

    def add_unwatched_time(self) -> None:
        """Count the time since the last supervisor was seen: its worker went on alone."""
        if self._last_seen_at is not None:
            self._before.worked_s += max(0.0, self._clock.now() - self._last_seen_at)

    def worker_started(self) -> None:
        """Begin to measure the time without progress anew."""
        self._progress_mark = self._pulse.worked_s

    def look(self, worker: Worker) -> list[Fired]:
        """Take one look; return the guards that fired."""
        now = self._clock.monotonic()
        self._pulse.tick(now, self._suspended())
        rss_gb = worker.rss_gb()
        self.peak_rss_gb = max(self.peak_rss_gb, rss_gb)
        signals = {"rss_gb": rss_gb, **self._slow_signals(now)}
        fired = self._judge(signals)
        self._beat_if_due(now)
        return fired

    def wait(self) -> None:
        """Let time pass before the job's turn comes: neither work nor a freeze of it."""
        now, pulse = self._clock.monotonic(), self._pulse
        worked_s, frozen_s = pulse.worked_s, pulse.frozen_s
        pulse.tick(now, self._suspended())
        self._queued_s += pulse.worked_s - worked_s + pulse.frozen_s - frozen_s
        pulse.worked_s, pulse.frozen_s = worked_s, frozen_s
        self._beat_if_due(now)

    @property
    def power(self) -> Json:
        """Power source, charge and lid as seen last."""
        return self._night.power.to_json()

    def look_at_night(self) -> dict[str, float]:
        """Look at power and heat; return the signals of guards."""
        self._next_night = self._clock.monotonic() + LOOK_S
        return self._night.look(self._pulse.worked_s)

    def totals(self) -> Totals:
        """Return the figures over all supervisors of this job."""
        before, pulse, night = self._before, self._pulse, self._night
        night.credit(pulse.worked_s)
        return Totals(
            worked_s=before.worked_s + pulse.worked_s,
            slept_s=before.slept_s + pulse.slept_s,
            frozen_s=before.frozen_s + pulse.frozen_s,
            queued_s=before.queued_s + self._queued_s,
            peak_rss_gb=max(before.peak_rss_gb, self.peak_rss_gb),
            peak_swap_gb=max(before.peak_swap_gb, self._peak_swap_gb),
            on_battery_s=before.on_battery_s + night.on_battery_s,
            lid_closed_s=before.lid_closed_s + night.lid_closed_s,
            held_back_s=before.held_back_s + night.held_back_s,
            hottest_c=max(before.hottest_c, night.hottest_c),
        )

    def beat(self) -> None:
        """Write the heartbeat: a sign of life and the figures so far; not synced, and skipped on a full disk."""
        side = self._paths.folder / ".heartbeat"
        with passed_over("heartbeat.not_written", OSError):
            side.write_text(json.dumps({"at": self._clock.now(), "power": self.power, **vars(self.totals())}))
            side.replace(self._paths.heartbeat)

    def _beat_if_due(self, now: float) -> None:
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + HEARTBEAT_S
            self.beat()

    def _judge(self, signals: dict[str, float]) -> list[Fired]:
        rows = self._reader.new_rows()
        steps = [step for row in rows if isinstance(step := row.get("step"), int)]
        if steps:
            self._progress_mark = self._pulse.worked_s
            self.best_step = max(self.best_step, *steps)
        if signals:
            # After the rows: a supervisor that could not look for a while must not call that a stall.
            signals["seconds_since_progress"] = self._pulse.worked_s - self._progress_mark
            signals["wall_s"] = self._before.worked_s + self._pulse.worked_s
        fired, self._counters = evaluate(self._guards, rows, signals, self._counters)
        return fired

    def _slow_signals(self, now: float) -> dict[str, float]:
        if now < self._next_slow:
            return {}
        self._next_slow = now + SLOW_S
        with passed_over("output.not_put_aside", OSError):
            put_aside_if_large(self._paths.log)
        swap_gb = psutil.swap_memory().used / GB
        self._peak_swap_gb = max(self._peak_swap_gb, swap_gb)
        if self._first_swap_gb is None:
            self._first_swap_gb = swap_gb
        night = self.look_at_night() if now >= self._next_night else {}
        return {
            "swap_gb": swap_gb,
            # Since this supervisor's first look: some of it was there before, and is another's.
            "swap_growth_gb": swap_gb - self._first_swap_gb,
            "disk_free_gb": shutil.disk_usage(self._paths.folder).free / GB,
            **night,
        }


def cpu_s() -> float:
    """Return the processor seconds this process has used."""
    times = os.times()
    return times.user + times.system
