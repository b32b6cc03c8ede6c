"""What holds for every test: no example is failed for its time, and no job waits for those of other processes."""

import os
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("house", deadline=None)
settings.load_profile("house")

_UNTRACED = tuple(
    str(Path(__file__).parent / folder)
    for folder in ("faults/campaign", "faults/failure_modes", "faults/store", "project", "simulation")
)
"""Folders of tests whose child processes cover nothing new: whole campaigns, or killed before they tell."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Trace child processes only where they are what is tested: each costs a tenth of a second."""
    traced = os.environ.get("COVERAGE_PROCESS_CONFIG")
    if traced is None or not str(item.path).startswith(_UNTRACED):
        return (yield)
    del os.environ["COVERAGE_PROCESS_CONFIG"]
    try:
        return (yield)
    finally:
        os.environ["COVERAGE_PROCESS_CONFIG"] = traced


@pytest.fixture(scope="session", autouse=True)
def _machine_of_our_own() -> Iterator[None]:
    """Let the supervisors of this process take turns among themselves."""
    # Workers of xdist are told 80 columns; what is cut where would depend on how the tests are started.
    os.environ["COLUMNS"] = "100"
    before = os.environ.get("XDG_STATE_HOME")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["XDG_STATE_HOME"] = str(Path(folder).resolve())
        yield
        if warm := sys.modules.get("tests.faults.campaign.warm"):
            warm.cool()
    os.environ.pop("XDG_STATE_HOME")
    if before is not None:
        os.environ["XDG_STATE_HOME"] = before
