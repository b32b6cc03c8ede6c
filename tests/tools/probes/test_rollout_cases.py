"""Cases for rollouts are training data: none may stand among the evaluation cases."""

import json
from pathlib import Path

import pytest

from tests.tools.probes.test_probes import context, seen


@pytest.mark.parametrize(
    ("key", "prompt", "holds"),
    [
        ("rollouts", "a prompt of its own, of which no evaluation case knows", True),
        ("rollouts", "selection 3", False),
        ("valid_rollouts", "confirmation 2", False),
    ],
)
def test_a_case_that_is_evaluated_and_rolled_out_is_seen(tmp_path: Path, key: str, prompt: str, holds: bool) -> None:  # noqa: FBT001 - a parameter of the test
    files = {"rollouts": "rolled.jsonl"} | {key: "rolled.jsonl"}
    if key != "rollouts":
        files["rollouts"] = "other.jsonl"
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "rolled.jsonl").write_text(json.dumps({"id": "one", "prompt": prompt}) + "\n")
    (tmp_path / "other.jsonl").write_text(json.dumps({"id": "two", "prompt": "q1"}) + "\n")
    where = context(tmp_path, data={"train": "train.jsonl", **files})
    found = seen("data.leakage", where, "are_apart")
    assert found.holds is holds, found.statement
    if not holds:
        assert f"{key}:one" in found.statement


def test_a_prompt_that_is_demonstrated_and_rolled_out_is_no_leak(tmp_path: Path) -> None:
    (tmp_path / "rolled.jsonl").write_text(json.dumps({"id": "one", "prompt": "q1"}) + "\n")
    where = context(tmp_path, data={"train": "train.jsonl", "rollouts": "rolled.jsonl"})
    assert seen("data.leakage", where, "are_apart").holds
