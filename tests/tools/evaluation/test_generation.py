import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tools.evaluation.worlds import END, WORKER_ENV, make_adapter, make_model

PROMPTS = {f"p{n}": "abcdefgh" * (n % 5) + chr(97 + n) for n in range(16)}
MAX_TOKENS = 24

pytestmark = pytest.mark.mlx


def asked(
    model: Path,
    *ways: dict[str, Any],
    adapter: Path | None = None,
    prompts: dict[str, str] = PROMPTS,
    draws: bool = False,
) -> dict[str, dict[str, Any]]:
    spec = {
        "model": str(model),
        "adapter": str(adapter or ""),
        "prompts": prompts,
        "max_tokens": MAX_TOKENS,
        "ways": ways,
        "draws": draws,
    }
    argv = [sys.executable, "-m", "tests.tools.evaluation.decode_all", json.dumps(spec)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=os.environ | WORKER_ENV)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def run(model: Path, *ways: dict[str, Any], adapter: Path | None = None) -> list[dict[str, dict[str, Any]]]:
    outputs = asked(model, *ways, adapter=adapter)["outputs"]
    return [outputs[json.dumps(way)] for way in ways]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that ends some outputs and not others: its second end token is one that it likes to write."""
    folder = tmp_path_factory.mktemp("world") / "model"
    [plain] = run(make_model(folder, 3), {})
    written = [token for output in plain.values() for token in output["tokens"][4:-4]]
    common = max(sorted(set(written)), key=lambda token: abs(len(PROMPTS) // 2 - written.count(token)) * -1)
    return make_model(folder, 3, ends=(END, common))


WAYS: list[dict[str, Any]] = [
    {"batch_size": 1},
    {"batch_size": 3},
    {"batch_size": 16, "reversed": True},
    {"batch_size": 5, "order": 7},
    {"batch_size": 16, "is_small": True},
    # As on a GPU: looked at every few steps that the steps run ahead of, half of the rows dropped at once.
    {"batch_size": 16, "look": 8, "drop": 0.5, "ahead": 1},
    {"batch_size": 7, "look": 5, "ahead": 2},
    {"batch_size": 7, "without": "batches"},
]


def test_batches_of_any_size_and_order_give_what_one_by_one_gives(model: Path) -> None:
    reference, *others = run(model, {}, *WAYS)
    assert {output["finish_reason"] for output in reference.values()} == {"stop", "length"}
    assert reference.keys() == PROMPTS.keys()
    for way, other in zip(WAYS, others, strict=True):
        assert other == reference, way


@pytest.mark.parametrize("window", [4, 20])
def test_layers_that_look_back_a_few_positions_do_so_in_batches(model: Path, window: int) -> None:
    reference, plain, *others = run(
        model, {"window": window}, {}, *({"window": window, "batch_size": 5, "ahead": way} for way in (0, 1))
    )
    assert reference != plain
    assert [other == reference for other in others] == [True, True]


@pytest.mark.parametrize(
    "prompts",
    [
        {"a": "a", "b": "b", "c": "c"},
        {"a": "a", "ab": "ab", "abc": "abc", "other": "xyz" * 9},
        {f"p{n}": "all but the last" + chr(97 + n) for n in range(10)},
    ],
    ids=["one token each", "one begins another", "the last token differs"],
)
def test_prompts_of_any_kind_are_read_in_portions_of_any_size(model: Path, prompts: dict[str, str]) -> None:
    ways: list[dict[str, Any]] = [{"batch_size": 4}, {"batch_size": 4, "portion": 12, "width": 5}]
    found = asked(model, {}, *ways, prompts=prompts)["outputs"]
    assert [found[json.dumps(way)] == found["{}"] for way in ways] == [True, True]


def test_what_prompts_begin_with_is_read_once(model: Path) -> None:
    prompts = {f"p{n}": "the same beginning of all: " + "xyz"[: 1 + n % 3] + chr(97 + n) for n in range(12)}
    other = {f"q{n}": f"{chr(97 + n)} something of its own" for n in range(3)}
    one, many = {"batch_size": 1}, {"batch_size": 4}
    alone = asked(model, {}, one, many, prompts=prompts | other)
    outputs = alone["outputs"]
    assert outputs[json.dumps(many)] == outputs[json.dumps(one)] == outputs["{}"]
    shared = len("the same beginning of all: ")
    written = sum(output["output_tokens"] for output in outputs["{}"].values())
    tried, padding = 60, 4 * len(prompts) + 24 * len(prompts)
    assert alone["read"]["{}"] >= (shared + 1) * len(prompts) + written
    assert alone["read"][json.dumps(one)] <= shared + 5 * len(prompts) + 26 * len(other) + written + tried
    assert alone["read"][json.dumps(many)] <= shared + 26 * len(other) + written + tried + padding


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_prompt_that_is_asked_several_times_is_read_once_and_answered_as_alone(model: Path, batch_size: int) -> None:
    reference, shared = run(model, {}, {"batch_size": batch_size, "times": 3})
    assert len(shared) == 3 * len(reference)
    for name, output in shared.items():
        assert output | {"name": ""} == reference[name.partition("#")[0]] | {"name": ""}


def test_an_output_counts_its_end_token_and_never_shows_it(model: Path) -> None:
    ends = json.loads((model / "config.json").read_text())["eos_token_id"]
    [outputs] = run(model, {"batch_size": 8})
    for output in outputs.values():
        is_cut = output["finish_reason"] == "length"
        assert output["output_tokens"] == (MAX_TOKENS if is_cut else len(output["tokens"]) + 1)
        assert output["output_tokens"] <= MAX_TOKENS
        assert not set(output["tokens"]) & set(ends)


def test_sampled_outputs_depend_on_seed_and_case_alone(model: Path) -> None:
    way = {"temperature": 1.0, "seed": 4}
    one_by_one, first, alone, small, joining, reordered, other = run(
        model,
        way,
        way | {"batch_size": 8},
        way | {"batch_size": 1},
        way | {"batch_size": 8, "look": 5, "ahead": 1},
        way | {"batch_size": 8, "without": "batches"},
        way | {"batch_size": 5, "reversed": True},
        way | {"batch_size": 8, "seed": 5},
    )
    for each in (one_by_one, alone, small, joining, reordered):
        assert said(each) == said(first)
        for name, output in each.items():
            assert output["logps"] == pytest.approx(first[name]["logps"], abs=1e-5)
            assert len(output["logps"]) == output["output_tokens"]
    assert said(first) != said(other)


def said(outputs: dict[str, dict[str, Any]]) -> dict[str, tuple[list[int], str]]:
    return {name: (output["tokens"], output["finish_reason"]) for name, output in outputs.items()}


def test_tokens_are_drawn_as_often_as_their_chances_say_whoever_else_is_in_the_batch(model: Path) -> None:
    told = asked(model, draws=True)["drawn"]
    chances = [0.5, 0.0, 0.3, 0.15, 0.05]
    for chance, count in zip(chances, told["counts"], strict=True):
        assert abs(count - 20_000 * chance) <= 4 * (20_000 * chance * (1 - chance)) ** 0.5
    assert told["logps"] == pytest.approx(
        {str(n): math.log(chance) for n, chance in enumerate(chances) if chance}, abs=1e-4
    )
    assert 1 < told["rare"] < 22, "9 of 1,500 are expected; one sum over all words rounds them away"
    assert told["is_alone_the_same"]
    assert told["is_next_another"]


def test_an_adapter_changes_outputs_and_batches_still_agree(model: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter")
    [without] = run(model, {"batch_size": 8})
    reference, batched = run(model, {}, {"batch_size": 8}, adapter=adapter)
    assert batched == reference != without


def test_a_model_whose_cache_cannot_be_merged_is_asked_one_by_one(model: Path) -> None:
    reference, fallback = run(model, {}, {"batch_size": 8, "without": "batches and joining"})
    assert fallback == reference
