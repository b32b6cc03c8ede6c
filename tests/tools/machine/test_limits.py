from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.tools.machine import machines
from tools.machine import hardware
from tools.machine.facts import System
from tools.machine.hardware import host_limit, memory_limit
from tools.machine.linux import memory_kills


def test_without_a_bound_jobs_may_hold_what_the_machine_has(tmp_path: Path) -> None:
    total = psutil.virtual_memory().total / 1e9
    assert memory_limit(System("linux", tmp_path), {}) == (total, "the machine has")


def test_a_control_group_bounds_it(tmp_path: Path) -> None:
    path = tmp_path / "sys" / "fs" / "cgroup" / "memory.max"
    path.parent.mkdir(parents=True)
    path.write_text("1500000000\n")
    assert memory_limit(System("linux", tmp_path), {}) == (1.5, "a control group bounds it to")
    path.write_text("max\n")
    assert memory_limit(System("linux", tmp_path), {})[1] == "the machine has"


def test_on_a_mac_it_is_what_the_gpu_may_wire_set_by_hand_or_recommended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.program(tmp_path, "sysctl", "1000")
    mac = System("darwin", tmp_path, str(tmp_path))
    assert memory_limit(mac, {}) == (1.048576, "the GPU may wire")
    machines.program(tmp_path, "sysctl", "0")
    told = {"info": {"max_recommended_working_set_size": 2_000_000_000}}
    monkeypatch.setattr(hardware, "ask_mlx", lambda _env: told)
    assert memory_limit(mac, {}) == (2.0, "the GPU may wire")
    monkeypatch.setattr(hardware, "ask_mlx", lambda _env: "it ended with status 1")
    assert memory_limit(mac, {})[1] == "the machine has"


@pytest.mark.parametrize(
    ("files", "kills"),
    [
        ({}, None),
        ({"proc/vmstat": "pgfault 7\noom_kill 3"}, 3),
        ({"proc/vmstat": "oom_kill 3", "sys/fs/cgroup/memory.events": "low 0\noom 9\noom_kill 1"}, 1),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/memory.events": "oom_kill 2\noom_group_kill 0"}, 2),
        ({"proc/self/cgroup": "4:memory:/c\n0::/", "sys/fs/cgroup/memory/c/memory.oom_control": "oom_kill 5"}, 5),
        ({"proc/self/cgroup": "odd", "proc/vmstat": "oom_kill"}, None),
    ],
)
def test_kills_for_want_of_memory_are_counted_where_the_system_tells_them(
    tmp_path: Path, files: dict[str, str], kills: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_kills(System("linux", tmp_path)) == kills


def test_with_cuda_it_is_what_the_gpu_has_beside_what_the_host_has_and_nobody_asks_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linux = System("linux", tmp_path)
    monkeypatch.setattr(hardware, "ask_mlx", lambda _env: pytest.fail("asked for nothing"))
    assert (hardware.cuda_wheels(), hardware.ask_cuda({})) == ([], None)
    monkeypatch.setattr(hardware, "cuda_wheels", lambda: ["mlx-cuda-13 0.32.4"])
    told: dict[str, Any] = {"backend": "cuda", "info": {"total_memory": 1_000_000_000}}
    monkeypatch.setattr(hardware, "ask_mlx", lambda _env: told)
    assert memory_limit(linux, {}) == (1.0, "the GPU has")
    told["info"] = {"total_memory": 10**15}
    assert memory_limit(linux, {}) == (10**6, "the GPU has"), "its arrays are not in the host's memory"
    assert host_limit(linux)[1] == "the machine has"
    monkeypatch.setattr(hardware, "ask_mlx", lambda _env: told | {"backend": "cpu"})
    assert memory_limit(linux, {})[1] == "the machine has"
