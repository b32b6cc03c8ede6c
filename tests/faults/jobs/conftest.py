from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.jobs.harness import clear


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A job folder to be; whatever still runs in it is ended after the test."""
    yield tmp_path / "job"
    clear(tmp_path)
