"""The machine restarts in the middle of a training; the service that was installed takes the campaign up by itself."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from state.files import read_json, read_jsonl, write_json
from tests.faults.campaign import quick, world
from tests.faults.campaign.reboot import EARLIER, power_cut, processes_of
from tools.jobs.processes import identify

ITERS = 120

QUICK = f"""\
from agent import session
session.WORKERS.update(dict.fromkeys(session.WORKERS, {quick.__name__!r}))
"""
"""Every process of the service finds quick workers in the place of those that load MLX."""


def service(campaign: Path, home: Path, library: Path) -> "subprocess.Popen[bytes]":
    """Start what the unit or the property list starts, in the folder and with the variables that it gets."""
    folders = os.pathsep.join([str(library), str(world.ROOT)])
    with home.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "agent.service", str(home), str(campaign)],
            cwd=campaign.parent,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": folders},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home whose processes end with the test, however it ends."""
    yield tmp_path / "home"
    for process in processes_of(tmp_path / "home"):
        process.kill()


def until(ask: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 120
    while not (answer := ask()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return answer


def training_at(home: Path, step: int) -> Path:
    """Wait until a training has committed a step; return its job folder."""

    def found() -> Path | None:
        for steps in home.glob("storm/jobs/*/out/steps"):
            if len(list(steps.iterdir())) >= step:
                return steps.parent.parent
        return None

    job = until(found, "a training gets to work")
    assert isinstance(job, Path)
    return job


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_after_a_restart_of_the_machine_the_service_resumes_the_job_from_its_last_step(
    tmp_path: Path, home: Path
) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "sitecustomize.py").write_text(QUICK)
    recipe = {"batch_size": 4, "iters": ITERS, "max_seq_length": 128, "learning_rate": 0.001}
    campaign = world.write_campaign(tmp_path / "files", recipe=recipe)

    agent = service(campaign, home, library)
    job = training_at(home, 10)
    power_cut(home, agent)
    done = len(list((job / "out" / "steps").iterdir()))
    assert 10 <= done < ITERS
    assert not (job / "exit.json").exists()

    # After a restart the numbers of processes begin anew: one of them is somebody else's by now.
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    other = identify(bystander.pid)
    assert other is not None
    for name in ("start.json", "worker.json"):
        written = read_json(job / name) or {}
        write_json(job / name, {**written, **other.to_json(), "boot_id": EARLIER})

    log = home.with_suffix(".log")
    assert service(campaign, home, library).wait(timeout=300) == 0, log.read_text()[-2000:]
    assert bystander.poll() is None
    bystander.communicate(b"\n")

    assert world.rows(home)["campaign"][0]["state"] == "promoted", log.read_text()[-2000:]
    world.assert_exactly_once(home)
    assert len(read_jsonl(job / "out" / "starts.jsonl")) == 2
    ending = read_json(job / "exit.json") or {}
    assert (ending["state"], ending["restarts"], ending["is_adopted"]) == ("finished", 1, False)
    assert sorted(int(step.name) for step in (job / "out" / "steps").iterdir()) == list(range(1, ITERS + 1))
    # The power may go between a step and its row: the step that was under way then is the only one without a row.
    told = {row["step"] for row in read_jsonl(job / "metrics.jsonl") if "train_loss" in row}
    assert set(range(1, ITERS + 1)) - told <= {done}

    # The next restart finds a campaign that has ended, and leaves it alone.
    before = json.dumps(world.rows(home), sort_keys=True)
    assert service(campaign, home, library).wait(timeout=60) == 0
    assert json.dumps(world.rows(home), sort_keys=True) == before
    assert "storm has ended (promoted)" in log.read_text()


@pytest.mark.faults
def test_what_ended_the_agent_does_not_end_its_jobs(tmp_path: Path, home: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "sitecustomize.py").write_text(QUICK)
    campaign = world.write_campaign(tmp_path / "files")
    agent = service(campaign, home, library)
    job = training_at(home, 1)
    # systemctl --user stop: with KillMode=process only the agent is told.
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(timeout=60) == -signal.SIGTERM
    until((job / "exit.json").exists, "the job ends by itself")
    assert service(campaign, home, library).wait(timeout=240) == 0
    world.assert_exactly_once(home)
    assert len(read_jsonl(job / "out" / "starts.jsonl")) == 1
