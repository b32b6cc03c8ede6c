import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from state.errors import ConfigError
from tests.tools.models.fake_hub import COMMIT, fake_hub
from tests.tools.models.folders import write_model
from tools.models.hub import resolve
from tools.models.identity import weights_hash


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """Return a hub cache that holds tester/tiny at one commit."""
    repo = tmp_path / "hub" / "models--tester--tiny"
    write_model(repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    return tmp_path / "hub"


NOBODY = "http://127.0.0.1:9"


def ask(hub: Path, spec: str, endpoint: str = NOBODY, **options: object) -> dict[str, str]:
    """Resolve in a child process, since the hub's client fixes its cache when imported; by default no hub listens."""
    code = """
import json, socket, sys
def refuse(*_): raise AssertionError("a network request was made")
if not json.loads(sys.argv[2])["online"]:
    socket.socket.connect = socket.getaddrinfo = refuse
from state.errors import VigilError
from tools.models.hub import resolve
try:
    found = resolve(sys.argv[1], **json.loads(sys.argv[2]))
    print(json.dumps({"folder": str(found.folder), "revision": found.revision}))
except VigilError as error:
    print(json.dumps({"error": type(error).__name__, "sentence": error.sentence}))
"""
    env = os.environ | {
        "HF_HUB_CACHE": str(hub),
        "HF_ENDPOINT": endpoint,
        "NO_PROXY": "127.0.0.1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # A campaign in this process may have gone offline for good.
        "HF_HUB_OFFLINE": "0",
        "TRANSFORMERS_OFFLINE": "0",
    }
    argv = [sys.executable, "-c", code, spec, json.dumps({"online": False} | options)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_folder_is_itself_and_has_no_revision(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "base")
    found = resolve("base", online=False, base=tmp_path)
    assert (found.folder, found.revision) == (folder, "")


def test_a_path_that_is_neither_folder_nor_hub_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist; correct model\.path"):
        resolve("./nowhere/at/all", online=True, base=tmp_path)


def test_a_cached_hub_id_is_pinned_to_its_commit_without_a_request(hub: Path) -> None:
    found = ask(hub, "tester/tiny")
    assert found == {"folder": str(hub / "models--tester--tiny" / "snapshots" / COMMIT), "revision": COMMIT}
    assert ask(hub, "tester/tiny", revision=COMMIT)["revision"] == COMMIT


def test_what_is_not_cached_names_the_command_that_downloads_it(hub: Path) -> None:
    answer = ask(hub, "tester/other", campaign="night.yaml")
    assert answer["error"] == "ConfigError"
    assert answer["sentence"].endswith("Download it with: vigil run --check --online night.yaml")


def test_a_revision_that_is_not_cached_is_not_replaced_by_another(hub: Path) -> None:
    answer = ask(hub, "tester/tiny", revision="f" * 40)
    assert answer["error"] == "ConfigError"
    assert "f" * 40 in answer["sentence"]


def test_a_half_downloaded_snapshot_is_refused_with_what_is_missing(hub: Path) -> None:
    (hub / "models--tester--tiny" / "snapshots" / COMMIT / "model-00002-of-00002.safetensors").unlink()
    answer = ask(hub, "tester/tiny")
    assert answer["error"] == "ConfigError"
    assert "model-00002-of-00002.safetensors is missing" in answer["sentence"]


def test_online_without_a_network_is_the_tools_fault_and_may_be_tried_again(tmp_path: Path) -> None:
    answer = ask(tmp_path, "tester/tiny", online=True)
    assert answer["error"] == "ToolUnavailableError", answer


def test_online_downloads_everything_once_and_offline_finds_it_at_the_same_commit(tmp_path: Path) -> None:
    with fake_hub(write_model(tmp_path / "served")) as (endpoint, requests):
        found = ask(tmp_path / "hub", "tester/tiny", endpoint, online=True)
        assert found["revision"] == COMMIT, found
        assert sum("/resolve/" in path and path.endswith(".safetensors") for path in requests) >= 2
    assert ask(tmp_path / "hub", "tester/tiny") == found
    assert weights_hash(found["folder"]) == weights_hash(tmp_path / "served")


def test_what_the_hub_does_not_have_is_for_the_user_to_correct(tmp_path: Path) -> None:
    with fake_hub(write_model(tmp_path / "served")) as (endpoint, _):
        answer = ask(tmp_path / "hub", "tester/tyni", endpoint, online=True)
    assert answer["error"] == "ConfigError"
    assert "refused tester/tyni" in answer["sentence"]
