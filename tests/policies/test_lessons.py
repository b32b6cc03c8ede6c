"""What the record shows by itself: each lesson where it is due, and silence where it is not."""

from typing import Any

from policies.followups import diagnostics
from state.records import Action, Belief, Json
from tests.policies.rehearsal import Rehearsal, goal


def told(play: Rehearsal) -> dict[str, Belief]:
    return {f"{b.subject} {b.claim}": b for b in diagnostics(play.view()) if b.status == "refuted"}


def ended(play: Rehearsal, result: Json, state: str = "done") -> Rehearsal:
    """Let the first training have ended otherwise."""
    [first, *_] = [number for number, action in enumerate(play.actions) if action.kind == "train"]
    changed: dict[str, Any] = {"result": {**play.actions[first].result, **result}, "state": state}
    play.actions[first] = play.actions[first].model_copy(update=changed)
    return play


def one_run() -> Rehearsal:
    play = Rehearsal(goal=goal(budget={"runs": 1}))
    play.run()
    return play


def test_a_run_that_took_what_was_planned_teaches_nothing_but_that() -> None:
    play = ended(one_run(), {"wall_s": 5.0})
    assert told(play) == {}
    [fine] = [b for b in diagnostics(play.view()) if b.mode == "10"]
    assert (fine.status, fine.claim) == ("fresh", "took_the_planned_time")


def test_seconds_beside_the_planned_span_are_no_failure_of_the_model() -> None:
    play = one_run()
    foreseen = next(d.verdict["estimate"] for d in play.decisions if d.action == "train")
    for wall_s in (float(foreseen["low_s"]) - 59.0, float(foreseen["high_s"]) + 59.0):
        assert told(ended(play, {"wall_s": wall_s})) == {}
    assert told(ended(play, {"wall_s": float(foreseen["high_s"]) + 61.0}))


def test_a_run_that_was_sooner_done_than_planned_is_no_finding() -> None:
    play = one_run()
    decision = next(d for d in play.decisions if d.action == "train")
    foreseen = {"low_s": 500.0, "high_s": 900.0, "seconds": 700.0}
    slow = decision.model_copy(update={"verdict": {**decision.verdict, "estimate": foreseen}})
    play.decisions = [slow if d.id == decision.id else d for d in play.decisions]
    assert told(ended(play, {"wall_s": 203.0})) == {}
    [fine] = [b for b in diagnostics(play.view()) if b.mode == "10"]
    assert fine.statement == "R1 took 203 s; 500 to 900 s were planned: 0.29 times the expected time."


def test_a_run_that_took_ten_times_the_time_refutes_the_model_of_step_time() -> None:
    found = told(ended(one_run(), {"wall_s": 100_000.0}))
    assert found["run:R1 took_the_planned_time"].mode == "10"
    assert "100000 s" in found["run:R1 took_the_planned_time"].statement


def test_a_collapse_and_an_empty_preference_loss_are_named_with_their_step() -> None:
    collapsed = told(ended(one_run(), {"verdict": "collapsed", "iters": 9}))["run:R1 generates_as_its_parent"]
    assert (collapsed.mode, collapsed.severity) == ("1", "warning")
    assert "step 9" in collapsed.statement
    unsaved = told(ended(one_run(), {"verdict": "collapsed", "iters": None}, "failed"))[
        "run:R1 generates_as_its_parent"
    ]
    assert "No healthy save is left to judge." in unsaved.statement
    assert "None" not in unsaved.statement
    empty = told(ended(one_run(), {"exit": {"verdict": "loss_collapsed"}, "verdict": ""}, "failed"))
    assert empty["run:R1 changes_generation"].mode == "14"


def test_a_reward_that_told_nothing_apart_is_named_with_what_to_mend() -> None:
    found = told(ended(one_run(), {"verdict": "rewards_equal", "iters": 32}))["run:R1 reward_tells_answers_apart"]
    assert (found.mode, found.severity, found.status) == ("P10", "warning", "refuted")
    assert "R1 was stopped at step 32: the reward was the same for all answers" in found.statement
    assert "rollouts.jsonl" in found.fix


def test_a_save_that_does_not_load_as_it_was_saved_is_a_finding() -> None:
    error = {"what": "probe_loss", "sentence": "The save at step 8 gives a loss of 1.0 where 0.39 was saved."}
    found = told(ended(one_run(), {"error": error}, "failed"))["run:R1 loads_as_it_was_saved"]
    assert found.mode == "12"
    assert "0.39" in found.statement


def test_a_training_that_still_runs_or_that_nobody_planned_teaches_nothing() -> None:
    play = one_run()
    play.actions = [a.model_copy(update={"state": "intent"}) if a.kind == "train" else a for a in play.actions]
    assert diagnostics(play.view()) == []
    play = ended(one_run(), {"wall_s": 5.0})
    play.actions.append(Action(key="x", kind="train", decision="D99", state="done", inputs={"run": "R9"}))
    assert told(play) == {}


def test_a_run_without_a_planned_time_is_not_held_against_one() -> None:
    play = one_run()
    play.decisions = [d.model_copy(update={"verdict": {}}) if d.action == "train" else d for d in play.decisions]
    assert diagnostics(play.view()) == []


FLAT = {
    "gate": {"conditions": [{"id": "score", "metric": "main.score", "min": 0.75}], "meaningful_delta": 0.1},
    "data": {"train": "train.jsonl", "pairs": "pairs.jsonl"},
}


def flat(weights: str, case: int) -> float:
    return 0.5 + 0.01 * (case % 3)


class Controlled(Rehearsal):
    """A world whose control moves while its score does not."""

    def _measure(self, decision: Any) -> None:
        before = len(self.measurements)
        super()._measure(decision)
        moved = 0.9 if decision.action_inputs["side"] == "candidate" else 0.4
        self.measurements[before:] = [
            row.model_copy(update={"metrics": {**row.metrics, "control": moved + 0.001 * (number % 3)}})
            for number, row in enumerate(self.measurements[before:])
        ]


def test_two_flat_runs_warn_and_an_exhausted_class_says_so() -> None:
    play = Controlled(goal=goal(**FLAT, budget={"runs": 2}), score=flat)
    play.run()
    assert [run.bucket for run in play.runs] == ["C", "C"]
    found = told(play)
    assert found["instrument:sft moves_the_target"].mode == "11"
    play = Controlled(goal=goal(**FLAT, search={"max_runs_without_progress": 5}), score=flat)
    play.run()
    assert told(play)["instrument:sft moves_the_target"].mode == "13"
    assert "instrument:sft precomputed_classes_suffice" not in told(play)


def test_both_written_classes_exhausted_point_to_rollouts() -> None:
    asked = goal(**FLAT, instruments=["sft", "dpo"], search={"max_runs_without_progress": 5})
    play = Controlled(goal=asked, score=flat)
    play.run()
    both = told(play)["instrument:dpo precomputed_classes_suffice"]
    assert both.mode == "15"
    assert {run.instrument for run in play.runs} == {"sft", "dpo"}
    assert set(both.value["runs"]) <= {run.id for run in play.runs}
