"""Signs that generations have collapsed, compared with the parent's own (mode 1).

Standard library only: the trainer asks at saved steps. Each figure is compared with the same figure of the parent's
outputs on the same prompts, because a table may rightly hold rows that are alike; where the parent cannot do the task
at all, the figures of reference answers are the better yardstick, and a parent that loops itself is none: a run that
loops no more than it has not collapsed. Not covered: outputs that are varied and wrong.

Bad outputs that any task can be given, and what a grader paid for them (P10).

A track may bring adversarial outputs of its own with the scores they must get; these need nothing but a case and its
reference. None of them is an answer anyone would accept, so a score that is to become a reward must be lower for each
than for the reference. Not covered: cheats that only this task has.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from state.records import Finding, Severity

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


Scores = Sequence[float | None]
"""One score per case, None where there is none; cases in the same order everywhere."""

_TOLERANCE = 1e-9
_LEAST_LINES = 2
_LEAST_WORDS = 20
"""A reference of one line is repeated whole from this length on: a label said twice is no cheat worth a finding."""
_MOST_SHARE = 0.5
"""A metric pays for an output when it does so in more than this share of the cases; the same for punishing."""

OUTPUTS = {
    "empty": "no text",
    "echo": "the input repeated",
    "half": "the first half of the reference",
    "duplicate_whole": "the reference twice",
    "duplicate_lines": "each line of the reference twice",
    "drop_lines": "every second line of the reference left out",
    "fabricate": "a made-up line added to the reference",
    "hide": "the whole reference moved into a note of one line",
}
"""Kind of output -> what it is, in words."""


def adversarial_outputs(case_prompt: str, reference: str) -> dict[str, str]:
    """Return bad outputs for one case by kind; those that would equal the reference or make no sense are left out.

    A reference of one line has no lines to repeat, drop, make up or hide.
    """
    outputs = {"empty": "", "echo": case_prompt, "half": _half(reference)}
    lines = [line for line in reference.splitlines() if line.strip()]
    if len(lines) >= _LEAST_LINES:
        outputs |= {kind: "\n".join(build(lines)) for kind, build in _OF_LINES.items()}
    elif len(reference.split()) >= _LEAST_WORDS:
        outputs["duplicate_whole"] = f"{reference}\n{reference}"
    return {kind: text for kind, text in outputs.items() if text.split() != reference.split()}


@dataclass
class _Verdict:
    """What one metric does with each kind of bad output."""

    paid: dict[str, str] = field(default_factory=dict)
    """Kind -> cases that earn what the reference earns, in words."""
    punished_by: dict[str, list[str]] = field(default_factory=dict)
    """Kind -> the other metrics that are worse for it than for the reference."""

    @property
    def unpunished(self) -> list[str]:
        """Kinds that this metric pays and no other metric punishes."""
        return [kind for kind in self.paid if not self.punished_by[kind]]


def judge_adversarial(
    scores: Mapping[str, Mapping[str, Scores]], ceiling: Mapping[str, Scores], metric_signs: Mapping[str, int]
) -> list[Finding]:
    """Report metrics that pay for a bad output what they pay for the reference.

    Args:
        scores: Kind of output -> metric -> score per case; None where the case has no such output.
        ceiling: Metric -> score of the reference per case, in the same order.
        metric_signs: Metric -> 1 when more is better, -1 when less is; others are not judged and punish nothing.

    Returns:
        For each metric with sign 1 that pays: a hard stop when it alone becomes the reward, or a note when every kind
        it pays is punished by another metric, which is named.
    """
    verdicts = {
        metric: _verdict(metric, scores, ceiling, metric_signs) for metric, sign in metric_signs.items() if sign > 0
    }
    found = [_finding(metric, verdict) for metric, verdict in verdicts.items() if verdict.paid]
    return sorted(found, key=lambda finding: finding.severity != "hard_stop")


def _half(text: str) -> str:
    return text[: len(text) // 2].rstrip()


def _with_fabricated(lines: Sequence[str]) -> list[str]:
    return [*lines, _mutated(lines[-1])]


def _mutated(line: str) -> str:
    """Return a line like another one that says something else: each digit raised by one, or the words turned round."""
    raised = re.sub(r"[0-9]", lambda match: str((int(match.group()) + 1) % 10), line)
    if raised != line:
        return raised
    turned = " ".join(reversed(line.split()))
    return turned if turned != " ".join(line.split()) else f"{line} {line}"


_OF_LINES: Mapping[str, Callable[[Sequence[str]], Sequence[str]]] = {
    "duplicate_whole": lambda lines: [*lines, *lines],
    "duplicate_lines": lambda lines: [line for line in lines for _ in range(2)],
    "drop_lines": lambda lines: lines[::2],
    "fabricate": _with_fabricated,
    "hide": lambda lines: [f"Notes: {' '.join(line.strip() for line in lines)}"],
}


def _verdict(
    metric: str, scores: Mapping[str, Mapping[str, Scores]], ceiling: Mapping[str, Scores], signs: Mapping[str, int]
) -> _Verdict:
    verdict = _Verdict()
    for kind, by_metric in scores.items():
        pairs = _pairs(by_metric.get(metric, ()), ceiling.get(metric, ()))
        paid = sum(bad >= gold - _TOLERANCE for bad, gold in pairs)
        if paid > _MOST_SHARE * len(pairs):
            verdict.paid[kind] = f"{paid} of {len(pairs)}"
            verdict.punished_by[kind] = [
                other
                for other, sign in signs.items()
                if other != metric and sign and _punishes(sign, by_metric.get(other, ()), ceiling.get(other, ()))
            ]
    return verdict


def _pairs(bad: Scores, gold: Scores) -> list[tuple[float, float]]:
    return [(one, two) for one, two in zip(bad, gold, strict=False) if one is not None and two is not None]


def _punishes(sign: int, bad: Scores, gold: Scores) -> bool:
    pairs = _pairs(bad, gold)
    worse = sum(sign * one < sign * two - _TOLERANCE for one, two in pairs)
    return worse > _MOST_SHARE * len(pairs)


def _finding(metric: str, verdict: _Verdict) -> Finding:
    named = verdict.unpunished or list(verdict.paid)
    severity: Severity = "hard_stop" if verdict.unpunished else "note"
    paid = "; ".join(f"{OUTPUTS.get(kind, kind)} ({verdict.paid[kind]} cases)" for kind in named)
    return Finding(
        mode="P10",
        severity=severity,
        claim="pays_for_bad_output",
        sentence=(
            f"The metric {metric} pays as much as for the reference for: {paid}."
            + (" No other metric punishes that." if verdict.unpunished else "")
            + _punished_in_words(verdict)
        ),
        value={
            "metric": metric,
            "paid": verdict.paid,
            "unpunished": verdict.unpunished,
            "punished_by": verdict.punished_by,
        },
        fix=(
            f"Make {metric} compare what the output holds with what was asked, row by row, before it becomes a reward."
            if verdict.unpunished
            else f"Use {metric} as a reward only together with the metrics that punish what it pays for."
        ),
    )


def _punished_in_words(verdict: _Verdict) -> str:
    punished = {kind: verdict.punished_by[kind] for kind in verdict.paid if verdict.punished_by[kind]}
    if not punished:
        return ""
    common = [metric for metric in next(iter(punished.values())) if all(metric in row for row in punished.values())]
    if common and not verdict.unpunished:
        return f" All of that is punished by {' and by '.join(common)}."
    by_kind = "; ".join(f"{OUTPUTS.get(kind, kind)} by {', '.join(metrics)}" for kind, metrics in punished.items())
    return f" Punished elsewhere: {by_kind}."
