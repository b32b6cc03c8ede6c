"""Whether an adapter folder belongs on a model folder, and what mlx-lm would build of a recipe on that model.

From headers alone; standard library and `state` only, nothing is loaded.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from state.hashing import HashCache
from state.recipe import SHAPE_KEYS
from state.records import Json
from tools.models.identity import (
    ADAPTER_FILES,
    WEIGHTS,
    Header,
    HeaderError,
    Problem,
    Tensor,
    read_header,
    read_object,
    weights_hash,
)


def adapter_problems(adapter: Path, model: Path, cache: HashCache | None = None) -> list[Problem]:
    """Return why an adapter is not one of this model; empty where nothing speaks against it.

    An adapter that Vigil trained names the weights it was trained on. Of any other only names and shapes can be held
    against the model: an adapter of another fine-tune of the same architecture passes.
    """
    missing = [name for name in ADAPTER_FILES if not (adapter / name).is_file()]
    if missing:
        return [
            Problem(
                f"Adapter folder {adapter} lacks {' and '.join(missing)}; name a complete adapter folder.",
                {"kind": "incomplete", "missing": missing},
            )
        ]
    try:
        header = read_header(adapter / "adapters.safetensors")
    except (HeaderError, OSError) as error:
        return [
            Problem(
                f"{adapter / 'adapters.safetensors'} cannot be read as safetensors: {error}; train or copy it again.",
                {"kind": "unreadable"},
            )
        ]
    config = read_object(adapter / "adapter_config.json")
    return [
        *_lineage(adapter, model, cache),
        *_shapes(adapter, header, model),
        *loading_problems(str(adapter), config, header, layers_of(model)),
    ]


_PLAIN = frozenset({
    "cohere", "cohere2", "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "granite", "helium",
    "hunyuan_v1_dense", "internlm3", "llama", "mimo", "mistral", "nemotron", "olmo2", "olmo3", "phi", "phi3", "qwen2",
    "qwen3", "seed_oss", "smollm3", "stablelm", "starcoder2",
})  # fmt: skip
"""Types of mlx-lm whose modules are called as the tensors of their files."""
_IN_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_LEAVES = {"lora": frozenset({"lora_a", "lora_b"}), "dora": frozenset({"lora_a", "lora_b", "m"})}
_PEFT = re.compile(r"\.lora_[AB](\.[\w-]+)?\.weight$|\.lora_magnitude_vector")
_PEFT_FIX = (
    "Convert it: lora_A.T is lora_a, lora_B.T is lora_b, without the prefix base_model.model., and scale is "
    "lora_alpha / r (over the root of r with use_rslora)."
)


@dataclass(frozen=True)
class Layers:
    """What the headers of a model say of its layers.

    Args:
        n: How many there are; None where it is not known.
        matrices: Modules in a layer that an adapter can be put on; empty where names are not known.
        others: Modules in a layer that none can be put on.
        outside: Full names of matrices, those outside the layers too.
        is_quantized: Whether its matrices are packed.
    """

    n: int | None = None
    matrices: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()
    outside: frozenset[str] = frozenset()
    is_quantized: bool = False


def layers_of(model: Path) -> Layers:
    """Return a model's layers; of a type whose tensors are not called as its modules little is known."""
    config, weights = read_object(model / "config.json"), _tensors(model)
    quantized = bool(config.get("quantization")) and any(name.endswith(".scales") for name in weights)
    if str(config.get("model_type")) not in _PLAIN or not weights:
        return Layers(is_quantized=quantized)
    n = config.get("num_hidden_layers")
    matrices: set[str] = set()
    others: set[str] = set()
    full: set[str] = set()
    for name, tensor in weights.items():
        module, _, leaf = name.rpartition(".")
        if leaf != "weight":
            continue
        inside = _IN_LAYER.fullmatch(module)
        is_matrix = len(tensor.shape) == 2  # noqa: PLR2004 - a matrix
        if is_matrix:
            full.add(module)
        if inside:
            (matrices if is_matrix else others).add(inside[2])
            parts = inside[2].split(".")
            others |= {".".join(parts[:length]) for length in range(1, len(parts))}
    return Layers(n if isinstance(n, int) else None, frozenset(matrices), frozenset(others), frozenset(full), quantized)


def recipe_problems(recipe: Mapping[str, Any], layers: Layers, *, default_layers: int) -> list[Problem]:
    """Return why mlx-lm cannot train a recipe on a model; empty where nothing speaks against it.

    Args:
        recipe: `fine_tune_type`, `num_layers` and `lora_parameters`, as far as they are there.
        layers: The model's.
        default_layers: `num_layers` where the recipe does not say.

    Returns:
        Problems with `detail["key"]`; `detail["is_warning"]` where training runs all the same.
    """
    return [*_too_many(recipe, layers, default_layers), *_kind_problems(recipe, layers), *_key_problems(recipe, layers)]


def _too_many(recipe: Mapping[str, Any], layers: Layers, default: int) -> Iterator[Problem]:
    written = recipe.get("num_layers")
    is_written = isinstance(written, int)
    wanted = int(written) if isinstance(written, int) else default
    if layers.n is not None and wanted > layers.n:
        subject = (
            f"`num_layers` is {wanted}" if is_written else f"`num_layers` is left out, and mlx-lm's default is {wanted}"
        )
        yield Problem(
            f"{subject}; the model has {layers.n} layers, and mlx-lm stops. Write `num_layers: {layers.n}` or less, or"
            " -1 for all.",
            {"kind": "num_layers", "key": "num_layers", "layers": layers.n},
        )


def _kind_problems(recipe: Mapping[str, Any], layers: Layers) -> Iterator[Problem]:
    if recipe.get("fine_tune_type") == "full" and layers.is_quantized:
        yield Problem(
            "`fine_tune_type: full` on a quantized model: packed weights have no gradient, and mlx-lm stops at the "
            "first step. Train an adapter (lora), or take the model that is not quantized.",
            {"kind": "full_quantized", "key": "fine_tune_type"},
        )


def _key_problems(recipe: Mapping[str, Any], layers: Layers) -> Iterator[Problem]:
    """Hold `lora_parameters.keys` against the names of modules, as mlx-lm does: equal in a layer, or equal in full."""
    lora = recipe.get("lora_parameters")
    keys = lora.get("keys") if isinstance(lora, Mapping) else None
    if not isinstance(keys, list | tuple) or not keys or not layers.matrices or recipe.get("fine_tune_type") == "full":
        return
    written = [str(key) for key in keys]
    odd = [key for key in written if key in layers.others - layers.matrices]
    lost = [key for key in written if key not in layers.matrices | layers.others | layers.outside]
    detail = {"kind": "keys", "key": "lora_parameters.keys"}
    if odd:
        yield Problem(
            f"`lora_parameters.keys` names {', '.join(odd)[:200]}, which is no matrix; mlx-lm stops. It can adapt "
            f"{', '.join(sorted(layers.matrices))}.",
            detail,
        )
    elif lost:
        near = [name for key in lost for name in sorted(layers.matrices) if name.endswith(f".{key}")]
        fix = f"Write {', '.join(dict.fromkeys(near))}" if near else f"It has {', '.join(sorted(layers.matrices))}"
        is_all = len(lost) == len(written)
        effect = "nothing is trained, and mlx-lm stops" if is_all else "they are passed over without a word"
        yield Problem(
            f"`lora_parameters.keys` match no layer of the model ({', '.join(lost)[:200]}): {effect}. {fix}.",
            {**detail, "is_warning": not is_all},
        )


def loading_problems(
    name: str, config: Mapping[str, Any], header: Header, layers: Layers, *, is_resumed: bool = False
) -> list[Problem]:
    """Return why tensors of an adapter are not those that mlx-lm builds of its configuration; the first of each kind.

    Args:
        name: Of the adapter, for sentences.
        config: Its adapter_config.json, or the configuration that goes on from it.
        header: Its tensors.
        layers: The model's, as far as they are known.
        is_resumed: Whether a training goes on from it: mlx-lm then passes over in silence what does not fit.
    """
    names = dict.fromkeys(header.tensors)
    if any(_PEFT.search(tensor) for tensor in names):
        silent = " mlx-lm starts from nothing, in silence." if is_resumed else ""
        sentence = (
            f"The adapter {name} is in PEFT's form, of which no tensor is called as mlx-lm's.{silent} {_PEFT_FIX}"
        )
        return [Problem(sentence, {"kind": "peft"})]
    return list(_misfits(name, config, header, layers, is_resumed=is_resumed))


def _misfits(
    name: str, config: Mapping[str, Any], header: Header, layers: Layers, *, is_resumed: bool
) -> Iterator[Problem]:
    kind = str(config.get("fine_tune_type", config.get("train_type", "lora")))
    lora = config.get("lora_parameters")
    if kind not in _LEAVES:
        odd = next((tensor for tensor in header.tensors if tensor.rpartition(".")[2] in _LEAVES["dora"]), None)
        if kind == "full" and odd and odd.rpartition(".")[2] != "m":
            yield _misfit(name, "kind", f"holds {odd}, and its configuration says full training", "Write `lora`.")
        return
    if not is_resumed and "num_layers" not in config:
        old = config.get("lora_layers")
        fix = f"Rename `lora_layers` to `num_layers: {old}`" if old is not None else "Write how many layers it adapts"
        yield _misfit(
            name, "num_layers", "has no `num_layers`, and mlx-lm cannot load it", f"{fix} in adapter_config.json."
        )
        return
    if not isinstance(lora, Mapping):
        if not is_resumed:
            yield _misfit(
                name, "block", "has no `lora_parameters`, and mlx-lm cannot load it", "Write rank, scale, dropout."
            )
        return
    missing = [key for key in ("rank", "scale", "dropout") if lora.get(key) is None]
    if missing and not is_resumed:
        rank, alpha = lora.get("rank"), lora.get("alpha")
        fix = "Write them in adapter_config.json"
        if "scale" in missing and isinstance(rank, int) and isinstance(alpha, int | float) and rank:
            fix = f"Write `scale: {alpha / rank:g}` (alpha / rank) in adapter_config.json"
        yield _misfit(
            name, "block", f"has no {', '.join(missing)} in `lora_parameters`, and mlx-lm cannot load it", f"{fix}."
        )
        return
    yield from _tensor_misfits(name, config, lora, header, layers, leaves=_LEAVES[kind], is_resumed=is_resumed)


def _misfit(name: str, what: str, sentence: str, fix: str) -> Problem:
    return Problem(f"The adapter {name} {sentence}. {fix}", {"kind": "config", "what": what})


def _tensor_misfits(
    name: str,
    config: Mapping[str, Any],
    lora: Mapping[str, Any],
    header: Header,
    layers: Layers,
    *,
    leaves: frozenset[str],
    is_resumed: bool,
) -> Iterator[Problem]:
    """Compare tensor by tensor; one problem is enough, for the others follow from it."""
    keys, rank, n_adapted = lora.get("keys"), lora.get("rank"), config.get("num_layers")
    keys = frozenset(map(str, keys)) if isinstance(keys, list | tuple) else None
    its = "the configuration that goes on from it" if is_resumed else "its configuration"
    end = "mlx-lm passes over it in silence" if is_resumed else "mlx-lm cannot load it"
    ranks: set[int] = set()
    for tensor, shape in header.tensors.items():
        module, _, leaf = tensor.rpartition(".")
        if leaf not in leaves:
            kind = "DoRA" if leaf == "m" else "no low-rank adapter"
            fix = (
                "Write `fine_tune_type: dora`."
                if leaf == "m"
                else "Write `fine_tune_type: full`, if it was trained so."
            )
            yield _misfit(
                name,
                "kind",
                f"holds {tensor}, which is {kind}, and {its} says {'dora' if 'm' in leaves else 'lora'}: {end}",
                fix,
            )
            return
        if len(shape.shape) == 2 and isinstance(rank, int) and leaf != "m":  # noqa: PLR2004 - a matrix
            own = shape.shape[1] if leaf == "lora_a" else shape.shape[0]
            if own != rank:
                end = "mlx-lm loads it in silence and writes what cannot be loaded" if is_resumed else end
                yield _misfit(
                    name,
                    "rank",
                    f"has rank {own} at {module}, and {its} says rank {rank}: {end}",
                    f"Write `rank: {own}`.",
                )
                return
        inside = _IN_LAYER.fullmatch(module)
        if keys is not None and module not in keys and (inside is None or inside[2] not in keys):
            own_keys = sorted(
                {match[2] for one in header.tensors if (match := _IN_LAYER.fullmatch(one.rpartition(".")[0]))}
            )
            yield _misfit(
                name,
                "keys",
                f"adapts {module}, which `lora_parameters.keys` of {its} does not name: {end}",
                f"Its tensors are of {', '.join(own_keys)[:400]}.",
            )
            return
        if inside and (keys is None or module not in keys):
            ranks.add(int(inside[1]))
    if isinstance(n_adapted, int) and n_adapted > 0:
        outside = [number for number in sorted(ranks) if layers.n is not None and number < layers.n - n_adapted]
        if outside or len(ranks) > n_adapted:
            first, last = min(ranks), max(ranks)
            wanted = (layers.n or last + 1) - first
            yield _misfit(
                name,
                "num_layers",
                f"holds tensors of layers {first} to {last}, and {its} says the last {n_adapted}: {end}",
                f"Write `num_layers: {wanted}`.",
            )


def _lineage(adapter: Path, model: Path, cache: HashCache | None) -> Iterator[Problem]:
    trained_on = read_object(adapter / "run.json").get("model_weights")
    if not trained_on:
        return
    here = weights_hash(model, None, cache)
    if trained_on != here:
        yield Problem(
            f"The adapter {adapter} was trained on the weights {str(trained_on)[:12]}, but {model} holds {here[:12]}; "
            "name the model that it was trained on.",
            {"kind": "parent", "trained_on": trained_on, "model": here},
        )


def _shapes(adapter: Path, header: Header, model: Path) -> Iterator[Problem]:
    """Hold each low-rank pair against the matrix it is added to."""
    weights = _tensors(model)
    if not weights:
        return
    config = read_object(model / "config.json").get("quantization")
    said = config.get("bits") if isinstance(config, dict) else None
    bits = said if isinstance(said, int) and 0 < said <= 32 else 0  # noqa: PLR2004 - of a word
    for name, tensor in header.tensors.items():
        module, _, leaf = name.rpartition(".")
        weight = weights.get(f"{module}.weight")
        if leaf not in {"lora_a", "lora_b"} or len(tensor.shape) != 2:  # noqa: PLR2004 - a matrix
            continue
        if weight is None:
            yield Problem(
                f"The adapter {adapter} adapts {module}, which {model} does not have; it is of another model.",
                {"kind": "shape", "module": module},
            )
            return
        ours, theirs = _side(leaf, tensor, weight, bits)
        if ours != theirs:
            what = "inputs" if leaf == "lora_a" else "outputs"
            yield Problem(
                f"The adapter {adapter} has {ours} {what} at {module}, where {model} has {theirs}; "
                "it is of another model.",
                {"kind": "shape", "module": module, "adapter": ours, "model": theirs},
            )
            return


def _side(leaf: str, tensor: Tensor, weight: Tensor, bits: int) -> tuple[int, int]:
    """Return the adapter's and the matrix's size on the side that must agree; packed words are unpacked."""
    if leaf == "lora_b":
        return tensor.shape[1], weight.shape[0]
    packed = 32 // bits if bits and weight.dtype == "U32" else 1
    return tensor.shape[0], weight.shape[-1] * packed


def _tensors(model: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in sorted(model.glob(WEIGHTS)):
        try:
            tensors |= read_header(path).tensors
        except (HeaderError, OSError):
            continue
    return tensors


def adapter_recipe(adapter: Path) -> Json:
    """Return the recipe keys that decide an adapter's shape, as its folder has them."""
    config: dict[str, Any] = read_object(adapter / "adapter_config.json")
    return {key: config[key] for key in SHAPE_KEYS if config.get(key) is not None}
