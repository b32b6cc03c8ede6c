"""Rollouts under a real supervisor with a campaign's guards: each stops what it is for, and a healthy run goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from policies.guards import EQUAL_ROLLOUTS
from tests.tools.evaluation.worlds import make_model
from tests.tools.training.jobs import adapter_bytes, metrics, outcome, work
from tests.tools.training.rl import UNBOUNDED, rollout_job, supervise
from tools.training.progress import newest_healthy_folder
from tools.training.reinforcement_bounds import FIRST_UPDATES, Bounds

FAST: dict[str, Any] = {
    "iters": 400,
    "batch_size": 4,
    "group_size": 16,
    "beta": 0.0,
    "learning_rate": 0.004,
    "update_microbatch": 64,
    "rollout_concurrency": 64,
    "save_every": 1,
    "steps_per_eval": 4,
    "lora_parameters": {"rank": 8, "scale": 4.0, "dropout": 0.0},
}

STOPPED: dict[str, tuple[str, dict[str, Any], str]] = {
    "kl": ("kl_runaway", {"kl_ceiling": 0.8}, "kl"),
    "entropy": ("entropy_collapsed", {"entropy_floor": 0.7}, "entropy_share"),
    # Paid by the letter: a special token's name has most of them.
    "hacking": ("reward_hacking", {"reward_weights": {"easy": 1.0}}, "reward_gap"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("guards") / "model")


@pytest.mark.mlx
@pytest.mark.parametrize("name", STOPPED)
def test_a_run_that_leaves_a_bound_is_stopped_and_keeps_a_save_from_before(
    tmp_path: Path, model: Path, name: str
) -> None:
    verdict, recipe, signal = STOPPED[name]
    job = rollout_job(tmp_path / name, model, FAST | UNBOUNDED | recipe, held_out=["one", "two", "five"])
    ended = supervise(job)
    folder = job.with_name(f"{name}-run")
    assert (ended.state, ended.by, ended.verdict) == ("stopped", "guard", verdict)
    seen = [row for row in metrics(folder) if signal in row]
    assert seen[-1]["step"] < 400
    inside = [row["step"] for row in seen if not broken(recipe, signal, row[signal])]
    first = next(row["step"] for row in seen if row["step"] > inside[-1])
    healthy = newest_healthy_folder(folder / "out" / "saves")
    assert healthy is not None
    assert int(healthy.name) < first
    newest = max(int(path.name) for path in healthy.parent.glob("[0-9]*"))
    assert newest > int(healthy.name), "what was there when it was stopped is saved as well"
    assert not json.loads((healthy.parent / f"{newest:07d}" / "state.json").read_text())["is_healthy"]


def broken(recipe: dict[str, Any], signal: str, value: float) -> bool:
    if signal == "kl":
        return value > float(recipe["kl_ceiling"])
    if signal == "reward_gap":
        return value > 0
    return value < float(recipe["entropy_floor"])


@pytest.mark.mlx
def test_a_healthy_run_is_stopped_by_no_guard(tmp_path: Path, model: Path) -> None:
    calm = FAST | {"iters": 12, "learning_rate": 5e-4, "beta": 0.1, "kl_ceiling": 0.5, "entropy_floor": 0.1}
    ended = supervise(rollout_job(tmp_path / "calm", model, calm | {"length_jump": 2.0}, held_out=["one", "two"]))
    assert (ended.state, ended.verdict, ended.guard) == ("finished", "", None)
    assert [row["kl"] for row in metrics(tmp_path / "calm-run") if "kl" in row][-1] > 0, "or nothing was trained"


@pytest.mark.mlx
def test_a_run_whose_rewards_never_differ_is_stopped_with_what_it_started_from(tmp_path: Path, model: Path) -> None:
    equal = 'def grade(case, text):\n    return {"honest": 0.5}\n'
    job = rollout_job(tmp_path / "equal", model, FAST | UNBOUNDED, grader_source=equal)
    ended = supervise(job)
    assert (ended.state, ended.by, ended.verdict) == ("stopped", "guard", "rewards_equal")
    folder = tmp_path / "equal-run"
    seen = metrics(folder)
    reports = [row for row in seen if "zero_variance_share" in row]
    assert ended.guard is not None
    assert ended.guard["step"] == ended.guard["patience"] == EQUAL_ROLLOUTS[1] // (4 * 16)
    assert all(row["zero_variance_share"] == 1 and row["learned_rollouts"] == 0 for row in reports)
    assert len(reports) < 400
    healthy = newest_healthy_folder(folder / "out" / "saves")
    assert healthy is not None
    assert int(healthy.name) >= ended.guard["step"], "it is no worse than its parent, only no better"
    learned = [part for name, part in load_file(healthy / "adapters.safetensors").items() if name.endswith("lora_b")]
    assert learned
    assert not any(part.any() for part in learned)


@pytest.mark.mlx
def test_rewards_that_differ_now_and_then_stop_nothing(tmp_path: Path, model: Path) -> None:
    rarely = (
        "def grade(case, text):\n"
        '    return {"honest": sum("a" <= letter <= "z" for letter in text) / 8 if case["id"] == "two" else 0.5}\n'
    )
    changes = {"batch_size": 1, "group_size": 8, "iters": 80, "learning_rate": 1e-5, "save_every": 100}
    job = rollout_job(tmp_path / "rarely", model, FAST | UNBOUNDED | changes, grader_source=rarely)
    ended = supervise(job)
    assert (ended.state, ended.verdict, ended.guard) == ("finished", "", None)
    shares = [row["zero_variance_share"] for row in metrics(tmp_path / "rarely-run") if "zero_variance_share" in row]
    assert shares.count(0.0) >= 8
    assert shares.count(1.0) > 80 // 2, "enough to be stopped for, had they come in a row"


@pytest.mark.mlx
def test_a_run_that_ends_out_of_bounds_delivers_what_it_was_before(tmp_path: Path, model: Path) -> None:
    # Nobody watches: the worker alone must not hand over what it knows to have run away.
    job = rollout_job(
        tmp_path / "late", model, FAST | UNBOUNDED | {"iters": 14, "kl_ceiling": 0.8, "learning_rate": 0.01}
    )
    found = work(job, expected=3)
    inside = [row["step"] for row in metrics(job) if row.get("kl", 9.0) <= 0.8]
    assert (found["verdict"], found["iters"], found["adapter_step"]) == ("kl_runaway", 14, inside[-1])
    kept = job / "out" / "saves" / f"{inside[-1]:07d}" / "adapters.safetensors"
    assert adapter_bytes(job) == kept.read_bytes()
    assert outcome(job)["weights"] != outcome(job)["parent_weights"]


def bounds(**changes: Any) -> Bounds:
    return Bounds(**{"kl_ceiling": 0.5, "entropy_floor": 0.2, "length_jump": 2.0, "scale": 2.0, **changes})


@pytest.mark.parametrize(
    ("kl", "entropy", "length", "fault"),
    [
        (0.4, 1.0, 1.0, ""),
        (0.6, 1.0, 1.0, "kl_runaway"),
        (0.1, 0.1, 1.0, "entropy_collapsed"),
        (0.1, 1.0, 2.5, "length_drift"),
        (0.1, 1.0, 0.4, "length_drift"),
    ],
)
def test_a_bound_is_broken_by_its_own_signal_alone_and_null_is_no_bound(
    kl: float, entropy: float, length: float, fault: str
) -> None:
    ours, without = bounds(), bounds(kl_ceiling=None, entropy_floor=None, length_jump=None)
    for each in (ours, without):
        for _ in range(FIRST_UPDATES):
            each.sampled(1.0, [0.5])
            each.learned(0.01, 1.0)
        assert each.fault == ""
        each.sampled(length, [0.5])
        each.learned(kl, entropy)
    assert ours.row() == {"entropy_share": pytest.approx(entropy), "length_ratio": pytest.approx(length)}
    assert (ours.fault, without.fault) == (fault, "")
    again = bounds()
    again.notes = json.loads(json.dumps(ours.notes))
    assert again.fault == fault, "a save keeps it"
    ours.sampled(1.0, [0.5])
    ours.learned(0.1, 1.0)
    assert ours.fault == "", "it can be left again"


@pytest.mark.parametrize(
    ("rewards", "scores", "gap"),
    [
        ([1.0, 1.1], {"a": 0.5, "b": 0.3}, 1.0),
        ([1.0, 1.1], {"a": 0.56, "b": 0.36}, 1.0),
        ([1.0, 1.1], {"a": 0.7, "b": 0.5}, 0.0),
        ([1.0, 1.1], {"a": 0.9, "b": 0.1}, 0.0),
        ([1.0, 1.1], {"c": 0.5}, 0.0),
        ([0.41, 0.39], {"a": 0.3, "b": 0.1}, 0.0),
        ([0.0, 1.9], {"a": 0.3, "b": 0.1}, 0.0),
    ],
    ids=["flat", "nearly flat", "both rose", "some rose", "no case again", "no rise", "a rise by chance"],
)
def test_a_reward_that_rises_alone_is_a_gap(rewards: list[float], scores: dict[str, float], gap: float) -> None:
    ours, first = bounds(), {"a": 0.5, "b": 0.3}
    assert ours.held_out(first) == {"reward_gain": 0.0, "held_out_gain": 0.0, "reward_gap": 0.0}
    for _ in range(FIRST_UPDATES):
        ours.sampled(1.0, [0.0, 0.8])
    assert ours.held_out(first)["reward_gap"] == 0.0, "too soon to tell"
    for _ in range(FIRST_UPDATES):
        ours.sampled(1.0, rewards)
    found = ours.held_out(scores)
    assert found["reward_gap"] == gap
    if "c" not in scores:
        assert found["held_out_gain"] == pytest.approx((scores["a"] + scores["b"] - 0.8) / 2)
    assert ours.fault == ("reward_hacking" if gap else "")


def test_without_entropy_at_the_start_there_is_no_share_to_lose() -> None:
    ours = bounds()
    ours.learned(0.0, 0.0)
    assert ours.row() == {"entropy_share": 1.0}
    ours.sampled(1.0, [])
    assert ours.held_out({"a": 0.4})["reward_gain"] == 0.0


def lengths(
    ours: Bounds, later: float, *, reward: float = 0.5, first: float = 4.0, has_references: bool = False
) -> str:
    """Return the fault after answers whose length goes from one level to another, in the unit of what is usual."""
    for _ in range(FIRST_UPDATES):
        ours.sampled(first, [0.5], has_references=has_references)
    for _ in range(FIRST_UPDATES):
        ours.sampled(later, [reward], has_references=has_references)
    return ours.fault


@pytest.mark.parametrize(
    ("later", "fault"), [(1.0, ""), (2.0, ""), (0.7, ""), (0.4, "length_drift"), (9.0, "length_drift")]
)
def test_answers_on_their_way_to_their_references_have_not_drifted(later: float, fault: str) -> None:
    assert lengths(bounds(), later, has_references=True) == fault
    assert lengths(bounds(), 1.0) == "length_drift", "without references the first updates are all there is"


@pytest.mark.parametrize(
    ("later", "reward", "fault"), [(1.0, 1.5, ""), (1.0, 0.5, "length_drift"), (9.0, 1.5, "length_drift")]
)
def test_answers_that_get_shorter_while_the_reward_rises_have_not_drifted(
    later: float, reward: float, fault: str
) -> None:
    assert lengths(bounds(), later, reward=reward) == fault
