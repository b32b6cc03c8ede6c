"""What a record shows of the failure modes, without the files behind it.

Each probe reads one cycle, or one among those of its track, and stays silent where the record says nothing. A probe
here can only suspect what the probes on files (`tools/probes/`) settle.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from policies.checks import beats, beyond_reach, contradiction, reachability
from policies.comparison import Mean, Scale
from policies.recipes import MAX_EPOCHS
from policies.replay.records import Cycle, Known, RecordedCondition, ReplayedCondition, ReplayFinding, Track
from policies.target import find_target
from policies.verdict import ALPHA
from state.goal import Condition, Gate
from state.records import Finding, Json, Severity, SplitUse

START_LOSS = math.log(2)
"""First loss of every preference run whose policy and reference coincide, nats."""

WALL_FACTOR = 2.0
"""A run that takes this many times its estimate, or its estimate this many times the run, was not estimated."""

SAME_SCORES = 3
"""Trained cycles with one and the same score that call for a look at the instrument."""

ONE_POLICY_SHARE = 0.5
"""Share of training answers that delete, from which a set teaches little else."""

DISCRIMINATED_LOSS = 0.01
"""Preference loss below which pairs are told apart perfectly, nats."""

MANY_CASES = 2000
"""Cases from which a ruler is fine enough for any margin a gate asks."""

_ROUNDING = 5e-4
"""Half a unit of the third decimal: what a published figure may be off by."""


def number(value: Any) -> float | None:
    """Return a finite number of a loosely written record, or None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def part(notes: Json, *keys: str) -> Json:
    """Return an object inside a loosely written record, empty where it is something else."""
    for key in keys:
        inner = notes.get(key)
        notes = inner if isinstance(inner, dict) else {}
    return notes


def findings(cycle: Cycle, track: Track, gate: Sequence[ReplayedCondition]) -> tuple[ReplayFinding, ...]:
    """Return what the record shows about a cycle, hard stops first.

    Args:
        cycle: The cycle.
        track: The cycles of its track up to and including it.
        gate: Its conditions as judged again.
    """
    found = [finding for probe in _PROBES for finding in probe(cycle, track)]
    found += [*_unsure(cycle, gate), *_misquoted(cycle, gate)]
    rank = {"hard_stop": 0, "warning": 1, "note": 2}
    return tuple(sorted(found, key=lambda finding: rank[finding.severity]))


class _Kind(NamedTuple):
    """What kind of finding a probe makes."""

    mode: str
    claim: str
    severity: Severity
    known: Known


def _finding(
    cycle: Cycle, kind: _Kind, sentence: str, fix: str = "", *, others: Sequence[str] = (), **value: Any
) -> ReplayFinding:
    subject, more = f"cycle:{cycle.id}", tuple(others)
    return ReplayFinding(**kind._asdict(), subject=subject, sentence=sentence, fix=fix, value=value, others=more)


# The gate


def out_of_reach(cycle: Cycle) -> list[Finding]:
    """Return P1 and mode 4: conditions that no adapter can meet, of the cycle's gate or of the harness file's."""
    asked = _asked(cycle)
    found: dict[tuple[str, str], Finding] = {}
    if not asked:
        return []
    scales = cycle.cases.scales
    for finding in beyond_reach(_gate(asked), cycle.ceilings, _baseline(cycle, asked), cycle.budgets, scales):
        found.setdefault((finding.mode, str(finding.value["metric"])), finding)
    # What the harness shows is known before any base is measured, so it is told first.
    return sorted(found.values(), key=lambda finding: finding.mode != "P1")


def _asked(cycle: Cycle) -> tuple[Condition, ...]:
    """Return what is asked of a cycle, by its own gate and by the harness file's."""
    return (*(cycle.gate.conditions if cycle.gate is not None else ()), *cycle.harness_gate)


def _out_of_reach(cycle: Cycle, _: Track) -> Iterator[ReplayFinding]:
    if cycle.instrument is None:
        return
    conditions = {f"gate:{condition.id}": condition for condition in _asked(cycle)}
    for finding in out_of_reach(cycle):
        yield _of_reach(_beaten(cycle, conditions[finding.subject], finding) or finding)


def _beaten(cycle: Cycle, condition: Condition, finding: Finding) -> Finding | None:
    """Return the contradiction where the cycle itself scored more than the ceiling that is said to forbid it."""
    metric = str(finding.value["metric"])
    scored, ceiling = cycle.figure("candidate", metric), cycle.ceilings.get(metric)
    if finding.mode != "P1" or scored is None or ceiling is None or not beats(condition, scored.mean, ceiling):
        return None
    return contradiction(condition, metric, cycle.id, scored.mean, ceiling)


def _of_reach(finding: Finding) -> ReplayFinding:
    return ReplayFinding(
        mode=finding.mode,
        severity=finding.severity,
        # Only what was trained can contradict what was known before.
        known="after evaluation" if finding.claim == "agrees_with_ceiling" else "before training",
        subject=finding.subject,
        claim=finding.claim,
        sentence=finding.sentence,
        fix=finding.fix,
        value=finding.value,
    )


def _gate(conditions: tuple[Condition, ...]) -> Gate:
    """Return conditions as one gate, at the level of the comparisons."""
    return Gate(conditions=conditions, alpha=ALPHA, max_confirmations=1)


def _baseline(cycle: Cycle, conditions: tuple[Condition, ...]) -> dict[str, Mean]:
    """Return what a cycle's base scores on the metrics of conditions, as far as it was measured."""
    metrics = sorted({metric for condition in conditions for metric in condition.metrics})
    means = {metric: cycle.figure("base", metric) for metric in metrics}
    return {metric: mean for metric, mean in means.items() if mean is not None}


def _too_coarse(cycle: Cycle, _: Track) -> Iterator[ReplayFinding]:
    """P5: what the gate asks is finer than its cases can tell, once a test is asked for instead of a bare number.

    What a test of the record was seen to show was not too fine for it.
    """
    if cycle.gate is None or cycle.instrument is None:
        return
    shown = {row.id for row in cycle.conditions if row.holds}
    open_ = [c for c in cycle.gate.conditions if c.kind == "plain" or c.id not in shown]
    known = [(c, [cycle.figure("base", metric) for metric in c.metrics]) for c in open_]
    few = [c for c, means in known if all(mean is None or mean.n <= MANY_CASES for mean in means)]
    if not few:
        return
    asked = tuple(condition.model_copy(update={"test": "auto"}) for condition in few)
    baseline = _baseline(cycle, asked)
    if cycle.cases.cells:
        # By the cases themselves, at the level that the record's own gate has.
        own = cycle.gate.model_copy(update={"conditions": asked, "meaningful_delta": None})
        use: SplitUse = "confirmation" if cycle.is_confirmed else "selection"
        level = cycle.alpha or (own.confirmation_alpha if cycle.is_confirmed else own.alpha / cycle.looks)
        reached = reachability(own, cycle.ceilings, baseline, cases=cycle.cases, use=use, alpha=level)
        found = tuple(finding for finding in reached if finding.mode == "P5")
    else:
        scales = tuple(sorted(cycle.cases.scales.items(), key=lambda each: each[0]))
        found = _coarse(asked, tuple(baseline.items()), tuple(sorted(cycle.ceilings.items())), scales)
    ids = list(dict.fromkeys(finding.subject.removeprefix("gate:") for finding in found))
    if found:
        more = f" The same holds for {', '.join(ids[1:])}." if ids[1:] else ""
        yield _finding(
            cycle,
            _Kind("P5", "resolvable", "warning", "before training"),
            f"{found[0].sentence}{more}",
            found[0].fix,
            others=ids[1:],
            conditions=ids,
        )


@lru_cache(maxsize=256)
def _coarse(
    conditions: tuple[Condition, ...],
    baseline: tuple[tuple[str, Mean], ...],
    ceilings: tuple[tuple[str, float], ...],
    scales: tuple[tuple[str, Scale], ...],
) -> tuple[Finding, ...]:
    """Return P5: judging a perfect candidate on made-up cases is dear, and many cycles share gate and base."""
    found = reachability(_gate(conditions), dict(ceilings), dict(baseline), scales=dict(scales))
    return tuple(finding for finding in found if finding.mode == "P5")


def _unsure(cycle: Cycle, gate: Sequence[ReplayedCondition]) -> Iterator[ReplayFinding]:
    """P5: a bare number decided where the interval has both answers in it."""
    close = [row for row in gate if row.label.endswith("not significant") or "not significant (" in row.label]
    # By place, not by name: a log may use one name twice.
    asked = zip(gate, cycle.conditions, strict=True)
    open_ = [row for row, recorded in asked if not row.holds and row.metric and _straddles(recorded, row)]
    rows = [*close, *open_]
    if cycle.instrument is None or not rows:
        return
    first = max(rows, key=lambda row: row.p_two_sided or 0.0)
    p = f", exact paired p = {first.p_two_sided:.2g} two-sided" if first.p_two_sided is not None else ""
    shown = f"{first.id} {first.value:.4g} (95 % interval {first.low:.4g} to {first.high:.4g}, {first.n} cases{p})"
    cases = f" {first.cases_needed} cases would tell if this went on." if first.cases_needed else ""
    others = [row.id for row in rows if row is not first]
    more = f" So {'was' if len(others) == 1 else 'were'} {', '.join(others)}." if others else ""
    yield _finding(
        cycle,
        _Kind("P5", "significant", "warning", "after evaluation"),
        f"{shown} was decided by a bare number that luck could have made.{cases}{more}",
        "Take more cases or a denser metric, or ask for a wider margin.",
        others=others,
        conditions=[row.id for row in rows],
        cases_needed=first.cases_needed,
    )


def _straddles(recorded: RecordedCondition, row: ReplayedCondition) -> bool:
    condition = recorded.condition
    if condition is None or condition.kind != "plain" or row.low is None or row.high is None:
        return False
    return row.low <= condition.threshold <= row.high


def _misquoted(cycle: Cycle, gate: Sequence[ReplayedCondition]) -> Iterator[ReplayFinding]:
    """Two places of one record that do not agree: the figures, and what the gate says was measured."""
    for row, recorded in zip(gate, cycle.conditions, strict=True):
        said = recorded.value
        if row.metric and row.value is not None and said is not None and abs(said - row.value) > _ROUNDING:
            yield _finding(
                cycle,
                _Kind("P12", "agrees", "warning", "after evaluation"),
                f"The gate says {row.id} was {said:.4g}; the record's own figures give {row.value:.4g}.",
                "Correct one of the two.",
            )


def _counted_twice(cycle: Cycle, track: Track) -> Iterator[ReplayFinding]:
    """P4: two conditions whose metrics lay on one straight line whenever they were measured."""
    if cycle.gate is None or cycle.instrument is None:
        return
    named = [(c.id, metric) for c, metric in cycle.gate.demands]
    for place, (first, one) in enumerate(named):
        for second, other in named[place + 1 :]:
            if first == second or one == other:
                continue
            pairs = track.pairs(one, other)
            if pairs.distinct >= SAME_SCORES and pairs.is_line():
                yield _finding(
                    cycle,
                    _Kind("P4", "independent", "warning", "after evaluation"),
                    f"{first} and {second} measure one thing: {other} is a straight line of {one} in all "
                    f"{pairs.count} figures of the record.",
                    f"Drop {second}, or give it a metric that can disagree.",
                    metrics=[one, other],
                )


# The weights


def _parent_fails(cycle: Cycle, _: Track) -> Iterator[ReplayFinding]:
    """P12, and mode 2 where the files' sizes say why: the parent does not score what it is expected to."""
    for row in cycle.conditions:
        if row.op != "abs_delta<=" or row.value is None or abs(row.value) <= row.threshold:
            continue
        base = part(cycle.notes, "base")
        expected, measured = (
            number(base.get(name)) for name in ("expected_correct", "measured_fused_baseline_correct")
        )
        told = ""
        if expected is not None and measured is not None:
            told = f"It scores {measured:g} where {expected:g} ± {row.threshold:g} was expected. "
        lost = _lost_bytes(part(cycle.notes, "artifact_bytes"))
        yield _finding(
            cycle,
            _Kind("2" if lost else "P12", "reproduces", "hard_stop", "before training"),
            f"The parent is not what it is taken for: off by {abs(row.value):g}, {row.threshold:g} allowed. "
            f"{told}{lost}".strip(),
            "Fuse with dequantize into a fresh folder, and compare the logits of fused and of base with adapter."
            if lost
            else "Find what differs between the weights before training on them.",
            off=abs(row.value),
            allowed=row.threshold,
        )


def _lost_bytes(sizes: Json) -> str:
    """Return how a fused model shows that nothing was fused into it, or an empty text."""
    fused = next((number(size) for name, size in sorted(sizes.items()) if name.startswith("fused")), None)
    base = next((number(size) for name, size in sorted(sizes.items()) if name.startswith("base")), None)
    adapter = number(sizes.get("adapter"))
    if fused is None or base is None or adapter is None or fused > base:
        return ""
    return f"The fused file is {base - fused:,.0f} bytes smaller than the base, beside an adapter of {adapter:,.0f}."


def _other_weights(cycle: Cycle, _: Track) -> Iterator[ReplayFinding]:
    """P2: judged on other weights than it was trained on."""
    trained, judged = part(cycle.notes, "recipe").get("model"), cycle.notes.get("evaluated_on")
    if trained and judged and trained != judged:
        yield _finding(
            cycle,
            _Kind("P2", "parent_matches", "hard_stop", "before evaluation"),
            f"The adapter was trained on {trained} and judged on {judged}: its figures are not its own.",
            "Evaluate it on the weights it was trained on, and measure those beside it.",
            trained_on=trained,
            evaluated_on=judged,
        )


def _two_baselines(cycle: Cycle, track: Track) -> Iterator[ReplayFinding]:
    """P12: one base with two scores on the same split."""
    model = part(cycle.notes, "recipe").get("model")
    if cycle.instrument is None or not model:
        return
    base = cycle.cases.means.get("base", {})
    for place in track.untrained:
        other = track.cycles[place]
        if part(other.notes, "recipe").get("model") != model:
            continue
        pairs = {name: (track.column(name)[place].candidate, mean) for name, mean in base.items()}
        moved = {name: (was.mean, now.mean) for name, (was, now) in pairs.items() if was and _differs(was, now)}
        if moved:
            shown = ", ".join(f"{name} {was:.4g} and {now:.4g}" for name, (was, now) in sorted(moved.items()))
            yield _finding(
                cycle,
                _Kind("P12", "baseline", "warning", "after evaluation"),
                f"The base has two scores in {other.id} and here: {shown}.",
                "Measure parent and candidate under one harness, on one day.",
                metrics=sorted(moved),
            )


def _differs(was: Mean, now: Mean) -> bool:
    return was.n == now.n and abs(was.mean - now.mean) > _ROUNDING


# The data and the recipe


def _separable(cycle: Cycle, _: Track) -> Iterator[ReplayFinding]:
    """P3: pairs that one surface feature tells apart, as far as the record says how they were made."""
    data = part(cycle.notes, "data")
    share = data.get("drop_fraction")
    least = number(share[0]) if isinstance(share, list) and share else None
    if cycle.instrument != "dpo" or least is None or least <= 0:
        return
    pairs = data.get("train_pairs")
    yield _finding(
        cycle,
        _Kind("P3", "pairs_need_reading", "hard_stop", "before training"),
        f"Every rejected answer is a chosen one with at least {100 * least:.0f} % of it removed, so length alone tells "
        f"the sides of {'all' if pairs is None else f'all {pairs}'} pairs apart, with nothing learned of the task.",
        "Give rejected answers the length, line ends and characters of chosen ones, and test one feature at a time.",
        least_removed=least,
    )


def _one_policy(cycle: Cycle, _: Track) -> Iterator[ReplayFinding]:
    """Mode 5: training answers that teach one thing only."""
    data = part(cycle.notes, "data")
    ratios = [number(value) for name, value in data.items() if name.startswith("deletion_ratio")]
    ratio = max((value for value in ratios if value is not None), default=0.0)
    if ratio > ONE_POLICY_SHARE:
        yield _finding(
            cycle,
            _Kind("5", "policies_balanced", "warning", "before training"),
            f"{100 * ratio:.0f} % of the training answers delete something ({data.get('deletion_events', '?')} "
            "deletions), so deleting is what they teach.",
            "Add answers that keep what they might delete.",
            ratio=ratio,
        )


def _overdose(cycle: Cycle, _: Track) -> Iterator[ReplayFinding]:
    """Mode 1: more passes over the data than adapters of this kind survived."""
    recipe = part(cycle.notes, "recipe")
    stated = [number(value) for name, value in recipe.items() if name.startswith("epochs")]
    epochs = max((value for value in stated if value is not None), default=0.0)
    if epochs > MAX_EPOCHS:
        yield _finding(
            cycle,
            _Kind("1", "dose", "warning", "before training"),
            f"About {epochs:g} passes over the data; from {MAX_EPOCHS:g} on a model of this size may collapse.",
            "Train fewer passes, with a lower rank or scale and some dropout.",
            epochs=epochs,
        )


# The training


def _mistimed(cycle: Cycle, _: Track) -> Iterator[ReplayFinding]:
    """Mode 10: an estimate that was off by more than it may be."""
    predicted = part(cycle.notes, "train").get("estimated_wall_before_run_minutes")
    bounds = predicted if isinstance(predicted, list) else [predicted]
    known = [value for value in map(number, bounds) if value is not None and value > 0]
    if not known or not cycle.wall_s:
        return
    took = cycle.wall_s / 60
    factor = max(took / max(known), min(known) / took)
    if factor >= WALL_FACTOR:
        span = " to ".join(f"{value:g}" for value in known)
        yield _finding(
            cycle,
            _Kind("10", "wall_time", "warning", "after evaluation"),
            f"It took {took:.0f} min; {span} were estimated, at least {factor:.1f} times off.",
            "Time a few steps on the real lengths before planning the night.",
            factor=factor,
        )


def _lost_save(cycle: Cycle, _: Track) -> Iterator[ReplayFinding]:
    """Mode 12: a resumed run whose first loss is a fresh start's."""
    check = part(cycle.notes, "train", "resume_check")
    resumed, fresh = (number(check.get(name)) for name in ("phase2_iter1_val", "fresh_start_val"))
    if resumed is not None and fresh is not None and resumed > 0.8 * fresh:
        yield _finding(
            cycle,
            _Kind("12", "resumed", "hard_stop", "before evaluation"),
            f"The resumed run began at a loss of {resumed:g}, a fresh start at {fresh:g}: the save was not loaded.",
            "Stop at the first step and load what was saved.",
            resumed=resumed,
            fresh=fresh,
        )


def _curve(cycle: Cycle) -> list[Json]:
    """Return the loss curve's points, of all phases in order."""
    points = part(cycle.notes, "train").get("loss_curve") or []
    flat: list[Json] = []
    for point in points if isinstance(points, list) else []:
        inner = point.get("points") if isinstance(point, dict) else None
        flat += inner if isinstance(inner, list) else [point]
    return [point for point in flat if isinstance(point, dict)]


def _proves_nothing(cycle: Cycle, _: Track) -> Iterator[ReplayFinding]:
    """P6: a first preference loss of ln 2, which policy and reference have whenever they are the same."""
    points = _curve(cycle)
    losses = [number(points[0].get(name)) for name in ("train_loss", "val_loss")] if points else []
    if cycle.instrument == "dpo" and any(loss is not None and abs(loss - START_LOSS) < _ROUNDING for loss in losses):
        yield _finding(
            cycle,
            _Kind("P6", "start_loss", "note", "after evaluation"),
            "A first loss of 0.693 is ln 2: it is there whenever policy and reference coincide, good weights or bad.",
        )


def _discriminates(cycle: Cycle, _: Track) -> Iterator[ReplayFinding]:
    """Mode 14: pairs told apart perfectly, and the target no better for it."""
    points = _curve(cycle)
    reached = [p for p in points if (number(p.get("train_loss")) or math.inf) < DISCRIMINATED_LOSS]
    if cycle.instrument != "dpo" or not reached or cycle.gate is None:
        return
    target = find_target(cycle.gate, cycle.cases, use="selection")
    after = None if target is None else cycle.figure("candidate", target.metric)
    if target is None or after is None or target.sign * (after.mean - target.parent) > 0:
        return
    steps = [value for value in (number(p.get("iter")) for p in points) if value is not None]
    at = number(reached[0].get("iter"))
    when = f" by iteration {at:g} of {max(steps):g}" if at is not None else ""
    yield _finding(
        cycle,
        _Kind("14", "generation_moved", "warning", "after evaluation"),
        f"The loss fell below {DISCRIMINATED_LOSS:g}{when}, and {target.metric} went from {target.parent:.4g} to "
        f"{after.mean:.4g}: the pairs were told apart, and generation learned nothing.",
        "Stop on a collapsing loss, generate, and look for the feature that separates the pairs (P3).",
    )


# The instrument


def _same_score(cycle: Cycle, track: Track) -> Iterator[ReplayFinding]:
    """P1, suspected: different experiments with one and the same score point at the instrument."""
    target = _target_metric(cycle)
    if target is None or target in cycle.ceilings:
        return
    before, after = track.column(target)[-1]
    if cycle.instrument is None or after is None or before in {None, after}:
        return
    same = track.equal_scores(target, after)
    if len(same) >= SAME_SCORES:
        names = ", ".join(same)
        yield _finding(
            cycle,
            _Kind("P1", "same_score", "warning", "after evaluation"),
            f"{names} differ in what was trained and score exactly {after.mean:.4g} on {target}: suspect the "
            "instrument before the models.",
            "Run the reference answers through the harness, decode budget included, before another cycle.",
            metric=target,
            score=after.mean,
        )


def _target_metric(cycle: Cycle) -> str | None:
    target = None if cycle.gate is None else find_target(cycle.gate, cycle.cases, use="selection")
    return None if target is None else target.metric


_PROBES: tuple[Callable[[Cycle, Track], Iterator[ReplayFinding]], ...] = (
    _out_of_reach,
    _parent_fails,
    _other_weights,
    _separable,
    _lost_save,
    _too_coarse,
    _counted_twice,
    _two_baselines,
    _one_policy,
    _overdose,
    _discriminates,
    _same_score,
    _mistimed,
    _proves_nothing,
)
"""In the order in which findings of one weight are told."""
