"""Write the example's data: pump logs in words, and the numbers that belong in a table.

    python runbooks/your_task/make_data.py

The three files are drawn from one seed, and no log stands in two of them.
"""

import json
import random
from pathlib import Path

DATA = Path(__file__).parent / "data"
SEED = 7
ROWS = {"train": 1200, "valid": 40, "test": 160}
"""File -> logs; the last 160 are never trained on and become the evaluation cases."""
MOST_LINES = 2
ASK = "Give minutes,bar,litres of each line."
WORDINGS = (
    "ran {minutes} min at {bar} bar, {litres} l",
    "{minutes} min, {bar} bar, moved {litres} l",
    "at {bar} bar for {minutes} min, {litres} l",
    "moved {litres} l in {minutes} min at {bar} bar",
)
"""Two give the numbers in the wanted order, two do not: copying alone is not enough."""


def log(dice: random.Random) -> dict[str, str]:
    """Return one row in mlx-lm's completions form."""
    lines, answers = [], []
    for _ in range(dice.randint(1, MOST_LINES)):
        reading = {"minutes": dice.randint(2, 240), "bar": dice.randint(2, 99), "litres": dice.randint(100, 9999)}
        lines.append(dice.choice(WORDINGS).format(**reading))
        answers.append(",".join(str(number) for number in reading.values()))
    return {"prompt": "\n".join([ASK, *lines]), "completion": "\n".join(answers)}


def main() -> None:
    """Write train.jsonl, valid.jsonl and test.jsonl."""
    dice, taken = random.Random(SEED), set()
    DATA.mkdir(exist_ok=True)
    for name, wanted in ROWS.items():
        rows: list[dict[str, str]] = []
        while len(rows) < wanted:
            row = log(dice)
            if row["prompt"] not in taken:
                taken.add(row["prompt"])
                rows.append(row)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (DATA / f"{name}.jsonl").write_text(text, encoding="utf-8")
        print(f"{name}.jsonl: {len(rows)} rows")


if __name__ == "__main__":
    main()
