"""The agent is killed at random moments, again and again; the campaign ends as if nothing had happened."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.campaign import world

KILLS = int(os.environ.get("VIGIL_CAMPAIGN_KILLS", "25"))
"""Kills in all; `make test` does one campaign's worth, the closing notes name larger counts."""

LEAST_PER_CAMPAIGN = 20
SEED = int(os.environ.get("VIGIL_SEED", "1"))


def storm(campaign: Path, home: Path, dice: random.Random, kills: int) -> int:
    """Kill the agent at random moments until it has ended or the kills are spent; return how many hit a live agent."""
    hits = 0
    while hits < kills:
        agent = world.start(campaign, home)
        try:
            code = agent.wait(timeout=dice.uniform(0.3, 3.0))
        except subprocess.TimeoutExpired:
            os.killpg(agent.pid, signal.SIGKILL)
            agent.wait()
            hits += 1
            continue
        assert code in {0, 1}, home.with_suffix(".log").read_text()[-2000:]
        break
    return hits


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_a_campaign_killed_at_random_moments_loses_and_repeats_nothing(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    hits = number = 0
    while hits < KILLS:
        number += 1
        folder = tmp_path / f"campaign{number}"
        campaign = world.write_campaign(folder / "files")
        home = folder / "home"
        hit = storm(campaign, home, dice, max(LEAST_PER_CAMPAIGN, KILLS - hits))
        hits += hit
        code = world.run(campaign, home)
        assert code == 0, home.with_suffix(".log").read_text()[-2000:]
        world.assert_exactly_once(home)
        found = world.rows(home)
        assert found["campaign"][0]["state"] == "promoted"
        assert [run["bucket"] for run in found["runs"]].count("A") == 1
        acts = len(found["actions"])
        print(f"campaign {number}: {hit} kills, {acts} actions, {len(found['jobs'])} jobs, 0 lost, 0 repeated")


def test_a_second_agent_ends_at_once_with_code_5_and_names_the_holder(tmp_path: Path) -> None:
    campaign = world.write_campaign(tmp_path / "files")
    home = tmp_path / "home"
    first = world.start(campaign, home)
    try:
        deadline = time.monotonic() + 60
        while not (home / "storm" / "lock.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        log = tmp_path / "second.log"
        second = world.start(campaign, home, log=log)
        assert second.wait(timeout=60) == 5
        assert f"process {first.pid}" in log.read_text()
        assert first.wait(timeout=240) == 0
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
            first.wait()
    world.assert_exactly_once(home)
