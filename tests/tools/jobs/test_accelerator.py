import os
import subprocess
import sys
import tempfile
from pathlib import Path
from subprocess import PIPE

import pytest

from state.errors import ConfigError
from state.paths import MachinePaths
from tests.faults.jobs.harness import ROOT
from tools.jobs.locks import Turn, machine_paths, try_lock


def take(paths: MachinePaths, campaign: str) -> Turn:
    turn = Turn.take(paths, {"campaign": campaign})
    assert turn is not None
    return turn


def names(turn: Turn) -> list[str]:
    ahead = turn.ahead()
    assert ahead is not None
    return [who.get("campaign", "?") for who in ahead]


@pytest.fixture
def machine(tmp_path: Path) -> MachinePaths:
    return MachinePaths(tmp_path)


def test_the_first_has_the_accelerator_and_the_others_wait_in_the_order_they_came(machine: MachinePaths) -> None:
    first, second, third = (take(machine, name) for name in ("anna", "bob", "eve"))
    assert names(first) == []
    assert names(second) == ["anna"]
    assert names(third) == ["anna", "bob"]
    first.release()
    assert names(second) == []
    assert names(third) == ["bob"]
    late = take(machine, "anna again")
    assert names(late) == ["bob", "eve"]
    for turn in (second, third, late):
        turn.release()
    assert list(machine.turns.glob("*.json")) == []


def test_the_turn_of_a_dead_process_is_free_and_an_heir_keeps_it(machine: MachinePaths) -> None:
    program = (
        "import os, subprocess, sys; from pathlib import Path; from state.paths import MachinePaths;"
        "from tools.jobs.locks import Turn\n"
        "turn = Turn.take(MachinePaths(Path(sys.argv[1])), {'campaign': 'anna'})\n"
        "heir = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=sys.stdin, pass_fds=(turn.descriptor,))\n"
        "print('taken', flush=True)\n"
        "os._exit(0)"
    )
    command = [sys.executable, "-c", program, str(machine.folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=PIPE, stdout=PIPE) as dead:
        assert dead.stdout is not None
        dead.stdout.readline()
        dead.wait()
        ours = take(machine, "bob")
        assert names(ours) == ["anna"]
        assert dead.stdin is not None
        dead.stdin.write(b"\n")
        dead.stdin.close()
        dead.stdout.read()
    assert names(ours) == []
    assert [path.stem for path in machine.turns.glob("*.json")] == [f"{ours.number:09d}"]


def test_a_queue_that_another_changes_is_not_waited_for(machine: MachinePaths) -> None:
    ours = take(machine, "anna")
    lock = try_lock(machine.queue_lock)
    assert lock is not None
    assert Turn.take(machine, {}) is None
    assert ours.ahead() is None
    os.close(lock)
    assert names(ours) == []


def test_a_turn_whose_file_was_removed_does_not_stand(machine: MachinePaths) -> None:
    ours = take(machine, "anna")
    assert ours.is_standing
    machine.turn(ours.number).unlink()
    assert not ours.is_standing
    another = take(machine, "bob")
    assert another.number == ours.number
    assert not ours.is_standing
    ours.release()
    assert another.is_standing


def test_a_turn_without_words_counts_all_the_same(machine: MachinePaths) -> None:
    first, second = take(machine, "anna"), take(machine, "bob")
    for torn in ("", "[]"):
        machine.turn(first.number).write_text(torn)
        assert names(second) == ["?"]


def test_campaigns_meet_in_the_folder_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine_paths({"XDG_STATE_HOME": str(tmp_path)}).folder == tmp_path / "vigil"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for environment in ({}, {"XDG_STATE_HOME": "not/absolute"}):
        assert machine_paths(environment).folder == tmp_path / "home" / ".local" / "state" / "vigil"


def test_without_a_folder_that_can_be_written_they_meet_in_the_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").touch()
    found = machine_paths({"XDG_STATE_HOME": str(tmp_path / "file")})
    assert found.folder == tmp_path / f"vigil-{os.getuid()}"
    assert found.turns.is_dir()
    assert found.folder.stat().st_mode & 0o077 == 0
    found.folder.chmod(0o777)
    with pytest.raises(ConfigError, match="you alone can write; set XDG_STATE_HOME"):
        machine_paths({"XDG_STATE_HOME": str(tmp_path / "file")})
    found.folder.rename(tmp_path / "mine")
    found.folder.symlink_to(tmp_path / "mine")
    with pytest.raises(ConfigError, match="is not a folder of yours"):
        machine_paths({"XDG_STATE_HOME": str(tmp_path / "file")})
