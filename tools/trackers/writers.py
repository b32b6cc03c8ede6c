"""The trackers, each behind the same three calls: how many rows of a run it holds, more rows, the end.

How far it got is told by what a tracker itself holds, so a kill between two writes leaves neither a gap nor a double.
None of them needs an account: wandb without a key writes offline, for `wandb sync`. What they keep lies in a folder of
the campaign, unless the tracker's own variable names another place.
"""

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from tools.trackers.rows import Row, Tracked


class Writer(Protocol):
    """A tracker of one campaign."""

    def held(self, run: Tracked) -> int:
        """Return how many rows of a run it holds: the first ones."""

    def send(self, run: Tracked, rows: Sequence[Row]) -> None:
        """Add the rows that follow."""

    def close(self) -> None:
        """Let go; what was sent is kept."""


class Trackio:
    """Trackio's own store: rows of one send appear together or not at all, each under a number of its own.

    Args:
        folder: Where it keeps its files, unless `TRACKIO_DIR` says otherwise.
    """

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(folder))
        from trackio.sqlite_storage import SQLiteStorage

        self._storage: Any = SQLiteStorage

    def held(self, run: Tracked) -> int:
        """See `Writer`."""
        return int(self._storage.get_log_count(run.campaign, run=run.name, run_id=run.name))

    def send(self, run: Tracked, rows: Sequence[Row]) -> None:
        """See `Writer`."""
        before = self.held(run)
        self._storage.bulk_log(
            run.campaign,
            run.name,
            [{**row.values, **row.texts} for row in rows],
            steps=[row.step for row in rows],
            timestamps=[datetime.fromtimestamp(row.t, UTC).isoformat() for row in rows],
            config=run.config,
            log_ids=[f"{run.name}-{before + index}" for index in range(len(rows))],
            run_id=run.name,
        )

    def close(self) -> None:
        """See `Writer`."""


class TensorBoard:
    """One event file per run, one event per row; one that a kill tore is cut off before it is gone on from.

    Args:
        folder: TensorBoard's log folder; runs are folders in it.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.plugins.text.metadata import create_summary_metadata
        from tensorboard.summary.writer.record_writer import RecordWriter
        from tensorboard.util.tensor_util import make_tensor_proto

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._text_kind, self._tensor, self._record = create_summary_metadata, make_tensor_proto, RecordWriter
        self._folder = folder

    def _file(self, run: Tracked) -> Path:
        return self._folder / run.name / f"events.out.tfevents.{int(run.rows[0].t):010d}.vigil"

    def held(self, run: Tracked) -> int:
        """See `Writer`."""
        path = self._file(run)
        if not path.exists():
            return 0
        data, place, count = path.read_bytes(), 0, 0
        # A record is its length, a checksum of that, the event, a checksum of it.
        while place + 12 <= len(data):
            end = place + 16 + int(struct.unpack_from("<Q", data, place)[0])
            if end > len(data):
                break
            place, count = end, count + 1
        if place < len(data):
            os.truncate(path, place)
        # The first event says which version of the format it is.
        return max(0, count - 1)

    def send(self, run: Tracked, rows: Sequence[Row]) -> None:
        """See `Writer`."""
        path = self._file(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            writer = self._record(stream)
            if not stream.tell():
                writer.write(self._event(wall_time=rows[0].t, file_version="brain.Event:2").SerializeToString())
            for row in rows:
                values = [self._summary.Value(tag=name, simple_value=value) for name, value in row.values.items()]
                for name, text in row.texts.items():
                    kind, tensor = self._text_kind(name, ""), self._tensor([text], dtype="string")
                    values.append(self._summary.Value(tag=name, metadata=kind, tensor=tensor))
                event = self._event(wall_time=row.t, step=row.step, summary=self._summary(value=values))
                writer.write(event.SerializeToString())
            stream.flush()
            os.fsync(stream.fileno())

    def close(self) -> None:
        """See `Writer`."""


class Mlflow:
    """An MLflow server, or a database of its own, where `MLFLOW_TRACKING_URI` names none; it keeps equal rows once.

    Args:
        folder: Where the database is.
    """

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        folder.mkdir(parents=True, exist_ok=True)
        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
        self._client, self._metric = MlflowClient(tracking_uri=place), Metric
        self._ids: dict[str, str] = {}

    def _id(self, run: Tracked) -> str:
        if run.name not in self._ids:
            known = self._client.get_experiment_by_name(run.campaign)
            experiment = known.experiment_id if known else self._client.create_experiment(run.campaign)
            found = self._client.search_runs([experiment], f"tags.vigil = '{run.name}'")
            tags = {"vigil": run.name, **{name: str(value)[:500] for name, value in run.config.items()}}
            made = found[0] if found else self._client.create_run(experiment, run_name=run.name, tags=tags)
            self._ids[run.name] = made.info.run_id
        return self._ids[run.name]

    def held(self, run: Tracked) -> int:
        """See `Writer`."""
        history = self._client.get_metric_history(self._id(run), _COUNT)
        return max((int(each.value) for each in history), default=0)

    def send(self, run: Tracked, rows: Sequence[Row]) -> None:
        """See `Writer`."""
        before, key, metrics = self.held(run), self._id(run), list[Any]()
        for index, row in enumerate(rows, start=before + 1):
            # The count last: cut before it, the row is sent again, and what is there of it is there once.
            figures = [*row.values.items(), (_COUNT, float(index))]
            metrics += [self._metric(name, value, int(row.t * 1000), row.step) for name, value in figures]
            for name, text in row.texts.items():
                self._client.set_tag(key, name, text)
        for start in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(key, metrics=metrics[start : start + _MOST_METRICS])

    def close(self) -> None:
        """See `Writer`."""


_COUNT = "vigil/rows"
_MOST_METRICS = 500
"""Of one request; a server takes no more than 1,000."""


class Wandb:
    """W&B: offline without a key, else on its server; the history's length says how many rows it holds.

    Args:
        folder: Where it keeps its files, unless `WANDB_DIR` says otherwise.
    """

    def __init__(self, folder: Path) -> None:
        if not (os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_BASE_URL")):
            os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self._wandb, self._open = wandb, dict[str, Any]()
        self._is_offline = os.environ.get("WANDB_MODE") == "offline"
        self._folder = Path(os.environ.get("WANDB_DIR") or folder)
        self._sent: dict[str, int] = {}

    def held(self, run: Tracked) -> int:
        """See `Writer`."""
        if run.name in self._sent:
            return self._sent[run.name]
        return self._kept(run.name) if self._is_offline else int(self._run(run).starting_step)

    def _kept(self, name: str) -> int:
        files = self._folder.glob(f"wandb/offline-run-*-{name}/run-{name}.wandb")
        return sum(1 for file in files for _ in history(file))

    def _run(self, run: Tracked) -> Any:
        if run.name not in self._open:
            self._folder.mkdir(parents=True, exist_ok=True)
            settings = self._wandb.Settings(
                x_disable_stats=True, x_disable_meta=True, disable_git=True, save_code=False, console="off"
            )
            # By keyword `reinit` several runs are open at once.
            opened = self._wandb.init(
                project=run.campaign, id=run.name, name=run.name, resume="allow", dir=str(self._folder),
                config=run.config, settings=settings, reinit="create_new",
            )  # fmt: skip
            opened.define_metric("*", step_metric="iteration")
            self._open[run.name] = opened
        return self._open[run.name]

    def send(self, run: Tracked, rows: Sequence[Row]) -> None:
        """See `Writer`."""
        before = self.held(run)
        opened = self._run(run)
        for row in rows:
            opened.log({"iteration": row.step, "time": row.t, **row.values, **row.texts})
        self._sent[run.name] = before + len(rows)

    def close(self) -> None:
        """See `Writer`; its own process writes, and says nothing where it cannot.

        Raises:
            OSError: Not all that was sent is in its files.
        """
        for name, opened in self._open.items():
            opened.finish()
            if self._is_offline and (kept := self._kept(name)) < self._sent[name]:
                raise OSError(f"W&B's files hold {kept} of the {self._sent[name]} rows of {name}")


_BLOCK, _HEAD = 32_768, 7
_FULL, _FIRST, _LAST = 1, 2, 4


def history(path: Path) -> Iterator[Any]:
    """Yield the whole history records of a run's offline file: blocks of chunks, each with sum, length and kind."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, held = path.read_bytes(), _HEAD, b""
    while place + _HEAD <= len(data):
        if (left := _BLOCK - place % _BLOCK) < _HEAD:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        chunk = data[place + _HEAD : place + _HEAD + length]
        if len(chunk) < length:
            break
        place += _HEAD + length
        held = chunk if kind in {_FULL, _FIRST} else held + chunk
        if kind in {_FULL, _LAST}:
            record = Record()
            record.ParseFromString(held)
            if record.WhichOneof("record_type") == "history":
                yield record.history


WRITERS: Mapping[str, Callable[[Path], Writer]] = {
    "trackio": Trackio,
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": Mlflow,
}
"""Name in the campaign file, which is its package's -> the tracker, which is imported when it is made."""


def fill(writer: Writer, runs: Sequence[Tracked], known: dict[str, int]) -> int:
    """Send each run's rows that a tracker does not hold yet; return how many.

    Args:
        writer: The tracker.
        runs: All runs that have rows.
        known: Run -> rows that it is known to hold; asked of the tracker where it is not there, and kept up to date.
    """
    sent = 0
    for run in runs:
        if not run.rows:
            continue
        if run.name not in known:
            known[run.name] = writer.held(run)
        rows = run.rows[known[run.name] :]
        for start in range(0, len(rows), _MOST_ROWS):
            some = rows[start : start + _MOST_ROWS]
            writer.send(run, some)
            known[run.name] += len(some)
        sent += len(rows)
    return sent


_MOST_ROWS = 500
"""Of one send."""
