"""Signs that generations have collapsed, compared with the parent's own (mode 1).

Standard library only: the trainer asks at saved steps. Each figure is compared with the same figure of the parent's
outputs on the same prompts, because a table may rightly hold rows that are alike; where the parent cannot do the task
at all, the figures of reference answers are the better yardstick, and a parent that loops itself is none: a run that
loops no more than it has not collapsed. Not covered: outputs that are varied and wrong.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from state.records import Finding

__all__ = ["collapse_signals", "is_collapsed", "loops_already"]

_PIECE = re.compile(r"\w{1,64}|[^\w\s]")
_DIGITS = re.compile(r"\d+")
_YEAR = re.compile(r"\D*((?:19|20|21)\d\d)(?!\d)")
_DISTINCT = "distinct_4gram_ratio"
_N = 4
_TAIL_DIGITS = 3
"""Numbers that end in the same three digits side by side (`2444,1444`) count as alike; shorter ones are passed over."""
_LEAST_NEIGHBOURS = 8
"""Fewer pairs of such numbers in all texts say nothing."""
_LONGEST_CHARS = 20_000
"""Characters of a text that are looked at."""

LOOPS = 0.5
"""A parent with fewer distinct runs than this loops, where no references say how many are right."""
MOSTLY_CUT = 0.5
RAMBLES_TIMES = 2.0
"""So does one of whose outputs more than half are cut by the decode budget, this many times as long as the references.
"""
DISTINCT_KEPT = 0.6
"""Collapsed when fewer than this share of the parent's distinct runs are left."""
LESS_DIFFERENT = 0.5
"""Collapsed when the share of different outputs is below this part of the parent's, the outputs being long."""
LONG_CHARS = 40.0
MORE_REPEATED = 0.3
"""Collapsed when the share of repeated lines, or of numbers like their neighbour, rises by more than this."""
DIGIT_RUN_TIMES = 2.0
DIGIT_RUN_LEAST = 12.0
"""Collapsed when the longest run of digits is at least this long and twice the parent's."""
YEAR_STEP_TIMES = 3.0
YEAR_STEP_LEAST = 0.75
"""Collapsed when years move on by this much per line and three times as fast as the parent's."""


def collapse_signals(texts: Sequence[str]) -> dict[str, float]:
    """Return figures of generations; all 0 without texts.

    Returns:
        distinct_4gram_ratio: different runs of four pieces (words and signs; characters in short texts) over all runs
            of a text, averaged over texts; 1 where there is none.
        repeated_line_ratio: lines that repeat an earlier line of their text over all lines.
        distinct_text_ratio: different texts over all texts.
        alike_number_ratio: neighbouring numbers of three digits or more that end in the same three, over all such
            neighbours; 0 where there are fewer than eight.
        year_step: years gone on from line to line, averaged over neighbouring lines that both begin with a year.
        longest_digit_run: digits side by side that a third of the texts reach: one wrong answer is no collapse.
        mean_length: characters per text.
    """
    n = len(texts)
    cut = [text[:_LONGEST_CHARS] for text in texts]
    lines = [[line.strip() for line in text.splitlines() if line.strip()] for text in cut]
    n_lines = sum(map(len, lines))
    return {
        _DISTINCT: sum(map(_distinct, cut)) / n if n else 0.0,
        "repeated_line_ratio": sum(len(rows) - len(set(rows)) for rows in lines) / max(1, n_lines),
        "distinct_text_ratio": len(set(texts)) / max(1, n),
        "alike_number_ratio": _alike([pair for text in cut for pair in pairwise(_DIGITS.findall(text))]),
        "year_step": _mean([step for rows in lines for step in _year_steps(rows)]),
        "longest_digit_run": _reached([max(map(len, _DIGITS.findall(text)), default=0) for text in cut]),
        "mean_length": sum(map(len, texts)) / max(1, n),
    }


def loops_already(signals: Mapping[str, float], gold: Mapping[str, float] | None = None) -> bool:
    """Say whether outputs loop or ramble themselves, so that they are no yardstick for those of a run.

    Args:
        signals: `collapse_signals` of the outputs, with `cut`, the share that the decode budget cut, where it is known.
        gold: The same of the reference answers, where every prompt has one.
    """
    if not gold or not gold["distinct_text_ratio"]:
        return signals[_DISTINCT] < LOOPS
    is_rambling = signals["mean_length"] > RAMBLES_TIMES * gold["mean_length"] and signals.get("cut", 0.0) > MOSTLY_CUT
    repeats = signals["repeated_line_ratio"] > gold["repeated_line_ratio"] + MORE_REPEATED
    return is_rambling or repeats or signals[_DISTINCT] < DISTINCT_KEPT * gold[_DISTINCT]


def is_collapsed(
    now: Mapping[str, float],
    parent: Mapping[str, float],
    gold: Mapping[str, float] | None = None,
    sound: Mapping[str, float] | None = None,
) -> Finding | None:
    """Return a finding when generations have collapsed against the parent's, else None.

    Length alone never counts: a candidate may rightly answer in fewer words. Nor does what the reference answers do
    themselves: where a few labels are asked for, a candidate that has learned them repeats them. A parent that loops
    already (`loops_already`) tells a collapse by fewer distinct runs than its own alone, until the candidate has once
    answered soundly: from then on that is the yardstick.

    Args:
        now: `collapse_signals` of the candidate's outputs.
        parent: The same of the parent's outputs on the same prompts. Figures of no texts at all compare with nothing.
        gold: The same of the reference answers, where every prompt has one.
        sound: The same of earlier outputs of the candidate that did not loop.
    """
    if not now["distinct_text_ratio"] or not parent["distinct_text_ratio"]:
        return None
    looped = loops_already(parent, gold)
    start = sound if looped and sound is not None else parent
    known = gold if gold and gold["distinct_text_ratio"] else start
    against_gold = [is_true for is_true, _ in _rules(now, known)]
    own = _rules(now, start)
    own = own[:_FIT_FOR_LOOPS] if looped and sound is None else own
    rules = zip(own, against_gold, strict=False)
    reasons = [words for (is_true, words), is_so_for_gold in rules if is_true and is_so_for_gold]
    if not reasons:
        return None
    return Finding(
        mode="1",
        severity="hard_stop",
        claim="generations_collapsed",
        sentence=f"Generations have collapsed against the parent's: {'; '.join(reasons)}.",
        value={"now": dict(now), "parent": dict(parent), "references": dict(gold or {}), "reasons": reasons},
        fix="Stop, keep the last healthy save, and retry with lower rank or scale, some dropout, and fewer epochs.",
    )


_FIT_FOR_LOOPS = 2
"""Rules, from the first, that a parent which loops is a yardstick for: nothing at all, and even fewer distinct runs."""


def _rules(now: Mapping[str, float], parent: Mapping[str, float]) -> list[tuple[bool, str]]:
    """Return what would make a collapse, each with its words."""
    run, run_before = now["longest_digit_run"], parent["longest_digit_run"]
    step, step_before = now["year_step"], parent["year_step"]
    different, different_before = now["distinct_text_ratio"], parent["distinct_text_ratio"]
    return [
        (parent["mean_length"] > 0 == now["mean_length"], "all outputs are empty"),
        (
            now[_DISTINCT] < DISTINCT_KEPT * parent[_DISTINCT],
            f"{now[_DISTINCT]:.0%} of runs of four pieces are different, {parent[_DISTINCT]:.0%} before",
        ),
        *(
            (now[name] > parent[name] + MORE_REPEATED, f"{now[name]:.0%} of {what}, {parent[name]:.0%} before")
            for name, what in (
                ("repeated_line_ratio", "lines repeat an earlier one"),
                ("alike_number_ratio", "numbers are like the one before them"),
            )
        ),
        (
            now["mean_length"] >= LONG_CHARS and different < LESS_DIFFERENT * different_before,
            f"{different:.0%} of outputs are different, {different_before:.0%} before",
        ),
        (
            run >= max(DIGIT_RUN_LEAST, DIGIT_RUN_TIMES * run_before),
            f"a third of the outputs have {run:.0f} digits side by side, {run_before:.0f} before",
        ),
        (
            step_before > 0 and step >= max(YEAR_STEP_LEAST, YEAR_STEP_TIMES * step_before),
            f"years go on by {step:.2f} a line, by {step_before:.2f} before",
        ),
    ]


def _reached(figures: Sequence[int]) -> float:
    """Return the largest figure that at least a third of the texts reach; 0 without texts."""
    return float(sorted(figures, reverse=True)[-(-len(figures) // 3) - 1]) if figures else 0.0


def _distinct(text: str) -> float:
    pieces: Sequence[str] = _PIECE.findall(text)
    # A short answer has too few words for runs of them; a loop inside one shows in its characters.
    pieces = pieces if len(pieces) >= 2 * _N else text
    runs = [tuple(pieces[at : at + _N]) for at in range(len(pieces) - _N + 1)]
    return len(set(runs)) / len(runs) if runs else 1.0


def _alike(neighbours: Sequence[tuple[str, str]]) -> float:
    long = [(one, two) for one, two in neighbours if min(len(one), len(two)) >= _TAIL_DIGITS]
    if len(long) < _LEAST_NEIGHBOURS:
        return 0.0
    return _mean([float(one[-_TAIL_DIGITS:] == two[-_TAIL_DIGITS:]) for one, two in long])


def _year_steps(lines: Sequence[str]) -> list[float]:
    years = [int(match.group(1)) if (match := _YEAR.match(line)) else None for line in lines]
    return [float(abs(two - one)) for one, two in pairwise(years) if one is not None and two is not None]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
