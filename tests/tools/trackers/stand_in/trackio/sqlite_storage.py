"""One table per project; while a file named `full` lies beside it, its disk is full, and `deaths` counts kills."""

import errno
import json
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

_FOLDER = Path(os.environ["TRACKIO_DIR"])


class SQLiteStorage:
    """Trackio's store, as far as it is used."""

    @staticmethod
    def _open(project: str) -> sqlite3.Connection:
        _FOLDER.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(_FOLDER / f"{project}.db")
        columns = "id INTEGER PRIMARY KEY, run_id TEXT, step INTEGER, metrics TEXT, log_id TEXT UNIQUE"
        connection.execute(f"CREATE TABLE IF NOT EXISTS metrics ({columns})")
        return connection

    @classmethod
    def get_log_count(cls, project: str, run: str, run_id: str) -> int:
        """Return how many rows of a run there are."""
        del run
        with closing(cls._open(project)) as connection:
            return int(connection.execute("SELECT count(*) FROM metrics WHERE run_id = ?", (run_id,)).fetchone()[0])

    @classmethod
    def bulk_log(
        cls, project: str, run: str, metrics: list[Any], steps: list[int], log_ids: list[str], **_: Any
    ) -> None:
        """Add rows, all or none; a row of the same number only once."""
        if (_FOLDER / "full").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with closing(cls._open(project)) as connection, connection:
            rows = [(run, step, json.dumps(each), key) for each, step, key in zip(metrics, steps, log_ids, strict=True)]
            command = "INSERT OR IGNORE INTO metrics (run_id, step, metrics, log_id) VALUES (?, ?, ?, ?)"
            connection.executemany(command, rows)
        if (_FOLDER / "deadly").exists():
            # After the commit, before anyone could note that it was made.
            (_FOLDER / "deadly").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
