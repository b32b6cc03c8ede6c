"""What is trained and by which optimizer, set up from a recipe; worker processes only."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten

from state.errors import ConfigError
from tools.training.recipe import Recipe

_BIAS_CORRECTED = frozenset({"adam", "adamw"})
_DRAWS = "_draws"


def prepare(model: Any, recipe: Recipe, parent_adapter: Path | None) -> None:
    """Make exactly the wanted parameters trainable.

    Args:
        model: As loaded; with a parent's adapter its layers are in place already.
        recipe: What to train.
        parent_adapter: Adapter folder that was loaded onto the model, whose weights are trained on.

    Raises:
        ConfigError: The recipe's keys match no layer of the model, or a layer that mlx-lm cannot adapt.
    """
    mx.random.seed(recipe.seed)
    model.freeze()
    if recipe.fine_tune_type == "full":
        for layer in _top_layers(model, recipe):
            layer.unfreeze()
    elif parent_adapter is None:
        _add_adapter(model, recipe)
    else:
        model.apply_to_modules(_unfreeze_adapter)
    if not tree_flatten(model.trainable_parameters()):
        raise _nothing_to_train(model, recipe)
    if recipe.grad_checkpoint:
        for layer in model.layers:
            vars(layer)[_DRAWS] = draws_while_checkpointing(recipe)
            _checkpoint_gradients(type(layer))
    model.train()


def _top_layers(model: Any, recipe: Recipe) -> list[Any]:
    return list(model.layers[-max(recipe.num_layers, 0) :])


def _add_adapter(model: Any, recipe: Recipe) -> None:
    from mlx_lm.tuner.utils import linear_to_lora_layers

    parameters = recipe.adapter_config()["lora_parameters"]
    try:
        linear_to_lora_layers(model, recipe.num_layers, parameters, use_dora=recipe.fine_tune_type == "dora")
    except ValueError as error:
        raise ConfigError(
            f"`recipe.lora_parameters.keys`: {error}.", what="recipe.lora_parameters.keys", value=parameters.get("keys")
        ) from error


def _nothing_to_train(model: Any, recipe: Recipe) -> ConfigError:
    from mlx import nn

    keys = recipe.lora_parameters.keys
    linear = (nn.Linear, nn.QuantizedLinear)
    known = sorted({name for layer in model.layers for name, part in layer.named_modules() if isinstance(part, linear)})
    return ConfigError(
        f"`recipe.lora_parameters.keys` {list(keys or ())} match no layer of the model; it has {', '.join(known)}.",
        what="recipe.lora_parameters.keys",
        value=keys,
    )


def _unfreeze_adapter(_: str, module: Any) -> None:
    keys = [name for name in ("lora_a", "lora_b", "m") if name in module]
    if keys:
        module.unfreeze(keys=keys, recurse=False)


def draws_while_checkpointing(recipe: Recipe) -> bool:
    """Say whether layers that are computed twice draw random numbers; such a step cannot be traced."""
    return recipe.grad_checkpoint and recipe.lora_parameters.dropout > 0


def _checkpoint_gradients(kind: Any) -> None:
    """Have layers of a class compute their inner values again for the gradient instead of keeping them.

    With dropout each call draws from a seed of its own, the same when it computes again: mlx-lm's version draws another
    dropout mask then, so that the gradient belongs to another function than the loss.

    Side effects: changes the class, in this process for good; once, whoever asks again.
    """
    plain = kind.__call__
    if hasattr(plain, "inner"):
        return

    def checkpointed(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if not layer.training:
            return plain(layer, *args, **kwargs)
        inside, after = _two_seeds() if vars(layer).get(_DRAWS) else (None, None)

        def compute(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            layer.update(parameters)
            if inside is not None:
                mx.random.seed(inside)
            return plain(layer, *args, **kwargs)

        result = mx.checkpoint(compute)(layer.trainable_parameters(), *args, **kwargs)
        if after is not None:
            mx.random.seed(after)
        return result

    checkpointed.inner = plain  # type: ignore[attr-defined]
    kind.__call__ = checkpointed


def _two_seeds() -> list[int]:
    """Return two seeds that follow from the random state; MLX's state can be read, but only a seed sets it."""
    state: Any = mx.random.state
    keys: Any = mx.random.split(state[0]).tolist()
    return [(high << 32) | low for high, low in keys]


def build_optimizer(recipe: Recipe) -> Any:
    """Return the recipe's optimizer.

    Two defaults differ from the stock trainer, each switched back by its own key. Adam's bias correction is on: without
    it the first steps are up to 6.5 times too large (facts/mlx_training.md 2.5). Adafactor's `relative_step` is off:
    with it the recipe's learning rate is not used at all.

    Raises:
        ConfigError: An option has a value that the optimizer or schedule does not take.
    """
    from mlx_lm.tuner.utils import build_schedule

    kinds = {
        "adam": optim.Adam,
        "adamw": optim.AdamW,
        "muon": optim.Muon,
        "sgd": optim.SGD,
        "adafactor": optim.Adafactor,
    }
    schedule = recipe.lr_schedule
    options = dict(recipe.optimizer_config.get(recipe.optimizer, {}))
    if recipe.optimizer in _BIAS_CORRECTED:
        options.setdefault("bias_correction", True)
    if recipe.optimizer == "adafactor":
        options.setdefault("relative_step", False)
    try:
        rate = build_schedule(schedule.model_dump()) if schedule is not None else recipe.learning_rate
        return kinds[recipe.optimizer](learning_rate=rate, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"`recipe.optimizer_config` or `recipe.lr_schedule`: {error}.", what="recipe.optimizer_config"
        ) from error
