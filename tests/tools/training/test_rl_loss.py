"""Losses over rollouts and their gradients, against the formulas in float64 on a model written by hand."""

from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.tools.evaluation.worlds import make_model
from tests.tools.training.jobs import run
from tests.tools.training.numpy_llama import CLOSE, Llama, assert_is_slope

pytestmark = pytest.mark.mlx

# As in the child process, which cannot be imported here: it needs MLX.
KINDS = {
    "grpo": ("grpo", 1.0, False),
    "bnpo": ("bnpo", 0.7, False),
    "dr_grpo": ("dr_grpo", 1.4, False),
    "once": ("dr_grpo", 0.7, True),
}
BETA, LOW, HIGH, MOST_TOKENS = 0.3, 0.8, 1.3, 24
ROWS: list[tuple[list[int], int]] = [
    ([3, 17, 29, 40, 51, 62, 1], 4),
    ([3, 17, 29, 40, 73, 1], 4),
    ([3, 8, 9, *range(30, 50), *range(90, 104), 1], 23),
    ([3, 99, 120, 121, 122, 123, 124], 2),
]
ADVANTAGES = [1.2, -0.7, 0.4, -1.6]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("rollouts")
    model = make_model(folder / "model")
    done = run("tests.tools.training.inside_rollouts", str(model), str(folder))
    assert done.returncode == 0, done.stderr
    return {name: value.astype(np.float64) for name, value in load_file(folder / "found.safetensors").items()}


@pytest.fixture(scope="module")
def llama(found: dict[str, Any]) -> Llama:
    stem = "weights."
    return Llama({name.removeprefix(stem): value for name, value in found.items() if name.startswith(stem)}, 2.0)


def scores_of(llama: Llama, row: int, temperature: float) -> tuple[Any, Any]:
    """Return log-probabilities and entropies of a row's sampled tokens."""
    tokens, start = ROWS[row]
    logits = llama.logits(tokens)[start - 1 :] / temperature
    logps = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    logps -= logits.max(-1, keepdims=True)
    entropy = -(np.exp(logps) * logps).sum(-1)
    return logps[np.arange(len(logits)), tokens[start:]], entropy


def by_hand(llama: Llama, found: dict[str, Any], name: str, fixed: Llama | None = None) -> tuple[float, list[Any]]:
    """Return the summed loss and the figures row by row, in the order of their columns.

    Args:
        llama: The policy.
        found: What the child process wrote.
        name: Of the kind.
        fixed: The policy that sampled, where rollouts serve one update.
    """
    kind, temperature, is_once = KINDS[name]
    total, figures = 0.0, []
    for row in range(len(ROWS)):
        place = found["mask"][row] == 1
        logps, entropy = scores_of(llama, row, temperature)
        told = found[f"{name}.old"][row, place]
        old = scores_of(fixed or llama, row, temperature)[0] if is_once else told
        ratio = np.exp(logps - old)
        gain = ADVANTAGES[row]
        earned = np.minimum(ratio * gain, np.clip(ratio, LOW, HIGH) * gain)
        away = found[f"{name}.parent"][row, place] - logps
        kl = np.exp(away) - away - 1
        cost = BETA * kl - earned
        size = {"grpo": len(cost), "bnpo": 1, "dr_grpo": MOST_TOKENS}[kind]
        total += cost.sum() / size
        clipped = (ratio < LOW) if gain < 0 else (ratio > HIGH)
        off = np.square(np.exp(logps - told) - 1)
        figures.append([kl.sum(), entropy.sum(), clipped.sum(), off.sum(), len(cost), logps.sum()])
    return float(total), figures


@pytest.mark.parametrize("name", KINDS)
def test_the_loss_and_what_is_reported_are_the_papers_formula(llama: Llama, found: dict[str, Any], name: str) -> None:
    loss, figures = by_hand(llama, found, name)
    assert float(found[f"{name}.loss"]) == pytest.approx(loss, rel=CLOSE)
    assert found[f"{name}.figures"] == pytest.approx(np.array(figures), rel=CLOSE, abs=CLOSE)
    clipped = found[f"{name}.figures"][:, 2].sum()
    assert clipped == 0 if name == "once" else clipped > 2, "or clipping is not looked at"


@pytest.mark.parametrize("name", KINDS)
def test_the_gradient_is_the_slope_of_the_papers_formula(llama: Llama, found: dict[str, Any], name: str) -> None:
    assert_is_slope(lambda moved: by_hand(moved, found, name, llama)[0], llama, found, name)


@pytest.mark.parametrize("name", KINDS)
def test_the_parents_view_is_that_of_the_model_without_its_adapter(found: dict[str, Any], name: str) -> None:
    learned = found["mask"] == 1
    assert found[f"{name}.parent"][learned] == pytest.approx(found[f"{name}.plain"][learned], abs=1e-6)
