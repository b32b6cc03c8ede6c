import io
import json
import shutil
import sqlite3
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from state import reading
from state.clock import FakeClock
from state.errors import CorruptError, MigrationError, NotFoundError, StoreError
from state.lease import Lease
from state.paths import CampaignPaths
from state.reading import export, open_reader
from state.records import Belief, Request
from state.schema import SCHEMA_VERSION, TABLES
from state.store import Store, insert_request, last_request
from tests.state import samples


@pytest.fixture
def busy(store: Store) -> Store:
    """A store with a row in each table, still open."""
    store.agent.begin(samples.goal())
    store.agent.record_goal(samples.goal(version=2, file_hash="f2"))
    store.knowing.believe(samples.belief(value=1))
    store.knowing.believe(samples.belief(value=2, tag="inferred"))
    store.knowing.measure(
        [
            samples.measurement("c1"),
            samples.measurement("c2", metrics={"rows_kept": 1.0, "strict": None}, finish_reason="length"),
            samples.measurement("c1", evaluation="k3", side="candidate", run="R1"),
        ]
    )
    store.deciding.decide(samples.decision(), [samples.commitment()], samples.run())
    store.doing.intend(samples.action())
    store.doing.record_job(samples.job())
    store.agent.ask(samples.approval())
    store.agent.ask(samples.approval(kind="launch"))
    store.agent.answer("Q2", "yes", "ada")
    return store


def test_what_the_holder_writes_is_read_as_plain_values(busy: Store, paths: CampaignPaths) -> None:
    insert_request(paths, samples.request())
    with open_reader(paths) as reader:
        assert reader.campaign()["name"] == "night"
        assert reader.goal()["version"] == 1
        assert reader.goal(2)["file_hash"] == "f2"
        assert [row["version"] for row in reader.goals()] == [1, 2]
        assert [row["id"] for row in reader.beliefs()] == ["B1", "B2"]
        assert [row["id"] for row in reader.beliefs("model:parent", "fresh", "inferred")] == ["B2"]
        assert Belief.model_validate(reader.beliefs()[1]) == reader.records.belief("B2") == busy.read.belief("B2")
        assert reader.decisions()[0]["premises"] == []
        assert [row["id"] for row in reader.runs()] == ["R1"]
        assert [row["id"] for row in reader.jobs()] == ["J1"]
        assert reader.actions()[0]["is_safe_to_retry"] is True
        assert [row["id"] for row in reader.approvals()] == ["Q1", "Q2"]
        assert [row["id"] for row in reader.approvals(pending=True)] == ["Q1"]
        assert [row["id"] for row in reader.commitments("open")] == ["C1"]
        assert [row["case"] for row in reader.measurements(evaluation="k2", side="base")] == ["c1", "c2"]
        assert reader.requests()[0]["by"] == "ada"


def test_a_snapshot_is_one_moment(busy: Store, paths: CampaignPaths) -> None:
    with open_reader(paths) as reader:
        with reader.snapshot():
            before = reader.beliefs()
            busy.knowing.believe(samples.belief(value=3))
            assert reader.beliefs() == before
        assert len(reader.beliefs()) == 3


def test_a_campaign_without_a_holder_can_be_read(busy: Store, paths: CampaignPaths) -> None:
    busy.close()
    assert not paths.db.with_name("state.db-wal").exists()
    with open_reader(paths) as reader:
        assert reader.campaign()["name"] == "night"


def test_a_campaign_whose_holder_was_killed_can_be_read(busy: Store, paths: CampaignPaths, tmp_path: Path) -> None:
    # What a kill leaves behind: the file and its write-ahead log, no index of the log.
    other = CampaignPaths(tmp_path / "elsewhere", "night")
    other.root.mkdir(parents=True)
    for suffix in ("", "-wal"):
        shutil.copy(f"{paths.db}{suffix}", f"{other.db}{suffix}")
    with open_reader(other) as reader:
        assert len(reader.beliefs()) == 2


def test_where_sqlite_may_write_nothing_the_file_is_read_as_it_is(
    busy: Store, paths: CampaignPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sqlite3.connect
    asked = []

    def refuse_wal(address: str, **options: object) -> sqlite3.Connection:
        asked.append(address)
        if "mode=ro" in address:
            raise sqlite3.OperationalError("unable to open database file")
        return real(address, **options)  # type: ignore[call-overload, no-any-return]

    busy.close()
    monkeypatch.setattr(sqlite3, "connect", refuse_wal)
    with open_reader(paths) as reader:
        assert reader.campaign()["name"] == "night"
    assert [address.rpartition("?")[2] for address in asked] == ["mode=ro", "immutable=1"]


def test_a_log_that_cannot_be_read_is_not_passed_over(
    busy: Store, paths: CampaignPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(address: str, **options: object) -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(sqlite3, "connect", refuse)
    with pytest.raises(StoreError, match="unable to open"):
        open_reader(paths)


def test_a_campaign_that_is_not_there_is_one_sentence_with_those_that_are(busy: Store, paths: CampaignPaths) -> None:
    with pytest.raises(NotFoundError, match=r"no campaign day in .*There are: night\."):
        open_reader(CampaignPaths(paths.home, "day"))
    with pytest.raises(NotFoundError, match="There are none yet; `vigil run FILE` starts one"):
        open_reader(CampaignPaths(paths.home / "empty", "day"))
    with pytest.raises(NotFoundError, match="no campaign day"):
        insert_request(CampaignPaths(paths.home, "day"), samples.request())


def test_a_campaign_that_has_not_begun_says_so(paths: CampaignPaths, store: Store) -> None:
    with open_reader(paths) as reader, pytest.raises(NotFoundError, match="has not begun"):
        reader.campaign()
    connection = sqlite3.connect(paths.root / "other.db")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    store.close()
    (paths.root / "other.db").replace(paths.db)
    with pytest.raises(CorruptError, match="it ends after 0 of at least 1 writes that were acknowledged"):
        open_reader(paths)
    for copy in (paths.head, *paths.backups.iterdir()):
        copy.unlink()
    with pytest.raises(NotFoundError, match="has not begun"):
        open_reader(paths)


def test_an_empty_store_is_not_said_to_be_missing_beside_itself(paths: CampaignPaths) -> None:
    paths.root.mkdir(parents=True)
    paths.db.touch()
    with pytest.raises(NotFoundError, match=r"has not begun, or .* was emptied; `vigil run FILE` begins it"):
        open_reader(paths)


def test_what_is_not_there_names_what_is(busy: Store, paths: CampaignPaths) -> None:
    with open_reader(paths) as reader, pytest.raises(NotFoundError, match="no belief B9; they go from B1 to B2"):
        reader.belief("B9")
    with Store.in_memory(FakeClock()) as empty, pytest.raises(NotFoundError, match="no decision D1"):
        empty.read.decision("D1")


def test_before_anything_was_believed_there_are_none(store: Store, paths: CampaignPaths) -> None:
    with open_reader(paths) as reader, pytest.raises(NotFoundError, match="no belief B1; there are none yet"):
        reader.belief("B1")


def test_a_reader_can_change_nothing(busy: Store, paths: CampaignPaths) -> None:
    with open_reader(paths) as reader, pytest.raises(StoreError, match="readonly"):
        reader.select("UPDATE belief SET tag = 'assumed' RETURNING id")


def test_damage_is_named_as_damage(busy: Store, paths: CampaignPaths) -> None:
    busy.close()
    data = paths.db.read_bytes()
    paths.db.write_bytes(data[:200] + bytes(len(data) - 200))
    with pytest.raises(CorruptError, match="is damaged"):
        open_reader(paths)


def test_a_store_of_a_newer_vigil_is_refused(busy: Store, paths: CampaignPaths) -> None:
    other = CampaignPaths(paths.home, "newer")
    other.root.mkdir()
    busy.backup()
    shutil.copy(max(paths.backups.glob("*.db")), other.db)
    connection = sqlite3.connect(other.db)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(MigrationError, match="newer Vigil"):
        open_reader(other)


def test_reading_costs_none_of_the_heavy_imports() -> None:
    listed = "import sys, state.reading, state.lease; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True)
    assert not {"sqlite_utils", "click", "rich"} & set(done.stdout.split())


def test_requests_of_other_processes_get_ids_in_order(store: Store, paths: CampaignPaths) -> None:
    assert insert_request(paths, samples.request()).id == "X1"
    sneaky = Request(kind="stop", by="bob", id="X77", applied_at=1.0, outcome="done")
    assert insert_request(paths, sneaky).id == "X2"
    assert [(each.by, each.applied_at) for each in store.agent.pending_requests()] == [("ada", None), ("bob", None)]


def test_a_request_is_dealt_with_once(store: Store, paths: CampaignPaths, clock: FakeClock) -> None:
    insert_request(paths, samples.request())
    applied = store.agent.apply_request("X1", "answered yes")
    assert (applied.outcome, applied.applied_at) == ("answered yes", clock.now())
    clock.advance(5)
    assert store.agent.apply_request("X1", "answered no") == applied
    assert store.agent.pending_requests() == []
    assert store.read.requests() == [applied]


def test_the_export_holds_every_row_and_opens_with_its_versions(busy: Store, paths: CampaignPaths) -> None:
    stream = io.StringIO()
    count = export(paths, stream)
    header, *lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (header["export"], header["campaign"], header["schema"]) == ("vigil", "night", SCHEMA_VERSION)
    assert count == len(lines)
    assert {line["table"] for line in lines} == (set(TABLES) - {"request"}) | {"journal"}
    journal = [line["row"] for line in lines if line["table"] == "journal"]
    beliefs = [line["row"] for line in lines if line["table"] == "belief"]
    assert [row["row"] for row in journal if row["row_id"] == "B2"] == [beliefs[1]]
    assert "row_json" not in journal[0]


def test_an_export_from_a_bare_checkout_has_no_version(paths: CampaignPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(reading, "version", unknown)
    assert reading.header(paths)["vigil"] == "unknown"


def test_nothing_is_left_by_a_reader_of_a_live_campaign(busy: Store, paths: CampaignPaths) -> None:
    before = sorted(paths.root.iterdir())
    with open_reader(paths) as reader:
        reader.campaign()
    assert sorted(paths.root.iterdir()) == before


def test_the_last_request_is_known_before_the_store_is_opened(tmp_path: Path) -> None:
    paths = CampaignPaths(tmp_path, "night")
    assert last_request(paths) == 0
    paths.root.mkdir()
    paths.db.write_bytes(b"")
    assert last_request(paths) == 0
    with Lease.acquire(paths, FakeClock()) as lease, Store.open(paths, FakeClock(), lease):
        assert last_request(paths) == 0
        insert_request(paths, samples.request())
        insert_request(paths, samples.request())
        assert last_request(paths) == 2
