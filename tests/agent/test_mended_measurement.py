"""Real campaigns whose measurement or data are mended on the way, and what a person reads of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from state.hashing import hash_file
from state.paths import CampaignPaths
from tests.faults.campaign import warm, world

pytestmark = [pytest.mark.mlx, pytest.mark.timeout(300)]

DATA = world.ROOT / "runbooks" / "quickstart" / "data"
BASE = world.ROOT / "runbooks" / "quickstart" / "base"
LONG = 12
"""Rows of a table from which the tiny base wraps up too early."""


def tables(name: str, least: int, most: int, n: int) -> list[dict[str, Any]]:
    """Return the first rows of a shipped file whose tables have so many rows."""
    found = [json.loads(line) for line in (DATA / name).read_text().splitlines()]
    return [row for row in found if least <= _size(row) <= most][:n]


def _size(row: dict[str, Any]) -> int:
    prompt: str = row["prompt"] if "prompt" in row else row["messages"][0]["content"]
    return prompt.count("\n") - 1


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def campaign(folder: Path, condition: dict[str, Any], recipe: dict[str, Any], **changes: Any) -> Path:
    """Write a campaign on tables that the tiny base cuts short; return its file."""
    repairs = changes.pop("repairs", {})
    spec = {
        "campaign": "mended",
        "model": {"path": str(BASE), "dtype": "float32"},
        "track": {"name": "spreadsheet_clean"},
        "data": {"train": "train.jsonl"},
        "evaluation": {
            "max_tokens": 448,
            "splits": {"stress": {"selection": "selection.jsonl", "confirmation": "confirmation.jsonl"}},
            "repairs": repairs,
        },
        "gate": {"alpha": 0.1, "max_confirmations": 1, "conditions": [condition]},
        "recipe": {
            "batch_size": 8,
            "max_seq_length": 896,
            "lora_parameters": {"rank": 4, "scale": 2.0, "dropout": 0.0},
            **recipe,
        },
        "budget": {"runs": 1, "hours": 1},
        "approvals": {"promotion": {"mode": "auto"}},
        **changes,
    }
    file = folder / "campaign.yaml"
    file.write_text(json.dumps(spec, indent=1))
    return file


def vigil(home: Path, *arguments: str) -> str:
    """Run a command on a home and return what it says, on one line."""
    told = warm.vigil(*arguments, home=home)
    assert told.returncode in {0, 1}, told.stdout + told.stderr
    return " ".join(told.stdout.split())


def decisions(home: Path) -> list[dict[str, Any]]:
    return world.rows(home, "mended")["decisions"]


def test_a_gate_that_its_few_cases_cannot_decide_is_judged_on_the_larger_file(tmp_path: Path) -> None:
    home = tmp_path / "home"
    many = tables("stress_selection.jsonl", LONG, 15, 12)
    write(tmp_path / "selection.jsonl", many[:4])
    write(tmp_path / "many.jsonl", many)
    write(tmp_path / "confirmation.jsonl", tables("stress_confirmation.jsonl", LONG, 15, 12))
    write(tmp_path / "train.jsonl", tables("train.jsonl", LONG, 13, 16))
    file = campaign(
        tmp_path,
        {"id": "rows", "metric": "stress.rows_kept", "min": 0.8},
        {"iters": 2, "learning_rate": 1e-3},
        repairs={"cases": {"stress": "many.jsonl"}},
    )
    vigil(home, "run", str(file), "--no-wait")
    found = decisions(home)
    before = ["ceiling.first", "baseline.first"]
    assert [row["rule"] for row in found][:5] == [*before, "repair.more_cases", *before]
    verdict = next(row for row in found if row["bucket"])
    assert verdict["verdict"]["gate"]["conditions"][0]["n"] == len(many)
    for place in (vigil(home, "why", found[2]["id"]), vigil(home, "report", "--page")):
        assert "Even a candidate with the best possible score could not meet rows on 4 cases" in place
        assert "Measure stress on the larger files that evaluation.repairs names, everything again." in place
    changed = "`evaluation.splits.stress.selection` changed from selection.jsonl to many.jsonl"
    assert changed in vigil(home, "status")


def test_a_metric_that_cannot_tell_is_read_on_a_denser_one_and_the_same_run_judged_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    write(tmp_path / "selection.jsonl", tables("stress_selection.jsonl", LONG, 15, 8))
    write(tmp_path / "confirmation.jsonl", tables("stress_confirmation.jsonl", LONG, 15, 8))
    write(tmp_path / "train.jsonl", tables("train.jsonl", LONG, 13, 24))
    file = campaign(
        tmp_path,
        {"id": "strict", "metric": "stress.strict", "min": 0.6},
        {"iters": 3, "learning_rate": 1e-3},
        repairs={"dense": {"stress.strict": "stress.rows_kept"}},
    )
    vigil(home, "run", str(file), "--no-wait")
    found = decisions(home)
    first, second = [row for row in found if row["bucket"]]
    assert (first["rule"], first["run"], second["run"]) == ("U.power", "R1", "R1")
    assert first["verdict"]["bucket"]["target"]["metric"] == "stress.strict"
    assert second["verdict"]["bucket"]["target"]["metric"] == "stress.rows_kept"
    assert second["verdict"]["gate"]["conditions"][0]["metric"] == "stress.strict", "the gate asks what it asked"
    assert [row["action"] for row in found].count("train") == 1
    [repair] = [row for row in found if row["rule"] == "repair.dense_metric"]
    for place in (vigil(home, "why", repair["id"]), vigil(home, "report", "--page")):
        assert "no run could be told from its parent (U). Read progress on stress.rows_kept for stress.strict" in place


def test_a_run_on_rare_rows_repeated_is_trained_on_a_file_of_its_own_that_its_adapter_names(tmp_path: Path) -> None:
    home = tmp_path / "home"
    short = [{**row, "kind": "short"} for row in tables("train.jsonl", 3, 6, 20)]
    long = [{**row, "kind": "long"} for row in tables("train.jsonl", LONG, 13, 4)]
    write(tmp_path / "train.jsonl", short + long)
    write(tmp_path / "selection.jsonl", tables("stress_selection.jsonl", LONG, 15, 12))
    write(tmp_path / "confirmation.jsonl", tables("stress_confirmation.jsonl", LONG, 15, 12))
    file = campaign(
        tmp_path,
        {"id": "rows", "metric": "stress.rows_kept", "min": 0.8},
        {"iters": 3, "learning_rate": 1e-6},
        data={"train": "train.jsonl", "group_by": "kind"},
        budget={"runs": 2, "hours": 1},
        gate={
            "alpha": 0.1,
            "max_confirmations": 1,
            "meaningful_delta": 0.1,
            "conditions": [{"id": "rows", "metric": "stress.rows_kept", "min": 0.8}],
        },
    )
    vigil(home, "run", str(file), "--no-wait")
    found = world.rows(home, "mended")
    assert [run["bucket"] for run in found["runs"]] == ["C", "C"], "it changes the mix and claims nothing"
    planned = [row for row in found["decisions"] if row["action"] == "train"]
    assert planned[1]["rule"] == "flat.rebalanced"
    paths = CampaignPaths(home, "mended")
    [made] = paths.data.iterdir()
    kinds = [json.loads(line)["kind"] for line in made.read_text().splitlines()]
    assert (kinds.count("short"), kinds.count("long")) == (20, 16)
    adapters = [paths.artifact(run["adapter"]) for run in found["runs"]]
    trained_on = [json.loads((adapter / "run.json").read_text())["data"] for adapter in adapters]
    assert trained_on == [hash_file(tmp_path / "train.jsonl"), hash_file(made)]
    for place in (vigil(home, "why", planned[1]["id"]), vigil(home, "report", "--page")):
        assert "R1 left the target flat; rows of rare groups are seen more often (long 4 times)" in place
