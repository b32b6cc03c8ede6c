"""The wall clock of every process is set while a campaign runs; nothing is lost, repeated or taken for older."""

from pathlib import Path

import pytest

from tests.faults.parts import machines


@pytest.mark.faults
@pytest.mark.parametrize("seed", [1, 4], ids=["an hour back", "an hour forward"])
def test_a_clock_that_is_set_costs_no_act_and_repeats_none(seed: int, tmp_path: Path) -> None:
    assert machines.clock(seed, tmp_path, 1).violations == ()
