"""The checkpoint file: damaged, it is set aside, since the store alone says what is true."""

from pathlib import Path

from agent.graph import open_saver


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
