"""A campaign's record and its job folders damaged: every reading command says so, or shows what was written."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli import vigil
from agent.render.record import with_folder
from state.clock import FakeClock
from state.errors import DamagedFileError
from state.paths import CampaignPaths, JobPaths
from tests.agent.recorded import begin_training, opened, record
from tests.state import samples
from tools.jobs.spec import read_start_counters

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


FILES = ("job.json", "start.json", "exit.json", "result.json", "metrics.jsonl")
GATHERING = tuple(command for command in COMMANDS if command[0] not in {"beliefs", "export"})
STABLE = frozenset({("why",), ("why", "D5"), ("why", "D4", "--json"), ("jobs",), ("runs",), ("inbox",)})
"""What is shown does not depend on when."""


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def empty(_data: bytes) -> bytes:
    return b""


def binary(_data: bytes) -> bytes:
    return bytes(range(256)) * 8


def nested(_data: bytes) -> bytes:
    return (b"[" * 200_000 + b"\n") * 2


def of_wrong_types(data: bytes) -> bytes:
    """Each text a number, each number a list, whatever they stand in."""

    def wrong(value: object) -> object:
        if isinstance(value, dict):
            return {key: wrong(each) for key, each in value.items()}
        return 7 if isinstance(value, str) else ["x"]

    rows = data.splitlines() if b"\n{" in data else [data]
    return b"\n".join(json.dumps(wrong(json.loads(row))).encode() for row in rows) + b"\n"


DAMAGES = (cut, empty, binary, nested, of_wrong_types)


def test_a_damaged_file_of_a_job_is_named_by_every_command_that_shows_the_job_and_changes_nothing_shown(
    tmp_path: Path,
) -> None:
    paths = record(tmp_path, "promoted")
    whole = {command: said(tmp_path, command) for command in COMMANDS}
    assert {code for code, _, _ in whole.values()} == {0}
    number = 0
    for name in FILES:
        path = paths.job("train2").folder / name
        data = path.read_bytes()
        for harm in DAMAGES:
            path.write_bytes(harm(data))
            # A torn last line is what a power cut leaves, and no rows are what a short job has.
            is_normal = path == paths.job("train2").metrics and harm in {cut, empty}
            for command in (
                COMMANDS[number % len(COMMANDS)],
                *(GATHERING[(number + n) % len(GATHERING)] for n in (0, 5)),
            ):
                number += 1
                code, out, err = said(tmp_path, command)
                is_said = command in GATHERING and not is_normal
                assert (code, "Traceback" in err) == (5 if is_said else 0, False), (name, harm, command, err)
                assert (f"{path} is damaged: " in err) is is_said, (name, harm, command, err)
                assert len(err.splitlines()) == is_said, err
                assert out == whole[command][1] or command not in STABLE, (name, harm, command)
        path.write_bytes(data)


def test_a_damaged_file_of_a_job_at_work_is_named_and_what_is_whole_is_shown(tmp_path: Path) -> None:
    with opened(tmp_path, FakeClock()) as store:
        begin_training(store)
    files = CampaignPaths(tmp_path, "quick").job("k")
    files.folder.mkdir(parents=True)
    rows = [{"step": step, "t": 1000.0 + step, "train_loss": 1.5} for step in (20, 30)]
    texts = {
        files.worker: json.dumps({"pid": 1, "create_time": 1000.0}),
        files.start: json.dumps({"pid": 1, "tally": {"starts": 1, "started_at": 990.0}}),
        files.metrics: "".join(json.dumps(row) + "\n" for row in rows),
        files.exit: json.dumps({"state": "finished", "code": 0, "wall_s": 12.0}),
    }
    for path, text in texts.items():
        for harm in DAMAGES:
            for each, content in texts.items():
                each.write_text(content)
            # An end hides what would be told of a job at work.
            files.exit.unlink()
            path.write_bytes(harm(text.encode()))
            is_normal = path == files.metrics and harm in {cut, empty}
            for command in (("status",), ("jobs", "--json"), ("watch", "--once")):
                code, out, err = said(tmp_path, command)
                assert (code, "Traceback" in err, "R1" in out) == (0 if is_normal else 5, False, True), (
                    path,
                    harm,
                    err,
                )
                assert is_normal or f"{path} is damaged: " in err, (path, harm, command, err)


@pytest.mark.parametrize(
    "row",
    [
        '{"phase": "train", "t": "abc"}',
        '{"phase": "train", "t": [1]}',
        '{"step": 3, "t": NaN}',
        '{"step": 3, "t": 1e300}',
        '{"step": 1' + "0" * 400 + ', "t": 6}',
    ],
)
def test_a_row_that_no_worker_writes_is_said_and_passed_over(tmp_path: Path, row: str) -> None:
    paths = CampaignPaths(tmp_path, "quick")
    files = paths.job("k")
    files.folder.mkdir(parents=True)
    files.metrics.write_text('{"step": 2, "t": 5}\n' + row + "\n")
    shown = with_folder(paths, {"folder": "jobs/k", "key": "k", "kind": "training", "state": "running"})
    assert (shown["step"], shown["damaged"]) == (
        2,
        [DamagedFileError(files.metrics, "1 of its last lines are no rows").sentence],
    )


@pytest.mark.parametrize("tally", [{"notes": 5}, {"notes": [7]}, {"notes": [{}]}, {"starved": "x"}, {"killed": None}])
def test_a_tally_of_wrong_types_is_damage(tmp_path: Path, tally: dict[str, object]) -> None:
    files = JobPaths(tmp_path)
    files.start.write_text(json.dumps({"tally": tally}))
    with pytest.raises(DamagedFileError, match="tally"):
        read_start_counters(files)
