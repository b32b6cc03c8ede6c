import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from state import lease as module
from state.clock import FakeClock, SystemClock
from state.errors import ConfigError, LeaseLostError, LimitExceededError
from state.lease import Lease, holder
from state.paths import CampaignPaths


def test_a_second_holder_is_refused_by_name(paths: CampaignPaths, clock: FakeClock, lease: Lease) -> None:
    with pytest.raises(LeaseLostError, match=f"held by process {os.getpid()} on .* since 2023-11-14 22:13:20 UTC"):
        Lease.acquire(paths, clock)
    assert lease.is_held


def test_a_released_campaign_can_be_taken(paths: CampaignPaths, clock: FakeClock) -> None:
    first = Lease.acquire(paths, clock)
    first.release()
    first.release()
    assert not first.is_held
    with Lease.acquire(paths, clock) as second:
        assert second.is_held
    assert not second.is_held


def test_who_holds_a_campaign_can_be_asked_without_taking_it(paths: CampaignPaths, clock: FakeClock) -> None:
    assert holder(paths) is None
    with Lease.acquire(paths, clock):
        seen = holder(paths)
        assert seen is not None
        assert (seen["pid"], seen["started"]) == (os.getpid(), clock.now())
    assert holder(paths) is None


@pytest.mark.parametrize("written", ["", "[1]", "{"])
def test_a_holder_that_has_not_said_who_it_is_is_another_process(
    paths: CampaignPaths, clock: FakeClock, lease: Lease, written: str
) -> None:
    module.holder_file(paths).write_text(written)
    assert holder(paths) == {}
    with pytest.raises(LeaseLostError, match="held by another process"):
        Lease.acquire(paths, clock)


def test_a_look_at_the_lock_does_not_refuse_the_next_holder(paths: CampaignPaths) -> None:
    paths.root.mkdir(parents=True)
    looking = os.open(paths.lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_SH | fcntl.LOCK_NB)

    class Leaving(FakeClock):
        def sleep(self, seconds: float) -> None:
            fcntl.flock(looking, fcntl.LOCK_UN)

    with Lease.acquire(paths, Leaving()) as held:
        assert held.is_held
    os.close(looking)


def test_children_do_not_keep_the_campaign(paths: CampaignPaths, clock: FakeClock) -> None:
    lease = Lease.acquire(paths, clock)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False) as child:
        lease.release()
        # The kernel closes an inherited descriptor an instant after the child has begun: the real clock waits for it.
        Lease.acquire(paths, SystemClock()).release()
        assert child.poll() is None
        child.communicate(b"\n")


@pytest.mark.parametrize(
    ("code", "kind", "sentence"),
    [
        (errno.EACCES, ConfigError, "cannot be written .Permission denied.; choose another home"),
        (errno.ENOSPC, LimitExceededError, "is full"),
    ],
)
def test_a_home_that_takes_nothing_is_one_sentence(
    paths: CampaignPaths, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception], sentence: str
) -> None:
    def refuse(path: Path, value: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module, "write_json", refuse)
    with pytest.raises(kind, match=sentence):
        Lease.acquire(paths, FakeClock())
    assert holder(paths) is None


def test_a_home_below_a_file_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(ConfigError, match="cannot be written"):
        Lease.acquire(CampaignPaths(tmp_path / "home", "night"), clock)


def test_a_network_home_is_refused_before_anything_is_created(
    paths: CampaignPaths, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    say_nfs: Callable[[Path], str] = lambda _path: "nfs4"  # noqa: E731 - one expression
    monkeypatch.setattr("state.files.file_system_type", say_nfs)
    with pytest.raises(ConfigError, match="network file system"):
        Lease.acquire(paths, clock)
    assert not paths.home.exists()


def test_the_holder_file_is_json(paths: CampaignPaths, lease: Lease) -> None:
    assert set(json.loads(module.holder_file(paths).read_text())) == {"pid", "host", "started"}
