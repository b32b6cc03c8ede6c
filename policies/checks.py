"""Can the gate be met at all: asked before the first run, answered with numbers; what is believed of it.

Modes of `facts/failure_modes.md`: P1 (a threshold above what the gold itself scores), 4 (a threshold out of reach from
the base), P5 (a ruler or a number of cases too coarse for the margin) and P4 (two conditions that measure one thing).

The judgement behind beliefs on `gate:*` and `model:base`; Knowing records what these functions return.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from policies import significance
from policies.comparison import CaseTable, Mean, Scale, scale_of, scales_of
from policies.gate import asks_no_worse, is_never_shown, judge_condition, least_limit
from policies.ledger import LEDGER
from policies.power import Needed, cases_needed
from policies.significance import EPSILON
from policies.target import Target, find_target
from state.goal import Condition, Gate, Goal, name_of, split_of
from state.records import Belief, Evidence, Finding, Measurement, Record, Side, SplitUse, runbook_of


def reachability(
    gate: Gate,
    ceilings: Mapping[str, float],
    baseline: Mapping[str, Mean],
    *,
    cases: CaseTable | None = None,
    use: SplitUse = "selection",
    budgets: Mapping[str, Sequence[tuple[int, float]]] | None = None,
    alpha: float | None = None,
    parent: Mapping[str, Mean] | None = None,
    dense: Mapping[str, str] | None = None,
    scales: Mapping[str, Scale] | None = None,
) -> list[Finding]:
    """Return what is wrong with a gate; an empty list says nothing was found, not that everything was checked.

    Claims on `gate:<condition id>`: `below_ceiling`, `reachable_from_base`, `resolvable`, `decidable`, `independent`,
    `asks_more`, `meaningful`, `on_scale`, `agrees_with_ceiling`.

    Args:
        gate: The conditions.
        ceilings: `split.metric` -> mean of the gold through the same harness; left out: not checked.
        baseline: `split.metric` -> mean of the base and its number of cases; left out: not checked.
        cases: Base and parent case by case, for power and redundancy.
        use: Which part of the splits `cases` holds.
        budgets: `split.metric` -> (max_tokens, ceiling) pairs, for the fix of P1.
        alpha: One-sided level of one test; one opening of the confirmation split when left out.
        parent: As `baseline`, of the weights that runs start from; the base's own when left out.
        dense: `split.metric` -> a denser one, on which progress is read.
        scales: Metric -> its scale, where no case says; those of `cases` when left out.
    """
    known_scales = scales or (cases.scales if cases is not None else {})
    level = gate.confirmation_alpha if alpha is None else alpha
    findings: list[Finding | None] = []
    for condition in gate.conditions:
        side: Side = "parent" if condition.against == "parent" and parent else "base"
        known = _Known(ceilings, parent if side == "parent" and parent else baseline, cases, use, side, known_scales)
        beyond = _off_scale(condition, known) or _beyond_reach(condition, known, budgets or {})
        findings.append(beyond)
        if beyond is None:
            findings += [_too_coarse(condition, known, level), _undecidable(condition, known, level)]
    if all(finding is None or finding.claim != "on_scale" for finding in findings):
        means: dict[Side, dict[str, Mean]] = {"base": dict(baseline), "parent": dict(parent or baseline)}
        start = cases or CaseTable(means=means, scales=dict(known_scales))
        target = find_target(gate, start, ceilings=ceilings, use=use, dense=dense)
        findings += [_met_already(gate, start, use), _beyond_gap(gate, target)]
    findings += _redundant(gate, cases, use) if cases is not None else []
    return [finding for finding in findings if finding is not None]


def least_cases(condition: Condition, alpha: float, scales: Mapping[str, Scale] | None = None) -> int:
    """Return how few cases the best scores that there can be still meet a condition on; 1 where any number may.

    Every case rises from the worst end of the scale to the best, or has full marks.

    Args:
        condition: By a test, else 1.
        alpha: One-sided level of the gate; divided by the metrics of an any-of.
        scales: Metric -> its scale; shares where left out.
    """
    if condition.kind == "plain" or condition.statistic != "mean":
        return 1
    rooms = [_above_bound(condition, scale_of(scales or {}, metric)) for metric in condition.metrics]
    least = [significance.cases_for_unseen(room, alpha / len(rooms)) if 0 < room < 1 else 1 for room in rooms]
    return min(least)


def limit_fix(condition: Condition, n: int, alpha: float, scales: Mapping[str, Scale] | None = None) -> str:
    """Return what to write in place of a limit on a count that no n cases show; empty where they can show it.

    Args:
        condition: Any.
        n: Cases.
        alpha: One-sided level of the gate; divided by the metrics of an any-of.
        scales: Metric -> its scale; shares where left out.
    """
    level, known = alpha / len(condition.metrics), [scale_of(scales or {}, metric) for metric in condition.metrics]
    if not all(is_never_shown(condition, n, level, scale) for scale in known):
        return ""
    least = min(least_limit(n, level, scale) for scale in known)
    return (
        f"write `test: plain` with a `reason`, so that the count on these cases alone decides, or a `max` of at least "
        f"{math.ceil(least - EPSILON)}"
    )


def _above_bound(condition: Condition, scale: Scale) -> float:
    """Return the share of a scale, or of what a difference can be, that lies on the good side of a bound."""
    if condition.against != "value":
        return (1 - condition.sign * condition.bound / scale.width) / 2
    return condition.sign * (scale.best(condition.sign) - condition.bound) / scale.width


class CasesTold(Record):
    """What the confirmation cases can show of one condition, told before the first run."""

    condition: str
    n: int | None
    """Confirmation cases; None: not counted yet."""
    needed: Needed
    sentence: str

    @property
    def is_never_told(self) -> bool:
        """Whether no number of cases can tell, whatever the answers turn out to be."""
        return self.needed.least is None

    @property
    def fix(self) -> str:
        """What to do where no number of cases can tell."""
        if not self.is_never_told:
            return ""
        return "Give a margin, ask for less than the references score, or use `test: plain` with a reason."


def cases_told(
    gate: Gate,
    counts: Mapping[str, int],
    *,
    alpha: float | None = None,
    cases: CaseTable | None = None,
    ceilings: Mapping[str, float] | None = None,
) -> list[CasesTold]:
    """Return how many cases each tested condition needs and how many there are, of those that anything is known of.

    Args:
        gate: The conditions.
        counts: Split -> its confirmation cases.
        alpha: One-sided level of their next opening; of the first when left out.
        cases: The start as measured on the selection cases; left out: not measured.
        ceilings: `split.metric` -> what the references score.
    """
    rows = []
    for condition in gate.conditions:
        level = (gate.confirmation_alpha if alpha is None else alpha) / len(condition.metrics)
        sentences = [
            (needed, counts.get(split_of(metric)))
            for metric in condition.metrics
            if (
                needed := cases_needed(
                    condition,
                    metric,
                    level,
                    cases=cases,
                    delta=gate.meaningful_delta,
                    ceiling=(ceilings or {}).get(metric),
                    n=counts.get(split_of(metric)),
                )
            )
        ]
        if condition.kind == "plain" or not sentences:
            continue
        needed, n = min(sentences, key=lambda each: _difficulty(each[0]))
        # A limit on a count that not even none of the cases shows is refused, and more cases would not mend it.
        scale = (cases or CaseTable()).scale(condition.metrics[0])
        if n is None or not is_never_shown(condition, n, level, scale):
            sentence = f"{condition.id}: {_cases_sentence(condition, needed, n, level)}"
            rows.append(CasesTold(condition=condition.id, n=n, needed=needed, sentence=sentence))
    return rows


def _difficulty(needed: Needed) -> tuple[bool, float]:
    """Return what orders the metrics of an any-of: those that were measured first, by the cases that they need."""
    return needed.basis == "least", float("inf") if needed.most is None else needed.most


def _cases_sentence(condition: Condition, needed: Needed, n: int | None, alpha: float) -> str:
    is_level = condition.against == "value" or condition.statistic == "new_failures"
    assumed = f"a true {needed.truth:.4g}" if is_level else f"a true difference of {needed.truth:+.4g}"
    assumed = "no change" if not is_level and not needed.truth else assumed
    assumed += " share of new failures" if condition.statistic == "new_failures" else ""
    bound_text = f"from the {needed.bound:.4g} asked"
    if needed.least is None:
        return f"no number of cases can tell {assumed} {bound_text}."
    count = f"{needed.least:,}"
    more = ""
    if needed.most != needed.least:
        most = "no number" if needed.most is None else f"{needed.most:,}"
        more = f", if no more answers change than that; {most}, if they have nothing to do with the start's"
        if needed.basis == "least":
            count, more = f"at least {count}", f"; {most}, if answers are right or wrong"
    if condition.kind == "non_inferiority" and condition.statistic == "mean":
        share = None if n is None else 100 * unseen_share(n, alpha)
        room = "" if share is None else f"{n} cases leave room for {share:.1f} % of answers lost whole; "
        return f"{room}a margin of {abs(needed.bound):.4g} needs {count}{more}."
    there = "" if n is None else f"there are {n}; "
    return f"{there}{count} would tell {assumed} {bound_text} four times of five at alpha {alpha:.3g}{more}."


def unseen_share(n: int, alpha: float) -> float:
    """Return the share of answers that may be lost whole though n cases show no loss: 0.097 of 40 at 0.0167."""
    return -significance.paired_interval([0.0] * n, alpha).low


def _met_already(gate: Gate, start: CaseTable, use: SplitUse) -> Finding | None:
    """Mode 4, the other way round: what runs start from meets all that is asked, so nothing is left to train for."""
    demanding = [condition for condition in gate.conditions if not asks_no_worse(condition)]
    targets = [find_target(Gate(conditions=(condition,)), start, use=use) for condition in demanding]
    met = [target for target in targets if target is not None and target.gap <= EPSILON]
    if not met or len(met) < len(demanding):
        return None
    shown = ", ".join(f"{target.metric} is {target.parent:.4g}, asked {target.threshold:.4g}" for target in met)
    return Finding(
        mode="4",
        severity="warning",
        subject=f"gate:{met[0].condition}",
        claim="asks_more",
        sentence=f"What runs start from meets the gate already, by its numbers: {shown}. An equal run is no win.",
        value={target.metric: {"start": target.parent, "asked": target.threshold} for target in met},
        fix="Ask for more than the start scores, or for an improvement with `against: parent`.",
    )


def _beyond_gap(gate: Gate, target: Target | None) -> Finding | None:
    """P5: a δ that the whole way to the gate does not reach would call a run that gets there flat."""
    delta = gate.meaningful_delta
    if target is None or delta is None or target.gap <= 0 or delta - target.gap <= EPSILON:
        return None
    return Finding(
        mode="P5",
        severity="hard_stop",
        subject=f"gate:{target.condition}",
        claim="meaningful",
        sentence=(
            f"gate.meaningful_delta is {delta:g}, more than the {target.gap:.4g} that {target.metric} is short of what "
            f"is asked ({target.parent:.4g} of {target.threshold:.4g})."
        ),
        value={"metric": target.metric, "delta": delta, "gap": target.gap},
        fix=f"Write at most {target.gap:.4g}, or leave gate.meaningful_delta out: then it is half of the gap.",
    )


def beyond_reach(
    gate: Gate,
    ceilings: Mapping[str, float],
    baseline: Mapping[str, Mean],
    budgets: Mapping[str, Sequence[tuple[int, float]]] | None = None,
    scales: Mapping[str, Scale] | None = None,
) -> list[Finding]:
    """Return P1 and mode 4 alone: the conditions that no candidate can meet. It judges no cases, so it costs little.

    Args:
        gate: The conditions.
        ceilings: `split.metric` -> mean of the gold through the same harness.
        baseline: `split.metric` -> mean of the base and its number of cases.
        budgets: `split.metric` -> (max_tokens, ceiling) pairs.
        scales: Metric -> its scale.
    """
    known = _Known(ceilings, baseline, None, "selection", "base", scales or {})
    on_scale = [condition for condition in gate.conditions if _off_scale(condition, known) is None]
    findings = [_beyond_reach(condition, known, budgets or {}) for condition in on_scale]
    return [finding for finding in findings if finding is not None]


def beyond_cases(gate: Gate, baseline: Mapping[str, Mean], alpha: float) -> list[Finding]:
    """Return P5 alone: the conditions that so many cases of 0/1 scores cannot settle, whatever the candidate scores.

    Args:
        gate: The conditions.
        baseline: `split.metric` -> mean of the base and its number of cases.
        alpha: One-sided level of one test.
    """
    known = _Known({}, baseline, None, "selection", "base", {})
    findings = [
        _too_coarse(condition, known, alpha) or _undecidable(condition, known, alpha) for condition in gate.conditions
    ]
    return [finding for finding in findings if finding is not None]


def _beyond_reach(
    condition: Condition, known: "_Known", budgets: Mapping[str, Sequence[tuple[int, float]]]
) -> Finding | None:
    return _above_ceiling(condition, known, budgets) or _out_of_room(condition, known, budgets)


def _off_scale(condition: Condition, known: "_Known") -> Finding | None:
    """P5: a score off its scale, such as percent or a number of rows without a declared range: no bound is for it."""
    for metric in condition.metrics:
        scale = known.scale(metric)
        scores = [known.ceilings[metric]] if metric in known.ceilings else []
        scores += [known.baseline[metric].mean] if metric in known.baseline else []
        measured = known.cases.off_scale(metric, known.use) if known.cases is not None else None
        scores += [] if measured is None else [measured]
        off = max((score for score in scores if not scale.holds(score)), key=abs, default=None)
        if off is not None:
            return Finding(
                mode="P5",
                severity="hard_stop",
                subject=f"gate:{condition.id}",
                claim="on_scale",
                sentence=(
                    f"{metric} scores {off:.4g}, and a score must lie between {scale.low:g} and {scale.high:g} to be "
                    "judged."
                ),
                value={"metric": metric, "score": off},
                fix=(
                    f"Declare the least and the largest score that there can be in track.ranges (percent: "
                    f"`{metric.partition('.')[2]}: [0, 100]`), or let the grader divide {metric} by the largest and "
                    "write the thresholds and margins on that scale."
                ),
            )
    return None


def _above_ceiling(
    condition: Condition, known: "_Known", budgets: Mapping[str, Sequence[tuple[int, float]]]
) -> Finding | None:
    """P1: the evaluator cannot show the answer. Every metric of an any-of must be out of reach.

    A count is held against the ceiling per case, once the base says how many cases there are.
    """
    ceilings, is_count = known.ceilings, condition.statistic == "count"
    measured = known.baseline if is_count else ceilings
    if condition.against != "value" or not all(name in ceilings and name in measured for name in condition.metrics):
        return None
    sizes = {name: known.baseline[name].n if is_count else 1 for name in condition.metrics}
    short = {name: condition.sign * (condition.threshold / sizes[name] - ceilings[name]) for name in condition.metrics}
    metric = min(short, key=lambda name: short[name])
    if short[metric] <= EPSILON:
        return None
    ceiling, threshold = ceilings[metric], condition.threshold / sizes[metric]
    started = known.baseline.get(metric)
    if started is not None and beats(condition, started.mean, ceiling):
        return contradiction(condition, metric, f"the {known.side}", started.mean, ceiling)
    enough = _budget_for(budgets.get(metric, ()), threshold, condition.sign)
    counted = f" ({condition.threshold:g} of {sizes[metric]} cases)" if is_count else ""
    fix = (
        _larger_budget(budgets[metric], enough)
        if enough
        else _reachable_threshold(condition, threshold, known.scale(metric))
    )
    word = "above" if condition.sign > 0 else "below"
    return Finding(
        mode="P1",
        severity="hard_stop",
        subject=f"gate:{condition.id}",
        claim="below_ceiling",
        sentence=(
            f"The gate asks for {metric} {'at least' if condition.sign > 0 else 'at most'} {threshold:.4g}{counted}, "
            f"{word} what the reference answers score through this harness: {ceiling:.4g}. No training can meet it."
        ),
        value={
            "metric": metric,
            "threshold": threshold,
            "ceiling": ceiling,
            "max_tokens": enough[0] if enough else None,
        },
        fix=fix,
    )


def beats(condition: Condition, score: float, ceiling: float) -> bool:
    """Return whether a measured mean is better than what the reference answers score, which then is no ceiling."""
    return condition.direction * (score - ceiling) > EPSILON


def contradiction(condition: Condition, metric: str, who: str, score: float, ceiling: float) -> Finding:
    """P1, refuted by a measurement: what the reference answers score is no bound, so nothing follows from it."""
    return Finding(
        mode="P1",
        severity="hard_stop",
        subject=f"gate:{condition.id}",
        claim="agrees_with_ceiling",
        sentence=(
            f"{who} scored {score:.4g} on {metric}, better than the reference answers score through this harness "
            f"({ceiling:.4g}): the two contradict each other, and what can be reached is not known."
        ),
        value={"metric": metric, "score": score, "ceiling": ceiling},
        fix="Measure both through one harness (decode budget, grader, cases), and correct the reference answers if "
        "they are what is wrong.",
    )


def _reachable_threshold(condition: Condition, threshold: float, scale: Scale) -> str:
    """Return the fix where no decode budget is known to do; beyond the scale, none can."""
    change, beyond = ("lower", "above") if condition.sign > 0 else ("raise", "below")
    end = scale.best(condition.sign)
    if condition.sign * (threshold - end) > EPSILON:
        return f"{change.capitalize()} the threshold: no metric goes {beyond} {end:g}."
    return f"Raise evaluation.max_tokens until the references score {threshold:.4g}, or {change} the threshold."


def _budget_for(curve: Sequence[tuple[int, float]], wanted: float, sign: int) -> tuple[int, float] | None:
    """Return the smallest decode budget whose gold reaches a score, with what it reaches; None where none does."""
    return next((pair for pair in sorted(curve) if sign * (pair[1] - wanted) >= -EPSILON), None)


def _larger_budget(curve: Sequence[tuple[int, float]], enough: tuple[int, float]) -> str:
    """Return the fix: the budget that shows all that more tokens can show, and the least that reaches the threshold."""
    most = max(curve)
    if most[0] == enough[0]:
        return f"Set evaluation.max_tokens to {enough[0]}, where the references score {enough[1]:.4g}."
    return (
        f"Set evaluation.max_tokens to {most[0]}, where the references score {most[1]:.4g}; "
        f"{enough[0]} is the least that reaches the threshold ({enough[1]:.4g})."
    )


def _out_of_room(
    condition: Condition, known: "_Known", budgets: Mapping[str, Sequence[tuple[int, float]]]
) -> Finding | None:
    """Mode 4: a demanded difference larger than what is left between the base and the best possible score."""
    ceilings, baseline = known.ceilings, known.baseline
    if condition.against == "value" or not all(metric in baseline for metric in condition.metrics):
        return None
    if condition.statistic == "new_failures":
        return None
    bests = {metric: known.best(metric, condition.sign) for metric in condition.metrics}
    rooms = {metric: condition.sign * (bests[metric] - baseline[metric].mean) for metric in condition.metrics}
    metric = max(rooms, key=lambda name: rooms[name])
    room, base = rooms[metric], baseline[metric]
    threshold = condition.sign * condition.threshold / (base.n if condition.statistic == "count" else 1)
    if threshold <= room + EPSILON:
        return None
    best = bests[metric]
    source = "the references' score" if metric in ceilings else "the end of the scale"
    enough = _budget_for(budgets.get(metric, ()), base.mean + condition.sign * threshold, condition.sign)
    smaller = f"Ask for a change of at most {room:.4g}, or state the threshold as a value."
    return Finding(
        mode="4",
        severity="hard_stop",
        subject=f"gate:{condition.id}",
        claim="reachable_from_base",
        sentence=(
            f"The gate asks {metric} to change by {condition.sign * threshold:+.4g} from a {known.side} of "
            f"{base.mean:.4g}; the room to {source} ({best:.4g}) is {room:.4g}."
        ),
        value={"metric": metric, "asked": condition.sign * threshold, "base": base.mean, "best": best, "room": room},
        fix=_larger_budget(budgets[metric], enough) if enough else smaller,
    )


def _too_coarse(condition: Condition, known: "_Known", alpha: float) -> Finding | None:
    """P5: the demanded change is smaller than one case."""
    measured = [metric for metric in condition.metrics if metric in known.baseline]
    if condition.against == "value" or not measured or condition.kind == "plain":
        return None
    n = max(known.baseline[metric].n for metric in measured)
    width = min(known.scale(metric).width for metric in measured)
    step = width / n if condition.statistic == "mean" else width
    margin = abs(condition.bound)
    if margin >= step - EPSILON:
        return None
    what = "a no-worse margin" if condition.kind == "non_inferiority" else "an improvement"
    needed = cases_needed(condition, measured[0], alpha, cases=known.start, use=known.use)
    least = needed.least if needed is not None and condition.statistic == "mean" else None
    cases = f" or {least:,} cases" if least else ""
    return Finding(
        mode="P5",
        severity="warning",
        subject=f"gate:{condition.id}",
        claim="resolvable",
        sentence=(
            f"{condition.id} asks for {what} of {margin:.4g}, but with {n} cases a 0/1 score moves in steps "
            f"of {step:.4g}."
        ),
        value={"margin": margin, "step": step, "n": n, "cases_needed": least},
        fix=f"Give a margin of at least {step:.4g}{cases}, a denser metric, or `test: plain` with a reason.",
    )


class _Known(NamedTuple):
    """What is known of the harness, and of the side that a condition compares with, before the first run."""

    ceilings: Mapping[str, float]
    baseline: Mapping[str, Mean]
    cases: CaseTable | None
    use: SplitUse
    side: Side
    scales: Mapping[str, Scale]

    def scale(self, metric: str) -> Scale:
        """Return the scale of a `split.metric`."""
        return scale_of(self.scales, metric)

    @property
    def start(self) -> CaseTable:
        """The base and the parent alone, by their means where their cases are not at hand."""
        cells = self.cases.cells if self.cases is not None else {}
        means: dict[Side, dict[str, Mean]] = {"base": dict(self.baseline), "parent": dict(self.baseline)}
        kept = {side: rows for side, rows in cells.items() if side != "candidate"}
        return CaseTable(cells=kept, means=means, scales=dict(self.scales))

    def best(self, metric: str, sign: int) -> float:
        """Return the best mean a candidate can reach."""
        return self.ceilings.get(metric, self.scale(metric).best(sign))


def _undecidable(condition: Condition, known: _Known, alpha: float) -> Finding | None:
    """P5: even a perfect candidate would not be told from luck on this many cases.

    A hard stop when the base's cases are at hand; with its mean alone, taken as 0/1 scores, a warning.
    """
    if condition.kind == "plain" or not any(metric in known.baseline for metric in condition.metrics):
        return None
    table, is_measured = _perfect(condition, known)
    verdict = judge_condition(condition, table, alpha, use=known.use)
    if verdict.holds or verdict.low is None or verdict.high is None:
        return None
    bound = verdict.low if condition.sign > 0 else verdict.high
    metric = verdict.metric
    power = cases_needed(
        condition,
        metric,
        verdict.alpha,
        cases=known.start,
        use=known.use,
        delta=known.scale(metric).width,
        ceiling=known.ceilings.get(metric),
    )
    needed = None if power is None or (power.least or 0) <= verdict.n else power.least
    cases_fix = f"at least {needed:,} cases" if needed else "more cases"
    limit = limit_fix(condition, verdict.n, alpha, known.scales)
    return Finding(
        mode="P5",
        severity="hard_stop" if is_measured else "warning",
        subject=f"gate:{condition.id}",
        claim="decidable",
        sentence=(
            f"Even a candidate with the best possible score could not meet {condition.id} on {verdict.n} cases: "
            f"its bound at alpha {alpha:.3g} would be {bound:.4g} against {verdict.bound:.4g}."
        ),
        value={"n": verdict.n, "bound": bound, "asked": verdict.bound, "cases_needed": needed},
        fix=f"{limit[0].upper()}{limit[1:]}."
        if limit
        else f"Take {cases_fix}, a wider margin, a denser metric, or `test: plain` with a reason.",
    )


def _perfect(condition: Condition, known: _Known) -> tuple[CaseTable, bool]:
    """Return the base, and beside it a candidate that scores the best everywhere; and whether the base has cases.

    Without the base's cases they are made up: its mean as 0/1 scores.
    """
    cells: dict[Side, Any] = {"base": {}, "parent": {}, "candidate": {}}
    measured = []
    for metric in condition.metrics:
        if metric not in known.baseline:
            continue
        scores = known.cases.values(known.side, metric, known.use)[0] if known.cases is not None else {}
        measured.append(bool(scores))
        scale = known.scale(metric)
        base = scores or _as_cases(known.baseline[metric], scale)
        ideal = _ideal(base, known.best(metric, condition.direction), condition.direction, scale)
        sides: tuple[tuple[Side, dict[str, float]], ...] = (("base", base), ("parent", base), ("candidate", ideal))
        split, name = split_of(metric), name_of(metric)
        for side, row in sides:
            part = cells[side].setdefault(split, {}).setdefault(known.use, {})
            for case, score in row.items():
                part.setdefault(case, {})[name] = score
    return CaseTable(cells=cells, scales=dict(known.scales)), all(measured)


def _ideal(base: Mapping[str, float], best: float, sign: int, scale: Scale) -> dict[str, float]:
    """Return scores with the best possible mean that lose nothing the base has."""
    if not significance.is_binary([scale.share(score) for score in base.values()]):
        return {case: max(score * sign, best * sign) * sign for case, score in base.items()}
    ones = round(scale.share(best) * len(base))
    ranked = sorted(base, key=lambda case: (-base[case], case))
    return {case: scale.high if place < ones else scale.low for place, case in enumerate(ranked)}


def _as_cases(mean: Mean, scale: Scale) -> dict[str, float]:
    """Return scores at the ends of the scale with a mean (rounded to whole cases), best cases first."""
    passed = round(scale.share(mean.mean) * mean.n)
    return {f"{index:06d}": scale.high if index < passed else scale.low for index in range(mean.n)}


def _redundant(gate: Gate, cases: CaseTable, use: SplitUse) -> list[Finding | None]:
    """P4: two conditions whose metrics are one number, case by case, up to direction and scale."""
    findings: list[Finding | None] = []
    for place, (first, one) in enumerate(gate.demands):
        for second, other in gate.demands[place + 1 :]:
            if first.id != second.id and one != other and _same_cases(cases, one, other, use):
                findings.append(_redundancy(first, one, second, other))
    return findings


def _same_cases(cases: CaseTable, one: str, other: str, use: SplitUse) -> bool:
    """Return whether two metrics of one split are a straight line of each other on every side measured."""
    if split_of(one) != split_of(other):
        return False
    pairs = []
    for side in cases.cells:
        left, right = cases.values(side, one, use)[0], cases.values(side, other, use)[0]
        pairs += [(left[case], right[case]) for case in left if case in right]
    return is_one_measurement(pairs)


def is_one_measurement(pairs: Collection[tuple[float, float]]) -> bool:
    """Return whether pairs of scores (of cases, or of whole cycles) lie on one straight line that is not level."""
    if not pairs:
        return False
    (x0, y0), (x1, y1) = min(pairs), max(pairs)
    slope = (y1 - y0) / (x1 - x0) if x1 > x0 else 0.0
    return abs(slope) > EPSILON and all(abs(y - y0 - slope * (x - x0)) < 1e-6 for x, y in pairs)  # noqa: PLR2004 - rounding of scores


def _redundancy(first: Condition, one: str, second: Condition, other: str) -> Finding:
    return Finding(
        mode="P4",
        severity="warning",
        subject=f"gate:{first.id}",
        claim="independent",
        sentence=f"{first.id} and {second.id} measure one thing: {other} is a straight line of {one} in every case.",
        value={"conditions": [first.id, second.id], "metrics": [one, other]},
        fix=f"Drop {second.id}, or give it a metric that can disagree with {one}.",
    )


def ceilings(beliefs: Iterable[Belief], use: SplitUse) -> dict[str, float]:
    """Return `split.metric` -> what the references score through the harness, for the splits that have references."""
    means_of = {}
    for split, belief in _harness(beliefs, "ceiling", use):
        for metric, row in (belief.value or {}).items():
            if row.get("mean") is not None:
                means_of[f"{split}.{metric}"] = float(row["mean"])
    return means_of


def reference_tokens(beliefs: Iterable[Belief], use: SplitUse) -> dict[tuple[str, str], int]:
    """Return (split, case) -> tokens of its reference answer and the end token, for the cases that have one."""
    return {
        (split, case): int(tokens)
        for split, belief in _harness(beliefs, "decode_budget", use)
        for case, tokens in ((belief.value or {}).get("of_case") or {}).items()
    }


def decode_curves(beliefs: Iterable[Belief], use: SplitUse) -> dict[str, list[tuple[int, float]]]:
    """Return `split.metric` -> (max_tokens, ceiling) pairs."""
    curves = {}
    for split, belief in _harness(beliefs, "decode_curve", use):
        for metric, pairs in (belief.value or {}).items():
            curves[f"{split}.{metric}"] = [(int(tokens), float(score)) for tokens, score in pairs if score is not None]
    return curves


def _harness(beliefs: Iterable[Belief], claim: str, use: SplitUse) -> Iterable[tuple[str, Belief]]:
    for belief in beliefs:
        where = belief.subject.removeprefix("harness:")
        if belief.claim == claim and belief.status == "fresh" and where.endswith(f".{use}"):
            yield where.removesuffix(f".{use}"), belief


def base_table(measurements: Iterable[Measurement], weights: str, keys: frozenset[str], parent: str = "") -> CaseTable:
    """Return the cases of the base, and of what runs start from, from the evaluations that count.

    Args:
        measurements: All of them.
        weights: Hash of the base's weights.
        keys: Evaluations under today's harness.
        parent: Hash of the weights that runs start from; the base's when left out.
    """
    rows = (row for row in measurements if row.side != "candidate" and row.evaluation in keys)
    return CaseTable.from_measurements(rows, {"base": weights, "parent": parent or weights})


def gate_beliefs(goal: Goal, beliefs: list[Belief], table: CaseTable) -> list[Belief]:
    """Return what is to be believed about the gate and the baseline now.

    Args:
        goal: The campaign.
        beliefs: What stands; ceilings come from the census.
        table: The base as measured under today's harness; empty before it was.

    Returns:
        One belief per finding, and one per condition without a hard stop; nothing new before a ceiling is known under
        today's harness. What stood and cannot be said any more (the condition, the harness or the expectation has
        changed) comes back stale: a hard stop that was mended must not halt the campaign again.
    """
    made = _made(goal, beliefs, table)
    claims = {(belief.subject, belief.claim) for belief in made}
    return [*made, *(_outdated(b) for b in beliefs if _is_ours(b) and (b.subject, b.claim) not in claims)]


def _is_ours(belief: Belief) -> bool:
    """Say whether a belief that stands is one that this module made."""
    about = belief.subject.startswith("gate:") or belief.claim.startswith("reproduces.")
    return about and belief.status in {"fresh", "refuted"}


def _outdated(belief: Belief) -> Belief:
    why = f"Not known now, since what it stood on has changed: {belief.statement}"
    evidence = Evidence(kind="record", ref=belief.id, summary=f"{belief.id} stood on what is gone.")
    return belief.model_copy(
        update={"id": "", "status": "stale", "statement": why, "evidence": (evidence,), "premises": ()}
    )


def _made(goal: Goal, beliefs: list[Belief], table: CaseTable) -> list[Belief]:
    """Return what can be said now about the gate and the baseline."""
    known = [b for b in beliefs if b.claim == "ceiling" and b.subject.startswith("harness:") and b.status == "fresh"]
    if not known:
        return []
    scales = scales_of(goal.track.ranges)
    table = table.model_copy(update={"scales": scales})
    baseline, parent = _means(goal, table, "base"), _means(goal, table, "parent")
    alpha = _next_level(goal.gate, beliefs)
    findings: dict[tuple[str, str], Finding] = {}
    uses: tuple[SplitUse, SplitUse] = ("selection", "confirmation")
    for use in uses:
        for finding in reachability(
            goal.gate,
            ceilings(beliefs, use),
            baseline if use == "selection" else {},
            cases=table if use == "selection" and baseline else None,
            parent=parent if use == "selection" else {},
            use=use,
            budgets=decode_curves(beliefs, use),
            alpha=alpha,
            dense=goal.evaluation.dense,
            scales=scales,
        ):
            findings.setdefault((finding.subject, finding.claim), finding)
    premises = tuple(sorted(b.id for b in known))
    refuted = [_belief(finding, premises) for finding in findings.values()]
    stopped = {finding.subject for finding in findings.values() if finding.severity == "hard_stop"}
    met = [
        Belief(
            subject=f"gate:{condition.id}",
            claim=claim,
            statement=f"Within reach of the {checked}: {condition.sentence}.",
            value=True,
            tag="inferred",
            premises=premises,
            mode=mode,
            evidence=(
                Evidence(kind="record", ref="policies.checks", summary=f"Threshold held against the {checked}."),
            ),
        )
        for condition in goal.gate.conditions
        if f"gate:{condition.id}" not in stopped
        for claim, mode in (("below_ceiling", "P1"), ("reachable_from_base", "4"))
        if (f"gate:{condition.id}", claim) not in findings
        if (checked := _held_against(condition, claim, ceilings(beliefs, "selection"), baseline))
    ]
    of_cases = _cases_beliefs(goal, beliefs, table, premises)
    # A condition that is out of reach is said once.
    of_cases = [each for each in of_cases if each.subject not in stopped and (each.subject, each.claim) not in findings]
    return [*refuted, *met, *of_cases, *baseline_beliefs(goal, baseline)]


def _cases_beliefs(goal: Goal, beliefs: list[Belief], table: CaseTable, premises: tuple[str, ...]) -> list[Belief]:
    """Return what the confirmation cases can show of each condition, once the start is measured."""
    if not table.cells:
        return []
    counts = {
        split: max(int(row.get("n") or 0) for row in belief.value.values())
        for split, belief in _harness(beliefs, "ceiling", "confirmation")
        if belief.value
    }
    made = []
    alpha = _next_level(goal.gate, beliefs)
    for each in cases_told(goal.gate, counts, alpha=alpha, cases=table, ceilings=ceilings(beliefs, "selection")):
        belief = Belief(
            subject=f"gate:{each.condition}",
            claim="decidable",
            statement=each.sentence,
            value={"n": each.n, **each.needed.model_dump()},
            tag="inferred",
            status="refuted" if each.is_never_told else "fresh",
            severity="warning" if each.is_never_told else "note",
            premises=premises,
            mode="P5",
            evidence=(Evidence(kind="record", ref="policies.power", summary=each.sentence),),
            fix=each.fix,
            runbook=runbook_of("P5") if each.is_never_told else "",
        )
        made.append(belief)
    return made


def _next_level(gate: Gate, beliefs: Iterable[Belief]) -> float:
    """Return the level of the next opening by what Knowing read of the ledger; of the first where none is left."""
    read = (b for b in beliefs if (b.subject, b.claim) == LEDGER and b.status == "fresh")
    left = next((float(b.value["next_alpha"]) for b in read), 0.0)
    return left or gate.confirmation_alpha


def _held_against(condition: Condition, claim: str, known: Mapping[str, float], baseline: Mapping[str, Mean]) -> str:
    """Return what a condition was held against, empty where what a claim needs was not measured."""
    has_base = all(metric in baseline for metric in condition.metrics)
    has_ceiling = all(metric in known for metric in condition.metrics)
    has_ceiling = has_ceiling and (has_base or condition.statistic != "count")
    if not (has_base if claim == "reachable_from_base" else has_ceiling):
        return ""
    return " and ".join(name for name, is_known in (("ceiling", has_ceiling), ("base", has_base)) if is_known)


def _means(goal: Goal, table: CaseTable, side: Side) -> dict[str, Mean]:
    names = goal.gate.metrics | set(goal.baseline.expected)
    means = {metric: table.mean(side, metric, "selection") for metric in sorted(names)}
    return {metric: mean for metric, mean in means.items() if mean is not None}


def _belief(finding: Finding, premises: tuple[str, ...]) -> Belief:
    return Belief(
        subject=finding.subject,
        claim=finding.claim,
        statement=finding.sentence,
        value=finding.value,
        tag="inferred",
        status="refuted",
        severity=finding.severity,
        premises=premises,
        mode=finding.mode,
        evidence=(Evidence(kind="record", ref="policies.checks", summary=finding.sentence, detail=finding.value),),
        fix=finding.fix,
        runbook=runbook_of(finding.mode),
    )


def baseline_beliefs(goal: Goal, baseline: Mapping[str, Mean]) -> list[Belief]:
    """Return whether the base reproduces the scores that the campaign file expects of it."""
    formed = []
    for metric, expected in sorted(goal.baseline.expected.items()):
        measured = baseline.get(metric)
        if measured is None:
            continue
        tolerance = goal.tolerance_for(metric)
        off = abs(measured.mean - expected)
        holds = off <= tolerance + 1e-9
        statement = (
            f"The base scores {measured.mean:.4g} on {metric} ({measured.n} cases), "
            f"{'within' if holds else 'not within'} {tolerance:g} of the expected {expected:g}."
        )
        formed.append(
            Belief(
                subject="model:base",
                claim=f"reproduces.{metric}",
                statement=statement,
                value={"measured": measured.mean, "expected": expected, "tolerance": tolerance},
                tag="confirmed",
                status="fresh" if holds else "refuted",
                severity="hard_stop",
                mode="P12",
                evidence=(Evidence(kind="measurement", ref=metric, summary=statement),),
                fix="Find what differs between the weights and the grader, or correct baseline.expected.",
                runbook=runbook_of("P12"),
            )
        )
    return formed
