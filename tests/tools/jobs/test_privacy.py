"""What a worker's log keeps of an exception: all of it, or where texts are private its type and place alone."""

import json
from pathlib import Path

import pytest

from tests.tools.jobs.test_worker import work

CANARY = "canary-5417"
UNCAUGHT = """
c = begin(sys.argv[1])
word = "canary" + "-5417"
def inner():
    raise KeyError(word)
try:
    inner()
except KeyError as error:
    raise ValueError(word) {cause}
"""
THREAD = """
import threading
c = begin(sys.argv[1])
def inner():
    raise KeyError("canary" + "-5417")
thread = threading.Thread(target=inner)
thread.start()
thread.join()
"""
FINALIZER = """
c = begin(sys.argv[1])
class Thing:
    def __del__(self):
        raise KeyError("canary" + "-5417")
thing = Thing()
del thing
"""


def said(folder: Path, program: str, privacy: str) -> str:
    (folder / "job.json").write_text(json.dumps({"key": "k", "input": {"privacy": privacy}}))
    done = work(folder, program)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("program", "kept"),
    [
        (UNCAUGHT.format(cause="from error"), ["KeyError", "ValueError", "in inner", "Then:"]),
        (UNCAUGHT.format(cause=""), ["KeyError", "ValueError", "in inner", "Then:"]),
        (UNCAUGHT.format(cause="from None"), ["ValueError"]),
        (THREAD, ["KeyError", "in inner"]),
        (FINALIZER, ["KeyError", "in __del__"]),
    ],
)
def test_an_exception_is_told_without_its_words_where_texts_are_private(
    tmp_path: Path, program: str, kept: list[str]
) -> None:
    assert CANARY in said(tmp_path, program, "keep")
    private = said(tmp_path, program, "redact")
    assert CANARY not in private
    assert [word for word in kept if word not in private] == []


def test_an_exit_is_no_exception(tmp_path: Path) -> None:
    assert said(tmp_path, "c = begin(sys.argv[1])\nsys.exit(0)", "redact") == ""
