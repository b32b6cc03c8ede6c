from collections.abc import Iterator
from pathlib import Path

import pytest

from state.clock import FakeClock
from state.lease import Lease
from state.paths import CampaignPaths
from state.store import Store

pytest.register_assert_rewrite("tests.state.store_spec")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def paths(tmp_path: Path) -> CampaignPaths:
    return CampaignPaths(tmp_path / "home", "night")


@pytest.fixture
def lease(paths: CampaignPaths, clock: FakeClock) -> Iterator[Lease]:
    with Lease.acquire(paths, clock) as held:
        yield held


@pytest.fixture
def store(paths: CampaignPaths, clock: FakeClock, lease: Lease) -> Iterator[Store]:
    with Store.open(paths, clock, lease) as opened:
        yield opened
