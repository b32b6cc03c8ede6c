"""Decisions before they have an id: what each act stands on, and who answers its question."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from policies.comparison import scale_of, scales_of
from policies.history import View
from state.goal import ApprovalRule, Approvals, Condition, Evaluation, Gate, Goal
from state.hashing import hash_json
from state.records import (
    Action,
    ActionKind,
    Alternative,
    Answer,
    Approval,
    ApprovalKind,
    Belief,
    Bucket,
    CampaignState,
    Commitment,
    Decision,
    Json,
    Premise,
    Request,
    Run,
)

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


FREELY: frozenset[ApprovalKind] = frozenset({"launch"})
"""Kinds of questions that a person may answer beforehand; what moves the gate or a model is asked each time."""

MOST_ALLOWED = 100
"""Questions that one leave answers at most."""

_LONGEST_LEAVE_S = 86_400.0


def why_not_allowed(kind: str, until: float, runs: int, now: float) -> str:
    """Say why a kind of question cannot be answered beforehand so often and so long; empty where it can.

    Args:
        kind: What is asked.
        until: When the leave ends, Unix seconds.
        runs: How many questions it answers; 0 ends one that was given before.
        now: Unix seconds.
    """
    if kind not in FREELY:
        return f"{kind or 'nothing'} is asked each time; only {', '.join(sorted(FREELY))} can be allowed beforehand"
    if not 0 <= runs <= MOST_ALLOWED:
        return f"0 to {MOST_ALLOWED} runs can be allowed at once, not {runs}"
    return "" if 0 < until - now <= _LONGEST_LEAVE_S else "a leave ends within 24 hours, and not in the past"


@dataclass(frozen=True)
class Leave:
    """A person's yes to the next questions of a kind."""

    request: str
    """Id of the request; what it answers is answered by it."""
    by: str
    until: float
    """Unix seconds."""
    runs: int
    """How many questions it answers in all."""
    left: int


def leave_for(kind: str, requests: Iterable[Request], approvals: Iterable[Approval], now: float) -> Leave | None:
    """Return the leave that answers a question of a kind now: the newest given, while its time and number last."""
    given = [each for each in requests if each.kind == "allow" and each.target == kind and each.applied_at is not None]
    for newest in reversed(given):
        until, runs = float(newest.payload["until"]), int(newest.payload["runs"])
        if why_not_allowed(kind, until, runs, newest.applied_at or 0.0):
            continue
        left = runs - sum(row.answered_by == newest.id for row in approvals)
        return Leave(newest.id, newest.by, until, runs, left) if left > 0 and now < until else None
    return None


def holds_end(action: ActionKind, approvals: Iterable[Approval]) -> bool:
    """Say whether an end waits for an answer that may make it needless: about an edit, or about its hard stop."""
    waiting = {row.kind for row in approvals if row.answer is None}
    return (action == "halt" and "override" in waiting) or (action in {"halt", "conclude"} and "edit" in waiting)


def easier(before: Goal, after: Goal) -> list[str]:
    """Say what an edit makes easier to meet, a sentence each; empty where the gate is as strict as it was.

    Not covered: other cases, another grader or a larger decode budget, of which nobody can say beforehand what they do
    to a score.
    """
    return [
        *_conditions(before.gate, after.gate),
        *_levels(before.gate, after.gate),
        *_reading(before, after),
        *_unasked(before.approvals, after.approvals),
    ]


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
            yield f"{old.id} asks less: {_demand(nearest)}, where it was {_demand(old)}."


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


def _demand(condition: Condition) -> str:
    return f"{condition.sentence}{' by the bare number, without a test' if condition.kind == 'plain' else ''}"


def _levels(before: Gate, after: Gate) -> Iterator[str]:
    if after.alpha > before.alpha:
        yield f"A wrong promotion may be {after.alpha:g} likely instead of {before.alpha:g} (gate.alpha)."
    if after.max_confirmations > before.max_confirmations:
        yield (
            f"The confirmation cases may be opened {after.max_confirmations} times instead of "
            f"{before.max_confirmations} (gate.max_confirmations)."
        )
    if (before.ledger, after.ledger) == ("machine", "example"):
        yield "Openings of the same cases by other campaigns do not count any more (gate.ledger)."


def _reading(before: Goal, after: Goal) -> Iterator[str]:
    """Yield what lets less count as progress: the measurement's own thresholds, and what progress is read on."""
    yield from _ranges(before, after)
    old, new = before.evaluation, after.evaluation
    if new.noise_floor < old.noise_floor:
        yield f"A change above {new.noise_floor:g} counts instead of {old.noise_floor:g} (evaluation.noise_floor)."
    was, delta = before.gate.meaningful_delta, after.gate.meaningful_delta
    # Left out it is half of a gap that a measurement tells: nobody can say beforehand which is the smaller.
    if delta != was and (delta is None or was is None or delta < was):
        shares = ["half of the gap" if each is None else f"{each:g}" for each in (delta, was)]
        yield f"Progress of {shares[0]} counts as meaningful instead of {shares[1]} (gate.meaningful_delta)."
    if old.control is not None and new.control != old.control:
        yield f"{old.control} need not move any more (evaluation.control)."
    yield from _companions(old, new)


def _unasked(before: Approvals, after: Approvals) -> Iterator[str]:
    """Yield which questions about the gate may be answered yes without a person, where they were not or later."""
    for kind in ("promotion", "override", "edit"):
        old, new = getattr(before, kind), getattr(after, kind)
        if _consent(new) > _consent(old):
            how = "at once" if new.mode == "auto" else f"after {new.deadline_h:g} h"
            yield f"Nobody need answer any more: yes {how} (approvals.{kind})."


def _consent(rule: ApprovalRule | None) -> tuple[float, ...]:
    """Return how easily a question is answered yes without a person, the larger the more easily."""
    if rule is not None and rule.mode == "auto":
        return (2.0, 0.0)
    if rule is None or rule.mode == "reject" or rule.unanswered == "no" or rule.deadline_h is None:
        return (0.0, 0.0)
    return (1.0, -rule.deadline_h)


def _ranges(before: Goal, after: Goal) -> Iterator[str]:
    """Yield the metrics of the gate whose range is another: every bound is as wide as the range lets it be."""
    names = before.gate.metrics | after.gate.metrics
    old, new = scales_of(before.track.ranges), scales_of(after.track.ranges)
    for metric in sorted(names):
        was, becomes = scale_of(old, metric), scale_of(new, metric)
        if was != becomes:
            yield (
                f"{metric} is judged on a range from {becomes.low:g} to {becomes.high:g}, where it was from {was.low:g}"
                f" to {was.high:g} (track.ranges)."
            )


def _companions(old: Evaluation, new: Evaluation) -> Iterator[str]:
    for metric, companion in old.dense.items():
        other = new.dense.get(metric, companion)
        if other != companion:
            yield f"Progress on {metric} is read on {other} instead of {companion} (evaluation.dense)."


_TASK = ("model:base", "tool:", "data:splits", "harness:")
_STANDS_ON: Mapping[ActionKind, tuple[str, ...]] = {
    "census": ("model:base", "tool:", "data:"),
    "evaluate": _TASK,
    "confirm": _TASK,
    "train": ("model:base", "tool:", "data:", "harness:", "gate:", "machine:", "own:", "score:base.", "score:parent."),
    "judge": ("harness:", "gate:", "score:base.", "score:parent."),
    "promote": ("harness:", "gate:", "score:base.", "score:parent."),
}
"""Subjects by their beginning. A verdict also stands on its run's own scores, which the planner names."""

_DERIVED = frozenset({"floor", "echo", "decode_curve", "shows_progress", "counts_as_evidence"})
"""Claims that are for people and for fixes; nothing is decided on them."""


def premises_of(action: ActionKind, beliefs: Iterable[Belief], named: Iterable[Belief] = ()) -> tuple[Premise, ...]:
    """Return what an act stands on now: the fresh beliefs about its ground, and those that its rule named."""
    ground = _STANDS_ON.get(action, ())
    premises = {
        belief.id: belief
        for belief in beliefs
        if ground and belief.status == "fresh" and belief.claim not in _DERIVED and belief.subject.startswith(ground)
    }
    premises |= {belief.id: belief for belief in named}
    return tuple(
        Premise(belief=row.id, subject=row.subject, tag=row.tag, statement=row.statement) for row in premises.values()
    )


def assumed(premises: Iterable[Premise]) -> list[Premise]:
    """Return the premises that nothing grounds."""
    return [premise for premise in premises if premise.tag == "assumed"]


Closing = Literal["kept", "cancelled", "lapsed"]
"""How a commitment ends."""


@dataclass(frozen=True)
class Draft:
    """A decision before it has an id, with everything that is committed in the same transaction."""

    decision: Decision
    run: Run | None = None
    bucket: Bucket | None = None
    """Verdict on `decision.run`."""
    run_updates: Mapping[str, Json] = field(default_factory=dict)
    commitments: tuple[Commitment, ...] = ()
    closes: Mapping[str, Closing] = field(default_factory=dict)
    """Commitment id -> kept, cancelled or lapsed."""


def action_key(campaign: str, kind: ActionKind, inputs: Json, attempt: int) -> str:
    """Return the identity of an act, fixed before it happens.

    Guards and looks meanwhile are how an act is watched, and depend on the hour and on the machine's speed: decided
    again after a restore, it is the same act.
    """
    what = {name: value for name, value in inputs.items() if name not in {"guards", "interim"}}
    return hash_json([campaign, kind, what, attempt])[:24]


def draft(
    view: View,
    action: ActionKind,
    rule: str,
    sentence: str,
    inputs: Json,
    *,
    run: Run | None = None,
    run_id: str = "",
    bucket: Bucket | None = None,
    verdict: Json | None = None,
    prediction: Json | None = None,
    premises: list[Belief] | None = None,
    alternatives: tuple[Alternative, ...] = (),
    needs: ApprovalKind | None = None,
    run_updates: Mapping[str, Json] | None = None,
    commitments: tuple[Commitment, ...] = (),
    closes: Mapping[str, Closing] | None = None,
) -> Draft:
    """Return a draft whose action key is fixed by what it does and how often that failed or lost its ground."""
    before = [a for a in view.actions if a.kind == action and is_same(a.inputs, inputs)]
    gone = view.invalidated
    spent = sum(a.state == "failed" or a.decision in gone.decisions or a.key in gone.evaluations for a in before)
    acts = action != "judge"
    key = action_key(view.goal.campaign, action, inputs, spent + _ended_before(view, action)) if acts else ""
    decision = Decision(
        rule=rule,
        sentence=sentence,
        action=action,
        action_key=key,
        action_inputs=inputs,
        run=run_id,
        bucket=bucket,
        verdict=verdict or {},
        prediction=prediction or {},
        premises=premises_of(action, [b for b in view.beliefs if b.id not in view.invalidated.beliefs], premises or ()),
        alternatives=alternatives,
        needs=needs,
    )
    return Draft(decision, run, bucket, run_updates or {}, commitments, closes or {})


def _ended_before(view: View, action: ActionKind) -> int:
    """Return how often the campaign has ended already: taken up again, it may end again for the same reason."""
    return sum(a.kind == action for a in view.actions) if action in {"halt", "conclude"} else 0


def is_same(ours: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether an act's inputs hold everything wanted; what else they hold does not matter."""
    return all(ours.get(name) == value for name, value in wanted.items())


def done(view: View, kind: ActionKind, **inputs: Any) -> Action | None:
    """Return the finished action of a kind with these inputs whose result still counts."""
    matching = (a for a in view.actions if a.kind == kind and a.state == "done" and is_same(a.inputs, inputs))
    return next((a for a in matching if a.key not in view.invalidated.evaluations), None)


def beliefs_about(view: View, prefix: str, claim: str) -> list[Belief]:
    """Return the beliefs that stand, on sound ground, about subjects with a prefix."""
    about = (b for b in view.beliefs if b.subject.startswith(prefix) and b.claim == claim and b.status == "fresh")
    return [b for b in about if b.id not in view.invalidated.beliefs]


def start_of(parent: str) -> str:
    """Return in words what a run starts from."""
    return {"base": "the base", "start": "the adapter that runs start from"}.get(parent, parent)


def halt(
    view: View,
    rule: str,
    sentence: str,
    stops: Sequence[Belief],
    *,
    saved_s: float,
    reason: str,
    runbook: str | None = None,
) -> Draft:
    """Stop before a training, on claims that speak against it.

    Args:
        view: The record.
        rule: Why, as an id.
        sentence: And in words.
        stops: The claims, the first one foremost.
        saved_s: What the training would have taken, seconds.
        reason: Why nothing is trained instead.
        runbook: Where to read on.
    """
    ids = [belief.id for belief in stops]
    inputs: Json = {"state": "halted", "belief": next(iter(ids), ""), "beliefs": ids, "saved_s": saved_s}
    inputs |= {} if runbook is None else {"runbook": runbook}
    otherwise = (Alternative(action="train", reason=reason),)
    return draft(view, "halt", rule, sentence, inputs, premises=list(stops), alternatives=otherwise)


def conclude(  # noqa: PLR0917 - the parts of an end
    view: View, state: CampaignState, rule: str, sentence: str, run: str, run_updates: Mapping[str, Json] | None = None
) -> Draft:
    """End the campaign with a verdict."""
    return draft(
        view,
        "conclude",
        rule,
        sentence,
        {"state": state, "goal_version": view.goal_version},
        run_id=run,
        run_updates=run_updates or {},
        closes={c.id: "lapsed" for c in view.commitments if c.status == "open"},
    )
