"""The ledger of cases as a file: what is written once, what must still be there later, and what damage says."""

import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from state import ledger as ledgers
from state.errors import CorruptError
from state.journal import Head
from state.ledger import CaseSet, Entry, case_hash, head_file, open_ledger, reset

CASES = CaseSet.of(case_hash([f"say {number}"], str(number)) for number in range(40))


def opening(number: int = 1) -> Entry:
    """Return one opening."""
    return Entry(100.0 + number, "opening", f"key-{number}", {"alpha": 0.01, "campaign": "one"})


def write(path: Path, *entries: Entry) -> Head:
    """Append entries, each with the same cases, and return where the ledger stands then."""
    with open_ledger(path, is_writing=True) as ledger:
        for entry in entries:
            with ledger.writing():
                ledger.add(entry, {"main": CASES}, "/home")
        return ledger.head


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.db"


def test_an_opening_stands_once_under_its_key_with_its_cases_for_the_owner_alone(path: Path) -> None:
    with open_ledger(path) as nothing:
        assert nothing.entries() == []
    assert not path.exists(), "reading makes nothing"
    write(path, opening(), opening(), opening(2))
    assert write(path, opening(2)).seq == 2
    with open_ledger(path) as ledger:
        assert [entry.key for entry in ledger.entries()] == ["key-1", "key-2"]
        assert ledger.entries()[0].body == {"alpha": 0.01, "campaign": "one", "sets": {"main": CASES.digest}}
        assert ledger.cases(CASES.digest) == CASES
    for file in (path, path.parent, head_file(path)):
        assert not stat.S_IMODE(file.stat().st_mode) & 0o077, file


def test_a_set_is_found_in_by_case_and_is_one_whatever_the_order_and_white_space() -> None:
    assert len(CASES) == 40
    assert CaseSet.of(reversed([*CASES])).digest == CASES.digest
    assert case_hash(["say  3\n"], "3") in CASES
    assert case_hash(["say 3"], "4") not in CASES
    assert case_hash(["a", "b"], "") != case_hash(["a"], "b")
    assert b"\xff" * 8 not in CASES


def test_an_error_while_writing_keeps_nothing_of_it(path: Path) -> None:
    write(path, opening())
    with open_ledger(path, is_writing=True) as ledger:
        with suppress(KeyError), ledger.writing():
            ledger.add(opening(2), {}, "/home")
            raise KeyError
        assert len(ledger.entries()) == 1


def test_a_kill_before_the_first_row_leaves_an_empty_ledger_not_a_damaged_one(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with open_ledger(path) as ledger:
        assert ledger.head.seq == 0
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA user_version=0")
    with open_ledger(path) as ledger:
        assert ledger.entries() == []
    assert write(path, opening()).seq == 1


def _flip(path: Path, wanted: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(wanted) + 2] ^= 1
    path.write_bytes(content)


def _drop_last_row(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM journal WHERE seq = 2")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "deleted": Path.unlink,
    "emptied": lambda path: os.truncate(path, 0),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a byte of a row": lambda path: _flip(path, b'"alpha"'),
    "a byte of a set": lambda path: _flip(path, CASES.packed[:8]),
    "a byte of the header": lambda path: _flip(path, b"SQLite"),
    "the last row removed": _drop_last_row,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_lost_or_damaged_ledger_is_said_and_never_taken_as_empty(path: Path, damage: Callable[[Path], None]) -> None:
    write(path, opening(), opening(2))
    damage(path)
    with pytest.raises(CorruptError, match="vigil ledger --reset --reason WHY") as said, open_ledger(path) as ledger:
        ledger.cases(CASES.digest)
    assert said.value.exit_code == 5
    with pytest.raises(CorruptError), open_ledger(path, is_writing=True) as ledger:
        ledger.cases(CASES.digest)


def test_what_a_home_has_seen_must_be_there_though_the_folder_was_deleted_whole(path: Path) -> None:
    seen = write(path, opening())
    path.unlink()
    head_file(path).unlink()
    with pytest.raises(CorruptError, match="gone, and held at least 1 rows"), open_ledger(path, [seen]):
        pass
    write(path, opening(3))
    with pytest.raises(CorruptError, match="another one than was acknowledged"), open_ledger(path, [seen]):
        pass
    # Sound but for what one home saw of another: that alone is given up.
    assert reset(path, [seen], Entry(200.0, "", "", {"by": "ada", "reason": "a new disk"}), "/home") == ("lost", None)
    with open_ledger(path, [seen]) as ledger:
        assert [entry.key for entry in ledger.entries() if entry.kind == "opening"] == ["key-3"]


def test_a_set_that_is_not_there_is_damage(path: Path) -> None:
    write(path, opening())
    with pytest.raises(CorruptError, match="is missing"), open_ledger(path) as ledger:
        ledger.cases("none")


def test_a_reset_is_on_record_and_what_was_before_it_no_longer_counts(path: Path) -> None:
    write(path, opening())
    why = Entry(200.0, "", "", {"by": "ada", "reason": "the cases were thrown away"})
    assert reset(path, (), why, "/home") == ("reset", None)
    assert reset(path, (), why, "/home") == ("reset", None)
    write(path, opening())
    with open_ledger(path) as ledger:
        assert [entry.key for entry in ledger.entries()] == ["key-1"]
        assert [entry.body["reason"] for entry in ledger.resets()] == ["the cases were thrown away"] * 2


@pytest.mark.parametrize("damage", ["deleted", "a byte of a row"])
def test_a_damaged_ledger_is_set_aside_by_a_reset_and_begun_anew(path: Path, damage: str) -> None:
    seen = write(path, opening(), opening(2))
    DAMAGES[damage](path)
    kind, moved = reset(path, [seen], Entry(200.0, "", "", {"by": "ada", "reason": "a bad disk"}), "/home")
    assert kind == "reset"
    assert moved is not None
    assert (moved / head_file(path).name).exists()
    with open_ledger(path, [seen]) as ledger:
        assert ledger.entries() == []
        assert ledger.resets()[0].body["by"] == "ada"


def test_two_hundred_thousand_rows_are_one_write_and_are_looked_up_without_reading_them_all(path: Path) -> None:
    rows = CaseSet.of(number.to_bytes(ledgers.WIDTH, "big") for number in range(0, 400_000, 2))
    with open_ledger(path, is_writing=True) as ledger:
        for name in ("one", "two"):
            with ledger.writing():
                ledger.add(Entry(1.0, "used", name, {}), {"train": rows}, "/home")
        found = ledger.cases(rows.digest)
    assert sum(number.to_bytes(ledgers.WIDTH, "big") in found for number in range(1_000)) == 500
    assert path.stat().st_size < 2 * 200_000 * ledgers.WIDTH, "the second campaign adds a row, not the set again"
