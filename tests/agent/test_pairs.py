"""`vigil pairs`: answers of the campaign's own model become pairs, once, whatever is killed or repeated."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent.cli import vigil
from agent.pairs import Asked, make_pairs
from agent.render.watch import Terminal
from agent.session import WORKERS, Session
from agent.view import _used_gb
from state.clock import SystemClock
from state.errors import ConfigError, CorruptError, JobInterruptedError, NotFoundError
from state.files import read_json, read_jsonl
from state.lease import Lease
from state.paths import CampaignPaths
from state.records import Action
from tests.agent.answering import WORDS
from tests.agent.folders import BASE, edit, make, write_rows
from tests.agent.test_run_flow import until
from tests.faults.campaign import warm, world
from tools.data.cases import iter_pairs
from tools.jobs.backend import LocalBackend
from tools.jobs.locks import Turn, machine_paths

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a campaign with 16 training prompts, answered by the stand-in."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setitem(WORKERS, "evaluation", "tests.agent.answering")
    file = make(tmp_path)
    write_rows(
        tmp_path / "train.jsonl",
        [{"prompt": f"Say {word}, please.", "completion": f"{word}, as you say"} for word in WORDS],
    )
    return file


def pairs(file: Path, *options: str, out: str = "pairs.jsonl") -> Result:
    given = ["pairs", str(file), "--out", str(file.parent / out), "--home", str(file.parent / "home"), *options]
    return CliRunner().invoke(vigil, given)


def jobs(file: Path) -> list[Path]:
    return sorted((file.parent / "home" / "small" / "pairs").glob("answers-*"))


def starts(file: Path) -> int:
    return sum(len(read_jsonl(job / "out" / "starts.jsonl")) for job in jobs(file))


def test_right_answers_stand_against_wrong_ones_and_a_repeat_starts_nothing(campaign: Path) -> None:
    made = pairs(campaign)
    assert made.exit_code == 0, made.output
    assert "4 answers to each of 16 prompts of data.train" in made.output
    out = campaign.parent / "pairs.jsonl"
    assert f"16 pairs by exact in {out}." in made.output
    rows = list(iter_pairs(out))
    assert [row.sides[0] for row in rows] == [f"{word}, as you say" for word in WORDS]
    assert [row.messages[-1]["content"] for row in rows] == [f"Say {word}, please." for word in WORDS]
    before = out.read_bytes()
    again = pairs(campaign, "--json")
    assert json.loads(again.stdout)["pairs"] == 16
    assert (out.read_bytes(), starts(campaign)) == (before, 1)
    edit(campaign, "valid: valid.jsonl", "valid: valid.jsonl\n  pairs: pairs.jsonl\ninstruments: [sft, dpo]")
    checked = CliRunner().invoke(vigil, ["run", "--check", str(campaign)])
    assert "pairs.jsonl holds 16 preference pairs." in checked.output
    assert pairs(campaign).exit_code == 0, "naming the pairs changes nothing that they were made of"
    assert starts(campaign) == 1


def test_how_pairs_are_built_costs_no_new_answers_and_what_answers_depend_on_does(campaign: Path) -> None:
    assert pairs(campaign).exit_code == 0
    by_reference = pairs(campaign, "--source", "reference", "--metric", "exact", out="others.jsonl")
    assert "16 pairs by exact" in by_reference.output
    assert starts(campaign) == 1
    with (campaign.parent / "grade.py").open("a") as stream:
        stream.write("\n# stricter\n")
    refused = pairs(campaign)
    assert refused.exit_code == 2
    assert "is there already" in refused.stderr
    assert pairs(campaign, "--force").exit_code == 0
    assert pairs(campaign, "--samples", "2", out="two.jsonl").exit_code == 0
    edit(campaign, "iters: 20", "iters: 20\nseed: 3")
    assert pairs(campaign, "--samples", "2", out="three.jsonl").exit_code == 0
    assert (len(jobs(campaign)), starts(campaign)) == (4, 4)


def test_fewer_prompts_are_drawn_by_the_seed_and_more_of_them_keep_those(campaign: Path) -> None:
    drawn = []
    for number in ("4", "9"):
        assert pairs(campaign, "--cases", number, out=number).exit_code == 0
        drawn.append([json.loads(line)["id"] for line in (campaign.parent / number).read_text().splitlines()])
    few, more = drawn
    assert (len(few), len(more)) == (4, 9)
    assert set(few) < set(more)
    assert more == sorted(more, key=lambda name: int(name.removeprefix("line-"))), "in file order"
    assert few != [f"line-{number}" for number in range(1, 5)]


def test_prompts_of_rollouts_come_before_training_rows(campaign: Path) -> None:
    cases = [{"id": word, "prompt": f"Tell {word} aloud.", "reference": "x", "kind": "odd"} for word in WORDS]
    write_rows(campaign.parent / "rollouts.jsonl", cases)
    edit(campaign, "valid: valid.jsonl", "valid: valid.jsonl\n  rollouts: rollouts.jsonl")
    made = pairs(campaign)
    assert "16 prompts of data.rollouts" in made.output
    (prompts,) = jobs(campaign)[0].parent.glob("*.jsonl")
    assert read_jsonl(prompts) == cases, "the grader sees a case whole"


def test_two_at_once_start_one_job_and_write_one_file(campaign: Path) -> None:
    home, asked = campaign.parent / "home", Asked(campaign.parent / "pairs.jsonl")
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(make_pairs, campaign, home, asked) for _ in range(2)]
        assert [each.result()["pairs"] for each in made] == [16, 16]
    assert (len(jobs(campaign)), starts(campaign)) == (1, 1)


def test_a_job_whose_supervisor_and_worker_were_killed_is_launched_again(
    campaign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSWERING", "dies")
    assert pairs(campaign).exit_code == 0
    assert starts(campaign) == 2


def test_a_job_that_failed_is_code_4_and_goes_on_once_it_is_mended(
    campaign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSWERING", "fails")
    failed = pairs(campaign)
    assert failed.exit_code == 4
    first, *rest = failed.stderr.splitlines()
    assert "The answers failed in" in first
    assert "made no progress; the same command goes on from those that are there." in first
    assert rest == ["Read runbooks/stuck_job.md."]
    assert not (campaign.parent / "pairs.jsonl").exists()
    monkeypatch.delenv("ANSWERING")
    assert pairs(campaign).exit_code == 0
    assert len(jobs(campaign)) == 1
    assert (jobs(campaign)[0] / "exit.1.json").is_file()


def test_answers_wait_for_their_turn_and_can_be_stopped_and_taken_up(campaign: Path) -> None:
    said: list[str] = []
    turn = Turn.take(machine_paths(), {"campaign": "other", "kind": "training"})
    assert turn is not None
    home, asked = campaign.parent / "home", Asked(campaign.parent / "pairs.jsonl")
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(make_pairs, campaign, home, asked, terminal=Terminal(said.append))
        until(lambda: any("training of other has the accelerator" in sentence for sentence in said))
        LocalBackend().stop(jobs(campaign)[0], by="ann", reason="not now")
        with pytest.raises(JobInterruptedError, match=r"were stopped in .*: not now; the same command"):
            made.result()
        again = pool.submit(make_pairs, campaign, home, asked, terminal=Terminal(said.append))
        until(lambda: sum("has the accelerator" in sentence for sentence in said) == 2)
        turn.release()
        assert again.result()["pairs"] == 16
    assert "They go on.\n" in said[-2:]


def test_pairs_told_apart_beside_the_point_are_code_3_and_no_file(
    campaign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSWERING", "crlf")
    stopped = pairs(campaign)
    assert stopped.exit_code == 3
    assert "The built pairs teach the difference that is meant. One surface feature" in stopped.stderr
    assert stopped.stderr.splitlines()[1:] == ["Read runbooks/hard_stops.md."]
    assert not (campaign.parent / "pairs.jsonl").exists()


def test_answers_missing_from_a_finished_job_are_code_5(campaign: Path) -> None:
    assert pairs(campaign).exit_code == 0
    (jobs(campaign)[0] / "out" / "cases.jsonl").write_text("")
    lost = pairs(campaign)
    assert lost.exit_code == 5
    assert "finished with 64 answers, and 0 are there; delete the folder and repeat." in lost.stderr


def test_a_grader_that_is_changed_while_the_answers_wait_is_code_5_and_makes_no_pairs(campaign: Path) -> None:
    said: list[str] = []
    turn = Turn.take(machine_paths(), {"campaign": "other", "kind": "training"})
    assert turn is not None
    out = campaign.parent / "pairs.jsonl"
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(make_pairs, campaign, campaign.parent / "home", Asked(out), terminal=Terminal(said.append))
        until(lambda: any("has the accelerator" in sentence for sentence in said))
        with (campaign.parent / "grade.py").open("a") as stream:
            stream.write("\n# stricter\n")
        turn.release()
        with pytest.raises(CorruptError, match="under another grader, changed meanwhile; delete the folder"):
            made.result()
    assert not out.exists()


def in_the_cases(folder: Path) -> None:
    write_rows(folder / "cases.jsonl", [{"id": f"c{i}", "prompt": f"Say {w}, please."} for i, w in enumerate(WORDS)])


def two_metrics(folder: Path) -> None:
    edit(folder / "campaign.yaml", "recipe:", "    - {metric: words.close, min: 0.5}\nrecipe:")


def less_of_close(folder: Path) -> None:
    edit(folder / "campaign.yaml", "recipe:", "    - {metric: words.close, max: 0.5}\nrecipe:")


def private(folder: Path) -> None:
    edit(folder / "campaign.yaml", "hours: 2", "hours: 2\nprivacy: redact")


def no_grades(folder: Path) -> None:
    text = "def grade(case, text):\n    return {'exact': float(text == case['reference']), 'n': len(case['prompt'])}\n"
    (folder / "grade.py").write_text(text)


def nothing(_folder: Path) -> None:
    """Leave the campaign as it is."""


REFUSED: dict[str, tuple[Callable[[Path], None], list[str], list[str]]] = {
    "unknown metric": (nothing, ["--metric", "exakt"], ["no metric 'exakt'", "did you mean exact?"]),
    "several metrics": (two_metrics, [], ["more of exact, close", "--metric"]),
    "a metric to have less of": (less_of_close, ["--metric", "close"], ["less of close", "choose one of exact."]),
    "a prompt in an evaluation split": (
        in_the_cases, [], ["splits.words.file", "for example splits.words.file:c0 in train:line-1", "data.train"],
    ),
    "privacy": (private, [], ["campaign.yaml:22", "`privacy: redact`", "pairs are text"]),
    "a file that is there": (nothing, ["--out", "{folder}/grade.py"], ["grade.py is there already", "--force"]),
    "a folder that cannot be": (nothing, ["--out", "{folder}/grade.py/p"], ["cannot be written"]),
    "one answer": (nothing, ["--samples", "1"], ["--samples 2 or more"]),
    "no randomness": (nothing, ["--temperature", "0"], ["At --temperature 0"]),
    "no number": (nothing, ["--temperature", "nan"], ["finite"]),
    "a run before there is a campaign": (nothing, ["--run", "R2"], ["no campaign small"]),
    "a grader that cannot grade the prompts": (
        no_grades, [], ["failed on the training prompt 'line-1'", "KeyError"],
    ),
    "no campaign file": (lambda folder: (folder / "campaign.yaml").unlink(), [], ["no file"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_one_sentence_and_code_2_with_nothing_generated(campaign: Path, name: str) -> None:
    breaks, options, words = REFUSED[name]
    breaks(campaign.parent)
    graded = (campaign.parent / "grade.py").read_bytes()
    refused = pairs(campaign, *(option.format(folder=campaign.parent) for option in options))
    assert refused.exit_code == 2, refused.output
    (sentence,) = [line for line in refused.stderr.splitlines() if not line.startswith("Read runbooks/")]
    for word in words:
        assert word in sentence
    assert jobs(campaign) == []
    assert (campaign.parent / "grade.py").read_bytes() == graded
    assert not (campaign.parent / "pairs.jsonl").exists()


def test_a_reference_is_worth_what_the_grader_says_of_references(campaign: Path) -> None:
    (campaign.parent / "grade.py").write_text("def grade(case, text):\n    return {'exact': 0.05}\n")
    close = pairs(campaign, "--source", "reference")
    assert close.exit_code == 2
    assert "No pair could be built (16 too close)" in close.stderr
    write_rows(campaign.parent / "rollouts.jsonl", [{"id": w, "prompt": f"Tell {w} aloud."} for w in WORDS])
    edit(campaign, "valid: valid.jsonl", "valid: valid.jsonl\n  rollouts: rollouts.jsonl")
    without = pairs(campaign, "--source", "reference")
    assert without.exit_code == 2
    assert "No prompt has a reference answer with a score of exact" in without.stderr


def test_dpo_without_pairs_is_told_of_the_command_and_the_command_does_not_need_them(campaign: Path) -> None:
    edit(campaign, "recipe:", "instruments: [sft, dpo]\nrecipe:")
    refused = CliRunner().invoke(vigil, ["run", "--check", str(campaign)])
    assert refused.exit_code == 2
    assert "`data.pairs` names no file of pairs; `vigil pairs FILE --out PAIRS` builds one." in refused.stderr
    edit(campaign, "valid: valid.jsonl", "valid: valid.jsonl\n  pairs: pairs.jsonl")
    missing = CliRunner().invoke(vigil, ["run", "--check", str(campaign)])
    assert "not a file; correct the path, or build it with `vigil pairs`." in missing.stderr
    assert pairs(campaign).exit_code == 0
    assert CliRunner().invoke(vigil, ["run", "--check", str(campaign)]).exit_code == 0


def test_an_interrupt_says_that_the_job_goes_on(campaign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("agent.pairs.make_pairs", interrupted)
    ended = pairs(campaign)
    assert ended.exit_code == 130
    assert "the same vigil pairs takes it up again" in ended.stderr


def test_a_run_answers_with_its_own_adapter_while_the_campaign_is_held_and_its_record_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, home = world.write_campaign(tmp_path / "files", budget={"runs": 1}), tmp_path / "home"
    paths = CampaignPaths(home, "storm")
    # A campaign may begin after the first pairs were made.
    paths.pairs.mkdir(parents=True)
    assert warm.run(file, home, wait=False) in {0, 1}
    record = paths.db.read_bytes()
    run = world.rows(home)["runs"][-1]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    asked = Asked(tmp_path / "pairs.jsonl", run=run["id"].lower(), samples=2)
    # What the stand-in scores is another metric than this gate's: the answers count here.
    workers: Any = {"evaluation": "tests.agent.answering"}
    with Lease.acquire(paths, SystemClock()), pytest.raises(ConfigError, match="No pair could be built"):
        make_pairs(file, home, asked, workers=workers)
    (job,) = paths.pairs.glob("answers-*")
    given = read_json(job / "job.json")["input"]  # type: ignore[index]
    assert given["adapter"] == str(paths.artifact(run["adapter"]))
    assert (given["model"], given["temperature"]) == (str(file.parent / "base"), 1.0)
    assert paths.db.read_bytes() == record
    with pytest.raises(NotFoundError, match=f"no run R99 with an adapter; there are: .*{run['id']}"):
        make_pairs(file, home, Asked(tmp_path / "pairs.jsonl", run="R99"), workers=workers)
    (paths.artifact(run["adapter"]) / "adapters.safetensors").write_bytes(b"other")
    with pytest.raises(CorruptError, match="is not the adapter of"):
        make_pairs(file, home, asked, workers=workers)


def test_files_that_come_and_go_do_not_end_the_agent_that_counts_its_folder(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"12345")
    root = SimpleNamespace(rglob=lambda _: [tmp_path / "gone", tmp_path / "there", tmp_path])
    paths = SimpleNamespace(root=root, rows=tmp_path / "rows", trackers=tmp_path / "trackers")
    assert Session.used_gb.fget(SimpleNamespace(paths=paths)) == 5e-9  # type: ignore[attr-defined]


def test_the_folder_is_walked_only_where_a_limit_asks_and_once_for_each_state_of_the_actions() -> None:
    walks: list[float] = []

    class Counted:
        measured_use = None
        goal = SimpleNamespace(budget=SimpleNamespace(disk_gb=None))

        @property
        def used_gb(self) -> float:
            walks.append(1.5)
            return walks[-1]

    session: Any = Counted()
    begun, done = ([Action(key="k", kind="train", decision="D1", state=state)] for state in ("intent", "done"))
    assert _used_gb(session, begun) == 0.0
    session.goal.budget.disk_gb = 2.0
    found = [_used_gb(session, actions) for actions in (begun, begun, done, done)]
    assert (found, len(walks)) == ([1.5] * 4, 2)


# -- with the real worker ---------------------------------------------------------------------------------------------

REAL = """campaign: small
model: {{path: {base}, dtype: float32}}
track: {{grader: grade.py}}
data: {{train: train.jsonl}}
evaluation:
  max_tokens: 96
  batch_size: 2
  splits: {{tables: {{file: cases.jsonl}}}}
gate: {{ledger: example, conditions: [{{metric: tables.lines, min: 0.9, test: plain, reason: few cases}}]}}
recipe: {{iters: 5, max_seq_length: 512}}
"""
LINES = """
def grade(case, text):
    gold, said = case["reference"].split("\\n"), text.split("\\n")
    return {"lines": sum(a == b for a, b in zip(gold, said)) / max(len(gold), len(said))}
"""


def tables(folder: Path) -> Path:
    """Write a campaign on the shipped base, with its shortest tables."""
    folder.mkdir()
    data = ROOT / "runbooks" / "quickstart" / "data"
    rows = sorted(read_jsonl(data / "train.jsonl"), key=lambda row: len(row["messages"][-1]["content"]))
    write_rows(folder / "train.jsonl", rows[:6])
    write_rows(folder / "cases.jsonl", read_jsonl(data / "regular_selection.jsonl")[:8])
    (folder / "grade.py").write_text(LINES)
    (folder / "campaign.yaml").write_text(REAL.format(base=BASE))
    return folder / "campaign.yaml"


def started(file: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "agent.cli", "pairs", str(file), "--home", str(file.parent / "home")]
    return subprocess.Popen(
        [*command, "--out", str(file.parent / "pairs.jsonl"), "--temperature", "1.2", "--samples", "3"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def rows_so_far(file: Path) -> int:
    return sum(len(read_jsonl(job / "out" / "cases.jsonl")) for job in jobs(file))


@pytest.mark.mlx
@pytest.mark.timeout(300)
def test_the_shipped_base_makes_pairs_that_a_campaign_takes_the_same_ones_after_a_kill(tmp_path: Path) -> None:
    whole, torn = tables(tmp_path / "whole"), tables(tmp_path / "torn")
    first = started(torn)
    until(lambda: rows_so_far(torn) > 0)
    first.kill()
    first.communicate()
    (job,) = jobs(torn)
    for name in ("start.json", "worker.json"):
        os.kill((read_json(job / name) or {})["pid"], signal.SIGKILL)
    kept = rows_so_far(torn)
    assert 0 < kept < 18, "killed in the middle"
    assert not (torn.parent / "pairs.jsonl").exists()
    time.sleep(0.1)
    for file in (torn, whole):
        process = started(file)
        said = process.communicate()[0]
        assert process.returncode == 0, said
    made = (whole.parent / "pairs.jsonl").read_text()
    assert made == (torn.parent / "pairs.jsonl").read_text()
    result = read_json(job / "result.json") or {}
    assert result["cases"] == 18
    found = list(iter_pairs(whole.parent / "pairs.jsonl"))
    assert found
    edit(whole, "train: train.jsonl", "train: train.jsonl, pairs: pairs.jsonl")
    edit(whole, "recipe:", "instruments: [sft, dpo]\nrecipe:")
    checked = CliRunner().invoke(vigil, ["run", "--check", str(whole)])
    assert checked.exit_code == 0, checked.output
    assert f"pairs.jsonl holds {len(found)} preference pairs." in checked.output
