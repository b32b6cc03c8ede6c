"""The campaign file: YAML in, a validated `Goal` out, and each mistake told in one sentence with its line.

Paths stay as written; they are relative to the folder of the file (`LoadedCampaign.folder`). Whether they exist, and
whether the data are readable, is for `agent/checks.py`. A file is bounded before it is built: 1 MB, few aliases, little
nesting, so that a hostile file costs no memory.
"""

import datetime as dt
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agent import mistakes
from state.errors import ConfigError
from state.goal import Goal, problems
from state.hashing import canonical_json, hash_bytes

_MAX_BYTES = 1_000_000
_MAX_ALIASES = 20
"""Twenty aliases can multiply a file by about 1,500, no more; nobody needs more in a campaign file."""
_MAX_DEPTH = 40
_STANDARD = "tag:yaml.org,2002:"
_TAGS = frozenset({"", "!", "str", "int", "float", "bool", "null", "map", "seq"})
"""What a value may be tagged as; YAML libraries build anything else from code, or refuse it."""
_MAX_NODES = 100_000
_EXPONENT = re.compile(r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
"""A number such as `1e-5`, which YAML 1.1 readers and quotes turn into text."""

_SWITCHES = {"yes": True, "on": True, "no": False, "off": False}
"""Words that switch a key."""

Loc = tuple[str | int, ...]
"""Keys from the top of the file to a place, as pydantic's `loc`."""


RUNBOOK = "runbooks/campaign_file.md"


@dataclass(frozen=True)
class LoadedCampaign:
    """A campaign file as read.

    Args:
        goal: What it asks for, defaults filled in.
        path: The file, absolute.
        file_hash: Hash of its bytes.
        lines: Line (from 1) of each key path in the file.
    """

    goal: Goal
    path: Path
    file_hash: str
    lines: Mapping[Loc, int] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Folder that relative paths of the campaign start from."""
        return self.path.parent

    def resolve(self, name: str) -> Path:
        """Return a path of the campaign as an absolute one."""
        return (self.folder / Path(name).expanduser()).resolve()

    def has(self, key: str) -> bool:
        """Say whether a key, with those above it, is written in the file under that very name."""
        return tuple(key.split(".")) in self.lines

    def where(self, *loc: str | int) -> str:
        """Return `file:line` of a key, or of the nearest key above it."""
        return mistakes.place(self.path.name, self.lines, loc)

    def refusal(self, sentence: str, *loc: str | int, part: str = "") -> ConfigError:
        """Return what is wrong at a key as an error to raise; its runbook is a part of the campaign file's page."""
        where = self.where(*loc)
        return ConfigError(f"{where}: {sentence}", what=".".join(map(str, loc)), where=where, runbook=RUNBOOK + part)


def load_campaign(path: Path, *, needs_pairs: bool = True) -> LoadedCampaign:
    """Read and validate a campaign file.

    Args:
        path: The YAML file.
        needs_pairs: Whether dpo asks for `data.pairs`; not while they are being built.

    Raises:
        ConfigError: The file is missing, is not YAML, or says something that cannot be; one sentence with the line,
            the key, what is wrong and what would be right.
    """
    path = path.expanduser().absolute()
    raw = _read(path)
    lines: dict[Loc, int] = {}
    spec = _plain(path, _parse(path, raw), lines)
    goal = _validate(path, spec, lines, needs_pairs=needs_pairs)
    return LoadedCampaign(goal=goal, path=path, file_hash=hash_bytes(raw), lines=lines)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return any YAML mapping as plain values, under the same bounds as a campaign file.

    Raises:
        ConfigError: The file is missing or is no YAML mapping.
    """
    return read_yaml_with_lines(path)[0]


def read_yaml_with_lines(path: Path) -> tuple[dict[str, Any], dict[Loc, int]]:
    """Return any YAML mapping as `read_yaml`, and the line (from 1) of each of its key paths.

    Raises:
        ConfigError: As `read_yaml`.
    """
    lines: dict[Loc, int] = {}
    return dict(_plain(path, _parse(path, _read(path)), lines)), lines


def _refusal(path: Path, line: int | None, sentence: str, *, what: str = "") -> ConfigError:
    where = path.name if line is None else f"{path.name}:{line}"
    return ConfigError(f"{where}: {sentence}", what=what, where=where, runbook=RUNBOOK)


def _read(path: Path) -> bytes:
    """Return the file's bytes.

    Raises:
        ConfigError: It is not a readable file, or larger than a campaign file can be.
    """
    if not path.exists():
        raise ConfigError(f"There is no file {path}; check the path.", what="file", where=str(path))
    if not path.is_file():
        raise ConfigError(f"{path} is not a file; name a YAML file.", what="file", where=str(path))
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise _refusal(path, None, f"the file has {size:,} bytes; such a file has at most {_MAX_BYTES:,}.")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); check its permissions.", what="file", where=str(path)
        ) from error


def _parse(path: Path, raw: bytes) -> Any:
    """Return the file as ruamel's tree, whose nodes know their lines.

    Raises:
        ConfigError: It is not UTF-8, not YAML, or too deep or too repetitive to be a campaign.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise _refusal(path, line, f"byte {error.start} is not UTF-8 text; save the file as UTF-8.") from error
    try:
        _bound(path, YAML(typ="safe", pure=True).parse(text))
        tree = YAML(typ="rt", pure=True).load(text)
    except YAMLError as error:
        raise _syntax_refusal(path, error) from error
    except (ValueError, RecursionError) as error:
        raise _refusal(path, None, f"the file is not readable YAML ({error}).") from error
    if not isinstance(tree, dict):
        found = "empty" if tree is None else "not a mapping of keys to values"
        raise _refusal(path, None, f"the file is {found}; it starts with a key, such as `campaign: NAME`.")
    return tree


def _bound(path: Path, events: Iterator[Any]) -> None:
    """Walk the event stream, which expands nothing, and refuse what would explode when built."""
    aliases = depth = 0
    for nodes, event in enumerate(events):
        kind = type(event).__name__
        line = event.start_mark.line + 1
        aliases += kind == "AliasEvent"
        depth += kind in {"MappingStartEvent", "SequenceStartEvent"}
        depth -= kind in {"MappingEndEvent", "SequenceEndEvent"}
        if aliases > _MAX_ALIASES:
            raise _refusal(path, line, f"more than {_MAX_ALIASES} YAML aliases (`*name`); write the values out.")
        if depth > _MAX_DEPTH:
            raise _refusal(path, line, f"values are nested more than {_MAX_DEPTH} deep; a campaign file is flat.")
        tag = str(getattr(event, "tag", None) or "")
        if tag.removeprefix(_STANDARD) not in _TAGS:
            said = tag.replace(_STANDARD, "!!")[:60]
            raise _refusal(
                path, line, f"`{said}` asks for more than plain values, which no reader here makes; drop it."
            )
        if nodes > _MAX_NODES:
            raise _refusal(path, line, f"more than {_MAX_NODES:,} values; a campaign file is small.")


def _syntax_refusal(path: Path, error: Any) -> ConfigError:
    """Say a YAML error in one sentence."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark is not None else None
    problem = " ".join(str(getattr(error, "problem", "") or error).split("\n")[0].split())
    if type(error).__name__ == "DuplicateKeyError":
        problem = problem.partition(" with value")[0].replace("found duplicate key", "the key") + " is written twice"
        return _refusal(path, line, f"{problem}; keep one of them.")
    return _refusal(path, line, f"not valid YAML: {problem}; check indentation, colons and quotes.")


def _plain(path: Path, tree: Any, lines: dict[Loc, int]) -> Any:
    """Turn ruamel's tree into plain JSON values and note the line of each key path."""
    budget = [_MAX_NODES]

    def visit(node: Any, loc: Loc) -> Any:
        budget[0] -= 1
        if budget[0] < 0:
            raise _refusal(path, lines.get(loc), "the file grows beyond bounds when its aliases are written out.")
        if isinstance(node, dict):
            return {_key(path, key, node): visit(value, note(node, key, loc)) for key, value in node.items()}
        if isinstance(node, list):
            return [visit(value, note(node, index, loc)) for index, value in enumerate(node)]
        return _scalar(path, node, loc, lines)

    def note(node: Any, key: Any, loc: Loc) -> Loc:
        below = (*loc, key if isinstance(key, int) and isinstance(node, list) else str(key))
        position = getattr(node, "lc", None)
        data = getattr(position, "data", None) or {}
        # A key that came in by a merge (`<<`) has no line of its own; the place above it stands in.
        lines[below] = data[key][0] + 1 if key in data else lines.get(loc, 1)
        return below

    return visit(tree, ())


def _key(path: Path, key: Any, node: Any) -> str:
    if isinstance(key, str):
        return str(key)
    if isinstance(key, (int, float, bool)) or key is None:
        # Such as a split called `2026`: text in our records, whatever YAML took it for.
        return str(key)
    line = getattr(getattr(node, "lc", None), "line", 0) + 1
    raise _refusal(path, line, "a key is a list or a mapping; keys are plain words.")


def _scalar(path: Path, node: Any, loc: Loc, lines: Mapping[Loc, int]) -> Any:
    """Return one value as JSON has it; `1e-5` is a number however it was spelled."""
    if node is None or isinstance(node, bool):
        return node
    if type(node).__name__ == "ScalarBoolean":
        return bool(node)
    if isinstance(node, int):
        return int(node)
    if isinstance(node, float):
        if not math.isfinite(node):
            key = mistakes.dotted(loc)
            raise _refusal(path, lines.get(loc), f"`{key}` is {float(node)}; write a finite number.", what=key)
        return float(node)
    if isinstance(node, (dt.date, dt.datetime)):
        return node.isoformat()
    text = str(getattr(node, "value", node))
    # mlx-lm reads its configurations as YAML 1.1, where these words are true and false.
    if loc[0:1] in {("recipe",), ("recipes",)} and text.lower() in _SWITCHES:
        return _SWITCHES[text.lower()]
    return float(text) if _EXPONENT.match(text) and loc[-1:] != ("campaign",) else text


def _validate(path: Path, spec: Any, lines: Mapping[Loc, int], *, needs_pairs: bool) -> Goal:
    """Build the goal.

    Raises:
        ConfigError: With the most telling of the mistakes, and how many more there are.
    """
    try:
        # JSON mode is strict about types (`runs: true` is no number) and still takes lists for tuples.
        goal = Goal.model_validate_json(canonical_json(_switched(spec)), strict=True)
    except ValidationError as error:
        raise mistakes.first(path.name, lines, error.errors(include_url=False)) from error
    found = problems(goal, needs_pairs=needs_pairs)
    if found:
        place = mistakes.place(path.name, lines, found[0].where)
        raise ConfigError(
            f"{place}: {found[0].sentence}",
            what=mistakes.dotted(found[0].where),
            where=place,
            runbook=RUNBOOK,
        )
    return goal


def _switched(spec: Any) -> Any:
    """Return what a file says with `yes`, `no`, `on` and `off` read as true and false where only those are meant."""
    try:
        Goal.model_validate_json(canonical_json(spec), strict=True)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            word = str(fault["input"]).lower()
            if fault["type"] == "bool_type" and word in _SWITCHES:
                spec = _with(spec, fault["loc"], _SWITCHES[word])
    return spec


def _with(spec: Any, loc: Loc, value: bool) -> Any:  # noqa: FBT001 - the value of a key
    """Return a tree of values with another one at a place."""
    if not loc:
        return value
    if isinstance(spec, list):
        return [_with(part, loc[1:], value) if index == loc[0] else part for index, part in enumerate(spec)]
    return {**spec, loc[0]: _with(spec[loc[0]], loc[1:], value)}


def difference(old_spec: Mapping[str, Any], new_spec: Mapping[str, Any]) -> list[str]:
    """Say in sentences what changed from one version of a goal to the next.

    Args:
        old_spec: `Goal.model_dump(mode="json")` of the version before.
        new_spec: The same of the new version.
    """
    return list(_changes("", old_spec, new_spec))


def _changes(key: str, before: Any, after: Any) -> Iterator[str]:
    """Yield a sentence for each place where two versions differ; parts with an id are told by it, not by position."""
    if before == after:
        return
    before, after = _by_id(before), _by_id(after)
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in [*before, *(name for name in after if name not in before)]:
            below = f"{key}.{name}" if key else str(name)
            yield from _changes(below, before.get(name), after.get(name))
    elif before in (None, "", []):
        yield (
            f"`{key}` is new: {_said(after)}."
            if isinstance(after, Mapping)
            else f"`{key}` is now {_said(after)}; it was not set."
        )
    elif after in (None, "", []):
        yield (
            f"`{key}` is gone." if isinstance(before, Mapping) else f"`{key}` is no longer set; it was {_said(before)}."
        )
    else:
        yield f"`{key}` changed from {_said(before)} to {_said(after)}."


def _by_id(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(part, Mapping) and "id" in part for part in value):
            return {str(part["id"]): {name: leaf for name, leaf in part.items() if name != "id"} for part in value}
        return list(value)
    return value


def _said(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_said, value)) + "]"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_said(leaf)}" for name, leaf in value.items() if leaf not in (None, "", []))
    return f"{value:g}" if isinstance(value, float) else str(value)
