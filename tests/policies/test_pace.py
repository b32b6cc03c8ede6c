import pytest

from policies.proposals import estimate_of
from tests.policies.rehearsal import Rehearsal, goal

ITERS = 5000
LONG = {"batch_size": 4, "iters": ITERS, "max_seq_length": 128}
"""Assumed to take 20 minutes, 5 to 80."""


def campaign(hours: float | None, step_s: float = 0.1) -> Rehearsal:
    """Return a campaign of long runs and so many hours, on a machine whose steps take so long."""
    return Rehearsal(goal=goal(budget={"hours": hours, "reserve_min": 0}, recipe=LONG), step_s=step_s)


def until_trained(play: Rehearsal) -> Rehearsal:
    """Go on to the first training, or to the end."""
    while "train" not in play.kinds() and play.step() != "ended":
        pass
    return play


def test_steps_are_timed_where_the_assumed_time_of_a_run_may_or_may_not_fit() -> None:
    play = until_trained(campaign(hours=0.5))
    assert play.kinds() == ["census", "evaluate", "pace", "train"]
    [timing] = [decision for decision in play.decisions if decision.action == "pace"]
    assert timing.sentence == (
        "Time a few steps of sft first: its run is assumed to take 19 min (5 min to 76 min), "
        "and 28 min are left for it."
    )


def test_a_quick_machine_trains_the_whole_run_that_an_assumption_would_have_cut() -> None:
    play = until_trained(campaign(hours=0.3, step_s=0.02))
    assert play.runs[0].recipe["iters"] == ITERS
    assert "timed in a few steps on this machine" in play.decisions[-1].sentence


def test_a_slow_machine_cuts_the_run_before_it_begins() -> None:
    play = until_trained(campaign(hours=1.3, step_s=1.4))
    assert play.runs[0].recipe["iters"] < ITERS
    assert "Cut from 5000" in play.decisions[-1].sentence


def test_a_machine_too_slow_for_any_of_it_trains_nothing() -> None:
    play = until_trained(campaign(hours=1.0, step_s=60.0))
    assert play.kinds()[-2:] == ["pace", "conclude"]


@pytest.mark.parametrize("hours", [None, 0.05, 20.0])
def test_nothing_is_timed_where_the_assumption_settles_it(hours: float | None) -> None:
    assert "pace" not in until_trained(campaign(hours)).kinds()


def test_steps_that_could_not_be_timed_are_not_tried_again() -> None:
    play = campaign(hours=0.5)
    play.fails = {"pace": 1}
    assert until_trained(play).kinds() == ["census", "evaluate", "pace", "train"]
    assert "assumed, no step was timed here" in play.decisions[-1].sentence


def test_after_its_first_run_a_campaign_plans_with_that() -> None:
    play = until_trained(campaign(hours=0.5))
    assert estimate_of(play.view(), LONG).source == "measured"


def test_another_class_is_scaled_from_steps_that_were_timed() -> None:
    play = campaign(hours=0.5)
    while "pace" not in play.kinds():
        play.step()
    ours, theirs = (estimate_of(play.view(), LONG, name) for name in ("sft", "dpo"))
    assert (ours.source, theirs.source) == ("timed", "assumed")
    assert theirs.step_s == pytest.approx(3 * ours.step_s, rel=0.1), "two rows a pair, half as dear again each"
