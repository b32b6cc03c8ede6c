"""CPU seconds of `vigil --help` and `vigil status` above `python -c pass`.

python -m tests.benchmarks.command_line
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.agent.recorded import record

LIMITS_S = {"--help": 0.3, "status": 0.8}
"""What the house conventions allow above a bare Python."""
_REPEATS = 5


def cpu_s(*arguments: str) -> float:
    """Return the least user and system time of a child over some repeats."""
    best = float("inf")
    for _ in range(_REPEATS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def main() -> int:
    """Print the table; return 1 where a limit is broken."""
    with tempfile.TemporaryDirectory() as folder:
        record(Path(folder), "promoted")
        bare = cpu_s("-c", "pass")
        taken = {
            "--help": cpu_s("-m", "agent.cli", "--help") - bare,
            "status": cpu_s("-m", "agent.cli", "status", "--home", folder) - bare,
        }
    for name, seconds in taken.items():
        print(f"vigil {name:<8} {seconds:.3f} CPU s above python -c pass (limit {LIMITS_S[name]})")
    return int(any(seconds > LIMITS_S[name] for name, seconds in taken.items()))


if __name__ == "__main__":
    sys.exit(main())
