"""Metrics that only say all or nothing, and whether another metric shows the progress they hide (P9)."""

from collections.abc import Mapping, Sequence

from state.records import Finding

__all__ = ["check_all_or_nothing"]

Values = Sequence[float | None]

_LEAST_CASES = 8
"""Fewer cases cannot tell a metric that has only two values from one that happened to."""
_LEAST_BETWEEN_SHARE = 0.1
_ALPHA = 0.05
_LEAST_ON_A_SIDE = 3
"""With fewer cases on one side no test can show anything; there the two sides must not overlap."""


def check_all_or_nothing(values: Mapping[str, Values]) -> list[Finding]:
    """Report metrics that take 0 and 1 alone.

    A companion is another metric of the same outputs that lies strictly between its own extremes, and between 0 and 1,
    in a tenth of the cases or more, and is higher (or, for a metric of which less is better, lower) where the strict
    one is 1 than where it is 0 (Mann-Whitney, two-sided 0.05 over all candidates). For a metric that is 0 in every case
    nothing can go along: a dense metric is then named as what shows more, without that proof.

    Args:
        values: Metric -> value per case, in the same order for all metrics.

    Returns:
        A warning for each such metric without a companion, a note that names it for each one with; nothing for a metric
        that is 1 in every case, which hides nothing, or one that is 0 in every case while no other says more.
    """
    dense = [name for name, row in values.items() if _is_dense(row)]
    found = []
    for name, row in values.items():
        seen = {value for value in row if value is not None}
        n = sum(value is not None for value in row)
        if n < _LEAST_CASES or not seen <= {0, 1} or 0 not in seen:
            continue
        passed = sum(value == 1 for value in row)
        if not passed:
            found += [_never(name, n, dense)] if dense else []
            continue
        companions = [other for other in dense if _goes_along(row, values[other], len(dense))]
        found.append(_with(name, passed, n, companions) if companions else _without(name, passed, n))
    return sorted(found, key=lambda finding: finding.severity != "warning")


def _is_dense(row: Values) -> bool:
    known = [value for value in row if value is not None]
    between = sum(0 < value < 1 for value in known)
    return len(known) >= _LEAST_CASES and len(set(known)) > 1 and between >= _LEAST_BETWEEN_SHARE * len(known)


def _goes_along(strict: Values, dense: Values, candidates: int) -> bool:
    from scipy.stats import mannwhitneyu

    pairs = [(one, two) for one, two in zip(strict, dense, strict=False) if one is not None and two is not None]
    passed = [two for one, two in pairs if one == 1]
    failed = [two for one, two in pairs if one == 0]
    if not passed or not failed or len({*passed, *failed}) == 1:
        return False
    if min(len(passed), len(failed)) < _LEAST_ON_A_SIDE:
        return min(passed) >= max(failed) or max(passed) <= min(failed)
    return float(mannwhitneyu(passed, failed).pvalue) * candidates <= _ALPHA


def _with(name: str, passed: int, n: int, companions: list[str]) -> Finding:
    return Finding(
        mode="P9",
        severity="note",
        claim="is_all_or_nothing",
        sentence=(
            f"{name} says all or nothing ({passed} of {n} cases are 1, the rest 0); {', '.join(companions)} shows what "
            "lies between and goes along with it."
        ),
        value={"metric": name, "passed": passed, "cases": n, "companions": companions},
        fix=f"Plan by {companions[0]}; judge by {name}.",
    )


def _never(name: str, n: int, dense: list[str]) -> Finding:
    return Finding(
        mode="P9",
        severity="note",
        claim="is_all_or_nothing",
        sentence=f"{name} is 0 in all {n} cases and tells none from another; {', '.join(dense)} takes values between.",
        value={"metric": name, "passed": 0, "cases": n, "companions": dense},
        fix=f"Plan by {dense[0]} until {name} passes somewhere.",
    )


def _without(name: str, passed: int, n: int) -> Finding:
    return Finding(
        mode="P9",
        severity="warning",
        claim="is_all_or_nothing",
        sentence=(
            f"{name} says all or nothing ({passed} of {n} cases are 1, the rest 0), and no other metric of the same "
            "outputs shows what lies between: progress short of all of it stays unseen."
        ),
        value={"metric": name, "passed": passed, "cases": n, "companions": []},
        fix=f"Let the grader return the share of {name} as well: rows kept, fields right, tests passed.",
    )
