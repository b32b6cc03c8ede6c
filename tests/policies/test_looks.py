"""Of several saves of a run the best is judged, on what grounds, at which level, and when none is looked at."""

from dataclasses import replace
from typing import Any

import pytest

from policies.history import View
from policies.next_run import (
    at_best_saves,
    evaluate_save,
    evaluation_s,
    going_on,
    interim,
    judged_at,
    may_be_better,
    next_proposals,
    saves_compared,
    skipped,
    why_not,
)
from state.records import Action, Json, Measurement, Save
from tests.policies.rehearsal import Rehearsal, goal


def peaked(weights: str, case: int) -> float:
    """Return scores that rise until step 10 and fall after it."""
    step = int(weights.rpartition(":")[2]) if ":" in weights else 0
    return 0.5 + 0.02 * min(step, 10) - 0.01 * max(0, step - 10) + 0.001 * (case % 7 - 3)


def peaked_at_15(weights: str, case: int) -> float:
    step = int(weights.rpartition(":")[2]) if ":" in weights else 0
    return 0.5 + 0.01 * min(step, 15) - 0.01 * max(0, step - 15) + 0.001 * (case % 7 - 3)


def one_run(**world: Any) -> Rehearsal:
    play = Rehearsal(goal=goal(budget={"runs": 1}), saved_at=(0.25, 0.5), score=peaked, **world)
    play.run()
    return play


def looked(play: Rehearsal) -> list[Json]:
    return [a.inputs["look"] for a in play.actions if "look" in a.inputs]


def test_a_run_whose_loss_rose_again_is_judged_at_the_best_of_its_saves_and_the_level_is_divided() -> None:
    play = one_run()
    assert [(look["step"], look["cases"], look["split"]) for look in looked(play)] == [
        (5, 32, "main"),
        (10, 32, "main"),
    ]
    [run] = play.runs
    assert run.adapter.endswith(":10")
    verdict = play.view().verdict(run)
    assert verdict is not None
    assert (verdict.gate.alpha, verdict.comparisons[0].alpha) == (0.05 / 3, 0.025 / 3)
    said = next(d.sentence for d in play.decisions if d.bucket is not None)
    assert said.endswith("It is judged at its save of step 10, the best of 3 compared, at a level divided by 3.")
    assert "98.3 % interval" in said
    measured = [d.sentence for d in play.decisions if d.rule == "run.measure"]
    assert measured[1].startswith("Measure R1 at its save of step 10 on the selection splits")
    assert saves_compared(play.view(), run) == 3
    assert measured[0].count("Its validation loss turned: ") == 1, measured[0]


def test_a_run_that_ended_best_is_judged_at_its_end_at_the_divided_level_all_the_same() -> None:
    play = Rehearsal(goal=goal(budget={"runs": 1}), saved_at=(0.5,))
    play.run()
    assert len(looked(play)) == 1
    assert play.runs[0].adapter.endswith(":20")
    assert sum(d.rule == "run.measure" for d in play.decisions) == 1
    found = play.view().verdict(play.runs[0])
    assert found is not None
    assert found.gate.alpha == 0.05 / 2
    said = next(d.sentence for d in play.decisions if d.bucket is not None)
    assert said.endswith("It is judged at its end, the best of 2 compared, at a level divided by 2.")


def test_of_saves_that_score_alike_the_end_is_judged() -> None:
    play = Rehearsal(goal=goal(budget={"runs": 1}), saved_at=(0.5,), score=lambda w, case: 0.6 if ":" in w else 0.5)
    play.run()
    assert play.runs[0].adapter.endswith(":20")


def test_a_run_whose_end_meets_the_gate_is_looked_at_no_further_unless_the_best_is_wanted() -> None:
    gate = {"conditions": [{"id": "score", "metric": "main.score", "min": 0.52}]}
    ends: Json = {"saved_at": (0.5,), "score": peaked}
    play = Rehearsal(goal=goal(gate=gate, budget={"runs": 1}), **ends)
    play.run()
    assert looked(play) == []
    best = Rehearsal(goal=goal(gate=gate, budget={"runs": 1}, search={"goal": "best"}), **ends)
    best.run()
    assert len(looked(best)) == 1
    assert best.campaign.state == "promoted"
    promoted = next(d for d in best.decisions if d.action == "promote")
    assert promoted.action_inputs["adapter"].endswith(":10"), "what was judged is what is promoted"


def told(view: View, output: int, prompt: int = 1) -> list[Measurement]:
    """Return the measurements as if answers and prompts had so many tokens."""
    changed = {"output_tokens": output, "prompt_tokens": prompt}
    return [row.model_copy(update=changed) for row in view.measurements]


SAVES = [
    Save(step=5, weights="a", val_loss=1.0),
    Save(step=10, weights="b", val_loss=0.7),
    Save(step=15, weights="d"),
    Save(step=20, weights="d", val_loss=0.8),
]


def test_saves_with_a_higher_loss_or_the_same_weights_are_not_worth_a_look() -> None:
    assert [save.step for save in may_be_better(SAVES)] == [10]
    unmeasured = [save.model_copy(update={"val_loss": None}) for save in SAVES]
    assert [save.step for save in may_be_better(unmeasured)] == [5, 10]
    assert may_be_better([]) == []


def test_looks_that_cost_much_beside_the_training_are_left_out_and_that_is_on_record() -> None:
    play = one_run()
    trained = next(a for a in play.actions if a.kind == "train")
    view = play.view()
    assert why_not(view, trained) == ""
    dear = replace(view, measurements=tuple(told(view, 60)))
    assert why_not(dear, trained) == "that would cost as much as 11,541 trained tokens, and the run has 6,640"
    assert evaluate_save(dear, play.runs[0], trained) is None
    [said] = skipped(dear, trained)
    assert said.reason.startswith("the saves at step 5, 10: that would cost ")
    off = replace(view, goal=goal(evaluation={**goal().evaluation.model_dump(mode="json"), "look_cases": 0}))
    assert why_not(off, trained) == "evaluation.look_cases is 0"
    assert skipped(view, trained) == ()
    plain = trained.model_copy(update={"result": {}})
    assert (why_not(view, plain), evaluate_save(view, play.runs[0], plain), judged_at(plain.made)) == ("", None, "")
    assert evaluation_s(view) == 0.0


def test_without_scores_on_the_same_cases_or_with_a_look_that_does_not_count_the_end_is_judged() -> None:
    play = one_run()
    [look, _] = [a for a in play.actions if "look" in a.inputs]
    view = replace(play.view(), actions=tuple(play.actions))

    def adapter(changed: Any) -> str:
        found: Action = next(a for a in at_best_saves(changed).actions if a.kind == "train")
        return str(found.result["adapter"]).rpartition(":")[2]

    assert adapter(view) == "10"
    blank = [row for row in view.measurements if row.evaluation != look.key]
    assert adapter(replace(view, measurements=tuple(blank))) == "20"
    invalidated = view.invalidated.model_copy(update={"evaluations": frozenset({look.key})})
    assert adapter(replace(view, invalidated=invalidated)) == "20"


@pytest.mark.parametrize("named", ["main.control", "score"])
def test_saves_are_compared_by_the_metric_that_the_campaign_is_for(named: str) -> None:
    gate = {
        "primary": named,
        "conditions": [
            {"id": "score", "metric": "main.score", "min": 0.75},
            {"id": "control", "any_of": ["main.full", "main.control"], "min": 0.9},
        ],
    }
    asked = goal(gate=gate, budget={"runs": 1})
    play = Rehearsal(goal=asked, saved_at=(0.5,), score=peaked)
    play.run()
    assert len(looked(play)) == 1
    assert play.runs[0].adapter.endswith(":10")


def test_a_run_is_looked_at_while_it_trains_where_that_costs_little_beside_it() -> None:
    play = one_run()
    view = play.view()
    recipe = {"iters": 100, "steps_per_eval": 20}
    look, reason = interim(view, recipe, "sft", 10_000.0)
    assert (look, reason) == ({"split": "main", "metric": "score", "sign": 1, "cases": 32, "first": 25}, "")
    assert interim(view, recipe, "grpo", 1000.0) == ({}, "")
    off = replace(view, goal=goal(evaluation={**goal().evaluation.model_dump(mode="json"), "look_cases": 0}))
    assert interim(off, recipe, "sft", 1000.0) == ({}, "")
    dear = replace(view, measurements=tuple(told(view, 10, prompt=30)))
    # Five looks, at the start and four times from step 25 on, of 32 cases: 10 tokens as three each, 30 as a third.
    assert interim(dear, recipe, "sft", 4 * 5 * 32 * 40 + 1)[0] == look
    assert interim(dear, recipe, "sft", 4 * 5 * 32 * 40 - 1) == (
        {},
        "no look at it while it trains: that would cost as much as 6,400 trained tokens, and the run has 25,599",
    )
    launched = next(d for d in play.decisions if d.action == "train")
    assert launched.action_inputs["interim"]["metric"] == "score"
    assert launched.action_inputs["guards"][-1]["verdict"] == "hopeless"


@pytest.mark.parametrize("wall_s", [0.001, 1e6])
def test_what_is_looked_at_does_not_hang_on_the_machine_s_speed(wall_s: float) -> None:
    def seen(play: Rehearsal) -> list[Json]:
        trained = next(d for d in play.decisions if d.action == "train")
        return [trained.action_inputs["interim"], *looked(play)]

    class Slow(Rehearsal):
        def act(self, decision: Any) -> None:
            super().act(decision)
            last = self.actions[-1]
            self.actions[-1] = last.model_copy(update={"result": {**last.result, "wall_s": wall_s}})

    play = Slow(goal=goal(budget={"runs": 1}), saved_at=(0.25, 0.5), score=peaked)
    play.run()
    assert seen(play) == seen(one_run())


def test_a_launch_says_why_nobody_looks_while_it_trains() -> None:
    play = Rehearsal(goal=goal(budget={"runs": 1}))
    while "evaluate" not in play.kinds():
        play.step()
    play.measurements = told(play.view(), 90)
    play.run()
    launched = next(d for d in play.decisions if d.action == "train")
    assert "interim" not in launched.action_inputs
    assert any(other.reason.startswith("no look at it while it trains") for other in launched.alternatives)
    assert "hopeless" not in {guard["verdict"] for guard in launched.action_inputs["guards"]}


def test_the_next_recipe_follows_from_the_save_that_was_judged_and_not_from_the_end() -> None:
    play = one_run()
    view = replace(play.view(), goal=goal())
    first, *_ = proposals = next_proposals(view)
    assert first.grounds["val_losses"] == [1.0, 0.8], "the end's 0.9 is more than a tenth worse: not what was judged"
    assert first.rule == "progress.dropout", "it learned by heart after step 10"
    assert {each.recipe["iters"] for each in proposals} == {10}
    assert "as of its save of step 10, the best of 20" in first.hypothesis
    said = {each.action: each.reason for each in proposals[-1].alternatives}
    assert said["longer"] == "that configuration was run already"


def test_a_longer_run_does_not_go_on_from_a_state_that_is_past_its_best() -> None:
    play = one_run(keeps_states=True)
    view = replace(play.view(), goal=goal())
    [run] = view.runs
    longer = next_proposals(view)[0].model_copy(update={"recipe": {**run.recipe, "iters": 30}, "hypothesis": "Longer."})
    again = going_on(view, longer)
    assert not again.continues
    assert again.hypothesis == (
        "Longer. It starts again: R1 is best before its end, and only the state of its end could be gone on from."
    )
    at_end = Rehearsal(goal=goal(budget={"runs": 1}), keeps_states=True)
    at_end.run()
    kept = replace(at_end.view(), goal=goal())
    assert going_on(kept, longer.model_copy(update={"parent_hash": kept.runs[0].parent_hash})).continues == "R1"


def test_more_steps_than_a_training_had_are_not_proposed_where_an_earlier_save_was_better() -> None:
    play = Rehearsal(goal=goal(budget={"runs": 1}), saved_at=(0.75,), score=peaked_at_15)
    play.run()
    last = next_proposals(replace(play.view(), goal=goal()))[-1]
    said = {each.action: each.reason for each in last.alternatives}
    assert said["longer"] == "R1 was trained to step 20 and is best at its save of step 15"
