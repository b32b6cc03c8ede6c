"""Where a path leads that a file of the project names: inside, outside (never opened), nowhere, or to a hub."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tools.probes.audit.discovery import Project
from tools.probes.audit.reading import is_there

Kind = Literal["inside", "outside", "missing", "hub"]
"""outside, or where nobody may look: nothing is known of it; hub: owner/name and no folder here."""

_OF_WINDOWS = re.compile(r"[A-Za-z]:[\\/]")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,95}")


@dataclass(frozen=True)
class Place:
    """What a written path leads to."""

    kind: Kind
    written: str
    path: Path | None = None
    """Where it lies, links resolved; only of a place inside."""


def place_of(project: Project, folder: Path, written: str) -> Place:
    """Return where a path leads.

    mlx-lm takes relative paths from the folder that a command is started in, which nobody knows here: the folder of
    the file is tried first, then those above it up to the project's.

    Args:
        project: What lies here.
        folder: Folder of the file that names the path.
        written: The path as written there.
    """
    if _OF_WINDOWS.match(written):
        return Place("outside", written)
    try:
        given = Path(written).expanduser()
    except RuntimeError:
        return Place("outside", written)
    if given.is_absolute():
        return _found(project, Path(os.path.normpath(given)), written) or Place("missing", written)
    bases = [folder, *(above for above in folder.parents if above.is_relative_to(project.root))]
    is_outside = False
    for base in bases:
        found = _found(project, Path(os.path.normpath(base / given)), written)
        if found is not None and found.kind == "inside":
            return found
        is_outside = is_outside or found is not None
    if is_outside:
        return Place("outside", written)
    return Place("hub" if _is_hub_id(written, bases) else "missing", written)


def _found(project: Project, path: Path, written: str) -> Place | None:
    """Return the place of one candidate; None where nothing is there. What lies outside is not even looked at."""
    if not path.is_relative_to(project.root):
        return Place("outside", written)
    there = is_there(path)
    if there is None:
        return Place("outside", written)
    if not there:
        return None
    return Place("inside", written, path.resolve()) if project.holds(path) else Place("outside", written)


def _is_hub_id(written: str, bases: list[Path]) -> bool:
    """Say whether a name can be a hub's; `data/sft` beside a folder `data` is a path."""
    if not _HUB_ID.fullmatch(written) or written.startswith("."):
        return False
    first = written.split("/", maxsplit=1)[0]
    return not any(is_there(base / first) for base in bases)
