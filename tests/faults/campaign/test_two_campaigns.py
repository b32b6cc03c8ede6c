"""Two campaigns at once on one machine: both end, and their weights are never loaded at the same time."""

import contextlib
import itertools
import os
import signal
import time
from pathlib import Path

import pytest

from agent.render import record
from agent.render.record import gather
from state.errors import NotFoundError
from state.files import read_json, read_jsonl
from state.paths import CampaignPaths
from tests.faults.campaign import warm, world

pytestmark = pytest.mark.faults


def spans(home: Path, name: str) -> list[tuple[float, float, str]]:
    """Return when each worker that loads weights began and wrote its result."""
    found = []
    for folder in CampaignPaths(home, name).jobs.iterdir():
        if (read_json(folder / "job.json") or {})["kind"] != "census":
            begun = read_jsonl(folder / "out" / "starts.jsonl")[0]["t"]
            found.append((begun, (folder / "result.json").stat().st_mtime, f"{name} {folder.name}"))
    return found


def test_two_campaigns_share_the_accelerator_job_by_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    home, names = tmp_path / "home", ("anna", "bob")
    recipe = {"batch_size": 4, "iters": 60, "max_seq_length": 128, "learning_rate": 0.001}
    files = {name: world.write_campaign(tmp_path / name, name, recipe=recipe) for name in names}
    agents = {name: warm.start(file, home, log=tmp_path / f"{name}.log") for name, file in files.items()}
    told: set[str] = set()
    try:
        while any(agent.poll() is None for agent in agents.values()):
            for name in names:
                # It may not have begun.
                with contextlib.suppress(NotFoundError):
                    waiting = [job for job in gather(CampaignPaths(home, name))["jobs"] if job.get("waits_for")]
                    told |= {record.progress(job, time.time()) for job in waiting}
            time.sleep(0.05)
    finally:
        for agent in agents.values():
            if agent.poll() is None:
                os.killpg(agent.pid, signal.SIGKILL)
                agent.wait()
    logs = {name: (tmp_path / f"{name}.log").read_text()[-2000:] for name in names}
    assert {name: agent.poll() for name, agent in agents.items()} == dict.fromkeys(names, 0), logs
    for name in names:
        world.assert_exactly_once(home, name)
        assert world.rows(home, name)["campaign"][0]["state"] == "promoted"
    in_order = sorted(span for name in names for span in spans(home, name))
    overlaps = [(one, two) for one, two in itertools.pairwise(in_order) if two[0] < one[1]]
    assert overlaps == []
    assert any("has the accelerator; since" in sentence for sentence in told)
    whole = "".join((tmp_path / f"{name}.log").read_text() for name in names)
    assert "waits: training of " in whole
    assert "It goes on." in whole
    queued = sum(job["exit"]["queued_s"] for name in names for job in world.rows(home, name)["jobs"])
    assert queued > 0
    print(f"{len(in_order)} jobs of two campaigns, none at the same time; they waited {queued:.1f} s in all")
