import pytest

from policies.checks import (
    beyond_reach,
    cases_told,
    is_one_measurement,
    least_cases,
    limit_fix,
    reachability,
)
from policies.comparison import CaseTable, Mean, scales_of
from policies.gate import judge_condition
from policies.significance import cases_for_unseen
from state.goal import Condition, Gate, TestKind
from state.records import Finding
from tests.policies.lab import BASE, CYCLES, GATE, REASON, ones, table


def modes(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.mode, finding.severity) for finding in findings]


def gate(*conditions: Condition) -> Gate:
    return Gate(conditions=conditions)


def test_the_labs_phantom_ceiling_stops_before_any_training_and_names_the_budget_that_would_do() -> None:
    budgets = {"stress.data_preservation": [(512, 0.25), (640, 0.55), (768, 1.0)]}
    findings = reachability(GATE, {"stress.data_preservation": 0.25}, BASE, budgets=budgets)
    assert modes(findings) == [("P1", "hard_stop")]
    assert "0.85" in findings[0].sentence
    assert "0.25" in findings[0].sentence
    assert "768" in findings[0].fix
    assert findings[0].value["max_tokens"] == 768


def test_without_a_sufficient_budget_the_fix_says_what_to_look_for() -> None:
    findings = reachability(GATE, {"stress.data_preservation": 0.25}, BASE)
    assert "until the references score 0.85" in findings[0].fix


@pytest.mark.parametrize(
    ("asked", "ceiling", "fix"),
    [
        ({"min": 1.8}, 1.0, "Lower the threshold: no metric goes above 1."),
        ({"max": -0.1}, 0.0, "Raise the threshold: no metric goes below 0."),
        ({"min": 1.0}, 0.9, "Raise evaluation.max_tokens until the references score 1, or lower the threshold."),
        ({"max": 0.1}, 0.3, "Raise evaluation.max_tokens until the references score 0.1, or raise the threshold."),
    ],
)
def test_beyond_the_scale_no_decode_budget_is_advised(asked: dict[str, float], ceiling: float, fix: str) -> None:
    asks = gate(Condition.model_validate({"metric": "main.score", **asked}))
    [finding] = reachability(asks, {"main.score": ceiling}, {})
    assert finding.fix == fix
    assert beyond_reach(asks, {"main.score": ceiling}, {}) == [finding]


def test_the_labs_gate_is_reachable_at_a_sufficient_budget() -> None:
    assert reachability(GATE, {"stress.data_preservation": 1.0}, BASE) == []


def test_the_labs_first_gate_was_out_of_reach_from_its_base() -> None:
    first = gate(Condition(metric="regular.composite", against="base", min=0.10))
    findings = reachability(first, {}, BASE)
    assert modes(findings) == [("4", "hard_stop")]
    assert "0.0431" in findings[0].sentence
    assert findings[0].value["room"] == pytest.approx(0.0431)
    measured = reachability(first, {"regular.composite": 0.98}, BASE)
    assert "the references' score" in measured[0].sentence


def test_a_fall_can_be_out_of_reach_too() -> None:
    falling = gate(Condition(metric="s.rh", against="base", max=-0.3))
    findings = reachability(falling, {}, {"s.rh": Mean(mean=0.2, n=100)})
    assert modes(findings) == [("4", "hard_stop")]
    low = gate(Condition(metric="s.rh", max=0.1))
    assert "below" in reachability(low, {"s.rh": 0.2}, {})[0].sentence
    assert reachability(low, {"s.rh": 0.05}, {}) == []


@pytest.mark.parametrize("test", ["auto", "plain"])
def test_a_count_is_held_against_the_ceiling_once_its_cases_are_known(test: TestKind) -> None:
    counted = gate(Condition(metric="s.ok", statistic="count", min=34, test=test, reason=REASON))
    base = {"s.ok": Mean(mean=0.2, n=40)}
    found = reachability(counted, {"s.ok": 0.25}, base, budgets={"s.ok": [(512, 0.25), (640, 0.9)]})
    assert modes(found) == [("P1", "hard_stop")]
    assert "at least 0.85 (34 of 40 cases)" in found[0].sentence
    assert found[0].value["max_tokens"] == 640
    assert "P1" not in dict(modes(reachability(counted, {"s.ok": 0.85}, base)))
    assert reachability(counted, {"s.ok": 0.25}, {}) == []
    few = gate(Condition(metric="s.rh", statistic="count", max=2, test=test, reason=REASON))
    assert modes(reachability(few, {"s.rh": 0.1}, {"s.rh": Mean(mean=0.5, n=40)})) == [("P1", "hard_stop")]


def test_an_any_of_is_out_of_reach_only_when_all_of_it_is() -> None:
    either = gate(Condition(any_of=("s.a", "s.b"), min=0.9, test="plain", reason=REASON))
    assert modes(reachability(either, {"s.a": 0.5, "s.b": 0.6}, {})) == [("P1", "hard_stop")]
    assert reachability(either, {"s.a": 0.5, "s.b": 0.95}, {}) == []
    assert reachability(either, {"s.a": 0.5}, {}) == []


def test_a_margin_below_one_case_is_coarser_than_the_ruler() -> None:
    strict = gate(Condition(id="1", metric="regular.composite", against="parent", min=-0.005))
    findings = reachability(strict, {}, BASE)
    assert ("P5", "warning") in modes(findings)
    assert "0.0125" in findings[0].sentence
    assert findings[0].value["cases_needed"] == cases_for_unseen(0.005, 0.05 / 3)


def test_a_margin_of_nothing_asks_for_more_than_any_number_of_cases() -> None:
    none = gate(Condition(metric="s.rh", statistic="count", against="parent", max=0))
    findings = reachability(none, {}, {"s.rh": Mean(mean=0.1, n=40)})
    assert findings[0].value["cases_needed"] is None
    tiny = gate(Condition(metric="s.ok", against="parent", min=-1e-320))
    assert reachability(tiny, {}, {"s.ok": Mean(mean=0.1, n=40)})[0].value["cases_needed"] is None


def test_twelve_perfect_cases_cannot_show_the_labs_threshold() -> None:
    stress = gate(Condition(metric="s.ok", min=0.85))
    base = {"s.ok": Mean(mean=0.25, n=12)}
    findings = reachability(stress, {}, base, cases=table(base={"s.ok": ones(3, 12)}), alpha=0.05)
    assert modes(findings) == [("P5", "hard_stop")]
    assert "19" in findings[0].fix
    assert reachability(stress, {}, {"s.ok": Mean(mean=0.25, n=40)}, alpha=0.05) == []


def test_an_undecidable_upper_bound_is_found_as_well() -> None:
    low = gate(Condition(metric="s.rh", max=0.15))
    findings = reachability(low, {}, {"s.rh": Mean(mean=0.5, n=12)}, alpha=0.05)
    assert modes(findings) == [("P5", "warning")]


def test_a_dense_metric_is_judged_on_its_own_cases() -> None:
    base = [0.5 + 0.01 * (index % 7) for index in range(40)]
    kept = gate(Condition(metric="s.d", against="parent", min=-0.03))
    cases = table(base={"s.d": base})
    assert reachability(kept, {"s.d": 0.9}, {"s.d": Mean(mean=0.53, n=40)}, cases=cases) == []


def test_an_improvement_that_needs_the_whole_room_cannot_be_shown() -> None:
    all_of_it = gate(Condition(metric="s.ok", against="parent", min=0.1))
    cases = table(base={"s.ok": ones(36, 40)})
    findings = reachability(all_of_it, {}, {"s.ok": Mean(mean=0.9, n=40)}, cases=cases)
    assert modes(findings) == [("P5", "hard_stop")]
    assert "more cases" in findings[0].fix


def test_an_unmeasured_metric_is_not_judged() -> None:
    condition = Condition(any_of=("s.a", "s.b"), against="parent", min=0.1)
    assert reachability(gate(condition), {}, {"s.a": Mean(mean=0.2, n=200)}) == []
    assert reachability(gate(condition), {}, {}) == []


def test_a_limit_on_new_failures_needs_cases_enough_for_none_to_be_shown() -> None:
    limit = Condition(id="new", metric="s.ok", statistic="new_failures", against="base", max=2)
    few = table(base={"s.ok": ones(20, 40)})
    findings = reachability(gate(limit), {}, {"s.ok": Mean(mean=0.5, n=40)}, cases=few, alpha=0.05)
    assert [finding.claim for finding in findings] == ["decidable"]
    wide = limit.model_copy(update={"max": 4.0})
    assert reachability(gate(wide), {}, {"s.ok": Mean(mean=0.5, n=40)}, cases=few, alpha=0.05) == []
    half = limit.model_copy(update={"max": 0.5})
    claims = [finding.claim for finding in reachability(gate(half), {}, {"s.ok": Mean(mean=0.5, n=40)}, cases=few)]
    assert claims == ["resolvable", "decidable"]


def test_two_conditions_on_one_measurement_are_redundant() -> None:
    both = gate(
        Condition(id="kept", metric="s.kept", min=0.3, test="plain", reason=REASON),
        Condition(id="lost", metric="s.lost", max=0.7, test="plain", reason=REASON),
        Condition(id="other", metric="t.kept", min=0.3, test="plain", reason=REASON),
    )
    kept = ones(10, 40)
    lost = [1 - (score or 0) for score in kept]
    cases = table(base={"s.kept": kept, "s.lost": lost, "t.kept": kept})
    findings = reachability(both, {}, {}, cases=cases)
    assert modes(findings) == [("P4", "warning")]
    assert "kept and lost measure one thing" in findings[0].sentence
    different = table(base={"s.kept": kept, "s.lost": ones(39, 40), "t.kept": kept})
    assert reachability(both, {}, {}, cases=different) == []


def test_the_labs_reward_hacking_count_is_its_preservation_in_every_cycle() -> None:
    cycles = [BASE, *CYCLES.values()]
    pairs = [(cycle["regular.data_preservation"].mean, cycle["regular.rh"].mean * 80) for cycle in cycles]
    assert is_one_measurement(pairs)
    units = [(cycle["regular.data_preservation"].mean, cycle["regular.unit"].mean) for cycle in cycles]
    assert not is_one_measurement(units)
    assert not is_one_measurement([(0.5, 1.0), (0.5, 0.0)])


def test_an_empty_table_finds_no_redundancy() -> None:
    assert reachability(GATE, {}, BASE, cases=CaseTable()) == []


@pytest.mark.parametrize(
    ("asked", "least"),
    [
        ({"metric": "s.ok", "min": 0.85}, 26),
        ({"metric": "s.ok", "max": 0.1}, 39),
        ({"metric": "s.ok", "against": "parent", "min": 0.0, "margin": 0.05}, 6),
        ({"metric": "s.ok", "against": "base", "min": 0.5}, 15),
        ({"any_of": ("s.ok", "s.form"), "min": 0.85}, 30),
        ({"metric": "s.ok", "min": 0.85, "test": "plain", "reason": REASON}, 1),
        ({"metric": "s.ok", "min": 34, "statistic": "count"}, 1),
        ({"metric": "s.ok", "min": 0.0}, 1),
    ],
)
def test_the_least_cases_are_those_on_which_the_best_scores_that_there_can_be_hold(
    asked: dict[str, object], least: int
) -> None:
    condition = Condition.model_validate(asked)
    alpha = Gate(conditions=(condition,)).confirmation_alpha
    assert least_cases(condition, alpha) == least
    if least == 1:
        return
    worst, best = (0.0, 1.0) if condition.sign > 0 else (1.0, 0.0)
    for n, holds in ((least, True), (least - 1, False)):
        scores = {name: [best] * n for name in ("s.ok", "s.form")}
        start = {name: [worst] * n for name in ("s.ok", "s.form")}
        verdict = judge_condition(condition, table(base=start, parent=start, candidate=scores), alpha)
        assert verdict.holds == holds, verdict.sentence


def test_a_limit_on_a_count_that_no_cases_show_is_stopped_with_its_fix() -> None:
    few = Condition(id="few", metric="s.x", statistic="count", max=2)
    cases = table(base={"s.x": ones(1, 80)}, parent={"s.x": ones(1, 80)})
    found = reachability(gate(few), {}, {"s.x": Mean(mean=1 / 80, n=80)}, cases=cases, alpha=0.05 / 3)[0]
    assert (found.claim, found.severity) == ("decidable", "hard_stop")
    assert found.fix.startswith("Write `test: plain` with a `reason`")
    assert found.fix.endswith("or a `max` of at least 4.")
    assert limit_fix(few, 80, 0.05 / 3, scales_of({"x": (0, 0.25)})) == ""
    assert limit_fix(few.model_copy(update={"test": "plain", "reason": REASON}), 80, 0.05 / 3) == ""


def met(*conditions: Condition, start: int) -> list[tuple[str, str]]:
    cases = table(base={"s.ok": ones(start, 400)}, parent={"s.ok": ones(start, 400)})
    found = reachability(gate(*conditions), {}, {"s.ok": Mean(mean=start / 400, n=400)}, cases=cases)
    return [(finding.claim, finding.sentence) for finding in found]


FLOOR = Condition(metric="s.ok", min=0.8)
NO_WORSE = Condition(metric="s.ok", against="parent", min=0.0, margin=0.05)


def test_a_start_that_meets_the_gate_already_is_said_before_the_first_run() -> None:
    [(claim, sentence)] = met(FLOOR, NO_WORSE, start=380)
    assert claim == "asks_more"
    assert "s.ok is 0.95, asked 0.8" in sentence
    assert met(FLOOR, NO_WORSE, start=300) == []
    assert met(FLOOR, Condition(metric="s.ok", against="parent", min=0.02), start=380) == []
    assert met(NO_WORSE, start=380) == [], "no more is asked than that"


@pytest.mark.parametrize(("delta", "said"), [(0.2, True), (0.05, False), (0.03, False), (None, False)])
def test_a_delta_above_the_gap_stops_before_the_first_run(delta: float | None, *, said: bool) -> None:
    asked = Gate(conditions=(FLOOR,), meaningful_delta=delta)
    found = reachability(asked, {}, {"s.ok": Mean(mean=0.75, n=400)})
    assert [(each.claim, each.severity) for each in found] == ([("meaningful", "hard_stop")] if said else [])
    if said:
        assert "gate.meaningful_delta is 0.2, more than the 0.05" in found[0].sentence
    carried = reachability(asked, {}, {"s.ok": Mean(mean=0.2, n=400)}, parent={"s.ok": Mean(mean=0.75, n=400)})
    assert bool(carried) == said, "runs start from the adapter, not from the base"


def test_a_delta_is_held_against_the_gap_of_the_denser_metric_where_progress_is_read_on_one() -> None:
    asked = Gate(conditions=(FLOOR,), meaningful_delta=0.2)
    base = {"s.ok": Mean(mean=0.75, n=400), "s.kept": Mean(mean=0.4, n=400)}
    assert reachability(asked, {}, base, dense={"s.ok": "s.kept"}) == []


@pytest.mark.parametrize("asked", [{"min": 70.0}, {"against": "parent", "min": 2.0}, {"min": 5, "statistic": "count"}])
@pytest.mark.parametrize("is_measured", [True, False])
def test_a_metric_that_is_no_share_is_refused_by_name_and_nothing_else_is_said_of_it(
    asked: dict[str, object], *, is_measured: bool
) -> None:
    percent = [54.0, 62.0, 70.0, 62.0] * 20
    cases = table(base={"s.pct": percent}, parent={"s.pct": percent}) if is_measured else None
    condition = Condition.model_validate({"metric": "s.pct", **asked})
    base = {"s.pct": Mean(mean=62, n=80)}
    [finding] = reachability(gate(condition), {}, base, cases=cases)
    assert (finding.claim, finding.severity) == ("on_scale", "hard_stop")
    assert finding.sentence.startswith(
        f"s.pct scores {70 if is_measured else 62}, and a score must lie between 0 and 1"
    )
    assert beyond_reach(gate(condition), {}, base) == []


def test_a_gold_or_one_case_beyond_the_scale_is_enough_and_sums_of_floats_are_not() -> None:
    asked = gate(Condition(metric="s.ok", min=0.8))
    assert [each.claim for each in reachability(asked, {"s.ok": 100.0}, {})] == ["on_scale"]
    for one, claims in ((-1.0, ["on_scale"]), (1 + 1e-12, [])):
        start = [one, *ones(20, 79)]
        cases = table(base={"s.ok": start}, parent={"s.ok": start})
        assert [each.claim for each in reachability(asked, {}, {}, cases=cases)] == claims


def test_what_the_cases_can_show_is_told_before_anything_is_measured() -> None:
    margin = Condition(id="no_worse", metric="s.ok", against="parent", min=0.0, margin=0.02)
    value = Condition(id="target", metric="s.ok", min=0.8)
    asked = Gate(conditions=(value, margin), meaningful_delta=0.1)
    said = [told.sentence for told in cases_told(asked, {"s": 40})]
    assert said[0].startswith(
        "target: there are 40; at least 35 would tell a true 0.9 from the 0.8 asked four times of"
    )
    assert said[0].endswith("five at alpha 0.0167; 117, if answers are right or wrong.")
    assert said[1] == "no_worse: 40 cases leave room for 9.7 % of answers lost whole; a margin of 0.02 needs 203."
    assert [told.sentence for told in cases_told(asked, {})][1] == "no_worse: a margin of 0.02 needs 203."


def test_a_measured_start_brackets_the_cases_and_the_references_bound_what_is_true() -> None:
    margin = Condition(id="no_worse", metric="s.ok", against="parent", min=0.0, margin=0.05)
    value = Condition(id="target", metric="s.ok", min=0.8)
    start = table(base={"s.ok": ones(32, 40)}, parent={"s.ok": ones(24, 40)})
    target, no_worse = cases_told(gate(value, margin), {"s": 40}, cases=start, ceilings={"s.ok": 0.85})
    assert (target.needed.truth, target.needed.basis) == (0.85, "0/1")
    assert no_worse.needed.basis == "bracketed"
    assert no_worse.needed.least == cases_for_unseen(0.05, 0.05 / 3)
    assert no_worse.needed.most is not None
    assert f"{no_worse.needed.most:,}, if they have nothing to do with the start's" in no_worse.sentence
    assert no_worse.needed.most > 10 * no_worse.needed.least


def test_of_an_any_of_the_easiest_is_told_and_of_a_plain_condition_nothing() -> None:
    either = Condition(id="either", any_of=("s.a", "t.b"), min=0.5)
    plain = Condition(id="plain", metric="s.a", min=0.5, test="plain", reason=REASON)
    start = table(base={"s.a": ones(4, 40), "t.b": ones(16, 40)}, parent={"s.a": ones(4, 40), "t.b": ones(16, 40)})
    [told] = cases_told(gate(either, plain), {"s": 40, "t": 30}, cases=start)
    assert (told.condition, told.n) == ("either", 40)
    assert told.needed.truth == pytest.approx(0.7)
    half = table(base={"s.a": ones(20, 40)}, parent={"s.a": ones(20, 40)})
    [told] = cases_told(
        gate(either.model_copy(update={"min": 0.9})), {"s": 40, "t": 30}, cases=half, ceilings={"s.a": 0.9}
    )
    assert told.is_never_told, "what was measured, before what was not"
    zero = Condition(id="zero", metric="s.a", against="parent", min=0.0)
    limit = Condition(id="limit", metric="s.a", statistic="new_failures", against="parent", max=2)
    never, failures = cases_told(gate(zero, limit), {"s": 40})
    assert never.is_never_told
    assert never.sentence == "zero: no number of cases can tell no change from the 0 asked."
    assert never.fix.startswith("Give a margin")
    assert "would tell a true 0 share of new failures from the 0.05 asked" in failures.sentence
    assert failures.fix == ""
    assert cases_told(gate(limit), {}) == [], "of how many cases is not known"
    few = Condition(id="few", metric="s.a", statistic="count", max=2)
    assert cases_told(gate(few), {"s": 40}) == [], "no number of cases shows it"
    assert [told.condition for told in cases_told(gate(few.model_copy(update={"max": 8.0})), {"s": 40})] == ["few"]
    measured = cases_told(gate(limit), {"s": 40}, cases=start)[0]
    assert measured.sentence.endswith("no number, if they have nothing to do with the start's.")
