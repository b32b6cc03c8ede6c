"""Losses over pairs, their gradients and the reference, against the formulas in float64 on a model written by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.tools.evaluation.worlds import make_model
from tests.tools.training.jobs import run
from tests.tools.training.numpy_llama import CLOSE, Llama, answer_logp, assert_is_slope, preference_loss

pytestmark = pytest.mark.mlx

# As in the child process, which cannot be imported here: it needs MLX.
KINDS = {
    "sigmoid": (0.1, "sigmoid", 0.0),
    "smoothed": (0.5, "sigmoid", 0.2),
    "ipo": (0.3, "ipo", 0.0),
    "hinge": (0.05, "hinge", 0.0),
}
PAIRS: list[Any] = [
    (([3, 17, 29, 40, 51, 62, 1], 4), ([3, 17, 29, 40, 73, 1], 4)),
    (([3, 8, 9, 10, 1], 3), ([3, 8, 9, *range(90, 104), 1], 3)),
    (([3, 99, 120, 121, 122, 123, 1], 2), ([3, 99, 122, 121, 120, 1], 2)),
]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preference")
    model = make_model(folder / "model")
    done = run("tests.tools.training.inside_pairs", str(model), str(folder))
    assert done.returncode == 0, done.stderr
    (folder / "rows.json").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def found(out: Path) -> dict[str, Any]:
    return {name: value.astype(np.float64) for name, value in load_file(out / "found.safetensors").items()}


@pytest.fixture(scope="module")
def llama(found: dict[str, Any]) -> Llama:
    stem = "weights."
    return Llama({name.removeprefix(stem): value for name, value in found.items() if name.startswith(stem)}, 2.0)


def loss_of(llama: Llama, found: dict[str, Any], name: str) -> float:
    beta, kind, smoothing = KINDS[name]
    return preference_loss(llama, PAIRS, found["reference"], beta=beta, kind=kind, smoothing=smoothing)


@pytest.mark.parametrize("name", KINDS)
def test_the_loss_is_the_papers_formula(llama: Llama, found: dict[str, Any], name: str) -> None:
    assert float(found[f"{name}.loss"]) == pytest.approx(loss_of(llama, found, name), rel=CLOSE)


@pytest.mark.parametrize("name", KINDS)
def test_the_gradient_is_the_slope_of_the_papers_formula(llama: Llama, found: dict[str, Any], name: str) -> None:
    assert_is_slope(lambda moved: loss_of(moved, found, name), llama, found, name)


def test_rewards_log_probabilities_and_lengths_are_those_of_each_pair(llama: Llama, found: dict[str, Any]) -> None:
    for place, (chosen, rejected) in enumerate(PAIRS):
        row = found["sigmoid.figures"][place]
        logps = [answer_logp(llama, chosen), answer_logp(llama, rejected)]
        assert row[2:4] == pytest.approx(logps, rel=CLOSE)
        assert row[:2] == pytest.approx(0.1 * (np.array(logps) - found["reference"][place]), abs=1e-4)
        assert row[4:].tolist() == [len(chosen[0]) - chosen[1], len(rejected[0]) - rejected[1]]


def test_the_reference_is_the_parent_computed_once_and_equals_adapters_switched_off(
    llama: Llama, found: dict[str, Any], out: Path
) -> None:
    plain = replace(llama, scale=0.0)
    by_hand = [[answer_logp(plain, side) for side in pair] for pair in PAIRS]
    assert found["reference"] == pytest.approx(np.array(by_hand), rel=CLOSE)
    assert found["off"] == pytest.approx(found["reference"], rel=1e-6), "for LoRA on the base the two ways agree"
    assert found["dora"] == pytest.approx(found["reference"], rel=CLOSE), "an untrained DoRA is the base"
    assert np.array_equal(found["again"], found["reference"])
    passes = [row["reference_pairs"] for row in json.loads((out / "rows.json").read_text())]
    assert passes == [2, 3, 3], "the second call read the file"
