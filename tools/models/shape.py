"""The sizes of a model that decide what training it takes in memory, from config.json and the headers alone.

Covered are dense transformers with gated layers, as mlx-lm's llama, qwen, mistral and their like; of mixtures of
experts, state-space models and others nothing is said.
"""

from pathlib import Path
from typing import Any

from tools.models.identity import describe_model, read_object

_OF_OTHERS = ("num_experts", "num_local_experts", "n_routed_experts", "state_size", "ssm_cfg", "conv_kernel")
_SIZES = {
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "vocab": "vocab_size",
}
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "F32": 4, "F16": 2, "BF16": 2}


def read_shape(folder: Path, dtype: str | None = None) -> dict[str, Any] | None:
    """Return a model's sizes, None where it is of a kind whose memory is not understood.

    Args:
        folder: Model folder.
        dtype: What its weights are turned into on loading; None leaves them.

    Returns:
        hidden, intermediate, layers, heads, attention (values of all heads), kv (values of all key heads), vocab,
        value_bytes (of an activation), weights_gb.
    """
    config = read_object(folder / "config.json")
    text = config.get("text_config")
    config = text if isinstance(text, dict) else config
    found = {name: config.get(key) for name, key in _SIZES.items()}
    if any(not isinstance(size, int) or size < 1 for size in found.values()) or any(config.get(k) for k in _OF_OTHERS):
        return None
    sizes = {name: int(size or 0) for name, size in found.items()}
    head = config.get("head_dim")
    head = head if isinstance(head, int) else sizes["hidden"] // sizes["heads"]
    key_heads = config.get("num_key_value_heads")
    key_heads = key_heads if isinstance(key_heads, int) else sizes["heads"]
    facts = describe_model(folder)
    value_bytes = _BYTES.get(dtype or str(facts["dtype"]), 2)
    is_cast = dtype is not None and facts["quantization"] is None
    return {
        **sizes,
        "attention": sizes["heads"] * head,
        "kv": key_heads * head,
        "value_bytes": value_bytes,
        "weights_gb": (facts["n_parameters"] * value_bytes if is_cast else facts["n_bytes"]) / 1e9,
    }
