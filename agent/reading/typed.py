"""What a person may type next: every command that is printed is built here, so that it works as it is printed.

A command names its campaign, its home where that is not the one taken by default, and itself by a path where the shell
does not know it; all of it quoted for a shell. Lines of commands are never wrapped, cut or ended by a full stop.
"""

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from agent.reading import verdicts
from agent.reading.places import find_home
from agent.reading.words import block, clock, columns, near, wrapped
from state.errors import DamagedFileError
from state.files import read_object
from state.paths import CampaignPaths

View = dict[str, Any]

_MOST_FIGURES = 8


def place(paths: CampaignPaths, file: str = "") -> View:
    """Return what printed commands need to know of a campaign and of the shell they are typed in.

    Args:
        paths: The campaign's files.
        file: Its YAML file, where it was just given.

    Returns:
        `name`, `elsewhere` (the home, where commands must be told of it), `here` (the folder they are typed in), `bin`
        (folder of our programs, where the shell does not find them), `file` (as typed here).
    """
    here = str(Path.cwd())
    known = file or _source(paths)
    return {
        "name": paths.name,
        "here": here,
        "elsewhere": str(paths.home) if paths.home.resolve() != find_home(None).resolve() else "",
        "bin": _bin(),
        "file": near(known, here) if known else "",
    }


def _source(paths: CampaignPaths) -> str:
    """Return the campaign's file as it was run last, empty where nobody knows: a printed command then says FILE."""
    try:
        return str(read_object(paths.source).get("file") or "")
    except DamagedFileError:
        return ""


def _bin() -> str:
    """Return the folder of our programs where the shell that asks would not find them, or would find others."""
    ours = Path(sys.prefix) / "bin" / "vigil"
    seen = shutil.which("vigil")
    is_ours = seen is not None and Path(seen).resolve() == ours.resolve()
    return "" if is_ours or not ours.is_file() else str(ours.parent)


def runbook(given: str) -> str:
    """Return where a runbook lies, as it can be opened from here; empty where this installation has none.

    Args:
        given: Its path below `runbooks/`, with or without that, and the anchor of a section.
    """
    name, hash_mark, anchor = given.removeprefix("runbooks/").partition("#")
    path = Path(__file__).resolve().parents[2] / "runbooks" / name
    return near(str(path), str(Path.cwd())) + hash_mark + anchor if given and path.is_file() else ""


def program(view: View, name: str) -> str:
    """Return one of our programs as the shell finds it."""
    folder = view.get("bin")
    return shlex.quote(near(str(Path(folder) / name), view.get("here"))) if folder else name


def command(view: View, *words: str) -> str:
    """Return a command of ours, told of the home where it has to be.

    Args:
        view: As `place` or `gather` returns it.
        words: The command and what it is given.
    """
    elsewhere = view.get("elsewhere")
    told = ["--home", near(elsewhere, view.get("here"))] if elsewhere else []
    return f"{program(view, 'vigil')} {shlex.join([*words, *told])}"


def of_campaign(view: View, *words: str) -> str:
    """Return a command of ours on this campaign: `vigil watch NAME`."""
    return command(view, *words, _name(view))


def of_row(view: View, verb: str, row: str, *words: str) -> str:
    """Return a command of ours on one row of this campaign: `vigil approve NAME:Q2`."""
    return command(view, verb, named(view, row), *words)


def named(view: View, row: str) -> str:
    """Return an id that is understood whatever else the home holds: `NAME:Q2`."""
    return f"{_name(view)}:{row}"


def run(view: View) -> str:
    """Return the command that goes on with the campaign."""
    return command(view, "run", view.get("file") or "FILE")


def _name(view: View) -> str:
    return str(view.get("name") or view["campaign"]["name"])


def answers(view: View, question: View) -> list[tuple[str, str]]:
    """Return what answers a question: a word on it, and the command."""
    why = ["--reason", "WHY"] if question.get("kind") == "override" else []
    return [
        ("yes", of_row(view, "approve", question["id"], *why)),
        ("no", of_row(view, "reject", question["id"], "--reason", "WHY")),
    ]


def question(view: View, row: View) -> list[str]:
    """Return a question that waits: what is asked, its figures, until when, and the commands that answer it."""
    lines = wrapped(f"{_name(view)}:{row['id']} waits for you ({row['kind']}): {row['question']}", columns())
    lines += block("", f"Asked {clock(row['asked_at'])}.", indent=2) if row.get("asked_at") else []
    for text in _figures(view, row):
        lines += block("", text, indent=2)
    if row.get("deadline_at"):
        lines += block("", f"Unanswered at {clock(row['deadline_at'])} it becomes {row['unanswered']}.", indent=2)
    if said := row.get("unapplied"):
        lines += block("", f"{said['answer']} by {said['by']}, not yet applied; a running agent does, or:", indent=2)
        return [*lines, f"  {run(view)}"]
    return lines + [f"  {word + ':':<4} {typed}" for word, typed in answers(view, row)]


def _figures(view: View, row: View) -> list[str]:
    """Return what a question rests on: for a promotion each condition of the gate, for a launch what it costs."""
    decision = next((each for each in view.get("decisions") or [] if each["id"] == row["decision"]), None)
    if decision is None:
        return []
    if row["kind"] == "promotion":
        of_run = [each for each in verdicts.judged(view) if each["run"] == decision["run"]]
        conditions = of_run[-1]["gate"]["conditions"] if of_run else []
        return [f"{verdicts.MARKS[each['decided']]:<5} {verdicts.said(each)}" for each in conditions[:_MOST_FIGURES]]
    return []
