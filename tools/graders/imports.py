"""Which first-party files a Python file runs when it is imported, read without running anything."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

PRODUCT_ROOT = Path(__file__).resolve().parents[2]
"""Folder that holds the four packages."""

_OUR_PACKAGES = frozenset({"agent", "policies", "state", "tools"})


def imported_files(roots: Iterable[Path]) -> list[Path]:
    """Return the files themselves and those that they reach by import statements, sorted.

    A module counts when it lies under the folder of the file that it is reached from, or is Vigil's own. Imports made
    by name at run time are not seen; a file that is not Python imports nothing.

    Args:
        roots: Absolute paths.
    """
    files: set[Path] = set()
    waiting = [(path, path.parent) for path in roots]
    while waiting:
        path, home = waiting.pop()
        if path in files:
            continue
        files.add(path)
        if path.suffix == ".py":
            waiting.extend((module, home) for name in _imported(path, home) for module in _modules(name, home))
    return sorted(files)


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
    # The file's own folder comes first on its process's path, so a module there wins over one of ours.
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
