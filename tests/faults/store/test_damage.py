"""Flipped bytes, torn files and full disks."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from state.backup import restore_latest
from state.clock import FakeClock
from state.errors import CorruptError, LimitExceededError, StoreError
from state.lease import Lease
from state.paths import CampaignPaths
from state.store import Store
from tests.faults.parts import stores
from tests.faults.parts.contract import Batch
from tests.faults.parts.stores import contents
from tests.faults.store.lives import fill
from tests.state import samples

pytestmark = pytest.mark.faults

FLIPS = int(os.environ.get("VIGIL_FLIPS", "100"))


@pytest.fixture
def closed(tmp_path: Path) -> CampaignPaths:
    """A campaign that has been written and closed."""
    paths, clock = CampaignPaths(tmp_path / "home", "night"), FakeClock()
    with Lease.acquire(paths, clock) as lease, Store.open(paths, clock, lease) as store:
        fill(store, 40)
    return paths


def noticed(path: Path, data: bytes, offset: int, mask: int, original: dict[str, list[tuple[object, ...]]]) -> bool:
    """Flip bits of one byte of a copy and tell whether the checks notice; if not, every row must be as it was."""
    changed = bytearray(data)
    changed[offset] ^= mask
    path.write_bytes(bytes(changed))
    try:
        found = contents(path)
    except StoreError:
        return True
    assert found == original, f"byte {offset} changed a row and nobody noticed"
    return False


def test_a_flipped_byte_is_noticed_or_changes_no_row(closed: CampaignPaths, tmp_path: Path) -> None:
    data, original, draw = closed.db.read_bytes(), contents(closed.db), random.Random(11)
    count = sum(
        noticed(tmp_path / "copy.db", data, draw.randrange(len(data)), draw.randint(1, 255), original)
        for _ in range(FLIPS)
    )
    used = sum(map(bool, data)) / len(data)
    print(f"{count} of {FLIPS} one-byte flips noticed, the others changed no row; {used:.0%} of bytes are not zero")
    assert count >= FLIPS // 3


def test_every_flipped_byte_of_a_row_is_noticed(closed: CampaignPaths, tmp_path: Path) -> None:
    data, original, draw = closed.db.read_bytes(), contents(closed.db), random.Random(12)
    words = [b"The ceiling is", b"Round 1", b'"rows_kept":0.5', b"Judge R1."]
    places: list[int] = []
    for word in words:
        start = 0
        while (start := data.find(word, start + 1)) > 0:
            places += range(start, start + len(word))
    for offset in draw.sample(places, min(FLIPS, len(places))):
        assert noticed(tmp_path / "copy.db", data, offset, 1 << draw.randrange(8), original)


def test_a_cut_file_is_noticed(closed: CampaignPaths, tmp_path: Path) -> None:
    data, draw = closed.db.read_bytes(), random.Random(13)
    for _ in range(20):
        length = draw.randrange(1, len(data))
        (tmp_path / "copy.db").write_bytes(data[:length])
        with pytest.raises(CorruptError):
            contents(tmp_path / "copy.db")


def test_a_damaged_store_is_refused_then_restored(closed: CampaignPaths) -> None:
    clock = FakeClock()
    clock.advance(7200)
    with Lease.acquire(closed, clock) as lease:
        Store.open(closed, clock, lease).close()
        data = bytearray(closed.db.read_bytes())
        data[data.index(b"The ceiling is 7") + 15] ^= 1
        closed.db.write_bytes(bytes(data))
        with pytest.raises(CorruptError, match="vigil run --restore"):
            Store.open(closed, clock, lease)
        restored = restore_latest(closed, clock, lease)
        assert restored.lost == 0
        with Store.open(closed, clock, lease) as store:
            assert len(store.read.decisions()) == 40


@pytest.mark.parametrize("part", [stores.pages, stores.flips])
def test_a_damaged_store_is_noticed_before_anything_acts_and_its_loss_is_stated(
    tmp_path: Path, part: Callable[[int, Path, int], Batch]
) -> None:
    batch = part(1, tmp_path, 12)
    print(batch)
    assert batch.violations == ()
    assert batch.figures["noticed and restored"] >= 4


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root on Linux")
    point = tmp_path / "disk"
    point.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(point)], check=False)  # noqa: S607 - root's own PATH
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)  # noqa: S607 - as above


def believe_without_end(store: Store, acknowledged: list[str]) -> None:
    while True:
        subject = f"data:{len(acknowledged)}"
        store.knowing.believe(samples.belief(subject=subject, value="x" * 500))
        acknowledged.append(subject)


def fill_up(path: Path) -> None:
    """Write until the disk is full."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    with suppress(OSError):
        while os.write(descriptor, bytes(4096)):
            pass
    os.close(descriptor)


def test_a_full_disk_loses_nothing_that_was_acknowledged(small_disk: Path) -> None:
    paths, clock = CampaignPaths(small_disk, "night"), FakeClock()
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(800_000))
    lease = Lease.acquire(paths, clock)
    store = Store.open(paths, clock, lease)
    acknowledged: list[str] = []
    with pytest.raises(LimitExceededError, match="is full; nothing of the last write was kept") as caught:
        believe_without_end(store, acknowledged)
    assert caught.value.exit_code == 2
    assert [belief.subject for belief in store.read.beliefs()] == acknowledged
    ballast.unlink()
    store.knowing.believe(samples.belief(subject="data:after"))
    store.close()
    with Store.open(paths, clock, lease) as again:
        assert len(again.read.beliefs()) == len(acknowledged) + 1
    lease.release()


def test_a_disk_that_is_full_from_the_start_is_one_sentence(small_disk: Path) -> None:
    paths, clock = CampaignPaths(small_disk, "night"), FakeClock()
    fill_up(small_disk / "ballast")
    with pytest.raises(LimitExceededError, match="is full"):
        Lease.acquire(paths, clock)
    (small_disk / "ballast").unlink()
    shutil.rmtree(paths.root, ignore_errors=True)
    with Lease.acquire(paths, clock) as lease:
        free = shutil.disk_usage(small_disk).free
        (small_disk / "ballast").write_bytes(bytes(free - 40_000))
        with pytest.raises(LimitExceededError, match="is full"):
            Store.open(paths, clock, lease)
        (small_disk / "ballast").unlink()
        Store.open(paths, clock, lease).close()
