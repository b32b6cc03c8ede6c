"""Bad outputs that any task can be given, and what a grader paid for them (P10).

A track may bring adversarial outputs of its own with the scores they must get; these need nothing but a case and its
reference. None of them is an answer anyone would accept, so a score that is to become a reward must be lower for each
than for the reference. Not covered: cheats that only this task has.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from state.records import Finding, Severity

__all__ = ["adversarial_outputs", "judge_adversarial"]

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
