import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.tools.evaluation.worlds import (
    GRADER,
    case_rows,
    make_adapter,
    make_job,
    make_model,
    start,
    work,
    write_lines,
)
from tools.evaluation.worker import CaseFile, Split, means, moved, noise
from tools.models.identity import weights_hash

MODULE = "tools.evaluation.worker"
N_CASES = 12
DEADLINE_S = 60

SLOW_GRADER = """
import os, pathlib, time
HERE = pathlib.Path(__file__).parent
""" + GRADER.replace(
    "    gold =",
    """    with open(HERE / "calls.txt", "a") as log:
        log.write(case["id"] + chr(10))
    while (HERE / "hold").exists() and len((HERE / "calls.txt").read_text().split()) > 4:
        time.sleep(0.02)
    gold =""",
    1,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("world") / "model", 3)


def inputs(folder: Path, model: Path, source: str = GRADER, **changes: Any) -> dict[str, Any]:
    """Return a worker's input with two uses of one file and a grader beside it."""
    (folder / "grade.py").write_text(source)
    cases = [{"id": f"c{n}", "prompt": "ab" * (n % 4 + 1) + str(n), "reference": "x" * n} for n in range(N_CASES)]
    file = str(write_lines(folder / "split.jsonl", cases))
    ids = [case["id"] for case in cases]
    return {
        "model": str(model),
        "dtype": "float32",
        "adapter": None,
        "expect_weights": weights_hash(model),
        "splits": [
            {"name": "s", "use": "selection", "file": file, "case_ids": ids[:8]},
            {"name": "s", "use": "confirmation", "file": file, "case_ids": ids[8:]},
        ],
        "max_tokens": 10,
        "temperature": 0.0,
        "seed": 0,
        "batch_size": 4,
        "system": None,
        "grader": {"file": str(folder / "grade.py"), "timeout_s": 60},
        "side": "base",
        "run": "",
    } | changes


@pytest.mark.mlx
def test_every_case_is_stored_graded_and_in_order(tmp_path: Path, model: Path) -> None:
    job = make_job(tmp_path / "job", inputs(tmp_path, model))
    result = work(MODULE, job)
    rows = case_rows(job)
    assert [(row["use"], row["case"]) for row in rows] == [
        ("selection" if n < 8 else "confirmation", f"c{n}") for n in range(N_CASES)
    ]
    assert all(row["metrics"]["length"] == len(row["text"]) and row["grader_error"] == "" for row in rows)
    assert rows[0]["metrics"]["share"] is None, "a reference without characters has no share"
    # <|user|>, two letters, one digit, <|end|>, <|assistant|>: one token each.
    assert rows[0]["prompt_tokens"] == 6
    assert result["cases"] == N_CASES
    assert result["weights"] == weights_hash(model)
    assert result["means"] == means(rows)
    assert result["cut"] == {"s.selection": 8, "s.confirmation": 4}
    told = map(json.loads, (job / "metrics.jsonl").read_text().splitlines())
    steps = [row["step"] for row in told if "step" in row]
    assert steps == sorted(set(steps))
    assert steps[-1] == N_CASES


def wait_for_rows(job: Path, n: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        path = job / "out" / "cases.jsonl"
        if path.exists() and path.read_text().count("\n") >= n:
            return
        time.sleep(0.02)
    process.kill()
    pytest.fail(f"no {n} rows: {process.communicate()[0]}")


@pytest.mark.mlx
def test_a_killed_worker_goes_on_where_it_was_and_ends_with_the_same_rows(tmp_path: Path, model: Path) -> None:
    spec = inputs(tmp_path, model, SLOW_GRADER)
    whole = make_job(tmp_path / "whole", spec)
    work(MODULE, whole)
    (tmp_path / "calls.txt").unlink()

    (tmp_path / "hold").touch()
    job = make_job(tmp_path / "job", spec)
    process = start(MODULE, job)
    wait_for_rows(job, 4, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (tmp_path / "hold").unlink()
    kept = {row["case"] for row in case_rows(job)}
    with (job / "out" / "cases.jsonl").open("a") as stream:
        stream.write('{"split": "s", "use": "selec')  # torn by the kill

    work(MODULE, job)
    assert case_rows(job) == case_rows(whole)
    calls = (tmp_path / "calls.txt").read_text().split()
    assert len(kept) == 4
    assert all(calls.count(case) == 1 for case in kept)


@pytest.mark.mlx
def test_a_stop_keeps_finished_cases_and_leaves_as_resumable(tmp_path: Path, model: Path) -> None:
    (tmp_path / "hold").touch()
    job = make_job(tmp_path / "job", inputs(tmp_path, model, SLOW_GRADER))
    process = start(MODULE, job)
    wait_for_rows(job, 4, process)
    os.kill(process.pid, signal.SIGTERM)
    (tmp_path / "hold").unlink()
    output = process.communicate()[0]
    assert process.returncode == 75, output
    assert not (job / "result.json").exists()
    assert 4 <= len(case_rows(job)) < N_CASES
    assert work(MODULE, job)["cases"] == N_CASES


@pytest.mark.mlx
def test_finished_rows_are_not_made_again_unless_the_harness_changed(tmp_path: Path, model: Path) -> None:
    job = make_job(tmp_path / "job", inputs(tmp_path, model))
    work(MODULE, job)
    honest = case_rows(job)
    path = job / "out" / "cases.jsonl"
    path.write_text(path.read_text().replace(json.dumps(honest[0]), json.dumps(honest[0] | {"text": "marked"})))
    result = work(MODULE, job)
    assert case_rows(job)[0]["text"] == "marked"
    assert result["tokens_per_s"] is None
    (tmp_path / "grade.py").write_text(GRADER + "# edited\n")
    work(MODULE, job)
    assert case_rows(job) == honest


def test_other_weights_than_the_expected_are_refused_before_loading(tmp_path: Path, model: Path) -> None:
    job = make_job(tmp_path / "job", inputs(tmp_path, model, expect_weights="0" * 64))
    error = work(MODULE, job, expected=2)
    assert "000000000000 were to be evaluated" in error["sentence"]
    assert not (job / "out").exists()


@pytest.mark.mlx
def test_an_adapter_belongs_to_the_weights_that_are_checked(tmp_path: Path, model: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter")
    refused = make_job(tmp_path / "refused", inputs(tmp_path, model, adapter=str(adapter)))
    assert f"with adapter {adapter}" in work(MODULE, refused, expected=2)["sentence"]
    right = inputs(tmp_path, model, adapter=str(adapter), expect_weights=weights_hash(model, adapter))
    job, bare = make_job(tmp_path / "job", right), make_job(tmp_path / "bare", inputs(tmp_path, model))
    with_adapter, without = work(MODULE, job), work(MODULE, bare)
    assert with_adapter["harness"] == without["harness"]
    assert [row["text"] for row in case_rows(job)] != [row["text"] for row in case_rows(bare)]


@pytest.mark.mlx
def test_an_adapter_of_another_shape_is_one_sentence(tmp_path: Path, model: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["lora_parameters"]["rank"] = 3
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    job = make_job(
        tmp_path / "job",
        inputs(tmp_path, model, adapter=str(adapter), expect_weights=weights_hash(model, adapter)),
    )
    assert "mlx-lm cannot load" in work(MODULE, job, expected=2)["sentence"]


BAD_GRADER = """
def grade(case, text):
    if case["id"] == "c1":
        raise ValueError("no idea")
    return {"ok": float("nan") if case["id"] == "c2" else 1.0}
"""


@pytest.mark.mlx
def test_what_a_grader_cannot_grade_is_reported_and_never_a_zero(tmp_path: Path, model: Path) -> None:
    job = make_job(tmp_path / "job", inputs(tmp_path, model, BAD_GRADER))
    result = work(MODULE, job)
    rows = {row["case"]: row for row in case_rows(job)}
    assert "no idea" in rows["c1"]["grader_error"]
    assert "nan" in rows["c2"]["grader_error"]
    assert rows["c1"]["metrics"] == rows["c2"]["metrics"] == {"ok": None}
    assert (result["means"]["s.selection"], result["ungraded"]) == ({"ok": 1.0}, 2)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"splits": [{"name": "s", "use": "selection", "file": "SPLIT", "case_ids": ["c1", "gone"]}]}, "lacks 1 of"),
        ({"grader": {"file": "/nowhere/grade.py"}}, "does not exist"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence(
    tmp_path: Path, model: Path, changes: dict[str, Any], sentence: str
) -> None:
    spec = json.loads(json.dumps(inputs(tmp_path, model, **changes)).replace("SPLIT", str(tmp_path / "split.jsonl")))
    assert sentence in work(MODULE, make_job(tmp_path / "job", spec), expected=2)["sentence"]


def test_any_character_of_an_output_survives_a_restart(tmp_path: Path) -> None:
    splits = [Split("s", "selection", ({"id": "a"}, {"id": "b"}))]
    row = {"split": "s", "use": "selection", "case": "a", "text": "\u2028 \x85 \x1c \ud800 ü\n"}
    CaseFile(tmp_path, "h", splits).add([row])
    again = CaseFile(tmp_path, "h", splits)
    assert list(again.rows.values()) == [row]
    assert CaseFile(tmp_path, "other", splits).rows == {}


def test_rows_of_cases_that_are_no_longer_asked_for_are_dropped(tmp_path: Path) -> None:
    CaseFile(tmp_path, "h", [Split("s", "selection", ({"id": "a"},))]).add(
        [{"split": "s", "use": "selection", "case": "a"}]
    )
    assert CaseFile(tmp_path, "h", [Split("s", "selection", ({"id": "b"},))]).rows == {}


@pytest.mark.mlx
def test_the_base_answers_in_other_orders_and_float32_is_moved_by_none(tmp_path: Path, model: Path) -> None:
    job = make_job(tmp_path / "job", inputs(tmp_path, model, orders=3))
    result = work(MODULE, job)
    assert result["noise"] == {
        "orders": 4,
        "cases": {"s": N_CASES},
        "differ": 0,
        "noise_sd": {"s.exact": 0, "s.share": 0, "s.length": 0},
    }
    assert (result["form"], result["cases"]) == ("none", N_CASES)
    assert result["startup_s"] > 0
    told = map(json.loads, (job / "metrics.jsonl").read_text().splitlines())
    steps = [row["step"] for row in told if "step" in row]
    assert steps[-1] == 4 * N_CASES
    plain = make_job(tmp_path / "plain", inputs(tmp_path, model))
    assert "noise" not in work(MODULE, plain)
    assert case_rows(plain) == case_rows(job)


def test_noise_is_the_spread_of_the_difference_of_two_means_of_the_same_weights() -> None:
    def rows(*scores: float | None) -> list[dict[str, Any]]:
        return [
            {"split": "s", "use": "selection", "case": str(place), "characters": 3, "metrics": {"ok": score}}
            for place, score in enumerate(scores)
        ]

    # A third case was asked in one order only. Means 0.5, 1, 0.5, 0; squares of the six differences.
    found = noise([rows(1, 0, 0.3), rows(1, 1), rows(0, 1), rows(0, 0)])
    assert found["noise_sd"]["s.ok"] == pytest.approx(((0.25 + 0 + 0.25 + 0.25 + 1 + 0.25) / 6) ** 0.5)
    assert (found["orders"], found["cases"], found["differ"]) == (4, {"s": 2}, 1)
    untold = noise([rows(None, 0.5), rows(None, 0.5)])
    assert untold["noise_sd"] == {"s.ok": 0}
    assert noise([rows(None), rows(None)])["noise_sd"] == {}


@pytest.mark.mlx
@pytest.mark.parametrize(("form", "other"), [("apart", "fused"), ("fused", "apart")])
def test_what_is_confirmed_is_answered_in_the_form_that_is_handed_out_and_the_other_beside_it(
    tmp_path: Path, model: Path, form: str, other: str
) -> None:
    adapter = make_adapter(tmp_path / "adapter")
    asked = inputs(
        tmp_path, model, adapter=str(adapter), expect_weights=weights_hash(model, adapter), form=form, other_form=other
    )
    job = make_job(tmp_path / "job", asked)
    result = work(MODULE, job)
    assert result["form"] == form
    assert result["other_form"] == {
        "form": other,
        "cases": N_CASES,
        "differ": 0,
        "mean_change": {"s.exact": 0, "s.share": pytest.approx(0), "s.length": 0},
    }
    said = [row["phase"] for row in map(json.loads, (job / "metrics.jsonl").read_text().splitlines()) if "phase" in row]
    first = ["loading the model", f"reading {N_CASES} prompts"]
    assert (said[:2], len(said)) == (first, 6)
    assert said[2].startswith("first answers, to ")
    assert len(case_rows(job)) == N_CASES
    assert len((job / "out" / f"{other}.jsonl").read_text().splitlines()) == N_CASES
    quick = make_job(tmp_path / "quick", asked | {"form": "", "other_form": ""})
    assert work(MODULE, quick)["form"] == "merged"
    assert case_rows(quick) == case_rows(job)


NO_MEMORY = """
import sys
from unittest.mock import patch
from tools.evaluation.worker import main
with patch("tools.evaluation.adapters.free_memory", lambda: 1000):
    main([sys.argv[1]])
    main([sys.argv[2]])
"""


@pytest.mark.mlx
def test_a_form_without_room_is_skipped_with_a_sentence_and_refused_where_it_is_what_is_judged(
    tmp_path: Path, model: Path
) -> None:
    adapter = make_adapter(tmp_path / "adapter")
    asked = inputs(tmp_path, model, adapter=str(adapter), expect_weights=weights_hash(model, adapter))
    skipped = make_job(tmp_path / "skipped", asked | {"form": "apart", "other_form": "fused"})
    refused = make_job(tmp_path / "refused", asked | {"form": "fused", "other_form": "apart"})
    done = subprocess.run(
        [sys.executable, "-c", NO_MEMORY, str(skipped), str(refused)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    result = json.loads((skipped / "result.json").read_text())
    assert len(case_rows(skipped)) == result["cases"] == N_CASES
    why = result["other_form"].pop("skipped")
    assert (result["form"], result["other_form"]) == ("apart", {"form": "fused"})
    assert "beside those that it is loaded with, and 0.00 GB are free" in why
    said = json.loads((refused / "error.json").read_text())["sentence"]
    assert said.startswith("The adapter cannot be judged as the export hands it out: fused, its weights would take")
    assert "Set export.fused: false" in said


def test_how_another_form_differs_is_told_by_share_and_by_metric() -> None:
    def rows(*texts: str) -> list[dict[str, Any]]:
        return [
            {
                "split": "s",
                "use": "confirmation",
                "characters": len(text),
                "output_tokens": 1,
                "text": text,
                "metrics": {"long": float(len(text)), "none": None},
            }
            for text in texts
        ]

    found = moved(rows("a", "b", "cc", "d"), rows("a", "x", "c", "d"))
    assert found == {"cases": 4, "differ": 0.5, "mean_change": {"s.long": -0.25}}
