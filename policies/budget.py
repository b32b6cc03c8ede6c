"""What may still be spent: until a time of day, hours, runs, disk."""

from collections.abc import Iterable

from state.goal import Budget
from state.records import Action, Record

_DAY_S = 86_400.0


class Spent(Record):
    """What a campaign has used; time follows from when it started."""

    runs: int = 0
    disk_gb: float = 0.0
    queued_s: float = 0.0
    """Seconds its jobs waited for other campaigns on the machine; `hours` does not count them, `until` does."""


class Estimate(Record):
    """What an action is expected to use."""

    seconds: float = 0.0
    runs: int = 0
    disk_gb: float = 0.0


def queued_s(actions: Iterable[Action]) -> float:
    """Return the seconds that the jobs of finished actions waited for their turn."""
    return sum(float((action.result.get("exit") or {}).get("queued_s") or 0.0) for action in actions)


class BudgetVerdict(Record):
    """Whether an action fits, and what is left before it."""

    is_affordable: bool
    limit: str
    """`until`, `hours`, `runs`, `disk_gb` or `class_hours`: the first limit it would break; empty when it fits."""
    left_s: float | None
    """Seconds until the nearer of both time limits, reserve taken off; None: not limited."""
    left_runs: int | None
    left_disk_gb: float | None
    deadline_at: float | None
    """Unix seconds of `until`."""
    sentence: str
    class_left_s: float | None = None
    """Seconds left of the hours of the class that was asked for; None: not limited."""

    @property
    def nearest_s(self) -> float | None:
        """Seconds until the first limit on time, the class's own among them."""
        return min((left for left in (self.left_s, self.class_left_s) if left is not None), default=None)


def deadline_at(until: str | None, started: float, utc_offset_s: float = 0.0) -> float | None:
    """Return the first moment after the start at which local clocks show `until`, Unix seconds.

    Args:
        until: `HH:MM` local time.
        started: Unix seconds the count starts from.
        utc_offset_s: Local time minus UTC.
    """
    if until is None:
        return None
    hours, minutes = until.split(":")
    local = started + utc_offset_s
    midnight = local - local % _DAY_S
    moment = midnight + int(hours) * 3600 + int(minutes) * 60
    return (moment if moment > local else moment + _DAY_S) - utc_offset_s


def affordable(
    budget: Budget,
    spent: Spent,
    estimate: Estimate,
    now: float,
    started: float,
    *,
    utc_offset_s: float = 0.0,
    use_reserve: bool = False,
) -> BudgetVerdict:
    """Return whether an action fits into what is left.

    Args:
        budget: The campaign's limits.
        spent: Used so far.
        estimate: What the action would use.
        now: Unix seconds.
        started: Unix seconds of the campaign's start.
        utc_offset_s: Local time minus UTC, for `until`.
        use_reserve: The action is one the reserve is kept for (confirmation, promotion, report).
    """
    reserve_s = 0.0 if use_reserve else budget.reserve_min * 60
    deadline = deadline_at(budget.until, started, utc_offset_s)
    hours_end = None if budget.hours is None else started + budget.hours * 3600 + spent.queued_s
    ends = {"until": deadline, "hours": hours_end}
    left = {name: end - now - reserve_s for name, end in ends.items() if end is not None}
    left_runs = None if budget.runs is None else budget.runs - spent.runs
    left_disk_gb = None if budget.disk_gb is None else budget.disk_gb - spent.disk_gb
    broken = [name for name in left if estimate.seconds > left[name] or left[name] <= 0]
    broken += ["runs"] if left_runs is not None and estimate.runs > left_runs else []
    broken += ["disk_gb"] if left_disk_gb is not None and estimate.disk_gb > left_disk_gb else []
    left_s = min(left.values()) if left else None
    return BudgetVerdict(
        is_affordable=not broken,
        limit=broken[0] if broken else "",
        left_s=left_s,
        left_runs=left_runs,
        left_disk_gb=left_disk_gb,
        deadline_at=deadline,
        sentence=_sentence(budget, estimate, broken, left, left_runs, left_disk_gb),
    )


def within_class(verdict: BudgetVerdict, name: str, hours: float, spent_s: float, seconds: float) -> BudgetVerdict:
    """Return a verdict that holds an act against the hours of its class too.

    Args:
        verdict: Of the campaign's limits.
        name: Of the class's instrument.
        hours: The class's.
        spent_s: What its runs took so far.
        seconds: What the act would take.
    """
    left_s = hours * 3600 - spent_s
    if not verdict.is_affordable or (seconds <= left_s and left_s > 0):
        return verdict.model_copy(update={"class_left_s": left_s})
    sentence = (
        f"It would take {minutes(seconds)} and {minutes(max(0.0, left_s))} are left of the {hours:g} hours that "
        f"budget.class_hours gives {name}."
    )
    return verdict.model_copy(
        update={"is_affordable": False, "limit": "class_hours", "class_left_s": left_s, "sentence": sentence}
    )


def _sentence(  # noqa: PLR0917 - the figures of one sentence
    budget: Budget,
    estimate: Estimate,
    broken: list[str],
    left: dict[str, float],
    left_runs: int | None,
    left_disk_gb: float | None,
) -> str:
    if broken and broken[0] in left:
        limit = f"until {budget.until}" if broken[0] == "until" else f"{budget.hours:g} hours"
        return (
            f"It would take {minutes(estimate.seconds)} and {minutes(max(0.0, left[broken[0]]))} are left "
            f"of the budget ({limit})."
        )
    if broken and broken[0] == "runs":
        return f"{left_runs} of {budget.runs} runs are left."
    if broken:
        return f"It would take {estimate.disk_gb:.2f} GB and {left_disk_gb or 0:.2f} of {budget.disk_gb:g} GB are left."
    if not left:
        return f"It would take {minutes(estimate.seconds)}; no time limit is set."
    return f"It would take {minutes(estimate.seconds)} of the {minutes(min(left.values()))} left."


def minutes(seconds: float) -> str:
    """Return a duration as people say it: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:  # noqa: PLR2004 - where seconds stop being read
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
