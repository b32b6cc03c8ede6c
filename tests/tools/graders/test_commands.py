"""Graders that are commands speaking JSON lines."""

import sys
from pathlib import Path
from textwrap import dedent, indent

import pytest

from state.errors import ConfigError
from tools.graders.contract import Grade, GraderSpec
from tools.graders.host import Grader

GOOD = {"score": 1.0}


def _command(folder: Path, body: str, timeout_s: float = 10) -> GraderSpec:
    """Return a command that runs `body` for each request `r`."""
    script = folder / "command.py"
    head = "import json, os, sys, threading\nfor line in sys.stdin:\n    r = json.loads(line)\n"
    script.write_text(head + indent(dedent(body), "    "))
    return GraderSpec(command=(sys.executable, "command.py"), cwd=str(folder), timeout_s=timeout_s)


def _grades(spec: GraderSpec) -> list[Grade]:
    with Grader(spec) as grader:
        return grader.grade([({"id": name, "prompt": "p"}, "text", "length") for name in "abc"])


def _answer(metrics: str = '{"score": 1.0}') -> str:
    return f'print(json.dumps({{"case": r["case"]["id"], "metrics": {metrics}}}), flush=True)\n'


def test_a_command_gets_case_text_and_finish_reason(tmp_path: Path) -> None:
    metrics = '{"cut": r["finish_reason"] == "length", "length": len(r["text"]), "fields": len(r)}'
    assert _grades(_command(tmp_path, _answer(metrics)))[0] == Grade("a", {"cut": 1.0, "length": 4.0, "fields": 3.0})


@pytest.mark.parametrize(
    ("misbehave", "fault"),
    [
        ("print('Loading', flush=True)", "wrote 'Loading', which is no JSON object"),
        ("print('[1]', flush=True)", "which is no JSON object"),
        ("os._exit(9)", "ended with exit code 9"),
        ('print(json.dumps({"case": "a", "metrics": {"score": 0}}), flush=True)', "answered for case 'a' instead"),
        ('print(json.dumps({"metrics": {"score": 0}}), flush=True)', "answered for case None"),
        ('print(json.dumps({"case": "b"}), flush=True)', "metrics are 'None', not an object"),
        ('print(json.dumps({"case": "b", "error": "no such file"}), flush=True)', "no such file"),
        ('print(json.dumps({"case": "b", "metrics": {"score": float("nan")}}), flush=True)', "metric score is nan"),
        ('print(json.dumps({"case": "b", "metrics": {"score": "1"}}), flush=True)', "not a number"),
        ('print(\'{"case": "b", "metrics": {"score": 1\' + "0" * 400 + "}}", flush=True)', "metric score is inf"),
    ],
)
def test_what_a_command_does_to_one_case_stays_with_that_case(misbehave: str, fault: str, tmp_path: Path) -> None:
    body = f"if r['case']['id'] == 'b':\n    {misbehave}\n    continue\n{_answer()}"
    grades = _grades(_command(tmp_path, body))
    assert [grade.metrics for grade in grades] == [GOOD, {"score": None}, GOOD]
    assert fault in grades[1].error


def test_a_command_that_does_not_flush_or_hangs_is_told_apart_from_a_zero(tmp_path: Path) -> None:
    body = f"if r['case']['id'] == 'b':\n    threading.Event().wait()\n{_answer()}"
    grades = _grades(_command(tmp_path, body, timeout_s=6))
    assert [grade.metrics for grade in grades] == [GOOD, {"score": None}, GOOD]
    assert "no answer within 6 s (a command must flush each line)" in grades[1].error


def test_a_command_that_says_more_than_it_was_asked_is_started_over(tmp_path: Path) -> None:
    twice = _answer().replace("print(", "sys.stdout.write(2 * (").replace(", flush=True)", ' + "\\n"))')
    grades = _grades(_command(tmp_path, f"{twice}sys.stdout.flush()\n"))
    assert [(grade.metrics, grade.error) for grade in grades] == [(GOOD, "")] * 3


def test_a_command_that_never_reads_cannot_hold_us_up(tmp_path: Path) -> None:
    (tmp_path / "deaf.py").write_text("import threading\nthreading.Event().wait()\n")
    spec = GraderSpec(command=(sys.executable, str(tmp_path / "deaf.py")), timeout_s=0.5)
    with Grader(spec) as grader:
        [grade] = grader.grade([({"id": "a"}, "x" * 1_000_000, "stop")])
    assert "no answer within 0.5 s" in grade.error


def test_a_command_that_writes_without_end_cannot_hold_us_up(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text("import sys\nwhile True: sys.stdout.write('x' * 65536)\n")
    spec = GraderSpec(command=(sys.executable, str(tmp_path / "endless.py")), timeout_s=1)
    with Grader(spec) as grader:
        [grade] = grader.grade([({"id": "a"}, "", "stop")])
    assert "no answer within 1 s" in grade.error


def test_a_command_that_cannot_start_is_one_sentence_for_the_user(tmp_path: Path) -> None:
    spec = GraderSpec(command=("no-such-program-of-ours", "--fast"))
    with pytest.raises(ConfigError, match="`no-such-program-of-ours --fast` cannot be started"), Grader(spec):
        pass
