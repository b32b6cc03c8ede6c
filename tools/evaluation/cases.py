"""Evaluation cases and training rows with their line numbers; users wrote these files, so nothing is skipped."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from state.errors import ConfigError


@dataclass(frozen=True)
class Split:
    """The cases of one split for one use."""

    name: str
    use: str
    cases: tuple[dict[str, Any], ...]

    @property
    def key(self) -> str:
        """`split.use`, the name of its scores."""
        return f"{self.name}.{self.use}"


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, row) of a JSON-lines file; blank lines are passed over.

    Raises:
        ConfigError: The file is missing, not UTF-8, or a line is not a JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}); correct the path.", what="data", where=str(path)
        ) from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"{path}, line {number} is not JSON; correct or remove it.", what="data", where=f"{path}:{number}"
            ) from error
        if not isinstance(row, dict):
            raise ConfigError(
                f"{path}, line {number} is not a JSON object; correct or remove it.",
                what="data",
                where=f"{path}:{number}",
            )
        yield number, row


def read_split(spec: dict[str, Any]) -> Split:
    """Read the cases of one split row `{"name", "use", "file", "case_ids"}`, in file order.

    Raises:
        ConfigError: As `read_rows`; a case without an id, an id used twice, a wanted id that is not there, no cases.
    """
    path = Path(spec["file"])
    by_id: dict[str, dict[str, Any]] = {}
    for number, row in read_rows(path):
        name = str(row.get("id", ""))
        if not name or name in by_id:
            fault = f"repeats the id {name}" if name else "has no id"
            raise ConfigError(
                f"{path}, line {number} {fault}; give every case an id of its own.", where=f"{path}:{number}", what="id"
            )
        by_id[name] = row
    wanted = by_id.keys() if spec.get("case_ids") is None else [str(name) for name in spec["case_ids"]]
    missing = [name for name in wanted if name not in by_id]
    if missing or not wanted:
        fault = f"lacks case {missing[0]}" if missing else "has no cases"
        raise ConfigError(f"{path} {fault}; correct the file or the campaign's splits.", what="split", where=str(path))
    return Split(str(spec["name"]), str(spec["use"]), tuple(by_id[name] for name in wanted))
