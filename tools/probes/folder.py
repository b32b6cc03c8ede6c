"""What lies in a project folder: its files by kind, links not followed, and what was passed over with the reason.

Hidden folders, virtual environments and package caches are no part of a project. A link to a file inside the project
counts as a file; one that leads outside is named and never opened.

Where a path leads that a file of the project names: inside, outside (never opened, but for the headers of a model that
a configuration names), nowhere, or to a hub.

What an audit says: findings, modes looked for, and modes not looked for with the reason.

`vigil-audit.yaml`: how a project's evaluations decode and gate, and what its adapters and fused models came from.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from state.log import passed_over as log_passed_over
from state.records import Finding, Severity
from tools.data.rows import is_inside, is_there, shown
from tools.probes.catalogue import AUDITED, CATALOGUE

MOST_FILES = 100_000
"""Files beyond this number are not looked at."""
_MOST_FOLDERS = 20_000
_MOST_DEPTH = 32
_NOT_OURS = frozenset({"node_modules", "__pycache__", "site-packages"})
_PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill"})
_AUDIT_FILES = ("vigil-audit.yaml", "vigil-audit.yml")
_SAVE = re.compile(r"(\d{1,9})_adapters\.safetensors")
_OF_A_MAC = "._"
"""How files begin that macOS lays beside each file on foreign disks."""
_MOST_NAMED = 3
_LINKS = {
    "dangling": "a link that leads to nothing or to itself",
    "loop": "a link to a folder that it lies in, not followed",
}


@dataclass
class Project:
    """A folder as found.

    Args:
        root: The folder, links resolved.
        files: Name relative to the root -> path, in order.
        passed_over: (name, reason) of what is not looked at though it lies there.
        may_leave: Whether a model that a configuration names is looked at, by its headers, also where it lies outside.
    """

    root: Path
    may_leave: bool = False
    files: dict[str, Path] = field(default_factory=dict)
    passed_over: list[tuple[str, str]] = field(default_factory=list)

    def name(self, path: Path) -> str:
        """Return a path as people read it: relative to the root, printable."""
        try:
            relative = path.relative_to(self.root)
        except ValueError:
            return shown(str(path))
        return shown(relative.as_posix())

    def holds(self, path: Path) -> bool:
        """Say whether a path lies in the project, links followed."""
        return is_inside(self.root, path)

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """Return the files with an ending, in order."""
        return [path for path in self.files.values() if path.suffix.lower() in suffixes]

    @cached_property
    def by_folder(self) -> dict[Path, dict[str, Path]]:
        """Folder -> file name -> path."""
        folders: dict[Path, dict[str, Path]] = {}
        for path in self.files.values():
            folders.setdefault(path.parent, {})[path.name] = path
        return folders

    @cached_property
    def model_folders(self) -> list[Path]:
        """Folders that hold a model: config.json and weights of any make."""
        return [
            folder
            for folder, files in self.by_folder.items()
            if "config.json" in files and any(_is_weights(name) for name in files)
        ]

    @cached_property
    def adapter_folders(self) -> list[Path]:
        """Folders that hold an adapter, whole or not."""
        return [
            folder
            for folder, files in self.by_folder.items()
            if any(name in files for name in ("adapter_config.json", "adapters.safetensors"))
            or any(_SAVE.fullmatch(name) for name in files)
        ]

    @cached_property
    def data_folders(self) -> list[Path]:
        """Folders with mlx-lm's data files."""
        names = ("train.jsonl", "valid.jsonl", "test.jsonl")
        return [folder for folder, files in self.by_folder.items() if any(name in files for name in names)]

    @property
    def audit_files(self) -> list[Path]:
        """The files that say how evaluation decodes and gates."""
        return [path for path in self.files.values() if path.name in _AUDIT_FILES]

    @property
    def pickles(self) -> list[Path]:
        """Files that may hold objects of Python: never opened."""
        return self.with_suffix(*_PICKLES)

    def saves(self, folder: Path) -> dict[int, Path]:
        """Return an adapter folder's numbered saves by iteration, oldest first."""
        files = self.by_folder.get(folder, {})
        found = {int(match[1]): path for name, path in files.items() if (match := _SAVE.fullmatch(name))}
        return dict(sorted(found.items()))


def _is_weights(name: str) -> bool:
    if name.startswith("model") and name.endswith((".safetensors", ".safetensors.index.json")):
        return True
    return name.startswith(("pytorch_model", "weights", "consolidated")) and Path(name).suffix in _PICKLES | {
        ".gguf",
        ".npz",
    }


def discover(root: Path, *, may_leave: bool = False) -> Project:
    """Return what lies in a folder.

    Args:
        root: The folder, links resolved.
        may_leave: See `Project`.
    """
    project = Project(root, may_leave=may_leave)
    outside: list[str] = []
    found: dict[str, Path] = {}
    left = [(root, 0)]
    folders = 0
    while left:
        folder, depth = left.pop()
        folders += 1
        if len(found) >= MOST_FILES or folders > _MOST_FOLDERS:
            project.passed_over.append(
                (project.name(folder), f"the project has more than {MOST_FILES:,} files or {_MOST_FOLDERS:,} folders")
            )
            break
        for entry in _entries(project, folder):
            if entry.name.startswith(_OF_A_MAC):
                continue
            path = folder / entry.name
            kind = _kind(root, entry)
            if kind == "outside":
                outside.append(project.name(path))
            elif kind == "folder" and _is_project_folder(path) and depth < _MOST_DEPTH:
                left.append((path, depth + 1))
            elif kind == "folder" and depth >= _MOST_DEPTH:
                project.passed_over.append((project.name(path), f"it lies more than {_MOST_DEPTH} folders deep"))
            elif kind == "file":
                found[path.relative_to(root).as_posix()] = path
            elif kind in _LINKS:
                project.passed_over.append((project.name(path), _LINKS[kind]))
            elif kind == "special" and path.suffix in {".jsonl", ".json", ".yaml", ".yml", ".safetensors"}:
                project.passed_over.append((project.name(path), "it is no regular file (a pipe, a socket or a device)"))
    project.files = dict(sorted(found.items()))
    if outside:
        named = ", ".join(sorted(outside)[:_MOST_NAMED]) + (" and more" if len(outside) > _MOST_NAMED else "")
        project.passed_over.append((named, "a link that leads outside the project, not read"))
    return project


def _entries(project: Project, folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            yield from sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        project.passed_over.append((project.name(folder), f"the folder cannot be read ({error.strerror})"))


def _kind(root: Path, entry: os.DirEntry[str]) -> str:
    """Return folder, file, special, outside, dangling, loop, or nothing for what is passed over in silence."""
    try:
        if entry.is_symlink():
            return _kind_of_link(root, Path(entry.path))
        if entry.is_dir(follow_symlinks=False):
            return "folder"
        return "file" if entry.is_file(follow_symlinks=False) else "special"
    except OSError:
        return "special"


def _kind_of_link(root: Path, link: Path) -> str:
    try:
        target = link.resolve(strict=True)
        mode = target.stat().st_mode
    except (OSError, RuntimeError):
        return "dangling"
    if not target.is_relative_to(root):
        return "outside"
    if link.is_relative_to(target):
        return "loop"
    # A linked folder of the project is looked at where it lies.
    return "file" if stat.S_ISREG(mode) else ""


def _is_project_folder(path: Path) -> bool:
    return not path.name.startswith(".") and path.name not in _NOT_OURS and not is_there(path / "pyvenv.cfg")


def model_outside(project: Project, folder: Path, written: str) -> Path | None:
    """Return the folder of a model that a file of the project names and that lies outside it; None where none does.

    Args:
        project: What lies here; one that may not be left has none.
        folder: Folder of the file that names it.
        written: The path as written there.
    """
    if not project.may_leave:
        return None
    with log_passed_over("audit.path_not_read", RuntimeError, ValueError, OSError):
        given = Path(written).expanduser()
        bases = [folder, *(above for above in folder.parents if above.is_relative_to(project.root))]
        for base in bases:
            if (base / given / "config.json").is_file():
                return (base / given).resolve()
    return None


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


_RANK: tuple[Severity, ...] = ("hard_stop", "warning", "note")
_ORDER = tuple(mode.id for mode in CATALOGUE)
_MOST_REASONS = 50
"""Reasons named for one mode; of more, their number is told."""

_NEEDS_A_CAMPAIGN = {
    "10": "no step was timed: an audit runs nothing",
    "11": "one run or several verdicts are needed; a folder has none",
    "12": "no training was resumed: an audit runs nothing",
    "13": "verdicts of several runs are needed",
    "14": "no training was watched: an audit runs nothing",
    "15": "verdicts of several runs are needed",
    "P4": "scores of the base are needed",
    "P6": "a folder has no probes",
    "P9": "scores of the base are needed",
    "P10": "no grader is ever run by an audit",
    "P12": "nothing was measured: an audit runs no evaluation",
}
_NOTHING_THERE = {
    "1": "no configuration whose training rows lie here was found",
    "2": "no fused model beside its base and adapter was found",
    "3": "no model folder and no weight file was found",
    "4": "no evaluation in vigil-audit.yaml names a `base` and a `gain`",
    "5": "no prompts with answers were found",
    "6": "no configuration was found",
    "7": "no answers were found",
    "8": "nothing that other files are named in was found",
    "9": "no adapter that says how long it was to be trained was found",
    "P1": "nothing says how an evaluation decodes: no vigil-audit.yaml with `evaluations`, no harness file",
    "P2": "no adapter was found that says what it was trained on and what it is used on",
    "P3": "no preference pairs were found",
    "P5": "no evaluation with a gate was found",
    "P7": "no training data and evaluation to compare were found",
    "P8": "no configuration whose training rows lie here was found",
    "P11": "no two sets of rows that belong together were found",
}


@dataclass
class Report:
    """What is found while looking; each check writes here."""

    findings: list[Finding] = field(default_factory=list)
    looked: set[str] = field(default_factory=set)
    """Modes that something was looked at for."""
    skipped: dict[str, dict[str, None]] = field(default_factory=dict)
    """Mode -> reasons why something was not looked at."""

    def add(
        self, mode: str, subject: str, sentence: str, severity: Severity, fix: str, *, check: str, **value: Any
    ) -> None:
        """Record a finding; `check` is its claim."""
        self.findings.append(
            Finding(mode=mode, severity=severity, subject=subject, claim=check, sentence=sentence, value=value, fix=fix)
        )

    def look(self, *modes: str) -> None:
        """Record that something was looked at."""
        self.looked.update(modes)

    def skip(self, modes: Iterable[str], why: str) -> None:
        """Record that something was not looked at; the modes are no longer among the checked ones."""
        for mode in modes:
            self.skipped.setdefault(mode, {})[why] = None

    @property
    def checked(self) -> list[str]:
        """Modes that everything here was looked at for."""
        return [mode for mode in AUDITED if mode in self.looked and mode not in self.skipped]

    @property
    def not_checked(self) -> list[tuple[str, str]]:
        """(mode, reason) of every other mode of the catalogue."""
        checked = set(self.checked)
        return [(mode, self._why(mode)) for mode in _ORDER if mode not in checked]

    def _why(self, mode: str) -> str:
        reasons = list(self.skipped.get(mode, ()))
        if not reasons:
            return _NEEDS_A_CAMPAIGN.get(mode) or _NOTHING_THERE[mode]
        more = len(reasons) - _MOST_REASONS
        return "; ".join(reasons[:_MOST_REASONS]) + (f"; and {more} more" if more > 0 else "")

    @property
    def sorted_findings(self) -> list[Finding]:
        """Findings, the gravest first, each thing once."""
        unique = {(row.mode, row.subject, row.sentence): row for row in self.findings}
        return sorted(unique.values(), key=lambda row: (_RANK.index(row.severity), _ORDER.index(row.mode), row.subject))

    @property
    def has_hard_stop(self) -> bool:
        """Whether anything found forbids spending."""
        return any(row.severity == "hard_stop" for row in self.findings)


Named = Annotated[str, Field(min_length=1, max_length=1000)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class Gate(_Part):
    """What an evaluation's score must reach, as shares in [0, 1]."""

    min: float | None = Field(default=None, ge=0, le=1)
    """Least score."""
    gain: float | None = Field(default=None, gt=0, le=1)
    """Least difference from `base`."""
    base: float | None = Field(default=None, ge=0, le=1)
    """What the untrained model scores, as measured by the project."""


class Evaluation(_Part):
    """One evaluation."""

    name: Named
    data: Named
    """A file of JSON lines, one case each: `prompt` or `messages`, and the reference answer."""
    gold_field: Named | None = None
    """Key of the reference answer; `reference`, `completion`, `answer` or the last assistant's message if left out."""
    tokens_field: Named | None = None
    """Key under which each row says how many tokens its answer has: final newline included, end token not."""
    score: Literal["whole", "share"] = "whole"
    """whole: a case is right or wrong; share: a part of an answer scores a part."""
    max_tokens: int = Field(gt=0, le=10_000_000)
    """Decode budget."""
    system: str | None = None
    """System text that evaluation puts before each case; empty: none; left out: nobody says."""
    gate: Gate | None = None
    outputs: Named | None = None
    """A file of JSON lines: what the trained model said to these cases."""
    output_field: Named | None = None
    """Key of what it said; `output`, `response`, `text`, `completion` or the last message if left out."""


class Adapter(_Part):
    """What is known of an adapter; models are folders of the project or hub ids."""

    path: Named
    trained_on: Named | None = None
    """The adapter's own adapter_config.json if left out."""
    evaluated_on: Named | None = None


class Fused(_Part):
    """A model that was made by fusing an adapter into a base."""

    path: Named
    base: Named
    adapter: Named


class AuditFile(_Part):
    """The whole file."""

    evaluations: Annotated[tuple[Evaluation, ...], Field(strict=False, max_length=1000)] = ()
    adapters: Annotated[tuple[Adapter, ...], Field(strict=False, max_length=1000)] = ()
    fused: Annotated[tuple[Fused, ...], Field(strict=False, max_length=1000)] = ()
