"""The table of faults: what is on file, what comes next, and what a violation does."""

import tempfile
from pathlib import Path
from typing import Any

import pytest

from state.files import read_jsonl
from tests.faults import __main__ as faults
from tests.faults.parts import PARTS
from tests.faults.parts.contract import Batch, Part


def good(seed: int, folder: Path, most: int) -> Batch:
    (folder / "here").touch()
    return Batch(min(most, 4), figures={"rounds": seed})


def bad(seed: int, folder: Path, most: int) -> Batch:
    return Batch(min(most, 4), () if seed != 2 else (f"{folder} has an act done twice",))


def breaks(seed: int, folder: Path, most: int) -> Batch:
    raise OSError(f"seed {seed}: no {folder.name} of {most}")


SMALL = (Part("good", "nothing is wrong", 10, good), Part("bad", "the second batch is wrong", 6, bad))


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of results of a small table, whose folders are below the test's own."""
    monkeypatch.setattr(faults, "PARTS", SMALL)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / "results.jsonl"


def run(results: Path, *words: str) -> int:
    return faults.main([*words, "--results", str(results)])


def seeds(results: Path, part: str) -> list[tuple[int, int]]:
    return [(row["seed"], row["faults"]) for row in read_jsonl(results) if row["part"] == part]


def test_a_call_goes_on_where_the_last_one_was_ended(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(results, "--part", "good", "--most", "5") == 0
    assert seeds(results, "good") == [(1, 4), (2, 1)]
    assert run(results, "--part", "good") == 0
    assert seeds(results, "good") == [(1, 4), (2, 1), (3, 4), (4, 1)]
    assert run(results, "--part", "good") == 0
    assert len(seeds(results, "good")) == 4, "all is done"
    [line] = [line for line in capsys.readouterr().out.splitlines()[-3:] if line.startswith("good")]
    assert line.split()[1:6] == ["10", "10", "0", "0", "1"]
    assert "10 rounds" in line
    assert not list(results.parent.glob("vigil-good-*"))


def test_a_violation_is_told_with_its_seed_kept_and_tried_again(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(results) == 1
    said = capsys.readouterr().out
    assert "VIOLATION, bad seed 2: /batch has an act done twice" in said
    assert list(results.parent.glob("vigil-bad-2-*"))
    assert run(results, "--table") == 1
    monkeypatch.setattr(faults, "PARTS", (Part("bad", "mended", 6, good),))
    assert run(results) == 0
    on_file = faults.tally(read_jsonl(results), "bad")
    assert (on_file.faults, on_file.wrong, on_file.mended) == (8, (), 1)


def test_the_part_that_is_furthest_behind_comes_first(results: Path) -> None:
    rows: list[dict[str, Any]] = []
    assert (faults.next_batch(SMALL, rows, None) or ())[1:] == (1, 10)
    run(results, "--part", "good", "--most", "4")
    part, seed, left = faults.next_batch(SMALL, read_jsonl(results), None) or (None, 0, 0)
    assert part is not None
    assert (part.name, seed, left) == ("bad", 1, 6)


def test_a_batch_that_breaks_is_a_violation_and_is_not_tried_without_end(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(faults, "PARTS", (Part("breaks", "it cannot be done", 5, breaks),))
    assert run(results) == 1
    assert seeds(results, "breaks") == [(1, 0), (2, 0), (3, 0)]
    assert "OSError: seed 1: no batch of 5" in capsys.readouterr().out


def test_one_seed_is_done_again_and_what_cannot_be_done_here_is_said(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(results, "--part", "bad", "--seed", "2", "--most", "3") == 1
    assert seeds(results, "bad") == [(2, 3)]
    with pytest.raises(SystemExit):
        run(results, "--seed", "2")
    monkeypatch.setattr(faults, "PARTS", (Part("other", "elsewhere", 5, good, lambda: "it needs a Mac"),))
    assert run(results) == 0
    assert "[not here: it needs a Mac]" in capsys.readouterr().out
    assert run(results, "--list") == 0


def test_every_part_has_a_name_of_its_own_and_what_is_on_file_belongs_to_one() -> None:
    names = [part.name for part in PARTS]
    assert len(names) == len(set(names))
    assert {row["part"] for row in read_jsonl(faults.RESULTS)} <= set(names)
