"""The fuse worker: `python -m tools.training.fuse JOB`; an adapter into its base, in a fresh folder, never in place.

A quantized base is dequantized: re-quantizing destroys small deltas (facts/mlx_training.md 2a). What was saved is
loaded again and has to answer as base and adapter do. The input is `{"model", "adapter", "dtype", "expect_weights",
"data", "system"}`, data as training has it; with `"gguf": true`
the saved model is also written as one GGUF file, where mlx-lm knows how.
"""

import contextlib
import sys
from itertools import islice
from pathlib import Path

from state.errors import ConfigError
from state.files import read_json, write_json
from state.hashing import hash_file
from state.records import Json
from tools.data.cases import iter_data
from tools.evaluation.prompts import render_training
from tools.jobs.worker import WorkerContext, run_job, tell_phase
from tools.models.identity import expected_weights, weights_hash
from tools.models.load import agreeing, divergence, next_token_logps

_ROWS, _TOKENS = 8, 256
"""Training rows that are compared, and tokens of each."""
_MOST_LOST = 0.1
"""Divergence from base and adapter, over that of the base alone: what re-quantizing loses is several times this."""
_ROUNDING = 1e-3
"""Divergence, nats, that rounding to half precision may leave."""


def fuse(context: WorkerContext) -> None:
    """Do the whole job.

    Raises:
        ConfigError: The target folder is not empty, or the weights are not the expected ones.
    """
    inputs = context.input
    model_folder, adapter = Path(inputs["model"]), Path(inputs["adapter"])
    weights = expected_weights(inputs, inputs["adapter"], "fused")
    target = context.folder.out / "fused"
    side = context.folder.out / "fused.part"
    if _is_done(target, weights):
        context.finish(_result(target, weights) | _gguf(context, target))
        return
    if target.exists() and any(target.iterdir()):
        raise ConfigError(f"{target} is not empty; a model is only ever saved into an empty folder.", where=str(target))

    import shutil

    from mlx_lm.utils import load_config, save

    from tools.evaluation import adapters
    from tools.models.load import load_model

    shutil.rmtree(side, ignore_errors=True)
    tell_phase("loading the model")
    model, tokenizer = load_model(model_folder, adapter, inputs.get("dtype"))
    config = load_config(model_folder)
    tell_phase("writing the fused model")
    adapters.fuse(model)
    config.pop("quantization", None)
    config.pop("quantization_config", None)
    save(side, str(model_folder), model, tokenizer, config)
    del model
    tell_phase("comparing its answers with those of base and adapter")
    likeness = _likeness(inputs, side)
    facts = {"fused_from": weights, "model": weights_hash(model_folder), "dequantized": True, "likeness": likeness}
    write_json(side / "run.json", facts)
    side.rename(target)
    context.finish(_result(target, weights) | _gguf(context, target))


def _likeness(inputs: Json, fused: Path) -> Json:
    """Hold the saved model against base and adapter on the first training rows.

    Returns:
        positions, same (whose likeliest next token is the same), kl (mean divergence from base and adapter, nats),
        kl_base (the base's alone).

    Raises:
        ConfigError: It lost more of the adapter than rounding takes.
    """
    from tools.models.load import load_tokenizer

    tokenizer = load_tokenizer(Path(inputs["model"]))
    rendered = (
        render_training(tokenizer, row.data, inputs.get("system")) for row in iter_data(Path(inputs["data"]["train"]))
    )
    rows = [row.tokens[:_TOKENS] for row in islice(rendered, _ROWS)]
    base, adapter, dtype = Path(inputs["model"]), Path(inputs["adapter"]), inputs.get("dtype")
    sides = ((base, adapter), (base, None), (fused, None))
    wanted, plain, made = (next_token_logps(folder, beside, dtype, rows) for folder, beside in sides)
    kl, kl_base = divergence(wanted, made), divergence(wanted, plain)
    if kl > max(_ROUNDING, _MOST_LOST * kl_base):
        raise ConfigError(
            f"The fused model is {kl:.2g} nats from base and adapter, and the base alone {kl_base:.2g}: it lost "
            f"{min(1.0, kl / max(kl_base, 1e-12)):.0%} of what was learned, so it is not handed out.",
            what="fused",
            where=str(fused),
        )
    return {"positions": len(wanted), "same": agreeing(wanted, made), "kl": kl, "kl_base": kl_base}


GGUF_TYPES = frozenset({"llama", "mistral", "mixtral"})
"""Architectures that mlx-lm 0.32.2 writes as GGUF (`mlx_lm.fuse --export-gguf`)."""


def _gguf(context: WorkerContext, fused: Path) -> Json:
    """Write the saved model as one GGUF file in half precision, where that is asked for.

    Returns:
        gguf, its place in the job's folder, sha256 and bytes; empty where it is not asked for.
    """
    if not context.input.get("gguf"):
        return {}
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.gguf import convert_to_gguf
    from mlx_lm.utils import load_config

    from tools.models.load import load_model

    tell_phase("writing GGUF")
    side, target = context.folder.out / "part.gguf", context.folder.out / "model.gguf"
    model, _ = load_model(fused, None, "float16")
    weights = dict(tree_flatten(model.parameters()))
    mx.eval(weights)
    # Its progress is for a terminal; it prints nothing that the result does not say.
    with contextlib.redirect_stdout(sys.stderr):
        convert_to_gguf(fused, weights, load_config(fused), str(side))
    side.replace(target)
    return {"gguf": "out/model.gguf", "sha256": hash_file(target), "bytes": target.stat().st_size}


def _is_done(target: Path, weights: str) -> bool:
    """Whether an earlier start fused these weights and was killed before it could say so."""
    lineage = read_json(target / "run.json")
    return lineage is not None and lineage.get("fused_from") == weights


def _result(target: Path, weights: str) -> Json:
    likeness: Json = (read_json(target / "run.json") or {}).get("likeness") or {}
    return {"fused": "out/fused", "weights": weights_hash(target), "fused_from": weights, **likeness}


def main() -> int:
    """Run the worker on the job folder named on the command line."""
    return run_job(fuse, sys.argv[1])


if __name__ == "__main__":
    sys.exit(main())
