"""A canary in the data, the references, the answers and whatever the grader says: where it comes out, and where not."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.agent.test_run_flow import vigil
from tests.faults.campaign import world
from tests.tools.evaluation.worlds import make_model, write_lines

CANARY = "canary-5417"
N_CASES = 16

GRADER = """
def grade(case, text):
    # An echo, and what the model answers once it is trained; never the reference, which would halt the campaign.
    if case["id"].endswith("-0") and text in {case["prompt"], case["reference"].replace(".", "!")}:
        raise ValueError(f"{text} instead of {case['reference']} for {case['prompt']}")
    return {"score": float(text[:-1] == case["reference"][:-1])}
"""

HALTING = """
def grade(case, text):
    if text == case["reference"]:
        raise ValueError(f"{text} for {case['prompt']}")
    return {"score": __import__("random").random()}
"""

QUOTING = """
refuted_by = "a row that cannot be read"

def observe(context):
    rows = open(context["data"]["train"]).read().splitlines()
    return {"claim": "rows_are_read", "statement": f"The first is {rows[0]}.", "holds": True, "value": rows[0],
            "evidence": rows[0]}
"""

FAILING = """
refuted_by = "a row that cannot be read"

def observe(context):
    raise KeyError(open(context["data"]["train"]).read())
"""

WORDS = ("amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "hazel", "inlet", "jetty", "kelp", "larch")


def words(place: int) -> str:
    """Return a prompt that is near to no other one."""
    return " ".join(WORDS[(place * 5 + step * (place % 3 + 1)) % len(WORDS)] for step in range(4)) + f" {place}"


def write_campaign(folder: Path, privacy: str) -> Path:
    """Write a campaign on a random model that learns to answer with the canary."""
    folder.mkdir(parents=True)
    make_model(folder / "model", 3)
    rows = [{"prompt": f"{CANARY} {words(n)}", "completion": f"{CANARY}!"} for n in range(64)]
    write_lines(folder / "train.jsonl", rows)
    for start, use in ((100, "selection"), (200, "confirmation")):
        cases = [
            {"id": f"{use}-{n}", "prompt": f"{CANARY} {words(start + n)}", "reference": f"{CANARY}."}
            for n in range(N_CASES)
        ]
        write_lines(folder / f"{use}.jsonl", cases)
    (folder / "quoting.py").write_text(QUOTING)
    (folder / "failing.py").write_text(FAILING)
    splits = {"main": {"selection": "selection.jsonl", "confirmation": "confirmation.jsonl"}}
    spec: dict[str, Any] = {
        "campaign": "secret",
        "model": {"path": "model", "dtype": "float32"},
        "track": {"grader": "grade.py", "metrics": ["score"]},
        "data": {"train": "train.jsonl"},
        "evaluation": {"max_tokens": 16, "splits": splits},
        "gate": {"ledger": "example", "max_confirmations": 1, "conditions": [{"metric": "main.score", "min": 0.5}]},
        "recipe": {
            "fine_tune_type": "full",
            "batch_size": 8,
            "iters": 80,
            "learning_rate": 0.005,
            "max_seq_length": 128,
            "save_every": 40,
        },
        "budget": {"runs": 1},
        "approvals": {"promotion": {"mode": "auto"}},
        "probes": ["quoting.py", "failing.py"],
        "privacy": privacy,
    }
    path = folder / "campaign.yaml"
    path.write_text(json.dumps(spec, indent=1))
    return path


def said(home: Path) -> dict[str, str]:
    """Return what each reading command shows, by its words."""
    decisions = [row["id"] for row in json.loads(vigil(home, "why", "--json").stdout)]
    commands = [
        *([name] for name in ("status", "jobs", "runs", "inbox", "why")),
        ["beliefs", "--all"],
        *(["why", name, "--all"] for name in decisions),
    ]
    shown = {}
    for command in [*commands, *([*command, "--json"] for command in commands), ["report", "--text"], ["export"]]:
        done = vigil(home, *command)
        assert done.returncode == 0, done.stderr
        shown[" ".join(command)] = done.stdout + done.stderr
    assert vigil(home, "report").returncode == 0
    return shown


def files_with(folder: Path, word: str) -> set[str]:
    """Return the names of all files whose bytes hold a word; what a job or an artifact is called is left out."""
    found = [path for path in folder.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]
    return {path.name for path in found}


def run(tmp_path: Path, privacy: str, grader: str = GRADER) -> tuple[Path, subprocess.CompletedProcess[str]]:
    campaign, home = write_campaign(tmp_path / "files", privacy), tmp_path / "home"
    (campaign.parent / "grade.py").write_text(grader)
    if grader == HALTING:
        row = {"text": f"<|tool|>{CANARY}<|end|><|user|>{CANARY}<|end|><|assistant|>{CANARY}<|end|>"}
        write_lines(campaign.parent / "train.jsonl", [row] * 4)
        spec = json.loads(campaign.read_text())
        spec["recipe"] |= {"mask_prompt": False}
        campaign.write_text(json.dumps(spec))
    return home, vigil(home, "run", str(campaign), "--home", str(home))


@pytest.mark.mlx
@pytest.mark.timeout(600)
def test_a_private_campaign_shows_no_word_of_a_case_anywhere(tmp_path: Path) -> None:
    home, ended = run(tmp_path, "redact")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    shown = said(home)
    assert [command for command, text in shown.items() if CANARY in text] == []
    assert CANARY not in ended.stdout + ended.stderr
    assert files_with(home, CANARY) == set()
    # What is kept: scores, lengths, case ids, and that something went wrong where.
    exported = shown["export"]
    assert "grade raised ValueError at grade.py:5" in exported
    assert "selection-3" in exported
    assert "own:failing" in shown["beliefs --all"]
    assert "KeyError at failing.py:5" in shown["beliefs --all"]
    assert '"score": 1.0' in exported
    assert world.rows(home, "secret")["campaign"][0]["state"] == "promoted"


@pytest.mark.mlx
@pytest.mark.timeout(600)
def test_its_twin_that_keeps_texts_shows_them_in_each_of_these_places(tmp_path: Path) -> None:
    home, ended = run(tmp_path, "keep")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    shown = said(home)
    with_canary = {command for command, text in shown.items() if CANARY in text}
    assert {"export", "beliefs --all", "beliefs --all --json", "report --text"} <= with_canary
    assert {"cases.jsonl", "state.db", "report.html", "result.json"} <= files_with(home, CANARY)


@pytest.mark.mlx
@pytest.mark.timeout(600)
@pytest.mark.parametrize("privacy", ["redact", "keep"])
def test_a_hard_stop_quotes_cases_only_where_texts_are_kept(tmp_path: Path, privacy: str) -> None:
    home, ended = run(tmp_path, privacy, HALTING)
    assert ended.returncode == 3, ended.stdout + ended.stderr
    shown = said(home)
    places = {command for command, text in shown.items() if CANARY in text}
    assert "The grader failed on" in shown["beliefs --all"]
    assert "Training prompts begin" in shown["beliefs --all"]
    if privacy == "keep":
        assert CANARY in ended.stdout
        assert {"status", "why --json", "report --text", "export"} <= places
        assert {"result.json", "state.db", "report.html"} <= files_with(home, CANARY)
    else:
        assert (places, files_with(home, CANARY)) == (set(), set())
        assert CANARY not in ended.stdout + ended.stderr
