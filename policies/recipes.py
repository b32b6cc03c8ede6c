"""The next thing to try within a class: one remedy per diagnosis, numbers after the rules, the dose so far.

One dose is passes over the data x rank x scale, at the class's usual learning rate; at another rate it counts in
proportion. It orders runs of one campaign by how hard they pull, and is no measure across models or data (failure
mode 1: the lab's gentle recipe collapsed after 16 passes).

The sampler itself is handed in (`View.suggest`); it is told every run on record each time, so that it needs no memory
of its own and a kill loses nothing.

A proposal changes one axis against the best run so far, so that its outcome says something about that axis; after
a run that did harm it lies between the two. No proposal takes the dose of a run that did harm (policies/dose.py).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from pydantic import Field

from policies.cost import LEAST_SHARE
from policies.target import Target
from policies.verdict import UNREADABLE, BucketVerdict, Movement
from state.goal import Goal
from state.hashing import hash_json
from state.recipe import ROLLOUTS_TOGETHER, STILL_FALLING, setting
from state.records import CLASSES, Alternative, Bucket, Instrument, InstrumentClass, Json, Record, Run, TrainResult

USUAL_LR: Mapping[Instrument, float] = {"sft": 1e-4, "dpo": 1e-5, "grpo": 2e-5}
"""Of adapters at USUAL_SHAPE on a model of REFERENCE_PARAMETERS; preferences and rollouts are pulled more gently than
demonstrations (facts/mlx_training.md, section 5: a tenth and less)."""

USUAL_SHAPE: Json = {"rank": 8, "scale": 10.0, "dropout": 0.0}

REFERENCE_PARAMETERS = 1e9

MOST_LR_FACTOR = 10**0.5
"""Rates grow with the inverse root of the size down to a tenth of REFERENCE_PARAMETERS; below it nobody measured, and
the tiny base's own best rate (facts/mlx_training.md, section 7) lies there."""

FULL_SHARE = 0.5
"""A full fine-tuning's rate over an adapter's at USUAL_SHAPE, whose scale multiplies it by ten already: 5e-5 at
REFERENCE_PARAMETERS, where the adapter's effective rate is about ten times the usual one of all weights."""

MAX_EPOCHS = 8.0
"""Passes over the data that a recipe of ours makes at most; adapters without dropout were seen to collapse from about
there, and the lab's run of 16 did (mode 1)."""

SAFE_SHARE = 0.9
"""Share of a harmful dose that a run may reach: nearer than this says nothing new."""


def usual_lr(instrument: Instrument, parameters: int | None, recipe: Mapping[str, Any]) -> float:
    """Return a class's first learning rate by the model's size and by what is trained.

    The best rate falls with the inverse root of the number of parameters, and an adapter's is about ten times that of
    full fine-tuning whatever its rank (Schulman et al., "LoRA Without Regret", 2025; tinker-cookbook's
    `hyperparam_utils`: `get_full_finetune_lr_multiplier`, `get_lora_lr_over_full_finetune_lr`). mlx-lm multiplies an
    adapter by its scale, so a larger scale takes a smaller rate; DoRA's adapters are LoRA's.

    Args:
        instrument: The class's.
        parameters: Of the model; None where not known, which leaves the rate of REFERENCE_PARAMETERS.
        recipe: `fine_tune_type` and `lora_parameters` count.
    """
    rate = USUAL_LR[instrument]
    if parameters:
        rate *= min(MOST_LR_FACTOR, (REFERENCE_PARAMETERS / parameters) ** 0.5)
    if recipe.get("fine_tune_type") == "full":
        rate *= FULL_SHARE
    else:
        shape = {**USUAL_SHAPE, **(recipe.get("lora_parameters") or {})}
        rate *= float(USUAL_SHAPE["scale"]) / float(shape["scale"])
    return float(f"{rate:.2g}")


class Harm(Record):
    """A run that took too much."""

    run: str
    what: str
    """What it did, to stand after its id: `collapsed`."""
    dose: float
    """With its parents'."""
    dropout: float = 0.0
    """More dropout than this may bear more."""
    instrument: Instrument = "sft"
    anchor: float = 0.0
    """A greater weight of the same class's anchor at the parent (`beta`) may bear more."""


class DoseVerdict(Record):
    """Whether a recipe's dose may be given."""

    state: Literal["fits", "reduced", "refused"]
    total: float
    """With the parents'."""
    iters: int
    """Most iterations that fit, refused or not; the recipe's own when it fits."""
    sentence: str
    """Why it was reduced or refused; empty when it fits."""


def dose(recipe: Mapping[str, Any], rows: int | None, instrument: Instrument) -> float:
    """Return passes x rank x scale x learning rate over the class's usual one.

    Args:
        recipe: mlx-lm keys.
        rows: Training rows; one when unknown, which keeps the order of runs on the same data.
        instrument: Whose usual learning rate counts as one.
    """
    shape = {**USUAL_SHAPE, **(recipe.get("lora_parameters") or {})}
    passes = float(recipe.get("iters", 0)) * float(recipe.get("batch_size", 1)) / (rows or 1)
    rate = float(recipe.get("learning_rate", USUAL_LR[instrument])) / USUAL_LR[instrument]
    return passes * float(shape["rank"]) * float(shape["scale"]) * rate


def harm_of(run: str, what: str, instrument: Instrument, recipe: Mapping[str, Any], total: float) -> Harm:
    """Return what a run that took too much says about others.

    Args:
        run: Its id.
        what: What it did.
        instrument: Its class's.
        recipe: Its own.
        total: Its dose, with its parents'.
    """
    return Harm(run=run, what=what, dose=total, dropout=_dropout(recipe), instrument=instrument, anchor=_anchor(recipe))


def _dropout(recipe: Mapping[str, Any]) -> float:
    return float({**USUAL_SHAPE, **(recipe.get("lora_parameters") or {})}["dropout"])


def _anchor(recipe: Mapping[str, Any]) -> float:
    return float(recipe.get("beta", 0.0))


def judge_dose(
    recipe: Mapping[str, Any], rows: int | None, instrument: Instrument, carried: float, harms: Sequence[Harm]
) -> DoseVerdict:
    """Return whether a recipe stays below what did harm, and how many iterations would.

    Args:
        recipe: mlx-lm keys; a schedule of its own counts by its highest learning rate.
        rows: Training rows.
        instrument: The recipe's.
        carried: Dose that the parent has taken already, with its own parents.
        harms: Runs that took too much; those with less dropout or anchor than the recipe say nothing about it.
    """
    own, iters = dose(recipe, rows, instrument), int(recipe["iters"])
    total = carried + own
    against = [
        harm
        for harm in harms
        if harm.dropout >= _dropout(recipe) and (harm.instrument != instrument or harm.anchor >= _anchor(recipe))
    ]
    harm = min(against, key=lambda each: each.dose, default=None)
    # A recipe without any pull (learning rate or scale 0) takes nobody further than the parent is already.
    if harm is None or not own or total <= SAFE_SHARE * harm.dose:
        return DoseVerdict(state="fits", total=total, iters=iters, sentence="")
    most = max(0, int(iters * (SAFE_SHARE * harm.dose - carried) / own))
    why = f"The dose would reach {total:.3g} (passes x rank x scale), and {harm.run} {harm.what} at {harm.dose:.3g}"
    sentence = f"{why}: {most} iterations instead of {iters}."
    if most < LEAST_SHARE * iters:
        return DoseVerdict(state="refused", total=total, iters=most, sentence=sentence)
    return DoseVerdict(state="reduced", total=carried + own * most / iters, iters=most, sentence=sentence)


Suggest = Callable[[Mapping[str, Json], Sequence[tuple[Json, float]], int, int], list[Json]]
"""(space, what was told, seed, how many) -> that many proposals, name -> value. The same arguments, the same proposals.

A space is name -> {low, high, log, is_int} or {choices}; what was told is (name -> value, how far the target moved).
"""

LEAST_TOLD = 6
"""Judged runs of a class from one parent before a sampler has something to go by."""

ASKED = 4
"""Proposals asked for at once; some may have been run, or be too much."""

LEAST_PASSES = 0.5
"""Passes over the data from which on it is searched, up to MAX_EPOCHS."""

_LR_FACTOR = 10.0
_RANKS = (4, 8, 16, 32)
_SCALES = (2.5, 5.0, 10.0, 20.0)


def numbers_of(recipe: Mapping[str, Any]) -> Json:
    """Return the numbers of a recipe that are searched."""
    shape = {**USUAL_SHAPE, **(recipe.get("lora_parameters") or {})}
    return {
        "learning_rate": float(recipe["learning_rate"]),
        "iters": int(recipe["iters"]),
        "rank": int(shape["rank"]),
        "scale": float(shape["scale"]),
    }


def space_of(numbers: Sequence[Json], rows: int | None, batch_size: int, fixed: Mapping[str, Any]) -> dict[str, Json]:
    """Return what is searched: the usual ranges, wide enough for everything that was run.

    Args:
        numbers: The numbers of the runs so far, at least one.
        rows: Training rows; where unknown, up to twice and down to half of what was run.
        batch_size: Rows of an iteration.
        fixed: Keys decided by the adapter that runs go on from.
    """
    iters = [int(each["iters"]) for each in numbers]
    least, most = min(iters) / 2, max(iters) * 2.0
    if rows:
        least, most = LEAST_PASSES * rows / batch_size, MAX_EPOCHS * rows / batch_size
    rates = [float(each["learning_rate"]) for each in numbers]
    # The first run's rate fits the model's size, so it lies in the middle.
    usual = rates[0]
    space: dict[str, Json] = {
        "learning_rate": {
            "low": min(usual / _LR_FACTOR, *rates),
            "high": max(usual * _LR_FACTOR, *rates),
            "log": True,
            "is_int": False,
        },
        "iters": {
            "low": min(max(1, math.floor(least)), *iters),
            "high": max(math.ceil(most), *iters),
            "log": True,
            "is_int": True,
        },
    }
    if "lora_parameters" not in fixed:
        for name, usual_choices in (("rank", _RANKS), ("scale", _SCALES)):
            space[name] = {"choices": sorted({*usual_choices, *(each[name] for each in numbers)})}
    return space


def with_numbers(recipe: Json, numbers: Mapping[str, Any]) -> Json:
    """Return a recipe with other numbers; a learning rate is kept to three digits."""
    shape = {**USUAL_SHAPE, **(recipe.get("lora_parameters") or {})}
    changed = {name: numbers[name] for name in ("rank", "scale") if name in numbers}
    return {
        **recipe,
        "learning_rate": float(f"{numbers['learning_rate']:.3g}"),
        "iters": int(numbers["iters"]),
        "lora_parameters": {**shape, **changed},
    }


Axis = Literal["start", "recipe", "quantity", "composition", "order"]
"""What differs from the run before: settings, how much is trained, what is trained on, in which order."""

Diagnosis = Literal[
    "diverged",
    "collapsed",
    "overfit",
    "drifted",
    "hacking",
    "regressed",
    "overshot",
    "overloaded",
    "progress",
    "plateau",
    "idle",
    "flat",
    "unclear",
    "unmeasurable",
]
"""diverged: the loss ran away. collapsed: generations loop or drift. overfit: validation rose. drifted: the target did
not move, and answers went away from the references' length, or without references from the start's. hacking: the reward
rose and the held-out score did not. regressed: target lost or a no-worse condition broken. overshot: the target is
there by its number, and a no-worse condition is nearer to failing. overloaded: the
machine gave up, not the training. progress: moved, gate not met. plateau: moved, and
no further than an earlier run. idle: nothing moved, not even the control. flat: the control moved, the target did not.
unclear: the interval tells nothing. unmeasurable: the harness could not show it, or pairs or rewards teach nothing; no
recipe helps."""

_HARMED: frozenset[Diagnosis] = frozenset(
    {"diverged", "collapsed", "overfit", "drifted", "hacking", "regressed", "overshot"}
)
"""Diagnoses of too much: their dose is not given again."""

LENGTH_DRIFT = 1.5
"""Factor by which a run's answers are further from the references' length than its start's were, the one over the other
either way, from which they count as drifted; without references, from the start's own length."""

LEAST_DRIFT_TOKENS = 4.0
"""Mean lengths nearer to each other than this are one length: of answers of a word, half is nothing."""

LEAST_UPDATES = 120
"""Updates of a first run on little data; on more it takes one pass over it. The lab's gentle recipes took 2.5 passes
over 240 rows; below a hundred updates a rate that is not too high teaches a tiny base nothing."""

MOST_UPDATES = 50
"""Updates of a first run of rollouts, each as dear as many steps of the other classes: a longer one goes on from its
state, so a first that shows something costs nothing twice, and one that does not costs half of what 100 would."""

OVERFIT_RISE = 1.1
"""Final over best validation loss from which a run counts as overfit."""

BALANCE = "data"
"""Key of a recipe, ours alone: group of training rows -> how often a run sees each of its rows."""

MOST_TIMES = 4
"""The most often that a row of a rare group is seen beside those of the largest: more would teach it by heart."""

_AXES: Mapping[str, Axis] = {"iters": "quantity", BALANCE: "composition", "seed": "order"}
"""Configuration field -> axis; every other field is `recipe`."""

_DEFAULTS: Json = {
    "fine_tune_type": "lora",
    "optimizer": "adamw",
    "learning_rate": USUAL_LR["sft"],
    "batch_size": 4,
    "num_layers": -1,
    "mask_prompt": True,
    "lora_parameters": USUAL_SHAPE,
    "steps_per_report": 10,
    "val_batches": -1,
}


_OF_INSTRUMENT: Mapping[Instrument, Json] = {
    "sft": {},
    "dpo": {"learning_rate": USUAL_LR["dpo"], "beta": 0.1},
    "grpo": {
        "learning_rate": USUAL_LR["grpo"],
        "beta": 0.04,
        "group_size": 8,
        "kl_ceiling": 0.5,
        "entropy_floor": 0.1,
        "length_jump": 2.0,
        "steps_per_report": 1,
    },
}
"""What an instrument starts with otherwise."""

_ROWS: Mapping[InstrumentClass, str] = {"demonstration": "rows", "preference": "pairs", "rollout": "cases"}

_LEARNS_FROM: Mapping[InstrumentClass, str] = {
    "demonstration": "Demonstrations",
    "preference": "Preferences",
    "rollout": "Rollouts",
}


class Lengths(Record):
    """Mean lengths of answers to the same cases, tokens."""

    run: float
    start: float
    """Of what the run started from."""
    reference: float | None = None
    """Of the reference answers, or of the demonstrations where the cases have none; None: neither is known."""
    cases: int = 0

    @property
    def is_drifted(self) -> bool:
        """Whether the run's answers are further from the yardstick than their start's by LENGTH_DRIFT."""
        yardstick = self.start if self.reference is None else self.reference
        if abs(self.run - yardstick) < LEAST_DRIFT_TOKENS:
            return False
        return _apart(self.run, yardstick) >= LENGTH_DRIFT * _apart(self.start, yardstick)

    def told(self, run: str, start: str) -> str:
        """Return the figures as a clause, `R2's answers have 12 tokens on average, the references 12, the base 28`."""
        known = "" if self.reference is None else f", the references {_tokens(self.reference)}"
        return f"{run}'s answers have {_tokens(self.run)} tokens on average{known}, {start} {_tokens(self.start)}"


def _apart(one: float, other: float) -> float:
    """Return how many times the one length is the other, the longer over the shorter."""
    return max(one, other) / max(1.0, min(one, other))


def _tokens(length: float) -> str:
    return f"{length:.0f}" if length >= 10 else f"{length:.2g}"  # noqa: PLR2004 - from where a tenth is not read


class Tried(Record):
    """One run as the next proposal sees it."""

    run: str
    instrument: Instrument
    recipe: Json
    """With the iterations of the save that it is judged at."""
    recipe_hash: str
    seed: int
    axis: Axis = "start"
    ended_at: int = 0
    """Step at which its training ended, where an earlier save is the one it is judged at; 0: its end is."""
    is_worn: bool = False
    """After the save that it is judged at the validation loss rose by OVERFIT_RISE."""
    bucket: Bucket | None = None
    """As the selection cases say. None: not judged, or lost to an infrastructure failure."""
    is_confirmed: bool = False
    """The gate held on the confirmation cases; told, never tuned by."""
    rule: str = ""
    """The bucket's rule."""
    movement: Movement | None = None
    control_moved: bool | None = None
    control_lost: bool = False
    stopped: str = ""
    """The guard's verdict, if one ended it."""
    collapse: Json = Field(default_factory=dict)
    """Figures of its collapsed generations: `now`, `parent`, `references`, and in words `reasons`."""
    val_loss: float | None = None
    best_val_loss: float | None = None
    losses: tuple[float, ...] = ()
    """Validation losses, oldest first; the first is the start's."""
    metric: str = ""
    """The target's; empty where none was measured."""
    asks: str = ""
    """What the gate asks, of which metric."""
    gain: float | None = None
    """How far the target moved the right way against the parent, by the bare number."""
    lengths: Lengths | None = None
    """None: not measured."""
    has_overshot: bool = False
    """The target meets its bound by the bare number; a no-worse condition that lost something is nearer to failing."""
    failing: tuple[str, ...] = ()
    """Gate conditions that the selection cases do not show to hold."""
    refused: tuple[str, ...] = ()
    """Conditions that the confirmation cases did not show, once they were opened for it; told, never tuned by."""
    is_far_enough: bool = False
    """The target's own condition is none of them."""

    @property
    def has_moved(self) -> bool:
        """Whether it moved the target: its bucket says so."""
        return self.bucket in {"A", "B"}

    @property
    def is_falling(self) -> bool:
        """Whether the validation loss is known to have fallen still when the run ended."""
        *before, last = self.losses or (math.inf,)
        return not self.ended_at and bool(before) and last < (1 - STILL_FALLING) * min(before)


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
    grounds: Json = Field(default_factory=dict)
    """The figures that the choice rests on, each by its name: what the sentence says, as data."""
    alternatives: tuple[Alternative, ...] = ()
    continues: str = ""
    """Run whose saved state it goes on from; it then costs the added steps only."""
    from_step: int = 0
    """Step of that state."""
    is_same: bool = True
    """Going on gives, bit for bit, what the whole run would have given."""

    @property
    def added(self) -> Json:
        """The recipe of the steps that are left to do."""
        return {**self.recipe, "iters": int(self.recipe["iters"]) - self.from_step} if self.from_step else self.recipe


class _Remedy(NamedTuple):
    rule: str
    changes: Callable[[Json], Json]
    """Recipe -> changed keys; `seed` counts as one."""
    why: str


def tried(
    run: Run,
    verdict: BucketVerdict | None,
    trained: TrainResult | None = None,
    lengths: Lengths | None = None,
    *,
    refused: Sequence[str] = (),
) -> Tried:
    """Return what the next proposal needs of a run, as it was at the save that it is judged at.

    Args:
        run: The run.
        verdict: Its bucket, once judged.
        trained: What its training left.
        lengths: Of its answers, its start's and the references.
        refused: Conditions that the confirmation cases did not show.
    """
    given = trained or TrainResult()
    judged_step, val_loss, losses = given.judged_step, given.val_loss, given.val_losses
    if judged_step is not None:
        val_loss = next((save.val_loss for save in given.saves if save.step == judged_step), None)
        losses = losses[: losses.index(val_loss) + 1] if val_loss in losses else ()
    bucket, rule = verdict.tuned_by if verdict is not None else (None, "")
    failing = tuple(condition.id for condition in verdict.gate.failing) if verdict is not None else ()
    wanted = verdict.target.condition if verdict is not None and verdict.target is not None else ""
    return Tried(
        run=run.id,
        instrument=run.instrument,
        recipe=as_judged(run.recipe, judged_step),
        recipe_hash=run.recipe_hash,
        seed=run.seed,
        axis=run.axis,
        ended_at=0 if judged_step is None else int(run.recipe["iters"]),
        is_worn=bool(losses) and given.val_losses[-1] > OVERFIT_RISE * losses[-1],
        bucket=bucket,
        is_confirmed=verdict is not None and verdict.bucket == "A",
        rule=rule,
        movement=verdict.movement if verdict is not None else None,
        control_moved=verdict.control_moved if verdict is not None else None,
        control_lost=verdict is not None and verdict.control_lost,
        stopped=given.verdict,
        collapse=given.collapse,
        val_loss=val_loss,
        best_val_loss=min(losses, default=None),
        losses=losses,
        metric=verdict.target.metric if verdict is not None and verdict.target is not None else "",
        asks=verdict.target.asks if verdict is not None and verdict.target is not None else "",
        gain=_gain(verdict),
        lengths=lengths,
        has_overshot=verdict is not None and _has_overshot(verdict),
        failing=failing,
        refused=tuple(refused),
        is_far_enough=bool(wanted) and wanted not in failing,
    )


def as_judged(recipe: Json, judged_step: int | None) -> Json:
    """Return a run's recipe with the iterations of the save that it is judged at; None: of its end."""
    return recipe if judged_step is None else _with_schedule(recipe, {**recipe, "iters": judged_step})


def _has_overshot(verdict: BucketVerdict) -> bool:
    """Say whether a no-worse condition, and not the target, is what the selection cases hold the gate back by."""
    wanted = verdict.target.condition if verdict.target is not None else ""
    target = next((c for c in verdict.gate.conditions if c.id == wanted), None)
    if target is None or not target.is_met_by_estimate:
        return False
    lost = [c for c in verdict.gate.conditions if c.test == "non_inferiority" and c.sign * (c.estimate or 0.0) < 0]
    return any(c.slack < target.slack for c in lost)


def _gain(verdict: BucketVerdict | None) -> float | None:
    if verdict is None or verdict.target is None or not verdict.comparisons:
        return None
    estimate = verdict.comparisons[0].estimate
    return None if estimate is None else verdict.target.sign * estimate


def recipe_hash(instrument: Instrument, parent_hash: str, recipe: Json, data_hash: str, seed: int) -> str:
    """Return the identity of a configuration, 2 and 2.0 being one number; a campaign runs each one once."""
    return hash_json([instrument, parent_hash, _plain(recipe), data_hash, seed])


def _plain(value: Any) -> Any:
    """Return settings with whole numbers as integers: a file may say 20 where a rule says 20.0."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


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
    parameters: int | None = None,
) -> RecipeProposal:
    """Return the first run: the campaign file's recipe, the rest from the sizes of the data and of the model.

    About one pass over the data, no fewer than LEAST_UPDATES on little of it, and never more than MAX_EPOCHS passes.

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
        parameters: Of the model, from its headers; None where they were not read.
    """
    chosen = instrument or goal.instruments[0]
    given = goal.recipe_of(chosen)
    recipe = {**_DEFAULTS, **_OF_INSTRUMENT[chosen], **given}
    recipe["lora_parameters"] = {**_DEFAULTS["lora_parameters"], **given.get("lora_parameters", {})}
    recipe |= fixed or {}
    if "learning_rate" not in {**given, **(fixed or {})}:
        recipe["learning_rate"] = usual_lr(chosen, parameters, recipe)
    seed = int(recipe.setdefault("seed", goal.seed))
    rows, batch_size = int(census.get("rows") or 0), int(recipe["batch_size"])
    most, longest = (1000, int(census.get("max_tokens") or 2048))
    if CLASSES[chosen] == "rollout":
        most = MOST_UPDATES
        # A prompt is part of a row, so no longer than the longest; what is sampled comes on top.
        longest += int(recipe.setdefault("max_completion_length", goal.evaluation.max_tokens))
    one_pass = math.ceil(rows / batch_size)
    enough = min(LEAST_UPDATES, max(20, int(MAX_EPOCHS * rows / batch_size)))
    recipe.setdefault("iters", min(most, max(one_pass, enough)))
    recipe.setdefault("max_seq_length", _rounded_up(longest, 32))
    least, parts = (4, 10) if CLASSES[chosen] == "rollout" else (10, 5)
    every = max(least, math.ceil(recipe["iters"] / parts))
    recipe.setdefault("steps_per_eval", every)
    recipe.setdefault("save_every", every)
    epochs = recipe["iters"] * batch_size / rows if rows else 0.0
    passes = f", {epochs:.2g} passes over {rows} {_ROWS[CLASSES[chosen]]}" if rows else ""
    rate = f", learning rate {recipe['learning_rate']:.2g}" + (f" for {parameters:,} parameters" if parameters else "")
    return RecipeProposal(
        instrument=chosen,
        parent=parent,
        parent_hash=parent_hash,
        recipe=recipe,
        recipe_hash=recipe_hash(chosen, parent_hash, recipe, data_hash, seed),
        seed=seed,
        axis="start",
        hypothesis=f"{_LEARNS_FROM[CLASSES[chosen]]} move {_aim(goal, target)}: {recipe['iters']} iterations of "
        f"{batch_size}{passes}{'' if 'learning_rate' in given else rate}.",
        rule="recipe.first",
        predicted=_prediction(target, ceilings or {}),
        grounds={
            "metric": target.metric if target is not None else "",
            "asked": target.asks if target is not None else "",
            "primary": goal.gate.primary or "",
            "rows": rows,
            "passes": epochs,
            "parameters": parameters,
            "learning_rate": recipe["learning_rate"],
        },
    )


def _aim(goal: Goal, target: Target | None) -> str:
    """Return what a run is to move and what is asked of it; of several conditions, why it is this one."""
    if target is None:
        return "the gate"
    others = len([c for c in goal.gate.conditions if c.statistic != "new_failures"]) > 1
    why = ", the first condition that asks for more than no loss; gate.primary names another" if others else ""
    why = ", as gate.primary names it" if goal.gate.primary is not None else why
    return f"{target.metric} (asked {target.asks}{why})"


def with_recipe(proposal: RecipeProposal, recipe: Json, data_hash: str, why: str) -> RecipeProposal:
    """Return a proposal with another recipe (cut to the time left), its identity renewed and the reason recorded."""
    hashed = recipe_hash(proposal.instrument, proposal.parent_hash, recipe, data_hash, proposal.seed)
    hypothesis = f"{proposal.hypothesis} {why}"
    return proposal.model_copy(update={"recipe": recipe, "recipe_hash": hashed, "hypothesis": hypothesis})


def next_recipes(
    history: Sequence[Tried],
    *,
    parent: str = "base",
    parent_hash: str = "",
    data_hash: str = "",
    target: Target | None = None,
    ceilings: Mapping[str, float] | None = None,
    rows: int | None = None,
    fixed: Json | None = None,
    carried: float = 0.0,
    harms: Sequence[Harm] = (),
    suggest: Suggest | None = None,
    groups: Mapping[str, int] | None = None,
) -> list[RecipeProposal]:
    """Return the remedies for the latest run's diagnosis that were not tried yet, the first choice first.

    Args:
        history: Every run of the class from the same parent, oldest first; lost ones count as tried.
        parent: What the next run starts from.
        parent_hash: Hash of those weights.
        data_hash: Hash of the training data.
        target: What the run should move.
        ceilings: `split.metric` -> the gold's mean.
        rows: Training rows, which bound the iterations.
        fixed: Keys decided by the adapter that the run goes on from; no remedy changes them.
        carried: Dose that the parent has taken already.
        harms: Runs of other classes or parents that took too much.
        suggest: Samples numbers once there are enough runs; what it proposes comes after the rules' remedies, and
            before them when a run got no further than an earlier one.
        groups: Groups of training rows and their sizes, where the rows name them.
    """
    last = next((run for run in reversed(history) if run.bucket is not None or run.stopped), None)
    if last is None:
        return []
    diagnosis = diagnose(last)
    best = _best(history, last)
    if diagnosis == "progress" and best is not last:
        diagnosis = "plateau"
    used = {run.recipe_hash for run in history}
    has_moved = any(run.has_moved for run in history)
    strong = [*harms, *(_harm(run, rows, carried) for run in history if _took_too_much(run, has_moved=has_moved))]
    weak = [dose(run.recipe, rows, run.instrument) for run in history if diagnose(run) == "idle"]
    skipped: list[Alternative] = []
    proposals: list[RecipeProposal] = []
    candidates = _candidates(diagnosis, last, best, history, rows, groups or {})
    sampled = _sampled(suggest, best, history, rows, fixed or {}) if candidates else []
    for base, recipe, remedy in (*sampled, *candidates) if diagnosis == "plateau" else (*candidates, *sampled):
        if any(recipe.get(key) != value for key, value in (fixed or {}).items()):
            skipped.append(Alternative(action=remedy.rule, reason="the adapter that runs go on from has another shape"))
            continue
        before = {**base.recipe, "seed": base.seed}
        if recipe == before:
            skipped.append(Alternative(action=remedy.rule, reason="it changes nothing here"))
            continue
        taken = judge_dose(recipe, rows, last.instrument, carried, strong)
        is_more = dose(recipe, rows, last.instrument) > dose(before, rows, last.instrument)
        offered = _with_schedule(recipe, {**recipe, "iters": taken.iters})
        is_undone = is_more and dose(offered, rows, last.instrument) <= dose(before, rows, last.instrument)
        if taken.state == "refused" or is_undone:
            skipped.append(Alternative(action=remedy.rule, reason=taken.sentence))
            continue
        seed = int(offered["seed"])
        hashed = recipe_hash(last.instrument, parent_hash, offered, data_hash, seed)
        if hashed in used:
            skipped.append(Alternative(action=remedy.rule, reason="that configuration was run already"))
            continue
        if base.ended_at and axis_of(before, offered) == "quantity" and offered["iters"] > before["iters"]:
            gone = f"{base.run} was trained to step {base.ended_at} and is best at its save of step {before['iters']}"
            skipped.append(Alternative(action=remedy.rule, reason=gone))
            continue
        given = dose(offered, rows, last.instrument)
        if weak and given <= max(weak):
            skipped.append(Alternative(action=remedy.rule, reason="as much or more did not even move the control"))
            continue
        moved = dose(best.recipe, rows, last.instrument) if best.has_moved and not taken.sentence else 0.0
        if diagnosis in {"progress", "plateau"} and given < moved and not _got_less(history, best, rows):
            why = f"{best.run} moved the target with more training, and nothing measured speaks against as much"
            skipped.append(Alternative(action=remedy.rule, reason=why))
            continue
        used.add(hashed)
        origin = "" if base is last else f", so from {base.run}'s recipe"
        observation = _observed(last, diagnosis, best, parent)
        if base.ended_at:
            origin += f", as of its save of step {before['iters']}, the best of {base.ended_at}"
        why = f"{observation}{origin}; {remedy.why}: {_difference(before, offered)}."
        proposals.append(
            RecipeProposal(
                instrument=last.instrument,
                parent=parent,
                parent_hash=parent_hash,
                recipe=offered,
                recipe_hash=hashed,
                seed=seed,
                axis=axis_of(before, offered),
                hypothesis=f"{why} {taken.sentence}".strip(),
                rule=f"{diagnosis}.{remedy.rule}",
                predicted=_prediction(target, ceilings or {}),
                grounds=_grounds(last, diagnosis, base, best)
                | {"dose_before": dose(before, rows, last.instrument), "dose": given, "kept_below": taken.sentence},
                alternatives=tuple(skipped),
            )
        )
    return proposals


def _grounds(last: Tried, diagnosis: Diagnosis, base: Tried, best: Tried) -> Json:
    """Return what a proposal rests on: the run it follows, what was measured of it, and of the best known."""
    return {
        "follows": last.run,
        "diagnosis": diagnosis,
        "harm": diagnosis if diagnosis in _HARMED else "",
        "from": base.run,
        "metric": last.metric,
        "asked": last.asks,
        "gain": last.gain,
        "best": best.run,
        "best_gain": best.gain,
        "val_losses": list(last.losses),
        "lengths": None if last.lengths is None else last.lengths.model_dump(mode="json"),
        "stopped": last.stopped,
        "collapse": last.collapse,
    }


def _got_less(history: Sequence[Tried], best: Tried, rows: int | None) -> bool:
    """Say whether a run that was trained more than the best one got less far: the best dose may lie below it."""
    most = dose(best.recipe, rows, best.instrument)
    further = [run for run in history if dose(run.recipe, rows, run.instrument) > most and run.gain is not None]
    return any((run.gain or 0.0) < (best.gain or 0.0) for run in further)


def _best(history: Sequence[Tried], last: Tried) -> Tried:
    """Return the run that the next goes on from: the furthest one that did no harm; the latest where none is known."""
    sound = [run for run in history if run.gain is not None and diagnose(run) not in {*_HARMED, "unmeasurable"}]
    moved = [run for run in sound if run.has_moved]
    # Of equals that moved the first: what the later one did beside it did not help. Of others the last.
    return max(moved or reversed(sound), key=lambda run: run.gain or 0.0, default=last)


_BROKEN = frozenset({"D.no_worse_broken", "D.condition_broken"})
"""Rules of D by which something was lost beside the target."""


def _took_too_much(run: Tried, *, has_moved: bool) -> bool:
    """Say whether a run's dose did harm; where nothing has moved yet, a lost target alone may be one seed's luck."""
    diagnosis = diagnose(run)
    return diagnosis in _HARMED and (has_moved or diagnosis != "regressed" or run.rule in _BROKEN)


def _harm(run: Tried, rows: int | None, carried: float) -> Harm:
    total = carried + dose(run.recipe, rows, run.instrument)
    return harm_of(run.run, _SEEN[diagnose(run)], run.instrument, run.recipe, total)


def diagnose(run: Tried) -> Diagnosis:
    """Return what went wrong, the most certain sign first.

    A run that moved the target is on its way, whatever became of its answers' length: length stands for what nobody
    measured, and the target was measured.
    """
    if run.stopped in _STOPPED and not (run.stopped == "length_drift" and _is_nearer(run.lengths)):
        return _STOPPED[run.stopped]
    if run.rule in UNREADABLE:
        return "unmeasurable"
    if run.val_loss is not None and not math.isfinite(run.val_loss):
        return "diverged"
    if not run.has_moved and run.lengths is not None and run.lengths.is_drifted:
        return "drifted"
    if run.bucket == "D":
        # Where the control stood still, nothing was trained that could have lost the target: luck of the cases.
        is_idle = run.rule == "D.target_lost" and run.control_moved is False and not run.control_lost
        return "idle" if is_idle else "regressed"
    rose = (
        run.val_loss is not None and run.best_val_loss is not None and run.val_loss > OVERFIT_RISE * run.best_val_loss
    )
    if rose:
        return "overfit"
    if run.bucket == "B" and run.has_overshot:
        return "overshot"
    if run.has_moved:
        return "progress"
    if run.control_moved is False:
        return "idle"
    return "flat" if run.bucket == "C" else "unclear"


def _is_nearer(lengths: Lengths | None) -> bool:
    """Say whether answers that changed their length are known to have come no further from the references."""
    return lengths is not None and lengths.reference is not None and not lengths.is_drifted


_STOPPED: Mapping[str, Diagnosis] = {
    "diverged": "diverged",
    "collapsed": "collapsed",
    "overfit": "overfit",
    "entropy_collapsed": "collapsed",
    "length_drift": "drifted",
    "kl_runaway": "drifted",
    "reward_hacking": "hacking",
    "hopeless": "regressed",
    # The machine gave up on the load: nothing is known of the numbers that teach.
    "out_of_memory": "overloaded",
    "gpu_timeout": "overloaded",
    "rebooted": "overloaded",
    # Pairs told apart without a change of generation: no number of this recipe makes them teach more (mode 14).
    "loss_collapsed": "unmeasurable",
    # The reward cannot tell this parent's answers apart: nothing is learned, whatever the numbers (mode P10).
    "rewards_equal": "unmeasurable",
}
"""Guard's verdict -> what it means for the next recipe."""

_SEEN: Mapping[Diagnosis, str] = {
    "collapsed": "collapsed: its generations loop or drift",
    "diverged": "diverged",
    "overfit": "learned its training rows by heart",
    "drifted": "left its start's length or distribution",
    "hacking": "raised its reward and not the held-out score",
    "regressed": "lost what its start had",
    "overshot": "moved the target far enough and lost too much elsewhere",
    "overloaded": "asked more of this machine than it gives",
    "idle": "did not even move the control",
    "flat": "moved the control and left the target flat",
    "unclear": "ended within the noise of its cases",
    "unmeasurable": "could not be measured",
}


def _observed(run: Tried, diagnosis: Diagnosis, best: Tried, start: str) -> str:
    """Return what was seen of a run, with the figures that say so.

    Args:
        run: The run.
        diagnosis: What is wrong with it.
        best: The run that got furthest.
        start: What it started from.
    """
    if run.is_confirmed:
        return f"{run.run} met the gate on the confirmation cases"
    what = f"{run.metric or 'the target'}" + (f" by {run.gain:+.3g}" if run.gain is not None else "")
    if diagnosis == "plateau":
        known = "" if best.gain is None else f" ({best.gain:+.3g})"
        return f"{run.run} moved {what}, no further than {best.run}{known}"
    if diagnosis == "progress":
        return f"{run.run} moved {what}{_short_of(run)}"
    if diagnosis == "drifted" and run.lengths is not None and run.lengths.is_drifted:
        return run.lengths.told(run.run, "the base" if start == "base" else start)
    if diagnosis == "flat" and run.control_moved is None:
        return f"{run.run} left the target flat" + _gained(run)
    if diagnosis == "collapsed" and run.collapse:
        return f"{run.run} {_SEEN[diagnosis]} ({'; '.join(run.collapse['reasons'])})"
    return f"{run.run} {_SEEN[diagnosis]}" + (_lost(run) if diagnosis == "overfit" else _gained(run))


def _short_of(run: Tried) -> str:
    """Return what a run that moved the target lacks."""
    if run.is_far_enough:
        return f" far enough and {_lacking(run)}"
    bound = f" (asked {run.asks})" if run.asks else ""
    return f" but not far enough{bound}"


def _lacking(run: Tried) -> str:
    if run.failing:
        return f"is short of {' and '.join(run.failing)}"
    if run.refused:
        return f"meets the gate on selection; the confirmation cases did not show {' and '.join(run.refused)}"
    return "meets the gate, not confirmed yet"


def _gained(run: Tried) -> str:
    return f" ({run.metric or 'the target'} {run.gain:+.3g})" if run.gain is not None else ""


def _lost(run: Tried) -> str:
    return f" (validation loss {run.best_val_loss:.3g}, then {run.val_loss:.3g})" if run.val_loss is not None else ""


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


def _lighter(recipe: Json) -> Json:
    """Hold at most half at once and keep what is learned: as many rows in all, as many rows an update."""
    batch = int(recipe["batch_size"])
    changes: Json = {} if recipe.get("grad_checkpoint") else {"grad_checkpoint": True}
    if "group_size" in recipe:
        # An update of rollouts is all that is sampled for it: what is decoded and what is learned at once shrink.
        rollouts = batch * int(setting(recipe, "group_size"))
        held = {"update_microbatch": ROLLOUTS_TOGETHER[False], **recipe}["update_microbatch"]
        asked = {"update_microbatch": held, "rollout_concurrency": int(setting(recipe, "rollout_concurrency"))}
        return changes | {key: min(size, rollouts) // 2 for key, size in asked.items() if min(size, rollouts) > 1}
    if batch == 1:
        return changes
    fewer = max(size for size in range(1, batch // 2 + 1) if batch % size == 0)
    times = batch // fewer
    every = times * int(setting(recipe, "grad_accumulation_steps"))
    return changes | {"batch_size": fewer, "iters": times * int(recipe["iters"]), "grad_accumulation_steps": every}


def _next_seed(recipe: Json) -> Json:
    return {"seed": int(recipe["seed"]) + 1}


def _anchored(recipe: Json) -> Json:
    """Double the weight that keeps preferences and rollouts near their parent; nothing where the class has none."""
    return {"beta": float(f"{2 * recipe['beta']:.2g}")} if "beta" in recipe else {}


_SLOWER = _Remedy("lower_lr", _times("learning_rate", 1 / 3), "a third of the learning rate keeps it in place")
_GENTLER = _Remedy("gentler_lr", _times("learning_rate", 1 / 2), "half the learning rate keeps more of the rest")
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
_LIGHTER = _Remedy("lighter", _lighter, "half of it at once, with activations computed again, takes far less")
_ANCHORED = _Remedy("stronger_anchor", _anchored, "twice the anchor keeps it nearer to its parent")

_REMEDIES: Mapping[Diagnosis, tuple[_Remedy, ...]] = {
    "diverged": (_SLOWER, _SMALLER, _DROPOUT),
    "collapsed": (_SMALLER, _DROPOUT, _SHORTER, _SLOWER),
    "overfit": (_SHORTER, _DROPOUT, _SLOWER),
    "drifted": (_ANCHORED, _SLOWER, _SHORTER, _SMALLER),
    "hacking": (_ANCHORED, _SLOWER, _SHORTER),
    "regressed": (_SLOWER, _SMALLER, _DROPOUT, _SHORTER),
    "overshot": (_GENTLER, _SMALLER, _SHORTER, _DROPOUT),
    "overloaded": (_LIGHTER,),
    "progress": (_LONGER, _BRISKER, _WIDER),
    "plateau": (_BRISKER, _LONGER, _WIDER),
    "idle": (_FASTER, _LONGER, _WIDER),
    "flat": (_BRISKER, _RESHUFFLED, _LONGER, _WIDER),
    "unclear": (_BRISKER, _RESHUFFLED, _LONGER, _WIDER),
    "unmeasurable": (),
}
"""In order. Where nothing moved the cheap ones come first, and after a flat run axes not varied yet, since exhaustion
asks for different ones."""

_UNMOVED: frozenset[Diagnosis] = frozenset({"idle", "flat", "unclear"})
"""Diagnoses of too little."""

_TEACHES_OTHERWISE: frozenset[Diagnosis] = frozenset({"flat", "plateau"})
"""Diagnoses of data that teach, and not what is asked."""

_FALLBACKS = (_WIDER, _RESHUFFLED)
"""For when every remedy of a diagnosis was run."""


def _candidates(  # noqa: PLR0917 - an inner step of next_recipes, same arguments
    diagnosis: Diagnosis,
    last: Tried,
    best: Tried,
    history: Sequence[Tried],
    rows: int | None,
    groups: Mapping[str, int],
) -> list[tuple[Tried, Json, _Remedy]]:
    """Return what a diagnosis suggests, in order: the run it goes on from, the recipe, the remedy."""
    if diagnosis == "overloaded":
        # Once: what half of the load does not mend, a person has to look at.
        is_first = sum(diagnose(run) == "overloaded" for run in history) == 1
        return [(last, _applied(_LIGHTER, last, rows), _LIGHTER)] if is_first else []
    fallbacks = (_RESHUFFLED,) if diagnosis in _HARMED else _FALLBACKS
    remedies = (*_REMEDIES[diagnosis], *(fallbacks if _REMEDIES[diagnosis] else ()))
    if last.has_moved and (diagnosis == "overfit" or last.is_worn):
        # What moved the target is not taken back first: the same training is made to learn less by heart.
        remedies = (_DROPOUT, *remedies)
    if diagnosis in {"progress", "plateau"} and best.is_falling:
        remedies = (_LONGER._replace(why=_still_falls(best)), *(each for each in remedies if each.rule != "longer"))
    if diagnosis in _TEACHES_OTHERWISE and (times := balance_of(groups)):
        often_text = ", ".join(f"{group or 'those without one'} {often} times" for group, often in times.items())
        balanced = _Remedy(
            "rebalanced", lambda _: {BALANCE: times}, f"rows of rare groups are seen more often ({often_text})"
        )
        remedies = (balanced, *remedies)
    rows_seen = best.recipe["iters"] * best.recipe["batch_size"]
    if diagnosis in _UNMOVED and rows and rows_seen < rows and CLASSES[last.instrument] != "rollout":
        # Rows that were never seen come before any other reason; of rollouts it is answers that are learned, not rows.
        remedies = (_LONGER, *remedies)
    if diagnosis in _HARMED and best is not last:
        middle = _Remedy("between", partial(_middle, last.recipe), f"half way to {last.run} is left to try")
        remedies = (middle, *_REMEDIES["plateau"], *_FALLBACKS)
    base = best if diagnosis not in _HARMED or best is not last else last
    candidates = [(base, _applied(remedy, base, rows), remedy) for remedy in remedies]
    if diagnosis != "flat":
        return candidates
    varied = {run.axis for run in history}
    before = {**base.recipe, "seed": base.seed}
    return sorted(candidates, key=lambda each: axis_of(before, each[1]) in varied)


def _still_falls(run: Tried) -> str:
    shown = ", then ".join(f"{loss:.3g}" for loss in run.losses[-3:])
    return f"{run.run}'s validation loss still falls ({shown}), so twice the iterations carry it further"


def _sampled(
    suggest: Suggest | None, best: Tried, history: Sequence[Tried], rows: int | None, fixed: Json
) -> list[tuple[Tried, Json, _Remedy]]:
    """Return what a sampler proposes from the runs so far, nothing before there are enough; a lost one is left out."""
    results = [(numbers_of(run.recipe), run.gain) for run in history if run.gain is not None]
    if suggest is None or len(results) < LEAST_TOLD:
        return []
    batch_size = int(best.recipe["batch_size"])
    space = space_of([numbers for numbers, _ in results], rows, batch_size, fixed)
    why = f"a sampler that was told {len(results)} runs proposes these numbers"
    remedy = _Remedy("sampled", dict, why)
    before = {**best.recipe, "seed": best.seed}
    proposals = suggest(space, results, best.seed + len(history), ASKED)
    return [(best, _with_schedule(before, with_numbers(before, each)), remedy) for each in proposals]


def balance_of(groups: Mapping[str, int]) -> dict[str, int]:
    """Return how often rows of each rare group are to be seen so that it weighs as much as the largest, within bounds.

    Args:
        groups: Group -> rows.
    """
    largest = max(groups.values(), default=0)
    times = {group: min(MOST_TIMES, round(largest / size)) for group, size in groups.items()}
    return {group: often for group, often in sorted(times.items()) if often > 1}


def _middle(other: Json, recipe: Json) -> Json:
    """Return the changes that lie half way, in proportion, between a recipe and one that went too far."""
    between: Json = {}
    for key in ("learning_rate", "iters"):
        if other[key] != recipe[key]:
            middle = math.sqrt(other[key] * recipe[key])
            between[key] = round(middle) if key == "iters" else float(f"{middle:.3g}")
    ours, theirs = ({**USUAL_SHAPE, **(each.get("lora_parameters") or {})} for each in (recipe, other))
    if ours["scale"] != theirs["scale"]:
        between["lora_parameters"] = {**ours, "scale": float(f"{math.sqrt(ours['scale'] * theirs['scale']):.3g}")}
    return between


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
    """Let a learning-rate schedule's own copies of learning_rate and iters follow them; it counts updates."""
    schedule = recipe.get("lr_schedule")
    if not isinstance(schedule, dict):
        return recipe
    old, new = (int(setting(each, "grad_accumulation_steps")) for each in (before, recipe))
    follows = {before["learning_rate"]: recipe["learning_rate"], before["iters"]: recipe["iters"] * old // new}
    arguments = [follows.get(argument, argument) for argument in schedule.get("arguments", ())]
    return {**recipe, "lr_schedule": {**schedule, "arguments": arguments}}


def _difference(old: Json, new: Json) -> str:
    """Return the changed numbers, `iters 100 -> 200`."""
    before, after = _flat(old), _flat(new)
    return ", ".join(f"{key} {before.get(key)} -> {after[key]}" for key in after if before.get(key) != after[key])


def _flat(recipe: Json) -> Json:
    nested = recipe.get("lora_parameters", {})
    rows = " and ".join(f"{group or 'no group'} x{often}" for group, often in recipe.get(BALANCE, {}).items())
    balance = {BALANCE: rows or "as it is"}
    return {**{key: value for key, value in recipe.items() if key != "lora_parameters"}, **nested, **balance}


def _prediction(target: Target | None, ceilings: Mapping[str, float]) -> Json:
    """Return where the target should end: not below the parent, not above what the references score."""
    if target is None:
        return {}
    best = ceilings.get(target.metric, target.scale.best(target.sign))
    low, high = sorted((target.parent, best))
    return {"metric": target.metric, "low": low, "high": high}


def _rounded_up(value: int, step: int) -> int:
    return math.ceil(value / step) * step
