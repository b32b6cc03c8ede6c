"""Who answers a question: a person, the campaign file, or the deadline; and which edits are a question at all."""

from collections.abc import Iterable, Iterator
from typing import Literal, cast

from state.goal import ApprovalRule, Approvals, Condition, Evaluation, Gate, Goal
from state.records import ActionKind, Answer, Approval, ApprovalKind

_STRICTNESS: dict[Literal["superiority", "non_inferiority", "plain"], int] = {
    "superiority": 1,
    "non_inferiority": 1,
    "plain": 0,
}


def rule_of(kind: str, approvals: Approvals) -> ApprovalRule:
    """Return how a kind of question is answered; an unknown kind is rejected."""
    if kind not in Approvals.model_fields:
        return ApprovalRule(mode="reject")
    return approvals.rule(cast("ApprovalKind", kind))


def rule_of_edit(approvals: Approvals, *, is_easier: bool) -> ApprovalRule:
    """Return how an edit of the campaign file is answered; left out, only one that makes the gate easier waits.

    Args:
        approvals: Of the version that stands: an edit cannot give itself leave.
        is_easier: Whether the edit makes the gate easier to meet.
    """
    return approvals.edit or ApprovalRule(mode="wait" if is_easier else "auto")


def at_deadline(approval: Approval, now: float) -> Answer | None:
    """Return the answer that the deadline gives, or None while the question is answered or may still wait."""
    if approval.answer is not None or approval.deadline_at is None or now < approval.deadline_at:
        return None
    return "no" if approval.kind in {"promotion", "override"} else approval.unanswered


def holds_end(action: ActionKind, approvals: Iterable[Approval]) -> bool:
    """Say whether an end waits for an answer that may make it needless: about an edit, or about its hard stop."""
    waiting = {row.kind for row in approvals if row.answer is None}
    return (action == "halt" and "override" in waiting) or (action in {"halt", "conclude"} and "edit" in waiting)


def easier(before: Goal, after: Goal) -> list[str]:
    """Say what an edit makes easier to meet, a sentence each; empty where the gate is as strict as it was.

    Not covered: other cases, another grader or a larger decode budget, of which nobody can say beforehand what they do
    to a score.
    """
    return [*_conditions(before.gate, after.gate), *_levels(before.gate, after.gate), *_reading(before, after)]


def _conditions(before: Gate, after: Gate) -> Iterator[str]:
    for old in before.conditions:
        about = [new for new in after.conditions if _asks_the_same(old, new)]
        if any(_is_as_strict(old, new) for new in about):
            continue
        same_id = [new for new in after.conditions if new.id == old.id]
        if not about and not same_id:
            yield f"The condition {old.id} ({old.sentence}) is dropped."
        elif not about:
            yield f"{old.id} asks something else: {same_id[0].sentence}, where it was {old.sentence}."
        else:
            nearest = max(about, key=lambda new: new.sign * new.bound)
            yield f"{old.id} asks less: {_asked(nearest)}, where it was {_asked(old)}."


def _asks_the_same(old: Condition, new: Condition) -> bool:
    """Say whether two conditions bound the same figure from the same side, on some metric of both."""
    ours, theirs = ((each.statistic, each.against, each.sign) for each in (old, new))
    return ours == theirs and not set(old.metrics).isdisjoint(new.metrics)


def _is_as_strict(old: Condition, new: Condition) -> bool:
    return (
        new.sign * new.bound >= old.sign * old.bound
        and _STRICTNESS[new.kind] >= _STRICTNESS[old.kind]
        and set(new.metrics) <= set(old.metrics)
    )


def _asked(condition: Condition) -> str:
    return f"{condition.sentence}{' by the bare number, without a test' if condition.kind == 'plain' else ''}"


def _levels(before: Gate, after: Gate) -> Iterator[str]:
    if after.alpha > before.alpha:
        yield f"A wrong promotion may be {after.alpha:g} likely instead of {before.alpha:g} (gate.alpha)."
    if after.max_confirmations > before.max_confirmations:
        yield (
            f"The confirmation cases may be opened {after.max_confirmations} times instead of "
            f"{before.max_confirmations} (gate.max_confirmations)."
        )


def _reading(before: Goal, after: Goal) -> Iterator[str]:
    """Yield what lets less count as progress: the measurement's own thresholds, and what progress is read on."""
    old, new = before.evaluation, after.evaluation
    if new.noise_floor < old.noise_floor:
        yield f"A change above {new.noise_floor:g} counts instead of {old.noise_floor:g} (evaluation.noise_floor)."
    if old.control is not None and new.control != old.control:
        yield f"{old.control} need not move any more (evaluation.control)."
    yield from _companions(old, new)


def _companions(old: Evaluation, new: Evaluation) -> Iterator[str]:
    for metric, companion in old.dense.items():
        other = new.dense.get(metric, companion)
        if other != companion:
            yield f"Progress on {metric} is read on {other} instead of {companion} (evaluation.dense)."
