"""What a run is for: the metric of the gate condition furthest from holding at the parent."""

from collections.abc import Mapping

from policies.cases import CaseTable
from policies.gate import asks_no_worse
from state.goal import Condition, Gate
from state.records import Record, Side, SplitUse

_EPSILON = 1e-9
"""Sums of floats that are equal on paper are equal here."""


class Target(Record):
    """The metric a run should move, and how far it is from the gate. Means, also for a count condition."""

    condition: str
    """Id of the condition it comes from."""
    metric: str
    sign: int
    """+1: more is better; -1: less is."""
    parent: float
    """The parent's mean."""
    threshold: float
    """The mean that meets the condition."""
    gap: float
    """How far the parent is from holding, in the metric's unit; zero or less: it holds already."""
    delta: float
    """δ: what counts as meaningful progress."""
    n: int
    """Cases of the parent's measurement."""
    sentence: str


def find_target(
    gate: Gate,
    cases: CaseTable,
    *,
    ceilings: Mapping[str, float] | None = None,
    use: SplitUse = "selection",
    noise_floor: float = 0.0,
    dense: Mapping[str, str] | None = None,
) -> Target | None:
    """Return the target of a campaign at its present parent, or None where nothing was measured.

    Args:
        gate: The conditions.
        cases: The parent as measured.
        ceilings: `split.metric` -> what the gold scores.
        use: Which part of the splits.
        noise_floor: What a change must exceed.
        dense: `split.metric` -> a denser one of the same outputs; where the target's has one, that is read in its place
            and should reach what the gold scores.

    All metrics live in [0, 1], so gaps compare as they are; counts are divided by their cases. Of an any-of, the metric
    with the most room below its ceiling stands for the condition. Ties go to the condition written first. New failures
    are a limit, never a target.
    """
    known = [
        (target.gap - _granted(condition, target), target)
        for condition in gate.conditions
        if condition.statistic != "new_failures"
        for metric in [_roomiest(condition, cases, ceilings or {}, use)]
        if (target := _target(condition, metric, gate, cases, use, noise_floor)) is not None
    ]
    # A loss that is granted is no distance: else what a parent meets by definition hides what it meets by luck alone.
    _, found = max(known, key=lambda each: each[0], default=(0.0, None))
    companion = (dense or {}).get(found.metric) if found is not None else None
    if found is None or companion is None:
        return found
    return _dense(found, companion, gate, cases, ceilings or {}, use) or found


def _dense(  # noqa: PLR0917 - an inner step of find_target, same arguments
    strict: Target, metric: str, gate: Gate, cases: CaseTable, ceilings: Mapping[str, float], use: SplitUse
) -> Target | None:
    """Return the target read on a denser metric; None where that was not measured or has nothing left to show."""
    parent = cases.mean(_parent_side(cases, metric, use), metric, use)
    threshold = ceilings.get(metric, 1.0 if strict.sign > 0 else 0.0)
    if parent is None or strict.sign * (threshold - parent.mean) <= 0:
        return None
    gap = strict.sign * (threshold - parent.mean)
    delta = gate.meaningful_delta or gap / 2
    sentence = (
        f"{metric}, read in place of {strict.metric}, is {parent.mean:.4g} at the parent, {gap:.4g} short of what the "
        f"gold scores; δ is {delta:.4g}."
    )
    changed = {"metric": metric, "parent": parent.mean, "threshold": threshold, "gap": gap, "delta": delta}
    return strict.model_copy(update={**changed, "n": parent.n, "sentence": sentence})


def _parent_side(cases: CaseTable, metric: str, use: SplitUse) -> Side:
    return "parent" if cases.mean("parent", metric, use) is not None else "base"


def _roomiest(condition: Condition, cases: CaseTable, ceilings: Mapping[str, float], use: SplitUse) -> str:
    def room(metric: str) -> float:
        start = cases.mean(_parent_side(cases, metric, use), metric, use)
        best = ceilings.get(metric, 1.0 if condition.sign > 0 else 0.0)
        return condition.sign * (best - start.mean) if start is not None else float("-inf")

    return max(condition.metrics, key=room)


def _target(  # noqa: PLR0917 - an inner step of find_target, same arguments
    condition: Condition, metric: str, gate: Gate, cases: CaseTable, use: SplitUse, noise_floor: float
) -> Target | None:
    parent = cases.mean(_parent_side(cases, metric, use), metric, use)
    threshold = _asked(condition, cases, metric, use)
    if parent is None or threshold is None:
        return None
    gap = condition.sign * (threshold - parent.mean)
    delta = gate.meaningful_delta or (gap / 2 if gap > 0 else max(noise_floor, 1 / parent.n))
    far = f"{gap:.4g} short of" if gap > 0 else f"{-gap:.4g} beyond"
    sentence = f"{metric} is {parent.mean:.4g} at the parent, {far} {threshold:.4g}; δ is {delta:.4g}."
    return Target(
        condition=condition.id,
        metric=metric,
        sign=condition.sign,
        parent=parent.mean,
        threshold=threshold,
        gap=gap,
        delta=delta,
        n=parent.n,
        sentence=sentence,
    )


def _granted(condition: Condition, target: Target) -> float:
    """Return the loss that a condition's margin grants beyond its bound as written, per case."""
    unit = target.n if condition.statistic == "count" else 1
    return condition.sign * (condition.threshold - condition.bound) / unit


def is_ceiling_above(
    gate: Gate, cases: CaseTable, ceilings: Mapping[str, float], *, use: SplitUse = "selection"
) -> bool | None:
    """Return whether the gold scores what the gate asks; None where that is not known.

    Of an any-of, one metric is enough. What no change meets asks for nothing that a ceiling could deny.

    Args:
        gate: The conditions.
        cases: The parent as measured, and the base.
        ceilings: `split.metric` -> what the gold scores.
        use: Which part of the splits.
    """
    found = [_can_show(each, cases, ceilings, use) for each in gate.conditions if not asks_no_worse(each)]
    return False if False in found else None if None in found else True


def _can_show(condition: Condition, cases: CaseTable, ceilings: Mapping[str, float], use: SplitUse) -> bool | None:
    asked = {metric: _asked(condition, cases, metric, use) for metric in condition.metrics}
    known = [
        condition.sign * (ceilings[metric] - wanted) >= -_EPSILON
        for metric, wanted in asked.items()
        if wanted is not None and metric in ceilings
    ]
    return any(known) if any(known) or len(known) == len(asked) else None


def _asked(condition: Condition, cases: CaseTable, metric: str, use: SplitUse) -> float | None:
    """Return the mean that meets a condition, None where what it is relative to was not measured."""
    origin = _origin(condition, cases, metric, use)
    if origin is None or condition.statistic != "count":
        return None if origin is None else origin + condition.threshold
    parent = cases.mean(_parent_side(cases, metric, use), metric, use)
    return None if parent is None else origin + condition.threshold / parent.n


def _origin(condition: Condition, cases: CaseTable, metric: str, use: SplitUse) -> float | None:
    """Return the mean that a condition's bound is added to: zero, the parent's or the base's."""
    if condition.against == "value":
        return 0.0
    side = "base" if condition.against == "base" else _parent_side(cases, metric, use)
    start = cases.mean(side, metric, use)
    return None if start is None else start.mean
