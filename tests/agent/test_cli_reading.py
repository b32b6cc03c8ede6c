import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from ruamel.yaml import YAML

from agent.cli import vigil
from agent.render.card import card_of
from agent.render.record import gather
from agent.render.summary import MAX_LINES
from agent.render.words import WIDTH
from state.clock import FakeClock
from state.lease import Lease
from state.paths import CampaignPaths
from tests.agent.recorded import HOSTILE, begin, begin_training, opened, record

COMMANDS = ("status", "inbox", "why", "beliefs", "jobs", "runs", "report", "export", "watch")
"""Commands that only read."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    record(tmp_path, "promoted")
    return tmp_path


def says(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(vigil, [*arguments, "--home", str(home)])


def read(home: Path, *arguments: str) -> Any:
    result = says(home, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("state", ["running", "waiting", "promoted", "not_promoted", "halted", "stopped", "failed"])
def test_status_fits_one_screen_in_every_state(tmp_path: Path, state: Any) -> None:
    record(tmp_path, state)
    lines = says(tmp_path, "status").stdout.splitlines()
    assert 10 < len(lines) <= MAX_LINES
    assert max(len(line) for line in lines if "vigil " not in line) <= WIDTH
    assert lines[-1].endswith(f" --home {tmp_path}"), "a command is never cut"


def test_jobs_say_what_one_cost_before_its_first_step(home: Path) -> None:
    first, second, *_ = read(home, "jobs")
    assert (first["startup_s"], second["startup_s"]) == (41.2, None), "as the record has it"
    job = first
    assert "41 s" in next(line for line in says(home, "jobs").stdout.splitlines() if line.startswith(job["id"]))


def test_status_says_gate_runs_stops_night_and_what_to_type(home: Path) -> None:
    text = " ".join(says(home, "status").stdout.split())
    for words in (
        "quick ended: promoted",
        "stress.rows_kept at least 0.8: 0.911 (96.7 % interval 0.822 to 0.929, 40 cases)",
        "Best run R3, passed (A): stress.rows_kept 0.608 -> 0.911 (+0.303), 40 cases improved, 0 worse",
        "R2 at step 100 of 400 by guard: diverged; about 6 min saved",
        "slept 61 s; peak memory 1.25 GB, no swap; 1 restart of jobs",
        "The data are what you meant",
        "answered yes by policy (approvals.promotion: auto in the campaign file)",
        "mlx_lm.generate --model base",
    ):
        assert words in text, text


def test_a_waiting_campaign_says_who_is_asked_and_what_to_type(tmp_path: Path) -> None:
    record(tmp_path, "waiting")
    text = " ".join(says(tmp_path, "status").stdout.split())
    assert "Q1 (promotion): Promote R3?" in text
    assert "means no" in text
    assert "yes: vigil approve quick:Q1" in text.replace(".venv/bin/", "")
    assert "no: vigil reject quick:Q1 --reason WHY" in text.replace(".venv/bin/", "")
    assert "Plan C1: Judge R1 on the selection cases, when its training ends; cancelled by an edit of the gate" in text


def test_a_job_has_id_kind_state_and_exit(home: Path) -> None:
    jobs = read(home, "jobs")
    assert [(job["id"], job["kind"], job["state"]) for job in jobs] == [
        ("J1", "training", "finished"),
        ("J2", "training", "stopped"),
        ("J3", "training", "finished"),
    ]
    assert jobs[1]["exit"]["verdict"] == "diverged"


def test_a_decision_has_rule_bucket_action_and_premises(home: Path) -> None:
    row = read(home, "why", "D4")
    assert (row["id"], row["rule"], row["bucket"], row["action"]) == ("D4", "bucket.D", "D", "judge")
    assert row["premises"] == [{"belief": "B2", "tag": "confirmed", "statement": "base has 0.610.", "subject": ""}]
    assert [row["id"] for row in read(home, "why")] == ["D1", "D2", "D3", "D4", "D5"]


def test_a_belief_has_subject_claim_value_tag_status_and_evidence(home: Path) -> None:
    row = read(home, "beliefs", "--subject", "score:")[0]
    assert (row["id"], row["subject"], row["claim"]) == ("B2", "score:base.stress.selection", "means")
    assert row["value"]["means"] == {"rows_kept": 0.61}
    assert (row["tag"], row["status"]) == ("confirmed", "fresh")
    assert row["evidence"][0]["kind"] == "probe"


def test_beliefs_can_be_asked_for_by_what_is_wrong_with_them(home: Path) -> None:
    assert [row["id"] for row in read(home, "beliefs", "--stale")] == ["B4", "B5"]
    assert [row["id"] for row in read(home, "beliefs", "--assumed")] == ["B3"]
    assert says(home, "beliefs", "--subject", "nothing:").stdout == "No such belief.\n"


def test_runs_inbox_and_status_are_json_too(home: Path) -> None:
    assert [row["bucket"] for row in read(home, "runs")] == ["D", None, "A"]
    assert read(home, "inbox")[0]["answered_by"] == "policy"
    status = read(home, "status")
    assert status["campaign"]["state"] == "promoted"
    assert status["best"]["target"]["rescued"] == 40
    assert status["night"]["restarts"] == 1
    assert len(status["summary"]) <= MAX_LINES


def test_why_tells_premises_alternatives_prediction_verdict_question_and_commitment(home: Path) -> None:
    planned = says(home, "why", "R2", "--all").stdout
    for words in (
        "B2 [confirmed]",
        "conclude: three runs are left",
        "stress.rows_kept from 0.700 to 0.900",
        "C2 (open)",
    ):
        assert words in planned, planned
    judged = says(home, "why", "quick:D5", "--all").stdout
    for words in ("passed (A)", "cases improved", "Q1 (promotion) was answered yes by policy"):
        assert words in judged, judged


def test_why_is_ten_lines_with_verdict_recipe_reason_and_where_the_rest_is(home: Path) -> None:
    for row in ("D1", "D2", "D3", "D4", "D5", "R3", "J2", "Q1", "C2"):
        lines = says(home, "why", row).stdout.splitlines()
        assert len(lines) <= 10, (row, lines)
        assert lines[-1].startswith("All of it: ")
        assert f"why quick:{lines[0].partition(',')[0]} --all" in lines[-1]
    judged = says(home, "why", "R1").stdout
    for words in ("Trained SFT from", "Recipe iters 200", "because B"):
        assert words in judged, judged
    assert "Q1 (promotion) was answered" in says(home, "why", "R3").stdout


def test_the_cases_of_a_run_are_shown_with_texts_by_what_became_of_them(home: Path) -> None:
    told = says(home, "cases", "R3", "--fixed", "--limit", "2").stdout
    assert "R3, stress.rows_kept: 40 confirmation cases; " in told
    assert told.count(", fixed") == 2
    assert "more: --limit 0 shows all." in told
    assert "base" in told
    every = read(home, "cases", "quick:R3", "--limit", "0")
    assert len(every["rows"]) == every["counts"]["all"] == every["n"] == 40
    for wanted in ("fixed", "regressed", "wrong", "cut"):
        assert len(read(home, "cases", f"--{wanted}", "--limit", "0")["rows"]) == every["counts"][wanted]
    assert re.search(r"no judged run R9; \S*vigil runs quick --home \S+ shows those", says(home, "cases", "R9").stderr)
    with opened(home / "new", FakeClock()) as store:
        begin(store)
    assert says(home / "new", "cases").stdout == "No run is judged yet.\n"


def test_campaigns_are_listed_with_what_waits_for_a_person(home: Path) -> None:
    record(home, "waiting", "slow")
    (home / "lost").mkdir()
    (home / "lost" / "state.db").write_bytes(b"no store" * 600)
    rows = {row["name"]: row for row in read(home, "list")}
    assert (rows["quick"]["state"], rows["quick"]["waiting"]) == ("promoted", 0)
    assert (rows["slow"]["state"], rows["slow"]["waiting"]) == ("waiting", 1)
    assert rows["slow"]["best"] == "R3 passed (A)"
    assert rows["lost"]["state"] == "not readable"
    assert "R3 passed (A)" in says(home, "list").stdout
    assert "holds no campaign" in says(home / "nowhere", "list").stdout


def test_why_prefers_the_verdict_on_a_run(home: Path) -> None:
    assert read(home, "why", "r1")["id"] == "D4"


BY_ID = [
    ("runs", "R3", "Recipe      iters 300"),
    ("why", "r1", "Recipe iters 200"),
    ("jobs", "j2", "J2, stopped: Training R2"),
    ("why", "J2", "D2, "),
    ("beliefs", "B4", "B4    [inferred, stale] harness:stress ceiling: A <b>stale</b> ceiling."),
    ("why", "B4", "probe model.coherent: Headers of all weight files were read."),
    ("why", "Q1", "Q1 (promotion) was answered yes by policy"),
    ("inbox", "Q1", "Q1 promotion: yes by policy"),
    ("why", "C2", "C2 (open)"),
    ("status", "C1", "C1 (open): Judge R1"),
    ("jobs", "R3", "R3, judged, passed (A)"),
]


def test_the_id_of_a_row_is_understood_where_a_campaign_may_be_left_out(home: Path) -> None:
    for command, row, words in BY_ID:
        for named in (row, f"quick:{row}"):
            result = says(home, command, named)
            assert result.exit_code == 0, result.output
            assert words in result.stdout, (command, named, result.stdout)


def test_rows_asked_for_by_id_are_json_too(home: Path) -> None:
    assert [row["id"] for row in read(home, "runs", "R3")] == ["R3"]
    assert [row["id"] for row in read(home, "jobs", "J1")] == ["J1"]
    assert read(home, "status", "Q1")["kind"] == "promotion"
    assert [row["status"] for row in read(home, "beliefs", "B5")] == ["refuted"]
    assert read(home, "why", "Q1")["id"] == "D5"


def test_a_run_is_listed_with_its_score_its_interval_and_on_which_cases(home: Path) -> None:
    lines = says(home, "runs").stdout.splitlines()
    assert lines[0] == "Scores: stress.rows_kept, with the 96.7 % interval."
    shown = re.compile(r"^R3  passed \(A\) +0\.911 \(0\.822 to 0\.929\)  40 confirmation  300 ")
    assert any(map(shown.match, lines)), lines
    rows = read(home, "runs")
    assert rows[1]["score"] is None
    found = rows[2]["score"]
    assert (found["metric"], found["n"], found["use"]) == ("stress.rows_kept", 40, "confirmation")
    assert found["low"] < found["value"] < found["high"]
    assert "predicted" in rows[2], "what JSON had stays"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("why", "D99"), "no decision 'D99'; the last is D5"),
        (("status", "other"), "no campaign 'other'; here are quick"),
        (("why", "other:D1"), "no campaign 'other'"),
        (("jobs", "J9"), "quick has no J9; the last is J3"),
        (("report", "R1"), "R1 names a run of quick, and a campaign is meant here"),
        (("stop", "quick:Q1"), "quick:Q1 names a question of quick"),
        (("beliefs", "B99"), "quick has no B99"),
        (("status", "none.yaml"), "none.yaml cannot be read"),
    ],
)
def test_what_is_not_there_is_one_sentence_and_exit_2(home: Path, arguments: tuple[str, ...], words: str) -> None:
    result = says(home, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_empty_home_says_how_to_start(tmp_path: Path) -> None:
    result = says(tmp_path / "nothing", "status")
    assert result.exit_code == 2
    assert "vigil run FILE" in result.stderr
    assert not (tmp_path / "nothing").exists()


def test_of_several_campaigns_the_running_one_else_the_newest_is_meant_and_said(home: Path) -> None:
    record(home, "stopped", "slow")
    os.utime(home / "quick" / "state.db", (1.0, 1.0))
    taken = says(home, "status")
    assert taken.stdout.startswith("slow")
    assert taken.stderr == "vigil: slow, the newest; the others here: quick.\n"
    assert read(home, "status")["campaign"]["name"] == "slow"
    assert says(home, "status", "--json").stderr == ""
    with Lease.acquire(CampaignPaths(home, "quick"), FakeClock()):
        taken = says(home, "status")
        assert taken.stdout.startswith("quick")
        assert taken.stderr == "vigil: quick, the one that runs; the others here: slow.\n"
    # What is written last stands in the log beside the store until it is taken over.
    (home / "quick" / "state.db-wal").touch()
    os.utime(home / "slow" / "state.db", (2.0, 2.0))
    assert says(home, "status").stdout.startswith("quick")


def test_one_campaign_needs_no_word_on_which_it_is(home: Path) -> None:
    assert says(home, "status").stderr == ""


def test_a_campaign_may_be_named_by_its_file(home: Path) -> None:
    record(home, "running", "slow")
    assert says(home, "status", "slow").stdout.startswith("slow")
    file = home / "any.yaml"
    file.write_text("# mine\ncampaign: 'slow'  # the name\n")
    assert says(home, "status", str(file)).stdout.startswith("slow")
    for name, text in (
        ("any.json", '{\n "campaign": "slow", "budget": {"runs": 1}\n}'),
        ("flow.yml", "{campaign: slow}"),
    ):
        (home / name).write_text(text)
        assert says(home, "status", str(home / name)).stdout.startswith("slow")
    (home / "any.json").write_text('{"campaign": ["slow"]}')
    assert "has no line `campaign: NAME`" in says(home, "status", str(home / "any.json")).stderr


def test_a_damaged_store_is_one_sentence_and_exit_5(home: Path) -> None:
    (home / "quick" / "state.db").write_bytes(b"not a database, at all" * 400)
    result = says(home, "status")
    assert result.exit_code == 5
    assert "Traceback" not in result.output


def test_export_holds_every_table_one_row_per_line(home: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in says(home, "export").stdout.splitlines()]
    assert lines[0]["campaign"] == "quick"
    assert {"campaign", "goal", "belief", "run", "decision", "job", "approval", "measurement"} <= {
        row["table"] for row in lines[1:]
    }
    assert says(home, "export", "--out", str(tmp_path / "all.jsonl")).exit_code == 0
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) == len(lines)


def test_a_pipe_that_closes_early_is_no_error(home: Path) -> None:
    command = [sys.executable, "-m", "agent.cli", "export", "--home", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        assert "Traceback" not in child.stderr.read()


def test_a_running_job_s_own_files_are_newer_than_its_row(tmp_path: Path) -> None:
    with opened(tmp_path, FakeClock()) as store:
        begin_training(store)
    folder = tmp_path / "quick" / "jobs" / "k"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 50, "train_loss": 1.25, "tokens_per_s": 1400}\n{"step": 60, "val')
    assert read(tmp_path, "jobs")[0]["step"] == 50
    assert "step 50 of 100, 50 %" in says(tmp_path, "status").stdout
    line = says(tmp_path, "watch", "--once").stdout
    assert "run 0 of at most 4" in line
    assert "loss 1.250" in line
    (folder / "exit.json").write_text('{"state": "finished", "code": 0}')
    assert read(tmp_path, "jobs")[0]["state"] == "finished"


def test_watch_ends_when_nobody_works(home: Path) -> None:
    result = says(home, "watch")
    assert result.exit_code == 0
    assert "quick promoted, run 3 of at most 4" in result.stdout


def test_the_report_is_one_file_without_addresses_scripts_or_unescaped_text(home: Path) -> None:
    result = says(home, "report")
    page = Path(result.stdout.strip()).read_text()
    assert "http" not in page.replace("http-equiv", "").replace("https://elsewhere.example", "")
    for opening in ("<script", "<link", "<img", "<iframe", "@import", "url("):
        assert opening not in page
    assert HOSTILE.replace("<", "&lt;").split(" ")[0] in page
    assert page.count("<svg") == 3, "scores of all runs, training losses, validation losses"
    assert "<polyline" in page
    assert len(page.encode()) < 300_000
    assert "A &lt;b&gt;stale&lt;/b&gt; ceiling." in page


def test_the_report_tells_gate_decisions_flips_beliefs_and_answers(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere" / "r.html"
    assert says(home, "report", "--out", str(out)).exit_code == 0
    page = out.read_text()
    for words in (
        "40 improved, 0 worse",
        "stress-3:",
        "three runs are left",
        "approvals.promotion: auto",
        "Q1 (promotion)",
        "Promoted: R3, passed (A), takes stress.rows_kept from 0.608 to 0.911 (",
        "40 cases, held out); 2 of 4 gate conditions hold, not regular.rows_kept.parent&gt;=-0.02,",
        "R1, stress.rows_kept on 40 selection cases",
        "None regressed in stress.rows_kept.",
        "Another seed: this is one training, with seed 0.",
        "Assumed, not verified: The data are what you meant.",
        ">regressed</text>",
    ):
        assert words in page, words
    assert not (home / "quick" / "report.html").exists()


def test_a_report_shows_the_cases_that_got_worse_with_their_texts(tmp_path: Path) -> None:
    record(tmp_path, "not_promoted", gate={"conditions": [{"metric": "regular.rows_kept", "min": 0.999}]})
    page = Path(says(tmp_path, "report").stdout.strip()).read_text()
    worse = re.findall(r'<b class="regressed">regressed</b> (regular-\d+): ([\d.]+) → ([\d.]+)', page)
    assert 0 < len(worse) <= 6, "of each metric"
    assert all(float(after) < float(before) for _, before, after in worse)
    assert f"{worse[0][0]} by </pre>" not in page
    assert "<ins>" in page
    assert "Not promoted: R3, passed (A), takes regular.rows_kept" in page
    assert ", not regular.rows_kept" in page.replace("_min_0.999", "")


def test_a_model_card_has_the_hub_s_front_matter_and_says_what_was_not_measured(home: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: mit\nbase_model: someone/small-3b\n---\n# Small\n")
    (home / "quick" / "source.json").write_text(json.dumps({"file": str(tmp_path / "c.yaml")}))
    assert says(home, "report", "--card").stdout.strip() == str(home / "quick" / "README.md")
    _, front, body = (home / "quick" / "README.md").read_text().split("---\n", 2)
    told = YAML(typ="safe").load(front)
    assert (told["base_model"], told["license"], told["library_name"]) == ("someone/small-3b", "mit", "mlx")
    results = told["model-index"][0]["results"]
    assert {each["metrics"][0]["type"] for each in results} == set(told["metrics"]) > {"stress.rows_kept"}
    assert all("interval" in each["metrics"][0]["name"] for each in results)
    for words in ("- holds: stress.rows_kept at least 0.8: 0.9", "learning_rate: 0.0001", "hash d", "SFT, lora"):
        assert words in body, words
    assert "promoted" not in body.partition("## What")[0].replace("promoted, not significant", "")
    other = read(home, "report", "--card", "--run", "r1")
    assert (other["run"], other["is_promoted"], other["use"]) == ("R1", False, "selection")
    assert any("flatter it" in each for each in other["not_measured"])
    refused = says(home, "report", "--run", "R2")
    assert (refused.exit_code, "judged are: R1, R3" in refused.stderr) == (2, True)
    view = gather(CampaignPaths(home, "quick"))
    view["runs"] = [{**row, "seed": 7} for row in view["runs"]]
    assert "Another seed: this is one training, with seed 7." in card_of(view)["not_measured"]


def test_the_text_report_holds_the_summary_and_the_flips(home: Path) -> None:
    text = says(home, "report", "--text").stdout
    assert text.startswith("quick ended: promoted")
    assert "improved stress-0" in text
    assert read(home, "report")["flips"][1]["rescued"] == 40


def test_the_page_holds_each_training_and_each_verdict_with_its_conditions(home: Path) -> None:
    page = says(home, "report", "--page").stdout
    assert page.startswith("quick ended: promoted")
    assert len(page.splitlines()) < 120
    found = read(home, "report")
    for row in found["decisions"]:
        if row["action"] == "train" or row["bucket"]:
            assert f"\n{row['id']} " in page
    told = page.partition("Trainings and verdicts")[2]
    assert "      holds  " in told
    assert "cases)" in told


def test_a_private_campaign_s_report_shows_scores_and_no_texts(tmp_path: Path) -> None:
    record(tmp_path, "promoted", privacy="redact")
    page = Path(says(tmp_path, "report").stdout.strip()).read_text()
    assert "elsewhere.example" not in page
    assert "keeps them private" in page
    assert "stress-3:" in page


def test_a_campaign_that_has_only_begun_can_be_read_by_every_command(tmp_path: Path) -> None:
    with opened(tmp_path, FakeClock()) as store:
        begin(store)
    for command in COMMANDS:
        result = says(tmp_path, command)
        assert result.exit_code == 0, (command, result.output)
    assert "stress.rows_kept at least 0.8; not measured yet." in says(tmp_path, "status").stdout


def test_every_list_is_readable_text(home: Path) -> None:
    for command, words in {
        "jobs": "J2  training  R2   stopped   100/400",
        "runs": "regressed (D)",
        "inbox": "Q1 promotion: yes by policy",
        "beliefs": "B4    [inferred, stale] harness:stress ceiling",
        "why": "D5  promote  R3   A",
    }.items():
        assert words in says(home, command).stdout, command


def test_a_waiting_question_stands_in_the_inbox_with_its_deadline(tmp_path: Path) -> None:
    record(tmp_path, "waiting")
    text = says(tmp_path, "inbox").stdout
    assert "quick:Q1 waits for you (promotion): Promote R3?" in text
    assert "it becomes no." in text
    assert f"vigil reject quick:Q1 --reason WHY --home {tmp_path}\n" in text


IN_PANEL = (
    "run 3 of at most 4, 1 question waiting",
    "step 50 of 200, 25 %, about 3 min left",
    "loss 1.250 ↓",
    "900 tokens",
    "0.50 GB peak memory",
    "restarted 2 times",
    "quick:Q1 waits for you (promotion): Promote",
)


def test_the_live_panel_shows_bar_figures_direction_and_questions_at_any_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.render.record import gather
    from agent.render.watch import _panel

    record(tmp_path, "waiting")
    view = gather(CampaignPaths(tmp_path, "quick"))
    last = {"step": 50, "train_loss": 1.25, "peak_memory_gb": 0.5, "trained_tokens": 900, "tokens_per_s": 1400}
    pace = {"step_s": 1.2, "report_s": 12.0, "at": view["now"]}
    job = {**view["jobs"][0], "state": "running", "step": 50, "last": last, "restarts": 2, "loss_before": 1.5}
    view["jobs"] = [{**job, "pace": pace}]
    for width in (60, 80, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = _panel(view, width - 1)
        assert max(len(line) for line in lines if "vigil " not in line) <= width
        text = " ".join(" ".join(lines).split())
        assert [words for words in IN_PANEL if words not in text] == [], text
        typed = f"vigil approve quick:Q1 --home {tmp_path}"
        assert any(line.endswith(typed) for line in lines), "a command is never cut"


def test_run_prints_the_summary_writes_the_report_and_ends_with_the_campaign_s_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import agent.runner
    from tests.agent.folders import edit, make

    file = make(tmp_path)
    edit(file, "campaign: small", "campaign: quick")
    seen: dict[str, Any] = {}

    def run_campaign(path: Path, home: Path, *, wait: bool, terminal: Any, is_verbose: bool) -> agent.runner.RunEnd:
        assert (terminal.is_live, is_verbose) == (False, False)
        seen.update(path=path, home=home, wait=wait)
        record(home, "waiting")
        return agent.runner.RunEnd("waiting", "It waits.", 6)

    monkeypatch.setattr(agent.runner, "run_campaign", run_campaign)
    result = says(tmp_path / "home", "run", str(file), "--no-wait")
    assert result.exit_code == 6, result.output
    assert seen == {"path": file, "home": tmp_path / "home", "wait": False}
    assert "quick waits for a person" in result.stdout
    assert (tmp_path / "home" / "quick" / "report.html").is_file()


WITH_MARGIN: dict[str, Any] = {
    "conditions": [
        {"metric": "stress.rows_kept", "min": 0.8},
        {"metric": "regular.rows_kept", "against": "parent", "min": 0, "margin": 0.1},
    ]
}


def test_a_condition_is_told_with_the_margin_that_its_verdict_used_wherever_it_is_told(tmp_path: Path) -> None:
    asked = "regular.rows_kept minus the parent's at least 0 (with its margin: at least -0.1)"
    paths = record(tmp_path, "promoted", gate=WITH_MARGIN)
    export = tmp_path / "export.jsonl"
    assert says(tmp_path, "export", "--out", str(export)).exit_code == 0
    says(tmp_path, "report")
    told = {
        "status": says(tmp_path, "status").stdout,
        "page": says(tmp_path, "report", "--page").stdout,
        "why": says(tmp_path, "why", "R3", "--all").stdout,
        "html": html.unescape(paths.report.read_text()),
    }
    assert {name: asked in " ".join(text.split()) for name, text in told.items()} == dict.fromkeys(told, True)
    replayed = CliRunner().invoke(vigil, ["replay", str(export)]).stdout.splitlines()
    place = next(n for n, line in enumerate(replayed) if "regular.rows_kept minus the parent's at least  " in line)
    assert replayed[place + 1].strip() == "0 (with its margin: at least -0.1)", "a long question stands in full"


def test_before_any_verdict_a_condition_is_told_with_its_margin(tmp_path: Path) -> None:
    with opened(tmp_path, FakeClock()) as store:
        begin(store, gate=WITH_MARGIN)
    told = " ".join(says(tmp_path, "status").stdout.split())
    assert "regular.rows_kept minus the parent's at least 0 (with its margin: at least -0.1); not measured yet" in told


def test_the_home_may_come_from_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIL_HOME", str(home))
    assert CliRunner().invoke(vigil, ["status"]).stdout.startswith("quick")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_given_what_completes_commands_campaigns_and_ids(home: Path, shell: str) -> None:
    script = CliRunner().invoke(vigil, ["completion", shell]).stdout
    assert f"_VIGIL_COMPLETE={shell}_complete" in script
    record(home, "waiting", "slow")

    def offers(*words: str) -> set[str]:
        params = ShellComplete(vigil, {"obj": None}, "vigil", "_VIGIL_COMPLETE")
        return {
            each.value
            for each in params.get_completions([*words[:-1][:1], "--home", str(home), *words[1:-1]], words[-1])
        }

    assert "cases" in offers("ca")
    assert {"quick", "slow", "D5", "R3", "C2"} <= offers("why", "")
    assert offers("why", "quick:D") == {f"quick:D{n}" for n in range(1, 6)}
    assert offers("approve", "slow:") == {"slow:Q1"}
    assert offers("runs", "r") == {"R1", "R2", "R3"}
    assert "B5" in offers("refute", "B")
    assert offers("why", "never:D") == set()
    for words in (("chat", "--run"), ("report", "--run"), ("export", "--gguf")):
        assert offers(*words, "") == {"R1", "R2", "R3"}


def test_bash_completes_an_id_after_the_name_of_its_campaign(home: Path, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "vigil"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m agent.cli "$@"\n')
    program.chmod(0o755)
    env = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "VIGIL_HOME": str(home)}
    printed = CliRunner().invoke(vigil, ["completion", "bash"]).stdout
    for line, words, offered in (
        ("vigil why quick:D", "vigil why quick : D", "D5"),
        ("vigil why quick:", "vigil why quick :", "D5"),
        ("vigil why quick: ", "vigil why quick : ''", "quick"),
        ("vigil chat --run=R", "vigil chat --run = R", "R3"),
    ):
        script = (
            f"{printed}COMP_LINE='{line}' COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n"
            "asked=$(complete -p vigil); asked=${asked#*-F }; ${asked%% *} vigil; echo ${COMPREPLY[@]}"
        )
        done = subprocess.run(["/bin/bash", "-c", script], env=env, capture_output=True, text=True, check=True)
        assert (offered in done.stdout.split(), ":" in done.stdout, done.stderr) == (True, False, ""), line


def test_help_names_every_command_and_the_version_is_told() -> None:
    text = CliRunner().invoke(vigil, ["--help"]).stdout
    for command in (*COMMANDS, "run", "stop", "approve", "reject", "cancel", "init"):
        assert f"\n  {command} " in text
        assert CliRunner().invoke(vigil, [command, "--help"]).exit_code == 0
    assert CliRunner().invoke(vigil, ["--version"]).stdout.startswith("vigil 0")


def test_a_reading_command_imports_nothing_heavy(home: Path) -> None:
    script = (
        "import sys; from click.testing import CliRunner; from agent.cli import vigil;"
        " r = CliRunner().invoke(vigil, ['status', '--home', sys.argv[1]]); assert r.exit_code == 0, r.output;"
        " bad = {'rich', 'langgraph', 'optuna', 'ruamel', 'jinja2', 'transformers', 'mlx'} & set(sys.modules);"
        " sys.exit(str(bad) if bad else 0)"
    )
    command = [sys.executable, "-c", script, str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
