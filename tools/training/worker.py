"""The training worker: `python -m tools.training.worker JOB`; one run, resumable at every save.

Input beside model, data and recipe: `instrument`, `sft` with `data.train` (`data.valid`), `dpo` with `data.pairs`
(`data.valid_pairs`), or `grpo` with `data.rollouts` and `grader` (see `instruments.py`); and `samples: {"prompts",
"max_tokens", "every"}`, what to generate for at saved steps; or there `cases: {"name", "use", "file", "case_ids"}` in
place of `prompts`, so that no text stands in the input. `continue_from`: a save of an earlier run, whose steps are not
done again; where it is gone, damaged or of another recipe, the run begins anew and says so. `interim`: what is looked
at while it trains (see `instruments.interim_of`).

Exit status 0: trained. 3: usable but bad, with the last healthy weights as result: a loss was not finite (`diverged`),
or the sampled generations had collapsed (`collapsed`). 75: a stop was asked for, everything is saved.
"""

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from state.files import read_json, write_json
from state.hashing import HashCache, hash_file, hash_tree
from state.log import log_info
from state.records import Json
from tools.evaluation.worker import read_split
from tools.jobs.worker import BAD_OUTCOME, WorkerContext, run_job, tell_phase
from tools.models.identity import expected_weights, weights_hash
from tools.training.progress import (
    begun_with,
    damaged_steps,
    newest,
    newest_healthy_folder,
    other_recipe,
    require_same_adapter,
    set_damaged_aside,
    take_over,
    trained_on,
)
from tools.training.recipe import Recipe
from tools.training.saves import environment

if TYPE_CHECKING:
    from tools.training.instruments import Built
    from tools.training.loop import Training


def train(context: WorkerContext) -> int:
    """Do the whole job and return the exit status.

    Raises:
        ConfigError: The recipe, the data or the weights cannot be trained as asked.
    """
    with ExitStack() as resources:
        return _train(context, resources)


class Assembled(NamedTuple):
    """A training that is ready to run."""

    training: "Training"
    built: "Built"
    model: Any
    weights: str
    """Hash of what it starts from."""
    data: str
    """Hash of the training file."""


def assemble(
    context: WorkerContext, resources: ExitStack, recipe: Recipe, emit: Callable[[Json], None] | None = None
) -> Assembled:
    """Load the model and its data, and put the loop around them.

    Args:
        context: Of the job.
        resources: Ended with the job, like the grader's processes.
        recipe: What is trained.
        emit: Takes the report rows; the job's own metrics where left out.

    Raises:
        ConfigError: The recipe, the data or the weights cannot be trained as asked.
    """
    inputs = context.input
    parent = Path(inputs["parent_adapter"]) if inputs.get("parent_adapter") else None
    weights = expected_weights(inputs, inputs.get("parent_adapter"), "trained on")
    if parent is not None:
        require_same_adapter(recipe, parent, Path(inputs["model"]))

    from tools.models.load import load_model
    from tools.training.instruments import Setting, build, interim_of
    from tools.training.loop import Training, build_optimizer, prepare

    out = context.folder.out
    tell_phase("loading the model")
    model, tokenizer = load_model(Path(inputs["model"]), parent, inputs.get("dtype"))
    sampler = _sampler(context, model, tokenizer, recipe)
    # Before anything is trainable: a reference is the parent as it was loaded.
    setting = Setting(
        inputs=inputs,
        recipe=recipe,
        model=model,
        tokenizer=tokenizer,
        weights=weights,
        out=out,
        emit=partial(_emit_or_leave, context),
        resources=resources,
        should_stop=lambda: context.should_stop,
        is_private=context.is_private,
    )
    tell_phase("reading the rows")
    built = build(setting)
    prepare(model, recipe, parent)
    data = hash_file(built.data)
    training = Training(
        model=model,
        optimizer=build_optimizer(recipe),
        recipe=recipe,
        objective=built.objective,
        folder=out / "saves",
        emit=emit or context.emit,
        should_stop=lambda: context.should_stop,
        data=data,
        sampler=sampler,
        interim=interim_of(setting),
    )
    training.saves.mkdir(parents=True, exist_ok=True)
    return Assembled(training, built, model, weights, data)


def _train(context: WorkerContext, resources: ExitStack) -> int:
    started = time.monotonic()
    inputs, out = context.input, context.folder.out
    instrument, saves = str(inputs["instrument"]), out / "saves"
    set_damaged_aside(saves)
    own = newest(saves)
    recipe = begun_with(inputs["recipe"], instrument, own[0] if own else None, inputs.get("continue_from"))
    cache = HashCache()
    # Of the first start: a resumed one has trained on what that found.
    began = out / "trained_on.json"
    if not began.exists():
        write_json(began, trained_on(inputs, cache))
    training, built, model, weights, data = assemble(context, resources, recipe)
    if source := inputs.get("continue_from"):
        refusal = partial(other_recipe, recipe, instrument)
        training.progress.begun_anew = take_over(Path(source), saves, refusal, recipe.adapter_config())
    if why := training.progress.begun_anew:
        context.emit({"step": 0, "note": f"{why}: the run begins anew"})
    log_info("phase", phase="train", step=training.progress.step, iters=recipe.iters)
    outcome = training.run()
    if outcome.is_stopped:
        context.leave_stopped()
    first = training.first_landed_at
    verdict, step = _deliver(training, outcome)
    adapter = out / "adapter"
    lineage = {
        "parent_weights": weights,
        "model_weights": weights_hash(inputs["model"]) if inputs.get("parent_adapter") else weights,
        "instrument": inputs["instrument"],
        "recipe": recipe.model_dump(mode="json"),
        "data": data,
        "environment": environment(),
    }
    _write_adapter(adapter, model, recipe, lineage)
    before, after = read_json(began) or {}, trained_on(inputs, cache)
    progress = outcome.progress
    context.finish(
        {
            "adapter": "out/adapter",
            "adapter_hash": hash_tree(adapter),
            "adapter_step": step,
            "weights": weights_hash(inputs["model"], adapter),
            "parent_weights": weights,
            "iters": progress.step,
            "trained_tokens": progress.trained_tokens,
            "padded_tokens": progress.padded_tokens,
            "steps_s": progress.steps_s,
            "startup_s": None if first is None else context.age_s - (time.monotonic() - first),
            "train_loss": progress.train_loss,
            "val_loss": progress.val_losses[-1][1] if progress.val_losses else None,
            "val_losses": [loss for _, loss in progress.val_losses],
            "tokens_per_s": outcome.tokens_per_s,
            "peak_memory_gb": peak_memory_gb(),
            "padding_share": 1 - progress.real_tokens / max(1, progress.padded_tokens),
            "rows": built.rows,
            **built.facts,
            "rows_seen_share": min(1.0, progress.seen_rows / built.rows),
            "resumed_from": outcome.resumed_from,
            "continued_from": progress.continued_from,
            "begun_anew": progress.begun_anew,
            "damaged_saves": damaged_steps(training.saves),
            "changed_inputs": sorted(name for name in after if before.get(name) != after[name]),
            "verdict": verdict,
            "collapse": training.sampler.collapse if training.sampler is not None and verdict == "collapsed" else None,
            "environment": environment(),
            "wall_s": time.monotonic() - started,
        }
    )
    return BAD_OUTCOME if verdict else 0


def _emit_or_leave(context: WorkerContext, row: Json) -> None:
    """Report from before the first step, where there is nothing to save: a stop begins anew later."""
    context.emit(row)
    if context.should_stop:
        context.leave_stopped()


def _sampler(context: WorkerContext, model: Any, tokenizer: Any, recipe: Recipe) -> Any:
    """Return what generates at saved steps, None where the input names no prompts."""
    samples = context.input.get("samples") or {}
    prompts = [*read_split(samples["cases"]).cases] if samples.get("cases") else samples.get("prompts")
    if not prompts:
        return None
    from tools.training.samples import Sampler, render_samples

    references = [
        str(prompt["reference"]) for prompt in prompts if isinstance(prompt, dict) and prompt.get("reference")
    ]
    return Sampler(
        model=model,
        tokenizer=tokenizer,
        prompts=render_samples(tokenizer, prompts, context.input.get("system")),
        max_tokens=int(samples["max_tokens"]),
        every=int(samples.get("every") or recipe.save_every),
        path=context.folder.out / "samples.jsonl",
        should_stop=lambda: context.should_stop,
        is_private=context.is_private,
        references=references if len(references) == len(prompts) else (),
    )


def _deliver(training: Any, outcome: Any) -> tuple[str, int]:
    """Put the weights in place that the run is judged by; return its verdict and their step.

    A run whose generations had collapsed, or whose rollouts left their bounds, delivers its newest save from before,
    where there is one.
    """
    from tools.training.saves import restore_weights

    progress = outcome.progress
    if progress.is_healthy:
        return outcome.verdict, progress.step
    verdict = outcome.verdict or training.objective.fault or "collapsed"
    healthy = newest_healthy_folder(training.saves)
    if healthy is not None:
        restore_weights(healthy, training.model)
        return verdict, int(healthy.name)
    return verdict, progress.step


def peak_memory_gb() -> float:
    """Return the most that MLX held at once so far, 1e9 bytes."""
    import mlx.core as mx

    return float(mx.get_peak_memory() / 1e9)


def _write_adapter(folder: Path, model: Any, recipe: Recipe, lineage: Json) -> None:
    """Write the adapter and, last, where it comes from."""
    from tools.training.saves import write_adapter

    write_adapter(folder, model, recipe.adapter_config())
    write_json(folder / "run.json", lineage)


def main() -> int:
    """Run the worker on the job folder named on the command line."""
    return run_job(train, sys.argv[1])


if __name__ == "__main__":
    sys.exit(main())
