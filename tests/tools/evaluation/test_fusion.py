"""Whether a fused model answers as base and adapter do: by real answers of the tiny base, quantized to four bits."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults.campaign.world import ROOT
from tests.tools.probes.looks import look, of, only, why_not

pytestmark = pytest.mark.mlx


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a 4-bit base, an adapter as many passes leave it, and what mlx-lm fuses of both into 4 bits."""
    folder = tmp_path_factory.mktemp("fused")
    command = [sys.executable, "-m", "tests.faults.failure_modes.fusing", str(folder), "0.05"]
    subprocess.run(command, check=True, cwd=ROOT, env=dict(os.environ), capture_output=True)
    return folder


def copied(made: Path, folder: Path) -> Path:
    shutil.copytree(made, folder)
    return folder


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_large_adapter_that_survived_four_bits_is_no_finding_by_its_answers(made: Path) -> None:
    found = look(made, made / "base")
    assert of(found, "2") == []
    assert "2" in found.report.checked


def test_a_fused_model_that_is_its_base_again_answers_as_its_base(made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path / "p")
    shutil.copy(folder / "base" / "model.safetensors", folder / "fused" / "model.safetensors")
    found = only(look(folder, folder / "base"), "2")
    assert (found.severity, found.subject, found.claim) == ("hard_stop", "model:fused", "fuse_answers")
    assert found.value["kl_fused"] == pytest.approx(found.value["kl_base"], rel=1e-6)
    assert found.value["positions"] > 100
    assert "does not answer as base with the adapter adapters" in found.sentence
    assert "matrices compared, cosine 0.00" in found.sentence


def test_an_adapter_that_hardly_speaks_is_judged_by_its_matrices(made: Path, tmp_path: Path) -> None:
    from tests.faults.failure_modes.fusing import adapter, fuse

    folder = copied(made, tmp_path / "p")
    for name in ("adapters", "fused"):
        shutil.rmtree(folder / name)
    adapter(folder / "adapters", 0.0005)
    fuse(folder)
    assert only(look(folder, folder / "base"), "2").claim == "fuse"
    change(folder / "adapters" / "adapter_config.json", lora_parameters={"rank": 4, "scale": 0.0, "dropout": 0.0})
    assert "too little to tell what became of it" in why_not(look(folder, folder / "base"), "2")


def test_code_that_comes_with_a_model_is_not_run_and_what_does_not_load_is_named(made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path / "p")
    (folder / "fused" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    change(folder / "fused" / "config.json", model_file="own.py")
    assert "fused brings code of its own, which is not run" in why_not(look(folder, folder / "base"), "2")
    assert not (tmp_path / "ran").exists()
    shutil.copy(made / "fused" / "config.json", folder / "fused" / "config.json")
    change(folder / "fused" / "config.json", model_type="nobody")
    why = why_not(look(folder, folder / "base"), "2")
    assert "its answers were not compared: mlx-lm cannot load fused" in why
    assert str(folder) not in why


def test_on_a_cpu_models_that_fit_are_compared_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlx.core as mx

    from tools.evaluation.fusion import compute_in

    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    is_cpu = mx.default_device().type == mx.DeviceType.cpu
    assert compute_in(tmp_path) == ("float32" if is_cpu else None)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=3000))
    assert compute_in(tmp_path) is None, "as stored, where twice its size would not fit"
