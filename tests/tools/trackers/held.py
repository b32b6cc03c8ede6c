"""`python -m tests.tools.trackers.held fill|read NAME FOLDER [ROWS [BYTES]]`: a tracker in a process of its own.

`fill` sends the first rows of two runs and prints how many were new; no file may grow beyond BYTES. `read` prints what
the tracker holds, by its own reader where it has one: run -> [step, figures] each, as JSON.
"""

import json
import resource
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.trackers.rows import Row, Tracked
from tools.trackers.writers import WRITERS, fill, history


def runs(n: int) -> list[Tracked]:
    """Return two runs with their first n rows."""
    rows = [
        Row(
            step,
            1.8e9 + step,
            {"train_loss": 2.0 / (step + 1), "learning_rate": 1e-4},
            {"verdict": f"{step}"} if step < 9 else {},
        )
        for step in range(n)
    ]
    return [Tracked("night", run, "abc123", {"iters": 7, "lora_parameters": {"rank": 8}}, rows) for run in ("R1", "R2")]


def read(name: str, folder: Path) -> dict[str, list[tuple[int, dict[str, float]]]]:
    """Return what a tracker holds."""
    found: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for run, step, values in {"trackio": _trackio, "tensorboard": _events, "wandb": _wandb, "mlflow": _mlflow}[name](
        folder
    ):
        found.setdefault(run, []).append((step, values))
    return {run: sorted(rows, key=lambda row: (row[0], sorted(row[1]))) for run, rows in found.items()}


_Rows = Iterator[tuple[str, int, dict[str, float]]]


def _figures(values: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, float)}


def _trackio(folder: Path) -> _Rows:
    for file in folder.glob("*.db"):
        for run, step, values in sqlite3.connect(file).execute("SELECT run_id, step, metrics FROM metrics ORDER BY id"):
            yield run, step, _figures(json.loads(values))


def _events(folder: Path) -> _Rows:
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    for file in folder.glob("*/*tfevents*"):
        for event in LegacyEventFileLoader(str(file)).Load():
            values = {each.tag: each.simple_value for each in event.summary.value if each.HasField("simple_value")}
            if values:
                yield file.parent.name, event.step, values


def _wandb(folder: Path) -> _Rows:
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for row in history(file):
            values = {(item.key or ".".join(item.nested_key)): json.loads(item.value_json) for item in row.item}
            figures = {key: float(value) for key, value in values.items() if isinstance(value, (int, float))}
            step = int(figures.pop("iteration"))
            kept = {key: value for key, value in figures.items() if not key.startswith("_") and key != "time"}
            yield file.stem.removeprefix("run-"), step, kept


def _mlflow(folder: Path) -> _Rows:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    for run in client.search_runs([e.experiment_id for e in client.search_experiments()]):
        rows: dict[tuple[int, int], dict[str, float]] = {}
        for name in run.data.metrics:
            for each in client.get_metric_history(run.info.run_id, name) if name != "vigil/rows" else ():
                rows.setdefault((each.timestamp, each.step), {})[name] = each.value
        for (_, step), values in rows.items():
            yield run.data.tags["vigil"], step, values


def main() -> int:
    """Do what the command line asks for."""
    what, name, folder, *numbers = sys.argv[1:]
    if what == "read":
        print(json.dumps(read(name, Path(folder))))
        return 0
    n, *limit = map(int, numbers)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit[0], limit[0]))
    writer = WRITERS[name](Path(folder))
    print(fill(writer, runs(n), {}))
    writer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
