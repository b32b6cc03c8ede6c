"""A training that was interrupted and resumed gives the bytes of one that was not; and what a worker refuses."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.tools.evaluation.worlds import make_model, write_lines
from tests.tools.training.jobs import (
    adapter_bytes,
    drive,
    metrics,
    outcome,
    rows,
    run,
    saved_steps,
    training_job,
    work,
)

pytestmark = pytest.mark.mlx

ACCUMULATED: dict[str, Any] = {
    "iters": 12,
    "grad_accumulation_steps": 2,
    "save_every": 4,
    "lora_parameters": {"rank": 2, "scale": 2.0, "dropout": 0.3},
    "lr_schedule": {"name": "cosine_decay", "arguments": [0.01, 6], "warmup": 2},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("resume") / "model")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("data") / "train.jsonl", rows(11, 20))


def test_a_resumed_run_equals_an_uninterrupted_one_byte_for_byte(tmp_path: Path, model: Path, train: Path) -> None:
    whole = training_job(tmp_path / "whole", model, train, recipe=ACCUMULATED)
    termed = training_job(tmp_path / "termed", model, train, recipe=ACCUMULATED)
    assert drive({"job": whole}, {"job": termed, "at_step": 7}) == [0, 75]
    assert drive({"job": termed}) == [0]
    assert adapter_bytes(termed) == adapter_bytes(whole)
    assert outcome(termed)["resumed_from"] == 8, "a stop waits for the update boundary"
    assert outcome(whole)["resumed_from"] == 0
    resumed = next(row for row in metrics(termed) if "resumed_from" in row)
    assert resumed["probe_loss"] == resumed["expected_loss"]
    assert "warning" not in resumed


def test_a_run_killed_with_sigkill_goes_on_from_its_last_save_and_gives_the_same_bytes(
    tmp_path: Path, model: Path, train: Path
) -> None:
    whole = training_job(tmp_path / "whole", model, train, recipe=ACCUMULATED)
    killed = training_job(tmp_path / "killed", model, train, recipe=ACCUMULATED)
    drive({"job": whole})
    step = {"job": str(killed), "signal": "SIGKILL", "at_step": 7}
    assert run("tests.tools.training.driver", json.dumps([step])).returncode == -signal.SIGKILL
    assert saved_steps(killed) == [4]
    assert drive({"job": killed}) == [0]
    assert outcome(killed)["resumed_from"] == 4
    assert adapter_bytes(killed) == adapter_bytes(whole)


def test_a_save_that_loads_as_something_else_is_refused_before_the_first_step(
    tmp_path: Path, model: Path, train: Path
) -> None:
    job = training_job(tmp_path / "job", model, train, recipe={"iters": 9, "save_every": 3})
    assert drive({"job": job, "at_step": 4}) == [75]
    save = max((job / "out" / "saves").glob("[0-9]*"))
    weights = load_file(save / "adapters.safetensors")
    save_file({name: np.zeros_like(value) for name, value in weights.items()}, save / "adapters.safetensors")
    work(job, expected=2)
    assert "what was written is not what loads" in outcome(job)["sentence"]


def test_a_torn_save_is_passed_over(tmp_path: Path, model: Path, train: Path) -> None:
    job = training_job(tmp_path / "job", model, train, recipe={"iters": 9, "save_every": 3})
    assert drive({"job": job, "at_step": 7}) == [75]
    newest = max((job / "out" / "saves").glob("[0-9]*"))
    (newest / "state.json").unlink()
    assert drive({"job": job}) == [0]
    assert 0 < outcome(job)["resumed_from"] < int(newest.name)


def test_a_loss_that_is_not_finite_is_never_applied_and_the_result_says_diverged(
    tmp_path: Path, model: Path, train: Path
) -> None:
    recipe = {"learning_rate": 1e30, "optimizer": "sgd", "max_grad_norm": None, "iters": 20}
    job = training_job(tmp_path / "job", model, train, recipe=recipe)
    found = work(job, expected=3)
    assert found["verdict"] == "diverged"
    weights = load_file(job / "out" / "adapter" / "adapters.safetensors")
    assert all(np.isfinite(value).all() for value in weights.values())
    assert any(math.isnan(row.get("train_loss", 0.0)) for row in metrics(job))


def test_every_row_is_seen_and_the_whole_validation_set_is_measured(tmp_path: Path, model: Path, train: Path) -> None:
    job = training_job(tmp_path / "job", model, train, valid=str(train), recipe={"iters": 4, "steps_per_eval": 2})
    found = work(job)
    assert found["rows_seen_share"] == 1.0, "11 rows in batches of 3: four steps"
    assert [row["step"] for row in metrics(job) if "val_loss" in row] == [0, 2, 4]
    assert 0 <= found["padding_share"] < 1
    assert found["padded_tokens"] > found["trained_tokens"] > 0
    assert 0 < found["steps_s"] <= found["wall_s"]


def test_a_data_set_smaller_than_a_batch_trains(tmp_path: Path, model: Path) -> None:
    few = write_lines(tmp_path / "few.jsonl", rows(2))
    found = work(training_job(tmp_path / "job", model, few, recipe={"batch_size": 8, "iters": 2}))
    assert found["rows_seen_share"] == 1.0


def test_stock_mlx_lm_opens_the_adapter(tmp_path: Path, model: Path, train: Path) -> None:
    job = training_job(tmp_path / "job", model, train)
    work(job)
    adapter = job / "out" / "adapter"
    command = [
        "generate",
        "--model",
        str(model),
        "--adapter-path",
        str(adapter),
        "--prompt",
        "abc",
        "--max-tokens",
        "3",
    ]
    done = run("mlx_lm", *command)
    assert done.returncode == 0, done.stderr
    fused = tmp_path / "fused"
    done = run("mlx_lm", "fuse", "--model", str(model), "--adapter-path", str(adapter), "--save-path", str(fused))
    assert done.returncode == 0, done.stderr
    assert (fused / "config.json").is_file()


def test_a_child_continues_from_its_parents_weights_and_refuses_another_shape(
    tmp_path: Path, model: Path, train: Path
) -> None:
    parent = training_job(tmp_path / "parent", model, train)
    work(parent)
    adapter = parent / "out" / "adapter"
    child = training_job(tmp_path / "child", model, train, parent_adapter=adapter, recipe={"learning_rate": 1e-12})
    found = work(child)
    ours, theirs = (load_file(job / "out" / "adapter" / "adapters.safetensors") for job in (child, parent))
    assert all(np.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)
    assert found["parent_weights"] == outcome(parent)["weights"]
    wider = {"lora_parameters": {"rank": 4, "scale": 2.0, "dropout": 0.0}}
    other = training_job(tmp_path / "other", model, train, parent_adapter=adapter, recipe=wider)
    work(other, expected=2)
    assert "rank 2 -> 4" in outcome(other)["sentence"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"expect_weights": "0" * 64}, "were to be trained on"),
        ({"recipe": {"max_seq_length": 8}}, "train.jsonl:"),
        ({"recipe": {"itres": 3}}, "did you mean `iters`"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_sentence_and_not_tried_again(
    tmp_path: Path, model: Path, train: Path, changes: dict[str, Any], said: str
) -> None:
    job = training_job(tmp_path / "job", model, train, **changes)
    work(job, expected=2)
    assert said in outcome(job)["sentence"]
    assert not (job / "result.json").exists()


def test_our_fuse_gives_the_logits_of_base_and_adapter_and_refuses_a_folder_in_use(
    tmp_path: Path, model: Path, train: Path
) -> None:
    job = training_job(tmp_path / "job", model, train)
    found = work(job)
    fuse = training_job(
        tmp_path / "fuse", model, train, adapter=job / "out" / "adapter", expect_weights=found["weights"]
    )
    made = work(fuse, "tools.training.fuse")
    assert made["fused_from"] == found["weights"]
    code = (
        "import sys, mlx.core as mx; from mlx_lm import load\n"
        "x = mx.array([[5, 9, 20, 31, 7]])\n"
        "a = load(sys.argv[1], adapter_path=sys.argv[2])[0](x); b = load(sys.argv[3])[0](x)\n"
        "print(float(mx.abs(a - b).max()), float(mx.abs(a).max()))"
    )
    argv = [sys.executable, "-c", code, str(model), str(job / "out" / "adapter"), str(fuse / "out" / "fused")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    difference, size = map(float, done.stdout.split())
    assert difference < 1e-3 * size
    again = training_job(tmp_path / "again", model, train, adapter=job / "out" / "adapter")
    (again / "out" / "fused").mkdir(parents=True)
    (again / "out" / "fused" / "model.safetensors").write_bytes(b"old")
    work(again, "tools.training.fuse", expected=2)
    assert "empty" in outcome(again)["sentence"]
