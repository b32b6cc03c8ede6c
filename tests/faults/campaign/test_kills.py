"""The agent is killed at random moments, again and again; the campaign ends as if nothing had happened."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.faults.campaign import warm, world
from tests.faults.parts import agents
from tests.faults.quick_worker import append_jsonl

KILLS = int(os.environ.get("VIGIL_CAMPAIGN_KILLS", "20"))
"""Kills in all; `make faults` does thousands."""

SEED = int(os.environ.get("VIGIL_SEED", "1"))


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_a_campaign_killed_at_random_moments_loses_and_repeats_nothing(tmp_path: Path) -> None:
    hits = number = 0
    while hits < KILLS:
        number += 1
        batch = agents.random_kills(SEED + number, tmp_path / f"campaign{number}", KILLS - hits)
        assert batch.violations == ()
        hits += batch.faults
        print(f"campaign {number}: {batch.faults} kills, {batch.figures['actions']} actions, 0 lost, 0 repeated")


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_agents_that_die_at_every_named_point_have_done_everything_once(tmp_path: Path) -> None:
    points = [point for point in agents.POINTS if not point.startswith("amid")]
    batch = agents.kills_at(points, SEED, tmp_path, len(points))
    assert batch.violations == ()
    assert batch.faults == len(points)


@pytest.mark.faults
def test_an_agent_that_dies_amid_a_promotion_has_promoted_once(tmp_path: Path) -> None:
    batch = agents.kills_at(("amid_promotion",), 1, tmp_path, 1)
    assert (batch.violations, batch.faults, batch.figures["promoted"]) == ((), 1, 1)


@pytest.mark.faults
@pytest.mark.parametrize("point", ["amid_deletion", "amid_export"])
def test_an_agent_that_dies_amid_an_effect_has_done_it_once(tmp_path: Path, point: str) -> None:
    batch = agents.kills_at((point,), 2, tmp_path, 2)
    assert (batch.violations, batch.faults, batch.figures["promoted"]) == ((), 2, 1)


@pytest.mark.faults
def test_an_agent_that_dies_with_its_last_decision_ends_when_it_is_run_again(tmp_path: Path) -> None:
    batch = agents.kills_at(("amid_conclusion",), 1, tmp_path, 1)
    assert (batch.violations, batch.faults, batch.figures["promoted"]) == ((), 1, 1)


@pytest.mark.faults
def test_the_harness_would_notice_an_act_done_twice(tmp_path: Path) -> None:
    campaign, home = agents.campaign_of(1, tmp_path)
    code = warm.run(campaign, home)
    assert world.wrong(home, code) == []
    files = tmp_path / "files"
    once = (files / "told").read_text()
    (files / "told").write_text(once * 2)
    assert "told twice" in world.wrong(home, code)[0]
    (files / "told").unlink()
    assert "lost" in world.wrong(home, code)[0]
    (files / "told").write_text(once)
    (files / "exports" / ".half").mkdir()
    assert len(world.wrong(home, code)) == 1
    (files / "exports" / ".half").rmdir()
    assert world.wrong(home, code) == []
    job = next(folder for folder in (home / "storm" / "jobs").iterdir() if (folder / "out" / "steps").exists())
    append_jsonl(job / "out" / "violations.jsonl", {"what": "a step done twice"})
    assert len(world.wrong(home, code)) == 1
    (home / "storm" / "promoted").unlink()
    assert len(world.wrong(home, 4)) == 3


def test_a_second_agent_ends_at_once_with_code_5_and_names_the_holder(tmp_path: Path) -> None:
    campaign = world.write_campaign(tmp_path / "files")
    home = tmp_path / "home"
    first = warm.start(campaign, home)
    try:
        deadline = time.monotonic() + 60
        while not (home / "storm" / "lock.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        log = tmp_path / "second.log"
        second = warm.start(campaign, home, log=log)
        assert second.wait(timeout=60) == 5
        assert f"process {first.pid}" in log.read_text()
        assert first.wait(timeout=240) == 0
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
            first.wait()
    world.assert_exactly_once(home)
