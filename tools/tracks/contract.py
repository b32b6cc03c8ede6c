"""What a grader is, as data: where it lives, how long it may take, and what it answered."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from pydantic import Field

from state.errors import ConfigError
from state.records import Record

_TRACKS = Path(__file__).resolve().parent
PRODUCT_ROOT = _TRACKS.parents[1]
"""Folder that holds the four packages."""
_OUR_PACKAGES = frozenset({"agent", "policies", "state", "tools"})

_RUNBOOK = "runbooks/your_task/README.md"


def shipped_tracks() -> list[str]:
    """Return the names of the tracks that come with Vigil."""
    return sorted(path.parent.name for path in _TRACKS.glob("*/grade.py"))


class GraderSpec(Record):
    """Where a grader lives. Exactly one of `file`, `command` and `shipped` is given."""

    file: str | None = None
    """Absolute path of a Python file with `grade(case, text)`."""
    command: tuple[str, ...] | None = None
    """Program and arguments; reads `{"case", "text", "finish_reason"}` lines, answers `{"case": id, "metrics"}`."""
    shipped: str | None = None
    """Name of a track that comes with Vigil; stands for its `grade.py`."""
    timeout_s: float = Field(default=10.0, gt=0)
    """Longest time for one case; a command's own start counts toward its first case."""
    metrics: tuple[str, ...] | None = None
    """Names every grade must have; learned from the grades themselves when None."""
    cwd: str | None = None
    """Folder a command runs in; the current one by default. A Python grader runs in its own folder."""

    def check(self) -> None:
        """Refuse a specification that cannot be run, before any process is started.

        Raises:
            ConfigError: None or several of file, command and shipped; a missing file; an unknown shipped track.
        """
        given = [name for name in ("file", "command", "shipped") if getattr(self, name)]
        if len(given) != 1:
            raise ConfigError(
                f"A grader is one of file, command and shipped; {' and '.join(given) or 'none of them'} was given.",
                what="grader",
                value=given,
                runbook=_RUNBOOK,
            )
        path = self.path
        if path is not None and not path.is_file():
            raise ConfigError(
                f"The grader file {path} does not exist; give the path of a Python file with `grade(case, text)`.",
                what="grader.file",
                value=str(path),
                where=str(path),
                runbook=_RUNBOOK,
            )

    @property
    def path(self) -> Path | None:
        """The Python file that holds `grade`, or None for a command.

        Raises:
            ConfigError: No shipped track has that name.
        """
        if self.shipped is None:
            return Path(self.file).resolve() if self.file else None
        known = shipped_tracks()
        if self.shipped not in known:
            near = get_close_matches(self.shipped, known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; there is {', '.join(known)}."
            raise ConfigError(
                f"No shipped track is named {self.shipped}{hint}", what="grader.shipped", value=self.shipped
            )
        return _TRACKS / self.shipped / "grade.py"

    @property
    def folder(self) -> Path:
        """The folder the grader runs in."""
        path = self.path
        if path is not None:
            return path.parent
        return Path(self.cwd or ".").resolve()

    @property
    def label(self) -> str:
        """The grader's name in sentences."""
        if self.command:
            return f"The grader command `{' '.join(self.command)}`"
        return f"The shipped grader {self.shipped}" if self.shipped else f"The grader {self.file}"

    def fingerprint_files(self) -> list[Path]:
        """Return the files whose change makes old grades stale, sorted: the grader and the modules it imports.

        Modules count when they lie under the grader's folder or are Vigil's own. For a command, every argument that
        is a file counts, and the imports of those that are Python. Read without running anything; imports made by
        name at run time are not seen.

        Raises:
            ConfigError: As `check`.
        """
        self.check()
        path = self.path
        if path is not None:
            return _Imports([path]).files
        arguments = [(self.folder / argument).resolve() for argument in self.command or ()]
        return _Imports([argument for argument in arguments if argument.is_file()]).files


@dataclass(frozen=True)
class Grade:
    """What a grader said about one case."""

    case_id: str
    metrics: dict[str, float | None] = field(default_factory=dict)
    """None: not measured, either said so by the grader or unusable; then `error` tells why. Never zero instead."""
    error: str = ""
    """One sentence; empty when every metric is usable."""


class _Imports:
    """The first-party files reachable from some files by import statements."""

    def __init__(self, roots: list[Path]) -> None:
        self._roots = roots

    @cached_property
    def files(self) -> list[Path]:
        found: set[Path] = set()
        waiting = [(path, path.parent) for path in self._roots]
        while waiting:
            path, home = waiting.pop()
            if path in found:
                continue
            found.add(path)
            if path.suffix == ".py":
                waiting.extend((module, home) for name in _imported(path, home) for module in _modules(name, home))
        return sorted(found)


def _imported(path: Path, home: Path) -> Iterator[str]:
    """Yield the dotted names a Python file imports; a file that does not parse imports nothing."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, path, home)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _base(node: ast.ImportFrom, path: Path, home: Path) -> str:
    """Return the absolute name a `from` import starts at; relative ones are counted from the file's own package."""
    if not node.level:
        return node.module or ""
    root = home if path.is_relative_to(home) else PRODUCT_ROOT
    package = path.parent.relative_to(root).parts
    parts = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
    return ".".join(part for part in parts if part)


def _modules(name: str, home: Path) -> Iterator[Path]:
    """Yield the files that importing a dotted name runs: each package on the way, and the module."""
    parts = name.split(".")
    if not parts[0]:
        return
    # The grader's folder comes first on the child's path, so a module there wins over one of ours.
    roots = [home, PRODUCT_ROOT] if parts[0] in _OUR_PACKAGES else [home]
    for root in roots:
        files = list(_on_the_way(root, parts))
        if files:
            yield from files
            return


def _on_the_way(root: Path, parts: list[str]) -> Iterator[Path]:
    for depth in range(1, len(parts) + 1):
        stem = root.joinpath(*parts[:depth])
        for candidate in (stem / "__init__.py", stem.with_suffix(".py")):
            if candidate.is_file():
                yield candidate.resolve()
