"""What a changed world does to beliefs, through whole campaigns in real processes with quick workers."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.faults.campaign import warm, world

GRADED = {
    "harness:main.selection ceiling", "harness:main.selection floor",
    "harness:main.confirmation ceiling", "harness:main.confirmation floor",
    "harness:grader answers", "harness:grader is_repeatable",
    "score:base.main.selection means", "score:base.main.confirmation means",
    "score:R1.main.selection means", "score:R1.main.confirmation means",
    "gate:score below_ceiling", "gate:score reachable_from_base", "gate:score decidable", "harness:main shows_progress",
}  # fmt: skip
"""Everything that stands on the grader."""


def run(folder: Path, *, wait: bool = False, first_on_path: Path | None = None) -> int:
    campaign, home = folder / "files" / "campaign.yaml", folder / "home"
    if first_on_path is None:
        return warm.run(campaign, home, wait=wait)
    return world.start(campaign, home, wait=wait, first_on_path=first_on_path).wait(timeout=240)


def done(folder: Path) -> list[tuple[str, str, str]]:
    """Return what was done, in order: kind, side, use."""
    return [
        (a["kind"], str(a["inputs"].get("side", "")), str(a["inputs"].get("use", "")))
        for a in world.rows(folder / "home")["actions"]
    ]


def claims(folder: Path, *, formed_since: float = 0.0) -> set[str]:
    rows = world.rows(folder / "home")["beliefs"]
    return {f"{b['subject']} {b['claim']}" for b in rows if b["formed_at"] >= formed_since}


def vigil(folder: Path, *arguments: str) -> Any:
    told = warm.vigil(*arguments, home=folder / "home")
    assert told.returncode == 0, told.stderr
    return told.stdout


def changed(folder: Path) -> set[str]:
    """Return the claims whose belief was marked stale or replaced since the campaign first waited."""
    rows = json.loads(vigil(folder, "beliefs", "--all", "--json"))
    marked = [b for b in rows if any(e["kind"] == "record" and "is stale" in e["summary"] for e in b["evidence"])]
    fell = [b for b in rows if any("fell with" in e["summary"] for e in b["evidence"])]
    return {f"{b['subject']} {b['claim']}" for b in [*marked, *fell]}


def test_nothing_is_measured_again_while_nothing_changed(waiting: Path) -> None:
    before = done(waiting)
    assert run(waiting) == 6
    assert done(waiting) == before


def test_one_byte_of_the_evaluator_makes_exactly_what_stands_on_it_stale_and_only_that_is_measured_again(
    waiting: Path,
) -> None:
    before = done(waiting)
    grader = waiting / "files" / "grade.py"
    grader.write_text(grader.read_text() + "\n")
    assert run(waiting) == 6
    assert changed(waiting) == GRADED
    assert done(waiting)[len(before) :] == [
        ("census", "", ""),
        ("evaluate", "base", "selection"),
        ("evaluate", "candidate", "selection"),
        ("evaluate", "base", "confirmation"),
        ("confirm", "candidate", "confirmation"),
    ]
    census = [a for a in world.rows(waiting / "home")["actions"] if a["kind"] == "census"]
    assert set(census[-1]["inputs"]) - {"guards"} == {"harness"}, "lengths and prompts do not stand on the grader"
    questions = [q for q in world.rows(waiting / "home")["approvals"] if q["kind"] == "promotion"]
    assert [q["answer"] for q in questions] == ["no", None], "the old question is withdrawn, a new one asked"
    assert questions[0]["answered_by"] == "withdrawn"


def test_an_evaluator_put_back_is_believed_again_without_measuring(waiting: Path) -> None:
    grader = waiting / "files" / "grade.py"
    text = grader.read_text()
    grader.write_text(text + "\n")
    assert run(waiting) == 6
    after_edit = done(waiting)
    grader.write_text(text)
    assert run(waiting) == 6
    assert [kind for kind, _, _ in done(waiting)[len(after_edit) :]] == []
    standing = json.loads(vigil(waiting, "beliefs", "--json"))
    ceiling = next(b for b in standing if (b["subject"], b["claim"]) == ("harness:main.selection", "ceiling"))
    assert ceiling["status"] == "fresh"


def test_a_file_touched_with_the_same_content_changes_nothing(waiting: Path) -> None:
    before = done(waiting)
    for name in ("grade.py", "train.jsonl", "selection.jsonl"):
        path = waiting / "files" / name
        os.utime(path, (1, 1))
    assert run(waiting) == 6
    assert done(waiting) == before
    assert changed(waiting) == set()


def test_changed_training_data_are_counted_again_and_no_score_is(waiting: Path) -> None:
    before = done(waiting)
    data = waiting / "files" / "train.jsonl"
    data.write_text(data.read_text() + data.read_text().splitlines()[0] + "\n")
    assert run(waiting) == 6
    assert {"data:train is_readable", "data:train fits_sequence", "data:prompts match_evaluation"} <= changed(waiting)
    assert not any(claim.startswith(("score:", "gate:")) for claim in changed(waiting))
    assert done(waiting)[len(before) :] == [("census", "", "")]


def test_a_decode_setting_changes_what_was_generated_and_graded(waiting: Path) -> None:
    campaign = waiting / "files" / "campaign.yaml"
    spec = json.loads(campaign.read_text())
    spec["evaluation"]["max_tokens"] = 80
    campaign.write_text(json.dumps(spec))
    assert run(waiting) == 6
    assert GRADED - {"harness:grader answers", "harness:grader is_repeatable"} <= changed(waiting)


def test_replaced_base_weights_make_scores_and_the_model_stale_not_the_grader(waiting: Path) -> None:
    before = done(waiting)
    config = waiting / "files" / "base" / "config.json"
    config.write_text(config.read_text() + "\n")
    run(waiting)
    assert {"model:base is_coherent", "score:base.main.selection means"} <= changed(waiting)
    assert not any(claim.startswith("harness:grader") for claim in changed(waiting))
    assert ("evaluate", "base", "selection") in done(waiting)[len(before) :]


def test_a_new_chat_template_makes_prompts_and_scores_stale(waiting: Path) -> None:
    folder = waiting / "files" / "base"
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    template = folder / "chat_template.jinja"
    if template.exists():
        template.write_text(template.read_text() + "{# changed #}")
    else:
        config["chat_template"] += "{# changed #}"
        path.write_text(json.dumps(config))
    run(waiting)
    assert {"data:prompts match_evaluation", "harness:main.selection ceiling"} <= changed(waiting)


@pytest.mark.parametrize(("name", "version"), [("mlx-lm", "99.0"), ("mlx", "0.10.0")])
def test_a_newer_or_an_older_library_makes_what_it_measured_stale(
    waiting: Path, tmp_path: Path, name: str, version: str
) -> None:
    other = tmp_path / "other" / f"{name.replace('-', '_')}-{version}.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    before = done(waiting)
    assert run(waiting, first_on_path=tmp_path / "other") == 6
    assert {"tool:packages are_installed", "score:base.main.selection means"} <= changed(waiting)
    assert not any(claim.startswith("machine:memory") for claim in changed(waiting))
    assert ("evaluate", "base", "selection") in done(waiting)[len(before) :]


@pytest.mark.parametrize("days", [-400, 400])
def test_a_clock_that_was_moved_makes_nothing_stale(waiting: Path, tmp_path: Path, days: int) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "sitecustomize.py").write_text(
        f"import time\nreal = time.time\ntime.time = lambda: real() + {days * 86400}\n"
    )
    before = done(waiting)
    assert run(waiting, first_on_path=moved) == 6
    assert done(waiting) == before
    assert changed(waiting) == set()


def test_an_edit_of_the_gate_is_the_goals_own_kind_of_staleness_and_measures_nothing_again(waiting: Path) -> None:
    campaign = waiting / "files" / "campaign.yaml"
    spec = json.loads(campaign.read_text())
    spec["gate"]["conditions"][0]["min"] = 0.76
    campaign.write_text(json.dumps(spec))
    before = done(waiting)
    run(waiting)
    assert {claim.split()[0].partition(":")[0] for claim in changed(waiting)} == {"gate"}
    assert [kind for kind, _, _ in done(waiting)[len(before) :] if kind in {"census", "evaluate"}] == []
