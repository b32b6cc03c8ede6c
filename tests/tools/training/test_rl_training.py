"""Runs over graded rollouts: the optimum is reached, bytes after a resume, what is logged, and what is refused."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from state.hashing import hash_bytes
from tests.tools.evaluation.worlds import make_adapter, make_model
from tests.tools.training.jobs import adapter_bytes, drive, metrics, outcome, run, saved_steps, work
from tests.tools.training.rl import CASES, GRADER, rolled, rollout_job
from tools.training.progress import Progress, seal

pytestmark = pytest.mark.mlx

DROPOUT = {"rank": 2, "scale": 2.0, "dropout": 0.3}
OPTIMUM: dict[str, Any] = {
    "iters": 30,
    "batch_size": 4,
    "group_size": 16,
    "beta": 0.0,
    "update_microbatch": 64,
    "rollout_concurrency": 64,
    "lora_parameters": {"rank": 8, "scale": 4.0, "dropout": 0.0},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("rl") / "model")


@pytest.mark.parametrize(
    "recipe", [{}, {"updates_per_batch": 2, "loss_type": "bnpo", "iters": 64}], ids=["dr_grpo", "bnpo twice"]
)
def test_a_task_of_known_optimum_reaches_it(tmp_path: Path, model: Path, recipe: dict[str, Any]) -> None:
    job = rollout_job(tmp_path / "job", model, OPTIMUM | recipe, held_out=["one", "five"])
    found = work(job)
    seen = [row for row in metrics(job) if "reward" in row]
    assert seen[0]["reward"] < 0.1, "one letter in twenty by chance"
    assert max(row["reward"] for row in seen[-3:]) > 0.95, "every token an honest letter earns 1"
    entropies = [row["entropy"] for row in seen if "entropy" in row]
    assert entropies[-1] < 0.2 * entropies[0]
    first, *_, last = (row for row in metrics(job) if "held_out_score" in row)
    assert (first["step"], last["step"]) == (0, found["iters"])
    assert first["held_out_honest"] < 0.2
    assert last["held_out_honest"] > 0.9, "a case like those it learned from"
    if recipe:
        assert max(row["clip_share"] for row in metrics(job) if "clip_share" in row) > 0, "the second update clips"


def test_tied_to_its_parent_a_policy_ends_where_reward_and_tie_balance(tmp_path: Path) -> None:
    done = run("tests.tools.training.inside_rl", "bandit", str(tmp_path), str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    # As in the child process. The estimator's slope is that of the parent's divergence from the policy, so the optimum
    # of reward - beta KL(parent || policy) is beta parent / (level - reward), with the level at which shares sum to 1;
    # a group of 256 compares each answer with itself too, which takes a 256th of its reward.
    beta, rewards = 0.5, np.array([1.0, 0.8, 0.5, 0.2, 0.0, 0.0]) * (1 - 1 / 256)
    parent = np.array(found["parent"])
    low, high = rewards.max() + 1e-9, rewards.max() + beta + 1
    for _ in range(200):
        level = (low + high) / 2
        low, high = (level, high) if (beta * parent / (level - rewards)).sum() > 1 else (low, level)
    optimum = beta * parent / (level - rewards)
    assert np.abs(optimum - parent).max() > 0.1, "or standing still would do"
    assert found["shares"] == pytest.approx(optimum, abs=0.02)


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"lora_parameters": DROPOUT, "optimizer": "adam"},
    "twice": {"updates_per_batch": 2, "lora_parameters": DROPOUT, "loss_type": "grpo", "epsilon_high": 0.28},
    "masked": {
        "truncated": "mask",
        "scale_rewards": False,
        "temperature": 1.3,
        "max_completion_length": 160,
        "max_seq_length": 256,
    },
    "dora": {"fine_tune_type": "dora", "loss_type": "bnpo", "reward_penalties": {"short": 0.5}},
    "full": {"fine_tune_type": "full", "num_layers": 1, "learning_rate": 0.001, "grad_checkpoint": True},
}


def test_every_way_to_learn_resumes_to_the_same_bytes(tmp_path: Path, model: Path) -> None:
    jobs = {
        name: [
            rollout_job(
                tmp_path / f"{name}{n}", model, changes | {"save_every": 2, "steps_per_eval": 2}, held_out=["two"]
            )
            for n in range(2)
        ]
        for name, changes in VARIANTS.items()
    }
    steps = [({"job": whole}, {"job": stopped, "at_step": 3}) for whole, stopped in jobs.values()]
    assert drive(*(step for pair in steps for step in pair)) == [0, 75] * len(jobs)
    assert drive(*({"job": stopped} for _, stopped in jobs.values())) == [0] * len(jobs)
    for name, (whole, stopped) in jobs.items():
        assert outcome(stopped)["resumed_from"] == (4 if name == "twice" else 3), name
        assert adapter_bytes(stopped) == adapter_bytes(whole), name
        assert rolled(stopped) == rolled(whole), name
        assert len(rolled(whole)) == (3 if name == "twice" else 6) * 2 * 4, name
        same = ("trained_tokens", "padded_tokens", "rows_seen_share", "weights")
        assert {key: outcome(stopped)[key] for key in same} == {key: outcome(whole)[key] for key in same}, name
        kl = [row["kl"] for row in metrics(whole) if "kl" in row]
        assert kl[0] == pytest.approx(0, abs=1e-6), "policy and parent are the same at first"
        assert kl[-1] > 1e-5, name


def test_a_run_over_rollouts_that_goes_on_from_another_samples_and_gives_what_the_whole_would(
    tmp_path: Path, model: Path
) -> None:
    changes = VARIANTS["twice"] | {"steps_per_eval": 2}
    whole = rollout_job(tmp_path / "whole", model, changes, held_out=["two"])
    short = rollout_job(tmp_path / "short", model, changes | {"iters": 4}, held_out=["two"])
    save = short / "out" / "saves" / "0000004"
    longer = rollout_job(tmp_path / "longer", model, changes, held_out=["two"], continue_from=str(save))
    assert drive({"job": whole}, {"job": short}, {"job": longer}) == [0, 0, 0]
    assert adapter_bytes(longer) == adapter_bytes(whole)
    assert rolled(short) + rolled(longer) == rolled(whole)


def as_an_older_version_left_it(job: Path) -> None:
    """Take from a job what today's version writes and earlier ones did not, and what they had by default."""
    spec = json.loads((job / "job.json").read_text())
    assert spec["input"]["recipe"].pop("truncation_penalty") == 0
    (job / "job.json").write_text(json.dumps(spec))
    [save] = (job / "out" / "saves").iterdir()
    config = json.loads((save / "adapter_config.json").read_text())
    assert config.pop("truncated") == "penalize", "before there was the key, what was cut was charged"
    (save / "adapter_config.json").write_text(json.dumps(config))
    seal(save, replace(Progress.from_json(json.loads((save / "state.json").read_text())), probe_loss=9.0, probed=""))
    state = json.loads((save / "state.json").read_text())
    for name in ("probed", "continued_from", "begun_anew"):
        del state[name]
    del state["seal"]
    (save / "state.json").write_text(
        json.dumps({**state, "seal": hash_bytes(json.dumps(state, sort_keys=True).encode())})
    )


def test_a_killed_run_goes_on_from_its_last_save_by_its_own_recipe_and_samples_the_lost_rollouts_again(
    tmp_path: Path, model: Path
) -> None:
    whole, killed = (rollout_job(tmp_path / name, model, {"save_every": 4}) for name in ("whole", "killed"))
    assert drive({"job": whole}) == [0]
    step = {"job": str(killed), "signal": "SIGKILL", "at_step": 5}
    assert run("tests.tools.training.driver", json.dumps([step])).returncode == -signal.SIGKILL
    assert saved_steps(killed) == [4]
    # As a kill in the middle of a line leaves it.
    with (killed / "out" / "rollouts.jsonl").open("a") as stream:
        stream.write('{"update": 6, "cas')
    as_an_older_version_left_it(killed)
    assert drive({"job": killed}) == [0]
    made_by = json.loads((killed / "out" / "adapter" / "run.json").read_text())["recipe"]
    assert made_by["truncated"] == "penalize", "the default is another by now: what began goes on as it began"
    [resumed] = [row for row in metrics(killed) if "resumed_from" in row]
    assert resumed["warning"].endswith("on others than now: it is not compared"), "nor is it refused"
    assert adapter_bytes(killed) == adapter_bytes(whole)
    assert rolled(killed) == rolled(whole)


def test_whenever_a_stop_is_asked_for_the_run_goes_on_to_the_same_bytes(tmp_path: Path, model: Path) -> None:
    job = rollout_job(tmp_path / "job", model, {"iters": 3}, held_out=["two"])
    done = run("tests.tools.training.inside_rl", str(job), str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["whole"]) == 64
    assert found["asked"] > 30, "asked between all decoding steps"
    assert {row["bytes"] for row in found["stopped"]} == {found["whole"]}
    assert {row["at"] for row in found["stopped"]} >= {0, 1, 2}, "stops at every step of the run"


def first_loss(job: Path) -> tuple[float, float]:
    """Return the loss told of the first update that learned, and the papers' by the log: ratios are 1, divergence 0."""
    row = next(row for row in metrics(job) if "train_loss" in row)
    kept = [line for line in rolled(job) if line["update"] == row["step"] and line["reward"] is not None]
    cases = {line["case"]: {other["reward"] for other in kept if other["case"] == line["case"]} for line in kept}
    learned = [line for line in kept if len(cases[line["case"]]) > 1]
    assert row["learned_rollouts"] == len(learned) > 0
    recipe = json.loads((job / "job.json").read_text())["input"]["recipe"]
    kind, budget = recipe.get("loss_type", "dr_grpo"), recipe["max_completion_length"]
    size = {"dr_grpo": len(learned) * budget, "bnpo": sum(line["output_tokens"] for line in learned)}[kind]
    return row["train_loss"], -sum(line["advantage"] * line["output_tokens"] for line in learned) / size


@pytest.mark.parametrize("kind", ["dr_grpo", "bnpo"])
def test_the_loss_of_an_update_is_the_mean_over_the_rollouts_that_have_a_reward(
    tmp_path: Path, model: Path, kind: str
) -> None:
    source = 'def grade(case, text):\n    return {"honest": None if len(text) % 3 == 0 else len(text) / 40}\n'
    recipe = {"loss_type": kind, "iters": 4, "max_completion_length": 40, "group_size": 8, "scale_rewards": False}
    job = rollout_job(tmp_path / "job", model, recipe, grader_source=source)
    work(job)
    told, by_hand = first_loss(job)
    assert any(line["reward"] is None for line in rolled(job) if line["update"] == 1)
    assert abs(by_hand) > 1e-4, "lengths differ, or any number of rollouts gives 0"
    assert told == pytest.approx(by_hand, rel=1e-4)


def test_micro_batches_and_concurrency_change_memory_and_not_the_update(tmp_path: Path, model: Path) -> None:
    one, many = (
        rollout_job(tmp_path / str(size), model, {"iters": 1, "update_microbatch": size, "optimizer": "sgd"})
        for size in (1, 8)
    )
    assert drive({"job": one}, {"job": many}) == [0, 0]
    ours, theirs = (load_file(job / "out/adapter/adapters.safetensors") for job in (one, many))
    assert all(np.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)
    assert rolled(one) == rolled(many)


def test_each_update_tells_rewards_lengths_speed_and_memory_and_every_rollout_is_kept(
    tmp_path: Path, model: Path
) -> None:
    recipe = {"reward_weights": {"honest": 1.0, "easy": 0.5}, "reward_penalties": {"short": 0.25}}
    job = rollout_job(tmp_path / "job", model, recipe, held_out=["two", "four"], signs={"honest": 1, "short": -1})
    found = work(job)
    rows = [row for row in metrics(job) if "reward" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for row in rows:
        kept = [line for line in rolled(job) if line["update"] == row["step"]]
        assert len(kept) == row["rollouts"] == 8
        assert len({line["case"] for line in kept}) == 2
        for line in kept:
            parts = line["metrics"]
            assert line["reward"] == pytest.approx(parts["honest"] + 0.5 * parts["easy"] - 0.25 * parts["short"])
        assert row["reward"] == pytest.approx(np.mean([line["reward"] for line in kept]))
        for name in ("honest", "easy", "short"):
            values = [line["metrics"][name] for line in kept]
            assert row[f"reward_{name}"] == pytest.approx(np.mean(values))
            assert row[f"reward_{name}_std"] == pytest.approx(np.std(values))
        lengths = [line["output_tokens"] for line in kept]
        assert (row["completion_length_min"], row["completion_length_max"]) == (min(lengths), max(lengths))
        assert row["truncated_share"] == sum(line["finish_reason"] == "length" for line in kept) / 8
        groups = [[line["reward"] for line in kept[at : at + 4]] for at in (0, 4)]
        equal = [len(set(group)) == 1 for group in groups]
        assert row["zero_variance_share"] == sum(equal) / 2
        assert row["learned_rollouts"] == 4 * (2 - sum(equal))
        assert all(row[name] > 0 for name in ("generation_tokens_per_s", "grading_per_s", "peak_memory_gb"))
        if row["learned_rollouts"]:
            assert all(row[name] > 0 for name in ("entropy", "grad_norm", "tokens_per_s", "scoring_tokens_per_s"))
            assert all(name in row for name in ("kl", "clip_share", "train_loss", "entropy_share"))
    assert found["reward"] == {"weights": recipe["reward_weights"], "penalties": recipe["reward_penalties"]}
    assert found["rows"] == len(CASES)
    assert found["rows_seen_share"] == 0.8, "the fifth of five is drawn in another epoch"
    assert {line["case"] for line in rolled(job)} == {case["id"] for case in CASES}
    looks = [row for row in metrics(job) if "held_out_score" in row]
    assert [row["step"] for row in looks] == [0, 6]
    for row in looks:
        assert row["held_out_score"] == pytest.approx((row["held_out_honest"] - row["held_out_short"]) / 2)
    kept_out = [json.loads(line) for line in (job / "out" / "held_out.jsonl").read_text().splitlines()]
    assert [(row["step"], row["case"]) for row in kept_out] == [(0, "two"), (0, "four"), (6, "two"), (6, "four")]


def test_the_sampled_tokens_are_learned_with_their_end_and_their_log_probabilities_are_the_samplers(
    tmp_path: Path, model: Path
) -> None:
    done = run("tests.tools.training.inside_rl", "exact", str(model), str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rows"] == 24
    assert found["ended"] > 0
    assert found["ends"] == ["1"], "the end token that was sampled is learned"
    assert found["difference"] < 2e-5, "what generation saw is what the update scores, temperature included"
    assert found["again"], "the same seed and update sample the same tokens"
    assert found["alone"], "whatever is decoded beside them"
    assert not found["other"], "another update samples others"


def test_a_prompt_computed_once_or_widths_rounded_up_give_the_same_loss_and_gradient(
    tmp_path: Path, model: Path
) -> None:
    done = run("tests.tools.training.inside_rl", "shared", str(model), str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for kind in ("lora", "dora", "full"):
        seen = found[kind]
        assert seen["loss"][1:] == [pytest.approx(seen["loss"][0], rel=1e-5)] * 2
        assert [side % 32 for side in seen["width"]] == [0, 0]
        assert seen["figures"] < 1e-4
        assert seen["gradient"] < 1e-5 * seen["largest"], kind
        assert seen["tokens"][1] < seen["tokens"][0] / 1.5
    assert found["can"] == [True, True]
    assert not found["deaf"], "a model that gives other logits this way computes row by row"
    assert not found["rotating"], "and one whose layers do not keep all positions"


@pytest.mark.parametrize("changes", [{}, {"batch_size": 8}, {"updates_per_batch": 2, "iters": 2}], ids=str)
def test_an_update_is_the_same_however_prompts_are_computed(
    tmp_path: Path, model: Path, changes: dict[str, Any]
) -> None:
    # Of five cases eight are drawn: some twice.
    plain = {"iters": 1, "group_size": 4, "batch_size": 2, **changes}
    ways: dict[str, dict[str, Any]] = {
        "shared": {"update_microbatch": 2},
        "apart": {"update_microbatch": 64},
        "twice": {"grad_checkpoint": True},
    }
    jobs = {name: rollout_job(tmp_path / name, model, {**plain, **way}) for name, way in ways.items()}
    assert set(drive(*({"job": job} for job in jobs.values()))) == {0}
    told = {name: [row for row in metrics(job) if "train_loss" in row] for name, job in jobs.items()}
    assert {name: {"prompts_shared" in row for row in rows} for name, rows in told.items()} == {
        "shared": {True},
        "apart": {False},
        "twice": {False},
    }
    for name in ("shared", "twice"):
        for one, two in zip(told[name], told["apart"], strict=True):
            assert one["learned_rollouts"] == two["learned_rollouts"] > 0
            for figure in ("train_loss", "grad_norm", "kl", "entropy"):
                assert one[figure] == pytest.approx(two[figure], rel=1e-4, abs=1e-6), (name, figure)
    for first, *later in told.values():
        # In float32 the sampler, whose weights are merged, says what the training's own pass says up to rounding.
        assert 0 < first["sampler_ratio_spread"] < 1e-4
        if later:
            assert first["ratio_spread"] < 1e-5, "before the first update the ratio is 1"
            assert later[0]["ratio_spread"] > 1e-3
            assert "sampler_ratio_spread" not in later[0], "nothing was sampled"


def test_adapters_are_in_dense_weights_while_answers_are_generated_and_say_the_same(
    tmp_path: Path, model: Path
) -> None:
    done = run("tests.tools.training.inside_rl", "merged", str(model), str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    kinds = ("float32", "bfloat16", "quantized", "dora")
    assert [found[name]["form"] for name in kinds] == ["merged", "merged", "apart", "merged"]
    for name in ("float32", "quantized", "dora"):
        assert found[name]["moved"] > 1e-2
        assert found[name]["difference"] < 1e-4 * found[name]["moved"] + 1e-5, name
        assert found[name]["fused"] < 1e-3 * found[name]["moved"], name
    assert found["bfloat16"]["dtype"] == "mlx.core.bfloat16", "adapters in float32 do not make the layers after them so"
    for name in kinds:
        assert found[name]["is_put_back"], name
        assert found[name]["forms"] == ["apart", "fused", True, True], name
        assert found[name]["trainable"] > 0
        without, _, little, _, plenty, _ = found[name]["room"]
        assert without.startswith("fused, its weights would take 0.00 GB beside those that it is loaded with"), name
        assert (bool(little), plenty) == (True, ""), name
        assert found[name]["room"][1::2] == ["", "", ""], "beside its base nothing is held twice"
    assert found["nearest"]["kept"] == 0, "a small delta is rounded away in bfloat16"
    assert found["random"]["kept"] == pytest.approx(1, abs=0.05), "and is there on average where chance rounds"
    assert found["random"] == found["again"] != found["other"]
    assert found["no memory"] == {"form": "apart", "is_lean": True}


def test_the_parent_of_a_run_that_goes_on_from_an_adapter_is_that_adapter(tmp_path: Path, model: Path) -> None:
    adapter = make_adapter(tmp_path / "parent", scale=2.0)
    shape = {"rank": 2, "scale": 2.0, "dropout": 0.0, "keys": ["self_attn.q_proj", "self_attn.v_proj"]}
    job = rollout_job(tmp_path / "job", model, {"lora_parameters": shape, "beta": 1.0}, parent_adapter=adapter)
    work(job)
    kl = [row["kl"] for row in metrics(job) if "kl" in row]
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert 0 < kl[-1] < 0.5
    done = run("mlx_lm", "generate", "--model", str(model), "--adapter-path", str(job / "out" / "adapter"),
               "--prompt", "abc", "--max-tokens", "3")  # fmt: skip
    assert done.returncode == 0, done.stderr


BROKEN = {
    "raises": ("    raise ValueError('no')", {}, "grade raised ValueError: no"),
    "hangs": ("    import time\n    time.sleep(600)", {"timeout_s": 0.2}, "no answer within 0.2 s"),
    "lacks": ("    return {'other': 1.0}", {}, "The reward is made of honest, and the grader answers with other; "),
    "says None": ("    return {'honest': None}", {}, "None of 24 rollouts in 3 updates has a reward: "),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_grader_that_can_tell_nothing_ends_the_run_in_one_sentence(tmp_path: Path, model: Path, name: str) -> None:
    body, options, said = BROKEN[name]
    source = f"def grade(case, text):\n{body}\n"
    job = rollout_job(tmp_path / "job", model, {"iters": 3}, grader_source=source, grader=options)
    assert said in work(job, expected=2)["sentence"]
    assert "\n" not in outcome(job)["sentence"]


def test_a_case_that_the_grader_hangs_on_costs_its_own_group_alone(tmp_path: Path, model: Path) -> None:
    source = (
        GRADER
        + """
whole = grade

def grade(case, text):
    if case["id"] in ("one", "two"):
        import time
        time.sleep(600)
    return whole(case, text)
"""
    )
    recipe = {"iters": 3, "group_size": 6, "steps_per_eval": 3}
    job = rollout_job(
        tmp_path / "job", model, recipe, grader_source=source, grader={"timeout_s": 0.2}, held_out=["three"]
    )
    work(job)
    rows = rolled(job)
    assert {row["case"] for row in rows} >= {"one", "three"}
    assert all(bool(row["grader_error"]) == (row["case"] in {"one", "two"}) for row in rows)
    assert all("held_out_honest" in row for row in metrics(job) if "held_out_tokens" in row)


def test_rollouts_that_serve_several_updates_are_one_observation_of_their_length(tmp_path: Path, model: Path) -> None:
    job = rollout_job(tmp_path / "job", model, {"updates_per_batch": 3})
    work(job)
    assert [row["step"] for row in metrics(job) if "length_ratio" in row] == [1, 4]
    assert [row["step"] for row in metrics(job) if "learned_rollouts" in row] == [1, 2, 3, 4, 5, 6]


def test_a_rollout_that_the_grader_cannot_tell_is_counted_and_left_out(tmp_path: Path, model: Path) -> None:
    source = (
        GRADER
        + """
whole = grade

def grade(case, text):
    found = whole(case, text)
    if case["id"] in ("one", "two"):
        raise ValueError("this case is too hard")
    if len(text) % 3 == 0:
        return found | {"honest": None}
    return found
"""
    )
    job = rollout_job(tmp_path / "job", model, {"iters": 10}, grader_source=source)
    work(job)
    rows = rolled(job)
    hard = [row for row in rows if row["case"] in {"one", "two"}]
    untold = [row for row in rows if row not in hard and row["characters"] % 3 == 0]
    assert hard
    assert untold
    assert all("grade raised ValueError: this case is too hard" in row["grader_error"] for row in hard)
    assert all((row["reward"], row["advantage"]) == (None, 0.0) for row in (*hard, *untold)), "and never zero instead"
    seen = [row for row in metrics(job) if "rollouts" in row]
    assert sum(row["grader_errors"] for row in seen) == len(hard)
    assert sum(row["rewards_missing"] for row in seen) == len(hard) + len(untold)
    known = [row["reward"] for row in rows if row["update"] == seen[-1]["step"] and row["reward"] is not None]
    assert seen[-1].get("reward") == (pytest.approx(np.mean(known)) if known else None)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no reward": ({"reward_weights": None}, {}, "Nothing says what a rollout earns; "),
    "long prompt": (
        {},
        {"cases": [{"id": "long", "prompt": "a" * 70}]},
        "the prompt of case long has 73 tokens, and recipe.max_seq_length less recipe.max_completion_length leaves 56",
    ),
    "no grader": ({}, {"grader": {"file": "/nowhere/grade.py"}}, "The grader file /nowhere/grade.py does not exist"),
}


def test_what_cannot_be_rolled_out_is_refused_before_the_first_step(tmp_path: Path, model: Path) -> None:
    jobs = {
        name: rollout_job(tmp_path / str(n), model, recipe, **inputs)
        for n, (name, (recipe, inputs, _)) in enumerate(REFUSED.items())
    }
    assert drive(*({"job": job} for job in jobs.values())) == [2] * len(jobs)
    for name, job in jobs.items():
        assert REFUSED[name][2] in outcome(job)["sentence"], name


def test_updates_that_teach_nothing_leave_the_weights_and_are_told(tmp_path: Path, model: Path) -> None:
    same = "def grade(case, text):\n    return {'honest': 1.0}\n"
    job = rollout_job(tmp_path / "job", model, {"iters": 2, "fine_tune_type": "lora"}, grader_source=same)
    found = work(job)
    assert [row["zero_variance_share"] for row in metrics(job) if "rollouts" in row] == [1.0, 1.0]
    assert not any("train_loss" in row for row in metrics(job))
    assert found["trained_tokens"] == 0
    weights = load_file(job / "out/adapter/adapters.safetensors")
    assert all(not value.any() for name, value in weights.items() if name.endswith("lora_b"))


def test_private_rollouts_leave_no_text_and_teach_the_same(tmp_path: Path, model: Path) -> None:
    source = (
        GRADER
        + """
whole = grade

def grade(case, text):
    if case["id"] == "two":
        raise ValueError(case["prompt"] + text)
    return whole(case, text)
"""
    )
    cases = [dict(case, prompt=f"canary{n}") for n, case in enumerate(CASES)]
    kept, private = (
        rollout_job(
            tmp_path / name, model, {}, privacy=name, cases=cases, grader_source=source, held_out=["one", "four"]
        )
        for name in ("keep", "redact")
    )
    assert drive({"job": kept}, {"job": private, "at_step": 3}) == [0, 75]
    assert drive({"job": private}) == [0]
    assert adapter_bytes(private) == adapter_bytes(kept)
    seen = {name: "".join(p.read_text("utf-8", "replace") for p in job.rglob("*.json*")) for name, job in
            {"kept": kept, "private": private}.items()}  # fmt: skip
    assert "canary" in seen["kept"], "or the test looks at nothing"
    assert "canary" not in seen["private"]
    texts = [row["text"] for row in rolled(kept) if len(row["text"]) > 3]
    assert texts
    assert not any(json.dumps(text)[1:-1] in seen["private"] for text in texts)
    blank = [row | {"text": "", "grader_error": ""} for row in rolled(kept)]
    assert [row | {"grader_error": ""} for row in rolled(private)] == blank
