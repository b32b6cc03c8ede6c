"""Campaigns whose truth is known: Vigil's policies against seven other ways to search (tests/simulation/baselines.py).

python -m tests.benchmarks.simulated_laboratory [--campaigns N] [--from SEED] [--kinds KIND …] [--players NAME …]
    [--patience N]

The policies are the real ones, asked decision by decision; only the world is simulated (tests/simulation/priors.py
says how). Hours count training and evaluation; a wrong or a missing verdict costs the whole budget. In campaigns where
nothing can meet the gate every end without a promotion counts as right, which is generous to the baselines: they never
say why. The baselines play twice, promoting by the number and by Vigil's own gate, each with the patience that costs
it the fewest hours; `--patience 100` lets them search until the budget is gone, which misses less and takes longer.
"""

import argparse
import sys
import time
from typing import cast

from agent.render.words import table
from policies.significance import wilson
from tests.simulation.laboratory import REPORTED_FROM, VIGIL, Tally, players, run, tally
from tests.simulation.priors import BUDGET_H, KINDS, Kind


def _row(found: Tally) -> tuple[str, ...]:
    interval = wilson(found.wrong / found.campaigns, found.campaigns)
    return (
        found.player,
        f"{100 * found.wrong / found.campaigns:.1f} %",
        f"{100 * interval.low:.1f}-{100 * interval.high:.1f} %",
        f"{100 * found.missed / found.campaigns:.1f} %",
        f"{found.hours:.1f} h",
        *(f"{wrong}/{missed}/{hours:.1f}" for wrong, missed, hours, _ in found.by_kind.values()),
    )


def main(arguments: list[str] | None = None) -> int:
    """Print the table; the exit code is 1 when Vigil promotes wrongly in more than one campaign of twenty."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--campaigns", type=int, default=140, metavar="N", help="of each kind")
    parser.add_argument("--from", type=int, default=REPORTED_FROM, metavar="SEED", dest="first")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--players", nargs="*", choices=players(), default=players())
    parser.add_argument(
        "--patience", type=int, default=None, metavar="N", help="of the baselines, instead of their own"
    )
    parser.add_argument("--processes", type=int, default=None)
    given = parser.parse_args(arguments)
    kinds = cast("list[Kind]", list(given.kinds))
    seeds = range(given.first, given.first + given.campaigns)
    started = time.monotonic()
    tallies = [tally(player, run(player, seeds, kinds, given.processes, given.patience)) for player in given.players]
    took_s = time.monotonic() - started
    mine = next((found for found in tallies if found.player == VIGIL), None)
    head = ("player", "wrong", "95 %", "missed", "to the verdict", *kinds)
    print("\n".join(table(head, [_row(found) for found in tallies])))
    games = sum(found.campaigns for found in tallies)
    print(
        f"\n{games} campaigns in {took_s:.0f} s, {given.campaigns} seeds from {given.first} of each kind, "
        f"budget {BUDGET_H:.0f} h. Per kind: wrong promotions / missed promotions / mean hours to the right verdict. "
        "Below: mean difference and its 95 % interval."
    )
    if mine is not None:
        for found in tallies:
            more, low, high = found.more_than(mine)
            if found is not mine:
                print(f"{found.player}: {more:+.1f} h beside Vigil on the same campaigns ({low:+.1f} to {high:+.1f}).")
    for found in tallies:
        ends = ", ".join(f"{rule} {count}" for rule, count in sorted(found.ends.items(), key=lambda e: -e[1]))
        print(f"{found.player} ended by: {ends}.")
    return int(mine is not None and mine.wrong > 0.05 * mine.campaigns)


if __name__ == "__main__":
    sys.exit(main())
