"""Faults of a campaign's store: power cuts, damaged pages and bytes, two holders."""

import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from state.backup import restore_latest
from state.clock import FakeClock
from state.errors import LeaseLostError, StoreError, VigilError
from state.journal import verify
from state.lease import Lease
from state.paths import CampaignPaths
from state.schema import TABLES, check_header, connect, spoken_errors
from state.store import Store
from tests.faults.jobs.harness import ROOT
from tests.faults.parts.contract import Batch, Part
from tests.faults.store import recorder
from tests.faults.store.lives import cut_graph, cut_store, fill
from tests.state import samples

PAGE_BYTES = 4096
_CUTS_OF_A_LIFE = 100

Rows = dict[str, list[tuple[object, ...]]]


def power(seed: int, folder: Path, most: int) -> Batch:
    """Live one store's life and cut its power at random moments."""
    damage = cut_store(folder, min(most, _CUTS_OF_A_LIFE), seed)
    return Batch(damage.cuts, damage.violations, {"with unsynced writes": damage.with_unsynced})


def graph_power(seed: int, folder: Path, most: int) -> Batch:
    """The same for the graph's checkpoints."""
    damage = cut_graph(folder, min(most, _CUTS_OF_A_LIFE), seed)
    return Batch(damage.cuts, damage.violations, {"with unsynced writes": damage.with_unsynced})


def make(home: Path) -> CampaignPaths:
    """Write a closed campaign whose last backup is older than its last writes."""
    paths, clock = CampaignPaths(home, "night"), FakeClock()
    for _ in range(2):
        with Lease.acquire(paths, clock) as lease, Store.open(paths, clock, lease) as store:
            fill(store, 20)
        clock.advance(7200)
    with Lease.acquire(paths, clock) as lease, Store.open(paths, clock, lease) as store:
        fill(store, 5)
    return paths


def contents(path: Path) -> Rows:
    """Return every row, after the checks that opening makes.

    Raises:
        StoreError: A check failed.
    """
    with spoken_errors(path), closing(connect(path)) as connection:
        check_header(connection, path)
        verify(connection, path)
        return {
            name: connection.execute(f'SELECT * FROM "{name}" ORDER BY 1').fetchall()  # noqa: S608 - our own names
            for name in (*TABLES, "journal")
        }


def damage_and_restore(paths: CampaignPaths, data: bytes, original: Rows, home: Path) -> tuple[str, list[str]]:
    """Open a campaign whose file was damaged, restore it where that is noticed.

    Returns:
        `noticed` or `harmless`; and what is wrong.
    """
    shutil.copytree(paths.home, home)
    damaged, clock = CampaignPaths(home, paths.name), FakeClock(1_700_100_000.0)
    damaged.db.write_bytes(data)
    try:
        found = contents(damaged.db)
    except StoreError:
        pass
    else:
        return "harmless", [] if found == original else ["a row changed and nobody noticed"]
    with Lease.acquire(damaged, clock) as lease:
        try:
            Store.open(damaged, clock, lease).close()
        except VigilError as error:
            if "--restore" not in error.sentence:
                return "noticed", [f"no advice: {error.sentence}"]
        else:
            return "noticed", ["the checks of an opening missed what the checks found"]
        restored = restore_latest(damaged, clock, lease)
        with Store.open(damaged, clock, lease) as store:
            decisions = len(store.read.decisions())
    journal, kept = original["journal"], restored.kept
    if contents(restored.backup)["journal"] != journal[:kept] or decisions < 20:
        return "noticed", ["what was restored is not what was written"]
    if restored.lost not in {None, len(journal) - kept}:
        return "noticed", [f"{restored.lost} writes are said to be lost, {len(journal) - kept} are"]
    if "later writes are lost" not in restored.sentence:
        return "noticed", ["the loss is not stated"]
    return "noticed", []


def pages(seed: int, folder: Path, most: int) -> Batch:
    """Overwrite whole pages with noise."""
    dice = random.Random(seed)

    def garble(data: bytearray) -> None:
        place = dice.randrange(len(data) // PAGE_BYTES) * PAGE_BYTES
        data[place : place + PAGE_BYTES] = dice.randbytes(PAGE_BYTES)

    return _damaged(garble, folder, most)


def flips(seed: int, folder: Path, most: int) -> Batch:
    """Flip bits of single bytes."""
    dice = random.Random(seed)

    def flip(data: bytearray) -> None:
        data[dice.randrange(len(data))] ^= dice.randint(1, 255)

    return _damaged(flip, folder, most)


def _damaged(change: Callable[[bytearray], None], folder: Path, most: int) -> Batch:
    paths = make(folder / "whole")
    original, whole = contents(paths.db), paths.db.read_bytes()
    found: list[str] = []
    seen = {"noticed": 0, "harmless": 0}
    count = min(most, 25)
    for number in range(count):
        data = bytearray(whole)
        change(data)
        how, wrong = damage_and_restore(paths, bytes(data), original, folder / f"damaged{number}")
        seen[how] += 1
        found += wrong
        shutil.rmtree(folder / f"damaged{number}")
    return Batch(count, tuple(found), {"noticed and restored": seen["noticed"], "changed no row": seen["harmless"]})


def two_agents(seed: int, folder: Path, most: int) -> Batch:
    """Start two holders at one moment; then let one go on whose lock file was taken away."""
    del seed
    found: list[str] = []
    count = min(most, 10)
    for number in range(count):
        home = folder / str(number)
        command = [sys.executable, "-m", "tests.faults.store.holding", str(home)]
        both = [subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
        said = [(process.stdout.readline() if process.stdout else b"").decode().strip() for process in both]
        if sorted(words == "held" for words in said) != [False, True]:
            found.append(f"of two agents both or none hold the campaign: {said}")
        for process in both:
            process.communicate(b"\n")
        found += stale_holder(CampaignPaths(home, "night"))
    return Batch(count, tuple(found))


def stale_holder(paths: CampaignPaths) -> list[str]:
    """Take the lock file away under a holder, let another take the campaign, and let the first one write."""
    clock = FakeClock()
    with Lease.acquire(paths, clock) as first, Store.open(paths, clock, first) as old:
        paths.lock.unlink()
        with Lease.acquire(paths, clock) as second, Store.open(paths, clock, second) as new:
            try:
                old.knowing.believe(samples.belief())
            except LeaseLostError:
                pass
            else:
                return ["a stale holder's write was taken"]
            new.knowing.believe(samples.belief())
            return [] if len(new.read.beliefs()) == 1 else ["the holder's write is not alone"]


def _why_not() -> str:
    return "" if recorder.library() is not None else "this interpreter's SQLite is not a shared library"


PARTS = (
    Part("power_store", "power cut: unsynced writes of the store dropped or torn", 1000, power, _why_not),
    Part("power_graph", "power cut: unsynced writes of the checkpoints dropped or torn", 1000, graph_power, _why_not),
    Part("pages", "a page of the store overwritten, then restored from backup", 100, pages),
    Part("flips", "a byte of the store flipped, then restored from backup", 100, flips),
    Part("two_agents", "two agents at one moment, and a stale one that writes", 100, two_agents),
)
