"""Every fault so many times, and what came of it, as one table: `make faults`.

python -m tests.faults [--part NAME …] [--most N] [--minutes N] [--seed N] [--table] [--list]

Faults come in batches that each stand alone. What a batch did is appended to `results.jsonl` with its seed, the commit
that it ran on and the seconds that it took; a second call goes on where the first was ended, the part that is furthest
behind first. A batch in which something was wrong is tried again with its seed before anything else, and `--seed` does
one seed of one part. `--table` runs nothing and prints what is on file.

The exit code is 1 while the last try of any batch on file has a violation.
"""

import argparse
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from state.files import read_jsonl
from tests.faults.campaign import warm
from tests.faults.campaign.reboot import processes_of
from tests.faults.parts import PARTS
from tests.faults.parts.contract import Batch, Part

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results.jsonl")
_HEAD = ("part", "faults", "asked", "violations", "mended", "commits", "minutes", "what")
_WIDTHS = (22, 7, 6, 10, 6, 8, 7, 0)


@dataclass(frozen=True)
class Tally:
    """What is on file about one part; of batches with the same seed the last counts.

    Args:
        faults: That hit.
        seeds: Of the batches.
        wrong: Seed and sentence of each violation that stands.
        mended: Violations of a batch that a later try with its seed did not have.
        commits: How many the batches ran on.
        took_s: Seconds.
        figures: Summed over batches.
    """

    faults: int
    seeds: frozenset[int]
    wrong: tuple[tuple[int, str], ...]
    mended: int
    commits: int
    took_s: float
    figures: dict[str, float]


def tally(rows: Iterable[dict[str, Any]], name: str) -> Tally:
    """Return what rows say about a part."""
    mine = [row for row in rows if row["part"] == name]
    last = {row["seed"]: row for row in mine}
    figures: dict[str, float] = {}
    for row in last.values():
        for key, value in row["figures"].items():
            figures[key] = figures.get(key, 0) + value
    wrong = tuple((seed, sentence) for seed, row in last.items() for sentence in row["violations"])
    return Tally(
        faults=sum(row["faults"] for row in last.values()),
        seeds=frozenset(last),
        wrong=wrong,
        mended=sum(len(row["violations"]) for row in mine) - len(wrong),
        commits=len({row["commit"] for row in last.values()}),
        took_s=sum(row["took_s"] for row in last.values()),
        figures=figures,
    )


def commit() -> str:
    """Return the commit that is checked out, with a + where a file of the product or of the harness differs from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S607 - the developer's own git

    code = ("agent", "policies", "state", "tools", "tests/faults/*.py")
    return git("rev-parse", "--short=12", "HEAD") + "+" * bool(git("status", "--porcelain", "--", *code))


def work(part: Part, seed: int, most: int, results: Path) -> Batch:
    """Do one batch in a folder and on a machine of its own, and put it on file.

    A batch that leaves something wrong keeps its folder.
    """
    started, where = time.monotonic(), commit()
    # Resolved: on macOS the temporary folder is behind a link.
    folder = Path(tempfile.mkdtemp(prefix=f"vigil-{part.name}-{seed}-")).resolve()
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(folder / "machine")
    (folder / "batch").mkdir()
    try:
        batch = part.batch(seed, folder / "batch", most)
    except Exception as error:  # noqa: BLE001 - a batch that breaks is a violation with its seed, and the next one goes on
        batch = Batch(0, (f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",))
    finally:
        warm.end_all()
        # A batch that broke may have left an agent or a job behind.
        for process in processes_of(folder):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        os.environ.pop("XDG_STATE_HOME")
        if before is not None:
            os.environ["XDG_STATE_HOME"] = before
    row = {"part": part.name, "seed": seed, "commit": where, "took_s": round(time.monotonic() - started, 1)}
    done = {**asdict(batch), "violations": [said.replace(str(folder), "") for said in batch.violations]}
    with results.open("a") as file:
        # First the line end: the last call may have been killed in the middle of a row.
        file.write("\n" + json.dumps(row | done))
    if batch.violations:
        print(f"Kept for a look: {folder}", flush=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return batch


def next_batch(parts: Sequence[Part], rows: Sequence[dict[str, Any]], most: int | None) -> tuple[Part, int, int] | None:
    """Return the part, seed and number of faults that come next; None where all is done.

    Args:
        parts: To choose from.
        rows: On file.
        most: Faults of each part; None: as many as the full table has.
    """
    tallies = {part.name: tally(rows, part.name) for part in parts}
    behind = []
    for place, part in enumerate(parts):
        full, on_file = min(part.full, most or part.full), tallies[part.name]
        if on_file.faults < full:
            behind.append((on_file.faults / full, place, part, full - on_file.faults))
    if not behind:
        return None
    _, _, part, left = min(behind)[:4]
    return part, max(tallies[part.name].seeds, default=0) + 1, left


def table(parts: Sequence[Part], rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table's lines."""
    lines = [_line(_HEAD)]
    for part in parts:
        on_file = tally(rows, part.name)
        numbers = (on_file.faults, part.full, len(on_file.wrong), on_file.mended, on_file.commits)
        figures = ", ".join(f"{value:,.4g} {name}" for name, value in sorted(on_file.figures.items()))
        why = part.why_not()
        note = f" [not here: {why}]" if why else f" ({figures})" if figures else ""
        lines.append(
            _line((part.name, *(f"{number:,}" for number in numbers), f"{on_file.took_s / 60:.0f}", part.what + note))
        )
    return lines


def _line(cells: Sequence[str]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)).rstrip()


def _said(part: Part, seed: int, batch: Batch) -> None:
    print(f"{part.name} seed {seed}: {batch.faults} faults, {len(batch.violations)} violations", flush=True)
    for sentence in batch.violations:
        print(f"  VIOLATION, seed {seed}: {sentence}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Go on with the table; return 1 where a violation stands."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.name for part in PARTS]
    parser.add_argument("--part", action="append", choices=names, metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--most", type=int, help="most faults of each part, instead of the full table's")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no batch after so long")
    parser.add_argument("--seed", type=int, help="do this one seed of one part, again if it was done")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file of results")
    parser.add_argument("--table", action="store_true", help="print what is on file and run nothing")
    parser.add_argument("--list", action="store_true", help="print the names of the parts")
    asked = parser.parse_args(argv)
    wanted = [part for part in PARTS if part.name in (asked.part or names)]
    if asked.list:
        print("\n".join(part.name for part in wanted))
        return 0
    if asked.seed is not None and len(wanted) != 1:
        parser.error("--seed needs one --part")
    if not asked.table:
        with asked.results.open("a") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                parser.error(f"another run fills {asked.results}; --table prints it")
            _go_on(wanted, asked)
    rows = read_jsonl(asked.results)
    print("\n".join(["", *table(wanted, rows)]))
    standing = [(part, seed, said) for part in wanted for seed, said in tally(rows, part.name).wrong]
    for part, seed, said in standing:
        print(f"VIOLATION, {part.name} seed {seed}: {said}")
    return int(bool(standing))


def _go_on(wanted: Sequence[Part], asked: argparse.Namespace) -> None:
    """Do batches until all is done, or the time is up."""
    end = time.monotonic() + asked.minutes * 60
    able = [part for part in wanted if not part.why_not()]
    if asked.seed is not None:
        _said(able[0], asked.seed, work(able[0], asked.seed, asked.most or able[0].full, asked.results))
        return
    rows = read_jsonl(asked.results)
    again = [(part, seed) for part in able for seed in sorted({seed for seed, _ in tally(rows, part.name).wrong})]
    for part, seed in again:
        if time.monotonic() < end:
            _said(part, seed, work(part, seed, part.full, asked.results))
    fruitless = 0
    while time.monotonic() < end:
        coming = next_batch(able, read_jsonl(asked.results), asked.most)
        if coming is None:
            return
        part, seed, left = coming
        batch = work(part, seed, left, asked.results)
        _said(part, seed, batch)
        fruitless = 0 if batch.faults else fruitless + 1
        if fruitless == 3:
            # A part that hits nothing would be tried without end.
            print(f"{part.name} is left out: three batches in a row hit nothing.", flush=True)
            able, fruitless = [other for other in able if other is not part], 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    finally:
        warm.cool()
