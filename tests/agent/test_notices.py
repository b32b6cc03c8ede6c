"""Notices to addresses, sent to a real server on this machine: what they say, once, at their stage, or never."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent import cli, notices
from state.errors import ConfigError
from state.goal import Notify
from state.paths import CampaignPaths
from state.reading import open_reader
from tests.agent.test_run_flow import until, vigil
from tests.faults.campaign import warm, world

pytest.importorskip("apprise", reason="apprise is not installed (extra `notify`)")

SECRET = "tk-4711-secret"  # noqa: S105 - what must not be found
LONG = {"batch_size": 4, "iters": 400, "max_seq_length": 128, "learning_rate": 0.001}


class Phone(ThreadingHTTPServer):
    """A receiver on this machine; `is_slow` holds what comes and answers never."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taker)
        self.got: list[dict[str, Any]] = []
        self.is_slow = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"json://127.0.0.1:{self.server_port}/{SECRET}"

    def titles(self) -> list[str]:
        return [each["title"] for each in self.got]


class _Taker(BaseHTTPRequestHandler):
    server: Phone

    def do_POST(self) -> None:
        self.server.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        if self.server.is_slow.is_set():
            time.sleep(600)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def phone() -> Iterator[Phone]:
    server = Phone()
    yield server
    server.shutdown()
    server.server_close()


def test_a_campaign_tells_its_crash_its_stop_its_question_and_its_end_each_once_with_figures_and_no_secret(
    tmp_path: Path, phone: Phone
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "phone.txt").write_text(phone.address + "\n")
    asked = {"to": ["@phone.txt", {"address": phone.address, "after_min": 9_999}], "link": "http://10.0.0.7:8345"}
    approvals = {"promotion": {"mode": "wait"}}
    campaign = world.write_campaign(tmp_path / "files", recipe=LONG, notify=asked, approvals=approvals)
    home = tmp_path / "home"

    def works() -> bool:
        return any((home / "storm" / "jobs").glob("*/out/steps/000010"))

    agent = warm.start(campaign, home)
    until(works)
    agent.kill()
    until(lambda: phone.titles() == ["storm: the agent is gone"])
    agent = warm.start(campaign, home)
    until(lambda: vigil(home, "stop").returncode == 0 and agent.poll() is not None)
    assert phone.titles()[1:] == ["storm: stopped by a person"]
    assert phone.got[1]["message"].endswith("http://10.0.0.7:8345/c/storm")
    assert warm.run(campaign, home, wait=False) == 6
    assert phone.titles()[2:] == ["storm: a question waits"]
    told = phone.got[2]["message"]
    assert "meets the gate. May it be promoted?\n" in told
    assert "interval" in told
    assert told.endswith("http://10.0.0.7:8345/inbox")
    assert warm.run(campaign, home, wait=False) == 6
    with open_reader(CampaignPaths(home, "storm")) as reader:
        [question] = reader.approvals(pending=True)
    assert vigil(home, "approve", question["id"]).returncode == 0
    assert warm.run(campaign, home) == 0
    assert phone.titles()[3:] == ["storm: the end"]
    assert warm.run(campaign, home) == 0
    assert len(phone.got) == 4
    found = [path for path in (home / "storm").rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert found == []
    assert SECRET not in vigil(home, "export").stdout
    spec = world.rows(home)["goals"][-1]["spec"]["notify"]["to"]
    assert [each["address"] for each in spec] == ["@phone.txt", "json://"]


def outbox(
    tmp_path: Path, phone: Phone, *stages: float, event: str = "ended", quiet: str | None = None
) -> CampaignPaths:
    """Write a notice of now for the same address at several stages, seconds after it."""
    file = tmp_path / "campaign.yaml"
    file.write_text(json.dumps({"notify": {"to": [phone.address] * len(stages)}}))
    paths = CampaignPaths(tmp_path, "storm")
    notice = {"event": event, "about": "Q1", "title": "storm: the end", "body": "R2 is promoted.", "at": time.time()}
    to = [{"label": "json://", "after_s": after} for after in stages]
    paths.root.mkdir()
    rest = {"to": to, "quiet": quiet, "file": str(file), "timeout_s": 20.0}
    notices._put(paths, "k1", {**notice, **rest})
    return paths


def come(paths: CampaignPaths, word: str = "end") -> "subprocess.Popen[str]":
    """Start a courier whose agent ends at once with a word."""
    process = notices._start(paths, {})
    assert process.stdin is not None
    process.stdin.write(word)
    process.stdin.close()
    return process


def ended(process: "subprocess.Popen[str]") -> int:
    assert process.stdout is not None
    process.stdout.close()
    return process.wait(timeout=60)


def test_after_a_kill_in_the_midst_nothing_is_sent_again_and_its_mark_says_that_nobody_knows(
    tmp_path: Path, phone: Phone
) -> None:
    phone.is_slow.set()
    paths = outbox(tmp_path, phone, 0.0, 2.0)
    process = come(paths)
    until(lambda: len(phone.got) == 1)
    process.kill()
    ended(process)
    phone.is_slow.clear()
    # Two at once, as when an agent is started while the courier of the one before still waits.
    for each in [come(paths), come(paths)]:
        assert ended(each) == 0
    assert len(phone.got) == 2
    assert (paths.notices / "k1.0.sent").read_text() == ""
    assert (paths.notices / "k1.1.sent").read_text() == "sent"


def test_what_is_over_when_its_stage_comes_is_not_sent_and_what_fails_is_on_record(
    tmp_path: Path, phone: Phone
) -> None:
    campaign, home = world.write_campaign(tmp_path / "files", approvals={"promotion": {"mode": "auto"}}), tmp_path / "h"
    assert warm.run(campaign, home) == 0
    paths = CampaignPaths(home, "storm")
    notice = {"title": "t", "body": "b", "at": time.time(), "quiet": None, "file": str(campaign), "timeout_s": 20.0}
    to = [{"label": "ntfys://", "after_s": 0.0}]
    notices._put(paths, "answered", {**notice, "event": "question", "about": "Q1", "to": to})
    notices._put(paths, "gone", {**notice, "event": "ended", "about": "end 1", "to": to})
    (paths.notices / "torn.json").write_text("{")
    assert [key for key, _, _ in notices._due(paths)] == ["answered", "gone"]
    for key, each, index in list(notices._due(paths)):
        notices._deliver(paths, key, each, index)
    assert (paths.notices / "answered.0.sent").read_text() == "not sent: it was over by then"
    with open_reader(paths) as reader:
        [request] = reader.requests()
    assert request["reason"] == (
        "The notice of end 1 (ended) to ntfys://: the campaign file does not name it any more, or what it names is not"
        " there"
    )


def test_every_address_can_be_tried_out_before_the_night(tmp_path: Path, phone: Phone) -> None:
    campaign = world.write_campaign(tmp_path / "files", notify={"to": phone.address})
    assert CliRunner().invoke(cli.vigil, ["notify", str(campaign)]).stdout == "json://: sent.\n"
    assert phone.titles() == ["storm: a test"]
    bad = world.write_campaign(tmp_path / "bad", notify={"to": [phone.address, "json://127.0.0.1:9/"]})
    result = CliRunner().invoke(cli.vigil, ["notify", str(bad)])
    assert (result.exit_code, "1 of 2 addresses did not take the notice." in result.stderr) == (2, True)
    none = world.write_campaign(tmp_path / "none")
    assert "names no address" in CliRunner().invoke(cli.vigil, ["notify", str(none)]).stderr


@pytest.mark.parametrize(
    ("hours", "clock", "is_quiet"),
    [
        (None, "03:00", False),
        ("22:30-07:00", "22:29", False),
        ("22:30-07:00", "22:30", True),
        ("22:30-07:00", "03:00", True),
        ("22:30-07:00", "07:00", False),
        ("12:00-13:00", "12:59", True),
        ("12:00-13:00", "13:00", False),
        ("12:00-13:00", "03:00", False),
    ],
)
def test_quiet_hours_hold_over_midnight(hours: str | None, clock: str, *, is_quiet: bool) -> None:
    now = time.mktime(time.strptime(f"2026-11-30 {clock}", "%Y-%m-%d %H:%M"))
    assert notices._is_quiet(hours, now) is is_quiet


def test_an_address_is_known_by_its_scheme_alone_wherever_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["ntfys://user:pass@host/topic", "$PHONE", "@phone.txt", "no address", {"address": "tgram://1:2/3"}]
    notify = Notify.model_validate({"to": given})
    assert [each.label for each in notify.to] == ["ntfys://", "$PHONE", "@phone.txt", "address", "tgram://"]
    text = json.dumps(notify.model_dump(mode="json"))
    assert not [word for word in ("pass", "topic", "no address", "1:2") if word in text + repr(notify)]
    again = Notify.model_validate(json.loads(text))
    assert again.model_dump() == notify.model_dump()
    assert Notify.model_validate({"to": "json://x"}).to == Notify.model_validate({"to": [{"address": "json://x"}]}).to


def test_an_address_from_the_environment_or_a_file_is_read_when_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "campaign.yaml"
    file.write_text("notify: {to: [$VIGIL_TEST_PHONE, '@phone.txt']}\n")
    with pytest.raises(ConfigError, match="no such variable"):
        notices.addresses(file)
    monkeypatch.setenv("VIGIL_TEST_PHONE", "json://one")
    with pytest.raises(ConfigError, match=r"phone\.txt, which cannot be read"):
        notices.addresses(file)
    (tmp_path / "phone.txt").write_text("json://two\n")
    assert notices.addresses(file) == ["json://one", "json://two"]


@pytest.mark.parametrize(
    ("address", "said"), [("nonsense://x", "no address that apprise knows"), ("json://127.0.0.1:9/", "was not taken")]
)
def test_what_cannot_be_sent_says_so_without_the_address(address: str, said: str) -> None:
    given = {"address": address, "title": "t", "body": "b", "kind": "info"}
    assert said in (sentence := notices.send(given, 20.0))
    assert address not in sentence
