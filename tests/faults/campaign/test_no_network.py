"""Once the weights are local, a night makes no network request."""

from pathlib import Path

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
