"""The timing worker: `python -m tools.training.pace JOB`; a few steps of a recipe, timed and thrown away.

Of rollouts it asks first what the start's answers earn (`signal`, see `rewards.signal_facts`); where no reward differs
nothing can be learned, and no step is timed.

Input: as the training worker's, without `samples` and `held_out`. It trains on one batch of the data, taken evenly from
its shortest to its longest rows, so that a file of any size costs the same. The first step does not count: kernels and
traces are made in it. Nothing that was learned is kept.

Result, as a training's (but for rollouts without signal): `iters` and `steps_s` (steps that count, and their seconds),
`padded_tokens` (positions in them), `wall_s` (all of it, loading included) and `peak_memory_gb`.
"""

import json
import shutil
import sys
import time
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from state.errors import ConfigError
from state.files import write_atomic
from state.records import CLASSES, Instrument, Json
from tools.data.cases import iter_rows
from tools.jobs.worker import WorkerContext, run_job, tell_phase
from tools.training.recipe import RolloutRecipe, validate_recipe
from tools.training.rollouts import signal_prompts
from tools.training.worker import assemble, peak_memory_gb

STEPS = 4
"""Steps, the first of which does not count."""

_LOOKED_AT = 2048
"""Rows of the data that the batch is taken from."""

_FILES = {"demonstration": "train", "preference": "pairs", "rollout": "rollouts"}


def pace(context: WorkerContext) -> None:
    """Do the whole job.

    Raises:
        ConfigError: The recipe, the data or the weights cannot be trained as asked.
    """
    started = time.monotonic()
    wanted = {key: value for key, value in context.input["recipe"].items() if key != "lr_schedule"}
    often = {"iters": STEPS, "steps_per_report": 1, "steps_per_eval": STEPS + 1, "save_every": STEPS + 1}
    instrument: Instrument = context.input["instrument"]
    recipe = validate_recipe({**wanted, **often}, instrument)
    name = _FILES[CLASSES[instrument]]
    of_rollouts = 2 * signal_prompts(recipe.group_size) if isinstance(recipe, RolloutRecipe) else 0
    source, size = Path(context.input["data"][name]), max(recipe.batch_size, of_rollouts)
    batch = _one_batch(source, context.folder.out / "batch.jsonl", size, may_repeat=not of_rollouts)
    context.input["data"] = {name: str(batch)}
    landed: dict[int, tuple[float, int]] = {0: (0.0, 0)}
    saves = context.folder.out / "saves"
    # What an earlier start saved at its last step would leave this one nothing to time.
    shutil.rmtree(saves, ignore_errors=True)

    with ExitStack() as resources:

        def note(row: Json) -> None:
            progress = training.progress
            landed[progress.step] = (progress.steps_s, progress.padded_tokens)
            context.emit(row)

        training = assemble(context, resources, recipe, note).training
        if of_rollouts:
            tell_phase("answering a few prompts, to see whether rewards differ")
        signal = training.objective.signal()
        is_blind = signal is not None and signal.get("groups_that_differ") == 0
        outcome = None if is_blind or signal is None else training.run()
    shutil.rmtree(saves)
    if context.is_private:
        batch.unlink()
    if signal is None or (outcome is not None and outcome.is_stopped):
        context.leave_stopped()
    facts: Json = {"signal": signal} if signal else {}
    if outcome is None:
        context.finish({**facts, "wall_s": time.monotonic() - started, "peak_memory_gb": peak_memory_gb()})
        return
    steps = max(landed) - 1
    if steps < 1:
        raise ConfigError("The loss was not finite at the second step, so no step could be timed.", what="recipe")
    (warm_s, warm_tokens), (end_s, end_tokens) = landed[1], landed[steps + 1]
    context.finish(
        {
            **facts,
            "iters": steps,
            "steps_s": end_s - warm_s,
            "padded_tokens": end_tokens - warm_tokens,
            "wall_s": time.monotonic() - started,
            "peak_memory_gb": peak_memory_gb(),
        }
    )


def _one_batch(source: Path, target: Path, size: int, *, may_repeat: bool) -> Path:
    """Write one batch of a file, evenly from its shortest to its longest rows, and return it.

    Args:
        source: JSON lines.
        target: Where the batch goes.
        size: Rows of it.
        may_repeat: Whether a row may stand in it twice where there are fewer; cases have names, and may not.

    Raises:
        ConfigError: As `iter_rows`.
    """
    rows = sorted((json.dumps(row, ensure_ascii=False) for _, row in islice(iter_rows(source), _LOOKED_AT)), key=len)
    size = size if may_repeat else min(size, len(rows))
    chosen = [rows[round(place * (len(rows) - 1) / max(1, size - 1))] for place in range(size)]
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, "".join(f"{row}\n" for row in chosen))
    return target


def main() -> int:
    """Run the worker on the job folder named on the command line."""
    return run_job(pace, sys.argv[1])


if __name__ == "__main__":
    sys.exit(main())
