"""Files that appear whole or not at all."""

import json
import os
import re
import secrets
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

from state.errors import ConfigError, DamagedFileError
from state.log import passed_over

_NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smbfs", "smb3", "afpfs", "webdav", "fuse.sshfs", "9p", "afs", "ceph", "glusterfs"}
)


def fsync_path(path: Path) -> None:
    """Make what a file holds, or a rename inside a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class UnreadableError(Exception):
    """A file is not opened, or cannot be read; the text says why, without the path.

    Args:
        why: The text.
        kind: What a line is, where one line alone is meant (tools/data/rows.py); `binary` where the file is no text.
    """

    def __init__(self, why: str, kind: str = "file") -> None:
        super().__init__(why)
        self.kind = kind


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file; a pipe or a device would never end.

    Raises:
        UnreadableError: It is something else, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise UnreadableError(_why(error)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableError("it is no regular file")
    return os.fdopen(descriptor, "rb")


def _why(error: Exception) -> str:
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
            raise UnreadableError(_why(error)) from error
    if len(raw) > limit:
        raise UnreadableError(f"it has more than {limit:,} bytes")
    return raw


_SIDE = re.compile(r"\..+?(?:\.(\d+))?\.[0-9a-f]{16}")
"""Name of a side file: of what, by which process, and what tells two of them apart; older ones name no process."""


def side_of(path: Path) -> Path:
    """Return a fresh name beside a file for what is to take its place; `sweep` knows whose it is."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(8)}")


def sweep(folder: Path, pattern: str = "") -> None:
    """Delete the side files in a folder whose writers are gone: a kill left them, and nothing will take them up.

    Args:
        folder: Where; one that is not there is as good as clean.
        pattern: Also what this glob matches, for what only the caller writes.
    """
    left = set(folder.glob(pattern)) if pattern else set()
    for path in folder.glob(".*"):
        if (match := _SIDE.fullmatch(path.name)) and not (match[1] and _is_running(int(match[1]))):
            left.add(path)
    for path in left:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # Another user's.
        return True
    return True


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    Raises:
        ConfigError: A device, a pipe or a socket stands there, and would be gone.

    Side effects: creates the parent folder; syncs the file and its folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ConfigError(f"{path} is no regular file and is left as it is; name a file.", where=str(path))
    payload = data.encode() if isinstance(data, str) else data
    side = side_of(path)
    # Not mkstemp: the file is readable to whom the person's umask says.
    descriptor = os.open(side, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        side.replace(path)
    except BaseException:
        side.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, readable and with a final newline."""
    write_atomic(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def tighten(folder: Path) -> int:
    """Make a folder and all that lies in it readable to its owner alone; return how many things were not.

    Side effects: changes modes of what is this user's; what links lead to, or lies elsewhere too, is left.
    """
    tightened = 0
    for above, _, names in os.walk(folder):
        for path in (above, *(os.path.join(above, name) for name in names)):  # noqa: PTH118 - a long campaign has 100,000 files
            with passed_over("mode.not_changed", OSError):
                entry = os.lstat(path)
                is_ours = entry.st_uid == os.getuid() and (stat.S_ISDIR(entry.st_mode) or entry.st_nlink == 1)
                if is_ours and not stat.S_ISLNK(entry.st_mode) and entry.st_mode & 0o077:
                    os.chmod(path, stat.S_IMODE(entry.st_mode) & ~0o077)  # noqa: PTH101 - as above
                    tightened += 1
    return tightened


MOST_BYTES = 1 << 28
"""No JSON file of ours is as large; read, it takes many times its size in memory."""


def read_json(path: Path) -> Any | None:
    """Return a JSON file's value, or None where there is no such file.

    Raises:
        DamagedFileError: The file is not JSON; our own files never are, since they appear whole.
    """
    try:
        size = path.stat().st_size
        value = json.loads(path.read_text(encoding="utf-8")) if size <= MOST_BYTES else None
    except FileNotFoundError:
        return None
    except RecursionError as error:
        raise DamagedFileError(path, "it is nested too deeply") from error
    except ValueError as error:
        raise DamagedFileError(path, f"it is no JSON ({error})") from error
    if size > MOST_BYTES:
        raise DamagedFileError(path, f"it has {size:,} bytes")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """Return a JSON file's object, empty where there is no such file.

    Raises:
        DamagedFileError: The file holds anything else.
    """
    value = read_json(path)
    if isinstance(value, dict) or (value is None and not path.exists()):
        return value or {}
    raise DamagedFileError(path, "it holds no object")


_MOST_DIGITS = 18


def whole_number(digits: str) -> int | str:
    """Return an integer of a stranger's JSON; one that no tool's field holds stays a text, with which none counts."""
    return int(digits) if len(digits) <= _MOST_DIGITS else digits


def json_row(line: str | bytes) -> dict[str, Any] | None:
    """Return the object in a line of JSON lines, None where it holds none: torn by a kill, or damaged."""
    try:
        row = json.loads(line, parse_int=_bounded)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _bounded(digits: str) -> int:
    """Return an integer that the record can hold and a float can tell.

    Raises:
        ValueError: It is none.
    """
    number = int(digits)
    if not -(2**63) <= number < 2**63:
        raise ValueError("no row of ours has so large a number")
    return number


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the rows of one of our own JSON-lines files; a torn line is left out, a missing file is empty."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    # Not splitlines(): it also breaks at U+2028 and U+0085, which JSON text may hold as they are.
    return [row for line in text.split("\n") if (row := json_row(line)) is not None]


def _linux_mounts() -> list[tuple[str, str]]:
    """Return (mount point, file-system type), longest mount point first."""
    mounts = []
    for line in Path("/proc/mounts").read_text().splitlines():
        fields = line.split()
        mounts.append((fields[1].replace("\\040", " "), fields[2]))
    return sorted(mounts, key=lambda mount: -len(mount[0]))


def file_system_type(path: Path) -> str:
    """Return the type of the file system a path is (or would be) on, or an empty string where it cannot be told."""
    existing = path.resolve()
    while not existing.exists():
        existing = existing.parent
    if sys.platform == "linux":
        for point, kind in _linux_mounts():
            if existing.is_relative_to(point):
                return kind
        return ""
    if sys.platform == "darwin":
        command = ["/bin/df", "-T", "nfs,smbfs,afpfs,webdav", str(existing)]
        device = subprocess.run(command, capture_output=True, text=True, check=False)
        return "nfs" if len(device.stdout.splitlines()) > 1 else "apfs"
    return ""


def ensure_local_disk(path: Path) -> None:
    """Refuse a campaign's home on a network file system, where locks and syncs do not hold.

    Raises:
        ConfigError: The path is on a network file system.
    """
    kind = file_system_type(path)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise ConfigError(
            f"The campaign's home {path} is on a network file system ({kind}), where locks do not hold;"
            " choose a local disk with --home or VIGIL_HOME.",
            what="home",
            value=str(path),
            where=str(path),
        )
