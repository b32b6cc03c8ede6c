"""The pages of `vigil web` in a real browser: every page on every device, and whoever means harm or comes too late."""

import http.server
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from state.clock import FakeClock
from state.files import write_json
from state.paths import CampaignPaths
from state.reading import open_reader
from state.records import Belief
from tests.agent.recorded import begin, opened, record
from tests.faults.campaign import warm, world
from tests.faults.parts.contract import Batch, Part
from tests.web import browser, worlds

_PATHS = (
    "/", "/inbox", "/compare?c=quick&c=other", "/c/quick", "/c/quick?metric=val_loss&by=time", "/c/quick/runs",
    "/c/quick/beside?run=R1&run=R3", "/c/quick/cases?run=R3", "/c/quick/decisions", "/c/quick/decisions/D4",
    "/c/quick/beliefs", "/c/quick/beliefs/B2",
)  # fmt: skip
_EVIL = "<img src=x onerror=alert(1)></pre><style>body{display:none}</style>\u202e<script>alert(2)</script>"
_MOST_CURVE_BYTES = 300_000
_BELIEFS = 1_000_000
_HTTP_REFUSED = 403

Found = Iterator[str]
"""Sentences on what must not be."""


def devices(chrome: Any, folder: Path) -> Found:
    """Every page, on desktop and phone, light and dark, with a script and without."""
    _two_campaigns(folder)
    with browser.served([folder]) as site:
        for device in (browser.DESKTOP, browser.PHONE):
            for scheme, paper in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 24, 29)")):
                for has_script in (True, False):
                    window = site.enter(chrome, **device, color_scheme=scheme, java_script_enabled=has_script)
                    for path in _PATHS:
                        tab = window.at(path)
                        if not tab.text_content("main").strip():
                            yield f"{path} is empty"
                        if not has_script:
                            continue
                        width, room = tab.evaluate(
                            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
                        )
                        if width > room:
                            yield f"{path} is {width} pixels wide on {room}"
                        if (seen := tab.evaluate("getComputedStyle(document.body).backgroundColor")) != paper:
                            yield f"{path} is {seen} in {scheme}"
                    yield from window.wrong
                    window.context.close()


def _two_campaigns(folder: Path) -> None:
    record(folder, "waiting")
    record(folder, "promoted", "other")


def offline(chrome: Any, folder: Path) -> Found:
    """A tap without a network asks for nothing; with it again the same form is answered once."""
    record(folder, "waiting")
    with browser.served([folder]) as site:
        window = site.enter(chrome, **browser.PHONE)
        window.at("/inbox")
        window.context.set_offline(True)
        window.tab.click("text=Approve", no_wait_after=True)
        window.tab.wait_for_timeout(500)
        if _requests(folder):
            yield "a tap without a network was answered"
        window.context.set_offline(False)
        window.at("/inbox").click("text=Approve")
        if _requests(folder) != [("approve", "Q1")]:
            yield f"then there were {_requests(folder)}"


def _requests(folder: Path, name: str = "quick") -> list[tuple[str, str]]:
    with open_reader(CampaignPaths(folder, name)) as reader:
        return [(row["kind"], row["target"]) for row in reader.requests()]


def two_tabs(chrome: Any, folder: Path) -> Found:
    """Two tabs that answer: the second is told what the first one said."""
    record(folder, "waiting")
    with browser.served([folder]) as site:
        window = site.enter(chrome, **browser.DESKTOP)
        tabs = [window.tab, window.new_tab()]
        for tab in tabs:
            tab.goto(f"{site.address}/inbox")
        for tab in tabs:
            tab.click("text=Approve")
        if "already answered yes by" not in (told := tabs[1].text_content("main")):
            yield f"the second tab was told: {told}"
        if _requests(folder) != [("approve", "Q1")]:
            yield f"there are {_requests(folder)}"


def late(chrome: Any, folder: Path) -> Found:
    """A tap after the deadline is told what the deadline answered."""
    record(folder, "waiting", deadline_s=60)
    with browser.served([folder]) as site:
        window = site.enter(chrome, **browser.PHONE)
        window.at("/inbox").click("text=Approve")
        if "already answered no by its deadline" not in (told := window.tab.text_content("main")):
            yield f"a late tap was told: {told}"
        if _requests(folder):
            yield "a late tap left a request"


def killed(chrome: Any, folder: Path) -> Found:
    """The agent is killed, then the tap comes: the next agent promotes, once."""
    recipe = {"batch_size": 4, "iters": 160, "max_seq_length": 128, "learning_rate": 0.001}
    asking = {"promotion": {"mode": "wait"}}
    file = world.write_campaign(folder / "files", approvals=asking, recipe=recipe, budget={"runs": 1})
    home, acts = folder / "home", folder / "acts"
    agent = warm.start(file, home, wait=True, bend={"acts": str(acts)})
    ends_at = time.monotonic() + 240
    while not _waits(home) and time.monotonic() < ends_at:
        time.sleep(0.1)
    with browser.served([home]) as site:
        window = site.enter(chrome, **browser.PHONE)
        tab = window.at("/inbox")
        os.kill(agent.pid, signal.SIGKILL)
        agent.wait(timeout=60)
        tab.click("text=Approve")
        if "No agent is running" not in (told := tab.text_content("main")):
            yield f"with the agent killed the tap was told: {told}"
        if "not applied yet" not in window.at("/inbox").text_content("main"):
            yield "the page does not say that the answer waits"
        if code := warm.run(file, home, wait=False, bend={"acts": str(acts)}):
            yield f"the next agent ended with {code}"
        promotions = len(acts.read_text().splitlines()) if acts.exists() else 0
        if promotions != 1:
            yield f"there were {promotions} promotions"
        if "yes by" not in window.at("/inbox").text_content("main"):
            yield "the page does not say who answered"
        yield from window.wrong


def _waits(home: Path) -> bool:
    try:
        with open_reader(CampaignPaths(home, "storm")) as reader:
            return bool(reader.approvals(pending=True))
    except Exception:  # noqa: BLE001 - it has not begun yet
        return False


def strangers(chrome: Any, folder: Path) -> Found:
    """A wrong token, a link used twice, and another site's form and script come to nothing."""
    record(folder, "waiting")
    with browser.served([folder]) as site:
        link = site.doors.link()
        window = site.enter(chrome, **browser.DESKTOP)
        token = window.tab.locator("input[name=form_token]").first.get_attribute("value")
        for path in ("/open?token=guessed", link.removeprefix(site.address)):
            stranger = chrome.new_context().new_page()
            if (status := stranger.goto(site.address + path).status) != _HTTP_REFUSED:
                yield f"{path[:12]} answered {status}"
            stranger.context.close()
        with _elsewhere(site.address, token) as other:
            tab = window.new_tab()
            tab.goto(other)
            tab.wait_for_selector("text=came from another site")
        if _requests(folder):
            yield "another site answered a question"


@contextmanager
def _elsewhere(address: str, token: str) -> Iterator[str]:
    """Serve another site, whose page answers a question as soon as it is opened; even with the form's own token."""
    page = (
        f'<form method="post" action="{address}/c/quick/answer"><input name="question" value="Q1">'
        f'<input name="answer" value="yes"><input name="form_token" value="{token}"></form>'
        "<script>document.forms[0].submit()</script>"
    )

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_given: Any) -> None:
            return

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{other.server_port}/"
        other.shutdown()


def hostile(chrome: Any, folder: Path) -> Found:
    """Hostile texts of cases and a hostile name of a campaign: no script runs, no style breaks."""
    record(folder, "waiting")
    evil = folder / _EVIL.replace("/", "\u2215")
    evil.mkdir()
    (evil / "state.db").write_bytes(b"")
    rows = [{"id": f"stress-{i}", "prompt": _EVIL, "reference": _EVIL} for i in range(40)]
    (folder / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = [{"name": "stress", "use": "confirmation", "file": str(folder / "s.jsonl")}]
    write_json(CampaignPaths(folder, "quick").job("R3-confirmation").spec, {"input": {"splits": splits}})
    with browser.served([folder]) as site:
        window = site.enter(chrome, **browser.DESKTOP)
        for path in ("/", "/inbox", "/compare", "/c/quick/cases?run=R3"):
            tab = window.at(path)
            tab.wait_for_timeout(300)
            if tab.locator("main img, main script, main style").count() or not tab.is_visible("main"):
                yield f"{path}: hostile words became a page's own"
        yield from window.wrong


def many_runs(chrome: Any, folder: Path) -> Found:
    """200 runs of 10,000 points: below 300 kB, all drawn; and 1,000 runs, which come as the reader comes to them."""
    worlds.many_runs(folder, 200, 10_000, "curves")
    worlds.many_runs(folder, 1_000, 20, "thousand")
    with browser.served([folder]) as site:
        window = site.enter(chrome, **browser.DESKTOP)
        with window.tab.expect_response("**/curves.json*") as got:
            window.at("/c/curves").wait_for_selector(".uplot canvas")
        if (size := len(got.value.body())) > _MOST_CURVE_BYTES:
            yield f"the curves were {size:,} bytes"
        tab = window.at("/c/thousand/runs")
        tab.locator(".more").scroll_into_view_if_needed()
        tab.locator("article.run").nth(60).wait_for()
        yield from window.wrong


def many_beliefs(chrome: Any, folder: Path) -> Found:
    """A million beliefs: failed and stale ones are shown first, and the page holds no more of them than it can."""
    with opened(folder, FakeClock(), "large") as store:
        with store.transaction():
            begin(store, "large")
        for start in range(0, _BELIEFS, 100_000):
            with store.transaction():
                for index in range(start, min(_BELIEFS, start + 100_000)):
                    said = f"R{index} on selection, 40 cases: 0.{index % 1000:03}."
                    store.knowing.believe(
                        Belief(
                            subject=f"score:R{index}.stress.selection", claim="means", statement=said, tag="confirmed"
                        )
                    )
        for index in range(5_000, _BELIEFS, 5_000):
            store.knowing.mark(f"B{index}", "stale")
    with browser.served([folder]) as site:
        window = site.enter(chrome, **browser.PHONE)
        window.tab.set_default_navigation_timeout(300_000)
        if (n := window.at("/c/large/beliefs").locator("article").count()) != min(199, _BELIEFS // 5_000 - 1):
            yield f"{n} of the stale beliefs are shown"
        begun = psutil.Process().cpu_times().user
        window.at("/c/large")
        window.at("/c/large/beliefs?all")
        if (took := psutil.Process().cpu_times().user - begun) > 5:
            yield f"read once already, it takes {took:.1f} s of work to show"
        yield from window.wrong


_CHECKS: tuple[Callable[[Any, Path], Found], ...] = (
    devices, offline, two_tabs, late, killed, strangers, hostile, many_runs, many_beliefs,
)  # fmt: skip


def pages(seed: int, folder: Path, most: int) -> Batch:
    """Do one check, the next with each seed."""
    del most
    check = _CHECKS[(seed - 1) % len(_CHECKS)]
    with browser.launched() as chrome:
        wrong = tuple(f"{check.__name__}: {said}" for said in check(chrome, folder))
    return Batch(1, wrong, {check.__name__: 1})


PARTS = (
    Part(
        "page",
        "a browser on the pages: desktop, phone, light, dark, no script, offline, two tabs, the agent killed before the"
        " tap, a late tap, strangers, hostile words, 200 and 1,000 runs, a million beliefs: each is told what is so,"
        " and one answer counts",
        len(_CHECKS),
        pages,
        browser.why_not,
    ),
)
