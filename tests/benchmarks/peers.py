"""Our three instruments against mlx-lm and mlx-lm-lora: same weights, same rows, same machine, in turns in one process.

    python -m tests.benchmarks.peers [--shape tiny|qwen2.5-0.5b] [--rounds 2] [--only sft,dpo,decode,grpo]

The peers live in an environment of their own (`.bench-peers`, made on the first call), never in the project's. What
is timed is each library's own training function: of demonstrations and pairs the second of two epochs, by when kernels,
plans and traces of every shape are there; of rollouts the whole, after one round that does not count. `tiny` is the
quickstart's base in float32; `qwen2.5-0.5b` has that model's shape with random bfloat16 weights, for a GPU.
mlx-lm-lora's DPO asks for a device property that only Metal has; it is given one, and nothing else of it is changed.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tools.machine.blas import worker_env

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "runbooks" / "quickstart"
PEERS = ("mlx-lm-lora==5.10.2", "mlx==0.32.4", "mlx-lm==0.32.2", "pydantic", "psutil", "pyyaml")
QWEN = {
    "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "intermediate_size": 4864,
    "num_attention_heads": 14, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "vocab_size": 151_936,
    "rope_theta": 1_000_000.0, "tie_word_embeddings": True, "max_position_embeddings": 32_768,
}  # fmt: skip

GRADE = '''"""A cheap reward: what is timed is the training around it."""

from itertools import count

GOLDEN = 0.6180339887498949
calls = count(1)


def grade(case: dict, text: str) -> dict[str, float | None]:
    """Pay each answer differently, whatever it says: random weights say nothing that a grader could tell apart."""
    return {"score": next(calls) * GOLDEN % 1.0}
'''


class Rewards:
    """The rewards of `GRADE` for the peers: equal ones would teach nothing, and ours skips what teaches nothing."""

    def __init__(self) -> None:
        self._calls = 0

    def __call__(self, completions: Sequence[Any]) -> list[float]:
        """Return a reward for each."""
        first, self._calls = self._calls + 1, self._calls + len(completions)
        return [number * GOLDEN % 1.0 for number in range(first, self._calls + 1)]


GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Size:
    """How much is trained per round.

    Args:
        rows: Rows of demonstrations of an epoch.
        batch_size: Rows of a step.
        pairs: Preference pairs of an epoch.
        pair_batch: Pairs of a step.
        prompts: Prompts of a rollout update.
        group_size: Rollouts of each.
        new_tokens: Longest rollout.
        updates: Rollout updates.
        microbatch: Rollouts that ours computes together in an update; a GPU wants many, a CPU rows of like length.
    """

    rows: int
    batch_size: int
    pairs: int
    pair_batch: int
    prompts: int
    group_size: int
    new_tokens: int
    updates: int
    microbatch: int


SIZES = {"tiny": Size(48, 8, 24, 4, 4, 8, 48, 2, 8), "qwen2.5-0.5b": Size(256, 16, 128, 8, 8, 16, 64, 2, 32)}
MAX_SEQ_LENGTH = 1024

Timed = tuple[float, float]
"""Seconds, and what was done in them: real tokens, pairs or sampled tokens."""


def environment() -> Path:
    """Return the Python of the peers' environment, made when it is missing."""
    folder = ROOT / ".bench-peers"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        extra = "mlx[cpu]==0.32.4" if sys.platform == "linux" else "mlx==0.32.4"
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS, extra, "datasets"], check=True)
        (folder / "ready").touch()
    return python


class World:
    """Weights, rows, pairs and prompts that both sides are given."""

    def __init__(self, shape: str, folder: Path) -> None:
        from tools.models.load import load_tokenizer

        self.shape = shape
        self.size = SIZES[shape]
        self.folder = folder
        self.tokenizer = load_tokenizer(QUICKSTART / "base")
        self._turn = 0
        lines = (QUICKSTART / "data" / "train.jsonl").read_text().splitlines()
        self.rows = [json.loads(line) for line in lines]
        self.grader = folder / "grade.py"
        self.grader.write_text(GRADE)

    def model(self) -> Any:
        """Return the weights, the same each time."""
        import mlx.core as mx

        if self.shape == "tiny":
            from tools.models.load import load_model

            return load_model(QUICKSTART / "base", None, "float32")[0]
        from mlx_lm.models.qwen2 import Model, ModelArgs

        mx.random.seed(0)
        model = Model(ModelArgs(**QWEN))
        model.set_dtype(mx.bfloat16)
        mx.eval(model.parameters())
        return model

    def out(self) -> Path:
        """Return a fresh folder."""
        self._turn += 1
        found = self.folder / str(self._turn)
        found.mkdir()
        return found

    def data(self) -> list[Any]:
        """Return demonstrations as tokens."""
        from tools.evaluation.rendered import Source
        from tools.training.data import read_rows

        path = self.folder / "train.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in self.rows[: self.size.rows]))
        return read_rows(Source(path), self.tokenizer, max_seq_length=MAX_SEQ_LENGTH, mask_prompt=True, truncate=False)

    def pairs(self) -> list[Any]:
        """Return pairs as tokens: an answer against its first half."""
        from tools.evaluation.rendered import Source
        from tools.training.preferences import read_pairs

        path = self.folder / "pairs.jsonl"
        with path.open("w") as stream:
            for row in self.rows[: self.size.pairs]:
                *prompt, answer = row["messages"]
                lines = answer["content"].splitlines()
                rejected = "\n".join(lines[: max(1, len(lines) // 2)])
                stream.write(json.dumps({"prompt": prompt, "chosen": answer["content"], "rejected": rejected}) + "\n")
        return read_pairs(Source(path), self.tokenizer, max_seq_length=MAX_SEQ_LENGTH, truncate=False)

    def prompts(self) -> list[list[int]]:
        """Return the prompts of all rollout updates as tokens."""
        from tools.evaluation.prompts import render_prompt

        wanted = self.size.prompts * self.size.updates
        cases = [{"id": str(n), "messages": row["messages"][:-1]} for n, row in enumerate(self.rows[:wanted])]
        return [render_prompt(self.tokenizer, case, None) for case in cases]


def _recipe(instrument: str, **changes: Any) -> Any:
    from tools.training.recipe import validate_recipe

    common = {
        "max_seq_length": MAX_SEQ_LENGTH,
        "learning_rate": 1e-5,
        "lora_parameters": {"rank": 8, "scale": 2.0, "dropout": 0.0},
        "save_every": 1_000_000,
        "steps_per_eval": 1_000_000,
    }
    return validate_recipe({**common, **changes}, instrument)


def _trained(world: World, recipe: Any, build: Callable[[Any], Any], warm: int = 0) -> float:
    """Return the seconds that our loop takes after so many steps, the first of which it reports."""
    from tools.training.loop import Training, build_optimizer, prepare

    model = world.model()
    prepare(model, recipe, None)
    objective = build(model)
    began: list[float] = []
    is_learning = False

    def emit(row: dict[str, Any]) -> None:
        nonlocal is_learning
        is_learning |= bool(row.get("grad_norm"))
        if row["step"] == warm:
            began.append(time.perf_counter())

    training = Training(
        model=model,
        optimizer=build_optimizer(recipe),
        recipe=recipe,
        objective=objective,
        folder=world.out(),
        emit=emit,
        should_stop=lambda: False,
    )
    # A save is no step; the peers write theirs outside what is timed too.
    training._save = lambda: None  # type: ignore[method-assign]
    began.append(time.perf_counter())
    training.run()
    seconds = time.perf_counter() - began[-1]
    if not is_learning:
        raise RuntimeError("Nothing was learned, so this is no time of a training.")
    return seconds


def _peer_model(world: World, recipe: Any) -> Any:
    from tools.training.loop import prepare

    model = world.model()
    prepare(model, recipe, None)
    return model


class _Reports:
    """Notes when a peer reported first, which it does at the end of its first epoch."""

    def __init__(self) -> None:
        self.first = 0.0

    def on_train_loss_report(self, _row: Any) -> None:
        self.first = self.first or time.perf_counter()

    def on_val_loss_report(self, _row: Any) -> None:
        """Nothing is validated."""


def _quietly(train: Callable[[], Any], reports: _Reports | None = None) -> float:
    """Return the seconds that a peer takes, from its first report on where reports are noted."""
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        train()
    return time.perf_counter() - (reports.first if reports else started)


# Demonstrations


def sft_ours(world: World) -> Timed:
    """An epoch by our loop; real tokens."""
    from tools.training.objective import Demonstrations

    rows = world.data()
    steps = -(-len(rows) // world.size.batch_size)
    recipe = _recipe("sft", batch_size=world.size.batch_size, iters=2 * steps, steps_per_report=steps)
    seconds = _trained(world, recipe, lambda _model: Demonstrations(recipe, rows, []), warm=steps)
    return seconds, sum(len(row.tokens) for row in rows)


def sft_stock(world: World) -> Timed:
    """As many batches by mlx-lm's trainer on the data set that `mlx_lm.lora` gives it, whose rows it cannot sort."""
    from mlx_lm.tuner.datasets import CacheDataset, ChatDataset

    dataset = CacheDataset(ChatDataset(world.rows[: world.size.rows], world.tokenizer, mask_prompt=True))
    # Tokenized here, as ours is, outside the measured time.
    all(dataset[place] for place in range(len(dataset)))
    return _sft_stock(world, dataset)


def sft_stock_sorted(world: World) -> Timed:
    """The same on bare lists, which it sorts by length: its best, out of reach of `mlx_lm.lora`."""
    return _sft_stock(world, [(row.tokens, row.learned_from) for row in world.data()])


def _sft_stock(world: World, dataset: Any) -> Timed:
    import mlx.optimizers as optim
    from mlx_lm.tuner.trainer import TrainingArgs, iterate_batches, train

    spans: list[Any] = []

    def recorded(*args: Any, **options: Any) -> Iterator[Any]:
        for batch, lengths in iterate_batches(*args, **options):
            spans.append(lengths)
            yield batch, lengths

    steps = len(dataset) // world.size.batch_size
    model = _peer_model(world, _recipe("sft"))
    reports = _Reports()
    arguments = TrainingArgs(
        batch_size=world.size.batch_size,
        iters=2 * steps,
        steps_per_report=steps,
        max_seq_length=MAX_SEQ_LENGTH,
        steps_per_save=1_000_000,
        adapter_file=str(world.out() / "adapters.safetensors"),
    )
    optimizer = optim.AdamW(learning_rate=1e-5)
    options: Any = {"iterate_batches": recorded, "training_callback": reports}
    seconds = _quietly(lambda: train(model, optimizer, dataset, None, arguments, **options), reports)
    return seconds, float(sum(int(lengths[:, 1].sum()) for lengths in spans[steps:]))


# Preferences


def dpo_ours(world: World) -> Timed:
    """The steps of an epoch by our loop; real tokens of both sides."""
    return _dpo_ours(world, is_pass_counted=False)


def dpo_ours_with_pass(world: World) -> Timed:
    """The same with the one pass of the reference before the first step, which serves every later epoch too."""
    return _dpo_ours(world, is_pass_counted=True)


def _dpo_ours(world: World, *, is_pass_counted: bool) -> Timed:
    from tools.training.preferences import Preferences, reference_logps

    pairs = world.pairs()
    steps = len(pairs) // world.size.pair_batch
    recipe = _recipe("dpo", batch_size=world.size.pair_batch, iters=2 * steps, steps_per_report=steps)
    spent = 0.0

    def build(model: Any) -> Any:
        nonlocal spent
        started = time.perf_counter()
        file = world.out() / "reference.safetensors"
        reference = reference_logps(model, pairs, file, batch_size=recipe.batch_size, emit=lambda _row: None)
        spent = time.perf_counter() - started
        return Preferences(recipe, pairs, reference, [], reference[:0])

    seconds = _trained(world, recipe, build, warm=steps)
    real = sum(len(side.tokens) for pair in pairs for side in (pair.chosen, pair.rejected))
    return seconds + (spent if is_pass_counted else 0.0), float(real)


def dpo_peer(world: World) -> Timed:
    """As many steps by mlx-lm-lora's trainer, the reference a second model, as it does."""
    import mlx.core as mx
    import mlx.optimizers as optim
    import numpy as np
    from mlx_lm_lora.trainer import dpo_trainer

    if "max_recommended_working_set_size" not in mx.device_info():
        # The two lines without which it does not start off Metal.
        known = {**mx.device_info(), "max_recommended_working_set_size": 0}
        patched: Any = mx
        patched.set_wired_limit = lambda _limit: 0
        patched.device_info = lambda: known
    pairs = world.pairs()
    steps = len(pairs) // world.size.pair_batch
    reports = _Reports()
    model = _peer_model(world, _recipe("dpo"))
    reference = world.model()
    reference.freeze()
    dataset = [
        {
            "chosen": pair.chosen.tokens,
            "rejected": pair.rejected.tokens,
            "chosen_prompt_length": pair.chosen.learned_from,
            "rejected_prompt_length": pair.rejected.learned_from,
        }
        for pair in pairs
    ]
    arguments = dpo_trainer.DPOTrainingArgs(
        batch_size=world.size.pair_batch,
        iters=2 * steps,
        steps_per_report=steps,
        max_seq_length=MAX_SEQ_LENGTH,
        steps_per_save=1_000_000,
        steps_per_eval=1_000_000,
        adapter_file=str(world.out() / "adapters.safetensors"),
    )
    optimizer = optim.AdamW(learning_rate=1e-5)
    # It draws with replacement, so that pairs of one run are no measure of another's.
    plain, drawn = dpo_trainer.iterate_dpo_batches, []

    def recorded(*args: Any, **options: Any) -> Iterator[Any]:
        for batch in plain(*args, **options):
            ends = [side.shape[1] - np.argmax(np.array(side)[:, ::-1], axis=1) for side in batch[2:]]
            drawn.append(float(np.sum(ends)))
            yield batch

    dpo_trainer.iterate_dpo_batches = recorded
    seconds = _quietly(
        lambda: dpo_trainer.train_dpo(
            model=model,
            ref_model=reference,
            optimizer=optimizer,
            train_dataset=dataset,
            args=arguments,
            training_callback=reports,
        ),
        reports,
    )
    dpo_trainer.iterate_dpo_batches = plain
    return seconds, sum(drawn[steps:])


# Rollouts


def decode_ours(world: World) -> Timed:
    """The rollouts of one update, sampled as ours are; tokens."""
    from tools.training.rollouts import Task, roll_out

    size = world.size
    model = _peer_model(world, _recipe("sft"))
    tasks = [Task({"id": str(n)}, prompt, 1) for n, prompt in enumerate(world.prompts()[: size.prompts])]
    started = time.perf_counter()
    found = roll_out(
        model,
        world.tokenizer,
        tasks,
        group_size=size.group_size,
        max_tokens=size.new_tokens,
        temperature=1.0,
        seed=0,
        update=1,
        concurrency=size.prompts * size.group_size,
    )
    return time.perf_counter() - started, float(sum(rollout.tokens for rollout in found or ()))


def decode_plain(world: World) -> Timed:
    """As many from the same prompts, by mlx-lm's generator with its own sampler and nothing around it."""
    from mlx_lm.generate import BatchGenerator
    from mlx_lm.sample_utils import make_sampler

    size = world.size
    model = _peer_model(world, _recipe("sft"))
    model.eval()
    prompts = [prompt for prompt in world.prompts()[: size.prompts] for _ in range(size.group_size)]
    started = time.perf_counter()
    batch = BatchGenerator(
        model,
        stop_tokens=[[token] for token in sorted(world.tokenizer.eos_token_ids)],
        sampler=make_sampler(1.0),
        completion_batch_size=len(prompts),
        prefill_batch_size=8,
    )
    batch.insert(prompts, max_tokens=[size.new_tokens] * len(prompts))
    done = 0
    while responses := batch.next_generated():
        done += len(responses)
    batch.close()
    return time.perf_counter() - started, float(done)


def grpo_ours(world: World) -> Timed:
    """Whole updates by our loop, a real grader's process included; rollouts."""
    from tools.graders.contract import GraderSpec
    from tools.graders.host import Grader
    from tools.training.reinforcement import Reinforcement, RolloutLog
    from tools.training.rollouts import Scheme, Task

    size = world.size
    rollouts = size.prompts * size.group_size
    recipe = _recipe(
        "grpo",
        batch_size=size.prompts,
        group_size=size.group_size,
        iters=size.updates,
        max_completion_length=size.new_tokens,
        rollout_concurrency=rollouts,
        update_microbatch=size.microbatch,
        kl_ceiling=None,
        entropy_floor=None,
        length_jump=None,
    )
    tasks = [Task({"id": str(n)}, prompt, size.new_tokens) for n, prompt in enumerate(world.prompts())]
    with Grader(GraderSpec(file=str(world.grader))) as grader:
        seconds = _trained(
            world,
            recipe,
            lambda model: Reinforcement(
                recipe=recipe,
                model=model,
                tokenizer=world.tokenizer,
                tasks=tasks,
                grader=grader,
                scheme=Scheme({"score": 1.0}, {}, 0.0),
                log=RolloutLog(world.out() / "rollouts.jsonl", is_private=False),
                held_out=None,
                should_stop=lambda: False,
            ),
        )
    return seconds, float(rollouts * size.updates)


def _grpo_peer(world: World, batch_size: int, updates: int) -> Timed:
    import mlx.core as mx
    import mlx.optimizers as optim
    from mlx_lm_lora.trainer import grpo_trainer

    size = world.size
    model = _peer_model(world, _recipe("sft"))
    reference = world.model()
    reference.freeze()
    dataset: list[Any] = [(prompt, [], "", "", None) for prompt in world.prompts()]
    arguments = grpo_trainer.GRPOTrainingArgs(
        batch_size=batch_size,
        iters=updates,
        max_seq_length=MAX_SEQ_LENGTH,
        group_size=size.group_size,
        max_completion_length=size.new_tokens,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        steps_per_save=1_000_000,
        steps_per_eval=1_000_000,
        adapter_file=str(world.out() / "adapters.safetensors"),
    )

    rewards = Rewards()

    def pays(prompts: Any, completions: Any, answer: Any, types: Any = None) -> list[float]:
        return rewards(completions)

    optimizer = optim.AdamW(learning_rate=1e-5)
    mx.random.seed(0)
    seconds = _quietly(
        lambda: grpo_trainer.train_grpo(
            model=model,
            ref_model=reference,
            tokenizer=world.tokenizer,
            optimizer=optimizer,
            train_dataset=dataset,
            reward_funcs=[pays],
            args=arguments,
            end_answer_token="",
        )
    )
    return seconds, float(batch_size * size.group_size * updates)


def grpo_peer(world: World) -> Timed:
    """Updates by mlx-lm-lora with one prompt each, so that one rollout is decoded at a time."""
    return _grpo_peer(world, 1, world.size.updates)


def grpo_peer_best(world: World) -> Timed:
    """Updates by mlx-lm-lora with as many prompts as ours: its best setting for the same update."""
    return _grpo_peer(world, world.size.prompts, world.size.updates)


WAYS: dict[str, dict[str, Callable[[World], Timed]]] = {
    "sft": {"ours": sft_ours, "mlx_lm.lora": sft_stock, "mlx-lm, rows sorted": sft_stock_sorted},
    "dpo": {"ours": dpo_ours, "ours, one epoch and its reference": dpo_ours_with_pass, "mlx-lm-lora": dpo_peer},
    "decode": {"ours": decode_ours, "BatchGenerator alone": decode_plain},
    "grpo": {"ours": grpo_ours, "mlx-lm-lora, 1 prompt": grpo_peer, "mlx-lm-lora, all prompts": grpo_peer_best},
}
WARM = ("sft", "dpo")
"""What trains an epoch before it is timed."""

UNITS = {"sft": "real tokens", "dpo": "real tokens", "decode": "sampled tokens", "grpo": "rollouts"}


def _inside(shape: str, rounds: int, only: Sequence[str]) -> dict[str, Any]:
    """Run every way in turns; where a run does not warm up by itself the first round does not count."""
    import mlx.core as mx

    found: dict[str, Any] = {"device": str(mx.default_device()), "shape": shape}
    for instrument in only:
        ways = WAYS[instrument]
        totals = {way: [0.0, 0.0] for way in ways}
        for turn in range(0 if instrument in WARM else -1, rounds):
            for way, train in ways.items():
                with tempfile.TemporaryDirectory() as folder:
                    world = World(shape, Path(folder))
                    if turn < 0:
                        world.size = replace(world.size, updates=1)
                    seconds, done = train(world)
                mx.clear_cache()
                print(f"{instrument} {way}: {done / seconds:,.1f} {UNITS[instrument]}/s", file=sys.stderr, flush=True)
                if turn >= 0:
                    totals[way][0] += seconds
                    totals[way][1] += done
        speeds = {way: done / seconds for way, (seconds, done) in totals.items()}
        found[instrument] = {
            "speeds": speeds,
            "ratios": {way: speeds["ours"] / speed for way, speed in speeds.items() if way != "ours"},
        }
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", choices=tuple(SIZES), default="tiny")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default=",".join(WAYS))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    only = options.only.split(",")
    if options.inside:
        print(json.dumps(_inside(options.shape, options.rounds, only)))
        return 0
    arguments = ["--inside", f"--shape={options.shape}", f"--rounds={options.rounds}", f"--only={options.only}"]
    command = [str(environment()), "-m", "tests.benchmarks.peers", *arguments]
    known = {**os.environ, **worker_env(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=known, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    for instrument in only:
        figures = found[instrument]
        for way, speed in figures["speeds"].items():
            ratio = figures["ratios"].get(way)
            beside = f"   ours is {ratio:.2f} times as fast" if ratio else ""
            print(f"{instrument:>5} {way:<26} {speed:10,.1f} {UNITS[instrument]} per second{beside}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
