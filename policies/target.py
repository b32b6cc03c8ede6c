"""What a run is for: the metric that the campaign file names as `gate.primary`, else the gate's first condition."""

from collections.abc import Collection, Mapping, Sequence

from policies.comparison import CaseTable, Scale
from policies.gate import asks_no_worse
from policies.significance import EPSILON
from state.goal import Condition, Gate
from state.records import Json, Record, Side, SplitUse


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
    asked_metric: str = ""
    """The metric that the gate asks for, where progress is read on a denser one."""
    asked: float | None = None
    """What the gate asks of it; the threshold where left out."""
    scale: Scale = Scale()
    """The metric's."""

    @property
    def asks(self) -> str:
        """What the gate asks, of which metric: `0.80 of task.exact`."""
        wanted = self.threshold if self.asked is None else self.asked
        return f"{figure(wanted)} of {self.asked_metric or self.metric}"


def figure(value: float) -> str:
    """Return a score with two decimals, or with four digits where two would round it."""
    return f"{value:.2f}" if abs(value - round(value, 2)) < EPSILON else f"{value:.4g}"


def aims(gate: Gate) -> list[Condition]:
    """Return the conditions that a run may be for, the first choice first.

    The primary one alone where it is named, by its id or by a metric of it. Else those that ask for more than no loss,
    in the order of the campaign file; what a start meets by definition is what a run must not break, not what it is
    for. New failures are a limit, never a target.
    """
    possible = sorted((c for c in gate.conditions if c.statistic != "new_failures"), key=asks_no_worse)
    if gate.primary is None:
        return possible
    return [c for c in possible if c.id == gate.primary] or [c for c in possible if gate.primary in c.metrics]


def aim_of(gate: Gate) -> Condition:
    """Return the condition that a run is for; the gate's first, where all of them are limits."""
    return next(iter(aims(gate)), gate.conditions[0])


def own_metric(gate: Gate) -> str:
    """Return the `split.metric` that the gate is for: the primary where it names one, else its condition's first."""
    metrics = aim_of(gate).metrics
    return gate.primary if gate.primary is not None and gate.primary in metrics else metrics[0]


def find_target(
    gate: Gate,
    cases: CaseTable,
    *,
    ceilings: Mapping[str, float] | None = None,
    use: SplitUse = "selection",
    noise_floor: float = 0.0,
    dense: Mapping[str, str] | None = None,
    closest: Mapping[str, str] | None = None,
    held: Collection[str] = (),
) -> Target | None:
    """Return the target of a campaign at its present parent, or None where nothing was measured.

    Args:
        gate: The conditions.
        cases: The parent as measured.
        ceilings: `split.metric` -> what the references score.
        use: Which part of the splits.
        noise_floor: What a change must exceed.
        dense: `split.metric` -> a denser one of the same outputs; where the target's has one, that is read in its place
            and should reach what the references score.
        closest: Id of a condition -> the metric of it by which a candidate came closest to holding.
        held: Ids of the conditions that the candidate meets by that metric.

    Every metric is told in its own unit; counts are divided by their cases. Of an any-of, the alternative that is
    nearest to holding stands for the condition, of those that reach their bound below their ceiling: as the candidate
    was measured, else as the parent was; the one with more room of equals. One by which the candidate holds comes
    before all: what its ceiling says is refuted. A condition without scores is passed over for the next one, as is one
    that the start meets while another is left.
    """
    for condition in sorted(aims(gate), key=lambda each: is_met(each, cases, use) is True):
        named = [metric for metric in condition.metrics if metric == gate.primary] or condition.metrics
        nearest = (closest or {}).get(condition.id, "")
        if condition.id in held and nearest in named:
            named = [nearest]
        metric = _nearest(condition, named, cases, ceilings or {}, use, nearest)
        target = _target(condition, metric, gate, cases, use, noise_floor)
        if target is not None:
            companion = (dense or {}).get(target.metric)
            closer = None if companion is None else _dense(target, companion, gate, cases, ceilings or {}, use)
            return closer or target
    return None


def _dense(  # noqa: PLR0917 - an inner step of find_target, same arguments
    strict: Target, metric: str, gate: Gate, cases: CaseTable, ceilings: Mapping[str, float], use: SplitUse
) -> Target | None:
    """Return the target read on a denser metric; None where that was not measured or has nothing left to show."""
    parent = cases.mean(_parent_side(cases, metric, use), metric, use)
    scale = cases.scale(metric)
    threshold = ceilings.get(metric, scale.best(strict.sign))
    if parent is None or strict.sign * (threshold - parent.mean) <= 0:
        return None
    gap = strict.sign * (threshold - parent.mean)
    delta = _delta(gate, gap)
    sentence = (
        f"{metric}, read in place of {strict.metric} (asked {strict.asks}), is {parent.mean:.4g} at the parent, "
        f"{gap:.4g} short of what the references score; δ is {delta:.4g}."
    )
    changed: Json = {"metric": metric, "parent": parent.mean, "threshold": threshold, "gap": gap, "delta": delta}
    changed |= {"asked_metric": strict.metric, "asked": strict.threshold, "scale": scale}
    return strict.model_copy(update={**changed, "n": parent.n, "sentence": sentence})


def _delta(gate: Gate, gap: float) -> float:
    """Return δ: as the file says, but no more than the gap that is left, which shrinks as runs go on from the best."""
    return gap / 2 if gate.meaningful_delta is None else min(gate.meaningful_delta, gap)


def _parent_side(cases: CaseTable, metric: str, use: SplitUse) -> Side:
    return "parent" if cases.mean("parent", metric, use) is not None else "base"


def _nearest(  # noqa: PLR0917 - an inner step of find_target, same arguments
    condition: Condition,
    metrics: Sequence[str],
    cases: CaseTable,
    ceilings: Mapping[str, float],
    use: SplitUse,
    closest: str,
) -> str:
    def order(metric: str) -> tuple[bool, bool, float, float]:
        start, wanted = (
            cases.mean(_parent_side(cases, metric, use), metric, use),
            _bound_of(condition, cases, metric, use),
        )
        if start is None or wanted is None:
            return False, False, float("-inf"), 0.0
        scale = cases.scale(metric)
        best = ceilings.get(metric, scale.best(condition.sign))
        gap, room = (condition.sign * (value - start.mean) / scale.width for value in (wanted, best))
        return room - gap > -EPSILON, metric == closest, round(-gap, 9), room

    return max(metrics, key=order)


def _target(  # noqa: PLR0917 - an inner step of find_target, same arguments
    condition: Condition, metric: str, gate: Gate, cases: CaseTable, use: SplitUse, noise_floor: float
) -> Target | None:
    parent = cases.mean(_parent_side(cases, metric, use), metric, use)
    threshold = _bound_of(condition, cases, metric, use)
    if parent is None or threshold is None:
        return None
    gap = condition.sign * (threshold - parent.mean)
    scale = cases.scale(metric)
    delta = _delta(gate, gap) if gap > 0 else gate.meaningful_delta or max(noise_floor, scale.width / parent.n)
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
        scale=scale,
    )


def is_ceiling_above(
    gate: Gate, cases: CaseTable, ceilings: Mapping[str, float], *, use: SplitUse = "selection"
) -> bool | None:
    """Return whether the references score what the gate asks; None where that is not known.

    Of an any-of, one metric is enough. What no change meets asks for nothing that a ceiling could deny.

    Args:
        gate: The conditions.
        cases: The parent as measured, and the base.
        ceilings: `split.metric` -> what the references score.
        use: Which part of the splits.
    """
    shown = [_can_show(each, cases, ceilings, use) for each in gate.conditions if not asks_no_worse(each)]
    return False if False in shown else None if None in shown else True


def is_met(condition: Condition, cases: CaseTable, use: SplitUse = "selection") -> bool | None:
    """Return whether the start meets a condition by its numbers; None where they were not measured."""
    states = []
    for metric in condition.metrics:
        start = cases.mean(_parent_side(cases, metric, use), metric, use)
        wanted = _bound_of(condition, cases, metric, use)
        if start is not None and wanted is not None:
            states.append(condition.sign * (start.mean - wanted) >= -EPSILON)
    return any(states) if states else None


def _can_show(condition: Condition, cases: CaseTable, ceilings: Mapping[str, float], use: SplitUse) -> bool | None:
    bounds = {metric: _bound_of(condition, cases, metric, use) for metric in condition.metrics}
    known = [
        condition.sign * (ceilings[metric] - wanted) >= -EPSILON
        for metric, wanted in bounds.items()
        if wanted is not None and metric in ceilings
    ]
    return any(known) if any(known) or len(known) == len(bounds) else None


def _bound_of(condition: Condition, cases: CaseTable, metric: str, use: SplitUse) -> float | None:
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
