"""`vigil run` from file to end, with real processes and quick workers: answers, edits, stops, hard stops."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from state.paths import CampaignPaths
from tests.faults.campaign import warm, world
from tests.tools.models.folders import safetensors

WAIT: dict[str, Any] = {
    "approvals": {"promotion": {"mode": "wait"}},
    "budget": {"runs": 1},
    "recipe": world.ONE_RUN,
}
"""One run, good enough to be promoted; the campaign then waits for a person and can be taken up again."""


def vigil(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run another command on the campaign's home, as a person would."""
    return warm.vigil(*arguments, home=home)


def until(holds: Callable[[], bool], timeout_s: float = 120) -> None:
    """Wait for something to become true; fail if it never does."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def edit(campaign: Path, **changes: Any) -> None:
    """Change top-level keys of a campaign file."""
    spec = json.loads(campaign.read_text())
    campaign.write_text(json.dumps({**spec, **changes}, indent=1))


def state_of(home: Path) -> str:
    return str(world.rows(home)["campaign"][0]["state"])


def test_without_wait_a_question_ends_the_run_with_code_6_and_yes_promotes(tmp_path: Path) -> None:
    campaign, home = world.write_campaign(tmp_path / "files", **WAIT), tmp_path / "home"
    assert warm.run(campaign, home, wait=False) == 6
    assert state_of(home) == "waiting"
    assert not CampaignPaths(home, "storm").promoted.exists()
    question = world.rows(home)["approvals"][-1]
    assert (question["kind"], question["answer"]) == ("promotion", None)
    told = home.with_suffix(".log").read_text()
    last = told[told.rindex(f"storm:{question['id']} waits for you (promotion)") :]
    assert "holds main.score at least 0.69: " in last, "a question has its figures"
    assert f"vigil approve storm:{question['id']} --home {home}\n" in last
    assert vigil(home, "approve", question["id"]).returncode == 0
    second = vigil(home, "approve", f"storm:{question['id']}")
    assert "already answered yes" in second.stdout
    assert warm.run(campaign, home, wait=False) == 0
    found = world.rows(home)
    assert [action["kind"] for action in found["actions"]].count("promote") == 1
    assert (CampaignPaths(home, "storm").promoted / "adapters.safetensors").is_file()
    world.assert_exactly_once(home)
    edit(campaign, seed=7)
    assert warm.run(campaign, home, wait=False) == 0
    assert "It was promoted before this edit and stays so; nothing was trained." in world.words(home)
    assert len(world.rows(home)["runs"]) == len(found["runs"])


def test_runs_go_on_from_the_campaign_s_adapter_which_is_measured_beside_the_base(tmp_path: Path) -> None:
    campaign, home = world.write_campaign(tmp_path / "files", recipe=world.ONE_RUN), tmp_path / "home"
    mine = tmp_path / "files" / "mine"
    mine.mkdir()
    module = "model.layers.5.self_attn.q_proj"
    shapes = {f"{module}.lora_a": ("F32", [128, 2]), f"{module}.lora_b": ("F32", [2, 128])}
    (mine / "adapters.safetensors").write_bytes(safetensors(shapes))
    shape = {"num_layers": 4, "lora_parameters": {"rank": 2, "scale": 2.0, "dropout": 0.0}}
    (mine / "adapter_config.json").write_text(json.dumps({"fine_tune_type": "lora", **shape, "iters": 20}))
    edit(campaign, model={"path": "base", "dtype": "float32", "adapter": "mine"})
    assert warm.run(campaign, home, wait=False) == 0
    found = world.rows(home)
    sides = [(a["inputs"]["side"], a["inputs"]["use"]) for a in found["actions"] if a["kind"] == "evaluate"]
    assert sides[:2] == [("base", "selection"), ("parent", "selection")]
    assert ("parent", "confirmation") in sides
    specs = [json.loads(path.read_text()) for path in (home / "storm" / "jobs").glob("*/job.json")]
    trained = [spec["input"] for spec in specs if spec["kind"] == "training"]
    assert {Path(given["parent_adapter"]) for given in trained} == {mine.resolve()}
    assert all(shape.items() <= given["recipe"].items() for given in trained)
    assert any(belief["subject"] == "score:parent.main.selection" for belief in found["beliefs"])
    world.assert_exactly_once(home)


def test_a_no_at_promotion_ends_not_promoted_by_whom_and_why(waiting: Path) -> None:
    campaign, home = waiting / "files" / "campaign.yaml", waiting / "home"
    question = world.rows(home)["approvals"][-1]
    assert vigil(home, "reject", question["id"], "--reason", "the demo is on Friday").returncode == 0
    assert warm.run(campaign, home, wait=False) == 1
    ended = world.rows(home)["campaign"][0]
    assert ended["state"] == "not_promoted"
    assert "the demo is on Friday" in ended["sentence"]
    assert "said no" in ended["sentence"]
    assert warm.run(campaign, home, wait=False) == 1, "an ended campaign reports its end again"


def test_a_person_has_a_run_confirmed_and_promoted_by_requests_that_the_next_run_applies(tmp_path: Path) -> None:
    gate = {"max_confirmations": 3, "conditions": [{"id": "score", "metric": "main.score", "min": 0.52}]}
    recipe = {"batch_size": 4, "iters": 40, "max_seq_length": 128, "learning_rate": 0.001}
    given = {**WAIT, "gate": gate, "budget": {"runs": 2}, "recipe": recipe}
    campaign, home = world.write_campaign(tmp_path / "files", **given), tmp_path / "home"
    assert warm.run(campaign, home, wait=False) == 6
    refused = vigil(home, "promote", "R2")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "R2 was never put to the confirmation cases" in refused.stderr
    assert vigil(home, "confirm", "R1").returncode == 2, "R1 was confirmed, and is asked about"
    asked = vigil(home, "confirm", "storm:R2", "--reason", "the better one")
    assert asked.stdout == "Asked storm to open the confirmation cases for R2; it is done at the next vigil run.\n"
    assert warm.run(campaign, home, wait=False) == 6
    found = world.rows(home)
    assert [action["inputs"]["run"] for action in found["actions"] if action["kind"] == "confirm"] == ["R1", "R2"]
    assert vigil(home, "promote", "R2").returncode == 0
    assert warm.run(campaign, home, wait=False) == 0
    found = world.rows(home)
    assert found["campaign"][0]["promoted"] == "R2"
    said = {row["kind"]: row["reason"] for row in found["approvals"] if row["answered_by"] not in {"policy", ""}}
    assert said == {"confirmation": "the better one", "promotion": ""}
    world.assert_exactly_once(home)


def test_an_answer_while_the_agent_waits_is_applied_at_once(waiting: Path) -> None:
    campaign, home = waiting / "files" / "campaign.yaml", waiting / "home"
    log = waiting / "second.log"
    agent = warm.start(campaign, home, log=log)
    try:
        until(lambda: log.exists() and "waits for you" in log.read_text())
        vigil(home, "approve", world.rows(home)["approvals"][-1]["id"])
        assert agent.wait(timeout=60) == 0
    finally:
        if agent.poll() is None:
            os.killpg(agent.pid, signal.SIGKILL)
            agent.wait()


def test_while_a_promotion_waits_the_night_goes_on_with_another_run(tmp_path: Path) -> None:
    campaign, home = world.write_campaign(tmp_path / "files", **{**WAIT, "budget": {"runs": 2}}), tmp_path / "home"
    assert warm.run(campaign, home, wait=False) == 6
    found = world.rows(home)
    asked = next(row for row in found["approvals"] if row["kind"] == "promotion")
    later = [row for row in found["runs"] if row["created_at"] >= asked["asked_at"]]
    assert later, "a run was trained after the question was asked"
    assert [action["kind"] for action in found["actions"]].count("confirm") == 1, "confirmation stays closed meanwhile"


def test_a_yes_to_a_promotion_ends_the_training_that_is_no_longer_needed(tmp_path: Path) -> None:
    recipe = {"batch_size": 4, "iters": 120, "max_seq_length": 128, "learning_rate": 0.001}
    changes: dict[str, Any] = {"approvals": {"promotion": {"mode": "wait"}}, "budget": {"runs": 4}, "recipe": recipe}
    campaign, home = world.write_campaign(tmp_path / "files", **changes), tmp_path / "home"
    agent = warm.start(campaign, home)
    until(lambda: sum(job["kind"] == "training" for job in _jobs(home)) == 2)
    question = world.rows(home)["approvals"][-2]
    assert (question["kind"], question["answer"]) == ("promotion", None)
    assert vigil(home, "approve", question["id"]).returncode == 0
    assert agent.wait(timeout=120) == 0
    found = world.rows(home)
    second = next(job for job in found["jobs"] if job["run"] == "R2")
    assert (second["state"], second["exit"]["by"]) == ("stopped", "answer")
    assert second["step"] < second["steps"]
    assert [(run["id"], run["state"]) for run in found["runs"]] == [("R1", "judged"), ("R2", "lost")]
    assert found["campaign"][0]["promoted"] == "R1"
    assert not list((home / "storm" / "jobs").glob("*/out/violations.jsonl"))


def test_a_stop_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    recipe = {"batch_size": 4, "iters": 300, "max_seq_length": 128, "learning_rate": 0.001}
    campaign, home = world.write_campaign(tmp_path / "files", recipe=recipe), tmp_path / "home"
    agent = warm.start(campaign, home)
    until(lambda: any(job["kind"] == "training" for job in _jobs(home)))
    until(lambda: any((home / "storm" / "jobs").glob("*/out/steps/000010")))
    assert vigil(home, "stop").returncode == 0
    assert agent.wait(timeout=60) == 1
    assert state_of(home) == "stopped"
    assert warm.run(campaign, home) == 0
    world.assert_exactly_once(home)
    training = next(job for job in world.rows(home)["jobs"] if job["kind"] == "training")
    starts = (home / "storm" / "jobs" / training["key"] / "out" / "starts.jsonl").read_text().splitlines()
    assert len(starts) == 2


def _jobs(home: Path) -> list[dict[str, Any]]:
    try:
        return world.rows(home)["jobs"]
    except Exception:  # noqa: BLE001 - as above
        return []


def test_a_gate_above_the_ceiling_halts_before_training_and_an_edit_takes_it_up_again(tmp_path: Path) -> None:
    gate = {"conditions": [{"id": "score", "metric": "main.score", "min": 0.99}]}
    campaign, home = world.write_campaign(tmp_path / "files", gate=gate), tmp_path / "home"
    assert warm.run(campaign, home) == 3
    found = world.rows(home)
    assert "0.95" in found["campaign"][0]["sentence"]
    assert not [job for job in found["jobs"] if job["kind"] == "training"]
    assert warm.run(campaign, home) == 3, "nothing changed, so it halts again"
    edit(campaign, gate={"conditions": [{"id": "score", "metric": "main.score", "min": 0.69}]})
    assert warm.run(campaign, home, wait=False) == 6, "an easier gate is a question"
    asked = world.rows(home)["approvals"][-1]
    assert (asked["kind"], asked["answer"]) == ("edit", None)
    assert "It makes the gate easier: score asks less: main.score at least 0.69" in asked["question"]
    assert {decision["goal_version"] for decision in world.rows(home)["decisions"]} == {1}
    assert asked["id"] in vigil(home, "inbox").stdout
    assert vigil(home, "approve", asked["id"]).returncode == 0
    assert warm.run(campaign, home) == 0
    goals = [row for row in _export(home) if row["table"] == "goal"]
    assert [row["row"]["version"] for row in goals][:2] == [1, 2]
    assert any("0.69" in sentence for sentence in goals[-1]["row"]["difference"])


def test_a_person_may_go_on_against_a_hard_stop_on_record(tmp_path: Path) -> None:
    gate = {"conditions": [{"id": "score", "metric": "main.score", "min": 0.99}]}
    changes: dict[str, Any] = {"gate": gate, "budget": {"runs": 1}}
    campaign, home = world.write_campaign(tmp_path / "files", **changes), tmp_path / "home"
    assert warm.run(campaign, home) == 3
    stops = [b for b in world.rows(home)["beliefs"] if b["status"] == "refuted" and b["severity"] == "hard_stop"]
    for belief in stops:
        assert vigil(home, "approve", belief["id"], "--reason", "I want to see it fail").returncode == 0
    assert warm.run(campaign, home) == 1
    found = world.rows(home)
    assert [run["bucket"] for run in found["runs"]] != ["A"]
    assert any(row["kind"] == "override" and row["answer"] == "yes" for row in found["approvals"])


def test_a_hard_stop_is_asked_about_answered_or_final_as_the_file_says(tmp_path: Path) -> None:
    gate = {"conditions": [{"id": "score", "metric": "main.score", "min": 0.99}]}
    given: dict[str, Any] = {"gate": gate, "budget": {"runs": 1}, "approvals": {"override": {"mode": "reject"}}}
    campaign, home = world.write_campaign(tmp_path / "files", **given), tmp_path / "home"
    assert warm.run(campaign, home, wait=False) == 3
    [stop] = [b for b in world.rows(home)["beliefs"] if b["status"] == "refuted" and b["severity"] == "hard_stop"]
    refused = vigil(home, "approve", stop["id"], "--reason", "I insist")
    assert (refused.returncode, "approvals.override is `reject`" in refused.stderr) == (2, True)
    assert "go on regardless" not in vigil(home, "status").stdout
    edit(campaign, approvals={"override": {"mode": "wait"}})
    assert warm.run(campaign, home, wait=False) == 6
    asked = world.rows(home)["approvals"][-1]
    assert (asked["kind"], asked["answer"]) == ("override", None)
    assert f"vigil approve storm:{asked['id']} --reason WHY --home {home}\n" in world.words(home)
    bare = vigil(home, "approve", asked["id"])
    assert (bare.returncode, "needs --reason" in bare.stderr) == (2, True)
    edit(campaign, approvals={"override": {"mode": "auto"}})
    assert warm.run(campaign, home, wait=False) == 6, "that nobody need answer any more is a question"
    assert vigil(home, "approve", world.rows(home)["approvals"][-1]["id"]).returncode == 0
    assert warm.run(campaign, home, wait=False) == 1
    found = world.rows(home)
    assert len(found["runs"]) == 1
    assert [(row["answer"], row["answered_by"]) for row in found["approvals"] if row["id"] == asked["id"]] == [
        ("yes", "policy")
    ]


def test_an_edit_is_followed_or_not_as_the_version_that_stands_says(tmp_path: Path) -> None:
    gate = {"conditions": [{"id": "score", "metric": "main.score", "min": 0.8}]}
    given: dict[str, Any] = {"gate": gate, "budget": {"runs": 1}, "approvals": {"edit": {"mode": "reject"}}}
    campaign, home = world.write_campaign(tmp_path / "files", **given), tmp_path / "home"
    assert warm.run(campaign, home, wait=False) == 1
    lower = {"conditions": [{"id": "score", "metric": "main.score", "min": 0.52}]}
    edit(campaign, gate=lower, approvals={"edit": {"mode": "auto"}})
    assert warm.run(campaign, home, wait=False) == 1, "no edit gives itself leave"
    found = world.rows(home)
    [asked] = [row for row in found["approvals"] if row["kind"] == "edit"]
    assert (asked["answer"], asked["answered_by"]) == ("no", "policy")
    assert [row["row"]["version"] for row in _export(home) if row["table"] == "goal"] == [1]
    assert f"is not followed ({asked['id']}: approvals.edit: reject in the campaign file); version 1 stands" in (
        world.words(home)
    )
    assert warm.run(campaign, home, wait=False) == 1
    assert len([row for row in world.rows(home)["approvals"] if row["kind"] == "edit"]) == 1, "asked once"


def test_an_edit_that_waits_holds_the_end_and_another_edit_takes_its_place(tmp_path: Path) -> None:
    gate = {"conditions": [{"id": "score", "metric": "main.score", "min": 0.8}]}
    campaign = world.write_campaign(tmp_path / "files", gate=gate, budget={"runs": 1})
    home = tmp_path / "home"
    assert warm.run(campaign, home, wait=False) == 1
    shutil.copytree(campaign.with_name("base"), campaign.with_name("other"))
    [other] = campaign.with_name("other").glob("*.safetensors")
    other.write_bytes(other.read_bytes()[:-1] + b"\x01")
    for least in (0.52, 0.6, 0.52):
        lower = {"conditions": [{"id": "score", "metric": "main.score", "min": least}]}
        edit(campaign, gate=lower, model={"path": "other", "dtype": "float32"}, privacy="redact")
        assert warm.run(campaign, home, wait=False) == 6
    asked = [row for row in world.rows(home)["approvals"] if row["kind"] == "edit"]
    assert [(row["answer"], row["answered_by"]) for row in asked] == [("no", "withdrawn")] * 2 + [(None, "")]
    assert vigil(home, "reject", asked[2]["id"], "--reason", "too easy").returncode == 0
    assert warm.run(campaign, home, wait=False) == 1
    assert "version 1 stands" in world.words(home)
    weights = [row for row in world.rows(home)["beliefs"] if row["subject"] == "identity:weights"]
    assert len(weights) == 1, "what is asked, or was refused, is not what runs"
    harder = {"conditions": [{"id": "score", "metric": "main.score", "min": 0.85}]}
    edit(campaign, gate=harder, model={"path": "base", "dtype": "float32"}, privacy="keep")
    assert warm.run(campaign, home, wait=False) in {1, 3}, "a harder gate is followed at once"
    assert [row["row"]["version"] for row in _export(home) if row["table"] == "goal"] == [1, 2]


def test_an_edit_during_the_run_applies_at_the_next_decision_and_is_recorded(tmp_path: Path) -> None:
    campaign, home = world.write_campaign(tmp_path / "files"), tmp_path / "home"
    agent = warm.start(campaign, home)
    until(lambda: any(job["kind"] == "training" for job in _jobs(home)))
    edit(campaign, budget={"runs": 1})
    assert agent.wait(timeout=120) == 1
    found = world.rows(home)
    assert len(found["runs"]) == 1
    assert "runs" in found["campaign"][0]["sentence"]
    versions = [decision["goal_version"] for decision in found["decisions"]]
    assert versions[0] == 1
    assert versions[-1] == 2


def test_a_campaign_file_broken_during_the_run_changes_nothing(tmp_path: Path) -> None:
    campaign, home = world.write_campaign(tmp_path / "files", recipe=world.ONE_RUN), tmp_path / "home"
    agent = warm.start(campaign, home)
    until(lambda: any(job["kind"] == "training" for job in _jobs(home)))
    good = campaign.read_text()
    campaign.write_text("campaign: [")
    assert agent.wait(timeout=120) == 0
    campaign.write_text(good)
    assert {decision["goal_version"] for decision in world.rows(home)["decisions"]} == {1}


def test_a_diverging_run_is_stopped_by_its_guard_judged_and_tried_again_more_gently(tmp_path: Path) -> None:
    recipe = {"batch_size": 4, "iters": 100, "max_seq_length": 128, "learning_rate": 1.2, "save_every": 1000}
    campaign, home = world.write_campaign(tmp_path / "files", recipe=recipe), tmp_path / "home"
    assert warm.run(campaign, home) == 0
    found = world.rows(home)
    first, second = found["runs"][:2]
    assert first["bucket"] == "U"
    stopped = next(job for job in found["jobs"] if job["kind"] == "training")
    assert (stopped["state"], stopped["exit"]["verdict"]) == ("stopped", "diverged")
    assert second["recipe"]["learning_rate"] < 1


def test_a_run_that_a_guard_stopped_after_a_save_is_judged_at_that_save(tmp_path: Path) -> None:
    recipe = {"batch_size": 4, "iters": 300, "max_seq_length": 128, "learning_rate": 2.0, "save_every": 10}
    campaign, home = world.write_campaign(tmp_path / "files", recipe=recipe), tmp_path / "home"
    assert warm.run(campaign, home) == 0
    assert world.rows(home)["runs"][0]["bucket"] == "A", "151 iterations were enough, and those were saved"
    kept = CampaignPaths(home, "storm").promoted
    assert sorted(path.name for path in kept.iterdir()) == ["adapter_config.json", "adapters.safetensors"]


def test_a_run_that_was_better_half_way_is_judged_and_kept_at_that_save(tmp_path: Path) -> None:
    recipe = {"batch_size": 4, "iters": 60, "max_seq_length": 128, "learning_rate": 0.7}
    campaign = world.write_campaign(tmp_path / "files", recipe=recipe, budget={"runs": 1})
    home = tmp_path / "home"
    assert warm.run(campaign, home, wait=False) == 1, world.words(home)
    found = world.rows(home)
    [look] = [action for action in found["actions"] if "look" in action["inputs"]]
    paths = CampaignPaths(home, "storm")
    [split] = json.loads(paths.job(look["key"]).spec.read_text())["input"]["splits"]
    assert (split["name"], split["use"], len(split["case_ids"])) == ("main", "selection", 32)
    [run] = found["runs"]
    assert run["adapter"] == look["inputs"]["adapter"]
    assert json.loads((paths.artifact(run["adapter"]) / "adapter_config.json").read_text())["iters"] == 30
    subjects = {belief["subject"] for belief in found["beliefs"]}
    assert {f"score:R1{name}" for name in (".main.selection", ".main.selection@30", "@30.main.selection")} <= subjects
    said = next(d["sentence"] for d in found["decisions"] if d["bucket"])
    assert "It is judged at its save of step 30, the best of 2 compared, at a level divided by 2." in said
    world.assert_exactly_once(home)


def test_an_edit_that_voids_a_training_stops_it_and_the_next_run_follows_the_new_file(tmp_path: Path) -> None:
    recipe = {"batch_size": 4, "iters": 3000, "max_seq_length": 128, "learning_rate": 0.001}
    campaign, home = world.write_campaign(tmp_path / "files", recipe=recipe), tmp_path / "home"
    agent = warm.start(campaign, home)
    until(lambda: any((home / "storm" / "jobs").glob("*/out/steps/000010")))
    rows = (campaign.parent / "train.jsonl").read_text()
    (campaign.parent / "other.jsonl").write_text(rows * 2)
    edit(campaign, data={"train": "other.jsonl"}, recipe={**recipe, "iters": 160})
    assert agent.wait(timeout=120) == 0
    found = world.rows(home)
    assert [run["state"] for run in found["runs"][:2]] == ["lost", "judged"]
    assert found["runs"][0]["data_hash"] != found["runs"][1]["data_hash"]
    stopped = next(job for job in found["jobs"] if job["state"] == "stopped")
    assert stopped["exit"]["by"] == "edit"


def test_a_torn_model_folder_never_reaches_a_job(tmp_path: Path) -> None:
    campaign, home = world.write_campaign(tmp_path / "files", recipe=world.ONE_RUN), tmp_path / "home"
    weights = campaign.parent / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert warm.run(campaign, home) in {2, 3}
    assert not list((home / "storm" / "jobs").glob("*")) if (home / "storm").exists() else True


def _export(home: Path) -> list[dict[str, Any]]:
    lines = vigil(home, "export").stdout.splitlines()
    return [json.loads(line) for line in lines if '"table"' in line]
