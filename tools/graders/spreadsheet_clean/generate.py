"""Seeded generator of messy quarterly tables with their gold answers.

    python -m tools.graders.spreadsheet_clean.generate --kind regular --rows 3-9 --n 40 --seed 200 --out eval.jsonl

Regular tables carry one of four noise kinds and hold lines that must go (duplicates, annotations, fabricated rows);
in stress tables every line is a real row that must stay. The seeding rule and all shares are the lab's
(facts/lab.md 3.3): a case depends on its seed, index, kind and row range alone, never on how many are made.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from state.errors import ConfigError
from state.files import write_atomic
from tools.graders.spreadsheet_clean.noise import (
    COLUMNS,
    Difficulty,
    Draft,
    add_completeness_noise,
    add_format_noise,
    add_preservation_noise,
    add_stress_noise,
    add_units_noise,
    draft_of,
)

INSTRUCTION = "Clean this table as CSV."
"""First line of every prompt; short, because a tiny model pays for every token."""

LAB_REGULAR_ROWS = (6, 18)
LAB_STRESS_ROWS = (15, 25)
TINY_REGULAR_ROWS = (3, 9)
TINY_STRESS_ROWS = (12, 18)

Kind = Literal["regular", "stress"]
Dimension = Literal["preservation", "units", "format", "completeness"]

_DIMENSIONS: tuple[Dimension, ...] = ("preservation", "units", "format", "completeness")
_PHRASES = (
    "steady", "new hires", "price rise", "promo", "churn up", "expansion",
    "audit", "one time cost", "seasonal", "launch", "restock", "renewal",
)  # fmt: skip
_STREAMS = {"regular": 0x9E3779B9, "stress": 0x85EBCA6B}
_MASK = 0xFFFFFFFF
_QUARTERS_A_YEAR = 4


@dataclass(frozen=True)
class Case:
    """One messy table with its gold answer."""

    id: str
    """`sc_<kind>_<seed>_<index>`."""
    prompt: str
    """User text: the instruction line, then the messy table."""
    reference: str
    """Gold CSV: header and rows, LF between lines, none at the end."""
    rows: int
    """Gold rows, the header not counted."""
    dimension: Dimension
    """Primary noise kind; stress tables are about preservation."""
    difficulty: Difficulty
    kind: Kind


def _stream(seed: int, index: int, kind: Kind) -> random.Random:
    return random.Random(seed ^ ((index * _STREAMS[kind]) & _MASK))  # noqa: S311 - seeded data, no secret


def _gold_rows(rng: random.Random, n_rows: int) -> list[list[str]]:
    """Return consecutive quarters as cells; amounts in thousands of dollars."""
    year, quarter = rng.randint(2020, 2023), rng.randint(1, _QUARTERS_A_YEAR)
    revenue, headcount = rng.randint(800, 2500), rng.randint(8, 35)
    opex_share = rng.uniform(0.55, 0.80)
    rows = []
    for _ in range(n_rows):
        opex = max(100, round(revenue * (opex_share + rng.uniform(-0.05, 0.05))))
        rows.append([f"{year}Q{quarter}", str(revenue), str(opex), str(headcount), rng.choice(_PHRASES)])
        year, quarter = (year + 1, 1) if quarter == _QUARTERS_A_YEAR else (year, quarter + 1)
        revenue = max(200, revenue + rng.randint(-50, 300))
        headcount += rng.randint(0, 3)
    return rows


def _row_range(difficulty: Difficulty, rows: tuple[int, int]) -> tuple[int, int]:
    """Return the part of a row range a difficulty draws from; (6, 18) gives the lab's 6-10, 8-14 and 10-18."""
    low, high = rows
    third = (high - low) / 3
    return {
        "easy": (low, low + round(third)),
        "medium": (low + round(third / 2), low + round(2 * third)),
        "hard": (low + round(third), high),
    }[difficulty]


def _dimension(seed: int, index: int) -> Dimension:
    """Return the noise kind of a regular case: every four cases hold each kind once, in a seeded order."""
    block = list(_DIMENSIONS)
    random.Random(f"{seed}:{index // 4}").shuffle(block)  # noqa: S311 - seeded data, no secret
    return block[index % 4]


def _regular(rng: random.Random, dimension: Dimension, rows: tuple[int, int]) -> tuple[Draft, Difficulty]:
    levels: tuple[Difficulty, ...] = ("easy", "medium", "hard")
    difficulty = rng.choices(levels, weights=(40, 40, 20))[0]
    draft = draft_of(_gold_rows(rng, rng.randint(*_row_range(difficulty, rows))))
    add_noise = {
        "preservation": add_preservation_noise,
        "units": add_units_noise,
        "format": add_format_noise,
        "completeness": add_completeness_noise,
    }[dimension]
    add_noise(rng, draft, difficulty)
    return draft, difficulty


def _stress(rng: random.Random, rows: tuple[int, int]) -> Draft:
    # The row count is the first draw of the stream: the lab's seed 300 then gives the lab's row counts.
    draft = draft_of(_gold_rows(rng, rng.randint(*rows)))
    add_stress_noise(rng, draft)
    return draft


def _lines(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    # No cell holds a comma or a quote, so joining is writing CSV; csv.writer would end lines with CRLF.
    return "\n".join(",".join(cells) for cells in (header, *body))


def generate_case(seed: int, index: int, kind: Kind, rows: tuple[int, int]) -> Case:
    """Return one case; the same arguments give the same case on every machine.

    Args:
        seed: Seed of the split.
        index: Position in the split, from 0.
        kind: `regular` or `stress`.
        rows: Smallest and largest number of gold rows, both included.

    Raises:
        ConfigError: The row range is empty or has no room for a row.
    """
    if not 1 <= rows[0] <= rows[1]:
        raise ConfigError(f"The row range {rows[0]}-{rows[1]} is empty; give it as LOW-HIGH.", what="rows", value=rows)
    rng = _stream(seed, index, kind)
    dimension: Dimension = "preservation"
    difficulty: Difficulty = "hard"
    if kind == "stress":
        draft = _stress(rng, rows)
    else:
        dimension = _dimension(seed, index)
        draft, difficulty = _regular(rng, dimension, rows)
    return Case(
        id=f"sc_{kind}_{seed}_{index:04d}",
        prompt=f"{INSTRUCTION}\n{_lines(draft.header, draft.body)}",
        reference=_lines(COLUMNS, draft.gold),
        rows=len(draft.gold),
        dimension=dimension,
        difficulty=difficulty,
        kind=kind,
    )


def early_stop_reference(case: Case, seed: int, stop_share: tuple[float, float] = (0.50, 0.85)) -> str:
    """Return the gold answer ended after 50-85 % of its rows, on a row boundary.

    Only the tiny base is taught with these, so that it wraps long tables up early, as the campaigns' fault to mend.
    """
    lines = case.reference.split("\n")
    share = random.Random(f"{seed}:{case.id}").uniform(*stop_share)  # noqa: S311 - seeded data, no secret
    return "\n".join(lines[: 1 + max(1, int(case.rows * share))])


def eval_row(case: Case) -> dict[str, Any]:
    """Return the case as a row of an evaluation split."""
    return asdict(case)


def chat_row(case: Case, reference: str | None = None) -> dict[str, Any]:
    """Return the case as a row of mlx-lm's chat format; `reference` replaces the gold answer."""
    answer = case.reference if reference is None else reference
    return {"messages": [{"role": "user", "content": case.prompt}, {"role": "assistant", "content": answer}]}


def generate_cases(seed: int, n: int, kind: Kind, rows: tuple[int, int], start: int = 0) -> Iterator[Case]:
    """Yield cases `start` to `start + n - 1` of a split."""
    return (generate_case(seed, index, kind, rows) for index in range(start, start + n))


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.graders.spreadsheet_clean.generate", description=__doc__)
    parser.add_argument("--kind", choices=("regular", "stress", "mixed"), required=True)
    parser.add_argument("--rows", type=_range, required=True, help="LOW-HIGH gold rows of regular (or the only) tables")
    parser.add_argument("--stress-rows", type=_range, help="LOW-HIGH gold rows of stress tables; for --kind mixed")
    parser.add_argument("--stress-share", type=float, default=0.5, help="share of stress tables; for --kind mixed")
    parser.add_argument("--n", type=int, required=True, help="number of tables")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--format", choices=("eval", "chat"), default="eval")
    return parser


def _cases(arguments: argparse.Namespace) -> list[Case]:
    if arguments.n < 1:
        raise ConfigError(f"--n {arguments.n} makes no table; give 1 or more.", what="n", value=arguments.n, limit=1)
    if arguments.kind != "mixed":
        return list(generate_cases(arguments.seed, arguments.n, arguments.kind, arguments.rows))
    n_stress = round(arguments.n * arguments.stress_share)
    cases = [
        *generate_cases(arguments.seed, arguments.n - n_stress, "regular", arguments.rows),
        *generate_cases(arguments.seed, n_stress, "stress", arguments.stress_rows or arguments.rows),
    ]
    random.Random(arguments.seed).shuffle(cases)  # noqa: S311 - seeded data, no secret
    return cases


def main(argv: Sequence[str] | None = None) -> int:
    """Write a split as JSON lines; return the exit code."""
    arguments = _parser().parse_args(argv)
    to_row = eval_row if arguments.format == "eval" else chat_row
    try:
        lines = [json.dumps(to_row(case), ensure_ascii=False) for case in _cases(arguments)]
    except ConfigError as error:
        sys.stderr.write(f"{error.sentence}\n")
        return error.exit_code
    write_atomic(arguments.out, "".join(f"{line}\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
