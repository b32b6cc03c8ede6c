"""Rows of a run: each step once, in an order that only grows, whatever a restarted worker repeats."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from state.paths import JobPaths
from tools.trackers.rows import Row, Steps, Tracked, mark_of, verdict_row
from tools.trackers.writers import fill


def write(folder: Path, *rows: object, torn: str = "") -> JobPaths:
    folder.mkdir(exist_ok=True)
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in rows) + torn)
    return JobPaths(folder)


def test_a_step_that_a_restarted_worker_repeats_is_told_once(tmp_path: Path) -> None:
    steps = Steps()
    assert steps.read([JobPaths(tmp_path / "none")]) == []
    job = write(
        tmp_path / "one",
        {"phase": "loading", "t": 1.0},
        {"step": 2, "train_loss": 2.0, "t": 2.0},
        {"step": 2, "prepared": 9},
        {"step": 2, "val_loss": math.nan, "word": "x", "is_on": True, "t": 2.5},
        torn='{"step": 4, "train_l',
    )
    assert [(row.step, sorted(row.values)) for row in steps.read([job])] == [(2, ["train_loss"]), (2, ["val_loss"])]
    (tmp_path / "one" / "metrics.jsonl").write_text(
        (tmp_path / "one" / "metrics.jsonl").read_text().rpartition("\n")[0] + "\n"
    )
    write(tmp_path / "one", {"step": 2, "resumed_from": 2, "train_loss": 9.0}, {"step": 2, "train_loss": 9.0})
    write(tmp_path / "one", {"step": 4, "train_loss": 1.0, "learning_rate": 1e-4, "t": 4})
    second = write(tmp_path / "two", {"step": 4, "train_loss": 1.5, "grad_norm": 3}, {"step": 6, "train_loss": 0.5})
    rows = steps.read([job, second])
    assert [row.values for row in rows[2:]] == [
        {"train_loss": 1.0, "learning_rate": 1e-4},
        {"grad_norm": 3.0},
        {"train_loss": 0.5},
    ]
    assert Steps().read([job, second])[2:] == rows[2:], "read at once, they are the same"
    assert steps.read([job, second]) == rows


def test_a_verdict_tells_each_metric_with_its_interval() -> None:
    condition = {
        "id": "c", "metric": "a.b", "against": "parent", "decided": "holds", "value": 0.5, "reference": 0.25,
        "low": 0.1, "high": None,
    }  # fmt: skip
    row = verdict_row(9, 5.0, {"conditions": [condition, {**condition, "decided": "fails", "value": None}]}, {"v": "x"})
    assert (row.step, row.t, row.texts) == (9, 5.0, {"v": "x"})
    assert row.values["verdict/conditions_held"] == 1.0
    assert row.values["verdict/a.b/parent_low"] == 0.1
    assert row.values["verdict/a.b/reference"] == 0.25


class Listed:
    """A tracker in memory, which may be cut off amid a send."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] = {}
        self.asked = 0
        self.room = 10**9

    def held(self, run: Tracked) -> int:
        self.asked += 1
        return len(self.rows.get(run.name, []))

    def send(self, run: Tracked, rows: Sequence[Row]) -> None:
        for row in rows:
            if not self.room:
                raise OSError(28, "No space left on device")
            self.room -= 1
            self.rows.setdefault(run.name, []).append(row)

    def close(self) -> None:
        """Nothing to let go."""


def test_what_a_tracker_does_not_hold_is_sent_once_whatever_cut_it_off() -> None:
    rows = [Row(step, 1.0, {"x": float(step)}) for step in range(1201)]
    tracked = [
        Tracked("c", "R1", mark_of("a"), {}, rows),
        Tracked("c", "R2", mark_of("b"), {}, []),
        Tracked("c", "R1", mark_of("c"), {}, rows[:3]),
    ]
    assert len({each.name for each in tracked}) == 3
    writer, known = Listed(), dict[str, int]()
    assert fill(writer, tracked[:1], known) == 1201
    assert (fill(writer, tracked[:1], known), writer.asked) == (0, 1), "asked once, then known"
    cut = Listed()
    cut.room = 700
    try:
        fill(cut, tracked, {})
    except OSError:
        cut.room = 10**9
    assert fill(cut, tracked, {}) == 501 + 3
    assert cut.rows == {tracked[0].name: rows, tracked[2].name: rows[:3]}
