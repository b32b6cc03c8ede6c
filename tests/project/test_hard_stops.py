"""The page on hard stops has a section for everything that can be found, and quotes what is really printed."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from agent.render.summary import DOMAINS
from tests.project.test_project import PACKAGES, ROOT

PAGE = ROOT / "runbooks" / "hard_stops.md"
_MODE = re.compile(r"[1-9]|1[0-5]|P[1-9]|P1[0-2]")
_ANCHOR = re.compile(r'<a id="([^"]+)"></a>')
_ROW = re.compile(r"^\| \[([^]]+)\]\(#([\w-]+)\) \|[^|]*\| (\w*) ?\|", re.MULTILINE)
_LEAST_SAID = 12
"""Characters that a template of the source must have beside its numbers and names, to be recognized in a quote."""
_LEAST_PRINTED = 0.3
"""Share of a quote that the source's own words must cover."""


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def modes_of(tree: ast.Module) -> set[str]:
    """Return every text of a module that is the id of a mode, wherever it stands: an argument, a field, a table."""
    constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str) and _MODE.fullmatch(value)}


def named_modes(tree: ast.Module) -> set[str]:
    """Return what is passed as `mode=` as a text, an id of the table or not."""
    keywords = (node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "mode")
    values = (node.value.value for node in keywords if isinstance(node.value, ast.Constant))
    return {value for value in values if isinstance(value, str) and re.fullmatch(r"P?\d+", value)}


def catalogued() -> set[str]:
    """Return the modes of the catalogue of probes."""
    return modes_of(parsed(ROOT / "tools" / "probes" / "catalogue.py"))


def anchors(page: str) -> list[str]:
    return _ANCHOR.findall(page)


def unanchored(modes: set[str], page: str) -> list[str]:
    return sorted(mode for mode in modes if f"mode-{mode.lower()}" not in anchors(page))


def quotes(page: str) -> Iterator[str]:
    """Yield each quoted sentence of a page, its lines joined."""
    for block in page.split("\n\n"):
        lines = [line.removeprefix("> ") for line in block.splitlines() if line.startswith("> ")]
        if lines:
            yield " ".join(lines)


@cache
def templates() -> set[tuple[str | None, ...]]:
    """Return every text that the source can print, in its parts; None is what is filled in."""
    found = set()
    for path in sources():
        for node in ast.walk(parsed(path)):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            values = (part.value if isinstance(part, ast.Constant) else None for part in parts)
            texts = tuple(value if isinstance(value, str) else None for value in values)
            words = "".join(text or "" for text in texts)
            # A text of several lines is a docstring.
            if len(words.strip()) >= _LEAST_SAID and "\n" not in words:
                found.add(texts)
    return found


def printed_share(quote: str) -> float:
    """Return how much of a quote stands as it is in texts of the source, [0, 1]; the rest is numbers and names."""
    quote = f"{quote} "
    known: set[int] = set()
    for texts in templates():
        # Of thousands a few can match at all.
        if not all(text in quote for text in texts if text):
            continue
        if found := re.search("".join(f"({re.escape(text)})" if text else ".+?" for text in texts), quote):
            known.update(at for group in range(1, len(found.groups()) + 1) for at in range(*found.span(group)))
    return len(known) / len(quote)


def test_every_mode_that_something_found_can_carry_has_its_section() -> None:
    page = PAGE.read_text()
    found = {mode for path in sources() for mode in named_modes(parsed(path))} | catalogued() | set(DOMAINS)
    assert len(found) >= 27
    assert unanchored(found, page) == []


def test_a_mode_without_a_section_is_seen() -> None:
    tree = ast.parse("Finding(mode='P13')\nFinding(mode='wait')\nTABLE = {'x': 'P12'}\n")
    assert named_modes(tree) == {"P13"}
    assert modes_of(tree) == {"P12"}
    assert unanchored({"P12", "P13"}, '<a id="mode-p12"></a>\n') == ["P13"]


def test_every_section_stands_in_the_table_and_every_row_of_the_table_has_its_section() -> None:
    page = PAGE.read_text()
    linked = [anchor for _, anchor, _ in _ROW.findall(page)]
    assert len(linked) >= 27
    assert anchors(page) == linked, "sections come in the order of the table, each once"


def test_a_section_has_a_heading_under_its_anchor() -> None:
    page = PAGE.read_text()
    assert len(re.findall(r'<a id="[^"]+"></a>\n## \S', page)) == len(anchors(page))


def test_the_table_gives_each_mode_the_domain_that_the_tally_counts_it_under() -> None:
    rows = {mode: domain for mode, anchor, domain in _ROW.findall(PAGE.read_text()) if anchor.startswith("mode-")}
    assert rows == DOMAINS


def test_every_section_of_a_mode_says_why_what_to_do_how_it_is_caught_and_what_refutes_it() -> None:
    parts = re.split(r'<a id="(mode-[^"]+)"></a>', PAGE.read_text())[1:]
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    assert len(sections) == len(DOMAINS)
    wanted = (" > ", "**Why.**", "**Do.**", "**Caught.**", "efuted by")
    told = {name: " ".join(text.split()) for name, text in sections.items()}
    assert [(name, part) for name, text in told.items() for part in wanted if part not in text] == []


def test_what_the_page_quotes_is_what_the_source_prints() -> None:
    quoted = list(quotes(PAGE.read_text()))
    assert len(quoted) >= 27
    assert [quote for quote in quoted if printed_share(quote) < _LEAST_PRINTED] == []


def test_a_quote_that_nothing_prints_is_seen() -> None:
    page = (
        "Text.\n\n> The weights need 7 GB with a fifth to spare; the\n> machine has 8 GB.\n\n> They look far too big.\n"
    )
    first, second = quotes(page)
    assert printed_share(first) >= _LEAST_PRINTED > printed_share(second)
