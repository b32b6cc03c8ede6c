import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from state import goal as goal_module
from state.goal import Approvals, Baseline, Condition, Gate, Goal, Split, TrackSpec, problems
from state.records import Json


def spec(**changes: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "campaign": "night",
        "model": {"path": "model"},
        "track": {"name": "spreadsheet_clean", "metrics": ["ok", "units"]},
        "data": {"train": "train.jsonl"},
        "evaluation": {"splits": {"regular": {"file": "regular.jsonl"}}, "max_tokens": 256},
        "gate": {"conditions": [{"metric": "regular.ok", "min": 0.5}]},
    }
    return {**whole, **changes}


def test_a_search_for_the_best_needs_an_end() -> None:
    [found] = problems(Goal.model_validate(spec(search={"goal": "best"})))
    assert (found.where, "nothing limits it" in found.sentence) == (("search", "goal"), True)
    for limit in ({"budget": {"hours": 1}}, {"budget": {"until": "07:00"}}, {"budget": {"runs": 3}}):
        assert problems(Goal.model_validate(spec(search={"goal": "best"}, **limit))) == []
    assert problems(Goal.model_validate(spec(search={"goal": "best", "max_runs": 3}))) == []


def test_a_goal_survives_json() -> None:
    goal = Goal.model_validate(spec())
    assert Goal.model_validate(goal.model_dump(mode="json")) == goal
    assert problems(goal) == []


@pytest.mark.parametrize(("command", "is_hidden"), [(["curl", "-H", "Bearer abc"], True), (["./tell.sh"], False)])
def test_on_record_a_hash_stands_for_the_arguments_of_the_command_that_tells(
    command: list[str], *, is_hidden: bool
) -> None:
    goal = Goal.model_validate(spec(notify={"command": command}))
    written = goal.model_dump(mode="json")
    again = Goal.of_record(written)
    assert ("abc" in json.dumps(written), again.model_dump(mode="json")) == (False, written)
    assert goal.notify
    assert again.notify
    assert (goal.notify.can_run, again.notify.can_run) == (True, not is_hidden)


@pytest.mark.parametrize(
    ("condition", "name", "kind", "bound"),
    [
        ({"metric": "s.ok", "min": 0.85}, "s.ok>=0.85", "superiority", 0.85),
        ({"metric": "s.ok", "against": "parent", "min": 0.02}, "s.ok.parent>=0.02", "superiority", 0.02),
        ({"metric": "s.ok", "against": "parent", "min": -0.005}, "s.ok.parent>=-0.005", "non_inferiority", -0.005),
        ({"metric": "s.ok", "against": "base", "min": 0, "margin": 0.1}, "s.ok.base>=0", "non_inferiority", -0.1),
        ({"metric": "s.ok", "against": "base", "max": 0.1}, "s.ok.base<=0.1", "non_inferiority", 0.1),
        ({"metric": "s.ok", "against": "base", "max": -0.1}, "s.ok.base<=-0.1", "superiority", -0.1),
        ({"metric": "s.n", "statistic": "count", "max": 3}, "s.n.count<=3", "superiority", 3.0),
        (
            {"metric": "s.ok", "statistic": "new_failures", "against": "parent", "max": 2},
            "s.ok.new_failures.parent<=2",
            "non_inferiority",
            2.0,
        ),
        ({"any_of": ["s.a", "s.b"], "min": 0.5}, "s.a|s.b>=0.5", "superiority", 0.5),
        ({"id": "five", "metric": "s.ok", "min": 0.5, "test": "plain", "reason": "so"}, "five", "plain", 0.5),
    ],
)
def test_a_condition_resolves_its_test_and_its_bound(
    condition: dict[str, Any], name: str, kind: str, bound: float
) -> None:
    found = Condition.model_validate(condition)
    assert (found.id, found.kind, found.bound) == (name, kind, bound)


@pytest.mark.parametrize(
    ("condition", "complaint"),
    [
        ({"min": 0.5}, "exactly one of `metric` and `any_of`"),
        ({"metric": "s.a", "any_of": ["s.b"], "min": 0.5}, "exactly one of `metric` and `any_of`"),
        ({"metric": "s.a"}, "exactly one of `min` and `max`"),
        ({"metric": "s.a", "min": 0.1, "max": 0.2}, "exactly one of `min` and `max`"),
        ({"metric": "s.a", "min": 0.1, "test": "plain", "reason": " "}, "needs a `reason`"),
        ({"metric": "s.a", "min": 0.1, "margin": 0.1}, "belongs to a non-inferiority"),
        ({"metric": "s.a", "min": 0.1, "test": "non_inferiority"}, "against: parent"),
        ({"metric": "s.a", "against": "base", "min": 0.1, "test": "non_inferiority"}, "0.1 asks for an improvement"),
        ({"metric": "s.a", "statistic": "new_failures", "max": 1}, "new_failures` needs `max`"),
        ({"metric": "s.a", "statistic": "new_failures", "against": "base", "min": 1}, "new_failures` needs `max`"),
        ({"metric": "no_split", "min": 0.1}, "pattern"),
        ({"metric": "s.a", "min": float("nan")}, "finite"),
        ("text", "dictionary"),
    ],
)
def test_a_condition_that_asks_no_single_question_is_refused(condition: Any, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Condition.model_validate(condition)


def test_conditions_read_as_sentences() -> None:
    assert Condition(metric="s.a", min=0.85).sentence == "s.a at least 0.85"
    count = Condition(metric="s.a", statistic="count", against="parent", max=0)
    assert count.sentence == "s.a as a count minus the parent's at most 0"
    broken = Condition(metric="s.a", statistic="new_failures", against="base", max=2)
    assert broken.sentence == "new failures of s.a against the base at most 2"
    assert "best of s.a, s.b" in Condition(any_of=("s.a", "s.b"), min=0.1).sentence


def test_a_condition_says_the_margin_by_which_it_is_judged() -> None:
    kept = Condition(metric="s.a", against="parent", min=0, margin=0.1)
    assert kept.sentence == "s.a minus the parent's at least 0 (with its margin: at least -0.1)"
    few = Condition(metric="s.a", against="base", max=0, margin=0.02)
    assert few.sentence == "s.a minus the base's at most 0 (with its margin: at most 0.02)"
    assert "margin" not in Condition(metric="s.a", against="parent", min=-0.005).sentence


def test_confirmation_is_opened_at_a_divided_level() -> None:
    gate = Gate(conditions=(Condition(metric="s.a", min=0.5),), alpha=0.06, max_confirmations=3)
    assert gate.confirmation_alpha == pytest.approx(0.02)


@pytest.mark.parametrize("kind", ["promotion", "override"])
def test_silence_is_no_consent(kind: str) -> None:
    with pytest.raises(ValidationError, match="mode: auto"):
        Approvals.model_validate({kind: {"unanswered": "yes"}})
    assert Approvals().rule("launch").mode == "auto"


@pytest.mark.parametrize("said", [{}, {"override": {"mode": "reject"}}])
def test_what_an_older_vigil_wrote_down_without_being_told_counts_as_left_out(said: dict[str, Any]) -> None:
    then = {"edit": {"mode": "auto"}, "override": {"mode": "wait"}, **said}
    written = Goal.model_validate(spec(approvals=then)).model_dump(mode="json")
    assert Goal.of_record(written) == Goal.model_validate(written), "this Vigil writes down what it was told"
    del written["gate"]["ledger"]
    assert Goal.of_record(written) == Goal.model_validate(spec(approvals=said))


@pytest.mark.parametrize(
    "changes",
    [
        {"campaign": "a/b"},
        {"campaign": ""},
        {"unknown": 1},
        {"budget": {"hours": -1}},
        {"budget": {"until": "25:00"}},
        {"gate": {"conditions": []}},
        {"instruments": []},
        {"seed": -1},
    ],
)
def test_a_goal_that_cannot_be_meant_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Goal.model_validate(spec(**changes))


def test_a_split_is_one_file_or_two_disjoint_ones() -> None:
    assert Split(file="a").confirmation_share == 0.5
    assert Split(selection="a", confirmation="b").file is None
    for wrong in ({"file": "a", "selection": "b"}, {"selection": "a"}, {}):
        with pytest.raises(ValidationError):
            Split.model_validate(wrong)


def test_a_track_has_one_grader() -> None:
    assert TrackSpec(grader="grade.py").timeout_s == 10.0
    with pytest.raises(ValidationError, match="exactly one"):
        TrackSpec(name="a", grader="b")


def test_a_declared_range_is_of_a_metric_of_the_track_and_ascends() -> None:
    percent = {"grader": "grade.py", "metrics": ["pct"], "ranges": {"pct": [0, 100]}}
    gate: Json = {"conditions": [{"metric": "s.pct", "min": 70}], "meaningful_delta": 5}
    found = spec(track=percent, gate=gate)
    found["evaluation"]["splits"] = {"s": {"file": "s.jsonl"}}
    goal = Goal.model_validate_json(json.dumps(found))
    assert problems(goal) == []
    assert goal.track.ranges == {"pct": (0.0, 100.0)}
    assert (goal.tolerance_for("s.pct"), goal.tolerance_for("s.other")) == (5.0, 0.05)
    gate["meaningful_delta"] = 500
    [beyond] = problems(Goal.model_validate_json(json.dumps(found)))
    assert beyond.sentence.startswith("`gate.meaningful_delta` is 500; write at most 100")
    gate["meaningful_delta"] = 5
    gate["conditions"] = [{"metric": "s.pct", "max": 101}, {"metric": "s.pct", "against": "base", "min": 101}]
    [off] = problems(Goal.model_validate_json(json.dumps(found)))
    assert off.where == ("gate", "conditions", 0, "max")
    assert "asks 101 of s.pct, whose scores lie between 0 and 100; declare" in off.sentence
    gate["conditions"] = [{"metric": "s.pct", "min": 70}]
    percent["ranges"] = {"pct": [0, 100], "per": [0, 1]}
    [unknown] = problems(Goal.model_validate_json(json.dumps(found)))
    assert unknown.sentence == "`ranges` names the metric 'per'; the track answers with pct."
    for ends in ([100, 0], [1, 1], [0, 1e12], [0]):
        percent["ranges"] = {"pct": ends}
        with pytest.raises(ValidationError):
            Goal.model_validate_json(json.dumps(found))


def test_a_metric_may_have_its_own_tolerance() -> None:
    own = Baseline(expected={"s.a": 0.5}, tolerance=0.05, tolerances={"s.a": 0.01})
    goal = Goal.model_validate(spec(baseline=own))
    assert (goal.tolerance_for("s.a"), goal.tolerance_for("s.b")) == (0.01, 0.05)


def test_contradictions_between_places_are_found_with_their_place() -> None:
    goal = Goal.model_validate(
        spec(
            gate={
                "conditions": [
                    {"metric": "regular.ok", "min": 0.5},
                    {"metric": "regular.ok", "min": 0.5},
                    {"metric": "stress.ok", "min": 0.5},
                    {"metric": "regular.speed", "min": 0.5},
                ]
            },
            evaluation={**spec()["evaluation"], "control": "other.ok"},
            baseline={"expected": {"stress.ok": 0.5}},
        )
    )
    found = [(problem.where, problem.sentence) for problem in problems(goal)]
    assert [where for where, _ in found] == [
        ("gate", "conditions", 1),
        ("gate", "conditions", 2),
        ("gate", "conditions", 3),
        ("evaluation", "control"),
        ("baseline",),
    ]
    assert "the splits are regular" in found[1][1]
    assert "the track answers with ok, units" in found[2][1]


def test_a_track_that_promises_no_metrics_is_not_questioned() -> None:
    assert problems(Goal.model_validate(spec(track={"grader": "grade.py"}))) == []


def test_preferences_without_pairs_are_a_contradiction_that_names_the_place() -> None:
    [problem] = problems(Goal.model_validate(spec(instruments=["sft", "dpo"])))
    assert problem.where == ("data",)
    assert "data.pairs" in problem.sentence
    data = {"train": "train.jsonl", "pairs": "pairs.jsonl"}
    assert problems(Goal.model_validate(spec(instruments=["sft", "dpo"], data=data))) == []


def _numbers(part: type[BaseModel]) -> Iterator[tuple[str, bool]]:
    for name, known in part.model_fields.items():
        if known.annotation in {int, float, int | None, float | None}:
            yield f"{part.__name__}.{name}", any(hasattr(each, "le") or hasattr(each, "lt") for each in known.metadata)


def test_every_number_of_a_campaign_has_a_bound_but_those_that_a_metric_is_compared_with() -> None:
    parts = [part for part in vars(goal_module).values() if isinstance(part, type) and issubclass(part, BaseModel)]
    found = dict(pair for part in parts if part.__module__ == "state.goal" for pair in _numbers(part))
    assert len(found) > 30
    assert {name for name, is_bounded in found.items() if not is_bounded} == {"Condition.min", "Condition.max"}


def test_an_instrument_s_own_recipe_is_read_and_the_first_falls_back_to_the_plain_one() -> None:
    written = {"recipe": {"iters": 3}, "recipes": {"grpo": {"iters": 9}}}
    ladder, alone = (Goal.model_validate(spec(instruments=names, **written)) for names in (["sft", "grpo"], ["grpo"]))
    assert (ladder.first_recipe, ladder.recipe_of("grpo"), ladder.recipe_of("dpo")) == ({"iters": 3}, {"iters": 9}, {})
    assert alone.first_recipe == {"iters": 9}, "left alone, an instrument keeps the recipe that it has"


def test_what_the_gate_names_as_primary_is_there_and_something_a_run_can_be_for() -> None:
    few = {"id": "few", "metric": "regular.units", "statistic": "new_failures", "against": "parent", "max": 1}
    conditions = [{"id": "good", "metric": "regular.ok", "min": 0.5}, few]
    for primary in ("good", "regular.ok"):
        assert problems(Goal.model_validate(spec(gate={"primary": primary, "conditions": conditions}))) == []
    for primary, words in (("other", "names no condition of the gate"), ("few", "counts new failures")):
        [found] = problems(Goal.model_validate(spec(gate={"primary": primary, "conditions": conditions})))
        assert (found.where, words in found.sentence) == (("gate", "primary"), True)
