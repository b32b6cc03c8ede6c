"""Whether something beside the point tells chosen from rejected (P3), and pairs that teach nothing.

A preference loss takes the easiest road. Where one surface feature separates the sides, it falls to nothing while
generation stays as it was: the lab's chosen answers ended lines with LF and its rejected ones with CRLF, in 80 of 80
pairs. Surface features are a hard stop. Length and share of digits are a warning: rows kept or left out change both,
and keeping rows may be the very thing that is taught. Not covered: rules of two features, and meaning.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain

import numpy as np

from state.records import EXAMPLES, Finding, Json, Severity
from tools.probes.rows import pair_features as features
from tools.probes.rows.glitches import check_glitches, glitches
from tools.probes.rows.separation import Ballot, Candidates, Separation, separation

__all__ = ["check_glitches", "check_pairs"]

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
        self.ballots = {feature.name: Ballot() for feature in features.FEATURES}
        self.found = {name: Candidates() for name in _FOUND}
        self.lengths: list[tuple[int, int]] = []

    def add(self, prompt: str, chosen: str, rejected: str) -> None:
        self.n += 1
        self.lengths.append((features.length(chosen), features.length(rejected)))
        if chosen == rejected:
            self.identical += 1
            return
        self.only_white_space += chosen.split() == rejected.split()
        is_left_out = features.differ_by_content_left_out(chosen, rejected)
        self.left_out += is_left_out
        for feature in features.FEATURES:
            if not (is_left_out and feature.follows_lines):
                self.ballots[feature.name].cast(feature.value(chosen), feature.value(rejected))
        self._count_glitches(glitches(chosen), glitches(rejected))
        self._cast("line", set(features.lines_of(chosen)), set(features.lines_of(rejected)), prompt)
        if not is_left_out:
            self._count_found(prompt, chosen, rejected)

    def _count_glitches(self, chosen: list[str], rejected: list[str]) -> None:
        if bool(chosen) != bool(rejected):
            self.glitched[not chosen] += 1
            self.glitches.extend((chosen or rejected)[: _MOST_EXAMPLES - len(self.glitches)])

    def _count_found(self, prompt: str, chosen: str, rejected: str) -> None:
        self._cast("character", features.marks(chosen, prompt), features.marks(rejected, prompt))
        asked = features.words(prompt)
        self._cast("word", features.words(chosen) - asked, features.words(rejected) - asked)
        for name, piece in (("first word", features.first_word), ("last word", features.last_word)):
            self._cast(name, {piece(chosen)}, {piece(rejected)})
        one, other = features.first_difference(chosen, rejected)
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
                rules=len(features.FEATURES),
                least_accuracy=LEAST_ACCURACY,
            )
            for feature in features.FEATURES
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
        claim=f"pairs_separable_by_{'length' if rows[0].feature == features.LENGTH else 'content'}",
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
        return f"the {row.feature} {features.name_of(row.text)}"
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
