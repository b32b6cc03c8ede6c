import sqlite3
import sys
from pathlib import Path

import pytest

from state import schema as module
from state.errors import CorruptError, StoreError
from state.schema import configure, connect, spoken_errors


def test_a_file_that_stays_locked_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.0)
    path = tmp_path / "state.db"
    first, second = connect(path), connect(path)
    first.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="stayed locked by another process for 0 s"), spoken_errors(path):
        second.execute("BEGIN IMMEDIATE")
    first.close()
    second.close()


def test_a_file_that_is_no_database_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"garbage" * 1000)
    opened = connect(path)
    with pytest.raises(CorruptError, match="vigil run --restore"), spoken_errors(path):
        configure(opened)
    opened.close()


def test_a_refused_row_keeps_sqlites_reason(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="refused a read or write: NOT NULL"), spoken_errors(tmp_path):
        raise sqlite3.IntegrityError("NOT NULL constraint failed: run.seed")


def test_text_that_is_none_is_damage(tmp_path: Path) -> None:
    opened = connect(":memory:")
    with pytest.raises(CorruptError, match="Could not decode"), spoken_errors(tmp_path / "state.db"):
        opened.execute("SELECT CAST(x'ff' AS TEXT)").fetchall()
    opened.close()
    # SQLite's own message about a damaged schema may hold such text.
    with pytest.raises(CorruptError, match="codec can't decode"), spoken_errors(tmp_path / "state.db"):
        b"\xff".decode()


@pytest.mark.parametrize(("platform", "full"), [("darwin", 1), ("linux", 0)])
def test_the_drives_cache_is_flushed_on_macos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, full: int
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    opened = connect(tmp_path / "state.db")
    configure(opened)
    assert opened.execute("PRAGMA fullfsync").fetchone() == (full,)
    assert opened.execute("PRAGMA checkpoint_fullfsync").fetchone() == (full,)
    opened.close()
