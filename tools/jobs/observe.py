"""What a supervisor sees while its worker runs (rows, memory, disk, time, sleep, power, heat), and the guards on it."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from state.clock import Clock
from state.files import json_row, read_json
from state.log import passed_over
from state.paths import JobPaths
from state.records import Guard, Json
from tools.jobs.folder import put_aside_if_large
from tools.jobs.processes import GB, Worker
from tools.machine.facts import Heat, Power, System, awake_command, heat_of, power_of

Counters = dict[int, int]
"""Position of a guard in the job's list -> observations in a row that met its condition."""


@dataclass(frozen=True)
class Fired:
    """A guard whose condition held for as long as its patience asks."""

    position: int
    guard: Guard
    value: float
    """The observation that completed the row."""
    step: int | None
    """Step of the row it came with; None for a signal of the supervisor."""

    def to_json(self) -> dict[str, Any]:
        """Return the form of the exit record; NaN and infinities as words, since JSON has none."""
        value = self.value if math.isfinite(self.value) else str(self.value)
        return {**self.guard.model_dump(), "value": value, "step": self.step}

    def sentence(self) -> str:
        """Say what was seen and what the bound was."""
        at = "" if self.step is None else f" at step {self.step}"
        bound = "not finite" if self.guard.op == "non_finite" else f"{self.guard.op} {self.guard.threshold:g}"
        times = f" {self.guard.patience} times in a row" if self.guard.patience > 1 else ""
        return f"{self.guard.signal} was {self.value:.6g}{at}, {bound}{times}."


def is_met(guard: Guard, value: float) -> bool:
    """Tell whether one observation meets a guard's condition."""
    if guard.op == "non_finite":
        return not math.isfinite(value)
    return value > guard.threshold if guard.op == ">" else value < guard.threshold


def evaluate(
    guards: Sequence[Guard],
    rows: Iterable[Mapping[str, Any]],
    signals: Mapping[str, float],
    counters: Mapping[int, int],
) -> tuple[list[Fired], Counters]:
    """Judge new observations.

    A row or a set of signals without a guard's field is no observation: it neither meets the condition nor breaks a
    row of ones that did.

    Args:
        guards: The job's guards, always in one order.
        rows: Rows of metrics.jsonl since the last call, oldest first.
        signals: What the supervisor sampled at this moment.
        counters: What the last call returned; empty at first.

    Returns:
        The guards that fired, in the order they did, each at most once a call; and the new counters.
    """
    state: Counters = dict(counters)
    fired: dict[int, Fired] = {}
    for observation in [*rows, signals]:
        step = observation.get("step")
        for position, guard in enumerate(guards):
            value = observation.get(guard.signal)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            state[position] = state.get(position, 0) + 1 if is_met(guard, value) else 0
            if state[position] >= guard.patience and position not in fired:
                fired[position] = Fired(position, guard, float(value), step if isinstance(step, int) else None)
    return list(fired.values()), state


FREEZE_S = 10.0
"""A longer gap between two ticks, seconds, is a freeze: ticks come every second, and a busy machine delays by a few."""

LOOK_S = 60.0
"""Seconds between two looks at power and heat: on macOS each look starts five short programs."""

ASK_S = 1.5
"""Longest answer of one of them, seconds; all together stay below a freeze."""

MOST_STARTS = 3
"""Times the program that keeps the machine awake is started."""


def suspended_s() -> float:
    """Return seconds this machine has slept since boot: the difference of a clock that counts sleep and one that stops.

    Unlike wall minus monotonic time it is blind to steps of the wall clock. 0.0 where the system does not tell.
    """
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC) - time.clock_gettime(time.CLOCK_UPTIME_RAW)
    return 0.0


@dataclass
class Pulse:
    """Adds up what the time between ticks was: work, sleep of the machine, or a freeze of this process.

    Only work counts toward guards: a job is not stalled because nobody could look.
    """

    worked_s: float = 0.0
    slept_s: float = 0.0
    frozen_s: float = 0.0
    _monotonic: float | None = None
    _suspended: float = 0.0

    def tick(self, monotonic: float, suspended: float) -> None:
        """Take the time since the last tick into account.

        Args:
            monotonic: Seconds of a clock that stops while the machine sleeps.
            suspended: Seconds slept since boot.
        """
        if self._monotonic is not None:
            gap = monotonic - self._monotonic
            if gap > FREEZE_S:
                self.frozen_s += gap
            else:
                self.worked_s += gap
            # The two clocks are read one after the other: their difference jitters by far less than this.
            if suspended - self._suspended > 1.0:
                self.slept_s += suspended - self._suspended
        self._monotonic = monotonic
        self._suspended = suspended


class Awake:
    """What keeps the machine awake while a process lives; it ends by itself when the process does.

    Sleep that comes all the same (a closed lid, another's command) is noticed by `Pulse`, not prevented.
    """

    def __init__(self, pid: int, system: System) -> None:
        self.lapses = 0
        """Times it was ended by others, or could not hold."""
        self._pid = pid
        self._system = system
        self._program = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def by(self) -> str:
        """Name of the program that keeps the machine awake now; empty: none does."""
        return "" if self._process is None else self._program

    def begin(self) -> None:
        """Keep the machine awake from now on, where there is a way to; begun twice, it is one."""
        command = awake_command(self._system, self._pid)
        if command is None or self._process is not None or self.lapses >= MOST_STARTS:
            return
        self._program, quiet = Path(command[0]).name, subprocess.DEVNULL
        # A machine that cannot start it still runs the job.
        with passed_over("awake.not_started", OSError):
            self._process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)

    def check(self) -> None:
        """Start it again if it has ended, a few times: where it is not allowed it ends at once."""
        if self._process is None or self._process.poll() is None:
            return
        self._process = None
        self.lapses += 1
        if self.lapses < MOST_STARTS:
            self.begin()

    def end(self) -> None:
        """Let the machine sleep again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Conditions:
    """Adds up under which conditions a job worked: battery, lid, heat.

    Args:
        system: The machine; its programs are given up after a short while, so that ticks go on.
    """

    def __init__(self, system: System) -> None:
        self.power = Power()
        self.on_battery_s = 0.0
        self.lid_closed_s = 0.0
        self.held_back_s = 0.0
        self.hottest_c = 0.0
        self._heat = Heat()
        self._worked_s = 0.0
        self._system = replace(system, timeout_s=ASK_S)

    def read(self, worked_s: float) -> dict[str, float]:
        """Look at power and heat.

        Args:
            worked_s: Seconds of work so far; those since the last look count for what that look saw.

        Returns:
            Signals for guards; what is not told is no signal, and the charge is one only while it falls.
        """
        self.credit(worked_s)
        self.power, self._heat = power_of(self._system), heat_of(self._system)
        self.hottest_c = max(self.hottest_c, self._heat.hottest_c or 0.0)
        signals = {
            "battery_percent": self.power.percent if self.power.source == "battery" else None,
            "heat_margin_c": self._heat.margin_c,
            "clock_share": self._heat.speed_share,
            "thermal_pressure": self._heat.pressure,
        }
        return {name: float(value) for name, value in signals.items() if value is not None}

    @property
    def hot_c(self) -> float | None:
        """What the hottest part had at the last look, None where the system does not tell it."""
        return self._heat.hottest_c

    def credit(self, worked_s: float) -> None:
        """Count the work since the last look or credit for what the last look saw."""
        gap, self._worked_s = worked_s - self._worked_s, worked_s
        self.on_battery_s += gap * (self.power.source == "battery")
        self.lid_closed_s += gap * (self.power.lid == "closed")
        self.held_back_s += gap * self._heat.is_held_back


HEARTBEAT_S = 2.0
"""Seconds between two heartbeats."""

NOW = ("rss_gb", "swap_gb", "thermal_pressure")
"""Signals whose newest value a heartbeat holds, for whoever looks on."""

SLOW_S = 5.0
"""Seconds between two looks at disk, swap and the log's size."""


class RowReader:
    """Reads the whole rows that were appended to metrics.jsonl since the last call."""

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


_MOST_TOTAL = 1e15
"""No sum of seconds or gigabytes of a job comes near it, nor does a moment; NaN is not below it."""


def read_totals(paths: JobPaths) -> tuple[Totals, float | None]:
    """Return what earlier supervisors of this job added up, and when the last of them was last seen alive."""
    try:
        value = read_json(paths.heartbeat)
    except ValueError:
        # Not synced, so a power cut may leave it empty: the figures start anew.
        value = None
    if not isinstance(value, dict):
        return Totals(), None
    figures = {name: value.get(name, 0.0) for name in (*Totals.__dataclass_fields__, "at")}
    if not all(type(figure) in {int, float} and abs(figure) < _MOST_TOTAL for figure in figures.values()):
        # Damaged otherwise: it begins anew as well.
        return Totals(), None
    at = float(figures.pop("at"))
    return Totals(**figures), at or None


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
        self._next_heartbeat = self._next_slow = self._next_conditions = clock.monotonic()
        self._conditions = Conditions(system or System())
        self._peak_swap_gb = 0.0
        self._first_swap_gb: float | None = None
        self._now: dict[str, float] = {}
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

    def observe(self, worker: Worker) -> list[Fired]:
        """Take one look; return the guards that fired."""
        now = self._clock.monotonic()
        self._pulse.tick(now, self._suspended())
        rss_gb = worker.rss_gb()
        self.peak_rss_gb = max(self.peak_rss_gb, rss_gb)
        signals = {"rss_gb": rss_gb, **self._slow_signals(now)}
        self._now |= {name: signals[name] for name in NOW if name in signals}
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
        return self._conditions.power.to_json()

    def read_conditions(self) -> dict[str, float]:
        """Look at power and heat; return the signals of guards."""
        self._next_conditions = self._clock.monotonic() + LOOK_S
        return self._conditions.read(self._pulse.worked_s)

    def totals(self) -> Totals:
        """Return the figures over all supervisors of this job."""
        before, pulse, conditions = self._before, self._pulse, self._conditions
        conditions.credit(pulse.worked_s)
        return Totals(
            worked_s=before.worked_s + pulse.worked_s,
            slept_s=before.slept_s + pulse.slept_s,
            frozen_s=before.frozen_s + pulse.frozen_s,
            queued_s=before.queued_s + self._queued_s,
            peak_rss_gb=max(before.peak_rss_gb, self.peak_rss_gb),
            peak_swap_gb=max(before.peak_swap_gb, self._peak_swap_gb),
            on_battery_s=before.on_battery_s + conditions.on_battery_s,
            lid_closed_s=before.lid_closed_s + conditions.lid_closed_s,
            held_back_s=before.held_back_s + conditions.held_back_s,
            hottest_c=max(before.hottest_c, conditions.hottest_c),
        )

    def beat(self) -> None:
        """Write the heartbeat: a sign of life and the figures so far; not synced, and skipped on a full disk."""
        side = self._paths.folder / ".heartbeat"
        now = {**self._now, "hot_c": self._conditions.hot_c}
        with passed_over("heartbeat.not_written", OSError):
            side.write_text(
                json.dumps({"at": self._clock.now(), "power": self.power, "now": now, **vars(self.totals())})
            )
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
        conditions = self.read_conditions() if now >= self._next_conditions else {}
        return {
            "swap_gb": swap_gb,
            # Since this supervisor's first look: some of it was there before, and is another's.
            "swap_growth_gb": swap_gb - self._first_swap_gb,
            "disk_free_gb": shutil.disk_usage(self._paths.folder).free / GB,
            **conditions,
        }


def cpu_s() -> float:
    """Return the processor seconds this process has used."""
    times = os.times()
    return times.user + times.system
