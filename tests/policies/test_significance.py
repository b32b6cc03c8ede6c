import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from policies import significance as s
from tests.benchmarks import levels

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
    bounds = s.paired_interval([0.0] * 40, 0.05)
    assert bounds.low == pytest.approx(-0.0722, abs=5e-4)
    assert bounds.high == pytest.approx(0.0722, abs=5e-4)


def test_dense_scores_that_never_vary_still_get_a_width() -> None:
    bounds = s.mean_interval([0.5] * 20, 0.05)
    assert bounds.low == pytest.approx(0.5 * 0.05 ** (1 / 20), rel=0.01)
    assert bounds.high == pytest.approx(1 - 0.5 * 0.05 ** (1 / 20), rel=0.01)


@pytest.mark.parametrize(("n", "alpha"), [(12, 0.05 / 3), (40, 0.05), (200, 0.025)])
def test_a_score_a_hair_below_one_does_not_make_a_bound_that_ones_do_not_have(n: int, alpha: float) -> None:
    exact = s.mean_interval([1.0] * n, alpha)
    assert s.mean_interval([1.0] * (n - 1) + [0.999], alpha).low == pytest.approx(exact.low, rel=0.005)


@pytest.mark.parametrize(("passed", "n"), [(39, 40), (35, 40), (190, 200), (12, 12), (1, 12)])
def test_the_weighted_quantile_of_two_ends_is_the_exact_bound_of_a_rate(passed: int, n: int) -> None:
    points, shapes = np.array([0.0, 1.0]), np.array([n - passed + 1.0, passed])
    assert s._weighted_quantile(points, shapes, s.normal_quantile(0.05)) == pytest.approx(
        s.exact_interval(passed, n, 0.05).low, abs=2e-3
    )


def test_a_scale_in_other_units_gives_the_same_bounds_in_them() -> None:
    scores = [0.2 + 0.01 * (case % 30) for case in range(60)]
    plain, percent = s.mean_interval(scores, 0.05), s.mean_interval([100 * each for each in scores], 0.05, (0.0, 100.0))
    assert percent.low == pytest.approx(100 * plain.low, rel=1e-6)
    assert percent.high == pytest.approx(100 * plain.high, rel=1e-6)


@pytest.mark.parametrize("values", [[0.3], [0.3, 0.9], [0.1, 0.2, 0.9]])
def test_a_handful_of_dense_scores_shows_next_to_nothing(values: list[float]) -> None:
    bounds = s.mean_interval(values, 0.05)
    assert bounds.low < 0.15
    assert bounds.high > 0.8
    assert not s.typical_interval(values, 0.025).excludes(0.0)


def test_what_cases_show_is_told_from_what_they_leave_room_for() -> None:
    gains = [0.04 + 0.001 * (case % 5) for case in range(40)]
    assert s.typical_interval(gains, 0.025).low > 0.0
    assert s.paired_interval(gains, 0.025).low < 0.0


def test_few_cases_that_carry_all_of_a_gain_are_not_typical() -> None:
    assert not s.typical_interval([1.0] * 3 + [0.001] * 37, 0.025).excludes(0.0)


def test_forty_cases_leave_room_for_a_tenth_of_the_answers_and_a_margin_of_two_percent_needs_203() -> None:
    assert -s.paired_interval([0.0] * 40, 0.05 / 3).low == pytest.approx(1 - (0.05 / 3) ** (1 / 40), abs=1e-8)
    assert s.cases_for_unseen(0.02, 0.05 / 3) == 203
    assert s.paired_interval([0.0] * 203, 0.05 / 3).low >= -0.02 > s.paired_interval([0.0] * 202, 0.05 / 3).low


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
def test_a_better_case_never_lowers_a_bound(values: list[float], place: int, rise: float) -> None:
    better = list(values)
    better[place % len(values)] += rise
    before, after = s.paired_interval(values, 0.05, 1.5), s.paired_interval(better, 0.05, 1.5)
    assert after.low >= before.low - 1e-6
    assert after.high >= before.high - 1e-6


@given(changes=st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=3, max_size=25), place=st.integers(0, 24))
def test_a_better_case_never_lowers_a_bound_on_binary_scores(changes: list[float], place: int) -> None:
    better = list(changes)
    better[place % len(changes)] = min(1.0, better[place % len(changes)] + 1)
    before, after = s.paired_interval(changes, 0.05), s.paired_interval(better, 0.05)
    assert after.low >= before.low - 1e-6
    assert after.high >= before.high - 1e-6


@given(values=scores, alpha=st.sampled_from([0.49, 0.4, 0.37, 0.05, 0.025, 0.05 / 3, 0.001]))
def test_a_bound_lies_on_the_scale_and_on_its_side_of_the_mean(values: list[float], alpha: float) -> None:
    bounds = s.mean_interval(values, alpha)
    center = sum(values) / len(values)
    assert -1e-9 <= bounds.low <= center + 1e-6
    assert center - 1e-6 <= bounds.high <= 1 + 1e-9


def test_bounds_scale_with_their_unit() -> None:
    assert s.Interval(low=-0.5, high=1.0).scaled(80) == s.Interval(low=-40, high=80)


WORLDS = {world.name: world for world in levels.WORLDS}


@pytest.mark.parametrize(
    ("world", "n", "alpha"),
    [
        ("no worse at a margin of 0.1, whole losses and noise", 40, 0.05),
        ("value below 0.8, near-binary", 80, 0.05),
        ("no gain, 5 % whole losses in noise", 40, 0.05 / 3),
        ("no gain, outliers", 200, 0.05),
        ("no gain, skewed to losses", 20, 0.05),
        ("no gain, normal with sd 0.25", 200, 0.05),
    ],
)
def test_a_bound_keeps_its_level_in_worlds_where_the_mean_lies_at_it(world: str, n: int, alpha: float) -> None:
    found = levels.rate(WORLDS[world], n, alpha, 400, seed=7)
    assert levels.is_kept(found, alpha, 400)


def test_a_gain_that_two_hundred_cases_show_is_found_four_times_of_five() -> None:
    assert levels.rate(WORLDS["no gain, normal with sd 0.25"], 200, 0.05, 200, seed=3, shift=0.046) > 0.7


@pytest.mark.parametrize("world", levels.WORLDS, ids=lambda world: world.name)
def test_the_table_of_levels_decides_as_the_bounds_do(world: levels.World) -> None:
    bounds = s.paired_interval if world.is_paired else s.mean_interval
    for sample in (*levels.draws(world, 12, 6, seed=3, shift=0.1), *levels.draws(world, 80, 6, seed=3, shift=0.03)):
        low = bounds([float(each) for each in sample], 0.05).low
        assert levels.holds(world, sample, 0.05) == (low >= world.bound)


def test_the_saddlepoint_is_found_where_the_first_step_would_land_beside_a_pole() -> None:
    distances = np.array([-0.9, 0.1, 1.1])
    roots = [
        s.signed_root(distances, np.array([2.39729934, middle, 2.39729934])) for middle in (55.137, 55.13788478, 55.139)
    ]
    assert roots[1] == pytest.approx(roots[0], rel=1e-3)
    assert roots[1] == pytest.approx(roots[2], rel=1e-3)
    assert roots[1][1] < -2


def test_few_cases_on_a_scale_that_they_fill_are_widened_as_students_t_asks() -> None:
    # Without it 0.4275, though t's own bound of these five is 0.4018.
    assert s.mean_interval((0.4, 0.45, 0.5, 0.55, 0.6), 0.025, (0.4, 0.6)).low == pytest.approx(0.4035, abs=5e-4)
