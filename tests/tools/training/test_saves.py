"""What a folder of saves guarantees, whatever was killed, torn or exchanged; and what a divergence leaves."""

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from state.files import write_json
from tests.tools.evaluation.worlds import make_model, write_lines
from tests.tools.training.jobs import adapter_bytes, drive, metrics, outcome, rows, run, saved_steps, training_job
from tools.training.progress import Progress, seal

pytestmark = pytest.mark.mlx

VARIANTS: dict[str, dict[str, Any]] = {
    "momentum": {"optimizer": "sgd", "optimizer_config": {"sgd": {"momentum": 0.9}}},
    "adam": {"optimizer": "adam", "num_layers": 1},
    "adafactor": {"optimizer": "adafactor", "grad_accumulation_steps": 3},
    "muon": {"optimizer": "muon", "clear_cache_threshold": 1},
    "dora": {"fine_tune_type": "dora", "max_grad_norm": None},
    "full": {"fine_tune_type": "full", "num_layers": 1, "learning_rate": 0.001},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saves")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return make_model(folder / "model")


@pytest.fixture(scope="module")
def train(folder: Path) -> Path:
    return write_lines(folder / "train.jsonl", rows(11, 20))


def newest_save(job: Path) -> Path:
    return max((job / "out" / "saves").glob("[0-9]*"))


def test_every_optimizer_and_kind_of_adapter_resumes_to_the_same_bytes(folder: Path, model: Path, train: Path) -> None:
    plain = {"iters": 7, "save_every": 2, "lora_parameters": {"rank": 2, "scale": 2.0, "dropout": 0.3}}
    jobs = {
        name: [training_job(folder / f"{name}{n}", model, train, recipe=plain | changes) for n in range(2)]
        for name, changes in VARIANTS.items()
    }
    steps = [({"job": whole}, {"job": stopped, "at_step": 4}) for whole, stopped in jobs.values()]
    assert drive(*(step for pair in steps for step in pair)) == [0, 75] * len(jobs)
    assert drive(*({"job": stopped} for _, stopped in jobs.values())) == [0] * len(jobs)
    for name, (whole, stopped) in jobs.items():
        assert outcome(stopped)["resumed_from"] in {4, 6}, name
        assert adapter_bytes(stopped) == adapter_bytes(whole), name
        assert outcome(stopped)["changed_inputs"] == [], name


def test_a_kill_while_a_save_is_written_leaves_the_one_before(folder: Path, model: Path, train: Path) -> None:
    recipe = {"iters": 6, "save_every": 2, "lora_parameters": {"rank": 2, "scale": 2.0, "dropout": 0.3}}
    whole, killed = (training_job(folder / f"kill{n}", model, train, recipe=recipe) for n in range(2))
    step = {"job": str(killed), "signal": "SIGKILL", "at_rename": "0000004"}
    assert run("tests.tools.training.driver", json.dumps([step])).returncode == -signal.SIGKILL
    assert saved_steps(killed) == [2]
    assert drive({"job": whole}, {"job": killed}) == [0, 0]
    assert outcome(killed)["resumed_from"] == 2
    assert adapter_bytes(killed) == adapter_bytes(whole)
    assert not list((killed / "out" / "saves").glob(".*")), "the torn one is gone"
    (killed / "result.json").unlink()
    assert drive({"job": killed}) == [0]
    assert outcome(killed)["resumed_from"] == 6, "a kill after the last save repeats no step"
    assert adapter_bytes(killed) == adapter_bytes(whole)


def test_the_newest_two_and_the_best_by_validation_stay(folder: Path, model: Path, train: Path) -> None:
    recipe = {"iters": 12, "save_every": 2, "steps_per_eval": 1, "learning_rate": 0.3}
    valid = write_lines(folder / "valid.jsonl", [{"prompt": "q", "completion": "never seen"}])
    job = training_job(folder / "kept", model, train, valid=str(valid), recipe=recipe)
    # As an earlier start found them.
    write_json(job / "out" / "trained_on.json", {"data:train": "of other rows"})
    assert drive({"job": job}) == [0]
    losses = {row["step"]: row["val_loss"] for row in metrics(job) if "val_loss" in row}
    best = min(range(2, 13, 2), key=losses.__getitem__)
    assert best < 10, "or this shows nothing"
    assert saved_steps(job) == [best, 10, 12]
    assert outcome(job)["changed_inputs"] == ["data:train", "data:valid", "template", "weights"]


def test_what_cannot_be_resumed_is_passed_over_or_refused_by_its_reason(folder: Path, model: Path, train: Path) -> None:
    recipe = {"iters": 9, "save_every": 3}
    names = ("torn", "garbled", "emptied", "foreign", "moved", "other machine", "exchanged", "other recipe", "defaults")
    data = {name: folder / f"{name}.jsonl" for name in names}
    for path in data.values():
        shutil.copy(train, path)
    jobs = {name: training_job(folder / name, model, data[name], recipe=recipe) for name in names}
    assert drive(*({"job": job, "at_step": 7} for job in jobs.values())) == [75] * len(names)
    saves = {name: newest_save(job) for name, job in jobs.items()}
    fresh = load_file(saves["exchanged"] / "adapters.safetensors")
    (saves["torn"] / "optimizer.safetensors").write_bytes(b"\0" * 40)
    (saves["garbled"] / "state.json").write_text('{"step": 7')
    whole = (saves["emptied"] / "adapters.safetensors").read_bytes()
    (saves["emptied"] / "adapters.safetensors").write_bytes(whole[:-4])
    save_file({f"x.{name}": value for name, value in fresh.items()}, saves["foreign"] / "adapters.safetensors")
    data["moved"].write_text(data["moved"].read_text() * 2)
    state = json.loads((saves["other machine"] / "state.json").read_text())
    state["environment"]["cpu"] = "another"
    seal(saves["other machine"], Progress.from_json(state))
    for name, key in (("other recipe", "learning_rate"), ("defaults", "weight_of_old")):
        config = json.loads((saves[name] / "adapter_config.json").read_text())
        write_json(saves[name] / "adapter_config.json", config | {key: 0.5})
        seal(saves[name], Progress.from_json(json.loads((saves[name] / "state.json").read_text())))
    rng = np.random.default_rng(0)
    anew = {k: np.zeros_like(v) if k.endswith("b") else rng.normal(size=v.shape) for k, v in fresh.items()}
    save_file({k: v.astype(np.float32) for k, v in anew.items()}, saves["exchanged"] / "adapters.safetensors")
    for name in ("foreign", "exchanged"):
        # As an older Vigil wrote them, without hashes; with them, both would be passed over.
        state = json.loads((saves[name] / "state.json").read_text())
        (saves[name] / "state.json").write_text(
            json.dumps({k: v for k, v in state.items() if k not in {"files", "seal"}})
        )
    codes = dict(zip(names, drive(*({"job": job} for job in jobs.values())), strict=True))
    assert codes == dict.fromkeys(names, 0) | {
        "foreign": 2,
        "moved": 2,
        "exchanged": 2,
        "other recipe": 2,
        "defaults": 2,
    }
    assert [outcome(jobs[name])["resumed_from"] for name in ("torn", "garbled", "emptied")] == [6, 6, 6]
    assert [outcome(jobs[name])["damaged_saves"] for name in ("torn", "garbled", "emptied")] == [[7], [7], [7]]
    assert outcome(jobs["other machine"])["resumed_from"] == 7
    warned = [row["warning"] for row in metrics(jobs["other machine"]) if "warning" in row]
    assert warned == ["cpu changed since the save; bits may differ from an uninterrupted run"]
    said = {name: outcome(jobs[name])["sentence"] for name in codes if codes[name]}
    begun = "The save at step 7 was made by another recipe"
    assert said["other recipe"].startswith(f"{begun} (learning_rate 0.5 -> 0.01), so nothing can go on from it;")
    assert said["defaults"].startswith(f"{begun} (`recipe.weight_of_old` is no key of a recipe;")
    assert said["foreign"] == "The save 0000007 holds other parameters than this recipe trains."
    assert said["moved"].startswith("The training file changed since the save at step 7")
    assert "what was written is not what loads" in said["exchanged"]


def test_a_divergence_leaves_the_last_weights_that_gave_a_finite_loss(folder: Path, model: Path, train: Path) -> None:
    absurd = {"learning_rate": 1e30, "optimizer": "sgd", "max_grad_norm": None}
    recipes: dict[str, dict[str, Any]] = {
        "step": absurd | {"iters": 20},
        "save": absurd | {"iters": 1},
        "validation": absurd | {"iters": 1},
        "gradient": {"lora_parameters": {"rank": 2, "scale": 1e30, "dropout": 0.0}},
    }
    jobs = {
        name: training_job(
            folder / f"diverge-{name}", model, train, recipe=recipe, valid=str(train) if name == "validation" else None
        )
        for name, recipe in recipes.items()
    }
    assert drive(*({"job": job} for job in jobs.values())) == [3] * len(jobs)
    for name, job in jobs.items():
        found = outcome(job)
        assert found["verdict"] == "diverged", name
        assert found["val_loss"] is None or math.isfinite(found["val_loss"]), name
        weights = load_file(job / "out" / "adapter" / "adapters.safetensors")
        # Each diverges by its first update, so the healthy weights are the fresh ones: no effect at all.
        assert all(not value.any() for key, value in weights.items() if key.endswith("lora_b")), name
        assert all(np.abs(value).max() < 1 for value in weights.values()), name
        assert not saved_steps(job), name
        last = metrics(job)[-1]
        assert math.isnan(last.get("train_loss", math.nan)), name


def test_validation_is_the_whole_set_whatever_the_batch_or_batches_from_short_to_long(
    folder: Path, model: Path, train: Path
) -> None:
    changes: list[dict[str, Any]] = [
        {"batch_size": 3},
        {"batch_size": 4},
        {"batch_size": 16},
        {"val_batches": 1},
        {"val_batches": 99},
        {"val_batches": 0},
    ]
    jobs = [
        training_job(folder / f"val{n}", model, train, valid=str(train), recipe=change | {"iters": 1})
        for n, change in enumerate(changes)
    ]
    assert drive(*({"job": job} for job in jobs)) == [0] * len(jobs)
    before = [outcome(job)["val_losses"][:1] for job in jobs]
    assert before[1] == pytest.approx(before[0], rel=1e-5)
    assert before[2] == pytest.approx(before[0], rel=1e-5)
    assert before[4] == before[0]
    assert before[3] != pytest.approx(before[0], rel=1e-5)
    assert before[5] == []


def test_checkpointed_gradients_train_the_same_weights(folder: Path, model: Path, train: Path) -> None:
    jobs = [training_job(folder / f"ck{n}", model, train, recipe={"grad_checkpoint": bool(n)}) for n in range(2)]
    assert drive(*({"job": job} for job in jobs)) == [0, 0]
    plain, checkpointed = (load_file(job / "out" / "adapter" / "adapters.safetensors") for job in jobs)
    assert any(np.abs(value).max() > 0.01 for name, value in plain.items() if name.endswith("lora_b"))
    for name, value in plain.items():
        assert np.allclose(value, checkpointed[name], rtol=1e-3, atol=1e-5), name
