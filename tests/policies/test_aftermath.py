"""Notices, exports and deletions: planned once for each occasion, before an end, and only where the file asks."""

from dataclasses import replace
from typing import Any

import pytest

from policies import plan
from policies.followups import _score, before_end, drop_saves, tell_question
from policies.history import View
from state.records import Action, Approval, Request
from tests.policies.rehearsal import Rehearsal, goal
from tests.policies.test_planning import refuted

TOLD: dict[str, Any] = {"command": ["tell"]}
SAVES = {"0000010": 500_000_000, "0000020": 700_000_000}


def notices(play: Rehearsal) -> list[tuple[str, str]]:
    return [(action.inputs["event"], action.inputs["sentence"]) for action in play.actions if action.kind == "notify"]


def test_without_the_keys_nothing_is_told_handed_out_or_deleted() -> None:
    play = Rehearsal()
    play.run()
    assert not {"notify", "export", "delete"} & set(play.kinds())
    assert drop_saves(with_saves(play)) is None


def test_a_verdict_is_told_before_it_is_written_and_once() -> None:
    play = Rehearsal(goal=goal(notify=TOLD))
    rules = play.run()
    assert rules[-3:] == ["notify.ended", "goal.reached", "ended"]
    assert notices(play) == [("ended", "R4 is promoted.")]
    told = next(d for d in play.decisions if d.action == "notify")
    assert told.action_inputs["title"] == "rehearsal: the end"
    assert told.action_inputs["type"] == "vigil status rehearsal"


def test_an_edit_that_leaves_a_promotion_as_it_is_tells_nobody_again() -> None:
    play = Rehearsal(goal=goal(notify=TOLD))
    play.run()
    again = play.later()
    again.goal, again.goal_version = goal(notify=TOLD, seed=7), 2
    assert again.run() == ["goal.reached", "ended"]
    assert len(notices(again)) == 1


def test_an_end_without_promotion_is_told_with_its_rule_and_how_many_runs_were_judged() -> None:
    play = Rehearsal(goal=goal(notify=TOLD, budget={"runs": 1}))
    play.run()
    assert notices(play) == [("ended", "Not promoted (budget.gone) after 1 judged run.")]


def test_a_hard_stop_is_told_although_it_holds_everything_else_back() -> None:
    play = Rehearsal(goal=goal(notify=TOLD))
    play.believe(refuted())
    assert play.run() == ["notify.stopped", "hard_stop", "ended"]
    assert notices(play) == [
        ("stopped", "Halted by hard_stop on machine:disk has_room, before anything was spent on it.")
    ]
    again = play.later()
    assert again.run() == ["notify.stopped", "hard_stop", "ended"], "another end, and another word about it"


def test_a_notice_that_was_decided_and_not_begun_goes_out_behind_a_hard_stop() -> None:
    play = Rehearsal(goal=goal(notify=TOLD))
    play.believe(refuted())
    draft = plan.plan(play.view())
    assert draft is not None
    decision = play.record(draft)
    assert plan.standing(play.view()) == decision


def test_a_stop_whose_belief_is_gone_is_told_by_its_rule() -> None:
    play = Rehearsal(goal=goal(notify=TOLD))
    play.believe(refuted())
    halt = next(rule(play.view()) for rule in plan._RULES if rule is plan._halt)
    assert halt is not None
    told = before_end(replace(play.view(), beliefs=()), halt)
    assert told is not None
    assert told.decision.action_inputs["sentence"] == "Halted by hard_stop, before anything was spent on it."


def test_a_tool_that_fails_again_is_told_without_its_words() -> None:
    play = Rehearsal(goal=goal(notify=TOLD), fails={"census": 2}, exit={"reason": "Case 7 says: secret."})
    play.run()
    assert notices(play) == [("failed", "Failed (tool.failed) after 0 judged runs.")]


def test_a_question_is_told_before_other_work_goes_on_and_once() -> None:
    play = Rehearsal(goal=goal(notify=TOLD, budget={"runs": 6}), answers={"launch": "yes"})
    rules = play.run()
    assert [event for event, _ in notices(play)] == ["question"]
    asked = rules.index("A.confirmed")
    assert rules[asked + 1] == "notify.question"
    told = next(d for d in play.decisions if d.rule == "notify.question")
    assert told.action_inputs["sentence"].endswith("meets the gate. May it be promoted?")
    question = told.action_inputs["about"]
    figures = "R4: main.score 0.900, 0.500 before, 95 % interval 0.880 to 0.902, 160 confirmation cases."
    assert told.action_inputs["figures"] == figures
    assert told.action_inputs["type"] == (
        f"vigil approve rehearsal:{question}, or vigil reject rehearsal:{question} --reason WHY"
    )


ROW = {"metric": "m.x", "value": 0.9, "reference": None, "low": None, "high": None, "alpha": 0.025, "n": 8}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "m.x 0.900, 8 selection cases"),
        ({"reference": 0.5}, "m.x 0.900, 0.500 before, 8 selection cases"),
        (
            {"low": 0.1, "high": 0.3, "against": "base"},
            "m.x 0.900, 95 % interval of the difference 0.100 to 0.300, 8 selection cases",
        ),
    ],
)
def test_a_score_is_told_with_what_is_known_of_it(row: dict[str, Any], said: str) -> None:
    assert _score({**ROW, **row}, "selection") == said


def test_what_a_launch_takes_and_what_a_stop_spared_are_told_in_hours_or_minutes() -> None:
    play = Rehearsal(goal=goal(notify=TOLD))
    play.run()
    run = play.runs[0].model_copy(update={"cost_s_estimate": 5400.0})
    planned = next(d for d in play.decisions if d.action == "train" and d.run == run.id)
    question = Approval(id="Q9", kind="launch", decision=planned.id, question="?")
    told = tell_question(replace(play.view(), runs=(run,), approvals=(question,)))
    assert told is not None
    assert told.decision.action_inputs["figures"] == "It takes about 1.5 h."
    stopped = Rehearsal(goal=goal(notify=TOLD))
    stopped.believe(refuted())
    halt = next(rule(stopped.view()) for rule in plan._RULES if rule is plan._halt)
    assert halt is not None
    for saved_s, said in ((0.0, ""), (600.0, "About 10 min of training were not spent.")):
        inputs = {**halt.decision.action_inputs, "saved_s": saved_s}
        end = replace(halt, decision=halt.decision.model_copy(update={"action_inputs": inputs}))
        told = before_end(stopped.view(), end)
        assert told is not None
        assert told.decision.action_inputs["figures"] == said


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("launch", "May the run be trained?"),
        ("confirmation", "May the confirmation cases be opened for the run?"),
        ("override", "May the campaign go on although B7 is refuted?"),
        ("edit", "May the edited campaign file be followed?"),
    ],
)
def test_each_kind_of_question_has_its_words(kind: Any, said: str) -> None:
    play = Rehearsal(goal=goal(notify=TOLD))
    play.approvals.append(Approval(id="Q1", kind=kind, decision="B7", question="words of a person"))
    told = tell_question(play.view())
    assert told is not None
    assert told.decision.action_inputs["sentence"] == said


def test_what_a_person_asked_of_a_run_is_told_with_its_name() -> None:
    play = Rehearsal(goal=goal(notify=TOLD))
    play.requests.append(Request(id="N1", kind="confirm", target="R2", by="ann"))
    for kind, said in (("confirmation", "opened for R2?"), ("promotion", "R2 meets the gate.")):
        play.approvals[:] = [Approval(id="Q1", kind=kind, decision="N1", question="words of a person")]
        told = tell_question(play.view())
        assert told is not None
        assert said in told.decision.action_inputs["sentence"]


def test_only_the_events_that_are_asked_for_are_told() -> None:
    play = Rehearsal(goal=goal(notify={**TOLD, "on": ["question"]}))
    play.run()
    assert notices(play) == []


def test_a_notice_that_failed_is_not_tried_again_and_the_campaign_ends_as_it_would() -> None:
    play = Rehearsal(goal=goal(notify=TOLD), fails={"notify": 9})
    play.run()
    assert play.kinds().count("notify") == 1
    assert play.campaign.state == "promoted"


def test_a_promotion_is_exported_once_before_the_end_and_again_only_for_another_folder() -> None:
    play = Rehearsal(goal=goal(export={"to": "out"}))
    assert play.run()[-3:] == ["export.promotion", "goal.reached", "ended"]
    exported = next(action for action in play.actions if action.kind == "export")
    promoted = next(d for d in play.decisions if d.action == "promote")
    assert exported.inputs == {"promotion": promoted.id, "to": "out", "adapter": promoted.action_inputs["adapter"]}
    again = play.later()
    again.goal_version, again.goal = 2, goal(export={"to": "elsewhere"})
    assert again.run() == ["export.promotion", "goal.reached", "ended"]


def test_a_fused_model_is_made_before_it_is_handed_out_and_once() -> None:
    play = Rehearsal(goal=goal(export={"to": "out", "fused": True}))
    assert play.run()[-4:] == ["export.fuse", "export.promotion", "goal.reached", "ended"]
    fused, exported = play.actions[-3:-1]
    assert (fused.kind, exported.inputs["fused"]) == ("fuse", fused.key)
    assert {guard["verdict"] for guard in fused.inputs["guards"]} >= {"stalled", "out_of_time", "out_of_disk"}


def test_a_fusion_that_failed_leaves_the_export_without_it() -> None:
    play = Rehearsal(goal=goal(export={"to": "out", "fused": True}), fails={"fuse": 1})
    assert play.run()[-4:] == ["export.fuse", "export.promotion", "goal.reached", "ended"]
    assert "fused" not in play.actions[-2].inputs
    assert play.campaign.state == "promoted"


def test_a_fused_model_that_is_asked_for_later_is_an_export_of_its_own() -> None:
    play = Rehearsal(goal=goal(export={"to": "out"}))
    play.run()
    again = play.later()
    again.goal_version, again.goal = 2, goal(export={"to": "out", "fused": True})
    assert again.run() == ["export.fuse", "export.promotion", "goal.reached", "ended"]


def test_an_export_that_failed_leaves_the_promotion() -> None:
    play = Rehearsal(goal=goal(export={"to": "out"}), fails={"export": 1})
    assert play.run()[-3:] == ["export.promotion", "goal.reached", "ended"]
    assert play.campaign.state == "promoted"


def with_saves(play: Rehearsal, keep: int | None = None) -> View:
    """Return the view with two saves on disk for each training."""
    view = play.view()
    saves = {action.key: SAVES for action in play.actions if action.kind == "train"}
    return replace(view, saves=saves, goal=goal() if keep is None else goal(retention={"saves": keep}))


def judged() -> Rehearsal:
    """Return a campaign of which three runs are judged and the fourth is promoted."""
    play = Rehearsal()
    play.run()
    assert [run.bucket for run in play.runs] == ["B", "B", "B", "A"]
    return play


def test_saves_of_a_judged_run_beyond_the_newest_are_deleted_with_their_names_and_bytes() -> None:
    found = drop_saves(with_saves(judged(), 1))
    assert found is not None
    decision = found.decision
    assert (decision.rule, decision.run) == ("retention.saves", "R1")
    assert decision.action_inputs["names"] == ["0000010"]
    assert decision.action_inputs["bytes"] == 500_000_000
    assert "Delete 1 of 2 saves of R1 (0.5 GB)" in decision.sentence
    everything = drop_saves(with_saves(judged(), 0))
    assert everything is not None
    assert everything.decision.action_inputs["names"] == ["0000010", "0000020"]


def test_nothing_is_deleted_of_the_promoted_run_or_where_few_are_left() -> None:
    play = judged()
    taken = set()
    for _ in range(4):
        found = drop_saves(with_saves(play, 0))
        if found is not None:
            taken.add(found.decision.run)
            play.act(play.record(found))
    assert taken == {"R1", "R2", "R3"}
    assert drop_saves(with_saves(judged(), 2)) is None


def test_the_best_run_keeps_its_saves_while_nothing_is_promoted() -> None:
    play = Rehearsal(goal=goal(budget={"runs": 2}))
    play.run()
    assert play.campaign.state == "not_promoted"
    found = drop_saves(with_saves(play, 0))
    assert found is not None
    assert found.decision.run == "R1"
    play.act(play.record(found))
    assert drop_saves(with_saves(play, 0)) is None, "R2 went further"


def test_a_run_that_another_goes_on_from_or_would_keeps_its_saves() -> None:
    play = Rehearsal(keeps_states=True)
    play.run()
    found = drop_saves(with_saves(play, 0))
    assert found is not None
    assert found.decision.run == "R1"
    going_on = next(d.id for d in play.decisions if "continues" in d.action_inputs)
    play.runs.append(play.runs[-1].model_copy(update={"id": "R5", "bucket": None, "decision": going_on}))
    found = drop_saves(with_saves(play, 0))
    assert found is not None
    assert found.decision.run == "R2", "R5 goes on from R1"


def test_a_run_that_an_open_run_starts_from_keeps_its_saves() -> None:
    play = judged()
    play.runs.append(play.runs[-1].model_copy(update={"id": "R5", "bucket": None, "state": "planned", "parent": "R1"}))
    found = drop_saves(with_saves(play, 0))
    assert found is not None
    assert found.decision.run == "R2"


def test_a_training_that_has_not_ended_and_a_run_that_is_not_judged_are_never_touched() -> None:
    play = judged()
    play.actions = [
        Action(**{**action.model_dump(), "state": "intent"}) if action.kind == "train" else action
        for action in play.actions
    ]
    assert drop_saves(with_saves(play, 0)) is None
    play = judged()
    play.runs = [run.model_copy(update={"bucket": None}) for run in play.runs]
    assert drop_saves(with_saves(play, 0)) is None
    assert drop_saves(with_saves(Rehearsal(), 0)) is None


def test_a_run_without_a_verdict_on_record_is_not_the_best() -> None:
    play = judged()
    play.decisions = [row for row in play.decisions if row.bucket is None and "bucket" not in row.verdict]
    found = drop_saves(with_saves(play, 0))
    assert found is not None
    assert found.decision.run == "R1", "the bucket counts first"


def test_a_deletion_that_failed_is_not_tried_again() -> None:
    play = judged()
    play.fails["delete"] = 3
    for _ in range(3):
        found = drop_saves(with_saves(play, 0))
        assert found is not None
        play.act(play.record(found))
    assert drop_saves(with_saves(play, 0)) is None
