"""Samples where texts are private: prompts are named by case, texts stay in memory, and the signals are the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tools.evaluation.worlds import make_model, write_lines
from tests.tools.training.jobs import adapter_bytes, drive, metrics, rows, training_job

CASES = [{"id": "one", "prompt": "abc"}, {"id": "two", "prompt": "defg"}, {"id": "three", "prompt": "h"}]
RECIPE = {"iters": 6, "save_every": 2}


def signals(job: Path) -> list[dict[str, Any]]:
    """Return the last sampled row of each step; a resumed run reports its first again."""
    found = {row["step"]: row for row in metrics(job) if "sample_distinct" in row}
    return [{key: value for key, value in row.items() if key != "t"} for _, row in sorted(found.items())]


@pytest.mark.mlx
def test_private_samples_give_the_same_signals_and_no_text_through_a_stop_too(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    train = write_lines(tmp_path / "train.jsonl", rows(11, 20))
    file = str(write_lines(tmp_path / "cases.jsonl", CASES))
    named = {"name": "s", "use": "selection", "file": file, "case_ids": ["one", "two"]}
    kept, private = (
        training_job(tmp_path / name, model, train, recipe=RECIPE, samples=samples, privacy=name)
        for name, samples in (
            ("keep", {"prompts": ["abc", "defg"], "max_tokens": 12}),
            ("redact", {"cases": named, "max_tokens": 12}),
        )
    )
    assert drive({"job": kept}, {"job": private, "at_step": 3}) == [0, 75]
    assert drive({"job": private}) == [0]
    assert signals(private) == signals(kept)
    assert adapter_bytes(private) == adapter_bytes(kept)
    one, other = (
        [json.loads(line) for line in (job / "out" / "samples.jsonl").read_text().splitlines()]
        for job in (kept, private)
    )
    assert {row["text"] for row in other} == {""}
    assert any(row["text"] for row in one)
    assert [row | {"text": ""} for row in one] == other
    assert all(row["characters"] == len(row["text"]) for row in one)
    assert "abc" not in (private / "job.json").read_text()
