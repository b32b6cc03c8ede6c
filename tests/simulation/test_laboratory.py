"""The simulated laboratory: the same seed is the same campaign, and what is said to help does."""

import pytest

from tests.benchmarks import simulated_laboratory
from tests.simulation import baselines
from tests.simulation.laboratory import VIGIL, play, players, run, tally
from tests.simulation.priors import KINDS, Kind, draw
from tests.simulation.world import World


def test_a_seed_is_one_truth_and_a_truth_is_one_campaign_for_every_player() -> None:
    assert draw("sft", 3) == draw("sft", 3) != draw("sft", 4)
    assert play(VIGIL, "sft", 3) == play(VIGIL, "sft", 3)
    assert play("random search, gate", "noisy", 3) == play("random search, gate", "noisy", 3)
    assert play("random search, gate", "nothing", 3, 5).runs > play("random search, gate", "nothing", 3, 1).runs


@pytest.mark.parametrize("kind", KINDS)
def test_something_meets_the_gate_where_an_instrument_helps_and_nowhere_else(kind: Kind) -> None:
    promotable = [draw(kind, seed).is_promotable for seed in range(40)]
    if kind == "noisy":
        assert set(promotable) == {True, False}
    else:
        assert set(promotable) == {kind in {"sft", "preferences", "rollouts"}}


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


def test_a_loop_that_promotes_by_the_number_is_fooled_where_the_metric_is_coarse_and_the_gate_is_not() -> None:
    by_number, by_gate = (
        tally(player, run(player, range(12), ["coarse"], processes=1, patience=100))
        for player in ("keep if better, number", "keep if better, gate")
    )
    assert by_number.wrong > 4 > by_gate.wrong
    assert by_number.hours == 24.0, "a wrong verdict costs the whole budget"


@pytest.mark.parametrize("player", [player for player in players() if player != VIGIL])
def test_the_patience_of_a_baseline_costs_it_fewer_hours_than_a_longer_one(player: str) -> None:
    own, longer, endless = (
        tally(player, run(player, range(8), processes=1, patience=patience)).hours for patience in (None, 8, 100)
    )
    assert own < longer < endless


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
