"""What a terminal shows while a campaign works, and what a file gets instead."""

from collections.abc import Callable
from typing import Any

import pytest

from agent.render.watch import EVERY_S, Terminal
from state.clock import FakeClock

JOB: dict[str, Any] = {
    "id": "J1", "key": "k", "kind": "training", "run": "R1", "state": "running", "step": 0, "steps": 100,
    "started_at": 0.0, "last": {}, "exit": {},
}  # fmt: skip


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


Made = Callable[..., tuple[Terminal, list[str]]]


@pytest.fixture
def make(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Made:
    def made(*, is_live: bool, columns: int = 40) -> tuple[Terminal, list[str]]:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", "10")
        written: list[str] = []
        return Terminal(written.append, is_live=is_live, now=clock.monotonic, wall=lambda: 60.0), written

    return made


def screen(written: list[str], columns: int = 40) -> list[str]:
    """Return what stands on a terminal that was written to, by the few sequences that we use."""
    rows, row, column = [""], 0, 0
    text = "".join(written)
    while text:
        if text.startswith("\x1b["):
            end = next(index for index, char in enumerate(text) if char.isalpha())
            if text[end] == "A":
                row -= int(text[2:end])
            elif text[end] == "J":
                rows[row] = rows[row][:column]
                rows = rows[: row + 1]
            text = text[end + 1 :]
            continue
        char, text = text[0], text[1:]
        if char == "\r":
            column = 0
        elif char != "\a":
            if char == "\n" or column == columns:
                row, column = row + 1, 0
                rows += [""] * (row + 1 - len(rows))
            if char != "\n":
                rows[row] = rows[row][:column] + char + rows[row][column + 1 :]
                column += 1
    return rows


def test_a_job_is_one_line_that_is_written_over_and_its_outcome_stays(make: Made) -> None:
    terminal, written = make(is_live=True)
    terminal.say("D1 Train R1, since nothing is known of it as of now.")
    for step in (10, 20):
        terminal.show({**JOB, "step": step})
    assert screen(written) == ["D1 Train R1, since nothing is known of", "it as of now.", "Training R1: step 20 of 100"]
    terminal.show({**JOB, "step": 100, "state": "finished", "exit": {"state": "finished", "wall_s": 50.0}})
    assert screen(written)[2:] == ["Training R1: 100 of 100 steps in 50 s.", ""]
    terminal.close()
    assert screen(written)[3:] == [""]


def test_a_command_wider_than_the_terminal_is_whole_and_is_written_over_whole(make: Made) -> None:
    terminal, written = make(is_live=True)
    for waited in ("1 s", "2 s"):
        terminal.show([f"Waiting, {waited} so far.", f"vigil approve quick:Q1 --home {'/long' * 12}"])
    shown = screen(written)
    assert shown[0] == "Waiting, 2 s so far."
    assert "".join(shown[1:]) == f"vigil approve quick:Q1 --home {'/long' * 12}"
    terminal.close()
    assert screen(written) == [""]


def test_what_left_the_screen_is_not_written_over(make: Made) -> None:
    terminal, written = make(is_live=True)
    terminal.show([f"line {number}" for number in range(20)])
    assert screen(written) == [f"line {number}" for number in (0, 1, 2, *range(14, 20))]


def test_the_same_again_writes_nothing(make: Made) -> None:
    terminal, written = make(is_live=True)
    terminal.show("Starting …")
    terminal.show("Starting …")
    assert len(written) == 1


def test_a_question_rings_and_stands_out(make: Made) -> None:
    terminal, written = make(is_live=True)
    terminal.print(["quick:Q1 waits for you", "  yes: vigil approve quick:Q1"], is_loud=True)
    assert written[0].startswith("\a\x1b[1mquick:Q1 waits for you\x1b[0m\n")


def test_words_of_others_move_no_cursor(make: Made) -> None:
    terminal, written = make(is_live=True)
    terminal.say("The answer was \x1b[2J\x07gone.")
    assert "\x1b" not in "".join(written)
    assert "\x07" not in "".join(written)


def test_a_file_gets_whole_sentences_and_a_line_on_a_long_job_once_a_minute(make: Made, clock: FakeClock) -> None:
    terminal, written = make(is_live=False)
    terminal.say("D1 Train R1, since nothing is known of it as of now.")
    terminal.show("Starting …")
    for second in range(150):
        terminal.show({**JOB, "step": second % 100})
        clock.advance(1.0)
    assert written[0] == "D1 Train R1, since nothing is known of it as of now.\n"
    assert written[1].startswith("Training R1: step 5 of 100, 5 %")
    assert written[2].startswith(f"Training R1: step {5 + int(EVERY_S)} of 100")
    assert len(written) == 4
    clock.advance(EVERY_S)
    terminal.show({**JOB, "waits_for": {"ahead": [], "since": 0.0}})
    assert len(written) == 4, "the wait has a sentence of its own"
    terminal.show({**JOB, "step": 100, "state": "finished", "exit": {"state": "finished", "wall_s": 150.0}})
    assert written[4:] == ["Training R1: 100 of 100 steps in 2 min.\n"]
    terminal.show({**JOB, "key": "n", "kind": "notice", "state": "finished"})
    assert len(written) == 5, "that a notice was sent has its own sentence"
    assert not any("\x1b" in text or "\r" in text for text in written)
