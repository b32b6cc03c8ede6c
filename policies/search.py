"""Which run comes next: the classes in order, what a run of each costs, what fits the time left, and when one ends."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from policies import budget
from policies.buckets import BucketVerdict
from policies.exhaustion import LEAST_RUNS, could_tell
from policies.memory import refusal
from policies.proposals import (
    counts,
    estimate_of,
    evaluation_s,
    exhaustion_of,
    next_proposals,
    progressed,
    verdict_of,
)
from policies.recipes import RecipeProposal, with_recipe
from policies.stopping import StopVerdict, conclusion
from policies.view import View
from policies.walltime import LEAST_ITERS, RunEstimate, cut_to_time, least_iters
from state.records import Action, Alternative, Instrument, Run

FOLLOW_UPS = 2
"""Runs that each class not tried yet is left time for: its first, and one that follows from it."""


LEAST_OUT = 2
"""Idle runs in a row that must exclude the gate before their class waits for those that nobody tried."""

LATER = 2.0
"""A later run against the first: the first remedy for one that got further and not far enough is twice its steps."""


@dataclass(frozen=True)
class Choice:
    """The next run of a class, as the time left allows it.

    Args:
        proposal: What to run; None: nothing is left to try, or nothing fits.
        estimate: What it costs, or what the first proposal would have cost.
        left: What the budget leaves beside it.
        was_proposed: Some recipe was left that was never run, whether or not it fits.
        skipped: Proposals that came first and were not taken.
    """

    proposal: RecipeProposal | None
    estimate: RunEstimate
    left: budget.BudgetVerdict
    was_proposed: bool
    skipped: tuple[Alternative, ...] = ()


def choose(view: View, instrument: Instrument) -> Choice:
    """Return the first proposal that fits the time left at the speed measured here, or one cut to fit.

    What a remedy costs does not change its place: on a busy machine the same runs follow from the same results.
    """
    proposals = next_proposals(view, instrument)
    measuring_s = 2 * evaluation_s(view)
    priced = [(each, estimate_of(view, each.added, instrument)) for each in proposals]
    fitting: list[Choice] = []
    cut: list[Choice] = []
    skipped: list[Alternative] = []
    for proposal, estimate in priced:
        if refused := refusal(view.beliefs, instrument, proposal.recipe):
            skipped.append(Alternative(action=proposal.rule, reason=refused))
            continue
        left = affords(view, estimate.seconds + measuring_s, instrument=instrument)
        found = proposal if left.is_affordable else None
        if found is None and left.nearest_s is not None and left.limit in {"until", "hours", "class_hours"}:
            found = _cut(view, proposal, estimate, left.nearest_s - measuring_s)
            if found is not None and any(found.recipe_hash == run.recipe_hash for run in view.runs):
                skipped.append(Alternative(action=proposal.rule, reason="cut to the time left it was run already"))
                continue
            estimate = estimate_of(view, found.added, instrument) if found is not None else estimate  # noqa: PLW2901 - the cut one's
        if found is None:
            skipped.append(Alternative(action=proposal.rule, reason=left.sentence))
        else:
            (fitting if found is proposal else cut).append(Choice(found, estimate, left, was_proposed=True))
    # What is left of a remedy that is cut may be hardly another recipe than the last: whole ones come first.
    if fitting:
        skipped += [Alternative(action=each.rule, reason="it would have to be cut to fit") for each in _proposals(cut)]
    else:
        fitting = cut
    if not fitting:
        recipe = proposals[0].added if proposals else view.goal.recipe_of(instrument)
        estimate = estimate_of(view, recipe, instrument)
        left = affords(view, estimate.seconds + measuring_s, instrument=instrument)
        return Choice(None, estimate, left, bool(proposals), tuple(skipped))
    return replace(fitting[0], skipped=tuple(skipped))


def _proposals(choices: Sequence[Choice]) -> list[RecipeProposal]:
    return [choice.proposal for choice in choices if choice.proposal is not None]


def _cut(view: View, proposal: RecipeProposal, estimate: RunEstimate, left_s: float) -> RecipeProposal | None:
    """Return a proposal with as many iterations as fit the time left, or None when that would be pointless.

    A class that nobody tried is begun with few rather than passed over.
    """
    least = LEAST_ITERS if is_first_of(view, proposal.instrument) else least_iters(proposal.added)
    recipe = cut_to_time(proposal.added, estimate, left_s, least)
    if recipe is None:
        return None
    recipe = {**recipe, "iters": proposal.from_step + int(recipe["iters"])}
    why = (
        f"Cut from {proposal.recipe['iters']} to {recipe['iters']} iterations: the whole would take "
        f"{budget.minutes(estimate.seconds)} and {budget.minutes(left_s)} are left for training."
    )
    return with_recipe(proposal, recipe, view.identity("data"), why)


def whole_of(view: View, first: RunEstimate) -> str:
    """Return in a sentence what a campaign takes from its first training on: if that is enough, and with all its runs.

    Args:
        view: The record, its base measured.
        first: What its first training costs.
    """
    each_s = evaluation_s(view)
    # A run is measured once; the confirmation answers other cases with the base and with the run.
    one_s = first.seconds + 3 * each_s
    most = min((runs for runs in (view.goal.budget.runs, view.goal.search.max_runs) if runs is not None), default=1)
    if most == 1:
        return f"With its measurements and the confirmation about {budget.minutes(one_s)}."
    all_s = one_s + (most - 1) * (LATER * first.seconds + each_s)
    return (
        f"In all about {budget.minutes(one_s)} if this run is enough, {budget.minutes(all_s)} with the {most} runs "
        "that are allowed."
    )


def is_first_of(view: View, instrument: Instrument) -> bool:
    """Say whether no run of a class was planned yet."""
    return all(run.instrument != instrument for run in view.runs)


def affords(
    view: View, seconds: float, *, runs: int = 1, use_reserve: bool = False, instrument: Instrument | None = None
) -> budget.BudgetVerdict:
    """Return whether the budget affords an act, and its class where one is named."""
    found = budget.affordable(
        view.goal.budget,
        budget.Spent(
            runs=sum(action.kind == "train" and not _was_lost(view, action) for action in view.actions),
            disk_gb=view.used_gb,
            queued_s=budget.queued_s(view.actions),
        ),
        budget.Estimate(seconds=seconds, runs=runs),
        view.now,
        view.campaign.started_at,
        utc_offset_s=view.utc_offset_s,
        use_reserve=use_reserve,
    )
    if instrument is None or instrument not in view.goal.budget.class_hours:
        return found
    hours = view.goal.budget.class_hours[instrument]
    return budget.within_class(found, instrument, hours, _spent_s(view, instrument), seconds)


def _was_lost(view: View, action: Action) -> bool:
    """Say whether a training failed and its run was set aside: one begun again in its place counts for both."""
    lost = {run.id for run in view.runs if run.state == "lost"}
    return action.state == "failed" and action.inputs.get("run") in lost


def _spent_s(view: View, instrument: Instrument) -> float:
    """Return what the runs of a class took so far, their measurements included, seconds; waiting is not counted."""
    runs = {run.id for run in view.runs if run.instrument == instrument}
    done = [action for action in view.actions if action.inputs.get("run") in runs and action.finished_at is not None]
    return sum((action.finished_at or 0.0) - action.created_at for action in done) - budget.queued_s(done)


def class_end(view: View, instrument: Instrument, choice: Choice) -> StopVerdict | None:
    """Return why a class has nothing more to give, or why the campaign may spend no more."""
    judged = [run for run in view.runs if run.bucket is not None and counts(view, run)]
    of_class = [run for run in judged if run.instrument == instrument]
    # What was planned for another gate is no reason to give this one up.
    planned = {decision.id: decision.goal_version for decision in view.decisions}
    old = {run.id for run in of_class if planned.get(run.decision, view.goal_version) < view.gate_since}
    active = progressed(view) | old
    idle = next((place for place, run in enumerate(reversed(of_class)) if run.id in active), len(of_class))
    if view.goal.search.goal == "best" and {run.bucket for run in of_class[len(of_class) - idle :]} != {"U"}:
        # The best is looked for while the budget allows: no run that stood still ends that.
        idle = 0
    exhaustion = [row for row in exhaustion_of(view) if row.instrument == instrument]
    if any(row.start_from for row in exhaustion):
        # Flat from one start is no reason to give the class up before it was tried from another.
        exhaustion, idle = [], 0
    return conclusion(
        buckets=[run.bucket for run in of_class if run.bucket is not None],
        search=view.goal.search,
        budget=choice.left if choice.proposal is None else choice.left.model_copy(update={"is_affordable": True}),
        exhaustion=exhaustion,
        has_proposal=choice.was_proposed,
        judged=len(judged),
        idle=idle,
        is_blind=_is_blind(view, of_class[len(of_class) - idle :]),
    )


def _exclude_gate(view: View, runs: Sequence[Run]) -> bool:
    """Say whether runs trained, as their control says, and the whole interval of each one's target misses the gate."""
    found = [verdict for run in runs if (verdict := verdict_of(view, run)) is not None]
    return len(found) >= LEAST_OUT and all(_excludes_gate(verdict) for verdict in found)


def _excludes_gate(verdict: BucketVerdict) -> bool:
    target, found = verdict.target, verdict.comparisons[0] if verdict.comparisons else None
    shown = None if found is None else found.typical or found.interval
    if target is None or shown is None or verdict.control_moved is not True or verdict.is_capped:
        return False
    return (shown.high if target.sign > 0 else -shown.low) < target.gap


def _is_blind(view: View, runs: Sequence[Run]) -> bool:
    """Say whether the measurement of runs could not have told a class that reaches the gate from their parent."""
    found = [verdict_of(view, run) for run in runs]
    return not could_tell([verdict for verdict in found if verdict is not None])


def in_order(view: View) -> list[Instrument]:
    """Return the classes in the order in which they are asked: those that are getting somewhere, then as written."""
    further = progressed(view)
    moving = {run.instrument for run in view.runs if run.id in further}
    return sorted(view.goal.instruments, key=lambda name: name not in moving)


def postponed(
    view: View, instrument: Instrument, choice: Choice, without_signal: Collection[Instrument] = ()
) -> StopVerdict | None:
    """Return why a class that got nowhere yet waits for those that nobody tried.

    Two of its runs trained and exclude what the gate asks, or the time left would not reach for the others.
    A class is exhausted by three runs and never by fewer; it is gone on with once the others had their first.

    Args:
        view: The record.
        instrument: The class's.
        choice: Its next run.
        without_signal: Classes that have nothing to learn from, and wait for no time.
    """
    ours = [run for run in view.runs if run.instrument == instrument and run.bucket is not None]
    further = progressed(view)
    others = (name for name in view.goal.instruments if name != instrument and name not in without_signal)
    untried = [name for name in others if is_first_of(view, name)]
    if not ours or any(run.id in further for run in ours):
        return None
    firsts = {name: choose(view, name) for name in untried}
    waiting = [name for name, first in firsts.items() if first.proposal is not None]
    if waiting and view.goal.search.goal == "gate" and _exclude_gate(view, ours):
        return StopVerdict(
            rule="class.later",
            sentence=f"{' and '.join(run.id for run in ours)} moved the control, and their intervals exclude what the "
            f"gate asks of the target: {instrument} is not exhausted, and waits for {' and '.join(waiting)}, which "
            "nobody tried yet.",
        )
    if choice.left.left_s is None:
        return None
    later_s = sum(first.estimate.seconds for first in firsts.values() if first.proposal is not None)
    own_s = max(1, LEAST_RUNS - len(ours)) * choice.estimate.seconds
    if not later_s or own_s + FOLLOW_UPS * later_s <= choice.left.left_s:
        return None
    return StopVerdict(
        rule="class.later",
        sentence=f"{instrument} has not moved the target in {len(ours)} runs and is not exhausted; the time left is "
        f"kept for {' and '.join(waiting)}, which nobody tried yet.",
    )
