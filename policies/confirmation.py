"""Confirmation: when its cases are opened for a candidate and beside what, and the last look before an end."""

from collections.abc import Callable, Mapping

from policies.drafts import Draft, done, draft, is_same
from policies.history import View
from policies.ledger import goal_of
from policies.next_run import affords, counts, evaluation_s, parent_of, slack
from policies.target import aim_of
from policies.verdict import BucketVerdict
from state.goal import Gate
from state.records import Action, Decision, Json, Request, Run, Side, SplitUse


def is_promotion_open(view: View) -> bool:
    """Say whether a promotion waits for its answer."""
    for decision in view.decisions:
        asks = decision.action == "promote" and not view.is_withdrawn(decision)
        question = view.answer_to(decision) if asks else None
        if question is not None and question.answer is None:
            return True
    return False


def measure_parent(view: View, run: Run) -> Draft | None:
    """Measure on the confirmation splits what a run started from, unless that is the base."""
    if run.parent_hash == view.identity("weights"):
        return None
    parent = parent_of(view, run.instrument)
    adapter = parent.adapter if parent.weights == run.parent_hash else ""
    sentence = f"Measure what {run.id} started from on the confirmation splits, beside which it is confirmed."
    return measure(view, "parent", run.parent_hash, "confirmation", "confirm.parent", sentence, adapter)


def measure_base(view: View, use: SplitUse, rule: str, sentence: str) -> Draft | None:
    """Measure the base on one part of the splits, unless that was done."""
    return measure(view, "base", view.identity("weights"), use, rule, sentence)


def measure(  # noqa: PLR0917 - which weights, on what, and why
    view: View, side: Side, weights: str, use: SplitUse, rule: str, sentence: str, adapter: str = ""
) -> Draft | None:
    """Measure weights on one part of the splits, unless that was done."""
    inputs: Json = {"side": side, "run": "", "use": use, "harness": view.identity("harness"), "weights": weights}
    inputs |= {"adapter": adapter} if adapter else {}
    if done(view, "evaluate", **inputs) is not None:
        return None
    return draft(view, "evaluate", rule, sentence, inputs)


def openings(view: View) -> list[Action]:
    """Return the times that this campaign opened confirmation cases for a candidate."""
    return [action for action in view.actions if action.kind == "confirm" and action.state == "done"]


def confirmed(view: View, inputs: Json) -> Action | None:
    """Return what measured a run on the confirmation cases for the gate as it asks now, where the result still counts.

    Args:
        view: The record.
        inputs: What measuring the run on the selection cases needs.
    """
    wanted, goal = {**inputs, "use": "confirmation"}, goal_of(view.goal.gate)
    matching = (a for a in openings(view) if is_same(a.inputs, wanted) and a.inputs.get("goal", goal) == goal)
    return next((a for a in matching if a.key not in view.invalidated.evaluations), None)


def was_refused(view: View, run: Run, weights: str) -> bool:
    """Say whether these very answers were put to the confirmation cases for the same gate, and the verdict was no.

    They are not opened for it once more: under another checkout of Vigil it would be another throw of the same dice.
    """
    question = {"candidate": view.candidate_of(weights), "goal": goal_of(view.goal.gate), "case_set": view.spent_on}
    harnesses = {
        a.inputs["harness"]
        for a in openings(view)
        if is_same(a.inputs, {"run": run.id, **question}) and a.key not in view.invalidated.evaluations
    }
    refusals = (d for d in view.decisions if d.run == run.id and d.bucket != "A")
    judgements = [view.judgement(each) for each in refusals if each.id not in view.invalidated.decisions]
    return any(each is not None and each.selection is not None and each.harness in harnesses for each in judgements)


def may_open(view: View, weights: str, keep: int = 0) -> bool:
    """Say whether the confirmation cases may be opened for weights, or the recorded opening of them be read again.

    Args:
        view: The record.
        weights: Of the candidate.
        keep: Openings to leave.
    """
    spending = view.spending
    question = view.candidate_of(weights), goal_of(view.goal.gate)
    if spending.recorded(*question) is not None:
        return spending.alpha_for(*question) > 0
    return spending.next_alpha > 0 and spending.openings_left > keep


def open_for(view: View, run: Run, inputs: Json, rule: str, why: str, request: str = "") -> Draft:  # noqa: PLR0917 - the parts of an act
    """Measure the base and the parent on the confirmation cases if that was not done, then the run itself.

    Args:
        view: The record.
        run: The run.
        inputs: What measuring it on the selection cases needs.
        rule: Why it is opened, as an id.
        why: And as the beginning of a sentence.
        request: Id of the request of a person that it fulfils.
    """
    base = measure_base(
        view,
        "confirmation",
        "confirm.base",
        "Measure the base on the confirmation splits, beside which the run is confirmed.",
    ) or measure_parent(view, run)
    if base is not None:
        return base
    spending, candidate = view.spending, view.candidate_of(str(inputs["weights"]))
    goal = goal_of(view.goal.gate)
    alpha, known = spending.alpha_for(candidate, goal), spending.recorded(candidate, goal)
    what = f"open confirmation {len(spending.openings) + 1} of {spending.most}"
    if known is not None:
        where = f" by {known.campaign}" if known.campaign not in {"", view.campaign.name} else ""
        what = f"these answers were put to these cases before{where}, so that opening is read again"
    opening = {"alpha": alpha, "candidate": candidate, "goal": goal, "case_set": spending.cases}
    return draft(
        view,
        "confirm",
        rule,
        f"{why}; {what}, judged at alpha {alpha:.4f}.",
        {**inputs, "use": "confirmation", **opening, **({"asked": request} if request else {})},
        run_id=run.id,
    )


def is_furthest(view: View, ours: BucketVerdict, run: Run) -> bool:
    """Say whether a run won something, and more than those that confirmation refused; the same would fail again."""
    refused = [
        verdict
        for action in openings(view)
        for other in view.runs
        if other.id == action.inputs.get("run") != run.id
        and other.bucket != "A"
        and (verdict := view.verdict(other)) is not None
    ]
    return ours.is_win and all(slack(ours) > slack(verdict) for verdict in refused)


def why_not_confirmed(view: View, run: Run) -> str:
    """Return why a person's request to open confirmation for a run is refused, empty where it is not.

    A run whose verdict no longer counts is judged again first, so it is no reason.
    """
    verdict = view.verdict(run)
    if run.bucket is None or verdict is None:
        return f"{run.id} is not judged yet: it has no scores on the selection cases to confirm."
    weights = view.trained(run).weights
    question = {"run": run.id, "harness": view.identity("harness")}
    goal = goal_of(view.goal.gate)
    is_put = any(is_same(a.inputs, question) and a.inputs.get("goal", goal) == goal for a in openings(view))
    if is_put or was_refused(view, run, weights):
        return f"{run.id} was put to the confirmation cases already; they are not opened twice for one run."
    if not may_open(view, weights):
        return view.spending.refusal
    if counts(view, run) and not (verdict.is_win and verdict.is_promising):
        rose = "" if verdict.is_win else " What its target did is within noise."
        return (
            f"{run.id} does not meet the gate on the selection cases, so confirmation is not opened for it: "
            f"{verdict.gate.sentence}{rose}"
        )
    return ""


def why_not_promoted(view: View, run: Run) -> str:
    """Return why a person's request to promote a run is refused, empty where it is not; as `why_not_confirmed`."""
    verdict = view.verdict(run)
    if run.bucket is None or verdict is None:
        return f"{run.id} is not judged yet, so it cannot be promoted."
    if view.campaign.promoted == run.id:
        return f"{run.id} is promoted already."
    if all(action.inputs.get("run") != run.id for action in openings(view)):
        return (
            f"{run.id} was never put to the confirmation cases, and only a run that holds there is promoted: ask for "
            f"it with vigil confirm {run.id}."
        )
    if counts(view, run) and run.bucket != "A":
        newest = view.judged(run.id)
        judgement = view.judgement(newest) if newest is not None else None
        why = judgement.gate.sentence if judgement is not None else ""
        return f"{run.id} does not hold on the confirmation cases, so it is not promoted: {why}"
    return ""


def open_requests(view: View) -> list[tuple[Request, Run]]:
    """Return what people asked of runs, was accepted and is not done yet, oldest first."""
    accepted = {row.decision for row in view.approvals if row.answer == "yes"}
    done_for = {str(d.action_inputs.get("asked")) for d in view.decisions if not _came_to_nothing(view, d)}
    return [
        (request, run)
        for request in view.requests
        if request.id in accepted - done_for and (run := view.run(request.target)) is not None
        if not why_not(view, request.kind, run.id)
    ]


def _came_to_nothing(view: View, decision: Decision) -> bool:
    """Say whether what was decided failed, or was withdrawn before it began: what asked for it still stands."""
    action = view.action(decision.action_key)
    return view.is_withdrawn(decision) if action is None else action.state == "failed"


_WHY_NOT: Mapping[str, Callable[[View, Run], str]] = {"confirm": why_not_confirmed, "promote": why_not_promoted}


def why_not(view: View, kind: str, run_id: str) -> str:
    """Return why what a person asks of a run, `confirm` or `promote`, is refused; empty where it is not."""
    run = view.run(run_id)
    if run is None:
        return f"There is no run {run_id}; vigil runs lists them."
    if run.id in view.invalidated.trainings:
        return f"{run.id} was trained on weights or data that no longer stand, so nothing is done with it."
    return _WHY_NOT[kind](view, run)


def candidate_inputs(view: View, run: Run) -> Json:
    """Return what measuring a trained run on the selection cases needs."""
    trained = view.trained(run)
    return {
        "side": "candidate",
        "run": run.id,
        "use": "selection",
        "harness": view.identity("harness"),
        "weights": trained.weights,
        "adapter": trained.adapter,
        **({"save": trained.judged_step} if trained.judged_step is not None else {}),
    }


def was_opened_late(view: View, run: Run) -> bool:
    """Say whether confirmation was opened for a run after its verdict, which then has to be given again."""
    newest = view.judged(run.id)
    # Of these weights: after an edit another save may be what the run is judged at, and that one was not opened.
    opened = view.training(run) is not None and confirmed(view, candidate_inputs(view, run)) is not None
    judgement = view.judgement(newest) if newest is not None else None
    return opened and judgement is not None and judgement.selection is None


def _is_worth_opening(run: Run, verdict: BucketVerdict) -> bool:
    """Say whether a run that was never opened may be: progress by its numbers, or a gate that holds on selection.

    The second is what opens confirmation at once while more than the last opening is left. Its target may have stood
    still, as where the run it started from met the target's bound by luck and this one meets another's beyond it.
    """
    if run.bucket == "B":
        return verdict.is_promising
    return run.bucket in {"C", "U"} and verdict.is_promising and verdict.gate.holds and verdict.is_win


def next_opening(view: View) -> Draft | None:
    """Open confirmation for the best run that holds on selection and was not put to it yet.

    There is one after a promotion was refused, or when the gate was edited; the last of several openings is kept for
    `last_look`.
    """
    left = [] if view.goal.search.goal == "best" else _unopened(view, int(view.goal.gate.max_confirmations > 1))
    eligible = [each for each in left if each[0].gate.holds and is_furthest(view, each[0], each[1])]
    return _open_best(view, eligible, "confirm.open", "{} meets the gate on selection, further than any other left")


def last_opening(view: View, keep: int) -> Draft | None:
    """Open confirmation for the best run that meets the gate by its numbers and was never put to it.

    Asked when a class or the campaign would end without a promotion.

    Args:
        view: The record.
        keep: Openings to leave for classes that are still to come.
    """
    eligible = [each for each in _unopened(view, keep) if _is_worth_opening(each[1], each[0])]
    if view.goal.search.goal == "gate":
        why = "{} meets the gate by its numbers on selection, and nothing got further"
        return _open_best(view, eligible, "confirm.last", why)
    # Once, at the end of all classes, and only for what is better than what is promoted.
    was_opened = any(d.rule == "confirm.best" and d.goal_version >= view.gate_since for d in view.decisions)
    standing = view.run(view.campaign.promoted)
    held = view.verdict(standing) if standing is not None else None
    least = float("-inf") if held is None else lead(view.goal.gate, held)
    better = [each for each in eligible if lead(view.goal.gate, each[0]) > least]
    return None if keep or was_opened else _open_best(view, better, "confirm.best", "{} is the best run of all")


_Unopened = tuple[BucketVerdict, Run]
"""A verdict that counts, and its run."""


def _unopened(view: View, keep: int) -> list[_Unopened]:
    """Return the judged runs never put to confirmation, while more openings than `keep` and time are left."""
    opened, spending = openings(view), view.spending
    if spending.openings_left <= keep or not spending.next_alpha or is_promotion_open(view):
        return []
    if not affords(view, 2 * evaluation_s(view), runs=0, use_reserve=True).is_affordable:
        return []
    put = {action.inputs.get("run") for action in opened}
    return [
        (verdict, run)
        for run in view.runs
        if run.id not in put and run.bucket is not None and counts(view, run)
        if (verdict := view.verdict(run)) is not None and view.training(run) is not None
    ]


def _open_best(view: View, eligible: list[_Unopened], rule: str, why: str) -> Draft | None:
    """Open confirmation for the one that is furthest by the gate's own metric, of equals by the worst condition."""
    if not eligible:
        return None
    _, run = max(eligible, key=lambda each: (lead(view.goal.gate, each[0]), slack(each[0])))
    return open_for(view, run, candidate_inputs(view, run), rule, why.format(run.id))


def lead(gate: Gate, verdict: BucketVerdict) -> float:
    """Return by how much a run's number on selection clears what the gate's own metric is asked; counts per case."""
    row = next(each for each in verdict.gate.conditions if each.id == aim_of(gate).id)
    return float("-inf") if row.estimate is None else row.sign * (row.estimate - row.bound) / row.unit
