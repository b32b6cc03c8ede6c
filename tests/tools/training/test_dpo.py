"""Runs over pairs: bytes after a resume, every kind of adapter and base, the parent as reference, and mode 14."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.tools.evaluation.worlds import make_model, write_lines
from tests.tools.training.jobs import adapter_bytes, drive, metrics, outcome, run, training_job
from tests.tools.training.tiny import cases, preferences, supervise, tables

pytestmark = pytest.mark.mlx

RECIPE: dict[str, Any] = {"iters": 8, "save_every": 2, "batch_size": 2, "beta": 0.2}
DROPOUT = {"rank": 2, "scale": 2.0, "dropout": 0.3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dpo")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return make_model(folder / "model")


@pytest.fixture(scope="module")
def pairs(folder: Path) -> Path:
    rows = [
        {"prompt": "abcdefgh"[: 1 + n % 8], "chosen": "xyz" * (1 + n * 5 % 6), "rejected": "zq" * (1 + n * 7 % 8)}
        for n in range(11)
    ]
    return write_lines(folder / "pairs.jsonl", rows)


def dpo_job(folder: Path, model: Path, pairs: Path, recipe: dict[str, Any], **inputs: Any) -> Path:
    data = {"pairs": str(pairs), "valid_pairs": inputs.pop("valid_pairs", None)}
    return training_job(folder, model, pairs, data=data, recipe=RECIPE | recipe, instrument="dpo", **inputs)


VARIANTS: dict[str, dict[str, Any]] = {
    "accumulated": {"grad_accumulation_steps": 2, "lora_parameters": DROPOUT, "optimizer": "adam"},
    "ipo": {"loss_type": "ipo", "lora_parameters": DROPOUT},
    "hinge": {"loss_type": "hinge"},
    "dora": {"fine_tune_type": "dora", "label_smoothing": 0.1},
    "full": {"fine_tune_type": "full", "num_layers": 1, "learning_rate": 0.001},
}


def test_a_run_over_pairs_that_goes_on_from_another_gives_the_bytes_of_the_whole(
    tmp_path: Path, model: Path, pairs: Path
) -> None:
    changes = VARIANTS["accumulated"]
    whole = dpo_job(tmp_path / "whole", model, pairs, changes)
    short = dpo_job(tmp_path / "short", model, pairs, changes | {"iters": 4})
    save = short / "out" / "saves" / "0000004"
    longer = dpo_job(tmp_path / "longer", model, pairs, changes, continue_from=save)
    assert drive({"job": whole}, {"job": short}, {"job": longer}) == [0, 0, 0]
    assert adapter_bytes(longer) == adapter_bytes(whole)
    assert outcome(longer)["continued_from"] == 4


def test_every_loss_and_kind_of_adapter_resumes_to_the_same_bytes(folder: Path, model: Path, pairs: Path) -> None:
    jobs = {
        name: [dpo_job(folder / f"{name}{n}", model, pairs, changes) for n in range(2)]
        for name, changes in VARIANTS.items()
    }
    steps = [({"job": whole}, {"job": stopped, "at_step": 5}) for whole, stopped in jobs.values()]
    assert drive(*(step for pair in steps for step in pair)) == [0, 75] * len(jobs)
    # Without its reference a resumed run computes it again: of the parent, not of what it has become.
    for path in jobs["dora"][1].glob("out/reference/*"):
        path.unlink()
    assert drive(*({"job": stopped} for _, stopped in jobs.values())) == [0] * len(jobs)
    for name, (whole, stopped) in jobs.items():
        assert outcome(stopped)["resumed_from"] in {5, 6}, name
        assert adapter_bytes(stopped) == adapter_bytes(whole), name
        assert outcome(whole)["rows_seen_share"] == 1.0, name
        first = next(row for row in metrics(whole) if "train_loss" in row)
        start = {"ipo": (1 / 0.4) ** 2, "hinge": 1.0}.get(name, np.log(2))
        assert first["train_loss"] == pytest.approx(start, rel=1e-4), "policy and reference are the same at first"
        assert abs(first["margin"]) < 1e-4
        assert metrics(whole)[-1]["margin"] > first["margin"] + 0.01, name


def test_metrics_and_result_tell_accuracy_margins_rewards_and_lengths(folder: Path, model: Path, pairs: Path) -> None:
    job = dpo_job(folder / "told", model, pairs, {"iters": 30, "steps_per_eval": 10}, valid_pairs=str(pairs))
    assert drive({"job": job}) == [0]
    last = [row for row in metrics(job) if "train_loss" in row][-1]
    assert last["margin"] == pytest.approx(last["chosen_reward"] - last["rejected_reward"], abs=1e-6)
    checked = [row for row in metrics(job) if "val_loss" in row]
    assert [row["step"] for row in checked] == [0, 10, 20, 30]
    assert checked[0]["val_loss"] == pytest.approx(np.log(2), rel=1e-5)
    assert checked[-1]["val_loss"] < 0.5
    assert checked[-1]["val_accuracy"] > 0.8
    assert checked[-1]["val_accuracy"] * 11 == pytest.approx(round(checked[-1]["val_accuracy"] * 11)), "of 11 pairs"
    found = outcome(job)
    assert (found["rows"], found["truncated_rows"]) == (11, 0)
    assert (found["chosen_length"]["min"], found["chosen_length"]["max"]) == (4, 19)
    assert 0 < found["chosen_longer_share"] < 1
    assert 0 <= found["padding_share"] < 0.5


def test_a_child_of_an_adapter_is_held_to_that_parent_and_not_to_the_base(
    folder: Path, model: Path, pairs: Path
) -> None:
    parent = dpo_job(folder / "parent", model, pairs, {"iters": 12})
    adapter = parent / "out" / "adapter"
    child = dpo_job(folder / "child", model, pairs, {"iters": 2}, parent_adapter=adapter)
    assert drive({"job": parent}, {"job": child}) == [0, 0]
    first = next(row for row in metrics(child) if "train_loss" in row)
    assert first["train_loss"] == pytest.approx(np.log(2), rel=1e-5), "the base as reference would give less"
    assert outcome(child)["parent_weights"] == outcome(parent)["weights"]
    of_base, of_parent = (load_file(next(job.glob("out/reference/*")))["reference"] for job in (parent, child))
    assert np.abs(of_base - of_parent).max() > 1.0


def test_checkpointed_gradients_and_a_shared_cache_train_the_same_weights(
    folder: Path, model: Path, pairs: Path
) -> None:
    cache = folder / "cache"
    plain, checkpointed = (
        dpo_job(folder / f"same{n}", model, pairs, {"iters": 4, "grad_checkpoint": bool(n)}, reference_cache=cache)
        for n in range(2)
    )
    assert drive({"job": plain}, {"job": checkpointed}) == [0, 0]
    one, two = (load_file(job / "out" / "adapter" / "adapters.safetensors") for job in (plain, checkpointed))
    for name, value in one.items():
        assert np.allclose(value, two[name], rtol=1e-3, atol=1e-5), name
    assert sum("reference_pairs" in row for row in metrics(plain)) == 6, "eleven pairs, two at a time"
    assert not any("reference_pairs" in row for row in metrics(checkpointed))


def test_a_stop_while_the_reference_is_computed_leaves_nothing_half_done(
    folder: Path, model: Path, pairs: Path
) -> None:
    job = dpo_job(folder / "at_start", model, pairs, {"iters": 2})
    assert drive({"job": job, "at_start": True}) == [75]
    assert [row["reference_pairs"] for row in metrics(job) if "reference_pairs" in row] == [2]
    assert not list(job.glob("out/reference/*"))
    assert drive({"job": job}) == [0]


def test_a_quantized_base_trains_and_stock_mlx_lm_opens_the_adapter(folder: Path, model: Path, pairs: Path) -> None:
    small = folder / "quantized"
    done = run("tests.tools.training.compare", "quantize", str(model), str(small))
    assert done.returncode == 0, done.stderr
    job = dpo_job(folder / "four_bits", small, pairs, {})
    assert drive({"job": job}) == [0]
    assert metrics(job)[-1]["margin"] > 0.01
    common = ["--model", str(small), "--adapter-path", str(job / "out" / "adapter")]
    done = run("mlx_lm", "generate", *common, "--prompt", "abc", "--max-tokens", "3")
    assert done.returncode == 0, done.stderr


def test_pairs_that_cannot_be_learned_from_are_refused_by_their_line(folder: Path, model: Path, pairs: Path) -> None:
    long = write_lines(
        folder / "long.jsonl",
        [json.loads(pairs.read_text().splitlines()[0]), {"prompt": "a", "chosen": "b" * 80, "rejected": "c"}],
    )
    other = write_lines(folder / "other.jsonl", [{"prompt": "a", "completion": "b"}])
    jobs = [
        dpo_job(folder / "refused0", model, long, {}),
        dpo_job(folder / "refused1", model, other, {}),
        dpo_job(folder / "refused2", model, pairs, {"lambda": 1}),
        dpo_job(folder / "cut", model, long, {"truncate": True, "iters": 1}),
    ]
    assert drive(*({"job": job} for job in jobs)) == [2, 2, 2, 0]
    said = [outcome(job)["sentence"] for job in jobs[:3]]
    assert said[0].startswith(f"{long}:2: the chosen side has 85 tokens and recipe.max_seq_length is 64")
    assert said[1].startswith(f"{other}:1: `chosen` is missing")
    assert said[2].startswith("`recipe.lambda` is no key of a recipe")
    assert outcome(jobs[3])["truncated_rows"] == 1


def test_without_sample_prompts_a_loss_that_collapses_early_is_told_once_but_nothing_is_known_of_generation(
    folder: Path, model: Path, pairs: Path
) -> None:
    quick, slow = (
        dpo_job(folder / f"early{n}", model, pairs, {"iters": 60, "learning_rate": rate, "beta": 1.0})
        for n, rate in enumerate((0.03, 0.0001))
    )
    assert drive({"job": quick}, {"job": slow}) == [0, 0]
    (row,) = (row for row in metrics(quick) if "loss_collapsed" in row)
    assert row["step"] <= 12, "a fifth of the steps"
    assert "early_moved" not in row
    assert not any("loss_collapsed" in row for row in metrics(slow))


def carriage_returns(answer: str) -> str:
    return answer.replace("\n", "\r\n")


def early_end(answer: str) -> str:
    lines = answer.split("\n")
    return "\n".join(lines[: len(lines) * 7 // 10])


def test_pairs_told_apart_by_line_ends_are_learned_at_once_and_the_run_is_stopped_early(folder: Path) -> None:
    ended = supervise(
        folder / "separable",
        preferences(folder / "crlf.jsonl", tables(24, 200, 330), carriage_returns),
        {"prompts": cases("regular", 6), "max_tokens": 250},
        save_every=50,
        iters=400,
        learning_rate=1e-3,
        beta=0.1,
    )
    assert (ended.state, ended.by, ended.verdict) == ("stopped", "guard", "loss_collapsed")
    reports = [row for row in metrics(folder / "separable") if "train_loss" in row]
    early = next(row for row in metrics(folder / "separable") if "loss_collapsed" in row)
    assert reports[0]["train_loss"] == pytest.approx(np.log(2), rel=1e-4)
    at = next(row for row in reports if row["step"] == early["step"])
    assert (at["train_loss"] < 0.01, at["accuracy"]) == (True, 1.0)
    assert early["early_moved"] < 0.5
    assert early["step"] < 40
    assert reports[-1]["step"] < 100, "of 400"


def test_pairs_that_show_longer_answers_change_generation_and_no_guard_fires(folder: Path) -> None:
    ended = supervise(
        folder / "teaching",
        preferences(folder / "ends.jsonl", tables(6, 400, 520), early_end),
        {"prompts": cases("stress", 2), "max_tokens": 320},
        save_every=8,
        iters=8,
        learning_rate=1e-3,
        beta=0.1,
    )
    assert (ended.state, ended.verdict, ended.guard) == ("finished", "", None)
    reports = [row for row in metrics(folder / "teaching") if "train_loss" in row]
    assert reports[-1]["train_loss"] < 0.9 * reports[0]["train_loss"]
    last = next(row for row in metrics(folder / "teaching") if "sample_moved" in row)
    assert (last["sample_moved"], last["sample_collapsed"]) == (1.0, 0.0)
    assert last["sample_tokens_change"] > 0
