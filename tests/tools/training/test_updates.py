"""What one update does to the weights: its size, its clipping, and that it is the same however its rows are batched."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.tools.evaluation.worlds import make_model, write_lines
from tests.tools.training.jobs import drive, metrics, rows, training_job

pytestmark = pytest.mark.mlx

RATE = 0.5
PLAIN: dict[str, Any] = {"iters": 1, "batch_size": 6, "optimizer": "sgd", "learning_rate": RATE, "max_grad_norm": None}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"batch_size": 2, "grad_accumulation_steps": 3, "iters": 3},
    "twice": {"batch_size": 12},
    "clipped": {"max_grad_norm": 0.01},
    "wide": {"max_grad_norm": 1000.0},
}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("updates")
    model = make_model(folder / "model")
    data = rows(6, 20)
    once, twice = write_lines(folder / "once.jsonl", data), write_lines(folder / "twice.jsonl", data * 2)
    found = {
        name: training_job(folder / name, model, twice if name == "twice" else once, recipe=PLAIN | changes)
        for name, changes in VARIANTS.items()
    }
    assert drive(*({"job": job} for job in found.values())) == [0] * len(found)
    return found


def moved(job: Path) -> dict[str, Any]:
    """Return how far one update of a fresh adapter went: its second factors began at zero, its first stay."""
    found = load_file(job / "out" / "adapter" / "adapters.safetensors")
    return {name: value.astype(np.float64) for name, value in found.items() if name.endswith("lora_b")}


def length(job: Path) -> float:
    return float(np.sqrt(sum((part**2).sum() for part in moved(job).values())))


@pytest.mark.parametrize("name", ["accumulated", "twice"])
def test_an_update_is_the_mean_over_its_tokens_however_they_are_batched(jobs: dict[str, Path], name: str) -> None:
    one, other = moved(jobs["plain"]), moved(jobs[name])
    assert length(jobs["plain"]) > 0.1
    assert all(np.allclose(one[key], other[key], rtol=1e-4, atol=1e-6) for key in one)


def test_a_gradient_is_clipped_to_its_bound_and_told_as_it_was(jobs: dict[str, Path]) -> None:
    norms = {name: metrics(jobs[name])[-1]["grad_norm"] for name in ("plain", "clipped", "wide")}
    assert norms["plain"] > 0.1
    assert norms["clipped"] == norms["wide"] == pytest.approx(norms["plain"], rel=1e-6)
    assert length(jobs["plain"]) == pytest.approx(RATE * norms["plain"], rel=1e-4)
    assert length(jobs["wide"]) == pytest.approx(RATE * norms["plain"], rel=1e-4)
    assert length(jobs["clipped"]) == pytest.approx(RATE * 0.01, rel=1e-3)
