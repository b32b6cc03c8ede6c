"""A campaign that waits for a person, run once for all tests that begin there."""

import shutil
from pathlib import Path

import pytest

from tests.agent.test_run_flow import WAIT
from tests.faults.campaign import warm, world


@pytest.fixture(scope="session")
def first_waiting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a campaign that waits for its promotion to be answered: `files` and `home`."""
    folder = tmp_path_factory.mktemp("waiting")
    campaign = world.write_campaign(folder / "files", **WAIT)
    assert warm.run(campaign, folder / "home", wait=False) == 6
    return folder


@pytest.fixture
def waiting(first_waiting: Path, tmp_path: Path) -> Path:
    """A copy of it in its own place, whose paths and times are those of a copied project."""
    return Path(shutil.copytree(first_waiting, tmp_path / "copy", symlinks=True))
