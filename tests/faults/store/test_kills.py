"""Kill -9 of the holder at random moments; `VIGIL_KILLS=500` for more than the default."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from state.clock import SystemClock
from state.lease import Lease, holder
from state.paths import CampaignPaths
from state.reading import open_reader
from state.records import Belief
from state.store import Store

pytestmark = pytest.mark.faults

KILLS = int(os.environ.get("VIGIL_KILLS", "20"))


def start(module: str, home: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.faults.store.{module}", str(home), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def say(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_what_was_acknowledged_survives_every_kill(tmp_path: Path) -> None:
    paths, clock, draw = CampaignPaths(tmp_path, "night"), SystemClock(), random.Random(7)
    for kill in range(KILLS):
        with start("writer", tmp_path) as writer:
            acknowledged = 0
            for _ in range(draw.randint(1, 6)):
                acknowledged = int(say(writer))
            time.sleep(draw.random() * 0.02)
            writer.kill()
            assert writer.stdout is not None
            acknowledged = max([acknowledged, *(int(line) for line in writer.stdout.read().split())])
        # Opening checks pages, chain and rows.
        with Lease.acquire(paths, clock) as lease, Store.open(paths, clock, lease) as store:
            decisions, actions = store.read.decisions(), store.read.actions()
            assert acknowledged <= len(decisions) <= acknowledged + 1, f"kill {kill}"
            assert [action.state for action in actions[: len(decisions)]] == ["done"] * len(decisions)
            assert [run.decision for run in store.read.runs()] == [decision.id for decision in decisions]
            assert len(store.read.measurements()) in {2 * len(actions), 2 * len(actions) - 2}
            assert len(store.read.find(Belief, status="fresh")) == 1
            assert store.read.campaign().epoch == 2 * (kill + 1) == lease.epoch


def test_of_two_processes_at_one_moment_one_gets_the_campaign(tmp_path: Path) -> None:
    for _ in range(5):
        with start("holding", tmp_path) as one, start("holding", tmp_path) as other:
            said = {process.pid: say(process) for process in (one, other)}
            (winner,) = [pid for pid, words in said.items() if words == "held"]
            (refusal,) = [words for words in said.values() if words != "held"]
            # The loser may look before the winner has said who it is.
            assert f"held by process {winner}" in refusal or "held by another process" in refusal
            one.kill()
            other.kill()


def test_the_lock_of_a_killed_holder_is_free_at_once(tmp_path: Path) -> None:
    paths = CampaignPaths(tmp_path, "night")
    with start("holding", tmp_path) as first:
        assert say(first) == "held"
        seen = holder(paths)
        assert seen is not None
        assert seen["pid"] == first.pid
        first.kill()
    assert holder(paths) is None
    Lease.acquire(paths, SystemClock()).release()


def test_reading_goes_on_while_the_holder_writes(tmp_path: Path) -> None:
    paths = CampaignPaths(tmp_path, "night")
    with start("writer", tmp_path) as writer:
        say(writer)
        seen = []
        for _ in range(50):
            with open_reader(paths) as reader, reader.snapshot():
                decisions, runs, actions = reader.decisions(), reader.runs(), reader.actions()
                assert len(runs) == len(decisions) <= len(actions) <= len(decisions) + 1
                assert len([belief for belief in reader.beliefs() if belief["status"] == "fresh"]) == 1
                seen.append(len(decisions))
        assert seen == sorted(seen)
        assert int(say(writer)) >= 2
        writer.kill()
        assert writer.stdout is not None
        writer.stdout.read()


def test_requests_of_many_processes_all_arrive_while_the_holder_writes(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from state.paths import CampaignPaths;"
        "from state.records import Request; from state.store import insert_request\n"
        "paths, asker = CampaignPaths(Path(sys.argv[1]), 'night'), sys.argv[2]\n"
        "for _ in range(10): insert_request(paths, Request(kind='stop', by=asker))"
    )
    with start("writer", tmp_path, "0.05") as writer:
        say(writer)
        askers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in ("ada", "bob", "eve")]
        assert [asker.wait() for asker in askers] == [0, 0, 0]
        writer.kill()
        assert writer.stdout is not None
        writer.stdout.read()
    with open_reader(CampaignPaths(tmp_path, "night")) as reader:
        requests = reader.requests()
    assert [row["id"] for row in requests] == [f"X{number}" for number in range(1, 31)]
    assert sorted(row["by"] for row in requests) == ["ada"] * 10 + ["bob"] * 10 + ["eve"] * 10
