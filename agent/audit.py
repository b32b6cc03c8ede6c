"""`vigil audit`: a project folder looked at without a campaign; as a table, as JSON, as SARIF 2.1.0."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from agent import mistakes
from agent.campaign import read_yaml_with_lines
from state.errors import ConfigError
from state.files import write_json
from state.hashing import canonical_json
from state.records import Finding
from state.text import every, shown
from tools.data.rows import BOUNDS, WHOLE
from tools.models.identity import odd_file
from tools.probes.catalogue import AUDITED, CATALOGUE, MODES
from tools.probes.folder import AuditFile, discover
from tools.probes.project import Audited, Settings, look

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {"hard_stop": "error", "warning": "warning", "note": "note"}
_ROOT = "PROJECTROOT"


def sarif(found: Audited, version: str) -> dict[str, Any]:
    """Return an audit as a SARIF log of one run.

    Args:
        found: The audit.
        version: Of Vigil.
    """
    findings = found.report.sorted_findings
    named = {finding.mode for finding in findings}
    rules = [
        {
            "id": mode.id,
            "name": f"Mode{mode.id}",
            "shortDescription": {"text": mode.title},
            "help": {"text": f"Refuted by {mode.refuted_by}. See {mode.anchor}."},
            "properties": {"domain": mode.domain},
        }
        for mode in CATALOGUE
        if mode.id in named
    ]
    places = {rule["id"]: place for place, rule in enumerate(rules)}
    unchecked = [
        {"level": "note", "message": {"text": f"Not checked: {mode}: {why}"}} for mode, why in found.report.not_checked
    ]
    log = {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "vigil", "version": version, "rules": rules}},
                "originalUriBaseIds": {_ROOT: {"description": {"text": "The folder that was audited."}}},
                "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": unchecked}],
                "results": [_result(finding, places[finding.mode]) for finding in findings],
            }
        ],
    }
    return dict(every(log))


def _result(finding: Finding, rule: int) -> dict[str, Any]:
    return {
        "ruleId": finding.mode,
        "ruleIndex": rule,
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{finding.sentence} {finding.fix}"},
        "locations": [_location(finding)],
        "partialFingerprints": {"vigil/v1": f"{finding.mode}:{finding.subject}:{finding.claim}"},
        "properties": {
            "subject": finding.subject,
            "domain": MODES[finding.mode].domain,
            "evidence": {"check": finding.claim, **finding.value},
        },
    }


def _location(finding: Finding) -> dict[str, Any]:
    place: dict[str, Any] = {"logicalLocations": [{"fullyQualifiedName": finding.subject}]}
    file = finding.value.get("file")
    if file:
        line = finding.value.get("line")
        place["physicalLocation"] = {
            "artifactLocation": {"uri": quote(str(file)), "uriBaseId": _ROOT},
            "region": {"startLine": line if isinstance(line, int) and line > 0 else 1},
        }
    return place


def write_sarif(path: Path, found: Audited) -> None:
    """Write an audit as a SARIF file.

    Raises:
        ConfigError: The folder of the file is not there.
    """
    from importlib.metadata import version

    if not path.absolute().parent.is_dir():
        raise ConfigError(
            f"--sarif {path}: the folder {path.absolute().parent} does not exist; make it, or name another file.",
            what="sarif",
            where=str(path),
        )
    write_json(path, sarif(found, version("vigil")))


_RUNBOOK = "runbooks/audit.md"

_REASON_CHARS = 400
"""Of why a mode was not checked, in the table; the JSON has all of it."""

CLEAN, NOTHING_USABLE, STOPPED = 0, 2, 3
"""Exit codes."""


def audit(path: Path, model: Path | None = None, *, is_whole: bool = False, may_leave: bool = True) -> Audited:
    """Audit a project folder.

    Args:
        path: The folder.
        model: Folder of a model whose tokenizer and template count.
        is_whole: Whether long data files are read to their ends, however long that takes.
        may_leave: Whether headers are read of a model that a configuration names and that lies outside the folder.

    Raises:
        ConfigError: The folder, the model or a vigil-audit.yaml cannot be used.
    """
    if not path.is_dir():
        state = "is a file" if path.exists() else "does not exist"
        raise ConfigError(f"{path} {state}; name a project folder.", what="path", where=str(path), runbook=_RUNBOOK)
    if model is not None and not model.is_dir():
        raise ConfigError(
            f"--model {model} is no folder; name the folder of a model that is on this disk.",
            what="model",
            where=str(model),
            runbook=_RUNBOOK,
        )
    if model is not None and (odd := odd_file(model)):
        raise ConfigError(
            f"--model {model}: {odd}; name the folder of a model whose files can be read.",
            what="model",
            where=str(model),
            runbook=_RUNBOOK,
        )
    project = discover(path.resolve(), may_leave=may_leave)
    settings = [_settings(file) for file in project.audit_files]
    bounds = WHOLE if is_whole else BOUNDS
    return look(project, settings, read_yaml_with_lines, model.resolve() if model is not None else None, bounds)


def _settings(path: Path) -> Settings:
    """Read a vigil-audit.yaml.

    Raises:
        ConfigError: It cannot be read, or has a key that nobody knows; with the line.
    """
    values, lines = read_yaml_with_lines(path)
    try:
        # JSON mode is strict about types and still takes lists for tuples.
        return Settings(path, AuditFile.model_validate_json(canonical_json(values), strict=True), lines)
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise mistakes.first(path.name, lines, found, model=AuditFile, runbook=_RUNBOOK) from error


def exit_code(found: Audited) -> int:
    """Return how the command ends."""
    if found.report.has_hard_stop:
        return STOPPED
    return NOTHING_USABLE if found.is_empty else CLEAN


def as_json(found: Audited, path: str) -> dict[str, Any]:
    """Return an audit as `--json` prints it.

    Args:
        found: The audit.
        path: The folder as it was named.
    """
    return {
        "path": path,
        "checked": found.report.checked,
        "not_checked": [{"id": mode, "why": why} for mode, why in found.report.not_checked],
        "findings": [
            {
                "id": row.mode,
                "domain": MODES[row.mode].domain,
                "severity": row.severity,
                "subject": row.subject,
                "claim": row.sentence,
                "evidence": {"check": row.claim, **row.value},
                "fix": row.fix,
                "runbook": row.runbook,
            }
            for row in found.report.sorted_findings
        ],
    }


def print_table(found: Audited, path: str) -> None:
    """Print an audit for people.

    Side effects: writes to stdout.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from agent.render.words import count, shortened

    console = Console(highlight=False)
    rows = found.report.sorted_findings
    if rows:
        table = Table(show_lines=True, expand=True)
        table.add_column("", no_wrap=True, width=9)
        table.add_column("what was seen, and what to do", overflow="fold")
        for row in rows:
            words, style = _SEVERITIES[row.severity]
            said = Text(f"{shown(_place(row.subject, row.value))}\n", style="bold")
            said.append(f"{shown(row.sentence)}\n", style="not bold").append(shown(row.fix), style="not bold italic")
            table.add_row(Text(f"{words}\n{row.mode}", style=style), said)
        console.print(table)
    stops = sum(row.severity == "hard_stop" for row in rows)
    warnings = sum(row.severity == "warning" for row in rows)
    checked, unchecked = found.report.checked, found.report.not_checked
    campaign = [mode for mode, _ in unchecked if mode not in AUDITED]
    console.print(Text(f"{shown(path)}: {count(stops, 'hard stop')}, {count(warnings, 'warning')}."))
    console.print(Text(f"Checked: {', '.join(checked) or 'nothing'}."))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    for mode, why in unchecked:
        if mode in AUDITED:
            grid.add_row(mode, Text(shown(shortened(why, _REASON_CHARS))))
    console.print(Text("Not checked:"))
    console.print(grid)
    console.print(Text(f"Seen by a campaign alone (vigil run): {', '.join(campaign)}. See runbooks/hard_stops.md."))


_SEVERITIES = {"hard_stop": ("HARD STOP", "bold red"), "warning": ("warning", "yellow"), "note": ("note", "dim")}


def _place(subject: str, evidence: dict[str, Any]) -> str:
    file, line = evidence.get("file"), evidence.get("line")
    return f"{subject} ({file}:{line})" if file and line else subject
