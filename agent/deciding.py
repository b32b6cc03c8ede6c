"""Deciding: from what is believed to one decision with its commitments. It never touches the world."""

from typing import Any

from agent import inbox
from agent.loop import GraphState
from agent.session import Session
from agent.view import view_of
from policies import plan
from policies.drafts import Draft
from policies.history import WITHDRAWN, View, hard_stops
from policies.repairs import is_repair
from state.records import Decision

_MOST_VERDICTS = 20
"""A visit records verdicts until it finds something to do; more in a row than this, beside one on each run, is a fault
of the planner."""


def deciding(session: Session, state: GraphState) -> dict[str, Any]:
    """Read the record, ask the planner, commit one decision and what it commits us to.

    An act that spends is chosen only right after Knowing refreshed what it stands on; otherwise Knowing is asked to.
    """
    verified = state.get("knowing", {}).get("verified", "")
    for _ in range(_MOST_VERDICTS + len(session.store.read.runs())):
        view = view_of(session)
        if view.has_ended:
            return _chosen("", "end")
        _withdraw(session, view)
        if _ask_overrides(session, view):
            continue
        standing = plan.standing(view)
        if standing is not None:
            if plan.must_verify(view, standing.action, standing.action_key, verified):
                return _chosen(standing.id, "verify", wants=standing.action)
            return _chosen(standing.id, standing.action)
        draft = plan.plan(view)
        if draft is None:
            return _wait(session, view)
        if plan.must_verify(view, draft.decision.action, draft.decision.action_key, verified):
            return _chosen("", "verify", wants=draft.decision.action)
        _record(session, draft)
        if is_repair(draft.decision):
            # What is measured from here on is another thing: Knowing looks at it before anything else is decided.
            inbox.absorb_repairs(session)
            return _chosen("", "verify", wants="judge")
    raise RuntimeError("The planner gives decision after decision without an act.")


def _withdraw(session: Session, view: View) -> None:
    """Close the questions about acts that no longer fit the world; an answer to them would be about another one."""
    for decision in view.decisions:
        question = view.answer_to(decision) if decision.needs is not None else None
        if question is not None and question.answer is None and view.is_withdrawn(decision):
            session.store.agent.answer(
                question.id, "no", by=WITHDRAWN, reason="what it was decided on has changed since"
            )

    stops = {stop.id for stop in hard_stops(view)}
    for row in view.approvals:
        if row.kind == "override" and row.answer is None and row.decision not in stops:
            session.store.agent.answer(row.id, "no", by=WITHDRAWN, reason=f"{row.decision} is no longer a hard stop")


def _ask_overrides(session: Session, view: View) -> bool:
    """Put the questions about hard stops that the campaign file has put; say whether there were any."""
    stops = plan.to_override(view)
    for stop in stops:
        sentence = f"Go on although {stop.id} is refuted? {stop.statement} Fix: {stop.fix}".strip()
        question = inbox.ask(session, "override", stop.id, sentence)
        if question.answer == "yes":
            session.say(f"Going on although {stop.id} is refuted, {question.reason}: {stop.statement}")
    return bool(stops)


def _chosen(decision: str, action: str, question: str = "", wants: str = "") -> dict[str, Any]:
    return {"deciding": {"decision": decision, "action": action, "question": question, "wants": wants}}


def _record(session: Session, draft: Draft) -> None:
    """Commit a decision, the run it plans or judges, its commitments and its question in one transaction.

    A question without its decision's answer from the campaign file would wait for a person whom nobody meant to ask.
    """
    store = session.store
    with store.transaction():
        for run_id, fields in draft.run_updates.items():
            store.deciding.update_run(run_id, **fields)
        for commitment_id, status in draft.closes.items():
            store.deciding.close_commitment(commitment_id, status=status, closed_by=draft.decision.rule)
        decision = store.deciding.decide(
            draft.decision.model_copy(update={"made_at": session.clock.now(), "goal_version": session.goal_version}),
            list(draft.commitments),
            draft.run,
        )
        # One that an earlier sitting made and never began, and that is chosen again as it stands.
        session.previous_session -= {decision.id}
        if draft.bucket is not None:
            store.deciding.judge(decision.run, draft.bucket, "judged")
        _ask(session, decision)
    if draft.bucket is not None:
        # A verdict is hours of work: it is worth a verified copy of the record.
        store.backup()


def _ask(session: Session, decision: Decision) -> None:
    """Put the decision's question, and answer it at once where the campaign file already has."""
    if decision.needs is not None:
        inbox.ask(session, decision.needs, decision.id, decision.sentence)


def _wait(session: Session, view: View) -> dict[str, Any]:
    """Name the question everything waits for."""
    question = next((row for row in view.approvals if row.answer is None), None)
    if question is None:
        raise RuntimeError("The planner has nothing to do, nothing to ask and no end; this is a fault of its rules.")
    session.store.agent.set_campaign(
        state="waiting", sentence=f"Waiting for an answer to {question.id}: {question.question}"
    )
    return _chosen(question.decision, "ask", question.id)
