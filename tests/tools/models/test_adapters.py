"""Which adapter folders belong on a model folder, told from headers and lineage alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tools.models.folders import safetensors, write_model
from tools.models.adapters import Layers, adapter_problems, adapter_recipe, layers_of, recipe_problems
from tools.models.identity import coherence_problems, weights_hash

RANK_1 = {"rank": 1, "scale": 2.0, "dropout": 0.0}
FITTING = {"layers.0.w.lora_a": ("F32", [2, 1]), "layers.0.w.lora_b": ("F32", [1, 2])}


def write_adapter(folder: Path, tensors: dict[str, tuple[str, list[int]]], trained_on: str = "") -> Path:
    folder.mkdir()
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": RANK_1, "iters": 3}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapters.safetensors").write_bytes(safetensors(tensors))
    if trained_on:
        (folder / "run.json").write_text(json.dumps({"model_weights": trained_on}))
    return folder


def kinds(adapter: Path, model: Path) -> list[str]:
    return [str(problem.detail["kind"]) for problem in adapter_problems(adapter, model)]


def test_an_adapter_whose_matrices_fit_has_no_problem(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    assert kinds(write_adapter(tmp_path / "a", FITTING), model) == []
    assert kinds(write_adapter(tmp_path / "b", FITTING, weights_hash(model)), model) == []


def test_an_adapter_trained_on_other_weights_is_told_by_its_lineage(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    adapter = write_adapter(tmp_path / "a", FITTING, "0" * 64)
    [problem] = adapter_problems(adapter, model)
    assert problem.detail["kind"] == "parent"
    assert "000000000000" in problem.sentence
    assert weights_hash(model)[:12] in problem.sentence


def test_a_matrix_of_another_size_or_name_is_of_another_model(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    wide = {"layers.0.w.lora_a": ("F32", [3, 1]), "layers.0.w.lora_b": ("F32", [1, 2])}
    tall = {"layers.0.w.lora_a": ("F32", [2, 1]), "layers.0.w.lora_b": ("F32", [1, 5])}
    [problem] = adapter_problems(write_adapter(tmp_path / "a", wide), model)
    assert (problem.detail["adapter"], problem.detail["model"]) == (3, 2)
    [problem] = adapter_problems(write_adapter(tmp_path / "b", tall), model)
    assert (problem.detail["adapter"], problem.detail["model"]) == (5, 2)
    [problem] = adapter_problems(write_adapter(tmp_path / "c", {"layers.9.w.lora_a": ("F32", [2, 1])}), model)
    assert "layers.9.w" in problem.sentence


def test_packed_weights_are_unpacked_before_they_are_compared(tmp_path: Path) -> None:
    config = json.dumps({"model_type": "llama", "quantization": {"bits": 4, "group_size": 32}})
    model = write_model(tmp_path / "model", **{"config.json": config})
    packed = {"layers.0.w.weight": ("U32", [2, 2]), "layers.0.w.scales": ("F16", [2, 1])}
    (model / "model-00001-of-00002.safetensors").write_bytes(safetensors(packed))
    fits = {"layers.0.w.lora_a": ("F32", [16, 1]), "layers.0.w.lora_b": ("F32", [1, 2])}
    assert kinds(write_adapter(tmp_path / "a", fits), model) == []
    assert kinds(write_adapter(tmp_path / "b", FITTING), model) == ["shape"]


def test_a_torn_or_incomplete_folder_is_told_before_anything_is_compared(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    adapter = write_adapter(tmp_path / "a", FITTING)
    (adapter / "adapters.safetensors").write_bytes(b"torn")
    assert kinds(adapter, model) == ["unreadable"]
    (adapter / "adapters.safetensors").unlink()
    [problem] = adapter_problems(adapter, model)
    assert problem.detail["missing"] == ["adapters.safetensors"]


def test_a_model_that_cannot_be_read_says_nothing_about_an_adapter(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    for shard in model.glob("model*.safetensors"):
        shard.write_bytes(b"torn")
    assert kinds(write_adapter(tmp_path / "a", FITTING), model) == []


def test_what_decides_the_shape_of_an_adapter_is_read_from_its_folder(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a", FITTING)
    assert adapter_recipe(adapter) == {
        "fine_tune_type": "lora",
        "num_layers": 2,
        "lora_parameters": RANK_1,
    }
    assert adapter_recipe(tmp_path / "nowhere") == {}


Q, V = "self_attn.q_proj", "self_attn.v_proj"


def write_llama(folder: Path, n: int = 4, **config: Any) -> Path:
    """Write a model whose layers have two matrices and a norm, of two values each way."""
    tensors = {"model.embed_tokens.weight": ("F16", [4, 2])}
    for layer in range(n):
        at = f"model.layers.{layer}"
        tensors |= {f"{at}.{name}.weight": ("F16", [2, 2]) for name in (Q, V)}
        tensors[f"{at}.input_layernorm.weight"] = ("F16", [2])
    said = {"model_type": "llama", "num_hidden_layers": n, **config}
    return write_model(
        folder,
        **{
            "config.json": json.dumps(said),
            "model.safetensors": safetensors(tensors),
            "model-00001-of-00002.safetensors": None,
            "model-00002-of-00002.safetensors": None,
            "model.safetensors.index.json": None,
        },
    )


def write_low_rank(folder: Path, layers: range, rank: int = 1, leaves: str = "lora_a lora_b", **config: Any) -> Path:
    shapes = {"lora_a": [2, rank], "lora_b": [rank, 2], "m": [2], "lora_A.weight": [rank, 2]}
    tensors = {f"model.layers.{layer}.{Q}.{leaf}": ("F32", shapes[leaf]) for layer in layers for leaf in leaves.split()}
    write_adapter(folder, tensors)
    said = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": RANK_1, **config}
    (folder / "adapter_config.json").write_text(json.dumps({k: v for k, v in said.items() if v is not None}))
    return folder


@pytest.mark.parametrize(
    ("layers", "changes", "said"),
    [
        (range(2, 4), {}, ""),
        (range(2, 4), {"lora_parameters": {**RANK_1, "keys": [Q]}}, ""),
        (range(4), {"num_layers": -1}, ""),
        (range(2, 4), {"fine_tune_type": "dora", "leaves": "lora_a lora_b m"}, ""),
        (range(4), {}, "layers 0 to 3, and its configuration says the last 2"),
        (range(1, 2), {}, "Write `num_layers: 3`."),
        (range(2, 4), {"rank": 3}, "has rank 3"),
        (range(2, 4), {"leaves": "lora_a lora_b m"}, "which is DoRA"),
        (range(2, 4), {"num_layers": None, "lora_layers": 2}, "Rename `lora_layers` to `num_layers: 2`"),
        (range(2, 4), {"lora_parameters": None}, "has no `lora_parameters`"),
        (range(2, 4), {"lora_parameters": {"rank": 4, "alpha": 8, "dropout": 0.0}}, "Write `scale: 2`"),
        (range(2, 4), {"lora_parameters": {**RANK_1, "keys": ["auto"]}}, "does not name"),
        (range(2, 4), {"fine_tune_type": "full"}, "says full training"),
        (range(2, 4), {"leaves": "lora_A.weight"}, "PEFT's form"),
    ],
)
def test_tensors_are_held_against_what_their_configuration_builds(
    tmp_path: Path, layers: range, changes: dict[str, Any], said: str
) -> None:
    found = adapter_problems(write_low_rank(tmp_path / "a", layers, **changes), write_llama(tmp_path / "model"))
    assert [said in problem.sentence for problem in found] == ([True] if said else []), found


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"num_layers": 4, "lora_parameters": {"keys": [Q, "model.embed_tokens"]}}, ""),
        ({"num_layers": -1, "fine_tune_type": "full", "lora_parameters": {"keys": ["x"]}}, ""),
        ({}, "`num_layers` is left out, and mlx-lm's default is 16; the model has 4 layers"),
        ({"num_layers": 5}, "`num_layers` is 5; the model has 4 layers"),
        ({"num_layers": 4, "lora_parameters": {"keys": ["q_proj"]}}, "Write self_attn.q_proj."),
        ({"num_layers": 4, "lora_parameters": {"keys": [Q, "w2"]}}, "(w2): they are passed over without a word"),
        ({"num_layers": 4, "lora_parameters": {"keys": ["self_attn"]}}, "self_attn, which is no matrix"),
        ({"num_layers": 4, "lora_parameters": {"keys": ["input_layernorm"]}}, "which is no matrix"),
    ],
)
def test_a_recipe_is_held_against_the_layers_of_its_model(tmp_path: Path, recipe: dict[str, Any], said: str) -> None:
    found = recipe_problems(recipe, layers_of(write_llama(tmp_path / "model")), default_layers=16)
    assert [said in problem.sentence for problem in found] == ([True] if said else []), found


def test_full_training_needs_weights_that_are_not_packed() -> None:
    [problem] = recipe_problems({"fine_tune_type": "full"}, Layers(is_quantized=True), default_layers=-1)
    assert "packed weights have no gradient" in problem.sentence


def test_of_a_type_whose_names_are_not_known_nothing_is_said(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "model", model_type="gpt2")
    assert recipe_problems({"lora_parameters": {"keys": ["x"]}}, layers_of(model), default_layers=16) == []


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({}, ""),
        ({"model_type": "mistral"}, ""),
        ({"model_type": "granite_ultra"}, "type"),
        ({"model_file": "own.py"}, "code"),
    ],
)
def test_a_model_that_the_installed_library_cannot_build_is_told(
    tmp_path: Path, config: dict[str, Any], kind: str
) -> None:
    found = coherence_problems(write_llama(tmp_path / "model", **config))
    assert [problem.detail["kind"] for problem in found] == ([kind] if kind else [])


def test_packing_of_another_library_is_not_taken_for_two_saves(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "model", quantization_config={"quant_method": "bitsandbytes"})
    assert coherence_problems(model) == []
    at = "model.layers.{}.mlp.up_proj.weight"
    mixed = {at.format(0): ("U32", [2, 2]), at.format(1): ("F16", [2, 2])}
    (model / "model-b.safetensors").write_bytes(safetensors(mixed))
    assert [problem.detail["kind"] for problem in coherence_problems(model)] == ["format"]


def test_tokens_of_the_template_have_rows_in_the_embedding(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "model")
    for content, kinds_told in (("<unused>", []), ("messages", ["vocabulary"]), ("<end>", ["vocabulary"])):
        added = [{"id": 4, "content": content}, {"id": 3, "content": "messages"}]
        (model / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
        assert [problem.detail["kind"] for problem in coherence_problems(model)] == kinds_told
