"""What the installed tools can do, measured on a random model: `python -m tools.training.capability sft dpo …`.

For each instrument one real run of two steps, by the code that trains in earnest: it trains with a finite loss, saves,
loads back with the same loss (failure mode 12) and generates. Then what else Vigil takes for granted of mlx-lm: that
batches generate what single prompts do, what fusing into a quantized base does to a delta (mode 2), and whether a stale
weight file beside an index is read (mode 3). Prints one line of JSON; takes seconds, nearly all of them imports.

    {"instruments": {"sft": {"step": "", "why": "", "fresh", "trained", "loaded", "tokens"}, …},
     "contracts": {"batch": …, "fuse": …, "stale": …}}

`step` is the one that failed, empty where all went well; a contract that could not be measured is `{"why"}`.
"""

import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from state.errors import VigilError
from state.records import Json
from tools.jobs.privacy import stay_offline

LAYERS, WIDTH, HIDDEN = 2, 32, 64
_WORDS = ("abcd", "bcdea", "cd", "deabcab", "eab", "abdec")
_RECIPE: Json = {
    "iters": 2,
    "batch_size": 3,
    "learning_rate": 0.05,
    "max_seq_length": 64,
    "lora_parameters": {"rank": 4, "scale": 2.0},
    "steps_per_report": 1,
    "save_every": 1,
}
_OF_INSTRUMENT: dict[str, Json] = {
    "grpo": {
        "batch_size": 2,
        "group_size": 4,
        "max_completion_length": 12,
        "reward_weights": {"vowels": 1.0},
        # Answers of random weights are cut by the decode budget, and masked there would be nothing to learn.
        "truncated": "penalize",
        "truncation_penalty": 0.0,
        "kl_ceiling": None,
        "entropy_floor": None,
        "length_jump": None,
    },
}
"""What an instrument is asked beside."""

_GRADER = 'def grade(case, text):\n    return {"vowels": sum(letter in "aeiou" for letter in text) / 12}\n'
_DELTAS = {"small": 0.03, "large": 3.0}
"""Root mean square of a delta in steps of the quantized grid: what preferences or rollouts leave, and what many passes
of demonstrations do."""
_GROUP = 32


def make_base(folder: Path, seed: int = 0) -> Path:
    """Write a random Llama with one token per byte, as a folder that mlx-lm loads."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.llama import Model, ModelArgs
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir(parents=True)
    vocabulary = {
        token: number for number, token in enumerate(["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = {
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": len(vocabulary),
        "tie_word_embeddings": True,
        "eos_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    mx.random.seed(seed)
    weights = dict(tree_flatten(Model(ModelArgs.from_dict(config)).parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


def write_data(folder: Path) -> Json:
    """Write rows, pairs and cases to train on and a grader beside them; return a job's `data`."""
    folder.mkdir(parents=True)
    rows = [{"prompt": word, "completion": word[::-1]} for word in _WORDS]
    pairs = [{"prompt": word, "chosen": word[::-1], "rejected": word + "!"} for word in _WORDS]
    cases = [{"prompt": word} for word in _WORDS]
    (folder / "grade.py").write_text(_GRADER)
    files = {"train": rows, "pairs": pairs, "rollouts": cases}
    contents = {name: (folder / f"{name}.jsonl", lines) for name, lines in files.items()}
    for path, lines in contents.values():
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {name: str(path) for name, (path, _) in contents.items()}


def try_instrument(instrument: str, base: Path, data: Json, out: Path) -> Json:
    """Train, save, load and generate, by the code that does it in earnest.

    Args:
        instrument: Its name; one that is not there is a finding, not an error.
        base: From `make_base`.
        data: From `write_data`.
        out: A folder of this instrument's own.
    """
    done: Json = {"step": "imports"}
    try:
        _steps(instrument, base, data, out, done)
    except Exception as error:  # noqa: BLE001 - whatever it is, this instrument cannot be run
        reason = error.sentence if isinstance(error, VigilError) else f"{type(error).__name__}: {error}"
        return {**done, "why": reason[:300]}
    return {**done, "step": "", "why": ""}


def _steps(instrument: str, base: Path, data: Json, out: Path, done: Json) -> None:
    """Go through all steps, noting the one at work and what was measured.

    Raises:
        Exception: The step noted last failed.
    """
    from tools.training.recipe import validate_recipe

    recipe = validate_recipe({**_RECIPE, **_OF_INSTRUMENT.get(instrument, {})}, instrument)

    from tools.models.identity import weights_hash
    from tools.models.load import load_model
    from tools.training.data import Cursor
    from tools.training.instruments import Setting, build
    from tools.training.loop import Training, build_optimizer, prepare
    from tools.training.losses import measure
    from tools.training.saves import write_adapter

    done["step"] = "training"
    grader = str(Path(data["train"]).with_name("grade.py"))
    inputs = {
        "instrument": instrument,
        "model": str(base),
        "data": data,
        "dtype": "float32",
        "system": None,
        "grader": {"file": grader, "timeout_s": 60.0},
    }
    model, tokenizer = load_model(base, None, "float32")
    with ExitStack() as resources:
        setting = Setting(
            inputs=inputs,
            recipe=recipe,
            model=model,
            tokenizer=tokenizer,
            weights=weights_hash(base),
            out=out,
            emit=lambda _row: None,
            resources=resources,
        )
        built = build(setting)
        loss, batch = built.objective.probe(Cursor())
        done["fresh"] = measure(model, loss, [batch])[0]
        prepare(model, recipe, None)
        training = Training(
            model=model,
            optimizer=build_optimizer(recipe),
            recipe=recipe,
            objective=built.objective,
            folder=out / "saves",
            emit=lambda _row: None,
            should_stop=lambda: False,
        )
        training.saves.mkdir(parents=True)
        outcome = training.run()
    if outcome.verdict:
        raise ArithmeticError("the loss or the gradient was not finite")
    done["trained"] = measure(model, loss, [batch])[0]
    if not math.isfinite(done["trained"]):
        raise ArithmeticError(f"the loss after two steps is {done['trained']}")
    done["step"] = "saving"
    write_adapter(out / "adapter", model, recipe.adapter_config())
    done["step"] = "loading"
    again, tokenizer = load_model(base, out / "adapter", "float32")
    done["loaded"] = measure(again, loss, [batch])[0]
    done["step"] = "generating"
    done["tokens"] = sum(len(tokens) for tokens in _generated(again, tokenizer, is_batched=True))


def _generated(model: Any, tokenizer: Any, *, is_batched: bool) -> list[tuple[int, ...]]:
    """Return what the model says to each word, greedily."""
    from tools.evaluation.generation import Decoding, Prompt, generate, one_by_one

    prompts = [Prompt(word, tokenizer.encode(word)) for word in _WORDS]
    decoding = Decoding(12)
    model.eval()
    outputs = (
        generate(model, tokenizer, prompts, decoding, batch_size=4)
        if is_batched
        else one_by_one(model, tokenizer, prompts, decoding)
    )
    tokens = {output.name: output.tokens for output in outputs}
    return [tokens[word] for word in _WORDS]


def try_batch(base: Path, _folder: Path) -> Json:
    """Compare what prompts of different lengths give together and one by one."""
    from tools.models.load import load_model

    model, tokenizer = load_model(base, None, "float32")
    together = _generated(model, tokenizer, is_batched=True)
    alone = _generated(model, tokenizer, is_batched=False)
    same = sum(one == other for one, other in zip(together, alone, strict=True))
    return {"same": same, "of": len(_WORDS)}


def try_fuse(_base: Path, _folder: Path) -> Json:
    """Fuse deltas of two sizes into a layer of 4 bits, quantized again and dequantized.

    Returns:
        For each size: cosine of what arrived and what was to arrive, as `quantized` and `dequantized`, [-1, 1].
    """
    import mlx.core as mx
    from mlx import nn
    from mlx_lm.tuner.lora import LoRALinear

    mx.random.seed(0)
    plain = nn.Linear(WIDTH * 4, WIDTH * 4, bias=False)
    layer = nn.QuantizedLinear.from_linear(plain, group_size=_GROUP, bits=4)
    step = float(mx.abs(layer.scales).mean())
    facts: Json = {}
    for size, factor in _DELTAS.items():
        lora = LoRALinear.from_base(layer, r=4, scale=1.0)
        lora.lora_b = mx.random.normal(lora.lora_b.shape)
        delta = (lora.lora_a @ lora.lora_b).T
        lora.lora_b = lora.lora_b * (factor * step / float(mx.sqrt(mx.square(delta).mean())))
        wanted = (lora.lora_a @ lora.lora_b).T
        before = _weight(layer)
        facts[size] = {
            name: _cosine(_weight(lora.fuse(dequantize=is_plain)) - before, wanted)
            for name, is_plain in (("quantized", False), ("dequantized", True))
        }
    return facts


def _weight(layer: Any) -> Any:
    """Return a layer's weights as the floating-point numbers that it computes with."""
    import mlx.core as mx

    if "scales" not in layer:
        return layer.weight
    return mx.dequantize(layer.weight, layer.scales, layer.biases, group_size=layer.group_size, bits=layer.bits)


def _cosine(one: Any, other: Any) -> float:
    import mlx.core as mx

    norms = float(mx.sqrt(mx.square(one).sum() * mx.square(other).sum()))
    return float((one * other).sum()) / norms if norms else 0.0


def try_stale(base: Path, folder: Path) -> Json:
    """Load a folder with a weight file that its index does not name.

    Returns:
        `reads`: whether that file is read at all; `wins`: whether the model got its weights where both name a tensor,
        which follows from the order in which this disk lists files.
    """
    import shutil

    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm import load

    shard, name = "model-00001-of-00001.safetensors", "model.embed_tokens.weight"
    both = folder / "both"
    shutil.copytree(base, both)
    shutil.copy(make_base(folder / "other", seed=1) / "model.safetensors", both / shard)
    stale: Any = mx.load(str(base / "model.safetensors"))
    index = {"metadata": {}, "weight_map": dict.fromkeys(stale, shard)}
    (both / "model.safetensors.index.json").write_text(json.dumps(index))
    got = dict(tree_flatten(load(str(both))[0].parameters()))
    wins = bool(mx.array_equal(got[name], stale[name]))
    # A tensor that no model has: whoever reads the file refuses it.
    mx.save_safetensors(str(both / "model.safetensors"), {**stale, "stale": stale[name]}, metadata={"format": "mlx"})
    try:
        load(str(both))
    except ValueError:
        return {"reads": True, "wins": wins}
    return {"reads": wins, "wins": wins}


_CONTRACTS: dict[str, Callable[[Path, Path], Json]] = {"batch": try_batch, "fuse": try_fuse, "stale": try_stale}


def measure_all(instruments: list[str], folder: Path) -> Json:
    """Try each instrument and each contract; see the module."""
    base, data = make_base(folder / "base"), write_data(folder / "data")
    contracts: Json = {}
    for name, contract in _CONTRACTS.items():
        (folder / name).mkdir()
        try:
            contracts[name] = contract(base, folder / name)
        except Exception as error:  # noqa: BLE001 - a contract that cannot be measured is told as such
            contracts[name] = {"why": f"{type(error).__name__}: {error}"[:300]}
    tried = {name: try_instrument(name, base, data, folder / f"run-{name}") for name in instruments}
    return {"instruments": tried, "contracts": contracts}


def main(argv: list[str]) -> int:
    """Measure, and print the answer."""
    stay_offline()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryDirectory(prefix="vigil-capability-") as folder:
        facts = measure_all(argv, Path(folder))
    sys.stdout.write(json.dumps(facts) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
