"""What a training stands on, as hashes: any byte of it that changes is told by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from state.hashing import HashCache
from state.records import Json
from tests.agent.folders import BASE, GRADER
from tools.training.lineage import trained_on


@pytest.fixture
def inputs(tmp_path: Path) -> Json:
    model = Path(shutil.copytree(BASE, tmp_path / "model"))
    (tmp_path / "train.jsonl").write_text("{}\n")
    (tmp_path / "grade.py").write_text(GRADER)
    grader = {"file": str(tmp_path / "grade.py")}
    return {"model": str(model), "data": {"train": str(tmp_path / "train.jsonl"), "valid": None}, "grader": grader}


def weights(inputs: Json) -> None:
    path = Path(inputs["model"]) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def template(inputs: Json) -> None:
    path = Path(inputs["model"]) / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "chat_template": "{{ messages }}"}))
    (Path(inputs["model"]) / "chat_template.jinja").unlink(missing_ok=True)


def rows(inputs: Json) -> None:
    Path(inputs["data"]["train"]).write_text("{} \n")


def no_rows(inputs: Json) -> None:
    Path(inputs["data"]["train"]).unlink()


def grader(inputs: Json) -> None:
    Path(inputs["grader"]["file"]).write_text(GRADER + "\n# kinder\n")


def no_model(inputs: Json) -> None:
    shutil.rmtree(inputs["model"])


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (weights, {"weights"}),
        (template, {"weights", "template"}),
        (rows, {"data:train"}),
        (no_rows, {"data:train"}),
        (grader, {"grader"}),
        (no_model, {"weights", "template"}),
        (lambda _: None, set()),
    ],
)
def test_each_part_that_changes_is_told(inputs: Json, change: Callable[[Json], None], changed: set[str]) -> None:
    cache = HashCache()
    before = trained_on(inputs, cache)
    assert set(before) == {"data:train", "weights", "template", "grader"}
    change(inputs)
    after = trained_on(inputs, cache)
    assert {name for name in after if before[name] != after[name]} == changed


def test_without_rollouts_no_grader_is_part_of_it(inputs: Json) -> None:
    assert "grader" not in trained_on({**inputs, "grader": None}, HashCache())
