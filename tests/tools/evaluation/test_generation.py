import json
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


def run(model: Path, *ways: dict[str, Any], adapter: Path | None = None) -> list[dict[str, dict[str, Any]]]:
    spec = {
        "model": str(model),
        "adapter": str(adapter or ""),
        "prompts": PROMPTS,
        "max_tokens": MAX_TOKENS,
        "ways": ways,
    }
    argv = [sys.executable, "-m", "tests.tools.evaluation.decode_all", json.dumps(spec)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=os.environ | WORKER_ENV)
    assert done.returncode == 0, done.stderr
    outputs = json.loads(done.stdout)
    return [outputs[json.dumps(way)] for way in ways]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that ends some outputs and not others: its second end token is one that it likes to write."""
    folder = tmp_path_factory.mktemp("world") / "model"
    [plain] = run(make_model(folder, 3), {})
    written = [token for output in plain.values() for token in output["tokens"][4:-4]]
    common = max(sorted(set(written)), key=lambda token: abs(len(PROMPTS) // 2 - written.count(token)) * -1)
    return make_model(folder, 3, ends=(END, common))


def test_batches_of_any_size_and_order_give_what_one_by_one_gives(model: Path) -> None:
    reference, *others = run(model, {}, {"batch_size": 1}, {"batch_size": 3}, {"batch_size": 16, "reversed": True})
    assert {output["finish_reason"] for output in reference.values()} == {"stop", "length"}
    assert reference.keys() == PROMPTS.keys()
    for other in others:
        assert other == reference


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
    first, alone, reordered, other = run(
        model,
        way | {"batch_size": 8},
        way | {"batch_size": 1},
        way | {"batch_size": 5, "reversed": True},
        way | {"batch_size": 8, "seed": 5},
    )
    assert first == alone == reordered
    assert first != other


def test_an_adapter_changes_outputs_and_batches_still_agree(model: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter")
    [without] = run(model, {"batch_size": 8})
    reference, batched = run(model, {}, {"batch_size": 8}, adapter=adapter)
    assert batched == reference != without


def test_a_model_whose_cache_cannot_be_merged_is_asked_one_by_one(model: Path) -> None:
    reference, fallback = run(model, {}, {"batch_size": 8, "without": "batches and joining"})
    assert fallback == reference
