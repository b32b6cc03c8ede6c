"""One accelerator per machine: jobs of several campaigns, each under a real supervisor, take turns."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from state.paths import CampaignPaths
from state.records import Guard
from tests.faults.jobs.harness import (
    BACKEND,
    assert_done_once,
    clear,
    ended,
    kill,
    running_at,
    spec,
    starts,
    supervisor,
    until,
    worker,
)

pytestmark = pytest.mark.faults


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield tmp_path
    clear(tmp_path)


def launch(home: Path, campaign: str, **options: Any) -> Path:
    """Launch the job `k1` of a campaign."""
    folder = CampaignPaths(home, campaign).job("k1").folder
    BACKEND.launch(folder, spec(**options))
    return folder


def waits_for(folder: Path) -> list[str]:
    """Return the campaigns that a job waits for."""
    return [who["campaign"] for who in BACKEND.status(folder).waits_for.get("ahead", [])]


def test_jobs_of_three_campaigns_run_one_after_the_other_in_the_order_they_came(home: Path) -> None:
    anna = launch(home, "anna", hang_at=5)
    running_at(anna, 3)
    bob = launch(home, "bob", steps=4)
    until(lambda: waits_for(bob) == ["anna"], "bob waits")
    eve = launch(home, "eve", steps=4)
    until(lambda: waits_for(eve) == ["anna", "bob"], "eve waits for both")
    status = BACKEND.status(bob)
    assert (status.state, status.needs_launch, status.started_at) == ("queued", False, None)
    assert starts(bob) == starts(eve) == []
    BACKEND.stop(anna, "person", "enough")
    records = [ended(folder) for folder in (anna, bob, eve)]
    assert [record.state for record in records] == ["stopped", "finished", "finished"]
    moments = [(record.started_at, record.finished_at) for record in records]
    assert moments == sorted(moments)
    assert records[2].started_at is not None
    assert records[2].started_at >= records[1].finished_at - 1
    assert not (bob / "waiting.json").exists()


def test_waiting_is_neither_wall_time_nor_a_stall(home: Path) -> None:
    guards = (
        Guard(signal="wall_s", op=">", threshold=4.0, verdict="out_of_time"),
        Guard(signal="seconds_since_progress", op=">", threshold=4.0, verdict="stalled"),
    )
    anna = launch(home, "anna", steps=400)
    running_at(anna, 1)
    bob = launch(home, "bob", steps=2, guards=guards)
    record = ended(bob)
    assert (record.state, record.verdict) == ("finished", "")
    assert record.queued_s > 4.0 > record.wall_s
    assert ended(anna).queued_s < 0.5


def test_a_job_that_waits_can_be_stopped_and_lets_others_pass(home: Path) -> None:
    anna = launch(home, "anna", hang_at=5)
    running_at(anna, 3)
    bob, eve = launch(home, "bob"), launch(home, "eve", steps=3)
    until(lambda: len(waits_for(eve)) == 2, "eve waits for both")
    BACKEND.stop(bob, "person", "not tonight")
    record = ended(bob)
    assert (record.state, record.by, record.started_at, record.reason) == ("stopped", "person", None, "not tonight")
    until(lambda: waits_for(eve) == ["anna"], "eve waits for anna only")
    BACKEND.stop(anna, "person", "")
    assert ended(eve).state == "finished"


def test_a_dead_supervisor_frees_the_accelerator_only_with_its_worker(home: Path) -> None:
    anna = launch(home, "anna", hang_at=5)
    running_at(anna, 3)
    bob = launch(home, "bob", steps=3)
    until(lambda: waits_for(bob) == ["anna"], "bob waits")
    assert kill(supervisor(anna))
    assert BACKEND.status(anna).state == "orphaned"
    # Adopted by another supervisor, the orphan keeps the turn it inherited.
    BACKEND.launch(anna, spec(hang_at=5))
    assert waits_for(bob) == ["anna"]
    assert starts(bob) == []
    assert kill(supervisor(anna))
    assert kill(worker(anna))
    assert ended(bob).state == "finished"
    assert BACKEND.status(anna).state == "lost"


def test_an_adopted_worker_that_dies_waits_for_a_turn_before_it_starts_again(home: Path) -> None:
    anna = launch(home, "anna", steps=60, crash={"at": 50, "times": 1, "how": "kill"}, delay_s=0.1)
    running_at(anna, 1)
    bob = launch(home, "bob", hang_at=3)
    until(lambda: waits_for(bob) == ["anna"], "bob waits")
    assert kill(supervisor(anna))
    BACKEND.launch(anna, spec(steps=60, crash={"at": 50, "times": 1, "how": "kill"}, delay_s=0.1))
    running_at(bob, 2)
    until(lambda: waits_for(anna) == ["bob"], "anna waits for bob")
    BACKEND.stop(bob, "person", "")
    assert ended(anna).state == "finished"
    assert_done_once(anna, steps=60)


def test_a_suspended_job_keeps_the_accelerator(home: Path) -> None:
    anna = launch(home, "anna", hang_at=5)
    running_at(anna, 3)
    for identity in (worker(anna), supervisor(anna)):
        assert kill(identity, signal.SIGSTOP)
    bob = launch(home, "bob", steps=3)
    until(lambda: waits_for(bob) == ["anna"], "bob waits")
    until(lambda: (BACKEND.status(bob).heartbeat_at or 0) > bob.joinpath("waiting.json").stat().st_mtime, "it looks on")
    assert waits_for(bob) == ["anna"]
    for identity in (worker(anna), supervisor(anna)):
        assert kill(identity, signal.SIGCONT)
    BACKEND.stop(anna, "person", "")
    assert ended(bob).state == "finished"


def test_a_waiting_supervisor_that_is_killed_keeps_nobody_waiting(home: Path) -> None:
    anna = launch(home, "anna", hang_at=5)
    running_at(anna, 3)
    bob, eve = launch(home, "bob"), launch(home, "eve", steps=3)
    until(lambda: len(waits_for(eve)) == 2, "eve waits for both")
    assert kill(supervisor(bob))
    status = BACKEND.status(bob)
    assert (status.state, status.waits_for, status.needs_launch) == ("lost", {}, True)
    until(lambda: waits_for(eve) == ["anna"], "eve waits for anna only")
    BACKEND.stop(anna, "person", "")
    assert ended(eve).state == "finished"


def test_a_census_loads_no_weights_and_waits_for_nobody(home: Path) -> None:
    anna = launch(home, "anna", hang_at=5)
    running_at(anna, 3)
    assert ended(launch(home, "bob", kind="census", steps=3)).state == "finished"
    assert BACKEND.status(anna).state == "running"
