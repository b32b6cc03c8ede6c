from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.cost import Estimate, Spent, affordable
from policies.next_run import exhaustion_of
from policies.target import is_ceiling_above
from policies.verdict import (
    LEAST_RUNS,
    ExhaustionVerdict,
    RunEvidence,
    RunFact,
    conclusion,
    could_tell,
    judge_exhaustion,
    judge_run,
    run_fact,
    runs_without_progress,
)
from state.goal import Budget, Condition, Gate, Search
from state.records import Bucket, Decision, Run
from tests.policies.lab import GATE, lab_table, ones, table
from tests.policies.rehearsal import Rehearsal, goal

RICH = affordable(Budget(), Spent(), Estimate(), 0.0, 0.0)
POOR = affordable(Budget(runs=1), Spent(runs=1), Estimate(runs=1), 0.0, 0.0)


def flat(run: str, axis: str, **changes: object) -> RunFact:
    figures: dict[str, object] = {
        "run": run,
        "instrument": "sft",
        "axis": axis,
        "recipe_hash": run,
        "bucket": "C",
        "movement": "flat",
        "control_moved": True,
        "is_capped": False,
        "had_power": True,
    }
    return RunFact.model_validate({**figures, **changes})


THREE = [flat("R1", "start"), flat("R2", "recipe"), flat("R3", "quantity")]


def judged(runs: Sequence[RunFact], *, above: bool | None = True) -> ExhaustionVerdict:
    return judge_exhaustion("sft", runs, is_ceiling_above_gate=above)


def test_three_flat_runs_on_different_axes_exhaust_a_class() -> None:
    verdict = judged(THREE)
    assert verdict.state == "exhausted"
    assert verdict.counted == ("R1", "R2", "R3")
    assert "quantity, recipe" in verdict.sentence


def test_a_class_is_exhausted_from_its_start_and_tried_once_from_a_flat_run_before_it_is_given_up() -> None:
    from_base = [run.model_copy(update={"parent": "base"}) for run in THREE]
    first = judged(from_base)
    assert (first.state, first.start_from) == ("exhausted", "R3")
    assert first.sentence.startswith("The demonstration class is exhausted from the base: 3 runs (R1, R2, R3)")
    assert first.sentence.endswith("It is tried once from R3, which moved the control, before it is given up.")
    assert "exhausted from this start" in judged(THREE).sentence, "where it started is not on record"
    again = [*from_base, flat("R4", "start", parent="R3")]
    last = judged(again)
    assert (last.state, last.start_from, last.counted) == ("exhausted", "", ("R1", "R2", "R3"))
    assert last.sentence.endswith("Nor did it get anywhere from a run that moved the control (R4 from R3).")
    weak = [*from_base, flat("R4", "start", parent="R3", bucket="U", movement="unclear", had_power=False)]
    assert judged(weak).start_from == "", "once is enough, whatever it showed"
    assert judged([*from_base, flat("R4", "start", parent="R3", bucket="B", movement="moved")]).state == "open"
    assert judged([*from_base, flat("R4", "recipe", parent="base")]).start_from == "R4"
    of_other = [run.model_copy(update={"run": f"P{run.run}", "instrument": "dpo"}) for run in from_base]
    other = judge_exhaustion("dpo", [*from_base, *of_other], is_ceiling_above_gate=True)
    assert other.start_from == "R3", "of another class rather than of its own"


@dataclass
class Untaught(Rehearsal):
    """A world in which every training moves the control and none the target, but from a run, where `helps` is set."""

    helps: bool = False

    def _measure(self, decision: Decision) -> None:
        before = len(self.measurements)
        super()._measure(decision)
        run = next((run for run in self.runs if run.id == decision.action_inputs["run"]), None)
        has_helped = self.helps and run is not None and run.instrument == "dpo" and run.parent != "base"
        for place in range(before, len(self.measurements)):
            row = self.measurements[place]
            told = {"score": 0.9 if has_helped else 0.5, "control": 0.2 if run is None else 0.8}
            self.measurements[place] = row.model_copy(update={"metrics": told})


@pytest.mark.parametrize("helps", [True, False])
def test_a_campaign_tries_each_class_once_from_a_flat_run_before_it_ends(*, helps: bool) -> None:
    pairs = {"instruments": ["sft", "dpo"], "data": {"train": "train.jsonl", "pairs": "pairs.jsonl"}}
    play = Untaught(goal=goal(**pairs), helps=helps)
    play.run()
    starts = [(run.instrument, run.parent) for run in play.runs]
    # Two runs that exclude the gate wait until the other class had its first.
    first = [("sft", "base"), ("sft", "base"), ("dpo", "base"), ("sft", "base")]
    assert starts == [*first, ("sft", "R3"), ("dpo", "base"), ("dpo", "base"), ("dpo", "R4")], starts
    parents = {run.id: run.parent_hash for run in play.runs}
    assert parents["R1"] == parents["R6"] not in {parents["R5"], parents["R8"]}
    if helps:
        assert (play.campaign.state, play.decisions[-1].run) == ("promoted", "R8")
    else:
        assert play.campaign.state == "not_promoted"
        assert "The preference class is exhausted from the base" in play.campaign.sentence
        assert "(R8 from R4)" in play.campaign.sentence


def test_two_runs_leave_a_class_open() -> None:
    assert judged(THREE[:2]).state == "open"
    assert judged([*THREE[:2], THREE[1]]).state == "open"


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"bucket": "U", "had_power": False}, "could not have shown it"),
        ({"is_capped": True}, "could not have shown it"),
        ({"had_power": False}, "could not have shown it"),
        ({"control_moved": False}, "no control moved in R3"),
        ({"control_moved": None}, "no control moved in R3"),
        ({"movement": "lost", "bucket": "D"}, "2 of 3 flat runs count"),
        ({"axis": "recipe"}, "1 of 2 axes"),
    ],
)
def test_whatever_weakens_one_run_makes_the_class_uninformative(changes: dict[str, object], missing: str) -> None:
    verdict = judged([*THREE[:2], THREE[2].model_copy(update=changes)])
    assert verdict.state == "uninformative"
    assert any(missing in phrase for phrase in verdict.missing)


@pytest.mark.parametrize(("above", "phrase"), [(None, "was not measured"), (False, "is below the gate")])
def test_without_a_ceiling_above_the_gate_nothing_is_exhausted(above: bool | None, phrase: str) -> None:  # noqa: FBT001 - a parameter of the test
    verdict = judged(THREE, above=above)
    assert verdict.state == "uninformative"
    assert phrase in verdict.sentence


def test_progress_starts_the_count_again() -> None:
    progress = flat("R0", "start", bucket="B", movement="moved")
    assert judged([*THREE, progress]).state == "open"
    assert judged([progress, *THREE]).state == "exhausted"


def test_other_classes_do_not_count() -> None:
    assert judged([*THREE[:2], flat("R3", "quantity", instrument="dpo")]).state == "open"


def test_the_labs_three_runs_prove_nothing_under_its_ceiling() -> None:
    facts = []
    for cycle, axis in (("v1", "start"), ("v2", "quantity"), ("v3", "order")):
        evidence = RunEvidence(
            run=cycle,
            gate=GATE,
            cases=lab_table(cycle),
            ceilings={"stress.data_preservation": 0.25},
            control="regular.unit",
        )
        run = Run.model_validate(
            {
                "id": cycle,
                "instrument": "sft",
                "parent": "base",
                "parent_hash": "",
                "recipe": {},
                "recipe_hash": cycle,
                "data_hash": "",
                "seed": 0,
                "axis": axis,
                "hypothesis": "",
            }
        )
        facts.append(run_fact(run, judge_run(evidence)))
    verdict = judged(facts, above=False)
    assert verdict.state == "uninformative"
    assert "v1, v2, v3 could not have shown it" in verdict.sentence


facts = st.builds(
    flat,
    st.sampled_from(["R1", "R2", "R3", "R4", "R5"]),
    st.sampled_from(["start", "recipe", "quantity", "order"]),
    bucket=st.sampled_from(["C", "D", "U", "B"]),
    movement=st.sampled_from(["flat", "lost", "unclear", "moved"]),
    control_moved=st.sampled_from([True, False, None]),
    is_capped=st.booleans(),
    had_power=st.booleans(),
)


@given(runs=st.lists(facts, max_size=7))
def test_exhaustion_never_follows_from_weak_or_capped_runs(runs: list[RunFact]) -> None:
    verdict = judged(runs)
    if verdict.state == "exhausted":
        last = max((place for place, run in enumerate(runs) if run.bucket == "B"), default=-1)
        assert len(verdict.counted) >= 3
        assert not any(run.bucket == "U" or run.is_capped or not run.had_power for run in runs[last + 1 :])


sound = st.lists(st.sampled_from(["recipe", "quantity", "order"]), min_size=3, max_size=6).filter(
    lambda axes: len(set(axes)) > 1
)
weaker = st.sampled_from(
    [{"bucket": "U"}, {"had_power": False}, {"is_capped": True}, {"control_moved": False}, {"control_moved": None}]
)


@given(axes=sound, weakness=weaker, place=st.integers(0, 5))
def test_one_weak_or_capped_run_among_sound_ones_keeps_a_class_from_being_exhausted(
    axes: list[str], weakness: dict[str, object], place: int
) -> None:
    runs = [flat(f"R{number}", axis) for number, axis in enumerate(axes)]
    assert judged(runs).state == "exhausted"
    weak = place % len(runs)
    assert judged([*runs[:weak], runs[weak].model_copy(update=weakness), *runs[weak + 1 :]]).state != "exhausted"


def concluded(buckets: Sequence[Bucket], *, rich: bool = True, more: bool = True, spent: bool = False) -> str:
    verdict = conclusion(
        buckets=buckets,
        search=Search(max_runs=5),
        budget=RICH if rich else POOR,
        exhaustion=[judged(THREE)] if spent else [],
        has_proposal=more,
    )
    return verdict.rule if verdict is not None else ""


def test_a_campaign_goes_on_while_it_makes_progress() -> None:
    assert not concluded([])
    assert not concluded(["C", "C", "B", "U"])


def test_a_campaign_ends_for_one_named_reason() -> None:
    assert concluded([], rich=False) == "budget.gone"
    assert concluded(["C", "C", "B"], spent=True) == "instruments.exhausted"
    assert concluded(["B"] * 5) == "runs.max"
    assert concluded(["B", "C", "U", "D"]) == "runs.no_progress"
    assert concluded(["B", "U", "U", "U"]) == "measurement.first"
    assert concluded(["C"], more=False) == "nothing.left"


def test_idle_runs_are_counted_from_the_last_progress() -> None:
    assert runs_without_progress(["C", "B", "C", "U"]) == 2
    assert runs_without_progress([]) == 0


HALF = table(parent={"s.a": ones(20, 40), "s.b": ones(4, 40)}, base={"s.a": ones(10, 40), "s.b": ones(4, 40)})


@pytest.mark.parametrize(
    ("condition", "ceilings", "is_above"),
    [
        ({"metric": "s.a", "min": 0.8}, {"s.a": 0.8}, True),
        ({"metric": "s.a", "min": 0.8}, {"s.a": 0.7}, False),
        ({"metric": "s.a", "min": 0.8}, {}, None),
        ({"metric": "s.a", "min": 32, "statistic": "count"}, {"s.a": 0.8}, True),
        ({"metric": "s.a", "min": 32, "statistic": "count"}, {"s.a": 0.7}, False),
        ({"metric": "s.b", "max": 2, "statistic": "count"}, {"s.b": 0.1}, False),
        ({"metric": "s.c", "min": 2, "statistic": "count"}, {"s.c": 0.1}, None),
        ({"metric": "s.a", "min": 0.3, "against": "parent"}, {"s.a": 0.8}, True),
        ({"metric": "s.a", "min": 0.3, "against": "base"}, {"s.a": 0.5}, False),
        ({"metric": "s.a", "min": 0.3, "against": "parent"}, {}, None),
        ({"metric": "s.c", "min": 0.3, "against": "parent"}, {"s.c": 1.0}, None),
        ({"metric": "s.a", "min": -0.1, "against": "parent"}, {}, True),
        ({"any_of": ("s.a", "s.b"), "min": 0.8}, {"s.a": 0.7, "s.b": 0.9}, True),
        ({"any_of": ("s.a", "s.b"), "min": 0.8}, {"s.a": 0.7}, None),
        ({"any_of": ("s.a", "s.b"), "min": 0.8}, {"s.a": 0.7, "s.b": 0.1}, False),
    ],
)
def test_the_ceiling_is_above_the_gate_where_the_gold_meets_it_as_it_is_asked(
    condition: dict[str, Any],
    ceilings: dict[str, float],
    is_above: bool | None,  # noqa: FBT001 - a parameter of the test
) -> None:
    gate = Gate(conditions=(Condition(**condition),))
    assert is_ceiling_above(gate, HALF, ceilings) is is_above


def test_a_ceiling_that_is_below_one_condition_or_unknown_for_another_is_not_above_the_gate() -> None:
    first, second = Condition(metric="s.a", min=0.8), Condition(metric="s.b", min=0.5)
    gate = Gate(conditions=(first, second))
    assert is_ceiling_above(gate, HALF, {"s.a": 0.9}) is None
    assert is_ceiling_above(gate, HALF, {"s.b": 0.4}) is False


@pytest.mark.parametrize(
    "asked",
    [
        {"id": "score", "metric": "main.score", "statistic": "count", "min": 30},
        {"id": "score", "metric": "main.score", "against": "base", "min": 0.25},
    ],
)
def test_a_campaign_holds_counts_and_differences_against_the_ceiling_too(asked: dict[str, Any]) -> None:
    play = Rehearsal(goal=goal(gate={"conditions": [asked]}), score=lambda weights, case: float(case % 2))
    while len([run for run in play.runs if run.bucket is not None]) < LEAST_RUNS:
        play.step()
    view = play.view()
    assert not [phrase for phrase in exhaustion_of(view)[0].missing if "ceiling" in phrase]
    unknown = replace(view, beliefs=tuple(belief for belief in view.beliefs if belief.claim != "ceiling"))
    assert "the ceiling was not measured" in exhaustion_of(unknown)[0].missing


@pytest.mark.parametrize("weakness", [{"bucket": "U"}, {"had_power": False}, {"is_capped": True}])
def test_a_run_that_could_not_have_shown_it_is_not_counted(weakness: dict[str, object]) -> None:
    assert judged([*THREE, flat("R4", "order", **weakness)]).counted == ("R1", "R2", "R3")


def test_one_run_is_spoken_of_as_one() -> None:
    assert judged(THREE[:1]).sentence.startswith("1 demonstration run since the last progress; 3 are needed")
    assert judged(THREE[:2]).sentence.startswith("2 demonstration runs since the last progress; 3 are needed")
    for most, words in ((1, "The latest run made no progress (C)."), (2, "2 runs in a row made no progress (CC).")):
        search = Search(max_runs_without_progress=most)
        found = conclusion(buckets=["C"] * most, search=search, budget=RICH)
        assert found is not None
        assert (found.rule, found.sentence) == ("runs.no_progress", words)


@pytest.mark.parametrize(("runs", "n", "tells"), [(1, 63, False), (1, 64, True), (8, 36, True), (8, 35, False)])
def test_of_several_runs_the_candidates_part_of_the_spread_averages_out(runs: int, n: int, *, tells: bool) -> None:
    """A gap of 0.2 at a spread of 0.567: 63.1 cases by one run, 35.5 by eight, whose noise is half averaged out."""
    scores = [float(case % 2) for case in range(n)]
    cases = table(parent={"s.ok": [0.6] * n}, candidate={"s.ok": scores})
    found = judge_run(RunEvidence(gate=Gate(conditions=(Condition(metric="s.ok", min=0.8),)), cases=cases))
    spread = found.comparisons[0].model_copy(update={"spread": 0.567})
    verdict = found.model_copy(update={"comparisons": (spread,)})
    assert could_tell([verdict] * runs) == tells
