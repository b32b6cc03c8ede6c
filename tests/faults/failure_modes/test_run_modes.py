"""Each failure is found by a whole `vigil run`, with subject and number; the campaign without it raises no alarm."""

from pathlib import Path

import pytest

from state.files import read_json
from tests.faults.failure_modes import shapes, tampering
from tests.faults.failure_modes.scenarios import QUICK, SLOW, Scenario, cleans_up
from tests.faults.failure_modes.seen import Seen, run, run_once
from tests.faults.failure_modes.worlds import NAME, TRAINS, World


def parameters(scenarios: tuple[Scenario, ...]) -> list[object]:
    """Return the scenarios as parameters of a test; those that train are marked."""
    return [pytest.param(s, id=s.id, marks=TRAINS if s.is_slow else []) for s in scenarios]


@pytest.mark.faults
@pytest.mark.parametrize("scenario", parameters(QUICK + SLOW))
def test_a_failure_is_found_with_its_subject_and_its_number(scenario: Scenario, tmp_path: Path) -> None:
    seen = scenario.run_injected(tmp_path / "injected")
    found = scenario.find(seen)
    assert found is not None, (seen.findings, seen.said)
    assert seen.code == scenario.code, seen.said
    others = [f for f in seen.alarms if f.mode not in {scenario.mode, *scenario.beside}]
    assert others == [], "a failure shows as itself, and as nothing else"
    if scenario.severity == "hard_stop":
        trained = [job for job in tampering.jobs(seen.home, "training") if (job / "result.json").exists()]
        assert trained == [], "nothing is spent on what was refuted"
        assert (found.saved_s or 0.0) > 0.0


@pytest.mark.faults
@pytest.mark.parametrize("scenario", parameters(QUICK + SLOW))
def test_without_the_failure_there_is_no_alarm_and_the_claim_was_looked_at(scenario: Scenario, shared: Path) -> None:
    seen = run_once(scenario.clean, shared, during=scenario.during, then=scenario.clean_then)
    assert seen.alarms == []
    assert seen.code in {0, 1}, seen.said
    if scenario.is_looked_at:
        assert (scenario.subject, scenario.claim) in seen.held


def _evaluated(seen: Seen) -> list[str]:
    specs = [read_json(job / "job.json") or {} for job in tampering.jobs(seen.home, "evaluation")]
    return [str(spec["input"]["side"]) for spec in specs]


@pytest.mark.faults
def test_a_training_that_dies_half_way_is_never_evaluated_whatever_it_left_behind(tmp_path: Path) -> None:
    """Mode 9: the state of a job is what its exit record says."""
    world = World(student={"dies_at": 10})
    seen = run(world, tmp_path / "dying")
    assert seen.code == 4, seen.said
    assert "train failed 2 times" in seen.said
    jobs = tampering.jobs(seen.home, "training")
    exits = [read_json(job / "exit.json") or {} for job in jobs]
    assert {row["state"] for row in exits} == {"failed"}
    left = [read_json(job / "out" / "adapter" / "adapter_config.json") or {} for job in jobs]
    assert {row["trained_for"] for row in left} == {10}, "a half-trained adapter lies there"
    assert _evaluated(seen) == ["base"]


@pytest.mark.faults
def test_a_training_that_was_killed_once_goes_on_and_is_evaluated_when_it_has_ended(tmp_path: Path) -> None:
    world = World(student={"step_s": 0.1})
    seen = run(world, tmp_path / "killed", during=tampering.kill_a_training)
    assert (seen.code, seen.alarms) == (0, [])
    (job,) = tampering.jobs(seen.home, "training")
    ended = read_json(job / "exit.json") or {}
    assert (ended["state"], ended["restarts"]) == ("finished", 1)
    assert (read_json(job / "out" / "adapter" / "adapter_config.json") or {})["trained_for"] == 20
    first = next(job for job in tampering.jobs(seen.home, "evaluation") if _side(job) == "candidate")
    assert (first / "job.json").stat().st_mtime >= (job / "exit.json").stat().st_mtime


def _side(job: Path) -> str:
    return str((read_json(job / "job.json") or {})["input"]["side"])


@pytest.mark.faults
def test_an_adapter_of_other_weights_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    """Mode P2: an adapter says what it was trained on."""
    seen = run(shapes.adapter_start("0123456789abcdef"), tmp_path / "other")
    assert seen.code == 2
    assert "was trained on the weights 0123456789ab, but" in seen.said
    assert not (seen.home / NAME / "state.db").exists()


@pytest.mark.faults
def test_an_adapter_that_is_lost_before_its_promotion_is_taken_from_its_training_again(tmp_path: Path) -> None:
    """Mode 8: what a later step needs must be there when it begins."""
    seen = run(_waits_for_promotion(), tmp_path / "lost", then=tampering.lose_the_adapter)
    assert seen.code == 0, seen.said
    assert (seen.home / NAME / "promoted" / "adapters.safetensors").is_file()


@pytest.mark.faults
def test_a_promotion_of_an_adapter_that_is_gone_is_no_promotion(tmp_path: Path) -> None:
    """Mode 8: nor is another adapter put in its place."""
    seen = run(_waits_for_promotion(), tmp_path / "gone", then=tampering.lose_every_adapter)
    assert seen.code == 4, seen.said
    assert "was never measured" in seen.said
    assert not (seen.home / NAME / "promoted").exists()
    assert "Traceback" not in seen.said


def _waits_for_promotion() -> World:
    world = World()
    world.spec["approvals"] = {"promotion": {"mode": "wait"}}
    world.spec["budget"] = {"runs": 1}
    return world


@pytest.mark.faults
def test_evaluation_cases_that_vanish_are_told_in_one_sentence(tmp_path: Path) -> None:
    """Mode 8: a missing file is a finding, not a crash."""
    world = World()
    cleans_up("confirmation.jsonl")(world)
    seen = run(world, tmp_path / "cases")
    assert "Traceback" not in seen.said
    assert seen.code in {2, 3}
    assert "confirmation.jsonl" in seen.said


def test_every_row_of_the_catalogue_has_a_failure() -> None:
    rows = {*map(str, range(1, 16)), *(f"P{n}" for n in range(1, 13))}
    by_run = {scenario.mode for scenario in QUICK + SLOW}
    assert rows - by_run == {"9", "P2"}, "these two are tested by themselves, and by audits"
