"""Does a fused model answer as base and adapter do: `python -m tools.evaluation.fusion`, a request in, an answer out.

    {"base", "adapter", "fused": FOLDER, "taught": [{"file", "features", "bounds"}]}
    {"positions", "same_base", "same_fused", "kl_base", "kl_fused"} or {"why"}

`same_*`: positions at which the likeliest next token is that of base and adapter; `kl_*`: mean divergence from base and
adapter, nats. Both are measured on the first rows of the training data, on plain sentences where there are none. One
model is in memory at a time. Code that comes with a model is never run.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from state.records import Json
from tools.data.rows import DataFile, Features
from tools.jobs.worker import answer_request
from tools.models.load import agreeing, divergence, next_token_logps

_ROWS, _TOKENS = 8, 48
"""Texts, and tokens of each."""
_PLAIN = (
    "The quick brown fox jumps over the lazy dog, and then it sleeps in the shade of a tree.",
    "Question: what is seven times six? Answer: seven times six is forty-two.",
    "name,amount,date\nalpha,12.50,2024-01-31\nbeta,7.25,2024-02-29\n",
)
_RUNS_CODE = ("model_file", "auto_map")


def answer(request: Json) -> Json:
    """Compare three models.

    Raises:
        VigilError: One of them cannot be loaded.
    """
    base, adapter, fused = (Path(request[name]) for name in ("base", "adapter", "fused"))
    for folder in (base, fused):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if any(key in config for key in _RUNS_CODE):
            return {"why": f"{folder.name} brings code of its own, which is not run"}
    from tools.models.load import load_tokenizer

    tokenizer = load_tokenizer(base)
    rows = [ids for text in _texts(request["taught"]) if (ids := tokenizer.encode(text)[:_TOKENS])]
    sides, dtype = ((base, adapter), (base, None), (fused, None)), compute_in(base, fused)
    wanted, plain, made = (next_token_logps(folder, beside, dtype, rows) for folder, beside in sides)
    if not wanted.shape == plain.shape == made.shape:
        return {"why": "the fused model has another vocabulary than its base"}
    return {
        "positions": len(wanted),
        "same_base": agreeing(wanted, plain),
        "same_fused": agreeing(wanted, made),
        "kl_base": divergence(wanted, plain),
        "kl_fused": divergence(wanted, made),
    }


def compute_in(*folders: Path) -> str | None:
    """Return what to compute in: float32 on a CPU where a model fits twice in what is free, else as it is stored.

    No BLAS multiplies half precision: 48 tokens through a matrix of 576 by 1536 took 0.9 ms in float32, 16.6 in float16
    and 12.5 in bfloat16 (median of 7, one core).
    """
    import mlx.core as mx
    import psutil

    if mx.default_device().type != mx.DeviceType.cpu:
        return None
    largest = max(sum(file.stat().st_size for file in folder.glob("*.safetensors")) for folder in folders)
    return "float32" if 4 * largest < psutil.virtual_memory().available else None


def _texts(taught: list[Json]) -> Iterator[str]:
    """Yield what training rows say, or plain sentences."""
    files = [DataFile(Path(row["file"]), Features(**row["features"])) for row in taught]
    texts = [f"{row.prompt}\n{row.answer or ''}" for file in files for row in file.rows(_ROWS)]
    yield from texts[:_ROWS] or _PLAIN


def main() -> int:
    """Answer the request on standard input."""
    return answer_request(answer)


if __name__ == "__main__":
    sys.exit(main())
