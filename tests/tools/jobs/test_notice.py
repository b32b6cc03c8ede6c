import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from state.files import read_json
from tools.jobs.processes import identify, is_alive

ROOT = Path(__file__).parents[3]
LINE = {"campaign": "storm", "event": "ended", "sentence": "R2 ist befördert."}


def notice(folder: Path, command: list[str], timeout_s: float = 30.0) -> int:
    """Run the worker once in a job folder; return its exit status."""
    given: dict[str, Any] = {"command": command, "cwd": str(folder), "timeout_s": timeout_s, "line": LINE}
    (folder / "job.json").write_text(json.dumps({"key": "key-1", "input": given}))
    words = [sys.executable, "-m", "tools.jobs.notice", str(folder)]
    return subprocess.run(words, cwd=ROOT, check=False).returncode


def sentence(folder: Path) -> str:
    return str((read_json(folder / "error.json") or {})["sentence"])


def test_the_command_gets_one_line_and_the_key(tmp_path: Path) -> None:
    assert notice(tmp_path, ["sh", "-c", 'echo "$VIGIL_KEY" > key; cat > line']) == 0
    assert read_json(tmp_path / "result.json") == {"sent": "yes"}
    assert (tmp_path / "key").read_text() == "key-1\n"
    assert json.loads((tmp_path / "line").read_text()) == LINE
    assert (tmp_path / "line").read_text().count("\n") == 1


def test_after_a_kill_of_the_worker_nothing_is_sent_again_and_the_result_says_that_nobody_knows(tmp_path: Path) -> None:
    kills_its_worker = ["sh", "-c", "echo once >> told; kill -9 $PPID"]
    assert notice(tmp_path, kills_its_worker) == -9
    assert not (tmp_path / "result.json").exists()
    assert notice(tmp_path, kills_its_worker) == 0
    assert read_json(tmp_path / "result.json") == {"sent": "unknown"}
    assert (tmp_path / "told").read_text() == "once\n"


def test_a_command_that_does_not_read_its_line_has_been_told(tmp_path: Path) -> None:
    assert notice(tmp_path, ["true"]) == 0
    assert read_json(tmp_path / "result.json") == {"sent": "yes"}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["sh", "-c", "exit 7"], "The command of `notify` ended with code 7."),
        (["./nowhere"], "The command of `notify` does not start (No such file or directory): ./nowhere."),
    ],
)
def test_a_command_that_fails_is_one_sentence_and_no_result(tmp_path: Path, command: list[str], said: str) -> None:
    assert notice(tmp_path, command) == 2
    assert sentence(tmp_path) == said
    assert not (tmp_path / "result.json").exists()


def test_a_command_that_takes_too_long_is_ended_with_what_it_started(tmp_path: Path) -> None:
    began = time.monotonic()
    assert notice(tmp_path, ["sh", "-c", "sleep 600 & echo $! > child; wait"], timeout_s=1.0) == 2
    assert time.monotonic() - began < 300
    assert sentence(tmp_path).startswith("The command of `notify` did not end within 1 s")
    child = identify(int((tmp_path / "child").read_text()))
    assert not is_alive(child)
