"""Reading what strangers wrote: regular files only, bounded, never outside the project.

Nothing is imported or unpickled. A path that leads outside the project, by `..`, by a leading slash or by a link, is
not opened.
"""

import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tools.models.headers import LFS_POINTER

MAX_LINE_BYTES = 16 << 20
"""A longer line is no row that anything trains on; its rest is passed over."""

_CHUNK = 1 << 20
_NO_TEXT = re.compile("[\ud800-\udfff]")
"""Halves of a pair that stand alone: bytes of a file name that are no text, or what a JSON file wrote with `\\u`."""


class UnreadableError(Exception):
    """A file is not opened, or cannot be read; the text says why, without the path."""


@dataclass(frozen=True)
class Line:
    """One line of a file."""

    number: int
    """From 1."""
    raw: bytes
    """Its bytes, line end included; of a line that is too long, the first 16 MB."""
    is_too_long: bool = False


def is_inside(root: Path, path: Path) -> bool:
    """Say whether a path, links followed, lies in a folder."""
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError, ValueError):
        return False


def is_there(path: Path) -> bool | None:
    """Say whether a path leads to something; None where that may not be looked at."""
    try:
        path.stat()
    except PermissionError:
        return None
    except (OSError, ValueError):
        return False
    return True


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file; a pipe or a device would never end.

    Raises:
        UnreadableError: It is something else, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise UnreadableError(_said(error)) from error
    stream = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        stream.close()
        raise UnreadableError("it is no regular file")
    return stream


def _said(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).lower()


def read_bounded(path: Path, limit: int) -> bytes:
    """Return a file's bytes.

    Raises:
        UnreadableError: As `open_regular`; or it is larger than `limit` bytes.
    """
    with open_regular(path) as stream:
        try:
            raw = stream.read(limit + 1)
        except OSError as error:
            raise UnreadableError(_said(error)) from error
    if len(raw) > limit:
        raise UnreadableError(f"it has more than {limit:,} bytes")
    return raw


def read_head(path: Path, limit: int) -> bytes:
    """Return the first bytes of a file, nothing where it cannot be read."""
    try:
        with open_regular(path) as stream:
            return stream.read(limit)
    except (UnreadableError, OSError):
        return b""


def is_not_fetched(path: Path) -> bool:
    """Say whether a file is what Git leaves in its place until it is fetched."""
    return read_head(path, len(LFS_POINTER)) == LFS_POINTER


def read_value(path: Path, limit: int) -> Any:
    """Return the value of a JSON file.

    Raises:
        UnreadableError: As `read_bounded`; or it is no JSON.
    """
    return parse_json(read_bounded(path, limit))


def parse_json(raw: bytes) -> Any:
    """Return a JSON value.

    Raises:
        UnreadableError: It is none; the text says why.
    """
    try:
        return json.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise UnreadableError(f"not UTF-8 at byte {error.start + 1}") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise UnreadableError(f"not JSON: {error.msg} at {place}") from error
    except RecursionError as error:
        raise UnreadableError("not JSON: nested too deeply") from error
    except ValueError as error:
        raise UnreadableError(f"not JSON: {str(error).split(';')[0]}") from error


def read_mapping(path: Path, limit: int) -> dict[str, Any]:
    """Return the object of a JSON file; empty where it is none or cannot be read."""
    try:
        value = read_value(path, limit)
    except UnreadableError:
        return {}
    return value if isinstance(value, dict) else {}


def iter_lines(path: Path, max_bytes: int) -> Iterator[Line]:
    """Yield the lines of a file, at most 16 MB in memory.

    Args:
        path: A file.
        max_bytes: Where to stop.

    Raises:
        UnreadableError: As `open_regular`.
    """
    number = done = 0
    with open_regular(path) as stream:
        try:
            while done < max_bytes and (raw := stream.readline(MAX_LINE_BYTES + 1)):
                number += 1
                done += len(raw)
                is_too_long = len(raw) > MAX_LINE_BYTES
                yield Line(number, raw, is_too_long)
                if is_too_long and not raw.endswith(b"\n"):
                    while done < max_bytes and (rest := stream.readline(_CHUNK)):
                        done += len(rest)
                        if rest.endswith(b"\n"):
                            break
        except OSError as error:
            raise UnreadableError(_said(error)) from error


def shown(name: str) -> str:
    """Return a name as it can be printed: no control characters, no bytes that are no text."""
    text = _NO_TEXT.sub("\ufffd", name)
    return "".join(letter if letter.isprintable() else "?" for letter in text)
