"""Training jobs on the random model of 40,000 parameters: their folders, their data, and how they are run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.tools.evaluation.worlds import make_job
from tools.machine.blas import worker_env

WORKER = "tools.training.worker"
RECIPE: dict[str, Any] = {
    "iters": 6,
    "batch_size": 3,
    "learning_rate": 0.01,
    "max_seq_length": 64,
    "lora_parameters": {"rank": 2, "scale": 2.0, "dropout": 0.0},
    "steps_per_report": 1,
    "steps_per_eval": 100,
    "save_every": 100,
    "seed": 7,
}


def rows(n_rows: int, longest: int = 12) -> list[dict[str, Any]]:
    """Return completions rows of mixed lengths, one token per character."""
    return [
        {"prompt": "abcdefgh"[: 1 + place % 8], "completion": "xyz" * (1 + place * 5 % max(1, longest // 3))}
        for place in range(n_rows)
    ]


def training_job(folder: Path, model: Path, train: Path, **inputs: Any) -> Path:
    """Write a training job's folder; `recipe` is put on top of the small one."""
    recipe = RECIPE | inputs.pop("recipe", {})
    plain = {"model": str(model), "dtype": "float32", "parent_adapter": None, "expect_weights": None}
    data = inputs.pop("data", None) or {"train": str(train), "valid": inputs.pop("valid", None)}
    more = {
        "instrument": inputs.pop("instrument", "sft"),
        "recipe": recipe,
        "data": data,
        "system": None,
        "samples": inputs.pop("samples", None),
        "interim": inputs.pop("look", None),
    }
    return make_job(folder, plain | more | {key: str(value) for key, value in inputs.items()})


def run(module: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a module to its end with the workers' environment."""
    command = [sys.executable, "-m", module, *argv]
    return subprocess.run(command, env=os.environ | worker_env(), capture_output=True, text=True, check=False)


def assert_same_logits(base: Path, adapter: Path, fused: Path) -> None:
    """Assert that a fused model is base and adapter together, and that the adapter does something."""
    done = run("tests.tools.training.compare", "logits", str(base), str(adapter), str(fused))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["effect"] > 0.1
    assert found["difference"] < 1e-3 * found["effect"]


def work(job: Path, module: str = WORKER, expected: int = 0) -> dict[str, Any]:
    """Run a worker in its own process; return its result, or its error."""
    done = run(module, str(job))
    assert done.returncode == expected, done.stderr
    return outcome(job)


def drive(*steps: dict[str, Any]) -> list[int]:
    """Run workers one after another in one child process; see `driver`."""
    done = run("tests.tools.training.driver", json.dumps([step | {"job": str(step["job"])} for step in steps]))
    assert done.returncode == 0, done.stderr
    return [int(code) for code in json.loads(done.stdout.splitlines()[-1])]


def outcome(job: Path) -> dict[str, Any]:
    """Return a job's result, or its error where it has none."""
    path = job / "result.json"
    return dict(json.loads((path if path.exists() else job / "error.json").read_text()))


def metrics(job: Path) -> list[dict[str, Any]]:
    """Return the reported rows of a job."""
    return [json.loads(line) for line in (job / "metrics.jsonl").read_text().splitlines()]


def adapter_bytes(job: Path) -> bytes:
    """Return the trained adapter's file."""
    return (job / "out" / "adapter" / "adapters.safetensors").read_bytes()


def saved_steps(job: Path) -> list[int]:
    """Return the steps that are saved, torn saves included."""
    return sorted(int(path.name) for path in (job / "out" / "saves").iterdir() if path.name.isdigit())
