"""Forty-odd hand-made mutants of the judgements, each of which a named test must notice: `make mutants`.

python -m tests.mutants [--only NAME …] [--table]

Each change is made alone, in a copy of the tree, and the tests named beside it run there. What came of it is appended
to `mutants.jsonl` with the commit; a second call tries only those whose source, tests or mutant changed since. The exit
code is 1 while a mutant survives without a reason in `EQUAL`. Never in CI, where only `tests/project/test_mutants.py`
asks that each old text still stands once.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from state.files import read_jsonl
from state.hashing import hash_bytes, short
from tests.faults.__main__ import commit

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("mutants.jsonl")
_PARTS = ("agent", "policies", "state", "tools", "tests", "pyproject.toml", "runbooks")


class Mutant(NamedTuple):
    """One change that must not go unnoticed."""

    name: str
    file: str
    old: str
    """Stands exactly once in the file."""
    new: str
    tests: str
    """Files below tests/, parted by spaces."""


_SIGNIFICANCE, _GATE, _VERDICT = "policies/significance.py", "policies/gate.py", "policies/verdict.py"
_POWER, _LEDGER, _VALIDITY = "policies/power.py", "policies/ledger.py", "policies/validity.py"
_BUCKETS, _EXHAUSTION = "policies/test_buckets.py", "policies/test_exhaustion.py"
_SPENDING = "policies/test_ledger.py policies/test_spending.py"

MUTANTS = (
    # The six that survived at 100 % coverage, as far as their code still stands.
    Mutant(
        "share of excluded cases",
        _GATE,
        "MAX_EXCLUDED_SHARE = 0.1",
        "MAX_EXCLUDED_SHARE = 0.2",
        "policies/test_gate.py",
    ),
    Mutant(
        "fails well beyond the bound",
        _GATE,
        "if sign * (far - bound) < -EPSILON:",
        "if sign * (far - bound) < -0.02:",
        "policies/test_gate.py",
    ),
    Mutant("power of planned cases", _SIGNIFICANCE, "POWER = 0.8", "POWER = 0.5", "policies/test_power.py"),
    Mutant(
        "a win within the noise floor",
        _VERDICT,
        "    if target.sign * compared.estimate - _floor(evidence, compared) > EPSILON:",
        "    if target.sign * compared.estimate > EPSILON:",
        _BUCKETS,
    ),
    Mutant(
        "spread of several runs",
        _VERDICT,
        "share = math.sqrt((1 + 1 / max(1, len(verdicts))) / 2)",
        "share = 1.0",
        _EXHAUSTION,
    ),
    Mutant(
        "delta without the noise floor",
        "policies/target.py",
        "max(noise_floor, scale.width / parent.n)",
        "scale.width / parent.n",
        _BUCKETS,
    ),
    # The tests and bounds.
    Mutant("share of alpha", _SIGNIFICANCE, "_SHARE = 0.75", "_SHARE = 1.0", "policies/test_significance.py"),
    Mutant("two-sided p halved", _SIGNIFICANCE, "min(1.0, 2 * min(", "min(1.0, min(", "policies/test_significance.py"),
    Mutant(
        "unseen losses halved",
        _SIGNIFICANCE,
        "kept = alpha ** (1 / n)",
        "kept = alpha ** (0.5 / n)",
        "policies/test_significance.py",
    ),
    Mutant(
        "no Student's t", _SIGNIFICANCE, "((n - 1) * share - 1) / n)", "(n - 2) / n)", "policies/test_significance.py"
    ),
    Mutant(
        "upper bound at half the level",
        _SIGNIFICANCE,
        "n - successes, 1 - alpha)",
        "n - successes, 1 - alpha / 2)",
        "policies/test_significance.py",
    ),
    Mutant(
        "binomial without the one",
        _SIGNIFICANCE,
        "special.betainc(successes, n - successes + 1, ",
        "special.betainc(successes, n - successes, ",
        "policies/test_significance.py",
    ),
    Mutant(
        "wilson's last term",
        _SIGNIFICANCE,
        "z * z / (4 * n * n)",
        "z * z / (2 * n * n)",
        "policies/test_significance.py",
    ),
    Mutant(
        "power looked for from half",
        _POWER,
        "if power(middle) >= wanted else (middle, high)",
        "if power(middle) < wanted else (middle, high)",
        "policies/test_power.py",
    ),
    # The gate.
    Mutant(
        "any-of at the full level",
        _GATE,
        "level = alpha / len(condition.metrics)",
        "level = alpha",
        "policies/test_gate.py",
    ),
    Mutant(
        "one condition is enough",
        _GATE,
        "holds = all(verdict.holds for",
        "holds = any(verdict.holds for",
        "policies/test_gate.py",
    ),
    Mutant(
        "plain beyond the bound",
        _GATE,
        "held = sign * (compared.estimate - bound) >= -EPSILON",
        "held = sign * (compared.estimate - bound) > EPSILON",
        "policies/test_gate.py",
    ),
    Mutant(
        "plain with cases missing",
        _GATE,
        '"undecided" if misses_cases(compared.n, compared.excluded) else "holds"\n    near',
        '"holds"\n    near',
        "policies/test_gate.py",
    ),
    Mutant(
        "an exact test without order noise",
        _GATE,
        "if compared.noise_sd:",
        "if compared.noise_sd < 0:",
        "policies/test_gate.py",
    ),
    # The verdict.
    Mutant(
        "looks of the gate",
        _VERDICT,
        "    alpha = evidence.gate.alpha / evidence.looks\n",
        "    alpha = evidence.gate.alpha\n",
        f"policies/test_looks.py {_BUCKETS}",
    ),
    Mutant(
        "looks of the target",
        _VERDICT,
        "alpha = ALPHA / evidence.looks / alternatives",
        "alpha = ALPHA / alternatives",
        f"policies/test_looks.py {_BUCKETS}",
    ),
    Mutant(
        "alternatives of the target",
        _VERDICT,
        "alpha = ALPHA / evidence.looks / alternatives",
        "alpha = ALPHA / evidence.looks",
        _BUCKETS,
    ),
    Mutant("order noise counts once", _VERDICT, "NOISE_FACTOR = 2.0", "NOISE_FACTOR = 1.0", _BUCKETS),
    Mutant("promoted on selection", _VERDICT, ' or confirmation.use != "confirmation":', ":", _BUCKETS),
    Mutant(
        "promoted without scores",
        _VERDICT,
        'ruled[1] in {"U.unmeasured", "U.missing", "U.off_scale"}',
        'ruled[1] in {"U.unmeasured", "U.off_scale"}',
        _BUCKETS,
    ),
    Mutant(
        "a run counts without its control",
        _VERDICT,
        "run.control_moved is True",
        "run.control_moved is not False",
        _EXHAUSTION,
    ),
    Mutant("two runs exhaust", _VERDICT, "LEAST_RUNS = 3", "LEAST_RUNS = 2", _EXHAUSTION),
    Mutant("one axis exhausts", _VERDICT, "LEAST_AXES = 2", "LEAST_AXES = 1", _EXHAUSTION),
    Mutant("the start is an axis", _VERDICT, ' - {"start"}', "", _EXHAUSTION),
    Mutant(
        "an unknown ceiling exhausts",
        _VERDICT,
        "if is_ceiling_above_gate is not True:",
        "if is_ceiling_above_gate is False:",
        _EXHAUSTION,
    ),
    Mutant(
        "one class ends all",
        _VERDICT,
        'exhaustion and all(verdict.state == "exhausted"',
        'exhaustion and any(verdict.state == "exhausted"',
        _EXHAUSTION,
    ),
    Mutant("one run more", _VERDICT, "count >= search.max_runs:", "count > search.max_runs:", _EXHAUSTION),
    # Alpha, cost, dose, repairs, validity.
    Mutant("fresh at a fifth", _LEDGER, "SHARED = 0.1", "SHARED = 0.2", _SPENDING),
    Mutant("all alpha at once", _LEDGER, "self.left / self.openings_left if", "self.left if", _SPENDING),
    Mutant(
        "another campaign's level",
        _LEDGER,
        "levels(self.alpha, (*self.read, known))[known.question]",
        "known.alpha",
        _SPENDING,
    ),
    Mutant(
        "small openings alone",
        _LEDGER,
        "counted |= large | (small if together and len(together) >= least else set())",
        "counted |= large",
        _SPENDING,
    ),
    Mutant(
        "an opening kept back",
        "policies/confirmation.py",
        "spending.openings_left > keep",
        "spending.openings_left >= keep",
        f"policies/test_planning.py {_SPENDING}",
    ),
    Mutant(
        "an easier alpha unasked",
        "policies/drafts.py",
        "if after.alpha > before.alpha:",
        "if after.alpha < before.alpha:",
        "policies/test_approval.py",
    ),
    Mutant(
        "a metric more unasked",
        "policies/drafts.py",
        "set(new.metrics) <= set(old.metrics)",
        "True",
        "policies/test_approval.py",
    ),
    Mutant(
        "a cut run to the second",
        "policies/cost.py",
        "CUT_SPREAD = 1.2",
        "CUT_SPREAD = 1.0",
        "policies/test_pace.py policies/test_planning.py policies/test_recipes.py",
    ),
    Mutant(
        "class hours end at once",
        "policies/cost.py",
        "(seconds <= left_s and left_s > 0)",
        "(seconds <= left_s)",
        "policies/test_recipes.py policies/test_pace.py policies/test_planning.py policies/test_search.py",
    ),
    Mutant(
        "guard beyond the budget",
        "policies/guards.py",
        "max(1.0, min(limit_s, left_s))",
        "max(1.0, limit_s, left_s)",
        "policies/test_recipes.py policies/test_planning.py policies/test_pace.py",
    ),
    Mutant(
        "dose without what was carried",
        "policies/recipes.py",
        "(SAFE_SHARE * harm.dose - carried) / own",
        "(SAFE_SHARE * harm.dose) / own",
        "policies/test_dose.py policies/test_recipes.py policies/test_carry.py",
    ),
    Mutant(
        "less dropout says something",
        "policies/recipes.py",
        "if harm.dropout >= _dropout(recipe)",
        "if harm.dropout <= _dropout(recipe)",
        "policies/test_dose.py policies/test_recipes.py",
    ),
    Mutant(
        "a repair beyond what is allowed",
        "policies/repairs.py",
        'min(int(change.get("max_tokens", 0)), allowed.max_tokens or 0)',
        'int(change.get("max_tokens", 0))',
        "policies/test_repairs.py",
    ),
    Mutant(
        "a repair that is not enough",
        "policies/repairs.py",
        "or least > most:",
        "or least < 0:",
        "policies/test_repairs.py",
    ),
    Mutant(
        "a verdict on a fallen training",
        _VALIDITY,
        "if decision in bad or run in trainings)",
        "if decision in bad)",
        "policies/test_contamination.py",
    ),
    Mutant(
        "a census falls whole",
        _VALIDITY,
        'whole = invalidated - {a.key for a in actions if a.kind == "census"}',
        "whole = invalidated",
        "policies/test_contamination.py",
    ),
    # The record.
    Mutant("keys in any order", "state/hashing.py", "sort_keys=True", "sort_keys=False", "state/test_hashing.py"),
    Mutant(
        "mtime alone",
        "state/hashing.py",
        ":{stat.st_mtime_ns}:{stat.st_ctime_ns}",
        ":{stat.st_mtime_ns}",
        "state/test_hashing.py",
    ),
    Mutant(
        "a gap in the journal",
        "state/journal.py",
        "if seq != expected:",
        "if seq < expected:",
        "state/test_verify.py state/test_head.py",
    ),
    Mutant(
        "another row at the head",
        "state/journal.py",
        "if row is not None and row[0] != known.chain:",
        "if row is not None and not row[0]:",
        "state/test_head.py",
    ),
    Mutant(
        "a shorter journal",
        "state/journal.py",
        "if row is None and known.seq:",
        "if row is None and known.seq < 0:",
        "state/test_head.py",
    ),
    Mutant(
        "a lease of an older epoch",
        "state/store.py",
        "if not self._lease.is_held or epoch != self._lease.epoch:",
        "if not self._lease.is_held:",
        "state/test_store.py state/test_lease.py",
    ),
    Mutant(
        "done is ended again",
        "state/store.py",
        "            if action.state == state:\n                return action\n",
        "",
        "state/test_store.py",
    ),
    Mutant(
        "every node may change the journal",
        "state/schema.py",
        "is_allowed = first in own\n",
        "is_allowed = first in growing\n",
        "state/test_connection.py state/test_store.py",
    ),
    Mutant(
        "another set of cases",
        "state/ledger.py",
        "if case_set is None or case_set.digest != name:",
        "if case_set is None:",
        "state/test_ledger.py",
    ),
    Mutant(
        "what was given up is given up once",
        "state/ledger.py",
        "if _mark(head) not in given_up:",
        "if head.seq < 0:",
        "state/test_ledger.py",
    ),
    Mutant(
        "a part of a file stays",
        "state/files.py",
        "        side.unlink(missing_ok=True)\n        raise",
        "        raise",
        "state/test_files.py",
    ),
)

EQUAL: dict[str, str] = {}
"""Survivor -> why no test can or need tell it from the code as it is."""


def identity(mutant: Mutant) -> str:
    """Return the hash of what a result depends on: the mutant, its file and its tests."""
    files = [ROOT / mutant.file, *(ROOT / "tests" / name for name in mutant.tests.split())]
    return short(hash_bytes(repr(mutant).encode() + b"".join(file.read_bytes() for file in files)))


def _results() -> dict[str, dict[str, Any]]:
    """Return the last result of each mutant."""
    rows = read_jsonl(RESULTS) if RESULTS.exists() else []
    return {str(row["name"]): dict(row) for row in rows}


def _pytest(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Return the exit code, and the first test that failed."""
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:randomly", "--tb=no", "--no-header", *tests],
        cwd=tree,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    failed = [line for line in ended.stdout.splitlines() if line.startswith("FAILED ")]
    return ended.returncode, failed[0].split(" - ")[0].removeprefix("FAILED ") if failed else ""


def _try(mutant: Mutant, tree: Path, known: str) -> dict[str, Any]:
    """Return what the named tests say in a copy of the tree with one change, which is taken back."""
    file, started = tree / mutant.file, time.monotonic()
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        code, by = _pytest(tree, [f"tests/{name}" for name in mutant.tests.split()])
    finally:
        file.write_text(text, encoding="utf-8")
    # A test that fails anyway kills nothing.
    is_sound = code == 0 or (code == 1 and by != "" and _pytest(tree, [by])[0] == 0)
    outcome = ("survived" if code == 0 else "killed") if is_sound else "broken"
    took_s = round(time.monotonic() - started, 1)
    return {
        "name": mutant.name,
        "identity": known,
        "commit": commit(),
        "outcome": outcome,
        "by": by,
        "took_s": took_s,
    }


def _table(results: Mapping[str, Mapping[str, Any]]) -> int:
    """Print what is on file; return how many are not killed and have no reason."""
    rows = [results.get(mutant.name, {}) for mutant in MUTANTS]
    current = [row.get("identity") == identity(mutant) for row, mutant in zip(rows, MUTANTS, strict=True)]
    killed = sum(row.get("outcome") == "killed" for row in rows)
    print(f"{len(MUTANTS)} mutants, {killed} killed; {sum(current)} tried on the source as it is.")
    open_ones = 0
    for mutant, row in zip(MUTANTS, rows, strict=True):
        if row.get("outcome") != "killed":
            open_ones += mutant.name not in EQUAL
            print(f"{row.get('outcome', 'untried')}: {mutant.name} ({mutant.file}). {EQUAL.get(mutant.name, '')}")
    return open_ones


def main(arguments: Sequence[str] | None = None) -> int:
    """Try what was not tried on the source as it is, then print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[])
    parser.add_argument("--table", action="store_true", help="run nothing")
    options = parser.parse_args(arguments)
    results = _results()
    wanted = [
        mutant
        for mutant in MUTANTS
        if (
            mutant.name in options.only
            if options.only
            else results.get(mutant.name, {}).get("identity") != identity(mutant)
        )
    ]
    if wanted and not options.table:
        with tempfile.TemporaryDirectory() as folder:
            for part in _PARTS:
                copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
                copy(ROOT / part, Path(folder) / part)
            for mutant, known in [(mutant, identity(mutant)) for mutant in wanted]:
                row = results[mutant.name] = _try(mutant, Path(folder), known)
                print(f"{row['outcome']:9}{row['took_s']:6.1f} s  {mutant.name}  {row['by']}", flush=True)
                with RESULTS.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(row) + "\n")
    return int(_table(results) > 0)


if __name__ == "__main__":
    sys.exit(main())
