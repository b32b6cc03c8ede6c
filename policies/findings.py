"""What is believed about the gate: conditions that can be met, conditions that cannot, a base that scores as expected.

The judgement behind beliefs on `gate:*` and `model:base`; Knowing records what these functions return.
"""

from collections.abc import Iterable, Mapping

from policies.cases import CaseTable, Mean, scales_of
from policies.checks import cases_told, reachability
from state.goal import Condition, Goal
from state.records import Belief, Evidence, Finding, Measurement, Side, SplitUse, runbook_of


def ceilings(beliefs: Iterable[Belief], use: SplitUse) -> dict[str, float]:
    """Return `split.metric` -> what the gold scores through the harness, for the splits that have references."""
    found = {}
    for split, belief in _harness(beliefs, "ceiling", use):
        for metric, row in (belief.value or {}).items():
            if row.get("mean") is not None:
                found[f"{split}.{metric}"] = float(row["mean"])
    return found


def reference_tokens(beliefs: Iterable[Belief], use: SplitUse) -> dict[tuple[str, str], int]:
    """Return (split, case) -> tokens of its reference answer and the end token, for the cases that have one."""
    return {
        (split, case): int(tokens)
        for split, belief in _harness(beliefs, "decode_budget", use)
        for case, tokens in ((belief.value or {}).get("of_case") or {}).items()
    }


def decode_curves(beliefs: Iterable[Belief], use: SplitUse) -> dict[str, list[tuple[int, float]]]:
    """Return `split.metric` -> (max_tokens, ceiling) pairs."""
    found = {}
    for split, belief in _harness(beliefs, "decode_curve", use):
        for metric, pairs in (belief.value or {}).items():
            found[f"{split}.{metric}"] = [(int(tokens), float(score)) for tokens, score in pairs if score is not None]
    return found


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
    said = {(belief.subject, belief.claim) for belief in made}
    return [*made, *(_outdated(b) for b in beliefs if _is_ours(b) and (b.subject, b.claim) not in said)]


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
    found: dict[tuple[str, str], Finding] = {}
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
            dense=goal.evaluation.dense,
            scales=scales,
        ):
            found.setdefault((finding.subject, finding.claim), finding)
    premises = tuple(sorted(b.id for b in known))
    refuted = [_belief(finding, premises) for finding in found.values()]
    stopped = {finding.subject for finding in found.values() if finding.severity == "hard_stop"}
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
        if (f"gate:{condition.id}", claim) not in found
        if (checked := _held_against(condition, claim, ceilings(beliefs, "selection"), baseline))
    ]
    told = _cases_beliefs(goal, beliefs, table, premises)
    told = [belief for belief in told if (belief.subject, belief.claim) not in found]
    return [*refuted, *met, *told, *baseline_beliefs(goal, baseline)]


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
    for told in cases_told(goal.gate, counts, cases=table, ceilings=ceilings(beliefs, "selection")):
        belief = Belief(
            subject=f"gate:{told.condition}",
            claim="decidable",
            statement=told.sentence,
            value={"n": told.n, **told.needed.model_dump()},
            tag="inferred",
            status="refuted" if told.is_never_told else "fresh",
            severity="warning" if told.is_never_told else "note",
            premises=premises,
            mode="P5",
            evidence=(Evidence(kind="record", ref="policies.power", summary=told.sentence),),
            fix=told.fix,
            runbook=runbook_of("P5") if told.is_never_told else "",
        )
        made.append(belief)
    return made


def _held_against(condition: Condition, claim: str, known: Mapping[str, float], baseline: Mapping[str, Mean]) -> str:
    """Return what a condition was held against, empty where what a claim needs was not measured."""
    has_base = all(metric in baseline for metric in condition.metrics)
    has_ceiling = all(metric in known for metric in condition.metrics)
    has_ceiling = has_ceiling and (has_base or condition.statistic != "count")
    if not (has_base if claim == "reachable_from_base" else has_ceiling):
        return ""
    return " and ".join(name for name, is_known in (("ceiling", has_ceiling), ("base", has_base)) if is_known)


def _means(goal: Goal, table: CaseTable, side: Side) -> dict[str, Mean]:
    names = {metric for condition in goal.gate.conditions for metric in condition.metrics} | set(goal.baseline.expected)
    found = {metric: table.mean(side, metric, "selection") for metric in sorted(names)}
    return {metric: mean for metric, mean in found.items() if mean is not None}


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
    found = []
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
        found.append(
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
    return found
