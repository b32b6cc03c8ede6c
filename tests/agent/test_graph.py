"""The checkpoint file: damaged, it is set aside, since the store alone says what is true."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agent.loop import build, open_saver


def test_a_damaged_checkpoint_file_is_set_aside_and_the_loop_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "graph.db"
    path.write_bytes(b"no database at all" * 300)
    saver = open_saver(path)
    assert saver.conn.execute("SELECT count(*) FROM checkpoints").fetchone() == (0,)
    saver.conn.close()
    assert (tmp_path / "graph.db.damaged").read_bytes().startswith(b"no database")


def test_a_sound_checkpoint_file_is_kept(tmp_path: Path) -> None:
    open_saver(tmp_path / "graph.db").conn.close()
    open_saver(tmp_path / "graph.db").conn.close()
    assert not list(tmp_path.glob("*.damaged"))


def test_a_checkpoint_that_cannot_be_read_is_set_aside_too(tmp_path: Path) -> None:
    path = tmp_path / "graph.db"
    saver = open_saver(path)
    graph = build(lambda _: {"knowing": {}}, lambda _: {"deciding": {"action": "end"}}, lambda _: {}, saver)
    graph.invoke({"knowing": {}}, {"configurable": {"thread_id": "night"}})
    saver.conn.close()
    open_saver(path).conn.close()
    assert not list(tmp_path.glob("*.damaged"))
    whole = path.read_bytes()
    with closing(sqlite3.connect(path)) as connection:
        [kept] = connection.execute("SELECT checkpoint FROM checkpoints").fetchone()
    damages = (b"\xc1", kept.replace(b"000000", b"00N000"), kept.replace(b"versions_seen", b"versions_seem"))
    for damaged in damages:
        assert damaged != kept
        path.write_bytes(whole)
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE checkpoints SET checkpoint = ?", (damaged,))
        open_saver(path).conn.close()
        assert (tmp_path / "graph.db.damaged").exists(), damaged
        (tmp_path / "graph.db.damaged").unlink()


def test_a_checkpoint_file_without_its_columns_is_set_aside_and_a_locked_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "graph.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE checkpoints (thread_id TEXT)")
    open_saver(path).conn.close()
    assert (tmp_path / "graph.db.damaged").exists()
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(sqlite3.OperationalError):
        open_saver(tmp_path / "folder.db")
