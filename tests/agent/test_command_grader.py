"""A grader that is a command runs where the campaign file lies, in the night as in the check."""

import sys
from pathlib import Path

from agent.campaign import load_campaign
from agent.checks import grader_spec
from agent.inputs import grader_input
from tests.faults.campaign import world
from tools.graders.contract import GraderSpec

COMMAND = [sys.executable, "judge.py"]


def test_the_worker_s_command_is_that_of_the_check_and_its_files_are_found(tmp_path: Path) -> None:
    loaded = load_campaign(world.write_campaign(tmp_path, track={"command": COMMAND, "metrics": ["score"]}))
    (tmp_path / "judge.py").write_text("")
    spec = GraderSpec.model_validate_json(GraderSpec.model_validate(grader_input(loaded)).model_dump_json())
    assert spec == grader_spec(loaded.goal, loaded.folder)
    assert tmp_path / "judge.py" in spec.fingerprint_files()
