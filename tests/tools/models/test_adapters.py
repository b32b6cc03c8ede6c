"""Which adapter folders belong on a model folder, told from headers and lineage alone."""

import json
from pathlib import Path

from tests.tools.models.folders import safetensors, write_model
from tools.models.adapters import adapter_problems, adapter_recipe
from tools.models.identity import weights_hash

FITTING = {"layers.0.w.lora_a": ("F32", [2, 1]), "layers.0.w.lora_b": ("F32", [1, 2])}


def write_adapter(folder: Path, tensors: dict[str, tuple[str, list[int]]], trained_on: str = "") -> Path:
    folder.mkdir()
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 1, "scale": 2.0}, "iters": 3}
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
        "lora_parameters": {"rank": 1, "scale": 2.0},
    }
    assert adapter_recipe(tmp_path / "nowhere") == {}
