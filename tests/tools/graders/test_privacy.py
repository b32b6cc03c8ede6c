"""A grader that quotes the case in whatever it says: heard where texts are kept, unheard where they are private."""

import sys
from pathlib import Path

import pytest

from state.errors import ConfigError
from tools.graders.contract import GraderSpec
from tools.graders.host import Grader

CANARY = "canary-5417"
CASE = {"id": "c1", "prompt": CANARY}


def sentence(spec: GraderSpec) -> str:
    """Return what grading one case says, as an error of the case or of the grader."""
    try:
        with Grader(spec) as grader:
            [grade] = grader.grade([(CASE, CANARY, "stop")])
    except ConfigError as error:
        return error.sentence
    return f"{grade.error} {grade.metrics}"


@pytest.mark.parametrize(
    ("body", "bare"),
    [
        ("raise ValueError(text)", "grade raised ValueError at grade.py:5"),
        ("return {'score': text}", "metric score is not a number"),
        ("return {text + '!': 1.0}", "the name of a metric is no plain word"),
        ("print(text, file=sys.stderr, flush=True); os._exit(3)", "the grader's process ended with exit code 3"),
    ],
)
def test_what_a_grader_says_of_a_case_is_told_without_its_words(tmp_path: Path, body: str, bare: str) -> None:
    file = tmp_path / "grade.py"
    file.write_text(f"import os\nimport sys\n\ndef grade(case, text):\n    {body}\n")
    assert CANARY in sentence(GraderSpec(file=str(file)))
    private = sentence(GraderSpec(file=str(file), is_private=True))
    assert CANARY not in private
    assert bare in private


@pytest.mark.parametrize(
    ("source", "bare"),
    [
        (f"raise OSError('{CANARY}')", "cannot be imported: OSError at grade.py:1"),
        (
            f"import os, sys\nprint('{CANARY}', file=sys.stderr, flush=True)\nos._exit(4)",
            "which ended with exit code 4",
        ),
    ],
)
def test_a_grader_that_cannot_be_used_is_told_without_its_words(tmp_path: Path, source: str, bare: str) -> None:
    file = tmp_path / "grade.py"
    file.write_text(source)
    assert CANARY in sentence(GraderSpec(file=str(file)))
    private = sentence(GraderSpec(file=str(file), is_private=True))
    assert CANARY not in private
    assert bare in private


@pytest.mark.parametrize(
    ("answer", "bare"),
    [
        ('{"error": row["text"]}', "the grader answered with an error"),
        ('{"case": row["text"], "metrics": {}}', "the grader answered for case something else instead"),
        ('{"case": "c1", "metrics": row["text"]}', "the grader's metrics are not an object"),
        ('row["text"]', "the grader wrote what is no JSON object"),
    ],
)
def test_what_a_command_answers_is_told_without_its_words(tmp_path: Path, answer: str, bare: str) -> None:
    (tmp_path / "grade.py").write_text(
        f"import json, sys\nfor line in sys.stdin:\n    row = json.loads(line)\n"
        f"    print(json.dumps({answer}), flush=True)\n"
    )
    command = (sys.executable, "grade.py")
    assert CANARY in sentence(GraderSpec(command=command, cwd=str(tmp_path)))
    private = sentence(GraderSpec(command=command, cwd=str(tmp_path), is_private=True))
    assert CANARY not in private
    assert bare in private
