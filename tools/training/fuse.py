"""The fuse worker: `python -m tools.training.fuse JOB`; an adapter into its base, in a fresh folder, never in place.

A quantized base is dequantized: re-quantizing destroys small deltas (facts/mlx_training.md 2a). The input is
`{"model", "adapter", "dtype", "expect_weights"}`.
"""

import sys
from pathlib import Path

from state.errors import ConfigError, VigilError
from state.files import read_json, write_json
from state.records import Json
from tools.jobs.worker import WorkerContext, begin
from tools.models.identity import weights_hash


def fuse(context: WorkerContext) -> None:
    """Do the whole job.

    Raises:
        ConfigError: The target folder is not empty, or the weights are not the expected ones.
    """
    inputs = context.input
    model_folder, adapter = Path(inputs["model"]), Path(inputs["adapter"])
    weights = weights_hash(model_folder, adapter)
    expected = inputs.get("expect_weights")
    if expected and weights != expected:
        raise ConfigError(
            f"The weights to fuse are {weights[:12]}, not {expected[:12]}; the model or the adapter changed since.",
            what="weights",
            where=str(adapter),
        )
    target = context.folder.out / "fused"
    side = context.folder.out / "fused.part"
    if _is_done(target, weights):
        context.finish(_result(target, weights))
        return
    if target.exists() and any(target.iterdir()):
        raise ConfigError(f"{target} is not empty; a model is only ever saved into an empty folder.", where=str(target))

    import shutil

    from mlx.utils import tree_unflatten
    from mlx_lm.utils import dequantize_model, load_config, save

    from tools.models.load import load_model

    shutil.rmtree(side, ignore_errors=True)
    model, tokenizer = load_model(model_folder, adapter, inputs.get("dtype"))
    config = load_config(model_folder)
    fused = [(name, module.fuse(dequantize=True)) for name, module in model.named_modules() if hasattr(module, "fuse")]
    model.update_modules(tree_unflatten(fused))
    if config.get("quantization"):
        model = dequantize_model(model)
        config.pop("quantization", None)
        config.pop("quantization_config", None)
    save(side, str(model_folder), model, tokenizer, config)
    write_json(side / "run.json", {"fused_from": weights, "model": weights_hash(model_folder), "dequantized": True})
    side.rename(target)
    context.finish(_result(target, weights))


def _is_done(target: Path, weights: str) -> bool:
    """Whether an earlier start fused these weights and was killed before it could say so."""
    lineage = read_json(target / "run.json")
    return lineage is not None and lineage.get("fused_from") == weights


def _result(target: Path, weights: str) -> Json:
    return {"fused": "out/fused", "weights": weights_hash(target), "fused_from": weights}


def main() -> int:
    """Run the worker on the job folder named on the command line."""
    context = begin(sys.argv[1])
    try:
        fuse(context)
    except VigilError as error:
        context.fail(error.sentence, what=error.what, where=error.where)
    return 0


if __name__ == "__main__":
    sys.exit(main())
