"""The findings of an audit in the form that code hosts read."""

import json
from pathlib import Path

from tests.agent.test_audit import says, stress


def test_findings_are_written_as_sarif_with_rule_level_and_line(tmp_path: Path) -> None:
    out = tmp_path / "audit.sarif"
    result = says(stress(tmp_path / "lab"), "--sarif", out)
    assert result.exit_code == 3
    log = json.loads(out.read_text())
    assert (log["version"], log["$schema"].rpartition("/")[2]) == ("2.1.0", "sarif-2.1.0.json")
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "vigil"
    assert driver["version"]
    assert [rule["id"] for rule in driver["rules"]] == ["P1"]
    assert driver["rules"][0]["shortDescription"]["text"] == "evaluator cannot show the answer"
    (found,) = run["results"]
    assert (found["ruleId"], found["ruleIndex"], found["level"]) == ("P1", 0, "error")
    assert "10/40 = 0.25" in found["message"]["text"]
    (place,) = found["locations"]
    assert place["physicalLocation"] == {
        "artifactLocation": {"uri": "vigil-audit.yaml", "uriBaseId": "PROJECTROOT"},
        "region": {"startLine": 6},
    }
    assert place["logicalLocations"] == [{"fullyQualifiedName": "evaluation:stress"}]
    assert set(run["originalUriBaseIds"]) == {"PROJECTROOT"}
    assert set(found["partialFingerprints"]) == {"vigil/v1"}
    (invocation,) = run["invocations"]
    assert invocation["executionSuccessful"] is True
    notes = invocation["toolExecutionNotifications"]
    assert any(note["message"]["text"].startswith("Not checked: P7") for note in notes)


def test_every_result_names_a_rule_of_its_run(tmp_path: Path) -> None:
    folder = stress(tmp_path / "lab")
    (folder / "data with spaces").mkdir()
    (folder / "data with spaces" / "train.jsonl").write_text("no JSON\n")
    says(folder, "--sarif", tmp_path / "out.sarif", "--json")
    (run,) = json.loads((tmp_path / "out.sarif").read_text())["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert rules == ["8", "P1"]
    assert all(rules[row["ruleIndex"]] == row["ruleId"] for row in run["results"])
    uris = [row["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for row in run["results"]]
    assert "data%20with%20spaces/train.jsonl" in uris


def test_a_folder_that_is_not_there_is_named_when_sarif_is_to_be_written_into_it(tmp_path: Path) -> None:
    result = says(stress(tmp_path / "lab"), "--sarif", tmp_path / "gone" / "out.sarif")
    assert result.exit_code == 2
    assert "does not exist; make it, or name another file" in result.stderr
