"""A job that hangs before anything was trained: the budget ends it, and the campaign says what hung."""

import os
import signal
import time
from pathlib import Path

import pytest

from state.files import read_json
from state.paths import CampaignPaths
from tests.faults.campaign import warm, world


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_a_suspended_measurement_ends_with_the_budget_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than its time to end once it is woken: what ends by itself then has measured.
    monkeypatch.setenv("QUICK_STEP_S", "8")
    campaign = world.write_campaign(tmp_path / "files", budget={"hours": 0.001})
    home = tmp_path / "home"
    agent = warm.start(campaign, home, bend={"least_s": 5})
    while not (workers := _workers(home)):
        assert agent.poll() is None, world.words(home)
        time.sleep(0.01)
    os.kill(workers[0], signal.SIGSTOP)
    assert agent.wait(timeout=240) == 4, world.words(home)
    said = world.rows(home)["campaign"][0]["sentence"]
    assert "the time for it was over before it ended" in said


def _workers(home: Path) -> list[int]:
    jobs = [path.parent for path in CampaignPaths(home, "storm").jobs.glob("*/worker.json")]
    running = (job for job in jobs if (read_json(job / "job.json") or {})["kind"] == "evaluation")
    return [int((read_json(job / "worker.json") or {})["pid"]) for job in running if not (job / "exit.json").exists()]
