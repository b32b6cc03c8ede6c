"""A campaign whose store and checkpoint are gone: the job folders bring the work back."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from state.backup import backups, restore_latest
from state.clock import SystemClock
from state.lease import Lease
from state.paths import CampaignPaths
from tests.faults.campaign import warm, world


def starts(paths: CampaignPaths) -> dict[str, bytes]:
    """Return the identity of each job's last worker; a second start would leave another."""
    return {path.parent.name: path.read_bytes() for path in paths.jobs.glob("*/worker.json")}


def verdicts(home: Path) -> list[tuple[str, str]]:
    return [(run["id"], run["bucket"]) for run in world.rows(home)["runs"]]


def go_back_to_the_oldest_backup(paths: CampaignPaths) -> int | None:
    """Break the store, keep the oldest backup only, restore it, and return how many writes that loses."""
    for later in backups(paths)[1:]:
        later.unlink()
    for log in paths.root.glob("state.db-*"):
        log.unlink()
    image = bytearray(paths.db.read_bytes())
    # Bytes of a known image, so that what is broken is the record and not free space.
    place = image.index(b'"sentence"')
    image[place + 1] ^= 1
    paths.db.write_bytes(bytes(image))
    with Lease.acquire(paths, SystemClock()) as lease:
        return restore_latest(paths, SystemClock(), lease).lost


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_after_a_restore_and_without_a_checkpoint_no_job_is_started_again(tmp_path: Path) -> None:
    campaign, home = world.write_campaign(tmp_path / "files"), tmp_path / "home"
    paths = CampaignPaths(home, "storm")
    assert warm.run(campaign, home) == 0
    before, judged, promoted = starts(paths), verdicts(home), paths.promoted.resolve()
    lost = go_back_to_the_oldest_backup(paths)
    assert lost is not None
    assert lost > 0
    assert len(verdicts(home)) < len(judged)
    for part in paths.root.glob("graph.db*"):
        part.unlink()

    assert warm.run(campaign, home) == 0, home.with_suffix(".log").read_text()[-2000:]
    assert starts(paths) == before
    assert verdicts(home) == judged
    assert paths.promoted.resolve() == promoted
    world.assert_exactly_once(home)


def trains(home: Path) -> bool:
    begun = CampaignPaths(home, "storm").jobs.glob("*/out/steps/000003")
    return any(not (step.parents[2] / "result.json").exists() for step in begun)


def promotes(home: Path) -> bool:
    return CampaignPaths(home, "storm").promoted.exists()


def killed_when(holds: Callable[[Path], bool], campaign: Path, home: Path) -> None:
    """Run the agent, and kill it alone once something holds."""
    agent = world.start(campaign, home)
    while agent.poll() is None:
        if holds(home):
            agent.kill()
        time.sleep(0.01)
    assert agent.wait() == -signal.SIGKILL


def lose_the_log(paths: CampaignPaths) -> None:
    paths.db.with_name("state.db-wal").unlink()


def zero_the_store(paths: CampaignPaths) -> None:
    paths.db.write_bytes(bytes(paths.db.stat().st_size))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("holds", "damage"),
    [(trains, lose_the_log), pytest.param(promotes, zero_the_store, marks=pytest.mark.faults)],
)
def test_a_restore_amid_anything_goes_on_to_the_same_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    holds: Callable[[Path], bool],
    damage: Callable[[CampaignPaths], None],
) -> None:
    monkeypatch.setenv("QUICK_STEP_S", "0.05")
    campaign, home = world.write_campaign(tmp_path / "files"), tmp_path / "home"
    paths = CampaignPaths(home, "storm")
    killed_when(holds, campaign, home)
    checkpoint = {part.name: part.read_bytes() for part in paths.root.glob("graph.db*")}
    damage(paths)
    assert warm.run(campaign, home) == 5, world.words(home)
    for _ in range(2):
        with Lease.acquire(paths, SystemClock()) as lease:
            restore_latest(paths, SystemClock(), lease)
    # A checkpoint that is ahead of the record, as where somebody put a backup in place by hand.
    for name, data in checkpoint.items():
        (paths.root / name).write_bytes(data)
    assert warm.run(campaign, home) == 0, world.words(home)
    assert paths.promoted.exists()
    world.assert_exactly_once(home)
