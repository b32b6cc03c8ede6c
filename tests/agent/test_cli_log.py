"""`vigil log`: the files of agent, supervisors and workers, merged by time."""

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.cli import vigil
from state.paths import CampaignPaths
from state.reading import open_reader
from tests.agent import recorded


def line(at: str, event: str, level: str = "info", **more: object) -> str:
    stamp = f"2025-11-29T22:{at}.000000Z"
    return json.dumps({"timestamp": stamp, "level": level, "event": event, "campaign": "quick", **more}) + "\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    recorded.record(tmp_path)
    paths = CampaignPaths(tmp_path, "quick")
    with open_reader(paths) as reader:
        key = next(str(row["key"]) for row in reader.jobs() if row["id"] == "J2")
    job = paths.job(key)
    job.folder.mkdir(parents=True, exist_ok=True)
    paths.log.write_text(line("00:02", "decision", decision="D1") + line("00:05", "agent.end") + '{"timestamp": "2025')
    paths.log.with_name("agent.jsonl.1").write_text(line("00:01", "agent.start", words="\x1b[2Jred"))
    job.supervisor_log.write_text(line("00:03", "guard", "warning", job=key) + "[]\n{}\n")
    job.worker_log.write_text(line("00:04", "save", job=key) + line("00:04", "turn.not_kept", "debug", job=key))
    return tmp_path


def says(home: Path, *words: str) -> Result:
    return CliRunner().invoke(vigil, ["log", "quick", *words, "--home", str(home)])


def events(home: Path, *words: str) -> list[str]:
    return [json.loads(each)["event"] for each in says(home, "--json", *words).stdout.splitlines()]


def test_lines_of_all_processes_come_in_the_order_of_time_and_torn_ones_are_left_out(home: Path) -> None:
    assert events(home) == ["agent.start", "decision", "guard", "save", "agent.end"]
    assert events(home, "--level", "debug")[-2:] == ["turn.not_kept", "agent.end"]
    assert events(home, "--level", "warning") == ["guard"]
    assert events(home, "--job", "quick:j2") == ["guard", "save"]
    assert events(home, "--since", "2025-11-29T22:00:04+00:00") == ["save", "agent.end"]
    said = says(home).stdout
    assert "supervisor guard" in said
    assert "job=J2" in said
    assert "\x1b" not in said


def test_lines_that_no_log_has_are_left_out_and_nothing_reaches_the_terminal_raw(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        with CampaignPaths(home, "quick").log.open("a") as stream:
            stream.write("\n" + "[" * 200_000 + "\n" + line("00:06", "odd", words="\u009b31m\u202eabc"))
            stream.write('{"level": "info", "event": "late", "timestamp": "9999-12-31T23:59:59"}\n')
            stream.write('{"level": "info", "event": "large", "timestamp": 1' + "0" * 5000 + "}\n")
        assert events(home)[-1] == "odd"
        for said in (says(home), says(home, "--json")):
            assert (said.exit_code, {"\u009b", "\u202e"} & set(said.stdout)) == (0, set())
        assert says(home, "--since", "9999-12-31T23:59:59").exit_code in {0, 2}
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_a_command_and_its_jobs_create_is_nobody_elses_to_read(home: Path) -> None:
    before = os.umask(0o022)
    try:
        says(home)
        assert os.umask(0o022) == 0o077
    finally:
        os.umask(before)


def test_a_time_that_is_none_is_refused_and_no_line_is_said_to_be_none(home: Path) -> None:
    refused = says(home, "--since", "yesterday")
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "30m, 2h, 1d" in refused.stderr
    assert events(home, "--since", "1s") == []
    assert says(home, "--job", "J9").stdout == "quick has no such line in its log.\n"
