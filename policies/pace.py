"""What a short job tells of a class before its first run: how long a step takes here, and whether rewards differ.

Steps are timed where nobody knows how long one takes and the plan turns on it. Rollouts learn from the difference of
rewards within a group alone, so what they start from answers a few prompts first, graded as the user's reward says.
"""

from collections.abc import Sequence

from policies import cost
from policies.cost import LEAST_ITERS
from policies.drafts import Draft, draft, halt, start_of
from policies.history import View
from policies.next_run import Choice, estimate_of, evaluation_s, is_first_of, next_proposal, parent_of
from policies.verdict import StopVerdict
from state.records import CLASSES, Action, Alternative, Belief, Instrument, Json

NO_SIGNAL = "signal.none"
"""Rule of the decision that a class of rollouts is not begun, and of the class's end."""

PASSED_OVER = "class.passed_over"
"""Rule of the decision that a class is not begun, since not even a cut run of it fits what is left."""

_GIVES = {
    "runs": "More runs are given by budget.runs.",
    "disk_gb": "More room is given by budget.disk_gb, or by retention.saves.",
}
"""Limit other than time -> what gives more of it."""

DENSE_SHARE = 0.25
"""Share of the prompts in which a metric must tell answers apart to be named as a denser reward."""

_EARNED_BY = ("reward_weights", "reward_penalties", "max_completion_length", "truncated", "temperature", "group_size")
"""Keys of a recipe that change what answers earn, and so the figures."""


def time_first(view: View, instrument: Instrument, choice: Choice) -> Draft | None:
    """Time a few steps of a class where its run may or may not fit the time left, as far as is assumed.

    An assumption is off by a factor of four either way. Where the whole run fits by all of that, its own first steps
    tell soon enough, and where not even the fewest iterations that teach something do, nothing is left to tell; in
    between a campaign would be cut or refused on a guess.

    Args:
        view: The record.
        instrument: The class's.
        choice: What it would run, as the time left allows it.
    """
    is_guess = choice.estimate.source == "assumed" and choice.left.nearest_s is not None
    proposal = next_proposal(view, instrument) if is_guess else None
    if proposal is None or choice.left.nearest_s is None:
        return None
    whole = estimate_of(view, proposal.recipe, instrument)
    left_s = choice.left.nearest_s - 2 * evaluation_s(view)
    if not whole.low_s * min(1.0, LEAST_ITERS / int(proposal.recipe["iters"])) <= left_s < whole.high_s:
        return None
    weights = parent_of(view, instrument).weights
    if any(
        a.kind == "pace" and (a.inputs["instrument"], a.inputs["weights"]) == (instrument, weights)
        for a in view.actions
    ):
        return None
    span = f"{cost.minutes(whole.low_s)} to {cost.minutes(whole.high_s)}"
    return _try_out(
        view,
        instrument,
        proposal.recipe,
        rule="time.first",
        sentence=f"Time a few steps of {instrument} first: its run is assumed to take {cost.minutes(whole.seconds)} "
        f"({span}), and {cost.minutes(left_s)} are left for it.",
        otherwise="it would be cut or refused on a guess",
    )


def passed_over(view: View, instrument: Instrument, choice: Choice, stop: StopVerdict) -> Draft | None:
    """Put on record that a class which nobody tried does not fit what is left, once for each version of the goal.

    Of a campaign's only class its end says so.

    Args:
        view: The record.
        instrument: The class's.
        choice: What it would have run.
        stop: Why it is not.
    """
    is_on_record = any(
        d.rule == PASSED_OVER and d.goal_version == view.goal_version and d.verdict["instrument"] == instrument
        for d in view.decisions
    )
    is_alone = len(view.goal.instruments) == 1
    if is_on_record or is_alone or stop.rule != "budget.gone" or not is_first_of(view, instrument):
        return None
    estimate, left_s, limit = choice.estimate, choice.left.nearest_s, choice.left.limit
    of_time = f"More time for it is given by budget.{limit}; fewer iterations by its recipe."
    return draft(
        view,
        "judge",
        PASSED_OVER,
        f"{instrument} is passed over, though no run of it was made: {stop.sentence} Its run: {estimate.sentence} "
        f"{_GIVES.get(limit, of_time)}",
        {},
        verdict={
            "instrument": instrument,
            "limit": limit,
            "left_s": left_s,
            "estimate": estimate.model_dump(mode="json"),
        },
        alternatives=choice.skipped,
    )


def signal_first(view: View, instrument: Instrument, recipe: Json) -> Draft | None:
    """Have a class of rollouts' start answer a few prompts, and put on record where no reward differs.

    Args:
        view: The record.
        instrument: The class's.
        recipe: Of the run that would follow.
    """
    if CLASSES[instrument] != "rollout":
        return None
    tried = _tried(view, instrument, recipe)
    if tried is None:
        return _try_out(
            view,
            instrument,
            recipe,
            rule="signal.first",
            sentence=f"Before {instrument}: what it starts from answers a few prompts, graded by the user's reward. "
            "Where no answer earns more than another to the same prompt, nothing can be learned.",
            otherwise="whether the reward tells answers apart is not known",
        )
    stop = no_signal(view, instrument, recipe)
    is_on_record = any(d.rule == NO_SIGNAL and d.verdict.get("pace") == tried.key for d in view.decisions)
    if stop is None or is_on_record:
        return None
    return draft(
        view,
        "judge",
        NO_SIGNAL,
        stop.sentence,
        {},
        verdict={"pace": tried.key, "signal": tried.result["signal"]},
        # A verdict on a refuted belief would fall with it; the figures beside it are what it stands on.
        premises=[each for each in _figures(view, tried) if each.status == "fresh"],
        alternatives=(Alternative(action="train", reason="nothing in its reward could be learned"),),
    )


def no_signal(view: View, instrument: Instrument, recipe: Json) -> StopVerdict | None:
    """Return why rollouts of a class have nothing to learn from; None where they have, or where nobody could tell."""
    tried = _tried(view, instrument, recipe) if CLASSES[instrument] == "rollout" else None
    figures: Json = (tried.result.get("signal") or {}) if tried is not None and tried.state == "done" else {}
    if tried is None or not figures or figures["groups_that_differ"] or _is_overridden(view, tried):
        return None
    start = start_of(tried.inputs["parent"])
    return StopVerdict(
        rule=NO_SIGNAL,
        sentence=f"{instrument} is not run from {start}: of {figures['answers']} answers to "
        f"{figures['prompts']} prompts {figures['right']} earn the full reward (pass@1 {figures['pass_at_1']:.3f}, "
        f"pass@{figures['samples']} {figures['pass_at_k']:.3f}), and to no prompt does one answer earn more than "
        f"another. {advice(figures)}",
    )


def without_signal(view: View) -> set[Instrument]:
    """Return the classes that have nothing to learn from where they start now."""
    first = {name: next_proposal(view, name) for name in view.goal.instruments if CLASSES[name] == "rollout"}
    return {name for name, it in first.items() if it is not None and no_signal(view, name, it.recipe) is not None}


def advice(figures: Json) -> str:
    """Return what would help where no reward differs, by the figures of the worker."""
    cut, denser = figures["cut"], figures["denser"]
    more = f"recipes.grpo.max_completion_length (it cut {cut} of {figures['answers']} answers)" if cut else ""
    spread, prompts = figures["denser_groups"], figures["prompts"]
    # One that hardly differs either would only move the question.
    named = (
        f", such as {denser}, which differs in {spread} of {prompts}"
        if denser and spread >= DENSE_SHARE * prompts
        else ""
    )
    parts = [
        "demonstrations first (`instruments: [sft, grpo]` with data.train)",
        "easier cases in data.rollouts",
        f"a denser metric in recipes.grpo.reward_weights{named}",
        *([f"a higher {more}"] if more else []),
    ]
    return f"What would help: {'; '.join(parts[:-1])}; or {parts[-1]}."


def refuse_blind(view: View, ends: Sequence[StopVerdict]) -> Draft | None:
    """Halt where nothing was trained and all that the campaign may use has nothing to learn from.

    Args:
        view: The record.
        ends: Why each class is not gone on with.
    """
    if any(end.rule != NO_SIGNAL for end in ends) or any(run.bucket is not None for run in view.runs):
        return None
    tried = next(a for a in reversed(view.actions) if a.kind == "pace" and a.result.get("signal"))
    figures = _figures(view, tried)
    return halt(
        view,
        NO_SIGNAL,
        f"Hard stop: {' '.join(end.sentence for end in ends)}",
        figures,
        saved_s=estimate_of(view, tried.inputs["recipe"], tried.inputs["instrument"]).seconds,
        runbook="runbooks/rollouts.md",
        reason="nothing in its reward could be learned",
    )


def _try_out(view: View, instrument: Instrument, recipe: Json, *, rule: str, sentence: str, otherwise: str) -> Draft:
    """Return the short job: a few steps of a recipe, and of rollouts first what answers earn."""
    return draft(
        view,
        "pace",
        rule,
        sentence,
        {**_ground(view, instrument, recipe), "recipe": recipe},
        alternatives=(Alternative(action="train", reason=otherwise),),
    )


def _ground(view: View, instrument: Instrument, recipe: Json) -> Json:
    """Return what the figures of the short job stand on."""
    parent = parent_of(view, instrument)
    ground: Json = {
        "instrument": instrument,
        "weights": parent.weights,
        "parent": parent.name,
        "adapter": parent.adapter,
    }
    if CLASSES[instrument] != "rollout":
        return ground
    graded = {"harness": view.identity("harness"), "data": view.identity("data")}
    return {**ground, **graded, "earned_by": {key: recipe[key] for key in _EARNED_BY if key in recipe}}


def _tried(view: View, instrument: Instrument, recipe: Json) -> Action | None:
    """Return the short job about a class from where it starts now, whatever came of it; None where none was asked."""
    ground = _ground(view, instrument, recipe)
    newest_first = (a for a in reversed(view.actions) if a.kind == "pace" and a.key not in view.invalidated.evaluations)
    return next((a for a in newest_first if all(a.inputs.get(name) == value for name, value in ground.items())), None)


def _figures(view: View, tried: Action) -> list[Belief]:
    """Return the beliefs that a short job left, the spread of the reward first."""
    about = [b for b in view.beliefs if any(e.kind == "job" and e.ref == tried.key for e in b.evidence)]
    return sorted((b for b in about if b.subject.startswith("reward:")), key=lambda b: b.claim != "tells_answers_apart")


def _is_overridden(view: View, tried: Action) -> bool:
    """Say whether a person has taken it upon them that rewards do not differ."""
    ids = {b.id for b in _figures(view, tried)}
    return any(row.kind == "override" and row.answer == "yes" and row.decision in ids for row in view.approvals)
