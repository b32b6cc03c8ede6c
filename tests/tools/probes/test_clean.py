"""Nothing is said of folders with nothing wrong: architectures, packings of weights and forms of rows, by headers.

Together with the fifteen whole projects of `tests/faults/failure_modes` these are forty.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.faults.campaign.world import BASE
from tests.faults.failure_modes.projects import CLEAN, rows_of, with_system, write_config, write_rows
from tests.tools.models.folders import safetensors
from tests.tools.probes.looks import look

N_LAYERS, WIDTH, VOCABULARY = 2, 64, 416
LLAMA = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
GATED = (*LLAMA, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
JOINED = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
ROUTED = (*LLAMA, "mlp.gate")
LATENT = ("self_attn.q_a_proj", "self_attn.q_b_proj", "self_attn.kv_a_proj_with_mqa", "self_attn.o_proj", "mlp.gate")

ARCHITECTURES = {
    "llama": GATED,
    "qwen2": GATED,
    "qwen3": GATED,
    "qwen3_moe": ROUTED,
    "mistral": GATED,
    "mixtral": (*LLAMA, "block_sparse_moe.gate"),
    "gemma2": GATED,
    "gemma3_text": GATED,
    "phi3": JOINED,
    "deepseek_v3": LATENT,
    "gpt_oss": (*LLAMA, "mlp.router"),
    "glm4": (*LLAMA, "mlp.gate_up_proj", "mlp.down_proj"),
    "olmo2": GATED,
    "smollm3": GATED,
    "granite": GATED,
}
"""Type of the fifteen text architectures used most -> matrices of a layer, as mlx-lm calls them."""

PACKINGS: dict[str, dict[str, Any]] = {
    "F32": {},
    "F16": {},
    "BF16": {},
    **{f"{bits} bits": {"bits": bits, "group_size": 64} for bits in (2, 3, 4, 6, 8)},
    "mxfp4": {"bits": 4, "group_size": 32, "mode": "mxfp4"},
    "mixed bits": {
        "bits": 4,
        "group_size": 64,
        **{f"model.layers.{n}.mlp.down_proj": {"bits": 8, "group_size": 64} for n in range(N_LAYERS)},
    },
}


def chat(count: int, use: str) -> list[dict[str, Any]]:
    return with_system(rows_of(use, count))


def completions(count: int, use: str) -> list[dict[str, Any]]:
    asked = [[turn["content"] for turn in row["messages"]] for row in rows_of(use, count)]
    return [{"prompt": prompt, "completion": answer} for prompt, answer in asked]


def texts(count: int, use: str) -> list[dict[str, Any]]:
    return [{"text": f"{row['prompt']}\n\n{row['completion']}"} for row in completions(count, use)]


FORMS = (chat, completions, texts, lambda count, use: rows_of(use, count))


def packed(module: str, rows: int, packing: dict[str, Any], dtype: str) -> dict[str, tuple[str, list[int]]]:
    """Return the tensors of one matrix."""
    own = packing.get(module, packing)
    if not packing:
        return {f"{module}.weight": (dtype, [rows, WIDTH])}
    scales, is_float = [rows, WIDTH // own["group_size"]], "mode" in own
    found = {f"{module}.weight": ("U32", [rows, WIDTH * own["bits"] // 32])}
    found[f"{module}.scales"] = ("U8" if is_float else "F16", scales)
    return found if is_float else found | {f"{module}.biases": ("F16", scales)}


def write(folder: Path, kind: str, packing: str, form: Any) -> Path:
    """Write a project that trains on a model of a few values."""
    base = folder / "base"
    base.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(BASE / name, base / name)
    quantization = PACKINGS[packing]
    dtype = "F16" if quantization else packing
    tensors = packed("model.embed_tokens", VOCABULARY, quantization, dtype) | {"model.norm.weight": (dtype, [WIDTH])}
    for layer in (f"model.layers.{number}" for number in range(N_LAYERS)):
        tensors[f"{layer}.input_layernorm.weight"] = (dtype, [WIDTH])
        for module in ARCHITECTURES[kind]:
            tensors |= packed(f"{layer}.{module}", WIDTH, quantization, dtype)
    (base / "model.safetensors").write_bytes(safetensors(tensors, {"format": "mlx"}))
    config = json.loads((BASE / "config.json").read_text()) | {"model_type": kind, "num_hidden_layers": N_LAYERS}
    config |= {"hidden_size": WIDTH, "vocab_size": VOCABULARY}
    config |= {"quantization": quantization} if quantization else {}
    (base / "config.json").write_text(json.dumps(config))
    for name, count in (("train", 40), ("valid", 8)):
        write_rows(folder / "data" / f"{name}.jsonl", form(count, name))
    lora = {"rank": 8, "scale": 10.0, "dropout": 0.0, "keys": list(ARCHITECTURES[kind][:2])}
    masks = None if form is texts else True
    write_config(
        folder / "lora.yaml", model="base", num_layers=N_LAYERS, iters=20, lora_parameters=lora, mask_prompt=masks
    )
    return folder


FOLDERS = [
    *((kind, "BF16", FORMS[number % len(FORMS)]) for number, kind in enumerate(ARCHITECTURES)),
    *(("llama", packing, FORMS[number % len(FORMS)]) for number, packing in enumerate(PACKINGS)),
]


@pytest.mark.parametrize(("kind", "packing", "form"), FOLDERS)
def test_nothing_is_said_of_a_folder_with_nothing_wrong(tmp_path: Path, kind: str, packing: str, form: Any) -> None:
    found = look(write(tmp_path / "p", kind, packing, form)).report
    assert [finding.sentence for finding in found.findings if finding.severity != "note"] == []
    assert {"3", "6", "8"} <= set(found.checked)


def test_the_clean_set_has_forty_folders_and_a_wrong_key_is_told_where_names_are_known(tmp_path: Path) -> None:
    assert len(FOLDERS) + len(CLEAN) == 40
    folder = write(tmp_path / "p", "phi3", "4 bits", chat)
    lora = {"rank": 8, "scale": 10.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
    write_config(folder / "lora.yaml", model="base", num_layers=N_LAYERS, iters=20, lora_parameters=lora)
    assert [finding.claim for finding in look(folder).report.findings] == ["used_keys"]
