"""What a campaign hands to rollouts: who grades them, what they earn, and which cases are held out."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent import runner
from agent.campaign import load_campaign
from agent.checks import check_campaign
from agent.inputs import paid_signs, rollout_input
from agent.results import record_results
from agent.session import WORKERS, Session
from state.clock import FakeClock
from state.errors import ConfigError
from state.goal import Goal
from state.lease import Lease
from state.paths import CampaignPaths
from state.reading import open_reader
from state.records import Action, Belief, Decision
from state.store import Store
from tests.faults.campaign import world
from tools.data.cases import iter_split, user_prompt
from tools.graders.spreadsheet_clean.grade import grade
from tools.jobs.backend import LocalBackend
from tools.probes.outputs import adversarial_outputs, judge_adversarial
from tools.training.rollouts import Scheme

ROLLED = [{"id": f"r{n}", "prompt": f"rolled {n}", "reference": "a"} for n in range(3)]
GATE: dict[str, Any] = {
    "conditions": [
        {"metric": "main.score", "min": 0.75},
        {"metric": "main.extra", "max": 0.1},
        {"any_of": ["other.score", "other.kept"], "against": "parent", "min": 0.02},
    ]
}
SPLITS = {name: {"selection": "selection.jsonl", "confirmation": "confirmation.jsonl"} for name in ("main", "other")}


class Sitting:
    """What of a session is asked for."""

    def __init__(self, path: Path) -> None:
        self.loaded = load_campaign(path)
        self.goal: Goal = self.loaded.goal


def sitting(folder: Path, **changes: Any) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rolled.jsonl").write_text("".join(json.dumps(case) + "\n" for case in ROLLED))
    (folder / "held.jsonl").write_text(json.dumps({"id": "h", "prompt": "held"}) + "\n")
    usual: dict[str, Any] = {
        "gate": GATE,
        "track": {"grader": "grade.py"},
        "evaluation": {"max_tokens": 64, "splits": SPLITS},
        "data": {"train": "train.jsonl", "rollouts": "rolled.jsonl"},
        "instruments": ["sft", "grpo"],
    }
    return Sitting(world.write_campaign(folder, **(usual | changes)))


def given(asked: Session, **recipe: Any) -> dict[str, Any]:
    return dict(rollout_input(asked, recipe))


def test_held_out_are_selection_cases_graded_as_the_gate_grades_them(tmp_path: Path) -> None:
    first = given(sitting(tmp_path / "first"))["held_out"]
    assert first["cases"]["name"] == "main", "what the gate asks for first"
    asked = sitting(tmp_path, gate={**GATE, "primary": "other.kept"})
    found = given(asked, max_completion_length=40)
    assert found["reward"] == {"score": 1.0, "kept": 1.0}, "what the gate wants more of"
    held = found["held_out"]
    assert (held["cases"]["name"], held["cases"]["use"]) == ("other", "selection"), "where runs are for"
    assert held["metrics"] == {"score": 1, "kept": 1}
    assert held["max_tokens"] == 40
    assert len(held["cases"]["case_ids"]) == min(24, world.N_CASES)
    assert found["grader"]["file"] == str(tmp_path / "grade.py")
    assert given(asked)["held_out"]["max_tokens"] == 64


def test_cases_that_are_named_for_it_are_held_out_instead(tmp_path: Path) -> None:
    data = {"train": "train.jsonl", "rollouts": "rolled.jsonl", "valid_rollouts": "held.jsonl"}
    gate = {"conditions": [{"metric": "main.extra", "max": 0.1}]}
    held = given(sitting(tmp_path, data=data, gate=gate))["held_out"]
    assert held["cases"] == {
        "name": "valid", "use": "valid", "file": str(tmp_path / "held.jsonl"), "case_ids": None
    }  # fmt: skip
    assert held["metrics"] == {"extra": -1}


@pytest.mark.parametrize(
    ("changes", "main"),
    [
        ({"instruments": ["sft"]}, {"score": 1, "extra": -1}),
        ({}, {"score": 1, "kept": 1}),
        (
            {"recipes": {"grpo": {"reward_weights": {"kept": 1.0, "score": 0.0}, "reward_penalties": {"extra": 0.5}}}},
            {"kept": 1, "extra": -1},
        ),
        ({"instruments": ["grpo"], "recipe": {"reward_weights": {"kept": 1.0}}}, {"kept": 1}),
    ],
    ids=["no rollouts", "by default", "as the recipe says", "as the first instrument's recipe says"],
)
def test_what_is_paid_is_what_rollouts_earn_or_what_the_gate_asks(
    tmp_path: Path, changes: dict[str, Any], main: dict[str, int]
) -> None:
    found = paid_signs(sitting(tmp_path, **changes).goal)
    assert found["main"] == main
    assert found["other"] == ({"score": 1, "kept": 1} if "instruments" in changes and main.get("score") else main)


def test_a_file_of_cases_is_read_before_the_campaign_starts(tmp_path: Path) -> None:
    asked = sitting(
        tmp_path, track={"grader": "grade.py", "metrics": ["score"]}, gate={"conditions": GATE["conditions"][:1]}
    )
    assert "rolled.jsonl holds 3 cases for rollouts." in check_campaign(asked.loaded)
    (tmp_path / "rolled.jsonl").write_text('{"id": "r0", "messages": []}\n')
    with pytest.raises(ConfigError, match=r"rolled.jsonl:1: `messages` is not a list"):
        check_campaign(asked.loaded)
    (tmp_path / "rolled.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"`data.rollouts` names .*rolled.jsonl, which is not a file; correct"):
        check_campaign(asked.loaded)


REWARDED = sorted(path for path in (world.ROOT / "runbooks").glob("**/*.yaml") if "reward_weights" in path.read_text())


@pytest.mark.parametrize("path", REWARDED, ids=lambda path: path.relative_to(world.ROOT / "runbooks").as_posix())
def test_no_shipped_reward_pays_for_a_bad_output_what_it_pays_for_the_reference(path: Path) -> None:
    loaded = load_campaign(path)
    recipe = loaded.goal.recipes["grpo"]
    scheme = Scheme(recipe["reward_weights"], recipe["reward_penalties"], cut_cost=0.5)
    for name, split in loaded.goal.evaluation.splits.items():
        cases = list(iter_split(loaded.resolve(str(split.selection))))[:12]
        made = [adversarial_outputs(user_prompt(case), str(case["reference"])) for case in cases]
        kinds = sorted({kind for outputs in made for kind in outputs})
        scores = {
            kind: columns([grade(case, out[kind]) for case, out in zip(cases, made, strict=True) if kind in out])
            for kind in kinds
        }
        gold = [grade(case, str(case["reference"])) for case in cases]
        found = judge_adversarial(scores, columns(gold), paid_signs(loaded.goal)[name])
        assert [row.sentence for row in found if row.severity == "hard_stop"] == []
        earned = {
            kind: [
                scheme.reward(grade(case, out[kind])) or 0.0
                for case, out in zip(cases, made, strict=True)
                if kind in out
            ]
            for kind in kinds
        }
        best = min(scheme.reward(scores) or 0.0 for scores in gold)
        assert max(max(values) for values in earned.values()) < best, earned


def columns(rows: list[dict[str, float | None]]) -> dict[str, list[float | None]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def digested(tmp_path: Path, kind: Any, result: dict[str, Any]) -> list[Belief]:
    """Return what is believed once an action of a kind has ended with a result."""
    loaded = sitting(tmp_path / "files").loaded
    paths, clock = CampaignPaths(tmp_path / "home", loaded.goal.campaign), FakeClock()
    runner._make_home(paths)
    with Lease.acquire(paths, clock) as lease, Store.open(paths, clock, lease) as store:
        session = runner._sit_down(loaded, paths, store, clock, LocalBackend(), WORKERS)
        decided = store.deciding.decide(Decision(rule="signal.first", sentence="Ask.", action=kind, action_key="k"))
        store.doing.intend(Action(key="k", kind=kind, decision=decided.id, inputs={"parent": "base"}))
        store.doing.finish("k", result)
        record_results(session, {})
        return session.standing()


def test_what_the_template_drops_of_training_rows_becomes_a_belief(tmp_path: Path) -> None:
    kinds = {name: {"rows": 3, "times": 3, "lines": [1, 2, 4]} for name in ("gone:developer", "all_masked")}
    told = {"rows": 9, "answers": 9, "thinking": 0, "kinds": kinds}
    found = [belief for belief in digested(tmp_path, "census", {"rendered": told}) if belief.claim == "is_shown_whole"]
    assert [(belief.status, belief.severity) for belief in found] == [("refuted", "warning")]
    assert "The template drops 3 texts of the role developer in 3 of 9 rows" in found[0].statement
    assert "mask_prompt" not in found[0].statement, "masks begin where row and prompt part here"


@pytest.mark.parametrize("differing", [0, 3])
def test_what_the_start_s_answers_earn_becomes_a_belief_per_figure(tmp_path: Path, differing: int) -> None:
    signal: dict[str, Any] = {
        "prompts": 16,
        "samples": 8,
        "answers": 128,
        "right": differing,
        "pass_at_1": differing / 128,
    }
    signal |= {"pass_at_k": differing / 16, "groups_that_differ": differing, "cut": 5, "missing": 0}
    signal |= {"reward": 0.0, "reward_spread": 0.01, "denser": "placed", "denser_groups": 9}
    standing = digested(tmp_path, "pace", {"signal": signal})
    found = {belief.claim: belief for belief in standing if belief.subject == "reward:base"}
    assert found["pass_at_1"].value == differing / 128
    assert "(pass@8); 5 were cut by the budget" in found["pass_at_k"].statement
    spread = found["tells_answers_apart"]
    assert spread.status == ("fresh" if differing else "refuted")
    assert spread.statement.startswith(f"base answers 16 prompts 8 times each: to {differing} of the prompts")
    assert ("such as placed" in spread.fix) == (not differing)


@pytest.mark.mlx
def test_rollouts_alone_that_have_nothing_to_learn_from_halt_before_training_with_figures_and_fix(
    tmp_path: Path,
) -> None:
    files = {"train": "train.jsonl", "rollouts": "rolled.jsonl"}
    recipe = {"batch_size": 2, "group_size": 8, "iters": 30, "max_completion_length": 16, "max_seq_length": 128}
    campaign = world.write_campaign(
        tmp_path / "files",
        data=files,
        instruments=["grpo"],
        recipes={"grpo": recipe | {"truncated": "penalize"}},
        track={"grader": "grade.py"},
    )
    (tmp_path / "files" / "rolled.jsonl").write_text("".join(json.dumps(case) + "\n" for case in ROLLED))
    graded = 'def grade(case, text):\n    return {"score": float(text == "never"), "letters": min(1, len(text) / 99)}\n'
    (tmp_path / "files" / "grade.py").write_text(graded)
    home = tmp_path / "home"
    said = world.start(campaign, home, wait=False).wait(timeout=240)
    told = " ".join(world.words(home).split())
    assert said == 3, told
    assert "Hard stop: grpo is not run from the base: of 24 answers to 3 prompts 0 earn the full reward" in told
    assert "pass@8 0.000" in told
    assert "reward_weights, such as letters, which differs in 3 of 3" in told
    with open_reader(CampaignPaths(home, "storm")) as reader:
        assert reader.table("run") == [], "nothing was trained"
