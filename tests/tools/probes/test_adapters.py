"""Adapter folders: whole, finished, and used where they belong."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.faults.campaign.world import BASE
from tests.faults.failure_modes import fusing
from tests.tools.probes.looks import look, of, only, settings, why_not
from tools.probes import model


def trained(folder: Path, model: str = "base", **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    fusing.adapter(folder / "adapters", 0.01, model, **config)
    return folder


def save(folder: Path, step: int, *, like_last: bool) -> None:
    data = bytearray((folder / "adapters" / "adapters.safetensors").read_bytes())
    data[-1] ^= not like_last
    (folder / "adapters" / f"{step:07d}_adapters.safetensors").write_bytes(data)


def test_an_adapter_that_equals_a_save_before_the_last_step_was_never_finished(tmp_path: Path) -> None:
    folder = trained(tmp_path / "p", iters=600, save_every=100)
    save(folder, 100, like_last=False)
    save(folder, 200, like_last=True)
    found = only(look(folder), "9")
    assert found.severity == "hard_stop"
    assert "is the save of step 200 of 600, byte for byte" in found.sentence
    assert "400 steps early" in found.sentence


@pytest.mark.parametrize("step", [500, 600])
def test_an_adapter_that_went_on_after_its_last_save_or_to_the_end_is_finished(tmp_path: Path, step: int) -> None:
    folder = trained(tmp_path / "p", iters=600, save_every=100)
    save(folder, step, like_last=step == 600)
    found = look(folder)
    assert (of(found, "9"), "9" in found.report.checked) == ([], True)


def test_saves_beyond_the_last_step_are_of_another_run_and_only_noted(tmp_path: Path) -> None:
    folder = trained(tmp_path / "p", iters=200, save_every=100)
    save(folder, 600, like_last=True)
    assert only(look(folder), "9").severity == "note"


def test_saves_without_a_final_adapter_are_a_training_that_did_not_end(tmp_path: Path) -> None:
    folder = trained(tmp_path / "p", iters=600)
    save(folder, 300, like_last=True)
    (folder / "adapters" / "adapters.safetensors").unlink()
    assert "though a save of step 300 is" in only(look(folder), "9").sentence
    (folder / "adapters" / "0000300_adapters.safetensors").unlink()
    assert "was never written" in only(look(folder), "8").sentence


def test_without_iterations_or_configuration_nothing_is_said_of_the_end(tmp_path: Path) -> None:
    folder = trained(tmp_path / "p")
    assert "9" not in look(folder).report.checked
    (folder / "adapters" / "adapter_config.json").unlink()
    found = look(folder)
    assert "has no adapter_config.json that can be read" in only(found, "8").sentence
    assert "adapters has no adapter_config.json" in why_not(found, "P2")


def test_a_torn_save_is_a_warning_and_a_torn_adapter_stops(tmp_path: Path) -> None:
    folder = trained(tmp_path / "p", iters=600)
    save(folder, 300, like_last=False)
    torn = folder / "adapters" / "0000300_adapters.safetensors"
    torn.write_bytes(torn.read_bytes()[:-20])
    found = only(look(folder), "8")
    assert (found.severity, found.value["file"]) == ("warning", "adapters/0000300_adapters.safetensors")


def test_values_that_are_no_numbers_are_told_and_too_many_are_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained(tmp_path / "p")
    good = np.ones((2, 2), np.float32)
    path = folder / "adapters" / "adapters.safetensors"
    save_file({"a.lora_a": good, "b": np.ones(2, np.int64), "a.lora_b": np.array([[np.inf]], np.float16)}, path)
    assert "1 of 3 tensors of adapters hold NaN or infinity" in only(look(folder), "P8").sentence
    monkeypatch.setattr(model, "_MOST_VALUES", 3)
    assert "they were not looked at" in why_not(look(folder), "P8")


def two_models(folder: Path) -> Path:
    folder.mkdir()
    for name in ("base", "other"):
        shutil.copytree(BASE, folder / name)
    return folder


def edited(folder: Path) -> None:
    weights = folder / "other" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))


def use(folder: Path, **said: str) -> Path:
    return settings(folder, adapters=[{"path": "adapters", **said}])


def test_a_copy_of_the_same_weights_is_the_same_model_and_one_byte_makes_another(tmp_path: Path) -> None:
    folder = use(trained(two_models(tmp_path / "p")), evaluated_on="other")
    found = look(folder)
    assert (of(found, "P2"), "P2" in found.report.checked) == ([], True)
    edited(folder)
    one = only(look(folder), "P2")
    assert (one.severity, one.subject) == ("hard_stop", "adapter:adapters")
    assert "was trained on base and is evaluated on other: other weights" in one.sentence


def test_weights_of_another_size_are_others_without_being_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = use(trained(two_models(tmp_path / "p")), evaluated_on="other")
    monkeypatch.setattr(model, "_MOST_HASHED", 10)
    assert "too large to be hashed" in why_not(look(folder), "P2")
    (folder / "other" / "model.safetensors").unlink()
    save_file({"w": np.ones((2, 2), np.float32)}, folder / "other" / "model.safetensors")
    assert only(look(folder), "P2")


@pytest.mark.parametrize(
    ("trained_on", "evaluated_on", "told", "why"),
    [
        ("Org/Model-4bit", "Org/Model", ["P2"], ""),
        ("Org/Model", "org/model", [], ""),
        ("../a/base", "../a/base", [], ""),
        ("../a/base", "../a/other", ["P2"], ""),
        ("Org/Model", "base", [], "only one of them lies in the project"),
        ("./nowhere", "base", ["8"], ""),
    ],
)
def test_names_are_compared_where_folders_are_not_here(
    tmp_path: Path, trained_on: str, evaluated_on: str, told: list[str], why: str
) -> None:
    folder = use(trained(two_models(tmp_path / "p")), trained_on=trained_on, evaluated_on=evaluated_on)
    found = look(folder)
    assert [row.mode for row in found.report.sorted_findings] == told
    assert why in why_not(found, "P2")


def test_an_adapter_that_fits_no_matrix_of_the_model_is_of_another(tmp_path: Path) -> None:
    folder = use(trained(two_models(tmp_path / "p")), evaluated_on="other")
    module = "model.layers.0.self_attn.q_proj"
    tensors = {f"{module}.lora_a": np.ones((64, 4), np.float32), f"{module}.lora_b": np.ones((4, 128), np.float32)}
    save_file(tensors, folder / "adapters" / "adapters.safetensors")
    assert "has 64 inputs" in only(look(folder), "P2").sentence


def test_an_adapter_that_names_the_hash_of_its_weights_is_held_to_it(tmp_path: Path) -> None:
    folder = use(trained(two_models(tmp_path / "p")), evaluated_on="base")
    (folder / "adapters" / "run.json").write_text(json.dumps({"model_weights": "0" * 64}))
    assert "was trained on the weights 000000000000" in only(look(folder), "P2").sentence


def test_a_training_that_goes_on_from_an_adapter_of_another_model_is_told(tmp_path: Path) -> None:
    folder = trained(two_models(tmp_path / "p"))
    edited(folder)
    config = {"model": "other", "data": "o/d", "iters": 5, "resume_adapter_file": "adapters/adapters.safetensors"}
    (folder / "lora.yaml").write_text(json.dumps(config))
    found = only(look(folder), "P2")
    assert "is continued on other" in found.sentence
    assert found.value["file"] == "lora.yaml"
    (folder / "lora.yaml").write_text(json.dumps({**config, "model": "base"}))
    assert of(look(folder), "P2") == []
    (folder / "lora.yaml").write_text(json.dumps({**config, "resume_adapter_file": "base/model.safetensors"}))
    assert of(look(folder), "P2") == []


def test_what_nobody_says_is_not_checked(tmp_path: Path) -> None:
    folder = use(trained(two_models(tmp_path / "p")), evaluated_on="base")
    (folder / "adapters" / "adapter_config.json").write_text("{}")
    assert "nothing says what adapters was trained on" in why_not(look(folder), "P2")
    use(folder)
    assert of(look(folder), "P2") == []
    settings(folder, adapters=[{"path": "./gone"}])
    assert "names the adapter folder ./gone, which is not there" in only_of_settings(look(folder))
    shutil.rmtree(folder / "other")
    (folder / "other").mkdir()
    use(folder, trained_on="base", evaluated_on="other")
    assert "no weight file of it may be read" in why_not(look(folder), "P2")


def only_of_settings(found: Any) -> str:
    return " ".join(row.sentence for row in of(found, "8") if row.subject.startswith("settings:"))


def test_an_adapter_that_does_not_fit_the_model_it_names_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(BASE, tmp_path / "base")
    fusing.adapter(tmp_path / "fits", 0.01, "base")
    assert of(look(tmp_path), "P2") == []
    monkeypatch.setattr(fusing, "WIDTH", 64)
    fusing.adapter(tmp_path / "other", 0.01, "base")
    found = only(look(tmp_path), "P2")
    assert (found.severity, found.subject) == ("hard_stop", "adapter:other")
    assert "other names base as its model and does not belong to it" in found.sentence


def test_an_adapter_that_was_never_updated_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    fusing.adapter(tmp_path / "p" / "adapters", 0.0)
    found = only(look(tmp_path / "p"), "9")
    assert (found.severity, "changes nothing" in found.sentence) == ("warning", True)


def test_an_adapter_that_its_own_configuration_does_not_build_stops(tmp_path: Path) -> None:
    found = only(look(trained(tmp_path / "p", num_layers=1)), "8")
    assert (found.severity, found.claim) == ("hard_stop", "adapter_config")


def test_a_renamed_file_of_mlx_lm_is_not_taken_for_another_library(tmp_path: Path) -> None:
    folder = trained(tmp_path / "p")
    (folder / "adapters" / "adapters.safetensors").rename(folder / "adapters" / "adapter_model.safetensors")
    assert only(look(folder), "8").fix == "Rename it to adapters.safetensors."


@pytest.mark.parametrize(
    ("changes", "mode", "said"),
    [
        ({"resume_adapter_file": "adapters"}, "8", "names the folder adapters, and mlx-lm opens a file"),
        ({"lora_parameters": {"rank": 64, "scale": 2.0, "dropout": 0.0}}, "6", "and writes what cannot be loaded"),
        ({"fine_tune_type": "dora"}, "6", ""),
        ({}, "6", ""),
    ],
)
def test_an_adapter_to_go_on_from_is_held_against_the_configuration(
    tmp_path: Path, changes: dict[str, Any], mode: str, said: str
) -> None:
    folder = trained(tmp_path / "p")
    block = {"rank": fusing.RANK, "scale": 2.0, "dropout": 0.0}
    config = {"model": "owner/name", "data": "owner/rows", "iters": 5, "num_layers": -1, "lora_parameters": block}
    config |= {"resume_adapter_file": "adapters/adapters.safetensors", **changes}
    (folder / "lora.json").write_text(json.dumps(config))
    found = of(look(folder), mode)
    assert [said in row.sentence for row in found] == ([True] if said else [])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("config.json", "tiny-Q4.gguf"), "the model base holds tiny-Q4.gguf"),
        (("config.json",), "the model base holds no weights"),
    ],
)
def test_a_model_without_weights_that_mlx_lm_reads_stops(tmp_path: Path, files: tuple[str, ...], said: str) -> None:
    (tmp_path / "base").mkdir()
    for name in files:
        (tmp_path / "base" / name).write_text("{}")
    config = {"model": "base", "data": "owner/rows", "iters": 5, "num_layers": 4, "batch_size": 1}
    (tmp_path / "lora.json").write_text(json.dumps(config))
    assert said in only(look(tmp_path), "8").sentence


def test_layers_and_keys_of_a_configuration_are_held_against_the_model_it_names(tmp_path: Path) -> None:
    shutil.copytree(BASE, tmp_path / "base")
    block = {"rank": 8, "scale": 2.0, "dropout": 0.0, "keys": ["q_proj"]}
    config = {"model": "base", "data": "owner/rows", "iters": 5, "lora_parameters": block}
    (tmp_path / "lora.json").write_text(json.dumps(config))
    said = [row.sentence for row in of(look(tmp_path), "6")]
    assert ["match no layer" in one or "`num_layers` is left out" in one for one in said] == [True, True]
    config |= {"num_layers": 6, "lora_parameters": {**block, "keys": ["self_attn.q_proj"]}}
    (tmp_path / "lora.json").write_text(json.dumps(config))
    assert of(look(tmp_path), "6") == []


def test_an_adapter_in_the_old_form_is_there_and_has_to_be_converted(tmp_path: Path) -> None:
    (tmp_path / "adapters.npz").write_bytes(b"PK")
    found = only(look(settings(tmp_path, adapters=[{"path": "adapters.npz"}])), "8")
    assert ("old form" in found.sentence, "mx.save_safetensors" in found.fix) == (True, True)
