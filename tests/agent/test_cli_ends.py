"""How commands end when something other than the campaign fails: a terminal that is gone, a fault of our own."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent import campaign
from agent.cli import vigil
from tests.faults.campaign import world

SPEAKER = "import sys; from agent.commands.common import tell; sys.stdin.read(1); tell('one'); tell('two'); sys.exit(6)"


def speaker() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SPEAKER],
        cwd=world.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_what_is_told_while_nobody_reads_any_more_ends_nothing() -> None:
    with speaker() as process:
        assert process.stdout is not None
        process.stdout.close()
        _, complaint = process.communicate(b"x")
    assert (process.returncode, complaint) == (6, b"")


def test_what_is_told_is_printed() -> None:
    with speaker() as process:
        said, complaint = process.communicate(b"x")
    assert (process.returncode, said, complaint) == (6, b"one\ntwo\n", b"")


def test_a_fault_of_ours_is_shown_and_has_not_the_exit_code_of_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(_path: Path) -> None:
        raise RuntimeError("a rule is missing")

    monkeypatch.setattr(campaign, "load_campaign", faulty)
    result = CliRunner().invoke(vigil, ["run", "--check", "campaign.yaml"])
    assert result.exit_code == 4
    assert "RuntimeError: a rule is missing" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("vigil: This is a fault of Vigil's own")


def test_a_mistyped_option_is_still_told_as_one() -> None:
    result = CliRunner().invoke(vigil, ["run", "--chek", "campaign.yaml"])
    assert result.exit_code == 2
    assert "No such option" in result.stderr
