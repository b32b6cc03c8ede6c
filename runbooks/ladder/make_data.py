"""Write what the ladder has beside the quickstart's data: stress cases, preference pairs, and cases for rollouts.

    python runbooks/ladder/make_data.py

Tables come from the track's seeded generator; one that stands in a file of the quickstart is left out. The rejected
side of a pair stops before the last row or goes on after it, half and half, so that length alone tells nothing.
"""

import argparse
import json
import random
from itertools import count, islice
from pathlib import Path
from typing import Any

from state.files import write_atomic
from tools.data.cases import user_prompt
from tools.graders.spreadsheet_clean.generate import (
    TINY_REGULAR_ROWS,
    TINY_STRESS_ROWS,
    Case,
    Kind,
    eval_row,
    generate_case,
)

HERE = Path(__file__).parent
QUICKSTART = HERE.parent / "quickstart" / "data"
ROWS: dict[Kind, tuple[int, int]] = {"regular": TINY_REGULAR_ROWS, "stress": TINY_STRESS_ROWS}
LEFT_SHARES = (0.5, 0.9)
"""Share of its rows that a table cut short keeps: from, to."""


def tables(seed: int, kind: Kind, n: int, taken: set[str]) -> list[Case]:
    """Return fresh tables.

    Side effects: adds their prompts to `taken`.
    """
    found = (generate_case(seed, index, kind, ROWS[kind]) for index in count())
    chosen = list(islice((case for case in found if case.prompt not in taken), n))
    taken.update(case.prompt for case in chosen)
    return chosen


def worse(lines: list[str], chance: random.Random, *, is_short: bool) -> list[str]:
    """Return a table's lines, header first, cut short or with rows again after the last."""
    rows = len(lines) - 1
    changed = max(1, rows - round(chance.uniform(*LEFT_SHARES) * rows))
    if is_short:
        return lines[: len(lines) - changed]
    start = chance.randint(1, len(lines) - changed)
    return [*lines, *lines[start : start + changed]]


def pair(case: Case, number: int, chance: random.Random) -> dict[str, Any]:
    """Return a table as a preference pair."""
    row = eval_row(case)
    gold = str(row["reference"])
    rejected = "\n".join(worse(gold.split("\n"), chance, is_short=number % 2 == 0))
    return {"prompt": row["prompt"], "chosen": gold, "rejected": rejected}


def main() -> None:
    """Write every file and print its size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--out", type=Path, default=HERE / "data", help="folder to write to (default: data/ beside this)"
    )
    out: Path = parser.parse_args().out
    taken = {
        user_prompt(json.loads(line)) for path in QUICKSTART.glob("*.jsonl") for line in path.read_text().splitlines()
    }
    chance = random.Random(600)
    # What judges comes first; what is learned from gives way to it.
    confirmation, selection = tables(701, "stress", 100, taken), tables(700, "stress", 80, taken)
    preferred = [*tables(600, "stress", 160, taken), *tables(600, "regular", 80, taken)]
    rolled = [*tables(500, "stress", 96, taken), *tables(500, "regular", 32, taken)]
    files = {
        "pairs.jsonl": [pair(case, number, chance) for number, case in enumerate(preferred)],
        "rollouts.jsonl": [eval_row(case) for case in rolled],
        "stress_selection.jsonl": [eval_row(case) for case in selection],
        "stress_confirmation.jsonl": [eval_row(case) for case in confirmation],
    }
    for name, rows in files.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_atomic(out / name, text)
        print(f"{name}: {len(rows)} rows, {len(text.encode()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
