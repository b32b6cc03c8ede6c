"""The end of a log, and a bound on its size."""

import os
import shutil
from pathlib import Path

LIMIT_BYTES = 10_000_000
"""A log larger than this is put aside."""

KEEP = 2
"""Logs kept aside; a job's output takes at most (KEEP + 1) x LIMIT_BYTES and what is written between two looks."""


def last_lines(path: Path, count: int, window_bytes: int = 64_000) -> list[str]:
    """Return the last lines of a text file, reading its end only; a missing file has none."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - window_bytes))
            text = stream.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    # The first line of a window that does not start at the file's beginning is cut.
    lines = text.splitlines()[1 if size > window_bytes else 0 :]
    return lines[-count:] if count > 0 else []


def put_aside_if_large(path: Path, limit_bytes: int = LIMIT_BYTES, keep: int = KEEP) -> bool:
    """Copy a large log to `.1` (moving `.1` to `.2` and so on) and empty it.

    It is emptied in place because the worker holds it open, in append mode; what it writes between the copy and the
    cut is lost.

    Returns:
        Whether it was put aside.
    """
    try:
        if path.stat().st_size <= limit_bytes:
            return False
    except FileNotFoundError:
        return False
    for number in range(keep, 1, -1):
        older = _aside(path, number - 1)
        if older.exists():
            older.replace(_aside(path, number))
    shutil.copyfile(path, _aside(path, 1))
    os.truncate(path, 0)
    return True


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}.{number}{path.suffix}")
