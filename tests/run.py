"""`make test`: the suite on all cores, then its coverage against the bounds of the house.

100 % of `state` and `policies`, where a missed line is a missed verdict; 95 % of the whole. It ends with the slowest
tests and with the processor's seconds of all processes, so that whoever adds a slow test sees it.
"""

import ctypes
import os
import resource
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_BECOME_REAPER = 36
"""PR_SET_CHILD_SUBREAPER, linux/prctl.h."""


def _python(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=_ROOT, check=False).returncode


def _tests(*arguments: str) -> int:
    """Run the tests and say what they cost.

    On Linux the supervisors that detach themselves become children of this process, or nobody would count them. On
    macOS they are left out.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_BECOME_REAPER, 1, 0, 0, 0)
    pytest = subprocess.Popen([sys.executable, "-m", "coverage", "run", "-m", "pytest", *arguments], cwd=_ROOT)
    ended = 0
    while ended != pytest.pid:
        ended, status = os.wait()
    pytest.returncode = os.waitstatus_to_exitcode(status)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{used.ru_utime + used.ru_stime:,.0f} s of the processor, all processes of the tests together.", flush=True)
    return pytest.returncode


def main() -> int:
    """Run the tests, then report coverage; the exit code is the first that is not zero."""
    for old in _ROOT.glob(".coverage*"):
        old.unlink()
    # Half of the tests wait for processes that they started, which wait for each other.
    workers = os.environ.get("VIGIL_TEST_WORKERS") or str(min(8, 2 * (os.cpu_count() or 1)))
    # What needs the real model is minutes long, and has a word of its own: make real.
    options = ("-m", "not real", "-n", workers, "--dist", "worksteal", "--durations=25")
    tests = _tests(*options, *sys.argv[1:])
    _python("coverage", "combine", "--quiet")
    if tests or sys.argv[1:]:
        return tests
    bound = ("--include=state/*,policies/*", "--fail-under=100", "--skip-covered", "--show-missing")
    heart = _python("coverage", "report", *bound)
    whole = _python("coverage", "report", "--fail-under=95", "--skip-covered")
    return heart or whole


if __name__ == "__main__":
    sys.exit(main())
