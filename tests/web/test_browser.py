"""A handful of paths through the pages in a real browser; `make faults` walks all of them on all devices."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from state.clock import FakeClock
from state.files import write_json
from state.paths import CampaignPaths
from tests.agent.recorded import begin_training, opened
from tests.web import browser
from tests.web.test_web import EVIL, asked_of, metrics

pytestmark = pytest.mark.skipif(bool(browser.why_not()) and not browser.is_needed(), reason=browser.why_not() or "none")


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    assert not browser.why_not(), browser.why_not()
    with browser.launched() as found:
        yield found


@pytest.fixture
def site(home: Path) -> Iterator[browser.Served]:
    with browser.served([home]) as found:
        yield found


def test_a_question_is_answered_on_a_phone_once_and_the_other_tab_is_told_by_whom(
    chrome: Any, site: browser.Served, tmp_path: Path
) -> None:
    window = site.enter(chrome, **browser.PHONE)
    assert "token" not in window.tab.url
    other = window.new_tab()
    for tab in (window.tab, other):
        tab.goto(f"{site.address}/inbox")
    window.tab.click("text=Reject")
    assert "A no needs its reason" in window.tab.text_content("main")
    window.at("/inbox").fill("input[name=reason]", "not yet")
    window.tab.click("text=Reject")
    assert "Answered no to quick:Q1" in window.tab.text_content("main")
    other.click("text=Approve")
    assert "already answered no by" in other.text_content("main")
    assert asked_of(tmp_path) == [("reject", "Q1", "not yet")]
    refused = [each for each in window.wrong if "400" not in each]
    assert refused == []


def test_a_campaign_draws_its_curves_and_follows_the_job_without_a_reload(chrome: Any, tmp_path: Path) -> None:
    with opened(tmp_path, FakeClock()) as store:
        begin_training(store)
    job = CampaignPaths(tmp_path, "quick").job("k")
    metrics(job.metrics, 20)
    with browser.served([tmp_path]) as site:
        window = site.enter(chrome, **browser.DESKTOP, color_scheme="dark")
        tab = window.at("/c/quick")
        tab.wait_for_selector(".uplot canvas")
        assert "step 20 of 100" in tab.text_content("#now")
        metrics(job.metrics, 30)
        tab.wait_for_selector("#now:has-text('step 30 of 100')")
        assert (window.wrong, tab.evaluate("getComputedStyle(document.body).backgroundColor")) == (
            [],
            "rgb(20, 24, 29)",
        )


def test_pages_that_nobody_sees_hold_no_line_and_go_on_where_they_are_seen_again(
    chrome: Any, site: browser.Served
) -> None:
    window = site.enter(chrome, **browser.DESKTOP)
    hidden = "Object.defineProperty(document, 'hidden', {configurable: true, get: () => !window.isSeen})"
    window.context.add_init_script(hidden)
    # A browser keeps six lines to a server.
    tabs = [window.new_tab() for _ in range(7)]
    for tab in tabs:
        tab.goto(f"{site.address}/inbox")
    asked: list[str] = []
    tabs[-1].on("request", lambda each: asked.append(each.url.removeprefix(site.address)))
    with tabs[-1].expect_response("**/inbox"):
        tabs[-1].evaluate("window.isSeen = true; document.dispatchEvent(new Event('visibilitychange'))")
    assert (sorted(asked), window.wrong) == (["/events", "/inbox"], [])


def test_cases_come_as_the_reader_comes_to_them_and_hostile_words_do_nothing(
    chrome: Any, site: browser.Served, tmp_path: Path
) -> None:
    evil = f"{EVIL}</pre><style>body{{display:none}}</style><img src=x onerror=alert(1)>"
    rows = [{"id": f"stress-{i}", "prompt": f"{i} {evil}", "reference": evil} for i in range(40)]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = [{"name": "stress", "use": "confirmation", "file": str(tmp_path / "s.jsonl")}]
    write_json(CampaignPaths(tmp_path, "quick").job("R3-confirmation").spec, {"input": {"splits": splits}})
    window = site.enter(chrome, **browser.DESKTOP)
    tab = window.at("/c/quick/cases?run=R3")
    assert tab.locator(".case").count() == 25
    tab.locator(".more").scroll_into_view_if_needed()
    tab.locator(".case").nth(39).wait_for()
    assert tab.locator("main style, main img, main script").count() == 0
    assert (tab.is_visible("main"), window.wrong) == (True, [])


def test_without_a_script_everything_is_read_and_answered(chrome: Any, site: browser.Served, tmp_path: Path) -> None:
    window = site.enter(chrome, **browser.PHONE, java_script_enabled=False)
    assert window.at("/c/quick").locator("figure svg polyline").count() > 1
    assert window.at("/c/quick/runs").locator("article.run").count() == 3
    window.tab.check("input[value=R1]")
    window.tab.check("input[value=R3]")
    window.tab.click("text=Put the chosen side by side")
    assert "200" in window.tab.text_content("tr:has-text('iters')")
    window.at("/").click("text=Approve")
    assert "Answered yes to quick:Q1" in window.tab.text_content("main")
    assert (asked_of(tmp_path), window.wrong) == ([("approve", "Q1", "")], [])
