"""The shipped campaign that must not run: real tokenizer, real census, no training."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.campaign.warm import vigil

ROOT = Path(__file__).resolve().parents[2]
CAMPAIGN = ROOT / "runbooks" / "phantom_ceiling" / "campaign.yaml"
LEAST_BUDGET = 407
"""Tokens of the longest reference answer of the stress split, end token included."""


def listed(command: str, home: Path) -> list[dict[str, Any]]:
    shown = vigil(command, "--json", "--home", str(home))
    assert shown.returncode == 0, shown.stderr
    rows: list[dict[str, Any]] = json.loads(shown.stdout)
    return rows


@pytest.mark.mlx
@pytest.mark.timeout(180)
def test_a_budget_too_small_for_the_gold_stops_before_training_with_the_number_and_the_fix(tmp_path: Path) -> None:
    ended = vigil("run", str(CAMPAIGN), "--home", str(tmp_path))
    assert ended.returncode == 3, ended.stderr

    said = " ".join(ended.stdout.split())
    assert "stress.rows_kept at least 0.84, above what the reference answers score through this harness: 0.5585" in said
    assert f"Set evaluation.max_tokens to {LEAST_BUDGET}, where the references score 1" in said

    stops = [row for row in listed("beliefs", tmp_path) if row["status"] == "refuted"]
    [refuted] = [row for row in stops if row["severity"] == "hard_stop"]
    assert refuted["claim"] == "below_ceiling"
    assert refuted["value"]["ceiling"] == pytest.approx(0.5585, abs=1e-4)
    jobs = listed("jobs", tmp_path)
    assert [job["kind"] for job in jobs] == ["census"], "nothing was trained, nothing generated"


@pytest.mark.mlx
def test_with_the_named_budget_the_same_gold_reaches_the_gate(tmp_path: Path) -> None:
    from agent.campaign import load_campaign
    from agent.checks import grader_spec
    from agent.inputs import all_split_inputs

    loaded = load_campaign(CAMPAIGN)
    job = tmp_path / "census"
    job.mkdir()
    asked = {
        "model": str(loaded.resolve(loaded.goal.model.path)),
        "data": {"train": str(loaded.resolve(loaded.goal.data.train))},
        "max_seq_length": 896,
        "mask_prompt": True,
        "splits": all_split_inputs(loaded.goal, loaded.folder),
        "max_tokens": LEAST_BUDGET,
        "system": None,
        "grader": grader_spec(loaded.goal, loaded.folder).model_dump(mode="json"),
    }
    (job / "job.json").write_text(json.dumps({"key": "k", "kind": "census", "input": asked}))
    done = subprocess.run(
        [sys.executable, "-m", "tools.evaluation.census", str(job)], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((job / "result.json").read_text())
    assert found["ceiling"]["stress.selection"]["rows_kept"]["mean"] == 1.0
    assert found["budget"]["stress.selection"]["smallest_sufficient"] <= LEAST_BUDGET
