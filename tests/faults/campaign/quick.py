"""A worker for whole campaigns that takes a moment: census, evaluation and training in the real job protocol, no MLX.

Training commits one file per step with O_EXCL, so a step done twice or two workers at once leave a trace in
`out/violations.jsonl`. A candidate's scores grow with the iterations it was trained for, so that a campaign needs
several runs before its gate holds. Run as `python -m tests.faults.campaign.quick JOB`.
"""

import fcntl
import os
import random
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from state.files import read_json, write_atomic, write_json
from state.hashing import hash_json, hash_tree
from tests.faults.quick_worker import append_jsonl
from tests.tools.models.folders import safetensors
from tools.data.cases import read_split
from tools.evaluation.harness import harness_parts
from tools.jobs.worker import WorkerContext, begin
from tools.models.identity import weights_hash

CEILING = 0.95
BASE_SCORE = 0.5
GAIN_PER_ITERATION = 0.0025
STEP_S = float(os.environ.get("QUICK_STEP_S", "0.01"))
"""A step's seconds; the benchmark of what watching costs takes those of a real training."""
OVERFITS = 0.7
"""Learning rate at which a training has lost half of its gain, and the validation loss, by its end."""
TOO_FAST = 1.0
"""Learning rate above which training diverges half way."""


def main() -> int:
    """Do the job named on the command line."""
    context = begin(sys.argv[1])
    out = context.folder.out
    out.mkdir(parents=True, exist_ok=True)
    append_jsonl(out / "starts.jsonl", {"pid": os.getpid(), "t": time.time()})
    _be_alone(out)
    kind = (read_json(context.folder.spec) or {})["kind"]
    {"census": _census, "evaluation": _evaluate, "training": _train, "fuse": _fuse}[kind](context, out)
    return 0


def _be_alone(out: Path) -> None:
    """Hold a lock of our own for the rest of this process, independent of the supervisor's."""
    descriptor = os.open(out / "alone", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        append_jsonl(out / "violations.jsonl", {"what": "two workers at once", "pid": os.getpid()})


def _census(context: WorkerContext, _out: Path) -> None:
    places = [f"{row['name']}.{row['use']}" for row in context.input["splits"]]
    row = {"score": {"mean": CEILING, "n": 40, "cases_whole": 40}}
    floor = {"score": {"mean": 0.0, "n": 40, "cases_whole": 40}}
    context.emit({"step": 1})
    grades = {
        "ceiling": dict.fromkeys(places, row),
        "floor": _each(places, floor),
        "no_reference": [],
        "budget_for": {},
        "grader": {"errors": [], "varies": []},
    }
    tokens = {
        "budget": {},
        "train": {"rows": 400, "max_tokens": 64, "p50": 40, "p95": 60, "truncated": 0, "prompt_longer_than_max": 0},
        "prompt_parity": {"ok": True},
    }
    wanted = context.input["parts"]
    parts = {"harness_parts": harness_parts(context.input)}
    context.finish({**parts, **(grades if "grades" in wanted else {}), **(tokens if "tokens" in wanted else {})})


def _each(places: list[str], row: dict[str, Any]) -> dict[str, Any]:
    return dict.fromkeys(places, row)


def _strength(inputs: dict[str, Any]) -> float:
    """Return what a candidate has gained, from its adapter folder."""
    config = read_json(Path(inputs["adapter"]) / "adapter_config.json") if inputs.get("adapter") else None
    return GAIN_PER_ITERATION * float(config.get("worth", config["iters"])) if config else 0.0


def _evaluate(context: WorkerContext, out: Path) -> None:
    inputs = context.input
    gained = _strength(inputs)
    rows = []
    for split in inputs["splits"]:
        wanted = split["case_ids"]
        for case in read_split(Path(split["file"])):
            if wanted is not None and case["id"] not in wanted:
                continue
            noise = random.Random(case["id"]).uniform(-0.05, 0.05)
            score = min(1.0, BASE_SCORE + gained + noise)
            rows.append(
                {
                    "split": split["name"],
                    "use": split["use"],
                    "case": case["id"],
                    "prompt_tokens": 10,
                    # Short beside a training, or nobody would look at other saves.
                    "output_tokens": 2,
                    "finish_reason": "stop",
                    "text": "x",
                    "metrics": {"score": score},
                    "grader_error": "",
                }
            )
            time.sleep(STEP_S / 4)
            context.emit({"step": len(rows)})
    write_atomic(out / "cases.jsonl", "".join(f"{_line(row)}\n" for row in rows))
    parts = harness_parts(inputs)
    means = {}
    for split in inputs["splits"]:
        scores = [row["metrics"]["score"] for row in rows if row["split"] == split["name"]]
        means[f"{split['name']}.{split['use']}"] = {"score": sum(scores) / len(scores)}
    context.finish(
        {
            "weights": weights_hash(inputs["model"], inputs.get("adapter")),
            "harness": hash_json(parts),
            "harness_parts": parts,
            "cases": len(rows),
            "means": means,
        }
    )


def _line(row: dict[str, Any]) -> str:
    import json

    return json.dumps(row)


def _save(out: Path, step: int) -> None:
    """Leave what a resume would need, as whole as the real trainer's."""
    save = out / "saves" / f"{step:07d}"
    write_json(save / "adapter_config.json", {"iters": step})
    write_atomic(save / "adapters.safetensors", safetensors({f"iters_{step}": ("F32", [1])}))
    write_atomic(save / "optimizer.safetensors", safetensors({"large": ("F32", [1])}))
    # Numpy comes with it, which the jobs that train nothing do without.
    from tools.training.progress import Progress

    write_json(save / "state.json", asdict(Progress(step=step, val_losses=[(step, 0.1)])))


def _diverge(context: WorkerContext, out: Path, step: int, iters: int) -> None:
    """Lose the loss, keep a save as the real trainer does, and wait for the guard."""
    if context.input["recipe"].get("save_every", iters) < step:
        _save(out, step)
    context.emit({"step": step, "train_loss": float("nan")})
    while not context.should_stop:
        time.sleep(STEP_S)
    context.leave_stopped()


def _train(context: WorkerContext, out: Path) -> None:
    """Do the steps that are left, without those of a run gone on from; each commits one file made only once."""
    iters = int(context.input["recipe"]["iters"])
    source = Path(context.input.get("continue_from") or "none")
    before = int(source.name) if source.is_dir() else 0
    taken = out / "saves" / f"{before:07d}"
    if before and not taken.exists():
        # As the real trainer takes it over: a copy of its own, whole or not at all.
        side = taken.with_name(".taken")
        shutil.rmtree(side, ignore_errors=True)
        shutil.copytree(source, side)
        side.rename(taken)
    # Two saves, or none where the first would come after the end.
    saved = {iters // 2, iters} if context.input["recipe"].get("save_every", iters) <= iters else set()
    steps = out / "steps"
    steps.mkdir(exist_ok=True)
    for step in range(before + len(list(steps.iterdir())) + 1, iters + 1):
        time.sleep(STEP_S)
        if float(context.input["recipe"]["learning_rate"]) > TOO_FAST and step > iters // 2:
            _diverge(context, out, step, iters)
        try:
            os.close(os.open(steps / f"{step:06d}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            append_jsonl(out / "violations.jsonl", {"what": "a step done twice", "step": step})
        if step in saved:
            _save(out, step)
        context.emit({"step": step, "train_loss": 1.0 / step})
        if context.should_stop:
            context.leave_stopped()
    adapter = out / "adapter"
    is_overfit = float(context.input["recipe"]["learning_rate"]) == OVERFITS
    worth = {"worth": iters / 4} if is_overfit else {}
    told = {"iters": iters, "seed": context.input["recipe"].get("seed", 0), **worth}
    write_json(adapter / "adapter_config.json", told)
    write_atomic(adapter / "adapters.safetensors", f"iters {iters}".encode())
    context.finish(
        {
            "adapter": "out/adapter",
            "adapter_hash": hash_tree(adapter),
            "weights": weights_hash(context.input["model"], adapter),
            "iters": iters,
            "adapter_step": iters,
            "trained_tokens": iters * 100,
            "padded_tokens": iters * 160,
            "steps_s": iters * STEP_S,
            "train_loss": 0.1,
            "val_loss": 0.4 if is_overfit else 0.1,
            "val_losses": [0.1, 0.4] if is_overfit else [0.1],
            "tokens_per_s": 1000.0,
            "wall_s": iters * STEP_S,
            "verdict": "",
        }
    )


def _fuse(context: WorkerContext, out: Path) -> None:
    """Copy the base and say that it answers alike; a fusion that was done is found."""
    target, side = out / "fused", out / "fused.part"
    if not target.exists():
        shutil.rmtree(side, ignore_errors=True)
        shutil.copytree(context.input["model"], side)
        side.rename(target)
    alike = {"positions": 100, "same": 100, "kl": 0.0, "kl_base": 0.1}
    context.finish({"fused": "out/fused", "weights": weights_hash(target), **alike})


if __name__ == "__main__":
    sys.exit(main())
