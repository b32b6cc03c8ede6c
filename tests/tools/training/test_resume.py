"""A training that was interrupted and resumed gives the bytes of one that was not; and what a worker refuses."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.tools.evaluation.worlds import make_model, write_lines
from tests.tools.training.jobs import (
    adapter_bytes,
    assert_same_logits,
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model: Path, train: Path) -> Path:
    """Return the job of a run that nothing interrupted."""
    job = training_job(tmp_path_factory.mktemp("whole") / "job", model, train, recipe=ACCUMULATED)
    work(job)
    return job


def test_a_run_stopped_by_sigterm_goes_on_and_gives_the_bytes_of_one_that_was_not(
    tmp_path: Path, model: Path, train: Path, whole: Path
) -> None:
    job = training_job(tmp_path / "job", model, train, recipe=ACCUMULATED)
    assert drive({"job": job, "at_step": 7}) == [75]
    work(job)
    assert adapter_bytes(job) == adapter_bytes(whole)
    assert outcome(job)["resumed_from"] == 8, "a stop waits for the update boundary"
    assert outcome(whole)["resumed_from"] == 0
    said = [row["phase"] for row in metrics(whole) if "phase" in row]
    assert said[:2] == ["loading the model", "reading the rows"]
    assert said[2].startswith("first step, ")
    assert said[3].startswith("first step done in ")
    assert [row["phase"] for row in metrics(job) if "phase" in row][4:6] == said[:2], "and when it is taken up again"
    resumed = next(row for row in metrics(job) if "resumed_from" in row)
    assert resumed["probe_loss"] == resumed["expected_loss"]
    assert "warning" not in resumed
    same = ("trained_tokens", "padded_tokens", "padding_share", "rows_seen_share", "weights", "adapter_hash")
    assert {key: outcome(job)[key] for key in same} == {key: outcome(whole)[key] for key in same}


def test_a_run_killed_by_sigkill_goes_on_from_its_last_save_and_gives_the_same_bytes(
    tmp_path: Path, model: Path, train: Path, whole: Path
) -> None:
    job = training_job(tmp_path / "job", model, train, recipe=ACCUMULATED)
    step = {"job": str(job), "signal": "SIGKILL", "at_step": 7}
    assert run("tests.tools.training.driver", json.dumps([step])).returncode == -signal.SIGKILL
    assert saved_steps(job) == [4]
    work(job)
    assert outcome(job)["resumed_from"] == 4
    assert adapter_bytes(job) == adapter_bytes(whole)


def test_a_run_that_goes_on_from_another_one_s_save_gives_the_whole_and_says_from_where_it_really_began(
    tmp_path: Path, model: Path, train: Path, whole: Path
) -> None:
    short = training_job(tmp_path / "short", model, train, recipe=ACCUMULATED | {"iters": 8})
    save = short / "out" / "saves" / "0000008"
    names = ("longer", "killed", "anew")
    longer, killed, anew = (
        training_job(tmp_path / name, model, train, recipe=ACCUMULATED, continue_from=save) for name in names
    )
    assert drive({"job": short}, {"job": longer}) == [0, 0]
    step = {"job": str(killed), "signal": "SIGKILL", "at_step": 11}
    assert run("tests.tools.training.driver", json.dumps([step])).returncode == -signal.SIGKILL
    assert saved_steps(killed) == [8], "its own copy"
    torn = killed / "out" / "saves" / "0000008" / "adapters.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1] + b"?")
    assert drive({"job": killed}) == [0], "its own are damaged: back to the other run's, not to the beginning"
    assert outcome(killed)["damaged_saves"] == [8]
    taken = (save / "adapters.safetensors").read_bytes()
    (save / "adapters.safetensors").write_bytes(taken[:-1])
    step = {"job": str(anew), "signal": "SIGKILL", "at_step": 7}
    assert run("tests.tools.training.driver", json.dumps([step])).returncode == -signal.SIGKILL
    (save / "adapters.safetensors").write_bytes(taken)
    assert drive({"job": anew}) == [0], "what began anew goes on with that, whatever is there again"
    assert adapter_bytes(longer) == adapter_bytes(killed) == adapter_bytes(anew) == adapter_bytes(whole)
    assert adapter_bytes(short) != adapter_bytes(whole)
    told = [(outcome(job)["continued_from"], outcome(job)["resumed_from"]) for job in (longer, killed, anew)]
    assert told == [(8, 8), (8, 8), (None, 4)]
    assert [outcome(job)["begun_anew"] for job in (longer, killed)] == ["", ""]
    assert outcome(anew)["begun_anew"] == f"{save} is gone or damaged"
    assert min(row["step"] for row in metrics(longer) if "train_loss" in row) == 9
    assert any("begins anew" in str(row.get("note")) for row in metrics(anew))
    same = ("trained_tokens", "padded_tokens", "rows_seen_share", "weights", "adapter_hash", "iters")
    assert {key: outcome(longer)[key] for key in same} == {key: outcome(whole)[key] for key in same}


GRADER = """
def grade(case, text):
    return {"plain": float("x" not in text), "x": float("x" in text)}
"""


def test_a_run_that_loses_what_its_start_could_do_says_so_while_it_trains_and_learns_the_same_bytes(
    tmp_path: Path, model: Path, train: Path
) -> None:
    (tmp_path / "grade.py").write_text(GRADER)
    cases = write_lines(tmp_path / "cases.jsonl", [{"id": f"c{n}", "prompt": "abcdefgh"[: 1 + n]} for n in range(8)])
    look: dict[str, Any] = {
        "cases": {"name": "s", "use": "selection", "file": str(cases), "case_ids": None},
        "max_tokens": 6,
        "first": 9,
        "grader": {"file": str(tmp_path / "grade.py"), "timeout_s": 10.0},
    }
    often: dict[str, Any] = {"iters": 24, "steps_per_eval": 8, "save_every": 8, "learning_rate": 0.05}
    often |= {"lora_parameters": {"rank": 8, "scale": 4.0, "dropout": 0.0}}
    asked = {"plain": {"plain": 1}, "x": {"x": 1}, "killed": {"plain": 1}}
    jobs = {
        name: training_job(tmp_path / name, model, train, recipe=often, look=look | {"metrics": metrics})
        for name, metrics in asked.items()
    }
    jobs["unseen"] = training_job(tmp_path / "unseen", model, train, recipe=often)
    step = {"job": str(jobs["killed"]), "signal": "SIGKILL", "at_step": 19}
    assert run("tests.tools.training.driver", json.dumps([step])).returncode == -signal.SIGKILL
    assert drive(*({"job": job} for job in jobs.values())) == [0, 0, 0, 0]
    assert len({adapter_bytes(job) for job in jobs.values()}) == 1
    seen = {
        name: [(row["step"], row["interim_lost"]) for row in metrics(job) if "interim_lost" in row]
        for name, job in jobs.items()
    }
    assert seen["plain"] == [(16, 1.0), (24, 1.0)], "every answer has an x by then, and none had"
    assert seen["x"] == [(16, 0.0), (24, 0.0)], "what it gains is no loss"
    assert seen["killed"] == seen["plain"], "the start is known after a restart too"
    assert seen["unseen"] == []


def test_every_row_is_seen_and_the_whole_validation_set_is_measured(tmp_path: Path, model: Path, train: Path) -> None:
    job = training_job(tmp_path / "job", model, train, valid=str(train), recipe={"iters": 4, "steps_per_eval": 2})
    found = work(job)
    assert found["rows_seen_share"] == 1.0, "11 rows in batches of 3: four steps"
    assert [row["step"] for row in metrics(job) if "val_loss" in row] == [0, 2, 4]
    assert 0 <= found["padding_share"] < 1
    assert found["padded_tokens"] > found["trained_tokens"] > 0
    assert 0 < found["steps_s"] <= found["wall_s"]
    assert found["wall_s"] - found["steps_s"] < found["startup_s"], "the interpreter's start and one step belong to it"


def test_a_data_set_smaller_than_a_batch_trains(tmp_path: Path, model: Path) -> None:
    few = write_lines(tmp_path / "few.jsonl", rows(2))
    found = work(training_job(tmp_path / "job", model, few, recipe={"batch_size": 8, "iters": 2}))
    assert found["rows_seen_share"] == 1.0


def test_stock_mlx_lm_opens_the_adapter(tmp_path: Path, model: Path, whole: Path) -> None:
    common = ["--model", str(model), "--adapter-path", str(whole / "out" / "adapter")]
    done = run("mlx_lm", "generate", *common, "--prompt", "abc", "--max-tokens", "3")
    assert done.returncode == 0, done.stderr
    fused = tmp_path / "fused"
    done = run("mlx_lm", "fuse", *common, "--save-path", str(fused))
    assert done.returncode == 0, done.stderr
    assert_same_logits(model, whole / "out" / "adapter", fused)


def test_a_child_continues_from_its_parents_weights_and_refuses_another_shape(
    tmp_path: Path, model: Path, train: Path
) -> None:
    parent = training_job(tmp_path / "parent", model, train)
    adapter = parent / "out" / "adapter"
    child = training_job(tmp_path / "child", model, train, parent_adapter=adapter, recipe={"learning_rate": 1e-12})
    wider = {"num_layers": 1, "lora_parameters": {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": ["mlp.up_proj"]}}
    other = training_job(tmp_path / "other", model, train, parent_adapter=adapter, recipe=wider)
    # All layers by another spelling: the same adapter.
    same = training_job(tmp_path / "same", model, train, parent_adapter=adapter, recipe={"num_layers": 16})
    assert drive(*({"job": job} for job in (parent, child, other, same))) == [0, 0, 2, 0]
    ours, theirs, later = (load_file(job / "out/adapter/adapters.safetensors") for job in (child, parent, same))
    assert all(np.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)
    assert not all(np.allclose(later[name], theirs[name], atol=1e-3) for name in theirs), "and trains on from there"
    begun = [next(row["train_loss"] for row in metrics(job) if "train_loss" in row) for job in (same, parent)]
    assert begun[0] < begun[1] - 0.5
    assert outcome(child)["parent_weights"] == outcome(parent)["weights"]
    changes = "num_layers all -> 1, lora_parameters.rank 2 -> 4, lora_parameters.keys all -> ['mlp.up_proj']"
    assert f"but the recipe changes {changes}; keep the parent's values, or " in outcome(other)["sentence"]


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_child_in_half_precision_still_learns_by_small_steps(
    tmp_path: Path, model: Path, train: Path, kind: str
) -> None:
    # A step of 1e-6 is less than half precision can tell beside the factors' size.
    plain: dict[str, Any] = {"fine_tune_type": kind, "iters": 1}
    parent = training_job(tmp_path / "parent", model, train, recipe=plain | {"iters": 4})
    adapter = parent / "out" / "adapter"
    small = plain | {"learning_rate": 1e-6, "optimizer": "adam"}
    child = training_job(tmp_path / "child", model, train, parent_adapter=adapter, dtype="bfloat16", recipe=small)
    assert drive({"job": parent}, {"job": child}) == [0, 0]
    before, after = (load_file(job / "out/adapter/adapters.safetensors") for job in (parent, child))
    for name, value in before.items():
        moved = np.abs(after[name] - value)
        assert value.dtype == after[name].dtype == np.float32, name
        assert 0 < moved.max() < 2e-6, name


def test_what_cannot_be_trained_is_refused_in_one_sentence_and_not_tried_again(
    tmp_path: Path, model: Path, train: Path
) -> None:
    long = write_lines(tmp_path / "long.jsonl", [*rows(2), {"prompt": "a", "completion": "b" * 80}])
    wide = write_lines(tmp_path / "wide.jsonl", [*rows(1), {"prompt": "a" * 70, "completion": "b"}])
    refused: list[tuple[Path, dict[str, Any], str]] = [
        (train, {"expect_weights": "0" * 64}, "but 000000000000 were to be trained on: the folder changed since"),
        (wide, {}, f"{wide}:2: nothing is left to learn, the prompt alone has 73 tokens of max_seq_length 64; "),
        (long, {}, f"{long}:3: the row has 85 tokens and recipe.max_seq_length is 64; "),
        (train, {"recipe": {"itres": 3}}, "did you mean `iters`"),
    ]
    jobs = [training_job(tmp_path / f"job{n}", model, data, **more) for n, (data, more, _) in enumerate(refused)]
    cut = training_job(tmp_path / "cut", model, long, recipe={"truncate": True})
    assert drive(*({"job": job} for job in (*jobs, cut))) == [2, 2, 2, 2, 0]
    for job, (_, _, said) in zip(jobs, refused, strict=True):
        assert said in outcome(job)["sentence"]
        assert "\n" not in outcome(job)["sentence"]
        assert not (job / "result.json").exists()


def test_our_fuse_gives_the_logits_of_base_and_adapter_and_refuses_a_folder_in_use(
    tmp_path: Path, model: Path, train: Path, whole: Path
) -> None:
    adapter, weights = whole / "out" / "adapter", outcome(whole)["weights"]
    fuse = training_job(tmp_path / "fuse", model, train, adapter=adapter, expect_weights=weights)
    again = training_job(tmp_path / "again", model, train, adapter=adapter)
    (again / "out" / "fused").mkdir(parents=True)
    (again / "out" / "fused" / "model.safetensors").write_bytes(b"old")
    assert drive(*({"job": job, "module": "tools.training.fuse"} for job in (fuse, again))) == [0, 2]
    assert outcome(fuse)["fused_from"] == weights
    assert "empty" in outcome(again)["sentence"]
    assert_same_logits(model, adapter, fuse / "out" / "fused")
