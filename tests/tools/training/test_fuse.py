import json
from pathlib import Path

import pytest

from state.hashing import hash_file
from tests.tools.evaluation.worlds import make_model, write_lines
from tests.tools.training.jobs import assert_same_logits, drive, outcome, rows, run, training_job

pytestmark = pytest.mark.mlx

FUSE = "tools.training.fuse"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuse")


@pytest.fixture(scope="module")
def train(folder: Path) -> Path:
    return write_lines(folder / "train.jsonl", rows(6))


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return make_model(folder / "model")


def test_a_4_bit_base_is_fused_dequantized_and_keeps_the_adapters_whole_effect(
    folder: Path, model: Path, train: Path
) -> None:
    base = folder / "4bit"
    done = run("tests.tools.training.compare", "quantize", str(model), str(base))
    assert done.returncode == 0, done.stderr
    assert json.loads((base / "config.json").read_text())["quantization"]["bits"] == 4
    recipe = {"iters": 12, "learning_rate": 0.02}
    job = training_job(folder / "train-4bit", base, train, recipe=recipe)
    adapter = job / "out" / "adapter"
    fuse = training_job(folder / "fuse-4bit", base, train, adapter=adapter)
    assert drive({"job": job}, {"job": fuse, "module": FUSE}) == [0, 0]
    fused = fuse / "out" / "fused"
    assert "quantization" not in json.loads((fused / "config.json").read_text())
    assert_same_logits(base, adapter, fused)
    assert json.loads((fused / "run.json").read_text())["fused_from"] == outcome(job)["weights"]


def test_whole_layers_that_were_trained_are_fused_too_also_as_gguf_and_a_second_start_finds_it_done(
    folder: Path, model: Path, train: Path
) -> None:
    recipe = {"fine_tune_type": "full", "learning_rate": 0.01}
    job = training_job(folder / "train-full", model, train, recipe=recipe)
    adapter = job / "out" / "adapter"
    fuse = training_job(folder / "fuse-full", model, train, adapter=adapter, gguf=True)
    assert drive({"job": job}, {"job": fuse, "module": FUSE}) == [0, 0]
    assert_same_logits(model, adapter, fuse / "out" / "fused")
    first = outcome(fuse)
    file = fuse / "out" / "model.gguf"
    assert (first["gguf"], first["sha256"], first["bytes"]) == ("out/model.gguf", hash_file(file), file.stat().st_size)
    assert file.read_bytes()[:4] == b"GGUF"
    written = (fuse / "out" / "fused" / "model.safetensors").stat().st_mtime_ns
    # As after a kill between the rename and the result.
    (fuse / "result.json").unlink()
    changed = training_job(folder / "fuse-changed", model, train, adapter=adapter, expect_weights="0" * 64)
    assert drive({"job": fuse, "module": FUSE}, {"job": changed, "module": FUSE}) == [0, 2]
    assert outcome(fuse) == first
    assert (fuse / "out" / "fused" / "model.safetensors").stat().st_mtime_ns == written
    assert "000000000000 were to be fused: the folder changed since" in outcome(changed)["sentence"]


def test_what_was_saved_is_held_against_base_and_adapter_and_a_model_that_lost_it_is_refused(
    folder: Path, model: Path, train: Path
) -> None:
    job = training_job(folder / "train-like", model, train, recipe={"iters": 12, "learning_rate": 0.02})
    adapter = job / "out" / "adapter"
    alike = training_job(folder / "fuse-alike", model, train, adapter=adapter)
    lost = training_job(folder / "fuse-lost", model, train, adapter=adapter)
    assert drive({"job": job}, {"job": alike, "module": FUSE}) == [0, 0]
    found = outcome(alike)
    assert found["positions"] > 20
    assert found["same"] == found["positions"]
    assert found["kl"] < 0.01 * found["kl_base"]
    assert drive({"job": lost, "module": "tests.tools.training.fuse_nothing"}) == [2]
    assert "it lost 100% of what was learned, so it is not handed out" in outcome(lost)["sentence"]
    assert not (lost / "out" / "fused").exists()
