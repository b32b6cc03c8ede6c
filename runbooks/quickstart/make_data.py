"""Write the quickstart's data: the training rows and the held-out splits, all from the track's seeded generator.

    python runbooks/quickstart/make_data.py

Training rows carry whole answers for short and for long tables, so that fine-tuning teaches the base what it lacks:
to go on to the last row. A split holds its own seed, and a table that already stands in an earlier file is left out.
"""

import argparse
import json
import random
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

from state.files import write_atomic
from tools.graders.spreadsheet_clean.generate import (
    TINY_REGULAR_ROWS,
    TINY_STRESS_ROWS,
    Case,
    Kind,
    chat_row,
    eval_row,
    generate_case,
)

DATA = Path(__file__).parent / "data"
ROWS: dict[Kind, tuple[int, int]] = {"regular": TINY_REGULAR_ROWS, "stress": TINY_STRESS_ROWS}


@dataclass(frozen=True)
class DataFile:
    """One file of the quickstart."""

    name: str
    """File name inside `data/`."""
    format: Literal["chat", "eval"]
    """`chat` is mlx-lm's training format, `eval` a row with its prompt and reference."""
    seed: int
    """Seed of its tables; no two files share one."""
    regular: int
    """Number of regular tables."""
    stress: int
    """Number of stress tables."""


FILES = (
    # The judged splits come first: what follows gives way to them, never the other way round.
    DataFile("regular_confirmation.jsonl", "eval", seed=201, regular=60, stress=0),
    DataFile("stress_confirmation.jsonl", "eval", seed=301, regular=0, stress=40),
    DataFile("regular_selection.jsonl", "eval", seed=200, regular=40, stress=0),
    DataFile("stress_selection.jsonl", "eval", seed=300, regular=0, stress=40),
    DataFile("valid.jsonl", "chat", seed=102, regular=20, stress=20),
    DataFile("train.jsonl", "chat", seed=100, regular=1000, stress=1000),
)


def cases_of(file: DataFile, taken: set[str]) -> list[Case]:
    """Return a file's tables in a seeded order.

    Side effects: adds every prompt to `taken`; prompts that stand there already are passed over.
    """

    def fresh(kind: Kind, n: int) -> list[Case]:
        cases = (generate_case(file.seed, index, kind, ROWS[kind]) for index in count())
        chosen = list(islice((case for case in cases if case.prompt not in taken), n))
        taken.update(case.prompt for case in chosen)
        return chosen

    cases = [*fresh("regular", file.regular), *fresh("stress", file.stress)]
    if file.regular and file.stress:
        random.Random(file.seed).shuffle(cases)
    return cases


def lines_of(file: DataFile, cases: list[Case]) -> list[dict[str, Any]]:
    """Return the rows of a file in its format."""
    return [chat_row(case) if file.format == "chat" else eval_row(case) for case in cases]


def main() -> None:
    """Write every file and print its size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=DATA, help="folder to write to (default: data/ beside this file)")
    out: Path = parser.parse_args().out
    taken: set[str] = set()
    for file in FILES:
        rows = lines_of(file, cases_of(file, taken))
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_atomic(out / file.name, text)
        print(f"{file.name}: {len(rows)} rows, {len(text.encode()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
