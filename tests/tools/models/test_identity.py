import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from state.errors import ConfigError
from state.hashing import HashCache
from tests.tools.models.folders import lying, safetensors, write_model
from tools.models.identity import HeaderError, code_in, coherence_problems, describe_model, read_header, weights_hash


def kinds(folder: Path) -> list[str]:
    return [problem.detail["kind"] for problem in coherence_problems(folder)]


def test_a_coherent_folder_has_no_problems_and_is_described_from_its_headers(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    assert coherence_problems(folder) == []
    seen = describe_model(folder)
    assert (seen["model_type"], seen["n_parameters"], seen["dtype"]) == ("llama", 20, "F16")
    assert seen["dtypes"] == {"F16": 3, "F32": 2}
    assert (seen["index"], seen["has_tokenizer"], seen["has_chat_template"]) == ("consistent", True, True)
    assert seen["end_tokens"] == [1, "<end>"]


def test_generation_config_overrides_the_end_tokens_as_in_mlx_lm(tmp_path: Path) -> None:
    folder = write_model(tmp_path, **{"generation_config.json": '{"eos_token_id": [7, 8]}'})
    assert describe_model(folder)["end_tokens"] == [7, 8, "<end>"]


def test_quantized_matrices_count_their_unpacked_values(tmp_path: Path) -> None:
    packed = {"a.weight": ("U32", [8, 4]), "a.scales": ("F16", [8, 1]), "a.biases": ("F16", [8, 1])}
    tensors = packed | {"n.weight": ("F16", [8])}
    config = json.dumps({"model_type": "llama", "quantization": {"bits": 4, "group_size": 32}})
    folder = write_model(tmp_path, **{"config.json": config, "model.safetensors.index.json": None})
    for shard in folder.glob("model-*"):
        shard.unlink()
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    seen = describe_model(folder)
    assert seen["n_parameters"] == 8 * 4 * 8 + 8
    assert (seen["index"], seen["quantization"]["bits"]) == ("none", 4)
    assert coherence_problems(folder) == []


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"tokenizer.json": None}, "no_tokenizer"),
        ({"config.json": None}, "no_config"),
        ({"config.json": "[1]"}, "no_config"),
        ({"model.safetensors.index.json": "{}"}, "index"),
        ({"model-00001-of-00002.safetensors": b"short"}, "unreadable"),
    ],
)
def test_each_missing_or_broken_part_is_named(tmp_path: Path, changes: dict[str, str | None], kind: str) -> None:
    assert kind in kinds(write_model(tmp_path / "m", **changes))


def test_missing_weights_name_the_convertible_files_that_are_there(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    for shard in folder.glob("model-*"):
        shard.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")
    (folder / "model.safetensors.index.json").unlink()
    [problem] = coherence_problems(folder)
    assert problem.detail == {"kind": "no_weights", "others": ["pytorch_model.bin"]}
    assert "mlx_lm.convert" in problem.sentence


def test_a_folder_that_does_not_exist_is_one_problem(tmp_path: Path) -> None:
    assert kinds(tmp_path / "none") == ["no_folder"]


def test_a_stale_single_file_beside_shards_is_found_twice_over(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    (folder / "model.safetensors").write_bytes(safetensors({"embed.weight": ("F16", [4, 2])}, {"format": "mlx"}))
    problems = {problem.detail["kind"]: problem for problem in coherence_problems(folder)}
    assert problems["index"].detail["stale"] == ["model.safetensors"]
    assert problems["writers"].detail["tensor"] == "embed.weight"


def test_a_stale_shard_of_an_earlier_save_is_found_without_an_index(tmp_path: Path) -> None:
    folder = write_model(tmp_path, **{"model.safetensors.index.json": None})
    (folder / "model-00003-of-00003.safetensors").write_bytes(safetensors({"other.weight": ("F16", [1])}))
    [problem] = coherence_problems(folder)
    assert problem.detail == {"kind": "writers", "numbers_of_shards": ["00002", "00003"]}


def test_files_of_two_formats_have_two_writers(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    other = safetensors({"layers.1.w.weight": ("F16", [2, 2]), "layers.1.norm.weight": ("F32", [2])}, {"format": "pt"})
    (folder / "model-00002-of-00002.safetensors").write_bytes(other)
    assert kinds(folder) == ["writers"]


def test_a_shard_named_by_the_index_but_absent_is_found(tmp_path: Path) -> None:
    folder = write_model(tmp_path, **{"model-00002-of-00002.safetensors": None})
    [problem] = coherence_problems(folder)
    assert problem.detail == {"kind": "index", "missing": ["model-00002-of-00002.safetensors"]}


def test_an_index_that_misplaces_tensors_is_found(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    other = safetensors({"layers.1.w.weight": ("F16", [2, 2])}, {"format": "mlx"})
    (folder / "model-00002-of-00002.safetensors").write_bytes(other)
    [problem] = coherence_problems(folder)
    assert problem.detail == {"kind": "index", "n_misplaced": 1, "first": "layers.1.norm.weight"}
    assert describe_model(folder)["index"] == "inconsistent"


def test_one_kind_of_matrix_in_two_dtypes_is_found_and_float32_norms_are_not(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    mixed = {"layers.1.w.weight": ("F32", [2, 2]), "layers.1.norm.weight": ("F32", [2])}
    (folder / "model-00002-of-00002.safetensors").write_bytes(safetensors(mixed, {"format": "mlx"}))
    [problem] = coherence_problems(folder)
    assert problem.detail["examples"] == {"F16": "layers.0.w.weight", "F32": "layers.1.w.weight"}


def test_a_config_that_quantizes_layers_differently_explains_mixed_dtypes(tmp_path: Path) -> None:
    config = json.dumps({"model_type": "llama", "quantization": {"bits": 4, "layers.1.w": False}})
    folder = write_model(tmp_path, **{"config.json": config})
    mixed = {"layers.1.w.weight": ("F32", [2, 2]), "layers.1.norm.weight": ("F32", [2])}
    (folder / "model-00002-of-00002.safetensors").write_bytes(safetensors(mixed, {"format": "mlx"}))
    assert coherence_problems(folder) == []


def test_a_truncated_file_is_told_with_both_sizes(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    path = folder / "model-00002-of-00002.safetensors"
    whole = path.stat().st_size
    os.truncate(path, whole - 3)
    [problem] = coherence_problems(folder)
    assert problem.detail["kind"] == "truncated"
    assert (problem.detail["bytes"], problem.detail["declared_bytes"]) == (whole - 3, whole)


TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def test_metadata_that_mlx_left_null_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(lying({"__metadata__": None, "a": TENSOR}, data=bytes(4)))
    assert read_header(path).metadata == {}
    assert list(read_header(path).tensors) == ["a"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "fewer than the 8"),
        (lying({}, length=1 << 62), "claims 4611686018427387904 bytes"),
        (lying({}, length=3), "claims 3 bytes"),
        (lying(b"{nonsense"), "not JSON"),
        (lying(b"[" * 100_000), "not JSON"),
        (lying([1]), "not a JSON object"),
        (lying({"__metadata__": [1]}), "__metadata__"),
        (lying({"a": 3}), "without dtype, shape and data_offsets"),
        (lying({"a": TENSOR | {"data_offsets": [4, 0]}}), "impossible sizes"),
        (lying({"a": TENSOR | {"shape": [-1]}}), "impossible sizes"),
        (lying({"a": TENSOR | {"shape": ["1"]}}), "impossible sizes"),
        (lying({"a": TENSOR | {"shape": [9] * 99_999}}), "impossible sizes"),
        (lying({"a": TENSOR | {"shape": [0, 10**400]}}), "impossible sizes"),
        (lying(b"[" * 25_000_001), "its header has 25,000,001 bytes"),
        (lying({"a": TENSOR | {"shape": [10**9, 10**9]}}, data=bytes(4)), "F32[1000000000, 1000000000] in 4 bytes"),
    ],
)
def test_a_lying_header_is_refused_without_reading_what_it_claims(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(HeaderError) as caught:
        read_header(path)
    assert why in str(caught.value)


def test_every_file_that_changes_generation_changes_the_hash_and_no_other_does(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    before = weights_hash(folder)
    (folder / "README.md").write_text("about")
    assert weights_hash(folder) == before
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "model-00001-of-00002.safetensors"):
        path = folder / name
        path.write_bytes((path.read_bytes() if path.exists() else b"") + b" ")
        after = weights_hash(folder)
        assert after != before, name
        before = after


def test_an_adapter_changes_the_hash_and_an_incomplete_one_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapters.safetensors").write_bytes(safetensors({"a": ("F32", [1])}))
    with pytest.raises(ConfigError, match=r"lacks adapter_config\.json"):
        weights_hash(folder, adapter)
    (adapter / "adapter_config.json").write_text("{}")
    with_adapter = weights_hash(folder, adapter)
    (adapter / "run.json").write_text("{}")
    assert weights_hash(folder) != with_adapter == weights_hash(folder, adapter)


def test_a_folder_without_weights_has_no_hash(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no model"):
        weights_hash(tmp_path)


def test_known_hashes_are_not_read_again(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    cache = HashCache()
    first = weights_hash(folder, cache=cache)
    assert len(cache.dump()) == 5, "all but the index, which the loader does not follow"
    poisoned = HashCache(dict.fromkeys(cache.dump(), "0" * 64))
    assert weights_hash(folder, cache=poisoned) != first


def test_identity_needs_no_outside_package(tmp_path: Path) -> None:
    code = "import sys, tools.models.identity, tools.models.hub; print([m for m in ('mlx', 'numpy', 'transformers', 'huggingface_hub') if m in sys.modules])"  # noqa: E501 - one statement for -c
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("tokenizer", "found"),
    [
        ({"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "tok.OwnTokenizer"]}}, ["code"]),
        ({"tokenizer_class": "LlamaTokenizerFast", "auto_map": {"AutoTokenizer": [None, "tok.X"]}}, []),
        ({"tokenizer_class": "OwnTokenizer"}, []),
    ],
)
def test_code_in_a_folder_is_named_and_stops_where_it_would_have_to_run(
    tmp_path: Path, tokenizer: dict[str, object], found: list[str]
) -> None:
    folder = write_model(tmp_path, **{"tokenizer_config.json": json.dumps(tokenizer)})
    assert ("tokenizer_config.json" in code_in(folder)) == ("auto_map" in tokenizer)
    (folder / "tok.py").write_text("raise SystemExit('run')")
    assert kinds(folder) == found
    assert "which is never run: tok.py" in code_in(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"])
def test_a_pipe_or_device_in_a_folder_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    folder = write_model(tmp_path / "m")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("/dev/zero")
    assert "unreadable" in kinds(folder) or "no_config" in kinds(folder)
