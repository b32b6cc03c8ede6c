from pathlib import Path

import pytest

from state.paths import MachinePaths
from tools.steps import LEAST_S, MOST_JOBS, remember, remembered

ROW = {"instrument": "sft", "batch_size": 4, "padded_tokens": 128.0, "seconds": 0.5, "more": "is left out"}
SAMPLE = {"batch_size": 4, "padded_tokens": 128.0, "seconds": 0.5}


def test_a_training_is_remembered_once_for_its_weights_and_not_for_others(tmp_path: Path) -> None:
    paths = MachinePaths(tmp_path)
    assert remembered(paths, "w") == {}
    remember(paths, "w", "job-1", ROW, LEAST_S)
    remember(paths, "w", "job-1", ROW, LEAST_S)
    remember(paths, "w", "job-2", {**ROW, "instrument": "dpo"}, 2 * LEAST_S)
    assert remembered(paths, "w") == {"sft": [SAMPLE], "dpo": [SAMPLE]}
    assert remembered(paths, "w", frozenset({"job-2"})) == {"sft": [SAMPLE]}
    assert remembered(paths, "other") == {}


def test_a_training_of_seconds_is_not_worth_remembering(tmp_path: Path) -> None:
    remember(MachinePaths(tmp_path), "w", "job-1", ROW, LEAST_S - 1)
    assert not MachinePaths(tmp_path).steps.exists()


def test_the_latest_trainings_are_kept(tmp_path: Path) -> None:
    paths = MachinePaths(tmp_path)
    for number in range(MOST_JOBS + 3):
        remember(paths, "w", f"job-{number}", {**ROW, "seconds": float(number)}, LEAST_S)
    kept = [row["seconds"] for row in remembered(paths, "w")["sft"]]
    assert kept == [float(number) for number in range(3, MOST_JOBS + 3)]


@pytest.mark.parametrize("text", ["{torn", "[]", '{"w": {"job-1": {}}}', '{"w": [{"job": "job-1"}]}'])
def test_a_broken_file_is_begun_anew(tmp_path: Path, text: str) -> None:
    paths = MachinePaths(tmp_path)
    paths.steps.write_text(text)
    assert remembered(paths, "w") == {}
    remember(paths, "w", "job-1", ROW, LEAST_S)
    assert remembered(paths, "w") == {"sft": [SAMPLE]}
