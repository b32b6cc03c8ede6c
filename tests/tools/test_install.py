import io
import sys
from pathlib import Path

import pytest

from tools.install import PLAIN_S, Progress, Teller, run

SAID = """\
Collecting click==8.1 (from -r requirements.lock (line 3))
  Downloading click-8.1-py3-none-any.whl.metadata (2.6 kB)
Collecting mlx-cpu==0.32.4 (from -r requirements.lock (line 9))
  Downloading mlx_cpu-0.32.4-cp311-manylinux_2_27_x86_64.whl (10.2 MB)
"""


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_pip_says_becomes_how_far_it_is(tmp_path: Path) -> None:
    progress = Progress(9, tmp_path)
    for line in SAID.splitlines(keepends=True):
        progress.take(line)
    assert progress.words == "downloading: 2 of at most 9 packages, mlx_cpu (10.2 MB)"
    progress.take("Collecting rich==14.0 (from -r requirements.lock (line 11))\n")
    assert progress.words == "downloading: 3 of at most 9 packages, rich"


def test_while_pip_is_silent_the_packages_that_are_there_are_counted(tmp_path: Path) -> None:
    progress = Progress(9, tmp_path)
    for line in (*SAID.splitlines(), "Installing collected packages: click, mlx-cpu"):
        progress.take(line)
    assert progress.words == "unpacking: 0 of 2 packages"
    for name in ("pip-26.0", "click-8.1"):
        (tmp_path / f"{name}.dist-info").mkdir()
    assert progress.words == "unpacking: 1 of 2 packages"


def test_without_a_terminal_a_line_is_said_now_and_then_and_what_matters_always() -> None:
    clock, stream = Clock(), io.StringIO()
    teller = Teller(stream, clock)
    teller.tell("first", stays=True)
    for clock.now in (1.0, PLAIN_S + 1, PLAIN_S + 2):
        teller.tell(f"at {clock.now:.0f}")
    teller.tell("last", stays=True)
    assert stream.getvalue() == "    0 s  first\n   11 s  at 11\n   12 s  last\n"


def test_in_a_terminal_the_line_is_rewritten() -> None:
    clock, stream = Clock(), Screen()
    teller = Teller(stream, clock)
    clock.now = 2.0
    teller.tell("w" * 100)
    teller.tell("done", stays=True)
    assert stream.getvalue() == f"\r\x1b[K    2 s  {'w' * 70}\r\x1b[K    2 s  done\n"


def test_a_command_that_is_silent_is_looked_after_and_one_that_fails_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = tmp_path / "seen"
    waits = "import os, sys, time\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.01)\nsys.exit('no room')"
    lines: list[str] = []

    def look(line: str) -> None:
        lines.append(line)
        seen.touch()

    assert run([sys.executable, "-c", waits, str(seen)], {}, look, 0.01) == 1
    assert lines[0] == ""
    assert lines[-1] == "no room\n"
    assert "no room" in capsys.readouterr().err
