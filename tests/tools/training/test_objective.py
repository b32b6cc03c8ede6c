import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.tools.evaluation.worlds import make_model
from tests.tools.training.jobs import run
from tools.training.recipe import OPTIMIZERS, SCHEDULES

pytestmark = pytest.mark.mlx


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    model = make_model(tmp_path_factory.mktemp("objective") / "model")
    done = run("tests.tools.training.inside", str(model))
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


@pytest.mark.parametrize("batch", ["padded", "whole"])
def test_the_loss_is_the_formula_computed_by_hand_whatever_the_padding(found: dict[str, Any], batch: str) -> None:
    values = found["losses"][batch]
    assert values["ours"] == pytest.approx(values["by_hand"], rel=1e-6)
    assert values["parts"] == pytest.approx(values["by_hand"], rel=1e-6), "tokens weigh the same in any batch"
    assert values["is_training_after"]


def test_the_loss_is_that_of_stock_mlx_lm_but_for_the_position_after_the_end(found: dict[str, Any]) -> None:
    whole, padded = found["losses"]["whole"], found["losses"]["padded"]
    assert whole["stock"] == pytest.approx(whole["ours"], rel=1e-6)
    assert whole["stock_targets"] == whole["targets"]
    assert padded["stock_mended"] == pytest.approx(padded["ours"], rel=1e-6)
    # One more target for each of the two rows that padding follows.
    assert padded["stock_targets"] == padded["targets"] + 2
    assert not math.isclose(padded["stock"], padded["ours"], rel_tol=1e-3)


@pytest.mark.parametrize("batch", ["whole", "padded"])
def test_gradients_are_those_of_stock_mlx_lm_but_for_the_position_after_the_end(
    found: dict[str, Any], batch: str
) -> None:
    gradients = found["gradients"][batch]
    assert gradients["parameters"] == 28, "two layers, seven matrices each, two factors"
    assert gradients["names_differ"] == 0
    assert gradients["largest"] > 0.01
    assert gradients["difference"] < 1e-5 * gradients["largest"]


BATCHES = [f"{name} {learned}" for name in ("padded", "whole", "mixed") for learned in ("answers", "all")]


@pytest.mark.parametrize("batch", BATCHES)
def test_without_the_exact_mask_values_targets_and_gradients_are_those_of_stock_mlx_lm(
    found: dict[str, Any], batch: str
) -> None:
    values = found["exact_mask"]["off"][batch]
    assert values["targets"] == values["stock_targets"]
    assert values["ours"] == pytest.approx(values["stock"], rel=1e-5)
    gradients = values["gradients"]
    assert (gradients["parameters"], gradients["names_differ"]) == (28, 0)
    assert gradients["largest"] > 0.01
    assert gradients["difference"] < 1e-5 * gradients["largest"]


@pytest.mark.parametrize("batch", BATCHES)
def test_the_exact_mask_differs_from_stock_by_the_padding_it_does_not_learn_and_by_nothing_else(
    found: dict[str, Any], batch: str
) -> None:
    values, off = found["exact_mask"]["on"][batch], found["exact_mask"]["off"][batch]
    extra = values["followed_by_padding"]
    assert extra == {"padded": 3, "whole": 0, "mixed": 2}[batch.partition(" ")[0]], "a full row and a cut one have none"
    assert values["targets"] == values["stock_targets"] - extra == off["targets"] - extra
    is_stock = math.isclose(values["ours"], values["stock"], rel_tol=1e-5)
    has_its_gradient = values["gradients"]["difference"] < 1e-5 * values["gradients"]["largest"]
    assert is_stock == has_its_gradient == (not extra)


@pytest.mark.parametrize("way", ["plain", "checkpointed"])
def test_the_gradient_is_the_slope_of_the_loss_with_dropout(found: dict[str, Any], way: str) -> None:
    # mlx-lm's own checkpointing draws another dropout mask for the gradient than for the loss.
    values = found["checkpointing"]
    assert values[f"{way}_measured"] == pytest.approx(values[way], rel=0.02)


def test_the_recipe_knows_what_the_installed_optimizers_and_schedules_take(found: dict[str, Any]) -> None:
    for name, options in OPTIMIZERS.items():
        assert set(found["options"][name]) - {"learning_rate"} == options
    for name, arguments in SCHEDULES.items():
        assert tuple(found["options"][name]) == arguments


def test_first_updates_go_as_far_as_the_learning_rate_says(found: dict[str, Any]) -> None:
    steps = found["first_steps"]
    assert steps["adam"] == pytest.approx(0.1, rel=1e-4)
    assert steps["uncorrected"] == pytest.approx(0.316, rel=1e-2), "what stock does"
    assert steps["sgd"] == pytest.approx(0.1, rel=1e-4)
    assert steps["adafactor"] == pytest.approx(0.1, rel=1e-2), "stock ignores the recipe's learning rate"
    assert steps["scheduled"] == pytest.approx(0.02, rel=1e-4)


def test_what_only_the_model_or_mlx_can_refuse_is_refused_in_one_sentence(found: dict[str, Any]) -> None:
    keys, norm, eps, schedule, nesterov = found["refusals"]
    assert keys == (
        "`recipe.lora_parameters.keys` ['attention.query'] match no layer of the model; it has mlp.down_proj, "
        "mlp.gate_proj, mlp.up_proj, self_attn.k_proj, self_attn.o_proj, self_attn.q_proj, self_attn.v_proj."
    )
    assert norm.startswith("`recipe.lora_parameters.keys`: Can't convert layer of type RMSNorm to LoRA")
    assert "epsilon" in eps
    assert schedule.startswith("`recipe.optimizer_config` or `recipe.lr_schedule`: ")
    assert "momentum" in nesterov


def test_exactly_what_the_recipe_names_is_trained(found: dict[str, Any]) -> None:
    trained = found["trainable"]
    assert {name.split(".")[2] for name in trained["last layer"]} == {"1"}
    assert {name.rsplit(".", 1)[1] for name in trained["dora"]} == {"lora_a", "lora_b", "m"}
    assert len(trained["full"]) == 9
    assert not any("lora" in name for name in trained["full"])
    assert len(trained["keys"]) == 4
