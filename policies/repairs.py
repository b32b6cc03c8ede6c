"""Repairs of the measurement, an instrument of its own: when the evaluator cannot tell, it is mended before a model is.

The campaign file says beforehand how far (`evaluation.repairs`): a larger decode budget, more cases, a denser metric. A
repair is a decision without an act: from then on the goal is the file's with the repair in it (`repaired`), the harness
is another one, and everything is measured again under it. The gate stays as it was written.
"""

from collections.abc import Collection, Iterable

from policies.checks import decode_curves
from policies.comparison import CaseTable
from policies.drafts import Draft, draft
from policies.history import View, hard_stops
from policies.next_run import affords, case_table, evaluation_s
from state.goal import Evaluation, Goal
from state.records import Alternative, Belief, Decision, Json

RULE = "repair."
"""How the rules of repairs begin."""

_CANNOT_TELL = frozenset({"measurement.first", "runs.unclear"})
"""Ends of a class that more cases or a denser metric might not have come to."""


def is_repair(decision: Decision) -> bool:
    """Say whether a decision changes how things are measured."""
    return decision.rule.startswith(RULE)


def repaired(goal: Goal, decisions: Iterable[Decision]) -> Goal:
    """Return a campaign file's goal with the repairs on record that it still allows.

    Args:
        goal: As written.
        decisions: All of them, oldest first.
    """
    evaluation = goal.evaluation
    for decision in decisions:
        if is_repair(decision):
            evaluation = _changed(evaluation, decision.verdict["repair"])
    return goal if evaluation == goal.evaluation else goal.model_copy(update={"evaluation": evaluation})


def _changed(evaluation: Evaluation, change: Json) -> Evaluation:
    allowed = evaluation.repairs
    budget = min(int(change.get("max_tokens", 0)), allowed.max_tokens or 0)
    splits = dict(evaluation.splits)
    for name, file in (change.get("cases") or {}).items():
        if name in splits and allowed.cases.get(name) == file:
            own = "file" if splits[name].file is not None else "selection"
            splits[name] = splits[name].model_copy(update={own: file})
    denser = change.get("dense") or {}
    dense = {metric: companion for metric, companion in denser.items() if allowed.dense.get(metric) == companion}
    return evaluation.model_copy(
        update={
            "max_tokens": max(evaluation.max_tokens, budget),
            "splits": splits,
            "dense": {**evaluation.dense, **dense},
        }
    )


def repair_of_stops(view: View) -> Draft | None:
    """Return what mends hard stops, where the campaign file allows to mend each that stands; then nothing halts."""
    stops = hard_stops(view)
    budgets = {stop.id: tokens for stop in stops if (tokens := _budget_for(view, stop)) is not None}
    splits = {stop.id: names for stop in stops if (names := _splits_of(view, stop))}
    if not stops or any(stop.id not in {*budgets, *splits} for stop in stops):
        return None
    if not budgets:
        names = sorted({name for each in splits.values() for name in each})
        return _more_cases(view, names, stops[0].statement, stops)
    cut = [stop for stop in stops if stop.id in budgets]
    tokens = max(budgets.values())
    return _draft(
        view,
        "decode_budget",
        f"{cut[0].statement} Decode up to {tokens} tokens instead of {view.goal.evaluation.max_tokens}, as "
        "evaluation.repairs allows, and measure everything again.",
        {"max_tokens": tokens},
        cut,
    )


def _budget_for(view: View, stop: Belief) -> int | None:
    """Return the decode budget that lets the gate be met and cuts as little as is allowed; None where none does."""
    value: Json = stop.value if stop.claim == "below_ceiling" and isinstance(stop.value, dict) else {}
    least, most = value.get("max_tokens"), view.goal.evaluation.repairs.max_tokens
    if not least or most is None or least > most:
        return None
    curves = [decode_curves(view.beliefs, use).get(str(value["metric"]), ()) for use in ("selection", "confirmation")]
    return max([int(least), *(tokens for curve in curves for tokens, _ in curve if tokens <= most)])


def _splits_of(view: View, stop: Belief) -> list[str]:
    """Return the splits with more cases at hand behind a condition that its cases cannot decide."""
    condition = next((c for c in view.goal.gate.conditions if stop.subject == f"gate:{c.id}"), None)
    if condition is None or stop.claim != "decidable":
        return []
    return [name for name in _larger(view) if any(metric.startswith(f"{name}.") for metric in condition.metrics)]


def _larger(view: View) -> list[str]:
    """Return the splits whose larger file was not taken yet."""
    splits = view.goal.evaluation.splits
    files = view.goal.evaluation.repairs.cases.items()
    return [name for name, file in files if file not in {splits[name].file, splits[name].selection}]


def _more_cases(view: View, names: list[str], why: str, premises: list[Belief]) -> Draft:
    return _draft(
        view,
        "more_cases",
        f"{why} Measure {' and '.join(names)} on the larger files that evaluation.repairs names, everything again.",
        {"cases": {name: view.goal.evaluation.repairs.cases[name] for name in names}},
        premises,
    )


def repair_of_runs(view: View, ends: Collection[str], why: str) -> Draft | None:
    """Return what lets runs that told nothing be judged again: more cases where there are, else a denser metric.

    Args:
        view: The record.
        ends: Rules by which the classes have ended. Whatever they are, runs that all told nothing are judged again.
        why: What the campaign would end with.
    """
    judged = [run for run in view.runs if run.bucket is not None]
    if not _CANNOT_TELL & set(ends) and any(run.bucket != "U" for run in judged):
        return None
    verdicts = [verdict for run in judged if (verdict := view.verdict(run)) is not None and not verdict.is_capped]
    metrics = list(dict.fromkeys(verdict.target.metric for verdict in verdicts if verdict.target is not None))
    names = [name for name in _larger(view) if any(metric.startswith(f"{name}.") for metric in metrics)]
    why += "" if _CANNOT_TELL & set(ends) else " And no run could be told from its parent (U)."
    if names and affords(view, evaluation_s(view) * (1 + len(judged)), runs=0).is_affordable:
        return _more_cases(view, names, why, [])
    spec, table = view.goal.evaluation, case_table(view, "")
    offered = {metric: other for metric, other in spec.repairs.dense.items() if metric not in spec.dense}
    dense = {metric: offered[metric] for metric in metrics if _is_measured(table, offered.get(metric, ""))}
    if not dense:
        return None
    pairs = " and ".join(f"{companion} for {metric}" for metric, companion in dense.items())
    return _draft(
        view,
        "dense_metric",
        f"{why} Read progress on {pairs} from now on, as evaluation.repairs allows, and judge the runs again; the gate "
        "asks what it asked.",
        {"dense": dense},
        [],
    )


def _is_measured(table: CaseTable, metric: str) -> bool:
    return bool(metric) and table.mean("base", metric, "selection") is not None


def _draft(view: View, name: str, sentence: str, change: Json, premises: list[Belief]) -> Draft:
    return draft(
        view,
        "judge",
        f"{RULE}{name}",
        sentence,
        {},
        verdict={"repair": change},
        premises=premises,
        alternatives=(Alternative(action="train", reason="no training changes what the evaluator can show"),),
    )
