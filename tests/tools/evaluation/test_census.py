import json
from pathlib import Path
from typing import Any

import pytest

from tests.tools.evaluation.worlds import GRADER, make_job, make_model, work, write_lines

MODULE = "tools.evaluation.census"
LENGTHS = (4, 4, 4, 9, 9, 14, 19, 29)
"""Characters of the references, which are tokens."""

pytestmark = pytest.mark.mlx


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("world") / "model", 3)


def inputs(folder: Path, model: Path, max_tokens: int, source: str = GRADER, **changes: Any) -> dict[str, Any]:
    (folder / "grade.py").write_text(source)
    cases = [{"id": f"c{n}", "prompt": "pq", "reference": "x" * length} for n, length in enumerate(LENGTHS)]
    train = [{"prompt": "p" * n, "completion": "a"} for n in (1, 2, 30, 4, 5, 60)]
    return {
        "model": str(model),
        "dtype": "float32",
        "data": {"train": str(write_lines(folder / "train.jsonl", train)), "valid": None},
        "max_seq_length": 20,
        "mask_prompt": True,
        "splits": [_split("s", write_lines(folder / "split.jsonl", cases))],
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "seed": 0,
        "system": None,
        "grader": {"file": str(folder / "grade.py"), "timeout_s": 20},
    } | changes


def _split(name: str, file: Path) -> dict[str, Any]:
    return {"name": name, "use": "selection", "file": str(file), "case_ids": None}


def test_the_ceiling_at_a_small_budget_is_the_exact_share_of_golds_that_fit(tmp_path: Path, model: Path) -> None:
    small = work(MODULE, make_job(tmp_path / "small", inputs(tmp_path, model, 10)))
    large = work(MODULE, make_job(tmp_path / "large", inputs(tmp_path, model, 30)))
    assert small["ceiling"]["s.selection"]["exact"] == {"mean": 5 / 8, "n": 8, "cases_whole": 5}
    assert large["ceiling"]["s.selection"]["exact"] == {"mean": 1.0, "n": 8, "cases_whole": 8}
    # Cut golds keep their first ten characters.
    assert small["ceiling"]["s.selection"]["share"]["mean"] == pytest.approx((5 + 10 / 14 + 10 / 19 + 10 / 29) / 8)
    assert small["budget"]["s.selection"] == {
        "gold_tokens": [length + 1 for length in LENGTHS],
        "of_case": {f"c{n}": length + 1 for n, length in enumerate(LENGTHS)},
        "whole": 5,
        "n": 8,
        "smallest_sufficient": 30,
    }
    assert small["budget_for"]["s.selection"]["exact"] == [[10, 5 / 8], [15, 6 / 8], [20, 7 / 8], [30, 1.0]]
    assert large["budget_for"]["s.selection"]["exact"] == [[30, 1.0]]
    assert small["harness"] != large["harness"]


def test_floor_echo_tokens_and_parity_are_counted(tmp_path: Path, model: Path) -> None:
    found = work(MODULE, make_job(tmp_path / "job", inputs(tmp_path, model, 30)))
    assert found["floor"]["s.selection"]["exact"] == {"mean": 0.0, "n": 8, "cases_whole": 8}
    assert found["echo"]["s.selection"]["length"]["mean"] == 2.0
    assert found["no_reference"] == []
    assert found["grader"] == {"errors": [], "varies": [], "n_errors": 0, "other_errors": []}
    # A row is its prompt, its one-character answer, and four tokens of template.
    assert found["train"] == {
        "rows": 6,
        "max_tokens": 65,
        "max_answer": 2,
        "mean_answer": 2.0,
        "p50": 9,
        "p95": 65,
        "truncated": 2,
        "prompt_longer_than_max": 2,
        "lines": [3, 6],
        "without_end": 0,
        "prompt_mismatch": 0,
    }
    assert found["prompt_parity"]["ok"] is True


@pytest.mark.parametrize(("limit", "cut", "lines"), [(12, 1, [2]), (40, 0, []), (None, 0, [])])
def test_both_sides_of_pairs_are_counted_and_rollouts_are_cases(
    tmp_path: Path, model: Path, limit: int | None, cut: int, lines: list[int]
) -> None:
    spec = inputs(tmp_path, model, 30, pair_seq_length=limit)
    pairs = [{"prompt": "pq", "chosen": "ab", "rejected": "abc"}, {"prompt": "pq", "chosen": "a", "rejected": "a" * 20}]
    asked = [{"id": f"r{n}", "prompt": "pq", "reference": "x"} for n in range(3)]
    spec["data"] |= {
        "pairs": str(write_lines(tmp_path / "pairs.jsonl", pairs)),
        "rollouts": str(write_lines(tmp_path / "rollouts.jsonl", asked)),
    }
    found = work(MODULE, make_job(tmp_path / "job", spec))
    # A side is its prompt, its answer and four tokens of template.
    counted = {"rows": 2, "max_tokens": 26, "p50": 8, "p95": 26}
    assert found["pairs"] == {**counted, "truncated": cut, "lines": lines}
    assert found["rollouts"] == {"rows": 3}


def test_groups_of_training_rows_are_counted_where_a_key_names_them(tmp_path: Path, model: Path) -> None:
    spec = inputs(tmp_path, model, 30, group_by="completion", parts=["tokens"])
    assert work(MODULE, make_job(tmp_path / "job", spec))["train"]["groups"] == {"a": 6}


def test_a_split_without_references_has_no_ceiling_and_says_so(tmp_path: Path, model: Path) -> None:
    bare = write_lines(tmp_path / "bare.jsonl", [{"id": f"b{n}", "prompt": "pq"} for n in range(3)])
    spec = inputs(tmp_path, model, 30)
    spec["splits"].append(_split("bare", bare))
    found = work(MODULE, make_job(tmp_path / "job", spec))
    assert found["no_reference"] == ["bare.selection"]
    assert found["ceiling"].keys() == found["budget"].keys() == found["budget_for"].keys() == {"s.selection"}
    assert found["floor"]["bare.selection"]["length"]["n"] == 3
    assert found["floor"]["bare.selection"]["share"] == {"mean": None, "n": 0, "cases_whole": 3}


def test_a_training_file_with_a_system_text_of_its_own_breaks_parity(tmp_path: Path, model: Path) -> None:
    turns = [("system", "Be neat."), ("user", "p"), ("assistant", "a")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    data = {"train": str(write_lines(tmp_path / "chat.jsonl", [row])), "valid": None}
    found = work(MODULE, make_job(tmp_path / "job", inputs(tmp_path, model, 30, data=data)))
    assert found["prompt_parity"] == {
        "ok": False,
        "train_prefix": "<|system|>Be neat.<|end|><|user|>{prompt}<|end|><|assistant|>",
        "eval_prefix": "<|user|>{prompt}<|end|><|assistant|>",
    }
    job = make_job(tmp_path / "same", inputs(tmp_path, model, 30, data=data, system="Be neat."))
    assert work(MODULE, job)["prompt_parity"]["ok"] is True


def test_a_grader_that_fails_on_gold_or_varies_is_reported_with_the_case(tmp_path: Path, model: Path) -> None:
    bad = """
import itertools
count = itertools.count()
def grade(case, text):
    if case["id"] == "c3" and text:
        raise KeyError("gone")
    if not text:
        raise ValueError("empty")
    return {"drift": float(next(count))}
"""
    found = work(MODULE, make_job(tmp_path / "job", inputs(tmp_path, model, 30, bad)))["grader"]
    assert found["n_errors"] == 1
    assert found["errors"][0].startswith("s.selection, case c3, the gold answer:")
    assert any("empty" in sentence for sentence in found["other_errors"])
    assert any(sentence.startswith("s.selection: Case c0: drift was") for sentence in found["varies"])


def test_a_broken_line_of_the_training_data_is_named(tmp_path: Path, model: Path) -> None:
    spec = inputs(tmp_path, model, 30)
    train = Path(spec["data"]["train"])
    train.write_text(train.read_text() + '{"prompt": \n')
    error = work(MODULE, make_job(tmp_path / "job", spec), expected=2)
    assert error["where"] == f"{train}:7"


def test_a_model_without_a_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    (model / "tokenizer.json").unlink()
    assert (
        "has no tokenizer"
        in work(MODULE, make_job(tmp_path / "job", inputs(tmp_path, model, 9)), expected=2)["sentence"]
    )


def test_a_census_leaves_its_progress_by_split(tmp_path: Path, model: Path) -> None:
    job = make_job(tmp_path / "job", inputs(tmp_path, model, 30))
    work(MODULE, job)
    rows = [json.loads(line) for line in (job / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["split"]) for row in rows if "step" in row] == [(8, "s.selection")]
    assert [row["phase"] for row in rows if "phase" in row] == [
        "grading reference answers and bad ones, of 8 cases first", "counting the tokens of the rows",
    ]  # fmt: skip
