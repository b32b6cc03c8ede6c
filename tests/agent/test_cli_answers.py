import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent.cli import vigil
from state.clock import SystemClock
from state.lease import Lease
from state.paths import CampaignPaths
from state.reading import open_reader
from tests.agent.recorded import record
from tests.faults.campaign import warm, world


@pytest.fixture
def home(tmp_path: Path) -> Path:
    record(tmp_path, "waiting")
    return tmp_path


def says(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(vigil, [*arguments, "--home", str(home)])


def requests(home: Path, name: str = "quick") -> list[dict[str, Any]]:
    with open_reader(CampaignPaths(home, name)) as reader:
        return reader.requests()


@pytest.mark.parametrize("given", ["Q1", "q1", "quick:Q1"])
def test_an_answer_is_a_request_that_the_next_run_applies(home: Path, given: str) -> None:
    result = says(home, "approve", given, "--reason", "looks right")
    assert result.exit_code == 0, result.output
    assert "Answered yes to quick:Q1 (promotion). No agent is running; this applies it: " in result.stdout
    [row] = requests(home)
    assert (row["kind"], row["target"], row["reason"]) == ("approve", "Q1", "looks right")
    assert row["by"]
    assert row["made_at"] > 0


def test_a_second_answer_says_what_stands_and_adds_nothing(home: Path) -> None:
    says(home, "approve", "Q1")
    for again in (("approve", "Q1"), ("reject", "Q1", "--reason", "on second thoughts")):
        result = says(home, *again)
        assert result.exit_code == 0
        assert "already answered yes" in result.stdout
        assert "first answer stands" in result.stdout
    assert len(requests(home)) == 1


@pytest.mark.parametrize(("command", "said"), [(("approve", "Q1"), "yes"), (("reject", "Q1", "--reason", "no"), "no")])
def test_an_answer_that_waits_for_the_agent_is_told_where_the_question_stands(
    home: Path, command: tuple[str, ...], said: str
) -> None:
    for place in ("inbox", "status"):
        before = " ".join(says(home, place).stdout.split())
        assert "not yet applied" not in before
        assert "vigil approve quick:Q1" in before
    says(home, *command)
    [row] = requests(home)
    for place in ("inbox", "status"):
        after = " ".join(says(home, place).stdout.split())
        assert f"{said} by {row['by']}, not yet applied" in after
        assert "vigil approve" not in after
    [question] = json.loads(says(home, "inbox", "--json").stdout)
    assert (question["answer"], question["unapplied"]) == (None, {"answer": said, "by": row["by"]})


def test_an_answer_that_was_applied_stands(tmp_path: Path) -> None:
    record(tmp_path, "promoted")
    assert "already answered yes by policy" in says(tmp_path, "reject", "Q1", "--reason", "no").stdout
    assert requests(tmp_path) == []


def test_an_answer_for_another_campaign_is_refused(home: Path) -> None:
    record(home, "waiting", "slow")
    result = says(home, "approve", "slow:Q1", "--campaign", "quick")
    assert result.exit_code == 2
    assert "belongs to the campaign slow, not to quick" in result.stderr
    assert requests(home) == requests(home, "slow") == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("approve", "Q9"), "no question Q9"),
        (("approve", "other:Q1"), "no campaign 'other'"),
        (("cancel", "C99"), "no commitment C99"),
        (("reject", "Q1"), "--reason"),
        (("approve", "B1", "--reason", "x"), "only a refuted one"),
        (("approve", "B5"), "needs --reason"),
    ],
)
def test_what_cannot_be_answered_is_refused(home: Path, arguments: tuple[str, ...], words: str) -> None:
    result = says(home, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert requests(home) == []


def test_a_refuted_belief_can_be_gone_against_on_record(home: Path) -> None:
    result = says(home, "approve", "B5", "--reason", "the metric is new")
    assert "On record: going on although B5 is refuted." in result.stdout
    assert requests(home)[0]["kind"] == "override"


def test_a_commitment_is_cancelled_by_request(home: Path) -> None:
    assert "Asked to cancel quick:C1: Judge R1" in says(home, "cancel", "C1").stdout
    assert (requests(home)[0]["kind"], requests(home)[0]["target"]) == ("cancel_commitment", "C1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("promotion", "--until", "07:00"), "promotion is asked each time; only launch can be allowed beforehand"),
        (("edit", "--until", "07:00"), "edit is asked each time"),
        (("launch", "--until", "25:00"), "25:00 is no time"),
        (("launch", "--until", "07:00", "--runs", "101"), "not 101"),
        (("launch", "never", "--until", "07:00"), "no campaign 'never'"),
    ],
)
def test_what_cannot_be_allowed_beforehand_is_refused(home: Path, arguments: tuple[str, ...], words: str) -> None:
    result = says(home, "allow", *arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert requests(home) == []


def test_launches_are_allowed_beforehand_with_a_cap_until_an_hour_and_the_record_says_who_did(tmp_path: Path) -> None:
    approvals = {"launch": {"mode": "wait"}, "promotion": {"mode": "wait"}}
    campaign, home = world.write_campaign(tmp_path / "files", approvals=approvals), tmp_path / "home"
    assert warm.run(campaign, home, wait=False) == 6
    until = time.strftime("%H:%M", time.localtime(time.time() + 7200))
    told = says(home, "allow", "launch", "--until", until).stdout
    assert "Answered yes beforehand: 1 launch of storm until" in told
    assert warm.run(campaign, home, wait=False) == 6
    with open_reader(CampaignPaths(home, "storm")) as reader:
        launch, *others = reader.approvals()
    assert (launch["kind"], launch["answer"], launch["answered_by"]) == ("launch", "yes", "X1")
    assert "allowed 1 until" in launch["reason"]
    # The cap is spent, and a promotion is asked in any case.
    assert {row["answer"] for row in others} == {None}
    assert says(home, "allow", "launch", "--until", until, "--runs", "9").exit_code == 0
    assert warm.run(campaign, home, wait=False) == 6
    assert "says yes beforehand to each launch until" in says(home, "inbox").stdout
    assert "already answered yes by X1" in says(home, "reject", launch["id"], "--reason", "late").stdout
    with open_reader(CampaignPaths(home, "storm")) as reader:
        assert {row["kind"] for row in reader.approvals(pending=True)} == {"promotion"}


def test_stop_asks_the_holder_and_says_so_where_there_is_none(home: Path) -> None:
    assert "nothing to stop" in says(home, "stop").stdout
    assert requests(home) == []
    with Lease.acquire(CampaignPaths(home, "quick"), SystemClock()):
        assert "Asked quick to stop" in says(home, "stop", "--reason", "bed").stdout
        assert "running agent applies it" in says(home, "approve", "Q1").stdout
    assert [row["kind"] for row in requests(home)] == ["stop", "approve"]


def test_a_store_is_restored_from_its_backup_and_says_what_was_lost(home: Path) -> None:
    from agent.commands.run import _restore
    from state.errors import NotFoundError

    store = home / "quick" / "state.db"
    store.write_bytes(b"damaged" * 5000)
    assert says(home, "status").exit_code == 5
    _restore(home, "quick")
    assert says(home, "status").exit_code == 0
    with pytest.raises(NotFoundError, match="no backup"):
        _restore(home, "never")
    assert not (home / "never").exists()
