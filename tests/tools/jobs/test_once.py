from pathlib import Path

from state.paths import JobPaths
from tools.jobs.folder import ask_for_stop, stop_request, write_once
from tools.jobs.spec import StopRequest


def test_the_first_writer_wins_and_leaves_no_side_file(tmp_path: Path) -> None:
    assert write_once(tmp_path / "file", "one")
    assert not write_once(tmp_path / "file", "two")
    assert (tmp_path / "file").read_text() == "one\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_stop_is_read_as_it_was_asked(tmp_path: Path) -> None:
    paths = JobPaths(tmp_path)
    assert stop_request(paths) is None
    request = StopRequest(by="guard", reason="loss", verdict="diverged", guard={"signal": "train_loss"}, asked_at=5.0)
    assert ask_for_stop(paths, request)
    assert not ask_for_stop(paths, StopRequest(by="anna"))
    assert stop_request(paths) == request


def test_a_stop_file_of_unknown_content_is_a_stop(tmp_path: Path) -> None:
    paths = JobPaths(tmp_path)
    for text in ("", "{", "[]", '{"who": "?"}'):
        paths.stop.write_text(text)
        request = stop_request(paths)
        assert request is not None
        assert request.by == "person"
