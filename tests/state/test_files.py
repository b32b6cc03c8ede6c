import os
import subprocess
import sys
from pathlib import Path

import pytest

from state import files
from state.errors import ConfigError, DamagedFileError
from state.files import (
    UnreadableError,
    ensure_local_disk,
    file_system_type,
    json_row,
    read_bounded,
    read_json,
    read_jsonl,
    read_object,
    side_of,
    sweep,
    tighten,
    write_atomic,
    write_json,
)

ROOT = Path(__file__).resolve().parents[2]


def test_a_file_appears_whole_in_a_folder_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_atomic(path, "é")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [each.name for each in path.parent.iterdir()] == ["b.txt"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_is_readable_to_whom_the_umask_says(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "a.txt", "private")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode


def test_json_is_read_as_it_was_written_whatever_the_locale_says(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"folder": "dätä"})
    code = "import pathlib, state.files as f; assert f.read_json(pathlib.Path('x.json'))['folder'][1] == '\\xe4'"
    environment = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "b.txt"
    write_atomic(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["b.txt"]


def test_json_comes_back_as_it_was_and_a_missing_file_is_none(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": [1, None], "a": "é"})
    assert read_json(tmp_path / "x.json") == {"b": [1, None], "a": "é"}
    assert read_json(tmp_path / "y.json") is None
    assert read_object(tmp_path / "y.json") == {}
    assert read_object(tmp_path / "x.json") == {"b": [1, None], "a": "é"}


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"{", "no JSON"), (b"", "no JSON"), (b"\xff", "no JSON"), (b"[" * 200_000, "nested"), (b" " * 99 + b"{}", "")],
)
def test_a_damaged_file_of_ours_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, words: str
) -> None:
    path = tmp_path / "z.json"
    path.write_bytes(data)
    if data.endswith(b"{}"):
        monkeypatch.setattr(files, "MOST_BYTES", 100)
        words = "101 bytes"
    for read in (read_json, read_object):
        with pytest.raises(DamagedFileError, match=rf"z\.json is damaged: .*{words}.*move it away"):
            read(path)


def test_an_object_is_told_from_anything_else(tmp_path: Path) -> None:
    for text in ("[]", "null", "7"):
        (tmp_path / "z.json").write_text(text)
        with pytest.raises(DamagedFileError, match="holds no object"):
            read_object(tmp_path / "z.json")
    rows = [json_row(line) for line in ("{}", "[]", "{", "[" * 200_000)]
    assert rows == [{}, None, None, None]


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert read_jsonl(path) == []
    path.write_text('{"step": 1}\n{"step": 2}\n7\n{"step": ')
    assert read_jsonl(path) == [{"step": 1}, {"step": 2}]


def test_a_local_folder_that_does_not_exist_yet_is_fine(tmp_path: Path) -> None:
    ensure_local_disk(tmp_path / "not" / "yet")


def test_a_network_mount_is_refused_by_its_longest_mount_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_linux_mounts", lambda: [(str(tmp_path), "nfs4"), ("/", "ext4")])
    monkeypatch.setattr(sys, "platform", "linux")
    assert file_system_type(tmp_path / "home") == "nfs4"
    with pytest.raises(ConfigError, match=r"network file system \(nfs4\)"):
        ensure_local_disk(tmp_path / "home")
    monkeypatch.setattr(files, "_linux_mounts", list)
    assert file_system_type(tmp_path / "home") == ""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/mounts is Linux's")
def test_mounts_are_sorted_with_the_nearest_first() -> None:
    points = [point for point, _ in files._linux_mounts()]
    assert points[-1] == "/"
    assert points == sorted(points, key=len, reverse=True)


@pytest.mark.parametrize(
    ("listed", "kind"), [("Filesystem\n", "apfs"), ("Filesystem\nserver:/x 1 1 1 /Volumes/x\n", "nfs")]
)
def test_on_macos_df_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str, kind: str) -> None:
    def df(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        assert command[-1] == str(tmp_path)
        return subprocess.CompletedProcess(command, 0, stdout=listed)

    monkeypatch.setattr(subprocess, "run", df)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert file_system_type(tmp_path / "home") == kind


def test_elsewhere_it_cannot_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "plan9")
    assert file_system_type(tmp_path) == ""


def test_side_files_of_the_dead_are_swept_and_those_of_the_living_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    ours = side_of(tmp_path / "lock.json")
    left = [tmp_path / f".lock.json.{dead.pid}.{'a' * 16}", tmp_path / f".job.json.{'b' * 16}"]
    kept = [ours, tmp_path / f".of_init.1.{'c' * 16}", tmp_path / ".heartbeat", tmp_path / "lock.json"]
    for path in (*left, *kept, tmp_path / ".x.part"):
        path.touch()
    (tmp_path / ".cases.jsonl.part").mkdir()
    sweep(tmp_path, ".*.part")
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    sweep(tmp_path / "nowhere")


def test_a_process_of_another_user_lives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def not_ours(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", not_ours)
    side_of(tmp_path / "x").touch()
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_what_others_could_read_is_its_owner_s_alone_and_what_links_lead_to_is_left(tmp_path: Path) -> None:
    outside, root = tmp_path / "model.bin", tmp_path / "campaign"
    (root / "jobs" / "J1").mkdir(parents=True)
    for path in (outside, root / "state.db", root / "jobs" / "J1" / "job.json", root / "promoted"):
        path.write_text("x")
    (root / "link").symlink_to(outside)
    (tmp_path / "export").hardlink_to(root / "promoted")
    for path in (outside, root, root / "state.db", root / "jobs" / "J1" / "job.json", root / "promoted"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert tighten(root) > 0
    modes = {path.name: path.stat().st_mode & 0o777 for path in (outside, root, *root.rglob("*"))}
    assert {modes["campaign"], modes["jobs"], modes["J1"]} == {0o700}
    assert (modes["state.db"], modes["job.json"], modes["model.bin"], modes["promoted"]) == (0o600, 0o600, 0o644, 0o644)
    assert tighten(root) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="a regular file that cannot be read is of /proc")
def test_what_is_no_regular_file_or_has_no_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(b"x" * 11)
    for path, why in (
        (tmp_path / "pipe", "no regular file"),
        (tmp_path, "no regular file"),
        (Path("/dev/zero"), "no regular file"),
        (tmp_path / "none", "no such file"),
        (Path("a\0b"), "null"),
        (tmp_path / "long", "more than 10 bytes"),
        (Path("/proc/self/mem"), "input/output error"),
    ):
        with pytest.raises(UnreadableError, match=why):
            read_bounded(path, 10)
    assert read_bounded(tmp_path / "long", 11) == b"x" * 11


def test_a_device_or_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "full").symlink_to("/dev/full")
    for path in (tmp_path / "pipe", tmp_path / "full"):
        with pytest.raises(ConfigError, match="no regular file and is left as it is"):
            write_atomic(path, "x")
        assert not path.is_file()
