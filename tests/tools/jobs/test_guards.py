import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.records import Guard
from tools.jobs.observe import Counters, evaluate

DIVERGED = Guard(signal="train_loss", op="non_finite", verdict="diverged")
HIGH = Guard(signal="train_loss", op=">", threshold=5.0, patience=3, verdict="high")
DISK = Guard(signal="disk_free_gb", op="<", threshold=1.0, verdict="out_of_disk")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_fires_at_once(value: float) -> None:
    fired, _ = evaluate([DIVERGED], [{"step": 7, "train_loss": value}], {}, {})
    assert [(item.guard.verdict, item.step) for item in fired] == [("diverged", 7)]


@pytest.mark.parametrize(
    "row", [{"step": 7, "train_loss": 9e30}, {"step": 7}, {"train_loss": None}, {"train_loss": "nan"}]
)
def test_a_finite_or_missing_loss_does_not_fire(row: dict[str, object]) -> None:
    assert evaluate([DIVERGED], [row], {}, {}) == ([], {0: 0} if row.get("train_loss") == 9e30 else {})


def test_patience_counts_observations_in_a_row_over_calls() -> None:
    counters: Counters = {}
    for losses, fires in ([6.0, 6.0], False), ([4.0], False), ([6.0, 6.0], False), ([6.0], True):
        fired, counters = evaluate([HIGH], [{"train_loss": loss} for loss in losses], {}, counters)
        assert bool(fired) is fires


def test_a_row_without_the_field_does_not_break_a_row_of_observations() -> None:
    rows = [{"train_loss": 6.0}, {"val_loss": 1.0}, {"train_loss": 6.0}, {"train_loss": 6.0}]
    fired, _ = evaluate([HIGH], rows, {}, {})
    assert len(fired) == 1


def test_the_threshold_itself_does_not_fire() -> None:
    assert evaluate([DISK], [], {"disk_free_gb": 1.0}, {})[0] == []
    assert evaluate([DISK], [], {"disk_free_gb": 0.999}, {})[0][0].guard is DISK


def test_all_guards_that_fire_are_returned_in_the_order_they_did() -> None:
    fired, _ = evaluate([DISK, DIVERGED], [{"step": 1, "train_loss": math.nan}], {"disk_free_gb": 0.5}, {})
    assert [item.position for item in fired] == [1, 0]


def test_a_guard_says_what_it_saw() -> None:
    fired, _ = evaluate([HIGH], [{"step": step, "train_loss": 6.5} for step in (1, 2, 3)], {}, {})
    assert fired[0].sentence() == "train_loss was 6.5 at step 3, > 5 3 times in a row."
    assert fired[0].to_json()["value"] == 6.5


def test_the_record_of_a_guard_is_strict_json() -> None:
    fired, _ = evaluate([DIVERGED], [{"step": 1, "train_loss": math.inf}], {}, {})
    assert fired[0].to_json()["value"] == "inf"


@given(st.lists(st.floats(allow_nan=True), max_size=30), st.integers(min_value=0, max_value=30))
def test_how_rows_are_split_over_calls_does_not_matter(losses: list[float], cut: int) -> None:
    rows = [{"step": step, "train_loss": loss} for step, loss in enumerate(losses)]
    whole, counters = evaluate([HIGH, DIVERGED], rows, {}, {})
    first, between = evaluate([HIGH, DIVERGED], rows[:cut], {}, {})
    second, after = evaluate([HIGH, DIVERGED], rows[cut:], {}, between)
    assert counters == after
    assert {item.position for item in whole} == {item.position for item in first + second}
