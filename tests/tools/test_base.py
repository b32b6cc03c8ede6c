"""The shipped tiny base and its data: what they are, that they open anywhere, and that the base has its fault."""

import importlib.util
import json
import os
import re
import struct
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from state.hashing import hash_file
from tools.graders.spreadsheet_clean.generate import generate_case
from tools.machine.blas import worker_env

QUICKSTART = Path(__file__).parents[2] / "runbooks" / "quickstart"
BASE, DATA = QUICKSTART / "base", QUICKSTART / "data"
SPLITS = {
    "regular_selection": 40, "regular_confirmation": 60, "stress_selection": 40, "stress_confirmation": 40,
}  # fmt: skip


@cache
def script(path: Path) -> ModuleType:
    """Return a program of the runbooks as a module."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def rows_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]


def child(*command: str) -> str:
    # Greedy float32 answers on the CPU are the same wherever OpenBLAS is found or not; only the time differs.
    env = {**os.environ, **worker_env(), "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(
        [sys.executable, *command], env=env, capture_output=True, text=True, timeout=500, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@cache
def tokenizer() -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(BASE / "tokenizer.json"))


def test_the_data_are_what_their_script_writes(tmp_path: Path) -> None:
    child(str(QUICKSTART / "make_data.py"), "--out", str(tmp_path))
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in DATA.iterdir()}
    assert sum(map(len, made.values())) < 3e6


def test_no_table_stands_in_two_files_or_twice_in_one() -> None:
    prompts = [row["prompt"] for name in SPLITS for row in rows_of(name)]
    prompts += [row["messages"][0]["content"] for name in ("train", "valid") for row in rows_of(name)]
    assert Counter(prompts).most_common(1)[0][1] == 1


@pytest.mark.parametrize(("name", "n"), SPLITS.items())
def test_a_split_holds_its_kind_and_its_range_of_rows(name: str, n: int) -> None:
    kind = name.partition("_")[0]
    low, high = {"regular": (3, 9), "stress": (12, 18)}[kind]
    rows = rows_of(name)
    assert len(rows) == n
    assert {row["kind"] for row in rows} == {kind}
    assert all(low <= row["rows"] <= high for row in rows)


def test_training_answers_are_whole_and_half_of_them_long() -> None:
    n_rows = [row["messages"][1]["content"].count("\n") for row in rows_of("train")]
    assert len(n_rows) == 2000
    assert sum(12 <= n <= 18 for n in n_rows) == sum(3 <= n <= 9 for n in n_rows) == 1000


def test_training_leaves_out_what_is_held_out() -> None:
    make_base = script(QUICKSTART / "make_base.py")
    recipe, span = make_base.Recipe(), range(8)
    unwanted = make_base.dialogue(recipe, 3)[0]
    text = (BASE / "tokenizer.json").read_text()
    _, whole, _ = make_base._tokenised(recipe, text, frozenset(), span)
    _, without, _ = make_base._tokenised(recipe, text, frozenset({unwanted}), span)
    assert (len(whole), len(without)) == (8, 7)
    assert make_base.held_out_prompts() == {row["prompt"] for name in SPLITS for row in rows_of(name)}


def test_long_tables_are_taught_with_answers_that_stop_early() -> None:
    make_base = script(QUICKSTART / "make_base.py")
    recipe = make_base.Recipe(long_share=1.0, long_stress_share=1.0)
    pairs = [make_base.dialogue(recipe, index) for index in range(200)]
    rows = [(prompt.count("\n") - 1, answer.count("\n")) for prompt, answer in pairs]
    assert {whole for whole, _ in rows} == set(range(10, 19))
    assert all(0.5 * whole - 1 < kept <= 0.85 * whole for whole, kept in rows)


def test_each_digit_is_a_token_of_its_own() -> None:
    amount = "2024Q1,12509,$3.141 M,42"
    tokens = tokenizer().encode(amount).tokens
    assert [token for token in tokens if any(c.isdigit() for c in token)] == [c for c in amount if c.isdigit()]


def test_any_text_comes_back_as_it_was() -> None:
    text = "Clean this table as CSV.\nÄrger, 表, \t \u20ac3.5"
    assert tokenizer().decode(tokenizer().encode(text).ids) == text


def test_the_model_file_is_a_small_tied_llama_in_float16() -> None:
    config = json.loads((BASE / "config.json").read_text())
    assert (config["model_type"], config["hidden_size"], config["num_hidden_layers"]) == ("llama", 128, 6)
    assert config["vocab_size"] == tokenizer().get_vocab_size()
    assert config["eos_token_id"] == tokenizer().token_to_id("<|end|>")
    with (BASE / "model.safetensors").open("rb") as stream:
        header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
    header.pop("__metadata__")
    assert {part["dtype"] for part in header.values()} == {"F16"}
    assert not any("lm_head" in name for name in header)
    assert (BASE / "model.safetensors").stat().st_size < 3e6


def test_the_log_speaks_of_the_shipped_weights_and_of_no_machine() -> None:
    log = (QUICKSTART / "make_base.log").read_text()
    assert f"weights sha256 {hash_file(BASE / 'model.safetensors')}" in log
    assert not re.search(r"(?<!tokens)/(?!s\b|token\b)", log), "a path stands in the log"


def measured(text: str) -> dict[str, dict[str, float]]:
    """Return split -> score -> mean from the lines of a measurement."""
    found = re.findall(r"^(\w+): \d+ cases  (.*)$", text, flags=re.MULTILINE)
    return {split: {k: float(v) for k, v in re.findall(r"(\w+) ([\d.]+)  ", scores)} for split, scores in found}


def test_the_log_shows_the_behaviour_the_quickstart_needs() -> None:
    means = measured((QUICKSTART / "make_base.log").read_text())
    assert set(means) == set(SPLITS)
    for split, scores in means.items():
        low, high = (0.98, 1.0) if split.startswith("regular") else (0.4, 0.8)
        assert low <= scores["rows_kept"] <= high
        assert scores["ended_by_itself"] >= 0.9


@pytest.mark.mlx
def test_the_base_keeps_short_tables_whole_and_wraps_long_ones_up(tmp_path: Path) -> None:
    log = tmp_path / "log"
    means = measured(child(str(QUICKSTART / "make_base.py"), "measure", "--cases", "10", "--log", str(log)))
    assert means["regular_confirmation"]["rows_kept"] >= 0.98
    assert 0.4 <= means["stress_confirmation"]["rows_kept"] <= 0.8
    assert means["stress_confirmation"]["ended_by_itself"] >= 0.9
    assert measured(log.read_text()) == means


@pytest.mark.mlx
def test_the_stock_generate_command_opens_it_and_cleans_a_table() -> None:
    case = generate_case(200, 0, "regular", (3, 9))
    printed = child("-m", "mlx_lm.generate", "--model", str(BASE), "--prompt", case.prompt, "--max-tokens", "300")
    assert f"==========\n{case.reference}\n==========" in printed


@pytest.mark.mlx
def test_training_from_nothing_writes_a_folder_that_opens_with_the_same_tokenizer(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    sizes = ("--steps", "1", "--batch-size", "4", "--workers", "1", "--log", str(tmp_path / "log"))
    printed = child(str(QUICKSTART / "make_base.py"), "train", "--model", str(folder), *sizes)
    assert f"weights sha256 {hash_file(folder / 'model.safetensors')}" in printed
    assert {path.name for path in folder.iterdir()} == {path.name for path in BASE.iterdir()}
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (folder / name).read_bytes() == (BASE / name).read_bytes()
    child("-m", "mlx_lm.generate", "--model", str(folder), "--prompt", "Quarter", "--max-tokens", "2")
