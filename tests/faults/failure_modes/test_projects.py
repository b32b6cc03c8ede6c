"""Projects of other people in which nothing is wrong: `vigil audit` raises no alarm, whatever it is given."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.campaign.world import BASE
from tests.faults.failure_modes.projects import CLEAN, INJECTED, clean_builders
from tests.faults.failure_modes.seen import audit
from tools.probes.catalogue import AUDITED

pytestmark = pytest.mark.faults

BUILDERS = clean_builders()


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_a_clean_project_raises_no_alarm_with_a_model_or_without(build: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = build(tmp_path / "project")
    bare = audit(folder)
    assert (bare.code, bare.alarms) == (0, []), bare.said
    assert bare.report["checked"]
    own = folder / "base"
    asked = audit(folder, "--model", str(own if own.is_dir() else BASE))
    assert (asked.code, asked.alarms) == (0, []), asked.said
    assert set(asked.report["checked"]) >= set(bare.report["checked"])


def test_there_are_ten_clean_projects_and_a_failure_for_every_mode_that_an_audit_looks_for() -> None:
    assert len(BUILDERS) >= 10
    assert {project.make for project in INJECTED} <= set(CLEAN.values()), "each has its twin above"
    # 9 stands with the projects that were trained to their end.
    assert {project.mode for project in INJECTED} | {"9"} == set(AUDITED)
