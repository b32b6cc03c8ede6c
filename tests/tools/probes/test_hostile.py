"""What strangers leave in a folder: nothing crashes, hangs, runs or leaves the project, and each is told."""

import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from state.files import UnreadableError, open_regular
from tests.agent.test_audit import says
from tests.faults.campaign.world import ROOT
from tests.faults.failure_modes.seen import Seen, audit
from tests.tools.models.folders import lying, write_model
from tools.data.rows import Bounds
from tools.probes.folder import discover


def found(folder: Path, *options: str) -> dict[str, Any]:
    result = says(folder, "--json", *options)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    value = json.loads(result.stdout)
    assert isinstance(value, dict)
    return value


def claims(report: dict[str, Any]) -> str:
    reasons = [row["why"] for row in report["not_checked"]]
    return "\n".join([*(row["claim"] for row in report["findings"]), *reasons])


def data(folder: Path, content: bytes, name: str = "train.jsonl") -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "data" / name).write_bytes(content)
    return folder


ROW = b'{"prompt": "a question", "completion": "an answer"}\n'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" * 100, "zero bytes: this is no text"),
        (b"\xff\xfe{\xf0\x90" * 50, "not UTF-8 at byte 1"),
        (b"\xef\xbb\xbf" + ROW, "byte order mark"),
        (ROW + b"\n" + ROW, "line 2: the line is empty"),
        (ROW + b"[" * 100_000 + b"\n", "nested too deeply"),
        (ROW + b'{"prompt": ' + b"9" * 10_000 + b', "completion": "x"}\n', "line 2: not JSON"),
        (ROW + b'{"prompt": "\\ud800 a", "completion": "x"}\n', "line 2: it holds half of a pair of characters"),
        (ROW + b'"text"\n', "the row is a string, not an object"),
        (ROW + b"null\n", "the row is null, not an object"),
        (ROW + b'{"prompt": {"a": 1}, "completion": "x"}\n', "`prompt` is an object, not a string"),
        (b"", "is empty"),
    ],
)
def test_a_data_file_that_no_trainer_reads_is_told_with_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    report = found(data(tmp_path / "p", content))
    assert [row["id"] for row in report["findings"] if row["severity"] == "hard_stop"] == ["8"]
    assert said in claims(report)


def test_characters_written_as_whole_pairs_are_no_fault(tmp_path: Path) -> None:
    rows = b'{"prompt": "\\ud83d\\ude00 a", "completion": "x"}\n{"prompt": "the text \\\\ud800", "completion": "x"}\n'
    assert found(data(tmp_path / "p", rows))["findings"] == []


def test_a_line_of_gigabytes_is_passed_over_in_little_memory(tmp_path: Path) -> None:
    path = data(tmp_path / "p", ROW) / "data" / "train.jsonl"
    with path.open("ab") as stream:
        for _ in range(40):
            stream.write(b"x" * (1 << 20))
        stream.write(b"\n" + ROW)
    report = found(tmp_path / "p")
    assert "line 2: the line has more than 16 MB" in claims(report)
    assert "1 of 3 lines" in claims(report)


def test_a_data_file_of_five_gigabytes_is_streamed(tmp_path: Path) -> None:
    path = data(tmp_path / "p", ROW * 200) / "data" / "train.jsonl"
    os.truncate(path, 5 << 30)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    seen: Seen = audit(tmp_path / "p")
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert seen.code == 3
    assert "zero bytes" in json.dumps(seen.report)
    assert after <= max(before, 600 << 10)


def test_of_an_endless_file_the_first_part_is_read_and_the_rest_is_said_to_be_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = data(tmp_path / "p", ROW * 4 + b"no row\n")
    monkeypatch.setattr("agent.audit.BOUNDS", Bounds(2 * len(ROW), 1 << 20, 20))
    report = found(folder)
    assert "data/train.jsonl: what follows its first 0 GB; --whole reads it" in claims(report)
    assert "8" not in report["checked"]
    assert "1 of 5 lines of data/train.jsonl are no good rows (line 5" in claims(found(folder, "--whole"))


def test_links_that_loop_dangle_or_lead_outside_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_bytes(b"\0")
    folder = data(tmp_path / "p", ROW * 3)
    (folder / "again").symlink_to(folder)
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    (folder / "data" / "valid.jsonl").symlink_to(secret)
    (folder / "data" / "test.jsonl").symlink_to("train.jsonl")
    said = claims(found(folder))
    assert "again: a link to a folder that it lies in" in said
    assert "a: a link that leads to nothing or to itself" in said
    assert "data/valid.jsonl: a link that leads outside the project, not read" in said
    assert "zero bytes" not in said


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = data(tmp_path / "p", ROW * 3)
    (folder / "locked").mkdir()
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("tools.probes.folder.os.scandir", refusing)
    assert discover(folder).passed_over == [("locked", "the folder cannot be read (Permission denied)")]
    assert "8" not in found(folder)["checked"]


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = data(tmp_path / "p", ROW * 3)
    open_ = os.open

    def refusing(path: Any, *arguments: Any, **named: Any) -> int:
        if str(path).endswith("train.jsonl"):
            raise PermissionError(13, "Permission denied")
        return open_(path, *arguments, **named)

    monkeypatch.setattr("state.files.os.open", refusing)
    assert "data/train.jsonl cannot be read as JSON lines: permission denied" in claims(found(folder))


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    folder = data(tmp_path / "p", ROW * 3)
    model = write_model(folder / "model")
    for name in ("lora.yaml", "data/valid.jsonl", "model/model-00003-of-00003.safetensors", "adapters.safetensors"):
        os.mkfifo(folder / name)
    (folder / "vigil-audit.yaml").write_text("evaluations: [{name: e, data: data/valid.jsonl, max_tokens: 9}]")
    said = claims(found(folder))
    assert "lora.yaml: it is no regular file" in said
    assert f"{model.name}: model-00003-of-00003.safetensors is no regular file of the project" in said
    with pytest.raises(UnreadableError, match="no regular file"):
        open_regular(folder / "lora.yaml")


def aliases(depth: int) -> str:
    lines = ["b0: &b0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"b{n}: &b{n} [" + ", ".join([f"*b{n - 1}"] * 10) + "]" for n in range(1, depth)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (aliases(30), "YAML aliases"),
        ("deep: " + "[" * 5_000, "nested more than"),
        (
            "tag: !!python/object/apply:os.system ['touch pwned']",
            "`!!python/object/apply:os.system` asks for more than",
        ),
        ("tag: !own {}", "`!own` asks for more than plain values"),
        ("iters: 5", "written twice"),
        ("a: \0", "not valid YAML"),
    ],
)
def test_yaml_that_would_explode_or_run_is_refused_as_a_configuration(tmp_path: Path, extra: str, said: str) -> None:
    folder = data(tmp_path / "p", ROW * 8)
    (folder / "lora.yaml").write_text(f"model: o/m\ndata: data\niters: 2\nadapter_path: a\n{extra}\n")
    assert said in claims(found(folder))
    assert not (folder / "pwned").exists()


def test_yaml_that_would_explode_is_refused_as_settings(tmp_path: Path) -> None:
    folder = data(tmp_path / "p", ROW * 8)
    (folder / "vigil-audit.yaml").write_text(aliases(30))
    result = says(folder)
    assert result.exit_code == 2
    assert "YAML aliases" in result.stderr


def test_paths_of_the_settings_that_lead_outside_are_named_and_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = data(tmp_path / "outside", b"\0")
    folder = data(tmp_path / "p", ROW * 8)
    (folder / "link").symlink_to(outside)
    settings = {
        "evaluations": [
            {"name": name, "data": path, "max_tokens": 9}
            for name, path in (
                ("up", "../outside/data/train.jsonl"),
                ("far", "/etc/passwd"),
                ("home", "~/x.jsonl"),
                ("nobody", "~nobody-of-this-name/x.jsonl"),
                ("link", "link/data/train.jsonl"),
                ("around", "data/../../outside/data/train.jsonl"),
            )
        ],
        "adapters": [{"path": "../outside/adapter", "evaluated_on": "../outside/model"}],
        "fused": [{"path": "../outside", "base": "/", "adapter": "../.."}],
    }
    (folder / "vigil-audit.yaml").write_text(json.dumps(settings))
    opened: list[str] = []
    open_ = os.open

    def noting(path: Any, *rest: Any) -> int:
        opened.append(str(path))
        return open_(path, *rest)

    monkeypatch.setattr("state.files.os.open", noting)
    report = found(folder)
    said = json.dumps(report)
    for name in ("up", "far", "home", "nobody", "link", "around"):
        assert f"evaluation:{name}" in said
    assert "../outside/adapter lies outside the project, not opened" in said
    assert not [path for path in opened if "outside" in path or "passwd" in path]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 90_000_000) + b"{}",
        lying(b"[" * 50_000),
        lying(["no", "object"]),
        lying({"w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}),
        lying({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
        lying({n: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for n in "vw"}, data=b"\0" * 16),
        lying({"w": {"dtype": "Q9", "shape": [4], "data_offsets": [0, 16]}}, data=b"\0" * 16),
        lying({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [16, 0]}}, data=b"1234"),
    ],
)
def test_a_safetensors_header_that_lies_is_told(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "p"
    write_model(folder / "model", **{"model-00002-of-00002.safetensors": content})
    (folder / "adapters").mkdir()
    (folder / "adapters" / "adapter_config.json").write_text(json.dumps({"model": "model", "iters": 5}))
    (folder / "adapters" / "adapters.safetensors").write_bytes(content)
    report = found(folder)
    modes = {(row["id"], row["subject"]) for row in report["findings"] if row["severity"] == "hard_stop"}
    assert ("3", "model:model") in modes
    assert ("8", "adapter:adapters") in modes


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {os.environ['VIGIL_TEST_PWNED']}",)


def test_pickles_and_python_files_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "pwned"
    monkeypatch.setenv("VIGIL_TEST_PWNED", str(mark))
    folder = data(tmp_path / "p", ROW * 8)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    for name in ("model/pytorch_model.bin", "optimizer.pt", "a.pkl", "b.joblib"):
        (folder / name).write_bytes(pickle.dumps(Payload()))
    for name in ("tools.py", "rewards.py", "sitecustomize.py", "model/modeling_own.py"):
        (folder / name).write_text(f"open({str(mark)!r}, 'w')")
    monkeypatch.chdir(folder)
    report = found(folder, "--model", str(folder / "model"))
    assert "may hold pickled objects" in claims(report)
    assert not mark.exists()


def test_a_small_file_that_is_huge_is_not_read(tmp_path: Path) -> None:
    folder = data(tmp_path / "p", ROW * 8)
    write_model(folder / "model")
    (folder / "adapters").mkdir()
    (folder / "adapters" / "adapters.safetensors").write_bytes(lying({}))
    for name in ("model/config.json", "adapters/adapter_config.json", "harness.json"):
        (folder / name).write_bytes(b'{"max_tokens": 1, "cases": [')
        os.truncate(folder / name, 3 << 30)
    said = claims(found(folder))
    assert "model: config.json has more than 64 MB" in said
    assert "no adapter_config.json that can be read" in said


def test_names_that_are_no_text_are_shown_without_harm(tmp_path: Path) -> None:
    folder = data(tmp_path / "p", ROW * 8)
    (folder / os.fsdecode(b"\xff\x1b[31m.jsonl")).write_bytes(b"\0")
    (folder / "a\nb").mkdir()
    (folder / "a\nb" / "train.jsonl").write_bytes(b"\0")
    report = found(folder)
    assert "\x1b" not in claims(report)
    assert any("a b/train.jsonl" in row["claim"] for row in report["findings"])


def test_text_that_no_encoding_writes_is_shown_without_harm(tmp_path: Path) -> None:
    folder = data(tmp_path / "p", ROW.replace(b"an answer", b"\\ud800 alone") * 8)
    config = '{"model": "\\ud800", "data": "\\udcff", "train": true, "iters": 2, "adapter_path": "\\udfff"}'
    (folder / "lora.json").write_text(config)
    said = claims(found(folder))
    assert r"lora.json names \ud800 as its model" in said


def test_a_model_whose_files_cannot_be_read_to_an_end_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = data(tmp_path / "p", ROW * 8)
    model = tmp_path / "model"
    model.mkdir()
    os.mkfifo(model / "tokenizer.json")
    seen = says(folder, "--model", str(model))
    assert seen.exit_code == 2
    assert "tokenizer.json is no regular file" in seen.stderr
    monkeypatch.setattr("agent.audit.Path.iterdir", refused)
    assert "it cannot be read (Permission denied)" in says(folder, "--model", str(model)).stderr


def refused(_folder: Path) -> Any:
    raise PermissionError(13, "Permission denied")


def test_a_project_of_too_many_files_is_cut_off_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.probes.folder.MOST_FILES", 2)
    monkeypatch.setattr("tools.probes.folder._MOST_DEPTH", 3)
    deep = tmp_path / "p" / "a" / "b" / "c" / "d"
    deep.mkdir(parents=True)
    assert discover(tmp_path / "p").passed_over == [("a/b/c/d", "it lies more than 3 folders deep")]
    for number in range(3):
        (tmp_path / "p" / f"{number}.txt").touch()
    assert "more than 2 files" in discover(tmp_path / "p").passed_over[0][1]


NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
"""How to run as somebody for whom permissions count; root reads everything."""


def can_be_nobody() -> bool:
    try:
        return subprocess.run([*NOBODY, sys.executable, "-c", "import click"], check=False).returncode == 0
    except OSError:
        return False


def anybody(folder: Path) -> Seen:
    """Audit a folder as somebody for whom permissions count."""
    command = [*NOBODY, sys.executable, "-m", "agent.cli", "audit", str(folder), "--json"]
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return Seen(done.returncode, done.stderr, [], report=json.loads(done.stdout or "{}"))


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that others may look into; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(not can_be_nobody(), reason="nobody else may run this Python")
@pytest.mark.parametrize(
    ("place", "mode", "said"),
    [
        ("locked", 0, "locked: the folder cannot be read (Permission denied)"),
        ("data", 0, "data: the folder cannot be read (Permission denied)"),
        ("data/train.jsonl", 0, "data/train.jsonl cannot be read as JSON lines: permission denied"),
        ("model", 0o444, "model: the folder cannot be read (Permission denied)"),
        ("model/config.json", 0, "model has no readable config.json"),
    ],
)
def test_what_may_not_be_read_is_named_and_the_rest_is_looked_at(
    open_to_all: Path, place: str, mode: int, said: str
) -> None:
    folder = data(open_to_all / "p", ROW * 3)
    write_model(folder / "model")
    (folder / "locked").mkdir()
    config = {"model": "model", "data": "data", "train": True, "iters": 9, "adapter_path": "a"}
    (folder / "lora.json").write_text(json.dumps(config))
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    (folder / place).chmod(mode)
    seen = anybody(folder)
    (folder / place).chmod(0o755)
    assert said in claims(seen.report), seen.said
    assert "6" in seen.report["checked"]
