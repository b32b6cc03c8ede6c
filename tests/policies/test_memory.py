"""What a training takes in memory: the estimate, its refusal with the numbers, and what the first runs teach."""

from typing import Any

import pytest

from policies import cost
from policies.cost import Shape, estimate, memory_beliefs, memory_limits, refusal
from policies.followups import diagnostics
from policies.next_run import choose
from state.records import Belief, Evidence, Json
from tests.policies.rehearsal import Rehearsal, goal

SEEN = (Evidence(kind="probe", ref="machine.memory", summary="looked"),)
MEASURED = Shape(
    hidden=256, intermediate=768, layers=6, heads=4, attention=256, kv=256, vocab=512, value_bytes=4, weights_gb=0.021
)
"""The base that the coefficients were fitted around."""
RECIPE: Json = {"batch_size": 4, "max_seq_length": 256}
SMALL_GB = 0.4


def model(limit: float = 8.0, **changes: Any) -> Belief:
    value = {"limit_gb": limit, "shape": MEASURED.model_dump(), **changes}
    return Belief(
        id="B1", subject="machine:memory", claim="fits_the_model", statement="m", value=value, tag="inferred",
        evidence=SEEN,
    )  # fmt: skip


def rows(longest: int = 256) -> Belief:
    return Belief(
        id="B2", subject="data:train", claim="fits_sequence", statement="r", value={"max_tokens": longest},
        tag="confirmed", evidence=SEEN,
    )  # fmt: skip


def test_logits_are_counted_where_something_is_learned() -> None:
    # One step of this model with 256, 128, 64 and 16 learned positions of 256 took 783, 521, 390 and 291 MB.
    shape = MEASURED.model_copy(update={"intermediate": 704, "heads": 8, "vocab": 32_000, "weights_gb": 0.0517})
    for answer, peak_mb in ((None, 783), (256, 783), (128, 521), (64, 390), (16, 291)):
        found = estimate(shape, RECIPE, "sft", 256, answer)
        assert found.total_gb * 1000 == pytest.approx(peak_mb, rel=0.12)
    assert estimate(shape, {**RECIPE, "mask_prompt": False}, "sft", 256, 16) == estimate(shape, RECIPE, "sft", 256)


def test_a_recipe_fits_that_would_not_with_logits_everywhere() -> None:
    wide = MEASURED.model_copy(update={"vocab": 152_000, "weights_gb": 0.17})
    counted = rows().model_copy(update={"value": {"max_tokens": 256, "max_answer": 24}})
    assert "activations" in refusal([model(1.5, shape=wide.model_dump()), rows()], "sft", RECIPE)
    assert refusal([model(1.5, shape=wide.model_dump()), counted], "sft", RECIPE) == ""


@pytest.mark.parametrize(
    ("shape", "recipe", "peak_mb"),
    [
        ({}, {}, 229),
        ({"hidden": 512, "attention": 512, "kv": 512, "weights_gb": 0.0546}, {}, 324),
        ({"layers": 12, "weights_gb": 0.0414}, {}, 426),
        ({"vocab": 32_000, "weights_gb": 0.0532}, {}, 776),
        ({}, {"max_seq_length": 1024}, 1229),
        ({}, {"batch_size": 1}, 76),
        ({}, {"num_layers": 2}, 114),
        ({}, {"lora_parameters": {"rank": 64}}, 260),
        ({"value_bytes": 2, "weights_gb": 0.0105}, {}, 176),
        ({}, {"grad_checkpoint": True}, 111),
        ({"vocab": 8000, "weights_gb": 0.0287}, {"grad_checkpoint": True}, 192),
        ({}, {"fine_tune_type": "full"}, 283),
        ({}, {"fine_tune_type": "dora"}, 305),
    ],
)
def test_the_estimate_is_near_what_was_measured(shape: Json, recipe: Json, peak_mb: float) -> None:
    found = estimate(MEASURED.model_copy(update=shape), {**RECIPE, **recipe}, "sft", 10_000)
    assert found.total_gb * 1000 == pytest.approx(peak_mb, rel=0.12)


def test_rows_are_padded_and_never_longer_than_the_recipe_allows() -> None:
    assert estimate(MEASURED, RECIPE, "sft", 101).length == 104
    assert estimate(MEASURED, RECIPE, "sft", 5000).length == 256


def test_a_pair_has_two_rows_and_an_update_of_rollouts_is_cut_in_parts() -> None:
    assert estimate(MEASURED, RECIPE, "dpo", 256).rows == 8
    assert estimate(MEASURED, {**RECIPE, "update_microbatch": 2}, "grpo", 256).rows == 2
    assert estimate(MEASURED, {**RECIPE, "batch_size": 1, "group_size": 2}, "grpo", 256).rows == 2


def test_an_update_of_rollouts_is_counted_by_what_the_machine_computes_together() -> None:
    rollouts, asked = {**RECIPE, "batch_size": 8, "group_size": 8}, goal(instruments=["grpo"])
    cpu, cuda = (
        {b.subject: b for b in memory_beliefs(asked.model_copy(update={"recipe": rollouts}), [found, rows()])}
        for found in (model(), model(rollouts_together=64))
    )
    assert cpu["instrument:grpo"].value["rows"] == 8
    assert cuda["instrument:grpo"].value["rows"] == 64
    told = {**rollouts, "update_microbatch": 4}
    assert "(4 rows of" in memory_beliefs(asked.model_copy(update={"recipe": told}), [model(0.1), rows()])[0].statement
    [stop] = memory_beliefs(asked.model_copy(update={"recipe": rollouts}), [model(1.0, rollouts_together=64), rows()])
    assert "update_microbatch: 1" in stop.fix


def test_many_rollouts_decoded_together_may_take_more_than_an_update() -> None:
    few = {**RECIPE, "update_microbatch": 1, "rollout_concurrency": 1, "group_size": 1000}
    many = {**few, "rollout_concurrency": 4000}
    gb = 4000 * 256 * 6 * 2 * 256 * 4 / 1e9
    assert estimate(MEASURED, many, "grpo", 256).activations_gb == pytest.approx(gb)
    assert estimate(MEASURED, few, "grpo", 256).activations_gb < gb / 100


def test_only_the_named_layers_are_counted_as_adapters() -> None:
    whole = estimate(MEASURED, RECIPE, "sft", 256)
    queries = {**RECIPE, "lora_parameters": {"rank": 8, "keys": ["self_attn.q_proj"]}}
    assert estimate(MEASURED, queries, "sft", 256).adapter_gb == 2 * 6 * 512 * 8 * 4 / 1e9
    unknown = {**RECIPE, "lora_parameters": {"rank": 8, "keys": ["mixer.in_proj"]}}
    assert estimate(MEASURED, unknown, "sft", 256).adapter_gb == whole.adapter_gb
    assert estimate(MEASURED, {**RECIPE, "optimizer": "sgd"}, "sft", 256).optimizer_gb == whole.optimizer_gb / 2


def test_what_fits_is_no_stop_and_says_its_parts() -> None:
    [found] = memory_beliefs(goal(recipe=RECIPE), [model(), rows()])
    assert (found.subject, found.claim, found.status, found.fix) == ("instrument:sft", "fits_in_memory", "fresh", "")
    assert "4 rows of at most 256 positions" in found.statement
    assert "jobs may hold 8.00 GB" in found.statement
    assert found.premises == ("B1", "B2")


def test_what_cannot_fit_is_a_hard_stop_with_what_each_change_would_take() -> None:
    [found] = memory_beliefs(goal(recipe=RECIPE), [model(SMALL_GB), rows()])
    assert (found.status, found.severity) == ("refuted", "hard_stop")
    assert "with recipe.grad_checkpoint: true it would need 0.41 GB" in found.fix
    assert "with also recipe.batch_size: 1 it would need 0.3" in found.fix
    done = {**RECIPE, "batch_size": 1, "grad_checkpoint": True}
    [last] = memory_beliefs(goal(recipe=done), [model(0.1), rows()])
    assert last.fix.startswith("Change the recipe: lower recipe.max_seq_length")
    rollouts = goal(recipe={**RECIPE, "group_size": 8}, instruments=["sft", "grpo"], data={"train": "t.jsonl"})
    assert "update_microbatch: 1" in memory_beliefs(rollouts, [model(0.1), rows()])[1].fix


def test_nothing_is_said_before_model_and_rows_are_known_and_what_was_said_becomes_stale() -> None:
    for known in ([], [model()], [rows()], [model(shape=None), rows()]):
        assert memory_beliefs(goal(), known) == []
    [said] = memory_beliefs(goal(recipe=RECIPE), [model(SMALL_GB), rows()])
    [stale] = memory_beliefs(goal(recipe=RECIPE), [rows(), said.model_copy(update={"id": "B3"})])
    assert (stale.status, stale.subject) == ("stale", "instrument:sft")
    assert stale.statement.startswith("Not known now")


def test_the_limit_is_known_once_the_machine_was_looked_at() -> None:
    assert memory_limits([]) is None
    assert memory_limits([model(7.5)]) == (7.5, 7.5), "as an older Vigil knew it"
    assert memory_limits([model(7.5, resident_gb=64.0)]) == (7.5, 64.0)


def trained(play: Rehearsal, peak_gb: float | None) -> list[Belief]:
    """Return what the first run's memory teaches."""
    play.run()
    play.beliefs += [model()]
    [number, *_] = [number for number, action in enumerate(play.actions) if action.kind == "train"]
    result = {**play.actions[number].result, "peak_memory_gb": peak_gb, "exit": {"peak_rss_gb": 0.5}}
    play.actions[number] = play.actions[number].model_copy(update={"result": result})
    return [b for b in diagnostics(play.view()) if b.claim == "took_the_planned_memory" and b.subject == "run:R1"]


def test_a_run_that_took_what_was_estimated_is_on_record_and_no_warning() -> None:
    [found] = trained(Rehearsal(goal=goal(budget={"runs": 1})), 0.1)
    assert (found.status, found.severity) == ("fresh", "note")
    assert "R1 took 0.10 GB at its peak, the whole process 0.50 GB" in found.statement
    assert found.value["ratio"] == pytest.approx(0.1 / found.value["estimate_gb"], abs=0.01)


def test_a_run_that_took_twice_the_estimate_refutes_it_and_corrects_the_next() -> None:
    [found] = trained(Rehearsal(goal=goal(budget={"runs": 1})), 1.0)
    assert (found.status, found.severity) == ("refuted", "warning")
    assert "times the estimate" in found.statement
    ratio = found.value["ratio"]
    before = memory_beliefs(goal(recipe=RECIPE), [model(), rows()])[0]
    after = memory_beliefs(goal(recipe=RECIPE), [model(), rows(), found])[0]
    grown = (after.value["needed_gb"] - cost.OVERHEAD_GB) / (before.value["needed_gb"] - cost.OVERHEAD_GB)
    assert grown == pytest.approx(ratio, rel=0.01)
    assert f"times {ratio:.2f} as earlier runs took" in after.statement


def test_a_run_that_told_no_peak_teaches_nothing() -> None:
    assert trained(Rehearsal(goal=goal(budget={"runs": 1})), None) == []


def test_a_proposal_that_cannot_fit_is_passed_over_with_the_numbers() -> None:
    play = Rehearsal(goal=goal(recipe=RECIPE | {"iters": 20}))
    assert choose(play.view(), "sft").proposal is not None
    play.beliefs += [model(SMALL_GB), rows()]
    choice = choose(play.view(), "sft")
    assert choice.proposal is None
    assert "jobs may hold 0.40 GB" in choice.skipped[0].reason
    assert refusal(play.beliefs, "sft", {**RECIPE, "batch_size": 1, "grad_checkpoint": True}) == ""
    assert refusal([], "sft", RECIPE) == ""


def test_each_instrument_is_counted_with_its_own_recipe_over_the_first_one_s() -> None:
    def needed(**recipes: Json) -> dict[str, float]:
        asked = goal(instruments=("sft", "dpo"), recipe=RECIPE, recipes=recipes)
        return {belief.subject: belief.value["needed_gb"] for belief in memory_beliefs(asked, [model(), rows()])}

    plain, large = needed(), needed(dpo={"batch_size": 64})
    assert large["instrument:sft"] == plain["instrument:sft"]
    assert large["instrument:dpo"] > 2 * plain["instrument:dpo"]
