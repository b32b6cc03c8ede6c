"""What falls with a refuted belief, and what the planner makes of it."""

from typing import Literal

import pytest

from policies.drafts import assumed, premises_of
from policies.history import WITHDRAWN
from policies.next_run import exhaustion_of
from policies.plan import has_fallen, must_verify
from policies.validity import NOTED, Contamination, contamination, with_replaced_weights
from state.records import Action, Answer, Belief, Decision, Evidence, Premise
from tests.policies.rehearsal import Rehearsal, goal, identity


def belief(name: str, subject: str = "harness:s", status: str = "fresh", **fields: object) -> Belief:
    return Belief.model_validate(
        {"id": name, "subject": subject, "claim": name, "statement": f"{name} is so.", "tag": "confirmed"}
        | {"status": status, **fields}
    )


def decision(name: str, action: str, *premises: tuple[str, str], **fields: object) -> Decision:
    rows = [Premise(belief=each, subject=subject, tag="confirmed") for each, subject in premises]
    return Decision.model_validate(
        {"id": name, "rule": "r", "sentence": "s", "action": action, "premises": rows, **fields}
    )


def test_nothing_is_void_while_nothing_is_refuted() -> None:
    assert contamination([belief("B1")], [decision("D1", "evaluate", ("B1", "harness:s"))], []) == Contamination()


def test_a_refuted_belief_voids_the_evaluation_its_score_and_the_verdict_on_it() -> None:
    rows = [
        belief("B1", status="refuted"),
        belief("B2", "score:R1.s", evidence=(Evidence(kind="job", ref="k1", summary="measured"),)),
        belief("B3", "score:R2.s"),
    ]
    decisions = [
        decision("D1", "evaluate", ("B1", "harness:s"), run="R1"),
        decision("D2", "judge", ("B2", "score:R1.s"), run="R1", bucket="C"),
        decision("D3", "judge", ("B3", "score:R2.s"), run="R2", bucket="C"),
    ]
    actions = [Action(key="k1", kind="evaluate", decision="D1"), Action(key="k2", kind="evaluate", decision="D9")]
    found = contamination(rows, decisions, actions)
    assert found.evaluations == {"k1"}
    assert found.verdicts == {"R1"}
    assert found.decisions == {"D1", "D2"}
    assert found.trainings == frozenset()


def test_what_was_reasoned_from_it_falls_over_any_number_of_steps() -> None:
    rows = [belief("B1", status="contradicted"), belief("B2", premises=("B1",)), belief("B3", premises=("B2",))]
    found = contamination(rows, [decision("D1", "promote", ("B3", "gate:x"), run="R1", bucket="A")], [])
    assert found.beliefs == {"B1", "B2", "B3"}
    assert found.verdicts == {"R1"}


def test_refuted_data_make_the_training_itself_worthless_a_refuted_score_does_not() -> None:
    rows = [belief("B1", "data:train", status="refuted"), belief("B2", "score:base.s", status="refuted")]
    decisions = [
        decision("D1", "train", ("B1", "data:train"), run="R1"),
        decision("D2", "train", ("B2", "score:base.s"), run="R2"),
        decision("D3", "judge", run="R1", bucket="B"),
    ]
    found = contamination(rows, decisions, [])
    assert found.trainings == {"R1"}
    assert found.verdicts == {"R1"}


def test_the_decision_that_notes_a_refutation_does_not_stand_on_it() -> None:
    noted = decision("D1", "judge", ("B1", "harness:s"), rule=NOTED)
    assert contamination([belief("B1", status="refuted")], [noted], []).decisions == frozenset()


def test_an_act_records_what_it_stands_on_and_no_claim_that_nothing_is_decided_on() -> None:
    rows = [
        belief("B1", "harness:s"),
        belief("floor", "harness:s"),
        belief("B2", "machine:disk"),
        belief("B3", "harness:s", status="stale"),
        belief("B4", "user:own", tag="assumed"),
    ]
    assert [p.belief for p in premises_of("evaluate", rows)] == ["B1"]
    assert {p.belief for p in premises_of("train", rows, [rows[4]])} == {"B1", "B2", "B4"}
    assert [p.belief for p in assumed(premises_of("train", rows, [rows[4]]))] == ["B4"]
    assert premises_of("conclude", rows) == ()


def test_a_training_stands_on_what_the_users_own_probes_found_and_an_assumed_finding_counts_as_one() -> None:
    rows = [
        belief("B1", "own:units"),
        belief("B2", "own:units", claim="counts_as_evidence"),
        belief("B3", "own:tone", tag="assumed"),
    ]
    assert [p.belief for p in premises_of("train", rows)] == ["B1", "B3"]
    assert [p.belief for p in assumed(premises_of("train", rows))] == ["B3"]
    assert premises_of("evaluate", rows) == ()


def test_a_refuted_ceiling_after_a_promotion_is_noted_measured_again_and_asked_again() -> None:
    play = Rehearsal()
    play.run()
    assert play.campaign.state == "promoted"
    trained, promoted = play.kinds().count("train"), play.kinds().count("promote")
    assert not has_fallen(play.view())
    play.refute("harness:main.selection", "ceiling")
    assert has_fallen(play.view())
    again = play.later()
    rules = again.run()
    assert rules[0] == NOTED
    noted = next(d for d in again.decisions if d.rule == NOTED)
    assert noted.sentence.startswith("No longer counted, and made again where it can be: 8 evaluations; the verdicts")
    assert "promotion of" in noted.sentence
    assert "baseline.first" in rules
    assert again.campaign.state == "promoted"
    assert again.kinds().count("promote") == promoted + 1, "promoted anew, on a question of its own"
    assert again.kinds().count("train") == trained, "the adapter itself is as good as it was"
    assert len({a.key for a in again.actions}) == len(again.actions)
    assert [d.rule for d in again.decisions].count(NOTED) == 1


def test_a_verdict_without_ground_counts_neither_as_progress_nor_toward_exhaustion() -> None:
    play = Rehearsal(score=lambda _weights, case: 0.5 + 0.01 * (case % 3))
    play.run()
    play.refute("score:base.main.selection", "means")
    view = play.later().view()
    assert view.invalidated.verdicts == {run.id for run in play.runs}
    assert exhaustion_of(view)[0].counted == ()


def test_refuted_training_data_set_their_runs_aside() -> None:
    play = Rehearsal()
    for _ in range(5):
        play.step()
    assert play.runs
    play.refute("data:train", "fits_sequence")
    play.run()
    assert play.runs[0].state == "lost"
    assert play.campaign.state == "promoted"


def test_more_assumptions_than_allowed_halt_before_the_training_that_needs_them() -> None:
    play = Rehearsal(goal=goal(search={"max_assumed": 0}))
    play.believe(belief("", "data:train", claim="labels", tag="assumed", fix="Grade ten rows by hand."))
    play.run()
    assert play.campaign.state == "halted"
    assert "search.max_assumed allows 0" in play.campaign.sentence
    assert "Grade ten rows by hand." in play.campaign.sentence
    assert "train" not in play.kinds()
    allowed = Rehearsal(goal=goal(search={"max_assumed": 1}))
    allowed.believe(belief("", "data:train", claim="labels", tag="assumed"))
    allowed.run()
    assert allowed.campaign.state == "promoted"


def test_a_contradiction_halts_and_names_both_sides() -> None:
    play = Rehearsal()
    for name, value in (("B81", 0.7), ("B82", 0.9)):
        play.beliefs.append(belief(name, "score:base.x", status="contradicted", value=value, claim="means"))
    play.run()
    assert play.campaign.state == "halted"
    for words in ("B81 says: B81 is so.", "B82 says: B82 is so.", "approve that one, B81 or B82."):
        assert words in play.campaign.sentence


def test_only_what_spends_and_has_not_begun_is_verified_first() -> None:
    view = Rehearsal().view()
    assert must_verify(view, "train", "k", "")
    assert must_verify(view, "train", "k", "census")
    assert not must_verify(view, "train", "k", "train")
    assert not must_verify(view, "conclude", "k", "")
    begun = Rehearsal(actions=[Action(key="k", kind="train", decision="D1")]).view()
    assert not must_verify(begun, "train", "k", "")


def test_a_question_about_another_world_is_withdrawn_and_asked_anew() -> None:
    play = Rehearsal(goal=goal(budget={"runs": 4}), answers={"launch": "yes"})
    assert play.run()[-1] == "asked"
    asked = next(d for d in play.decisions if d.action == "promote")
    assert not play.view().is_withdrawn(asked)
    question = play.view().answer_to(asked)
    assert question is not None
    play.believe(identity("harness", "harness-2"))
    assert play.view().is_withdrawn(asked)
    play.answer(question.id, "no", by=WITHDRAWN)
    play.believe(identity("harness", "harness-1"))
    assert play.view().is_withdrawn(asked), "a closed question stays closed"
    assert play.run()[-1] == "asked"
    again = [d for d in play.decisions if d.action == "promote"]
    assert len(again) == 2
    play.answer(f"Q{again[-1].id}", "yes", by="ada")
    play.run()
    assert play.campaign.state == "promoted"


def waiting() -> tuple[Rehearsal, Decision]:
    """Return a campaign of one run that waits for the answer to its promotion, and that decision."""
    play = Rehearsal(goal=goal(budget={"runs": 4}), answers={"launch": "yes"})
    assert play.run()[-1] == "asked"
    return play, next(d for d in play.decisions if d.action == "promote")


@pytest.mark.parametrize("is_answered", [False, True])
def test_a_promotion_whose_evidence_was_refuted_is_not_carried_out_whenever_the_answer_came(is_answered: bool) -> None:  # noqa: FBT001 - pytest
    play, asked = waiting()
    if is_answered:
        play.answer(f"Q{asked.id}", "yes", by="ada")
    play.refute("harness:main.selection", "ceiling")
    assert play.view().is_withdrawn(asked)
    play.run()
    assert play.campaign.state != "promoted"
    assert "promote" not in play.kinds()
    assert [d.run for d in play.decisions if d.action == "promote"] == [asked.run] * 2, "measured and asked again"


def test_a_judged_run_whose_weights_were_replaced_is_set_aside_for_good_when_the_next_one_starts() -> None:
    play = Rehearsal(goal=goal(budget={"runs": 1}))
    play.run()
    [first] = play.runs
    assert first.bucket == "B"
    play.goal = goal(budget={"runs": 2})
    play.believe(identity("weights", "weights-2"))
    again = play.later()
    again.run()
    assert [(run.state, run.parent_hash) for run in again.runs] == [("lost", "weights-1"), ("judged", "weights-2")]
    assert not [d for d in again.decisions[len(play.decisions) :] if d.run == first.id], "nothing more is spent on it"


def test_runs_trained_on_weights_that_were_replaced_no_longer_count_and_are_not_promoted() -> None:
    play, asked = waiting()
    assert not play.view().invalidated.trainings
    play.answer(f"Q{asked.id}", "yes", by="ada")
    play.believe(identity("weights", "weights-2"))
    view = play.view()
    assert view.is_withdrawn(asked)
    assert view.invalidated.trainings == view.invalidated.verdicts == {run.id for run in play.runs}
    play.run()
    assert play.campaign.state == "not_promoted"
    assert "promote" not in play.kinds()
    first = play.runs[0]
    grown = first.model_copy(update={"id": "R9", "parent": first.id, "parent_hash": "of a run"})
    started = first.model_copy(update={"id": "R8", "parent": "start", "parent_hash": "with an adapter"})
    runs = [first, grown, started]
    assert not with_replaced_weights(Contamination(), runs, "weights-1", "with an adapter").trainings
    assert with_replaced_weights(Contamination(), runs, "weights-2", "with an adapter").trainings == {first.id, "R9"}
    assert with_replaced_weights(Contamination(), runs, "weights-1", "with another").trainings == {"R8"}
    assert with_replaced_weights(Contamination(), runs, "", "") == Contamination()


@pytest.mark.parametrize("answer", ["", "yes"])
def test_an_edit_while_a_promotion_waits_or_was_just_allowed_has_it_judged_anew(answer: Answer | Literal[""]) -> None:
    play, asked = waiting()
    if answer:
        play.answer(f"Q{asked.id}", answer, by="ada")
    play.goal, play.goal_version = goal(budget={"runs": 4}, gate=raised(0.99)), 2
    assert play.view().is_withdrawn(asked)
    if not answer:
        play.answer(f"Q{asked.id}", "no", by=WITHDRAWN)
    play.run()
    assert "promote" not in play.kinds()
    assert next(run for run in play.runs if run.id == asked.run).bucket == "B", "the gate as it is now does not hold"


def raised(least: float) -> dict[str, object]:
    return {"max_confirmations": 2, "conditions": [{"id": "score", "metric": "main.score", "min": least}]}
