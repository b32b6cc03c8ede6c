import math
from typing import Any

import pytest

from state.errors import ConfigError
from state.recipe import DEFAULTS
from tools.training.recipe import RECIPES, PreferenceRecipe, Recipe, validate_recipe


def refusal(**recipe: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        validate_recipe(recipe)
    return caught.value


@pytest.mark.parametrize(
    ("recipe", "what", "said"),
    [
        ({"learning_rat": 1e-4}, "recipe.learning_rat", "`learning_rate`"),
        ({"epochs_of_fame": 3}, "recipe.epochs_of_fame", "known keys are fine_tune_type"),
        ({"lora_parameters": {"ranks": 4}}, "recipe.lora_parameters.ranks", "`rank`"),
        (
            {"lr_schedule": {"name": "cosine_decay", "arguments": [1e-3, 10], "warm_up": 3}},
            "recipe.lr_schedule.warm_up",
            "`warmup`",
        ),
        ({"lora_parameters": {"rank": 4, "alpha": 16}}, "recipe.lora_parameters.alpha", "alpha divided by rank"),
        ({"alpha": 16}, "recipe.alpha", "alpha divided by rank"),
        ({"lora_parameter": {"rank": 4}}, "recipe.lora_parameter", "`lora_parameters`"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one_or_the_reason(
    recipe: dict[str, Any], what: str, said: str
) -> None:
    error = refusal(**recipe)
    assert error.what == what
    assert error.sentence.startswith(f"`{what}` is no key of a recipe; ")
    assert said in error.sentence


@pytest.mark.parametrize(
    "recipe",
    [
        {"iters": "ten"},
        {"iters": True},
        {"iters": 2.5},
        {"learning_rate": "fast"},
        {"mask_prompt": 1},
        {"lora_parameters": {"rank": 2.5}},
        {"lora_parameters": {"keys": "self_attn.q_proj"}},
        {"lora_parameters": [8]},
        {"fine_tune_type": "qlora"},
        {"optimizer": "lion"},
        {"iters": None},
    ],
)
def test_a_wrong_type_is_refused_in_one_sentence_with_its_key(recipe: dict[str, Any]) -> None:
    error = refusal(**recipe)
    key = next(iter(recipe))
    assert error.sentence.startswith(f"`recipe.{key}")
    assert error.sentence.endswith(".")
    assert "\n" not in error.sentence


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("iters", 0),
        ("batch_size", 0),
        ("batch_size", -4),
        ("learning_rate", 0.0),
        ("learning_rate", math.inf),
        ("learning_rate", math.nan),
        ("num_layers", -2),
        ("num_layers", 0),
        ("max_seq_length", 4),
        ("grad_accumulation_steps", 0),
        ("max_grad_norm", 0.0),
        ("seed", -1),
        ("seed", 2**64),
        ("val_batches", -2),
        ("lora_parameters", {"rank": 0}),
        ("lora_parameters", {"scale": 0.0}),
        ("lora_parameters", {"dropout": 1.0}),
        ("lora_parameters", {"keys": []}),
    ],
)
def test_a_value_out_of_range_is_refused(key: str, value: Any) -> None:
    assert key in refusal(**{key: value}).sentence


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"optimizer_config": {"lion": {}}}, "names lion; it takes adafactor, adam"),
        ({"optimizer_config": {"adamw": {"weight_decoy": 0.1}}}, "`optimizer_config.adamw` has weight_decoy"),
        ({"lr_schedule": {"name": "cosine_decay", "arguments": [1e-3]}}, "[init, decay_steps, end], but 1 are given"),
        ({"lr_schedule": {"name": "linear_schedule", "arguments": [1, 2, 3, 4]}}, "but 4 are given"),
    ],
)
def test_what_an_optimizer_or_schedule_does_not_take_is_refused_before_anything_is_loaded(
    recipe: dict[str, Any], said: str
) -> None:
    assert said in refusal(**recipe).sentence


def test_the_defaults_are_a_recipe_and_lists_of_a_yaml_file_pass() -> None:
    assert validate_recipe({}) == Recipe()
    recipe = validate_recipe(
        {
            "learning_rate": 1,
            "lora_parameters": {"rank": 4, "scale": 2, "dropout": 0, "keys": ["self_attn.q_proj"]},
            "lr_schedule": {"name": "cosine_decay", "arguments": [0.001, 100], "warmup": 10},
            "optimizer_config": {"adamw": {"bias_correction": False, "betas": [0.9, 0.99]}},
        }
    )
    assert recipe.lora_parameters.keys == ("self_attn.q_proj",)
    assert recipe.adapter_config()["lora_parameters"]["keys"] == ["self_attn.q_proj"]
    assert "keys" not in Recipe().adapter_config()["lora_parameters"], "mlx-lm takes no null"


@pytest.mark.parametrize(("iters", "accumulated", "updates"), [(10, 1, 10), (10, 3, 4), (9, 3, 3), (1, 8, 1)])
def test_a_last_incomplete_accumulation_is_an_update_too(iters: int, accumulated: int, updates: int) -> None:
    assert validate_recipe({"iters": iters, "grad_accumulation_steps": accumulated}).updates == updates


def test_a_recipe_for_pairs_has_keys_of_its_own_in_either_spelling() -> None:
    found = validate_recipe({"beta": 0.2, "dpo_cpo_loss_type": "ipo"}, "dpo")
    assert isinstance(found, PreferenceRecipe)
    assert (found.beta, found.loss_type, found.label_smoothing) == (0.2, "ipo", 0.0)
    assert found == validate_recipe({"beta": 0.2, "loss_type": "ipo"}, "dpo")
    assert not isinstance(validate_recipe({}), PreferenceRecipe)


@pytest.mark.parametrize(
    ("recipe", "instrument", "sentence"),
    [
        ({"beta": 0.1}, "sft", "`recipe.beta` is no key of a recipe; it is one of dpo."),
        ({"betta": 0.1}, "dpo", "`recipe.betta` is no key of a recipe; did you mean `beta`?"),
        ({"beta": 0.0}, "dpo", "`recipe.beta`: input should be greater than 0."),
        ({"label_smoothing": 0.5}, "dpo", "`recipe.label_smoothing`: input should be less than 0.5."),
        (
            {"label_smoothing": 0.1, "loss_type": "ipo"},
            "dpo",
            "`recipe`: `label_smoothing` belongs to the sigmoid loss; ipo has none.",
        ),
        (
            {"mask_prompt": False},
            "dpo",
            "`recipe`: `mask_prompt: false` has no meaning for pairs: their prompt is the same on both sides.",
        ),
        (
            {"exact_mask": False},
            "dpo",
            "`recipe`: `exact_mask: false` has no meaning for pairs: it is how mlx_lm.lora learns demonstrations.",
        ),
        (
            {"loss_type": "ipo", "dpo_cpo_loss_type": "ipo"},
            "dpo",
            "`recipe.dpo_cpo_loss_type` and `recipe.loss_type` are one key; keep one.",
        ),
        ({}, "ppo", "`ppo` cannot be trained; known instruments are sft, dpo, grpo."),
    ],
)
def test_what_a_recipe_for_pairs_cannot_say_is_refused(recipe: dict[str, Any], instrument: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate_recipe(recipe, instrument)
    assert caught.value.sentence == sentence


def test_what_a_recipe_leaves_out_is_the_same_to_the_trainer_and_to_whoever_plans_for_it() -> None:
    told = {key for kind in RECIPES.values() for key in kind.model_fields} & DEFAULTS.keys()
    assert told == DEFAULTS.keys()
    for kind in RECIPES.values():
        fields = {key: field.default for key, field in kind.model_fields.items() if key in DEFAULTS}
        assert fields == {key: DEFAULTS[key] for key in fields}
