"""The training worker: `python -m tools.training.worker JOB`; one run, resumable at every save.

Exit status 0: trained. 3: stopped by itself on a loss that is not finite, with the last healthy weights as result.
75: a stop was asked for, everything is saved.
"""

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from state.errors import ConfigError, VigilError
from state.files import write_json
from state.hashing import hash_file, hash_tree
from state.records import Json
from tools.jobs.worker import BAD_OUTCOME, WorkerContext, begin
from tools.models.identity import weights_hash
from tools.training.environment import environment
from tools.training.lineage import require_same_adapter
from tools.training.recipe import Recipe, validate_recipe


def train(context: WorkerContext) -> int:
    """Do the whole job and return the exit status.

    Raises:
        ConfigError: The recipe, the data or the weights cannot be trained as asked.
    """
    started = time.monotonic()
    inputs = context.input
    recipe = validate_recipe(inputs["recipe"])
    parent = Path(inputs["parent_adapter"]) if inputs.get("parent_adapter") else None
    weights = _checked_weights(inputs)
    if parent is not None:
        require_same_adapter(recipe, parent, Path(inputs["model"]))

    from tools.models.load import load_model
    from tools.training.data import read_rows
    from tools.training.loop import Training
    from tools.training.preparation import build_optimizer, prepare

    model, tokenizer = load_model(Path(inputs["model"]), parent, inputs.get("dtype"))
    read = partial(
        read_rows,
        tokenizer=tokenizer,
        max_seq_length=recipe.max_seq_length,
        mask_prompt=recipe.mask_prompt,
        system=inputs.get("system"),
        truncate=recipe.truncate,
    )
    data = hash_file(Path(inputs["data"]["train"]))
    rows = read(Path(inputs["data"]["train"]))
    valid = inputs["data"].get("valid")
    prepare(model, recipe, parent)
    training = Training(
        model=model,
        optimizer=build_optimizer(recipe),
        recipe=recipe,
        train=rows,
        valid=read(Path(valid)) if valid else [],
        folder=context.folder.out / "saves",
        emit=context.emit,
        should_stop=lambda: context.should_stop,
        data=data,
    )
    training.saves.mkdir(parents=True, exist_ok=True)
    outcome = training.run()
    if outcome.is_stopped:
        context.leave_stopped()
    adapter = context.folder.out / "adapter"
    lineage = {
        "parent_weights": weights,
        "model_weights": weights if parent is None else weights_hash(inputs["model"]),
        "instrument": inputs["instrument"],
        "recipe": recipe.model_dump(mode="json"),
        "data": data,
        "environment": environment(),
    }
    _write_adapter(adapter, model, recipe, lineage)
    progress = outcome.progress
    real = _real_tokens(rows, progress.step, recipe)
    context.finish(
        {
            "adapter": "out/adapter",
            "adapter_hash": hash_tree(adapter),
            "weights": weights_hash(inputs["model"], adapter),
            "parent_weights": weights,
            "iters": progress.step,
            "trained_tokens": progress.trained_tokens,
            "padded_tokens": progress.padded_tokens,
            "steps_s": progress.steps_s,
            "train_loss": progress.train_loss,
            "val_loss": progress.val_losses[-1][1] if progress.val_losses else None,
            "val_losses": [loss for _, loss in progress.val_losses],
            "tokens_per_s": outcome.tokens_per_s,
            "peak_memory_gb": _peak_memory_gb(),
            "padding_share": 1 - real / progress.padded_tokens if progress.padded_tokens else 0.0,
            "rows": len(rows),
            "truncated_rows": sum(row.is_cut for row in rows),
            "rows_seen_share": min(1.0, progress.seen_rows / len(rows)),
            "resumed_from": outcome.resumed_from,
            "verdict": outcome.verdict,
            "environment": environment(),
            "wall_s": time.monotonic() - started,
        }
    )
    return BAD_OUTCOME if outcome.verdict else 0


def _real_tokens(rows: list[Any], steps: int, recipe: Recipe) -> int:
    """Return the tokens of all rows trained on, padding left out."""
    from tools.training.batching import Cursor, batches_from

    lengths = [len(row.tokens) for row in rows]
    batches = batches_from(lengths, recipe.batch_size, recipe.seed, Cursor(), bucketing=recipe.length_bucketing)
    return sum(sum(lengths[row] for row in next(batches)[0]) for _ in range(steps))


def _peak_memory_gb() -> float:
    import mlx.core as mx

    return float(mx.get_peak_memory() / 1e9)


def _checked_weights(inputs: Json) -> str:
    """Return the hash of the weights about to be trained on.

    Raises:
        ConfigError: They are not the ones that the decision was made about.
    """
    found = weights_hash(inputs["model"], inputs.get("parent_adapter"))
    expected = inputs.get("expect_weights")
    if expected and expected != found:
        raise ConfigError(
            f"The weights in {inputs['model']} are {found[:12]}, but {expected[:12]} were to be trained on: the folder "
            "changed since; restore it, or start a new campaign on the new weights.",
            what="weights",
            value=found,
            limit=expected,
            where=str(inputs["model"]),
        )
    return found


def _write_adapter(folder: Path, model: Any, recipe: Recipe, lineage: Json) -> None:
    """Write the adapter and, last, where it comes from."""
    from tools.training.saves import write_adapter

    write_adapter(folder, model, recipe.adapter_config())
    write_json(folder / "run.json", lineage)


def main() -> int:
    """Run the worker on the job folder named on the command line."""
    context = begin(sys.argv[1])
    try:
        return train(context)
    except VigilError as error:
        context.fail(error.sentence, what=error.what, where=error.where)


if __name__ == "__main__":
    sys.exit(main())
