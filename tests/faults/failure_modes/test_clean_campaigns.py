"""Campaigns of different shapes with nothing wrong: not one hard stop, not one warning."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.failure_modes.seen import run_once
from tests.faults.failure_modes.shapes import CLEAN, CLEAN_REAL
from tests.faults.failure_modes.worlds import TRAINS, World

_REAL = [pytest.param(make, id=name, marks=TRAINS) for name, make in CLEAN_REAL.items()]


@pytest.mark.faults
@pytest.mark.parametrize("make", [*(pytest.param(make, id=name) for name, make in CLEAN.items()), *_REAL])
def test_a_campaign_with_nothing_wrong_raises_no_alarm(make: Callable[[], World], shared: Path) -> None:
    seen = run_once(make, shared)
    assert seen.alarms == []
    assert seen.code in {0, 1}, seen.said
    assert "Hard stop" not in seen.said
    assert any(claim == "trained" for _, claim in seen.held), "it went as far as to train"
