from collections.abc import Iterator

import pytest

from state.clock import FakeClock
from state.errors import CorruptError, LeaseLostError, StoreError
from state.lease import Lease
from state.paths import CampaignPaths
from state.store import Store
from tests.state import samples
from tests.state.store_spec import StoreSpec


class TestStoreInAFile(StoreSpec):
    """The campaign's own store."""


class TestStoreInMemory(StoreSpec):
    """The store of rehearsals."""

    @pytest.fixture
    def store(self, clock: FakeClock) -> Iterator[Store]:
        with Store.in_memory(clock) as opened:
            yield opened

    def test_it_has_no_backups(self, store: Store) -> None:
        with pytest.raises(StoreError, match="in memory has no backups"):
            store.backup()


def test_opening_again_keeps_everything_and_raises_the_epoch(
    paths: CampaignPaths, clock: FakeClock, lease: Lease
) -> None:
    with Store.open(paths, clock, lease) as store:
        store.agent.begin(samples.goal())
        store.knowing.believe(samples.belief())
    assert lease.epoch == 1
    with Store.open(paths, clock, lease) as store:
        assert lease.epoch == 2
        assert (store.read.campaign().agent_starts, store.read.campaign().epoch) == (2, 2)
        assert store.read.belief("B1") == samples.belief(id="B1")


def test_a_holder_whose_lock_file_was_replaced_can_no_longer_write(paths: CampaignPaths, clock: FakeClock) -> None:
    old = Lease.acquire(paths, clock)
    with Store.open(paths, clock, old) as stale:
        stale.knowing.believe(samples.belief(value=1))
        paths.lock.unlink()
        new = Lease.acquire(paths, clock)
        with Store.open(paths, clock, new) as current:
            with pytest.raises(LeaseLostError, match="number 1 of 2"):
                stale.knowing.believe(samples.belief(value=2))
            current.knowing.believe(samples.belief(value=3))
            assert [belief.value for belief in current.read.beliefs()] == [1, 3]
        new.release()
    old.release()


def test_a_store_needs_the_lease_of_its_own_campaign(paths: CampaignPaths, clock: FakeClock, lease: Lease) -> None:
    other = CampaignPaths(paths.home, "other")
    with pytest.raises(LeaseLostError, match="Opening other needs its lease"):
        Store.open(other, clock, lease)
    lease.release()
    with pytest.raises(LeaseLostError, match="Opening night needs its lease"):
        Store.open(paths, clock, lease)
    assert not paths.db.exists()


def test_a_store_that_vanished_is_not_begun_anew(paths: CampaignPaths, clock: FakeClock, lease: Lease) -> None:
    Store.open(paths, clock, lease).close()
    paths.db.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(CorruptError, match=r"is gone or empty, but there are backups.*vigil run --restore"):
            Store.open(paths, clock, lease)
        paths.db.unlink(missing_ok=True)
    assert not paths.db.exists()


def test_an_opening_makes_a_backup_once_an_hour(paths: CampaignPaths, clock: FakeClock, lease: Lease) -> None:
    for wait_s in (0, 100, 3600, 3600, 3600):
        clock.advance(wait_s)
        Store.open(paths, clock, lease).close()
    assert len(list(paths.backups.glob("*.db"))) == 3


def test_commits_are_durable(store: Store) -> None:
    def setting(name: str) -> object:
        return store._connection.execute(f"PRAGMA {name}").fetchone()[0]

    store._connection.set_authorizer(None)
    assert (setting("journal_mode"), setting("synchronous")) == ("wal", 2)


def test_equal_progress_of_a_job_adds_nothing_to_the_journal(store: Store) -> None:
    store.doing.record_job(samples.job())
    with store._reading() as rows:
        before = rows.select("SELECT count(*) AS n FROM journal")
        store.doing.update_job("k1", step=0, state="queued")
        assert rows.select("SELECT count(*) AS n FROM journal") == before
