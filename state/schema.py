"""The schema of a store: tables by record field, named migrations, the writers' connection, and who may write.

The file's header refuses what is newer or not ours; SQLite's authorizer refuses a write out of scope.

The typed handles cannot write another node's tables; this holds even for SQL that goes round them. SQLite asks the
authorizer when a statement is prepared, and setting another one makes it prepare every cached statement again.
"""

import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from state.errors import CorruptError, LimitExceededError, MigrationError, StoreError

TIMEOUT_S = 30.0
"""How long a writer waits for another one; with `BEGIN IMMEDIATE` 600 competing transactions all went through, the
longest wait 2 s (facts/durability.md section 5)."""

_CORRUPT_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def restore_advice(path: Path) -> str:
    """Return what to do about a store that cannot be trusted."""
    return (
        f"`vigil run --restore FILE` with the campaign's file goes back to the newest verified backup of {path.parent}."
    )


def connect(path: Path | str) -> sqlite3.Connection:
    """Open a file without touching it; `configure` makes the connection durable.

    Threads are allowed because LangGraph may run a node in one; the store serializes them with a lock of its own.
    """
    return sqlite3.connect(path, timeout=TIMEOUT_S, isolation_level=None, check_same_thread=False)


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open read-only; where SQLite may not make the files that WAL needs and nobody writes, as an unchanging file.

    Raises:
        sqlite3.Error: It cannot be opened, or is damaged where every read begins.
    """
    address = path.resolve().as_uri()
    try:
        return _opened(f"{address}?mode=ro")
    except sqlite3.OperationalError:
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size:
            raise
        return _opened(f"{address}?immutable=1")


def _opened(address: str) -> sqlite3.Connection:
    connection = sqlite3.connect(address, uri=True, timeout=TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA query_only=1")
        connection.execute("SELECT count(*) FROM sqlite_master")
    except BaseException:
        connection.close()
        raise
    return connection


def configure(connection: sqlite3.Connection) -> None:
    """Make every commit survive a power cut.

    In WAL mode `synchronous=FULL` lost 0 acknowledged commits in 400 simulated cuts, NORMAL lost 288. On macOS a plain
    fsync leaves data in the drive's cache, hence the two fullfsync settings.
    """
    settings = ["journal_mode=WAL", "synchronous=FULL", "cell_size_check=ON", "trusted_schema=OFF"]
    if sys.platform == "darwin":
        settings += ["fullfsync=1", "checkpoint_fullfsync=1"]
    for setting in settings:
        connection.execute(f"PRAGMA {setting}")


@contextmanager
def spoken_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours; text that is none is damage too. For code that does nothing but read and write.

    Raises:
        CorruptError: The file holds text that is not UTF-8.
        VigilError: As `spoken_sql_errors`.
    """
    with spoken_sql_errors(path):
        try:
            yield
        except UnicodeDecodeError as error:
            raise CorruptError(
                f"The store {path} is damaged ({error}). {restore_advice(path)}", where=str(path)
            ) from error


@contextmanager
def spoken_sql_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours.

    Raises:
        LimitExceededError: The disk is full; nothing of the write was kept.
        CorruptError: SQLite says that the file is damaged.
        StoreError: The file is locked, unwritable or refused the row.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise spoken(error, path) from error


def spoken(error: sqlite3.Error, path: Path) -> StoreError | LimitExceededError:
    """Return our error for one of SQLite's."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return LimitExceededError(
            f"The disk of {path.parent} is full; nothing of the last write was kept. Free some space and run the same"
            " command again.",
            what="disk",
            where=str(path),
        )
    if code in _CORRUPT_CODES or "Could not decode to UTF-8" in str(error):
        return CorruptError(f"The store {path} is damaged ({error}). {restore_advice(path)}", where=str(path))
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreError(
            f"The store {path} stayed locked by another process for {TIMEOUT_S:.0f} s; close whatever has it open.",
            what="lock",
            limit=TIMEOUT_S,
            where=str(path),
        )
    return StoreError(f"The store {path} refused a read or write: {error}.", where=str(path))


APPLICATION_ID = 0x5649474C
"""The letters VIGL in the file's header: this file is a store of ours."""

MIGRATIONS = ("0001_records", "0002_requests_with_payload")
"""Names of the migrations (`state/schema.py`), in order."""

SCHEMA_VERSION = len(MIGRATIONS)
"""`user_version` of the header: how many migrations the file has seen."""

Kind = Literal["text", "integer", "real", "json", "flag"]
"""text, integer, real: as they are. json: canonical JSON text. flag: a boolean as 0 or 1."""

SQL_TYPES: dict[Kind, str] = {"text": "TEXT", "integer": "INTEGER", "real": "REAL", "json": "TEXT", "flag": "INTEGER"}
"""What SQLite calls each kind."""

_KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}


@dataclass(frozen=True)
class Column:
    """One field of a record.

    Args:
        name: The field's name.
        kind: How it is written.
        is_optional: Whether it may be NULL.
        since: Schema version that added it.
        default: What rows written before `since` hold, as JSON text; only where `since` is above 1.
    """

    name: str
    kind: Kind = "text"
    is_optional: bool = False
    since: int = 1
    default: str = ""


@dataclass(frozen=True)
class Table:
    """One kind of record.

    Args:
        name: The table's name.
        key: Column that names a row in the journal and to people.
        columns: Fields in the record's order.
        letter: First letter of the ids that the store gives; empty where the writer names the row.
        unique: Column groups of which no two rows are equal.
        indexes: Column groups that are looked up.
    """

    name: str
    key: str
    columns: tuple[Column, ...]
    letter: str = ""
    unique: tuple[tuple[str, ...], ...] = ()
    indexes: tuple[tuple[str, ...], ...] = ()

    def column(self, name: str) -> Column:
        """Return one column.

        Raises:
            KeyError: There is no such column.
        """
        return {column.name: column for column in self.columns}[name]


def _columns(*specs: str) -> tuple[Column, ...]:
    """Read `name`, `name:kind` and `name:kind?` (may be NULL)."""
    columns = []
    for spec in specs:
        name, _, kind = spec.rstrip("?").partition(":")
        columns.append(Column(name, _KINDS[kind or "text"], is_optional=spec.endswith("?")))
    return tuple(columns)


_CAMPAIGN = Table(
    "campaign",
    "name",
    _columns(
        "name",
        "state",
        "sentence",
        "goal_version:integer",
        "promoted",
        "started_at:real",
        "ended_at:real?",
        "agent_starts:integer",
        "epoch:integer",
    ),
    unique=(("name",),),
)

_GOAL = Table(
    "goal",
    "version",
    _columns("version:integer", "campaign", "file_hash", "spec:json", "difference:json", "recorded_at:real"),
    unique=(("version",),),
)

_BELIEF = Table(
    "belief",
    "id",
    _columns(
        "id",
        "subject",
        "claim",
        "statement",
        "value:json",
        "tag",
        "status",
        "staleness",
        "severity",
        "evidence:json",
        "stands_on:json",
        "premises:json",
        "mode",
        "fix",
        "runbook",
        "formed_at:real",
        "superseded_by",
    ),
    letter="B",
    unique=(("id",),),
    indexes=(("subject", "claim"), ("status",)),
)

_ACTION = Table(
    "action",
    "key",
    _columns(
        "key",
        "kind",
        "decision",
        "inputs:json",
        "state",
        "is_safe_to_retry:flag",
        "side_effects:json",
        "result:json",
        "created_at:real",
        "finished_at:real?",
    ),
    unique=(("key",),),
    indexes=(("decision",), ("state",)),
)

_JOB = Table(
    "job",
    "id",
    _columns(
        "id",
        "key",
        "kind",
        "state",
        "folder",
        "run",
        "supervisor:json",
        "heartbeat_at:real?",
        "step:integer",
        "steps:integer",
        "restarts:integer",
        "exit:json",
        "started_at:real?",
        "finished_at:real?",
    ),
    letter="J",
    unique=(("id",), ("key",)),
)

_RUN = Table(
    "run",
    "id",
    _columns(
        "id",
        "decision",
        "instrument",
        "parent",
        "parent_hash",
        "recipe:json",
        "recipe_hash",
        "data_hash",
        "seed:integer",
        "axis",
        "hypothesis",
        "predicted:json",
        "cost_s_estimate:real",
        "cost_s_actual:real?",
        "adapter",
        "state",
        "bucket:text?",
        "created_at:real",
    ),
    letter="R",
    unique=(("id",),),
    indexes=(("recipe_hash",),),
)

_MEASUREMENT = Table(
    "measurement",
    "id",
    _columns(
        "id",
        "evaluation",
        "run",
        "side",
        "split",
        "use",
        "case",
        "metrics:json",
        "finish_reason",
        "prompt_tokens:integer",
        "output_tokens:integer",
        "grader_error",
        "harness",
        "weights",
        "output_ref",
    ),
    letter="M",
    unique=(("id",), ("evaluation", "split", "use", "case")),
    indexes=(("run", "side", "split", "use"),),
)

_DECISION = Table(
    "decision",
    "id",
    _columns(
        "id",
        "rule",
        "sentence",
        "action",
        "action_key",
        "action_inputs:json",
        "run",
        "bucket:text?",
        "premises:json",
        "alternatives:json",
        "prediction:json",
        "verdict:json",
        "goal_version:integer",
        "needs:text?",
        "made_at:real",
    ),
    letter="D",
    unique=(("id",),),
    indexes=(("action_key",), ("run",)),
)

_COMMITMENT = Table(
    "commitment",
    "id",
    _columns("id", "decision", "will", "when", "implies:json", "cancelled_by", "status", "closed_by", "made_at:real"),
    letter="C",
    unique=(("id",),),
    indexes=(("status",),),
)

_APPROVAL = Table(
    "approval",
    "id",
    _columns(
        "id",
        "kind",
        "decision",
        "question",
        "asked_at:real",
        "deadline_at:real?",
        "unanswered",
        "answer:text?",
        "answered_by",
        "reason",
        "answered_at:real?",
    ),
    letter="Q",
    unique=(("id",), ("kind", "decision")),
)

_REQUEST = Table(
    "request",
    "id",
    (
        *_columns("id", "kind", "target", "by", "reason", "made_at:real", "applied_at:real?", "outcome"),
        Column("payload", "json", since=2, default="{}"),
    ),
    letter="X",
    unique=(("id",),),
    indexes=(("applied_at",),),
)

_META = Table("meta", "name", _columns("name", "value"), unique=(("name",),))

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        _CAMPAIGN,
        _GOAL,
        _BELIEF,
        _ACTION,
        _JOB,
        _RUN,
        _MEASUREMENT,
        _DECISION,
        _COMMITMENT,
        _APPROVAL,
        _REQUEST,
        _META,
    )
}
"""Every table whose rows the journal holds an image of."""

JOURNAL_COLUMNS = ("seq", "at", "epoch", "node", "table_name", "row_id", "row_json", "chain")
"""The journal: one row per write, each chained to the one before."""

WRITERS: dict[str, frozenset[str]] = {
    "knowing": frozenset({"belief", "measurement"}),
    "doing": frozenset({"action", "job"}),
    "deciding": frozenset({"run", "decision", "commitment"}),
    "agent": frozenset({"campaign", "goal", "approval", "request"}),
}
"""Who writes what (design section 2); `request` rows come from other processes, the agent fills in their outcome."""


Authorizer = Callable[[int, str | None, str | None, str | None, str | None], int]

_HARMLESS = frozenset(
    {
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_RECURSIVE,
        sqlite3.SQLITE_TRANSACTION,
        sqlite3.SQLITE_SAVEPOINT,
    }
)

_READING_PRAGMAS = frozenset({"table_info", "table_xinfo", "index_list", "index_info", "index_xinfo", "data_version"})

_TABLES: dict[str, frozenset[str]] = {**WRITERS, "lease": frozenset({"meta", "campaign"}), "": frozenset()}
"""Node -> what it writes; `lease` is the moment of taking over, the empty name is reading."""


def authorizer(node: str) -> Authorizer:
    """Return the rule for one node: its own tables may grow and change, the journal may grow, nothing is ever deleted.

    Raises:
        KeyError: There is no such node.
    """
    own = _TABLES[node]
    growing = own | {"journal"} if own else own

    def rule(action: int, first: str | None, _second: str | None, _database: str | None, _trigger: str | None) -> int:
        if action in _HARMLESS:
            is_allowed = True
        elif action == sqlite3.SQLITE_INSERT:
            is_allowed = first in growing
        elif action == sqlite3.SQLITE_UPDATE:
            is_allowed = first in own
        else:
            is_allowed = action == sqlite3.SQLITE_PRAGMA and first in _READING_PRAGMAS
        return sqlite3.SQLITE_OK if is_allowed else sqlite3.SQLITE_DENY

    return rule


def check_header(connection: sqlite3.Connection, path: Path) -> int:
    """Return the schema version of a file, 0 for an empty one.

    Raises:
        CorruptError: The file is a database of something else, or its header was changed.
        MigrationError: A newer Vigil wrote the file.
    """
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    is_empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if is_empty and application_id == 0 and version == 0:
        return 0
    if application_id != APPLICATION_ID:
        raise CorruptError(
            f"{path} is not a store of Vigil: its header says {application_id:#x}, not {APPLICATION_ID:#x}."
            f" {restore_advice(path)}",
            what="application_id",
            value=application_id,
            where=str(path),
        )
    if version > SCHEMA_VERSION:
        raise MigrationError(
            f"{path} was written by a newer Vigil (schema {version}, this one knows {SCHEMA_VERSION}); use that one."
            f" Where none was used, its header is damaged: {restore_advice(path)}",
            what="user_version",
            value=version,
            limit=SCHEMA_VERSION,
            where=str(path),
        )
    if version != (applied := _migrated(connection)):
        raise CorruptError(
            f"The store {path} is damaged: its header says schema {version}, and it was brought to {applied}."
            f" {restore_advice(path)}",
            what="user_version",
            value=version,
            where=str(path),
        )
    return version


def _migrated(connection: sqlite3.Connection) -> int:
    """Return how many migrations a file has seen, 0 where it does not say."""
    named = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = '_sqlite_migrations'").fetchone()[0]
    return int(connection.execute("SELECT count(*) FROM _sqlite_migrations").fetchone()[0]) if named else 0


def migrations() -> Any:
    """Return the named migrations; sqlite-utils is imported here, so that readers never pay for it."""
    from sqlite_utils.migrations import Migrations

    steps = Migrations("vigil")

    @steps(name=MIGRATIONS[0])  # type: ignore[untyped-decorator]  # sqlite-utils has no types here
    def records(database: Any) -> None:
        for table in TABLES.values():
            _create(database, table)
        _create_journal(database)

    @steps(name=MIGRATIONS[1])  # type: ignore[untyped-decorator]  # sqlite-utils has no types here
    def requests_with_payload(database: Any) -> None:
        add_column(database, TABLES["request"], TABLES["request"].column("payload"))
        # What stands is asked for far more often than history, and a claim may have been revised a million times.
        database.execute("CREATE INDEX belief_standing ON belief (subject, claim) WHERE superseded_by = ''")
        database.execute("CREATE INDEX belief_assumed ON belief (number) WHERE tag = 'assumed' AND superseded_by = ''")

    return steps


def migrate(connection: sqlite3.Connection, path: Path, steps: Any = None) -> None:
    """Bring a file to this version's schema, in one transaction with its version.

    Raises:
        LimitExceededError: The disk is full; the file is as it was.
        MigrationError: A migration failed; the file is as it was.
    """
    from sqlite_utils import Database

    connection.execute("BEGIN IMMEDIATE")
    try:
        (steps or migrations()).apply(Database(connection))
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        connection.rollback()
        if (spoken_error := spoken(error, path)).what == "disk":
            raise spoken_error from error
        raise MigrationError(
            f"{path} could not be brought to schema {SCHEMA_VERSION}: {error}. It is as it was before.",
            where=str(path),
        ) from error


def _create(database: Any, table: Table) -> None:
    """Create one table as version 1 had it; later columns come with their own migration."""
    columns = [column for column in table.columns if column.since == 1]
    database[table.name].create(
        {"number": "INTEGER", **{column.name: SQL_TYPES[column.kind] for column in columns}},
        pk="number",
        not_null={column.name for column in columns if not column.is_optional},
        strict=True,
    )
    for group in table.unique:
        database[table.name].create_index(list(group), unique=True)
    for group in table.indexes:
        database[table.name].create_index(list(group))
    if table.name == "belief":
        # Held by the file itself, whatever a writer forgets: one fresh belief per claim.
        database.execute("CREATE UNIQUE INDEX belief_one_fresh ON belief (subject, claim) WHERE status = 'fresh'")


def _create_journal(database: Any) -> None:
    types = {"seq": int, "at": float, "epoch": int}
    names = ("seq", "at", "epoch", "node", "table_name", "row_id", "row_json", "chain")
    database["journal"].create(
        {name: types.get(name, str) for name in names}, pk="seq", not_null=set(names), strict=True
    )
    database["journal"].create_index(["table_name", "row_id", "seq"])


def add_column(database: Any, table: Table, column: Column) -> None:
    """Add a later version's column, with its default in every row there is."""
    database[table.name].add_column(
        column.name, SQL_TYPES[column.kind], not_null_default=None if column.is_optional else column.default
    )
