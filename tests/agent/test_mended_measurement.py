"""Campaigns whose measurement or data are mended on the way, and what a person reads of it."""

import json
from pathlib import Path
from typing import Any

from state.hashing import hash_file
from state.paths import CampaignPaths
from tests.faults.campaign import warm, world
from tests.faults.failure_modes.worlds import NAME, World, asked, cases, chat, words


def ended(made: World, folder: Path, **changes: Any) -> Path:
    """Run a campaign on a model that is a few numbers to its end; return its home."""
    made.spec |= {"budget": {"runs": 1}, **changes}
    home = folder / "home"
    code = warm.run(made.write(folder / "files"), home, wait=False, workers=made.workers)
    assert code in {0, 1}, world.words(home)
    return home


def said(home: Path, *arguments: str) -> str:
    """Return what a command says, on one line."""
    told = warm.vigil(*arguments, home=home)
    assert told.returncode == 0, told.stdout + told.stderr
    return " ".join(told.stdout.split())


def gate(metric: str, least: float, **keys: Any) -> dict[str, Any]:
    return {
        "alpha": 0.1,
        "max_confirmations": 1,
        **keys,
        "conditions": [{"id": "rows", "metric": metric, "min": least}],
    }


def repaired(made: World, **repairs: Any) -> dict[str, Any]:
    """Return the evaluation with what may mend it."""
    return {**made.spec["evaluation"], "repairs": repairs}


def test_a_gate_that_its_few_cases_cannot_decide_is_judged_on_the_larger_file(tmp_path: Path) -> None:
    made = World()
    made.files |= {"selection.jsonl": cases("selection", 4), "many.jsonl": cases("selection", 12)}
    made.files["confirmation.jsonl"] = cases("confirmation", 12)
    evaluation = repaired(made, cases={"main": "many.jsonl"})
    home = ended(made, tmp_path, gate=gate("main.exact", 0.8), evaluation=evaluation)
    found = world.rows(home, NAME)["decisions"]
    before = ["ceiling.first", "baseline.first"]
    assert [row["rule"] for row in found][:5] == [*before, "repair.more_cases", *before]
    verdict = next(row for row in found if row["bucket"])
    assert verdict["verdict"]["gate"]["conditions"][0]["n"] == 12
    for place in (said(home, "why", found[2]["id"], "--all"), said(home, "report", "--page")):
        assert "Even a candidate with the best possible score could not meet rows on 4 cases" in place
        assert "Measure main on the larger files that evaluation.repairs names, everything again." in place
    changed = "`evaluation.splits.main.selection` changed from selection.jsonl to many.jsonl"
    assert changed in said(home, "status")


def test_a_metric_that_cannot_tell_is_read_on_a_denser_one_and_the_same_run_judged_again(tmp_path: Path) -> None:
    made = World(student={"gain": 0.001})
    made.files |= {"selection.jsonl": cases("selection", 8), "confirmation.jsonl": cases("confirmation", 8)}
    evaluation = repaired(made, dense={"main.exact": "main.score"})
    home = ended(made, tmp_path, gate=gate("main.exact", 0.6), evaluation=evaluation)
    found = world.rows(home, NAME)["decisions"]
    first, second = [row for row in found if row["bucket"]]
    assert (first["rule"], first["run"], second["run"]) == ("U.power", "R1", "R1")
    assert first["verdict"]["bucket"]["target"]["metric"] == "main.exact"
    assert second["verdict"]["bucket"]["target"]["metric"] == "main.score"
    assert second["verdict"]["gate"]["conditions"][0]["metric"] == "main.exact", "the gate asks what it asked"
    assert [row["action"] for row in found].count("train") == 1
    [repair] = [row for row in found if row["rule"] == "repair.dense_metric"]
    for place in (said(home, "why", repair["id"], "--all"), said(home, "report", "--page")):
        assert "no run could be told from its parent (U). Read progress on main.score for main.exact" in place


def test_a_run_on_rare_rows_repeated_is_trained_on_a_file_of_its_own_that_the_record_names(tmp_path: Path) -> None:
    made = World()
    # Answers in the prompt's own words: the student learns nothing from them, however often it sees which.
    rows = [chat(asked(given), "\n".join(given)) for given in (words(f"rare {n}", 6) for n in range(24))]
    made.files["train.jsonl"] = [{**row, "kind": "long" if n < 4 else "short"} for n, row in enumerate(rows)]
    made.spec["data"]["group_by"] = "kind"
    del made.spec["evaluation"]["control"]
    home = ended(made, tmp_path, gate=gate("main.score", 0.8, meaningful_delta=0.1), budget={"runs": 2})
    found = world.rows(home, NAME)
    assert [run["bucket"] for run in found["runs"]] == ["C", "C"], "it changes the mix and claims nothing"
    planned = [row for row in found["decisions"] if row["action"] == "train"]
    assert planned[1]["rule"] == "flat.rebalanced"
    paths = CampaignPaths(home, NAME)
    [mixed] = paths.data.iterdir()
    kinds = [json.loads(line)["kind"] for line in mixed.read_text().splitlines()]
    assert (kinds.count("short"), kinds.count("long")) == (20, 16)
    specs = [json.loads(paths.job(row["action_key"]).spec.read_text()) for row in planned]
    trained_on = [Path(spec["input"]["data"]["train"]) for spec in specs]
    assert [hash_file(path) for path in trained_on] == [hash_file(tmp_path / "files" / "train.jsonl"), hash_file(mixed)]
    for place in (said(home, "why", planned[1]["id"], "--all"), said(home, "report", "--page")):
        assert "R1 left the target flat" in place
        assert "rows of rare groups are seen more often (long 4 times)" in place
