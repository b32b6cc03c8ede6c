"""The shipped ladder: what its census finds before any class is begun."""

import shutil
from pathlib import Path

import pytest

from tests.faults.campaign import warm

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.mlx
@pytest.mark.timeout(180)
def test_a_pair_too_long_for_its_runs_stops_before_the_first_class_is_trained(tmp_path: Path) -> None:
    files = tmp_path / "runbooks"
    shutil.copytree(ROOT / "runbooks" / "ladder", files / "ladder")
    shutil.copytree(ROOT / "runbooks" / "quickstart", files / "quickstart")
    campaign = files / "ladder" / "campaign.yaml"
    written = campaign.read_text()
    head, dpo, rest = written.partition("  dpo:\n")
    campaign.write_text(head + dpo + rest.replace("max_seq_length: 1088", "max_seq_length: 896", 1))
    ended = warm.vigil("run", str(campaign), "--home", str(tmp_path / "home"))
    assert ended.returncode == 3, ended.stdout + ended.stderr
    said = " ".join(ended.stdout.split())
    assert "of 240 pairs have a side longer than max_seq_length 896" in said
    assert "Set max_seq_length of the recipe for dpo to 10" in said
    assert "Train R1" not in said
