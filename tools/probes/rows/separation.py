"""One-feature rules that tell a chosen answer from its rejected one, and how surely each does.

Every feature is compared inside a pair and casts one vote: for the chosen side, for the rejected side, or none. The
accuracy of the best rule is the share of right votes, a missing vote counting half, as a coin would do.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

Weight = Literal["surface", "content"]
"""surface: no task is about it, so a model that learns it learns nothing. content: tasks may well be about it."""

_ALPHA = 0.05
_MOST_CANDIDATES = 100_000
"""Different strings kept while pairs stream by; beyond it those that can hardly be in most pairs are let go."""


@dataclass(frozen=True)
class Feature:
    """One number of a text; the side with more of it gets the vote."""

    name: str
    value: Callable[[str], float]
    weight: Weight = "surface"
    follows_lines: bool = False
    """Changes by itself when whole lines are left out, so it has no vote in pairs that differ in that alone."""


@dataclass(frozen=True)
class Separation:
    """A feature that tells the two sides apart nearly always."""

    feature: str
    weight: Weight
    right: int
    """Pairs the rule is right in."""
    n: int
    accuracy: float
    p_value: float
    """One-sided exact binomial test against a coin, corrected for the number of rules."""
    is_more_chosen: bool
    """Whether the chosen side has more of it."""
    text: str = ""
    """For a found character or word: it."""


class Ballot:
    """Votes of one feature over all pairs."""

    def __init__(self) -> None:
        self.chosen = 0
        self.rejected = 0

    def cast(self, chosen: float, rejected: float) -> None:
        """Count one pair's vote."""
        self.chosen += chosen > rejected
        self.rejected += rejected > chosen


class Candidates:
    """Votes of strings that are found on the way: a string on one side only votes for that side."""

    def __init__(self) -> None:
        self._votes: Counter[str] = Counter()
        """Chosen minus rejected."""
        self.tried = 0

    def cast(self, chosen: Iterable[str], rejected: Iterable[str], seen: int) -> None:
        """Count what only one side has; `seen` pairs were counted with this one."""
        for text in chosen:
            self._votes[text] += 1
        for text in rejected:
            self._votes[text] -= 1
        self.tried = max(self.tried, len(self._votes))
        if len(self._votes) > _MOST_CANDIDATES:
            self._votes = Counter({text: vote for text, vote in self._votes.items() if abs(vote) > seen / 2})

    def best(self) -> tuple[str, int]:
        """Return the string with the most lopsided vote and that vote; ("", 0) without any."""
        return max(self._votes.items(), key=lambda pair: (abs(pair[1]), pair[0]), default=("", 0))


def separation(
    name: str, weight: Weight, vote: tuple[int, int], n: int, *, rules: int, least_accuracy: float, text: str = ""
) -> Separation | None:
    """Return the separation when the best rule is accurate enough and no accident, else None.

    Args:
        name: The feature.
        weight: What kind of feature it is.
        vote: Pairs whose chosen, and whose rejected, side has more of it.
        n: All pairs.
        rules: Number of rules among which this one was found (Bonferroni).
        least_accuracy: Smallest accuracy that counts.
        text: The character or word, for found ones.
    """
    from scipy.special import betainc

    right, wrong = max(vote), min(vote)
    accuracy = (right + (n - right - wrong) / 2) / n
    if accuracy < least_accuracy:
        return None
    # Pairs without a vote count against the rule, which is the careful side; either direction could have won.
    p_value = min(1.0, 2 * max(1, rules) * float(betainc(right, n - right + 1, 0.5) if right else 1.0))
    if p_value > _ALPHA:
        return None
    return Separation(name, weight, right, n, accuracy, p_value, is_more_chosen=vote[0] > vote[1], text=text)
