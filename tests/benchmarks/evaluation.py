"""Batched evaluation against one by one: identical texts on 40 quickstart cases, and the ratio of times.

    python -m tests.benchmarks.evaluation [--n 40] [--batch-size 16]

Both ways run in one process, on the same machine at the same load; a difference must be a tie, and its gap is printed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tools.evaluation.generation import Decoding, Generation, Prompt, generate, one_by_one
from tools.evaluation.prompts import render_messages, render_prompt
from tools.evaluation.worker import read_split
from tools.machine.blas import worker_env

QUICKSTART = Path(__file__).resolve().parents[2] / "runbooks" / "quickstart"
MAX_TOKENS = 512
TIE_NATS = 1e-3
"""Two tokens closer than this, in float32, may change places with the order of additions."""


def measure(n_cases: int, batch_size: int) -> dict[str, Any]:
    """Generate the same cases both ways; return times, speeds, and every difference with its gap in nats.

    Raises:
        subprocess.CalledProcessError: The child failed.
    """
    argv = [
        sys.executable,
        "-m",
        "tests.benchmarks.evaluation",
        "--inside",
        f"--n={n_cases}",
        f"--batch-size={batch_size}",
    ]
    done = subprocess.run(argv, env=os.environ | worker_env(), stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def _inside(n_cases: int, batch_size: int) -> dict[str, Any]:
    """Do the measurement; runs in a child that OpenBLAS was preloaded into."""
    from tools.models.load import load_model

    model, tokenizer = load_model(QUICKSTART / "base", dtype="float32")
    prompts = [
        Prompt(str(case["id"]), render_prompt(tokenizer, case))
        for name in ("regular", "stress")
        for case in read_split(_selection(name)).cases[: n_cases // 2]
    ]
    decoding = Decoding(MAX_TOKENS)
    warm_up = [Prompt("warm-up", render_messages(tokenizer, [{"role": "user", "content": "warm"}]))]
    list(one_by_one(model, tokenizer, warm_up, Decoding(8)))
    list(generate(model, tokenizer, warm_up, Decoding(8), batch_size=batch_size))
    alone, alone_s = _timed(one_by_one(model, tokenizer, prompts, decoding))
    batched, batched_s = _timed(generate(model, tokenizer, prompts, decoding, batch_size=batch_size))
    n_tokens = sum(output.output_tokens for output in alone.values())
    return {
        "cases": len(prompts),
        "output_tokens": n_tokens,
        "one_by_one_s": alone_s,
        "batched_s": batched_s,
        "ratio": alone_s / batched_s,
        "one_by_one_tokens_per_s": n_tokens / alone_s,
        "batched_tokens_per_s": n_tokens / batched_s,
        "identical": sum(batched[prompt.name] == alone[prompt.name] for prompt in prompts),
        "differences": [
            {"case": prompt.name, "gap_nats": _gap(model, prompt.tokens, alone[prompt.name], batched[prompt.name])}
            for prompt in prompts
            if batched[prompt.name] != alone[prompt.name]
        ],
    }


def _selection(name: str) -> dict[str, Any]:
    return {"name": name, "use": "selection", "file": QUICKSTART / "data" / f"{name}_selection.jsonl"}


def _timed(outputs: Iterable[Generation]) -> tuple[dict[str, Generation], float]:
    started = time.perf_counter()
    found = {output.name: output for output in outputs}
    return found, time.perf_counter() - started


def _gap(model: Any, prompt: Sequence[int], one: Generation, other: Generation) -> float:
    """Return by how many nats the best token leads where two outputs part: near 0 explains the difference."""
    import mlx.core as mx

    pairs = zip(one.tokens, other.tokens, strict=False)
    parting = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one.tokens), len(other.tokens)))
    logits = model(mx.array([[*prompt, *one.tokens[:parting]]]))[0, -1]
    two_best = mx.sort(logits)[-2:]
    return float(abs((two_best[1] - two_best[0]).item()))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures; exit 1 when outputs differ for another reason than a tie."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--n", type=int, default=40, help="cases, half regular and half stress")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.inside:
        print(json.dumps(_inside(options.n, options.batch_size)))
        return 0
    found = measure(options.n, options.batch_size)
    print(f"{found['identical']} of {found['cases']} outputs identical, {found['output_tokens']:,} tokens")
    for difference in found["differences"]:
        print(
            f"  {difference['case']}: the two best tokens are {difference['gap_nats']:.2e} nats apart where they part"
        )
    for way in ("one_by_one", "batched"):
        print(f"{way:>12}: {found[f'{way}_s']:7.2f} s  {found[f'{way}_tokens_per_s']:8,.0f} tokens/s")
    print(f"one by one takes {found['ratio']:.1f} times as long as batches of {options.batch_size}")
    return int(any(difference["gap_nats"] > TIE_NATS for difference in found["differences"]))


if __name__ == "__main__":
    sys.exit(main())
