"""Who answers a question: a person, the campaign file, or the deadline."""

from typing import cast

from state.goal import ApprovalMode, ApprovalRule, Approvals
from state.records import Answer, Approval, ApprovalKind


def _rule(kind: str, approvals: Approvals) -> ApprovalRule:
    if kind not in Approvals.model_fields:
        return ApprovalRule(mode="reject")
    return approvals.rule(cast("ApprovalKind", kind))


def needed(kind: str, approvals: Approvals) -> ApprovalMode:
    """Return how a kind of question is answered; an unknown kind is rejected."""
    return _rule(kind, approvals).mode


def deadline_at(kind: str, approvals: Approvals, asked_at: float) -> float | None:
    """Return when a question asked now stops waiting, Unix seconds; None: it waits for as long as it takes."""
    hours = _rule(kind, approvals).deadline_h
    return None if hours is None else asked_at + hours * 3600


def unanswered(kind: str, approvals: Approvals) -> Answer:
    """Return what silence means; never yes for a promotion or an override, whatever was written."""
    return "no" if kind in {"promotion", "override"} else _rule(kind, approvals).unanswered


def at_deadline(approval: Approval, now: float) -> Answer | None:
    """Return the answer that the deadline gives, or None while the question is answered or may still wait."""
    if approval.answer is not None or approval.deadline_at is None or now < approval.deadline_at:
        return None
    return "no" if approval.kind in {"promotion", "override"} else approval.unanswered
