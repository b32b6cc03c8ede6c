"""Tables of the store: one column per record field, and how each field is written.

Standard library only, since reading commands import it. Scalars have their own type, everything nested is canonical
JSON text. Each table also has `number`, the row's place in order of writing; an id is the table's letter and that
number. `tests/state/test_tables.py` holds the columns against the records.
"""

from dataclasses import dataclass
from typing import Literal, get_args

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
