import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from policies import significance as s

counts = st.integers(0, 30)
scores = st.lists(st.floats(0, 1), min_size=3, max_size=25)


def test_three_wins_and_no_loss_have_the_labs_p_value() -> None:
    assert s.sign_p_two_sided(3, 0) == 0.25
    assert s.sign_p(3, 0) == 0.125


def test_ties_alone_say_nothing() -> None:
    assert s.sign_p(0, 0) == 1.0
    assert s.sign_p_two_sided(0, 0) == 1.0


@pytest.mark.parametrize(
    ("passed", "n", "low", "high"),
    [(8, 40, 0.11, 0.35), (10, 40, 0.14, 0.40), (34, 40, 0.71, 0.93), (9, 12, 0.47, 0.91)],
)
def test_wilson_reproduces_the_labs_intervals(passed: int, n: int, low: float, high: float) -> None:
    bounds = s.wilson(passed / n, n)
    assert bounds.low == pytest.approx(low, abs=0.0051)
    assert bounds.high == pytest.approx(high, abs=0.0051)


def test_the_exact_interval_reaches_the_ends_of_the_scale() -> None:
    assert s.exact_interval(0, 40, 0.05).low == 0.0
    assert s.exact_interval(0, 40, 0.05).high == pytest.approx(1 - 0.05 ** (1 / 40))
    assert s.exact_interval(40, 40, 0.05).high == 1.0


def test_two_stress_tables_are_within_noise() -> None:
    bounds = s.unpaired_difference(0.25, 40, 0.20, 40)
    assert not bounds.excludes(0.0)
    assert bounds.within(0.325)


def test_forty_unchanged_cases_leave_room_for_a_loss() -> None:
    bounds, _ = s.paired_interval([0.0] * 40, 0.05, binary=True)
    assert bounds.low == pytest.approx(-0.0722, abs=1e-4)
    assert bounds.high == pytest.approx(0.0722, abs=1e-4)


def test_dense_scores_that_never_vary_still_get_a_width() -> None:
    bounds, _ = s.mean_interval([0.5] * 20, 0.05)
    assert bounds is not None
    assert bounds.low < 0.5 < bounds.high


def test_a_percentile_p_value_is_never_zero() -> None:
    _, means = s.mean_interval([0.9] * 30, 0.05)
    assert means is not None
    assert 0 < s.bootstrap_p(means, 0.1, 1) < 0.001
    assert s.bootstrap_p(means, 0.1, -1) > 0.99


def test_nine_to_twelve_of_twelve_needs_twenty_cases() -> None:
    assert s.cases_for_sign_test(3, 0, 12, 0.05) == 20
    assert s.cases_for_sign_test(2, 2, 12, 0.05) is None


def test_cases_grow_with_spread_and_shrink_with_distance() -> None:
    near, far = s.cases_for_significance(0.2, 0.02, 0.05), s.cases_for_significance(0.2, 0.1, 0.05)
    assert near is not None
    assert far is not None
    assert near > far
    assert s.cases_for_significance(0.2, 0.0, 0.05) is None
    assert s.cases_for_significance(0.2, 1e-17, 0.05) is None
    assert s.cases_for_significance(0.2, 1e-320, 0.05) is None


def test_a_perfect_score_above_the_labs_threshold_needs_nineteen_cases() -> None:
    assert s.cases_for_perfect_score(0.85, 0.05) == 19
    assert s.exact_interval(19, 19, 0.05).low >= 0.85 > s.exact_interval(18, 18, 0.05).low


def test_planned_cases_and_detectable_difference_are_inverse() -> None:
    n = s.cases_for_difference(0.5, 0.1, 0.025)
    assert s.detectable_difference(0.5, n, 0.025) == pytest.approx(0.1, rel=0.01)


@given(better=counts, worse=counts)
def test_another_win_never_weakens_the_evidence(better: int, worse: int) -> None:
    assert s.sign_p(better + 1, worse) <= s.sign_p(better, worse) + 1e-12
    assert s.sign_p(better, worse + 1) >= s.sign_p(better, worse) - 1e-12


@given(better=counts, worse=counts)
def test_the_sign_test_agrees_with_the_binomial_test(better: int, worse: int) -> None:
    if better + worse:
        expected = stats.binomtest(better, better + worse, 0.5, alternative="greater").pvalue
        assert math.isclose(s.sign_p(better, worse), float(expected), abs_tol=1e-12)


@given(pairs=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_totals_that_leave_one_pairing_name_the_true_wins_and_losses(pairs: list[tuple[bool, bool]]) -> None:
    before, after = sum(a for a, _ in pairs), sum(b for _, b in pairs)
    implied = s.implied_changes(before, after, len(pairs))
    true = (sum(b and not a for a, b in pairs), sum(a and not b for a, b in pairs))
    assert implied in {None, true}
    if after == len(pairs) or before == 0:
        assert implied == true


def test_nine_and_twelve_of_twelve_leave_one_pairing_and_eight_and_ten_of_forty_do_not() -> None:
    assert s.implied_changes(9, 12, 12) == (3, 0)
    assert s.implied_changes(12, 9, 12) == (0, 3)
    assert s.implied_changes(8, 10, 40) is None


@given(values=scores, place=st.integers(0, 24), rise=st.floats(0, 0.5))
def test_a_better_case_never_lowers_a_bootstrap_bound(values: list[float], place: int, rise: float) -> None:
    better = list(values)
    better[place % len(values)] += rise
    before, _ = s.paired_interval(values, 0.05)
    after, _ = s.paired_interval(better, 0.05)
    assert after.low >= before.low - 1e-9
    assert after.high >= before.high - 1e-9


@given(changes=st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=3, max_size=25), place=st.integers(0, 24))
def test_a_better_case_never_lowers_a_bound_on_binary_scores(changes: list[float], place: int) -> None:
    better = list(changes)
    better[place % len(changes)] = min(1.0, better[place % len(changes)] + 1)
    before, _ = s.paired_interval(changes, 0.05, binary=True)
    after, _ = s.paired_interval(better, 0.05, binary=True)
    assert after.low >= before.low - 1e-9


@given(values=scores, seed=st.integers(0, 1000))
def test_the_same_seed_gives_the_same_bounds(values: list[float], seed: int) -> None:
    assert s.mean_interval(values, 0.05, seed)[0] == s.mean_interval(values, 0.05, seed)[0]


@given(better=st.integers(1, 12), worse=st.integers(0, 6), ties=st.integers(0, 9))
def test_the_cases_that_a_sign_test_needs_are_the_fewest(better: int, worse: int, ties: int) -> None:
    n = better + worse + ties
    needed = s.cases_for_sign_test(better, worse, n, 0.05)
    if needed is None:
        assert better <= worse
    elif needed < 500:
        held = [c for c in range(n, needed + 1) if s.sign_p(better * c // n, worse * c // n) <= 0.05]
        assert held == [needed]


def test_a_difference_of_a_hair_needs_a_number_that_is_told_at_once() -> None:
    needed = s.cases_for_sign_test(50_001, 50_000, 100_001, 0.05)
    assert needed is not None
    assert needed > 1e10


def test_bounds_scale_with_their_unit() -> None:
    assert s.Interval(low=-0.5, high=1.0).scaled(80) == s.Interval(low=-40, high=80)
