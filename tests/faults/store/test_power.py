"""The power is cut at random moments of a store's life; `VIGIL_CUTS=1000` for more than the default."""

import os
import sqlite3
from pathlib import Path

import pytest

from state import schema as settings
from tests.faults.store import recorder
from tests.faults.store.lives import ROUNDS, cut_graph, cut_store, record_store

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(recorder.library() is None, reason="this interpreter's SQLite is not a shared library"),
]

CUTS = int(os.environ.get("VIGIL_CUTS", "120"))
SEED = int(os.environ.get("VIGIL_SEED", "1"))


def test_every_commit_is_synced(tmp_path: Path) -> None:
    events, _ = record_store(tmp_path)
    assert sum(event.kind == "sync" for event in events) >= 15 * ROUNDS


def test_no_acknowledged_write_is_lost_by_a_power_cut(tmp_path: Path) -> None:
    damage = cut_store(tmp_path, CUTS, SEED)
    print(f"seed {SEED}: {damage}")
    assert damage.violations == ()
    assert damage.with_unsynced > CUTS // 10


@pytest.mark.parametrize(("synchronous", "is_sound"), [("NORMAL", True), ("OFF", False)])
def test_the_simulation_sees_what_weaker_settings_lose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synchronous: str, *, is_sound: bool
) -> None:
    plain = settings.configure

    def weak(connection: sqlite3.Connection) -> None:
        plain(connection)
        connection.execute(f"PRAGMA synchronous={synchronous}")

    monkeypatch.setattr("state.store.configure", weak)
    damage = cut_store(tmp_path, 60, SEED)
    print(f"synchronous={synchronous}: {damage}")
    assert (damage.refused == []) == is_sound
    assert damage.lost


def test_no_acknowledged_checkpoint_of_the_graph_is_lost(tmp_path: Path) -> None:
    damage = cut_graph(tmp_path, CUTS, SEED)
    print(f"seed {SEED}, the graph's file: {damage}")
    assert damage.violations == ()
