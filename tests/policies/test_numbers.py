import math
from collections.abc import Mapping, Sequence

import pytest

from policies.recipes import LEAST_TOLD, Tried, next_recipes, numbers_of, space_of, with_numbers
from state.records import Json
from tests.policies.test_recipes import FIRST, as_tried

NUMBERS: Json = {"learning_rate": 1e-4, "iters": 120, "rank": 8, "scale": 10.0}


def test_the_numbers_of_a_recipe_go_back_into_it() -> None:
    assert numbers_of(FIRST.recipe) == NUMBERS
    changed = with_numbers(FIRST.recipe, {**NUMBERS, "learning_rate": 1.23456e-4, "rank": 16})
    assert changed["learning_rate"] == 1.23e-4
    assert changed["lora_parameters"] == {"rank": 16, "scale": 10.0, "dropout": 0.0}
    assert with_numbers(FIRST.recipe, {"learning_rate": 1e-4, "iters": 120}) == FIRST.recipe


def test_the_space_holds_the_usual_ranges_and_everything_that_was_run() -> None:
    told = [NUMBERS, {**NUMBERS, "learning_rate": 9e-3, "rank": 6, "iters": 900}]
    space = space_of(told, 240, 4, {})
    assert (space["learning_rate"]["low"], space["learning_rate"]["high"]) == (1e-5, 9e-3)
    assert (space["iters"]["low"], space["iters"]["high"]) == (30, 900)
    assert space["rank"] == {"choices": [4, 6, 8, 16, 32]}
    unknown = space_of([NUMBERS], None, 4, {})
    assert (unknown["iters"]["low"], unknown["iters"]["high"]) == (60, 240)


def test_an_adapter_to_go_on_from_keeps_its_shape_out_of_the_search() -> None:
    assert set(space_of([NUMBERS], 240, 4, {"lora_parameters": {}})) == {"learning_rate", "iters"}


class Sampler:
    """Proposes fixed numbers and keeps what it was told."""

    def __init__(self, **numbers: float) -> None:
        self.numbers = {**NUMBERS, **numbers}
        self.told: list[tuple[Json, float]] = []
        self.seed = 0

    def __call__(
        self, space: Mapping[str, Json], told: Sequence[tuple[Json, float]], seed: int, count: int
    ) -> list[Json]:
        assert set(space) <= set(self.numbers)
        self.told, self.seed = list(told), seed
        return [{name: self.numbers[name] for name in space}] * count


def runs(count: int, bucket: str = "B") -> list[Tried]:
    """Return runs of growing learning rates, of which the second got furthest."""
    return [
        as_tried(
            FIRST,
            run=f"R{place + 1}",
            bucket=bucket,
            gain=0.2 if place == 1 else 0.1,
            recipe={**FIRST.recipe, "learning_rate": 1e-4 * (1 + place)},
            recipe_hash=f"h{place}",
        )
        for place in range(count)
    ]


def test_a_sampler_is_asked_once_there_are_enough_runs_and_told_all_of_them() -> None:
    sampler = Sampler(learning_rate=3.3e-4, rank=16)
    few = next_recipes(runs(LEAST_TOLD - 1), parent_hash="w", rows=240, suggest=sampler)
    assert not any(each.rule.endswith("sampled") for each in few)
    assert sampler.told == []
    history = [*runs(LEAST_TOLD), as_tried(FIRST, run="R9", bucket=None, recipe_hash="lost")]
    first = next_recipes(history, parent_hash="w", rows=240, suggest=sampler)[0]
    assert first.rule == "plateau.sampled"
    assert len(sampler.told) == LEAST_TOLD
    assert sampler.told[1][1] == 0.2
    assert (first.recipe["learning_rate"], first.recipe["lora_parameters"]["rank"]) == (3.3e-4, 16)
    assert "so from R2's recipe; a sampler that was told 6 runs proposes these numbers" in first.hypothesis
    assert sampler.seed == 7 + len(history)


def test_while_a_rule_carries_further_the_sampler_waits_behind_it() -> None:
    history = [*runs(LEAST_TOLD), as_tried(FIRST, run="R9", bucket="B", gain=0.5)]
    found = next_recipes(history, parent_hash="w", rows=240, suggest=Sampler(learning_rate=3.3e-4))
    assert found[0].rule == "progress.longer"
    assert found[-1].rule == "progress.sampled"


def test_a_sampled_configuration_is_never_run_twice_and_never_a_dose_that_did_harm() -> None:
    again = next_recipes(runs(LEAST_TOLD), parent_hash="w", rows=240, suggest=Sampler(iters=960.0))
    assert [each.rule for each in again].count("plateau.sampled") == 1
    harmed = as_tried(
        FIRST, run="R9", stopped="collapsed", recipe={**FIRST.recipe, "learning_rate": 7e-4}, recipe_hash="x"
    )
    found = next_recipes([*runs(LEAST_TOLD), harmed], parent_hash="w", rows=240, suggest=Sampler(learning_rate=9e-3))
    assert not any(each.rule.endswith("sampled") for each in found)


@pytest.mark.parametrize("bucket", ["U"])
def test_nothing_is_sampled_where_no_recipe_helps(bucket: str) -> None:
    sampler = Sampler()
    history = [*runs(LEAST_TOLD), as_tried(FIRST, run="R9", bucket=bucket, rule="U.capped", gain=math.nan)]
    assert next_recipes(history, parent_hash="w", rows=240, suggest=sampler) == []
    assert sampler.told == []
