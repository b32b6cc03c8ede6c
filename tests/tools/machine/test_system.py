"""Asking programs and files that may be absent, broken or silent."""

from pathlib import Path

from tests.tools.machine import machines
from tools.machine.facts import System


def test_a_program_is_asked_in_english_and_answers(tmp_path: Path) -> None:
    path = tmp_path / "told"
    path.write_text('#!/bin/sh\necho "$LC_ALL $1"\necho trouble >&2\nexit 3\n')
    path.chmod(0o755)
    answer = System(root=tmp_path, path=str(tmp_path)).ask("told", "me")
    assert answer is not None
    assert (answer.status, answer.out, answer.last_words) == (3, "C me\n", "trouble")


def test_a_program_that_says_nothing_has_no_last_words(tmp_path: Path) -> None:
    machines.program(tmp_path, "mute")
    answer = System(root=tmp_path, path=str(tmp_path)).ask("mute")
    assert answer is not None
    assert answer.last_words == ""


def test_programs_that_are_absent_do_not_start_or_do_not_end_are_no_answer(tmp_path: Path) -> None:
    system = System(root=tmp_path, path=str(tmp_path), timeout_s=0.05)
    (tmp_path / "garbled").write_text("#!/no/such/interpreter\n")
    (tmp_path / "garbled").chmod(0o755)
    (tmp_path / "endless").write_text("#!/bin/sh\nread line < /dev/zero\n")
    (tmp_path / "endless").chmod(0o755)
    assert system.ask("absent") is None
    assert system.ask("garbled") is None
    assert system.ask("endless") is None


def test_files_that_are_absent_or_hold_no_number_are_no_answer(tmp_path: Path) -> None:
    machines.put(tmp_path, {"sys/word": "hot\n", "sys/figure": " 42 \n"})
    system = System(root=tmp_path)
    assert (system.read("sys/none"), system.read("sys/figure")) == (None, "42")
    assert (system.number("sys/word"), system.number("sys/none"), system.number("sys/figure")) == (None, None, 42.0)
    assert system.glob("sys/*") == ["sys/figure", "sys/word"]
