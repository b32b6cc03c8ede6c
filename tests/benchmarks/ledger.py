"""How often anything is promoted wrongly where several null campaigns share one set of confirmation cases.

`python -m tests.benchmarks.ledger` plays whole campaigns with the real planner: one to three of them over one set, each
edited up to twice (`gate.max_confirmations` raised or lowered, `gate.alpha` lowered and put back). Selection always
says yes, and each candidate is truly worth what the gate asks to be exceeded, so that every promotion is wrong. Ends
with code 1 where the one-sided lower 99 % limit of the rate is above `gate.alpha`.
"""

import argparse
import sys

from scipy import stats

from tests.policies.test_ledger import wrong_promotions

ALPHA = 0.05


def main() -> int:
    """Play, print one line, and say whether alpha was kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ledgers", type=int, default=200, help="how many sets of cases")
    count = parser.parse_args().ledgers
    wrong = sum(wrong_promotions(seed) for seed in range(count))
    least = float(stats.beta.ppf(0.01, wrong, count - wrong + 1)) if wrong else 0.0
    rate = f"{wrong / count:.1%}, at least {least:.1%}"
    sys.stdout.write(f"{wrong} of {count} ledgers saw a wrong promotion ({rate}); {ALPHA:.0%} promised\n")
    return int(least > ALPHA)


if __name__ == "__main__":
    sys.exit(main())
