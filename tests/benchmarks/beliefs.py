"""How fast a store with many beliefs answers: one subject among a million, and the start of a campaign with 10,000.

python -m tests.benchmarks.beliefs

Seconds are this machine's, taken while nothing else should run; the limits are what issue figures ask for.
"""

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agent import runner
from agent.campaign import load_campaign
from agent.fingerprints import chosen, world_of
from agent.knowing import knowing
from agent.session import WORKERS, Session
from state.clock import SystemClock
from state.journal import encode
from state.lease import Lease
from state.paths import CampaignPaths
from state.reading import open_reader
from state.records import Belief, BeliefStatus, Evidence, Fingerprint
from state.schema import TABLES, connect
from state.store import Store
from tests.agent.recorded import begin, opened
from tests.faults.campaign import world
from tools.jobs.backend import LocalBackend

QUERY_LIMIT_S = 0.1
"""p95 of one subject's beliefs among a million."""
START_LIMIT_S = 2.0
"""Opening the store and one visit of Knowing, 10,000 beliefs, all fresh."""

_REVISIONS = 10
_QUERIES = 300
_COMMANDS = 20
_STARTS = 5
_PRINTS = ("code", "grader", "decode", "prompt", "tokenizer", "package:*", "split:*", "model:base")


def _rows(n: int) -> Iterator[tuple[Any, ...]]:
    """Yield a million rows' worth of beliefs: each claim revised ten times, as in a store that has lived long."""
    table = TABLES["belief"]
    prints = tuple(Fingerprint(kind="package", name=f"package{i}", value="0.32.4") for i in range(8))
    for number in range(1, n + 1):
        claim, revision = divmod(number - 1, _REVISIONS)
        is_last = revision == _REVISIONS - 1 or number == n
        status: BeliefStatus = "superseded" if not is_last else "stale" if claim % 500 == 0 else "fresh"
        belief = Belief(
            id=f"B{number}",
            subject=f"score:R{claim // 4}.split{claim % 4}.selection",
            claim="means",
            statement=f"R{claim} on selection, 40 cases: score 0.{number % 1000:03}.",
            value={"means": {"score": number / n}, "n": 40},
            tag="assumed" if claim % 1000 == 0 else "confirmed",
            status=status,
            evidence=(Evidence(kind="job", ref=f"{number:024x}", summary="evaluate done in 12 s."),),
            stands_on=prints,
            formed_at=float(number),
            superseded_by="" if is_last else f"B{number + 1}",
        )
        yield (number, *encode(table, belief.model_dump(mode="json")).values())


def make_store(home: Path, n: int) -> CampaignPaths:
    """Write a store with `n` beliefs, in bulk: readers take it, a holder would miss the journal's images."""
    with opened(home, SystemClock(), "large") as store:  # type: ignore[arg-type]  # a real clock will do
        begin(store, "large")
    paths = CampaignPaths(home, "large")
    connection = connect(paths.db)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("BEGIN")
    marks = ", ".join("?" * (1 + len(TABLES["belief"].columns)))
    connection.executemany(f"INSERT INTO belief VALUES ({marks})", _rows(n))  # noqa: S608 - our own marks
    connection.execute("COMMIT")
    connection.close()
    return paths


def percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Return the 50th and the 95th percentile."""
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    return statistics.median(seconds), cuts[18]


def subjects(n: int, count: int) -> list[str]:
    """Return the beginnings of subjects to ask for: one run's, one split's, and some that are not there."""
    draw = random.Random(7)
    runs = max(1, n // _REVISIONS // 4)
    asked = [f"score:R{draw.randrange(runs)}." for _ in range(count)]
    return [name + "split0.selection" if index % 3 == 0 else name for index, name in enumerate(asked)]


def query_s(paths: CampaignPaths, n: int) -> list[float]:
    """Return the seconds of each query, in a process that has the store open."""
    taken = []
    for prefix in subjects(n, _QUERIES):
        begun = time.perf_counter()
        with open_reader(paths) as reader:
            found = reader.beliefs_about(prefix)
        taken.append(time.perf_counter() - begun)
        assert found, prefix
    return taken


def command_s(home: Path, *asked: str) -> float:
    """Return the wall seconds of one whole command, the start of Python included."""
    command = [sys.executable, "-m", "agent.cli", "beliefs", "large", *asked, "--home", str(home)]
    begun = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def _sitting(file: Path, paths: CampaignPaths, store: Store) -> Session:
    return runner._sit_down(load_campaign(file), paths, store, SystemClock(), LocalBackend(), WORKERS)


def make_campaign(folder: Path, n: int) -> tuple[Path, CampaignPaths]:
    """Write a campaign whose store holds `n` beliefs about the world as it is, each with its journal image."""
    file = world.write_campaign(folder / "files", "start")
    paths = CampaignPaths((folder / "home").resolve(), "start")
    runner._make_home(paths)
    clock = SystemClock()
    with Lease.acquire(paths, clock) as lease, Store.open(paths, clock, lease) as store:
        session = _sitting(file, paths, store)
        knowing(session, {})
        prints = chosen(world_of(session), _PRINTS)
        with store.transaction():
            for number in range(n):
                store.knowing.believe(
                    Belief(
                        subject=f"score:R{number}.main.selection",
                        claim="means",
                        statement=f"R{number} on main.selection, 40 cases: score 0.{number % 1000:03}.",
                        value={"means": {"score": number / n}, "n": 40, "cut": 0, "ungraded": 0},
                        tag="confirmed",
                        evidence=(Evidence(kind="job", ref=f"{number:024x}", summary="evaluate done in 12 s."),),
                        stands_on=prints,
                        formed_at=1.0,
                    )
                )
        store.backup()
    return file, paths


def start_s(file: Path, paths: CampaignPaths) -> tuple[float, float]:
    """Return the seconds of opening the store and of one visit of Knowing."""
    clock = SystemClock()
    with Lease.acquire(paths, clock) as lease:
        begun = time.perf_counter()
        with Store.open(paths, clock, lease) as store:
            is_open = time.perf_counter()
            session = _sitting(file, paths, store)
            knowing(session, {})
            ended = time.perf_counter()
            fallen = [belief for belief in session.standing() if belief.status != "fresh"]
    assert not fallen, fallen[0]
    return is_open - begun, ended - is_open


def main() -> int:
    """Print the table; return 1 where a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="Beliefs in the large store.")
    parser.add_argument("--fresh", type=int, default=10_000, help="Beliefs of the campaign that starts.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        begun = time.perf_counter()
        paths = make_store(home, given.rows)
        size_gb = paths.db.stat().st_size / 1e9
        print(f"{given.rows:,} beliefs, {size_gb:.2f} GB, written in {time.perf_counter() - begun:.0f} s")
        query = percentiles(query_s(paths, given.rows))
        print(f"query by subject      p50 {query[0]:.4f} s  p95 {query[1]:.4f} s (limit {QUERY_LIMIT_S})")
        asked = [("--subject", name) for name in subjects(given.rows, _COMMANDS)]
        for name, arguments in (
            ("--subject", asked),
            ("--assumed", [("--assumed",)] * 5),
            ("--stale", [("--stale",)] * 5),
        ):
            whole = percentiles([command_s(home, *each) for each in arguments])
            print(f"vigil beliefs {name:<11} p50 {whole[0]:.3f} s  p95 {whole[1]:.3f} s, Python's start included")
    with tempfile.TemporaryDirectory() as folder:
        file, campaign = make_campaign(Path(folder), given.fresh)
        starts = [start_s(file, campaign) for _ in range(_STARTS)]
    best = min(sum(each) for each in starts)
    middle = statistics.median(sum(each) for each in starts)
    opening, visit = min(starts, key=sum)
    print(
        f"start, {given.fresh:,} fresh      best {best:.2f} s  p50 {middle:.2f} s (limit {START_LIMIT_S}): "
        f"open {opening:.2f} s, visit {visit:.2f} s"
    )
    return int(query[1] > QUERY_LIMIT_S or middle > START_LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
