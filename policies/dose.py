"""How much adaptation weights have taken: the dose of a recipe, summed over its parents, against what did harm before.

One dose is passes over the data x rank x scale, at the class's usual learning rate; at another rate it counts in
proportion. It orders runs of one campaign by how hard they pull, and is no measure across models or data (failure
mode 1: the lab's gentle recipe collapsed after 16 passes).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from state.records import Instrument, Json, Record

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

LEAST_SHARE = 0.5
"""A run cut to fewer of its iterations than this is another experiment than the one that was meant."""


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
    said = f"The dose would reach {total:.3g} (passes x rank x scale), and {harm.run} {harm.what} at {harm.dose:.3g}"
    sentence = f"{said}: {most} iterations instead of {iters}."
    if most < LEAST_SHARE * iters:
        return DoseVerdict(state="refused", total=total, iters=most, sentence=sentence)
    return DoseVerdict(state="reduced", total=carried + own * most / iters, iters=most, sentence=sentence)
