"""When a few steps are worth timing: where nobody knows how long a step takes here, and the plan turns on it."""

from policies import budget
from policies.drafts import Draft, draft
from policies.proposals import estimate_of, evaluation_s, next_proposal, parent_of
from policies.search import Choice
from policies.view import View
from state.records import Alternative, Instrument


def time_first(view: View, instrument: Instrument, choice: Choice) -> Draft | None:
    """Time a few steps of a class where its run may or may not fit the time left, as far as is assumed.

    An assumption is off by a factor of four either way. Where the run fits or does not fit by all of that, its own
    first steps tell soon enough; in between a campaign would be cut or refused on a guess.

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
    if not whole.low_s <= left_s < whole.high_s:
        return None
    parent = parent_of(view, instrument)
    if any(
        a.kind == "pace" and (a.inputs["instrument"], a.inputs["weights"]) == (instrument, parent.weights)
        for a in view.actions
    ):
        return None
    span = f"{budget.minutes(whole.low_s)} to {budget.minutes(whole.high_s)}"
    return draft(
        view,
        "pace",
        "time.first",
        f"Time a few steps of {instrument} first: its run is assumed to take {budget.minutes(whole.seconds)} ({span}), "
        f"and {budget.minutes(left_s)} are left for it.",
        {
            "instrument": instrument,
            "weights": parent.weights,
            "parent": parent.name,
            "adapter": parent.adapter,
            "recipe": proposal.recipe,
        },
        alternatives=(Alternative(action="train", reason="it would be cut or refused on a guess"),),
    )
