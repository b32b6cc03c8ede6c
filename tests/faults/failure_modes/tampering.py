"""Libraries that changed, and what people do to a campaign's folder between two commands."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from state.files import read_json, read_jsonl
from tests.faults.failure_modes.seen import TIMEOUT_S, vigil
from tests.faults.failure_modes.worlds import NAME, World

_HOOK = '''
import importlib.abc, importlib.util, sys


class Hook(importlib.abc.MetaPathFinder):
    """Changes one module as soon as it is imported."""

    def find_spec(self, name, path=None, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Hook())
'''

WITHOUT_LORA = f"""MODULE = "mlx_lm.tuner.utils"


def change(module):
    del module.linear_to_lora_layers

{_HOOK}"""
"""The function that adapters are built with is gone."""

FUSES_INTO_THE_GRID = f"""MODULE = "mlx_lm.tuner.lora"


def change(module):
    fuse = module.LoRALinear.fuse
    module.LoRALinear.fuse = lambda self, dequantize=False: fuse(self, dequantize=False)

{_HOOK}"""
"""A fused layer is quantized again, asked or not."""

LOADS_NOTHING = f"""MODULE = "mlx.nn"


def change(module):
    load = module.Module.load_weights
    keep = lambda self, weights, strict=True: load(self, weights, strict) if strict else self
    module.Module.load_weights = keep

{_HOOK}"""
"""Adapter weights are taken and not loaded."""


def jobs(home: Path, kind: str) -> list[Path]:
    """Return the folders of a campaign's jobs of one kind, oldest first."""
    folders = sorted((home / NAME / "jobs").glob("*/job.json"), key=lambda path: path.stat().st_mtime)
    return [path.parent for path in folders if (read_json(path) or {}).get("kind") == kind]


def until(holds: Callable[[], Any]) -> None:
    """Wait for something to become true.

    Raises:
        TimeoutError: It never did.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


def answer_yes(campaign: Path, home: Path, world: World) -> None:
    """Say yes to the newest question."""
    questions = json.loads(vigil("inbox", "--json", "--home", str(home)).stdout)
    vigil("approve", questions[-1]["id"], "--home", str(home))


def override(campaign: Path, home: Path, world: World) -> None:
    """Go on against every hard stop."""
    for belief in json.loads(vigil("beliefs", "--json", "--home", str(home)).stdout):
        if belief["status"] == "refuted" and belief["severity"] == "hard_stop":
            vigil("approve", belief["id"], "--reason", "I want to see for myself", "--home", str(home))


def lose_the_adapter(campaign: Path, home: Path, world: World) -> None:
    """Remove what a training made, and accept its promotion."""
    for folder in (home / NAME / "artifacts").iterdir():
        if (folder / "adapters.safetensors").exists():
            shutil.rmtree(folder)
    answer_yes(campaign, home, world)


def lose_every_adapter(campaign: Path, home: Path, world: World) -> None:
    """Remove what a training made in its own folder too, and accept its promotion."""
    for job in jobs(home, "training"):
        shutil.rmtree(job / "out")
    lose_the_adapter(campaign, home, world)


def nothing(campaign: Path, home: Path, world: World) -> None:
    """Leave everything as it is."""


def stop_after_a_save(campaign: Path, home: Path, world: World) -> None:
    """Stop the campaign as soon as its training has saved."""
    until(lambda: [path for job in jobs(home, "training") for path in job.glob("out/saves/*/state.json")])
    vigil("stop", "--home", str(home))


def other_weights_in_saves(campaign: Path, home: Path, world: World) -> None:
    """Put the weights of another adapter into every save: the save path is not the load path any more."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    rng = np.random.default_rng(0)
    for path in jobs(home, "training")[0].glob("out/saves/*/adapters.safetensors"):
        weights = load_file(path)
        save_file({n: rng.normal(0, 0.2, w.shape).astype(w.dtype) for n, w in weights.items()}, path)


def kill_a_training(campaign: Path, home: Path, world: World) -> None:
    """Kill a training's worker in the middle of it."""
    until(lambda: any(_steps(job) >= STEPS_BEFORE_DEATH for job in jobs(home, "training")))
    worker = read_json(jobs(home, "training")[0] / "worker.json") or {}
    os.kill(int(worker["pid"]), signal.SIGKILL)


STEPS_BEFORE_DEATH = 5


def _steps(job: Path) -> int:
    return max((int(row.get("step", 0)) for row in read_jsonl(job / "metrics.jsonl")), default=0)
