"""What `vigil export` and `vigil chat` make of a record: tables, `.eval` logs, GGUF or why not, two answers."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent.chat import chat, format_answers
from agent.cli import vigil
from agent.exports import _hand_out, _notes
from state.errors import ConfigError, JobFailedError
from state.files import read_json, write_json
from state.hashing import hash_file, hash_tree
from state.paths import CampaignPaths
from state.reading import open_reader
from tests.agent.recorded import HOSTILE, record
from tests.tools.evaluation.worlds import make_adapter, make_model
from tools.jobs.locks import Turn, machine_paths


def says(home: Path, *arguments: object) -> Result:
    return CliRunner().invoke(vigil, [*map(str, arguments), "--home", str(home)])


def answered(home: Path, kind: str = "llama") -> CampaignPaths:
    """Return a record whose R3 has an adapter on a small model of some architecture."""
    paths = record(home, "promoted")
    model = make_model(home / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": kind}))
    adapter = make_adapter(home / "adapter")
    digest = hash_tree(adapter)
    adapter.rename(paths.artifact(digest))
    given = {"model": str(model), "dtype": "float32", "system": None, "data": {"train": str(home / "train.jsonl")}}
    spec = paths.job("train3").spec
    write_json(spec, {**(read_json(spec) or {}), "input": given})
    _name_adapter(paths, digest)
    return paths


def _name_adapter(paths: CampaignPaths, digest: str) -> None:
    from state.clock import FakeClock
    from tests.agent.recorded import opened

    with opened(paths.home, FakeClock()) as store:
        store.deciding.update_run("R3", adapter=digest)


def test_step_metrics_are_lines_that_any_reader_takes_and_a_table(tmp_path: Path) -> None:
    paths = record(tmp_path, "promoted")
    with (paths.job("train3").metrics).open("a") as stream:
        stream.write('{"step": 301, "train_loss": NaN, "t": 5.0}\n{"step": 302, "tr')
    lines = [
        json.loads(line, parse_constant=pytest.fail) for line in says(tmp_path, "export", "--steps").stdout.splitlines()
    ]
    steps = [row["step"] for row in lines if row["run"] == "R1" and "train_loss" in row]
    assert steps == list(range(10, 201, 10))
    assert lines[-2]["train_loss"] is None
    assert lines[-1]["verdict"] == "passed (A)"
    assert lines[-1]["verdict/stress.rows_kept/value_low"] < lines[-1]["verdict/stress.rows_kept"]
    out = tmp_path / "steps.jsonl"
    assert says(tmp_path, "export", "--steps", "--out", out).stdout == f"{out}: {len(lines)} rows.\n"
    assert len(out.read_text().splitlines()) == len(lines)
    pyarrow = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed")
    says(tmp_path, "export", "--steps", "--out", tmp_path / "steps.parquet")
    assert pyarrow.read_table(tmp_path / "steps.parquet").num_rows == len(lines)


@pytest.mark.parametrize(
    ("package", "asked"), [("pyarrow", ["--steps", "--out", "x.parquet"]), ("inspect_ai", ["--inspect", "logs"])]
)
def test_a_form_whose_package_is_missing_says_which_extra_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, asked: list[str]
) -> None:
    record(tmp_path, "promoted")
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    refused = says(tmp_path, "export", *asked)
    assert (refused.exit_code, "pip install 'vigil[" in refused.stderr) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quick"]


@pytest.mark.parametrize("privacy", ["keep", "redact"])
def test_inspect_reads_the_logs_that_are_written_for_it(tmp_path: Path, privacy: str) -> None:
    log = pytest.importorskip("inspect_ai.log", reason="the extra inspect is not installed")
    record(tmp_path, "promoted", privacy=privacy)
    written = says(tmp_path, "export", "--inspect", tmp_path / "logs").stdout.split()
    assert len(written) == 6, "base, R1 and R3 on two uses each"
    found = log.read_eval_log(str(tmp_path / "logs" / "quick_R3_confirmation.eval"))
    assert (found.status, len(found.samples)) == ("success", 80)
    sample = next(each for each in found.samples if each.id == "stress-stress-3")
    assert (HOSTILE in sample.output.completion) == (privacy == "keep")
    assert 0 < sample.scores["rows_kept"].value <= 1
    assert "stress.rows_kept" in {score.name for score in found.results.scores}


def test_gguf_is_refused_where_mlx_lm_cannot_write_it_and_says_what_can(tmp_path: Path) -> None:
    answered(tmp_path, "qwen2")
    refused = says(tmp_path, "export", "--gguf", "r3", "--out", tmp_path / "x.gguf")
    assert refused.exit_code == 2
    assert "mlx-lm writes GGUF for llama, mistral, mixtral only, and this model is qwen2" in refused.stderr
    assert "name it with --out" in says(tmp_path, "export", "--gguf", "R3").stderr
    assert "one at a time" in says(tmp_path, "export", "--gguf", "R3", "--steps").stderr
    assert (
        "has no run R2 with an adapter; there are: R3."
        in says(tmp_path, "export", "--gguf", "R2", "--out", tmp_path / "x.gguf").stderr
    )


def test_a_file_of_the_user_s_in_the_place_of_a_gguf_is_left_alone(tmp_path: Path) -> None:
    made, out = tmp_path / "made", tmp_path / "to" / "out.gguf"
    made.write_bytes(b"GGUF")
    assert _hand_out(made, out, hash_file(made), is_forced=False)
    assert not _hand_out(made, out, hash_file(made), is_forced=False), "it is there"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="is another file"):
        _hand_out(made, out, hash_file(made), is_forced=False)
    assert _hand_out(made, out, hash_file(made), is_forced=True)
    assert [path.name for path in out.parent.iterdir()] == ["out.gguf"]
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    assert "byte-level BPE" in _notes(tmp_path, {"same": 9, "positions": 10})[1]


@pytest.mark.mlx
def test_base_and_candidate_answer_side_by_side_and_nothing_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = answered(tmp_path)
    before = paths.db.read_bytes()
    told = says(tmp_path, "chat", "--run", "r3", "--prompt", "ab \x1b[31m", "--prompt", "cd")
    assert told.exit_code == 0, told.output
    assert "Not an evaluation: nothing of this is recorded" in told.stderr
    assert "\x1b[31m" not in told.stdout
    heads = [line for line in told.stdout.splitlines() if line.startswith("base")]
    assert len(heads) == 2
    assert all("| R3" in line for line in heads)
    typed = CliRunner().invoke(
        vigil, ["chat", "--run", "R3", "--json", "--home", str(tmp_path)], input="ab \x1b[31m\n\ncd\n"
    )
    assert typed.exit_code == 0, typed.output
    rows = [json.loads(line) for line in typed.stdout.splitlines()]
    assert [row["prompt"] for row in rows] == ["ab \x1b[31m", "cd"]
    assert all(row["base"]["text"] != row["candidate"]["text"] for row in rows), "the adapter is on one side only"
    assert paths.db.read_bytes() == before
    with open_reader(paths) as reader:
        assert reader.requests() == []
    turn = Turn.take(
        machine_paths(), {"campaign": "other", "kind": "training", "key": "k", "pid": os.getpid(), "since": 1.0}
    )
    assert turn is not None
    try:
        busy = says(tmp_path, "chat", "--run", "R3", "--prompt", "x")
    finally:
        turn.release()
    assert (busy.exit_code, "training of other has the accelerator" in busy.stderr) == (2, True)
    assert "--anyway" in busy.stderr


def test_an_answering_process_that_refuses_or_dies_is_one_sentence(tmp_path: Path) -> None:
    spec: dict[str, Any] = {"base": str(tmp_path), "model": str(tmp_path), "adapter": str(tmp_path), "dtype": None}
    with pytest.raises(ConfigError, match=r"config\.json"):
        list(chat({**spec, "system": None, "max_tokens": 4}, ["x"], lambda _: None))
    with pytest.raises(JobFailedError, match="died"):
        list(chat({}, ["x"], lambda _: None))


def test_answers_stand_under_each_other_where_the_window_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"base": {"text": "one", "finish_reason": "stop"}, "candidate": {"text": "", "finish_reason": "length"}}
    monkeypatch.setenv("COLUMNS", "60")
    assert format_answers(told, "R1") == ["base", "----", "one", "", "R1 (cut off)", "------------", "(nothing)"]
    monkeypatch.setenv("COLUMNS", "100")
    assert format_answers(told, "R1")[0] == f"{'base':<48} | R1 (cut off)"
