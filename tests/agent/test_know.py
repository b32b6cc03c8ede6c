"""What people say on record: commands leave requests, the holder applies each once."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent import inbox, runner
from agent.campaign import load_campaign
from agent.cli import vigil
from agent.knowing import knowing
from agent.session import WORKERS, Session
from state.clock import FakeClock
from state.lease import Lease
from state.paths import CampaignPaths
from state.reading import open_reader
from state.records import Belief, Decision, Fingerprint, Premise, Request
from state.store import Store, insert_request
from tests.agent.recorded import record
from tests.agent.test_imports import adapter
from tests.faults.campaign import world
from tools.jobs.backend import LocalBackend

NAME = "storm"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """A sitting of the holder on a small campaign, with a belief, another reasoned from it, and a decision."""
    file = world.write_campaign(tmp_path / "files", NAME)
    paths, clock = CampaignPaths(tmp_path / "home", NAME), FakeClock()
    runner._make_home(paths)
    with Lease.acquire(paths, clock) as lease, Store.open(paths, clock, lease) as store:
        session = runner._sit_down(load_campaign(file), paths, store, clock, LocalBackend(), WORKERS)
        for subject, premises in (("harness:main", ()), ("gate:score", ("B1",))):
            store.knowing.believe(
                Belief(subject=subject, claim="ceiling", statement="It is so.", tag="confirmed", premises=premises)
            )
        premise = Premise(belief="B2", tag="confirmed")
        store.deciding.decide(Decision(rule="r", sentence="Go on.", action="judge", run="R1", premises=(premise,)))
        yield session


def says(session: Session, *arguments: str) -> Result:
    return CliRunner().invoke(vigil, [*arguments, "--home", str(session.paths.home)])


def applied(session: Session) -> list[str]:
    """Let the holder apply what was asked for; return what it did with each request."""
    inbox.apply_requests(session)
    return [request.outcome for request in session.store.read.requests()]


def test_a_refuted_belief_takes_down_what_stood_on_it(session: Session) -> None:
    result = says(session, "refute", "storm:b1", "--reason", "the grader was wrong")
    assert result.exit_code == 0, result.output
    assert "Asked to refute storm:B1. On B1 stand 1 belief, 1 decision" in result.stdout
    assert "The running agent applies it within seconds." in result.stdout
    assert applied(session) == ["refuted B1; 3 things stood on it: B2, D1, R1"]
    first, second = session.standing()
    assert (first.status, second.status) == ("refuted", "stale")
    assert [(each.kind, each.summary) for each in first.evidence] == [("person", "the grader was wrong")]
    assert "is refuted already; nothing was done" in says(session, "refute", "B1", "--reason", "again").stdout


def test_the_command_that_a_contradiction_names_lets_one_side_stand(session: Session) -> None:
    print_of = Fingerprint(kind="file", name="cases", value="same")
    for rows in (40, 41):
        session.store.knowing.believe(
            Belief(subject="own:rows", claim="n", statement="s", tag="confirmed", value=rows, stands_on=(print_of,))
        )
    assert [belief.status for belief in session.standing()[2:]] == ["contradicted", "contradicted"]
    result = says(session, "approve", "B4", "--reason", "counted by hand")
    assert "On record: B4 stands, and what contradicts it is refuted." in result.stdout, result.output
    assert applied(session)[0].startswith("settled by ")
    assert [(belief.value, belief.status) for belief in session.standing()[2:]] == [(41, "fresh")]
    assert session.store.read.belief("B3").status == "refuted"


def test_a_refutation_that_nothing_stood_on_says_so(session: Session) -> None:
    session.store.knowing.believe(Belief(subject="x:", claim="c", statement="s", tag="confirmed"))
    says(session, "refute", "B3", "--reason", "no")
    assert applied(session) == ["refuted B3; 0 things stood on it"]


def test_what_the_holder_finds_otherwise_is_refused_on_record(session: Session) -> None:
    for target in ("B1", "B1", "B9"):
        insert_request(session.paths, Request(kind="refute", target=target, by="ada"))
    assert applied(session) == [
        "refuted B1; 3 things stood on it: B2, D1, R1",
        "refused: B1 is refuted already",
        "refused: there is no belief B9",
    ]
    assert session.store.read.belief("B1").evidence[0].summary == "It is false."


def test_a_request_is_applied_once_however_often_it_is_looked_for(session: Session) -> None:
    says(session, "note", "It hung.")
    assert applied(session) == applied(session)
    assert sum(belief.subject.startswith("note:") for belief in session.standing()) == 1


def test_a_request_that_fails_midway_leaves_nothing_and_is_tried_again(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(session, "note", "It hung.")

    def lost(_id: str, _outcome: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session.store.agent, "apply_request", lost)
        with pytest.raises(KeyboardInterrupt):
            inbox.apply_requests(session)
    assert len(session.standing()) == 2
    assert applied(session) == ["noted as note:1, mode N1 (B3)"]


def test_a_note_with_its_evidence_is_dated_and_confirmed(session: Session, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("stuck")
    assert says(session, "note", "It  hung.", "--mode", "9", "--evidence", str(log)).exit_code == 0
    assert applied(session) == ["noted as note:1, mode 9 (B3)"]
    [belief] = session.store.read.find(Belief, subject="note:1")
    assert belief.statement.startswith("It hung (mode 9, noted by ")
    assert (belief.claim, belief.tag, belief.mode, belief.value["domain"]) == (
        "failure_mode",
        "confirmed",
        "9",
        "doing",
    )
    person, file = belief.evidence
    assert (person.kind, person.summary) == ("person", "It hung.")
    assert (file.ref, file.summary, len(file.detail["sha256"])) == (str(log), "5 bytes.", 64)


def test_a_mode_that_the_table_lacks_becomes_a_row_of_the_campaign_s_own(session: Session) -> None:
    for arguments in (
        ("It answered in French.", "--mode", "babel", "--domain", "deciding"),
        ("It did so again.", "--mode", "Babel"),
        ("And again.", "--mode", "n1", "--domain", "doing"),
        ("Something else."),
        ("Known.", "--mode", "p8"),
    ):
        says(session, "note", *([arguments] if isinstance(arguments, str) else arguments))
    assert [outcome.partition(", ")[2].partition(" (")[0] for outcome in applied(session)] == [
        "mode N1",
        "mode N1",
        "mode N1",
        "mode N2",
        "mode P8",
    ]
    notes = [belief for belief in session.standing() if belief.subject.startswith("note:")]
    assert [note.value["domain"] for note in notes] == ["deciding", "deciding", "doing", "knowing", "knowing"]
    assert {note.tag for note in notes} == {"assumed"}
    tally = json.loads(says(session, "beliefs", "--tally", "--json").stdout)
    assert [row["mode"] for row in tally["findings"]] == ["N1", "N1", "N1", "N2", "P8"]


@pytest.mark.parametrize("row", ["P99", "p0", "16"])
def test_a_row_that_the_catalogue_lacks_is_refused_with_those_it_has(session: Session, row: str) -> None:
    result = says(session, "note", "It hung.", "--mode", row)
    assert result.exit_code == 2
    assert f"The failure catalogue has no row {row.upper()}; it has 1, 2, 3" in " ".join(result.output.split())
    assert applied(session) == []


def test_an_imported_table_and_adapter_stand_as_assumed_and_say_what_would_confirm_them(
    session: Session, tmp_path: Path
) -> None:
    adapter(tmp_path / "adapters" / "v1")
    table = tmp_path / "past.csv"
    table.write_text("name,iters,main.score,adapter,State\nv1,600,0.25,adapters/v1,finished\nv2,900,0.5,,\n")
    result = says(session, "import", NAME, str(table), "--adapter", str(tmp_path / "adapters" / "v1"), "--name", "one")
    assert result.exit_code == 0, result.output
    assert "2 runs, 1 with an adapter on this disk." in result.stdout
    assert "Kept as they are, neither recipe nor score: State." in result.stdout
    assert applied(session) == [
        "imported 1 beliefs as assumed, 1 of them new",
        "imported 3 beliefs as assumed, 3 of them new",
    ]
    assumed = json.loads(says(session, "beliefs", "--assumed", "--json").stdout)
    assert [(row["subject"], row["claim"]) for row in assumed] == [
        ("imported:one", "adapter"),
        ("imported:v1", "scored"),
        ("imported:v1", "adapter"),
        ("imported:v2", "scored"),
    ]
    says(session, "import", NAME, str(table))
    assert applied(session)[-1] == "imported 3 beliefs as assumed, 0 of them new"
    text = " ".join(says(session, "status").stdout.split())
    assert "To confirm: Set model.adapter to" in text
    report = says(session, "report", "--text").stdout
    assert "To confirm: Its adapter is not named; train the recipe here to confirm it." in report
    assert "To confirm: Its adapter is not named" in Path(says(session, "report").stdout.strip()).read_text()


def test_an_imported_table_that_changes_is_stale_until_it_is_imported_again(session: Session, tmp_path: Path) -> None:
    table = tmp_path / "past.csv"
    table.write_text("name,main.score\nv1,0.25\n")
    says(session, "import", NAME, str(table))
    knowing(session, {})
    assert [belief.status for belief in session.store.read.find(Belief, subject="imported:v1")] == ["fresh"]
    knowing(session, {})
    assert [belief.status for belief in session.store.read.find(Belief, subject="imported:v1")] == ["fresh"]
    table.write_text("name,main.score\nv1,0.5\n")
    knowing(session, {})
    assert [belief.status for belief in session.store.read.find(Belief, subject="imported:v1")] == ["stale"]
    says(session, "import", NAME, str(table))
    knowing(session, {})
    old, new = session.store.read.find(Belief, subject="imported:v1")
    assert (old.superseded_by, new.status, new.value["metrics"]) == (new.id, "fresh", {"main.score": 0.5})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("refute", "B9", "--reason", "x"), "no belief B9"),
        (("refute", "B1", "--reason", " "), "needs --reason WHY"),
        (("note", "  "), "A note needs a text"),
        (("note", "It hung.", "--evidence", "none.log"), "There is no file"),
        (("import", NAME), "Name a table of runs, or --adapter PATH"),
        (("import", NAME, "none.csv"), "There is no file"),
        (("import", NAME, "--name", "x", "--adapter", "a", "--adapter", "b"), "--name goes with exactly one --adapter"),
        (("import", NAME, "--adapter", "nowhere"), "lacks adapter_config.json and adapters.safetensors"),
        (("import", "other", "past.csv"), "no campaign 'other'"),
    ],
)
def test_what_cannot_be_said_is_one_sentence_and_exit_2(
    session: Session, arguments: tuple[str, ...], words: str
) -> None:
    result = says(session, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert session.store.read.requests() == []


def test_a_mistake_in_one_of_several_imports_nothing(session: Session, tmp_path: Path) -> None:
    good = adapter(tmp_path / "good")
    assert says(session, "import", NAME, "--adapter", str(good), "--adapter", str(tmp_path / "bad")).exit_code == 2
    assert session.store.read.requests() == []


def test_without_an_agent_the_next_run_applies_it(tmp_path: Path) -> None:
    record(tmp_path, "promoted")
    asked = ["refute", "B2", "--reason", "no", "--campaign", "quick", "--home", str(tmp_path)]
    assert "No agent is running; this applies it: " in CliRunner().invoke(vigil, asked).stdout
    with open_reader(CampaignPaths(tmp_path, "quick")) as reader:
        rows: list[dict[str, Any]] = reader.requests()
    assert [(row["kind"], row["target"], row["reason"], row["payload"]) for row in rows] == [("refute", "B2", "no", {})]
