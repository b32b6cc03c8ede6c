"""Identities of values, files and folders: SHA-256, hexadecimal."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN.

    Raises:
        ValueError: The value holds NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def hash_json(value: Any) -> str:
    """Return the hash of a JSON value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def hash_bytes(data: bytes) -> str:
    """Return the hash of bytes."""
    return hashlib.sha256(data).hexdigest()


def short(whole: str) -> str:
    """Return the first 12 digits, for people and folder names."""
    return whole[:12]


class HashCache:
    """Remembers content hashes by (device, inode, size, mtime, ctime), so unchanged gigabytes are read once.

    ctime is in the key because mtime can be set back by anyone; ctime cannot.
    """

    def __init__(self, known: dict[str, str] | None = None) -> None:
        self._known: dict[str, str] = dict(known or {})

    def get(self, stat: os.stat_result) -> str | None:
        """Return the hash of a file last seen with this identity."""
        return self._known.get(_key(stat))

    def put(self, stat: os.stat_result, value: str) -> None:
        """Remember a hash."""
        self._known[_key(stat)] = value

    def dump(self) -> dict[str, str]:
        """Return a JSON form to keep between starts."""
        return dict(self._known)


def _key(stat: os.stat_result) -> str:
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"


def hash_file(path: Path, cache: HashCache | None = None) -> str:
    """Return the hash of a file's content, streamed.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        before = os.fstat(stream.fileno())
        if cache is not None and (known := cache.get(before)) is not None:
            return known
        hasher = hashlib.sha256()
        while chunk := stream.read(_CHUNK):
            hasher.update(chunk)
        # A file that changed while it was read has no hash worth remembering.
        if cache is not None and _key(os.fstat(stream.fileno())) == _key(before):
            cache.put(before, hasher.hexdigest())
    return hasher.hexdigest()


def hash_tree(
    folder: Path,
    cache: HashCache | None = None,
    include: Callable[[str], bool] | None = None,
) -> str:
    """Return the hash of a folder: relative names and contents, dotfiles left out, order fixed.

    Args:
        folder: Root of the tree.
        cache: Known content hashes.
        include: Which relative names count; all by default.
    """
    entries = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in name.split("/")) or not path.is_file():
            continue
        if include is None or include(name):
            entries[name] = hash_file(path, cache)
    return hash_json(entries)
