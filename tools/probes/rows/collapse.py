"""Failure mode 1: generations that loop, drift into digits or fall silent while the loss looks well. Pure.

Signals are taken from each text alone and averaged, so that a task whose answers are alike (labels) is none the worse
for it; what counts is how far they are from the parent's on the same prompts.
"""

import re
from collections.abc import Mapping, Sequence

_N = 4
_TOKENS = re.compile(r"\d|[^\W\d]+|[^\w\s]|\n")
"""Digits one by one, words, signs, line ends: a loop over any of them repeats its n-grams."""
_DIGITS = re.compile(r"\d+")

DISTINCT_KEPT = 0.7
"""Share of the parent's distinct n-grams below which texts loop.

A table whose every figure became 4444 keeps 0.4; one that is twice as long as the parent's keeps 0.9.
"""

REPEATED_RISE = 0.25
"""Rise of the share of repeated lines: every fourth line is one that stood there before."""

DIGITS_RISE = 8
"""Digits by which the longest run grows: no figure of a table gains eight digits by being cleaned."""

BLANK_RISE = 0.5
"""Rise of the share of texts with nothing in them; a child may rightly fall silent on a few."""


def collapse_signals(texts: Sequence[str]) -> dict[str, float]:
    """Return what outputs look like.

    Returns:
        `distinct`: distinct 4-grams by all of them, mean over texts, [0, 1]; 1 for texts too short to have one.
        `repeated_lines`: share of lines that stood in the same text before, mean over texts, [0, 1].
        `longest_digits`: longest run of digits in any text.
        `blank`: share of texts with nothing but white space, [0, 1].
    """
    return {
        "distinct": _mean([_distinct(text) for text in texts], 1.0),
        "repeated_lines": _mean([_repeated_lines(text) for text in texts], 0.0),
        "longest_digits": float(max((len(run) for text in texts for run in _DIGITS.findall(text)), default=0)),
        "blank": _mean([float(not text.strip()) for text in texts], 0.0),
    }


def is_collapsed(now: Mapping[str, float], parent: Mapping[str, float]) -> bool:
    """Say whether outputs collapsed, by their signals and those of the parent's outputs for the same prompts."""
    return (
        now["distinct"] < DISTINCT_KEPT * parent["distinct"]
        or now["repeated_lines"] > parent["repeated_lines"] + REPEATED_RISE
        or now["longest_digits"] > parent["longest_digits"] + DIGITS_RISE
        or now["blank"] > parent["blank"] + BLANK_RISE
    )


def _mean(values: Sequence[float], empty: float) -> float:
    return sum(values) / len(values) if values else empty


def _distinct(text: str) -> float:
    tokens = _TOKENS.findall(text)
    grams = [tuple(tokens[at : at + _N]) for at in range(len(tokens) - _N + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def _repeated_lines(text: str) -> float:
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0
