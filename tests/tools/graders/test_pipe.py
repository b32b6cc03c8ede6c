import os
import sys
from pathlib import Path

import pytest

from tools.graders.pipe import ChildDiedError, ChildHungError, LineChild


def _child(folder: Path, program: str) -> LineChild:
    return LineChild([sys.executable, "-c", program], folder, os.environ)


def test_lines_of_any_size_go_out_and_come_back(tmp_path: Path) -> None:
    child = _child(tmp_path, "import sys\nfor line in sys.stdin: print(line[::-1].strip(), flush=True)")
    for text in ("ab", "x" * 3_000_000 + "y"):
        assert child.ask(text, 60) == text[::-1]
    assert not child.has_unread_output
    child.close(60)


def test_a_child_that_closes_its_input_has_died_as_far_as_we_can_tell(tmp_path: Path) -> None:
    program = "import os, threading; os.close(0); print('deaf', flush=True); threading.Event().wait()"
    child = _child(tmp_path, program)
    assert child.ask("", 60) == "deaf"
    with pytest.raises(ChildDiedError):
        child.ask("x", 60)
    assert child.last_words() == "closed its pipes"
    child.close()


def test_the_deadline_holds_while_a_child_trickles(tmp_path: Path) -> None:
    program = "import sys, time\nwhile True: sys.stdout.write('.'); sys.stdout.flush(); time.sleep(0.01)"
    child = _child(tmp_path, program)
    with pytest.raises(ChildHungError):
        child.ask("x", 0.3)
    child.close()


def test_the_last_words_are_the_exit_code_and_the_last_line_of_stderr(tmp_path: Path) -> None:
    child = _child(tmp_path, "import sys; sys.exit('first\\n\\nlast')")
    with pytest.raises(ChildDiedError):
        child.ask("", 60)
    assert child.last_words() == "ended with exit code 1, last saying: last"
    child.close()


def test_a_child_that_ignores_the_end_of_its_input_is_killed_after_the_grace(tmp_path: Path) -> None:
    child = _child(tmp_path, "import threading; print('up', flush=True); threading.Event().wait()")
    assert child.ask("", 60) == "up"
    child.close(grace_s=0.1)
    assert child._process.returncode == 128 + 9


def test_no_pipe_is_left_open_when_the_program_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LineChild(["no-such-program-of-ours"], tmp_path, os.environ)
