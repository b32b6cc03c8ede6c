"""What a training stands on, as hashes: any byte of it that changes is told by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from state.errors import ConfigError
from state.files import write_json
from state.hashing import HashCache
from state.records import Json
from tests.agent.folders import BASE, GRADER
from tools.training.progress import begun_with, other_recipe, trained_on
from tools.training.recipe import validate_recipe


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


def made_by(folder: Path, instrument: str, recipe: Json, *gone: str) -> Path:
    """Return a save that was made by a recipe, without keys that its version did not have."""
    config = validate_recipe(recipe, instrument).adapter_config()
    write_json(folder / "0000007" / "adapter_config.json", {k: v for k, v in config.items() if k not in gone})
    return folder / "0000007"


def test_what_a_job_left_open_is_as_it_was_when_it_began(tmp_path: Path) -> None:
    asked = {"iters": 9, "batch_size": 2}
    save = made_by(tmp_path / "a", "grpo", asked | {"beta": 0.3, "truncated": "penalize"}, "truncated")
    assert begun_with(asked, "grpo", None).model_dump()["beta"] == 0.04
    begun = begun_with(asked, "grpo", save).model_dump()
    assert (begun["beta"], begun["truncated"], begun["iters"]) == (0.3, "penalize", 9)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"iters": 9, "learning_rate": 0.1}, "(learning_rate 0.0001 -> 0.1)"),
        ({"iters": 8, "lora_parameters": {"rank": 2}}, "(iters 9 -> 8, lora_parameters.rank 8 -> 2)"),
        ({"iters": 9, "lora_parameters": {"scale": 10.0}}, ""),
        ({"iters": 9, "lr_schedule": {"name": "cosine_decay", "arguments": [0.1, 5]}}, "(lr_schedule None -> {'name':"),
    ],
)
def test_a_save_of_another_recipe_is_refused_with_each_key_and_both_values(
    tmp_path: Path, asked: Json, said: str
) -> None:
    save = made_by(tmp_path, "sft", {"iters": 9})
    if not said:
        assert begun_with(asked, "sft", save) == validate_recipe({"iters": 9})
        return
    with pytest.raises(ConfigError) as raised:
        begun_with(asked, "sft", save)
    assert raised.value.sentence.startswith(f"The save at step 7 was made by another recipe {said}")
    write_json(save / "adapter_config.json", [])
    with pytest.raises(ConfigError, match=r"its adapter_config\.json cannot be read"):
        begun_with(asked, "sft", save)


def test_a_longer_run_goes_on_from_a_save_that_differs_by_its_length_alone(tmp_path: Path) -> None:
    schedule: Json = {"name": "cosine_decay", "arguments": [0.1, 5]}
    save = made_by(tmp_path, "grpo", {"iters": 7, "lr_schedule": schedule, "save_every": 7})
    longer = {"iters": 14, "lr_schedule": {"name": "cosine_decay", "arguments": [0.1, 9]}, "save_every": 5}
    assert other_recipe(validate_recipe(longer, "grpo"), "grpo", save) == ""
    other = validate_recipe(longer | {"beta": 0.5}, "grpo")
    assert other_recipe(other, "grpo", save) == f"{save} was made by another recipe (beta 0.04 -> 0.5)"
    hotter = validate_recipe(longer | {"lr_schedule": {"name": "cosine_decay", "arguments": [0.3, 9]}}, "grpo")
    assert "(lr_schedule.arguments [0.1] -> [0.3])" in other_recipe(hotter, "grpo", save)
    assert "no key of a recipe" in other_recipe(validate_recipe({}), "sft", save)


def test_another_run_s_save_that_an_older_vigil_took_over_as_it_was_is_gone_on_from_to_the_length_asked(
    tmp_path: Path,
) -> None:
    schedule: Json = {"name": "cosine_decay", "arguments": [0.1, 7]}
    save = made_by(tmp_path, "grpo", {"iters": 7, "lr_schedule": schedule, "truncated": "penalize"}, "beta")
    asked: Json = {"iters": 14, "lr_schedule": {"name": "cosine_decay", "arguments": [0.1, 14]}, "save_every": 5}
    source = str(tmp_path / "other" / save.name)
    begun = begun_with(asked, "grpo", save, source).model_dump()
    assert (begun["iters"], begun["lr_schedule"]["arguments"], begun["save_every"]) == (14, (0.1, 14.0), 5)
    assert begun["truncated"] == "penalize", "what it leaves open is as it was"
    for recipe, elsewhere in ((asked | {"learning_rate": 0.2}, source), (asked, f"{source}9")):
        with pytest.raises(ConfigError, match="was made by another recipe"):
            begun_with(recipe, "grpo", save, elsewhere)
