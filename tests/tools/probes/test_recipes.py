"""Training configurations: what they name, what the tools take of them, and how much they train."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.audit import audit
from tests.faults.failure_modes.projects import rows_of, write_config, write_data
from tests.tools.models.folders import write_model
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


def lora(**changes: Any) -> dict[str, Any]:
    return {"lora_parameters": {"rank": 8, "scale": 10.0, "dropout": 0.0, **changes}}


def schedule(name: str, *arguments: float, **more: Any) -> dict[str, Any]:
    return {"lr_schedule": {"name": name, "arguments": list(arguments), **more}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fine_tune_type": "qlora"}, "`fine_tune_type: qlora` is not known to mlx-lm: lora, dora, full"),
        ({"optimizer": "lion"}, "`optimizer: lion` is not known"),
        ({"iters": "many"}, "`iters` is the text many, not a whole number"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"save_every": True}, "`save_every` is True, not a whole number"),
        ({"batch_size": 16}, "`batch_size` is 16 and data/valid.jsonl has 8 rows"),
        ({"batch_size": 128}, "data/train.jsonl has 100 rows"),
        ({"fine_tune_type": "LoRA"}, "`fine_tune_type: LoRA` is not known to mlx-lm"),
        ({"optimizer": 3}, "`optimizer` is 3, not a name"),
        ({"report_to": "wandb, tensorboard"}, "`report_to: tensorboard` is not known"),
        ({"steps_per_report": 0}, "`steps_per_report` is 0"),
        ({"steps_per_eval": 0}, "`steps_per_eval` is 0"),
        ({"learning_rate": "fast"}, "`learning_rate` is fast, not a number"),
        ({"lora_parameters": {"rank": 8, "alpha": 16, "dropout": 0.0}}, "`lora_parameters` has no `scale`"),
        ({"lora_parameters": {"scale": 2.0, "r": 8}}, "`lora_parameters` has no `rank`, `dropout`"),
        ({"lora_parameters": [8]}, "`lora_parameters` is no mapping"),
        (lora(rank=0), "`lora_parameters.rank` is 0"),
        (lora(scale="big"), "`lora_parameters.scale` is big"),
        (lora(dropout=1.0), "`lora_parameters.dropout` is 1.0"),
        (lora(keys="self_attn.q_proj"), "`lora_parameters.keys` is the text"),
        (lora(keys=[1]), "`lora_parameters.keys` is no list of names"),
        ({"optimizer_config": {"adam": {"weight_decay": 0.1}}}, "adam does not take"),
        ({"optimizer_config": {"adam": {"learning_rate": 0.1}}}, "has learning_rate"),
        ({"optimizer_config": {"adam": {"betas": [0.9]}}}, "not two numbers"),
        ({"optimizer_config": {"adam": {"eps": "tiny"}}}, "`eps` of adam is the text tiny"),
        ({"optimizer_config": {"adam": 1}}, "`optimizer_config.adam` is no mapping"),
        ({"optimizer_config": 1}, "`optimizer_config` is no mapping"),
        ({"lr_schedule": "cosine_decay"}, "`lr_schedule` is no mapping"),
        ({"lr_schedule": {"arguments": [1e-4, 50]}}, "`lr_schedule` has no `name`"),
        (schedule("cosine", 1e-4, 50), "`lr_schedule.name` is cosine"),
        (schedule("cosine_decay"), "has no list `arguments`"),
        (schedule("step_decay", 1e-4, 0.5), "takes numbers for init, decay_rate, step_size"),
        (schedule("step_decay", 1e-4, 0.5, 0), "`step_size` of step_decay is 0"),
        (schedule("cosine_decay", 1e-4, 50, warmup=0.1), "`lr_schedule.warmup` is 0.1"),
        ({"test": True}, "`test` is true, and data has no rows in test.jsonl"),
        ({"iters": -1}, "the loop ends before its first step"),
        ({"grad_accumulation_steps": 64}, "never updated"),
        ({"learning_rate": 0.0}, "no step changes anything"),
        ({"learning_rate": -1e-5}, "each step raises the loss"),
        (lora(scale=0), "adds nothing"),
        (lora(keys=[]), "no layer gets an adapter"),
        (schedule("cosine_decay", 0.0, 50), "0 in all 50 updates"),
        ({"train_mode": "grpo", "group_size": 1, "optimizer": "adam"}, "zero in a group of one"),
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
        (lora(alpha=16), "lora_parameters.alpha", "lora_parameters.scale"),
        ({"num_train_epochs": 3}, "num_train_epochs", "iters"),
        ({"use_dora": True}, "use_dora", "fine_tune_type"),
        ({"lora_r": 16}, "lora_r", "lora_parameters.rank"),
        ({"gradient_accumulation_steps": 8}, "gradient_accumulation_steps", "grad_accumulation_steps"),
        ({"adapter_file": "adapters.npz"}, "adapter_file", "adapter_path"),
        ({"bf16": True}, "bf16", ""),
        ({"training": {"iters": 5}}, "training", ""),
        (schedule("cosine_decay", 1e-4, 50, warmup_steps=5), "lr_schedule.warmup_steps", ""),
    ],
)
def test_a_key_that_is_passed_over_without_a_word_is_a_warning(
    tmp_path: Path, changes: dict[str, Any], key: str, meant: str
) -> None:
    found = only(look(configured(tmp_path / "p", **changes)), "6")
    assert (found.severity, found.value["key"], found.value["meant"]) == ("warning", key, meant)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"val_batches": 0}, "validation loss is NaN"),
        ({"num_layers": 0}, "trains all layers, not none"),
        ({"learning_rate": 0.05}, "a learning rate of 0.05; above 0.01 with adam"),
        (lora(rank=128, scale=256.0), "the multiplier itself, not alpha"),
        (lora(rank=32, scale=32.0), "the multiplier itself, not alpha"),
        ({"mask_prompt": "no"}, "a text, which counts as true"),
        ({"optimizer_config": {"weight_decay": 0.1}}, "nothing is taken from it"),
        (schedule("cosine_decay", 1e-4, 200, warmup=60), "warms up over 60 updates and has 50"),
        (schedule("cosine_decay", 1e-4, 10), "below 1% of its highest"),
        (schedule("exponential_decay", 1e-4, 2.0), "a learning rate of"),
    ],
)
def test_a_value_that_misleads_is_a_warning(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    found = only(look(configured(tmp_path / "p", **changes)), "6")
    assert (found.severity, said in found.sentence) == ("warning", True), found.sentence


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "AdamW", "optimizer_config": {"adamw": {"weight_decay": 0.1, "betas": [0.9, 0.99]}}},
        schedule("cosine_decay", 1e-4, 45, 1e-6, warmup=5),
        schedule("linear_schedule", 1e-4, 0.0, 50),
        schedule("step_decay", 1e-4, 0.5, 10),
        lora(rank=16, scale=20, keys=["self_attn.q_proj"]),
        {"val_batches": -1, "grad_accumulation_steps": 8, "num_layers": -1},
        {"fine_tune_type": "full", "lora_parameters": {"rank": 8}},
        {"optimizer": "muon", "learning_rate": 0.02},
    ],
)
def test_what_the_trainer_takes_is_no_finding(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert of(look(configured(tmp_path / "p", **changes)), "6") == []


def test_a_scale_is_computed_from_alpha_and_rank(tmp_path: Path) -> None:
    config: dict[str, Any] = {"lora_parameters": {"rank": 8, "alpha": 16, "dropout": 0.0}}
    assert "`scale: 2` (scale = alpha / rank = 2)" in only(look(configured(tmp_path / "p", **config)), "6").fix


def test_data_that_names_a_file_is_to_name_its_folder(tmp_path: Path) -> None:
    found = only(look(configured(tmp_path / "p", data="data/train.jsonl")), "8")
    assert (found.severity, found.fix) == ("hard_stop", "Write `data: data`.")


def test_a_batch_larger_than_the_test_rows_dies_after_training(tmp_path: Path) -> None:
    folder = configured(tmp_path / "p", test=True, batch_size=8)
    write_data(folder / "data", rows_of, (100, 8, 4))
    assert "dies in the test, after training" in only(look(folder), "6").sentence


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
    assert "`model` leads outside the project and is not opened; no model with a config.json" in why_not(found, "8")


def test_a_model_outside_is_read_by_its_headers_where_the_folder_may_be_left(tmp_path: Path) -> None:
    folder = configured(tmp_path / "p", model="../base")
    write_model(tmp_path / "base", **{"config.json": '{"model_type": "unheard_of"}', "own.py": "x"})
    found = look(folder)
    assert "of the type 'unheard_of'" in only(found, "6").sentence
    assert "which is never run: own.py" in only(found, "3").sentence
    closed = audit(folder, may_leave=False)
    assert (of(closed, "6"), of(closed, "3")) == ([], [])
    assert "not opened; leave out --no-outside" in why_not(closed, "8")
    (tmp_path / "base" / "pipe.json").symlink_to("/dev/zero")
    assert "pipe.json is no regular file" in why_not(look(folder), "6")


def pairs(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"{n} or", "chosen": f"good {n * 7 % 13}", "rejected": f"bad {n % 5}"} for n in range(count)]


TEXT = [{"text": f"a text, number {n}"} for n in range(40)]
LABELLED = [{"prompt": f"{n} or", "completion": f"answer {n * 7}", "label": n % 3 > 0} for n in range(40)]
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
        (LABELLED, {"train_mode": "dpo"}, "hard_stop", "takes chosen and rejected"),
        (LABELLED, {}, "warning", "as in KTO, is not read"),
    ],
)
def test_rows_that_the_training_does_not_take_are_told(
    tmp_path: Path, rows: list[Any], values: dict[str, Any], severity: str, said: str
) -> None:
    config = {"model": "o/m", "data": "data", "iters": 5, **values}
    folder = project(tmp_path / "p", data__train_jsonl=rows, lora_json=config)
    found = only(look(folder), "6")
    assert (found.severity, said in found.sentence) == (severity, True)
    assert found.fix != "Correct `train_mode`."


def test_labels_that_say_the_answer_once_more_are_classes(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} or", "completion": "no" if n % 3 else "yes", "label": n % 3 == 0} for n in range(40)]
    config = {"model": "o/m", "data": "data", "iters": 5}
    assert of(look(project(tmp_path / "p", data__train_jsonl=rows, lora_json=config)), "6") == []


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
        ({"iters": 0}, None, None),
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
