"""Reading a campaign: records for who holds it, and for any process, while its holder writes or after it died.

The library that writes is not imported, so that `vigil status` does not pay for it (house conventions, command line).
A file is opened read-only and `query_only`; nothing here can change it. It is verified like the holder does at start: a
row that is not what was written is never shown. `export` writes everything on record as JSON lines: for other programs,
and for keeping.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from state.backup import acknowledged, verify_readable, with_offer
from state.errors import CorruptError, NotFoundError
from state.journal import AnyRecord, Head, Row, Rows, decode, records
from state.paths import CampaignPaths
from state.records import (
    Action,
    ActionState,
    Approval,
    Belief,
    Campaign,
    Commitment,
    Decision,
    GoalVersion,
    Job,
    Measurement,
    Request,
    Run,
)
from state.schema import SCHEMA_VERSION, TABLES, connect_to_read, restore_advice, spoken_errors
from state.text import as_json

Values = dict[str, Any]
"""A record as a JSON object."""


def open_reader(paths: CampaignPaths) -> "Reader":
    """Open a campaign for reading, checked from end to end: what is shown of it is what was written.

    Raises:
        NotFoundError: There is no such campaign.
        MigrationError: A newer Vigil wrote it.
        CorruptError: The file is damaged, lost some of its writes, or is not ours.
    """
    # Before the store: it only grows, so whoever writes meanwhile raises no false alarm.
    known = acknowledged(paths)
    if not paths.db.exists() and known is None:
        raise _no_campaign(paths)
    with with_offer(paths), spoken_errors(paths.db):
        if not paths.db.exists() or paths.db.stat().st_size == 0:
            if known is None:
                raise NotFoundError(
                    f"The campaign {paths.name} has not begun, or {paths.db} was emptied; `vigil run FILE` begins it,"
                    " or says how to restore it.",
                    what="campaign",
                    where=str(paths.db),
                )
            raise CorruptError(
                f"The store {paths.db} is gone or empty. {restore_advice(paths.db)}", where=str(paths.db)
            )
        connection = connect_to_read(paths.db)
        try:
            version = _verified(connection, paths, known)
        except BaseException:
            connection.close()
            raise
    if version == 0:
        connection.close()
        raise NotFoundError(f"The campaign {paths.name} has not begun.", what="campaign", where=str(paths.db))
    return Reader(connection, paths.db)


def _no_campaign(paths: CampaignPaths) -> NotFoundError:
    known = [each.name for each in campaign_folders(paths.home)]
    there = f" There are: {', '.join(known)}." if known else " There are none yet; `vigil run FILE` starts one."
    return NotFoundError(
        f"There is no campaign {paths.name} in {paths.home}.{there}",
        what="campaign",
        value=paths.name,
        where=str(paths.home),
    )


_verified_as: dict[Path, tuple[tuple[object, ...], int]] = {}
"""A store -> its files as they were when it was found sound, and its schema version: who looks on looks every second.
"""


def _verified(connection: sqlite3.Connection, paths: CampaignPaths, known: Head | None) -> int:
    """Check a store as one moment of it, unless nothing was written since this process last did."""
    files = tuple(_stamp(paths.db.with_name(paths.db.name + suffix)) for suffix in ("", "-wal"))
    stamp = (*files, known)
    if _verified_as.get(paths.db, (None, 0))[0] == stamp:
        return _verified_as[paths.db][1]
    connection.execute("BEGIN")
    try:
        version = verify_readable(connection, paths, known)
    finally:
        connection.execute("ROLLBACK")
    _verified_as[paths.db] = (stamp, version)
    return version


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def campaign_folders(home: Path) -> list[Path]:
    """Return the folders of a home that hold a campaign, by name."""
    return sorted({file.parent for name in ("state.db", "journal.head") for file in home.glob(f"*/{name}")})


Reading = Callable[[], AbstractContextManager[Rows]]
"""Gives the connection for the time of one read."""

_NEVER: tuple[None, None] = (None, None)


class Views:
    """Every record of the campaign, in the order of writing.

    Args:
        reading: Gives access to the rows.
        is_only_writer: No other process changes the rows, so beliefs that were read need not be read again.
    """

    def __init__(self, reading: Reading, *, is_only_writer: bool) -> None:
        self._reading = reading
        self._is_only_writer = is_only_writer
        self._changes: int | None = None
        self._known: dict[int, tuple[Row, Belief]] = {}
        self._beliefs: list[Belief] = []

    def find(self, kind: type[AnyRecord], /, **equals: object) -> list[AnyRecord]:
        """Return the records whose fields have these values; None asks for nothing."""
        with self._reading() as rows:
            return rows.find(kind, **equals)

    def one(self, kind: type[AnyRecord], /, **equals: object) -> AnyRecord:
        """Return the first record whose fields have these values.

        Raises:
            NotFoundError: There is none.
        """
        with self._reading() as rows:
            return rows.one(kind, **equals)

    def campaign(self) -> Campaign:
        """Return the campaign row.

        Raises:
            NotFoundError: The campaign has not begun.
        """
        return self.one(Campaign)

    def goals(self) -> list[GoalVersion]:
        """Return every version of the goal."""
        return self.find(GoalVersion)

    def beliefs(self) -> list[Belief]:
        """Return all beliefs, superseded ones too.

        A visit asks for them many times over, and of ten thousand a few have changed: only those whose row differs from
        the one read last are built anew.
        """
        with self._reading() as rows:
            if not self._is_only_writer or rows.changes is None or rows.changes != self._changes:
                now = rows.select("SELECT * FROM belief ORDER BY number")
                fresh = [row for row in now if self._known.get(row["number"], _NEVER)[0] != row]
                built = zip(fresh, records(Belief, fresh), strict=True)
                self._known |= {row["number"]: (row, belief) for row, belief in built}
                self._beliefs = [self._known[row["number"]][1] for row in now]
                self._changes = rows.changes
            return list(self._beliefs)

    def all_standing(self) -> list[Belief]:
        """Return what is now believed, whatever its status; what was superseded is left out."""
        return [belief for belief in self.beliefs() if not belief.superseded_by]

    def belief(self, belief_id: str) -> Belief:
        """Return one belief.

        Raises:
            NotFoundError: There is none.
        """
        return self.one(Belief, id=belief_id)

    def actions(self, state: ActionState | None = None) -> list[Action]:
        """Return actions."""
        return self.find(Action, state=state)

    def jobs(self) -> list[Job]:
        """Return jobs."""
        return self.find(Job)

    def runs(self) -> list[Run]:
        """Return runs."""
        return self.find(Run)

    def measurements(self) -> list[Measurement]:
        """Return measured cases."""
        return self.find(Measurement)

    def decisions(self) -> list[Decision]:
        """Return decisions."""
        return self.find(Decision)

    def decision(self, decision_id: str) -> Decision:
        """Return one decision.

        Raises:
            NotFoundError: There is none.
        """
        return self.one(Decision, id=decision_id)

    def commitments(self) -> list[Commitment]:
        """Return commitments."""
        return self.find(Commitment)

    def approvals(self) -> list[Approval]:
        """Return questions."""
        return self.find(Approval)

    def requests(self) -> list[Request]:
        """Return what other processes asked for."""
        return self.find(Request)


class Reader:
    """A campaign, open for reading.

    Args:
        connection: A read-only connection.
        place: The file, for messages.
    """

    def __init__(self, connection: sqlite3.Connection, place: Path) -> None:
        self._connection = connection
        self._place = place
        self.records = Views(self._rows, is_only_writer=False)

    @contextmanager
    def _rows(self) -> Iterator[Rows]:
        with spoken_errors(self._place):
            yield Rows(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let all reads inside see one moment, however much the holder writes meanwhile."""
        with spoken_errors(self._place):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("ROLLBACK")

    def select(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Values]:
        """Return the rows of a query as SQLite holds them.

        Raises:
            CorruptError: The file is damaged.
            StoreError: SQLite refused.
        """
        with self._rows() as rows:
            return rows.select(sql, parameters)

    def table(self, name: str, **equals: Any) -> list[Values]:
        """Return a table's records in the order of writing, JSON decoded; None asks for nothing.

        Raises:
            KeyError: There is no such table or column.
        """
        with self._rows() as rows:
            return [decode(TABLES[name], row) for row in rows.stored(TABLES[name], **equals)]

    def _one(self, name: str, **equals: Any) -> Values:
        rows = self.table(name, **equals)
        if not rows:
            known = [str(row[TABLES[name].key]) for row in self.table(name)]
            span = f"; they go from {known[0]} to {known[-1]}" if known else "; there are none yet"
            wanted = " ".join(str(value) for value in equals.values())
            raise NotFoundError(f"There is no {name} {wanted}{span}.", what=name, value=wanted, where=str(self._place))
        return rows[0]

    def campaign(self) -> Values:
        """Return the campaign row.

        Raises:
            NotFoundError: The campaign has not begun.
        """
        rows = self.table("campaign")
        if not rows:
            raise NotFoundError("The campaign has not begun.", what="campaign", where=str(self._place))
        return rows[0]

    def goal(self, version: int | None = None) -> Values:
        """Return one version of the goal, the one in force by default.

        Raises:
            NotFoundError: There is no such version.
        """
        return self._one("goal", version=self.campaign()["goal_version"] if version is None else version)

    def goals(self) -> list[Values]:
        """Return every version of the goal."""
        return self.table("goal")

    def beliefs(self, subject: str | None = None, status: str | None = None, tag: str | None = None) -> list[Values]:
        """Return beliefs, superseded ones too unless a status is asked for."""
        return self.table("belief", subject=subject, status=status, tag=tag)

    def beliefs_about(
        self,
        prefix: str = "",
        *,
        statuses: tuple[str, ...] = (),
        is_assumed: bool = False,
        with_history: bool = False,
        most: int = -1,
    ) -> list[Values]:
        """Return the beliefs about subjects that begin so, by indexes alone, however many others there are.

        Args:
            prefix: How the subject begins; empty asks for all.
            statuses: Only these; empty asks for all.
            is_assumed: Only those without grounding.
            with_history: Also what was superseded.
            most: So many of them; below 0 all.
        """
        conditions, parameters = [], []
        if not with_history:
            conditions.append("superseded_by = ''")
        if prefix:
            # The last character there is ends the range of all that begin so.
            conditions.append("subject >= ? AND subject < ?")
            parameters += [prefix, prefix + chr(0x10FFFF)]
        if statuses:
            conditions.append(f"status IN ({', '.join('?' * len(statuses))})")
            parameters += statuses
        if is_assumed:
            conditions.append("tag = 'assumed'")
        which = " AND ".join(conditions) or "1"
        rows = self.select(f"SELECT * FROM belief WHERE {which} LIMIT ?", (*parameters, most))  # noqa: S608 - our own words
        rows.sort(key=lambda row: row["number"])
        return [decode(TABLES["belief"], row) for row in rows]

    def belief_counts(self) -> list[Values]:
        """Return how many beliefs stand by status and tag: `status`, `tag`, `n`."""
        return self.select(
            "SELECT status, tag, count(*) AS n FROM belief WHERE superseded_by = '' GROUP BY status, tag"
            " ORDER BY status, tag"
        )

    def refuted_ever(self) -> list[Values]:
        """Return the beliefs that were refuted at some time, as they first were; mended ones too."""
        rows = self.select(
            "SELECT row_id, row_json, at FROM journal WHERE table_name = 'belief'"
            """ AND instr(row_json, '"status":"refuted"') > 0 ORDER BY seq"""
        )
        first: dict[str, Values] = {}
        for row in rows:
            belief = json.loads(row["row_json"])
            if belief["status"] == "refuted":
                first.setdefault(row["row_id"], {**belief, "refuted_at": row["at"]})
        return list(first.values())

    def belief(self, belief_id: str) -> Values:
        """Return one belief.

        Raises:
            NotFoundError: There is none.
        """
        return self._one("belief", id=belief_id)

    def decisions(self) -> list[Values]:
        """Return decisions."""
        return self.table("decision")

    def runs(self) -> list[Values]:
        """Return runs."""
        return self.table("run")

    def jobs(self) -> list[Values]:
        """Return jobs."""
        return self.table("job")

    def actions(self) -> list[Values]:
        """Return actions."""
        return self.table("action")

    def approvals(self, *, pending: bool = False) -> list[Values]:
        """Return questions, all or those without an answer."""
        return [row for row in self.table("approval") if not (pending and row["answer"])]

    def commitments(self, status: str | None = None) -> list[Values]:
        """Return commitments, all or those of one status."""
        return self.table("commitment", status=status)

    def requests(self) -> list[Values]:
        """Return what other processes asked for."""
        return self.table("request")

    def measurements(
        self,
        evaluation: str | None = None,
        run: str | None = None,
        side: str | None = None,
        split: str | None = None,
        use: str | None = None,
    ) -> list[Values]:
        """Return measured cases."""
        return self.table("measurement", evaluation=evaluation, run=run, side=side, split=split, use=use)

    def measurement_counts(self) -> list[Values]:
        """Return one row per evaluation, split and use: evaluation, run, side, split, use and `n`, its cases."""
        return self.select(
            "SELECT evaluation, run, side, split, use, count(*) AS n FROM measurement"
            " GROUP BY evaluation, run, side, split, use ORDER BY min(number)"
        )


def export(paths: CampaignPaths, stream: TextIO) -> int:
    """Write every row of every table, then the journal, as one moment of the campaign.

    The first line is a header with versions; each other line is `{"table": name, "row": {...}}`.

    Returns:
        How many rows were written, the header aside.

    Raises:
        NotFoundError: There is no such campaign.
        CorruptError: The file is damaged.
    """
    with open_reader(paths) as reader, reader.snapshot():
        _line(stream, header(paths))
        count = 0
        for name in TABLES:
            for row in reader.table(name):
                count += _line(stream, {"table": name, "row": row})
        for row in reader.select("SELECT * FROM journal ORDER BY seq"):
            count += _line(stream, {"table": "journal", "row": _opened(row)})
    return count


def header(paths: CampaignPaths) -> Values:
    """Return the first line: which campaign, and which versions wrote it."""
    try:
        own = version("vigil")
    except PackageNotFoundError:
        own = "unknown"
    return {
        "export": "vigil",
        "campaign": paths.name,
        "vigil": own,
        "schema": SCHEMA_VERSION,
        "sqlite": sqlite3.sqlite_version,
    }


def _opened(row: Row) -> Values:
    """Return a journal row with its image as an object; `chain` is over the image's own text, which is canonical."""
    return {**{name: value for name, value in row.items() if name != "row_json"}, "row": json.loads(row["row_json"])}


def _line(stream: TextIO, value: Values) -> int:
    stream.write(as_json(value) + "\n")
    return 1
