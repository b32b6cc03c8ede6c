"""The table of failures: each row as it comes, kept for the next call, and what takes too long is missed."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import failure_modes
from tests.benchmarks.failure_modes import MODES, Ask, Row, asks, main, markdown, summary
from tests.faults.failure_modes.seen import Finding, Seen

FOUND = Finding("P1", "hard_stop", "gate:exact", "below_ceiling", "0.25.", None, 3.2, 840.0)
SEEN = Seen(3, "first\nHard stop: something else.\n", [FOUND])


def found(ask: Ask, folder: Path) -> Row:
    folder.mkdir(exist_ok=True)
    return ask.row(FOUND, SEEN)


def missed(ask: Ask, folder: Path) -> Row:
    return ask.row(None, SEEN)


def slow(ask: Ask, folder: Path) -> Row:
    raise subprocess.TimeoutExpired("vigil", 400)


def with_asks(monkeypatch: pytest.MonkeyPatch, *looks: Any) -> None:
    rows = [Ask(mode, "run", look.__name__, look) for mode, look in zip(MODES, looks, strict=False)]
    monkeypatch.setattr(failure_modes, "asks", lambda *_, **__: rows)


def test_every_mode_has_a_row_and_ten_campaigns_and_projects_are_clean() -> None:
    rows = asks()
    assert {ask.mode for ask in rows} == {*MODES, ""}
    for kind in ("clean campaign", "clean project"):
        assert sum(ask.by == kind for ask in rows) >= 10
    assert len({ask.key for ask in rows}) == len(rows)
    assert {ask.mode for ask in asks(["P2", "9"])} == {"P2", "9"}


def test_a_row_says_when_it_was_found_and_what_it_saved_or_what_was_seen_instead(tmp_path: Path) -> None:
    assert Ask("P1", "run", "cut", found).answer().cells == ("P1", "run", "yes", "3.2 s", "14 min", "cut")
    said = Ask("P1", "run", "cut", missed).answer().cells
    assert said[2] == "MISSED"
    assert "exit 3, found P1 gate:exact below_ceiling; Hard stop: something else." in said[-1]


def test_what_takes_too_long_is_missed_and_the_others_are_asked_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_asks(monkeypatch, slow, found)
    assert main(["--store", str(tmp_path / "rows"), "--markdown", str(tmp_path / "table.md")]) == 1
    said = capsys.readouterr().out
    assert "slow: it took longer than 400 s" in said
    assert "1 of 2 modes detected, by 2 injected failures; not 1." in said
    assert "| 2 | run | yes | 3.2 s | 14 min | found |" in (tmp_path / "table.md").read_text()


def test_a_second_call_tries_again_what_was_missed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--store", str(tmp_path / "rows")]
    with_asks(monkeypatch, slow, found)
    main(asked)
    with (tmp_path / "rows").open("a") as file:
        file.write('\n{"code": "torn')
    tried: list[str] = []

    def again(ask: Ask, folder: Path) -> Row:
        tried.append(ask.name)
        return ask.row(FOUND, SEEN)

    monkeypatch.setattr(
        failure_modes, "asks", lambda *_, **__: [Ask("1", "run", "slow", again), Ask("2", "run", "found", again)]
    )
    assert main(asked) == 0
    assert tried == ["slow"]
    assert main([*asked, "--again"]) == 0
    assert tried == ["slow", "slow", "found"]
    monkeypatch.setattr(failure_modes, "code_hash", lambda: "other code")
    main(asked)
    assert sorted(tried[3:]) == ["found", "slow"]
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines() if line.endswith("}")]
    assert len(rows) == 7


def test_a_clean_one_that_raises_an_alarm_fails_the_table() -> None:
    clean = [Row("", "chat", "clean campaign", is_good=True), Row("", "text", "clean campaign", is_good=False, why="5")]
    assert summary(clean) == [
        "0 of 0 modes detected, by 0 injected failures.",
        "1 of 2 clean campaigns raised a false alarm.",
    ]
    assert "| - | clean campaign | ALARM | - | - | text: 5 |" in markdown(clean)
