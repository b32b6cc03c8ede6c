import importlib.metadata
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from state.errors import ToolUnavailableError
from tools.jobs import blas
from tools.jobs.blas import find_openblas, measure_gflops, worker_env


def test_the_first_folder_with_a_library_wins(tmp_path: Path) -> None:
    for name in ("empty", "threaded", "serial"):
        (tmp_path / name).mkdir()
    for name in ("threaded", "serial"):
        (tmp_path / name / "libopenblas.so.0").touch()
    assert find_openblas(tmp_path / name for name in ("none", "empty", "threaded", "serial")) == (
        tmp_path / "threaded" / "libopenblas.so.0"
    )
    assert find_openblas([tmp_path / "empty"]) is None


def test_workers_are_offline_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "is_mlx_on_linux_cpu", lambda: False)
    assert worker_env() == {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def test_on_linux_cpu_the_library_is_preloaded_before_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "is_mlx_on_linux_cpu", lambda: True)
    monkeypatch.setenv("LD_PRELOAD", "/lib/other.so")
    env = worker_env(Path("/lib/openblas.so"))
    assert env["LD_PRELOAD"] == "/lib/openblas.so:/lib/other.so"
    assert env["MLX_DISABLE_COMPILE"] == "1"
    monkeypatch.setenv("LD_PRELOAD", env["LD_PRELOAD"])
    assert worker_env(Path("/lib/openblas.so"))["LD_PRELOAD"] == env["LD_PRELOAD"]


def test_without_a_library_nothing_is_preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "is_mlx_on_linux_cpu", lambda: True)
    monkeypatch.setattr(blas, "find_openblas", lambda: None)
    assert "LD_PRELOAD" not in worker_env()


@pytest.mark.skipif(sys.platform != "linux", reason="the CPU build is looked for on Linux")
def test_a_cuda_build_of_mlx_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(metadata={"Name": "MLX-CUDA-13"})
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: [found])
    assert not blas.is_mlx_on_linux_cpu()


@pytest.mark.mlx
def test_the_speed_is_measured_in_a_child_process() -> None:
    # In a process of its own: other tests of this one may have imported MLX.
    asked = (
        "import sys; from tools.jobs.blas import measure_gflops, worker_env;"
        " print(measure_gflops(worker_env()) > 0, 'mlx' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["True", "False"]


def test_a_probe_that_fails_is_an_unavailable_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "PROBE_MODULE", "tools.no_such_probe")
    with pytest.raises(ToolUnavailableError, match=r"could not be measured: .*no_such_probe"):
        measure_gflops({})
