"""Whether an adapter arrived in a fused model, told from the files alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.tools.probes.looks import look, of, only, settings, why_not

WIDTH, RANK, GROUP = 64, 2, 32
MODULE = "model.layers.0.mlp.up_proj"
RNG = np.random.default_rng(7)
BASE = RNG.normal(0, 0.05, (WIDTH, WIDTH)).astype(np.float32)
A = RNG.normal(0, 1, (WIDTH, RANK)).astype(np.float32)
B = RNG.normal(0, 1, (RANK, WIDTH)).astype(np.float32)


def packed(weights: Any, bits: int = 4) -> dict[str, Any]:
    """Quantize a matrix as mlx does: affine, by groups of a row, values packed into words from the low bits up."""
    groups = weights.reshape(WIDTH, -1, GROUP)
    low, high = groups.min(axis=2), groups.max(axis=2)
    scales = np.maximum((high - low) / (2**bits - 1), 1e-8)
    values = np.round((groups - low[:, :, None]) / scales[:, :, None]).astype(np.uint32).reshape(WIDTH, -1)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    words = (values.reshape(WIDTH, -1, len(shifts)) << shifts).sum(axis=2, dtype=np.uint32)
    return {"weight": words, "scales": scales.astype(np.float32), "biases": low.astype(np.float32)}


def model(folder: Path, weights: Any, bits: int = 0, **others: Any) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "tokenizer.json").write_text("{}")
    parts = packed(weights, bits) if bits else {"weight": weights}
    tensors = {f"{MODULE}.{name}": value for name, value in parts.items()} | others
    save_file(tensors, folder / "model.safetensors", metadata={"format": "mlx"})


def adapter(folder: Path, size: float, base: str = "base", **config: Any) -> None:
    folder.mkdir()
    save_file({f"{MODULE}.lora_a": A, f"{MODULE}.lora_b": B * np.float32(size)}, folder / "adapters.safetensors")
    said: dict[str, Any] = {
        "model": base,
        "fine_tune_type": "lora",
        "num_layers": 1,
        "lora_parameters": {"rank": RANK, "scale": 2.0, "dropout": 0.0},
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(said))


def delta(size: float) -> Any:
    return 2.0 * size * (A @ B).T


def project(folder: Path, size: float, fused: Any, *, base_bits: int = 4, fused_bits: int = 0, **config: Any) -> Path:
    folder.mkdir()
    model(folder / "base", BASE, base_bits)
    adapter(folder / "adapters", size, **config)
    model(folder / "fused", fused.astype(np.float32), fused_bits)
    return folder


def unpacked(bits: int) -> Any:
    parts = packed(BASE, bits)
    values = (parts["weight"][:, :, None] >> np.arange(0, 32, bits, dtype=np.uint32)) & (2**bits - 1)
    values = values.reshape(WIDTH, -1, GROUP) * parts["scales"][:, :, None] + parts["biases"][:, :, None]
    return values.reshape(WIDTH, WIDTH)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_an_adapter_that_arrived_is_no_finding_whatever_the_base_is_packed_in(tmp_path: Path, bits: int) -> None:
    found = look(project(tmp_path / "p", 0.001, unpacked(bits) + delta(0.001), base_bits=bits))
    assert of(found, "2") == []
    assert "2" in found.report.checked


def test_a_large_delta_survives_four_bits_and_a_small_one_does_not(tmp_path: Path) -> None:
    large = look(project(tmp_path / "large", 0.1, unpacked(4) + delta(0.1), fused_bits=4))
    assert of(large, "2") == []
    small = only(look(project(tmp_path / "small", 0.0005, unpacked(4) + delta(0.0005), fused_bits=4)), "2")
    assert (small.severity, small.subject) == ("hard_stop", "model:fused")
    assert small.value["cosine"] < 0.5
    assert small.value["is_quantized"]
    assert "did not arrive in fused (quantized), fused from base" in small.sentence


def test_a_fused_model_that_is_the_base_again_is_told(tmp_path: Path) -> None:
    found = only(look(project(tmp_path / "p", 0.01, BASE, base_bits=0)), "2")
    assert "not one of them differs from the base" in found.sentence


def test_floating_point_weights_are_judged_by_whether_most_of_the_delta_is_there(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(0, float(np.abs(delta(0.01)).mean()), BASE.shape)
    assert of(look(project(tmp_path / "noisy", 0.01, BASE + delta(0.01) + noise, base_bits=0)), "2") == []
    found = only(look(project(tmp_path / "other", 0.01, BASE + noise, base_bits=0)), "2")
    assert "not quantized" in found.sentence


def test_bfloat16_and_half_precision_are_read(tmp_path: Path) -> None:
    fused = (BASE + delta(0.01)).astype(np.float32)
    folder = project(tmp_path / "p", 0.01, fused.astype(np.float16), base_bits=0)
    words = (fused.view(np.uint32) >> 16).astype(np.uint16)
    header = {f"{MODULE}.weight": {"dtype": "BF16", "shape": [WIDTH, WIDTH], "data_offsets": [0, words.nbytes]}}
    raw = json.dumps(header).encode()
    (folder / "fused" / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + words.tobytes())
    found = look(folder)
    assert (of(found, "2"), "2" in found.report.checked) == ([], True)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"fine_tune_type": "dora"}, "an adapter of kind dora is not compared"),
        ({"lora_parameters": {"rank": 2}}, ""),
        ({"model": None}, "no adapter beside its base"),
    ],
)
def test_what_cannot_be_compared_is_not_checked(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    folder = project(tmp_path / "p", 0.01, BASE + delta(0.01) / 2, base_bits=0, **config)
    found = look(folder)
    assert of(found, "2") == []
    assert said in why_not(found, "2")


def test_packing_that_is_not_read_here_is_not_checked(tmp_path: Path) -> None:
    strange: dict[str, dict[str, Any]] = {
        "no_biases": {f"{MODULE}.biases": np.zeros(3, np.float32)},
        "three_bits": {f"{MODULE}.weight": np.zeros((WIDTH, 6), np.uint32)},
        "vector": {f"{MODULE}.weight": np.zeros(8, np.float32)},
    }
    for name, others in strange.items():
        folder = project(tmp_path / name, 0.01, BASE)
        (folder / "base" / "model.safetensors").unlink()
        (folder / "base").rename(folder / "gone")
        model(folder / "base", BASE, 4, **others)
        (folder / "gone" / "config.json").unlink()
        assert "no matrix that its adapter adapts can be compared" in why_not(look(folder), "2"), name


def test_an_adapter_that_changes_nothing_or_fits_nothing_is_not_compared(tmp_path: Path) -> None:
    assert "no matrix" in why_not(look(project(tmp_path / "zero", 0.0, BASE)), "2")
    folder = project(tmp_path / "odd", 0.01, BASE)
    save_file({f"{MODULE}.lora_a": A, f"{MODULE}.lora_b": B[:1]}, folder / "adapters" / "adapters.safetensors")
    assert "no matrix" in why_not(look(folder), "2")
    folder = project(tmp_path / "torn", 0.01, BASE)
    weights = folder / "fused" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert "header declares" in why_not(look(folder), "2")
    (folder / "adapters" / "adapters.safetensors").unlink()
    assert "has no weights" in why_not(look(folder), "2")


def test_of_several_adapters_the_file_must_say_which_was_fused(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", 0.01, BASE, base_bits=0)
    adapter(folder / "second", 0.02)
    assert "there is 2 adapters here" in why_not(look(folder), "2")
    settings(folder, fused=[{"path": "fused", "base": "base", "adapter": "second"}])
    found = only(look(folder), "2")
    assert found.value["adapter"] == "second"
    assert (found.value["file"], found.value["line"]) == ("vigil-audit.yaml", 1)


def test_a_model_in_its_adapter_folder_was_fused_from_that_adapter(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    model(folder / "base", BASE)
    model(folder / "run", (BASE + delta(0.01)).astype(np.float32))
    adapter(folder / "tmp", 0.01)
    for path in (folder / "tmp").iterdir():
        path.rename(folder / "run" / path.name)
    (folder / "tmp").rmdir()
    found = look(folder)
    assert (of(found, "2"), "2" in found.report.checked) == ([], True)


def test_a_base_by_a_path_of_another_machine_is_the_model_of_its_name(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", 0.01, BASE, base_bits=0, model="/elsewhere/models/Base/")
    model(folder / "second", BASE)
    assert only(look(folder), "2").value["base"] == "base"
    model(folder / "copies", BASE)
    (folder / "base").rename(folder / "third")
    assert "there is no adapter beside its base here" in why_not(look(folder), "2")


def test_paths_of_fused_that_lead_nowhere_are_told(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", 0.01, BASE + delta(0.01), base_bits=0)
    settings(folder, fused=[{"path": "./gone", "base": "owner/name", "adapter": "adapters"}])
    found = look(folder)
    assert only(found, "8").sentence == "vigil-audit.yaml names the fused model ./gone, which is not there."
    assert "owner/name is not in the project" in why_not(found, "2")


def test_a_delta_that_rounding_damaged_is_a_warning_and_one_that_it_drowned_a_stop(tmp_path: Path) -> None:
    wanted = delta(0.01)
    noise = np.random.default_rng(3).normal(0, 1, wanted.shape)
    noise *= 0.7 * np.sqrt(np.square(wanted).sum() / np.square(noise).sum())
    fused = project(tmp_path / "p", 0.01, unpacked(8) + wanted + noise, base_bits=8, fused_bits=8)
    found = only(look(fused), "2")
    assert (found.severity, "did not arrive whole" in found.sentence) == ("warning", True)
    assert 0.7 < found.value["cosine"] < 0.9


@pytest.mark.parametrize(
    ("said", "severity", "why"),
    [
        ({"kl_base": 0.2, "kl_fused": 0.02}, None, ""),
        ({"kl_base": 0.2, "kl_fused": 0.19}, "hard_stop", ""),
        ({"kl_base": 1e-5, "kl_fused": 1e-5}, "hard_stop", ""),
        ({"why": "no room"}, "hard_stop", "its answers were not compared: no room"),
    ],
)
def test_with_a_model_the_answers_decide_and_where_there_are_none_the_matrices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], severity: str | None, why: str
) -> None:
    folder = project(tmp_path / "p", 0.01, BASE, base_bits=0)
    counts = {"positions": 144, "same_base": 100, "same_fused": 101} if "why" not in said else {}
    monkeypatch.setattr("tools.probes.fused.ask", lambda *_, **__: said | counts)
    found = look(folder, folder / "base")
    assert [row.severity for row in of(found, "2")] == ([severity] if severity else [])
    assert why in why_not(found, "2")


def test_weights_that_do_not_fit_and_adapters_that_are_not_whole_are_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project(tmp_path / "p", 0.01, BASE + delta(0.01), base_bits=0, fine_tune_type="dora")
    assert "an adapter of kind dora is not compared; with --model its answers are" in why_not(look(folder), "2")
    monkeypatch.setattr("tools.probes.fused._MOST_MEMORY", 0.0)
    assert "GB of free memory" in why_not(look(folder, folder / "base"), "2")
    (folder / "adapters" / "adapters.safetensors").unlink()
    assert "adapters is not whole" in why_not(look(folder, folder / "base"), "2")
    huge = project(tmp_path / "huge", 0.01, BASE, base_bits=0)
    monkeypatch.setattr("tools.probes.fused.are_small", lambda *_: False)
    assert "adapters is not opened" in why_not(look(huge, huge / "base"), "2")
