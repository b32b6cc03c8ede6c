import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tools.evaluation.worlds import make_model, write_lines
from tests.tools.training.jobs import RECIPE, drive, metrics, outcome, rows, training_job
from tests.tools.training.rl import rollout_job
from tools.training.pace import STEPS

pytestmark = pytest.mark.mlx

PACE = "tools.training.pace"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("pace") / "model")


def demonstrations(folder: Path, model: Path, **recipe: Any) -> Path:
    train = write_lines(folder / "train.jsonl", rows(40))
    return training_job(folder / "job", model, train, recipe=recipe)


def pairs(folder: Path, model: Path) -> Path:
    found = [{"prompt": "abc", "chosen": "xyz" * (1 + n % 5), "rejected": "zq" * (1 + n % 7)} for n in range(20)]
    data = {"pairs": str(write_lines(folder / "pairs.jsonl", found)), "valid_pairs": None}
    return training_job(folder / "job", model, folder / "pairs.jsonl", data=data, instrument="dpo")


def rollouts(folder: Path, model: Path) -> Path:
    return rollout_job(folder / "job", model, {"iters": 50})


@pytest.mark.parametrize("job", [demonstrations, pairs, rollouts])
def test_a_few_steps_of_each_instrument_are_timed_and_nothing_is_kept(
    tmp_path: Path, model: Path, job: Callable[[Path, Path], Path]
) -> None:
    folder = job(tmp_path, model)
    assert drive({"job": folder, "module": PACE}) == [0]
    found = outcome(folder)
    assert found["iters"] == STEPS - 1, "the first step makes kernels and does not count"
    assert 0 < found["steps_s"] < found["wall_s"]
    assert found["padded_tokens"] > 0
    assert (found["signal"]["groups_that_differ"] > 0) if job is rollouts else ("signal" not in found)
    assert not list((folder / "out").rglob("adapters.safetensors"))
    [again] = drive({"job": folder, "module": PACE})
    assert (again, outcome(folder)["iters"]) == (0, STEPS - 1), "a second start times as many"


def test_one_batch_from_the_shortest_to_the_longest_rows_is_trained_on(tmp_path: Path, model: Path) -> None:
    job = demonstrations(tmp_path, model, batch_size=5, lr_schedule={"name": "cosine_decay", "arguments": [0.01, 50]})
    assert drive({"job": job, "module": PACE}) == [0]
    taken = [json.loads(line) for line in (job / "out" / "batch.jsonl").read_text().splitlines()]
    lengths = sorted(len(json.dumps(row)) for row in rows(40))
    assert [len(json.dumps(row)) for row in taken][:: len(taken) - 1] == [lengths[0], lengths[-1]]
    assert len(taken) == 5
    assert [row["step"] for row in metrics(job) if "train_loss" in row] == [1, 2, 3, 4]


def test_of_private_rows_no_copy_is_left(tmp_path: Path, model: Path) -> None:
    train = write_lines(tmp_path / "train.jsonl", rows(10))
    job = training_job(tmp_path / "job", model, train, privacy="redact")
    assert drive({"job": job, "module": PACE}) == [0]
    assert outcome(job)["iters"] == STEPS - 1
    assert not (job / "out" / "batch.jsonl").exists()


def test_what_cannot_be_trained_is_refused_in_the_trainers_words(tmp_path: Path, model: Path) -> None:
    train = write_lines(tmp_path / "train.jsonl", rows(10, longest=300))
    job = training_job(tmp_path / "job", model, train, recipe={"batch_size": 10})
    drive({"job": job, "module": PACE})
    assert "max_seq_length" in outcome(job)["sentence"]


def test_a_loss_that_is_not_finite_times_nothing(tmp_path: Path, model: Path) -> None:
    job = demonstrations(tmp_path, model, learning_rate=1e38)
    drive({"job": job, "module": PACE})
    assert outcome(job)["sentence"].startswith("The loss was not finite")


def test_the_sample_is_as_large_as_the_batch_even_of_few_rows(tmp_path: Path, model: Path) -> None:
    train = write_lines(tmp_path / "train.jsonl", rows(2))
    job = training_job(tmp_path / "job", model, train, recipe={"batch_size": RECIPE["batch_size"]})
    assert drive({"job": job, "module": PACE}) == [0]
    assert len((job / "out" / "batch.jsonl").read_text().splitlines()) == RECIPE["batch_size"]


def test_rollouts_whose_rewards_never_differ_are_told_so_and_no_step_is_timed(tmp_path: Path, model: Path) -> None:
    equal = 'def grade(case, text):\n    return {"honest": 0.5, "long": len(text)}\n'
    job = rollout_job(tmp_path / "job", model, {"iters": 50}, grader_source=equal)
    assert drive({"job": job, "module": PACE}) == [0]
    found = outcome(job)
    signal = found["signal"]
    assert "steps_s" not in found
    assert (signal["prompts"], signal["samples"], signal["answers"]) == (5, 4, 20), "no more cases than there are"
    assert (signal["groups_that_differ"], signal["right"], signal["denser"]) == (0, 0, "long")
