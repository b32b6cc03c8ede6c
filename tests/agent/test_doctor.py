"""`vigil doctor` as a person runs it, and on machines of other makes."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent import doctor
from agent.campaign import load_campaign
from agent.cli import vigil
from agent.doctor import Finding, examine
from state.clock import FakeClock
from state.records import Belief
from tests.agent import folders
from tests.tools.machine import machines
from tools.machine import hardware, readiness
from tools.machine.blas import MatrixSpeed
from tools.machine.facts import System
from tools.machine.readiness import Line

TOLD: dict[str, Any] = {"version": "1", "backend": "metal", "device": "Device(gpu, 0)", "computes": True, "info": {}}


def says(*arguments: str | Path) -> Result:
    return CliRunner().invoke(vigil, ["doctor", *map(str, arguments)])


def by_subject(found: list[Finding]) -> dict[str, Finding]:
    return {row.belief.subject: row for row in found}


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """MLX is not asked and not timed; returns an environment without logins."""
    monkeypatch.setattr(hardware, "ask_mlx", lambda env: TOLD)
    monkeypatch.setattr(hardware, "matrix_speed", lambda env: MatrixSpeed(100.0, ""))
    monkeypatch.setattr(hardware, "python", lambda system: Line("machine:python", "is_native", "Yes.", "good"))
    (tmp_path / "user").mkdir()
    return {"HOME": str(tmp_path / "user"), "HF_HOME": str(tmp_path / "hf")}


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quiet: dict[str, str]) -> None:
    """This machine's own clock, power and disk do not matter to a test."""
    system = machines.mac(tmp_path / "mac")
    monkeypatch.setattr(doctor, "System", lambda: system)
    for name in ("HF_HOME", "HOME"):
        monkeypatch.setenv(name, quiet[name])
    for name in ("HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VIGIL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.mlx
def test_this_machine_is_told_in_a_table_with_a_verdict() -> None:
    result = says()
    assert result.exit_code in {0, 3}, result.output
    assert "machine:power" in result.stdout
    assert ("A night would fail here." in result.stdout) == (result.exit_code == 3)


def test_each_line_is_a_belief_with_its_evidence_as_json(ready: None) -> None:
    result = says("--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row["id"] for row in rows] == [f"M{number}" for number in range(1, len(rows) + 1)]
    for row in rows:
        assert row.pop("outcome") in {"good", "warn", "bad", "not_told"}
        Belief.model_validate(row)
    power = next(row for row in rows if row["subject"] == "machine:power")
    assert (power["tag"], power["status"], power["value"]["source"]) == ("confirmed", "fresh", "mains")
    assert power["evidence"][0]["ref"] == "pmset -g batt"


def test_what_is_not_told_is_assumed_and_never_good(ready: None) -> None:
    rows = {row["subject"]: row for row in json.loads(says("--json").stdout)}
    logout = rows["machine:logout"]
    assert (logout["outcome"], logout["tag"]) == ("not_told", "assumed")
    table = says()
    assert "not told  machine:logout" in table.stdout
    assert "A night can begin." in table.stdout


def test_a_mac_on_its_battery_ends_the_command_with_code_3_and_the_fix(
    ready: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = machines.mac(tmp_path / "unplugged", batt=machines.BATTERY)
    monkeypatch.setattr(doctor, "System", lambda: system)
    result = says()
    assert result.exit_code == 3
    assert "BAD       machine:power" in result.stdout
    assert "→ Plug it in." in result.stdout
    assert "A night would fail here." in result.stdout


def test_a_campaign_that_lies_whole_on_this_disk_is_ready(ready: None, tmp_path: Path) -> None:
    rows = {row["subject"]: row for row in json.loads(says(folders.make(tmp_path), "--json").stdout)}
    assert rows["model:base"]["outcome"] == "good"
    assert str(folders.BASE) in rows["model:base"]["statement"]
    assert rows["campaign:inputs"]["outcome"] == "good"
    assert "train.jsonl holds 12 rows" in rows["campaign:inputs"]["statement"]
    assert "machine:memory" in rows


def test_a_campaign_whose_model_is_not_here_would_fail_and_the_download_is_named(ready: None, tmp_path: Path) -> None:
    file = folders.make(tmp_path)
    file.write_text(file.read_text().replace(str(folders.BASE), "nobody/no-such-model"))
    result = says(file, "--json")
    assert result.exit_code == 3
    rows = {row["subject"]: row for row in json.loads(result.stdout)}
    assert rows["model:base"]["outcome"] == "bad"
    assert "vigil run --check --online" in rows["model:base"]["statement"]
    assert rows["hub:token"]["outcome"] == "warn"


def test_a_campaign_whose_data_are_missing_would_fail(ready: None, tmp_path: Path) -> None:
    file = folders.make(tmp_path)
    (tmp_path / "valid.jsonl").unlink()
    result = says(file, "--json")
    assert result.exit_code == 3
    rows = {row["subject"]: row for row in json.loads(result.stdout)}
    assert "valid.jsonl, which is not a file" in rows["campaign:inputs"]["statement"]


def test_a_grader_program_that_is_not_installed_would_fail(ready: None, tmp_path: Path) -> None:
    file = folders.make(tmp_path)
    file.write_text(file.read_text().replace("grader: grade.py", "command: [no-such-grader]"))
    rows = {row["subject"]: row for row in json.loads(says(file, "--json").stdout)}
    assert rows["campaign:inputs"]["outcome"] == "bad"
    assert "no-such-grader" in rows["campaign:inputs"]["statement"]


def test_a_campaign_file_that_is_wrong_is_for_the_user_to_fix(ready: None, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("campaign: x\n")
    result = says(tmp_path / "wrong.yaml")
    assert result.exit_code == 2
    assert "wrong.yaml" in result.stderr


def test_weights_that_do_not_fit_into_memory_would_fail(
    tmp_path: Path, quiet: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tools.probes import machine

    monkeypatch.setattr(machine, "_MEMORY_FACTOR", 1e9)
    loaded = load_campaign(folders.make(tmp_path))
    found = examine(loaded, tmp_path, system=machines.mac(tmp_path / "mac"), clock=FakeClock(2e9), env=quiet)
    fits = next(row for row in found if row.belief.claim == "fits_the_model")
    assert fits.outcome == "bad"
    assert fits.belief.fix


def test_a_model_that_fits_into_memory_needs_no_advice(tmp_path: Path, quiet: dict[str, str]) -> None:
    loaded = load_campaign(folders.make(tmp_path))
    found = examine(loaded, tmp_path, system=machines.mac(tmp_path / "mac"), clock=FakeClock(2e9), env=quiet)
    fits = next(row for row in found if row.belief.claim == "fits_the_model")
    assert (fits.outcome, fits.belief.fix) == ("good", "")


@pytest.mark.parametrize("written", ["report_to: wandb", "report_to: [wandb]", "report_to: 'swanlab, wandb'"])
def test_a_configuration_that_reports_to_wandb_would_ask_for_a_login(
    tmp_path: Path, quiet: dict[str, str], monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lora.yaml").write_text(f"model: base\n{written}\n")
    (tmp_path / "broken.yml").write_text("{")
    found = examine(None, tmp_path, system=machines.mac(tmp_path / "mac"), env=quiet)
    assert by_subject(found)["exporter:wandb"].outcome == "bad"
    assert "lora.yaml" in by_subject(found)["exporter:wandb"].belief.statement
    with_key = {**quiet, "WANDB_API_KEY": "secret"}
    found = examine(None, tmp_path, system=machines.mac(tmp_path / "mac"), env=with_key)
    assert by_subject(found)["exporter:wandb"].outcome == "good"
    assert "secret" not in str([row.to_json() for row in found])


def test_a_configuration_that_only_lies_beside_the_campaign_does_not_end_its_night(
    tmp_path: Path, quiet: dict[str, str]
) -> None:
    file = folders.make(tmp_path)
    (tmp_path / "lora.yaml").write_text("report_to: wandb\n")
    found = examine(load_campaign(file), tmp_path, system=machines.mac(tmp_path / "mac"), env=quiet)
    assert by_subject(found)["exporter:wandb"].outcome == "warn"


def test_a_report_to_that_is_no_name_asks_for_nothing(tmp_path: Path, quiet: dict[str, str]) -> None:
    file = folders.make(tmp_path)
    (tmp_path / "lora.yaml").write_text("report_to: 7\n")
    found = examine(load_campaign(file), tmp_path, system=machines.mac(tmp_path / "mac"), env=quiet)
    assert "exporter:none" in by_subject(found)


def test_an_mlx_that_does_not_load_is_not_timed(
    tmp_path: Path, quiet: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "ask_mlx", lambda env: "no Metal device")
    monkeypatch.chdir(tmp_path)
    found = by_subject(examine(None, tmp_path, system=machines.mac(tmp_path / "mac"), env=quiet))
    assert found["tool:mlx"].outcome == "bad"
    assert "machine:blas" not in found


def test_a_clock_that_is_set_while_the_doctor_looks_is_noticed(
    tmp_path: Path, quiet: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock(2e9)

    def steps(system: System) -> Line:
        clock.step_wall(3600.0)
        return Line("machine:power", "is_on_mains", "Yes.", "good")

    monkeypatch.setattr(readiness, "power", steps)
    monkeypatch.chdir(tmp_path)
    found = by_subject(examine(None, tmp_path, system=machines.linux(tmp_path / "pc"), clock=clock, env=quiet))
    assert found["machine:clock"].outcome == "warn"
    assert "+3600.0 s" in found["machine:clock"].belief.statement
