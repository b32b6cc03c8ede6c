"""What SQLite asks of the disk, in order: a file system of its own kind (VFS) put before the real one.

Every write, cut, sync and removal goes through to the real file and onto a list. Needs an interpreter whose `sqlite3`
loads SQLite as a shared library, as those of Debian, Homebrew and pyenv do; `library()` is None elsewhere.
"""

import _sqlite3
import ctypes
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, Structure, addressof, byref, c_char_p, c_int, c_int64, c_void_p, memmove, sizeof
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

_OK = 0

_Open = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_Delete = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_Write = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Truncate = CFUNCTYPE(c_int, c_void_p, c_int64)
_Sync = CFUNCTYPE(c_int, c_void_p, c_int)


class _Vfs(Structure):
    """struct sqlite3_vfs, version 3."""

    _fields_: ClassVar = [
        ("version", c_int),
        ("file_size", c_int),
        ("longest_path", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        ("open", c_void_p),
        ("delete", c_void_p),
        ("others", c_void_p * 16),
    ]


class _Methods(Structure):
    """struct sqlite3_io_methods, version 3."""

    _fields_: ClassVar = [
        ("version", c_int),
        ("close", c_void_p),
        ("read", c_void_p),
        ("write", c_void_p),
        ("truncate", c_void_p),
        ("sync", c_void_p),
        ("others", c_void_p * 13),
    ]


class _File(Structure):
    """struct sqlite3_file, which every file system's own begins with."""

    _fields_: ClassVar = [("methods", POINTER(_Methods))]


@dataclass(frozen=True)
class Event:
    """One thing asked of the disk, or told to whoever asked for a write."""

    kind: Literal["write", "truncate", "sync", "delete", "acknowledged"]
    name: str = ""
    """File name without its folder."""
    offset: int = 0
    """Of a write; the new size of a truncation."""
    data: bytes = b""
    number: int = 0
    """What was acknowledged; for a removal, whether the folder was synced."""


def library() -> Any | None:
    """Return the SQLite that this interpreter uses, None where it cannot be reached."""
    path = getattr(_sqlite3, "__file__", None)
    if path is None:
        return None
    found = ctypes.CDLL(path)
    try:
        found.sqlite3_vfs_find.restype = c_void_p
        found.sqlite3_libversion.restype = c_char_p
    except AttributeError:
        return None
    return found if found.sqlite3_libversion().decode() == sqlite3.sqlite_version else None


class Recorder:
    """The list, and the callbacks that fill it; use `recording`.

    Args:
        sqlite: From `library`.
    """

    def __init__(self, sqlite: Any) -> None:
        self.events: list[Event] = []
        self._names: dict[int, str] = {}
        self._real_of: dict[int, _Methods] = {}
        self._patched: dict[int, _Methods] = {}
        self._plain: dict[int, _Methods] = {}
        self._real = _Vfs.from_address(sqlite.sqlite3_vfs_find(None))
        self._open = _Open(self._on_open)
        self._delete = _Delete(self._on_delete)
        self._write, self._truncate, self._sync = _Write(self._on_write), _Truncate(self._on_cut), _Sync(self._on_sync)
        self.vfs = _Vfs()
        memmove(addressof(self.vfs), addressof(self._real), sizeof(_Vfs))
        self.vfs.name = b"recorder"
        self.vfs.next = None
        self.vfs.open, self.vfs.delete = _address(self._open), _address(self._delete)

    def acknowledged(self, number: int) -> None:
        """Note that a write has returned to whoever asked for it."""
        self.events.append(Event("acknowledged", number=number))

    def _on_open(self, vfs: int, name: int | None, file: int, flags: int, out: int | None) -> int:
        answer = int(_Open(self._real.open)(vfs, name, file, flags, out))
        if answer == _OK and name:
            methods = _File.from_address(file).methods
            key = addressof(methods.contents)
            if key not in self._patched:
                self._plain[key] = _copied(methods.contents)
                patched = self._patched[key] = _copied(methods.contents)
                patched.write, patched.truncate = _address(self._write), _address(self._truncate)
                patched.sync = _address(self._sync)
            self._names[file] = Path(ctypes.string_at(name).decode()).name
            self._real_of[file] = self._plain[key]
            _File.from_address(file).methods = ctypes.pointer(self._patched[key])
        return answer

    def _on_delete(self, vfs: int, name: bytes, is_synced: int) -> int:
        answer = int(_Delete(self._real.delete)(vfs, name, is_synced))
        if answer == _OK:
            self.events.append(Event("delete", Path(name.decode()).name, number=is_synced))
        return answer

    def _on_write(self, file: int, data: int, size: int, offset: int) -> int:
        answer = int(_Write(self._real_of[file].write)(file, data, size, offset))
        if answer == _OK:
            self.events.append(Event("write", self._names[file], offset, ctypes.string_at(data, size)))
        return answer

    def _on_cut(self, file: int, size: int) -> int:
        answer = int(_Truncate(self._real_of[file].truncate)(file, size))
        if answer == _OK:
            self.events.append(Event("truncate", self._names[file], size))
        return answer

    def _on_sync(self, file: int, flags: int) -> int:
        answer = int(_Sync(self._real_of[file].sync)(file, flags))
        if answer == _OK:
            self.events.append(Event("sync", self._names[file]))
        return answer


def _address(function: Callable[..., int]) -> int | None:
    return ctypes.cast(function, c_void_p).value  # type: ignore[arg-type]  # a C function pointer


def _copied(methods: _Methods) -> _Methods:
    copy = _Methods()
    memmove(addressof(copy), addressof(methods), sizeof(_Methods))
    return copy


@contextmanager
def recording() -> Iterator[Recorder]:
    """Record what every connection opened meanwhile asks of the disk; all must be closed before the end.

    Raises:
        RuntimeError: This interpreter's SQLite cannot be reached.
    """
    sqlite = library()
    if sqlite is None:
        raise RuntimeError("this interpreter's SQLite cannot be reached")
    recorder = Recorder(sqlite)
    sqlite.sqlite3_vfs_register(byref(recorder.vfs), 1)
    try:
        yield recorder
    finally:
        sqlite.sqlite3_vfs_unregister(byref(recorder.vfs))
        # The real one is the default again.
        sqlite.sqlite3_vfs_register(byref(recorder._real), 1)
