"""What other processes may write: requests, which the holder of the campaign applies.

`vigil approve`, `reject`, `stop` and the web page come this way. They need no lease and touch no other table; a row
enters the journal when the holder has dealt with it.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from state.connection import configure, connect, connect_to_read, spoken_errors
from state.errors import MigrationError
from state.paths import CampaignPaths
from state.reading import open_reader
from state.records import Request
from state.rows import encode
from state.schema import check_header
from state.tables import SCHEMA_VERSION, TABLES


def insert_request(paths: CampaignPaths, request: Request) -> Request:
    """Leave a request for the campaign's holder.

    Returns:
        The request with its id.

    Raises:
        NotFoundError: There is no such campaign.
        CorruptError: The store is damaged; nothing was written.
        MigrationError: A newer Vigil wrote the store, or an older one that has no place for this request.
        StoreError: The store cannot be written.
        LimitExceededError: The disk is full.
    """
    # A writer drops what it cannot read of a damaged log; whoever only asks for something must not.
    open_reader(paths).close()
    with spoken_errors(paths.db):
        connection = connect(paths.db)
        try:
            version = check_header(connection, paths.db)
            _refuse_lost(request, version, paths.db)
            configure(connection)
            return _insert(connection, request, version)
        finally:
            connection.close()


def last_request(paths: CampaignPaths) -> int:
    """Return the number of the newest request; 0 before there is one, or where the store cannot be read yet."""
    if not paths.db.exists():
        return 0
    try:
        # Read-only: a writer drops what it cannot read of a damaged log.
        with closing(connect_to_read(paths.db)) as connection:
            return int(connection.execute("SELECT coalesce(max(number), 0) FROM request").fetchone()[0])
    except (sqlite3.Error, UnicodeError):
        # A store that has no tables yet; a damaged one is told by whoever opens it.
        return 0


def _refuse_lost(request: Request, version: int, path: Path) -> None:
    """Refuse a request that a store of an older version has no column for."""
    if request.payload and version < TABLES["request"].column("payload").since:
        raise MigrationError(
            f"{path} was written by an older Vigil; run vigil run FILE once, which brings it up to date, then repeat"
            " this command.",
            what="user_version",
            value=version,
            limit=SCHEMA_VERSION,
            where=str(path),
        )


def _insert(connection: sqlite3.Connection, request: Request, version: int) -> Request:
    table = TABLES["request"]
    connection.execute("BEGIN IMMEDIATE")
    number = int(connection.execute("SELECT coalesce(max(number), 0) + 1 FROM request").fetchone()[0])
    given = request.model_copy(update={"id": f"{table.letter}{number}", "applied_at": None, "outcome": ""})
    values = encode(table, given.model_dump(mode="json"))
    row = {"number": number, **{name: value for name, value in values.items() if table.column(name).since <= version}}
    names = ", ".join(f'"{name}"' for name in row)
    marks = ", ".join("?" for _ in row)
    connection.execute(f"INSERT INTO request ({names}) VALUES ({marks})", tuple(row.values()))  # noqa: S608 - our own names
    connection.execute("COMMIT")
    return given
