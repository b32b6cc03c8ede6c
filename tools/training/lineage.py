"""Whether a run may go on from an adapter or a save, by which recipe, and what it is trained on; nothing is loaded."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from state.errors import ConfigError
from state.hashing import HashCache, hash_file, hash_json
from state.records import Json
from tools.evaluation.harness import grader_hash
from tools.models.identity import chat_template, read_object, weights_hash
from tools.training.recipe import LoraParameters, Recipe, validate_recipe


def require_same_adapter(recipe: Recipe, parent_adapter: Path, model: Path) -> None:
    """Refuse a recipe that builds another adapter than the parent's, whose weights it is to train on.

    Args:
        recipe: Of the new run.
        parent_adapter: Adapter folder of mlx-lm or of ours.
        model: Model folder, for its number of layers.

    Raises:
        ConfigError: Kind, layers, rank, scale, dropout or keys differ; each is named with both values.
    """
    config = read_object(parent_adapter / "adapter_config.json")
    layers = read_object(model / "config.json").get("num_hidden_layers")
    theirs, ours = _shape(config, layers), _shape(recipe.adapter_config(), layers)
    different = [f"{key} {_said(theirs[key])} -> {_said(ours[key])}" for key in ours if theirs[key] != ours[key]]
    if different:
        raise ConfigError(
            f"A run that continues from {parent_adapter} needs the parent's own adapter, but the recipe changes "
            f"{', '.join(different)}; keep the parent's values, or fuse the parent first and train a new adapter.",
            what="recipe.lora_parameters",
            value=ours,
            limit=theirs,
            where=str(parent_adapter),
        )


def _shape(config: dict[str, Any], layers: int | None) -> dict[str, Any]:
    """Return what decides an adapter's parameters and how they act, in one spelling."""
    kind = config.get("fine_tune_type", "lora")
    wanted = config.get("num_layers", -1)
    is_all = wanted <= 0 or (layers is not None and wanted >= layers)
    shape = {"fine_tune_type": kind, "num_layers": -1 if is_all else wanted}
    parameters = config.get("lora_parameters") or {} if kind != "full" else {}
    for key, known in LoraParameters.model_fields.items():
        value = parameters.get(key, known.default)
        shape[f"lora_parameters.{key}"] = sorted(value) if isinstance(value, list | tuple) else value
    return shape


def _said(value: Any) -> str:
    return "all" if value in (None, -1) else str(value)


def begun_with(asked: Mapping[str, Any], instrument: str, save: Path | None) -> Recipe:
    """Return the recipe that a job goes on with: the one that its newest save was made by, or what is asked.

    What the job leaves open is as it was when it began: a default that changed since is for new jobs.

    Args:
        asked: Keys of the job.
        instrument: What it learns from.
        save: Its newest sound save; None where it has none.

    Raises:
        ConfigError: The recipe cannot be trained, or the save was made by another one.
    """
    recipe = validate_recipe(asked, instrument)
    if save is None:
        return recipe
    begun = _recipe_of(save, instrument)
    told = begun if isinstance(begun, str) else _conflicts(recipe.model_dump(exclude_unset=True), begun.model_dump())
    if isinstance(begun, str) or told:
        raise ConfigError(
            f"The save at step {int(save.name)} was made by another recipe ({told}), so nothing can go on from it; "
            "restore the job's own recipe, or remove the job's saves to begin the run anew.",
            what="recipe",
            where=str(save),
        )
    return begun


def other_recipe(recipe: Recipe, instrument: str, save: Path) -> str:
    """Return how a save of another run differs from a recipe that is to go on from it; empty where by length alone."""
    theirs = _recipe_of(save, instrument)
    if isinstance(theirs, str):
        return f"{save} was made by another recipe ({theirs})"
    ours, before = (each.model_dump(exclude=_NOT_LEARNED) for each in (recipe, theirs))
    told = _conflicts(ours, before)
    return f"{save} was made by another recipe ({told})" if told else ""


_NOT_LEARNED = {
    "iters", "lr_schedule", "steps_per_report", "steps_per_eval", "save_every", "val_batches", "clear_cache_threshold",
}  # fmt: skip
"""Keys of a recipe that may be another in a longer run, or change nothing that is learned."""


def _recipe_of(save: Path, instrument: str) -> Recipe | str:
    """Return the whole recipe that a save was made by, or why this version cannot read it."""
    written = read_object(save / "adapter_config.json")
    if not written:
        return "its adapter_config.json cannot be read"
    try:
        return validate_recipe(written, instrument)
    except ConfigError as error:
        return error.sentence.rstrip(".")


def _conflicts(asked: Mapping[str, Any], made_by: Mapping[str, Any], place: str = "") -> str:
    """Return the keys that are asked for and that a save was made with otherwise, with both values."""
    told = (
        _conflicts(value, other, f"{place}{key}.")
        if isinstance(value, Mapping) and isinstance(other := made_by.get(key), Mapping)
        else f"{place}{key} {made_by.get(key)} -> {value}"
        for key, value in asked.items()
        if value != made_by.get(key)
    )
    return ", ".join(filter(None, told))


def trained_on(inputs: Json, cache: HashCache) -> dict[str, str]:
    """Return the hash of everything that a training stands on; what is gone is `missing`.

    Args:
        inputs: A training worker's `input`.
        cache: Known content hashes, so that weights are read once where nothing touched them.

    Returns:
        `data:<name>` for each file, `weights` (with the parent's adapter), `template` (with the system text) and
        `grader` where rollouts earn something.
    """
    model = Path(inputs["model"])
    files = {name: Path(path) for name, path in inputs["data"].items() if path}
    found = {f"data:{name}": hash_file(path) if path.is_file() else "missing" for name, path in files.items()}
    found["weights"] = _or_missing(lambda: weights_hash(model, inputs.get("parent_adapter"), cache))
    found["template"] = hash_json({"template": chat_template(model), "system": inputs.get("system")})
    if inputs.get("grader"):
        found["grader"] = _or_missing(lambda: grader_hash(inputs["grader"], None))
    return found


def _or_missing(hashed: Callable[[], str]) -> str:
    try:
        return hashed()
    except (ConfigError, OSError):
        return "missing"
