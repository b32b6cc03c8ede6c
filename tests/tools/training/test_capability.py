"""What the tools can do, measured by real steps; and each fault of theirs that must not go unseen."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tools.machine.blas import worker_env

MODULE = "tools.training.capability"

LOST_SAVE = """
import tools.training.saves as saves
write = saves.write_adapter
def broken(folder, model, config):
    import types
    from mlx.utils import tree_map
    lost = types.SimpleNamespace(trainable_parameters=lambda: tree_map(lambda p: p * 0, model.trainable_parameters()))
    write(folder, lost if folder.name == "adapter" else model, config)
saves.write_adapter = broken
"""
NO_LOSS = """
import tools.training.objective as objective
objective.demonstration_loss = lambda model, inputs, *_: (model(inputs).sum() * float("nan"), inputs[:, :0])
"""
NO_LOSS_LATER = """
import tools.training.losses as losses
measure, calls = losses.measure, []
def late(model, loss, batches):
    calls.append(1)
    value, figures = measure(model, loss, batches)
    return (float("nan"), figures) if len(calls) == 4 else (value, figures)
losses.measure = late
"""
NO_SAVE = """
import tools.training.saves as saves
write = saves.write_adapter
def broken(folder, model, config):
    if folder.name == "adapter":
        raise OSError("the disk is gone")
    write(folder, model, config)
saves.write_adapter = broken
"""
OTHER_BATCH = """
import tools.evaluation.generation as generation
whole = generation.one_by_one
def shorter(*given):
    for output in whole(*given):
        yield generation.Generation(output.name, output.tokens[:-1], output.text, output.finish_reason, 1)
generation.one_by_one = shorter
"""
LOSING_FUSE = """
from mlx_lm.tuner.lora import LoRALinear
fuse = LoRALinear.fuse
LoRALinear.fuse = lambda self, dequantize=False: fuse(self, False)
"""
INDEX_ONLY = """
import json, pathlib, mlx_lm
load = mlx_lm.load
def by_index(folder, **rest):
    folder = pathlib.Path(folder)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        named = set(json.loads(index.read_text())["weight_map"].values())
        for file in folder.glob("model*.safetensors"):
            file.rename(file) if file.name in named else file.rename(file.with_suffix(".aside"))
    return load(str(folder), **rest)
mlx_lm.load = by_index
"""
NO_FUSE = """
from mlx_lm.tuner.lora import LoRALinear
del LoRALinear.fuse
"""


def measured(*instruments: str, fault: str = "") -> dict[str, Any]:
    """Run the worker, with a fault put into the tools first."""
    program = f"{fault}\nimport sys\nfrom {MODULE} import main\nsys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, *instruments],
        env=os.environ | worker_env(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.mlx
def test_what_is_installed_runs_every_instrument_and_says_that_an_unknown_one_is_not_there() -> None:
    found = measured("sft", "dpo", "grpo", "ppo")
    for name in ("sft", "dpo", "grpo"):
        row = found["instruments"][name]
        assert (row["step"], row["why"]) == ("", "")
        # Rollouts are told apart by their prompts, which they do not learn.
        assert row["trained"] < row["fresh"] if name != "grpo" else abs(row["trained"] - row["fresh"]) > 1e-3
        assert row["loaded"] == pytest.approx(row["trained"], abs=1e-5)
        assert row["tokens"] > 0
    missing = found["instruments"]["ppo"]
    assert missing["step"] == "imports"
    assert "cannot be trained; known instruments are sft, dpo, grpo" in missing["why"]


@pytest.mark.mlx
def test_the_contracts_of_the_pinned_mlx_lm_are_as_the_product_takes_them() -> None:
    found = measured()["contracts"]
    assert found["batch"] == {"same": 6, "of": 6}
    assert found["fuse"]["small"]["quantized"] < 0.5
    assert found["fuse"]["large"]["quantized"] > 0.9
    assert min(row["dequantized"] for row in found["fuse"].values()) > 0.99
    assert found["stale"]["reads"]


@pytest.mark.mlx
@pytest.mark.parametrize(
    ("fault", "step", "why"),
    [
        (NO_LOSS, "training", "ArithmeticError: the loss or the gradient was not finite"),
        (NO_LOSS_LATER, "training", "ArithmeticError: the loss after two steps is nan"),
        (NO_SAVE, "saving", "OSError: the disk is gone"),
    ],
)
def test_a_step_that_fails_is_named_with_its_reason(fault: str, step: str, why: str) -> None:
    row = measured("sft", fault=fault)["instruments"]["sft"]
    assert (row["step"], row["why"]) == (step, why)


@pytest.mark.mlx
def test_a_save_that_loads_as_something_else_shows_in_the_losses() -> None:
    row = measured("sft", fault=LOST_SAVE)["instruments"]["sft"]
    assert row["step"] == ""
    assert abs(row["loaded"] - row["trained"]) > 0.1
    assert row["loaded"] == pytest.approx(row["fresh"], abs=1e-4)


@pytest.mark.mlx
def test_each_contract_that_changes_is_seen() -> None:
    assert measured(fault=OTHER_BATCH)["contracts"]["batch"]["same"] < 6
    assert measured(fault=LOSING_FUSE)["contracts"]["fuse"]["small"]["dequantized"] < 0.5
    assert measured(fault=INDEX_ONLY)["contracts"]["stale"] == {"reads": False, "wins": False}
    assert "AttributeError" in measured(fault=NO_FUSE)["contracts"]["fuse"]["why"]
