"""Single bits of a campaign's record flipped: every reading command says so, or shows what was written."""

import os
import random
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli import vigil
from state.clock import FakeClock
from state.paths import CampaignPaths
from tests.agent.recorded import opened, record
from tests.state import samples

FLIPS = int(os.environ.get("VIGIL_FLIPS", "20"))

COMMANDS = (
    *(("status",), ("status", "--json"), ("why",), ("why", "D5"), ("why", "D4", "--json"), ("beliefs", "--all")),
    *(("beliefs", "--impact", "B2"), ("beliefs", "--tally"), ("jobs",), ("jobs", "--json"), ("runs",), ("inbox",)),
    *(("report", "--text"), ("report", "--page"), ("report", "--json"), ("export",), ("watch", "--once")),
)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home as a kill leaves it: part of the record stands in the log alone, and the last writes with it."""
    home, left = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("left") / "home"
    record(home, "not_promoted")
    with opened(home, FakeClock()) as store:
        for number in range(20):
            store.knowing.believe(samples.belief(subject=f"data:{number}", value="x" * 400))
        shutil.copytree(home, left)
    assert CampaignPaths(left, "quick").db.with_name("state.db-wal").stat().st_size > 10_000
    return left


def said(home: Path, command: tuple[str, ...]) -> tuple[int, str, str]:
    result = CliRunner().invoke(vigil, [*command, "--home", str(home)])
    return result.exit_code, result.stdout, result.stderr


def damage(paths: CampaignPaths, part: str, draw: random.Random) -> str:
    """Flip one bit that is in use."""
    path = paths.db.with_name(part)
    data = bytearray(path.read_bytes())
    place = draw.choice([at for at, byte in enumerate(data) if byte])
    data[place] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(data))
    return f"{part} byte {place}"


@pytest.mark.parametrize("part", ["state.db", "state.db-wal"])
def test_a_flipped_bit_is_said_by_every_reading_command_or_changes_nothing(
    killed: Path, tmp_path: Path, part: str
) -> None:
    draw, noticed = random.Random(7), 0
    whole = said(shutil.copytree(killed, tmp_path / "whole"), ("export",))
    assert whole[0] == 0, whole
    for number in range(FLIPS):
        home = tmp_path / str(number)
        shutil.copytree(killed, home)
        where = damage(CampaignPaths(home, "quick"), part, draw)
        # Each command at least once, in every campaign of flips; all at each flip by `make faults`.
        some = COMMANDS if FLIPS > 100 else [COMMANDS[number % len(COMMANDS)]]
        for command in [*some, ("export",)]:
            code, out, err = said(home, command)
            assert code in {0, 5}, (where, command, code, err)
            assert "Traceback" not in err, (where, command, err)
            if code == 5:
                assert "--restore" in err, (where, command, err)
                assert out == "", (where, command, out)
        noticed += code == 5
        assert code == 5 or out == whole[1], where
        shutil.rmtree(home)
    print(f"{noticed} of {FLIPS} flips of {part} noticed, the others changed no row")
    assert noticed >= FLIPS // 3
