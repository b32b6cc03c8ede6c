"""Jobs of graded rollouts on the random model: their graders, cases and folders, and a supervisor to run them."""

import json
from pathlib import Path
from typing import Any

from policies.guards import training_guards
from state.records import ExitRecord
from tests.faults.jobs.harness import BACKEND, clear, ended, until
from tests.tools.evaluation.worlds import write_lines
from tests.tools.training.jobs import RECIPE, training_job
from tools.jobs.spec import JobSpec
from tools.machine.blas import worker_env

DEADLINE_S = 300.0
"""Bound on a whole run; the longest takes half a minute on two busy cores."""

GRADER = '''
"""Letters that no special token is written with count as honest; any letter counts as easy."""

def grade(case, text):
    honest = sum(letter in "bcfghjkloqvwxz" for letter in text)
    return {
        "honest": honest / 8,
        "easy": sum("a" <= letter <= "z" for letter in text) / 8,
        "short": 1 - min(len(text), 8) / 8,
    }
'''
"""A random base writes `<|system|>` once it is paid by the letter: a reward that is really hacked."""

CASES = [
    {"id": "one", "prompt": "ab", "reference": "wxyzwxyz"},
    {"id": "two", "prompt": "cde"},
    {"id": "three", "prompt": "f"},
    {"id": "four", "prompt": "ghij"},
    {"id": "five", "prompt": "kl"},
]
UNBOUNDED: dict[str, Any] = {"kl_ceiling": None, "entropy_floor": None, "length_jump": None}
ROLLOUTS: dict[str, Any] = {
    "iters": 6,
    "batch_size": 2,
    "group_size": 4,
    "max_completion_length": 8,
    "update_microbatch": 3,
    "rollout_concurrency": 5,
    "steps_per_report": 1,
    "reward_weights": {"honest": 1.0},
    "truncation_penalty": 0.0,
    **UNBOUNDED,
}


def rollout_job(folder: Path, model: Path, recipe: dict[str, Any], **inputs: Any) -> Path:
    """Write a job's folder, its grader and cases beside it; `recipe` is put on top of the small one.

    Args:
        folder: Of the job.
        model: The base.
        recipe: Changes.
        inputs: More of the job's input; `grader_source` and `cases` replace the usual ones, `held_out` is a list of
            case ids that are graded by `signs`.
    """
    beside = folder.parent / f"{folder.name}-beside"
    beside.mkdir(parents=True, exist_ok=True)
    (beside / "grade.py").write_text(inputs.pop("grader_source", GRADER))
    cases = write_lines(beside / "cases.jsonl", inputs.pop("cases", CASES))
    parent = inputs.pop("parent_adapter", None)
    job = training_job(folder, model, cases, instrument="grpo", recipe=ROLLOUTS | recipe, data={"rollouts": str(cases)})
    held_out, signs = inputs.pop("held_out", None), inputs.pop("signs", {"honest": 1})
    spec = json.loads((job / "job.json").read_text())
    spec["input"] |= {
        "grader": {"file": str(beside / "grade.py"), **inputs.pop("grader", {})},
        "parent_adapter": str(parent) if parent else None,
        **inputs,
    }
    if held_out is not None:
        split = {"name": "main", "use": "selection", "file": str(cases), "case_ids": held_out}
        spec["input"]["held_out"] = {"cases": split, "metrics": signs, "max_tokens": 8}
    (job / "job.json").write_text(json.dumps(spec))
    return job


def rolled(job: Path) -> list[dict[str, Any]]:
    """Return the rows of the completion log."""
    return [json.loads(line) for line in (job / "out" / "rollouts.jsonl").read_text().splitlines()]


def supervise(job: Path) -> ExitRecord:
    """Run a job under a real supervisor, with the guards that a campaign would set, to the end, whoever ends it."""
    inputs = json.loads((job / "job.json").read_text())["input"]
    folder = job.with_name(f"{job.name}-run")
    spec = JobSpec(
        key=folder.name,
        kind="training",
        module="tools.training.worker",
        input=inputs,
        env=worker_env(),
        guards=training_guards(RECIPE | inputs["recipe"], step_s=1.0, wall_s=DEADLINE_S),
        steps=int(inputs["recipe"]["iters"]),
    )
    try:
        BACKEND.launch(folder, spec)
        until((folder / "exit.json").exists, f"the end of {folder.name}", DEADLINE_S)
        return ended(folder)
    finally:
        clear(folder)
