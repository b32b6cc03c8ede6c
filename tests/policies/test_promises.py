"""What holds of every campaign, whatever is true of the world: whole simulated campaigns, decision by decision."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import pytest

from policies import plan
from policies.cost import Estimate, Spent, affordable
from policies.recipes import dose
from state.goal import Budget
from state.records import Run
from tests.policies.rehearsal import START
from tests.policies.test_replay_exported import judged_again
from tests.simulation.priors import BUDGET_H, KINDS, Kind, draw
from tests.simulation.vigil import Night, goal_of
from tests.simulation.world import World

SEEDS = range(2)


@lru_cache(maxsize=64)
def night(kind: Kind, seed: int, optimum: float | None = None) -> Night:
    """Return a campaign played to its end; with an optimum, in a world where half a doubling beyond it collapses."""
    truth = draw(kind, seed)
    if optimum is not None:
        truth = replace(truth, optimum=dict.fromkeys(truth.optimum, optimum), tolerance=0.5)
    found = Night(goal=goal_of(truth), world=World(truth))
    found.run(most=5000)
    return found


each_campaign = pytest.mark.parametrize(("kind", "seed"), [(kind, seed) for kind in KINDS for seed in SEEDS])


@each_campaign
def test_no_configuration_runs_twice_and_no_act_is_done_twice(kind: Kind, seed: int) -> None:
    played = night(kind, seed)
    hashes = [run.recipe_hash for run in played.runs]
    assert len(hashes) == len(set(hashes))
    keys = [action.key for action in played.actions]
    assert len(keys) == len(set(keys))


@each_campaign
def test_no_plan_exceeds_the_budget_and_every_cut_is_on_record(kind: Kind, seed: int) -> None:
    played = night(kind, seed)
    for decision in played.decisions:
        if decision.action != "train":
            continue
        planned = decision.verdict["estimate"]
        assert decision.made_at + planned["seconds"] <= START + BUDGET_H * 3600
        run = next(run for run in played.runs if run.id == decision.run)
        if "Cut from" in run.hypothesis:
            assert f"to {run.recipe['iters']} iterations" in run.hypothesis


@each_campaign
def test_a_promoted_run_never_fails_its_own_gate_on_replay_and_no_verdict_changes(kind: Kind, seed: int) -> None:
    played = night(kind, seed)
    again = judged_again(played)
    assert {row.id: row.bucket for row in again.cycles} == {run.id: run.bucket for run in played.runs}
    for row in again.cycles:
        if row.bucket == "A":
            assert row.passed
            assert all(condition.holds for condition in row.gate)


@each_campaign
def test_confirmation_is_opened_as_often_as_allowed_and_an_end_says_why(kind: Kind, seed: int) -> None:
    played = night(kind, seed)
    assert played.kinds().count("confirm") <= played.goal.gate.max_confirmations
    assert played.campaign.state in {"promoted", "not_promoted", "halted"}
    assert played.campaign.sentence


def total(run: Run, runs: Mapping[str, Run], rows: int) -> float:
    """Return the dose that a run's weights have taken: its own, and that of every run they go back to."""
    before = runs.get(run.parent)
    return dose(run.recipe, rows, run.instrument) + (0.0 if before is None else total(before, runs, rows))


def says_nothing(run: Run, harm: Run) -> bool:
    """Say whether a run holds more of what may let it bear more than the run that did harm."""
    ours, theirs = (each.recipe["lora_parameters"]["dropout"] for each in (run, harm))
    is_anchored = run.instrument == harm.instrument and run.recipe.get("beta", 0) > harm.recipe.get("beta", 0)
    return bool(ours > theirs) or is_anchored


HARSH_KINDS: tuple[Kind, ...] = ("sft", "preferences", "rollouts", "noisy")
HARSH = [(kind, seed) for kind in HARSH_KINDS for seed in range(2)]


@pytest.mark.parametrize("optimum", [-1.0, 0.3])
def test_no_run_takes_the_dose_of_one_that_did_harm_before(optimum: float) -> None:
    """In the worlds of the prior hardly a run does harm: here half a doubling beyond the best dose does."""
    compared = 0
    for kind, seed in HARSH:
        played = night(kind, seed, optimum)
        rows, runs = played.world.truth.rows, {run.id: run for run in played.runs}
        trained = {a.inputs["recipe_hash"]: a.result for a in played.actions if a.kind == "train"}
        broke = {d.run for d in played.decisions if d.rule == "D.no_worse_broken"}
        for place, run in enumerate(played.runs):
            for before in played.runs[:place]:
                is_same = before.parent_hash == run.parent_hash and before.instrument == run.instrument
                has_collapsed = trained[before.recipe_hash].get("verdict") == "collapsed"
                if not (has_collapsed or (is_same and before.id in broke)) or says_nothing(run, before):
                    continue
                assert total(run, runs, rows) < total(before, runs, rows)
                compared += 1
    assert compared >= 10


@pytest.mark.parametrize(("kind", "seed"), [("sft", 1), ("preferences", 2), ("rollouts", 4), ("nothing", 1)])
def test_the_same_record_gives_the_same_plan_at_every_step(kind: Kind, seed: int) -> None:
    truth = draw(kind, seed)
    played = Night(goal=goal_of(truth), world=World(truth))
    for _ in range(40):
        assert plan.plan(played.view()) == plan.plan(played.view())
        played.step()


def test_what_fits_the_budget_to_the_second_fits_and_a_second_more_does_not() -> None:
    hour = Budget(hours=1)
    assert affordable(hour, Spent(), Estimate(seconds=3600), START, START).is_affordable
    assert not affordable(hour, Spent(), Estimate(seconds=3601), START, START).is_affordable
