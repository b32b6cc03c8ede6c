import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.campaign import load_campaign
from agent.cli import vigil
from tests.agent.folders import BASE, GRADER, training_rows, write_rows
from tests.tools.models.test_adapters import write_adapter

LORA = f"""model: {BASE}
train: true
data: data
seed: 3
batch_size: 4
iters: 100
learning_rate: 1e-5
adapter_path: adapters
lora_parameters: {{rank: 8, scale: 20.0, dropout: 0.0}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for name, n in (("train", 12), ("valid", 30), ("test", 30)):
        write_rows(tmp_path / "data" / f"{name}.jsonl", training_rows(n, name))
    (tmp_path / "lora.yaml").write_text(LORA)
    (tmp_path / "grade.py").write_text(GRADER)
    return tmp_path


def init(folder: Path, *more: str) -> Result:
    given = ["init", "--from", str(folder / "lora.yaml"), "--grader", str(folder / "grade.py")]
    return CliRunner().invoke(vigil, [*given, "--out", str(folder / "mine.yaml"), *more])


def test_two_files_make_a_campaign_that_passes_the_check(folder: Path) -> None:
    result = init(folder)
    assert result.exit_code == 0, result.output
    checked = CliRunner().invoke(vigil, ["run", "--check", str(folder / "mine.yaml")])
    assert checked.exit_code == 0, checked.output
    goal = load_campaign(folder / "mine.yaml").goal
    assert goal.campaign == "mine"
    assert goal.seed == 3
    assert goal.recipe["learning_rate"] == 1e-5
    assert goal.recipe["lora_parameters"] == {"rank": 8, "scale": 20.0, "dropout": 0.0}
    assert goal.track.metrics == ("exact", "close")
    assert goal.gate.conditions[0].metric == "task.exact"
    assert goal.evaluation.splits["task"].file == "mine_cases.jsonl"
    assert goal.data.train == "data/train.jsonl"
    assert "adapter_path" in (folder / "mine.yaml").read_text().split("Not taken over")[1]


def test_a_base_in_half_precision_is_computed_in_float32_where_there_is_no_apple_gpu(folder: Path) -> None:
    assert init(folder).exit_code == 0
    assert load_campaign(folder / "mine.yaml").goal.model.dtype == (None if sys.platform == "darwin" else "float32")


def test_what_the_configuration_leaves_out_is_spelled_out_as_mlx_lm_has_it(folder: Path) -> None:
    (folder / "lora.yaml").write_text(f"model: {BASE}\ndata: data\nlora_parameters: {{rank: 4}}\n")
    assert init(folder).exit_code == 0
    asked = [sys.executable, "-c", "import json, mlx_lm.lora as m; print(json.dumps(m.CONFIG_DEFAULTS))"]
    stock = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    recipe = load_campaign(folder / "mine.yaml").goal.recipe
    assert recipe["lora_parameters"] == {**stock["lora_parameters"], "rank": 4}
    decisive = {
        "fine_tune_type", "optimizer", "learning_rate", "iters", "batch_size", "num_layers", "max_seq_length",
        "mask_prompt", "lora_parameters",
    }  # fmt: skip
    assert {key: recipe[key] for key in decisive - {"lora_parameters"}} == {
        key: stock[key] for key in decisive - {"lora_parameters"}
    }


def test_rows_that_the_template_refuses_are_no_campaign(folder: Path) -> None:
    shutil.copytree(BASE, folder / "base")
    written = json.loads((folder / "base" / "tokenizer_config.json").read_text())
    written["chat_template"] = "{{ raise_exception('No roles here') }}" + written["chat_template"]
    (folder / "base" / "tokenizer_config.json").write_text(json.dumps(written))
    (folder / "lora.yaml").write_text(LORA.replace(str(BASE), "base"))
    result = init(folder)
    assert (result.exit_code, "refuses 12 of 12 rows of train.jsonl (No roles here)" in result.stderr) == (2, True)


def test_an_adapter_to_go_on_from_is_held_against_the_recipe(folder: Path) -> None:
    write_adapter(folder / "old", {"model.layers.5.self_attn.q_proj.lora_a": ("F32", [128, 1])})
    (folder / "lora.yaml").write_text(LORA + "resume_adapter_file: old/adapters.safetensors\n")
    result = init(folder)
    assert (result.exit_code, "but the adapter to go on from has" in result.stderr) == (2, True)


def test_renamed_columns_are_written_anew_under_mlx_lms_names(folder: Path) -> None:
    for path in (folder / "data").iterdir():
        path.write_text(path.read_text().replace('"messages"', '"conversations"'))
    (folder / "lora.yaml").write_text(LORA + "chat_feature: conversations\nnum_train_epochs: 3\noptimizer: AdamW\n")
    result = init(folder)
    assert result.exit_code == 0, result.output
    assert "lora.yaml has the key `num_train_epochs`, which mlx-lm passes over without a word" in result.stdout
    goal = load_campaign(folder / "mine.yaml").goal
    assert (goal.recipe["optimizer"], goal.data.train) == ("adamw", "mine_train.jsonl")
    assert list(json.loads((folder / "mine_train.jsonl").read_text().splitlines()[0])) == ["messages"]


def test_a_model_on_the_hub_is_left_as_it_is_stored(folder: Path) -> None:
    (folder / "lora.yaml").write_text(LORA.replace(str(BASE), "owner/some-model-4bit"))
    result = init(folder)
    assert result.exit_code == 0, result.output
    assert load_campaign(folder / "mine.yaml").goal.model.dtype is None
    assert "vigil run --check --online mine.yaml downloads it" in result.stdout
    assert "checking" not in result.stdout, "that file is gone"


def test_cases_keep_the_prompt_and_give_the_answer_as_reference(folder: Path) -> None:
    from tools.data.cases import read_split

    init(folder)
    cases = read_split(folder / "mine_cases.jsonl")
    assert len(cases) == 30
    assert cases[1]["messages"] == [{"role": "user", "content": "test 1"}]
    assert cases[1]["reference"] == "1"


def test_a_test_file_that_holds_cases_already_is_used_as_it_is(folder: Path) -> None:
    write_rows(folder / "data" / "test.jsonl", [{"prompt": f"p{i}", "reference": f"{i}"} for i in range(30)])
    assert init(folder).exit_code == 0
    assert load_campaign(folder / "mine.yaml").goal.evaluation.splits["task"].file == "data/test.jsonl"
    assert not (folder / "mine_cases.jsonl").exists()


def test_without_a_test_file_the_validation_rows_are_the_cases(folder: Path) -> None:
    (folder / "data" / "test.jsonl").unlink()
    result = init(folder)
    assert result.exit_code == 0, result.output
    assert "for want of a test.jsonl" in (folder / "mine.yaml").read_text()


def test_a_longer_reference_gets_a_larger_decode_budget(folder: Path) -> None:
    write_rows(folder / "data" / "test.jsonl", [{"prompt": f"p{i}", "completion": "x" * 500} for i in range(30)])
    assert init(folder).exit_code == 0
    assert load_campaign(folder / "mine.yaml").goal.evaluation.max_tokens >= 501


def test_a_file_that_is_there_is_kept_unless_forced(folder: Path) -> None:
    (folder / "mine.yaml").write_text("mine")
    refused = init(folder)
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert (folder / "mine.yaml").read_text() == "mine"
    assert init(folder, "--force").exit_code == 0


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("grade.py", "def grade(case, text):\n    return {}\n", "failed on case 'test-1'"),
        ("grade.py", "import nothing_like_it\n", "nothing_like_it"),
        ("lora.yaml", "data: data\n", "`model` is missing"),
        ("lora.yaml", LORA.replace("data: data", "data: elsewhere"), "not a folder here"),
        ("lora.yaml", LORA.replace("data: data", "data: data/train.jsonl"), "write `data: data`"),
        ("lora.yaml", LORA.replace("data: data", "hf_dataset: {path: o/rows}"), "save it as train.jsonl"),
        ("lora.yaml", LORA.replace("iters: 100", "iters: -1"), "would not pass --check"),
        ("lora.yaml", LORA.replace(str(BASE), "./gone"), "gone"),
        ("lora.yaml", LORA.replace("seed: 3", "seed: three"), "`seed` is 'three'; it must be a whole number"),
        ("lora.yaml", LORA.partition("lora_")[0] + "lora_parameters: [8]\n", "`lora_parameters` is [8]"),
        ("data/test.jsonl", '{"text": "no prompt"}\n', "no prompt"),
        ("data/test.jsonl", '{"messages": ["hi"]}\n', "message 1 is not an object with a `role`"),
        ("data/test.jsonl", '{"messages": {"role": "user"}}\n', "`messages` is not a list"),
        ("data/train.jsonl", "{\n", "train.jsonl:1"),
    ],
)
def test_what_cannot_become_a_campaign_leaves_nothing_behind(folder: Path, name: str, text: str, words: str) -> None:
    (folder / name).write_text(text)
    before = sorted(folder.rglob("*"))
    result = init(folder)
    assert result.exit_code == 2, result.output
    assert words in result.stderr, result.stderr
    assert [path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts] == before
