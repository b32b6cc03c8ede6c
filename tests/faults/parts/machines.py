"""What a machine does to a campaign: its disk fills up, it freezes a process, sets its clock, or restarts."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from state.errors import VigilError
from state.files import read_jsonl, write_atomic
from state.paths import CampaignPaths
from state.reading import open_reader
from tests.faults.campaign import world
from tests.faults.campaign.reboot import power_cut, processes_of
from tests.faults.parts.agents import campaign_of
from tests.faults.parts.contract import Batch, Part

FROZEN_S = 35.0
"""Longer than any time-out of ours that could take something from a live process: SQLite waits 30 s, locks 30 s."""

FULL_FOR_S = 10.0
_LONGEST_S = 240.0
_STEPS_S = (3600.0, -3600.0, 86_400.0, -86_400.0)
_ROOMY = "4g"


def _until_held(home: Path, agent: "subprocess.Popen[bytes]", deadline_s: float = 60) -> bool:
    """Wait until an agent has begun its campaign; return whether it still lives."""
    end = time.monotonic() + deadline_s
    while agent.poll() is None and time.monotonic() < end:
        with suppress(VigilError, OSError), open_reader(CampaignPaths(home, "storm")) as reader:
            if reader.campaign():
                return True
        time.sleep(0.05)
    return agent.poll() is None


def _ended(agent: "subprocess.Popen[bytes]", timeout_s: float) -> int | None:
    with suppress(subprocess.TimeoutExpired):
        return agent.wait(timeout=timeout_s)
    return None


# -- clocks and restarts ------------------------------------------------------------------------------------------


_SET_CLOCK = """
import sys, time

def shift():
    try:
        with open({file!r}) as stream:
            return float(stream.read())
    except (OSError, ValueError):
        return 0.0

_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + shift()
time.time_ns = lambda: _time_ns() + int(shift() * 1e9)
if sys.platform == "linux":
    # The kernel tells the boot as now minus uptime: it moves with the clock, and so does when a process was born.
    from psutil import _pslinux
    _boot_time = _pslinux.boot_time
    _pslinux.boot_time = lambda: _boot_time() + shift()
"""
"""Run at the start of every process, as `sitecustomize`: the wall clock is off by what stands in a file now."""


def clock(seed: int, folder: Path, most: int) -> Batch:
    """Set the wall clock of agent, supervisors and workers while they run; kill the agent; set it the other way."""
    del most
    dice = random.Random(seed)
    step_s = _STEPS_S[seed % len(_STEPS_S)]
    campaign, home = campaign_of(seed, folder)
    shift, first_on_path = folder / "shift", folder / "clock"
    first_on_path.mkdir()
    (first_on_path / "sitecustomize.py").write_text(_SET_CLOCK.format(file=str(shift)))
    agent = world.start(campaign, home, first_on_path=first_on_path)
    _until_held(home, agent)
    is_ended = _ended(agent, dice.uniform(0, 4)) is not None
    write_atomic(shift, str(step_s).encode())
    if not is_ended and _ended(agent, dice.uniform(0, 6)) is None:
        os.killpg(agent.pid, signal.SIGKILL)
        agent.wait()
    agent = world.start(campaign, home, first_on_path=first_on_path)
    if _ended(agent, dice.uniform(1, 6)) is None:
        write_atomic(shift, str(-step_s).encode())
    code = _ended(agent, _LONGEST_S)
    if code is None:
        os.killpg(agent.pid, signal.SIGKILL)
        return Batch(1, (f"{home}: no end in {_LONGEST_S:.0f} s: {world.words(home)[-300:]}",))
    return Batch(int(not is_ended), tuple(world.wrong(home, code)), {f"{step_s / 3600:+g} h": 1})


def reboot(seed: int, folder: Path, most: int) -> Batch:
    """End every process at once at a random moment and change the boot that files name; then go on."""
    del most
    dice = random.Random(seed)
    campaign, home = campaign_of(seed, folder)
    agent = world.start(campaign, home)
    is_running = _until_held(home, agent)
    is_hit = is_running and _ended(agent, dice.uniform(0, 6)) is None
    power_cut(home, agent)
    code = world.run(campaign, home, timeout_s=_LONGEST_S)
    return Batch(int(is_hit), tuple(world.wrong(home, code, jobs_died=True)))


# -- frozen processes ---------------------------------------------------------------------------------------------


def frozen(seed: int, folder: Path, most: int) -> Batch:
    """Suspend the agent, or a supervisor, or a worker, for longer than any time-out; nobody may take its place."""
    del most
    dice, found = random.Random(seed), []
    campaign, home = campaign_of(seed, folder)
    agent = world.start(campaign, home)
    _until_held(home, agent)
    what = ("the agent", "tools.jobs.supervisor", "tests.faults.campaign.quick")[seed % 3]
    pid = agent.pid if what == "the agent" else _process(home, what, agent)
    if pid is None or agent.poll() is not None:
        agent.wait(timeout=_LONGEST_S)
        return Batch(0)
    time.sleep(dice.uniform(0, 1))
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + FROZEN_S
    second = world.start(campaign, home, log=home.with_suffix(".second.log"))
    code = _ended(second, FROZEN_S)
    if code != 5 and agent.poll() is None:
        found.append(f"beside a live holder a second agent ended with {code}")
        if second.poll() is None:
            second.kill()
            second.wait()
    time.sleep(max(0.0, end - time.monotonic()))
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    last = _ended(agent, _LONGEST_S)
    return Batch(1, tuple(found + world.wrong(home, -1 if last is None else last)), {what.rpartition(".")[2]: 1})


def _process(home: Path, module: str, agent: "subprocess.Popen[bytes]") -> int | None:
    """Wait for a process of a campaign that runs this module; None where the agent ended first."""
    end = time.monotonic() + 60
    while agent.poll() is None and time.monotonic() < end:
        for process in processes_of(home):
            with suppress(Exception):
                if module in process.cmdline():
                    return process.pid
        time.sleep(0.02)
    return None


# -- full disks ---------------------------------------------------------------------------------------------------


@contextmanager
def _disk(point: Path) -> Iterator[Path]:
    """Mount a disk in memory that can be made as small as what it holds."""
    point.mkdir()
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", f"size={_ROOMY}", "tmpfs", str(point)], check=True)
    try:
        yield point
    finally:
        for process in processes_of(point):
            with suppress(Exception):
                process.kill()
        subprocess.run(["/bin/umount", "--lazy", str(point)], check=True)


def _resize(point: Path, size: str) -> None:
    subprocess.run(["/bin/mount", "-o", f"remount,size={size}", str(point)], check=True)


def _fill(point: Path) -> None:
    """Leave no block free; tried again where something was written meanwhile."""
    for _ in range(50):
        used = shutil.disk_usage(point).used
        with suppress(subprocess.CalledProcessError):
            _resize(point, str(used))
            return


def full(seed: int, folder: Path, most: int) -> Batch:
    """Let the disk be full at a random moment, for a while; then there is room again, and the same command goes on."""
    del most
    dice, found = random.Random(seed), []
    campaign, _ = campaign_of(seed, folder)
    with _disk(folder / "disk") as disk:
        home = disk / "home"
        log = folder / "agent.log"
        agent = world.start(campaign, home, log=log)
        is_running = _until_held(home, agent)
        is_hit = is_running and _ended(agent, dice.uniform(0, 8)) is None
        _fill(disk)
        code = _ended(agent, FULL_FOR_S)
        _resize(disk, _ROOMY)
        if code is None:
            code = _ended(agent, _LONGEST_S)
        stopped = int(code == 2)
        for _ in range(4):
            if code in {0, 1}:
                break
            if code not in {2, 4, 5}:
                found.append(f"exit code {code}")
            code = world.start(campaign, home, log=log).wait(timeout=_LONGEST_S)
        said = log.read_text()
        if code not in {0, 1}:
            found.append(f"with room again it ended with {code}: {said[-300:]}")
        if "Traceback" in said:
            found.append(f"a traceback: {said[said.index('Traceback') :][:600]}")
        found += _kept(home)
    return Batch(int(is_hit), tuple(found), {"stopped with code 2": stopped})


def _kept(home: Path) -> list[str]:
    """Return what is wrong with a campaign some of whose jobs may have failed for want of room."""
    rows = world.rows(home)
    states = {action["state"] for action in rows["actions"]}
    keys = [action["key"] for action in rows["actions"]]
    found = [f"actions are {sorted(states)}"] if states - {"done", "failed"} else []
    found += ["an action key stands twice"] * (len(keys) != len(set(keys)))
    for path in CampaignPaths(home, "storm").jobs.glob("*/out/violations.jsonl"):
        found += [f"{path.parent.parent.name}: {row['what']}" for row in read_jsonl(path)]
    return found


def _cannot_mount() -> str:
    return "" if sys.platform == "linux" and os.geteuid() == 0 else "mounting a small disk needs root on Linux"


PARTS = (
    Part("disk_full", "the disk full at a random moment of a campaign, then not any more", 20, full, _cannot_mount),
    Part("frozen", "agent, supervisor or worker suspended for 35 s; a second agent is refused", 12, frozen),
    Part("clocks", "the wall clock of all processes set by an hour or a day either way, then the other way", 40, clock),
    Part("reboot", "every process gone at once and another boot", 40, reboot),
)
