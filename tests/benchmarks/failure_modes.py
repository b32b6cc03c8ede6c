"""Every failure of the catalogue, put into a campaign or a project: is it found, how soon, and what did that save?

python -m tests.benchmarks.failure_modes [MODE …] [--no-mlx] [--at-once N] [--again] [--markdown FILE]

Each row is a whole `vigil run` or `vigil audit`, printed as it ends and kept: a second call goes on where the first was
ended, and tries again what was missed. Rows of other code are not counted.

Seconds to detect count from the start of the campaign, or of the audit's process. Training saved is Vigil's own
reckoning (`vigil beliefs --tally`): for a hard stop the planned seconds of the runs that the budget allowed, for a
guard those of the steps that its run did not make. Runs are short here on purpose: a night's hours are this share of a
night. A warning stops nothing, and an audit knows no budget: nothing is claimed for them. Below, clean campaigns and
projects of different shapes, and how many alarms they raised.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from agent.render.words import count, duration
from state.files import read_json, read_jsonl, write_atomic
from state.hashing import hash_file, hash_json
from tests.faults.campaign import warm
from tests.faults.campaign.world import ROOT
from tests.faults.failure_modes import shapes, tampering
from tests.faults.failure_modes.audits import PROJECTS
from tests.faults.failure_modes.projects import Project, clean_builders
from tests.faults.failure_modes.scenarios import QUICK, SLOW, Scenario
from tests.faults.failure_modes.seen import TIMEOUT_S, Finding, Seen, audit, run
from tests.faults.failure_modes.worlds import World

MODES = (*map(str, range(1, 16)), *(f"P{number}" for number in range(1, 13)))
STORE = ROOT / ".bench" / "failure_modes.jsonl"

_CODE = ("agent", "policies", "state", "tools", "tests/faults")
_CLEAN = ("clean campaign", "clean project")
_HEAD = ("mode", "by", "detected", "seconds to detect", "training saved", "failure")
_WIDTHS = (4, 14, 8, 17, 14)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        mode: Row of the catalogue; empty for a clean one.
        name: The failure, or the clean one, in words.
        by: run or audit; clean campaign or clean project.
        is_good: Whether the failure was found with its subject and number; whether a clean one raised no alarm.
        after_s: Seconds until it was found.
        saved_s: Training that was not spent, seconds; None: nothing or unknown.
        why: What was seen instead, where it is not good.
    """

    mode: str
    name: str
    by: str
    is_good: bool
    after_s: float | None = None
    saved_s: float | None = None
    why: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """Its columns."""
        good, bad = ("silent", "ALARM") if self.by in _CLEAN else ("yes", "MISSED")
        after = f"{self.after_s:.1f} s" if self.after_s is not None else "-"
        saved = duration(self.saved_s) if self.saved_s else "-"
        return (
            self.mode or "-",
            self.by,
            good if self.is_good else bad,
            after,
            saved,
            f"{self.name}: {self.why}" if self.why else self.name,
        )


@dataclass(frozen=True)
class Ask:
    """One line before it is known: which, and what finds out."""

    mode: str
    by: str
    name: str
    look: Callable[["Ask", Path], Row]

    @property
    def key(self) -> str:
        """What it is kept under."""
        return f"{self.by} {self.mode}: {self.name}"

    def row(self, found: Finding | None, seen: Seen) -> Row:
        """Return its line, given what was found."""
        if found is None:
            return self.missed(_instead(seen))
        return Row(self.mode, self.name, self.by, is_good=True, after_s=found.after_s, saved_s=found.saved_s)

    def missed(self, why: str) -> Row:
        """Return its line where it was not found."""
        return Row(self.mode, self.name, self.by, is_good=False, why=why)

    def answer(self) -> Row:
        """Find out, in a folder of its own; what takes too long is missed."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            try:
                return self.look(self, Path(folder))
            except (subprocess.TimeoutExpired, TimeoutError):
                return self.missed(f"it took longer than {TIMEOUT_S:g} s")


def _instead(seen: Seen) -> str:
    """Say what was seen where something else was to be."""
    modes = ", ".join(f"{finding.mode} {finding.subject} {finding.claim}" for finding in seen.alarms) or "nothing"
    last = (seen.said.strip().splitlines() or ["it said nothing"])[-1]
    return f"exit {seen.code}, found {modes}; {last[:300]}"


def _of_run(scenario: Scenario, ask: Ask, folder: Path) -> Row:
    seen = scenario.run_injected(folder / "injected")
    return ask.row(scenario.find(seen), seen)


def _of_audit(project: Project, ask: Ask, folder: Path) -> Row:
    seen = audit(project.build(folder / "project"), *project.options(folder / "project"))
    return ask.row(project.find(seen), seen)


def _half_trained(ask: Ask, folder: Path) -> Row:
    """Let every training die half way, and look whether what it left behind is ever measured."""
    seen = run(World(student={"dies_at": 10}), folder / "dying")
    evaluated = [
        (read_json(job / "job.json") or {})["input"]["side"] for job in tampering.jobs(seen.home, "evaluation")
    ]
    ends = [read_json(job / "exit.json") or {} for job in tampering.jobs(seen.home, "training")]
    is_found = seen.code == 4 and evaluated == ["base"] and {row.get("state") for row in ends} == {"failed"}
    return Row(ask.mode, ask.name, ask.by, is_found, seen.took_s, why="" if is_found else _instead(seen))


def _other_parent(ask: Ask, folder: Path) -> Row:
    """Go on from an adapter that says it was trained on other weights."""
    seen = run(shapes.adapter_start("0123456789abcdef"), folder / "other")
    is_found = seen.code == 2 and "was trained on the weights 0123456789ab" in seen.said
    return Row(ask.mode, ask.name, ask.by, is_found, seen.took_s, why="" if is_found else _instead(seen))


def _clean_campaign(make: Callable[[], World], ask: Ask, folder: Path) -> Row:
    seen = run(make(), folder / "clean")
    return _alarmed(ask, seen, is_whole=seen.code in {0, 1})


def _clean_project(build: Callable[[Path], Path], ask: Ask, folder: Path) -> Row:
    seen = audit(build(folder / "project"))
    return _alarmed(ask, seen, is_whole=seen.code == 0 and bool(seen.report["checked"]))


def _alarmed(ask: Ask, seen: Seen, *, is_whole: bool) -> Row:
    is_good = is_whole and not seen.alarms
    return Row("", ask.name, ask.by, is_good, why="" if is_good else _instead(seen))


def asks(modes: Iterable[str] = (), *, with_mlx: bool = True) -> list[Ask]:
    """Return the lines of the table, in its order.

    Args:
        modes: Only these; none asks for all, and for what is clean.
        with_mlx: Also what trains the tiny base.
    """
    wanted = set(modes)
    found = [Ask(s.mode, "run", s.name, partial(_of_run, s)) for s in (QUICK + SLOW if with_mlx else QUICK)]
    found.append(Ask("9", "run", "trainings die half way, a half-trained adapter lies there", _half_trained))
    found.append(Ask("P2", "run", "an adapter of other weights to go on from: refused", _other_parent))
    found += [Ask(p.mode, "audit", p.name, partial(_of_audit, p)) for p in PROJECTS]
    found = [ask for ask in found if not wanted or ask.mode in wanted]
    found.sort(key=lambda ask: (MODES.index(ask.mode), ask.by))
    if wanted:
        return found
    clean = shapes.CLEAN | shapes.CLEAN_REAL if with_mlx else shapes.CLEAN
    found += [Ask("", _CLEAN[0], name, partial(_clean_campaign, make)) for name, make in clean.items()]
    projects = clean_builders().items()
    return found + [Ask("", _CLEAN[1], name, partial(_clean_project, build)) for name, build in projects]


def code_hash() -> str:
    """Return the hash of everything that the rows are about."""
    files = sorted(path for part in _CODE for path in (ROOT / part).rglob("*.py"))
    return hash_json([[path.relative_to(ROOT).as_posix(), hash_file(path)] for path in files])


class Kept:
    """Rows of earlier calls, in a file of JSON lines.

    Args:
        path: The file.
        code: What rows are about; others are left out.
    """

    def __init__(self, path: Path, code: str) -> None:
        self._path = path
        self._code = code
        path.parent.mkdir(parents=True, exist_ok=True)

    def good(self) -> dict[str, Row]:
        """Return the good rows by key: those that are not are tried again."""
        rows = read_jsonl(self._path)
        kept = {row["key"]: Row(**row["row"]) for row in rows if row["code"] == self._code}
        return {key: row for key, row in kept.items() if row.is_good}

    def add(self, ask: Ask, row: Row) -> None:
        """Keep a row."""
        with self._path.open("a") as file:
            # First the line end: the last call may have been killed in the middle of a row.
            file.write("\n" + json.dumps({"code": self._code, "key": ask.key, "row": asdict(row)}))


def markdown(rows: Sequence[Row]) -> str:
    """Return the table for a document."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row.cells) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def summary(rows: Sequence[Row]) -> list[str]:
    """Return what the table says, in sentences."""
    about = [row for row in rows if row.by not in _CLEAN]
    asked = [mode for mode in MODES if any(row.mode == mode for row in about)]
    missed = [mode for mode in asked if any(row.mode == mode and not row.is_good for row in about)]
    left = f"; not {', '.join(missed)}." if missed else "."
    said = [
        f"{len(asked) - len(missed)} of {len(asked)} modes detected, by {count(len(about), 'injected failure')}{left}"
    ]
    for kind in _CLEAN:
        clean = [row for row in rows if row.by == kind]
        if clean:
            raised = sum(not row.is_good for row in clean)
            said.append(f"{raised} of {count(len(clean), kind)} raised a false alarm.")
    return said


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; return 1 where a failure was missed or a clean campaign raised an alarm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "modes", nargs="*", choices=[[], *MODES], metavar="MODE", help="only these; else all, and clean"
    )
    parser.add_argument("--no-mlx", action="store_true", help="leave out what trains the tiny base")
    parser.add_argument("--at-once", type=int, default=2, help="processes of Vigil at a time")
    parser.add_argument("--again", action="store_true", help="take no row from an earlier call")
    parser.add_argument("--store", type=Path, default=STORE, help="where rows are kept")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    asked = parser.parse_args(argv)
    started = time.monotonic()
    kept = Kept(asked.store, code_hash())
    known = {} if asked.again else kept.good()
    lines = asks(asked.modes, with_mlx=not asked.no_mlx)
    rows = {ask.key: known[ask.key] for ask in lines if ask.key in known}
    _print(_HEAD)
    for row in rows.values():
        _print(row.cells)
    # What it tells of times holds for processes that a person starts.
    with warm.cold(), ThreadPoolExecutor(asked.at_once) as pool:
        running = {pool.submit(ask.answer): ask for ask in lines if ask.key not in rows}
        try:
            for done in as_completed(running):
                ask, row = running[done], done.result()
                rows[ask.key] = row
                kept.add(ask, row)
                _print(row.cells)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    table = [rows[ask.key] for ask in lines]
    said = summary(table)
    print("\n" + "\n".join(said))
    print(f"Took {duration(time.monotonic() - started)}, {len(running)} of {len(table)} rows in this call.")
    if asked.markdown is not None:
        write_atomic(asked.markdown.absolute(), markdown(table) + "\n" + "\n".join(said) + "\n")
    return int(not all(row.is_good for row in table))


def _print(cells: Sequence[str]) -> None:
    print("  ".join(cell.ljust(width) for cell, width in zip(cells, (*_WIDTHS, 0), strict=True)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
