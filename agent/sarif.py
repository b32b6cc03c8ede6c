"""Findings of an audit as SARIF 2.1.0, the form in which code hosts show them beside the lines they are about."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

from state.errors import ConfigError
from state.files import write_json
from state.records import Finding
from tools.probes.catalogue import CATALOGUE, MODES
from tools.probes.project import Audited

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
    return {
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
