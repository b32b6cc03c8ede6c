"""Fused models: did the adapter arrive in the weights (2)?

What arrived is the difference of the fused and the base matrix, what was to arrive the product of the low-rank pair;
both are computed from the files alone. Re-quantizing rounds a small delta away, whatever the tool's exit code says.
Where weights may be loaded (`--model`), the answers decide: a worker compares the next-token probabilities of fused,
base, and base with adapter (tools/evaluation/fusion.py); that covers adapters and packings too that no matrix tells of.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from state.records import Json
from tools.data.rows import shown
from tools.machine.sandbox import ask
from tools.models.identity import WEIGHTS, HeaderError
from tools.probes.configs import Loc
from tools.probes.folder import Project, Report, place_of
from tools.probes.model import (
    AdapterFolder,
    Array,
    TensorFile,
    are_small,
    can_be_read,
    not_there,
    open_tensors,
    weight_sizes,
)

_KEPT = 0.9
"""Cosine above which a delta counts as arrived; 8 % of its gain was lost at 0.92."""
_DROWNED = 0.7
"""Cosine below which what rounding added is larger than what is left of the delta."""
_KEPT_UNQUANTIZED = 0.5
"""Floating-point weights round small deltas too, but around the right place: only a loss of most of it counts."""
_SPEAKS = 1e-3
"""Divergence of base and adapter from the base, nats, under which rounding would tell as much as the adapter."""
_MOST_LOST = 0.5
"""Divergence of the fused model from base and adapter, over that of the base alone: from here on it is the base."""
_MOST_MEMORY = 0.5
"""Share of the free memory that the largest of the models may take."""
_MODULE = "tools.evaluation.fusion"
_MOST_MODULES = 6
_MOST_ROWS = 512
"""Rows of a matrix that are compared."""
_MOST_VALUES = 256 << 20
_FIX = "Fuse again with --dequantize into an empty folder, and judge it beside base and adapter."
_LOOKS_FUSED = re.compile(r"fus|merg", re.IGNORECASE)
_UNPACKED_BITS = (2, 4, 8)
"""Other widths do not divide a word; their packing is not read here."""


@dataclass(frozen=True)
class Fusion:
    """A model that was made from a base and an adapter.

    Args:
        fused: Folder of the fused model.
        base: Folder of the base.
        adapter: The adapter.
        where: `file` and `line` of the place that says so.
    """

    fused: Path
    base: Path
    adapter: AdapterFolder
    where: Json


class Model:
    """A model folder's tensors by name.

    Raises:
        HeaderError: A weight file is none.
        OSError: A weight file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, TensorFile] = {}
        for path in sorted(folder.glob(WEIGHTS)):
            tensors = open_tensors(path)
            self._files |= dict.fromkeys(tensors.names, tensors)

    def _read(self, name: str) -> Array | None:
        file = self._files.get(name)
        if file is None or file.header.tensors[name].n_values > _MOST_VALUES:
            return None
        return file.read(name)

    def is_quantized(self, module: str) -> bool:
        """Say whether a module's matrix is packed."""
        return f"{module}.scales" in self._files

    def matrix(self, module: str, n_inputs: int) -> Array | None:
        """Return the first rows of a module's matrix in float64; None where it is not there or not unpacked here.

        Args:
            module: Its name.
            n_inputs: Columns that it has when unpacked.
        """
        weight = self._read(f"{module}.weight")
        if weight is None or weight.ndim != 2:  # noqa: PLR2004 - a matrix
            return None
        weight = weight[:_MOST_ROWS]
        if not self.is_quantized(module):
            return weight.astype(np.float64) if weight.shape[1] == n_inputs else None
        scales, biases = self._read(f"{module}.scales"), self._read(f"{module}.biases")
        if scales is None or biases is None or scales.shape != biases.shape or scales.ndim != 2:  # noqa: PLR2004 - one per group
            return None
        return _unpacked(weight, scales[:_MOST_ROWS], biases[:_MOST_ROWS], n_inputs)


def _unpacked(packed: Array, scales: Array, biases: Array, n_inputs: int) -> Array | None:
    """Return the numbers of a matrix in affine quantization: scale times the packed value, plus bias, by groups."""
    bits, rest = divmod(packed.shape[1] * 32, n_inputs)
    if rest or bits not in _UNPACKED_BITS or packed.dtype != np.uint32 or n_inputs % max(1, scales.shape[1]):
        return None
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    values = (packed[:, :, None] >> shifts) & np.uint32((1 << bits) - 1)
    group = n_inputs // scales.shape[1]
    values = values.reshape(len(packed), scales.shape[1], group).astype(np.float64)
    unpacked = values * scales[:, :, None].astype(np.float64) + biases[:, :, None].astype(np.float64)
    return np.asarray(unpacked.reshape(len(packed), n_inputs))


def fusions_of(
    project: Project,
    adapters: Sequence[AdapterFolder],
    models: Sequence[Path],
    stated: Sequence[tuple[Path, Any, Loc, Mapping[Loc, int]]],
    *,
    bases: Mapping[Path, Path | None],
    report: Report,
) -> Iterator[Fusion]:
    """Yield the fused models that a project's files speak of, and those that folder names tell.

    Args:
        project: What lies here.
        adapters: Its adapter folders.
        models: Its model folders that may be read.
        stated: (file, fused model of a vigil-audit.yaml, key path, lines).
        bases: Adapter folder -> what it is said to be trained on; its own configuration's where nothing is said.
        report: Where paths that lead nowhere go.
    """
    known: set[Path] = set()
    by_folder = {one.folder: one for one in adapters}
    for file, said, loc, lines in stated:
        places = {key: place_of(project, file.parent, getattr(said, key)) for key in ("path", "base", "adapter")}
        name = project.name(file)
        for key, place in places.items():
            if place.kind == "missing":
                where = {"file": name, "line": lines.get((*loc, key), 1)}
                not_there(name, "fused model" if key == "path" else key, place.written, where, report)
            elif place.path is None:
                report.skip(("2",), f"{name}: {shown(place.written)[:120]} is not in the project and is not opened")
        fused, base, adapter = (places[key].path for key in ("path", "base", "adapter"))
        if fused is None or base is None or adapter is None:
            continue
        known.add(fused)
        where = {"file": name, "line": lines.get((*loc, "path"), 1)}
        yield Fusion(fused, base, by_folder.get(adapter) or AdapterFolder(project, adapter), where)
    pairs = []
    for one in adapters:
        base = bases.get(one.folder, one.base)
        if base is None and one.folder not in bases:
            base = _of_same_name(one, models)
        if base is not None and base in models:
            pairs.append((one, base))
    yield from _guessed(project, pairs, [folder for folder in models if folder not in known], report)


def _of_same_name(adapter: AdapterFolder, models: Sequence[Path]) -> Path | None:
    """Return the one model that is called as an adapter's base: a path of another machine, or a hub's copy."""
    written = adapter.config.get("model")
    name = re.split(r"[/\\]", written.rstrip("/"))[-1].casefold() if isinstance(written, str) else ""
    found = [folder for folder in models if folder.name.casefold() == name]
    return found[0] if len(found) == 1 else None


def _guessed(
    project: Project, pairs: Sequence[tuple[AdapterFolder, Path]], models: Sequence[Path], report: Report
) -> Iterator[Fusion]:
    """Yield a model that is called fused beside the one adapter whose base lies here."""
    for fused in models:
        if not (_LOOKS_FUSED.search(fused.name) or any(fused == one.folder for one, _ in pairs)):
            continue
        where: Json = {"file": project.name(fused / "config.json"), "line": 1}
        own = [pair for pair in pairs if pair[0].folder == fused]
        found = own or [pair for pair in pairs if pair[1] != fused]
        if len(found) == 1:
            yield Fusion(fused, found[0][1], found[0][0], where)
        else:
            how_many = "no adapter beside its base" if not found else f"{len(found)} adapters"
            report.skip(
                ("2",),
                f"{project.name(fused)} looks fused, and there is {how_many} here; say in `fused` of vigil-audit.yaml "
                "what it was made from",
            )


@dataclass(frozen=True)
class _Arrival:
    module: str
    cosine: float
    share: float
    """What arrived along the delta, over the delta."""
    is_quantized: bool


def check_fusions(project: Project, fusions: Sequence[Fusion], taught: Sequence[Json] | None, report: Report) -> None:
    """Report fused models in which the adapter did not arrive.

    Args:
        project: What lies here.
        fusions: What was made from what.
        taught: Data files whose rows the models are asked to go on with; None loads no weights.
        report: Where findings go.
    """
    for one in fusions:
        name = project.name(one.fused)
        why = can_be_read(project, one.fused) or can_be_read(project, one.base)
        if why is not None:
            report.skip(("2",), f"{name}: {why}")
            continue
        found, why = _by_matrix(one)
        said = _by_answers(project, one, taught) if taught is not None else {}
        if said.get("kl_base", 0.0) >= _SPEAKS:
            _judge_answers(project, one, said, found, report)
            continue
        if found:
            report.look("2")
            _judge(project, one, found, report)
        if "kl_base" in said:
            if not found:
                report.skip(("2",), f"{name}: {_faint(said)}")
        elif said:
            why = " ".join(str(said["why"]).replace(f"{project.root}/", "").split())
            report.skip(("2",), f"{name}: its answers were not compared: {shown(why)[:200].rstrip('.')}")
        elif not found:
            report.skip(("2",), f"{name}: {why}; with --model its answers are compared")


def _faint(said: Json) -> str:
    return f"its adapter moves answers by {said['kl_base']:.1g} nats, too little to tell what became of it"


def _by_matrix(one: Fusion) -> tuple[list[_Arrival], str]:
    """Return what arrived in some matrices, and why nothing was compared where nothing was."""
    why = _is_not_low_rank(one.adapter)
    if why is not None:
        return [], why
    try:
        return _arrived(one), "no matrix that its adapter adapts can be compared with its base"
    except (HeaderError, OSError) as error:
        return [], str(error)


def _by_answers(project: Project, one: Fusion, taught: Sequence[Json]) -> Json:
    """Return what the worker measured, or `why` it did not."""
    adapter = one.adapter
    if adapter.weights is None or not adapter.config:
        return {"why": f"{adapter.name} is not whole"}
    if not are_small(project, adapter.folder, ("adapter_config.json",)):
        return {"why": f"{adapter.name} is not opened"}
    size = max(sum(weight_sizes(folder)) for folder in (one.base, one.fused))
    free = psutil.virtual_memory().available
    if size > _MOST_MEMORY * free:
        return {"why": f"weights of {size / 1e9:.1f} GB beside {free / 1e9:.1f} GB of free memory"}
    places = {"base": str(one.base), "adapter": str(adapter.folder), "fused": str(one.fused)}
    return ask(_MODULE, {**places, "taught": list(taught)}, "loading three models", most_bytes=None)


def _judge_answers(project: Project, one: Fusion, said: Json, found: Sequence[_Arrival], report: Report) -> None:
    """Report a fused model that answers as its base rather than as base and adapter."""
    report.look("2")
    lost = said["kl_fused"] / said["kl_base"]
    if lost < _MOST_LOST:
        return
    fused, base = project.name(one.fused), project.name(one.base)
    n = said["positions"]
    matrices = f" In {len(found)} matrices compared, cosine {_mean(found):.2f}." if found else ""
    report.add(
        "2",
        f"model:{fused}",
        f"{fused}, fused from {base}, does not answer as {base} with the adapter {one.adapter.name}: the likeliest "
        f"next token agrees at {said['same_fused']} of {n} positions ({said['same_base']} without the adapter), and "
        f"the divergence is {said['kl_fused']:.2g} nats; that of the bare base is {said['kl_base']:.2g}.{matrices}",
        "hard_stop",
        _FIX,
        check="fuse_answers",
        lost=round(lost, 4),
        base=base,
        adapter=one.adapter.name,
        **said,
        **one.where,
    )


def _is_not_low_rank(adapter: AdapterFolder) -> str | None:
    kind = adapter.config.get("fine_tune_type", adapter.config.get("train_type", "lora"))
    if adapter.weights is None:
        return f"{adapter.name} has no weights"
    return None if kind == "lora" else f"an adapter of kind {shown(str(kind))[:20]} is not compared"


def _arrived(one: Fusion) -> list[_Arrival]:
    """Compare some matrices, spread over the layers.

    Raises:
        HeaderError: A file is no safetensors file.
        OSError: A file cannot be read.
    """
    if one.adapter.weights is None:
        return []
    pairs = open_tensors(one.adapter.weights)
    base, fused = Model(one.base), Model(one.fused)
    lora = one.adapter.config.get("lora_parameters")
    scale = lora.get("scale") if isinstance(lora, dict) else None
    modules = [name.removesuffix(".lora_a") for name in pairs.names if name.endswith(".lora_a")]
    modules = [module for module in modules if f"{module}.lora_b" in pairs.names]
    found: list[_Arrival] = []
    # Other matrices stand in for those that cannot be compared, such as experts.
    for module in _spread(modules):
        if len(found) >= _MOST_MODULES:
            break
        wanted = _delta(pairs.read(f"{module}.lora_a"), pairs.read(f"{module}.lora_b"), scale)
        if wanted is None or not np.isfinite(wanted).all() or not wanted.any():
            continue
        before, after = base.matrix(module, wanted.shape[1]), fused.matrix(module, wanted.shape[1])
        if before is None or after is None or before.shape != after.shape or before.shape != wanted.shape:
            continue
        found.append(_Arrival(module, *_compared(after - before, wanted), fused.is_quantized(module)))
    return found


def _spread(modules: list[str]) -> list[str]:
    """Return the modules so that the first few come from all over the model."""
    step = max(1, len(modules) // _MOST_MODULES)
    return [module for offset in range(step) for module in modules[offset::step]]


def _delta(a: Array | None, b: Array | None, scale: Any) -> Array | None:
    if a is None or b is None or a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:  # noqa: PLR2004 - matrices
        return None
    factor = float(scale) if isinstance(scale, int | float) else 1.0
    rows = b[:, :_MOST_ROWS].astype(np.float64)
    return np.asarray((a.astype(np.float64) @ rows).T * factor)


def _compared(arrived: Array, wanted: Array) -> tuple[float, float]:
    """Return (cosine of both, share of the wanted that is in the arrived)."""
    product, size = float((arrived * wanted).sum()), float((wanted * wanted).sum())
    norm = float(np.sqrt((arrived * arrived).sum() * size))
    return (product / norm if norm else 0.0), product / size


def _mean(found: Sequence[_Arrival]) -> float:
    return float(np.mean([row.cosine for row in found]))


def _judge(project: Project, one: Fusion, found: list[_Arrival], report: Report) -> None:
    cosine = _mean(found)
    share = float(np.mean([row.share for row in found]))
    is_quantized = any(row.is_quantized for row in found)
    if cosine >= (_KEPT if is_quantized else _KEPT_UNQUANTIZED):
        return
    fused, base = project.name(one.fused), project.name(one.base)
    kind = "quantized" if is_quantized else "not quantized"
    same = all(row.cosine == 0 and row.share == 0 for row in found)
    said = "not one of them differs from the base" if same else f"cosine {cosine:.2f}, {share:.0%} of its size along it"
    is_lost = not is_quantized or cosine < _DROWNED
    meaning = (
        "It answers as its base does, not as base and adapter."
        if is_lost
        else "Part of what was learned is lost to rounding; --model compares the answers."
    )
    report.add(
        "2",
        f"model:{fused}",
        f"The adapter {one.adapter.name} did not arrive {'' if is_lost else 'whole '}in {fused} ({kind}), fused from "
        f"{base}: in {len(found)} matrices compared, {said}. {meaning}",
        "hard_stop" if is_lost else "warning",
        _FIX,
        check="fuse",
        cosine=round(cosine, 4),
        share=round(share, 4),
        matrices=len(found),
        base=base,
        adapter=one.adapter.name,
        is_quantized=is_quantized,
        **one.where,
    )
