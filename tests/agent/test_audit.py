"""`vigil audit` as a person runs it: a folder in, a table, JSON or SARIF out, and an exit code."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent.cli import vigil

GOLD_TOKENS = (
    719, 479, 762, 455, 701, 600, 553, 447, 693, 714, 464, 639, 754, 649, 473, 754, 742, 469, 690, 573,
    643, 723, 619, 499, 583, 651, 513, 591, 720, 727, 589, 475, 632, 474, 626, 691, 707, 682, 626, 606,
)  # fmt: skip
"""Tokens of a laboratory's 40 stress golds, the final newline counted, the end token not."""

STRESS = """\
evaluations:
  - name: stress
    data: stress.jsonl
    gold_field: gold
    tokens_field: gold_tokens
    max_tokens: 512
    gate: {min: 0.85}
"""


def says(*arguments: str | Path) -> Result:
    return CliRunner().invoke(vigil, ["audit", *map(str, arguments)])


def report(*arguments: str | Path) -> dict[str, Any]:
    result = says(*arguments, "--json")
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def stress(folder: Path, settings: str = STRESS) -> Path:
    folder.mkdir()
    rows = [
        {"prompt": f"Clean table {place}.", "gold": f"Table {place}\n", "gold_tokens": tokens}
        for place, tokens in enumerate(GOLD_TOKENS)
    ]
    write_rows(folder / "stress.jsonl", rows)
    (folder / "vigil-audit.yaml").write_text(settings)
    return folder


def test_the_stress_evaluation_of_the_laboratory_is_refused_with_the_budget_that_would_do(tmp_path: Path) -> None:
    result = says(stress(tmp_path / "lab"), "--json")
    assert result.exit_code == 3
    (found,) = [row for row in json.loads(result.stdout)["findings"] if row["severity"] == "hard_stop"]
    assert (found["id"], found["domain"], found["subject"]) == ("P1", "knowing", "evaluation:stress")
    assert "10/40 = 0.25" in found["claim"]
    assert "at least 0.85" in found["claim"]
    assert "reachable is 719 (34 of 40 references whole)" in found["claim"]
    assert "without the final newline and the end token" in found["claim"]
    evidence = found["evidence"]
    assert (evidence["ceiling"], evidence["gate"], evidence["smallest_max_tokens"]) == (0.25, 0.85, 719)
    assert (evidence["file"], evidence["line"]) == ("vigil-audit.yaml", 6)
    assert found["runbook"] == "runbooks/hard_stops.md#mode-p1"


def test_with_the_budget_that_was_named_the_gate_is_within_reach(tmp_path: Path) -> None:
    result = says(stress(tmp_path / "lab", STRESS.replace("512", "719")), "--json")
    assert result.exit_code == 0
    assert "P1" in json.loads(result.stdout)["checked"]
    result = says(stress(tmp_path / "less", STRESS.replace("512", "718")), "--json")
    assert result.exit_code == 3


def test_the_json_has_the_form_that_is_promised(tmp_path: Path) -> None:
    folder = stress(tmp_path / "lab")
    found = report(folder)
    assert set(found) == {"path", "checked", "not_checked", "findings"}
    assert found["path"] == str(folder)
    assert all(set(row) == {"id", "why"} and row["why"] for row in found["not_checked"])
    keys = {"id", "domain", "severity", "subject", "claim", "evidence", "fix", "runbook"}
    assert all(set(row) == keys for row in found["findings"])
    ids = [*found["checked"], *(row["id"] for row in found["not_checked"])]
    assert sorted(ids) == sorted([*map(str, range(1, 16)), *(f"P{n}" for n in range(1, 13))])


def test_the_table_names_what_was_seen_what_was_checked_and_what_was_not(tmp_path: Path) -> None:
    result = says(stress(tmp_path / "lab"))
    assert result.exit_code == 3
    said = " ".join(result.stdout.replace("│", " ").split())
    assert "HARD STOP" in said
    assert "1 hard stop, 0 warnings." in said
    assert "Not checked:" in said


def test_without_a_count_of_tokens_a_decode_budget_is_not_checked_rather_than_passed(tmp_path: Path) -> None:
    settings = "\n".join(line for line in STRESS.splitlines() if "tokens_field" not in line)
    found = report(stress(tmp_path / "lab", settings))
    assert "P1" not in found["checked"]
    assert "--model" in next(row["why"] for row in found["not_checked"] if row["id"] == "P1")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_tokens", "max_token", "yaml:6: unknown key `max_token` in `evaluations[0]`; did you mean `max_tokens`?"),
        ("min: 0.85", "least: 0.85", "vigil-audit.yaml:7: unknown key `least`"),
        ("evaluations:", "evaluation:", "did you mean `evaluations`?"),
        ("512", "'512'", "vigil-audit.yaml:6: `evaluations[0].max_tokens` is '512'"),
        ("gate: {min: 0.85}", "gate: {min: 1.5}", "must be at most 1"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_settings_is_one_sentence_with_its_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    result = says(stress(tmp_path / "lab", STRESS.replace(old, new)))
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_folder_that_is_not_there_or_holds_nothing_is_no_usable_input(tmp_path: Path) -> None:
    assert says(tmp_path / "gone").exit_code == 2
    (tmp_path / "file").touch()
    assert "is a file" in says(tmp_path / "file").stderr
    (tmp_path / "empty").mkdir()
    result = says(tmp_path / "empty")
    assert result.exit_code == 2
    assert "holds no configuration" in result.stderr
