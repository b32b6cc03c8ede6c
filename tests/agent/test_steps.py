"""What a campaign learns of the time of a step from those before it on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import runner
from agent.campaign import load_campaign
from agent.fingerprints import learn_steps
from agent.knowing import knowing
from agent.session import WORKERS, Session
from agent.view import view_of
from policies.next_run import estimate_of
from state.clock import FakeClock
from state.lease import Lease
from state.paths import CampaignPaths
from state.records import Action, Belief, Decision, Json, Run
from state.store import Store
from tests.faults.campaign import world
from tools import numbers
from tools.jobs.backend import LocalBackend

RESULT: Json = {"padded_tokens": 51200, "steps_s": 100.0, "iters": 100, "wall_s": 110.0}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of its own, and a folder for campaigns."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "machine"))
    return tmp_path


def sittings(home: Path, *names: str) -> Iterator[Session]:
    """Return a sitting of one campaign after another, each closed before the next."""
    for name in names:
        file = world.write_campaign(home / name, name)
        paths, clock = CampaignPaths(home / "home", name), FakeClock()
        runner._make_home(paths)
        with Lease.acquire(paths, clock) as lease, Store.open(paths, clock, lease) as store:
            yield runner._sit_down(load_campaign(file), paths, store, clock, LocalBackend(), WORKERS)


def trained(session: Session, result: Json) -> None:
    """Put a finished training on record."""
    run = Run(
        id="R1",
        instrument="sft",
        parent="base",
        parent_hash="w",
        recipe={"batch_size": 4, "iters": 100},
        recipe_hash="h",
        data_hash="d",
        seed=0,
        hypothesis="",
    )
    store = session.store
    decision = store.deciding.decide(Decision(rule="r", sentence="Train.", action="train", run="R1"), run=run)
    key = f"train-{session.goal.campaign}"
    inputs = {"run": "R1", "recipe_hash": "h"}
    store.doing.intend(Action(key=key, kind="train", decision=decision.id, inputs=inputs))
    store.doing.finish(key, result)


def steps(session: Session) -> Belief | None:
    return view_of(session).belief("machine:steps", "step_time")


def test_what_one_campaign_timed_the_next_one_plans_with(home: Path) -> None:
    recipe = {"iters": 10, "batch_size": 4, "max_seq_length": 128}
    for number, session in enumerate(sittings(home, "first", "second", "other")):
        if number == 0:
            trained(session, RESULT)
            learn_steps(session, "w")
            assert steps(session) is None, "its own steps are on its own record"
        elif number == 1:
            learn_steps(session, "w")
            learn_steps(session, "w")
            second = steps(session)
            assert second is not None
            assert second.value == {"sft": [{"batch_size": 4, "padded_tokens": 128.0, "seconds": 1.0}]}
            assert "Earlier campaigns timed 1 of sft" in second.statement
            assert sum(b.subject == "machine:steps" for b in session.store.read.beliefs()) == 1
            assert estimate_of(view_of(session), recipe).source == "remembered"
        else:
            learn_steps(session, "other weights")
            assert steps(session) is None
            assert estimate_of(view_of(session), recipe).source == "assumed"


@pytest.mark.parametrize("result", [{**RESULT, "steps_s": 2.0}, {"exit": {"verdict": "diverged"}}])
def test_a_training_of_seconds_or_without_steps_teaches_nothing(home: Path, result: Json) -> None:
    for number, session in enumerate(sittings(home, "first", "second")):
        if number == 0:
            trained(session, result)
        learn_steps(session, "w")
        assert steps(session) is None


def test_knowing_learns_at_each_visit_and_a_sampler_is_handed_to_the_planner(home: Path) -> None:
    for number, session in enumerate(sittings(home, "first", "second")):
        if number == 0:
            trained(session, RESULT)
        knowing(session, {})
        if number == 1:
            assert steps(session) is not None
        assert view_of(session).suggest is numbers.suggest
