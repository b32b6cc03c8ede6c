"""Trackers: filled by a process of their own that may die, be killed or have no room, and nothing else comes of it."""

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from agent.cli import vigil
from state.files import read_jsonl
from state.paths import CampaignPaths
from state.reading import open_reader
from tests.agent.folders import edit, make
from tests.agent.test_run_flow import until
from tests.faults.campaign import world
from tests.tools.trackers.test_writers import held
from tools.jobs.locks import is_held
from tools.trackers.writers import WRITERS

STAND_IN = Path(__file__).resolve().parents[1] / "tools" / "trackers" / "stand_in"
FULL = """import resource, sys
if "agent.trackers" in sys.orig_argv:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_500, 2_500))
"""


def expected(paths: CampaignPaths) -> dict[str, list[tuple[int, dict[str, float]]]]:
    """Return what each run reported, each step once, by another way than the product's."""
    with open_reader(paths) as reader:
        jobs = [job for job in reader.jobs() if job["kind"] == "training"]
    found: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for job in jobs:
        rows = {row["step"]: row for row in reversed(read_jsonl(paths.job(job["key"]).metrics))}
        told = [(step, {"train_loss": row["train_loss"]}) for step, row in sorted(rows.items())]
        found.setdefault(job["run"], []).extend(told)
    return found


def fillers(paths: CampaignPaths) -> list[psutil.Process]:
    """Return the processes that fill a campaign's trackers."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        found += [process] if "agent.trackers" in line and str(paths.root) in line else []
    return found


@pytest.mark.parametrize("name", ["stand_in", *WRITERS])
def test_a_campaign_killed_and_resumed_fills_its_tracker_once_whatever_becomes_of_that(
    name: str, tmp_path: Path
) -> None:
    package = "trackio" if name == "stand_in" else name
    if name != "stand_in":
        pytest.importorskip(name, reason=f"the extra {name} is not installed")
    campaign = world.write_campaign(tmp_path / "files", trackers=[package])
    paths = CampaignPaths(tmp_path / "home", "storm")
    place = paths.trackers / package
    first = STAND_IN if name == "stand_in" else tmp_path / "first"
    slow = {"QUICK_STEP_S": "0.05", "TRACKIO_DIR": str(place)}
    if name == "stand_in":
        place.mkdir(parents=True)
        (place / "full").touch()
    else:
        first.mkdir()
        (first / "sitecustomize.py").write_text(FULL)
    agent = world.start(campaign, paths.home, first_on_path=first, environment=slow)
    try:
        # Its disk is full from the start, and the training goes on.
        until(lambda: any(len(read_jsonl(file)) > 5 for file in paths.jobs.glob("*/metrics.jsonl")))
        until(lambda: paths.tracker_log(package).exists())
    finally:
        os.killpg(agent.pid, signal.SIGKILL)
        agent.wait()
    until(lambda: "tracker.failed" in paths.tracker_log(package).read_text())
    until(lambda: not is_held(paths.tracker_lock(package)))
    if name == "stand_in":
        (place / "full").unlink()
        (place / "deadly").touch()
    else:
        (first / "sitecustomize.py").unlink()
    agent = world.start(campaign, paths.home, first_on_path=first, environment=slow)
    until(lambda: bool(fillers(paths)) or agent.poll() is not None)
    if name != "stand_in":
        time.sleep(2.5)
        for process in fillers(paths):
            process.kill()
    assert agent.wait(timeout=240) == 0, world.words(paths.home)
    world.assert_exactly_once(paths.home)
    # What the dead one had not sent goes out at the next call.
    assert world.start(campaign, paths.home, first_on_path=first, environment=slow).wait(timeout=60) == 0
    until(lambda: not is_held(paths.tracker_lock(package)) and not fillers(paths), 90)
    if name == "stand_in":
        assert _noted(paths) == ["The process that fills trackio died (signal 9); it goes on from what trackio holds."]
    found = {run.partition("-")[0]: rows for run, rows in held(package, place).items()}
    steps = {run: [row for row in rows if "train_loss" in row[1]] for run, rows in found.items()}
    wanted = expected(paths)
    assert steps.keys() == wanted.keys()
    for run, rows in wanted.items():
        assert [row[0] for row in steps[run]] == [step for step, _ in rows], "neither a gap nor a double"
        assert [row[1]["train_loss"] for row in steps[run]] == pytest.approx([row["train_loss"] for _, row in rows])
    judged = [row for row in found["R1"] if "verdict/main.score" in row[1]]
    assert judged, "and what its verdicts measured"
    assert CliRunner().invoke(vigil, ["log", "--home", str(paths.home)]).output.count("tracker.sent") > 0


def _noted(paths: CampaignPaths) -> list[str]:
    with open_reader(paths) as reader:
        return [row["reason"] for row in reader.requests() if row["by"].startswith("tracker ")]


def test_a_tracker_that_is_not_installed_is_said_before_the_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = make(tmp_path)
    edit(file, "budget:", "trackers: [trackio]\nbudget:")
    monkeypatch.setitem(sys.modules, "trackio", None)
    refused = CliRunner().invoke(vigil, ["run", "--check", str(file)])
    assert refused.exit_code == 2
    assert "`trackers` names trackio, which is not installed here: pip install 'vigil[trackio]'" in refused.stderr
