import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.recipes import SAFE_SHARE, Harm, dose, harm_of, judge_dose
from state.records import Json

RECIPE: Json = {"iters": 120, "batch_size": 4, "learning_rate": 1e-4, "lora_parameters": {"rank": 8, "scale": 10.0}}


def test_a_dose_is_passes_times_rank_times_scale_at_the_usual_learning_rate() -> None:
    assert dose(RECIPE, 240, "sft") == pytest.approx(2 * 8 * 10)
    assert dose({**RECIPE, "learning_rate": 5e-5}, 240, "sft") == pytest.approx(80)
    assert dose({**RECIPE, "learning_rate": 1e-5}, 240, "dpo") == pytest.approx(160)
    assert dose({"iters": 60, "batch_size": 4}, 240, "grpo") == pytest.approx(80)
    assert dose(RECIPE, None, "sft") == pytest.approx(480 * 80)


def test_without_harm_before_every_dose_fits() -> None:
    found = judge_dose(RECIPE, 240, "sft", 500.0, [])
    assert (found.state, found.iters, found.sentence) == ("fits", 120, "")
    assert found.total == pytest.approx(660.0)


def test_a_dose_that_would_reach_a_harmful_one_is_reduced_with_the_reason() -> None:
    found = judge_dose(RECIPE, 240, "sft", 0.0, [Harm(run="R2", what="collapsed", dose=150.0)])
    assert (found.state, found.iters) == ("reduced", 101)
    assert found.total == pytest.approx(134.7, abs=0.1)
    assert "R2 collapsed at 150: 101 iterations instead of 120." in found.sentence


def test_what_the_parents_took_counts_and_a_cut_below_half_is_refused() -> None:
    harm = Harm(run="R2", what="collapsed", dose=200.0)
    assert judge_dose(RECIPE, 240, "sft", 10.0, [harm]).state == "fits"
    assert judge_dose(RECIPE, 240, "sft", 90.0, [harm]).state == "reduced"
    refused = judge_dose(RECIPE, 240, "sft", 150.0, [harm])
    assert (refused.state, refused.iters) == ("refused", 22)
    assert refused.sentence.endswith("R2 collapsed at 200: 22 iterations instead of 120.")
    assert judge_dose(RECIPE, 240, "sft", 500.0, [harm]).iters == 0


@pytest.mark.parametrize(
    "still",
    [{"learning_rate": 0.0}, {"lora_parameters": {"rank": 8, "scale": 0.0}}, {"iters": 0}],
)
def test_a_recipe_without_any_pull_adds_nothing_to_a_parent_that_took_as_much_as_did_harm(still: Json) -> None:
    harm = Harm(run="R2", what="collapsed", dose=200.0)
    found = judge_dose({**RECIPE, **still}, 240, "sft", 500.0, [harm])
    assert (found.state, found.total, found.sentence) == ("fits", 500.0, "")
    assert found.iters == still.get("iters", 120)


def test_more_dropout_or_a_stronger_anchor_may_bear_more() -> None:
    harm = harm_of("R2", "collapsed", "sft", {**RECIPE, "beta": 0.1}, 160.0)
    held: Json = {**RECIPE, "lora_parameters": {"rank": 8, "scale": 10.0, "dropout": 0.05}}
    assert judge_dose(held, 240, "sft", 0.0, [harm]).state == "fits"
    assert judge_dose({**RECIPE, "beta": 0.2}, 240, "sft", 0.0, [harm]).state == "fits"
    assert judge_dose({**RECIPE, "beta": 0.1}, 240, "sft", 0.0, [harm]).state == "reduced"
    pulled = {**RECIPE, "learning_rate": 1e-5, "beta": 0.9}
    assert judge_dose(pulled, 240, "dpo", 0.0, [harm]).state == "reduced", "another class's anchor is another thing"


@given(
    iters=st.integers(20, 2000),
    carried=st.floats(0, 500),
    doses=st.lists(st.floats(10, 2000), min_size=1, max_size=4),
)
def test_what_may_be_given_stays_below_everything_that_did_harm(iters: int, carried: float, doses: list[float]) -> None:
    harms = [Harm(run=f"R{place}", what="collapsed", dose=each) for place, each in enumerate(doses)]
    found = judge_dose({**RECIPE, "iters": iters}, 240, "sft", carried, harms)
    if found.state != "refused":
        assert found.total <= SAFE_SHARE * min(doses) + 1e-6
        assert found.iters <= iters
