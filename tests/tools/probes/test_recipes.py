"""Training configurations: what they name, what the tools take of them, and how much they train."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults.failure_modes.projects import rows_of, write_config, write_data
from tests.tools.probes.looks import look, of, only, project, why_not


def configured(folder: Path, rows: int = 100, **changes: Any) -> Path:
    folder.mkdir()
    write_data(folder / "data", rows_of, (rows, 8, 0))
    write_config(folder / "lora.yaml", **{"iters": 50, **changes})
    return folder


def test_a_configuration_that_fits_its_rows_is_no_finding(tmp_path: Path) -> None:
    found = look(configured(tmp_path / "p"))
    assert found.report.findings == []
    assert {"1", "6", "8"} <= set(found.report.checked)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fine_tune_type": "qlora"}, "`fine_tune_type: qlora` is not known to mlx-lm: lora, dora, full"),
        ({"optimizer": "lion"}, "`optimizer: lion` is not known"),
        ({"iters": "many"}, "`iters` is the text many, not a whole number"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"save_every": True}, "`save_every` is True, not a whole number"),
        ({"batch_size": 16}, "`batch_size` is 16 and data/valid.jsonl has 8 rows"),
        ({"batch_size": 128, "val_batches": 0}, "data/train.jsonl has 100 rows"),
    ],
)
def test_what_the_trainer_refuses_is_told_before_it_does(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    found = of(look(configured(tmp_path / "p", **changes)), "6")
    assert said in found[0].sentence
    assert found[0].severity == "hard_stop"
    assert found[0].value["file"] == "lora.yaml"
    assert found[0].value["line"] > 1


@pytest.mark.parametrize(
    ("changes", "key", "meant"),
    [
        ({"learning_rte": 1e-5}, "learning_rte", "learning_rate"),
        ({"max_seq_len": 512, "max_seq_length": None}, "max_seq_len", "max_seq_length"),
        ({"lora_layers": 8, "num_layers": None}, "lora_layers", "num_layers"),
        ({"grad-checkpoint": True}, "grad-checkpoint", "grad_checkpoint"),
        ({"lora_parameters": {"rank": 8, "alpha": 16}}, "lora_parameters.alpha", "lora_parameters.scale"),
    ],
)
def test_a_key_that_is_passed_over_without_a_word_is_a_warning(
    tmp_path: Path, changes: dict[str, Any], key: str, meant: str
) -> None:
    found = only(look(configured(tmp_path / "p", **changes)), "6")
    assert (found.severity, found.value["key"], found.value["meant"]) == ("warning", key, meant)


def test_keys_of_ones_own_are_nobodys_business(tmp_path: Path) -> None:
    assert of(look(configured(tmp_path / "p", notes="second try", experiment="a")), "6") == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "./base"}, "names ./base as its model"),
        ({"data": "data/second"}, "names data/second as its data"),
        ({"resume_adapter_file": "old/adapters.safetensors"}, "as its adapter to go on from"),
        ({"reward_functions_file": "rewards.py"}, "as its file of reward functions"),
    ],
)
def test_a_file_that_is_not_there_is_told_with_the_line_that_names_it(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    found = only(look(configured(tmp_path / "p", **changes)), "8")
    assert said in found.sentence
    lines = (tmp_path / "p" / "lora.yaml").read_text().splitlines()
    assert lines[found.value["line"] - 1].startswith(next(iter(changes)))


def test_a_folder_without_training_rows_is_told_where_it_is_trained_on(tmp_path: Path) -> None:
    folder = configured(tmp_path / "p")
    (folder / "data" / "train.jsonl").unlink()
    assert "trains on data, which has no train.jsonl" in only(look(folder), "8").sentence
    write_config(folder / "lora.yaml", train=False, test=True)
    assert of(look(folder), "8") == []


def test_what_lies_outside_or_on_a_hub_is_left_alone(tmp_path: Path) -> None:
    found = look(configured(tmp_path / "p", model="../models/base", data="owner/rows"))
    assert of(found, "8") == []
    assert "`model` leads outside the project" in why_not(found, "8")


def pairs(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"{n} or", "chosen": f"good {n * 7 % 13}", "rejected": f"bad {n % 5}"} for n in range(count)]


TEXT = [{"text": f"a text, number {n}"} for n in range(40)]
PROMPTS = [{"prompt": f"a prompt, number {n}", "answer": "yes"} for n in range(40)]


@pytest.mark.parametrize(
    ("rows", "values", "severity", "said"),
    [
        (TEXT, {"mask_prompt": True}, "hard_stop", "`mask_prompt` is true"),
        (pairs(40), {"train_mode": "sft"}, "hard_stop", "holds pairs"),
        (pairs(40), {}, "warning", "names no `train_mode`"),
        (PROMPTS, {}, "warning", "holds prompts"),
        (TEXT, {"train_mode": "dpo"}, "hard_stop", "takes chosen and rejected"),
        (TEXT, {"train_mode": "grpo"}, "hard_stop", "takes prompts"),
    ],
)
def test_rows_that_the_training_does_not_take_are_told(
    tmp_path: Path, rows: list[Any], values: dict[str, Any], severity: str, said: str
) -> None:
    config = {"model": "o/m", "data": "data", "iters": 5, **values}
    folder = project(tmp_path / "p", data__train_jsonl=rows, lora_json=config)
    found = only(look(folder), "6")
    assert (found.severity, said in found.sentence) == (severity, True)


def test_an_algorithm_that_a_later_version_may_have_is_not_checked(tmp_path: Path) -> None:
    config = {"model": "o/m", "data": "data", "iters": 5, "train_mode": "newest"}
    found = look(project(tmp_path / "p", data__train_jsonl=pairs(40), lora_json=config))
    assert (of(found, "6"), "newest" in why_not(found, "6")) == ([], True)


@pytest.mark.parametrize(
    ("values", "severity", "passes"),
    [
        ({"iters": 160}, None, None),
        ({"iters": 240, "lora_parameters": {"rank": 8, "scale": 20.0, "dropout": 0.0}}, "warning", 24),
        ({"iters": 240, "lora_parameters": {"dropout": 0.1}}, "note", 24),
        ({}, "warning", 100),
        ({"iters": -1}, None, None),
        ({"epochs": 12, "train_type": "lora"}, "warning", 12),
        ({"iters": 240, "train": False, "test": True}, None, None),
    ],
)
def test_many_passes_without_dropout_are_a_warning(
    tmp_path: Path, values: dict[str, Any], severity: str | None, passes: float | None
) -> None:
    batch = 2 if values.get("iters") == 160 else 4
    config = {"model": "o/m", "data": "data", "adapter_path": "a", "batch_size": batch, **values}
    found = of(look(project(tmp_path / "p", data__train_jsonl=rows_of("t", 40), lora_json=config)), "1")
    assert [(row.severity, row.value["passes"]) for row in found] == ([(severity, passes)] if severity else [])


def test_files_that_are_no_configuration_are_left_alone(tmp_path: Path) -> None:
    folder = project(
        tmp_path / "p",
        ci_yml="name: CI\non: push\njobs: {test: {steps: []}}\n",
        compose_yaml="services: {web: {image: nginx}}\n",
        package_json={"name": "x", "model": "y", "iters": 5, "data": "z"},
        results_json=[{"iters": 5}],
        list_yaml="- model: x\n  iters: 5\n",
        odd_yaml="model: [1]\ndata: d\niters: 4\nadapter_path: a\n",
        other_json='{"model": "m", "iters": 5, "adapter_path": "a", "data": 7}',
        data__train_jsonl=rows_of("t", 40),
    )
    assert "6" not in look(folder).report.checked


def test_a_configuration_in_broken_json_or_beyond_bounds_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps({"model": "o/m", "data": "o/d", "iters": 5, "adapter_path": "a"}, indent=1)
    folder = project(
        tmp_path / "p", lora_json=text[:-2], other_yaml="model: o/m\niters: 5\nadapter_path: a\nx: " + "y" * 70_000
    )
    said = " ".join(row.sentence for row in of(look(folder), "8"))
    assert "lora.json looks like the configuration of a training and cannot be read: not JSON" in said
    assert "it has more than 65,536 bytes" in said
    monkeypatch.setattr("tools.probes.configs._MOST_CONFIGS", 0)
    assert "more than 0 configurations" in why_not(look(folder), "6")
