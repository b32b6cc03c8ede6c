"""A run whose recipe repeats groups of rows is given a file of its own, and its worker mlx-lm's keys alone."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agent.campaign import load_campaign
from agent.inputs import job_spec
from state.paths import CampaignPaths
from state.records import Decision, Run
from tests.faults.campaign import world


def spec_of(folder: Path, recipe: dict[str, Any], **data: Any) -> dict[str, Any]:
    folder.mkdir()
    campaign = world.write_campaign(folder, data={"train": "train.jsonl", **data})
    rows = [{"prompt": "p", "completion": f"c{n}", "kind": "rare" if n == 0 else "plain"} for n in range(4)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = Run(
        id="R1", instrument="sft", parent="base", parent_hash="w", recipe=recipe, recipe_hash="f" * 64, data_hash="d",
        seed=0, hypothesis="h", cost_s_estimate=1.0,
    )  # fmt: skip
    loaded = load_campaign(campaign)
    session: Any = SimpleNamespace(
        loaded=loaded, goal=loaded.goal, paths=CampaignPaths(folder / "home", "storm"), model=folder / "base",
        store=SimpleNamespace(read=SimpleNamespace(runs=lambda: [run], actions=list)), workers={"training": "worker"},
        environment={}, adapter=None,
    )  # fmt: skip
    decision = Decision(rule="r", sentence="s", action="train", action_key="k", run="R1")
    return job_spec(session, decision).input


def test_the_worker_reads_the_balanced_file_and_knows_nothing_of_groups(tmp_path: Path) -> None:
    given = spec_of(tmp_path / "a", {"iters": 20, "data": {"rare": 3}}, group_by="kind")
    assert given["recipe"] == {"iters": 20}
    made = Path(given["data"]["train"])
    assert made == tmp_path / "a" / "home" / "storm" / "data" / f"{'f' * 16}.jsonl"
    kinds = [json.loads(line)["kind"] for line in made.read_text().splitlines()]
    assert (kinds.count("rare"), kinds.count("plain")) == (3, 3)
    assert "group_by" not in given["data"]


def test_other_runs_read_the_campaigns_own_file(tmp_path: Path) -> None:
    given = spec_of(tmp_path / "a", {"iters": 20}, group_by="kind")
    assert given["data"]["train"] == str(tmp_path / "a" / "train.jsonl")
    ungrouped = spec_of(tmp_path / "b", {"iters": 20, "data": {"rare": 3}})
    assert ungrouped["data"]["train"] == str(tmp_path / "b" / "train.jsonl"), "the key was taken out of the file"
