"""What a night would ask of a network: models, logins, the hub's token."""

from pathlib import Path

import pytest

from tools.machine import readiness
from tools.machine.readiness import Line


def exporter(asked: dict[str, list[str]], env: dict[str, str], home: Path) -> Line:
    (line,) = readiness.exporters(asked, env, home)
    return line


def test_the_hubs_cache_is_found_as_its_client_finds_it(tmp_path: Path) -> None:
    assert readiness.hub_cache({"HF_HUB_CACHE": str(tmp_path)}) == tmp_path
    assert readiness.hub_cache({"HF_HOME": str(tmp_path)}) == tmp_path / "hub"
    assert readiness.hub_cache({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "huggingface" / "hub"
    assert readiness.hub_cache({}) == Path.home() / ".cache" / "huggingface" / "hub"


def test_models_in_the_cache_are_listed(tmp_path: Path) -> None:
    (tmp_path / "models--owner--small" / "blobs").mkdir(parents=True)
    line = readiness.cache(tmp_path, {"HF_HUB_OFFLINE": "1"})
    assert line.outcome == "good"
    assert line.value["models"] == ["owner/small"]
    assert line.value["HF_HUB_OFFLINE"] is True


def test_a_download_that_broke_off_is_warned_about(tmp_path: Path) -> None:
    (tmp_path / "models--owner--small" / "blobs").mkdir(parents=True)
    (tmp_path / "models--owner--small" / "blobs" / "abc.incomplete").touch()
    line = readiness.cache(tmp_path, {})
    assert line.outcome == "warn"
    assert "1 download was broken off" in line.statement


@pytest.mark.parametrize("name", [".", "none"])
def test_an_empty_cache_is_warned_about(tmp_path: Path, name: str) -> None:
    line = readiness.cache(tmp_path / name, {})
    assert line.outcome == "warn"
    assert "--check --online" in line.fix


def test_wandb_without_a_key_would_end_the_night(tmp_path: Path) -> None:
    line = exporter({"wandb": ["lora.yaml"]}, {}, tmp_path)
    assert line.outcome == "bad"
    assert line.statement.startswith("lora.yaml reports to wandb, and no key is set")
    assert "WANDB_MODE=offline" in line.fix


@pytest.mark.parametrize("env", [{"WANDB_API_KEY": "secret"}, {"WANDB_MODE": "offline"}])
def test_wandb_with_a_key_or_offline_asks_nothing_and_the_key_is_not_told(tmp_path: Path, env: dict[str, str]) -> None:
    line = exporter({"wandb": ["lora.yaml"]}, env, tmp_path)
    assert line.outcome == "good"
    assert "secret" not in str(line)


def test_a_login_in_netrc_counts(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password hidden\n")
    line = exporter({"wandb": ["a.yaml", "b.yaml"]}, {}, tmp_path)
    assert (line.outcome, line.statement) == ("good", "a.yaml, b.yaml reports to wandb; .netrc has api.wandb.ai.")
    (tmp_path / ".netrc").write_text("machine\n")
    assert exporter({"wandb": ["a.yaml"]}, {}, tmp_path).outcome == "bad"
    assert exporter({"swanlab": ["a.yaml"]}, {}, tmp_path).outcome == "bad"


def test_an_exporter_that_nobody_knows_is_not_told(tmp_path: Path) -> None:
    assert exporter({"tracker": ["lora.yaml"]}, {}, tmp_path).outcome == "not_told"


def test_without_exporters_nothing_asks_for_a_login(tmp_path: Path) -> None:
    assert exporter({}, {}, tmp_path).outcome == "good"


def test_the_hubs_token_is_wanted_for_a_download_only(tmp_path: Path) -> None:
    nowhere = {"HF_HOME": str(tmp_path)}
    assert readiness.token(nowhere, is_needed=False).outcome == "good"
    assert readiness.token(nowhere, is_needed=True).outcome == "warn"
    assert readiness.token({**nowhere, "HF_TOKEN": "secret"}, is_needed=True).outcome == "good"
    (tmp_path / "token").write_text("secret")
    line = readiness.token(nowhere, is_needed=True)
    assert line.outcome == "good"
    assert "secret" not in str(line)
