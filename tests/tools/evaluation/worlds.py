"""A random Llama of 40,000 parameters with a real tokenizer, and job folders for the evaluation workers.

Made without MLX, so that only the workers under test import it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
END = 1
WIDTH, LAYERS, HIDDEN = 32, 2, 64

WORKER_ENV = {
    "MLX_DISABLE_COMPILE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}


def make_model(folder: Path, seed: int = 0, *, template: str | None = TEMPLATE, ends: tuple[int, ...] = (END,)) -> Path:
    """Write a model folder; one token per byte, so that token counts can be told by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "pad_token": "<|pad|>"}
    if template is not None:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = {
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": len(vocabulary),
        "tie_word_embeddings": True,
        "eos_token_id": list(ends),
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(_weights(seed, len(vocabulary)), folder / "model.safetensors", metadata={"format": "mlx"})
    return folder


def _weights(seed: int, n_tokens: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> Any:
        return rng.normal(0, 0.3, (rows, columns)).astype(np.float32)

    tensors = {"model.embed_tokens.weight": matrix(n_tokens, WIDTH), "model.norm.weight": np.ones(WIDTH, np.float32)}
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        tensors |= {f"{stem}.self_attn.{name}_proj.weight": matrix(WIDTH, WIDTH) for name in "qkvo"}
        tensors |= {f"{stem}.mlp.{name}_proj.weight": matrix(HIDDEN, WIDTH) for name in ("gate", "up")}
        tensors[f"{stem}.mlp.down_proj.weight"] = matrix(WIDTH, HIDDEN)
        tensors |= {
            f"{stem}.{name}_layernorm.weight": np.ones(WIDTH, np.float32) for name in ("input", "post_attention")
        }
    return tensors


def make_adapter(folder: Path, seed: int = 5, scale: float = 20.0) -> Path:
    """Write a LoRA adapter of rank 2 on the queries and values of the random model."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    tensors = {}
    for layer in range(LAYERS):
        for name in ("q_proj", "v_proj"):
            stem = f"model.layers.{layer}.self_attn.{name}"
            tensors[f"{stem}.lora_a"] = rng.normal(0, 0.3, (WIDTH, 2)).astype(np.float32)
            tensors[f"{stem}.lora_b"] = rng.normal(0, 0.3, (2, WIDTH)).astype(np.float32)
    save_file(tensors, folder / "adapters.safetensors")
    lora = {"rank": 2, "scale": scale, "dropout": 0.0, "keys": ["self_attn.q_proj", "self_attn.v_proj"]}
    config = {"fine_tune_type": "lora", "num_layers": LAYERS, "lora_parameters": lora}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a JSON-lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


GRADER = """
def grade(case, text):
    gold = case.get("reference") or ""
    same = sum(a == b for a, b in zip(gold, text))
    return {"exact": float(text == gold), "share": same / len(gold) if gold else None, "length": float(len(text))}
"""


def make_job(folder: Path, inputs: dict[str, Any]) -> Path:
    """Write a job folder as a supervisor finds it."""
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps({"key": folder.name, "kind": "evaluation", "input": inputs}))
    return folder


def start(module: str, job: Path, **env: str) -> subprocess.Popen[str]:
    """Start a worker process."""
    argv = [sys.executable, "-m", module, str(job)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(argv, text=True, env=os.environ | WORKER_ENV | env, **pipes)  # type: ignore[call-overload,no-any-return]


def work(module: str, job: Path, expected: int = 0) -> dict[str, Any]:
    """Run a worker to its end; return result.json, or error.json when it is to fail."""
    process = start(module, job)
    output = process.communicate()[0]
    assert process.returncode == expected, output
    name = "result.json" if expected == 0 else "error.json"
    return dict(json.loads((job / name).read_text()))


def case_rows(job: Path) -> list[dict[str, Any]]:
    """Return the stored cases of a job."""
    return [json.loads(line) for line in (job / "out" / "cases.jsonl").read_text().splitlines()]
