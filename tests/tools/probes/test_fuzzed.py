"""Configurations, adapters and models of strangers with each field replaced by what no tool wrote: no traceback."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.audit import audit, sarif
from tests.tools.models.folders import safetensors, write_model
from tests.tools.probes.looks import project

BAD: list[Any] = [-1, 10**18, 1e308, "\x1b[31m\u202e", [], {}, None, [[]] * 3, 10**400, {"a": {"b": []}}]
LORA = {"rank": 8, "scale": 20.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
FILES: dict[str, dict[str, Any]] = {
    "lora.json": {
        "model": "model", "train": True, "data": "data", "iters": 10, "batch_size": 1, "num_layers": 2, "seed": 1,
        "adapter_path": "adapters", "resume_adapter_file": "adapters/adapters.safetensors", "lora_parameters": LORA,
        "lr_schedule": {"name": "cosine_decay", "arguments": [1e-5, 100], "warmup": 3}, "max_seq_length": 128,
        "optimizer": "adam", "optimizer_config": {"adam": {"betas": [0.9, 0.99]}}, "mask_prompt": True,
        "learning_rate": 1e-5, "steps_per_eval": 5, "val_batches": 1, "grad_accumulation_steps": 1,
    },
    "adapters/adapter_config.json": {
        "fine_tune_type": "lora", "num_layers": 2, "lora_parameters": LORA, "model": "model", "iters": 10,
    },
    "model/config.json": {
        "model_type": "llama", "eos_token_id": 1, "num_hidden_layers": 2, "vocab_size": 4, "architectures": ["X"],
        "quantization": {"bits": 4, "group_size": 32}, "quantization_config": {"quant_method": "awq"},
    },
    "model/tokenizer_config.json": {
        "chat_template": "x", "eos_token": "<end>", "tokenizer_class": "X",
        "auto_map": {"AutoTokenizer": [None, "t.X"]},
    },
    "model/generation_config.json": {"eos_token_id": [1, 2]},
    "model/model.safetensors.index.json": {"metadata": {}, "weight_map": {"a": "model.safetensors"}},
}  # fmt: skip


def _places(value: Any, *above: str) -> Iterator[tuple[str, ...]]:
    yield above
    for key in value if isinstance(value, dict) else ():
        yield from _places(value[key], *above, key)


def _with(value: Any, place: tuple[str, ...], new: Any) -> Any:
    return {**value, place[0]: _with(value[place[0]], place[1:], new)} if place else new


@pytest.mark.parametrize("name", FILES)
def test_a_field_that_holds_what_no_tool_wrote_is_no_traceback(tmp_path: Path, name: str) -> None:
    rows = [{"prompt": "a b", "completion": "c"}] * 6
    folder = project(tmp_path / "p", data__train_jsonl=rows, data__valid_jsonl=rows)
    write_model(folder / "model")
    (folder / "adapters").mkdir()
    shapes = {f"model.layers.0.self_attn.q_proj.lora_{side}": ("F32", [4, 4]) for side in "ab"}
    (folder / "adapters" / "adapters.safetensors").write_bytes(safetensors(shapes))
    for each, value in FILES.items():
        (folder / each).write_text(json.dumps(value))
    places = list(_places(FILES[name]))
    # Each place with what cannot be looked up in a set, and with one of the others: all places and values, few audits.
    for turn in range(2):
        for place, where in enumerate(places):
            bad = BAD[place % len(BAD)] if turn else {"a": []}
            (folder / name).write_text(json.dumps(_with(FILES[name], where, bad)))
            told = json.dumps(sarif(audit(folder), "0"), ensure_ascii=False)
            assert "\x1b" not in told, (where, bad)
