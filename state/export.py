"""Everything a campaign recorded, as JSON lines: for other programs, and for keeping."""

import json
import sqlite3
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TextIO

from state.journal import Row
from state.paths import CampaignPaths
from state.reading import open_reader
from state.schema import SCHEMA_VERSION, TABLES
from state.text import as_json


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


def header(paths: CampaignPaths) -> dict[str, Any]:
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


def _opened(row: Row) -> dict[str, Any]:
    """Return a journal row with its image as an object; `chain` is over the image's own text, which is canonical."""
    return {**{name: value for name, value in row.items() if name != "row_json"}, "row": json.loads(row["row_json"])}


def _line(stream: TextIO, value: dict[str, Any]) -> int:
    stream.write(as_json(value) + "\n")
    return 1
