"""Runs on the shipped tiny base under a real supervisor with the guards that a campaign would set."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from policies.guards import training_guards
from state.records import ExitRecord
from tests.faults.jobs.harness import BACKEND, clear, ended, until
from tests.tools.evaluation.worlds import write_lines
from tools.jobs.spec import JobSpec
from tools.machine.blas import worker_env

QUICKSTART = Path(__file__).parents[3] / "runbooks" / "quickstart"
DEADLINE_S = 400.0
"""Bound on a whole run; the longest takes a minute on two idle cores."""

RECIPE: dict[str, Any] = {
    "batch_size": 2,
    "max_seq_length": 896,
    "steps_per_report": 1,
    "steps_per_eval": 1000,
    "seed": 1,
    "lora_parameters": {"rank": 8, "scale": 2.0, "dropout": 0.0},
}


def tables(count: int, shortest: int, longest: int) -> list[tuple[str, str]]:
    """Return (prompt, answer) of training rows whose prompts have so many characters."""
    rows = map(json.loads, (QUICKSTART / "data" / "train.jsonl").read_text().splitlines())
    found = [(row["messages"][0]["content"], row["messages"][1]["content"]) for row in rows]
    return [(prompt, answer) for prompt, answer in found if shortest < len(prompt) < longest][:count]


def cases(split: str, count: int) -> list[dict[str, Any]]:
    """Return evaluation cases."""
    lines = (QUICKSTART / "data" / f"{split}_selection.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[:count]]


def demonstrations(path: Path, rows: list[tuple[str, str]]) -> dict[str, Any]:
    """Write training rows; return the input's `instrument` and `data`."""
    write_lines(path, [{"prompt": prompt, "completion": answer} for prompt, answer in rows])
    return {"instrument": "sft", "data": {"train": str(path)}}


def preferences(path: Path, rows: list[tuple[str, str]], worse: Callable[[str], str]) -> dict[str, Any]:
    """Write pairs whose rejected side is a worse answer; return the input's `instrument` and `data`."""
    write_lines(path, [{"prompt": p, "chosen": answer, "rejected": worse(answer)} for p, answer in rows])
    return {"instrument": "dpo", "data": {"pairs": str(path)}}


def supervise(
    folder: Path, task: dict[str, Any], samples: dict[str, Any], save_every: int, **recipe: Any
) -> ExitRecord:
    """Run to the end, whoever ends it."""
    whole = RECIPE | {"save_every": save_every} | recipe
    inputs = {
        "model": str(QUICKSTART / "base"),
        "dtype": "float32",
        "recipe": whole,
        "system": None,
        "samples": samples,
        **task,
    }
    job = JobSpec(
        key=folder.name,
        kind="training",
        module="tools.training.worker",
        input=inputs,
        env=worker_env(),
        guards=training_guards(whole, step_s=1.0, wall_s=DEADLINE_S),
        steps=int(whole["iters"]),
    )
    try:
        BACKEND.launch(folder, job)
        until((folder / "exit.json").exists, f"the end of {folder.name}", DEADLINE_S)
        return ended(folder)
    finally:
        clear(folder)
