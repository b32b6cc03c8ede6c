"""Adapter folders of a project: whole (8, P8), finished (9), and used on the weights they were trained on (P2)?

Single tensors of a safetensors file as numpy arrays, read by offset; a file is trusted for its bytes alone.

Model folders of a project: whether they may be opened, whether each is one coherent set (3), and who is who.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from state.files import UnreadableError, open_regular
from state.hashing import HashCache, hash_file
from state.records import Json
from tools.data.rows import is_not_fetched, read_mapping, shown
from tools.models.adapters import Layers, adapter_problems, layers_of, loading_problems, recipe_problems
from tools.models.identity import (
    INDEX,
    NOT_FETCHED,
    WEIGHTS,
    Header,
    HeaderError,
    Problem,
    code_in,
    coherence_problems,
    odd_file,
    read_header,
)
from tools.probes.configs import Loc, TrainingConfig
from tools.probes.folder import Place, Project, Report, model_outside, place_of

Array = np.ndarray[Any, Any]

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "U32": "<u4", "I32": "<i4", "U16": "<u2", "U8": "u1", "I8": "i1"}
_WIDTHS = {**{name: np.dtype(code).itemsize for name, code in _TYPES.items()}, "BF16": 2}


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file whose header was checked against its size."""

    path: Path
    header: Header
    start: int
    """First byte of the data."""

    @property
    def names(self) -> list[str]:
        """Names of its tensors."""
        return list(self.header.tensors)

    @property
    def n_values(self) -> int:
        """Stored values of all tensors."""
        return sum(tensor.n_values for tensor in self.header.tensors.values())

    def read(self, name: str) -> Array | None:
        """Return a tensor; bfloat16 as float32; None for a type that numpy has not.

        Raises:
            OSError: The file cannot be read any more.
        """
        tensor = self.header.tensors[name]
        width = _WIDTHS.get(tensor.dtype)
        if width is None:
            return None
        size = math.prod(tensor.shape) * width
        with self.path.open("rb") as stream:
            stream.seek(self.start + tensor.end - size)
            raw = stream.read(size)
        if len(raw) < size:
            raise OSError(f"{name} ends before its {size} bytes")
        if tensor.dtype == "BF16":
            words = np.frombuffer(raw, "<u2").astype(np.uint32) << np.uint32(16)
            return words.view(np.float32).reshape(tensor.shape)
        return np.frombuffer(raw, _TYPES[tensor.dtype]).reshape(tensor.shape)


def open_tensors(path: Path) -> TensorFile:
    """Read a file's header.

    Raises:
        HeaderError: It is no safetensors file, it lies, or it is shorter than its header says.
        OSError: It cannot be read.
    """
    try:
        open_regular(path).close()
    except UnreadableError as error:
        raise HeaderError(str(error)) from error
    header, size = read_header(path), path.stat().st_size
    if size < header.declared_bytes:
        raise HeaderError(f"it has {size:,} bytes where its header declares {header.declared_bytes:,}")
    with path.open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
    return TensorFile(path, header, start)


SMALL_FILE_BYTES = 64 << 20
"""A larger JSON file in a model or adapter folder is none that a tool wrote."""
_MOST_MODELS = 100

_READ_FIRST = "Nothing has to be done; where another tool is given `trust_remote_code`, read it first."
_OF_LANGUAGE = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
_MODE_OF = {
    **dict.fromkeys(("no_tokenizer", "no_weights", "no_config"), "8"),
    **dict.fromkeys(("type", "code", "format", "vocabulary"), "6"),
}


def can_be_read(project: Project, folder: Path) -> str | None:
    """Return why a model folder is not opened; None where all that loaders read may be read.

    Its files must be regular ones inside the project, and its JSON no larger than a tool writes it.
    """
    files = project.by_folder.get(folder, {})
    if not any(fnmatch(name, WEIGHTS) for name in files):
        return "no weight file of it may be read"
    for name, path in files.items():
        if fnmatch(name, WEIGHTS) and is_not_fetched(path):
            return f"{shown(name)}: {NOT_FETCHED}"
    try:
        for path in folder.iterdir():
            name = path.name
            is_read = fnmatch(name, WEIGHTS) or name.endswith((".json", ".jinja", ".model", ".tiktoken", ".txt"))
            if is_read and name not in files and not path.is_dir():
                return f"{shown(name)} is no regular file of the project"
            if name.endswith((".json", ".jinja")) and name in files and path.stat().st_size > SMALL_FILE_BYTES:
                return f"{shown(name)} has more than {SMALL_FILE_BYTES >> 20} MB"
    except OSError as error:
        return f"the folder cannot be read ({error.strerror})"
    return None


def are_small(project: Project, folder: Path, names: Sequence[str]) -> bool:
    """Say whether files that are read whole are regular ones of the project and small, where they are there at all."""
    files = project.by_folder.get(folder, {})
    try:
        for name in names:
            if name in files:
                if files[name].stat().st_size > SMALL_FILE_BYTES:
                    return False
            elif os.path.lexists(folder / name):
                return False
    except OSError:
        return False
    return True


def check_pickles(project: Project, report: Report) -> None:
    """Note files that run code when they are opened."""
    found = project.pickles
    if not found:
        return
    named = ", ".join(project.name(path) for path in found[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""  # noqa: PLR2004 - as many as were named
    report.add(
        "3",
        "files:pickled",
        f"{named}{more} may hold pickled objects, which run code when they are opened: not opened, not checked.",
        "note",
        "Keep weights as safetensors.",
        check="pickles",
        files=len(found),
        file=project.name(found[0]),
        line=1,
    )


def check_models(project: Project, report: Report) -> list[Path]:
    """Report model folders that are not one coherent set; return those that may be read."""
    readable = []
    for folder in project.model_folders[:_MOST_MODELS]:
        name = project.name(folder) or "."
        why = can_be_read(project, folder)
        if why is not None:
            report.skip(("2", "3"), f"{name}: {why}")
            continue
        readable.append(folder)
        report.look("3")
        for problem in coherence_problems(folder):
            kind = str(problem.detail["kind"])
            if kind in {"no_tokenizer", "type"} and not _is_of_language(project, folder):
                continue
            mode = _MODE_OF.get(kind, "3")
            said = problem.sentence.replace(f"{project.root}/", "").replace(str(project.root), ".")
            fix = "Restore the folder from its source, or save the model into an empty folder."
            if mode == "6":
                said, _, fix = said.rpartition(". ")
                said += "."
            report.look(mode)
            report.add(
                mode,
                f"model:{name}",
                f"{shown(said)[:600]}",
                "warning" if kind in {"no_tokenizer", "code"} else "hard_stop",
                fix,
                check=f"model_{kind}",
                file=f"{name}/{INDEX if kind == 'index' else 'config.json'}".removeprefix("./"),
                line=1,
                detail=problem.detail,
            )
        if code := code_in(folder):
            report.add("3", f"model:{name}", f"{name}: {shown(code)}", "note", _READ_FIRST, check="model_code_files")
    return readable


def _is_of_language(project: Project, folder: Path) -> bool:
    """Say whether a model writes text; one that names no architecture is taken for one that does."""
    named = read_mapping(project.by_folder[folder]["config.json"], SMALL_FILE_BYTES).get("architectures")
    return not isinstance(named, list) or any(str(name).endswith(_OF_LANGUAGE) for name in named)


def weight_hashes(folder: Path, cache: HashCache) -> tuple[str, ...]:
    """Return the hashes of a folder's weight files, in order: who has equal ones has equal weights.

    Raises:
        OSError: A file cannot be read.
    """
    return tuple(sorted(hash_file(path, cache) for path in folder.glob(WEIGHTS)))


def weight_sizes(folder: Path) -> tuple[int, ...]:
    """Return the bytes of a folder's weight files, in order.

    Raises:
        OSError: A file cannot be read.
    """
    return tuple(sorted(path.stat().st_size for path in folder.glob(WEIGHTS)))


_WHOLE = "adapters.safetensors"
_CONFIG = "adapter_config.json"
_RENAMED = "adapter_model.safetensors"
_READ_BY_US = (_CONFIG, "run.json")
_OUR_KEYS = frozenset({"fine_tune_type", "num_layers", "lora_layers", "lora_parameters", "train_type"})
_DEFAULT_LAYERS = 16
"""mlx-lm's; mlx-lm-lora trains all."""
_DEFAULT_BLOCK = {"rank": 8, "dropout": 0.0, "scale": 20.0}
_MOST_ADAPTERS = 200
_MOST_HASHED = 16 << 30
"""Bytes of two models of one size that are compared by content; more would take minutes."""
_MOST_VALUES = 64 << 20
"""Values of one adapter that are looked at for what is no number."""


@dataclass(frozen=True)
class AdapterFolder:
    """A folder with an adapter, whole or not."""

    project: Project
    folder: Path

    @property
    def name(self) -> str:
        """Its path in the project."""
        return self.project.name(self.folder)

    @property
    def subject(self) -> str:
        """What findings about it are about."""
        return f"adapter:{self.name}"

    @cached_property
    def config(self) -> Json:
        """What its adapter_config.json says; empty where there is none that can be read."""
        path = self.project.by_folder.get(self.folder, {}).get(_CONFIG)
        return read_mapping(path, SMALL_FILE_BYTES) if path is not None else {}

    @property
    def is_of_peft(self) -> bool:
        """Whether another library wrote it, under the same name of its configuration."""
        files = self.project.by_folder.get(self.folder, {})
        is_ours = bool(_OUR_KEYS & self.config.keys())
        return _WHOLE not in files and (
            "peft_type" in self.config or (not is_ours and any(name.startswith("adapter_model.") for name in files))
        )

    @property
    def weights(self) -> Path | None:
        """Its adapters.safetensors."""
        return self.project.by_folder.get(self.folder, {}).get(_WHOLE)

    @cached_property
    def saves(self) -> dict[int, Path]:
        """Its numbered saves by iteration."""
        return self.project.saves(self.folder)

    @cached_property
    def base(self) -> Path | None:
        """Folder of the model inside the project that it says it was trained on."""
        written = self.config.get("model")
        place = place_of(self.project, self.folder, written) if isinstance(written, str) and written else None
        return place.path if place is not None else None

    def number(self, key: str) -> int:
        """Return a whole number of its configuration; 0 where there is none."""
        value = self.config.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0

    def where(self) -> Json:
        """Return its configuration as evidence."""
        has_config = _CONFIG in self.project.by_folder.get(self.folder, {})
        name = _CONFIG if has_config else _WHOLE
        return {"file": self.project.name(self.folder / name), "line": 1}


def adapter_folders(project: Project, report: Report) -> list[AdapterFolder]:
    """Return the adapter folders of a project; those of another library are named as not checked."""
    found = []
    for folder in project.adapter_folders[:_MOST_ADAPTERS]:
        one = AdapterFolder(project, folder)
        if one.is_of_peft:
            report.skip(("8", "9", "P2"), f"{one.name} is an adapter of PEFT, which mlx-lm does not read")
        elif one.weights is not None and is_not_fetched(one.weights):
            report.skip(("8", "9", "P2"), f"{one.name}: {NOT_FETCHED}")
        else:
            found.append(one)
    return found


def check_adapters(adapters: Sequence[AdapterFolder], report: Report) -> None:
    """Report adapters that are torn, not finite, or not finished."""
    for one in adapters:
        report.look("8")
        is_whole = _check_parts(one, report)
        _check_tensors(one, report)
        if is_whole:
            _check_built(one, report)
        if is_whole:
            _check_finished(one, report)


def _check_built(one: AdapterFolder, report: Report) -> None:
    """Report tensors that are not those which mlx-lm builds of the adapter's own configuration."""
    if one.weights is None:
        return
    base = one.base
    layers = layers_of(base) if base is not None and can_be_read(one.project, base) is None else Layers()
    try:
        header = open_tensors(one.weights).header
    except (HeaderError, OSError):
        # Said where the tensors are looked at.
        return
    for problem in loading_problems(one.name, one.config, header, layers):
        said, _, fix = problem.sentence.rpartition(". ")
        report.add(
            "8",
            one.subject,
            f"{said}.",
            "hard_stop",
            fix,
            check=f"adapter_{problem.detail['kind']}",
            detail=problem.detail,
            **one.where(),
        )


def check_used(configs: Sequence[TrainingConfig], report: Report) -> None:
    """Hold configurations against the model and the adapter that they name, by names and shapes alone (6, 8)."""
    for config in configs:
        place = config.place("model")
        layers = Layers()
        if place is not None and place.path is not None:
            layers = _model_layers(config, place.path, report)
        elif place is not None and place.kind == "outside":
            layers = _layers_outside(config, place.written, report)
        if not config.trains:
            continue
        default = -1 if config.is_lora_tools else _DEFAULT_LAYERS
        recipe = {**config.values, "fine_tune_type": config.kind}
        for problem in recipe_problems(recipe, layers, default_layers=default):
            key = str(problem.detail["key"])
            is_warning = bool(problem.detail.get("is_warning"))
            _of_config(config, "6", problem, key, report, is_warning=is_warning)
        resumed = config.place("resume_adapter_file")
        if resumed is not None and resumed.path is not None:
            built = {**recipe, "num_layers": recipe.get("num_layers", default)}
            built["lora_parameters"] = config.values.get("lora_parameters") or _DEFAULT_BLOCK
            _check_resumed(config, resumed, built, layers, report)


def _of_config(
    config: TrainingConfig, mode: str, problem: Problem, key: str, report: Report, *, is_warning: bool = False
) -> None:
    said, _, fix = problem.sentence.rpartition(". ")
    report.look(mode)
    report.add(
        mode,
        config.subject,
        f"{config.name}: {shown(said)[:600]}.",
        "warning" if is_warning else "hard_stop",
        fix,
        check=f"used_{problem.detail['kind']}",
        detail=problem.detail,
        **config.where(*key.split(".")),
    )


def _model_layers(config: TrainingConfig, path: Path, report: Report) -> Layers:
    """Return the layers of the model that a configuration names, which has to be a folder with weights."""
    project = config.project
    if path.is_dir() and can_be_read(project, path) is None:
        return layers_of(path)
    names = project.by_folder.get(path, {})
    others = sorted(name for name in names if name.endswith((".gguf", ".bin", ".npz", ".safetensors", ".pt")))
    is_empty = path.is_dir() and "config.json" in names and not any(fnmatch(name, WEIGHTS) for name in names)
    if not path.is_dir() or (is_empty and not any(folder for folder in path.glob(WEIGHTS))):
        what = f"holds {', '.join(others[:3])}" if others else "holds no weights"
        said = f"the model {shown(config.text('model'))[:200]} {what}" if path.is_dir() else "`model` names a file"
        fix = (
            "Take the repository with safetensors, or one that was converted for MLX; mlx_lm.convert reads safetensors"
        )
        problem = Problem(
            f"{said}, and mlx-lm loads a folder with model*.safetensors only. {fix}.", {"kind": "weights"}
        )
        _of_config(config, "8", problem, "model", report)
    return Layers()


def _layers_outside(config: TrainingConfig, written: str, report: Report) -> Layers:
    """Return the layers of a model that lies outside the project, of whose files the headers are read."""
    model = model_outside(config.project, config.path.parent, written)
    if model is None:
        return Layers()
    report.look("3")
    if odd := odd_file(model):
        report.skip(("3", "6"), f"{config.name}: the model {shown(written)[:200]}: {shown(odd)}")
        return Layers()
    for problem in coherence_problems(model):
        kind = str(problem.detail["kind"])
        mode, is_warning = _MODE_OF.get(kind, "3"), kind in {"no_tokenizer", "code"}
        _of_config(config, mode, problem, "model", report, is_warning=is_warning)
    if code := code_in(model):
        said = f"{config.name}: the model {shown(written)[:200]}: {shown(code)}"
        report.add("3", config.subject, said, "note", _READ_FIRST, check="model_code_files", **config.where("model"))
    return layers_of(model)


def _check_resumed(config: TrainingConfig, place: Place, built: Json, layers: Layers, report: Report) -> None:
    """Report an adapter file that a training cannot, or only seemingly, go on from."""
    path, key = place.path, "resume_adapter_file"
    if path is None:
        return
    if path.is_dir():
        written = place.written.rstrip("/")
        said = f"`{key}` names the folder {shown(written)[:200]}, and mlx-lm opens a file"
        _of_config(
            config, "8", Problem(f"{said}. Write `{key}: {shown(written)}/{_WHOLE}`.", {"kind": "folder"}), key, report
        )
        return
    try:
        header = open_tensors(path).header
    except (HeaderError, OSError):
        return
    for problem in loading_problems(shown(place.written)[:200], built, header, layers, is_resumed=True):
        is_warning = problem.detail.get("what") in {"keys", "num_layers"}
        _of_config(config, "6", problem, key, report, is_warning=is_warning)


def _check_parts(one: AdapterFolder, report: Report) -> bool:
    files = one.project.by_folder.get(one.folder, {})
    if one.weights is None and _RENAMED in files and _OUR_KEYS & one.config.keys():
        report.add(
            "8",
            one.subject,
            f"{one.name} has mlx-lm's configuration and {_RENAMED}; mlx-lm opens {_WHOLE} only.",
            "hard_stop",
            f"Rename it to {_WHOLE}.",
            check="adapter_renamed",
            **one.where(),
        )
        return False
    if one.weights is None and one.config and not one.saves:
        _lacking(one, _WHOLE, "8", "was never written", report)
        return False
    if one.weights is None:
        last = max(one.saves, default=0)
        _lacking(one, _WHOLE, "9", f"is not there, though a save of step {last} is: its training did not end", report)
        return False
    if not one.config:
        report.add(
            "8",
            one.subject,
            f"{one.name} has no {_CONFIG} that can be read: mlx-lm cannot load the adapter, and nothing says what "
            "it was trained on.",
            "hard_stop",
            f"Copy {_CONFIG} from where it was trained.",
            check="adapter_config",
            **one.where(),
        )
        report.skip(("9", "P2"), f"{one.name} has no {_CONFIG}")
        return False
    return True


def _lacking(one: AdapterFolder, file: str, mode: str, why: str, report: Report) -> None:
    report.look(mode)
    report.add(
        mode,
        one.subject,
        f"{file} of {one.name} {why}.",
        "hard_stop",
        "Train to the end, or restore the file.",
        check="adapter_parts",
        saves=list(one.saves),
        **one.where(),
    )


def _check_tensors(one: AdapterFolder, report: Report) -> None:
    """Read headers and values: torn files, and numbers that are none (a prompt longer than max_seq_length, masked)."""
    files = [*one.saves.values(), *([one.weights] if one.weights is not None else [])]
    for path in files:
        name = one.project.name(path)
        try:
            tensors = open_tensors(path)
        except (HeaderError, OSError) as error:
            report.add(
                "8",
                one.subject,
                f"{name} cannot be read as safetensors: {error}.",
                "hard_stop" if path == one.weights else "warning",
                "Restore it, or train again.",
                check="adapter_unreadable",
                file=name,
                line=1,
            )
            continue
        if path == one.weights:
            _check_finite(one, tensors, report)


def _check_finite(one: AdapterFolder, tensors: TensorFile, report: Report) -> None:
    if tensors.n_values > _MOST_VALUES:
        report.skip(("P8",), f"{one.name} has {tensors.n_values:,} values; they were not looked at")
        return
    bad = not_finite(tensors)
    if not bad:
        _check_changes(one, tensors, report)
        return
    report.look("P8")
    report.add(
        "P8",
        one.subject,
        f"{len(bad)} of {len(tensors.names)} tensors of {one.name} hold NaN or infinity: training went wrong without "
        "an error, as it does when a masked prompt is longer than max_seq_length.",
        "hard_stop",
        "Count the rows' tokens (--model), raise max_seq_length or remove long rows, and train again.",
        check="not_finite",
        tensors=len(tensors.names),
        not_finite=len(bad),
        first=shown(bad[0])[:100],
        **one.where(),
    )


def _check_changes(one: AdapterFolder, tensors: TensorFile, report: Report) -> None:
    """Report an adapter whose second halves are all zero, as they are before the first update."""
    if not is_untrained(tensors):
        return
    report.look("9")
    report.add(
        "9",
        one.subject,
        f"{one.name} changes nothing: all its lora_b are 0, as before the first update.",
        "warning",
        "Train it, with a learning rate above 0 and at least one update (iters / grad_accumulation_steps).",
        check="untrained",
        **one.where(),
    )


def not_finite(tensors: TensorFile) -> list[str]:
    """Return the tensors that hold NaN or infinity.

    Raises:
        OSError: The file cannot be read any more.
    """
    return [name for name in tensors.names if not _is_finite(tensors.read(name))]


def is_untrained(tensors: TensorFile) -> bool:
    """Say whether all second halves of low-rank pairs are zero, as they are before the first update.

    Raises:
        OSError: The file cannot be read any more.
    """
    halves = [tensors.read(name) for name in tensors.names if name.endswith(".lora_b")]
    return bool(halves) and all(found is not None and not found.any() for found in halves)


def _is_finite(values: np.ndarray[Any, Any] | None) -> bool:
    return values is None or not np.issubdtype(values.dtype, np.floating) or bool(np.isfinite(values).all())


def _check_finished(one: AdapterFolder, report: Report) -> None:
    """Hold the adapter against its saves: an adapter that equals a save before the last step was never finished (9)."""
    iters = one.number("iters")
    if not iters or one.weights is None:
        return
    report.look("9")
    if not one.saves:
        return
    last = max(one.saves)
    if last > iters:
        report.add(
            "9",
            one.subject,
            f"{one.name} holds a save of step {last}, and its configuration trains {iters}: saves of another run lie "
            "there.",
            "note",
            "Train into a folder of its own.",
            check="saves_of_another_run",
            last_save=last,
            iters=iters,
            **one.where(),
        )
    elif last < iters and _same(one.weights, one.saves[last]):
        report.add(
            "9",
            one.subject,
            f"{one.name} is the save of step {last} of {iters}, byte for byte: its training ended there, "
            f"{iters - last} steps early, whatever the call that started it returned.",
            "hard_stop",
            f"Train on from this save, or write `iters: {last}` into {_CONFIG} if that is what is meant.",
            check="unfinished",
            last_save=last,
            iters=iters,
            save_every=one.number("save_every"),
            **one.where(),
        )


def _same(one: Path, other: Path) -> bool:
    try:
        return one.stat().st_size == other.stat().st_size and hash_file(one) == hash_file(other)
    except OSError:
        return False


@dataclass(frozen=True)
class Used:
    """What is known of an adapter's weights: trained on, and evaluated or continued on.

    Args:
        adapter: The folder.
        trained_on: Where it was trained, and who says so.
        used_on: Where it is evaluated, or trained on further.
        how: `evaluated` or `continued`.
        where: `file` and `line` of the place that says so.
    """

    adapter: AdapterFolder
    trained_on: Place | None
    used_on: Place
    how: str
    where: Json


def uses_of(
    project: Project,
    adapters: Sequence[AdapterFolder],
    stated: Sequence[tuple[Path, Any, Loc, Mapping[Loc, int]]],
    configs: Sequence[TrainingConfig],
    report: Report,
) -> Iterator[Used]:
    """Yield the uses that the project's files speak of.

    Args:
        project: What lies here.
        adapters: Its adapter folders.
        stated: (file, adapter of a vigil-audit.yaml, key path, lines).
        configs: Its training configurations: one may go on from an adapter.
        report: Where paths that lead nowhere go.
    """
    by_folder = {one.folder: one for one in adapters}
    for file, said, loc, lines in stated:
        name = project.name(file)
        where: Json = {"file": name, "line": lines.get((*loc, "path"), 1)}
        place = place_of(project, file.parent, said.path)
        one = by_folder.get(place.path) if place.path is not None else None
        if place.kind == "outside":
            report.skip(("2", "9", "P2"), f"{name}: adapter {shown(said.path)} lies outside the project, not opened")
        elif one is None and place.path is not None and place.path.is_file():
            _adapter_file(name, said.path, where, report)
        elif one is None:
            not_there(name, "adapter folder", said.path, where, report)
        if said.evaluated_on is None:
            continue
        adapter = one or AdapterFolder(project, place.path or project.root / shown(said.path).strip("./"))
        trained = _trained_on(project, adapter, said.trained_on, file.parent)
        line = lines.get((*loc, "evaluated_on"), where["line"])
        used = place_of(project, file.parent, said.evaluated_on)
        yield Used(adapter, trained, used, "evaluated", {"file": name, "line": line})
    for config in configs:
        resumed, model = config.place("resume_adapter_file"), config.place("model")
        if resumed is None or resumed.path is None or model is None:
            continue
        known = by_folder.get(resumed.path.parent)
        if known is not None:
            trained = _trained_on(project, known, None, config.path.parent)
            yield Used(known, trained, model, "continued", config.where("resume_adapter_file"))


def _trained_on(project: Project, adapter: AdapterFolder, said: str | None, folder: Path) -> Place | None:
    """Return what an adapter was trained on: as stated, else as its own configuration has it."""
    if said is not None:
        return place_of(project, folder, said)
    written = adapter.config.get("model")
    return place_of(project, adapter.folder, written) if isinstance(written, str) and written else None


def not_there(name: str, what: str, written: str, where: Json, report: Report) -> None:
    """Report a path of a vigil-audit.yaml that leads nowhere."""
    report.look("8")
    report.add(
        "8",
        f"settings:{name}",
        f"{name} names the {what} {shown(written)[:200]}, which is not there.",
        "hard_stop",
        "Correct the path; it is relative to the file.",
        check="settings_path",
        **where,
    )


def _adapter_file(name: str, written: str, where: Json, report: Report) -> None:
    """Report an adapter that is named by a file, such as the npz of an old mlx-lm."""
    is_old = written.endswith(".npz")
    how = "an adapter in the old form of mlx-lm (npz), which is no longer read" if is_old else "a file, not a folder"
    report.look("8")
    report.add(
        "8",
        f"settings:{name}",
        f"{name} names {shown(written)[:200]}, {how}.",
        "hard_stop",
        f"Convert it: mx.save_safetensors('{_WHOLE}', dict(mx.load('{shown(written)[:80]}'))), beside {_CONFIG}."
        if is_old
        else f"Name the folder that holds {_WHOLE} and {_CONFIG}.",
        check="settings_file",
        **where,
    )


def check_lineage(uses: Sequence[Used], report: Report, cache: HashCache) -> None:
    """Report adapters that are judged, or trained further, on other weights than they were trained on (P2)."""
    for use in uses:
        if use.trained_on is None:
            report.skip(("P2",), f"nothing says what {use.adapter.name} was trained on")
            continue
        for place in (use.trained_on, use.used_on):
            if place.kind == "missing":
                not_there(str(use.where["file"]), "model", place.written, use.where, report)
        _compare(use, use.trained_on, use.used_on, report, cache)


def check_bases(adapters: Sequence[AdapterFolder], report: Report, cache: HashCache) -> None:
    """Report adapters that do not fit the model which they themselves name (P2), where nothing else is said of them."""
    for one in adapters:
        project, base = one.project, one.base
        if one.weights is None or base is None or not are_small(project, one.folder, _READ_BY_US):
            continue
        if can_be_read(project, base) is not None:
            continue
        for problem in adapter_problems(one.folder, base, cache):
            if problem.detail["kind"] in {"parent", "shape"}:
                said = problem.sentence.replace(f"{project.root}/", "")
                report.look("P2")
                report.add(
                    "P2",
                    one.subject,
                    f"{one.name} names {project.name(base)} as its model and does not belong to it: {said}",
                    "hard_stop",
                    "Name the model that it was trained on, or put that model back.",
                    check="base",
                    trained_on=one.config.get("model"),
                    detail=problem.detail,
                    **one.where(),
                )
                break


def _compare(use: Used, trained: Place, used: Place, report: Report, cache: HashCache) -> None:
    name = use.adapter.name
    if trained.path is not None and used.path is not None:
        _compare_folders(use, trained.path, used.path, report, cache)
        return
    if "missing" in {trained.kind, used.kind}:
        return
    if _spelled(trained) == _spelled(used):
        report.look("P2")
    elif trained.kind == used.kind == "hub" or "inside" not in {trained.kind, used.kind}:
        report.look("P2")
        _other_weights(use, f"{shown(trained.written)} by name", f"{shown(used.written)} by name", {}, report)
    else:
        report.skip(
            ("P2",),
            f"{name} was trained on {shown(trained.written)[:80]} and is {use.how} on {shown(used.written)[:80]}; only "
            "one of them lies in the project",
        )


def _spelled(place: Place) -> str:
    return place.written.strip().rstrip("/").casefold()


def _compare_folders(use: Used, trained: Path, used: Path, report: Report, cache: HashCache) -> None:
    project, name = use.adapter.project, use.adapter.name
    is_readable = can_be_read(project, used) is None and are_small(project, use.adapter.folder, _READ_BY_US)
    if use.adapter.weights is not None and is_readable:
        problems = adapter_problems(use.adapter.folder, used, cache)
        told = [problem for problem in problems if problem.detail["kind"] in {"parent", "shape"}]
        if told:
            report.look("P2")
            said = told[0].sentence.replace(str(project.root) + "/", "")
            _finding(use, f"{name} is {use.how} on weights that it does not belong to: {said}", told[0].detail, report)
            return
    if trained == used:
        report.look("P2")
        return
    for folder in (trained, used):
        why = can_be_read(project, folder)
        if why is not None:
            report.skip(("P2",), f"{project.name(folder)}: {why}")
            return
    try:
        sizes = weight_sizes(trained), weight_sizes(used)
        if sizes[0] == sizes[1] and sum(sizes[0]) > _MOST_HASHED:
            report.skip(("P2",), f"{name}: {project.name(trained)} and {project.name(used)} are too large to be hashed")
            return
        hashes = (weight_hashes(trained, cache), weight_hashes(used, cache)) if sizes[0] == sizes[1] else sizes
    except OSError as error:
        report.skip(("P2",), f"{name}: the models cannot be read ({error.strerror})")
        return
    report.look("P2")
    if hashes[0] != hashes[1]:
        detail = {"trained_on_bytes": sum(sizes[0]), "used_on_bytes": sum(sizes[1])}
        _other_weights(use, project.name(trained), project.name(used), detail, report)


def _other_weights(use: Used, trained: str, used: str, detail: Json, report: Report) -> None:
    said = f"{use.adapter.name} was trained on {trained} and is {use.how} on {used}: other weights"
    _finding(use, f"{said}; the score belongs to neither model.", detail, report)


def _finding(use: Used, claim: str, detail: Json, report: Report) -> None:
    report.add(
        "P2",
        use.adapter.subject,
        claim,
        "hard_stop",
        "Evaluate the adapter on the model that it was trained on, or train it on the one it is evaluated on.",
        check="lineage",
        trained_on=use.trained_on.written if use.trained_on else None,
        used_on=use.used_on.written,
        detail=detail,
        **use.where,
    )
