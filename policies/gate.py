"""The gate: does a candidate meet every condition, and is that more than luck.

Each condition is its own one-sided test at the full level: the gate asks for all of them, so nothing is divided between
conditions; `any_of` divides the level by the number of its metrics. How often confirmation may be opened is divided out
by the caller (`Gate.confirmation_alpha`). A condition by `test: plain` is decided by the bare number and labelled.
Whether a gate can be met at all is `policies/checks.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import model_validator

from policies import significance
from policies.comparison import CaseTable, Comparison, Scale, compare
from policies.power import cases_needed
from policies.significance import EPSILON
from state.goal import Against, Condition, Gate, Statistic
from state.records import Record, SplitUse

Decided = Literal["holds", "fails", "undecided"]
"""holds: shown; fails: shown to miss the bound; undecided: the cases cannot tell."""

MAX_EXCLUDED_SHARE = 0.1
"""More missing scores than this and a condition cannot hold: the missing cases could be the bad ones."""

_SIGNIFICANT = "plain, also significant"
NOT_SIGNIFICANT = "plain, not significant"
"""How the label of a condition begins that only a bare number meets."""

OFF_SCALE = "a score lies off its scale"
"""How the label of a condition begins that is not judged, since no bound holds for such scores."""


class ConditionVerdict(Record):
    """One condition of the gate, judged."""

    id: str
    metric: str
    """The metric judged; of an any-of, the one that came closest to holding."""
    statistic: Statistic
    against: Against
    test: Literal["superiority", "non_inferiority", "plain"]
    method: str
    """How the bounds were found, in words."""
    value: float | None
    """The candidate's statistic."""
    reference: float | None
    """The parent's or base's statistic."""
    sign: int
    """+1: at least; -1: at most."""
    threshold: float
    """The bound as written in the campaign file."""
    bound: float
    """The number the confidence bound is held against."""
    estimate: float | None
    """The value, or the difference."""
    low: float | None
    high: float | None
    alpha: float
    """One-sided level of each bound."""
    n: int
    excluded: int
    p: float | None
    """One-sided exact p-value, where the test is exact."""
    p_two_sided: float | None
    """Exact paired sign test, candidate against parent (or base)."""
    holds: bool
    decided: Decided
    label: str
    """`plain, not significant` for a bare number that luck could have made; empty otherwise."""
    step: float
    """Change of the statistic by one whole case."""
    rescued: tuple[str, ...]
    """Cases that the candidate does better than the reference side."""
    broken: tuple[str, ...]
    """Cases that it does worse."""
    cases_needed: int | None
    """Cases that would tell: with which the condition is shown four times of five (`policies.power`), whatever was
    measured. None: it is decided, or no number of cases can tell."""
    assumed_truth: float | None = None
    """The mean or difference per case at which that number is told; None where none is."""
    question: str = ""
    """What was asked, as the campaign file says it; empty in records of earlier versions."""
    sentence: str

    @model_validator(mode="before")
    @classmethod
    def _read_earlier(cls, data: Any) -> Any:
        """Leave out the second number of cases that records of earlier versions hold."""
        return {key: data[key] for key in data if key != "cases_for_margin"} if isinstance(data, dict) else data

    @property
    def is_met_by_estimate(self) -> bool:
        """Whether the bare number meets the bound that the test uses; not a verdict."""
        if self.estimate is None or self.decided == "fails":
            return False
        return self.sign * (self.estimate - self.bound) >= -EPSILON

    @property
    def is_shown_to_miss(self) -> bool:
        """Whether even the far bound misses what is asked; of a plain condition the bare number may fail by luck."""
        far = self.high if self.sign > 0 else self.low
        return far is not None and self.decided == "fails" and self.sign * (far - self.bound) < -EPSILON

    @property
    def cases_to_tell(self) -> int | None:
        """How many cases to take where these cannot tell; None where it is decided, or as many are at hand."""
        return self.cases_needed if self.decided == "undecided" and (self.cases_needed or 0) > self.n else None

    @property
    def is_never_told(self) -> bool:
        """Whether no number of cases can tell: the truth that is assumed lies at the bound."""
        return self.decided == "undecided" and self.assumed_truth is not None and self.cases_needed is None

    @property
    def slack(self) -> float:
        """By how much the confidence bound clears what is asked, negative where it does not, as a share."""
        near = self.low if self.sign > 0 else self.high
        return float("-inf") if near is None else self.sign * (near - self.bound) / self.unit

    @property
    def unit(self) -> float:
        """What a share comes to in the unit of the estimate: the scale's width, times the cases for a count."""
        return round(self.step * self.n, 9) or 1.0


class GateVerdict(Record):
    """All conditions, judged."""

    use: SplitUse
    alpha: float
    conditions: tuple[ConditionVerdict, ...]
    holds: bool
    decided: Decided
    labels: tuple[str, ...]
    """`condition: label` for each labelled condition."""
    sentence: str

    @property
    def failing(self) -> tuple[ConditionVerdict, ...]:
        """The conditions that do not hold."""
        return tuple(condition for condition in self.conditions if not condition.holds)


def judge_gate(
    gate: Gate,
    cases: CaseTable,
    alpha: float | None = None,
    *,
    use: SplitUse = "confirmation",
    ceilings: Mapping[str, float] | None = None,
) -> GateVerdict:
    """Judge a candidate against every condition.

    Args:
        gate: The conditions.
        cases: Candidate, parent and base as measured.
        alpha: One-sided level of each test; the level of one opening of the confirmation split when left out.
        use: Which part of the splits; promotion needs `confirmation`.
        ceilings: `split.metric` -> what the references score, for the number of cases that would tell.
    """
    level = gate.confirmation_alpha if alpha is None else alpha
    delta = gate.meaningful_delta
    verdicts = tuple(
        judge_condition(condition, cases, level, use=use, delta=delta, ceilings=ceilings)
        for condition in gate.conditions
    )
    holds = all(verdict.holds for verdict in verdicts)
    fails = any(verdict.decided == "fails" for verdict in verdicts)
    decided: Decided = "holds" if holds else "fails" if fails else "undecided"
    missing = [verdict.id for verdict in verdicts if not verdict.holds]
    labels = tuple(f"{verdict.id}: {verdict.label}" for verdict in verdicts if verdict.label)
    count = len(verdicts)
    sentence = f"{count - len(missing)} of {count} gate conditions hold on the {use} cases"
    sentence += f"; not {_missed(verdicts)}." if missing else _by_luck(verdicts)
    return GateVerdict(
        use=use, alpha=level, conditions=verdicts, holds=holds, decided=decided, labels=labels, sentence=sentence
    )


def _by_luck(verdicts: Sequence[ConditionVerdict]) -> str:
    """Return the end of a gate's sentence: which conditions only a bare number met, and what would settle them."""
    lucky = [verdict for verdict in verdicts if verdict.holds and verdict.label.startswith(NOT_SIGNIFICANT)]
    if not lucky:
        return "."
    shown = ", ".join(
        f"{verdict.id} (a test would need {verdict.cases_needed} cases)" if verdict.cases_needed else verdict.id
        for verdict in lucky
    )
    return f"; by the bare number only: {shown}."


_MOST_MISSED = 3
"""Conditions that a gate's sentence tells with their numbers; the others by name."""


def _missed(verdicts: Sequence[ConditionVerdict]) -> str:
    """Return which conditions do not hold and by which numbers: a good estimate may have too low a bound."""
    missed = [verdict for verdict in verdicts if not verdict.holds]
    shortfalls = [f"{verdict.id} ({_short_of(verdict)})" for verdict in missed[:_MOST_MISSED]]
    return ", ".join([*shortfalls, *(verdict.id for verdict in missed[_MOST_MISSED:])])


def _short_of(verdict: ConditionVerdict) -> str:
    """Return what a condition was measured at and what was asked of which bound."""
    near = verdict.low if verdict.sign > 0 else verdict.high
    if verdict.estimate is None or near is None:
        return verdict.label or "not measured"
    word, side = ("at least", "lower") if verdict.sign > 0 else ("at most", "upper")
    wanted = verdict.threshold if verdict.test == "plain" else verdict.bound
    measured = f"{verdict.estimate:.4g} measured, {word} {wanted:g} asked"
    if verdict.test == "plain":
        return measured
    more = told(verdict)
    return f"{measured} of its {side} bound, which is {near:.4g} on {verdict.n} cases{more and ', ' + more}"


def told(verdict: ConditionVerdict) -> str:
    """Return how many cases would tell where these cannot, in words; empty where it is decided, or they are enough."""
    if verdict.is_never_told:
        return f"no number of cases can tell {_assumed(verdict)} from what is asked"
    return f"about {verdict.cases_to_tell} cases would tell {_assumed(verdict)}" if verdict.cases_to_tell else ""


def _assumed(verdict: ConditionVerdict) -> str:
    """Return the truth that a number of cases is told for."""
    truth = verdict.assumed_truth or 0.0
    if verdict.statistic == "new_failures":
        return f"a true share of {truth:.4g}"
    if verdict.against == "value":
        return f"a true {truth:.4g}"
    return f"a true difference of {truth:+.4g}" if truth else "a true difference of 0"


def judge_condition(
    condition: Condition,
    cases: CaseTable,
    alpha: float,
    *,
    use: SplitUse = "confirmation",
    delta: float | None = None,
    ceilings: Mapping[str, float] | None = None,
) -> ConditionVerdict:
    """Judge one condition; of an any-of, return the metric closest to holding.

    Args:
        condition: What is asked.
        cases: Candidate, parent and base as measured.
        alpha: One-sided level; of an any-of, divided by the number of its metrics.
        use: Which part of the splits.
        delta: `gate.meaningful_delta`, for the number of cases that would tell, as are the ceilings.
        ceilings: `split.metric` -> what the references score.
    """
    level = alpha / len(condition.metrics)
    judged = [_judge_metric(condition, metric, cases, level, use) for metric in condition.metrics]
    verdict = max(judged, key=lambda verdict: _closeness(verdict, condition.sign))
    is_sure = verdict.decided != "undecided" if verdict.test != "plain" else verdict.label.startswith(_SIGNIFICANT)
    needed = None
    # More cases show no smaller limit on a count.
    is_hopeless = is_never_shown(condition, verdict.n, level, cases.scale(verdict.metric))
    if verdict.estimate is not None and not is_sure and not is_hopeless:
        ceiling = (ceilings or {}).get(verdict.metric)
        needed = cases_needed(condition, verdict.metric, level, cases=cases, use=use, delta=delta, ceiling=ceiling)
    if needed is not None:
        verdict = verdict.model_copy(update={"cases_needed": needed.most, "assumed_truth": needed.truth})
    return verdict.model_copy(update={"question": condition.sentence, "sentence": _sentence(condition, verdict)})


def _closeness(verdict: ConditionVerdict, sign: int) -> tuple[bool, float]:
    if verdict.estimate is None or verdict.low is None or verdict.high is None:
        return verdict.holds, float("-inf")
    near = verdict.low if sign > 0 else -verdict.high
    return verdict.holds, verdict.estimate * sign if verdict.test == "plain" else near


def _judge_metric(condition: Condition, metric: str, cases: CaseTable, alpha: float, use: SplitUse) -> ConditionVerdict:
    compared = compare(cases, metric, use=use, against=condition.against, alpha=alpha, statistic=condition.statistic)
    off = cases.off_scale(metric, use)
    if off is not None:
        compared = compared.model_copy(update={"value": None, "estimate": None, "low": None, "high": None})
    p = _exact_p(condition, compared)
    decided = _decide(condition, compared, p)
    better, worse = (compared.higher, compared.lower)[:: condition.sign]
    label = _label(condition, compared, p) if decided == "holds" and condition.kind == "plain" else ""
    if off is not None:
        label = f"{OFF_SCALE} ({off:.4g}, where {compared.scale.low:g} to {compared.scale.high:g} is declared)"
    return ConditionVerdict(
        id=condition.id,
        metric=metric,
        statistic=condition.statistic,
        against=condition.against,
        test=condition.kind,
        method=_method(compared),
        value=compared.value,
        reference=compared.reference,
        sign=condition.sign,
        threshold=condition.threshold,
        bound=condition.bound,
        estimate=compared.estimate,
        low=compared.low,
        high=compared.high,
        alpha=alpha,
        n=compared.n,
        excluded=compared.excluded,
        p=p,
        p_two_sided=compared.p_two_sided,
        holds=decided == "holds",
        decided=decided,
        label=label,
        step=compared.step,
        rescued=better,
        broken=worse,
        cases_needed=None,
        sentence="",
    )


def _decide(condition: Condition, compared: Comparison, p: float | None) -> Decided:
    interval = compared.interval
    if compared.estimate is None or interval is None:
        return "undecided"
    sign, bound = condition.sign, condition.threshold if condition.kind == "plain" else condition.bound
    if condition.kind == "plain":
        held = sign * (compared.estimate - bound) >= -EPSILON
        return "fails" if not held else "undecided" if misses_cases(compared.n, compared.excluded) else "holds"
    near, far = (interval.low, interval.high) if sign > 0 else (interval.high, interval.low)
    if sign * (far - bound) < -EPSILON:
        return "fails"
    passes = sign * (near - bound) >= -EPSILON if p is None else p <= compared.alpha
    if compared.noise_sd:
        # An exact test of the cases knows nothing of what their order alone would change.
        passes = passes and sign * (near - bound) >= -EPSILON
    passes = passes or _cannot_be_missed(condition, compared)
    return "holds" if passes and not misses_cases(compared.n, compared.excluded) else "undecided"


def least_limit(n: int, alpha: float, scale: Scale) -> float:
    """Return the smallest `max` of a count that n cases without any failure show.

    About -ln(alpha) failures are possible where none was seen, however many the cases.
    """
    return n * (scale.low + significance.exact_interval(0, max(1, n), alpha).high * scale.width)


def is_never_shown(condition: Condition, n: int, alpha: float, scale: Scale) -> bool:
    """Return whether a limit on a count is so small that not even none of n cases shows it, by a test."""
    is_limit = condition.statistic == "count" and condition.against == "value" and condition.sign < 0
    return is_limit and condition.kind != "plain" and least_limit(n, alpha, scale) > condition.threshold + EPSILON


def misses_cases(n: int, excluded: int) -> bool:
    """Return whether so many cases had no score that the n others say nothing of all."""
    return excluded > MAX_EXCLUDED_SHARE * (n + excluded)


def _cannot_be_missed(condition: Condition, compared: Comparison) -> bool:
    """Return whether every score on the scale meets a bound: there is no luck to rule out, and no test that could."""
    if condition.against != "value" or compared.estimate is None:
        return False
    worst = compared.start if condition.sign > 0 else compared.start + compared.unit
    met = condition.sign * (compared.estimate - condition.threshold) >= 0
    return met and condition.sign * (worst - condition.threshold) >= 0


def _wins(condition: Condition, compared: Comparison) -> tuple[int, int]:
    """Return how many cases changed in the wanted direction, and how many against it."""
    return (compared.better, compared.worse) if condition.sign > 0 else (compared.worse, compared.better)


def _exact_p(condition: Condition, compared: Comparison) -> float | None:
    """Return the p-value where one exact test answers the question: a 0/1 rate, or more wins than losses."""
    if compared.method != "exact" or compared.value is None or condition.statistic == "new_failures":
        return None
    if _cannot_be_missed(condition, compared):
        return None
    if condition.against == "value":
        shares = [(number - compared.start) / compared.unit for number in (compared.value, condition.threshold)]
        passed, rate = round(shares[0] * compared.n), shares[1]
        if condition.sign < 0:
            passed, rate = compared.n - passed, 1 - rate
        return significance.binomial_p(passed, compared.n, rate)
    return significance.sign_p(*_wins(condition, compared)) if condition.bound == 0 else None


def asks_no_worse(condition: Condition) -> bool:
    """Return whether a condition is met by no change at all: the no-worse conditions of the gate."""
    return condition.allows_no_change


def _is_significant(condition: Condition, compared: Comparison, p: float | None) -> bool:
    """Return whether a plain condition's result would also pass a test.

    A no-worse condition: the interval stays beyond the bound. Any other: more wins than losses against the parent, or,
    without the parent's cases, the interval again.
    """
    if not asks_no_worse(condition) and compared.p_two_sided is not None:
        return significance.sign_p(*_wins(condition, compared)) <= compared.alpha
    tested = condition.model_copy(update={"test": "auto"})
    return _decide(tested, compared, p) == "holds"


def _label(condition: Condition, compared: Comparison, p: float | None) -> str:
    label = _SIGNIFICANT if _is_significant(condition, compared, p) else NOT_SIGNIFICANT
    if asks_no_worse(condition) or compared.p_two_sided is None:
        return label
    return f"{label} (exact paired p = {compared.p_two_sided:.2g} two-sided)"


_METHODS = {
    "exact": "exact, on 0/1 scores",
    "bounded": "bounds for scores on a scale",
    "bootstrap": "percentile bootstrap",
    "unpaired": "Wilson-based, unpaired: no cases at hand",
    "none": "not measured",
}


def _method(compared: Comparison) -> str:
    paired = "paired " if compared.against != "value" and compared.method in {"exact", "bounded"} else ""
    return paired + _METHODS[compared.method]


def _sentence(condition: Condition, verdict: ConditionVerdict) -> str:
    question_text = condition.sentence
    if verdict.estimate is None or verdict.low is None or verdict.high is None:
        why = f"Not judged, since {verdict.label}" if verdict.label else "Not measured"
        return f"Asked: {question_text}. {why}, so it does not hold."
    level = f"{100 * (1 - 2 * verdict.alpha):.3g} %"
    cases = "1 case" if verdict.n == 1 else f"{verdict.n} cases"
    shown = f"{verdict.estimate:.4g} ({level} interval {verdict.low:.4g} to {verdict.high:.4g}, {cases})"
    answer = {"holds": "It holds", "fails": "It fails", "undecided": "The cases cannot tell"}[verdict.decided]
    extra = f", {verdict.label}" if verdict.label else ""
    words = told(verdict)
    more = f" {words[0].upper()}{words[1:]}." if words else ""
    gone = (
        f" {verdict.excluded} {'case' if verdict.excluded == 1 else 'cases'} had no score." if verdict.excluded else ""
    )
    return f"Asked: {question_text}. Measured {shown}. {answer}{extra}.{more}{gone}"
