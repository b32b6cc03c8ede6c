import json
import platform
from pathlib import Path

import pytest

from tests.tools.training.jobs import run
from tools.evaluation.harness import package_version
from tools.training import saves


def test_what_bits_depend_on_is_named_with_versions_and_core_type() -> None:
    found = saves.environment()
    assert found["mlx"].count(".") == 2
    assert found["mlx-lm"].count(".") == 2
    assert found["cpu"]
    assert saves._library("") == ""
    assert set(found["threads"]) == {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"}


def test_a_machine_without_cpuinfo_and_a_missing_wheel_are_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(saves, "Path", lambda _path: tmp_path / "nothing")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert saves._cpu_model() == "arm64"
    assert package_version("no-such-wheel") == ""


@pytest.mark.mlx
def test_the_blas_probe_prints_a_speed() -> None:
    done = run("tools.training.blas_probe")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["size"] == 384
    assert found["gflops"] > 0.1
