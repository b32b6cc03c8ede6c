import ast
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from state import log
from state.files import json_row
from state.log import (
    bind_log,
    hand_on,
    log_debug,
    log_error,
    log_info,
    log_privately,
    log_warning,
    passed_over,
    start_log,
    stop_log,
)
from tests.project.test_project import ROOT

SILENT = {
    # A log that cannot be written, and a terminal that is gone, have nowhere to say so.
    "state/log.py": 1,
    # A child that has not ended when it is looked at is what is waited for: ten lines a second would say so.
    "tools/machine/sandbox.py": 2,
    "tools/graders/pipe.py": 1,
    # It has no log: what it looks at may be gone by then, and what this system refuses it does without.
    "tools/machine/sandbox_child.py": 10,
}
"""File -> places that may suppress errors without a line."""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # As it is, so that it is put back whatever a test hands on.
    monkeypatch.setenv("VIGIL_LOG", "{}")
    monkeypatch.delenv("VIGIL_LOG_LEVEL", raising=False)
    yield tmp_path / "agent.jsonl"
    stop_log()


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_each_line_is_bound_by_what_it_is_of_and_the_file_is_private(file: Path) -> None:
    start_log(file, campaign="night", epoch=3)
    bind_log(decision="D1", job="k1")
    log_info("action.begin", action="train", run="", steps=None)
    bind_log(decision=None, job=None)
    log_warning("guard", places=[Path("a"), "b" * 500], figures={"value": 1.5}, other=object())
    first, second = lines(file)
    assert {name: first[name] for name in ("level", "event", "campaign", "epoch", "decision", "job", "action")} == {
        "level": "info",
        "event": "action.begin",
        "campaign": "night",
        "epoch": 3,
        "decision": "D1",
        "job": "k1",
        "action": "train",
    }
    assert first["pid"] == os.getpid()
    assert first["timestamp"].endswith("Z")
    assert not {"run", "steps"} & first.keys(), "what says nothing is left out"
    assert not {"decision", "job"} & second.keys()
    assert (second["places"][0], len(second["places"][1]), second["figures"], second["other"]) == (
        "a",
        200,
        {"value": 1.5},
        "object",
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_of_an_error_its_type_and_place_are_told_and_its_words_only_where_nothing_is_private(file: Path) -> None:
    for is_private in (False, True):
        start_log(file, is_private=not is_private)
        log_privately(is_private=is_private)
        try:
            raise ValueError("the row says canary")  # noqa: TRY301 - what is caught
        except ValueError as failure:
            log_error("worker.failed", failure)
        log_error("worker.refused", OSError(28, "full"), what="recipe.iters")
    plain, full, private, _ = lines(file)
    assert (plain["error"], plain["words"]) == ("ValueError", "the row says canary")
    assert plain["at"].startswith("test_log.py:")
    assert (full["errno"], full["what"]) == (28, "recipe.iters")
    assert "at" not in full
    assert "canary" not in str(private)


def test_the_lowest_level_is_asked_for_by_the_environment_or_the_caller(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for asked, level in (("warning", None), ("nonsense", None), ("debug", "error")):
        monkeypatch.setenv("VIGIL_LOG_LEVEL", asked)
        start_log(file, level=level)  # type: ignore[arg-type]  # one of its words
        log_debug("passed")
        log_info("did")
        log_warning("look")
    assert [line["event"] for line in lines(file)] == ["look", "passed", "did", "look"]


def test_what_is_passed_over_leaves_a_debug_line_and_anything_else_is_raised(file: Path) -> None:
    with passed_over("before.start", OSError):
        raise FileNotFoundError
    start_log(file)
    with passed_over("heartbeat.not_written", OSError, place="x"):
        raise FileNotFoundError(2, "gone")
    with pytest.raises(ZeroDivisionError), passed_over("never", OSError):
        _ = 1 / 0
    [line] = lines(file)
    assert (line["level"], line["event"], line["error"], line["errno"], line["place"]) == (
        "debug",
        "heartbeat.not_written",
        "FileNotFoundError",
        2,
        "x",
    )


def test_a_log_is_bounded_and_one_that_cannot_be_written_stops_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "LIMIT_BYTES", 1000)
    start_log(file)
    for number in range(40):
        log_info("step", step=number)
    sizes = [path.stat().st_size for path in sorted(file.parent.iterdir())]
    assert len(sizes) == 2
    assert max(sizes) <= 1000
    assert stat.S_IMODE(file.with_name("agent.jsonl.1").stat().st_mode) == 0o600
    assert lines(file)[-1]["step"] == 39
    start_log(file.parent / "gone" / "agent.jsonl")
    log_info("nowhere")
    assert log._log[0].file is not None
    assert log._log[0].file.lost == 1
    log._log[0]._render = lambda *_: 1 / 0
    log_info("nothing.is.raised")


def test_a_line_that_a_kill_or_a_full_disk_cut_is_counted_and_swallows_none_after_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('{"timestamp": "2025')
    start_log(file)
    log_info("first")
    whole = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda number, data: whole(number, data[:9]))
        log_info("cut")
    assert log._log[0].file is not None
    assert log._log[0].file.lost == 1
    log_info("second")
    log_info("third")
    found = [json_row(text) for text in file.read_text().split("\n")]
    assert [row["event"] for row in found if row] == ["first", "second", "third"]


def test_what_a_process_starts_says_what_launched_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hand_on(campaign="night", epoch=2)
    hand_on(decision="D7")
    start_log(file, job="k1")
    log_info("worker.start")
    hand_on(decision=None)
    start_log(file)
    for torn in ("{", "[]"):
        monkeypatch.setenv("VIGIL_LOG", torn)
        start_log(file)
    log_info("worker.start")
    first, second = lines(file)
    assert (first["campaign"], first["epoch"], first["decision"], first["job"]) == ("night", 2, "D7", "k1")
    assert not {"campaign", "epoch", "decision", "job"} & second.keys()


def test_lines_are_echoed_as_sentences_with_or_without_a_file(file: Path) -> None:
    told: list[str] = []
    start_log(file, echo=told.append)
    log_info("decision", decision="D1")
    start_log(None, echo=told.append)
    log_info("decision", decision="D2")
    assert [said.partition("decision ")[2].split()[0] for said in told] == ["decision=D1", "decision=D2"]
    assert len(lines(file)) == 1


def test_before_it_is_begun_nothing_is_written_or_imported() -> None:
    listed = (
        "import sys; from state.log import *; from state import log; log.log_info('x'); log.bind_log(a=1);"
        "print('structlog' in sys.modules);"
        "log.start_log(None, echo=print); print('rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", listed], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def silent(tree: ast.AST) -> Iterator[int]:
    """Yield the line of each place that suppresses errors without a word."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "suppress":
            yield node.lineno
        if isinstance(node, ast.ExceptHandler) and all(isinstance(part, ast.Pass) for part in node.body):
            yield node.lineno


def test_no_error_is_suppressed_without_a_debug_line() -> None:
    places = [path for part in ("agent", "policies", "state", "tools") for path in (ROOT / part).rglob("*.py")]
    found = {
        str(path.relative_to(ROOT)): numbers
        for path in places
        if (numbers := list(silent(ast.parse(path.read_text(encoding="utf-8")))))
    }
    assert {name: len(numbers) for name, numbers in found.items()} == SILENT, found
    assert list(silent(ast.parse("with contextlib.suppress(OSError):\n    pass\n"))) == [1]
