"""Thousands of campaigns of known truth, by Vigil and by the baselines, and what came of them."""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from tests.simulation import baselines, vigil
from tests.simulation.outcome import Outcome
from tests.simulation.priors import KINDS, Kind, draw

TUNING_SEEDS = range(100_000)
"""Seeds that policies and baselines may be looked at with."""

REPORTED_FROM = 40_000_000
"""Seeds from here on are reported and were never looked at while anything was tuned; moved on when the policies are."""

VIGIL = "Vigil"


def players() -> list[str]:
    """Return who plays: Vigil, and each baseline by each of its judges."""
    judged = [f"{name}, {judge}" for judge in ("number", "gate") for name in baselines.BASELINES]
    return [VIGIL, *judged]


def play(player: str, kind: Kind, seed: int, patience: int | None = None) -> Outcome:
    """Return how one player's campaign ended; the patience is a baseline's, its own when left out."""
    truth = draw(kind, seed)
    if player == VIGIL:
        return vigil.play(truth)
    name, judge = player.split(", ")
    return baselines.play(truth, name, "gate" if judge == "gate" else "number", patience)


@dataclass(frozen=True)
class Tally:
    """One player's campaigns.

    Args:
        player: Who.
        campaigns: How many.
        wrong: Promotions of what does not meet the gate.
        missed: Campaigns where something would have met it and nothing was promoted.
        hours: Mean hours to the right verdict.
        by_kind: Kind -> (wrong, missed, mean hours, campaigns).
        ends: Rule -> how often it ended a campaign.
        each: Hours to the right verdict of each campaign, in the order in which all players play them.
    """

    player: str
    campaigns: int
    wrong: int
    missed: int
    hours: float
    by_kind: dict[Kind, tuple[int, int, float, int]]
    ends: dict[str, int]
    each: tuple[float, ...]

    def more_than(self, other: "Tally") -> tuple[float, float, float]:
        """Return how many hours more than another player the same campaigns take: the mean and its 95 % interval."""
        more = np.subtract(self.each, other.each)
        half = 1.96 * float(more.std(ddof=1)) / math.sqrt(len(more)) if len(more) > 1 else math.inf
        return float(more.mean()), float(more.mean()) - half, float(more.mean()) + half


def tally(player: str, outcomes: Sequence[Outcome]) -> Tally:
    """Return what came of campaigns."""
    by_kind = {}
    for kind in KINDS:
        found = [outcome for outcome in outcomes if outcome.kind == kind]
        if found:
            by_kind[kind] = (*_counts(found), _hours(found), len(found))
    ends: dict[str, int] = {}
    for outcome in outcomes:
        ends[outcome.rule] = ends.get(outcome.rule, 0) + 1
    each = tuple(outcome.hours_to_verdict for outcome in outcomes)
    return Tally(player, len(outcomes), *_counts(outcomes), _hours(outcomes), by_kind, ends, each)


def _counts(outcomes: Sequence[Outcome]) -> tuple[int, int]:
    return sum(o.is_wrong for o in outcomes), sum(o.is_missed for o in outcomes)


def _hours(outcomes: Sequence[Outcome]) -> float:
    return sum(o.hours_to_verdict for o in outcomes) / len(outcomes)


def run(
    player: str,
    seeds: Sequence[int],
    kinds: Sequence[Kind] = KINDS,
    processes: int | None = None,
    patience: int | None = None,
) -> list[Outcome]:
    """Play each seed of each kind, on as many processes as asked."""
    games = [(kind, seed) for kind in kinds for seed in seeds]
    if processes == 1:
        return [play(player, kind, seed, patience) for kind, seed in games]
    with ProcessPoolExecutor(processes or os.cpu_count()) as pool:
        return list(pool.map(partial(_game, player, patience), games, chunksize=8))


def _game(player: str, patience: int | None, game: tuple[Kind, int]) -> Outcome:
    return play(player, *game, patience)
