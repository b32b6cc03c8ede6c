"""Each tracker, as installed: filled in parts, torn, killed and on a full disk, it holds every row once.

Skipped by name where the extra is not installed; what they showed is in runbooks/trackers.md.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tools.trackers.held import runs
from tools.trackers.writers import WRITERS

ROOT = Path(__file__).resolve().parents[3]


def child(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.tools.trackers.held", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def held(name: str, folder: Path) -> dict[str, list[Any]]:
    read = child("read", name, folder)
    assert read.returncode == 0, read.stderr
    found: dict[str, list[Any]] = json.loads(read.stdout)
    return found


@pytest.mark.parametrize("name", WRITERS)
def test_a_tracker_filled_in_parts_torn_and_on_a_full_disk_holds_every_row_once(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name, reason=f"the extra {name} is not installed")
    assert child("fill", name, tmp_path, 10).stdout.split()[-1:] == ["20"]
    for file in tmp_path.rglob("*tfevents*"):
        file.write_bytes(file.read_bytes()[:-5])
    full = child("fill", name, tmp_path, 3000, max(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()) + 9000)
    again = child("fill", name, tmp_path, 3000)
    assert again.returncode == 0, again.stderr
    assert int(again.stdout.split()[-1]) > 0, full
    expected = [[row.step, row.values] for row in runs(3000)[0].rows]
    found = held(name, tmp_path)
    assert found.keys() == {"R1-abc123", "R2-abc123"}
    for rows in found.values():
        assert [row[0] for row in rows] == [row[0] for row in expected], "neither a gap nor a double"
        for (_, one), (_, other) in zip(rows, expected, strict=True):
            assert one == pytest.approx(other, rel=1e-6)
    assert child("fill", name, tmp_path, 3000).stdout.split()[-1:] == ["0"]
