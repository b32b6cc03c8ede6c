"""Where a training stands, what its saves hold, whether a run may go on from one; no MLX: the agent may ask.

A save is a folder `saves/<step>/` whose marker `state.json` is written last and holds the hash of every file. The
newest two stay, the best by validation, and the newest one at which the sampled generations were healthy. One whose
bytes changed since is set aside as `saves/damaged-<step>/`, and the one before is gone on with.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from state.errors import ConfigError
from state.files import fsync_path, read_json, write_json
from state.hashing import HashCache, hash_bytes, hash_file, hash_json
from state.recipe import STILL_FALLING, schedule_but_length
from state.records import Json
from tools.evaluation.harness import grader_hash
from tools.models.identity import HeaderError, chat_template, read_header, read_object, weights_hash
from tools.training.data import Cursor
from tools.training.recipe import LoraParameters, Recipe, validate_recipe

_KEPT = 2
_WEIGHTS = ("adapters.safetensors", "optimizer.safetensors")
_ASIDE = "damaged-"

DOUBT_SHARE = 0.5
"""Share of the steps up to which sampled generations alone do not end a run whose validation loss still falls: on the
way from one way of answering to another there is garbage."""


@dataclass
class Progress:
    """Where a training stands after a step.

    Args:
        step: Micro-steps done.
        cursor: Place in the data of the next batch.
        trained_tokens: Learned tokens so far.
        real_tokens: Positions computed so far that hold a token.
        padded_tokens: Positions computed so far, padding included.
        steps_s: Seconds spent on training steps alone; validation, samples and saves left out.
        seen_rows: Rows of the first epoch seen so far.
        train_loss: Mean since the last report, in the objective's unit.
        val_losses: (step, loss), oldest first.
        probe_loss: Loss of the batch at `cursor`, dropout off: what a load of this save must reproduce.
        is_healthy: Whether the newest sampled generations had not collapsed; true where none are sampled.
        separated: Steps in a row, up to this one, whose loss left nothing to learn.
        is_looked_at: Whether the early look at generation was taken.
        environment: What bit-for-bit equality depends on.
        data: Hash of the training file; the cursor means nothing in another one.
        probed: Hash of what `probe_loss` was measured on; empty where an older Vigil saved.
        continued_from: Step of the other run's save that this one began with; None where it began at its own start.
        begun_anew: Why it did not begin with another run's save, though it was to; empty where that is not so.
        notes: What the objective needs to go on.
    """

    step: int = 0
    cursor: Cursor = field(default_factory=Cursor)
    trained_tokens: int = 0
    real_tokens: int = 0
    padded_tokens: int = 0
    steps_s: float = 0.0
    seen_rows: int = 0
    train_loss: float | None = None
    val_losses: list[tuple[int, float]] = field(default_factory=list)
    probe_loss: float | None = None
    is_healthy: bool = True
    separated: int = 0
    is_looked_at: bool = False
    environment: Json = field(default_factory=dict)
    data: str = ""
    probed: str = ""
    continued_from: int | None = None
    begun_anew: str = ""
    notes: Json = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Json) -> "Progress":
        """Return what `state.json` holds."""
        value = {name: entry for name, entry in value.items() if name not in _SEAL}
        losses = [(int(step), float(loss)) for step, loss in value["val_losses"]]
        return cls(**{**value, "cursor": Cursor(**value["cursor"]), "val_losses": losses})

    def is_still_learning(self, iters: int) -> bool:
        """Say whether the run is early and its newest validation loss, of this very step, is clearly its lowest.

        Args:
            iters: Micro-steps of the whole run.
        """
        if len(self.val_losses) < 2 or self.step > DOUBT_SHARE * iters:  # noqa: PLR2004 - a fall has two ends
            return False
        *before, (step, last) = self.val_losses
        return step == self.step and last < (1 - STILL_FALLING) * min(loss for _, loss in before)


_SEAL = ("files", "seal")
"""What `state.json` holds beside the progress: file name -> hash, and the hash of all the rest."""


def seal(folder: Path, progress: Progress) -> None:
    """Write a save's marker, with the hash of each file that is in the folder by then."""
    files = {path.name: hash_file(path) for path in sorted(folder.iterdir()) if path.name != "state.json"}
    value = {**asdict(progress), "files": files}
    write_json(folder / "state.json", {**value, "seal": _hash(value)})


def _hash(value: Json) -> str:
    # Not canonical JSON, which knows no NaN: a mean loss may be one.
    return hash_bytes(json.dumps(value, sort_keys=True).encode())


def is_sound(folder: Path, cache: HashCache | None = None) -> bool:
    """Say whether a save is whole, and what was written."""
    try:
        return all(_is_whole(folder / name) for name in _WEIGHTS) and not is_damaged(folder, cache)
    except (HeaderError, OSError):
        return False


def is_damaged(folder: Path, cache: HashCache | None = None) -> bool:
    """Say whether a save is not what was written; one of an older Vigil, without hashes, cannot tell."""
    try:
        value = read_json(folder / "state.json") or {}
        if not is_sealed(folder):
            return False
        sealed = value.pop("seal", "")
        files = value.get("files", {}).items()
        return sealed != _hash(value) or any(hash_file(folder / name, cache) != file_hash for name, file_hash in files)
    except (ValueError, OSError, AttributeError):
        return True


def is_sealed(folder: Path) -> bool:
    """Say whether a save has hashes of its files; one of an older Vigil has none."""
    return bool(set(_SEAL) & (read_json(folder / "state.json") or {}).keys())


def set_damaged_aside(saves: Path) -> None:
    """Rename each save that is not what was written, so that nothing goes on from it, is judged by it or counts it."""
    for folder in (path for path in saves.glob("[0-9]*") if path.is_dir()):
        if not is_sound(folder):
            target = folder.with_name(f"{_ASIDE}{folder.name}")
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)


def damaged_steps(saves: Path, cache: HashCache | None = None) -> list[int]:
    """Return the steps of the saves that are not what was written, set aside or not."""
    aside = {int(path.name.removeprefix(_ASIDE)) for path in saves.glob(f"{_ASIDE}[0-9]*")}
    return sorted(aside | {int(path.name) for path in saves.glob("[0-9]*") if is_damaged(path, cache)})


def whole_saves(saves: Path) -> list[tuple[Path, Progress]]:
    """Return the saves that are whole, oldest first; a torn one is passed over."""
    whole = []
    for folder in sorted(path.parent for path in saves.glob("[0-9]*/state.json")):
        try:
            value = read_json(folder / "state.json")
            is_whole = all(map(_is_whole, (folder / name for name in _WEIGHTS)))
        except (json.JSONDecodeError, HeaderError, OSError):
            continue
        if value is not None and is_whole:
            whole.append((folder, Progress.from_json(value)))
    return whole


def newest(saves: Path) -> tuple[Path, Progress] | None:
    """Return the newest whole save, or None."""
    return next(reversed(whole_saves(saves)), None)


def take_over(source: Path, saves: Path, refusal: Callable[[Path], str], config: Json) -> str:
    """Begin a folder of saves with one of another run's, to be gone on from as if it were its own.

    What went on already goes on from its own newest sound save, and where none is sound any more from the other run's
    again; each save says where the run began.

    Args:
        source: The other run's save.
        saves: Folder of the saves.
        refusal: Returns why the other run's save is none of this run's recipe; empty where it is.
        config: Of this run's adapter, its recipe in it.

    Returns:
        Why there is no save to go on from; empty where there is one.
    """
    set_damaged_aside(saves)
    if newest(saves) is not None:
        return ""
    if not is_sound(source):
        return f"{source} is gone or damaged"
    if why := refusal(source):
        return why
    side = saves / f".{source.name}.tmp"
    shutil.rmtree(side, ignore_errors=True)
    shutil.copytree(source, side)
    if not is_sound(side):
        return f"{source} could not be copied whole"
    progress = Progress.from_json(read_json(side / "state.json") or {})
    progress.continued_from, progress.begun_anew = progress.step, ""
    write_json(side / "adapter_config.json", config)
    seal(side, progress)
    for path in side.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    side.rename(saves / source.name)
    fsync_path(saves)
    return ""


def sizes(saves: Path) -> dict[str, int]:
    """Return the bytes of each save by its folder's name, oldest first; torn ones count too."""
    folders = sorted(path for path in saves.glob("[0-9]*") if path.is_dir())
    return {folder.name: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in folders}


def newest_healthy_folder(saves: Path, cache: HashCache | None = None) -> Path | None:
    """Return the newest sound save before generation collapsed, or None: what a run that was stopped is judged by."""
    for folder in sorted((path.parent for path in saves.glob("[0-9]*/state.json")), reverse=True):
        if not is_damaged(folder, cache) and (read_json(folder / "state.json") or {}).get("is_healthy", True):
            return folder
    return None


def drop_old(saves: Path, progress: Progress) -> None:
    """Remove the saves that nothing needs any more."""
    whole = whole_saves(saves)
    losses = dict(progress.val_losses)
    # Of the steps that were saved: the best validation of all may stand between two saves.
    measured = [folder for folder, _ in whole if int(folder.name) in losses]
    best = min(measured, key=lambda folder: losses[int(folder.name)], default=None)
    healthy = max((folder for folder, then in whole if then.is_healthy), default=None)
    kept = {best, healthy, *(folder for folder, _ in whole[-_KEPT:])}
    for folder in (path.parent for path in saves.glob("[0-9]*/state.json")):
        if folder not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def _is_whole(path: Path) -> bool:
    """Whether a file of arrays has the size its header declares."""
    return path.stat().st_size == read_header(path).declared_bytes


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
    different = [f"{key} {_shown(theirs[key])} -> {_shown(ours[key])}" for key in ours if theirs[key] != ours[key]]
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


def _shown(value: Any) -> str:
    return "all" if value in (None, -1) else str(value)


def begun_with(wanted: Mapping[str, Any], instrument: str, save: Path | None, source: str | None = None) -> Recipe:
    """Return the recipe that a job goes on with: the one that its newest save was made by, or what is asked.

    What the job leaves open is as it was when it began: a default that changed since is for new jobs.

    Args:
        wanted: Keys of the job.
        instrument: What it learns from.
        save: Its newest sound save; None where it has none.
        source: The other run's save that the job is to go on from, where there is one. Older Vigils took it over with
            the other run's recipe in it, which differs by its length.

    Raises:
        ConfigError: The recipe cannot be trained, or the save was made by another one.
    """
    recipe = validate_recipe(wanted, instrument)
    if save is None:
        return recipe
    begun = _recipe_of(save, instrument)
    is_taken = source is not None and Path(source).name == save.name
    kept = _but_length if is_taken else dict
    own = recipe.model_dump(exclude_unset=True)
    conflicts = begun if isinstance(begun, str) else _conflicts(kept(own), kept(begun.model_dump()))
    if isinstance(begun, str) or conflicts:
        raise ConfigError(
            f"The save at step {int(save.name)} was made by another recipe ({conflicts}), so nothing can go on from it;"
            " restore the job's own recipe, or remove the job's saves to begin the run anew.",
            what="recipe",
            where=str(save),
        )
    if is_taken:
        length = {key: own[key] for key in (*_NOT_LEARNED, "lr_schedule") if key in own}
        return validate_recipe({**begun.model_dump(exclude_unset=True), **length}, instrument)
    return begun


def other_recipe(recipe: Recipe, instrument: str, save: Path) -> str:
    """Return how a save of another run differs from a recipe that is to go on from it; empty where by length alone."""
    theirs = _recipe_of(save, instrument)
    if isinstance(theirs, str):
        return f"{save} was made by another recipe ({theirs})"
    conflicts = _conflicts(_but_length(recipe.model_dump()), _but_length(theirs.model_dump()))
    return f"{save} was made by another recipe ({conflicts})" if conflicts else ""


_NOT_LEARNED = frozenset(
    {"iters", "steps_per_report", "steps_per_eval", "save_every", "val_batches", "clear_cache_threshold"}
)
"""Keys of a recipe that are another in a longer run, or change nothing that is learned."""


def _but_length(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is learned alike by a longer run and a shorter one."""
    kept = {key: value for key, value in recipe.items() if key not in _NOT_LEARNED}
    if "lr_schedule" in kept:
        kept["lr_schedule"] = schedule_but_length(kept["lr_schedule"])
    return kept


def _recipe_of(save: Path, instrument: str) -> Recipe | str:
    """Return the whole recipe that a save was made by, or why this version cannot read it."""
    written = read_object(save / "adapter_config.json")
    if not written:
        return "its adapter_config.json cannot be read"
    try:
        return validate_recipe(written, instrument)
    except ConfigError as error:
        return error.sentence.rstrip(".")


def _conflicts(wanted: Mapping[str, Any], made_by: Mapping[str, Any], place: str = "") -> str:
    """Return the keys that are asked for and that a save was made with otherwise, with both values."""
    conflicts = (
        _conflicts(value, other, f"{place}{key}.")
        if isinstance(value, Mapping) and isinstance(other := made_by.get(key), Mapping)
        else f"{place}{key} {made_by.get(key)} -> {value}"
        for key, value in wanted.items()
        if value != made_by.get(key)
    )
    return ", ".join(filter(None, conflicts))


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
    hashes = {f"data:{name}": hash_file(path) if path.is_file() else "missing" for name, path in files.items()}
    hashes["weights"] = _or_missing(lambda: weights_hash(model, inputs.get("parent_adapter"), cache))
    hashes["template"] = hash_json({"template": chat_template(model), "system": inputs.get("system")})
    if inputs.get("grader"):
        hashes["grader"] = _or_missing(lambda: grader_hash(inputs["grader"], None))
    return hashes


def _or_missing(hashed: Callable[[], str]) -> str:
    try:
        return hashed()
    except (ConfigError, OSError):
        return "missing"
