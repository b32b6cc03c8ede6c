"""A compiled step is the plain one, traced once per shape; a run that looks at steps late is the run that does not."""

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tools.evaluation.worlds import make_model, write_lines
from tests.tools.training.jobs import adapter_bytes, drive, metrics, outcome, rows, run, saved_steps, training_job

NEEDS_COMPILER = pytest.mark.skipif(
    sys.platform == "linux" and shutil.which("g++") is None, reason="MLX compiles with g++ here"
)

pytestmark = pytest.mark.mlx

DROPOUT: dict[str, Any] = {"iters": 24, "lora_parameters": {"rank": 2, "scale": 2.0, "dropout": 0.3}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("stepping") / "model")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("data") / "train.jsonl", rows(11, 20))


@pytest.fixture(scope="module")
def found(model: Path) -> dict[str, Any]:
    done = run("tests.tools.training.inside_stepping", str(model))
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@NEEDS_COMPILER
def test_a_compiled_step_gives_what_the_plain_one_gives_and_is_traced_once_per_shape(found: dict[str, Any]) -> None:
    plain, compiled = found["plain"], found["compiled"]
    assert compiled["losses"] == pytest.approx(plain["losses"], rel=1e-5)
    assert compiled["norms"] == pytest.approx(plain["norms"], rel=1e-5)
    assert compiled["weights"] == pytest.approx(plain["weights"], rel=1e-5)
    assert plain["losses"][:4] != pytest.approx(plain["losses"][4:], rel=1e-3), "updates and dropout change it"
    assert plain["calls"] == 8
    assert compiled["calls"] == 2, "the short shape gathers and the long one updates, each again and again"
    assert compiled["said"] == plain["said"] == []


@NEEDS_COMPILER
def test_what_cannot_be_traced_is_computed_plainly_and_said(found: dict[str, Any]) -> None:
    plain, refused = found["plain"], found["refused"]
    assert refused["losses"] == plain["losses"]
    assert refused["weights"] == plain["weights"]
    assert len(refused["said"]) == 1
    assert "compile" in refused["said"][0]


def test_logits_are_cut_to_what_is_asked_before_the_output_layer_or_after_it(found: dict[str, Any]) -> None:
    heads = found["heads"]
    assert heads["places"] < heads["width"]
    assert all(heads[name] < 1e-5 for name in ("cut", "again", "elsewhere", "all"))


def test_a_run_that_looks_at_its_steps_late_gives_the_bytes_of_one_that_looks_at_once(
    tmp_path: Path, model: Path, train: Path
) -> None:
    late = DROPOUT | {"steps_per_report": 10, "grad_accumulation_steps": 2}
    jobs = [
        training_job(tmp_path / "at-once", model, train, recipe=late | {"steps_per_report": 1}),
        training_job(tmp_path / "late", model, train, recipe=late),
        training_job(tmp_path / "stopped", model, train, recipe=late | {"save_every": 7}),
    ]
    assert drive({"job": jobs[0]}, {"job": jobs[1]}, {"job": jobs[2], "at_step": 10}) == [0, 0, 75]
    assert saved_steps(jobs[2]) == [8, 10]
    assert drive({"job": jobs[2]}) == [0]
    assert outcome(jobs[2])["resumed_from"] == 10
    once, later, stopped = (adapter_bytes(job) for job in jobs)
    assert once == later == stopped
    reported = [row["step"] for row in metrics(jobs[1]) if "learning_rate" in row]
    assert reported == [10, 20, 24]
    each = {row["step"]: row for row in metrics(jobs[0]) if "learning_rate" in row}
    for row in metrics(jobs[1]):
        if "learning_rate" in row:
            same = ("grad_norm", "learning_rate", "trained_tokens")
            assert {name: row[name] for name in same} == {name: each[row["step"]][name] for name in same}


def test_a_divergence_that_is_seen_a_step_late_names_its_step_and_leaves_healthy_weights(
    tmp_path: Path, model: Path, train: Path
) -> None:
    # The rate is sane in the first eight steps and absurd from the ninth on.
    schedule = {"name": "step_decay", "arguments": [1e-3, 1e33, 8]}
    recipe = {
        "optimizer": "sgd",
        "max_grad_norm": None,
        "iters": 20,
        "lr_schedule": schedule,
        "grad_accumulation_steps": 1,
    }
    jobs = [
        training_job(tmp_path / str(every), model, train, recipe=recipe | {"steps_per_report": every})
        for every in (1, 100)
    ]
    assert drive(*({"job": job} for job in jobs)) == [3, 3]
    assert adapter_bytes(jobs[0]) == adapter_bytes(jobs[1])
    seen = [metrics(job)[-1] for job in jobs]
    assert seen[0]["step"] == seen[1]["step"] > 8
    assert all(math.isnan(row["train_loss"]) and row["note"] == "update not applied" for row in seen)
    assert [outcome(job)["iters"] for job in jobs] == [seen[0]["step"] - 1] * 2
