"""What the pages for people name is there: commands, options, files and tests."""

import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from agent.cli import vigil
from state.paths import CampaignPaths, JobPaths
from tests.project.house import names_given, read_module
from tests.project.test_project import ROOT, texts

PAGES = [path for path, _ in texts() if path.suffix == ".md"]
_COMMAND = re.compile(r"^(?:\s*|\$ )vigil ([a-z]+(?:-[a-z]+)*)\b(.*)$")


def commands(page: str) -> Iterator[tuple[str, str]]:
    """Yield each `vigil` command of a page, in backticks or as an indented line, with the rest of it."""
    spans = re.findall(r"`([^`\n]+)`", page)
    lines = [line for line in page.splitlines() if line.startswith("    ")]
    for text in (*spans, *lines):
        for part in text.split("#")[0].split("|"):
            if found := _COMMAND.match(part):
                yield found[1], found[2]


def wrong(page: str) -> list[str]:
    """Return the commands and options of a page that the command line does not know."""
    faults = []
    for name, rest in commands(page):
        command = vigil.commands.get(name)
        known = {option for parameter in command.params for option in parameter.opts} if command else set()
        unknown = [option for option in re.findall(r"--[a-z][a-z-]*", rest) if option not in {*known, "--help"}]
        if command is None or unknown:
            faults.append(f"vigil {name} {' '.join(unknown)}".rstrip())
    return faults


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_option_that_a_page_names_exists(page: Path) -> None:
    assert wrong(page.read_text()) == []


def test_a_command_that_does_not_exist_is_seen() -> None:
    assert wrong("Type `vigil run --restore FILE`, then\n\n    vigil status   # as before\n") == []
    assert wrong("`vigil dance`") == ["vigil dance"]
    assert wrong("    vigil status --rewind\n") == ["vigil status --rewind"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_of_this_repository_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"`((?:tests|tools|state|agent|policies|runbooks)/[\w./-]+)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


FOR_CHANGES = ("ARCHITECTURE.md", "CONTRIBUTING.md", "runbooks/walk.md")
"""Pages for whoever changes the code: what they name stands in a file that the same passage names."""


def file_names() -> set[str]:
    """Return the names of all files of a campaign and of a job."""
    folders = (CampaignPaths(Path("home"), "night"), JobPaths(Path("job")))
    values = (
        getattr(of, name) for of in folders for name, kind in vars(type(of)).items() if isinstance(kind, property)
    )
    return {value.name for value in values if isinstance(value, Path)}


@cache
def given(path: str) -> frozenset[str]:
    """Return what a source file defines: functions, methods, classes, fields, constants."""
    file = ROOT / path
    return frozenset(name for _, name in names_given(read_module(ROOT, file))) if file.is_file() else frozenset()


def unknown(page: str) -> list[str]:
    """Return the names of a page that none of the files beside them defines, and modules to run that are not there."""
    faults = []
    for passage in re.split(r"\n\s*\n|\n(?=\d+\. |- |\|)", page):
        spans = re.findall(r"`([^`]+)`", passage)
        known = {name for span in spans if span.endswith(".py") for name in given(span)} | file_names()
        for span in spans:
            module = re.search(r"\bpython -m ([\w.]+)", span)
            is_name = re.fullmatch(r"[A-Za-z_]\w*|[\w.]+\.(json|db|lock)", span) and not (ROOT / span).is_dir()
            if (is_name and span not in known) or (module and find_spec(module[1]) is None):
                faults.append(span)
    return faults


@pytest.mark.parametrize("page", FOR_CHANGES)
def test_what_a_page_for_changes_names_stands_in_the_file_beside_it(page: str) -> None:
    assert unknown((ROOT / page).read_text()) == []


def test_a_name_that_no_file_beside_it_defines_is_seen() -> None:
    assert unknown("In `agent/loop.py`, `build` makes `GraphState`; see `tests` and `job.json`.") == []
    assert unknown("`agent/loop.py` `build`\n\nalone: `build`\n1. `agent/loop.py` `gone`\n2. `jobs.json`") == [
        "build",
        "gone",
        "jobs.json",
    ]
    assert unknown("`.venv/bin/python -m tests.project.house --check` and `python -m tests.gone`") == [
        "python -m tests.gone"
    ]


def test_the_way_in_is_a_page_and_recipes_of_ten_lines() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= 80
    recipes = re.split(r"^## Add ", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)[1:]
    assert [recipe.splitlines()[0] for recipe in recipes] == [
        "a probe",
        "a policy rule",
        "an instrument",
        "a track",
        "a job backend",
    ]
    assert [recipe for recipe in recipes if len(recipe.split("\n## ")[0].strip().splitlines()) > 11] == []


def test_every_file_of_a_campaign_and_of_a_job_is_told_what_it_survives() -> None:
    page = (ROOT / "runbooks" / "what_survives_what.md").read_text()
    campaign, job = CampaignPaths(Path("home"), "night"), JobPaths(Path("job"))
    names = {getattr(campaign, name).name for name, value in vars(CampaignPaths).items() if isinstance(value, property)}
    of_job = [getattr(job, name) for name, value in vars(JobPaths).items() if isinstance(value, property)]
    names |= {path.name for path in of_job if isinstance(path, Path)}
    names -= {campaign.root.name}
    assert len(names) > 15
    assert sorted(name for name in names if not re.search(rf"`{re.escape(name)}[`/]", page)) == []


def test_decision_records_say_what_was_decided_why_and_at_what_cost_on_half_a_page() -> None:
    records = sorted((ROOT / "runbooks" / "decisions").glob("*.md"))
    assert len(records) >= 3
    for record in records:
        text = record.read_text()
        assert all(f"**{part}" in text for part in ("Decided", "Why", "What else", "What it costs")), record
        assert len(text.splitlines()) <= 50, record
