"""What other processes may write: requests, which the holder of the campaign applies.

`vigil approve`, `reject`, `stop` and the web page come this way. They need no lease and touch no other table; a row
enters the journal when the holder has dealt with it.
"""

import sqlite3

from state.connection import configure, connect, spoken_errors
from state.errors import NotFoundError
from state.paths import CampaignPaths
from state.records import Request
from state.rows import encode
from state.schema import check_header
from state.tables import TABLES


def insert_request(paths: CampaignPaths, request: Request) -> Request:
    """Leave a request for the campaign's holder.

    Returns:
        The request with its id.

    Raises:
        NotFoundError: There is no such campaign.
        MigrationError: A newer Vigil wrote the store.
        StoreError: The store cannot be written.
        LimitExceededError: The disk is full.
    """
    if not paths.db.exists():
        raise NotFoundError(
            f"There is no campaign {paths.name} in {paths.home}.",
            what="campaign",
            value=paths.name,
            where=str(paths.home),
        )
    with spoken_errors(paths.db):
        connection = connect(paths.db)
        try:
            check_header(connection, paths.db)
            configure(connection)
            return _insert(connection, request)
        finally:
            connection.close()


def _insert(connection: sqlite3.Connection, request: Request) -> Request:
    table = TABLES["request"]
    connection.execute("BEGIN IMMEDIATE")
    number = int(connection.execute("SELECT coalesce(max(number), 0) + 1 FROM request").fetchone()[0])
    given = request.model_copy(update={"id": f"{table.letter}{number}", "applied_at": None, "outcome": ""})
    row = {"number": number, **encode(table, given.model_dump(mode="json"))}
    names = ", ".join(f'"{name}"' for name in row)
    marks = ", ".join("?" for _ in row)
    connection.execute(f"INSERT INTO request ({names}) VALUES ({marks})", tuple(row.values()))  # noqa: S608 - our own names
    connection.execute("COMMIT")
    return given
