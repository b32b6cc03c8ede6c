"""What was acknowledged stays known outside the store: a store that lost its log is not taken for a sound one."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.render.places import campaigns_in
from state import backup
from state.backup import restore_latest
from state.clock import FakeClock
from state.errors import ConfigError, CorruptError, MigrationError, NotFoundError
from state.journal import Head, HeadFile
from state.lease import Lease
from state.paths import CampaignPaths
from state.reading import open_reader
from state.schema import connect
from state.store import Store, insert_request, last_request
from tests.state import samples


def gone(log: Path) -> None:
    log.unlink()


def empty(log: Path) -> None:
    log.write_bytes(b"")


def cut(log: Path) -> None:
    os.truncate(log, log.stat().st_size // 2)


def zeroed(log: Path) -> None:
    log.write_bytes(bytes(log.stat().st_size))


def noise(log: Path) -> None:
    log.write_bytes(random.Random(1).randbytes(log.stat().st_size))


def flipped(log: Path) -> None:
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 8
    log.write_bytes(bytes(data))


@pytest.fixture
def killed(paths: CampaignPaths, clock: FakeClock, tmp_path: Path) -> CampaignPaths:
    """A campaign as a kill leaves it, its store a single page and everything else in the log."""
    with Lease.acquire(paths, clock) as lease, Store.open(paths, clock, lease) as store:
        for number in range(5):
            store.knowing.believe(samples.belief(subject=f"data:{number}"))
        store.deciding.decide(samples.decision())
        return CampaignPaths(shutil.copytree(paths.home, tmp_path / "left"), paths.name)


@pytest.mark.parametrize(
    ("what", "with_head"),
    [
        *((what, True) for what in (gone, empty, cut, zeroed, noise, flipped)),
        # The newest backup is no longer than what is left of the others.
        *((what, False) for what in (gone, empty, zeroed, noise)),
    ],
)
def test_a_lost_or_damaged_log_is_noticed_and_what_a_restore_gives_is_said(
    killed: CampaignPaths, clock: FakeClock, what: Callable[[Path], None], with_head: Any
) -> None:
    log = killed.db.with_name("state.db-wal")
    # Without the shared index, as after a reboot: what SQLite finds in the log is all there is.
    killed.db.with_name("state.db-shm").unlink()
    what(log)
    if not with_head:
        killed.head.unlink()
    for _ in range(2):
        assert last_request(killed) == 0
        with pytest.raises(CorruptError, match="vigil run --restore"):
            insert_request(killed, samples.request())
        with pytest.raises(CorruptError, match=r"It holds 1.* writes, no decision.*found again in their folders"):
            open_reader(killed)
        with Lease.acquire(killed, clock) as lease, pytest.raises(CorruptError, match="vigil run --restore"):
            Store.open(killed, clock, lease)
    with Lease.acquire(killed, clock) as lease:
        restored = restore_latest(killed, clock, lease)
        assert restored.kept == 1
        assert restored.lost == 6 or not with_head
        Store.open(killed, clock, lease).close()
    open_reader(killed).close()


def test_the_decisions_that_a_restore_loses_are_named(paths: CampaignPaths, clock: FakeClock, lease: Lease) -> None:
    with Store.open(paths, clock, lease) as store:
        store.deciding.decide(samples.decision())
        clock.advance(1)
        store.backup()
        store.deciding.decide(samples.decision("Train on 800 rows."))
    connection = connect(paths.db)
    connection.execute("UPDATE decision SET rule = 'another' WHERE id = 'D1'")
    connection.close()
    with pytest.raises(CorruptError, match=r"It holds 2 of 3 writes, decisions up to D1; D2 would be decided again"):
        open_reader(paths)


def test_another_history_of_the_same_length_is_noticed(
    paths: CampaignPaths, clock: FakeClock, lease: Lease, tmp_path: Path
) -> None:
    with Store.open(paths, clock, lease) as store:
        store.knowing.believe(samples.belief(value=1))
        store.knowing.believe(samples.belief(value=2))
    other = CampaignPaths(tmp_path / "other", paths.name)
    with Lease.acquire(other, clock) as theirs, Store.open(other, clock, theirs) as store:
        store.knowing.believe(samples.belief(value=1))
        store.knowing.believe(samples.belief(value=3))
    shutil.copy(other.db, paths.db)
    with pytest.raises(CorruptError, match="write 4 is another one than was acknowledged"):
        Store.open(paths, clock, lease)


def test_a_head_that_is_older_torn_or_damaged_itself_raises_no_alarm(
    paths: CampaignPaths, clock: FakeClock, lease: Lease
) -> None:
    with Store.open(paths, clock, lease) as store:
        old = paths.head.read_bytes()
        store.knowing.believe(samples.belief())
    newest = paths.head.read_bytes()
    assert HeadFile.read(paths.head) == Head(2, newest.split()[1].decode())
    for data in (old, b"", newest[:40], newest.replace(b"2 ", b"9 ", 1), b"\xff" * 128):
        paths.head.write_bytes(data)
        with open_reader(paths) as reader:
            assert len(reader.beliefs()) == 1
    Store.open(paths, clock, lease).close()


def test_who_may_read_the_store_may_read_its_head_and_who_may_not_is_told(
    paths: CampaignPaths, clock: FakeClock, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store.open(paths, clock, lease).close()
    # As an older version left it.
    paths.head.chmod(0o600)
    paths.db.chmod(0o640)
    Store.open(paths, clock, lease).close()
    assert paths.head.stat().st_mode & 0o777 == 0o640

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "fchmod", refuse)
    Store.open(paths, clock, lease).close()
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ConfigError, match=r"journal\.head may not be read"):
        open_reader(paths)


def test_without_a_head_a_backup_is_verified_once_by_each_process(
    store: Store, paths: CampaignPaths, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.knowing.believe(samples.belief())
    paths.head.unlink()
    seen: list[Path] = []
    real = backup._verify_any_version

    def counted(connection: Any, path: Path) -> int:
        seen.append(path)
        return real(connection, path)

    monkeypatch.setattr("state.backup._verify_any_version", counted)
    for _ in range(3):
        open_reader(paths).close()
    [newest] = backup.backups(paths)
    assert seen.count(newest) == 1
    clock.advance(1)
    store.backup()
    open_reader(paths).close()
    assert seen.count(newest) == 1, "what was verified is known"
    assert seen.count(backup.backups(paths)[-1]) == 1


def test_without_a_sound_backup_that_is_said(paths: CampaignPaths, clock: FakeClock, lease: Lease) -> None:
    with Store.open(paths, clock, lease) as store:
        store.knowing.believe(samples.belief())
    for copy in backup.backups(paths):
        copy.write_bytes(b"noise" * 1000)
    paths.db.write_bytes(b"noise" * 1000)
    with pytest.raises(CorruptError, match="There is no sound backup"):
        open_reader(paths)
    assert backup.acknowledged(paths) == HeadFile.read(paths.head)
    paths.head.unlink()
    assert backup.acknowledged(paths) is None
    paths.db.unlink()
    with pytest.raises(NotFoundError, match="no campaign"):
        open_reader(paths)


def test_a_store_that_is_gone_is_integrity_for_readers(paths: CampaignPaths, clock: FakeClock, lease: Lease) -> None:
    Store.open(paths, clock, lease).close()
    paths.db.unlink()
    with pytest.raises(CorruptError, match=r"is gone or empty.*It holds 1 writes"):
        open_reader(paths)
    assert campaigns_in(paths.home) == [paths.name]


def test_a_changed_version_is_damage_not_an_empty_store(paths: CampaignPaths, clock: FakeClock, lease: Lease) -> None:
    Store.open(paths, clock, lease).close()
    for version, error in ((0, CorruptError), (1, CorruptError), (3, MigrationError)):
        connection = connect(paths.db)
        connection.execute(f"PRAGMA user_version={version}")
        connection.close()
        with pytest.raises(error, match="--restore"):
            open_reader(paths)
    connection = connect(paths.db)
    connection.execute("PRAGMA user_version=1")
    connection.execute("DROP TABLE _sqlite_migrations")
    connection.close()
    with pytest.raises(CorruptError, match="and it was brought to 0"):
        open_reader(paths)


def test_the_longest_backups_are_kept_whatever_the_clock_says(
    paths: CampaignPaths, clock: FakeClock, lease: Lease
) -> None:
    clock.advance(3 * 86400)
    with Store.open(paths, clock, lease) as store:
        for number in range(3):
            store.knowing.believe(samples.belief(subject=f"data:{number}"))
            store.backup()
            clock.advance(1)
        clock.advance(-4 * 86400)
        made = []
        for number in range(3, 8):
            store.knowing.believe(samples.belief(subject=f"data:{number}"))
            made.append(store.backup())
            clock.advance(1)
    assert backup.backups(paths) == made[-3:]
    assert restore_latest(paths, clock, lease).lost == 0
    clock.advance(-60)
    before = len(backup.backups(paths))
    backup.backups(paths)[0].unlink()
    Store.open(paths, clock, lease).close()
    assert len(backup.backups(paths)) == before, "the newest seemed to come from the future"


def test_a_restore_moves_the_checkpoint_and_what_failed_aside_and_may_be_repeated(
    paths: CampaignPaths, clock: FakeClock, lease: Lease
) -> None:
    with Store.open(paths, clock, lease) as store:
        store.knowing.believe(samples.belief())
        clock.advance(1)
        store.backup().write_bytes(b"noise" * 1000)
        clock.advance(1)
        newest = store.backup()
        damaged = bytearray(newest.read_bytes())
        damaged[damaged.index(b"The ceiling")] ^= 1
        newest.write_bytes(bytes(damaged))
    for suffix in ("", "-wal", "-shm"):
        paths.graph.with_name(f"graph.db{suffix}").write_bytes(b"D9")
    restored = restore_latest(paths, clock, lease)
    assert (restored.kept, restored.lost) == (1, 1)
    moved = {path.name for path in restored.moved_to.iterdir()}
    assert {"state.db", "journal.head", newest.name, "graph.db", "graph.db-wal", "graph.db-shm"} <= moved
    assert not list(paths.root.glob("graph.db*"))
    again = restore_latest(paths, clock, lease)
    assert again.moved_to.name == f"{restored.moved_to.name}-2"
    assert restore_latest(paths, clock, lease).moved_to.name == f"{restored.moved_to.name}-3"
    with Store.open(paths, clock, lease) as store:
        assert store.read.beliefs() == []


def test_a_head_that_cannot_be_written_stays_as_it_was(
    paths: CampaignPaths, clock: FakeClock, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(paths, clock, lease) as store:
        before = paths.head.read_bytes()

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "pwrite", full)
        store.knowing.believe(samples.belief())
        monkeypatch.undo()
    assert paths.head.read_bytes() == before
    with Store.open(paths, clock, lease) as store:
        assert len(store.read.beliefs()) == 1


def test_an_opening_that_fails_lets_the_file_go(
    paths: CampaignPaths, clock: FakeClock, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store.open(paths, clock, lease).close()
    monkeypatch.setattr("state.store.HeadFile", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Store.open(paths, clock, lease)
    monkeypatch.undo()
    assert not paths.db.with_name("state.db-wal").exists()
    Store.open(paths, clock, lease).close()


def test_a_looker_on_checks_again_only_what_was_written_since(
    store: Store, paths: CampaignPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = backup.verify_readable

    def counted(*given: Any) -> int:
        seen.append(1)
        return real(*given)

    monkeypatch.setattr("state.reading.verify_readable", counted)
    for _ in range(3):
        open_reader(paths).close()
    assert len(seen) == 1
    store.knowing.believe(samples.belief())
    open_reader(paths).close()
    assert len(seen) == 2


def test_opening_sweeps_what_killed_processes_left_half_written(
    paths: CampaignPaths, clock: FakeClock, lease: Lease
) -> None:
    left = [
        *(paths.root / name for name in (f".lock.json.{'a' * 16}", ".promoted.k1", ".restored.part")),
        *(paths.backups / name for name in (".20261129T000000.000000Z.part", ".20261129T000000.000000Z.part-journal")),
        *(paths.artifacts / ".adapter.k1" / "adapters.safetensors", paths.job("k1").folder / f".job.json.{'b' * 16}"),
    ]
    kept = [paths.job("k1").spec, paths.root / "notes.txt"]
    for path in (*left, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    Store.open(paths, clock, lease).close()
    assert [path for path in (*left, *kept) if path.exists()] == kept
