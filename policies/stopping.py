"""When a search ends: spent, exhausted, or nothing left to try."""

from collections.abc import Sequence

from policies.budget import BudgetVerdict
from policies.exhaustion import ExhaustionVerdict
from state.goal import Search
from state.records import Bucket, Record


class StopVerdict(Record):
    """Why a campaign concludes."""

    rule: str
    """`budget.gone`, `instruments.exhausted`, `runs.max`, `runs.no_progress`, `runs.unclear`,
    `measurement.first`, `nothing.left`."""
    sentence: str


def conclusion(
    *,
    buckets: Sequence[Bucket],
    search: Search,
    budget: BudgetVerdict,
    exhaustion: Sequence[ExhaustionVerdict] = (),
    has_proposal: bool = True,
    judged: int | None = None,
    idle: int | None = None,
    is_blind: bool = True,
) -> StopVerdict | None:
    """Return why a campaign concludes now, or None while another run is worth its cost.

    Args:
        buckets: Verdicts of the judged runs, oldest first; infrastructure failures have none.
        search: How long to go on looking.
        budget: Verdict on the cheapest next run.
        exhaustion: One verdict for each instrument class the campaign may use.
        has_proposal: A recipe that was never run is left.
        judged: Judged runs of all classes; those of `buckets` when left out.
        idle: Latest runs in a row that got no further than those before them; those without A or B when left out.
        is_blind: The measurement could not have shown even what the gate asks; where it could, runs whose interval
            tells nothing end their class and not the campaign.
    """
    if not budget.is_affordable:
        return _stop("budget.gone", f"The budget does not allow another run. {budget.sentence}")
    if exhaustion and all(verdict.state == "exhausted" for verdict in exhaustion):
        return _stop("instruments.exhausted", " ".join(verdict.sentence for verdict in exhaustion))
    count = len(buckets) if judged is None else judged
    if search.max_runs is not None and count >= search.max_runs:
        return _stop("runs.max", f"{count} runs are judged, as many as search.max_runs allows.")
    idle = runs_without_progress(buckets) if idle is None else idle
    if idle >= search.max_runs_without_progress and set(buckets[-idle:]) == {"U"}:
        what = "could not have shown anything" if is_blind else "showed neither movement nor its absence"
        return _stop(
            "measurement.first" if is_blind else "runs.unclear",
            f"{idle} runs in a row {what} (U): take more cases, a denser metric or a longer training first. "
            "Nothing is exhausted.",
        )
    if idle >= search.max_runs_without_progress:
        what = "The latest run" if idle == 1 else f"{idle} runs in a row"
        return _stop("runs.no_progress", f"{what} made no progress ({''.join(buckets[-idle:])}).")
    if not has_proposal:
        return _stop("nothing.left", f"After {count} runs no rule proposes a recipe that was not run already.")
    return None


def runs_without_progress(buckets: Sequence[Bucket]) -> int:
    """Return how many of the latest runs in a row got neither A nor B."""
    idle = 0
    for bucket in reversed(buckets):
        if bucket in {"A", "B"}:
            break
        idle += 1
    return idle


def _stop(rule: str, sentence: str) -> StopVerdict:
    return StopVerdict(rule=rule, sentence=sentence)
