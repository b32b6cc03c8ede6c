"""The house has no import circle and no thin module, and the command that counts it sees both."""

from pathlib import Path

from tests.project import house


def built(root: Path, **sources: str) -> dict[str, house.Module]:
    """Return the modules of a small house of one room."""
    (root / "state").mkdir()
    for name, source in sources.items():
        (root / "state" / f"{name}.py").write_text(source)
    return house.modules(root, ["state"])


def test_no_modules_import_each_other_and_none_is_thin_with_one_importer() -> None:
    known = house.modules(house.ROOT)
    assert len(known) > 100
    assert house.circles(known) == []
    assert [module.path for module, importers in house.thin(known) if len(importers) == 1] == []


def test_a_circle_is_seen_by_way_of_others_and_below_except_and_not_inside_functions(tmp_path: Path) -> None:
    known = built(
        tmp_path,
        a="from state import b\n",
        b="try:\n    import state.c\nexcept ImportError:\n    from state.a import x\n",
        c="def late():\n    from state.b import x\n",
        d="import state.a\n",
    )
    assert house.circles(known) == [["state.a", "state.b"]]
    importers = {module.name: by for module, by in house.thin(known)}
    assert importers == {"state.c": ["state.b"], "state.d": []}


def test_house_words_are_parts_of_the_names_that_are_given(tmp_path: Path) -> None:
    source = "class Seen:\n    told: str\n\n\ndef asked_for(foundation, found):\n    surface = write_once = found\n"
    left = house.house_words(built(tmp_path, tonight=source, other="print(found, night)\n"))
    assert {word: dict(kinds) for word, kinds in left.items() if kinds} == {
        "seen": {"function or class": 1},
        "told": {"field": 1},
        "asked": {"function or class": 1},
        "found": {"argument or local": 1},
        "surface": {"argument or local": 1},
        "tonight": {"module": 1},
    }


def test_the_report_counts_lines_and_files_of_each_room(tmp_path: Path) -> None:
    built(tmp_path, a="# Why.\nx = 1\n", b="y = 1\n")
    lines = list(house.report(tmp_path))
    assert lines[0].split() == ["state", "3", "lines", "2", "files"]
    assert lines[1].split() == ["product", "3", "lines", "2", "files"]
    assert "comments: 33.3% of the product's lines" in lines
    assert "import circles: 0" in lines
