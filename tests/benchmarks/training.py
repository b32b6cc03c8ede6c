"""Batches of one epoch: ours against stock mlx-lm's own iterator, on the same rows of the quickstart.

Counts, not times: padding, rows seen, and padded positions computed. Run as `python -m tests.benchmarks.training`;
the counting is done in a child process, since MLX stays out of every other one.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tools.training.data import Shape

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "runbooks" / "quickstart"
BATCH_SIZE = 16
MAX_SEQ_LENGTH = 896


def measure(n_rows: int = 1995) -> dict[str, Any]:
    """Return, for each way, padding share, rows seen in one epoch, and padded positions.

    Args:
        n_rows: Rows taken from the training file; a number that the batch size does not divide shows the tail.
    """
    command = [sys.executable, "-m", "tests.benchmarks.training", "--inside", str(n_rows)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def padding_share(lengths: Sequence[int], batches: Sequence[Sequence[int]], known: Sequence["Shape"] = ()) -> float:
    """Return the share of positions that hold no token, [0, 1).

    Args:
        lengths: Tokens of each row.
        batches: Rows of each batch.
        known: Shapes that batches are padded to; each to its own where there is none.
    """
    real = sum(lengths[row] for batch in batches for row in batch)
    return 1 - real / _padded_positions(lengths, batches, known)


def _padded_positions(lengths: Sequence[int], batches: Sequence[Sequence[int]], known: Sequence["Shape"]) -> int:
    """Return the positions that batches take, padding and the last token of each row included."""
    from tools.training.data import fitting

    spans = [[lengths[row] for row in batch] for batch in batches]
    return sum(len(span) * (1 + fitting(known, span, [1]).width) for span in spans)


def _inside(n_rows: int) -> dict[str, Any]:
    from mlx_lm.tuner.datasets import CacheDataset
    from mlx_lm.tuner.trainer import iterate_batches

    from tools.evaluation.rendered import Source
    from tools.models.load import load_tokenizer
    from tools.training.data import epoch_batches, read_rows, shapes

    tokenizer = load_tokenizer(QUICKSTART / "base")
    options = {"max_seq_length": MAX_SEQ_LENGTH, "mask_prompt": True, "truncate": False}
    rows = read_rows(Source(QUICKSTART / "data" / "train.jsonl"), tokenizer, **options)[:n_rows]  # type: ignore[arg-type]  # as named
    lengths = [len(row.tokens) for row in rows]
    ours = epoch_batches(lengths, BATCH_SIZE, 0, 0)
    known = shapes(lengths, [row.targets for row in rows], BATCH_SIZE)

    class Rows:
        """What stock's cached dataset wraps: (tokens, offset) by index, itemlen as stock has it."""

        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"messages": index}

        def process(self, row: dict[str, Any]) -> tuple[list[int], int]:
            return rows[row["messages"]].tokens, 0

    batches = list(iterate_batches(CacheDataset(Rows()), BATCH_SIZE, MAX_SEQ_LENGTH, seed=0))
    padded = sum(batch.shape[0] * batch.shape[1] for batch, _ in batches)
    real = sum(int(span[:, 1].sum()) for _, span in batches)
    return {
        "rows": len(rows),
        "ours": {
            "padding_share": padding_share(lengths, ours, known),
            "rows_seen": len({row for batch in ours for row in batch}),
            "padded_positions": _padded_positions(lengths, ours, known),
        },
        "stock": {
            "padding_share": 1 - real / padded,
            "rows_seen": sum(batch.shape[0] for batch, _ in batches),
            "padded_positions": padded,
        },
    }


def main() -> int:
    """Print the table."""
    if sys.argv[1:2] == ["--inside"]:
        print(json.dumps(_inside(int(sys.argv[2]))))
        return 0
    found = measure()
    for way in ("ours", "stock"):
        row = found[way]
        print(
            f"{way:>6}: {row['padding_share']:6.1%} padding, {row['rows_seen']} of {found['rows']} rows seen "
            f"in an epoch, {row['padded_positions']:,} positions computed"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
