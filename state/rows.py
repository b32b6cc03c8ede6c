"""Records to rows and back, and the one JSON image of a row that the journal keeps.

Standard library only. The image is built from the columns without parsing nested JSON, which is canonical already, so
that checking ten thousand rows against their images costs milliseconds.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from state.hashing import canonical_json
from state.tables import Column, Table

Row = dict[str, Any]
"""Column name -> what SQLite holds."""

_FLAGS = {0: "false", 1: "true"}
_NOTHING: Mapping[tuple[str, str], Any] = {}


def finite(value: Any) -> Any:
    """Return a JSON value with `NaN`, `Infinity` and `-Infinity` as words: JSON has no such numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def json_text(value: Any) -> str:
    """Return the canonical JSON text of a nested field; non-finite numbers become words."""
    try:
        return canonical_json(value)
    except ValueError:
        return canonical_json(finite(value))


def encode(table: Table, values: Mapping[str, Any]) -> Row:
    """Return the row of a record's values (`model_dump(mode="python")` or a part of it)."""
    return {name: _encoded(table.column(name), value) for name, value in values.items()}


def _encoded(column: Column, value: Any) -> Any:
    if column.kind == "json":
        return json_text(value)
    if value is None:
        return None
    if column.kind == "flag":
        return int(value)
    return float(value) if column.kind == "real" else value


def decode(table: Table, row: Mapping[str, Any], known: Mapping[tuple[str, str], Any] = _NOTHING) -> dict[str, Any]:
    """Return a record's values from a row; `number` is left out, a column that an older file lacks has its default.

    Args:
        table: Where the row is from.
        row: Its columns.
        known: (column, stored text) -> value, for nested texts that were read before.
    """
    values = {}
    for column in table.columns:
        if column.name not in row:
            values[column.name] = json.loads(column.default or "null")
            continue
        stored = row[column.name]
        place = (column.name, stored)
        values[column.name] = known[place] if column.kind == "json" and place in known else _decoded(column, stored)
    return values


def _decoded(column: Column, stored: Any) -> Any:
    if column.kind == "json":
        return json.loads(stored)
    return bool(stored) if column.kind == "flag" else stored


@cache
def _by_name(table: Table) -> tuple[Column, ...]:
    return tuple(sorted(table.columns, key=lambda each: each.name))


def image(table: Table, row: Mapping[str, Any]) -> str:
    """Return the canonical JSON of a whole row."""
    parts = []
    for column in _by_name(table):
        stored = row[column.name]
        if column.kind == "json":
            text = stored
        elif column.kind == "flag":
            text = _FLAGS.get(stored, json.dumps(stored))
        else:
            text = json.dumps(stored, ensure_ascii=False)
        parts.append(f'"{column.name}":{text}')
    return "{" + ",".join(parts) + "}"


def link(previous: str, entry: tuple[int, float, int, str, str, str, str]) -> str:
    """Return the chain value of a journal row: everything in it, and the chain before it.

    Args:
        previous: Chain value of the row before, empty for the first.
        entry: seq, at, epoch, node, table_name, row_id, row_json.
    """
    seq, at, epoch, node, table, row_id, row_json = entry
    text = "\x1f".join((previous, str(seq), repr(at), str(epoch), node, table, row_id, row_json))
    return hashlib.sha256(text.encode()).hexdigest()
