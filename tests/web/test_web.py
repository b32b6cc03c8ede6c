"""`vigil web` on recorded campaigns, by Starlette's client; also by its own command, and on a campaign that ran."""

import asyncio
import json
import random
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from agent.render import cases
from agent.render.record import gather
from agent.requests import answer
from agent.web import live, pages, server
from agent.web.security import HEADERS, SESSION_S, Doors, is_loopback
from agent.web.server import create_app
from state.clock import FakeClock
from state.files import write_json
from state.paths import CampaignPaths
from state.reading import open_reader
from state.records import Approval
from state.text import shown
from tests.agent.recorded import HOSTILE, begin_training, opened, record
from tests.faults.campaign import warm
from tests.faults.campaign.world import write_campaign
from tools.jobs.locks import Turn, machine_paths

PAGES = (
    "/",
    "/inbox",
    "/c/quick",
    "/c/quick?metric=val_loss&by=tokens",
    "/c/quick/runs",
    "/c/quick/runs?sort=score&bucket=A",
    "/c/quick/beside?run=R1&run=r3&by=time",
    "/compare",
    "/compare?c=quick&c=quick",
    "/c/quick/cases",
    "/c/quick/decisions",
    "/c/quick/decisions/D4",
    "/c/quick/decisions/R3",
    "/c/quick/beliefs",
    "/c/quick/beliefs?all",
    "/c/quick/beliefs/B2",
)
EVIL = "a <script>alert(1)</script> \x1b[31m \u202egnp.exe\u2066"


def client(home: Path, **doors: Any) -> TestClient:
    """Return a browser that no link was opened in."""
    found = Doors(**{"port": 80, "host": "testserver", **doors})
    browser = TestClient(create_app([home], found), base_url="http://testserver")
    browser.doors = found  # type: ignore[attr-defined]  # for tests that need the link
    return browser


@pytest.fixture
def browser(home: Path) -> TestClient:
    """Return a browser that is in."""
    return entered(client(home))


def entered(browser: TestClient) -> TestClient:
    assert browser.get(browser.doors.link()).status_code == 200  # type: ignore[attr-defined]
    return browser


def told(browser: TestClient, path: str) -> str:
    """Return the words of a page."""
    return told_of(browser.get(path))


def told_of(answer: Any) -> str:
    """Return the words of an answer to a form."""
    assert answer.status_code == 200, answer.text
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", answer.text)).split())


def form_of(browser: TestClient) -> dict[str, str]:
    """Return the fields of the first form of the inbox."""
    page = browser.get("/inbox").text
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))


def answers(browser: TestClient, said: str, reason: str = "", **changes: str) -> Any:
    origin = {"origin": changes.pop("origin", "http://testserver")}
    given = {**form_of(browser), "answer": said, "reason": reason, **changes}
    return browser.post("/c/quick/answer", data=given, headers=origin)


def asked_of(home: Path) -> list[tuple[str, str, str]]:
    """Return the requests on record: kind, target, reason."""
    with open_reader(CampaignPaths(home, "quick")) as reader:
        return [(row["kind"], row["target"], row["reason"]) for row in reader.requests()]


def test_each_page_needs_a_session_and_carries_the_strict_headers(browser: TestClient, home: Path) -> None:
    stranger = client(home)
    for path in (*PAGES, "/c/quick/curves.json", "/c/quick/events", "/nothing"):
        refused = stranger.get(path)
        assert (refused.status_code, refused.headers["content-security-policy"][:18]) == (401, "default-src 'none'")
        assert "quick" not in refused.text.replace(path.partition("?")[0], "")
    for path in PAGES:
        answer = browser.get(path)
        assert answer.status_code == 200, answer.text
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        # Nothing inline that a policy without 'unsafe-inline' would stop, and nothing from elsewhere.
        assert not re.search(r"<script(?! defer src=\"/static/)|<style| style=| on\w+=|=\"https?:", answer.text), path


def test_a_link_opens_once_and_leaves_no_secret_in_the_address(home: Path) -> None:
    links: list[str] = []
    browser = client(home, announce=links.append)
    link = browser.doors.link()  # type: ignore[attr-defined]
    opened = browser.get(link, follow_redirects=False)
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(opened.headers["set-cookie"].split("; "))
    assert browser.get("/").status_code == 200
    other = TestClient(browser.app, base_url="http://testserver")
    assert other.get(link).status_code == 403
    assert other.get("/").status_code == 401
    assert other.get(links[0]).status_code == 200, "the next link was told"
    for wrong in ("", "?token=", "?token=\u20ac", "?token=" + "a" * 43):
        assert client(home).get(f"/open{wrong}").status_code == 403


def test_a_session_ends_after_a_week(home: Path) -> None:
    clock = FakeClock()
    browser = entered(client(home, now=clock.now))
    clock.advance(SESSION_S - 1)
    assert browser.get("/").status_code == 200
    clock.advance(2)
    assert browser.get("/").status_code == 401
    browser.cookies.set("vigil_80", "guessed")
    assert browser.get("/").status_code == 401


@pytest.mark.parametrize(
    ("called", "is_network", "is_taken"),
    [
        ("127.0.0.1:80", False, True),
        ("localhost", False, True),
        ("[::1]:80", False, True),
        ("127.0.0.1:81", False, False),
        ("rebound.example:80", False, False),
        ("rebound.example:80", True, False),
        ("192.0.2.7:80", False, False),
        ("192.0.2.7:80", True, True),
        ("", True, False),
        ("[::1", False, True),
    ],
)
def test_a_request_for_another_name_is_refused(called: str, is_network: bool, is_taken: bool) -> None:  # noqa: FBT001 - a table's column
    doors = Doors(port=80, host="127.0.0.1", is_network=is_network)
    assert (doors.refuses("GET", {"host": called}) == "") == is_taken


def test_only_addresses_of_this_machine_are_loopback() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "192.0.2.7", "name")] == [  # noqa: S104 - compared, not bound
        *[True] * 3,
        *[False] * 3,
    ]


def test_another_site_can_answer_nothing(browser: TestClient, home: Path) -> None:
    assert answers(browser, "yes", origin="https://elsewhere.example").status_code == 403
    assert answers(browser, "yes", origin="null").status_code == 403
    foreign = {"sec-fetch-site": "cross-site"}
    assert (
        browser.post("/c/quick/answer", data={**form_of(browser), "answer": "yes"}, headers=foreign).status_code == 403
    )
    assert browser.get("/", headers={"host": "elsewhere.example"}).status_code == 403
    assert browser.post("/inbox").status_code == 405
    assert asked_of(home) == []


def test_a_form_without_its_own_token_answers_nothing(browser: TestClient, home: Path) -> None:
    for token in ("", "x", "\ud800".encode("utf-8", "replace").decode(), form_of(entered(client(home)))["form_token"]):
        assert answers(browser, "yes", form_token=token).status_code == 403
    assert answers(browser, "no", "x" * 70_000).status_code == 413
    assert asked_of(home) == []


def test_a_question_is_answered_once_and_a_late_tap_is_told_by_whom(browser: TestClient, home: Path) -> None:
    assert "Promote R3?" in told(browser, "/inbox")
    assert "stress.rows_kept at least 0.8: 0.911" in told(browser, "/inbox"), "with its figures"
    assert "1 question waits for you" in told(browser, "/")
    assert "needs its reason" in answers(browser, "no").text
    assert "yes or no" in answers(browser, "perhaps").text
    assert asked_of(home) == []
    form = form_of(browser)
    first = answers(browser, "no", "<b>Later</b>")
    assert (first.status_code, "Answered no to quick:Q1" in first.text) == (200, True)
    page = told(browser, "/inbox")
    assert ("Promote R3?" in page, "not applied yet" in page) == (True, True)
    assert "<form" not in browser.get("/inbox").text
    late = answers(browser, "yes", **form)
    assert "was already answered no by" in unescape(late.text)
    assert answers(browser, "yes", **{**form, "question": "Q9"}).status_code == 404
    assert asked_of(home) == [("reject", "Q1", "<b>Later</b>")]


def test_two_tabs_answer_once(browser: TestClient, home: Path) -> None:
    form = {**form_of(browser), "answer": "yes"}
    both = [threading.Thread(target=browser.post, args=("/c/quick/answer",), kwargs={"data": form}) for _ in range(4)]
    for tab in both:
        tab.start()
    for tab in both:
        tab.join()
    assert asked_of(home) == [("approve", "Q1", "")]


def test_home_says_all_campaigns_those_that_wait_first_and_one_that_cannot_be_read(home: Path) -> None:
    record(home, "promoted", "zulu")
    record(home, "stopped", "torn")
    (home / "torn" / "state.db").write_bytes(b"no database" * 500)
    hostile = home / "<u>\u202eevil"
    hostile.mkdir()
    (hostile / "state.db").write_bytes(b"")
    browser = entered(client(home))
    page, text = browser.get("/").text, told(browser, "/")
    assert page.index("/c/quick") < page.index("/c/zulu")
    assert re.search(r"Best run R3 , passed \(A\): stress.rows_kept 0.911 \(0.82\d to 0.929\)", text)
    assert "torn" in text
    assert "<u>" not in page
    assert "\u202e" not in page
    assert "<u>\\u202eevil" in text
    assert browser.get("/c/torn").status_code == 503
    for gone in (
        "/c/none",
        "/c/..%2Fquick",
        "/c/quick%2F..%2Fzulu",
        "/c/quick/decisions/D99",
        "/c/quick/beliefs/B99",
    ):
        assert browser.get(gone).status_code == 404, gone
    empty = entered(client(home / "empty"))
    assert "holds no campaign yet" in told(empty, "/")
    assert "No question waits" in told(empty, "/inbox")


def test_a_campaign_says_verdict_best_run_gate_and_what_waits(browser: TestClient) -> None:
    text = told(browser, "/c/quick")
    for words in (
        "quick waits for a person",
        "It is waiting after 3 runs.",
        "Promote R3?",
        "to 0.929) (96.7 % interval, 40 confirmation cases; 0.608 before)",
        "holds stress.rows_kept at least 0.8: 0.911",
        "R2 at step 100 of 400 by guard: diverged",
        "peak memory 1.25 GB",
    ):
        assert words in text, (words, text)
    assert "<polyline" in browser.get("/c/quick").text, "drawn without a script"


def test_a_job_at_work_is_told_with_its_progress(tmp_path: Path) -> None:
    with opened(tmp_path, FakeClock()) as store:
        begin_training(store)
    folder = tmp_path / "quick" / "jobs" / "k"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 50, "train_loss": 1.25, "tokens_per_s": 1400, "t": 5.0}\n')
    browser = entered(client(tmp_path))
    text = told(browser, "/c/quick")
    assert "Training R1: step 50 of 100, 50 %" in text
    assert "stress.rows_kept at least 0.8; not measured yet." in text
    assert 'data-events="/c/quick/events"' in browser.get("/c/quick").text
    for path in ("runs", "cases", "decisions"):
        assert browser.get(f"/c/quick/{path}").status_code == 200
    assert "No run is judged yet" in told(browser, "/c/quick/cases")


def test_runs_have_score_interval_verdict_and_what_was_changed(browser: TestClient) -> None:
    text = told(browser, "/c/quick/runs")
    assert re.search(r"R3 passed \(A\) stress.rows_kept 0.911 \(0.82\d to 0.929\) on 40 confirmation cases", text)
    assert "iters 200 → 300" in text
    by_score = told(browser, "/c/quick/runs?sort=score")
    assert by_score.index("R3 passed") < by_score.index("R1 regressed") < by_score.index("R2 ")
    assert "R1 regressed" not in told(browser, "/c/quick/runs?sort=verdict&bucket=A").partition("Draw")[0][-400:]
    assert told(browser, "/c/quick/runs?sort=time&bucket=D").count("Why") == 1


def test_cases_show_texts_with_differences_filtered_and_lazily(home: Path) -> None:
    paths = CampaignPaths(home, "quick")
    rows = [{"id": f"stress-{i}", "prompt": f"Clean {i} {EVIL}", "reference": f"clean {i}"} for i in range(40)]
    (home / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = [{"name": "stress", "use": "confirmation", "file": str(home / "s.jsonl")}]
    write_json(paths.job("R3-confirmation").spec, {"input": {"splits": splits}})
    browser = entered(client(home))
    first = browser.get("/c/quick/cases?run=r3").text
    assert first.count('class="case"') == cases.PAGE
    following = unescape(re.findall(r'hx-get="([^"]+)"', first)[0])
    rest = browser.get(f"/c/quick/cases{following}").text
    assert (rest.count('class="case"'), "hx-get" in rest) == (15, False)
    # Hostile words of prompts and answers are shown, and do nothing.
    for bad in ("<script>alert", 'https://elsewhere.example/x.js">', "\x1b", "\u202e", "\u2066"):
        assert bad not in first, bad
    text = told(browser, "/c/quick/cases?run=R3&filter=fixed")
    for words in (f"Prompt Clean 3 {shown(EVIL)}", "Reference clean 3", "fixed 40", "regressed 0", "cut off 0"):
        assert words in text, (words, text[:900])
    assert "<del>base</del><ins>R3</ins>" in first
    assert "fixed 0 regressed" not in told(browser, "/c/quick/cases?run=R1")
    assert "No such case" in told(browser, "/c/quick/cases?run=R3&filter=cut")
    strict = told(browser, "/c/quick/cases?run=R3&metric=stress.strict&filter=wrong")
    assert re.search(r"still wrong [1-9]", strict)
    for unknown in ("run=R9", "run=R3&metric=stress.none"):
        assert browser.get(f"/c/quick/cases?{unknown}").status_code == 404
    (home / "s.jsonl").unlink()
    assert "The prompt is not there any more" in told(browser, "/c/quick/cases?run=R3&start=x")


def test_a_private_campaign_shows_scores_and_no_texts(tmp_path: Path) -> None:
    record(tmp_path, "promoted", privacy="redact")
    page = entered(client(tmp_path)).get("/c/quick/cases").text
    assert "stress-3" in page
    assert "elsewhere.example" not in page
    assert "keeps its texts private" in page


def test_words_that_differ_are_told_from_words_that_stay() -> None:
    assert cases.differences("a b c", "a x c d") == [
        ("same", "a "), ("removed", "b"), ("added", "x"), ("same", " c"), ("added", " d"),
    ]  # fmt: skip
    assert cases.differences("", "new") == [("same", "new")]
    assert cases.differences("x", "") == [("removed", "x")]
    long = "word " * 2_000
    assert cases.differences(long, long + "more") == [("same", long + "more")]


def test_decisions_and_beliefs_tell_why_and_what_stands_on_what(browser: TestClient) -> None:
    page = told(browser, "/c/quick/decisions")
    assert page.index("promote R3") < page.index("train R1")
    for words in ("base has 0.610.", "three runs are left", "It waits for you."):
        assert words in page, words
    assert "probe" in told(browser, "/c/quick/decisions/D4")
    checks = told(browser, "/c/quick/beliefs")
    assert checks.index("B5 refuted") < checks.index("B4 stale") < checks.index("B3 assumed")
    assert ("B2" in checks, "Show those that hold (2)" in checks) == (False, True)
    assert "Carries D1, D2, D3, D4, D5" in told(browser, "/c/quick/beliefs?all")
    assert "What stands on it" in told(browser, "/c/quick/beliefs/B2")
    assert "A <b>stale</b> ceiling." in checks


def test_what_would_be_invisible_or_turn_the_text_is_shown_as_its_number() -> None:
    assert shown("plain") == "plain"
    assert shown("a\n\tb é 日本 👩‍💻") == "a\n\tb é 日本 👩‍💻"
    assert shown("\x00\x1b\x85\u202e\u200b\u2028\ud800\U000e0041") == (
        "\\u0000\\u001b\\u0085\\u202e\\u200b\\u2028\\ud800\\U000e0041"
    )


def test_the_machine_and_what_a_job_generated_last_are_told_while_it_works_and_no_private_text(tmp_path: Path) -> None:
    with opened(tmp_path, FakeClock()) as store:
        begin_training(store)
    job = CampaignPaths(tmp_path, "quick").job("k")
    beat = {"at": 1.0, "power": {"source": "mains"}, "now": {"rss_gb": 1.5, "swap_gb": 0.25, "hot_c": 71, "x": None}}
    write_json(job.heartbeat, beat)
    (tmp_path / "s.jsonl").write_text(json.dumps({"id": "s-1", "prompt": "Sort b a", "reference": "a b"}) + "\n")
    asked = {"cases": {"file": str(tmp_path / "s.jsonl"), "case_ids": ["s-1"]}}
    write_json(job.spec, {"key": "k", "kind": "training", "input": {"samples": asked}})
    job.out.mkdir()
    made = [{"step": step, "prompt": 0, "text": f"{HOSTILE} at {step}"} for step in range(0, 60, 10)]
    (job.out / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made) + '{"torn": ')
    browser = entered(client(tmp_path))
    text = told(browser, "/c/quick")
    for words in ("1.50 GB in memory now", "machine's swap 0.2 GB", "71 °C", "on mains", "Sort b a", "at 50", "at 30"):
        assert words in text, (words, text)
    assert text.index("at 50") < text.index("at 30")
    assert ("at 20" in text, "<script>alert" in browser.get("/c/quick").text) == (False, False)
    with opened(tmp_path, FakeClock()) as store:
        goal = store.read.goals()[-1]
        spec = {**goal.spec, "privacy": "redact"}
        store.agent.record_goal(goal.model_copy(update={"version": 2, "spec": spec}))
    assert "at 50" not in told(browser, "/c/quick")


def test_more_homes_are_told_apart_and_each_answer_goes_to_its_own(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    record(other, "waiting")
    found = Doors(port=80, host="testserver")
    browser = TestClient(create_app([home, other], found), base_url="http://testserver")
    browser.get(found.link())
    assert "2 questions wait for you" in told(browser, "/")
    page = browser.get("/inbox").text
    assert ('action="/c/quick%402/answer"' in page, 'action="/c/quick/answer"' in page) == (True, True)
    form = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
    assert browser.post("/c/quick@2/answer", data={**form, "answer": "yes"}).status_code == 200
    assert (asked_of(home), asked_of(other)) == ([], [("approve", "Q1", "")])
    assert str(other) in told(browser, "/")


def test_home_says_who_has_the_accelerator_and_who_waits(browser: TestClient) -> None:
    first, second = (
        Turn.take(machine_paths(), {"campaign": name, "kind": "training", "since": 1e9})
        for name in ("quick", "<u>elsewhere")
    )
    assert first
    assert second
    try:
        text = told(browser, "/")
        assert "Accelerator now training of quick since" in text
        assert "1. training of <u>elsewhere waits since" in text
        assert '<a href="/c/quick">training of quick</a>' in browser.get("/").text
    finally:
        second.release()
        first.release()
    assert "Accelerator" not in told(browser, "/")


def test_launches_are_allowed_beforehand_from_the_page_and_nothing_else_is(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.parent)
    with opened(home, FakeClock()) as store:
        store.agent.ask(Approval(kind="launch", decision="D1", question="Train R4?", asked_at=1.0))
    browser = entered(client(home))
    assert browser.get("/inbox").text.count('action="/c/quick/allow"') == 1
    assert "costs about 2 min expected: stress.rows_kept from 0.700 to 0.900" in told(browser, "/inbox")
    given = {"form_token": form_of(browser)["form_token"], "answer": "yes", "until": "07:00", "runs": "3"}
    for changes in (
        {"kind": "promotion"},
        {"kind": "launch", "runs": "x"},
        {"kind": "launch", "runs": "101"},
        {"kind": "launch", "until": "7 in the morning"},
        {"kind": "launch", "form_token": "x"},
        {"kind": "launch", "answer": ""},
    ):
        refused = browser.post("/c/quick/allow", data={**given, **changes})
        assert (refused.status_code in {400, 403}, "--" in unescape(refused.text)) == (True, False), changes
    assert asked_of(home) == []
    said = told_of(browser.post("/c/quick/allow", data={**given, "kind": "launch"}))
    assert ("3 launches of quick until" in said, f"run FILE --home {home}" in said) == (True, True)
    assert asked_of(home) == [("allow", "launch", "")]


def test_a_tap_after_the_deadline_is_told_so_and_asks_for_nothing(tmp_path: Path) -> None:
    record(tmp_path, "waiting", deadline_s=3600)
    browser = entered(client(tmp_path))
    assert "Its time was up at" in told(browser, "/inbox")
    assert "already answered no by its deadline" in told_of(answers(browser, "yes"))
    assert asked_of(tmp_path) == []


def test_chosen_runs_and_two_campaigns_stand_side_by_side_with_what_differs(home: Path) -> None:
    record(home, "promoted", "other")
    browser = entered(client(home))
    text = told(browser, "/c/quick/beside?run=r1&run=R3")
    assert "Recipe, where it differs iters 200 300" in text
    assert "verdict regressed (D) passed (A)" in text
    assert browser.get("/c/quick/beside?run=R1&run=R3").text.count("<polyline") == 2
    assert browser.get("/c/quick/beside?run=R9").status_code == 404
    assert "Choose runs" in told(browser, "/c/quick/beside")
    text = told(browser, "/compare?c=quick&c=other")
    assert "state waiting promoted" in text
    assert "On 40 confirmation cases of the same name other is better on 0, worse on 0; stress.rows_kept +0.000" in text
    assert "Their recipes are the same" in text
    assert browser.get("/compare?c=quick&c=none").status_code == 404


def test_a_record_that_has_not_changed_is_read_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def noted(paths: CampaignPaths, **given: Any) -> dict[str, Any]:
        read.append(paths.name)
        return gather(paths, **given)

    monkeypatch.setattr(live, "gather", noted)
    views, paths = live.Views(), CampaignPaths(home, "quick")
    assert views.of(paths)["runs"] == views.of(paths)["runs"]
    answer(home, "quick", "Q1", is_yes=True, reason="")
    assert views.of(paths)["approvals"][0]["unapplied"]["answer"] == "yes"
    assert read == ["quick", "quick"]
    monkeypatch.setattr(live, "_WHOLE_S", 0.0)
    monkeypatch.setattr(live, "_MOST_VIEWS", 0)
    views.of(paths)
    assert len(read) == 3


def test_as_many_campaigns_as_a_page_walks_through_are_kept_and_their_commands_work_anywhere(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def noted(paths: CampaignPaths, **given: Any) -> dict[str, Any]:
        read.append(paths.name)
        return gather(paths, **given)

    record(home, "waiting", "other")
    write_json(CampaignPaths(home, "quick").source, {"file": str(home / "c.yaml")})
    monkeypatch.chdir(home.parent)
    monkeypatch.setattr(live, "gather", noted)
    monkeypatch.setattr(live, "_MOST_VIEWS", 1)
    views = live.Views()
    rows = [pages.home([home], views), pages.home([home], views)][-1]["rows"]
    pages.inbox([home], views)
    assert sorted(read) == ["other", "quick"]
    again = {row["key"]: row["again"].partition(" run ")[2] for row in rows}
    said = told_of(answers(entered(client(home)), "yes"))
    assert f" run {home / 'c.yaml'} --home {home}" in said
    assert again == {"quick": f"{home / 'c.yaml'} --home {home}", "other": f"FILE --home {home}"}


def test_the_noise_of_a_curve_is_the_spread_of_its_reports_and_not_its_way() -> None:
    draw = random.Random(1)
    smooth = [(float(x), 100.0 / x) for x in range(1, 200)]
    noisy = [(float(x), 2.0 + draw.gauss(0, 0.5)) for x in range(1, 2000)]
    spreads = [(high - low) / 2 for _, low, high in live.noise(noisy)]
    assert sum(spreads) / len(spreads) == pytest.approx(0.5, rel=0.1)
    assert max(high - low for _, low, high in live.noise(smooth)[20:]) < 0.5
    assert live.noise(smooth[:11]) == []
    band = live.on_grid({"R1": noisy, "R2": smooth}, "R1")["band"]
    assert len(band["low"]) == 140
    assert live.on_grid({"R1": noisy}, "R9")["band"] is None


def test_a_link_for_the_network_names_an_address_that_a_phone_finds() -> None:
    found = Doors(port=80, host="0.0.0.0", is_network=True)  # noqa: S104 - not bound
    host = found.link().removeprefix("http://").partition(":80/")[0]
    assert not is_loopback(host)
    assert found.refuses("GET", {"host": f"{host}:80"}) == ""


def test_a_network_address_stands_in_the_terminal_as_a_code_too() -> None:
    link = "http://192.0.2.7:8345/open?token=" + "a" * 43
    code = server._code(link, is_shown=True)
    assert code[0] == "\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "segno", None)
        assert server._code(link, is_shown=False) == "", "and what draws it is only asked where it is shown"
    lines = code.splitlines()[1:]
    assert {len(line) for line in lines} == {len(lines[0])}
    assert set("".join(lines)) <= set("█▀▄ ")


def metrics(path: Path, n: int, every: int = 1_000) -> None:
    rows = [
        json.dumps({"step": i, "t": 100.0 + i, "trained_tokens": 9 * i, "train_loss": 5 / i}) for i in range(1, n + 1)
    ]
    rows += [json.dumps({"step": i, "t": 100.0 + i, "val_loss": 6 / i}) for i in range(every, n + 1, every)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n")


def test_curves_of_200_long_runs_are_below_300_kb_and_keep_ends_and_rare_rows(tmp_path: Path) -> None:
    files = [tmp_path / "jobs" / f"{run}" / "metrics.jsonl" for run in range(200)]
    metrics(files[0], 10_000)
    metrics(files[1], 300)
    for each in files[2:]:
        each.parent.mkdir()
        each.hardlink_to(files[1])
    jobs = [{"kind": "training", "run": f"R{run}", "folder": f"jobs/{run}"} for run in range(200)]
    found = live.Curves().of({"root": str(tmp_path), "jobs": jobs}, "train_loss", "step")
    drawn = live.on_grid(found)
    assert len(json.dumps(live.on_grid({f"R{run}": found["R0"] for run in range(200)}))) < 300_000
    assert (drawn["x"][0], drawn["x"][-1], len(drawn["runs"])) == (1.0, 10_000.0, 200)
    first, short = drawn["runs"][0]["y"], drawn["runs"][1]["y"]
    assert (first[0], first[-1], short[-1]) == (5.0, 0.0005, None)
    path = tmp_path / "jobs" / "0" / "metrics.jsonl"
    assert [x for x, _ in live.points(path, "val_loss", "step")] == [1000.0 * i for i in range(1, 11)]
    assert live.points(path, "train_loss", "tokens")[0] == (9.0, 5.0)
    assert live.points(path, "train_loss", "time")[0] == (0.0, 5.0)


def test_a_curve_is_read_again_where_its_file_has_grown_and_has_the_last_report_of_a_step(tmp_path: Path) -> None:
    path, drawn = tmp_path / "jobs" / "k" / "metrics.jsonl", live.Curves()
    view = {"root": str(tmp_path), "jobs": [{"kind": "training", "run": "R1", "folder": "jobs/k"}]}
    assert drawn.of(view, "train_loss", "step") == {}
    metrics(path, 3)
    assert drawn.of(view, "train_loss", "step")["R1"][-1] == (3.0, 5 / 3)
    with path.open("a") as file:
        file.write('{"step": 3, "train_loss": 1.0}\n{"step": 4, "train_loss": NaN}\n{"step": true}\n{"step": 5, "tr')
    assert drawn.of(view, "train_loss", "step")["R1"][-1] == (3.0, 1.0)
    assert live.on_grid({}) == {"x": [], "runs": [], "band": None}
    assert live.on_grid({"R1": [(2.0, 1.0)]}) == {"x": [2.0], "runs": [{"id": "R1", "y": [1.0]}], "band": None}


def test_readers_are_told_when_there_is_something_new(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_QUIET_S", 0.001)
    paths = CampaignPaths(home, "quick")

    async def read() -> list[bytes]:
        events = live.changes([paths], live.Marks(every_s=0.001), lambda: False, every_s=0.001)
        seen = [await anext(events), await anext(events)]
        metrics(paths.job("new").metrics, 1)
        while b"job" not in seen[-1]:
            seen.append(await anext(events))
        answer(home, "quick", "Q1", is_yes=True, reason="")
        while b"change" not in seen[-1]:
            seen.append(await anext(events))
        await events.aclose()  # type: ignore[attr-defined]  # it is a generator
        return seen

    first, second, *_others, last = asyncio.run(asyncio.wait_for(read(), 60))
    assert (b"event: hello" in first, second, last) == (True, b": still here\n\n", b"event: change\ndata: .\n\n")


def test_curves_are_asked_for_by_address(browser: TestClient) -> None:
    found = browser.get("/c/quick/curves.json?by=step").json()
    assert (found["metric"], found["by"], [run["id"] for run in found["runs"]]) == (
        "train_loss",
        "step",
        ["R1", "R2", "R3"],
    )
    assert browser.get("/c/quick/curves.json?by=<b>&metric=x").json()["by"] == "step"
    chosen = browser.get("/c/quick/beside?run=R2").text
    assert chosen.count("<polyline") == 1
    for name in ("vigil.js", "vigil.css", "htmx.min.js", "uPlot.iife.min.js", "uPlot.min.css"):
        assert browser.get(f"/static/{name}").status_code == 200
    assert browser.get("/static/../server.py").status_code == 404
    assert browser.get("/static/%2e%2e/server.py").status_code == 404


@pytest.fixture
def served(home: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start `vigil web` on a free port; return the link that it prints."""
    words = [sys.executable, "-u", "-m", "agent.cli", "web", "--port", "0", "--home", str(home)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        yield child.stdout.readline().split()[-1], child
        child.kill()


def test_the_command_serves_on_loopback_streams_and_ends_with_ctrl_c(served: Any) -> None:
    import http.cookiejar
    import signal

    link, child = served
    assert re.match(r"http://127\.0\.0\.1:\d+/open\?token=[\w-]{43}$", link)
    jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    web = urllib.request.build_opener(urllib.request.ProxyHandler({}), jar)
    with web.open(link, timeout=60) as page:
        assert page.url.endswith("/")
        assert b"quick" in page.read()
    with web.open(link.partition("/open")[0] + "/c/quick/events", timeout=60) as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        assert events.readline() == b"retry: 5000\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(60) in {0, 130}
    assert "Traceback" not in child.stderr.read()


def test_an_address_that_is_taken_is_one_sentence_and_exit_2(served: Any, home: Path) -> None:
    link, _ = served
    port = link.partition("/open")[0].rpartition(":")[2]
    words = [sys.executable, "-m", "agent.cli", "web", "--port", port, "--home", str(home)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert f"127.0.0.1 port {port} cannot be listened on" in done.stderr


def test_help_and_reading_commands_import_no_server(home: Path) -> None:
    script = (
        "import sys; from click.testing import CliRunner; from agent.cli import vigil;"
        " asked = (['--help'], ['web', '--help'], ['status', '--home', sys.argv[1]]);"
        " r = [CliRunner().invoke(vigil, each) for each in asked];"
        " assert [x.exit_code for x in r] == [0, 0, 0], r;"
        " bad = {'starlette', 'uvicorn', 'jinja2', 'anyio'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(home)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_campaign_that_ran_is_judged_from_the_page_and_promoted_by_the_answer(tmp_path: Path) -> None:
    recipe = {"batch_size": 4, "iters": 160, "max_seq_length": 128, "learning_rate": 0.001}
    asking = {"promotion": {"mode": "wait"}}
    file = write_campaign(tmp_path / "work", approvals=asking, recipe=recipe, budget={"runs": 1})
    assert warm.run(file, tmp_path / "home", wait=False) == 6
    browser = entered(client(tmp_path / "home"))
    page = told(browser, "/c/storm/cases")
    assert "Prompt confirmation 0 Reference a" in page
    form = {**form_of(browser), "answer": "yes", "reason": "seen on the page"}
    assert "Answered yes to storm:" in browser.post("/c/storm/answer", data=form).text
    assert "already answered yes" in unescape(browser.post("/c/storm/answer", data=form).text)
    assert warm.run(file, tmp_path / "home", wait=False) == 0
    assert "storm ended: promoted" in told(browser, "/c/storm")
    late = unescape(browser.post("/c/storm/answer", data=form).text)
    assert "was already answered yes by" in late
    for path in ("/", "/inbox", "/c/storm/runs", "/c/storm/decisions", "/c/storm/beliefs?all"):
        assert browser.get(path).status_code == 200
