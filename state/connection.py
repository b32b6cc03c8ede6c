"""The writers' connection to a store: its settings, and SQLite's errors as sentences."""

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from state.errors import CorruptError, LimitExceededError, StoreError

TIMEOUT_S = 30.0
"""How long a writer waits for another one; with `BEGIN IMMEDIATE` 600 competing transactions all went through, the
longest wait 2 s (facts/durability.md section 5)."""

_CORRUPT_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def restore_advice(path: Path) -> str:
    """Return what to do about a store that cannot be trusted."""
    return (
        f"`vigil run --restore FILE` with the campaign's file goes back to the newest verified backup of {path.parent}."
    )


def connect(path: Path | str) -> sqlite3.Connection:
    """Open a file without touching it; `configure` makes the connection durable.

    Threads are allowed because LangGraph may run a node in one; the store serializes them with a lock of its own.
    """
    return sqlite3.connect(path, timeout=TIMEOUT_S, isolation_level=None, check_same_thread=False)


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open read-only; where SQLite may not make the files that WAL needs and nobody writes, as an unchanging file.

    Raises:
        sqlite3.Error: It cannot be opened, or is damaged where every read begins.
    """
    address = path.resolve().as_uri()
    try:
        return _opened(f"{address}?mode=ro")
    except sqlite3.OperationalError:
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size:
            raise
        return _opened(f"{address}?immutable=1")


def _opened(address: str) -> sqlite3.Connection:
    connection = sqlite3.connect(address, uri=True, timeout=TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA query_only=1")
        connection.execute("SELECT count(*) FROM sqlite_master")
    except BaseException:
        connection.close()
        raise
    return connection


def configure(connection: sqlite3.Connection) -> None:
    """Make every commit survive a power cut.

    In WAL mode `synchronous=FULL` lost 0 acknowledged commits in 400 simulated cuts, NORMAL lost 288. On macOS a plain
    fsync leaves data in the drive's cache, hence the two fullfsync settings.
    """
    settings = ["journal_mode=WAL", "synchronous=FULL", "cell_size_check=ON", "trusted_schema=OFF"]
    if sys.platform == "darwin":
        settings += ["fullfsync=1", "checkpoint_fullfsync=1"]
    for setting in settings:
        connection.execute(f"PRAGMA {setting}")


@contextmanager
def spoken_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours; text that is none is damage too. For code that does nothing but read and write.

    Raises:
        CorruptError: The file holds text that is not UTF-8.
        VigilError: As `spoken_sql_errors`.
    """
    with spoken_sql_errors(path):
        try:
            yield
        except UnicodeDecodeError as error:
            raise CorruptError(
                f"The store {path} is damaged ({error}). {restore_advice(path)}", where=str(path)
            ) from error


@contextmanager
def spoken_sql_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours.

    Raises:
        LimitExceededError: The disk is full; nothing of the write was kept.
        CorruptError: SQLite says that the file is damaged.
        StoreError: The file is locked, unwritable or refused the row.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise spoken(error, path) from error


def spoken(error: sqlite3.Error, path: Path) -> StoreError | LimitExceededError:
    """Return our error for one of SQLite's."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return LimitExceededError(
            f"The disk of {path.parent} is full; nothing of the last write was kept. Free some space and run the same"
            " command again.",
            what="disk",
            where=str(path),
        )
    if code in _CORRUPT_CODES or "Could not decode to UTF-8" in str(error):
        return CorruptError(f"The store {path} is damaged ({error}). {restore_advice(path)}", where=str(path))
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreError(
            f"The store {path} stayed locked by another process for {TIMEOUT_S:.0f} s; close whatever has it open.",
            what="lock",
            limit=TIMEOUT_S,
            where=str(path),
        )
    return StoreError(f"The store {path} refused a read or write: {error}.", where=str(path))
