"""The capability probe: silent where the tools can do what is asked, and a hard stop with the reason where not."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from state.records import Instrument
from tests.tools.probes.test_probes import context
from tools.probes import capability, machine
from tools.probes.catalogue import Observation, ProbeContext

[PROBE] = capability.PROBES
SFT = {"step": "", "why": "", "fresh": 5.9, "trained": 4.1, "loaded": 4.1, "tokens": 9}
CONTRACTS: dict[str, Any] = {
    "batch": {"same": 6, "of": 6},
    "fuse": {"small": {"quantized": 0.05, "dequantized": 1.0}, "large": {"quantized": 0.99, "dequantized": 1.0}},
    "stale": {"reads": True, "wins": True},
}


def answering(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, **changes: Any) -> ProbeContext:
    """Put a program in the place of the one that measures."""
    folder.mkdir(exist_ok=True)
    (folder / "stands_in.py").write_text(source)
    monkeypatch.setattr(capability, "MODULE", "stands_in")
    return replace(context(folder / "files", **changes), environment={"PYTHONPATH": str(folder)})


def seen(folder: Path, monkeypatch: pytest.MonkeyPatch, **changed: Any) -> dict[str, Observation]:
    """Return what is observed of an answer that is good but for some of its contracts or its one instrument."""
    sft = changed.pop("sft", SFT)
    answer = {"instruments": {"sft": sft}, "contracts": CONTRACTS | changed}
    where = answering(folder, monkeypatch, f"import json\nprint('noise')\nprint({json.dumps(answer)!r})")
    return {f"{row.subject} {row.claim}": row for row in PROBE.observe(where)}


def with_instruments(asked: ProbeContext, *names: Instrument) -> ProbeContext:
    return replace(asked, goal=asked.goal.model_copy(update={"instruments": names}))


@pytest.mark.mlx
def test_the_installed_tools_refute_nothing_of_any_instrument(tmp_path: Path) -> None:
    found = PROBE.observe(with_instruments(context(tmp_path), "sft", "dpo", "grpo"))
    assert [row.statement for row in found if not row.holds] == []
    assert len(found) == 9


def test_an_instrument_that_is_not_there_is_a_hard_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"step": "imports", "why": "`grpo` cannot be trained; known instruments are sft, dpo."}
    answer = {"instruments": {"sft": SFT, "grpo": missing}, "contracts": CONTRACTS}
    where = answering(tmp_path, monkeypatch, f"print({json.dumps(answer)!r})")
    refuted = [row for row in PROBE.observe(where) if not row.holds]
    assert [(row.subject, row.claim, row.severity, row.mode) for row in refuted] == [
        ("instrument:grpo", "can_be_run", "hard_stop", "6")
    ]
    assert "grpo cannot be run by what is installed" in refuted[0].statement
    assert "Take grpo out of `instruments`" in refuted[0].fix


def test_an_answer_without_fault_is_told_with_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = seen(tmp_path, monkeypatch)
    assert [name for name, row in found.items() if not row.holds] == []
    assert {row.tag for row in found.values()} == {"confirmed"}
    assert "9 tokens generated" in found["instrument:sft can_be_run"].statement
    assert "from 5.9000 to 4.1000" in found["instrument:sft loads_what_it_saved"].statement
    assert "loses a small delta (cosine 0.05; 0.99" in found["tool:mlx_lm.fuse keeps_deltas_dequantized"].statement
    assert found["tool:mlx_lm.load which_files_it_reads"].statement.endswith(
        "does not name too; here the stale one won."
    )


def test_a_loss_that_does_not_come_back_is_a_hard_stop_of_mode_12(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = seen(tmp_path, monkeypatch, sft=SFT | {"loaded": 5.9})["instrument:sft loads_what_it_saved"]
    assert (row.holds, row.severity, row.mode) == (False, "hard_stop", "12")
    assert "loaded back from its adapter folder it is 5.9000" in row.statement


def test_a_step_that_fails_is_told_without_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = seen(tmp_path, monkeypatch, sft={"step": "saving", "why": "OSError: full.", "fresh": 5.9})
    assert found["instrument:sft can_be_run"].statement.endswith("what is installed; saving: OSError: full.")
    assert "instrument:sft loads_what_it_saved" not in found


def test_contracts_that_changed_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuse = {"small": {"quantized": 0.95, "dequantized": 0.4}, "large": {"quantized": 0.99, "dequantized": 1.0}}
    found = seen(tmp_path, monkeypatch, batch={"same": 5, "of": 6}, fuse=fuse, stale={"reads": False, "wins": False})
    batch = found["tool:mlx_lm.BatchGenerator equals_single"]
    assert (batch.holds, batch.severity) == (False, "warning")
    fused = found["tool:mlx_lm.fuse keeps_deltas_dequantized"]
    assert (fused.holds, fused.mode) == (False, "2")
    assert "keeps a small delta" in fused.statement
    assert found["tool:mlx_lm.load which_files_it_reads"].statement == "mlx_lm.load reads the index."


def test_a_contract_that_could_not_be_measured_is_assumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = seen(tmp_path, monkeypatch, fuse={"why": "AttributeError: fuse"})["tool:mlx_lm.fuse keeps_deltas_dequantized"]
    assert (row.holds, row.tag) == (True, "assumed")
    assert row.statement == "Not measured: AttributeError: fuse."


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("raise ImportError('no mlx here')", "starting: ImportError: no mlx here"),
        ("import os; os._exit(7)", "starting: it ended with status 7"),
        ("print('hello')", "starting: JSONDecodeError"),
        ("", "starting: IndexError"),
        ("import time; time.sleep(60)", "starting: it took longer than 0.5 s"),
    ],
)
def test_tools_that_do_not_start_can_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, why: str
) -> None:
    if "sleep" in source:
        monkeypatch.setattr(capability, "_TIMEOUT_S", 0.5)
    found = PROBE.observe(answering(tmp_path, monkeypatch, source, instruments=["sft", "dpo"], data=PAIRS))
    assert [(row.subject, row.holds, row.severity) for row in found] == [
        ("instrument:sft", False, "hard_stop"),
        ("instrument:dpo", False, "hard_stop"),
    ]
    assert why in found[0].statement


PAIRS = {"train": "train.jsonl", "pairs": "train.jsonl"}


def test_another_trainer_answers_for_itself(tmp_path: Path) -> None:
    where = replace(context(tmp_path), trainer="tests.faults.campaign.quick")
    assert PROBE.observe(where) == ()


def test_it_stands_on_versions_on_the_training_code_and_on_the_instruments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = PROBE.stands_on(context(tmp_path))
    assert {row.name for row in before} == {*machine.package_versions(), "training code", "instruments"}
    more = PROBE.stands_on(with_instruments(context(tmp_path), "sft", "grpo"))
    assert [row.name for row, other in zip(before, more, strict=True) if row != other] == ["instruments"]
    monkeypatch.setattr(machine, "version", lambda _name: "9.9")
    assert PROBE.stands_on(context(tmp_path)) != before
    assert PROBE.staleness == "capability"
    assert PROBE.before == frozenset({"train", "pace"})
