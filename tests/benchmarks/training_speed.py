"""Real tokens per CPU second of our trainer against stock mlx-lm's, on the same mixed-length rows.

    python -m tests.benchmarks.training_speed [--rows 38] [--batch-size 8] [--rounds 2]

Both train in one process, in turns, on the quickstart's base. Padding is no real token, loading is not counted, and CPU
seconds make the machine's load matter little; the ratio is what to quote. `training` has padding and rows seen.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tools.machine.blas import worker_env

QUICKSTART = Path(__file__).resolve().parents[2] / "runbooks" / "quickstart"
MAX_SEQ_LENGTH = 1024


def measure(n_rows: int = 38, batch_size: int = 8, rounds: int = 2) -> dict[str, Any]:
    """Train one nominal epoch both ways; return each way's real tokens, CPU seconds and speed, and their ratio.

    Raises:
        subprocess.CalledProcessError: The child failed.
    """
    options = [f"--rows={n_rows}", f"--batch-size={batch_size}", f"--rounds={rounds}"]
    argv = [sys.executable, "-m", "tests.benchmarks.training_speed", "--inside", *options]
    done = subprocess.run(argv, env=os.environ | worker_env(), stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def _inside(n_rows: int, batch_size: int, rounds: int) -> dict[str, Any]:
    """Do the measurement; runs in a child that OpenBLAS was preloaded into."""
    ways: dict[str, Callable[..., tuple[float, int]]] = {"ours": _ours, "stock": _stock}
    found: dict[str, dict[str, float]] = {way: {"cpu_s": 0.0, "real_tokens": 0.0} for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "train.jsonl"
        lines = (QUICKSTART / "data" / "train.jsonl").read_text().splitlines(keepends=True)[:n_rows]
        data.write_text("".join(lines))
        for turn in range(rounds):
            for way, train in ways.items():
                cpu_s, real = train(data, n_rows, batch_size, Path(folder) / f"{way}{turn}")
                found[way]["cpu_s"] += cpu_s
                found[way]["real_tokens"] += real
    for figures in found.values():
        figures["tokens_per_cpu_s"] = figures["real_tokens"] / figures["cpu_s"]
    ratio = found["ours"]["tokens_per_cpu_s"] / found["stock"]["tokens_per_cpu_s"]
    return {"rows": n_rows, "batch_size": batch_size, "rounds": rounds, "ratio": ratio, **found}


def _recipe(n_rows: int, batch_size: int) -> Any:
    from tools.training.recipe import validate_recipe

    return validate_recipe(
        {
            "iters": -(-n_rows // batch_size),
            "batch_size": batch_size,
            "max_seq_length": MAX_SEQ_LENGTH,
            "lora_parameters": {"rank": 8, "scale": 2.0, "dropout": 0.0},
            "save_every": 1_000_000,
        }
    )


def _ours(data: Path, n_rows: int, batch_size: int, folder: Path) -> tuple[float, int]:
    """Return CPU seconds and real tokens of one epoch."""
    from tools.evaluation.rendered import Source
    from tools.models.load import load_model
    from tools.training.data import read_rows
    from tools.training.loop import Training, build_optimizer, prepare
    from tools.training.objective import Demonstrations

    recipe = _recipe(n_rows, batch_size)
    model, tokenizer = load_model(QUICKSTART / "base", None, "float32")
    rows = read_rows(Source(data), tokenizer, max_seq_length=MAX_SEQ_LENGTH, mask_prompt=True, truncate=False)
    prepare(model, recipe, None)
    training = Training(
        model=model,
        optimizer=build_optimizer(recipe),
        recipe=recipe,
        objective=Demonstrations(recipe, rows, []),
        folder=folder,
        emit=lambda _row: None,
        should_stop=lambda: False,
    )
    folder.mkdir()
    before = time.process_time()
    training.run()
    # One epoch in batches of all rows: each row was computed once.
    return time.process_time() - before, sum(len(row.tokens) for row in rows)


def _stock(data: Path, n_rows: int, batch_size: int, folder: Path) -> tuple[float, int]:
    """Return CPU seconds and real tokens of as many batches."""
    import mlx.optimizers as optim
    from mlx_lm.tuner.datasets import CacheDataset, ChatDataset
    from mlx_lm.tuner.trainer import TrainingArgs, iterate_batches, train

    from tools.models.load import load_model
    from tools.training.loop import prepare

    recipe = _recipe(n_rows, batch_size)
    model, tokenizer = load_model(QUICKSTART / "base", None, "float32")
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    dataset = CacheDataset(ChatDataset(rows, tokenizer, mask_prompt=True))
    # Tokenized here, as ours is, outside the measured time.
    all(dataset[place] for place in range(n_rows))
    prepare(model, recipe, None)
    spans: list[Any] = []

    def recorded(*args: Any, **options: Any) -> Iterator[Any]:
        for batch, lengths in iterate_batches(*args, **options):
            spans.append(lengths)
            yield batch, lengths

    folder.mkdir()
    arguments = TrainingArgs(
        batch_size=batch_size,
        iters=recipe.iters,
        max_seq_length=MAX_SEQ_LENGTH,
        adapter_file=str(folder / "adapters.safetensors"),
    )
    optimizer = optim.AdamW(learning_rate=recipe.learning_rate)
    before = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        train(model, optimizer, dataset, None, arguments, iterate_batches=recorded)
    return time.process_time() - before, sum(int(lengths[:, 1].sum()) for lengths in spans)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=38, help="training rows")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.inside:
        print(json.dumps(_inside(options.rows, options.batch_size, options.rounds)))
        return 0
    found = measure(options.rows, options.batch_size, options.rounds)
    for way in ("ours", "stock"):
        figures = found[way]
        print(
            f"{way:>6}: {figures['real_tokens']:7,.0f} real tokens, {figures['tokens_per_cpu_s']:6,.0f} per CPU second"
        )
    print(f"ours trains {found['ratio']:.2f} times the real tokens per second of stock")
    return 0


if __name__ == "__main__":
    sys.exit(main())
