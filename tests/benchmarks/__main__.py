"""`make bench`: every benchmark in turn. Ratios within one run are what to quote; absolute times are this machine's."""

import importlib.util
import subprocess
import sys

_BENCHMARKS = (
    "command_line",
    "overhead",
    "evaluation",
    "answering --n 96 --batch-size 32 --rollouts 64 --group-size 8 --new-tokens 24",
    "training",
    "training_speed",
    "beliefs",
    "page --seconds 60",
    "failure_modes",
    "simulated_laboratory",
    "peers",
)


def main() -> int:
    """Run each benchmark in a process of its own; the exit code is the first that is not zero."""
    worst = 0
    for each in _BENCHMARKS:
        name, *arguments = each.split()
        module = f"tests.benchmarks.{name}"
        if importlib.util.find_spec(module) is None:
            continue
        print(f"\n{name}", flush=True)
        worst = worst or subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode
    return worst


if __name__ == "__main__":
    sys.exit(main())
