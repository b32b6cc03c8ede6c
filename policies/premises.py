"""Which beliefs each kind of act stands on: recorded with the decision, so that a refuted one tells what falls."""

from collections.abc import Iterable, Mapping

from state.records import ActionKind, Belief, Premise

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
    found = {
        belief.id: belief
        for belief in beliefs
        if ground and belief.status == "fresh" and belief.claim not in _DERIVED and belief.subject.startswith(ground)
    }
    found |= {belief.id: belief for belief in named}
    return tuple(
        Premise(belief=row.id, subject=row.subject, tag=row.tag, statement=row.statement) for row in found.values()
    )


def assumed(premises: Iterable[Premise]) -> list[Premise]:
    """Return the premises that nothing grounds."""
    return [premise for premise in premises if premise.tag == "assumed"]
