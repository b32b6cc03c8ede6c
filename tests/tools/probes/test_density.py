"""A metric that only says all or nothing is named, with the companion that shows what it hides or without one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.graders.spreadsheet_clean.generate import early_stop_reference, generate_cases
from tools.graders.spreadsheet_clean.grade import grade
from tools.probes.golds import check_all_or_nothing

STRICT = [1.0] * 10 + [0.0] * 30
ROWS_KEPT = [1.0] * 10 + [0.5 + place / 100 for place in range(30)]


def test_a_metric_of_0_and_1_alone_is_a_warning_with_its_figures() -> None:
    [finding] = check_all_or_nothing({"strict": STRICT})
    assert (finding.mode, finding.severity, finding.claim) == ("P9", "warning", "is_all_or_nothing")
    assert "10 of 40 cases are 1" in finding.sentence
    assert finding.value == {"metric": "strict", "passed": 10, "cases": 40, "companions": []}


def test_a_dense_companion_makes_it_a_note_that_names_it() -> None:
    [finding] = check_all_or_nothing({"strict": STRICT, "rows_kept": ROWS_KEPT})
    assert finding.severity == "note"
    assert finding.value["companions"] == ["rows_kept"]


def test_a_companion_of_which_less_is_better_goes_along_too() -> None:
    [finding] = check_all_or_nothing({"strict": STRICT, "missing": [1 - value for value in ROWS_KEPT]})
    assert finding.value["companions"] == ["missing"]


def test_a_dense_metric_that_goes_its_own_way_is_no_companion() -> None:
    unrelated = [(place * 7 % 40) / 40 for place in range(40)]
    assert [finding.severity for finding in check_all_or_nothing({"strict": STRICT, "style": unrelated})] == ["warning"]


def test_dense_metrics_alone_are_silent() -> None:
    assert check_all_or_nothing({"rows_kept": ROWS_KEPT, "loss": [1.5, 2.0] * 20}) == []


def test_a_metric_that_is_1_everywhere_hides_nothing() -> None:
    assert check_all_or_nothing({"format": [1.0] * 40}) == []


def test_a_metric_that_is_0_everywhere_is_a_note_where_another_says_more() -> None:
    assert check_all_or_nothing({"strict": [0.0] * 40}) == []
    [finding] = check_all_or_nothing({"strict": [0.0] * 40, "rows_kept": ROWS_KEPT})
    assert (finding.severity, finding.value["companions"]) == ("note", ["rows_kept"])


@pytest.mark.parametrize(("best", "severity"), [(1.0, "note"), (0.5, "warning")])
def test_with_one_passing_case_the_companion_must_not_overlap(best: float, severity: str) -> None:
    dense = [best, *(0.3 + place / 50 for place in range(20))]
    [finding] = check_all_or_nothing({"strict": [1.0] + [0.0] * 20, "rows_kept": dense})
    assert finding.severity == severity


def test_few_cases_and_missing_scores_are_silent() -> None:
    assert check_all_or_nothing({}) == []
    assert check_all_or_nothing({"strict": [1.0, 0.0, 1.0]}) == []
    assert check_all_or_nothing({"strict": [None] * 40}) == []


def test_a_companion_scored_on_other_cases_or_on_one_side_only_is_none() -> None:
    elsewhere = [None] * 10 + [0.1 + place / 100 for place in range(30)]
    constant_there = [0.5] * 40 + [0.25] * 40
    [finding] = check_all_or_nothing({"strict": STRICT, "a": elsewhere, "b": constant_there})
    assert finding.severity == "warning"


def test_the_shipped_grader_has_a_dense_companion_for_its_strict_score() -> None:
    cases = list(generate_cases(300, 40, "stress", (12, 18)))
    texts = [early_stop_reference(case, 1) if i % 3 else case.reference for i, case in enumerate(cases)]
    grades = [grade({"reference": c.reference, "rows": c.rows}, text) for c, text in zip(cases, texts, strict=True)]
    found = check_all_or_nothing({metric: [row[metric] for row in grades] for metric in grades[0]})
    assert {finding.severity for finding in found} == {"note"}
    assert "rows_kept" in next(f for f in found if f.value["metric"] == "strict").value["companions"]


@given(st.dictionaries(st.sampled_from("abc"), st.lists(st.sampled_from([None, 0.0, 0.5, 1.0]), max_size=30)))
def test_only_metrics_of_0_and_1_are_ever_named(values: dict[str, list[float | None]]) -> None:
    for finding in check_all_or_nothing(values):
        assert {value for value in values[finding.value["metric"]] if value is not None} <= {0.0, 1.0}
