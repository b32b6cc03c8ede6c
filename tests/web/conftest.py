import shutil
from pathlib import Path

import pytest

from tests.agent.recorded import record


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a campaign that waits for an answer, once: a copy costs a fiftieth of it."""
    folder = tmp_path_factory.mktemp("recorded")
    record(folder, "waiting")
    return folder


@pytest.fixture
def home(tmp_path: Path, recorded: Path) -> Path:
    shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    return tmp_path
