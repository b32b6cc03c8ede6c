"""Each probe stays silent on a clean campaign and fires, with the right subject and number, on an injected fault."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.campaign import load_campaign
from state.errors import JobFailedError
from state.hashing import HashCache
from tests.faults.campaign import world
from tools.machine.blas import MatrixSpeed, threads
from tools.probes import machine
from tools.probes.catalogue import Observation, Probe, ProbeContext
from tools.probes.own import PROBES


def context(folder: Path, *, has_model: bool = True, **changes: Any) -> ProbeContext:
    campaign = load_campaign(world.write_campaign(folder, **changes))
    return ProbeContext(
        goal=campaign.goal,
        folder=campaign.folder,
        model=folder / "base" if has_model else None,
        home=folder,
        cache=HashCache(),
        environment={"LD_PRELOAD": "libopenblas.so.0"},
    )


def probe(name: str) -> Probe:
    return next(probe for probe in PROBES if probe.id == name)


def seen(name: str, where: ProbeContext, claim: str) -> Observation:
    return next(row for row in probe(name).observe(where) if row.claim == claim)


def test_every_probe_says_what_would_refute_it_and_cheap_ones_come_first() -> None:
    assert all(probe.refuted_by for probe in PROBES)
    assert [probe.cost_s for probe in PROBES] == sorted(probe.cost_s for probe in PROBES)
    assert len({probe.id for probe in PROBES}) == len(PROBES)


def test_a_clean_campaign_gives_no_refuted_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "matrix_speed", lambda _env: MatrixSpeed(10.0))
    where = context(tmp_path)
    assert [row.statement for probe in PROBES for row in probe.observe(where) if not row.holds] == []


def test_a_model_that_is_not_here_is_a_hard_stop_that_names_the_command(tmp_path: Path) -> None:
    found = seen("model.coherent", context(tmp_path, has_model=False), "is_coherent")
    assert (found.holds, found.severity) == (False, "hard_stop")
    assert "--online" in found.fix


def test_a_torn_weight_file_is_a_hard_stop_and_changes_the_fingerprint(tmp_path: Path) -> None:
    where = context(tmp_path)
    before = probe("model.coherent").stands_on(where)
    weights = tmp_path / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert probe("model.coherent").stands_on(where) != before
    found = seen("model.coherent", where, "is_coherent")
    assert (found.holds, found.mode, found.severity) == (False, "3", "hard_stop")
    assert "model.safetensors" in found.statement


def test_a_stale_shard_beside_the_weights_is_a_hard_stop(tmp_path: Path) -> None:
    where = context(tmp_path)
    index = {"weight_map": {"model.embed_tokens.weight": "model-00001-of-00001.safetensors"}}
    (tmp_path / "base" / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(tmp_path / "base" / "model.safetensors", tmp_path / "base" / "model-00001-of-00001.safetensors")
    assert not seen("model.coherent", where, "is_coherent").holds


def test_the_fingerprint_of_a_missing_model_is_told_from_a_present_one(tmp_path: Path) -> None:
    assert probe("model.coherent").stands_on(context(tmp_path, has_model=False))[0].value == "missing"
    assert len(probe("model.coherent").stands_on(context(tmp_path))[0].value) == 64


def test_a_broken_data_row_is_a_hard_stop_that_names_the_line(tmp_path: Path) -> None:
    where = context(tmp_path)
    data = tmp_path / "train.jsonl"
    data.write_text(data.read_text() + "{broken\n")
    found = seen("data.readable", where, "is_readable")
    assert not found.holds
    assert "train.jsonl:9" in found.statement


def test_data_that_was_touched_but_not_changed_keeps_its_fingerprint(tmp_path: Path) -> None:
    where = context(tmp_path)
    before = probe("data.readable").stands_on(where)
    data = tmp_path / "train.jsonl"
    data.write_bytes(data.read_bytes())
    assert probe("data.readable").stands_on(where) == before
    data.write_text(data.read_text() * 2)
    assert probe("data.readable").stands_on(where) != before
    data.unlink()
    assert probe("data.readable").stands_on(where)[0].value == "missing"


def test_validation_data_is_looked_at_too(tmp_path: Path) -> None:
    shutil.copy(world.ROOT / "runbooks/quickstart/data/valid.jsonl", tmp_path / "valid.jsonl")
    where = context(tmp_path, data={"train": "train.jsonl", "valid": "valid.jsonl"})
    assert {row.subject for row in probe("data.readable").observe(where)} == {"data:train", "data:valid"}


def test_one_prompt_in_two_splits_is_a_hard_stop_with_the_case_named(tmp_path: Path) -> None:
    where = context(tmp_path)
    rows = (tmp_path / "selection.jsonl").read_text().splitlines()
    shared = json.loads(rows[3]) | {"id": "again"}
    with (tmp_path / "confirmation.jsonl").open("a") as stream:
        stream.write(json.dumps(shared) + "\n")
    found = seen("splits.disjoint", where, "are_disjoint")
    assert (found.holds, found.mode) == (False, "P11")
    assert found.value == {"shared": 1, "cases": 81}
    assert "again" in found.statement


def test_a_split_that_is_one_file_is_read_once(tmp_path: Path) -> None:
    where = context(tmp_path, evaluation={"max_tokens": 64, "splits": {"main": {"file": "selection.jsonl"}}})
    assert seen("splits.disjoint", where, "are_disjoint").value == {"main": 40}


def test_a_full_disk_is_a_hard_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = context(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1_000_000))
    assert not seen("machine.disk", where, "has_room").holds
    assert probe("machine.disk").is_volatile


def test_weights_larger_than_memory_are_a_hard_stop_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = context(tmp_path)

    class Memory:
        total = 1_000_000

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    found = seen("machine.memory", where, "fits_the_model")
    assert (found.holds, found.severity) == (False, "hard_stop")
    assert found.value["needed_gb"] == pytest.approx(1_332_864 * 4 * 1.2 / 1e9)
    assert machine.PROBES[2].observe(context(tmp_path / "other", has_model=False)) == ()


def test_a_package_that_is_missing_is_a_hard_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_PACKAGES", ("mlx", "no-such-package"))
    found = seen("tool.packages", context(tmp_path), "are_installed")
    assert not found.holds
    assert "no-such-package" in found.statement


def test_an_upgrade_makes_the_belief_about_packages_stand_on_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = context(tmp_path)
    before = probe("tool.packages").stands_on(where)
    monkeypatch.setattr(machine, "version", lambda name: "9.9" if name == "mlx-lm" else "1.0")
    after = probe("tool.packages").stands_on(where)
    assert before != after
    assert ("mlx-lm", "9.9") in {(row.name, row.value) for row in after}


@pytest.mark.skipif(sys.platform != "linux", reason="OpenBLAS is preloaded on Linux alone")
def test_matrix_speed_is_told_with_and_without_the_preloaded_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = context(tmp_path)
    fast = MatrixSpeed(57.0, "/lib/openblas-pthread/libopenblas.so.0", "OpenBLAS 0.3.21 Haswell")
    monkeypatch.setattr(machine, "matrix_speed", lambda env: fast if "LD_PRELOAD" in env else MatrixSpeed(3.5))
    found = seen("machine.blas", where, "speed")
    told = {
        "gflops_before": 3.5,
        "gflops_after": 57.0,
        "library": fast.library,
        "build": fast.build,
        "threads": threads(),
    }
    assert found.value == told
    monkeypatch.setattr(machine, "why_slow", lambda: "Nobody made one.")
    bare = ProbeContext(**{**where.__dict__, "environment": {}})
    slow = seen("machine.blas", bare, "speed")
    assert slow.statement == "No OpenBLAS is preloaded: 4 GFLOP/s (float32). Nobody made one."
    assert slow.value["gflops_after"] == 3.5
    assert probe("machine.blas").stands_on(bare) != probe("machine.blas").stands_on(where)


@pytest.mark.skipif(sys.platform != "linux", reason="as above")
def test_a_speed_that_cannot_be_measured_is_only_assumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_env: dict[str, str]) -> float:
        raise JobFailedError("no")

    monkeypatch.setattr(machine, "matrix_speed", fail)
    found = seen("machine.blas", context(tmp_path), "speed")
    assert (found.holds, found.tag) == (True, "assumed")


def test_no_speed_is_measured_off_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert probe("machine.blas").observe(context(tmp_path)) == ()
