"""Alpha as a ledger of cases: which earlier openings count against a set of cases, and what is left for the next one.

The promise of `gate.alpha` is about cases, not about a campaign: whoever opens the same cases again, by an edit, by
another candidate or by another campaign, draws from the same alpha. Each opening is judged at what is left, divided by
the openings that are left, so the levels never add up to more than alpha, whatever was edited in between.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from pydantic import Field

from state.goal import Gate
from state.hashing import hash_json
from state.records import Record

LEDGER = ("ledger:confirmation", "openings")
"""Subject and claim of what Knowing read in the ledger of cases."""

SHARED = 0.1
"""Share of a split's cases that were opened before from which on they are no fresh ones."""

LEAST = 1e-12
"""Alpha below this is rounding: three thirds of it are spent."""


def is_more(alpha: float, than: float) -> bool:
    """Say whether one level is above another by more than rounding."""
    return alpha - than > LEAST


class Opening(Record):
    """Confirmation cases as they were opened once."""

    key: str
    """Of the action that opened them."""
    alpha: float
    candidate: str
    """What was measured: weights, prompt, decoding and grader."""
    goal: str
    """What was asked: the conditions of the gate."""
    cases: str
    """Name of the set of all cases that were opened."""
    campaign: str = ""
    home: str = ""
    at: float = 0.0

    @property
    def question(self) -> tuple[str, str, str]:
        """What was put to which cases: asked again, it is this opening."""
        return self.candidate, self.goal, self.cases


def missing(own: Iterable[Opening], written: Sequence[Opening], since: float) -> tuple[Opening, ...]:
    """Return the openings on a campaign's own record that a ledger lacks and no reset gave up: they count still.

    A ledger lacks them where the campaign file names another one by now, or where the record came from another machine.

    Args:
        own: By the campaign's record, oldest first.
        written: By the ledger, whether they count against the cases or not.
        since: When a person reset the ledger last, Unix seconds; what is older was given up.
    """
    keys, known = {each.key for each in written}, {each.question for each in written}
    lost: dict[tuple[str, str, str], Opening] = {}
    for each in own:
        if each.at > since and each.key not in keys and each.question not in known:
            lost.setdefault(each.question, each)
    return tuple(lost.values())


def levels(alpha: float, read: Iterable[Opening]) -> dict[tuple[str, str, str], float]:
    """Return the level at which a campaign reads each opening, oldest first; those of one set add up to alpha at most.

    What others recorded at levels that this campaign does not grant is read at what the earlier ones leave.
    """
    left: dict[str, float] = {}
    levels_of: dict[tuple[str, str, str], float] = {}
    for each in read:
        if each.question not in levels_of:
            rest = left.get(each.cases, alpha)
            levels_of[each.question] = each.alpha if not is_more(each.alpha, rest) else rest
            left[each.cases] = max(0.0, rest - each.alpha)
    return levels_of


class Spending(Record):
    """What of alpha is spent on a set of cases, and what is left."""

    alpha: float
    most: int
    """How often they may be opened."""
    openings: tuple[Opening, ...] = ()
    """Those that count against the set, oldest first."""
    cases: str = ""
    """Name of the set."""
    read: tuple[Opening, ...] = ()
    """Those that this campaign has judged candidates by, oldest first."""

    @property
    def spent(self) -> float:
        """Sum of the levels of the openings."""
        return sum(opening.alpha for opening in self.openings)

    @property
    def left(self) -> float:
        """What of alpha is left, never negative."""
        return self.alpha - self.spent if is_more(self.alpha, self.spent) else 0.0

    @property
    def openings_left(self) -> int:
        """How often they may be opened still, never negative."""
        return max(0, self.most - len(self.openings))

    @property
    def next_alpha(self) -> float:
        """Level of the next opening; 0 where there is none."""
        return self.left / self.openings_left if self.openings_left else 0.0

    @property
    def refusal(self) -> str:
        """Why they are not opened again, as a sentence; empty where they may be."""
        if self.next_alpha:
            return ""
        count = len(self.openings)
        times = f"The confirmation cases were opened {'once' if count == 1 else f'{count} times'}{self._others()}"
        if not self.openings_left:
            why = ", as often as gate.max_confirmations allows"
        else:
            why = f", which spent alpha {self.spent:.4g} of gate.alpha {self.alpha:g}"
        return f"{times}{why}: take new confirmation cases to confirm more."

    @property
    def sentence(self) -> str:
        """What is spent and what is left, for a person."""
        times = {0: "not opened yet", 1: "opened once"}.get(len(self.openings), f"opened {len(self.openings)} times")
        opened = f"The confirmation cases were {times}{self._others()} of at most {self.most}"
        if not self.next_alpha:
            return f"{opened}; alpha {self.spent:.4g} of {self.alpha:g} is spent, and none is left to open them again."
        return (
            f"{opened}; alpha {self.spent:.4g} of {self.alpha:g} is spent, and the next opening is judged at"
            f" {self.next_alpha:.4f}."
        )

    def _others(self) -> str:
        """Name the campaigns that opened them, where those are several or given by the ledger."""
        names = dict.fromkeys(opening.campaign for opening in self.openings if opening.campaign)
        return f" (by {', '.join(names)})" if names else ""

    def recorded(self, candidate: str, goal: str) -> Opening | None:
        """Return the opening of these very cases for a candidate under a goal: read again, it costs nothing."""
        return next((each for each in self.openings if each.question == (candidate, goal, self.cases)), None)

    def alpha_for(self, candidate: str, goal: str) -> float:
        """Return the level at which a candidate is judged on these cases: as recorded, or of the next opening.

        What is recorded is read at no more than the openings that this campaign read before leave of alpha.
        """
        known = self.recorded(candidate, goal)
        return self.next_alpha if known is None else levels(self.alpha, (*self.read, known))[known.question]


def counting(cases: Mapping[str, Collection[bytes]], before: Sequence[Collection[bytes]]) -> tuple[int, ...]:
    """Return which earlier openings count against a set of cases, by their place.

    One counts that opened a tenth or more of a split. Smaller ones count together, all that share a case, where they
    opened a tenth of a split between them: a set is not made fresh again by being opened in small parts.

    Args:
        cases: Split -> hashes of the cases that are to be opened.
        before: Hashes of the cases that each opening opened.
    """
    counted: set[int] = set()
    for split in cases.values():
        shared = [{case for case in split if case in opened} for opened in before]
        least = SHARED * len(split)
        large = {place for place, shared_cases in enumerate(shared) if shared_cases and len(shared_cases) >= least}
        small = {place for place, shared_cases in enumerate(shared) if shared_cases and len(shared_cases) < least}
        together = set().union(*(shared[place] for place in small))
        counted |= large | (small if together and len(together) >= least else set())
    return tuple(sorted(counted))


def goal_of(gate: Gate) -> str:
    """Return the identity of what a gate asks: its conditions, whatever they are called and why."""
    conditions = [each.model_dump(mode="json", exclude={"id", "reason"}) for each in gate.conditions]
    return hash_json(conditions)[:24]


class Recorded(Record):
    """What Knowing read of the ledger about the campaign's confirmation cases."""

    cases: str
    openings: tuple[Opening, ...] = Field(default=())
