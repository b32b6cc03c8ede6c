"""Silenced rules carry their reason."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from tests.project.test_project import ROOT, tracked

_RULES = re.compile(r"# noqa\b(?P<codes>: [A-Z]+\d+(?:, ?[A-Z]+\d+)*)?(?P<reason> - \S+)?")


def silenced(source: str) -> Iterator[tuple[int, str, bool]]:
    """Yield line, rules and whether a reason stands there, for each comment that silences ruff."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        found = _RULES.search(token.string) if token.type == tokenize.COMMENT else None
        if found:
            yield token.start[0], found["codes"] or "", found["reason"] is not None


def unexplained(source: str) -> list[int]:
    """Return the lines that silence everything, or a rule without a reason there or on the line above."""
    given: dict[int, str] = {}
    faults = []
    for line, codes, has_reason in silenced(source):
        if codes and (has_reason or given.get(line - 1) == codes):
            given[line] = codes
        else:
            faults.append(line)
    return faults


def test_every_silenced_rule_has_its_reason_beside_it_or_on_the_line_above() -> None:
    sources = [path for path in tracked() if path.suffix == ".py"]
    assert len(sources) > 100
    places: list[tuple[Path, int]] = [
        (path.relative_to(ROOT), line) for path in sources for line in unexplained(path.read_text())
    ]
    assert places == []


def test_a_rule_silenced_without_a_reason_is_seen() -> None:
    mark = "# no" + "qa"
    assert unexplained(f"a = 1  {mark}: S101 - why\n") == []
    assert unexplained(f"a = 1  {mark}: S101 - why\nb = 2  {mark}: S101\n") == []
    assert unexplained(f"a = 1  {mark}: S101 - why\nb = 2  {mark}: E501\n") == [2]
    assert unexplained(f"a = 1  {mark}: S101\n") == [1]
    assert unexplained(f"a = 1  {mark}\n") == [1]
    assert unexplained(f"a = '{mark}'\n") == []
