"""A real campaign that climbs from demonstrations to preferences over a fused model, read from outside."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agent.pairs import Asked, make_pairs
from state.errors import ConfigError
from state.hashing import hash_file
from tests.faults.campaign import warm, world
from tools.models.identity import weights_hash

pytestmark = [pytest.mark.mlx, pytest.mark.timeout(900)]

DATA = world.ROOT / "runbooks" / "quickstart" / "data"
BASE = world.ROOT / "runbooks" / "quickstart" / "base"
PAIRS = world.ROOT / "runbooks" / "ladder" / "data" / "pairs.jsonl"
SMALL = {"rank": 2, "scale": 2.0, "dropout": 0.0}


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
    spec = {
        "campaign": "mended",
        "model": {"path": str(BASE), "dtype": "float32"},
        "track": {"name": "spreadsheet_clean"},
        "data": {"train": "train.jsonl"},
        "evaluation": {
            "max_tokens": 448,
            "splits": {"stress": {"selection": "selection.jsonl", "confirmation": "confirmation.jsonl"}},
        },
        "gate": {"ledger": "example", "alpha": 0.1, "max_confirmations": 1, "conditions": [condition]},
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


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the home of a campaign of one SFT run and one DPO run on what that made, ended."""
    folder = tmp_path_factory.mktemp("carry")
    write(folder / "train.jsonl", tables("train.jsonl", 12, 12, 40))
    write(folder / "selection.jsonl", tables("stress_selection.jsonl", 12, 12, 6))
    write(folder / "confirmation.jsonl", tables("stress_confirmation.jsonl", 12, 12, 3))
    write(folder / "pairs.jsonl", [json.loads(line) for line in sorted(PAIRS.read_text().splitlines(), key=len)[:8]])
    file = campaign(
        folder,
        {"id": "rows", "metric": "stress.rows_kept", "min": 1.0, "test": "plain", "reason": "few cases"},
        {"batch_size": 4, "iters": 5, "learning_rate": 0.004, "steps_per_eval": 5, "save_every": 5},
        data={"train": "train.jsonl", "pairs": "pairs.jsonl"},
        instruments=["sft", "dpo"],
        recipes={"dpo": {"batch_size": 2, "iters": 2, "max_seq_length": 1088, "lora_parameters": SMALL}},
        search={"start_from": "fused", "max_runs_without_progress": 1},
        budget={"runs": 1, "hours": 1},
    )
    home = folder / "home"
    vigil(home, "run", str(file))
    # However quick the machine: nothing is left for a second run of the first class.
    spec = json.loads(file.read_text())
    spec["budget"] = {"runs": 2, "hours": 1, "class_hours": {"sft": 0.0001}}
    file.write_text(json.dumps(spec, indent=1))
    vigil(home, "run", str(file))
    return home


def test_the_next_class_trains_a_new_adapter_on_the_fused_and_measured_model(home: Path) -> None:
    rows = world.rows(home, "mended")
    assert [run["instrument"] for run in rows["runs"]] == ["sft", "dpo"]
    first, second = rows["runs"]
    done = [row for row in rows["actions"] if row["state"] == "done"]
    kinds = [row["kind"] for row in done]
    assert kinds[kinds.index("fuse") :][:3] == ["fuse", "evaluate", "train"]
    fuse = next(row for row in done if row["kind"] == "fuse")
    assert (fuse["inputs"]["adapter"], second["parent"]) == (first["adapter"], first["id"])
    assert second["parent_hash"] == fuse["result"]["weights"]
    assert second["recipe"]["lora_parameters"] == SMALL, "the class's own shape, not its parent's"


def test_the_adapter_belongs_to_the_fused_model_and_to_no_other(home: Path) -> None:
    rows = world.rows(home, "mended")
    run = rows["runs"][1]
    fuse = next(row for row in rows["actions"] if row["kind"] == "fuse")
    model = home / "mended" / "jobs" / fuse["key"] / "out" / "fused"
    [adapter] = (home / "mended" / "artifacts").glob(f"{run['adapter'][:16]}*")
    lineage = json.loads((adapter / "run.json").read_text())
    assert lineage["model_weights"] == weights_hash(model) == run["parent_hash"]
    [first] = (home / "mended" / "artifacts").glob(f"{rows['runs'][0]['adapter'][:16]}*")
    assert json.loads((first / "run.json").read_text())["data"] == hash_file(home.parent / "train.jsonl")
    measured = {
        row["inputs"]["weights"]
        for row in rows["actions"]
        if row["kind"] == "evaluate" and row["inputs"]["run"] == run["id"]
    }
    assert measured == {weights_hash(model, adapter)}
    assert measured != {weights_hash(DATA.parent / "base", adapter)}


def test_pairs_of_a_run_are_answered_by_its_adapter_on_the_fused_model(home: Path) -> None:
    rows = world.rows(home, "mended")
    asked = Asked(home.parent / "own.jsonl", samples=2, most_cases=1, run="R2")
    # Whether two answers to one prompt are graded apart is not the question here.
    with suppress(ConfigError):
        make_pairs(home.parent / "campaign.yaml", home, asked)
    [result] = (home / "mended" / "pairs").glob("answers-*/result.json")
    measured = [row["inputs"] for row in rows["actions"] if row["kind"] == "evaluate"]
    answered = json.loads(result.read_text())
    assert (answered["weights"], answered["cases"]) == (measured[-1]["weights"], 2)
    assert measured[-1]["run"] == "R2"


def test_a_person_reads_from_what_it_started(home: Path) -> None:
    why = vigil(home, "report", "mended", "--text")
    assert "(dpo, from R1 fused): Preferences move" in why
    assert "it has to answer as base and adapter do" in why
