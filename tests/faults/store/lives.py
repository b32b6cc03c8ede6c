"""Lives of a store and of the graph's checkpoints, and what power cuts leave of them."""

import random
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.loop import open_saver, prune
from state.clock import FakeClock
from state.errors import VigilError
from state.lease import Lease
from state.paths import CampaignPaths
from state.schema import connect
from state.store import Store
from tests.faults.store.power import Cut, cuts
from tests.faults.store.recorder import Event, Recorder, recording
from tests.state import samples

ROUNDS = 12
"""Turns of the loop in one sitting."""


@dataclass
class Damage:
    """What cuts did."""

    cuts: int = 0
    with_unsynced: int = 0
    refused: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def violations(self) -> tuple[str, ...]:
        """What must not be."""
        return (*(f"refused at {each}" for each in self.refused), *(f"lost at {each}" for each in self.lost))

    def __str__(self) -> str:
        return (
            f"{self.cuts} power cuts, {self.with_unsynced} with unsynced writes: {len(self.refused)} corrupt, "
            f"{len(self.lost)} with acknowledged commits lost"
        )


def journal(path: Path) -> list[str]:
    """Return the chain of the journal."""
    with closing(connect(path)) as found:
        return [row[0] for row in found.execute("SELECT chain FROM journal ORDER BY seq")]


def record_store(home: Path) -> tuple[list[Event], list[str]]:
    """Live a store's life; return what was asked of the disk, and the journal at its end.

    The store is opened three times, so that its log is written back to the file and removed each time.
    """
    paths, clock = CampaignPaths(home, "night"), FakeClock()
    with recording() as found:
        for sitting in range(3):
            with Lease.acquire(paths, clock) as lease, Store.open(paths, clock, lease) as store:
                found.acknowledged(written(store))
                if not sitting:
                    store.agent.begin(samples.goal())
                for number in range(ROUNDS * sitting, ROUNDS * (sitting + 1)):
                    for write in of_round(store, number):
                        write()
                        found.acknowledged(written(store))
                    if number % ROUNDS == ROUNDS // 2:
                        write_log_back(paths.db)
    return found.events, journal(paths.db)


def write_log_back(path: Path) -> None:
    """Do what SQLite does by itself after a thousand pages."""
    with closing(connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(PASSIVE)")


def written(store: Store) -> int:
    """Return how many journal rows there are."""
    return int(store._connection.execute("SELECT max(seq) FROM journal").fetchone()[0])


def of_round(store: Store, number: int) -> list[Any]:
    """Return the writes of one turn of the loop."""
    key = f"k{number}"
    return [
        lambda: store.knowing.believe(samples.belief(value=number, tag="inferred")),
        lambda: store.doing.intend(samples.action(key)),
        lambda: store.knowing.measure([samples.measurement(f"c{case}", key) for case in range(6)]),
        lambda: store.doing.finish(key, {"number": number}),
        lambda: store.deciding.decide(samples.decision(f"Round {number}."), run=samples.run()),
    ]


def lay_out(cut: Cut, root: Path) -> None:
    """Put on disk what a cut left."""
    root.mkdir(parents=True)
    for name, data in cut.files.items():
        if not name.endswith(".part"):
            (root / name).write_bytes(data)


def suffer(events: list[Event], chain: list[str], folder: Path, count: int, seed: int) -> Damage:
    """Cut, open as a campaign is opened, compare with what was acknowledged."""
    damage, clock = Damage(), FakeClock()
    for number, cut in enumerate(cuts(events, count, random.Random(seed))):
        paths = CampaignPaths(folder / str(number), "night")
        lay_out(cut, paths.root)
        damage.cuts += 1
        damage.with_unsynced += cut.unsynced > 0
        try:
            with Lease.acquire(paths, clock) as lease, Store.open(paths, clock, lease):
                pass
        except (VigilError, sqlite3.Error) as error:
            damage.refused.append(f"{cut.at}: {error}")
            continue
        kept = journal(paths.db)
        same = next((at for at, (one, two) in enumerate(zip(kept, chain, strict=False)) if one != two), len(kept))
        # The opening writes up to two rows of its own.
        if same < cut.acknowledged or len(kept) > same + 2:
            damage.lost.append(f"{cut.at}: {same} of {cut.acknowledged}")
    return damage


def cut_store(folder: Path, count: int, seed: int) -> Damage:
    """Live a store's life and cut its power."""
    events, chain = record_store(folder / "recorded")
    return suffer(events, chain, folder / "cut", count, seed)


def cut_graph(folder: Path, count: int, seed: int) -> Damage:
    """Write a night's checkpoints and cut the power."""
    home = folder / "recorded"
    home.mkdir(parents=True)
    with recording() as found:
        write_checkpoints(home / "graph.db", found)
    damage = Damage()
    for number, cut in enumerate(cuts(found.events, count, random.Random(seed))):
        root = folder / "cut" / str(number)
        lay_out(cut, root)
        damage.cuts += 1
        damage.with_unsynced += cut.unsynced > 0
        saver = open_saver(root / "graph.db")
        damage.refused += [str(cut.at)] if list(root.glob("*.damaged")) else []
        newest = saver.get_tuple({"configurable": {"thread_id": "night"}})
        saver.conn.close()
        at = newest.metadata.get("step", -1) if newest else -1
        damage.lost += [f"{cut.at}: {at} of {cut.acknowledged}"] if at + 1 < cut.acknowledged else []
    return damage


def write_checkpoints(path: Path, found: Recorder) -> None:
    """Write as many checkpoints as a night's, pruning now and then."""
    from langgraph.checkpoint.base import empty_checkpoint

    saver = open_saver(path)
    try:
        config: Any = {"configurable": {"thread_id": "night", "checkpoint_ns": ""}}
        for step in range(ROUNDS * 3):
            checkpoint = empty_checkpoint()
            config = saver.put(config, checkpoint, {"step": step, "source": "loop"}, {})
            found.acknowledged(step + 1)
            saver.put_writes(config, [("deciding", {"decision": f"D{step}"})], "task")
            if step % ROUNDS == ROUNDS - 1:
                prune(saver)
    finally:
        saver.conn.close()


def fill(store: Store, rounds: int) -> None:
    """Write the same kinds of rows a campaign has."""
    if not store.read.goals():
        store.agent.begin(samples.goal())
    begun = len(store.read.decisions())
    for number in range(begun, begun + rounds):
        store.knowing.believe(samples.belief(subject=f"data:{number}", value=number))
        store.knowing.measure([samples.measurement(f"c{case}", f"k{number}") for case in range(4)])
        store.doing.intend(samples.action(f"k{number}"))
        store.deciding.decide(samples.decision(f"Round {number}."), [samples.commitment()], samples.run())
