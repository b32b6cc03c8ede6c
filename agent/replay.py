"""`vigil replay`: a recorded trajectory read from its file, judged again by the policies, and told.

Two forms are read: a published log (a JSON list of cycles, or an object with `cycles`) and Vigil's own export (JSON
lines). Every refusal names the file and the place in it.
"""

import json
import math
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from agent.mistakes import dotted, mistake
from agent.render.typed import MARKS
from agent.render.words import WIDTH, block, count, shortened, signed, table
from policies.replay.published import (
    TABLES,
    PublishedCycle,
    PublishedHarness,
    exported_trajectory,
    published_trajectory,
)
from policies.replay.records import Replay, ReplayedCondition, ReplayedCycle, ReplayFinding, Trajectory
from policies.replay.verdicts import replay
from state.errors import ConfigError
from state.records import Record

MAX_BYTES = 1 << 30
"""No trajectory is larger; an export has about 500 bytes per measured case."""

MOST = 1e30
"""No figure, time or size of a trajectory is larger; what is would overflow in sums and squares."""

_FORMS = "a trajectory is a JSON list of cycles with their figures and gates, or what `vigil export` wrote"
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")
"""How JSON spells one half of a character beyond the basic plane; alone it is no text."""

_MAX_FINDINGS = 7
_FINDING_LINES = 2
_ASKED_COLUMNS = 46

_Model = TypeVar("_Model", bound=BaseModel)


def replay_file(path: Path, harness: Path | None = None) -> Replay:
    """Judge a recorded trajectory again.

    Args:
        path: A published log, or an export of Vigil's.
        harness: What is known of the evaluator of a published log; an export brings its own ceilings.

    Raises:
        ConfigError: A file is not there or is not what it should be; names the file and the place.
    """
    text = _read(path)
    if _is_export(text):
        if harness is not None:
            _refuse(str(path), "an export brings its own ceilings; leave --harness out")
        return replay(_exported(path, text))
    known = None if harness is None else _validated(PublishedHarness, _object(harness), str(harness))
    return replay(published_trajectory(_published(path, text), known))


def replay_json(found: Replay) -> dict[str, Any]:
    """Return a replay as `vigil replay --json` prints it."""
    return found.model_dump(mode="json")


# Reading


def _refuse(where: str, sentence: str) -> NoReturn:
    raise ConfigError(f"{where}: {sentence}.", where=where)


def _read(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"There is no file {path}; check the path.", what="file", where=str(path))
    try:
        if path.stat().st_size > MAX_BYTES:
            _refuse(str(path), f"the file has more than {MAX_BYTES:,} bytes; a trajectory has fewer")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); check its permissions.", where=str(path)
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file in UTF-8; a trajectory is JSON.", where=str(path)) from error


def _parsed(text: str, where: str, first_line: int = 1) -> Any:
    """Return a JSON value; NaN and infinities are refused, since JSON has none, and numbers that overflow with them."""

    def refused(word: str) -> NoReturn:
        _refuse(where, f"{word} is no number of JSON")

    def number(word: str) -> Any:
        value = float(word)
        if not math.isfinite(value) or abs(value) > MOST:
            _refuse(where, f"{shortened(word, 20)} is too large to be a figure of a trajectory")
        return int(word) if word.lstrip("-").isdigit() else value

    try:
        value = json.loads(text, parse_constant=refused, parse_int=number, parse_float=number)
        if _HALF_CHARACTER.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{where}: it holds half a character, which is no text.", where=where) from error
    except json.JSONDecodeError as error:
        line = f"{where}:{first_line + error.lineno - 1}" if first_line == 1 else where
        raise ConfigError(f"{line}: this is not JSON ({error.msg}); {_FORMS}.", where=line) from error
    except RecursionError as error:
        raise ConfigError(f"{where}: it is nested too deeply to be a trajectory.", where=where) from error
    return value


def _object(path: Path) -> dict[str, Any]:
    value = _parsed(_read(path), str(path))
    if not isinstance(value, dict):
        _refuse(str(path), "a harness file is one JSON object with max_tokens, gate and cases")
    return value


def _validated(model: type[_Model], value: Any, where: str) -> _Model:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        sentence = mistake(first, tuple(first["loc"])).rstrip(".")
        raise ConfigError(f"{where}: {sentence}.", what=dotted(first["loc"]), where=where) from error


def _published(path: Path, text: str) -> list[PublishedCycle]:
    value = _parsed(text, str(path))
    rows = value.get("cycles") if isinstance(value, dict) else value
    if not isinstance(rows, list) or not rows:
        _refuse(str(path), "a trajectory is a JSON list of cycles, or the lines that vigil export writes")
    cycles = []
    for index, row in enumerate(rows):
        name = f" ({row['id']})" if isinstance(row, dict) and isinstance(row.get("id"), str) else ""
        where = f"{path}, cycle {index + 1}{name}"
        if not isinstance(row, dict):
            _refuse(where, "a cycle is an object with id, instrument, figures and gate")
        cycles.append(_validated(PublishedCycle, row, where))
    times = Counter(cycle.id for cycle in cycles)
    twice = next((name for name, often in times.items() if often > 1), None)
    if twice is not None:
        _refuse(str(path), f"two cycles are called {twice}; give each its own id")
    return cycles


def _is_export(text: str) -> bool:
    first = next((line for line in text.splitlines() if line.strip()), "")
    return first.lstrip().startswith("{") and '"export"' in first


def _exported(path: Path, text: str) -> Trajectory:
    rows: list[Record] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        value = _parsed(line, where, number)
        if not isinstance(value, dict) or not ("export" in value or {"table", "row"} <= value.keys()):
            _refuse(where, "a line of an export has `table` and `row`")
        kind = TABLES.get(str(value.get("table")))
        if kind is not None:
            rows.append(_validated(kind, value["row"], where))
    try:
        trajectory = exported_trajectory(rows)
    except ValidationError as error:
        first = error.errors()[0]
        sentence = mistake(first, tuple(first["loc"])).rstrip(".")
        what = "its goal is another Vigil's" if error.title == "Goal" else "it is not as Vigil writes it"
        raise ConfigError(f"{path}: {what}; {sentence}.", where=str(path)) from error
    if not trajectory.cycles and trajectory.halt is None:
        _refuse(str(path), "the export holds no run yet, so there is nothing to replay")
    return trajectory


# Telling


def replay_text(found: Replay) -> list[str]:
    """Return one table per cycle, each fit for a screen, and what to take away."""
    lines: list[str] = []
    for cycle in found.cycles:
        lines += [*_told(cycle), ""]
    lines.append("In all")
    for sentence in found.sentences:
        lines += [f"  {line}" for line in textwrap.wrap(sentence, WIDTH - 2, break_on_hyphens=False)]
    return lines


def _told(cycle: ReplayedCycle) -> list[str]:
    recorded = f", recorded {cycle.recorded_bucket}" if cycle.recorded_bucket else ""
    bucket = f"bucket {cycle.bucket} ({cycle.rule}{recorded})" if cycle.bucket else f"no bucket{recorded}"
    track = f", track {cycle.track}" if cycle.track else ""
    lines = [f"{cycle.id}  {cycle.instrument or cycle.foreign or 'no training'}{track}: {bucket}"[:WIDTH]]
    if cycle.gate:
        rows = [line for row in cycle.gate for line in _rows(row)]
        head = ("", "asked", "value", "95 % interval" if _is_plain(cycle) else "interval", "cases", "recorded")
        lines += [f"  {line}"[:WIDTH].rstrip() for line in table(head, rows)]
        lines += _methods(cycle.gate)
    if cycle.instrument or cycle.foreign:
        lines += block("  Verdict", cycle.sentence, indent=11)
    for finding in cycle.findings[:_MAX_FINDINGS]:
        weight = " (hard stop)" if finding.severity == "hard_stop" else ""
        lines += block(f"  {finding.mode or '-'}", f"{_fitting(finding)}{weight}", indent=11, lines=_FINDING_LINES)
    if len(cycle.findings) > _MAX_FINDINGS:
        lines.append(f"  and {count(len(cycle.findings) - _MAX_FINDINGS, 'more finding')}; see --json.")
    return lines + block("  Next", f"{cycle.next.action}: {cycle.next.sentence}", indent=11)


def _fits(sentence: str) -> bool:
    return len(block("", sentence, indent=11)) <= _FINDING_LINES


def _fitting(finding: ReplayFinding) -> str:
    """Return a finding's sentence with as many other conditions named as fit, and how many more there are."""
    if not finding.others or _fits(finding.sentence):
        return finding.sentence
    told = finding.sentence.removesuffix(", ".join(finding.others) + ".")
    for named in range(len(finding.others) - 1, 0, -1):
        sentence = f"{told}{', '.join(finding.others[:named])} and {len(finding.others) - named} more."
        if _fits(sentence):
            return sentence
    words, more = told.split(), f"{len(finding.others)} more."
    sentence = told + more
    while not _fits(sentence):
        words.pop()
        sentence = f"{' '.join(words)} … and {more}"
    return sentence


def _is_plain(cycle: ReplayedCycle) -> bool:
    return all(row.is_plain for row in cycle.gate)


def _rows(row: ReplayedCondition) -> list[Sequence[str]]:
    """Return the lines of one condition: what is asked stands in full, below itself where it is long."""
    interval = "" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}"
    value = "not measured" if row.value is None else signed(row.value) if row.is_difference else f"{row.value:.3f}"
    recorded = {None: "", True: "holds", False: "fails"}[row.recorded]
    mark = MARKS[row.decided]
    asked, *more = textwrap.wrap(row.asked, _ASKED_COLUMNS, break_on_hyphens=False) or [row.id]
    first = (mark, asked, value, interval, str(row.n or ""), recorded)
    return [first, *(("", f"  {line}", "", "", "", "") for line in more)]


def _methods(gate: Sequence[ReplayedCondition]) -> list[str]:
    """Say how the intervals were found, and which conditions hold by a bare number only."""
    methods = dict.fromkeys(row.method for row in gate if row.low is not None)
    lines = block("  Method", "; ".join(methods) + ".", indent=11) if methods else []
    labelled = [f"{row.id} ({row.label})" for row in gate if "not significant" in row.label]
    return lines + (block("  Label", "; ".join(labelled) + ".", indent=11) if labelled else [])
