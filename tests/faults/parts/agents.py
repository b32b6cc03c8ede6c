"""Kills of the agent: at random moments, and at every named point of its loop."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from state.files import read_json
from tests.faults.campaign import warm, world
from tests.faults.parts.contract import Batch, Part

LEAST_PER_CAMPAIGN = 20
POINTS = (
    "before_intent", "after_intent", "before_act", "after_act", "before_done", "after_done", "before_checkpoint",
    "after_checkpoint", "amid_promotion", "amid_deletion", "amid_export",
    "amid_conclusion",
)  # fmt: skip
_LONGEST_S = 240.0
_AT_WORK = 0.8
"""Share of the kills that wait until the agent has begun; the others may hit it while it still starts."""

_AT_A_POINT = 13
"""Kills of one campaign: one that always dies before its first checkpoint would get nowhere."""


def storm(campaign: Path, home: Path, dice: random.Random, kills: int) -> int:
    """Kill the agent at random moments until it has ended or the kills are spent; return how many hit a live agent.

    Raises:
        AssertionError: It ended otherwise than by a verdict.
    """
    hits = 0
    while hits < kills:
        agent = warm.start(campaign, home)
        is_at_work = dice.random() < _AT_WORK and _holds(home, agent)
        try:
            code = agent.wait(
                timeout=dice.uniform(0, 0.8)
                if is_at_work
                else dice.uniform(0, 0.3)
                if warm.is_hot()
                else dice.uniform(0.3, 3.0)
            )
        except subprocess.TimeoutExpired:
            os.killpg(agent.pid, signal.SIGKILL)
            agent.wait()
            hits += 1
            continue
        if code not in {0, 1}:
            raise AssertionError(f"exit code {code}: {world.words(home)}")
        break
    return hits


def _holds(home: Path, agent: warm.Agent) -> bool:
    """Wait until an agent holds its campaign or has ended; return whether it holds it."""
    while agent.poll() is None:
        if (read_json(home / "storm" / "lock.json") or {}).get("pid") == agent.pid:
            return True
        time.sleep(0.02)
    return False


def campaign_of(seed: int, folder: Path) -> tuple[Path, Path]:
    """Write a campaign whose first run is enough, or one that needs more; return its file and its home."""
    recipe = {"batch_size": 4, "iters": 120 if seed % 2 else 60, "max_seq_length": 128, "learning_rate": 0.001}
    return world.write_campaign(folder / "files", recipe=recipe, **world.EFFECTS), folder / "home"


def random_kills(seed: int, folder: Path, most: int) -> Batch:
    """Storm one campaign, then let it end; a storm has at least 20 kills unless the campaign ends before."""
    campaign, home = campaign_of(seed, folder)
    try:
        hits = storm(campaign, home, random.Random(seed), max(LEAST_PER_CAMPAIGN, min(most, 40)))
        code = warm.run(campaign, home, timeout_s=_LONGEST_S)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        return Batch(0, (f"{home}: {error}",))
    return judged(home, code, hits)


def judged(home: Path, code: int, hits: int) -> Batch:
    """Return what a storm did to a campaign that has ended."""
    rows = world.rows(home)
    figures = {"campaigns": 1, "actions": len(rows["actions"]), "promoted": int(code == 0)}
    return Batch(hits, tuple(world.wrong(home, code)), figures)


def kills_at(points: Sequence[str], seed: int, folder: Path, most: int) -> Batch:
    """Kill one campaign's agents, each at the next of these points, until it has ended.

    At a single point the first to third passage of each agent is taken, since some agents must get past it.
    """
    dice, hits = random.Random(f"{points} {seed}"), 0
    campaign, home = campaign_of(seed, folder)
    while hits < most:
        point = points[hits % len(points)]
        is_single = len(points) > 1 or point.startswith("amid")
        bend = {"kill_at": point, "passage": 1 if is_single else dice.randint(1, 3)}
        code = warm.run(campaign, home, bend=bend, timeout_s=_LONGEST_S)
        if code != -signal.SIGKILL:
            break
        hits += 1
    return judged(home, warm.run(campaign, home, timeout_s=_LONGEST_S), hits)


def _at(point: str) -> Part:
    def batch(seed: int, folder: Path, most: int) -> Batch:
        return kills_at((point,), seed, folder, min(most, _AT_A_POINT))

    where = point.replace("_", " ").replace("intent", "the intent").replace("act", "the act", 1)
    return Part(f"kill_{point}", f"kill -9 of the agent {where}", 50, batch)


PARTS = (
    Part("kill_agent", "kill -9 of the agent at random moments", 3000, random_kills),
    *(_at(point) for point in POINTS),
)
