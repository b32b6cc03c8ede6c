"""Texts that read like people's: seeded words in sentences, and hostile ones."""

import json
import random
from itertools import count, groupby, islice
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

HOSTILE = (
    "",
    " \n\t ",
    "\x00",
    "a\x00b\n\x00,\x00\n",
    "\ud800 alone \udfff",
    "x" * 300_000,
    "a," * 200_000,
    '"' * 5_000 + ",\n" + '",",\n' * 50,
    "\r\n" * 1_000,
    "\u2028\u0085\x0b",
    "|\n|\n|\n|",
    "the " * 5_000,
)
"""Empty, null bytes, lone surrogates, one huge line, quotes without end, line ends alone, strange separators."""

_SYLLABLES = (
    "ba",
    "de",
    "fi",
    "gor",
    "hal",
    "in",
    "ker",
    "lom",
    "mir",
    "nos",
    "pel",
    "quo",
    "rin",
    "sta",
    "tun",
    "ver",
)


def words(seed: int | str, n: int) -> list[str]:
    """Return `n` seeded words of two or three syllables, none twice in a row."""
    dice = random.Random(seed)
    drawn = ("".join(dice.choices(_SYLLABLES, k=dice.choice((2, 3)))) for _ in count())
    return list(islice((word for word, _ in groupby(drawn)), n))


def sentence(seed: int | str, n: int = 40) -> str:
    """Return one seeded sentence of `n` words."""
    return f"{' '.join(words(seed, n)).capitalize()}."


def shipped(path: Path) -> list[tuple[str, str]]:
    """Return (prompt, answer) of each row of a data file of the runbooks."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "messages" in row:
            rows.append((row["messages"][0]["content"], row["messages"][1]["content"]))
        else:
            rows.append((row["prompt"], row.get("completion") or row["reference"]))
    return rows


def shipped_folders() -> list[Path]:
    """Return the data folders of the runbooks."""
    return [ROOT / "runbooks" / name for name in ("quickstart/data", "your_task/data", "spreadsheet_data")]
