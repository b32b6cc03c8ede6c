"""Model folders made of real safetensors bytes, a few values each; nothing here can generate."""

import json
import struct
from pathlib import Path
from typing import Any

WIDTHS = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4, "U8": 1}


def safetensors(tensors: dict[str, tuple[str, list[int]]], metadata: dict[str, str] | None = None) -> bytes:
    """Return the bytes of a safetensors file whose values are all zero."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    begin = 0
    for name, (dtype, shape) in tensors.items():
        size = WIDTHS[dtype]
        for axis in shape:
            size *= axis
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + size]}
        begin += size
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(begin)


def lying(header: object, length: int | None = None, data: bytes = b"") -> bytes:
    """Return a file with any header text and any claimed length."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def write_model(folder: Path, **changes: Any) -> Path:
    """Write a coherent folder of two shards with an index; `changes` are files by name, None removes one."""
    first = {
        "embed.weight": ("F16", [4, 2]),
        "layers.0.w.weight": ("F16", [2, 2]),
        "layers.0.norm.weight": ("F32", [2]),
    }
    second = {"layers.1.w.weight": ("F16", [2, 2]), "layers.1.norm.weight": ("F32", [2])}
    shards = {"model-00001-of-00002.safetensors": first, "model-00002-of-00002.safetensors": second}
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    files: dict[str, bytes | str | None] = {
        "config.json": json.dumps({"model_type": "llama", "eos_token_id": 1}),
        "tokenizer.json": "{}",
        "tokenizer_config.json": json.dumps({"eos_token": "<end>", "chat_template": "{{ messages }}"}),
        "model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": weight_map}),
        **{name: safetensors(tensors, {"format": "mlx"}) for name, tensors in shards.items()},
    }
    files |= changes
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if content is not None:
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder
