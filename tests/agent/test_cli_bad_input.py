import errno
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.cli import vigil
from tests.agent.folders import BASE, edit, make, training_rows, write_rows
from tests.agent.recorded import record
from tests.tools.models.folders import safetensors

Break = Callable[[Path], object]


def vigil_says(*arguments: str | Path) -> Result:
    return CliRunner().invoke(vigil, [str(argument) for argument in arguments])


def in_file(old: str, new: str) -> Break:
    return lambda folder: edit(folder / "campaign.yaml", old, new)


def more(line: str) -> Break:
    """Add a line at the end of the campaign file."""
    return in_file("hours: 2", f"hours: 2\n{line}")


def empty(name: str) -> Break:
    return lambda folder: (folder / name).write_text("")


def gone(name: str) -> Break:
    return lambda folder: (folder / name).unlink()


def broken_line(folder: Path) -> None:
    lines = (folder / "train.jsonl").read_text().splitlines()
    lines[6] = '{"messages": [{"role": "user"'
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")


def no_tokenizer(folder: Path) -> None:
    shutil.copytree(BASE, folder / "model", ignore=shutil.ignore_patterns("tokenizer*"))
    edit(folder / "campaign.yaml", str(BASE), "model")


def an_adapter_for_a_model(folder: Path) -> None:
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapters.safetensors").write_bytes(b"")
    edit(folder / "campaign.yaml", str(BASE), "adapter")


def starts_from(rank: int = 2, inputs: int = 128, **lineage: str) -> Break:
    """Let the campaign start from an adapter; the base's attention takes 128 inputs."""

    def breaks(folder: Path) -> None:
        (folder / "mine").mkdir()
        module = "model.layers.5.self_attn.q_proj"
        tensors = {f"{module}.lora_a": ("F32", [inputs, rank]), f"{module}.lora_b": ("F32", [rank, 128])}
        (folder / "mine" / "adapters.safetensors").write_bytes(safetensors(tensors))
        lora = {"rank": rank, "scale": 2.0, "dropout": 0.0}
        config = {"fine_tune_type": "lora", "num_layers": 4, "lora_parameters": lora}
        (folder / "mine" / "adapter_config.json").write_text(json.dumps(config))
        (folder / "mine" / "run.json").write_text(json.dumps(lineage))
        edit(folder / "campaign.yaml", f"path: {BASE}", f"path: {BASE}\n  adapter: mine")

    return breaks


def another_rank(folder: Path) -> None:
    starts_from()(folder)
    edit(folder / "campaign.yaml", "iters: 20", "iters: 20\n  lora_parameters: {rank: 8}")


def a_case_in_both_splits(folder: Path) -> None:
    cases = [{"id": f"c{i}", "prompt": f"say {i}", "reference": f"{i}"} for i in range(8)]
    write_rows(folder / "one.jsonl", cases[:5])
    write_rows(folder / "two.jsonl", cases[4:])
    edit(folder / "campaign.yaml", "{file: cases.jsonl}", "{selection: one.jsonl, confirmation: two.jsonl}")


def text_rows(folder: Path) -> None:
    write_rows(folder / "train.jsonl", [{"text": "all in one"}])


def grader(source: str) -> Break:
    return lambda folder: (folder / "grade.py").write_text(source)


HAS_APPRISE = importlib.util.find_spec("apprise") is not None

BAD: dict[str, tuple[Break, list[str]]] = {
    "missing file": (gone("campaign.yaml"), ["no file"]),
    "unknown key": (in_file("hours: 2", "huors: 2"), ["campaign.yaml:21", "`huors`", "`hours`"]),
    "wrong type": (in_file("max_tokens: 64", "max_tokens: lots"), ["campaign.yaml:10", "'lots'", "a whole number"]),
    "a budget of tokens that no memory holds": (
        in_file("max_tokens: 64", "max_tokens: 1e12"),
        ["campaign.yaml:10", "max_tokens", "1000000000000.0", "at most 1000000"],
    ),
    "a seed that nothing takes": (more("seed: 1e23"), ["campaign.yaml:22", "`seed`", "at most 4294967295"]),
    "a batch that no memory holds": (
        in_file("iters: 20", "iters: 20\n  batch_size: 100000000000"),
        ["campaign.yaml", "`recipe.batch_size`", "less than or equal to 65536"],
    ),
    "threshold without metric": (in_file("- metric: words.exact\n      min", "- min"), ["campaign.yaml:15", "metric"]),
    "metric the track lacks": (in_file("words.exact", "words.exakt"), ["campaign.yaml:15", "'words.exakt'", "exact"]),
    "split that is not there": (in_file("words.exact", "verbs.exact"), ["campaign.yaml:15", "'verbs'"]),
    "empty data set": (empty("train.jsonl"), ["train.jsonl", "empty"]),
    "no data set": (gone("train.jsonl"), ["campaign.yaml:7", "train.jsonl", "not a file"]),
    "broken line": (broken_line, ["train.jsonl:7", "not JSON"]),
    "empty split": (empty("cases.jsonl"), ["cases.jsonl", "empty"]),
    "no split": (gone("cases.jsonl"), ["campaign.yaml:12", "cases.jsonl"]),
    "too few cases": (
        in_file("{file: cases.jsonl}", "{file: cases.jsonl, min_cases: 15}"),
        ["campaign.yaml:12", "min_cases", "15"],
    ),
    "a delta in percent": (
        in_file("gate:", "gate:\n  meaningful_delta: 5"),
        ["campaign.yaml:14", "gate.meaningful_delta", "5", "at most 1"],
    ),
    "a threshold in percent": (
        in_file("      min: 0.5", "      min: 69"),
        ["campaign.yaml:16", "asks 69 of words.exact", "`track.ranges` (percent: `exact: [0, 100]`)"],
    ),
    "a count that no cases show": (
        in_file("      min: 0.5", "      statistic: count\n      max: 2"),
        ["campaign.yaml:15", "without any failure do not show that at alpha 0.0167", "`test: plain` with a `reason`"],
    ),
    "a delta above what is asked over the parent": (
        in_file("      min: 0.5", "      against: parent\n      min: 0.1\n  meaningful_delta: 0.2"),
        ["campaign.yaml:18", "`gate.meaningful_delta` is 0.2", "the 0.1 that words.exact.parent>=0.1 asks for"],
    ),
    "too few confirmation cases for any decision": (
        in_file("gate:", "gate:\n  alpha: 0.0001"),
        ["campaign.yaml:16", "words.exact", "on 11 confirmation cases", "at least 15"],
    ),
    "model without tokenizer": (no_tokenizer, ["campaign.yaml:3", "tokenizer"]),
    "adapter folder as model": (an_adapter_for_a_model, ["campaign.yaml:3", "config.json"]),
    "adapter of another parent": (
        starts_from(model_weights="0" * 64),
        ["campaign.yaml:4", "trained on the weights 000000000000"],
    ),
    "adapter of another shape": (starts_from(inputs=96), ["campaign.yaml:4", "96 inputs", "128"]),
    "adapter that is not there": (
        in_file(f"path: {BASE}", f"path: {BASE}\n  adapter: mine"),
        ["campaign.yaml:4", "mine", "not a folder"],
    ),
    "another rank than the adapter's": (another_rank, ["campaign.yaml:21", "`rank` is 8", "has 2"]),
    "no model": (in_file(str(BASE), "./nowhere"), ["campaign.yaml:3", "nowhere"]),
    "negative budget": (in_file("hours: 2", "hours: -2"), ["campaign.yaml:21", "budget.hours", "-2"]),
    "name with a slash": (in_file("campaign: small", "campaign: a/b"), ["campaign.yaml:1", "'a/b'"]),
    "unknown recipe key": (in_file("iters: 20", "itres: 20"), ["campaign.yaml:19", "itres", "iters"]),
    "alpha for scale": (in_file("iters: 20", "lora_parameters: {alpha: 16}"), ["campaign.yaml:19", "scale"]),
    "nothing to mask": (text_rows, ["train.jsonl", "mask_prompt"]),
    "case in two splits": (a_case_in_both_splits, ["campaign.yaml:12", "'c4'", "words.selection"]),
    "no grader": (gone("grade.py"), ["campaign.yaml:5", "grade.py"]),
    "grader without grade": (grader("x = 1\n"), ["campaign.yaml:5", "grade"]),
    "grader that raises": (
        grader("def grade(case, text):\n    return 1 / 0\n"),
        ["campaign.yaml:5", "'c0'", "division"],
    ),
    "fewer saves than none": (more("retention: {saves: -1}"), ["campaign.yaml:22", "retention.saves", "-1"]),
    "retention of something else": (more("retention: {logs: 1}"), ["campaign.yaml:22", "`logs`", "saves"]),
    "notify without a command": (more("notify: {on: [ended]}"), ["campaign.yaml:22", "notify", "command"]),
    "notify of no event": (
        more("notify: {command: [cat], on: [done]}"),
        ["campaign.yaml:22", "'done'", "stopped, ended"],
    ),
    "notify by an address that is none": (
        more("notify: {to: [nonsense://x]}"),
        ["campaign.yaml:22", "`notify.to`, nonsense://", "no address"] if HAS_APPRISE else ["vigil[notify]"],
    ),
    "notify in quiet hours that are none": (
        more("notify: {to: ['json://x'], quiet: night}"),
        ["campaign.yaml:22", "notify.quiet", "22:30-07:00"],
    ),
    "program to notify that is not there": (
        more("notify: {command: [./tell, now]}"),
        ["campaign.yaml:22", "./tell", "no program"],
    ),
    "export to a file": (more("export: {to: train.jsonl}"), ["campaign.yaml:22", "train.jsonl", "not a folder"]),
    "track that is not shipped": (in_file("grader: grade.py", "name: spreadsheet_claen"), ["campaign.yaml:5", "clean"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_exit_2_with_nothing_created(tmp_path: Path, name: str) -> None:
    breaks, words = BAD[name]
    file = make(tmp_path)
    breaks(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = vigil_says("run", "--check", file, "--home", tmp_path / "home")
    assert result.exit_code == 2, result.output
    sentences = [line for line in result.stderr.splitlines() if not line.startswith("Read runbooks/")]
    assert len(sentences) == 1, result.stderr
    for word in words:
        assert word in sentences[0], sentences[0]
    assert [path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in path.parts] == before


def test_a_good_campaign_passes_with_what_was_found_and_nothing_is_created(tmp_path: Path) -> None:
    file = make(tmp_path)
    result = vigil_says("run", "--check", file, "--home", tmp_path / "home")
    assert result.exit_code == 0, result.output
    assert "train.jsonl holds 12 rows in mlx-lm's chat form." in result.output
    assert "1,332,864 parameters" in result.output
    assert "The grader answers with exact, close." in result.output
    assert "is a valid campaign" in result.output
    assert not (tmp_path / "home").exists()


def test_an_adapter_that_fits_is_where_runs_go_on_from(tmp_path: Path) -> None:
    file = make(tmp_path)
    starts_from()(tmp_path)
    result = vigil_says("run", "--check", file)
    assert result.exit_code == 0, result.output
    assert "Runs go on from the adapter mine." in result.output


def test_a_command_and_a_folder_that_are_there_pass_and_neither_is_used(tmp_path: Path) -> None:
    file = make(tmp_path)
    more("notify: {command: [./tell.sh]}\nexport: {to: deep/out}\nretention: {saves: 0}")(tmp_path)
    (tmp_path / "tell.sh").write_text("#!/bin/sh\ntouch told\n")
    (tmp_path / "tell.sh").chmod(0o755)
    result = vigil_says("run", "--check", file)
    assert result.exit_code == 0, result.output
    assert "Notifications (question, stopped, ended, failed, crashed, paused): ./tell.sh" in result.output
    assert f"What is promoted is also written to {tmp_path / 'deep' / 'out'}." in result.output
    assert not (tmp_path / "told").exists()
    assert not (tmp_path / "deep").exists()


def test_an_exponent_without_a_point_passes(tmp_path: Path) -> None:
    file = make(tmp_path)
    assert "1e-5" in file.read_text()
    assert vigil_says("run", "--check", file).exit_code == 0


def test_a_hub_model_that_is_not_here_passes_a_check_and_says_so(tmp_path: Path) -> None:
    file = make(tmp_path)
    edit(file, str(BASE), "mlx-community/Not-On-This-Disk-4bit")
    result = vigil_says("run", "--check", file)
    assert result.exit_code == 0, result.output
    assert "Not checked offline: model mlx-community/Not-On-This-Disk-4bit" in result.output


def test_a_grader_that_fails_now_and_then_is_left_to_the_probes_in_a_real_run(tmp_path: Path) -> None:
    from agent.campaign import load_campaign
    from agent.checks import check_campaign

    file = make(tmp_path)
    (tmp_path / "grade.py").write_text("def grade(case, text):\n    return {'exact': float('nan')}\n")
    notes = check_campaign(load_campaign(file))
    assert any("failed on case 'c0'" in note for note in notes), notes


def test_a_data_set_in_completions_form_passes(tmp_path: Path) -> None:
    file = make(tmp_path)
    write_rows(tmp_path / "train.jsonl", [{"prompt": "a", "completion": "b"}])
    write_rows(tmp_path / "valid.jsonl", [{"prompt": "c", "completion": "d"}])
    result = vigil_says("run", "--check", file)
    assert result.exit_code == 0, result.output
    assert "completions form" in result.output


def test_an_unwritable_home_is_one_sentence(tmp_path: Path) -> None:
    file = make(tmp_path)
    (tmp_path / "home").write_text("a file where a folder should be")
    result = vigil_says("run", file, "--home", tmp_path / "home")
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert "home" in result.stderr
    assert (tmp_path / "home").read_text().startswith("a file")


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path, "promoted")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "quick" / "report.html"))

    monkeypatch.setattr("os.fsync", full)
    result = vigil_says("report", "--home", tmp_path)
    assert result.exit_code == 2, result.output
    assert "the disk is full" in result.stderr
    monkeypatch.undo()
    assert not list((tmp_path / "quick").glob("*report*"))
    assert vigil_says("status", "--home", tmp_path).exit_code == 0


def test_a_person_s_interrupt_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path, "promoted")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("agent.render.record.gather", interrupted)
    result = vigil_says("status", "--home", tmp_path)
    assert result.exit_code == 130
    assert result.stderr == "vigil: Interrupted; a campaign that is running goes on.\n"
    monkeypatch.setattr("agent.campaign.load_campaign", interrupted)
    result = vigil_says("run", tmp_path / "campaign.yaml")
    assert result.exit_code == 130
    assert "the same vigil run takes it up again" in result.stderr


def test_the_real_command_line_prints_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli", "run", "--check", str(tmp_path / "none.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("vigil: ")


def test_training_rows_are_what_mlx_lm_reads() -> None:
    assert training_rows(1)[0]["messages"][-1]["role"] == "assistant"
