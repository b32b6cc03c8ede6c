"""The next thing to try within demonstrations (SFT): one remedy per diagnosis, never one configuration twice.

A proposal changes one axis against the run before it, so that its outcome says something about that axis. Not covered:
numbers searched by Optuna, data rebalancing, other instrument classes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from policies.buckets import BucketVerdict, Movement
from policies.target import Target
from state.goal import Goal
from state.hashing import hash_json
from state.records import Alternative, Bucket, Instrument, Json, Record, Run

Axis = Literal["start", "recipe", "quantity", "composition", "order"]
"""What differs from the run before: settings, how much is trained, what is trained on, in which order."""

Diagnosis = Literal[
    "diverged", "collapsed", "overfit", "regressed", "progress", "idle", "flat", "unclear", "unmeasurable"
]
"""diverged: the loss ran away. collapsed: generations loop or drift. overfit: validation rose. regressed: target lost
or a no-worse condition broken. progress: moved, gate not met. idle: nothing moved, not even the control. flat: the
control moved, the target did not. unclear: the interval tells nothing. unmeasurable: the harness could not show it, or
the pairs teach nothing; no recipe helps."""

FIRST_EPOCHS = 2.0
"""Passes over the data of a first run; the lab's gentle recipes took 2.5."""

MAX_EPOCHS = 8.0
"""The lab's run of 16 passes collapsed (mode 1)."""

OVERFIT_RISE = 1.1
"""Final over best validation loss from which a run counts as overfit."""

_AXES: Mapping[str, Axis] = {"iters": "quantity", "data": "composition", "seed": "order"}
"""Configuration field -> axis; every other field is `recipe`."""

_DEFAULTS: Json = {
    "fine_tune_type": "lora",
    "optimizer": "adamw",
    "learning_rate": 1e-4,
    "batch_size": 4,
    "num_layers": -1,
    "mask_prompt": True,
    "lora_parameters": {"rank": 8, "scale": 10.0, "dropout": 0.0},
    "steps_per_report": 10,
    "val_batches": -1,
}


_OF_INSTRUMENT: Mapping[Instrument, Json] = {"sft": {}, "dpo": {"learning_rate": 1e-5, "beta": 0.1}, "grpo": {}}
"""What an instrument starts with otherwise: preferences are pulled an order of magnitude more gently."""

_LEARNS_FROM: Mapping[Instrument, str] = {"sft": "Demonstrations", "dpo": "Preferences", "grpo": "Rollouts"}


class Tried(Record):
    """One run as the next proposal sees it."""

    run: str
    instrument: Instrument
    recipe: Json
    recipe_hash: str
    seed: int
    axis: Axis = "start"
    bucket: Bucket | None = None
    """None: not judged, or lost to an infrastructure failure."""
    rule: str = ""
    """The bucket's rule."""
    movement: Movement | None = None
    control_moved: bool | None = None
    stopped: str = ""
    """The guard's verdict, if one ended it."""
    val_loss: float | None = None
    best_val_loss: float | None = None


class RecipeProposal(Record):
    """A run that was never tried, with what is expected of it."""

    instrument: Instrument
    parent: str
    parent_hash: str
    recipe: Json
    """mlx-lm YAML keys, `seed` among them."""
    recipe_hash: str
    """Hash of instrument, parent, recipe, data and seed."""
    seed: int
    axis: Axis
    hypothesis: str
    rule: str
    predicted: Json
    """{metric, low, high}, or empty where no target was measured."""
    alternatives: tuple[Alternative, ...] = ()


class _Remedy(NamedTuple):
    rule: str
    changes: Callable[[Json], Json]
    """Recipe -> changed keys; `seed` counts as one."""
    why: str


def tried(
    run: Run, verdict: BucketVerdict | None, result: Mapping[str, Any] | None = None, rows: Sequence[Json] = ()
) -> Tried:
    """Return what the next proposal needs of a run.

    Args:
        run: The run.
        verdict: Its bucket, once judged.
        result: The training job's `result.json`.
        rows: The training job's `metrics.jsonl`, for the best validation loss.
    """
    losses = [float(row["val_loss"]) for row in rows if row.get("val_loss") is not None]
    given = result or {}
    return Tried(
        run=run.id,
        instrument=run.instrument,
        recipe=run.recipe,
        recipe_hash=run.recipe_hash,
        seed=run.seed,
        axis=run.axis,
        bucket=verdict.bucket if verdict is not None else None,
        rule=verdict.rule if verdict is not None else "",
        movement=verdict.movement if verdict is not None else None,
        control_moved=verdict.control_moved if verdict is not None else None,
        stopped=str(given.get("verdict") or ""),
        val_loss=given.get("val_loss"),
        best_val_loss=min(losses, default=None),
    )


def recipe_hash(instrument: Instrument, parent_hash: str, recipe: Json, data_hash: str, seed: int) -> str:
    """Return the identity of a configuration; a campaign runs each one once."""
    return hash_json([instrument, parent_hash, recipe, data_hash, seed])


def axis_of(before: Json, after: Json) -> Axis:
    """Return the axis on which two configurations differ; of several, the first of composition, order, quantity."""
    changed = {key for key in {*before, *after} if before.get(key) != after.get(key)}
    axes = {_AXES.get(key, "recipe") for key in changed}
    return next((axis for axis in ("composition", "order", "quantity", "recipe") if axis in axes), "start")


def first_recipe(
    goal: Goal,
    census: Mapping[str, Any],
    *,
    instrument: Instrument | None = None,
    parent: str = "base",
    parent_hash: str = "",
    data_hash: str = "",
    target: Target | None = None,
    ceilings: Mapping[str, float] | None = None,
    fixed: Json | None = None,
) -> RecipeProposal:
    """Return the first run: the campaign file's recipe, the rest from the data's own size.

    Args:
        goal: Its recipe wins over every default.
        census: The census result's `train` part: rows and max_tokens.
        instrument: The class's; the campaign's first when left out.
        parent: `base`, `start` (the campaign's adapter), or a run id.
        parent_hash: Hash of the weights trained on.
        data_hash: Hash of the training data.
        target: What the run should move.
        ceilings: `split.metric` -> the gold's mean.
        fixed: Keys decided by the adapter that the run goes on from; they win over the campaign file's.
    """
    chosen = instrument or goal.instruments[0]
    asked = goal.recipe if chosen == goal.instruments[0] else goal.recipes.get(chosen, {})
    recipe = {**_DEFAULTS, **_OF_INSTRUMENT[chosen], **asked}
    recipe["lora_parameters"] = {**_DEFAULTS["lora_parameters"], **asked.get("lora_parameters", {})}
    recipe |= fixed or {}
    seed = int(recipe.setdefault("seed", goal.seed))
    rows, batch_size = int(census.get("rows") or 0), int(recipe["batch_size"])
    recipe.setdefault("iters", min(1000, max(20, math.ceil(FIRST_EPOCHS * rows / batch_size))))
    recipe.setdefault("max_seq_length", _rounded_up(int(census.get("max_tokens") or 2048), 32))
    every = max(10, math.ceil(recipe["iters"] / 5))
    recipe.setdefault("steps_per_eval", every)
    recipe.setdefault("save_every", every)
    epochs = recipe["iters"] * batch_size / rows if rows else 0.0
    passes = f", {epochs:.2g} passes over {rows} rows" if rows else ""
    what = target.metric if target is not None else "the gate"
    return RecipeProposal(
        instrument=chosen,
        parent=parent,
        parent_hash=parent_hash,
        recipe=recipe,
        recipe_hash=recipe_hash(chosen, parent_hash, recipe, data_hash, seed),
        seed=seed,
        axis="start",
        hypothesis=f"{_LEARNS_FROM[chosen]} move {what}: {recipe['iters']} iterations of {batch_size}{passes}.",
        rule="recipe.first",
        predicted=_prediction(target, ceilings or {}),
    )


def with_recipe(proposal: RecipeProposal, recipe: Json, data_hash: str, why: str) -> RecipeProposal:
    """Return a proposal with another recipe (cut to the time left), its identity renewed and the reason recorded."""
    digest = recipe_hash(proposal.instrument, proposal.parent_hash, recipe, data_hash, proposal.seed)
    hypothesis = f"{proposal.hypothesis} {why}"
    return proposal.model_copy(update={"recipe": recipe, "recipe_hash": digest, "hypothesis": hypothesis})


def next_recipe(
    history: Sequence[Tried],
    *,
    parent: str = "base",
    parent_hash: str = "",
    data_hash: str = "",
    target: Target | None = None,
    ceilings: Mapping[str, float] | None = None,
    rows: int | None = None,
    fixed: Json | None = None,
) -> RecipeProposal | None:
    """Return the remedy for the latest run's diagnosis that was not tried yet, or None when there is none.

    Args:
        history: Every run of the campaign, oldest first; lost ones count as tried.
        parent: What the next run starts from.
        parent_hash: Hash of those weights.
        data_hash: Hash of the training data.
        target: What the run should move.
        ceilings: `split.metric` -> the gold's mean.
        rows: Training rows, which bound the iterations.
        fixed: Keys decided by the adapter that the run goes on from; no remedy changes them.
    """
    last = next((run for run in reversed(history) if run.bucket is not None or run.stopped), None)
    if last is None:
        return None
    diagnosis = diagnose(last)
    used = {run.recipe_hash for run in history}
    skipped: list[Alternative] = []
    for recipe, remedy in _candidates(diagnosis, last, history, rows):
        seed = int(recipe["seed"])
        if any(recipe.get(key) != value for key, value in (fixed or {}).items()):
            skipped.append(Alternative(action=remedy.rule, reason="the adapter that runs go on from has another shape"))
            continue
        digest = recipe_hash(last.instrument, parent_hash, recipe, data_hash, seed)
        if digest in used or recipe == {**last.recipe, "seed": last.seed}:
            skipped.append(Alternative(action=remedy.rule, reason="that configuration was run already"))
            continue
        difference = _difference({**last.recipe, "seed": last.seed}, recipe)
        return RecipeProposal(
            instrument=last.instrument,
            parent=parent,
            parent_hash=parent_hash,
            recipe=recipe,
            recipe_hash=digest,
            seed=seed,
            axis=axis_of({**last.recipe, "seed": last.seed}, recipe),
            hypothesis=f"{last.run} {_SEEN[diagnosis]}; {remedy.why}: {difference}.",
            rule=f"{diagnosis}.{remedy.rule}",
            predicted=_prediction(target, ceilings or {}),
            alternatives=tuple(skipped),
        )
    return None


def diagnose(run: Tried) -> Diagnosis:
    """Return what went wrong, the most certain sign first."""
    if run.stopped in _STOPPED:
        return _STOPPED[run.stopped]
    if run.rule in {"U.capped", "U.unmeasured"}:
        return "unmeasurable"
    if run.val_loss is not None and not math.isfinite(run.val_loss):
        return "diverged"
    if run.bucket == "D":
        return "regressed"
    rose = (
        run.val_loss is not None and run.best_val_loss is not None and run.val_loss > OVERFIT_RISE * run.best_val_loss
    )
    if rose:
        return "overfit"
    if run.bucket in {"A", "B"}:
        return "progress"
    if run.control_moved is False:
        return "idle"
    return "flat" if run.bucket == "C" else "unclear"


_STOPPED: Mapping[str, Diagnosis] = {
    "diverged": "diverged",
    "collapsed": "collapsed",
    "overfit": "overfit",
    # Pairs told apart without a change of generation: no number of this recipe makes them teach more (mode 14).
    "loss_collapsed": "unmeasurable",
}
"""Guard's verdict -> what it means for the next recipe."""

_SEEN: Mapping[Diagnosis, str] = {
    "collapsed": "collapsed: its generations loop or drift",
    "diverged": "diverged",
    "overfit": "learned its training rows by heart (validation loss rose)",
    "regressed": "lost what its parent had",
    "progress": "moved the target but not far enough",
    "idle": "did not even move the control",
    "flat": "moved the control and left the target flat",
    "unclear": "ended within the noise of its cases",
    "unmeasurable": "could not be measured",
}


def _times(key: str, factor: float) -> Callable[[Json], Json]:
    def change(recipe: Json) -> Json:
        old = recipe[key]
        return {key: max(1, round(old * factor)) if isinstance(old, int) else float(f"{old * factor:.2g}")}

    return change


def _lora(key: str, change: Callable[[float], float]) -> Callable[[Json], Json]:
    def changed(recipe: Json) -> Json:
        parameters = {**_DEFAULTS["lora_parameters"], **recipe.get("lora_parameters", {})}
        value = change(parameters[key])
        return {"lora_parameters": {**parameters, key: int(value) if key == "rank" else value}}

    return changed


def _next_seed(recipe: Json) -> Json:
    return {"seed": int(recipe["seed"]) + 1}


_SLOWER = _Remedy("lower_lr", _times("learning_rate", 1 / 3), "a third of the learning rate keeps it in place")
_SMALLER = _Remedy("lower_scale", _lora("scale", lambda scale: scale / 2), "half the adapter's scale holds more back")
_DROPOUT = _Remedy(
    "dropout", _lora("dropout", lambda dropout: max(0.05, min(0.2, 2 * dropout))), "dropout forgets less"
)
_SHORTER = _Remedy("shorter", _times("iters", 0.5), "half the iterations stop before the damage")
_LONGER = _Remedy("longer", _times("iters", 2), "twice the iterations carry it further")
_FASTER = _Remedy("higher_lr", _times("learning_rate", 3), "three times the learning rate moves it")
_BRISKER = _Remedy("higher_lr", _times("learning_rate", 2), "twice the learning rate carries it further")
_WIDER = _Remedy("higher_rank", _lora("rank", lambda rank: min(64, 2 * rank)), "twice the rank has room for it")
_RESHUFFLED = _Remedy("other_order", _next_seed, "another order of the rows shows whether order matters")

_REMEDIES: Mapping[Diagnosis, tuple[_Remedy, ...]] = {
    "diverged": (_SLOWER, _SMALLER, _DROPOUT),
    "collapsed": (_SMALLER, _DROPOUT, _SHORTER, _SLOWER),
    "overfit": (_SHORTER, _DROPOUT, _SLOWER),
    "regressed": (_SLOWER, _SMALLER, _DROPOUT, _SHORTER),
    "progress": (_LONGER, _BRISKER, _WIDER),
    "idle": (_FASTER, _LONGER, _WIDER),
    "flat": (_LONGER, _WIDER, _BRISKER, _RESHUFFLED),
    "unclear": (_LONGER, _BRISKER, _WIDER),
    "unmeasurable": (),
}
"""In order; where the target is flat, axes not varied yet come first, since exhaustion asks for different ones."""

_FALLBACKS = (_WIDER, _RESHUFFLED)
"""For when every remedy of a diagnosis was run."""


def _candidates(
    diagnosis: Diagnosis, last: Tried, history: Sequence[Tried], rows: int | None
) -> list[tuple[Json, _Remedy]]:
    """Return the recipes a diagnosis suggests, in order; after a flat run those on axes not varied yet come first."""
    remedies = (*_REMEDIES[diagnosis], *(_FALLBACKS if _REMEDIES[diagnosis] else ()))
    found = [(_applied(remedy, last, rows), remedy) for remedy in remedies]
    if diagnosis != "flat":
        return found
    varied = {run.axis for run in history}
    before = {**last.recipe, "seed": last.seed}
    return sorted(found, key=lambda pair: axis_of(before, pair[0]) in varied)


def _applied(remedy: _Remedy, last: Tried, rows: int | None) -> Json:
    """Return the recipe with a remedy applied, iterations bounded by MAX_EPOCHS."""
    before = {**last.recipe, "seed": last.seed}
    changes = remedy.changes(before)
    recipe = {**before, **changes}
    if "iters" in changes and rows:
        most = max(1, int(MAX_EPOCHS * rows / int(recipe["batch_size"])))
        recipe["iters"] = min(recipe["iters"], max(most, int(before["iters"])))
    return _with_schedule(before, recipe)


def _with_schedule(before: Json, recipe: Json) -> Json:
    """Let a learning-rate schedule's own copies of learning_rate and iters follow them."""
    schedule = recipe.get("lr_schedule")
    if not isinstance(schedule, dict):
        return recipe
    follows = {before[key]: recipe[key] for key in ("learning_rate", "iters")}
    arguments = [follows.get(argument, argument) for argument in schedule.get("arguments", ())]
    return {**recipe, "lr_schedule": {**schedule, "arguments": arguments}}


def _difference(old: Json, new: Json) -> str:
    """Return the changed numbers, `iters 100 -> 200`."""
    before, after = _flat(old), _flat(new)
    return ", ".join(f"{key} {before.get(key)} -> {after[key]}" for key in after if before.get(key) != after[key])


def _flat(recipe: Json) -> Json:
    nested = recipe.get("lora_parameters", {})
    return {**{key: value for key, value in recipe.items() if key != "lora_parameters"}, **nested}


def _prediction(target: Target | None, ceilings: Mapping[str, float]) -> Json:
    """Return where the target should end: not below the parent, not above what the gold scores."""
    if target is None:
        return {}
    best = ceilings.get(target.metric, 1.0 if target.sign > 0 else 0.0)
    low, high = sorted((target.parent, best))
    return {"metric": target.metric, "low": low, "high": high}


def _rounded_up(value: int, step: int) -> int:
    return math.ceil(value / step) * step
