from pathlib import Path

from tools.jobs.folder import last_lines, put_aside_if_large


def test_the_last_lines_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    assert last_lines(log, 3) == []
    log.write_text("a\nb\nc\nd")
    assert last_lines(log, 3) == ["b", "c", "d"]
    assert last_lines(log, 0) == []
    assert last_lines(log, 9) == ["a", "b", "c", "d"]


def test_only_the_end_is_read_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("x" * 1000 + "\nlast\n")
    assert last_lines(log, 5, window_bytes=50) == ["last"]


def test_bytes_that_are_no_text_do_not_hide_the_rest(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"\xff\xfe\nplain\n")
    assert last_lines(log, 1) == ["plain"]


def test_a_large_log_is_put_aside_and_two_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with log.open("a") as worker:
        for text in ("first", "second", "third"):
            worker.write(text * 10)
            worker.flush()
            assert put_aside_if_large(log, limit_bytes=20)
        worker.write("now")
    # The worker's descriptor appends: it goes on at the beginning of the emptied file.
    assert log.read_text() == "now"
    assert (tmp_path / "log.1.txt").read_text() == "third" * 10
    assert (tmp_path / "log.2.txt").read_text() == "second" * 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.1.txt", "log.2.txt", "log.txt"]


def test_a_small_or_missing_log_is_left(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    assert not put_aside_if_large(log, limit_bytes=20)
    log.write_text("short")
    assert not put_aside_if_large(log, limit_bytes=20)
    assert log.read_text() == "short"
