"""The ledger of cases: which were opened to confirm a run, and which were ever trained or selected on, by any campaign.

One SQLite file, private to its owner. Its rows are journal rows (`state/journal.py`): chained by hash, never changed,
and checked whole at every opening. A set of cases is stored once, under the hash of what it holds. A file that is gone
or falls short of what somebody knows it held is said to be so: an empty ledger would give back alpha that is spent.
What a row means is for `policies/ledger.py`.
"""

import hashlib
import json
import os
import sqlite3
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from state.errors import CorruptError
from state.hashing import canonical_json
from state.journal import Head, HeadFile, head_of, link, verify_chain, verify_head
from state.schema import configure, connect, connect_to_read, spoken_sql_errors

WIDTH = 8
"""Bytes of a case's hash: among 1e8 cases one in 1e11 is taken for another."""

_RESET = "reset"
_LOST = "lost"
"""Rows that are gone no longer count; those that are there do."""

Json = dict[str, Any]


def case_hash(turns: Iterable[str], reference: str) -> bytes:
    """Return the identity of a case: its prompt and reference answer, up to white space.

    Args:
        turns: What was said before the answer.
        reference: The answer; empty where there is none.
    """
    turns_said = [" ".join(text.split()) for text in (*turns, reference)]
    return hashlib.sha256(canonical_json(turns_said).encode("utf-8", "surrogatepass")).digest()[:WIDTH]


@dataclass(frozen=True)
class CaseSet:
    """Hashes of cases, sorted, in one string of bytes."""

    packed: bytes

    @classmethod
    def of(cls, hashes: Iterable[bytes]) -> "CaseSet":
        """Return the set of some hashes."""
        return cls(b"".join(sorted(set(hashes))))

    @property
    def digest(self) -> str:
        """Name of the set: the hash of what it holds."""
        return hashlib.sha256(self.packed).hexdigest()[:24]

    def __len__(self) -> int:
        return len(self.packed) // WIDTH

    def __iter__(self) -> Iterator[bytes]:
        return (case for (case,) in struct.iter_unpack(f"{WIDTH}s", self.packed))

    def __contains__(self, case: bytes) -> bool:
        place = bisect_left(range(len(self)), case, key=self._at)
        return place < len(self) and self._at(place) == case

    def _at(self, place: int) -> bytes:
        return self.packed[place * WIDTH : (place + 1) * WIDTH]


@dataclass(frozen=True)
class Entry:
    """One row.

    Args:
        at: Unix seconds.
        kind: `opening`, `used` or `reset`.
        key: What it is about; at most one row of a kind has it.
        body: Fields of that kind, with `sets`: name -> digest of a set of cases.
    """

    at: float
    kind: str
    key: str
    body: Json


class Ledger:
    """The rows of an open ledger; `open_ledger` gives one."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path

    @property
    def head(self) -> Head:
        """Return the newest row by number and chain: what the ledger must still hold later."""
        return head_of(self._connection)

    def entries(self) -> list[Entry]:
        """Return what counts, oldest first: everything since a person reset the ledger last."""
        rows = self._all()
        last = max((place for place, row in enumerate(rows) if row.kind == _RESET), default=-1)
        return rows[last + 1 :]

    def resets(self) -> list[Entry]:
        """Return when a person reset it and why, oldest first."""
        return [row for row in self._all() if row.kind in {_RESET, _LOST}]

    def _all(self) -> list[Entry]:
        rows = self._connection.execute("SELECT at, table_name, row_id, row_json FROM journal ORDER BY seq")
        return [Entry(at, kind, key, json.loads(body)) for at, kind, key, body in rows]

    def cases(self, name: str) -> CaseSet:
        """Return a set of cases.

        Raises:
            CorruptError: It is missing, or not what was written.
        """
        row = self._connection.execute("SELECT packed FROM cases WHERE digest = ?", (name,)).fetchone()
        case_set = CaseSet(bytes(row[0])) if row else None
        if case_set is None or case_set.digest != name:
            raise _damaged(self.path, f"the set of cases {name} is {'missing' if row is None else 'another one'}")
        return case_set

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold off every other writer until the end, where all is kept, or nothing if an error passes through."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        self._note_head()

    def _note_head(self) -> None:
        kept = HeadFile(head_file(self.path), self.path)
        kept.write(self.head)
        kept.close()

    def add(self, entry: Entry, sets: Mapping[str, CaseSet], writer: str) -> None:
        """Append a row and the sets that it names, unless a row of its kind and key is there.

        Args:
            entry: The row; `sets` is added to its body.
            sets: Name -> cases.
            writer: Who writes, such as the home of a campaign.
        """
        if any((row.kind, row.key) == (entry.kind, entry.key) for row in self.entries()):
            return
        for each in sets.values():
            self._connection.execute("INSERT OR IGNORE INTO cases VALUES (?, ?)", (each.digest, each.packed))
        body = {**entry.body, "sets": {name: each.digest for name, each in sets.items()}}
        last = self.head
        row = (last.seq + 1, float(entry.at), 0, writer, entry.kind, entry.key, canonical_json(body))
        self._connection.execute("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, link(last.chain, row)))

    def verify(self, known: Iterable[Head]) -> None:
        """Check that each row follows from the one before, and that the rows which somebody saw are there.

        Raises:
            CorruptError: They are not, and no reset on record gave them up.
        """
        verify_chain(self._connection, self.path)
        given_up = {mark for row in self.resets() for mark in row.body.get("gives_up", ())}
        for head in known:
            if _mark(head) not in given_up:
                verify_head(self._connection, self.path, head)


def head_file(path: Path) -> Path:
    """Return where the newest row is kept, by number and chain, beside a ledger."""
    return path.with_suffix(".head")


@contextmanager
def open_ledger(path: Path, known: Iterable[Head] = (), *, is_writing: bool = False) -> Iterator[Ledger]:
    """Open a ledger and check all its rows; one that nobody has ever written to is empty.

    Args:
        path: The file.
        known: Rows that it must hold, as campaigns saw them.
        is_writing: Make it where there is none, and let rows be added.

    Raises:
        CorruptError: It is damaged, or gone though something was written to it.
        LimitExceededError: The disk is full.
        StoreError: It is locked or cannot be written.
    """
    # Read before the ledger is, which only grows.
    beside = HeadFile.read(head_file(path))
    marks = [head for head in (*known, *([beside] if beside else ())) if head.seq]
    if not path.exists() and marks:
        raise _damaged(path, f"it is gone, and held at least {max(marks).seq} rows")
    with _spoken(path), spoken_sql_errors(path), closing(_connected(path, is_writing=is_writing)) as connection:
        # A kill may have left it without its tables, before its first row.
        if not marks and not _has_tables(connection):
            _create(connection)
        ledger = Ledger(connection, path)
        ledger.verify(marks)
        yield ledger


def _has_tables(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def _connected(path: Path, *, is_writing: bool) -> sqlite3.Connection:
    """Open the file; to read what has no table yet, an empty database in memory takes its place."""
    if not is_writing:
        connection = connect_to_read(path) if path.exists() and path.stat().st_size else connect(":memory:")
        if _has_tables(connection):
            return connection
        connection.close()
        return connect(":memory:")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # SQLite gives its log the mode of the file.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = connect(path)
    configure(connection)
    return connection


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS journal (seq INTEGER PRIMARY KEY, at REAL NOT NULL, epoch INTEGER NOT NULL,"
        " node TEXT NOT NULL, table_name TEXT NOT NULL, row_id TEXT NOT NULL, row_json TEXT NOT NULL,"
        " chain TEXT NOT NULL) STRICT"
    )
    connection.execute("CREATE TABLE IF NOT EXISTS cases (digest TEXT PRIMARY KEY, packed BLOB NOT NULL) STRICT")
    connection.execute("COMMIT")


def reset(path: Path, known: Iterable[Head], entry: Entry, writer: str) -> tuple[str, Path | None]:
    """Let what was opened and used so far no longer count, on record; a damaged file is set aside first.

    Where the ledger itself is sound and only lacks what a home saw, that alone is given up: what it holds counts still.

    Args:
        path: The ledger.
        known: Rows that it should hold, as a home saw them.
        entry: Who and why; its kind and what it gives up are filled in.
        writer: As `Ledger.add`.

    Returns:
        `reset`, or `lost` where only lost rows were given up, and the folder with the damaged files, if any.
    """
    beside, marks = HeadFile.read(head_file(path)), [*known]
    kind, moved = _RESET, None
    if not _is_sound(path, marks):
        if path.exists() and _is_sound(path, ()):
            kind = _LOST
        else:
            moved = _set_aside(path, entry.at)
            marks += [beside] if beside else []
        entry = replace(entry, body={**entry.body, "gives_up": sorted(_mark(head) for head in marks)})
    with open_ledger(path, is_writing=True) as ledger, ledger.writing():
        ledger.add(replace(entry, kind=kind, key=f"{kind}:{ledger.head.seq + 1}"), {}, writer)
    return kind, moved


def _is_sound(path: Path, known: Iterable[Head]) -> bool:
    try:
        with open_ledger(path, known):
            return True
    except CorruptError:
        return False


def _set_aside(path: Path, at: float) -> Path:
    folder = path.with_name(f"{path.stem}-damaged-{int(at)}")
    folder.mkdir(mode=0o700, exist_ok=True)
    # The head last: killed in between, the ledger is gone and known to be so.
    for name in (f"{path.name}-wal", f"{path.name}-shm", path.name, head_file(path).name):
        if (part := path.with_name(name)).exists():
            part.replace(folder / name)
    return folder


def _mark(head: Head) -> str:
    return f"{head.seq}:{head.chain}"


@contextmanager
def _spoken(path: Path) -> Iterator[None]:
    """Let damage of any kind end with what a person does about a ledger."""
    try:
        yield
    except CorruptError as error:
        raise _damaged(path, str(error.value or error.__cause__ or error.sentence)) from error


def _damaged(path: Path, fault: str) -> CorruptError:
    return CorruptError(
        f"The ledger of opened cases {path} is damaged or lost: {fault}. It says how much of alpha is spent, so nothing"
        " is confirmed without it. Put the file back from a copy, or, where there is none, begin a new one on record:"
        " `vigil ledger --reset --reason WHY`; what was opened before then no longer counts.",
        what="ledger",
        value=fault,
        where=str(path),
        runbook="runbooks/campaign_file.md#ledger",
    )
