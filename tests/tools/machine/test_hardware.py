"""What computes: the interpreter, MLX, matrix speed, memory, disks, open files."""

import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from state import files
from state.errors import ToolUnavailableError
from tests.tools.machine import machines
from tools.machine import hardware
from tools.machine.blas import MatrixSpeed, worker_env
from tools.machine.facts import System

TOLD: dict[str, Any] = {"version": "0.32.4", "backend": "cpu", "device": "Device(cpu, 0)", "computes": True, "info": {}}
GB = 1e9


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 64 GB, 40 of them free."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * GB, available=40 * GB))
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(used=0))


def test_the_interpreter_says_what_it_was_built_for(tmp_path: Path) -> None:
    line = hardware.python(machines.linux(tmp_path))
    assert line.outcome == "good"
    assert line.value["architecture"] == platform.machine()


def test_a_python_that_rosetta_translates_fails_the_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert hardware.python(machines.mac(tmp_path / "native")).outcome == "good"
    line = hardware.python(machines.mac(tmp_path / "translated", translated="1"))
    assert line.outcome == "bad"
    assert "arm64" in line.fix


def test_an_intel_mac_fails_the_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert hardware.python(machines.mac(tmp_path)).outcome == "bad"


@pytest.mark.mlx
def test_mlx_is_asked_in_a_child_process_of_its_own() -> None:
    asked = (
        "import sys; from tools.machine.hardware import ask_mlx; from tools.machine.blas import worker_env;"
        " told = ask_mlx(worker_env()); print(told['computes'], bool(told['version']), 'mlx' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["True", "True", "False"]


@pytest.mark.mlx
def test_mlx_tells_its_backend_here() -> None:
    told = hardware.ask_mlx(worker_env())
    assert isinstance(told, dict)
    line = hardware.mlx(told, System("linux"))
    assert line.outcome == "good"
    assert f"backend {told['backend']}" in line.statement


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import sys; sys.exit('libmlx.so: cannot open')", "libmlx.so: cannot open"),
        ("import os; os._exit(7)", "it ended with status 7"),
        ("print('no json')", "Expecting value"),
        ("print('[]')", "it ended with status 0"),
    ],
)
def test_an_mlx_that_does_not_load_fails_the_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, why: str
) -> None:
    (tmp_path / "broken_mlx.py").write_text(text)
    monkeypatch.setattr(hardware, "MLX_MODULE", "broken_mlx")
    told = hardware.ask_mlx({"PYTHONPATH": str(tmp_path)})
    line = hardware.mlx(told, System("linux"))
    assert line.outcome == "bad"
    assert why in line.statement


def test_an_mlx_that_computes_wrongly_fails_the_night() -> None:
    line = hardware.mlx({**TOLD, "computes": False}, System("linux"))
    assert (line.outcome, line.statement) == ("bad", "MLX does not work in a worker: its matrix product is wrong.")


def test_a_missing_mlx_lm_fails_the_night(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(hardware, "version", missing)
    assert hardware.mlx(TOLD, System("linux")).outcome == "bad"


def test_a_mac_without_metal_is_warned_about(tmp_path: Path) -> None:
    assert hardware.mlx(TOLD, machines.mac(tmp_path)).outcome == "warn"
    assert hardware.mlx({**TOLD, "backend": "metal"}, machines.mac(tmp_path)).outcome == "good"


def test_the_gain_of_the_preloaded_library_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = MatrixSpeed(70.0, "/lib/openblas.so")
    monkeypatch.setattr(hardware, "matrix_speed", lambda env: fast if env.get("LD_PRELOAD") else MatrixSpeed(10.0))
    line = hardware.speed({"LD_PRELOAD": "/lib/openblas.so"}, "cpu")
    assert line.outcome == "good"
    assert line.value == {"gflops_before": 10.0, "gflops_after": 70.0, "library": "/lib/openblas.so"}


def test_a_preloaded_library_without_gain_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "matrix_speed", lambda env: MatrixSpeed(10.0))
    assert hardware.speed({"LD_PRELOAD": "/lib/openblas.so"}, "cpu").outcome == "warn"


def test_without_openblas_the_reason_is_named_on_linux_and_nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "matrix_speed", lambda env: MatrixSpeed(10.0))
    monkeypatch.setattr(hardware, "why_slow", lambda: "Nobody made one.")
    monkeypatch.setattr(sys, "platform", "linux")
    line = hardware.speed({}, "cpu")
    assert (line.outcome, line.fix) == ("warn", "Nobody made one.")
    assert hardware.speed({}, "metal").outcome == "good"


def test_a_speed_that_cannot_be_measured_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(env: object) -> float:
        raise ToolUnavailableError("The speed of MLX could not be measured: no.")

    monkeypatch.setattr(hardware, "matrix_speed", fails)
    assert hardware.speed({}, "cpu").outcome == "not_told"


def test_memory_is_told_with_what_is_free(tmp_path: Path, roomy: None) -> None:
    line = hardware.memory(machines.linux(tmp_path), TOLD)
    assert line.outcome == "good"
    assert line.value == {"total_gb": 64.0, "free_gb": 40.0, "swap_gb": 0.0}


def test_a_control_group_bounds_memory(tmp_path: Path, roomy: None) -> None:
    line = hardware.memory(machines.linux(tmp_path, {"sys/fs/cgroup/memory.max": "8000000000\n"}), TOLD)
    assert (line.value["total_gb"], line.value["free_gb"]) == (8.0, 8.0)
    assert "A control group bounds it." in line.statement
    line = hardware.memory(machines.linux(tmp_path, {"sys/fs/cgroup/memory.max": "max\n"}), TOLD)
    assert line.value["total_gb"] == 64.0


def test_memory_that_is_nearly_all_taken_is_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * GB, available=5 * GB))
    assert hardware.memory(machines.linux(tmp_path), TOLD).outcome == "warn"


def test_what_the_gpu_of_a_mac_may_wire_is_told(tmp_path: Path, roomy: None) -> None:
    told = {**TOLD, "info": {"max_recommended_working_set_size": 48_000_000_000}}
    line = hardware.memory(machines.mac(tmp_path / "default"), told)
    assert line.value["wired_limit_gb"] == 48.0
    assert "(the default)" in line.statement
    line = hardware.memory(machines.mac(tmp_path / "set", wired_mb="57344"), told)
    assert line.value["wired_limit_gb"] == 60.13
    assert "(as set)" in line.statement
    line = hardware.memory(machines.mac(tmp_path / "none", wired_mb="no such key"), "MLX is broken")
    assert line.value["wired_limit_gb"] is None
    assert "not told" in line.statement


@pytest.mark.parametrize(("free_gb", "outcome"), [(0.4, "bad"), (3.0, "warn"), (50.0, "good")])
def test_free_space_is_judged_where_campaigns_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_gb: float, outcome: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free_gb * GB))
    line = hardware.home_disk(tmp_path / "not" / "yet" / "there")
    assert line.outcome == outcome
    assert hardware.cache_disk(tmp_path / "hub").outcome == ("good" if outcome == "good" else "warn")


def test_a_home_that_cannot_be_written_fails_the_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    line = hardware.home_disk(tmp_path)
    assert line.outcome == "bad"
    assert "cannot be written" in line.statement


def test_a_home_on_a_network_disk_fails_the_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "file_system_type", lambda path: "nfs4")
    line = hardware.home_disk(tmp_path)
    assert line.outcome == "bad"
    assert "network file system" in line.statement


@pytest.mark.parametrize(
    ("soft", "outcome"), [(32, "bad"), (128, "warn"), (256, "good"), (resource.RLIM_INFINITY, "good")]
)
def test_the_limit_of_open_files_is_judged(monkeypatch: pytest.MonkeyPatch, soft: int, outcome: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, resource.RLIM_INFINITY))
    line = hardware.open_files()
    assert line.outcome == outcome
    assert line.value["soft"] == (None if soft == resource.RLIM_INFINITY else soft)
