"""Printed commands are typed back as they are printed: whatever the home, the campaigns in it and the folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import agent.runner
from agent.cli import vigil
from agent.commands import run as running
from agent.render import typed
from agent.render.record import gather
from agent.render.watch import _panel
from state.files import write_json
from state.paths import CampaignPaths
from tests.agent.folders import make
from tests.agent.recorded import record

STATES: tuple[Any, ...] = ("waiting", "promoted", "not_promoted", "halted", "failed")
"""The others print nothing that one of these does not."""
COMMAND = re.compile(r"(?:^|\s)(\S*vigil'? (?:approve|reject|cancel|run|watch|stop|why|report|jobs|inbox) .*)$")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A campaign file in a folder with an odd name, which is where the person stands."""
    folder = tmp_path / "it's mine; $HOME"
    folder.mkdir()
    monkeypatch.chdir(folder)
    file = make(folder)
    return file.rename(file.with_name("my campaign.yaml"))


def says(*arguments: str) -> Result:
    return CliRunner().invoke(vigil, arguments)


def commands(text: str) -> list[list[str]]:
    """Return every command of ours that a text prints at the end of a line, as a shell reads it."""
    found = [match[1] for line in text.splitlines() if (match := COMMAND.search(line))]
    split = [shlex.split(command) for command in found]
    assert all(Path(words[0]).name == "vigil" for words in split)
    return [words[1:] for words in split]


def recorded(home: Path, state: Any, name: str, file: Path) -> CampaignPaths:
    paths = record(home, state, name)
    write_json(paths.source, {"file": str(file)})
    return paths


@pytest.mark.parametrize("state", STATES)
def test_every_command_that_is_printed_does_what_it_says_to_that_campaign(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, state: Any
) -> None:
    home = tmp_path / "the home's"
    paths = recorded(home, state, "quick", file)
    record(home, "stopped", "newer")
    started: list[tuple[Path, Path]] = []

    def run_campaign(path: Path, home: Path, **_: Any) -> agent.runner.RunEnd:
        assert path.is_file()
        started.append((path.resolve(), home))
        return agent.runner.RunEnd("stopped", "", 1)

    monkeypatch.setattr(agent.runner, "run_campaign", run_campaign)
    monkeypatch.setattr(running, "_summary", lambda *_: None)
    where = ("--home", str(home))
    panel = "\n".join(_panel(gather(paths), 60))
    texts = {place: says(place, "quick", *where).stdout for place in ("status", "inbox")}
    told = [words for text in (*texts.values(), panel) for words in commands(text)]
    assert told, texts
    if state == "waiting":
        assert [words[0] for words in commands(texts["inbox"])] == ["approve", "reject"] == [
            words[0] for words in commands(panel)
        ]  # fmt: skip
    for words in told:
        answer = says(*words)
        assert answer.exit_code == (1 if words[0] == "run" else 0), (words, answer.output)
        about_it = "quick" in answer.stdout or words[0] in {"run", "why", "report", "jobs"}
        assert about_it, (words, answer.output)
        assert "newer" not in answer.output, "the other campaign was not meant"
    assert all(each == (file.resolve(), home.absolute()) for each in started)


def test_a_command_runs_in_a_shell_as_it_is_printed(tmp_path: Path, file: Path) -> None:
    home = tmp_path / "the home's"
    recorded(home, "waiting", "quick", file)
    bare = {key: value for key, value in os.environ.items() if key != "VIGIL_HOME"} | {"PATH": os.defpath}
    shown = subprocess.run(
        [Path(sys.prefix) / "bin" / "vigil", "inbox", "--home", home],
        env=bare, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    yes = next(match[1] for line in shown.splitlines() if (match := COMMAND.search(line)))
    done = subprocess.run(["/bin/sh", "-c", yes], env=bare, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Answered yes to quick:Q1 (promotion).")


def test_an_answer_goes_to_the_campaign_whose_question_waits(tmp_path: Path, file: Path) -> None:
    home = tmp_path / "home"
    recorded(home, "waiting", "quick", file)
    record(home, "promoted", "newer")
    done = says("approve", "Q1", "--home", str(home))
    assert "Answered yes to quick:Q1" in done.stdout


def test_a_runbook_is_named_only_where_it_can_be_read(tmp_path: Path, file: Path) -> None:
    assert file.is_file()
    told = says("run", "--check", "none.yaml")
    assert told.exit_code == 2
    named = typed.runbook("runbooks/campaign_file.md#x")
    assert Path(named.partition("#")[0]).is_file()
    assert typed.runbook("campaign_file.md") == named.partition("#")[0]
    assert typed.runbook("runbooks/gone.md") == typed.runbook("") == ""
    (file.parent / "bad.yaml").write_text("campagin: x\n")
    refused = says("run", "--check", "bad.yaml").stderr.splitlines()
    assert Path(refused[-1].removeprefix("Read ").removesuffix(".")).is_file()
    assert str(tmp_path) not in refused[-1]
