"""What "N cases would tell" means: the gate's own test holds four times of five at the truth that is assumed."""

import pytest

from policies import power, significance
from policies.comparison import CaseTable, Changes, Mean, Scale
from policies.power import Needed, cases_needed
from state.goal import Condition
from tests.benchmarks.levels import TOLD, Told, told_power
from tests.policies.lab import REASON, ones, table

OPENING = 0.05 / 3
VALUE = Condition(metric="s.ok", min=0.8)
NO_WORSE = Condition(metric="s.ok", against="parent", min=0.0, margin=0.05)
REPLICATES = 300


def told(condition: Condition, cases: CaseTable | None = None, **known: float) -> Needed:
    found = cases_needed(condition, condition.metrics[0], OPENING, cases=cases, **known)  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize("world", TOLD, ids=lambda world: world.name)
def test_the_cases_said_to_tell_do_so_four_times_of_five(world: Told) -> None:
    n, found = told_power(world, REPLICATES, seed=5)
    # 0.8 +- 0.05, and two standard errors of so many campaigns.
    assert abs(found - significance.POWER) < 0.05 + 2 * (0.16 / REPLICATES) ** 0.5, n


@pytest.mark.parametrize(
    ("start", "known", "truth"),
    [
        (None, {}, 0.9),
        (None, {"ceiling": 0.86}, 0.83),
        (24, {}, 0.9),
        (24, {"delta": 0.05}, 0.85),
        (24, {"delta": 0.3}, 1.0),
        (24, {"delta": 0.3, "ceiling": 0.86}, 0.86),
        (32, {}, 0.9),
        (38, {}, 0.95),
        (34, {"delta": 0.1}, 0.9),
        (38, {"ceiling": 0.9}, 0.9),
    ],
)
def test_the_truth_of_a_score_is_delta_beyond_the_gate_at_most_what_the_references_score(
    start: int | None, known: dict[str, float], truth: float
) -> None:
    cases = None if start is None else table(parent={"s.ok": ones(start, 40)})
    assert told(VALUE, cases, **known).truth == pytest.approx(truth)
    upside_down = None if start is None else table(parent={"s.ok": ones(40 - start, 40)})
    mirrored = {**known, **({"ceiling": 1 - known["ceiling"]} if "ceiling" in known else {})}
    below = told(Condition(metric="s.ok", max=0.2), upside_down, **mirrored)
    assert below.truth == pytest.approx(1 - truth)
    assert below.most == told(VALUE, cases, **known).most


def test_the_truth_of_an_improvement_is_what_the_room_leaves_and_of_no_worse_nothing() -> None:
    gain = Condition(metric="s.ok", against="parent", min=0.1)
    start = table(parent={"s.ok": ones(20, 40)}, base={"s.ok": ones(10, 40)})
    assert told(gain, start).truth == pytest.approx(0.15)
    assert told(gain, start, delta=0.3).truth == pytest.approx(0.4)
    assert told(gain, start, delta=0.3, ceiling=0.7).truth == pytest.approx(0.2)
    assert told(gain, delta=2.0).truth == 1.0
    assert told(gain, start, ceiling=0.6).most is None, "the references leave the gate and no more"
    assert told(NO_WORSE, start, delta=0.3).truth == 0.0


def test_the_variation_is_what_was_measured_and_bracketed_before() -> None:
    start = {"s.ok": ones(20, 40)}
    flipped = {"s.ok": [*ones(0, 1), *ones(20, 39)]}
    before, after = told(NO_WORSE, table(parent=start)), told(NO_WORSE, table(parent=start, candidate=flipped))
    assert before.least == significance.cases_for_unseen(0.05, OPENING)
    assert (before.basis, after.basis) == ("bracketed", "measured")
    assert before.least is not None
    assert before.most is not None
    assert after.most == after.least
    assert before.least < (after.most or 0) < before.most
    assert (told(NO_WORSE).basis, told(NO_WORSE).least, told(NO_WORSE).most) == ("least", before.least, before.least)
    gain = Condition(metric="s.ok", against="parent", min=0.05)
    alike = told(gain)
    assert alike.least is not None
    assert alike.most is not None
    assert alike.least < alike.most / 2, "all answers gain as much, or a few gain all"
    assert told(VALUE, delta=0.1).most == told(VALUE, table(parent=start), delta=0.1).most
    assert (told(VALUE).least or 0) < (told(VALUE).most or 0)
    assert told(NO_WORSE, CaseTable(means={"parent": {"s.ok": Mean(mean=0.5, n=40)}})) == before
    published = CaseTable(means={side: {"s.ok": Mean(mean=0.5, n=40)} for side in ("parent", "candidate")})
    unrelated = told(NO_WORSE, published)
    assert (unrelated.basis, unrelated.least) == ("0/1", unrelated.most)
    assert unrelated.most == before.most
    changed = published.model_copy(update={"changes": {"s.ok": Changes(higher=1, lower=1)}})
    assert told(NO_WORSE, changed) == after


def test_dense_scores_are_moved_to_the_truth_and_their_differences_kept() -> None:
    parent = [0.3 + 0.005 * (case % 40) for case in range(200)]
    moved = [score + 0.05 * (case % 3 - 1) for case, score in enumerate(parent)]
    cases = table(parent={"s.ok": parent}, candidate={"s.ok": moved})
    measured = told(NO_WORSE, cases)
    assert (measured.truth, measured.basis) == (0.0, "measured")
    assert measured.most is not None
    assert 80 < measured.most < 100, "little more than whole losses that do not show"
    before = told(NO_WORSE, table(parent={"s.ok": parent}))
    assert before.least == significance.cases_for_unseen(0.05, OPENING)
    assert (before.most or 0) > measured.most
    above = told(Condition(metric="s.ok", min=0.6), cases)
    assert above.basis == "measured"
    assert above.most is not None
    assert told(VALUE, table(candidate={"s.ok": [1.0, 0.9]})).most is not None, "moved down as well as up"
    assert told(Condition(metric="s.ok", max=0.2), cases).most is not None


def test_a_plain_condition_is_told_at_what_was_measured() -> None:
    plain = Condition(metric="s.ok", min=0.5, test="plain", reason=REASON)
    cases = table(parent={"s.ok": ones(20, 40)}, candidate={"s.ok": ones(24, 40)})
    assert told(plain, cases).truth == pytest.approx(0.1), "more wins than losses"
    alone = told(plain, table(candidate={"s.ok": ones(24, 40)}))
    assert (alone.truth, alone.bound) == (0.6, 0.5)
    kept = Condition(metric="s.ok", against="parent", min=-0.05, test="plain", reason=REASON)
    assert told(kept, cases).truth == pytest.approx(0.1)
    assert told(kept, cases).bound == -0.05


def test_counts_are_told_by_the_case_and_only_where_their_number_is_known() -> None:
    count = Condition(metric="s.ok", statistic="count", min=30)
    assert cases_needed(count, "s.ok", OPENING) is None
    assert told(count, table(parent={"s.ok": ones(20, 40)})) == told(
        Condition(metric="s.ok", min=0.75), table(parent={"s.ok": ones(20, 40)})
    )
    found = cases_needed(count, "s.ok", OPENING, n=60)
    assert found is not None
    assert found.bound == 0.5


def test_new_failures_are_told_where_as_many_cases_are_gained_as_lost() -> None:
    limit = Condition(metric="s.ok", statistic="new_failures", against="parent", max=4)
    start = {"s.ok": ones(20, 40)}
    before = told(limit, table(parent=start))
    assert (before.truth, before.bound, before.least) == (0.0, 0.1, significance.cases_for_unseen(0.1, OPENING))
    assert before.most is None, "a quarter of unrelated answers newly fails"
    after = told(limit, table(parent=start, candidate={"s.ok": [*ones(0, 2), *ones(20, 38)]}))
    assert (after.truth, after.basis) == (0.05, "measured")
    assert after.most is not None


def test_a_bound_that_every_score_meets_needs_one_case_and_a_hair_more_than_anybody_has() -> None:
    assert told(Condition(metric="s.ok", min=0.0), ceiling=0.5).most == 1
    assert told(VALUE, delta=1e-6).most is None
    assert told(VALUE, delta=1e-3).most is not None
    few = told(Condition(metric="s.ok", min=0.02), delta=0.9)
    assert (few.most or 0) <= 3


@pytest.mark.parametrize(("share", "rate"), [(0.9, 0.8), (0.6, 0.5), (1.0, 0.98), (0.3, 0.1)])
def test_the_least_number_of_counted_cases_is_the_first_with_enough_power(share: float, rate: float) -> None:
    n = power._counted(share, rate, 0.05)
    assert n is not None

    def exactly(cases: int) -> float:
        passing = [k for k in range(cases + 1) if significance.binomial_p(k, cases, rate) <= 0.05]
        return significance.binomial_p(passing[0], cases, share) if passing else 0.0

    assert exactly(n) >= significance.POWER > exactly(n - 1)
    assert (power._counted(share, rate, 0.05, 0.5) or 0) <= n


def test_a_metric_on_a_declared_scale_needs_what_its_shares_need() -> None:
    scale = {"s.pct": Scale(low=-50.0, high=150.0)}
    start, after = [0.3, 0.5, 0.4, 0.9] * 10, [0.5, 0.4, 0.6, 0.9] * 10
    shares = table(parent={"s.pct": start}, candidate={"s.pct": after})
    wide = table(
        parent={"s.pct": [200 * each - 50 for each in start]}, candidate={"s.pct": [200 * each - 50 for each in after]}
    ).model_copy(update={"scales": scale})
    for asked, counted in ((0.7, "mean"), (0.7 * 40, "count")):
        ours = told(Condition(metric="s.pct", min=asked, statistic=counted), shares, delta=0.1, ceiling=0.95)
        bound = 90.0 if counted == "mean" else 3_600.0
        theirs = told(Condition(metric="s.pct", min=bound, statistic=counted), wide, delta=20.0, ceiling=140.0)
        assert (theirs.least, theirs.most) == (ours.least, ours.most)
        assert theirs.truth == pytest.approx(200 * ours.truth - 50)
    ours = told(Condition(metric="s.pct", against="parent", min=-0.1), shares)
    theirs = told(Condition(metric="s.pct", against="parent", min=-20.0), wide)
    assert (theirs.most, theirs.bound) == (ours.most, -20.0)


@pytest.mark.parametrize(("alpha", "fewest", "most"), [(0.05, 44, 48), (OPENING, 60, 66)])
def test_rare_whole_losses_count_by_their_own_weight(alpha: float, fewest: int, most: int) -> None:
    rare = power._World(power._Sample((-1.0, 0.11), (0.01, 0.99)), 0.0, -1.0, alpha)
    n = power._cases(rare, is_paired=True, is_binary=False)
    # Simulated, so many hold 92 % and 86 % of the time, as one loss decides; counted by the mean alone, 64 % and 55 %.
    assert n is not None
    assert fewest <= n <= most
