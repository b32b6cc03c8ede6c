"""Reading a campaign from any process, while its holder writes or after it died: plain dictionaries.

Standard library only, so that `vigil status` pays for no imports (house conventions, command line). The file is opened
read-only and `query_only`; nothing here can change it. It is verified like the holder does at start: a row that is not
what was written is never shown.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from state.backup import acknowledged, verify_readable, with_offer
from state.errors import CorruptError, NotFoundError
from state.journal import Head, decode
from state.paths import CampaignPaths
from state.schema import TABLES, connect_to_read, restore_advice, spoken_errors

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


_seen: dict[Path, tuple[tuple[object, ...], int]] = {}
"""A store -> its files as they were when it was found sound, and its schema version: who looks on looks every second.
"""


def _verified(connection: sqlite3.Connection, paths: CampaignPaths, known: Head | None) -> int:
    """Check a store as one moment of it, unless nothing was written since this process last did."""
    files = tuple(_stamp(paths.db.with_name(paths.db.name + suffix)) for suffix in ("", "-wal"))
    stamp = (*files, known)
    if _seen.get(paths.db, (None, 0))[0] == stamp:
        return _seen[paths.db][1]
    connection.execute("BEGIN")
    try:
        version = verify_readable(connection, paths, known)
    finally:
        connection.execute("ROLLBACK")
    _seen[paths.db] = (stamp, version)
    return version


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def campaign_folders(home: Path) -> list[Path]:
    """Return the folders of a home that hold a campaign, by name."""
    return sorted({file.parent for name in ("state.db", "journal.head") for file in home.glob(f"*/{name}")})


class Reader:
    """A campaign, open for reading.

    Args:
        connection: A read-only connection.
        place: The file, for messages.
    """

    def __init__(self, connection: sqlite3.Connection, place: Path) -> None:
        self._connection = connection
        self._place = place

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
        with spoken_errors(self._place):
            cursor = self._connection.execute(sql, parameters)
            names = [field[0] for field in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    def table(self, name: str, **equals: Any) -> list[Values]:
        """Return a table's records in the order of writing, JSON decoded; None asks for nothing.

        Raises:
            KeyError: There is no such table or column.
        """
        table = TABLES[name]
        asked = {key: value for key, value in equals.items() if value is not None}
        where = " AND ".join(f'"{table.column(key).name}" = ?' for key in asked) or "1"
        rows = self.select(f'SELECT * FROM "{name}" WHERE {where} ORDER BY number', tuple(asked.values()))  # noqa: S608 - our own names
        return [decode(table, row) for row in rows]

    def _one(self, name: str, **equals: Any) -> Values:
        found = self.table(name, **equals)
        if not found:
            known = [str(row[TABLES[name].key]) for row in self.table(name)]
            span = f"; they go from {known[0]} to {known[-1]}" if known else "; there are none yet"
            wanted = " ".join(str(value) for value in equals.values())
            raise NotFoundError(f"There is no {name} {wanted}{span}.", what=name, value=wanted, where=str(self._place))
        return found[0]

    def campaign(self) -> Values:
        """Return the campaign row.

        Raises:
            NotFoundError: The campaign has not begun.
        """
        found = self.table("campaign")
        if not found:
            raise NotFoundError("The campaign has not begun.", what="campaign", where=str(self._place))
        return found[0]

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
        asked, parameters = [], []
        if not with_history:
            asked.append("superseded_by = ''")
        if prefix:
            # The last character there is ends the range of all that begin so.
            asked.append("subject >= ? AND subject < ?")
            parameters += [prefix, prefix + chr(0x10FFFF)]
        if statuses:
            asked.append(f"status IN ({', '.join('?' * len(statuses))})")
            parameters += statuses
        if is_assumed:
            asked.append("tag = 'assumed'")
        which = " AND ".join(asked) or "1"
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

    def decision(self, decision_id: str) -> Values:
        """Return one decision.

        Raises:
            NotFoundError: There is none.
        """
        return self._one("decision", id=decision_id)

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
