from typing import Any

import pytest

from policies import plan
from policies.drafts import at_deadline, easier, holds_end, leave_for, rule_of, rule_of_edit, why_not_allowed
from state.goal import ApprovalRule, Approvals, Goal
from state.records import ActionKind, Approval, ApprovalKind, Request
from tests.policies.rehearsal import Rehearsal, goal
from tests.policies.test_planning import refuted

SCORE = {"id": "score", "metric": "s.ok", "min": 0.8}
KEPT = {"id": "kept", "metric": "s.safe", "against": "parent", "min": 0.0, "margin": 0.1}
EITHER = {"id": "either", "any_of": ["s.a", "s.b"], "min": 0.5}
PLAIN = {"test": "plain", "reason": "few cases"}


def test_an_unknown_kind_of_question_is_rejected() -> None:
    assert rule_of("launch", Approvals()).mode == "auto"
    assert rule_of("promotion", Approvals()).mode == "wait"
    assert rule_of("override", Approvals()).mode == "wait"
    assert rule_of("edit", Approvals(edit=ApprovalRule(mode="reject"))).mode == "reject"
    assert rule_of("delete_everything", Approvals()).mode == "reject"


def test_an_edit_is_answered_as_the_file_says_and_left_out_only_an_easier_gate_waits() -> None:
    assert rule_of_edit(Approvals(), is_easier=False).mode == "auto"
    assert rule_of_edit(Approvals(), is_easier=True).mode == "wait"
    for mode in ("wait", "auto", "reject"):
        said = Approvals.model_validate({"edit": {"mode": mode, "deadline_h": 2}})
        assert {rule_of_edit(said, is_easier=each) for each in (True, False)} == {said.edit}


def test_silence_never_promotes() -> None:
    asked = Approval(kind="promotion", decision="D1", question="?", deadline_at=10.0, unanswered="yes")
    assert at_deadline(asked, 11.0) == "no"
    assert at_deadline(asked.model_copy(update={"kind": "edit"}), 11.0) == "yes"


def test_a_deadline_answers_once_it_has_passed_and_only_open_questions() -> None:
    question = Approval(kind="launch", decision="D1", question="?", deadline_at=10.0, unanswered="yes")
    assert at_deadline(question, 9.0) is None
    assert at_deadline(question, 10.0) == "yes"
    assert at_deadline(question.model_copy(update={"answer": "no"}), 11.0) is None
    assert at_deadline(question.model_copy(update={"deadline_at": None}), 11.0) is None


DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("kind", "until", "runs", "said"),
    [
        ("launch", 1.0, 1, ""),
        ("launch", DAY_S, 100, ""),
        ("launch", DAY_S, 0, ""),
        ("promotion", 1.0, 1, "promotion is asked each time"),
        ("override", 1.0, 1, "override is asked each time"),
        ("edit", 1.0, 1, "edit is asked each time"),
        ("confirmation", 1.0, 1, "confirmation is asked each time"),
        ("", 1.0, 1, "nothing is asked each time"),
        ("launch", 0.0, 1, "within 24 hours"),
        ("launch", DAY_S + 1, 1, "within 24 hours"),
        ("launch", float("nan"), 1, "within 24 hours"),
        ("launch", 1.0, 101, "not 101"),
        ("launch", 1.0, -1, "not -1"),
    ],
)
def test_only_a_launch_is_allowed_beforehand_for_a_day_at_most(kind: str, until: float, runs: int, said: str) -> None:
    refused = why_not_allowed(kind, 50.0 + until, runs, 50.0)
    assert said in refused
    assert bool(said) == bool(refused)


def leave(number: int, runs: int = 2, kind: str = "launch", until: float = 100.0, at: float | None = 10.0) -> Request:
    given = {"until": until, "runs": runs}
    return Request(id=f"X{number}", kind="allow", target=kind, by="lena", applied_at=at, payload=given)


def test_a_leave_answers_so_many_questions_of_its_kind_until_its_time_and_the_newest_counts() -> None:
    other = Request(id="X9", kind="stop", by="lena", applied_at=11.0)
    answered = [Approval(kind="launch", decision="D1", question="?", answer="yes", answered_by="X1")]
    found = leave_for("launch", [leave(1), other], answered, 99.0)
    assert found is not None
    assert (found.request, found.by, found.runs, found.left, found.until) == ("X1", "lena", 2, 1, 100.0)
    assert leave_for("launch", [leave(1)], answered * 2, 99.0) is None
    assert leave_for("launch", [leave(1)], answered, 100.0) is None
    assert leave_for("promotion", [leave(1), leave(2, kind="promotion")], (), 99.0) is None
    assert leave_for("launch", [leave(1, at=None)], (), 99.0) is None
    assert leave_for("launch", [leave(1), leave(2, runs=0)], (), 99.0) is None
    # One that was refused changes nothing of the one before.
    newest = leave_for("launch", [leave(1, runs=5), leave(2, until=9.0)], answered, 99.0)
    assert newest is not None
    assert newest.left == 4


@pytest.mark.parametrize(
    ("kind", "action", "holds"),
    [
        ("edit", "conclude", True),
        ("edit", "halt", True),
        ("edit", "train", False),
        ("override", "halt", True),
        ("override", "conclude", False),
        ("promotion", "conclude", False),
    ],
)
def test_an_end_waits_for_the_answer_that_may_make_it_needless(
    kind: ApprovalKind, action: ActionKind, *, holds: bool
) -> None:
    asked = Approval(kind=kind, decision="B1", question="?")
    assert holds_end(action, [asked]) is holds
    assert not holds_end(action, [asked.model_copy(update={"answer": "no"})])


MEASURED = {"noise_floor": 0.01, "control": "s.control", "dense": {"s.ok": "s.fine"}}


AUTO = {"mode": "auto"}
SILENCE = {"deadline_h": 2, "unanswered": "yes"}


def edited(
    *conditions: dict[str, Any],
    evaluation: dict[str, Any] | None = None,
    approvals: dict[str, Any] | None = None,
    ranges: dict[str, Any] | None = None,
    **levels: Any,
) -> Goal:
    """Return a goal with these conditions, or with the usual three."""
    spec = goal().model_dump(mode="json")
    spec["gate"] = {"conditions": list(conditions) or [SCORE, KEPT, EITHER], **levels}
    spec["evaluation"] |= {**MEASURED, **(evaluation or {})}
    spec["approvals"] = approvals or {}
    spec["track"] |= {"ranges": ranges or {}}
    return Goal.model_validate(spec)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (edited(SCORE | {"min": 0.7}, KEPT, EITHER), "score asks less: s.ok at least 0.7, where it was"),
        (edited(SCORE, KEPT | {"margin": 0.2}, EITHER), "kept asks less"),
        (edited(SCORE, EITHER), "The condition kept (s.safe minus the parent's at least 0"),
        (edited(SCORE | {"metric": "s.easy"}, KEPT, EITHER), "score asks something else: s.easy at least 0.8"),
        (edited({"metric": "s.ok", "min": 0.75}, KEPT, EITHER), "score asks less: s.ok at least 0.75"),
        (edited(SCORE | PLAIN, KEPT, EITHER), "by the bare number, without a test, where it was s.ok"),
        (edited(SCORE, KEPT, EITHER | {"any_of": ["s.a", "s.b", "s.c"]}), "the best of s.a, s.b, s.c at least 0.5"),
        (edited(ranges={"ok": [0.4, 1.0]}), "s.ok is judged on a range from 0.4 to 1, where it was from 0 to 1"),
        (edited(ranges={"s.ok": [0, 2]}), "on a range from 0 to 2"),
        (edited(alpha=0.1), "0.1 likely instead of 0.05"),
        (edited(max_confirmations=5), "opened 5 times instead of 3"),
        (edited(ledger="example"), "by other campaigns do not count any more (gate.ledger)"),
        (edited(meaningful_delta=0.0001), "Progress of 0.0001 counts as meaningful instead of half of the gap"),
        (edited(approvals={"promotion": AUTO}), "yes at once (approvals.promotion)"),
        (edited(approvals={"override": AUTO}), "yes at once (approvals.override)"),
        (edited(approvals={"edit": AUTO}), "yes at once (approvals.edit)"),
        (edited(approvals={"edit": SILENCE}), "yes after 2 h (approvals.edit)"),
        (edited(evaluation={"noise_floor": 0.0}), "above 0 counts instead of 0.01"),
        (edited(evaluation={"control": None}), "s.control need not move any more"),
        (edited(evaluation={"dense": {"s.ok": "s.other"}}), "read on s.other instead of s.fine"),
    ],
)
def test_what_makes_the_gate_easier_is_told_in_words(after: Goal, said: str) -> None:
    [told] = easier(edited(), after)
    assert said in told


@pytest.mark.parametrize(
    "after",
    [
        edited(),
        edited(SCORE | {"min": 0.9}, KEPT | {"margin": 0.05}, EITHER | {"any_of": ["s.b"]}, SCORE | {"id": "more"}),
        edited(alpha=0.01, max_confirmations=1, ranges={"not_of_the_gate": [0, 9]}),
        edited(approvals={"override": {"mode": "reject"}, "edit": {"mode": "wait"}, "launch": AUTO}),
        edited(evaluation={"noise_floor": 0.02, "max_tokens": 999, "dense": {}}),
    ],
)
def test_a_gate_that_asks_as_much_or_more_is_no_question(after: Goal) -> None:
    assert easier(edited(), after) == []


def test_a_smaller_step_and_a_sooner_silence_are_easier_and_their_opposites_are_not() -> None:
    small, large = edited(meaningful_delta=0.1), edited(meaningful_delta=0.2)
    soon = edited(approvals={"edit": SILENCE})
    late = edited(approvals={"edit": {**SILENCE, "deadline_h": 9}})
    for strict, loose in ((large, small), (late, soon), (soon, edited(approvals={"edit": AUTO}))):
        assert (len(easier(strict, loose)), easier(loose, strict)) == (1, [])
    assert "half of the gap counts as meaningful instead of 0.1" in easier(small, edited())[0]


def test_a_hard_stop_is_asked_about_once_and_only_where_the_file_has_it_asked() -> None:
    play = Rehearsal(goal=goal(approvals={"override": {"mode": "wait"}}))
    play.believe(refuted())
    assert [stop.id for stop in plan.to_override(play.view())] == ["B99"]
    play.approvals.append(Approval(id="Q1", kind="override", decision="B99", question="Go on?"))
    assert plan.to_override(play.view()) == []
    assert plan.plan(play.view()) is None, "the halt waits for the answer"
    play.answer("Q1", "no", by="ada")
    assert play.run() == ["hard_stop", "ended"]
    again = play.later()
    again.goal = goal(approvals={"override": {"mode": "auto"}})
    assert plan.to_override(again.view()) == [], "a person's no stands"
    for mode, asked in (("auto", ["B99"]), ("reject", ["B99"]), ("wait", [])):
        again.goal = goal(approvals={"override": {"mode": mode}})
        again.approvals[-1] = again.approvals[-1].model_copy(update={"answer": None, "answered_by": ""})
        assert [stop.id for stop in plan.to_override(again.view())] == asked, f"an open question under {mode}"
        again.approvals.pop()
        new = [] if mode == "reject" else ["B99"]
        assert [stop.id for stop in plan.to_override(again.view())] == new
        again.approvals.append(Approval(id="Q1", kind="override", decision="B99", question="Go on?"))
    left_out = Rehearsal()
    left_out.believe(refuted())
    assert plan.to_override(left_out.view()) == []
    assert left_out.run() == ["hard_stop", "ended"]
