"""Evaluation and census where texts are private: scores, lengths and case ids are written, and no word of a case."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tools.evaluation.worlds import case_rows, make_job, make_model, work, write_lines
from tools.evaluation.census import without_words

CANARY = "canary-5417"
GRADER = """
def grade(case, text):
    if case["id"] == "c0":
        raise ValueError(case["reference"] + case["prompt"] + text)
    return {"score": float(text == case["reference"]), "noise": __import__("random").random()}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("world") / "model", 3)


def inputs(folder: Path, model: Path, privacy: str) -> dict[str, Any]:
    folder.mkdir()
    (folder / "grade.py").write_text(GRADER)
    cases = [{"id": f"c{n}", "prompt": f"{CANARY} {n}", "reference": f"{CANARY} {n}"} for n in range(4)]
    rows = [{"text": f"<|system|>{CANARY}<|end|><|user|>{CANARY}<|end|><|assistant|>{CANARY}<|end|>"} for _ in range(3)]
    split = {"name": "s", "use": "selection", "file": str(write_lines(folder / "s.jsonl", cases)), "case_ids": None}
    return {
        "model": str(model),
        "dtype": "float32",
        "splits": [split],
        "data": {"train": str(write_lines(folder / "train.jsonl", rows))},
        "max_seq_length": 64,
        "max_tokens": 8,
        "batch_size": 4,
        "grader": {"file": str(folder / "grade.py"), "timeout_s": 60, "is_private": privacy == "redact"},
        "privacy": privacy,
    }


def written(job: Path) -> str:
    return "".join(path.read_text() for path in job.rglob("*") if path.is_file())


@pytest.mark.mlx
@pytest.mark.parametrize("module", ["tools.evaluation.worker", "tools.evaluation.census"])
def test_no_word_of_a_case_is_written_where_texts_are_private(tmp_path: Path, model: Path, module: str) -> None:
    for privacy, is_found in (("keep", True), ("redact", False)):
        job = make_job(tmp_path / f"job-{privacy}", inputs(tmp_path / privacy, model, privacy))
        work(module, job)
        assert (CANARY in written(job)) == is_found


@pytest.mark.mlx
def test_scores_lengths_and_ids_are_kept(tmp_path: Path, model: Path) -> None:
    jobs = {}
    for privacy in ("keep", "redact"):
        jobs[privacy] = make_job(tmp_path / f"job-{privacy}", inputs(tmp_path / privacy, model, privacy))
        work("tools.evaluation.worker", jobs[privacy])
    kept, private = case_rows(jobs["keep"]), case_rows(jobs["redact"])
    assert [row["case"] for row in private] == ["c0", "c1", "c2", "c3"]
    for key in ("split", "use", "case", "prompt_tokens", "output_tokens", "finish_reason", "characters"):
        assert [row[key] for row in private] == [row[key] for row in kept]
    assert [row["metrics"]["score"] for row in private] == [row["metrics"]["score"] for row in kept]
    assert [row["characters"] for row in private] == [len(row["text"]) for row in kept]
    assert {row["text"] for row in private} == {""}
    assert private[0]["grader_error"] == "grade raised ValueError at grade.py:4"


@pytest.mark.mlx
def test_the_census_still_says_what_is_wrong_and_where(tmp_path: Path, model: Path) -> None:
    job = make_job(tmp_path / "job", inputs(tmp_path / "files", model, "redact"))
    found = work("tools.evaluation.census", job)
    assert found["grader"]["errors"][0] == (
        "s.selection, case c0, the gold answer: grade raised ValueError at grade.py:4"
    )
    assert "Case c1: noise was" in json.dumps(found["grader"]["varies"])
    assert not found["prompt_parity"]["ok"]
    assert found["prompt_parity"]["train_prefix"] == "(85 characters, the first 2 alike)"


def test_prefixes_are_told_by_their_lengths_and_where_they_part() -> None:
    parity = {"ok": False, "train_prefix": "<|system|>a<|user|>", "eval_prefix": "<|system|>bb"}
    assert without_words(parity) == {
        "ok": False,
        "train_prefix": "(19 characters, the first 10 alike)",
        "eval_prefix": "(12 characters, the first 10 alike)",
    }
    same = without_words({"ok": True, "train_prefix": "ab", "eval_prefix": "ab"})
    assert same["eval_prefix"] == "(2 characters, the first 2 alike)"
