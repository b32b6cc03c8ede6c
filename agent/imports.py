"""Runs made elsewhere, as a table of them or as single adapters: read and checked here, believed as assumed.

A table is CSV (comma, semicolon or tab, as the header has it) or JSON lines. Nothing in it is a measurement of ours:
its beliefs are about `imported:NAME`, which no rule of the planner reads, so they count neither toward exhaustion nor
for a verdict until the campaign has measured the adapter itself.
"""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Any, get_args

from state.errors import ConfigError
from state.hashing import hash_bytes, hash_file
from state.records import Belief, Evidence, Fingerprint, Instrument, Json
from tools.models.identity import ADAPTER_FILES, HeaderError, read_header, read_object
from tools.training.recipe import Recipe

SUBJECT = "imported:"
"""How the subject of an imported run begins."""

_MOST_BYTES = 20_000_000
_MOST_ROWS = 5_000
_LONGEST_NAME = 80
_DEEPEST = 4
_INSTRUMENTS = get_args(Instrument)
_OURS = {
    "name": "name",
    "run": "name",
    "run_name": "name",
    "instrument": "instrument",
    "train_mode": "instrument",
    "adapter": "adapter",
    "adapter_path": "adapter",
}
"""Column as people and trackers call it -> ours."""
_RECIPE = {
    **{key: key for key in Recipe.model_fields},
    **{key: f"lora_parameters.{key}" for key in ("rank", "scale", "dropout")},
    "lr": "learning_rate",
}
_NESTED_RECIPE = ("lora_parameters.", "optimizer_config.", "lr_schedule.")
_WRAPPERS = ("recipe.", "config.", "params.", "metrics.", "summary.")
"""Heads that trackers put before keys and metrics."""
_EMPTY = frozenset({"", "nan", "null", "none", "n/a"})


def read_table(path: Path, splits: Iterable[str]) -> Json:
    """Read a table of past runs.

    Args:
        path: CSV or JSON lines, UTF-8. Relative adapter paths start from its folder.
        splits: Names of the campaign's splits; a column `split.metric` is a score.

    Returns:
        `file`, `sha256`, `rows` (line, name, instrument, recipe, metrics, adapter, other) and `kept`: columns that are
        kept as they are, since they are no key that we know.

    Raises:
        ConfigError: The table cannot be read as one; the sentence names the line.
    """
    path = path.expanduser().absolute()
    data = _bytes(path)
    text = _text(path, data)
    known = tuple(splits)
    rows: list[Json] = []
    kept: dict[str, None] = {}
    lines: dict[str, int] = {}
    for line, cells in _lines(path, text):
        row = _row(path, line, cells, known, kept)
        if row["name"] in lines:
            raise _refusal(path, line, f"the name {row['name']!r} is that of line {lines[row['name']]} too; rename one")
        lines[row["name"]] = line
        rows.append(row)
        if len(rows) > _MOST_ROWS:
            raise _refusal(path, line, f"a table has at most {_MOST_ROWS:,} runs; split it")
    if not rows:
        raise _refusal(path, None, "the table has no runs; write a header and one row per run")
    if not any(row["metrics"] or row["adapter"] for row in rows):
        example = f"{known[0]}.accuracy" if known else "split.metric"
        raise _refusal(path, None, f"no run has a score (a column such as {example}) or an adapter")
    return {"file": str(path), "sha256": hash_bytes(data), "rows": rows, "kept": list(kept)}


def read_adapter(path: Path, name: str = "") -> Json:
    """Read what an adapter folder says of itself.

    Returns:
        `adapter`: name, path, files (name -> hash), and config: the keys of its recipe.

    Raises:
        ConfigError: It is not a complete adapter folder.
    """
    path = path.expanduser().absolute()
    missing = [each for each in ADAPTER_FILES if not (path / each).is_file()]
    if missing:
        raise ConfigError(
            f"{path} lacks {' and '.join(missing)}; name an mlx-lm adapter folder.", what="adapter", where=str(path)
        )
    try:
        read_header(path / "adapters.safetensors")
    except HeaderError as error:
        raise ConfigError(
            f"{path / 'adapters.safetensors'} cannot be read as safetensors: {error}; copy it again.",
            what="adapter",
            where=str(path),
        ) from error
    called = _name(path, None, name or path.name)
    return {"adapter": {"name": called, **_adapter(str(path), path)}}


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise ConfigError(f"There is no file {path}; check the path.", what="table", where=str(path))
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise _refusal(path, None, f"the file has {size:,} bytes; a table of runs has at most {_MOST_BYTES:,}")
    return path.read_bytes()


def _text(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise _refusal(path, line, "this is not UTF-8 text; save the table as UTF-8") from error


def _refusal(path: Path, line: int | None, sentence: str) -> ConfigError:
    where = path.name if line is None else f"{path.name}:{line}"
    return ConfigError(f"{where}: {sentence}; nothing was imported.", what="table", where=where)


def _lines(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield (line, cells by column) of either form."""
    return _json_lines(path, text) if text.lstrip()[:1] in {"{", "["} else _csv_lines(path, text)


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, written in enumerate(text.split("\n"), start=1):
        if not written.strip():
            continue
        try:
            row = json.loads(written)
        except (ValueError, RecursionError) as error:
            raise _refusal(path, line, "this line is no JSON object; write one object per line") from error
        if not isinstance(row, dict):
            raise _refusal(path, line, "this line is no JSON object; write one object per line")
        yield line, dict(_flat(path, line, row))


def _flat(path: Path, line: int, row: Mapping[str, Any], head: str = "", depth: int = 1) -> Iterator[tuple[str, Any]]:
    if depth > _DEEPEST:
        raise _refusal(path, line, f"{head.rstrip('.')} is nested deeper than {_DEEPEST} levels")
    for key, value in row.items():
        if isinstance(value, dict):
            yield from _flat(path, line, value, f"{head}{key}.", depth + 1)
        else:
            yield f"{head}{key}", value


def _csv_lines(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    first = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = _header(path, cells)
                continue
            if len(cells) != len(header):
                said = f"this row has {len(cells)} cells, the header {len(header)}"
                raise _refusal(path, reader.line_num, said)
            yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise _refusal(path, reader.line_num, f"this row cannot be read as CSV ({error})") from error


def _header(path: Path, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if twice or "" in names:
        what = f"two columns are called {twice[0]!r}" if twice and twice[0] else "a column has no name"
        raise _refusal(path, 1, f"{what}; correct the header")
    return names


def _row(path: Path, line: int, cells: Mapping[str, Any], splits: tuple[str, ...], kept: dict[str, None]) -> Json:
    """Sort one run's cells into what they are."""
    row: Json = {"line": line, "recipe": {}, "metrics": {}, "other": {}}
    given: dict[str, Any] = {}
    for column, value in cells.items():
        if str(value).strip().lower() in _EMPTY:
            continue
        family, key = _place(path, line, column, splits)
        if family == "ours":
            given[key] = value
        elif family == "metrics":
            row["metrics"][key] = _score(path, line, column, value)
        else:
            row[family][key] = _value(value)
            if family == "other":
                kept[column] = None
    if "name" not in given:
        raise _refusal(path, line, "this run has no name; give the table a column name")
    row["name"] = _name(path, line, str(given["name"]))
    row["instrument"] = _instrument(path, line, given.get("instrument"))
    written = str(given.get("adapter") or "")
    row["adapter"] = _adapter(written, (path.parent / Path(written).expanduser()).resolve()) if written else {}
    return row


def _place(path: Path, line: int, column: str, splits: tuple[str, ...]) -> tuple[str, str]:
    """Return what a column is (ours, recipe, metrics, other) and its key."""
    key = column.strip().replace("/", ".")
    for wrapper in _WRAPPERS:
        key = key.removeprefix(wrapper)
    word = key.lower().replace(" ", "_").replace("-", "_")
    if word in _OURS:
        return "ours", _OURS[word]
    if word in _RECIPE:
        return "recipe", _RECIPE[word]
    if key.startswith(_NESTED_RECIPE):
        return "recipe", key
    split, _, metric = key.partition(".")
    if metric and split in splits:
        return "metrics", key
    near = get_close_matches(split, splits, n=1, cutoff=0.7) if metric else []
    if near:
        raise _refusal(path, line, f"the column {column!r} names no split of the campaign, which has {near[0]!r}")
    return "other", column.strip()


def _score(path: Path, line: int, column: str, value: Any) -> float:
    try:
        score = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise _refusal(
            path, line, f"{value!r} in the column {column!r} is no number; leave it empty where none is known"
        )
    return score


def _value(value: Any) -> Any:
    """Return a recipe's or a tracker's cell as the JSON value that it writes."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if not isinstance(value, str):
        return value
    text = value.strip()
    for reading in (int, float):
        try:
            number = reading(text)
        except ValueError:
            continue
        return number if math.isfinite(number) else text
    return {"true": True, "false": False}.get(text.lower(), text)


def _name(path: Path, line: int | None, given: str) -> str:
    name = " ".join(given.split())
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise _refusal(path, line, f"a name is 1 to {_LONGEST_NAME} printable characters")
    return name


def _instrument(path: Path, line: int, given: Any) -> str:
    if given is None:
        return ""
    word = str(given).strip().lower()
    if word not in _INSTRUMENTS:
        said = f"{given!r} is none of {', '.join(_INSTRUMENTS)}; leave the cell empty"
        raise _refusal(path, line, said)
    return word


def _adapter(written: str, path: Path) -> Json:
    """Return an adapter's path with the hashes of its files; none where it is not on this disk."""
    is_here = all((path / name).is_file() for name in ADAPTER_FILES)
    files = {name: hash_file(path / name) for name in ADAPTER_FILES} if is_here else {}
    config = read_object(path / "adapter_config.json") if is_here else {}
    known = {key: config[key] for key in sorted(config) if key in Recipe.model_fields}
    return {"written": written, "path": str(path), "files": files, "config": known}


def beliefs_of(payload: Json, now: float) -> list[Belief]:
    """Return what an import makes believed, every belief assumed.

    Args:
        payload: From `read_table` or `read_adapter`.
        now: Unix seconds.
    """
    if "adapter" in payload:
        return [_adapter_belief(payload["adapter"]["name"], payload["adapter"], now)]
    found = []
    for row in payload["rows"]:
        found.append(_scored(payload, row, now))
        found += [_adapter_belief(row["name"], row["adapter"], now)] if row["adapter"] else []
    return found


def _scored(payload: Json, row: Json, now: float) -> Belief:
    """Return what a table says of one run."""
    recipe = ", ".join(f"{key} {value}" for key, value in row["recipe"].items())
    how = "; ".join(each for each in (row["instrument"], recipe) if each)
    scores = ", ".join(f"{key} {value:g}" for key, value in row["metrics"].items())
    said = f"scored {scores} elsewhere" if scores else "was run elsewhere, its score is not known"
    place = f"Line {row['line']} of {Path(payload['file']).name}."
    return Belief(
        subject=f"{SUBJECT}{row['name']}",
        claim="scored",
        statement=f"{row['name']}{f' ({how})' if how else ''} {said}; nothing of it was measured here.",
        value={key: row[key] for key in ("instrument", "recipe", "metrics", "other")},
        tag="assumed",
        evidence=(
            Evidence(
                kind="file",
                ref=payload["file"],
                summary=place,
                detail={"line": row["line"], "sha256": payload["sha256"]},
            ),
        ),
        stands_on=(Fingerprint(kind="file", name=payload["file"], value=payload["sha256"]),),
        fix=_to_confirm(row["adapter"]),
        formed_at=now,
    )


def _adapter_belief(name: str, adapter: Json, now: float) -> Belief:
    """Return that an adapter was trained elsewhere."""
    files: Mapping[str, str] = adapter["files"]
    where = f"is at {adapter['path']}" if files else f"is not at {adapter['path']}"
    return Belief(
        subject=f"{SUBJECT}{name}",
        claim="adapter",
        statement=f"The adapter of {name} {where}; it was trained elsewhere and not measured here.",
        value={key: adapter[key] for key in ("path", "files", "config")},
        tag="assumed",
        evidence=(
            Evidence(
                kind="file",
                ref=adapter["path"],
                summary="Its two files were hashed." if files else "The folder has no adapter.",
                detail={"files": dict(files)},
            ),
        ),
        stands_on=tuple(
            Fingerprint(kind="file", name=str(Path(adapter["path"]) / each), value=digest)
            for each, digest in files.items()
        ),
        fix=_to_confirm(adapter),
        formed_at=now,
    )


def _to_confirm(adapter: Json) -> str:
    if not adapter:
        return "Its adapter is not named; train the recipe here to confirm it."
    first = "" if adapter["files"] else f"put the adapter at {adapter['path']}, then "
    said = (
        f"{first}set model.adapter to {adapter['path']} in the campaign file and run: it is measured beside the base."
    )
    return said[0].upper() + said[1:]
