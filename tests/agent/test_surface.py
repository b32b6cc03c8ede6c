"""Edits of the campaign file while a campaign runs: what passes is taken whole, what does not changes nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from state.paths import CampaignPaths
from tests.agent.test_run_flow import state_of, until
from tests.faults.campaign import warm, world

LONG = {"batch_size": 4, "iters": 400, "max_seq_length": 128, "learning_rate": 0.001}
"""A training that is still running when the file is edited."""

EVALUATION = {"max_tokens": 64, "splits": {"main": {"selection": "gone.jsonl", "confirmation": "confirmation.jsonl"}}}


def run_with_edit(tmp_path: Path, **changes: Any) -> tuple[int, Path]:
    """Run a campaign, edit its file during the first training, and return the exit code and the home."""
    campaign, home = world.write_campaign(tmp_path / "files", recipe=LONG), tmp_path / "home"
    agent = warm.start(campaign, home)
    until(lambda: any((home / "storm" / "jobs").glob("*/out/steps/000010")))
    campaign.write_text(json.dumps({**json.loads(campaign.read_text()), **changes}))
    return agent.wait(timeout=120), home


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluation": EVALUATION}, "gone.jsonl, which is not a file"),
        ({"data": {"train": "gone.jsonl"}}, "gone.jsonl, which is not a file"),
        ({"recipe": {**LONG, "learning_rate": "fast"}}, "learning_rate"),
        ({"campaign": "gale"}, "another campaign"),
    ],
)
def test_an_edit_that_the_check_refuses_is_told_and_changes_nothing(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    code, home = run_with_edit(tmp_path, **changes)
    assert code == 0, world.words(home)
    assert state_of(home) == "promoted"
    assert {decision["goal_version"] for decision in world.rows(home)["decisions"]} == {1}
    [told] = [line for line in world.words(home).splitlines() if "changes nothing" in line]
    assert said in told


def test_after_an_edit_to_another_model_every_job_is_given_that_model(tmp_path: Path) -> None:
    shutil.copytree(world.BASE, tmp_path / "files" / "other")
    weights = tmp_path / "files" / "other" / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    code, home = run_with_edit(tmp_path, model={"path": "other", "dtype": "float32"})
    assert code == 0, world.words(home)
    [run] = [run for run in world.rows(home)["runs"] if run["state"] == "judged"]
    action = next(a for a in world.rows(home)["actions"] if a["kind"] == "train" and a["inputs"]["run"] == run["id"])
    spec = json.loads(CampaignPaths(home, "storm").job(action["key"]).spec.read_text())
    assert Path(spec["input"]["model"]).name == "other"


def test_an_edit_between_two_sittings_is_told_by_the_second(waiting: Path) -> None:
    campaign, home = waiting / "files" / "campaign.yaml", waiting / "home"
    assert "Version" not in world.words(home)
    spec = json.loads(campaign.read_text())
    campaign.write_text(json.dumps({**spec, "approvals": {"promotion": {"mode": "wait", "deadline_h": 9}}}))
    assert warm.run(campaign, home, wait=False) == 6
    assert "Version 2 of campaign.yaml: `approvals.promotion.deadline_h` is now 9; it was not set." in world.words(home)
