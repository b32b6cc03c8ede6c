import json
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from state.clock import FakeClock
from state.paths import JobPaths
from state.records import Guard
from tools.jobs.observe import Observer, RowReader
from tools.jobs.processes import Ended


class FakeWorker:
    """A worker that lives and weighs half a gigabyte."""

    pid = 1

    def poll(self) -> Ended | None:
        return None

    def ask_to_stop(self) -> None:
        """Do nothing."""

    def kill(self) -> None:
        """Do nothing."""

    def rss_gb(self) -> float:
        return 0.5


STALL = Guard(signal="seconds_since_progress", op=">", threshold=20.0, verdict="stalled")


def observer(folder: Path, clock: FakeClock, *guards: Guard) -> Observer:
    return Observer(JobPaths(folder), guards, clock, lambda: 0.0)


def run(watch: Observer, clock: FakeClock, seconds: int) -> list[str]:
    """Look once a second; return the verdicts that fired."""
    verdicts = []
    for _ in range(seconds):
        clock.advance(1.0)
        verdicts += [item.guard.verdict for item in watch.observe(FakeWorker())]
    return verdicts


def test_rows_are_read_once_and_a_torn_line_later(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    reader = RowReader(path)
    assert reader.new_rows() == []
    path.write_text('{"step": 1}\n{"st')
    assert reader.new_rows() == [{"step": 1}]
    assert reader.new_rows() == []
    with path.open("a") as stream:
        stream.write('ep": 2}\nnot json\n[3]\n')
    assert reader.new_rows() == [{"step": 2}]


def test_a_worker_without_rows_is_stalled_after_the_threshold(tmp_path: Path) -> None:
    clock = FakeClock()
    watch = observer(tmp_path, clock, STALL)
    watch.worker_started()
    assert run(watch, clock, 20) == []
    assert run(watch, clock, 1) == ["stalled"]


def test_a_row_with_a_step_is_progress(tmp_path: Path) -> None:
    clock = FakeClock()
    watch = observer(tmp_path, clock, STALL)
    assert run(watch, clock, 15) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert run(watch, clock, 15) == []
    assert watch.best_step == 1


def test_a_supervisor_that_could_not_look_calls_nothing_a_stall(tmp_path: Path) -> None:
    clock = FakeClock()
    watch = observer(tmp_path, clock, STALL)
    run(watch, clock, 2)
    clock.advance(600.0)
    assert watch.observe(FakeWorker()) == []
    assert watch.totals().frozen_s == 600.0


def test_a_step_of_the_wall_clock_changes_no_guard(tmp_path: Path) -> None:
    clock = FakeClock()
    wall = Guard(signal="wall_s", op=">", threshold=100.0, verdict="out_of_time")
    watch = observer(tmp_path, clock, STALL, wall)
    run(watch, clock, 2)
    clock.step_wall(86_400.0)
    assert run(watch, clock, 2) == []
    clock.step_wall(-2 * 86_400.0)
    assert run(watch, clock, 2) == []


def test_figures_go_on_where_the_last_supervisor_left_them(tmp_path: Path) -> None:
    clock = FakeClock()
    first = observer(tmp_path, clock)
    run(first, clock, 30)
    first.beat()
    clock.advance(100.0)
    second = observer(tmp_path, clock)
    assert second.totals().worked_s == 30.0
    assert second.totals().peak_rss_gb == 0.5
    second.add_unwatched_time()
    assert second.totals().worked_s == 130.0


@pytest.mark.parametrize(
    "text",
    [
        '{"at": 17',
        '{"at": "x", "worked_s": 3}',
        '{"at": 17, "worked_s": null}',
        '{"worked_s": [1]}',
        '{"worked_s": NaN}',
        '{"worked_s": 1' + "0" * 400 + "}",
    ],
)
def test_a_torn_or_damaged_heartbeat_starts_the_figures_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "heartbeat").write_text(text)
    assert observer(tmp_path, FakeClock()).totals().worked_s == 0.0


def test_the_heartbeat_says_when(tmp_path: Path) -> None:
    clock = FakeClock(start=5000.0)
    watch = observer(tmp_path, clock)
    run(watch, clock, 3)
    assert 5000.0 < json.loads((tmp_path / "heartbeat").read_text())["at"] <= 5003.0


def test_memory_disk_and_swap_are_signals(tmp_path: Path) -> None:
    guards = (
        Guard(signal="rss_gb", op=">", threshold=0.4, verdict="memory"),
        Guard(signal="disk_free_gb", op=">", threshold=0.0, verdict="disk"),
        Guard(signal="swap_gb", op="<", threshold=1e6, verdict="swap"),
    )
    clock = FakeClock()
    assert run(observer(tmp_path, clock, *guards), clock, 1) == ["memory", "disk", "swap"]


def test_swap_counts_from_what_was_in_use_when_the_job_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used_gb = [6.0]
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(used=used_gb[0] * 1e9))
    clock = FakeClock()
    watch = observer(tmp_path, clock, Guard(signal="swap_growth_gb", op=">", threshold=4, patience=3, verdict="swap"))
    assert run(watch, clock, 60) == [], "another's swap"
    used_gb[0] = 10.5
    assert run(watch, clock, 200)[:1] == ["swap"]
