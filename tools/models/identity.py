"""What a model folder holds, whether it is one coherent set, its sizes from headers, and the hash of its weights.

Format: 8 bytes little-endian header length, a JSON object of tensors, then the data. Only the header is read.

Standard library and `state` only, so that the agent can ask without loading anything. Only safetensors headers are
read, apart from hashing. Not covered: whether the weights are any good.

Covered are dense transformers with gated layers, as mlx-lm's llama, qwen, mistral and their like; of mixtures of
experts, state-space models and others nothing is said.
"""

import ast
import importlib.util
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from state.errors import ConfigError
from state.files import UnreadableError, open_regular, read_bounded, whole_number
from state.hashing import HashCache, hash_file, hash_json
from tools.jobs.worker import tick

LFS_POINTER = b"version https://git-lfs.github.com/"
"""How the text begins that Git leaves in place of a large file until it is fetched."""
NOT_FETCHED = "a Git LFS pointer, not the file; run git lfs pull"
MAX_HEADER_BYTES = 25_000_000
"""Of some 200,000 tensors; the format's own bound is four times that, and read it takes thirty times its size."""

_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """One tensor as its file's header declares it."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    """First byte of its data, counted from the end of the header."""
    end: int
    """One past its last byte."""

    @property
    def n_values(self) -> int:
        """Number of stored values; packed weights count once per 32-bit word."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a safetensors file says it holds."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    declared_bytes: int
    """Size that the file must have for its last tensor to be whole."""


class HeaderError(ValueError):
    """A file is not a readable safetensors file; the message says why, without the path."""


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises:
        HeaderError: Too short, a length beyond the file or the format's bound, no JSON object, a tensor whose type,
            shape and byte range disagree, two that share bytes.
        OSError: The file cannot be read.
    """
    try:
        opened = open_regular(path)
    except UnreadableError as error:
        raise HeaderError(str(error)) from error
    with opened as stream:
        size = os.fstat(stream.fileno()).st_size
        prefix = stream.read(8)
        if len(prefix) < 8:  # noqa: PLR2004 - the format's length field
            raise HeaderError(f"it has {size} bytes, fewer than the 8 of a header length")
        length = int.from_bytes(prefix, "little")
        if prefix == LFS_POINTER[:8] and stream.read(len(LFS_POINTER) - 8) == LFS_POINTER[8:]:
            raise HeaderError(NOT_FETCHED)
        if length > size - 8:
            raise HeaderError(f"its header claims {length} bytes, but the file has {size}")
        if length > MAX_HEADER_BYTES:
            raise HeaderError(f"its header has {length:,} bytes, and no model needs more than {MAX_HEADER_BYTES:,}")
        raw = stream.read(length)
    rows = _parse(raw)
    # MLX writes null where it was given no metadata.
    metadata = rows.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise HeaderError("its __metadata__ is not an object")
    tensors = {name: _tensor(name, row) for name, row in rows.items()}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda each: (each[1].begin, each[1].end)):
        if tensor.begin < end:
            raise HeaderError(f"its header lays {name!r} over the bytes of another tensor")
        end = tensor.end
    return Header(tensors, {str(k): str(v) for k, v in metadata.items()}, 8 + length + end)


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        rows = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise HeaderError("its header is not JSON") from error
    if not isinstance(rows, dict):
        raise HeaderError("its header is not a JSON object")
    return rows


_MOST_AXES = 16


def _tensor(name: str, row: Any) -> Tensor:
    """Check one declaration; a header that lies about one tensor is not trusted for the others."""
    try:
        dtype, shape, (begin, end) = str(row["dtype"]), tuple(row["shape"]), row["data_offsets"]
        numbers = (*shape, begin, end)
    except (TypeError, KeyError, ValueError) as error:
        raise HeaderError(f"its header declares {name!r} without dtype, shape and data_offsets") from error
    is_sane = len(shape) <= _MOST_AXES and all(isinstance(n, int) and 0 <= n < 1 << 63 for n in numbers)
    if not is_sane or end < begin:
        raise HeaderError(f"its header declares {name!r} with impossible sizes")
    width = _BYTES.get(dtype)
    if width is None:
        raise HeaderError(f"its header declares {name!r} as {dtype[:20]}, which MLX does not know")
    if math.prod(shape) * width != end - begin:
        raise HeaderError(f"its header declares {name!r} as {dtype}{list(shape)} in {end - begin} bytes")
    return Tensor(dtype, shape, begin, end)


WEIGHTS = "model*.safetensors"
"""What mlx-lm's loader opens: every match, whatever the index says."""

INDEX = "model.safetensors.index.json"

ADAPTER_FILES = ("adapter_config.json", "adapters.safetensors")

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "*.tiktoken")
_TOKENIZER_FILES = (*_TOKENIZERS, "merges.txt", "special_tokens_map.json", "added_tokens.json")
_READ_BY_LOADERS = (
    "config.json", "generation_config.json", WEIGHTS, *_TOKENIZERS, "merges.txt", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template.*", "additional_chat_templates/*", "*.py",
)  # fmt: skip
_SHARD = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Problem:
    """A reason why a model folder is not one coherent set."""

    sentence: str
    """What is wrong, with the fix."""
    detail: dict[str, Any] = field(default_factory=dict)
    """`kind` (stable word) and the figures behind the sentence."""


def model_files(folder: Path) -> list[Path]:
    """Return the files that decide what a model folder generates, in a fixed order; other files do not count."""
    names = {
        path.relative_to(folder).as_posix(): path
        for path in sorted([*folder.glob("*"), *folder.glob("additional_chat_templates/*")])
        if path.is_file()
    }
    return [path for name, path in sorted(names.items()) if any(fnmatch(name, p) for p in _READ_BY_LOADERS)]


def weights_hash(
    model_folder: Path | str,
    adapter_folder: Path | str | None = None,
    cache: HashCache | None = None,
) -> str:
    """Return the identity of the exact weights (and tokenizer) that generate.

    Args:
        model_folder: A model folder.
        adapter_folder: Adapter on top of it; None for the untouched model.
        cache: Known content hashes, so that gigabytes are read once.

    Raises:
        ConfigError: The model folder has no weights, or the adapter folder lacks one of its two files.
    """
    folder = Path(model_folder)
    files = model_files(folder)
    if not any(fnmatch(path.name, WEIGHTS) for path in files):
        raise ConfigError(
            f"{folder} has no {WEIGHTS}; name a folder with MLX weights.", what="model", where=str(folder)
        )
    model = {}
    for path in files:
        model[path.relative_to(folder).as_posix()] = hash_file(path, cache)
        tick()
    adapter: dict[str, str] = {}
    if adapter_folder is not None:
        adapter = _adapter_hashes(Path(adapter_folder), cache)
    return hash_json({"model": model, "adapter": adapter})


def expected_weights(inputs: Mapping[str, Any], adapter: str | None, use: str) -> str:
    """Return the identity of the weights that a job works on.

    Args:
        inputs: The job's input: `model`, and `expect_weights` where a decision was made about certain ones.
        adapter: Folder of the adapter on top of the model.
        use: What the job does with them: "trained on".

    Raises:
        ConfigError: They are not the ones that the decision was made about (failure mode P2), or as `weights_hash`.
    """
    weights, expected = weights_hash(inputs["model"], adapter), inputs.get("expect_weights")
    if expected and expected != weights:
        on_top = f" with adapter {adapter}" if adapter else ""
        raise ConfigError(
            f"The weights in {inputs['model']}{on_top} are {weights[:12]}, but {expected[:12]} were to be {use}: the"
            " folder changed since; restore it, or start a new campaign on the new weights.",
            what="weights",
            value=weights,
            limit=expected,
            where=str(inputs["model"]),
        )
    return weights


def _adapter_hashes(folder: Path, cache: HashCache | None) -> dict[str, str]:
    missing = [name for name in ADAPTER_FILES if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"Adapter folder {folder} lacks {' and '.join(missing)}; train again, or name a complete adapter folder.",
            what="adapter",
            where=str(folder),
        )
    return {name: hash_file(folder / name, cache) for name in ADAPTER_FILES}


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files that decide how text becomes tokens; the chat template is told apart (`chat_template`)."""
    return [path for path in model_files(folder) if any(fnmatch(path.name, pattern) for pattern in _TOKENIZER_FILES)]


MOST_JSON_BYTES = 64 << 20
"""A larger JSON file or template in a model folder is none that a tool wrote; read, it takes many times its size."""


def read_object(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file that others wrote; empty where it is missing or not an object."""
    try:
        value = json.loads(read_bounded(path, MOST_JSON_BYTES).decode("utf-8"), parse_int=whole_number)
    except (UnreadableError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _template_file(path: Path) -> str:
    try:
        return read_bounded(path, MOST_JSON_BYTES).decode("utf-8", "replace")
    except UnreadableError as error:
        raise ConfigError(f"{path} cannot be used: {error}.", what="chat_template", where=str(path)) from error


def chat_template(folder: Path) -> str:
    """Return the text of the chat template (all of them when there are several), or an empty string."""
    files = [_template_file(path) for path in model_files(folder) if path.suffix == ".jinja"]
    values = [
        read_object(folder / name).get("chat_template") for name in ("chat_template.json", "tokenizer_config.json")
    ]
    return "\n".join(files + [v if isinstance(v, str) else json.dumps(v, sort_keys=True) for v in values if v])


def end_tokens(folder: Path) -> list[Any]:
    """Return what ends generation: ids of config.json (overridden by generation_config.json), and the token's text."""
    ids = read_object(folder / "config.json").get("eos_token_id")
    ids = read_object(folder / "generation_config.json").get("eos_token_id", ids)
    token = read_object(folder / "tokenizer_config.json").get("eos_token")
    text = token.get("content") if isinstance(token, dict) else token
    listed = ids if isinstance(ids, list) else [ids]
    return [entry for entry in (*listed, text) if entry is not None]


def _headers(folder: Path) -> dict[str, Header]:
    """Return the readable headers by file name; unreadable files are `coherence_problems`' subject."""
    headers = {}
    for path in sorted(folder.glob(WEIGHTS)):
        try:
            headers[path.name] = read_header(path)
        except (HeaderError, OSError):
            continue
    return headers


def _quantization(config: dict[str, Any]) -> dict[str, Any]:
    value = config.get("quantization")
    return value if isinstance(value, dict) else {}


def _values_per_word(config: dict[str, Any], module: str) -> int:
    """Return how many weights one stored 32-bit word holds."""
    quantization = _quantization(config)
    own = quantization.get(module)
    bits = (own if isinstance(own, dict) else quantization).get("bits")
    return 32 // bits if isinstance(bits, int) and bits > 0 else 1


def _n_parameters(headers: dict[str, Header], config: dict[str, Any]) -> int:
    """Count parameters; a quantized matrix counts its unpacked values, its scales and biases count nothing."""
    tensors = {name: tensor for header in headers.values() for name, tensor in header.tensors.items()}
    total = 0
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        is_quantized = f"{module}.scales" in tensors
        if is_quantized and leaf in ("scales", "biases"):
            continue
        total += tensor.n_values * (_values_per_word(config, module) if is_quantized and leaf == "weight" else 1)
    return total


def describe_model(folder: Path) -> dict[str, Any]:
    """Describe a model folder from its small files and headers; nothing is loaded.

    Returns:
        model_type, n_parameters, n_bytes, quantization, dtypes {dtype: tensors}, dtype (the most frequent float type),
        files, index ("none", "consistent", "inconsistent"), has_tokenizer, has_chat_template, end_tokens.
    """
    config = read_object(folder / "config.json")
    headers = _headers(folder)
    dtypes: dict[str, int] = {}
    for header in headers.values():
        for tensor in header.tensors.values():
            dtypes[tensor.dtype] = dtypes.get(tensor.dtype, 0) + 1
    floats = {name: count for name, count in dtypes.items() if "F" in name}
    index = "none"
    if (folder / INDEX).is_file():
        index = "inconsistent" if any(True for _ in _index_problems(folder, headers)) else "consistent"
    return {
        "model_type": config.get("model_type"),
        "n_parameters": _n_parameters(headers, config),
        "n_bytes": sum((folder / name).stat().st_size for name in headers),
        "quantization": config.get("quantization"),
        "dtypes": dtypes,
        "dtype": max(floats, key=lambda name: floats[name], default=None),
        "files": [path.relative_to(folder).as_posix() for path in model_files(folder)],
        "index": index,
        "has_tokenizer": has_tokenizer(folder),
        "has_chat_template": bool(chat_template(folder)),
        "end_tokens": end_tokens(folder),
    }


def has_tokenizer(folder: Path) -> bool:
    """Say whether any tokenizer that mlx-lm can open is there."""
    return any(any(folder.glob(pattern)) for pattern in _TOKENIZERS)


def coherence_problems(folder: Path) -> list[Problem]:
    """Return why a model folder is not one coherent set; empty when it is.

    mlx-lm loads every `model*.safetensors` and lets the last one read win, so a file left by an earlier save can
    replace weights without an error (facts/mlx_training.md 2c). Each problem's `detail["kind"]` is one of
    no_folder, no_config, no_tokenizer, no_weights, unreadable, truncated, index, writers, dtypes, type, code, format,
    vocabulary.
    """
    if not folder.is_dir():
        return [Problem(f"Model folder {folder} does not exist; check the path.", {"kind": "no_folder"})]
    problems = list(_missing_parts(folder))
    problems += _damaged_files(folder)
    headers = _headers(folder)
    problems += _index_problems(folder, headers)
    problems += _writer_problems(folder, headers)
    foreign = list(_foreign_problems(folder, headers))
    # Packed weights of another library change their dtype from layer to layer as they should.
    problems += foreign or _dtype_problems(folder, headers)
    problems += _vocabulary_problems(folder, headers)
    return problems


_READ_METHODS = frozenset({"awq", "bitnet", "compressed-tensors", "fp8", "gptq", "modelopt", "mxfp4", "mxfp8"})
"""Values of `quantization_config.quant_method` that mlx-lm 0.32 loads."""
_PACKED = frozenset({"U8", "I8", "I32", "U32"})


def _foreign_problems(folder: Path, headers: dict[str, Header]) -> Iterator[Problem]:
    """Find what the installed mlx-lm cannot build: an unknown type, code of the model's own, foreign packing."""
    config = read_object(folder / "config.json")
    kind, code = config.get("model_type"), config.get("model_file")
    if isinstance(code, str):
        yield Problem(
            f"{folder} builds its network by code of its own ({code}), which Vigil never runs. "
            "Take a model of a type that mlx-lm has itself.",
            {"kind": "code", "file": code},
        )
    elif isinstance(kind, str) and (known := known_types()) and kind not in known:
        yield Problem(
            f"{folder} is of the type {kind[:60]!r}, which the installed mlx-lm has no module for. "
            "Update mlx-lm, or take a model of a type that it has.",
            {"kind": "type", "model_type": kind[:60]},
        )
    named = read_object(folder / "tokenizer_config.json")
    asked, own = (_mapping(named, "auto_map") or {}).get("AutoTokenizer"), str(named.get("tokenizer_class"))
    if asked and (known := _known_tokenizers()) and not {f'"{own}"', f'"{own.removesuffix("Fast")}"'} & known:
        yield Problem(
            f"{folder} makes its tokens by code of its own ({own[:60]}), which Vigil never runs. "
            "Take a model whose tokenizer is one of transformers' own.",
            {"kind": "code", "file": "tokenizer_config.json"},
        )
    method = (_mapping(config, "quantization_config") or {}).get("quant_method")
    dtypes = {tensor.dtype for header in headers.values() for tensor in header.tensors.values()}
    if method and str(method) not in _READ_METHODS and not _mapping(config, "quantization") and dtypes & _PACKED:
        yield Problem(
            f"{folder} holds weights packed by {str(method)[:40]}, which mlx-lm cannot read; fetching them again "
            "changes nothing. Take the 16-bit model, or one that was converted for MLX.",
            {"kind": "format", "quant_method": str(method)[:40]},
        )


@cache
def _known_tokenizers() -> frozenset[str]:
    """Return the quoted words of what lists transformers' tokenizers, not importing it; empty where it is not there."""
    spec = importlib.util.find_spec("transformers")
    listed = Path(spec.origin).parent / "models/auto/tokenization_auto.py" if spec and spec.origin else None
    if listed is None or not listed.is_file():
        return frozenset()
    return frozenset(re.findall(r'"\w+"', listed.read_text(encoding="utf-8"))) | {'"PreTrainedTokenizer"'}


def code_in(folder: Path) -> str:
    """Return a sentence about code that lies in a model folder; empty where there is none."""
    files = sorted(path.name for path in folder.glob("*.py"))
    maps = [name for name in ("config.json", "tokenizer_config.json") if "auto_map" in read_object(folder / name)]
    found = [*files, *(f"`auto_map` of {name}" for name in maps)]
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return f"It holds code, which is never run: {', '.join(found[:_MOST_NAMED])}{more}." if found else ""


_MOST_NAMED = 4


def _mapping(config: dict[str, Any], key: str) -> dict[str, Any] | None:
    value = config.get(key)
    return value if isinstance(value, dict) and value else None


@cache
def known_types() -> frozenset[str]:
    """Return the model types that the installed mlx-lm builds, not importing it; empty where it is not installed."""
    spec = importlib.util.find_spec("mlx_lm")
    root = Path(spec.origin).parent if spec is not None and spec.origin else None
    if root is None:
        return frozenset()
    renamed: dict[str, str] = {}
    for node in ast.parse((root / "utils.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODEL_REMAPPING":
            renamed = ast.literal_eval(node.value)
    return frozenset({*(path.stem for path in (root / "models").glob("*.py")), *renamed})


def _vocabulary_problems(folder: Path, headers: dict[str, Header]) -> Iterator[Problem]:
    """Find tokens of the template, or those that end an answer, whose ids have no row in the embedding."""
    rows = [
        tensor.shape[0]
        for header in headers.values()
        for name, tensor in header.tensors.items()
        if name.endswith("embed_tokens.weight") and len(tensor.shape) == 2  # noqa: PLR2004 - a matrix
    ]
    added = read_object(folder / "tokenizer.json").get("added_tokens")
    if len(rows) != 1 or not isinstance(added, list):
        return
    beyond = {
        str(token.get("content")): token["id"]
        for token in added
        if isinstance(token, dict) and isinstance(token.get("id"), int) and token["id"] >= rows[0]
    }
    if not beyond:
        return
    template, ends = chat_template(folder), end_tokens(folder)
    used = sorted(text for text, number in beyond.items() if text in template or text in ends or number in ends)
    if used:
        listed = ", ".join(f"{text[:40]!r} ({beyond[text]})" for text in used[:3])
        yield Problem(
            f"{folder}: its template writes {listed}, and its embedding has {rows[0]:,} rows, 0 to {rows[0] - 1:,}: "
            "MLX reads memory beyond them without an error. Take the tokenizer that belongs to these weights, or a "
            "model with rows for these tokens.",
            {"kind": "vocabulary", "rows": rows[0], "tokens": used[:10]},
        )


def _missing_parts(folder: Path) -> Iterator[Problem]:
    if not read_object(folder / "config.json"):
        yield Problem(f"{folder} has no readable config.json; save the model again.", {"kind": "no_config"})
    if not has_tokenizer(folder):
        yield Problem(
            f"{folder} has no tokenizer (tokenizer.json or tokenizer.model); copy it from the model it came from.",
            {"kind": "no_tokenizer"},
        )
    if not any(folder.glob(WEIGHTS)):
        others = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".safetensors", ".gguf", ".npz"))
        hint = f" (found {', '.join(others)}; convert with mlx_lm.convert)" if others else ""
        yield Problem(f"{folder} has no {WEIGHTS}{hint}.", {"kind": "no_weights", "others": others})


def odd_file(folder: Path) -> str:
    """Return what in a model folder could not be read to its end, such as a pipe; empty where all can."""
    try:
        odd = [
            file.name for file in sorted(folder.iterdir()) if file.exists() and not (file.is_file() or file.is_dir())
        ]
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    return f"{odd[0]} is no regular file" if odd else ""


def _damaged_files(folder: Path) -> Iterator[Problem]:
    if odd := odd_file(folder):
        yield Problem(f"{folder}: {odd}; download or save it again.", {"kind": "unreadable"})
    for path in sorted(folder.glob(WEIGHTS)):
        try:
            header, size = read_header(path), path.stat().st_size
        except (HeaderError, OSError) as error:
            yield Problem(
                f"{path} cannot be read as safetensors: {error}; download or save it again.",
                {"kind": "unreadable", "file": path.name},
            )
            continue
        if size != header.declared_bytes:
            yield Problem(
                f"{path} has {size} bytes where its header declares {header.declared_bytes};"
                " download or save it again.",
                {"kind": "truncated", "file": path.name, "bytes": size, "declared_bytes": header.declared_bytes},
            )


def _index_problems(folder: Path, headers: dict[str, Header]) -> Iterator[Problem]:
    """Compare the index with what the files hold; without an index there is nothing to compare."""
    if not (folder / INDEX).is_file():
        return
    weight_map = read_object(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        yield Problem(f"{folder / INDEX} has no weight_map; save the model again.", {"kind": "index", "file": INDEX})
        return
    named = {str(name) for name in weight_map.values()}
    on_disk = {path.name for path in folder.glob(WEIGHTS)}
    if missing := sorted(named - on_disk):
        yield Problem(
            f"{folder}: the index names {', '.join(missing)}, which is not there; download or save the model again.",
            {"kind": "index", "missing": missing},
        )
    if stale := sorted(on_disk - named):
        yield Problem(
            f"{folder}: {', '.join(stale)} is not in the index, yet mlx-lm loads it and may prefer its weights;"
            " remove it, or save the model into an empty folder.",
            {"kind": "index", "stale": stale},
        )
    elsewhere = sorted(
        str(tensor)
        for tensor, file in weight_map.items()
        if str(file) in headers and tensor not in headers[str(file)].tensors
    )
    if elsewhere:
        yield Problem(
            f"{folder}: the index places {len(elsewhere)} tensors (first: {elsewhere[0]}) in files that do not hold"
            " them; save the model again into an empty folder.",
            {"kind": "index", "n_misplaced": len(elsewhere), "first": elsewhere[0]},
        )


def _writer_problems(folder: Path, headers: dict[str, Header]) -> Iterator[Problem]:
    """Find traces of two saves in one folder."""
    writers: dict[str, str] = {}
    twice: list[tuple[str, str, str]] = []
    for file, header in headers.items():
        for tensor in header.tensors:
            if tensor in writers:
                twice.append((tensor, writers[tensor], file))
            writers[tensor] = file
    if twice:
        tensor, first, second = twice[0]
        yield Problem(
            f"{folder}: {len(twice)} tensors are in two files (first: {tensor} in {first} and {second}), and which one"
            " counts depends on the order of reading; save the model into an empty folder.",
            {"kind": "writers", "n_twice": len(twice), "tensor": tensor, "files": [first, second]},
        )
    totals = sorted({match[2] for name in headers if (match := _SHARD.fullmatch(name))})
    formats = sorted({header.metadata["format"] for header in headers.values() if "format" in header.metadata})
    for what, values in (("numbers of shards", totals), ("formats", formats)):
        if len(values) > 1:
            yield Problem(
                f"{folder}: its weight files come from saves with different {what} ({', '.join(values)});"
                " save the model into an empty folder.",
                {"kind": "writers", what.replace(" ", "_"): values},
            )


def _dtype_problems(folder: Path, headers: dict[str, Header]) -> Iterator[Problem]:
    """Find one kind of tensor stored in two dtypes across layers; a norm kept in float32 everywhere is no problem."""
    quantization = _quantization(read_object(folder / "config.json"))
    if any(isinstance(value, dict | bool) for value in quantization.values()):
        return  # the config itself says that layers differ
    by_kind: dict[str, dict[str, str]] = {}
    for header in headers.values():
        for name, tensor in header.tensors.items():
            by_kind.setdefault(_NUMBER.sub("#", name), {}).setdefault(tensor.dtype, name)
    mixed = {kind: dtypes for kind, dtypes in by_kind.items() if len(dtypes) > 1}
    if mixed:
        examples = next(iter(mixed.values()))
        listed = ", ".join(f"{name} as {dtype}" for dtype, name in sorted(examples.items()))
        yield Problem(
            f"{folder}: {len(mixed)} kinds of tensors change their dtype between layers (first: {listed});"
            " the files come from different saves.",
            {"kind": "dtypes", "n_kinds": len(mixed), "examples": examples},
        )


_OF_OTHERS = ("num_experts", "num_local_experts", "n_routed_experts", "state_size", "ssm_cfg", "conv_kernel")
_SIZES = {
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "vocab": "vocab_size",
}
_BYTES_OF_DTYPE = {"float32": 4, "float16": 2, "bfloat16": 2, "F32": 4, "F16": 2, "BF16": 2}


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
    by_name = {name: config.get(key) for name, key in _SIZES.items()}
    if any(not isinstance(size, int) or size < 1 for size in by_name.values()) or any(
        config.get(k) for k in _OF_OTHERS
    ):
        return None
    sizes = {name: int(size or 0) for name, size in by_name.items()}
    head = config.get("head_dim")
    head = head if isinstance(head, int) else sizes["hidden"] // sizes["heads"]
    key_heads = config.get("num_key_value_heads")
    key_heads = key_heads if isinstance(key_heads, int) else sizes["heads"]
    facts = describe_model(folder)
    value_bytes = _BYTES_OF_DTYPE.get(dtype or str(facts["dtype"]), 2)
    is_cast = dtype is not None and facts["quantization"] is None
    return {
        **sizes,
        "attention": sizes["heads"] * head,
        "kv": key_heads * head,
        "value_bytes": value_bytes,
        "weights_gb": (facts["n_parameters"] * value_bytes if is_cast else facts["n_bytes"]) / 1e9,
    }
