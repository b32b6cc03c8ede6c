import os
import sqlite3
from pathlib import Path

import pytest

from state import backup
from state.backup import Restored, restore_latest
from state.clock import FakeClock
from state.errors import CorruptError, LimitExceededError, NotFoundError, StoreError
from state.journal import verify
from state.lease import Lease
from state.paths import CampaignPaths
from state.schema import SCHEMA_VERSION, configure, connect, migrate
from state.store import Store
from tests.state import samples


def break_file(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:8192] = os.urandom(4096)
    path.write_bytes(bytes(data))


def test_a_backup_is_one_whole_verified_file(store: Store, paths: CampaignPaths, clock: FakeClock) -> None:
    store.knowing.believe(samples.belief())
    clock.advance(1)
    copy = store.backup()
    assert [path.suffix for path in paths.backups.iterdir()] == [".db", ".db"]
    connection = connect(copy)
    assert verify(connection, copy) == 2
    assert connection.execute("SELECT id FROM belief").fetchall() == [("B1",)]
    connection.close()


def test_the_newest_three_are_kept(store: Store, paths: CampaignPaths, clock: FakeClock) -> None:
    made = []
    for _ in range(5):
        clock.advance(1)
        made.append(store.backup())
    assert backup.backups(paths) == made[-3:]
    clock.advance(50)
    assert backup.newest_age_s(paths, clock) == pytest.approx(50)


def test_a_copy_that_fails_its_checks_is_not_kept(store: Store, paths: CampaignPaths, clock: FakeClock) -> None:
    store.knowing.believe(samples.belief())
    store._connection.set_authorizer(None)
    store._connection.execute("UPDATE belief SET tag = 'assumed'")
    before = list(paths.backups.iterdir())
    clock.advance(1)
    with pytest.raises(CorruptError, match="belief B1"):
        store.backup()
    assert list(paths.backups.iterdir()) == before


def test_a_backup_on_a_full_disk_says_so(
    store: Store, paths: CampaignPaths, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(path: Path | str) -> sqlite3.Connection:
        connection = connect(path)
        connection.execute("PRAGMA max_page_count=3")
        return connection

    monkeypatch.setattr(backup, "connect", small)
    clock.advance(1)
    with pytest.raises(LimitExceededError, match="is full"):
        store.backup()
    assert len(list(paths.backups.iterdir())) == 1


def test_restoring_goes_back_to_the_newest_backup_and_states_the_loss(
    paths: CampaignPaths, clock: FakeClock, lease: Lease
) -> None:
    with Store.open(paths, clock, lease) as store:
        store.knowing.believe(samples.belief(value=1))
        clock.advance(1)
        copy = store.backup()
        store.knowing.believe(samples.belief(value=2))
    damaged = paths.db.read_bytes()
    restored = restore_latest(paths, clock, lease)
    assert (restored.backup, restored.kept, restored.lost) == (copy, 2, 2)
    assert "2 later writes are lost" in restored.sentence
    assert (restored.moved_to / "state.db").read_bytes() == damaged
    with Store.open(paths, clock, lease) as store:
        assert [belief.value for belief in store.read.beliefs()] == [1]


def test_restoring_moves_the_write_ahead_log_too(paths: CampaignPaths, clock: FakeClock, lease: Lease) -> None:
    store = Store.open(paths, clock, lease)
    store.knowing.believe(samples.belief(value=1))
    restored = restore_latest(paths, clock, lease)
    store.close()
    assert (restored.kept, restored.lost) == (1, 1)
    with Store.open(paths, clock, lease) as again:
        assert again.read.beliefs() == []


def test_a_backup_that_is_damaged_is_passed_over(paths: CampaignPaths, clock: FakeClock, lease: Lease) -> None:
    with Store.open(paths, clock, lease) as store:
        good = backup.backups(paths)[0]
        clock.advance(1)
        break_file(store.backup())
    break_file(paths.db)
    with pytest.raises(CorruptError):
        Store.open(paths, clock, lease)
    assert restore_latest(paths, clock, lease).backup == good
    Store.open(paths, clock, lease).close()


def test_without_a_good_backup_nothing_is_moved(paths: CampaignPaths, clock: FakeClock, lease: Lease) -> None:
    Store.open(paths, clock, lease).close()
    backup.backups(paths)[0].write_bytes(b"not a database at all" * 100)
    with pytest.raises(NotFoundError, match="no verified backup"):
        restore_latest(paths, clock, lease)
    assert paths.db.exists()


def test_a_lost_or_unreadable_store_is_restored_with_unknown_loss(
    paths: CampaignPaths, clock: FakeClock, lease: Lease
) -> None:
    Store.open(paths, clock, lease).close()
    paths.db.unlink()
    paths.head.unlink()
    restored = restore_latest(paths, clock, lease)
    assert restored.lost is None
    assert "an unknown number of later writes are lost" in restored.sentence
    paths.db.write_bytes(b"garbage" * 1000)
    clock.advance(1)
    assert restore_latest(paths, clock, lease).lost is None
    Store.open(paths, clock, lease).close()


def test_restoring_needs_the_lease(paths: CampaignPaths, clock: FakeClock, lease: Lease) -> None:
    Store.open(paths, clock, lease).close()
    lease.release()
    with pytest.raises(StoreError, match="needs its lease"):
        restore_latest(paths, clock, lease)


def test_an_older_store_is_backed_up_before_it_is_migrated(
    paths: CampaignPaths, clock: FakeClock, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store.open(paths, clock, lease).close()
    clock.advance(1)
    migrated = []

    later = SCHEMA_VERSION + 1

    def next_one(connection: sqlite3.Connection, path: Path) -> None:
        migrated.append(len(backup.backups(paths)))
        connection.execute(f"PRAGMA user_version={later}")

    for module in ("state.store", "state.schema", "state.backup"):
        monkeypatch.setattr(f"{module}.SCHEMA_VERSION", later)
    monkeypatch.setattr("state.store.migrate", next_one)
    Store.open(paths, clock, lease).close()
    assert migrated == [2]


def test_a_restore_reads_like_a_sentence(tmp_path: Path) -> None:
    said = Restored(backup=tmp_path / "b.db", moved_to=tmp_path / "damaged", kept=3, lost=0).sentence
    assert said.startswith("Restored b.db with 3 writes; 0 later writes are lost.")


def test_a_fresh_connection_is_durable_before_anything_is_written(tmp_path: Path) -> None:
    connection = connect(tmp_path / "state.db")
    configure(connection)
    migrate(connection, tmp_path / "state.db")
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    connection.close()
