"""Every failure of the catalogue, put into a campaign or a project: is it found, how soon, and what did that save?

python -m tests.benchmarks.failure_modes [MODE …] [--no-mlx] [--at-once N]

Each row is a whole process of Vigil. Seconds to detect count from the start of the campaign or the audit; training
saved is Vigil's own reckoning of the runs that the campaign would have made, which are short here on purpose. Below,
clean campaigns and projects of different shapes, and how many alarms they raised.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agent.reading.words import duration, table
from state.files import read_json
from tests.faults.failure_modes import shapes, tampering
from tests.faults.failure_modes.audits import CLEAN_PROJECTS, PROJECTS, Project, has_audit
from tests.faults.failure_modes.scenarios import QUICK, SLOW, Scenario
from tests.faults.failure_modes.seen import Finding, audit, run
from tests.faults.failure_modes.worlds import World

MODES = (*map(str, range(1, 16)), *(f"P{number}" for number in range(1, 13)))


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        mode: Row of the catalogue.
        name: The failure in words.
        by: run or audit.
        is_found: Whether it was, with its subject and number.
        after_s: Seconds until it was.
        saved_s: Training that was not spent, seconds; None: nothing or unknown.
    """

    mode: str
    name: str
    by: str
    is_found: bool
    after_s: float | None = None
    saved_s: float | None = None


def _of_run(scenario: Scenario, folder: Path) -> Row:
    found = scenario.find(scenario.run_injected(folder / "injected"))
    return _row(scenario.mode, scenario.name, "run", found)


def _of_audit(project: Project, folder: Path) -> Row:
    seen = audit(project.build(folder / "project"), *project.options(folder / "project"))
    return _row(project.mode, project.name, "audit", project.find(seen))


def _row(mode: str, name: str, by: str, found: Finding | None) -> Row:
    if found is None:
        return Row(mode, name, by, is_found=False)
    return Row(mode, name, by, is_found=True, after_s=found.after_s, saved_s=found.saved_s)


def _half_trained(folder: Path) -> Row:
    """Let every training die half way, and look whether what it left behind is ever measured."""
    seen = run(World(student={"dies_at": 10}), folder / "dying")
    evaluated = [
        (read_json(job / "job.json") or {})["input"]["side"] for job in tampering.jobs(seen.home, "evaluation")
    ]
    ends = [read_json(job / "exit.json") or {} for job in tampering.jobs(seen.home, "training")]
    is_found = seen.code == 4 and evaluated == ["base"] and {row.get("state") for row in ends} == {"failed"}
    return Row("9", "trainings die half way, a half-trained adapter lies there", "run", is_found, seen.took_s)


def _other_parent(folder: Path) -> Row:
    """Go on from an adapter that says it was trained on other weights."""
    seen = run(shapes.adapter_start("0123456789abcdef"), folder / "other")
    is_found = seen.code == 2 and "was trained on the weights 0123456789ab" in seen.said
    return Row("P2", "an adapter of other weights to go on from: refused", "run", is_found, seen.took_s)


def _alarms(make: Callable[[], World], folder: Path) -> list[Finding]:
    return run(make(), folder / "clean").alarms


def _project_alarms(build: Callable[[Path], Path], folder: Path) -> list[Finding]:
    return audit(build(folder / "project")).alarms


def _within(work: Callable[[Path], object]) -> object:
    with tempfile.TemporaryDirectory() as folder:
        return work(Path(folder))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; return 1 where a failure was missed or a clean campaign raised an alarm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modes", nargs="*", help="only these; all, and the clean ones, when left out")
    parser.add_argument("--no-mlx", action="store_true", help="leave out what trains the tiny base")
    parser.add_argument("--at-once", type=int, default=2, help="processes of Vigil at a time")
    asked = parser.parse_args(argv)
    started = time.monotonic()
    wanted = set(asked.modes or MODES)
    scenarios = [s for s in (QUICK if asked.no_mlx else QUICK + SLOW) if s.mode in wanted]
    work: list[Callable[[Path], object]] = [partial(_of_run, scenario) for scenario in scenarios]
    work += [ask for mode, ask in (("9", _half_trained), ("P2", _other_parent)) if mode in wanted]
    if has_audit():
        work += [partial(_of_audit, project) for project in PROJECTS if project.mode in wanted]
    clean = {} if asked.modes else (shapes.CLEAN if asked.no_mlx else shapes.CLEAN | shapes.CLEAN_REAL)
    projects = CLEAN_PROJECTS if has_audit() and not asked.modes else {}
    with ThreadPoolExecutor(asked.at_once) as pool:
        rows = [row for row in pool.map(_within, work) if isinstance(row, Row)]
        campaigns = list(pool.map(_within, [partial(_alarms, make) for make in clean.values()]))
        folders = list(pool.map(_within, [partial(_project_alarms, build) for build in projects.values()]))
    missed = _told(rows, sorted(wanted, key=MODES.index))
    raised = _clean_told("campaigns", dict(zip(clean, campaigns, strict=True)))
    raised += _clean_told("projects", dict(zip(projects, folders, strict=True)))
    print(f"Took {duration(time.monotonic() - started)}.")
    return int(bool(missed or raised))


def _told(rows: list[Row], wanted: list[str]) -> list[str]:
    """Print what was found, and return the modes that were not."""
    rows.sort(key=lambda row: (MODES.index(row.mode), row.by))
    cells = [
        (
            row.mode,
            row.by,
            f"{row.after_s:.1f} s" if row.after_s is not None else "-" if row.is_found else "MISSED",
            duration(row.saved_s) if row.saved_s else "-",
            row.name,
        )
        for row in rows
    ]
    for line in table(("mode", "by", "detected", "saved", "failure"), cells):
        print(line)
    found = {row.mode for row in rows if row.is_found} - {row.mode for row in rows if not row.is_found}
    missed = [mode for mode in wanted if mode not in found]
    print(
        f"\n{len(wanted) - len(missed)} of {len(wanted)} detected" + (f"; not {', '.join(missed)}." if missed else ".")
    )
    return missed


def _clean_told(what: str, found: dict[str, object]) -> int:
    """Print how many alarms clean ones raised, and return their number."""
    if not found:
        return 0
    alarms = {name: row for name, row in found.items() if isinstance(row, list)}
    count = sum(map(len, alarms.values()))
    print(f"{count} false alarms in {len(alarms)} clean {what}: {'; '.join(alarms)}.")
    for name, row in alarms.items():
        for alarm in row:
            print(f"  {name}: {alarm.mode} {alarm.subject} {alarm.claim}: {alarm.sentence}")
    return count


if __name__ == "__main__":
    sys.exit(main())
