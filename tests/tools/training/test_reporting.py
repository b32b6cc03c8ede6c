from pathlib import Path

import pytest

from tests.tools.evaluation.worlds import make_model, write_lines
from tests.tools.training.jobs import metrics, rows, training_job, work

pytestmark = pytest.mark.mlx


def test_speed_is_that_of_the_steps_alone_and_cut_rows_are_counted(tmp_path: Path) -> None:
    data = write_lines(tmp_path / "train.jsonl", [*rows(6), {"prompt": "a", "completion": "b" * 80}])
    job = training_job(
        tmp_path / "job",
        make_model(tmp_path / "model"),
        data,
        valid=str(data),
        recipe={"truncate": True, "steps_per_eval": 1, "save_every": 1},
    )
    result = work(job)
    reports = [row for row in metrics(job) if "train_loss" in row]
    assert len(reports) == 6
    # One step per report: its seconds are the inverse of its speed. With a validation and a save after every step,
    # anything else that were counted would make the sum larger.
    assert sum(1 / row["iterations_per_second"] for row in reports) == pytest.approx(result["steps_s"], rel=1e-6)
    assert result["truncated_rows"] == 1
