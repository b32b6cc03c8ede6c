"""The workers on a real language model, SmolLM2-135M-Instruct, with the data and grader of runbooks/smollm2.

They need the model: `make smollm2`, or its folder in `VIGIL_SMOLLM2`; without it they are skipped by name.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.tools.evaluation.worlds import case_rows, make_job
from tests.tools.test_base import script
from tests.tools.training.jobs import metrics, run, training_job, work
from tools.models.identity import weights_hash

RUNBOOK = Path(__file__).parents[2] / "runbooks" / "smollm2"
MODEL = Path(os.environ.get("VIGIL_SMOLLM2") or RUNBOOK / "model")
DATA = RUNBOOK / "sorting" / "data"
SYSTEM = "Sort the words."
N_CASES = 16
ADAPTER = {"rank": 4, "scale": 2.0, "dropout": 0.0}

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not (MODEL / "config.json").is_file(), reason="needs SmolLM2: make smollm2, or VIGIL_SMOLLM2"),
]


def inputs(**more: Any) -> dict[str, Any]:
    ids = [f"selection-{number}" for number in range(N_CASES)]
    split = {"name": "task", "use": "selection", "file": str(DATA / "selection.jsonl"), "case_ids": ids}
    return {
        "model": str(MODEL.resolve()),
        "dtype": "float32",
        "splits": [split],
        "max_tokens": 24,
        "temperature": 0.0,
        "seed": 0,
        "system": SYSTEM,
        "grader": {"file": str(RUNBOOK / "sorting" / "grade.py"), "timeout_s": 60},
    } | more


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the job of one step on demonstrations."""
    recipe = {"iters": 1, "batch_size": 4, "learning_rate": 1e-4, "max_seq_length": 128, "lora_parameters": ADAPTER}
    train = DATA / "train.jsonl"
    folder = tmp_path_factory.mktemp("sft") / "job"
    job = training_job(folder, MODEL.resolve(), train, recipe=recipe, system=SYSTEM)
    work(job)
    return job


def test_the_folder_is_whole_and_a_byte_less_is_noticed(tmp_path: Path) -> None:
    fetch = script(RUNBOOK / "fetch.py")
    dtype = json.loads((MODEL / fetch.MARKER).read_text())["dtype"]
    assert fetch.is_whole(MODEL, dtype)
    assert not fetch.is_whole(MODEL, next(other for other in fetch.DTYPES if other != dtype))
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in MODEL.resolve().iterdir():
        (copy / path.name).symlink_to(path)
    assert fetch.is_whole(copy, dtype)
    whole = (copy / "tokenizer.json").read_bytes()
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer.json").write_bytes(whole[:-1])
    assert not fetch.is_whole(copy, dtype)


def test_census_counts_the_template_and_finds_that_every_reference_earns_full_marks(tmp_path: Path) -> None:
    data = {"train": str(DATA / "train.jsonl"), "valid": str(DATA / "valid.jsonl")}
    job = make_job(tmp_path / "job", inputs(data=data, max_seq_length=128, mask_prompt=True))
    found = work(job, "tools.evaluation.census")
    assert found["ceiling"]["task.selection"]["exact"]["mean"] == 1.0
    assert found["budget"]["task.selection"]["whole"] == N_CASES


def test_sixteen_cases_are_answered_and_graded(tmp_path: Path) -> None:
    more = {
        "adapter": None,
        "expect_weights": weights_hash(MODEL.resolve()),
        "batch_size": 8,
        "side": "base",
        "run": "",
    }
    job = make_job(tmp_path / "job", inputs(**more))
    found = work(job, "tools.evaluation.worker")
    rows = case_rows(job)
    assert len(rows) == found["cases"] == N_CASES
    assert all(row["text"] and row["grader_error"] == "" for row in rows)
    assert found["means"]["task.selection"]["exact"] < 0.5, "the base does not know the task"


def test_one_step_on_demonstrations_has_the_loss_of_a_model_that_can_read(trained: Path) -> None:
    (row, *_) = [row for row in metrics(trained) if "train_loss" in row]
    assert 0 < row["train_loss"] < 6, "a random model has ln(49152), 10.8"


def test_stock_mlx_lm_opens_the_adapter(trained: Path) -> None:
    adapter = next(path.parent for path in (trained / "out").rglob("adapters.safetensors"))
    done = run(
        *("mlx_lm", "generate", "--model", str(MODEL.resolve()), "--adapter-path", str(adapter)),
        *("--prompt", script(RUNBOOK / "fetch.py").QUESTION, "--max-tokens", "16", "--temp", "0"),
    )
    assert done.returncode == 0, done.stderr
    assert script(RUNBOOK / "fetch.py").ANSWER in done.stdout


def test_one_update_from_rollouts_is_sampled_graded_and_learned(tmp_path: Path) -> None:
    recipe = {
        "iters": 1,
        "batch_size": 2,
        "group_size": 4,
        "learning_rate": 1e-5,
        "max_completion_length": 16,
        "max_seq_length": 128,
        "lora_parameters": ADAPTER,
        "rollout_concurrency": 8,
        "reward_weights": {"exact": 1.0, "placed": 1.0},
        "steps_per_report": 1,
        "save_every": 1,
    }
    cases = [json.loads(line) for line in (DATA / "train.jsonl").read_text().splitlines()[:4]]
    rows = [{"id": str(n), "prompt": row["prompt"], "reference": row["completion"]} for n, row in enumerate(cases)]
    file = tmp_path / "cases.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = training_job(
        tmp_path / "job", MODEL.resolve(), file, instrument="grpo", recipe=recipe, data={"rollouts": str(file)}
    )
    spec = json.loads((job / "job.json").read_text())
    spec["input"] |= {"grader": inputs()["grader"], "system": SYSTEM}
    (job / "job.json").write_text(json.dumps(spec))
    found = work(job)
    rolled = [json.loads(line) for line in (job / "out" / "rollouts.jsonl").read_text().splitlines()]
    assert found["iters"] == 1
    assert len(rolled) == 8
    assert len({row["text"] for row in rolled}) > 1, "sampled, not greedy"
