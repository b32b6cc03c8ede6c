"""Generations sampled at saved steps: they change no bit, they stop a run that collapses, and a healthy one goes on."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agent.doing import _last_save
from state.errors import ConfigError
from tests.tools.evaluation.fake_tokenizer import FakeTokenizer
from tests.tools.evaluation.worlds import make_model, write_lines
from tests.tools.training.jobs import adapter_bytes, drive, metrics, outcome, rows, training_job
from tests.tools.training.tiny import QUICKSTART, cases, demonstrations, supervise, tables
from tools.training.samples import render_samples

BASE = QUICKSTART / "base"
SAMPLES = {"prompts": ["abc", [{"role": "user", "content": "defg"}]], "max_tokens": 12}
DROPOUT = {"rank": 2, "scale": 2.0, "dropout": 0.3}


def sampled(job: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job / "out" / "samples.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("collapse") / "model")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("data") / "train.jsonl", rows(11, 20))


@pytest.mark.mlx
def test_sampling_changes_no_bit_of_training_and_a_resumed_run_samples_the_same(
    tmp_path: Path, model: Path, train: Path
) -> None:
    recipe = {"iters": 8, "save_every": 2, "grad_checkpoint": True, "lora_parameters": DROPOUT}
    without, whole, stopped = (
        training_job(tmp_path / name, model, train, recipe=recipe, samples=samples)
        for name, samples in (("without", None), ("whole", SAMPLES), ("stopped", SAMPLES))
    )
    assert drive({"job": without}, {"job": whole}, {"job": stopped, "at_step": 5}) == [0, 0, 75]
    # As if killed after it had sampled once more than it saved.
    last = (stopped / "out" / "samples.jsonl").read_text().splitlines()[-1]
    later = json.dumps(json.loads(last) | {"step": 6, "text": "of weights that are lost"})
    (stopped / "out" / "samples.jsonl").write_text(
        (stopped / "out" / "samples.jsonl").read_text() + later + "\n", encoding="ascii"
    )
    assert drive({"job": stopped}) == [0]
    assert adapter_bytes(whole) == adapter_bytes(without)
    assert adapter_bytes(stopped) == adapter_bytes(without)
    assert sampled(stopped) == sampled(whole)
    assert [(row["step"], row["prompt"]) for row in sampled(whole)] == [
        (step, prompt) for step in (0, 2, 4, 6, 8) for prompt in (0, 1)
    ]
    assert {row["finish_reason"] for row in sampled(whole)} <= {"stop", "length"}
    assert not (without / "out" / "samples.jsonl").exists()
    first, *later_rows = (row for row in metrics(whole) if "sample_distinct" in row)
    assert (first["step"], "sample_collapsed" in first) == (0, False)
    assert [row["step"] for row in later_rows] == [2, 4, 6, 8]
    for row in later_rows:
        assert row["sample_distinct_drop"] == pytest.approx(first["sample_distinct"] - row["sample_distinct"])
        assert row["sample_longest_digits_change"] == row["sample_longest_digits"] - first["sample_longest_digits"]
        assert 0 <= row["sample_moved"] <= 1


@pytest.mark.mlx
def test_a_stop_while_samples_are_taken_keeps_them_out_and_the_run_goes_on(
    tmp_path: Path, model: Path, train: Path
) -> None:
    recipe = {"iters": 4, "save_every": 2}
    whole, at_once, midway = (
        training_job(tmp_path / name, model, train, recipe=recipe, samples=SAMPLES) for name in ("a", "b", "c")
    )
    # A report comes before the sample of its step; the first rows of all come before the parent's own.
    assert drive({"job": whole}, {"job": at_once, "at_start": True}, {"job": midway, "at_step": 2}) == [0, 75, 75]
    assert not (at_once / "out" / "samples.jsonl").exists()
    assert {row["step"] for row in sampled(midway)} == {0}
    assert drive({"job": at_once}, {"job": midway}) == [0, 0]
    assert sampled(at_once) == sampled(whole)
    assert {row["step"] for row in sampled(midway)} == {0, 4}
    assert adapter_bytes(whole) == adapter_bytes(at_once) == adapter_bytes(midway)


@pytest.mark.mlx
def test_a_run_that_collapses_is_stopped_and_judged_at_its_last_healthy_save(tmp_path: Path) -> None:
    # A rate that rises from harmless to absurd, under a large scale, over six rows again and again.
    ended = supervise(
        tmp_path / "collapsing",
        demonstrations(tmp_path / "train.jsonl", tables(6, 0, 260)),
        {"prompts": cases("regular", 4), "max_tokens": 160},
        save_every=2,
        iters=2000,
        lora_parameters={"rank": 16, "scale": 20.0, "dropout": 0.0},
        lr_schedule={"name": "linear_schedule", "arguments": [1e-6, 0.005, 14]},
    )
    folder = tmp_path / "collapsing"
    assert (ended.state, ended.by, ended.verdict) == ("stopped", "guard", "collapsed")
    seen = [row for row in metrics(folder) if "sample_collapsed" in row]
    collapsed_at = next(row["step"] for row in seen if row["sample_collapsed"])
    assert "Generations have collapsed" in seen[-1]["collapse"]
    assert metrics(folder)[-1]["step"] < 200, "it would have gone on to 2000"
    saves = {
        int(path.parent.name): json.loads(path.read_text())["is_healthy"] for path in folder.glob("out/saves/*/*.json")
        if path.name == "state.json"
    }  # fmt: skip
    healthy = max(step for step, is_healthy in saves.items() if is_healthy)
    assert healthy == collapsed_at - 2, "the healthy one is kept, however many come after it"
    assert max(saves) > healthy
    result = _last_save(Session(), Spec(), folder, ended.verdict)  # type: ignore[arg-type]
    assert result["iters"] == healthy
    assert result["adapter"] == f"out/saves/{healthy:07d}"
    then = json.loads((folder / "out" / "saves" / f"{healthy:07d}" / "state.json").read_text())
    timed = (result["steps_s"], result["padded_tokens"])
    assert timed == (then["steps_s"], then["padded_tokens"]), "the next run is planned with its steps"
    assert result["collapse"]["reasons"]
    assert {"now", "parent", "references"} <= result["collapse"].keys()


class Session:
    cache = None


class Spec:
    input: ClassVar = {"model": str(BASE)}


@pytest.mark.mlx
def test_a_run_that_collapses_by_its_end_delivers_what_it_was_before(tmp_path: Path) -> None:
    # Nobody watches: the worker alone must not hand over what it knows to be broken.
    recipe = {
        "iters": 10, "save_every": 2, "batch_size": 2, "max_seq_length": 896, "steps_per_eval": 100, "seed": 1,
        "lora_parameters": {"rank": 16, "scale": 20.0, "dropout": 0.0},
        "lr_schedule": {"name": "linear_schedule", "arguments": [1e-6, 0.02, 14]},
    }  # fmt: skip
    data = demonstrations(tmp_path / "train.jsonl", tables(6, 0, 260))["data"]["train"]
    samples = {"prompts": cases("regular", 4), "max_tokens": 160}
    late = training_job(tmp_path / "late", BASE, Path(data), recipe=recipe, samples=samples)
    once = training_job(tmp_path / "once", BASE, Path(data), recipe=recipe | {"save_every": 10}, samples=samples)
    assert drive({"job": late}, {"job": once}) == [3, 3]
    found = outcome(late)
    healthy = [row["step"] for row in metrics(late) if row.get("sample_collapsed") == 0.0]
    assert (found["verdict"], found["iters"], found["adapter_step"]) == ("collapsed", 10, healthy[-1])
    kept = late / "out" / "saves" / f"{healthy[-1]:07d}" / "adapters.safetensors"
    assert adapter_bytes(late) == kept.read_bytes()
    assert found["collapse"]["reasons"]
    assert (outcome(once)["verdict"], outcome(once)["adapter_step"]) == ("collapsed", 10), "there is no other"


@pytest.mark.mlx
def test_a_healthy_run_over_long_tables_changes_what_is_generated_and_no_guard_fires(tmp_path: Path) -> None:
    ended = supervise(
        tmp_path / "healthy",
        demonstrations(tmp_path / "train.jsonl", tables(12, 500, 700)),
        {"prompts": cases("stress", 3), "max_tokens": 400},
        save_every=8,
        iters=16,
        learning_rate=1e-3,
    )
    assert (ended.state, ended.verdict, ended.guard) == ("finished", "", None)
    seen = [row for row in metrics(tmp_path / "healthy") if "sample_collapsed" in row]
    assert [row["sample_collapsed"] for row in seen] == [0.0, 0.0]
    assert seen[-1]["sample_moved"] > 0, "or nothing was trained"


def test_prompts_are_rendered_as_evaluation_renders_cases() -> None:
    tokenizer = FakeTokenizer()
    text, messages, case, tokens = render_samples(
        tokenizer,
        ["hi", [{"role": "user", "content": "hi"}], {"id": "a", "prompt": "hi", "reference": "x"}, [5, 6]],
        "be brief",
    )
    assert text == messages == case
    assert tokens == [5, 6]
    assert len(text) > len(render_samples(tokenizer, ["hi"], None)[0])


@pytest.mark.parametrize("prompt", [7, [], ["a", 1], {"id": "a"}, {"messages": []}])
def test_a_prompt_that_is_none_is_refused_by_its_place(prompt: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        render_samples(FakeTokenizer(), ["fine", prompt], None)
    assert caught.value.sentence == "`samples.prompts` 1 is neither a text, nor messages, a case or token ids."
