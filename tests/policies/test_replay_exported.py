"""Vigil's own record judged again: the same verdicts, whatever the world was."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.replay.published import exported_trajectory
from policies.replay.records import Replay
from policies.replay.verdicts import replay
from state.records import Action, Belief, Decision, GoalVersion, Measurement, Record
from tests.policies.rehearsal import Rehearsal, goal
from tests.policies.test_planning import LADDER, from_an_adapter
from tests.policies.trajectory import finding


def exported(play: Rehearsal) -> list[Record]:
    """Return what an export of a rehearsed campaign holds."""
    spec = play.goal.model_dump(mode="json")
    version = GoalVersion(version=play.goal_version, campaign="rehearsal", file_hash="f", spec=spec)
    return [version, *play.beliefs, *play.actions, *play.runs, *play.measurements, *play.decisions]


def judged_again(play: Rehearsal) -> Replay:
    """Return a rehearsed campaign, judged again from its export."""
    return replay(exported_trajectory(exported(play)))


def ended(**world: Any) -> Rehearsal:
    """Return a campaign rehearsed to its end."""
    play = Rehearsal(**world)
    play.run()
    return play


def test_a_promoted_campaign_is_judged_the_same_and_never_fails_its_own_gate() -> None:
    play = ended()
    found = judged_again(play)
    assert [row.bucket for row in found.cycles] == ["B", "B", "B", "A"] == [run.bucket for run in play.runs]
    assert all(row.agrees for row in found.cycles)
    assert found.cycles[-1].passed
    assert "Wilson" not in found.cycles[-1].gate[0].method
    assert found.cycles[-1].next.action == "promote"
    assert found.first_stop is None
    assert [row.rule for row in found.cycles][:3] == ["B.moved"] * 3
    assert [row.next.rule for row in found.cycles][:3] == ["progress"] * 3


def test_the_sentences_of_the_verdicts_are_the_recorded_ones() -> None:
    play = ended()
    said = {d.run: d.verdict["bucket"]["sentence"] for d in play.decisions if d.bucket is not None}
    assert {row.id: row.sentence for row in judged_again(play).cycles} == said


def test_a_halt_before_any_run_is_the_first_stop_with_the_time_it_saved() -> None:
    found = judged_again(ended(ceiling=0.5))
    assert found.cycles == ()
    assert found.first_stop is not None
    assert (found.first_stop.mode, found.first_stop.claim) == ("P1", "below_ceiling")
    assert found.saved.hours > 0


def test_a_halt_whose_belief_is_not_in_the_export_keeps_its_sentence() -> None:
    rows = [row for row in exported(ended(ceiling=0.5)) if not isinstance(row, Belief)]
    found = replay(exported_trajectory(rows))
    assert found.first_stop is not None
    assert found.first_stop.sentence.startswith("Hard stop")


def test_a_run_that_a_guard_ended_is_as_uninformative_as_on_record() -> None:
    found = judged_again(ended(fails={"train": 1}, exit={"verdict": "diverged"}))
    first = found.cycles[0]
    assert (first.bucket, first.rule, first.agrees) == ("U", "U.unmeasured", True)


def test_a_lost_run_trained_nothing_that_counts() -> None:
    found = judged_again(ended(fails={"train": 1}))
    assert (found.cycles[0].bucket, found.cycles[0].instrument) == (None, "")
    assert all(row.agrees for row in found.cycles[1:])


def test_a_run_is_compared_with_the_adapter_that_it_went_on_from() -> None:
    play = from_an_adapter()
    play.run()
    found = judged_again(play)
    assert found.cycles
    assert all(row.agrees in {True, None} for row in found.cycles)
    said = {d.run: d.verdict["bucket"]["sentence"] for d in play.decisions if d.bucket is not None}
    assert {row.id: row.sentence for row in found.cycles if row.bucket} == said


def test_an_export_that_was_cut_before_the_goal_judges_nothing() -> None:
    rows = [row for row in exported(ended()) if not isinstance(row, GoalVersion)]
    assert {row.bucket for row in replay(exported_trajectory(rows)).cycles} == {None}


def test_without_the_evaluations_actions_every_measurement_counts() -> None:
    rows = [row for row in exported(ended()) if not isinstance(row, Action)]
    assert [row.bucket for row in replay(exported_trajectory(rows)).cycles] == ["B", "B", "B", "A"]


def test_a_run_that_another_started_from_is_judged_by_its_own_cases_not_by_those_it_was_confirmed_beside() -> None:
    def world(weights: str, case: int) -> float:
        step = 0.3 if weights.endswith(":200") else 0.1 if weights.endswith(":20") else 0.0
        return 0.5 + step + (0.001 if weights == "weights-1" else 0.002) * (case % 3)

    changes = {"recipes": {"dpo": {"iters": 200}}, "search": {"max_runs_without_progress": 1}}
    play = ended(goal=goal(**LADDER, **changes), score=world)
    promoted = next(run for run in play.runs if run.bucket == "A")
    parent = next(run for run in play.runs if run.id == promoted.parent)
    assert any(row.weights == promoted.parent_hash and row.use == "confirmation" for row in play.measurements)
    # The export of a real night, where the two parts of the splits differ: else nothing would show it.
    rows = [
        row.model_copy(update={"metrics": {**row.metrics, "score": (row.metrics["score"] or 0.0) - 0.01}})
        if isinstance(row, Measurement) and row.use == "confirmation"
        else row
        for row in exported(play)
    ]
    judged = next(row for row in replay(exported_trajectory(rows)).cycles if row.id == parent.id)
    assert judged.agrees
    assert finding(judged, "P12") is None
    assert judged.next.rule == "progress"
    said = next(d for d in play.decisions if d.run == parent.id and d.bucket is not None)
    assert [row.value for row in judged.gate] == [each["value"] for each in said.verdict["gate"]["conditions"]]


def test_a_run_whose_gate_holds_on_selection_is_followed_by_a_look_at_the_confirmation_cases() -> None:
    play = ended()
    promoted = next(run for run in play.runs if run.bucket == "A")
    rows = [row for row in exported(play) if not isinstance(row, Measurement) or row.use == "selection"]
    last = next(row for row in replay(exported_trajectory(rows)).cycles if row.id == promoted.id)
    assert (last.bucket, last.next.action, last.next.rule) == ("B", "measure", "confirm")


def test_a_run_without_a_verdict_yet_is_judged_under_the_newest_goal() -> None:
    rows = [row for row in exported(ended()) if not (isinstance(row, Decision) and row.bucket is not None)]
    found = replay(exported_trajectory(rows))
    assert [row.bucket for row in found.cycles] == ["B", "B", "B", "A"]
    assert {row.agrees for row in found.cycles} == {None}


def test_a_figure_of_another_harness_is_not_compared() -> None:
    play = ended()
    stray = play.measurements[0].model_copy(update={"evaluation": "older", "metrics": {"score": 0.0, "control": 0.0}})
    rows = [*exported(play), stray]
    assert [row.bucket for row in replay(exported_trajectory(rows)).cycles] == ["B", "B", "B", "A"]
    assert any(isinstance(row, Measurement) for row in rows)


def test_a_real_test_too_coarse_for_its_cases_is_a_finding() -> None:
    spec = {"conditions": [{"metric": "main.score", "against": "parent", "min": -0.001}]}
    play = ended(goal=goal(gate=spec), ceiling=1.0, score=lambda weights, case: 0.5 + 0.001 * (case % 3))
    rows = judged_again(play).cycles
    assert all(finding(row, "P5") is not None for row in rows)


def test_a_condition_that_held_is_not_said_to_be_beyond_what_any_candidate_can_show() -> None:
    """As 0/1 scores with the same mean, 40 cases would be too few for it."""
    condition = {"id": "some_gain", "metric": "main.score", "against": "base", "min": 0.24}
    gate = {"max_confirmations": 1, "conditions": [condition]}
    play = ended(
        goal=goal(gate=gate),
        cases=40,
        ceiling=0.92,
        score=lambda weights, case: (0.9 if ":" in weights else 0.55) + 0.001 * (case % 3),
    )
    rows = judged_again(play).cycles
    assert [row.bucket for row in rows] == ["A"]
    assert all(row.agrees and finding(row, "P5") is None for row in rows)


def test_an_opening_is_judged_again_at_the_level_that_it_was_judged_at() -> None:
    play = ended(score=lambda w, case: (0.8 if ":" in w else 0.55) + 0.3 * ((case * 7919) % 101 / 50 - 1))
    rows = exported(play)
    [opened] = [row for row in rows if isinstance(row, Decision) and row.action == "promote"]
    told = opened.verdict["gate"]
    assert told["alpha"] == 0.025
    strict = {**told, "alpha": 1e-9, "holds": False}
    changed = [
        row.model_copy(update={"verdict": {**row.verdict, "gate": strict}}) if row is opened else row for row in rows
    ]
    assert judged_again(play).cycles[0].bucket == "A"
    again = replay(exported_trajectory(changed)).cycles[0]
    assert (again.bucket, again.passed) == ("B", False), "of the ledger so little was left"


def test_a_verdict_on_selection_is_judged_again_on_selection_though_confirmation_was_opened_before() -> None:
    """As after an edit that raised the gate: the cases were opened for another question."""
    play = ended()
    raised = goal(gate={"conditions": [{"id": "score", "metric": "main.score", "min": 0.99}]})
    later = GoalVersion(version=play.goal_version + 1, campaign="rehearsal", file_hash="g", spec=raised.model_dump())
    [last] = [row for row in play.decisions if row.action == "promote"]
    on_selection = {**last.verdict["gate"], "use": "selection", "holds": False}
    again = last.model_copy(
        update={
            "id": "again",
            "action": "judge",
            "bucket": "B",
            "goal_version": later.version,
            "verdict": {**last.verdict, "gate": on_selection},
        }
    )
    before, after = exported_trajectory(exported(play)), exported_trajectory([*exported(play), later, again])
    assert [told.cycles[-1].is_confirmed for told in (before, after)] == [True, False]
    found = replay(after).cycles[-1]
    assert (found.bucket, found.passed) == ("B", False)


def test_an_export_in_percent_and_with_order_noise_keeps_its_buckets() -> None:
    percent: Any = goal(
        track={"grader": "grade.py", "metrics": ["score", "control"], "ranges": {"score": [-1, 1], "control": [-1, 1]}},
        gate={"max_confirmations": 2, "conditions": [{"id": "score", "metric": "main.score", "min": 0.5}]},
    )
    noise = {"noise_sd": {"main.score": 0.2}, "cases": {"main": 160}, "orders": 4, "differ": 0.1}
    order = Belief(subject="harness:order", claim="noise", statement="measured", value=noise, tag="confirmed")
    for told in (order, order.model_copy(update={"value": {"noise_sd": {"main.score": "x"}, "cases": 3}})):
        play = Rehearsal(goal=percent, score=lambda w, case: (0.72 if ":" in w else 0.4) + 0.001 * (case % 3))
        if told is order:
            play.believe(told)
        play.run()
        rows = exported(play) if told is order else [*exported(play), told]
        found = replay(exported_trajectory(rows)).cycles
        assert [row.bucket for row in found] == [run.bucket for run in play.runs]
        assert {row.bucket for row in found} == ({"U"} if told is order else {"A"}), "0.32 is less than twice 0.2"
        assert all(row.agrees for row in found)


worlds = st.fixed_dictionaries(
    {
        "gain": st.sampled_from([-0.004, 0.0, 0.0005, 0.002, 0.004]),
        "noise": st.sampled_from([0.0, 0.01, 0.1, 0.3]),
        "start": st.sampled_from([0.2, 0.5, 0.74]),
        "ceiling": st.sampled_from([0.6, 0.9, 1.0]),
        "plain": st.booleans(),
    }
)


@settings(max_examples=30, deadline=None)
@given(world=worlds)
def test_every_campaign_is_judged_the_same_from_its_export(world: dict[str, Any]) -> None:
    def score(weights: str, case: int) -> float:
        iters = int(weights.rpartition(":")[2]) if ":" in weights else 0
        wobble = world["noise"] * ((case * 7919 + iters * 104729) % 101 / 50 - 1)
        return float(world["start"] + world["gain"] * iters + wobble)

    condition: dict[str, Any] = {"id": "score", "metric": "main.score", "min": 0.75}
    condition |= {"test": "plain", "reason": "a rehearsal"} if world["plain"] else {}
    play = ended(
        goal=goal(gate={"max_confirmations": 2, "conditions": [condition]}), score=score, ceiling=world["ceiling"]
    )
    found = judged_again(play)
    assert [row.bucket for row in found.cycles] == [run.bucket for run in play.runs]
    for row in found.cycles:
        assert row.agrees
        if row.bucket == "A":
            assert row.passed


ODD: tuple[Any, ...] = ("x", 7, ["x"], {"x": 7}, None)


@pytest.mark.parametrize("odd", ODD)
def test_parts_of_an_export_that_are_not_as_written_are_left_out(odd: Any) -> None:
    def spoilt(row: Record) -> Record:
        if isinstance(row, Belief) and row.claim == "ceiling":
            return row.model_copy(update={"value": odd})
        if isinstance(row, Decision) and row.verdict:
            return row.model_copy(update={"verdict": {**row.verdict, "gate": {"holds": None, "conditions": odd}}})
        return row

    found = replay(exported_trajectory([spoilt(row) for row in exported(ended())]))
    assert [row.bucket for row in found.cycles] == ["B", "B", "B", "A"]
    assert all(condition.agrees is None for row in found.cycles for condition in row.gate)
    halted = [
        row.model_copy(update={"action_inputs": {**row.action_inputs, "saved_s": odd, "belief": odd}})
        if isinstance(row, Decision) and row.action == "halt"
        else row
        for row in exported(ended(ceiling=0.5))
    ]
    assert replay(exported_trajectory(halted)).saved.hours == (7 / 3600 if odd == 7 else 0)


LOOKS = {"measurements": 0}


class Watched(Measurement):
    """A measurement that counts how often it is asked which weights or evaluation it belongs to."""

    def __getattribute__(self, name: str) -> Any:
        if name in {"weights", "evaluation"}:
            LOOKS["measurements"] += 1
        return super().__getattribute__(name)


def test_twice_as_many_runs_look_twice_as_often_at_their_measurements() -> None:
    play = ended()
    last = play.runs[-1]
    own = [row for row in play.measurements if row.run == last.id]
    others = [row for row in play.measurements if row.run != last.id]

    def looks(runs: int) -> int:
        names = [f"X{place}" for place in range(runs)]
        copies = [last.model_copy(update={"id": name}) for name in names]
        rows = [row.model_copy(update={"run": name, "weights": f"w-{name}"}) for name in names for row in own]
        watched = [Watched(**row.model_dump()) for row in (*others, *rows)]
        LOOKS["measurements"] = 0
        kept = [row for row in exported(play) if not isinstance(row, (Measurement, type(last)))]
        found = exported_trajectory([*kept, *copies, *watched])
        assert all(cycle.is_measured and cycle.is_confirmed for cycle in found.cycles)
        return LOOKS["measurements"]

    assert looks(16) <= 2.2 * looks(8)
