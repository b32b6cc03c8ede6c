"""The simulated laboratory: the same seed is the same campaign, and what is said to help does."""

import pytest

from tests.benchmarks import simulated_laboratory
from tests.simulation import baselines
from tests.simulation.laboratory import VIGIL, play, players, run, tally
from tests.simulation.priors import BUDGET_H, INSTRUMENTS, KINDS, Kind, draw
from tests.simulation.vigil import LOST_P
from tests.simulation.world import FIXED_S, World
from tools.training import reinforcement


def test_a_seed_is_one_truth_and_a_truth_is_one_campaign_for_every_player() -> None:
    assert draw("sft", 3) == draw("sft", 3) != draw("sft", 4)
    assert play(VIGIL, "sft", 3) == play(VIGIL, "sft", 3)
    assert play("random search, gate", "noisy", 3) == play("random search, gate", "noisy", 3)
    assert play("random search, gate", "nothing", 3, 5).runs > play("random search, gate", "nothing", 3, 1).runs


@pytest.mark.parametrize("kind", KINDS)
def test_something_meets_the_gate_where_an_instrument_helps_and_nowhere_else(kind: Kind) -> None:
    promotable = [draw(kind, seed).is_promotable for seed in range(40)]
    if kind in {"noisy", "dense"}:
        assert set(promotable) == {True, False}
    else:
        assert set(promotable) == {kind in {"sft", "preferences", "rollouts", "long"}}


def test_scores_approach_the_true_score_and_the_right_dose_deserves_promotion() -> None:
    truth = draw("sft", 1)
    world = World(truth)
    recipe = baselines.recipe_of(truth, "sft", truth.optimum["sft"] + 0.9, 2.0, 8, 10.0)
    found = world.train(world.base, "sft", recipe, 1)
    assert found.stopped == ""
    assert world.deserves(found.weights)
    assert not world.deserves(world.base)
    measured = world.scores(found.weights, "selection")["main"]["score"].mean()
    assert abs(measured - truth.score(found.weights.ability)) < 0.15
    too_much = baselines.recipe_of(truth, "sft", truth.optimum["sft"] + truth.tolerance + 0.1, 2.0, 8, 10.0)
    collapsed = world.train(world.base, "sft", too_much, 1)
    assert not world.deserves(collapsed.weights)


def test_vigil_spends_nothing_where_the_harness_cannot_show_the_answer() -> None:
    outcomes = run(VIGIL, range(6), ["capped", "coarse"], processes=1)
    assert {outcome.rule for outcome in outcomes} == {"hard_stop"}
    assert not any(outcome.runs for outcome in outcomes)
    assert all(outcome.is_right for outcome in outcomes)


def test_a_loop_that_promotes_by_the_number_is_fooled_where_scores_are_noisy_and_the_gate_is_not() -> None:
    by_number, by_gate = (
        tally(player, run(player, range(12), ["noisy"], processes=1, patience=6))
        for player in ("halving, number", "halving, gate")
    )
    assert by_number.wrong > by_gate.wrong == 0
    wrong = next(o for o in run("halving, number", range(12), ["noisy"], processes=1, patience=6) if o.is_wrong)
    assert wrong.hours_to_verdict == BUDGET_H, "a wrong verdict costs the whole budget"


@pytest.mark.parametrize("player", [player for player in players() if player != VIGIL])
def test_a_baseline_sees_each_class_and_ends_by_its_patience_or_at_once_where_the_census_says_so(player: str) -> None:
    name, judge = player.split(", ")
    assert (name, judge) in baselines.PATIENCE
    nothing, capped = (play(player, kind, 2) for kind in ("nothing", "capped"))
    assert nothing.rule in {"patience", "budget.gone"}
    assert nothing.runs >= len(INSTRUMENTS)
    assert (capped.rule, capped.runs) == ("hard_stop", 0)


def test_a_longer_run_goes_on_from_the_shorter_one_and_costs_the_added_steps() -> None:
    world = World(draw("long", 1))
    name, recipe = baselines.first_of(world.truth, "sft")
    twice = {**recipe, "iters": 2 * recipe["iters"]}
    whole, added = (world.train(world.base, name, twice, 1, since) for since in (0, recipe["iters"]))
    assert whole.weights == added.weights
    assert whole.seconds - added.seconds == pytest.approx(world.train_s(name, recipe) - FIXED_S)


def test_a_look_at_a_simulated_training_ends_it_by_the_workers_rule() -> None:
    assert LOST_P == reinforcement.LOST_P


def test_a_dense_world_scores_between_nothing_and_all_and_a_long_one_asks_for_passes() -> None:
    dense, long = World(draw("dense", 1)), World(draw("long", 1))
    scores = dense.scores(dense.base, "selection")["main"]["score"]
    assert ((scores > 0) & (scores < 1)).mean() > 0.5
    assert scores.mean() == pytest.approx(dense.truth.base, abs=0.1)
    name, recipe = baselines.first_of(long.truth, "sft")
    longer, faster = {**recipe, "iters": 2 * recipe["iters"]}, {**recipe, "learning_rate": 2 * recipe["learning_rate"]}
    assert long.val_loss(name, longer) < long.val_loss(name, faster) < long.val_loss(name, recipe)


def test_players_are_compared_on_the_same_campaigns() -> None:
    mine, other = (tally(player, run(player, range(2), ["sft"], processes=1)) for player in (VIGIL, players()[1]))
    more, low, high = other.more_than(mine)
    assert more == pytest.approx(other.hours - mine.hours)
    assert low < more < high
    assert mine.more_than(mine) == (0.0, 0.0, 0.0)


def test_the_benchmark_prints_a_row_for_each_player_and_says_how_each_ended(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--campaigns", "1", "--from", "0", "--kinds", "sft", "capped", "--processes", "1", "--players"]
    assert simulated_laboratory.main([*given, VIGIL, "random search, number"]) == 0
    said = capsys.readouterr().out
    assert "Vigil ended by: " in said
    assert " h beside Vigil on the same campaigns (" in said
    assert "4 campaigns in " in said
