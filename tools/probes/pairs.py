"""Whether something beside the point tells chosen from rejected (P3), and pairs that teach nothing.

A preference loss takes the easiest road. Where one surface feature separates the sides, it falls to nothing while
generation stays as it was: the lab's chosen answers ended lines with LF and its rejected ones with CRLF, in 80 of 80
pairs. Surface features are a hard stop. Length and share of digits are a warning: rows kept or left out change both,
and keeping rows may be the very thing that is taught. Not covered: rules of two features, and meaning.

One-feature rules that tell a chosen answer from its rejected one, and how surely each does.

Every feature is compared inside a pair and casts one vote: for the chosen side, for the rejected side, or none. The
accuracy of the best rule is the share of right votes, a missing vote counting half, as a coin would do.

What is looked at in a preference pair, and when a difference is the task's own and no artefact.

A pair in which one answer is the other with whole lines left out, or cut short, differs in *what is kept*: that is what
such pairs teach. Characters, words, case and first difference then follow from the missing lines and have no vote;
newline style, trailing newline and white space at the edges do not follow from them and always have one. A character or
word that stands in the prompt is taken from the task and has no vote either.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

import numpy as np

from state.records import EXAMPLES, Finding, Json, Severity
from tools.probes.golds import glitches

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


LENGTH = "more characters"
_LINE_END = re.compile(r"\r\n|\r|\n")
_WORD = re.compile(r"\w{1,32}")
_LEAST_CUT_CHARS = 8
"""A shorter tail that one side lacks is a mark (a full stop, a newline), not content."""
_MOST_CHARS = 200_000
"""Characters of a text in which words and single characters are looked for."""


def _share(part: str, text: str) -> float:
    ends = len(_LINE_END.findall(text))
    # Not a number beside a text without line ends: such a text has no newline style to compare.
    return len(re.findall(part, text)) / ends if ends else math.nan


def _first_cased(text: str) -> str:
    return next((char for char in text[:_MOST_CHARS] if char.isupper() or char.islower()), "")


def _has_cases(text: str, only: str) -> float:
    return float(text == only and text.lower() != text.upper())


def _digits(text: str) -> float:
    return sum(map(str.isdigit, text)) / max(1, length(text))


def length(text: str) -> int:
    """Return the number of characters that are not white space; white space has features of its own."""
    return sum(map(len, text.split()))


FEATURES = (
    Feature("CRLF line ends", lambda text: _share("\r\n", text)),
    Feature("CR line ends", lambda text: _share(r"\r(?!\n)", text)),
    Feature("a trailing newline", lambda text: float(text.endswith(("\n", "\r")))),
    Feature("leading white space", lambda text: float(text[:1].isspace())),
    Feature("trailing white space", lambda text: float(text.rstrip("\r\n")[-1:].isspace())),
    Feature("no text at all", lambda text: float(not text.strip())),
    Feature("a capital first letter", lambda text: float(_first_cased(text).isupper()), follows_lines=True),
    Feature("small letters only", lambda text: _has_cases(text, text.lower()), follows_lines=True),
    Feature("capital letters only", lambda text: _has_cases(text, text.upper()), follows_lines=True),
    Feature("non-ASCII characters", lambda text: float(not text.isascii()), follows_lines=True),
    Feature("template glitches", lambda text: float(len(glitches(text)))),
    Feature(LENGTH, length, weight="content"),
    Feature("a greater share of digits", _digits, weight="content", follows_lines=True),
)
"""Features that are numbers; characters, words, lines and first differences are found on the way."""


def lines_of(text: str) -> list[str]:
    """Return the lines of a text, whatever ends them; white space at a line's end and empty lines do not count."""
    return [line.rstrip() for line in _LINE_END.split(text) if line.strip()]


def differ_by_content_left_out(one: str, other: str) -> bool:
    """Tell whether one text is the other with whole lines left out, or cut short."""
    short, long = sorted((one, other), key=len)
    short_lines, long_lines = Counter(lines_of(short)), Counter(lines_of(long))
    if len(long_lines) > 1 and short_lines != long_lines and (short_lines <= long_lines or long_lines <= short_lines):
        return True
    return long.startswith(short.rstrip()) and len(long) - len(short) > _LEAST_CUT_CHARS


def marks(text: str, prompt: str) -> set[str]:
    """Return the characters of a text, letters and digits aside, that its prompt does not have."""
    return {char for char in set(text[:_MOST_CHARS]).difference(prompt) if not char.isalnum()} - {"\n", "\r"}


def words(text: str) -> set[str]:
    """Return the words of a text as written, each cut to 32 characters."""
    return set(_WORD.findall(text[:_MOST_CHARS]))


def first_word(text: str) -> str:
    """Return the first white-space separated piece of a text, cut to 32 characters."""
    return next(iter(text[:_MOST_CHARS].split(maxsplit=1)), "")[:32]


def last_word(text: str) -> str:
    """Return the last white-space separated piece of a text, cut to its last 32 characters."""
    return next(iter(text[-_MOST_CHARS:].rsplit(maxsplit=1)[-1:]), "")[-32:]


def first_difference(one: str, other: str) -> tuple[str, str]:
    """Return the first characters in which two texts differ; empty where one of them has ended."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return one[low : low + 1], other[low : low + 1]


def name_of(char: str) -> str:
    """Return a character's name in words."""
    return unicodedata.name(char, f"U+{ord(char):04X}").lower()


Pair = tuple[str, str, str]
"""(prompt, chosen, rejected)."""

LEAST_ACCURACY = 0.95
"""From here on a one-feature rule is near enough to perfect that a loss will find it."""
_SHARE_THAT_STOPS = 0.5
"""Pairs that teach nothing: this share of them stops, fewer are only named."""
_LEAST_GLITCHED_PAIRS = 2
_FOUND = ("line", "first word", "last word", "first differing character", "character", "word")
"""Families of strings that are found on the way."""
_COME_WITH_LENGTH = ("character", "word")
_MUCH_LONGER = 1.5
"""A side that is always this much longer has common words and signs that the other side lacks, by being longer."""
_MOST_EXAMPLES = 5


class _Census:
    """What all pairs have in common, counted while they stream by; texts are not kept."""

    def __init__(self) -> None:
        self.n = 0
        self.identical = 0
        self.only_white_space = 0
        self.left_out = 0
        self.glitched = [0, 0]
        """Pairs in which only the chosen, and only the rejected, side has a template glitch."""
        self.glitches: list[str] = []
        self.ballots = {feature.name: Ballot() for feature in FEATURES}
        self.found = {name: Candidates() for name in _FOUND}
        self.lengths: list[tuple[int, int]] = []

    def add(self, prompt: str, chosen: str, rejected: str) -> None:
        self.n += 1
        self.lengths.append((length(chosen), length(rejected)))
        if chosen == rejected:
            self.identical += 1
            return
        self.only_white_space += chosen.split() == rejected.split()
        is_left_out = differ_by_content_left_out(chosen, rejected)
        self.left_out += is_left_out
        for feature in FEATURES:
            if not (is_left_out and feature.follows_lines):
                self.ballots[feature.name].cast(feature.value(chosen), feature.value(rejected))
        self._count_glitches(glitches(chosen), glitches(rejected))
        self._cast("line", set(lines_of(chosen)), set(lines_of(rejected)), prompt)
        if not is_left_out:
            self._count_found(prompt, chosen, rejected)

    def _count_glitches(self, chosen: list[str], rejected: list[str]) -> None:
        if bool(chosen) != bool(rejected):
            self.glitched[not chosen] += 1
            self.glitches.extend((chosen or rejected)[: _MOST_EXAMPLES - len(self.glitches)])

    def _count_found(self, prompt: str, chosen: str, rejected: str) -> None:
        self._cast("character", marks(chosen, prompt), marks(rejected, prompt))
        asked = words(prompt)
        self._cast("word", words(chosen) - asked, words(rejected) - asked)
        for name, piece in (("first word", first_word), ("last word", last_word)):
            self._cast(name, {piece(chosen)}, {piece(rejected)})
        one, other = first_difference(chosen, rejected)
        self._cast("first differing character", {one}, {other}, prompt)

    def _cast(self, name: str, chosen: set[str], rejected: set[str], prompt: str = "") -> None:
        only_chosen = [text for text in chosen - rejected if text and text not in prompt]
        only_rejected = [text for text in rejected - chosen if text and text not in prompt]
        self.found[name].cast(only_chosen, only_rejected, self.n)

    def separations(self) -> list[Separation]:
        """Return what separates the sides, surface first; fixed features and found strings each err in 0.05."""
        fixed = [
            separation(
                feature.name,
                feature.weight,
                (self.ballots[feature.name].chosen, self.ballots[feature.name].rejected),
                self.n,
                rules=len(FEATURES),
                least_accuracy=LEAST_ACCURACY,
            )
            for feature in FEATURES
        ]
        tried = sum(candidates.tried for candidates in self.found.values())
        on_the_way = [
            separation(
                name,
                "surface",
                (max(vote, 0), max(-vote, 0)),
                self.n,
                rules=tried,
                least_accuracy=LEAST_ACCURACY,
                text=text,
            )
            for name, (text, vote) in ((name, candidates.best()) for name, candidates in self.found.items())
        ]
        return [self._weighed(row) for row in chain(fixed, on_the_way) if row is not None]

    def _weighed(self, row: Separation) -> Separation:
        """Return a found word or sign as content when its side is much longer in nearly all pairs."""
        if row.feature not in _COME_WITH_LENGTH:
            return row
        longer = sum(_is_much_longer(*(pair if row.is_more_chosen else pair[::-1])) for pair in self.lengths)
        return replace(row, weight="content") if longer >= LEAST_ACCURACY * self.n else row


def check_pairs(pairs: Iterable[Pair]) -> list[Finding]:
    """Report surface features that separate chosen from rejected, and pairs without a difference worth learning.

    Returns:
        Hard stops first. Ten pairs are needed before a perfect rule is more than an accident.
    """
    census = _Census()
    for prompt, chosen, rejected in pairs:
        census.add(prompt, chosen, rejected)
    if not census.n:
        return []
    separations = census.separations()
    surface = [row for row in separations if row.weight == "surface"]
    content = [row for row in separations if row.weight == "content"]
    found = [_separable(surface)] if surface else []
    found += [_content_separable(content, census)] if content else []
    found += _without_difference(census)
    found += _one_sided_glitches(census, surface)
    return sorted(found, key=lambda finding: finding.severity != "hard_stop")


def _separable(rows: list[Separation]) -> Finding:
    first, *others = rows
    also = f" Further such features: {', '.join(map(_name, others))}." if others else ""
    return Finding(
        mode="P3",
        severity="hard_stop",
        claim="pairs_separable",
        sentence=(
            f"One surface feature tells chosen from rejected: {_sentence(first)}.{also} A preference loss falls to "
            "nothing on that alone and need not learn the task."
        ),
        value={"features": [_figures(row) for row in rows], "pairs": first.n, EXAMPLES: _texts(rows)},
        fix=(
            "Write both sides of each pair with the same code: one way to end lines, to trim and to encode; then make "
            "the pairs again."
        ),
    )


def _content_separable(rows: list[Separation], census: _Census) -> Finding:
    threshold, accuracy = _best_threshold(np.array(census.lengths))
    left_out = f" In {census.left_out} pairs one answer is the other with lines left out or cut short."
    return Finding(
        mode="P3",
        severity="warning",
        claim=f"pairs_separable_by_{'length' if rows[0].feature == LENGTH else 'content'}",
        sentence=(
            f"One figure tells chosen from rejected: {'; '.join(map(_sentence, rows))}."
            f"{left_out if census.left_out else ''} That may be what the pairs are to teach; the loss can also fall on "
            "it without the task."
        ),
        value={
            "features": [_figures(row) for row in rows],
            "pairs": census.n,
            "left_out": census.left_out,
            "length_threshold_chars": threshold,
            "length_threshold_accuracy": accuracy,
            EXAMPLES: _texts(rows),
        },
        fix=(
            "Add pairs in which the longer answer is the rejected one, for example with rows made up or said twice, "
            "and watch generations, not the loss."
        ),
    )


def _without_difference(census: _Census) -> list[Finding]:
    kinds = (
        (census.identical, "pairs_identical", "are identical", "Such a pair has no gradient"),
        (
            census.only_white_space,
            "pairs_differ_in_white_space_only",
            "differ in white space only",
            "Such a pair teaches white space",
        ),
    )
    return [
        Finding(
            mode="P3",
            severity=_severity(count / census.n),
            claim=claim,
            sentence=f"Chosen and rejected {words} in {count} of {census.n} pairs. {why}.",
            value={"pairs": census.n, "count": count},
            fix="Remove these pairs, or repair what was to make the rejected answer worse.",
        )
        for count, claim, words, why in kinds
        if count
    ]


def _one_sided_glitches(census: _Census, surface: list[Separation]) -> list[Finding]:
    count = sum(census.glitched)
    if count < _LEAST_GLITCHED_PAIRS or any(row.feature == "template glitches" for row in surface):
        return []
    chosen, rejected = census.glitched
    return [
        Finding(
            mode="7",
            severity="warning",
            claim="pairs_have_one_sided_glitches",
            sentence=(
                f"{count} of {census.n} pairs have a word said twice or two articles side by side on one side only "
                f"(chosen {chosen}, rejected {rejected}): a free signal in those pairs."
            ),
            value={"pairs": census.n, "chosen": chosen, "rejected": rejected, EXAMPLES: census.glitches},
            fix="Repair the template that made these answers and generate them again.",
        )
    ]


def _severity(share: float) -> Severity:
    return "hard_stop" if share >= _SHARE_THAT_STOPS else "warning"


def _is_much_longer(one: int, other: int) -> bool:
    return one >= _MUCH_LONGER * max(1, other)


def _name(row: Separation) -> str:
    if len(row.text) == 1:
        return f"the {row.feature} {name_of(row.text)}"
    return f"one and the same {row.feature}" if row.text else row.feature


def _sentence(row: Separation) -> str:
    side, other = ("chosen", "rejected") if row.is_more_chosen else ("rejected", "chosen")
    return (
        f"the {side} answer has {_name(row)}, unlike the {other} one, in {row.right} of {row.n} pairs "
        f"(accuracy {row.accuracy:.2f}, p = {row.p_value:.1g})"
    )


def _figures(row: Separation) -> Json:
    return {
        "feature": row.feature,
        "side": "chosen" if row.is_more_chosen else "rejected",
        "right": row.right,
        "accuracy": round(row.accuracy, 4),
        "p_value": row.p_value,
    }


def _texts(rows: list[Separation]) -> list[str]:
    return [f"{row.feature}: {row.text}" for row in rows if row.text]


def _best_threshold(lengths: np.ndarray) -> tuple[int, float]:
    """Return the length that best tells all chosen from all rejected answers, and its accuracy over both."""
    chosen, rejected = np.sort(lengths[:, 0]), np.sort(lengths[:, 1])
    cuts = np.unique(lengths)
    above = len(chosen) - np.searchsorted(chosen, cuts) + np.searchsorted(rejected, cuts)
    right = np.maximum(above, 2 * len(chosen) - above)
    best = int(np.argmax(right))
    return int(cuts[best]), round(float(right[best]) / (2 * len(chosen)), 4)
