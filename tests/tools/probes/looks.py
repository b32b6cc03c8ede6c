"""Small projects in a temporary folder, and what an audit of them finds, without the command line."""

import json
from pathlib import Path
from typing import Any

from agent.audit import audit
from state.records import Finding
from tests.faults.failure_modes.projects import write_rows
from tools.probes.project import Audited


def project(folder: Path, **files: Any) -> Path:
    """Write files by name (`__` stands for a slash, a last `_` for the dot): text, bytes, rows, or an object."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        stem, _, suffix = name.replace("__", "/").rpartition("_")
        path = folder / f"{stem}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            write_rows(path, content)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def settings(folder: Path, **values: Any) -> Path:
    """Write vigil-audit.yaml."""
    (folder / "vigil-audit.yaml").write_text(json.dumps(values))
    return folder


def look(folder: Path, model: Path | None = None) -> Audited:
    """Audit a folder."""
    return audit(folder, model)


def of(found: Audited, mode: str) -> list[Finding]:
    """Return the findings of a mode."""
    return [row for row in found.report.sorted_findings if row.mode == mode]


def only(found: Audited, mode: str) -> Finding:
    """Return the one finding of a mode."""
    (one,) = of(found, mode)
    return one


def why_not(found: Audited, mode: str) -> str:
    """Return why a mode was not checked; empty where it was."""
    return dict(found.report.not_checked).get(mode, "")
