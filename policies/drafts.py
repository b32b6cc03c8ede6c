"""Decisions before they have an id, and how one is put together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from policies.premises import premises_of
from policies.view import View
from state.hashing import hash_json
from state.records import (
    Action,
    ActionKind,
    Alternative,
    ApprovalKind,
    Belief,
    Bucket,
    CampaignState,
    Commitment,
    Decision,
    Json,
    Run,
)

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
    void = view.void
    spent = sum(a.state == "failed" or a.decision in void.decisions or a.key in void.evaluations for a in before)
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
        premises=premises_of(action, [b for b in view.beliefs if b.id not in view.void.beliefs], premises or ()),
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
    found = (a for a in view.actions if a.kind == kind and a.state == "done" and is_same(a.inputs, inputs))
    return next((a for a in found if a.key not in view.void.evaluations), None)


def beliefs_about(view: View, prefix: str, claim: str) -> list[Belief]:
    """Return the beliefs that stand, on sound ground, about subjects with a prefix."""
    found = (b for b in view.beliefs if b.subject.startswith(prefix) and b.claim == claim and b.status == "fresh")
    return [b for b in found if b.id not in view.void.beliefs]


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
