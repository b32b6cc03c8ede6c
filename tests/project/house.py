"""The counts of the house: `python -m tests.project.house`, and `--check`, which fails at an import circle.

Lines are raw lines, as `wc -l` counts them. Imports inside functions count for the number of importers and not for
circles: they are made when both modules stand. A house word is a word for which the field has one of its own; it is
looked for in the names that the product gives, part by part.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("state", "policies", "tools", "agent")
HEART = (
    "agent/loop.py", "agent/knowing.py", "agent/deciding.py", "agent/doing.py",
    "policies/plan.py", "policies/verdict.py", "policies/gate.py",
)  # fmt: skip
MOST_HEART_LINES = 2_500
THIN_LINES = 40
HOUSE_WORDS = {
    "prints": "fingerprints",
    "surface": "inbox",
    "testimony": "user input",
    "asking": "requests",
    "digest": "results",
    "lessons": "diagnostics",
    "aftermath": "follow-ups",
    "carry": "start from the fused parent",
    "tonight": "power and sleep",
    "night": "power and sleep",
    "tally": "counters, summary",
    "once": "write_once",
    "asked": "child",
    "void": "invalidated",
    "torn": "missing_fused",
    "earlier": "previous_session",
    "uprooted": "invalidated",
    "sitting": "session",
    "told": "format_…, describe",
    "said": "format_…, describe",
    "look": "format_…, describe",
    "seen": "format_…, describe",
    "found": "what it is",
}
_ACCEPTED = frozenset({"write_once"})
_LATE = (ast.FunctionDef, ast.AsyncFunctionDef)
KINDS = ("module", "function or class", "field", "argument or local")


class Module(NamedTuple):
    """One source file."""

    name: str
    path: Path
    lines: int
    tree: ast.Module


def modules(root: Path, rooms: Iterable[str] = ROOMS) -> dict[str, Module]:
    """Return the source files below some folders by their dotted names."""
    paths = sorted(path for room in rooms for path in (root / room).rglob("*.py"))
    return {module.name: module for module in (read_module(root, path) for path in paths)}


def read_module(root: Path, path: Path) -> Module:
    """Return one source file below a root."""
    name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    text = path.read_text(encoding="utf-8")
    return Module(name, path.relative_to(root), text.count("\n"), ast.parse(text))


def imports(module: Module, known: Mapping[str, Module], *, is_late: bool) -> set[str]:
    """Return the known modules that one imports at its top, or anywhere where `is_late`."""
    targets: set[str] = set()
    for node in ast.walk(module.tree) if is_late else _at_top(module.tree):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            targets |= {name if name in known else node.module for name in whole}
    return (targets & set(known)) - {module.name}


def _at_top(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements that run at import, those below `if` and `try` too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.ExceptHandler) and not isinstance(child, _LATE):
            yield child
            yield from _at_top(child)


def circles(known: Mapping[str, Module]) -> list[list[str]]:
    """Return the sets of modules that import each other at their top, directly or by way of others."""
    direct = {name: imports(module, known, is_late=False) for name, module in known.items()}
    reached = {name: _reached(name, direct) for name in known}
    rings = {frozenset(b for b in reached[a] if a in reached[b]) for a in known if a in reached[a]}
    return sorted(sorted(ring) for ring in rings)


def _reached(start: str, direct: Mapping[str, set[str]]) -> set[str]:
    """Return what a module imports, and what that imports."""
    left, reached = list(direct[start]), set[str]()
    while left:
        name = left.pop()
        if name not in reached:
            reached.add(name)
            left += direct[name]
    return reached


def thin(known: Mapping[str, Module]) -> list[tuple[Module, list[str]]]:
    """Return the modules under 40 lines with at most one importer; those with none are run by their name."""
    small = [m for m in known.values() if m.lines < THIN_LINES and m.path.name != "__init__.py"]
    used = {name: imports(module, known, is_late=True) for name, module in known.items()}
    importers = [(module, sorted(name for name, of in used.items() if module.name in of)) for module in small]
    return [(module, by) for module, by in importers if len(by) <= 1]


def names_given(module: Module) -> Iterator[tuple[str, str]]:
    """Yield each name that a module gives, once, with its kind."""
    classes = [node for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]
    fields = {line.target for node in classes for line in node.body if isinstance(line, ast.AnnAssign)}
    given = {("module", module.path.stem)}
    for node in ast.walk(module.tree):
        if isinstance(node, (*_LATE, ast.ClassDef)):
            given.add(("function or class", node.name))
        elif isinstance(node, ast.arg):
            given.add(("argument or local", node.arg))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            given.add(("field" if node in fields else "argument or local", node.id))
    yield from sorted(given)


def house_words(known: Mapping[str, Module]) -> dict[str, Counter[str]]:
    """Return for each house word in how many names of which kind it is left."""
    left: dict[str, Counter[str]] = {word: Counter() for word in HOUSE_WORDS}
    for module in known.values():
        for kind, name in names_given(module):
            parts = set(re.findall(r"[A-Z]?[a-z]+", name))
            for word in {part.lower() for part in parts} & left.keys() if name not in _ACCEPTED else ():
                left[word][kind] += 1
    return left


def comment_lines(known: Mapping[str, Module], root: Path) -> int:
    """Return how many lines have a comment of their own."""
    texts = ((root / module.path).read_text(encoding="utf-8") for module in known.values())
    return sum(line.lstrip().startswith("# ") for text in texts for line in text.splitlines())


def report(root: Path = ROOT) -> Iterator[str]:
    """Yield the counts, line by line."""
    known = modules(root)
    for folder in ROOMS:
        for inner in sorted({"/".join(m.path.parent.parts[:2]) for m in known.values() if m.path.parts[0] == folder}):
            of_folder = [m for m in known.values() if "/".join(m.path.parent.parts[:2]) == inner]
            yield f"{inner:<22}{sum(m.lines for m in of_folder):>8,} lines{len(of_folder):>5} files"
    lines = sum(module.lines for module in known.values())
    yield f"{'product':<22}{lines:>8,} lines{len(known):>5} files"
    heart = sum(module.lines for module in known.values() if module.path.as_posix() in HEART)
    yield f"{'heart':<22}{heart:>8,} lines{len(HEART):>5} files, at most {MOST_HEART_LINES:,} lines are aimed at"
    tests = modules(root, ["tests"])
    helpers = sum(module.lines for module in tests.values() if not module.path.name.startswith("test_"))
    all_tests = sum(module.lines for module in tests.values())
    yield f"{'tests':<22}{all_tests:>8,} lines{len(tests):>5} files, {helpers:,} lines in files that hold no test"
    yield f"comments: {comment_lines(known, root) / lines:.1%} of the product's lines"
    small = thin(known)
    yield f"modules under {THIN_LINES} lines with one importer: {sum(len(by) == 1 for _, by in small)}"
    yield from (f"  {module.path}, {module.lines} lines: {by[0] if by else 'run by its name'}" for module, by in small)
    rings = circles(known)
    yield f"import circles: {len(rings)}"
    yield from (f"  {', '.join(ring)}" for ring in rings)
    left = house_words(known)
    yield f"house words in names: {sum(words.total() for words in left.values())}, by kind: {', '.join(KINDS)}"
    for word, count in sorted(left.items(), key=lambda item: (-item[1].total(), item[0])):
        if count:
            yield f"  {word:<12}" + "".join(f"{count[kind]:>6}" for kind in KINDS) + f"   {HOUSE_WORDS[word]}"


def main(arguments: list[str]) -> int:
    """Print the counts; with `--check` only the circles, and 1 where there is one."""
    if arguments == ["--check"]:
        rings = circles(modules(ROOT))
        print("\n".join(f"Modules import each other: {', '.join(ring)}" for ring in rings) or "No import circle.")
        return bool(rings)
    print("\n".join(report()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
