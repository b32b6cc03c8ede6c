"""What `vigil audit` finds in a folder that no campaign knows: each failure, and nothing in the project without it."""

from pathlib import Path

import pytest

from tests.faults.failure_modes.audits import PROJECTS
from tests.faults.failure_modes.projects import INJECTED, Project
from tests.faults.failure_modes.seen import audit

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: f"{project.mode}: {project.name}")
def test_a_failure_is_found_in_the_folder(project: Project, tmp_path: Path) -> None:
    folder = project.build(tmp_path / "project")
    seen = audit(folder, *project.options(folder))
    assert project.find(seen) is not None, (seen.findings, seen.said)
    assert {finding.mode for finding in seen.alarms} == {project.mode}
    assert seen.code == project.code


# The others are failures of the clean projects that `test_projects.py` audits, with this model and without.
@pytest.mark.parametrize(
    "project", [one for one in PROJECTS if one not in INJECTED], ids=lambda project: f"{project.mode}: {project.name}"
)
def test_the_project_without_the_failure_raises_no_alarm(project: Project, tmp_path: Path) -> None:
    folder = project.build(tmp_path / "project", is_broken=False)
    seen = audit(folder, *project.options(folder))
    assert (seen.code, seen.alarms) == (0, [])
    assert seen.report["checked"]
