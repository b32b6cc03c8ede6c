"""Once the weights are local, a night makes no network request, whatever the environment says."""

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.faults.campaign import world

_BLOCK = """
import os, socket

def refuse(self, address, *rest):
    with open({log!r}, "a") as stream:
        stream.write(f"{{os.getpid()}} {{address}}\\n")
    raise OSError("the network is blocked")

class Blocked(socket.socket):
    connect = refuse
    connect_ex = refuse
    sendto = refuse

socket.socket = Blocked
socket.getaddrinfo = lambda *address, **_: refuse(None, address)
"""


_ON = {"LANGSMITH_TRACING": "true", "LANGCHAIN_TRACING_V2": "true", "LANGCHAIN_TRACING": "true"}
_ON |= {"LANGSMITH_OTEL_ENABLED": "true", "LANGSMITH_API_KEY": "k", "LANGCHAIN_API_KEY": "k", "HF_HUB_OFFLINE": "0"}
_ON |= {"TRANSFORMERS_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "0", "DO_NOT_TRACK": "0", "HF_TOKEN": "k"}
_ON |= {"MLXLM_USE_MODELSCOPE": "true"}
_PLACES = (
    *("LANGSMITH_ENDPOINT", "LANGCHAIN_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT", "HF_ENDPOINT", "SENTRY_DSN"),
    *("MLFLOW_TRACKING_URI", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
)


@contextmanager
def _listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Have every variable that names an address name a listener here, and every switch ask for sending."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.settimeout(0)
        for name, value in _ON.items():
            monkeypatch.setenv(name, value)
        for name in _PLACES:
            monkeypatch.setenv(name, f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield listener


def test_a_whole_campaign_asks_nobody_though_the_environment_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign, home = world.write_campaign(tmp_path / "files"), tmp_path / "home"
    with _listening(monkeypatch) as listener:
        assert world.run(campaign, home) == 0, world.words(home)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_whole_campaign_runs_with_the_network_blocked_in_every_process(tmp_path: Path) -> None:
    campaign, home, log = world.write_campaign(tmp_path / "files"), tmp_path / "home", tmp_path / "asked.txt"
    block = tmp_path / "block"
    block.mkdir()
    (block / "sitecustomize.py").write_text(_BLOCK.format(log=str(log)))
    agent = world.start(campaign, home, first_on_path=block)
    assert agent.wait(timeout=240) == 0, home.with_suffix(".log").read_text()[-2000:]
    assert not log.exists(), log.read_text()


def test_the_block_would_notice_a_request(tmp_path: Path) -> None:
    import subprocess
    import sys

    log = tmp_path / "asked.txt"
    (tmp_path / "sitecustomize.py").write_text(_BLOCK.format(log=str(log)))
    code = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')"
    found = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, check=False
    )
    assert found.returncode != 0
    assert log.exists()
