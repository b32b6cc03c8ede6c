"""`make test`: the suite on all cores, then its coverage against the bounds of the house.

100 % of `state` and `policies`, where a missed line is a missed verdict; 95 % of the whole.
"""

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parent.parent


def _python(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=_ROOT, check=False).returncode


def main() -> int:
    """Run the tests, then report coverage; the exit code is the first that is not zero."""
    for old in _ROOT.glob(".coverage*"):
        old.unlink()
    workers = os.environ.get("VIGIL_TEST_WORKERS", "2")
    # What needs the real model is minutes long, and has a word of its own: make real.
    suite = ("pytest", "-m", "not real", "-n", workers, "--dist", "worksteal")
    tests = _python("coverage", "run", "-m", *suite, *sys.argv[1:])
    _python("coverage", "combine", "--quiet")
    if tests or sys.argv[1:]:
        return tests
    bound = ("--include=state/*,policies/*", "--fail-under=100", "--skip-covered", "--show-missing")
    heart = _python("coverage", "report", *bound)
    whole = _python("coverage", "report", "--fail-under=95", "--skip-covered")
    return heart or whole


if __name__ == "__main__":
    sys.exit(main())
