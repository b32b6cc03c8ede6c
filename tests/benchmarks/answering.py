"""Answering at speed: evaluation and rollouts against what was before, bare loops, and whole updates, in one run.

    python -m tests.benchmarks.answering [--model FOLDER | --shape qwen2.5-0.5b] [--dtype bfloat16] [--only evaluation]

`evaluation`: word-sorting prompts that share about two thirds, an adapter of rank 16 on all layers; ours (merged,
shared beginnings, static batches) against mlx-lm's BatchGenerator with the adapter apart, as Vigil answered until
d6f2c95. `rollouts`: as many in flight as `--rollouts`, against a bare loop of model, KVCache and categorical at the
same batch, adapters merged in both. `updates`: whole updates by the training worker, which an older commit has too:
to see what they were there, copy this file into a checkout of it and ask for `--only updates`.
Each way runs once before it is timed, or a part of it where that takes long.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tools.machine.blas import worker_env

ROOT = Path(__file__).resolve().parents[2]
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": {
        "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "intermediate_size": 4864,
        "num_attention_heads": 14, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "vocab_size": 151_936,
        "rope_theta": 1_000_000.0, "tie_word_embeddings": True, "max_position_embeddings": 32_768,
    },
    "tiny": {
        "model_type": "llama", "hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 384,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "vocab_size": 2_048,
        "rope_theta": 10_000.0, "tie_word_embeddings": True, "max_position_embeddings": 4_096,
    },
}  # fmt: skip
ENDS_EVERY = 24
"""Of random weights every so manieth token ends an answer, so that answers have the length of short real ones."""

TASK = (
    "Put the words that follow into alphabetical order, ascending, as a computer compares them: capital letters stand "
    "before small ones. Leave no word out and add none. Answer with nothing but the words in that order, with a comma "
    "and a blank between two of them, in one line. Words: "
)
WORDS = [
    "apple", "bridge", "candle", "dragon", "eagle", "forest", "garden", "hammer", "island", "jungle", "kettle",
    "ladder", "mirror", "needle", "ocean", "pencil", "quartz", "river", "saddle", "temple", "umbrella", "valley",
    "window", "yellow", "zebra", "anchor", "basket", "copper", "donkey", "engine",
]  # fmt: skip

GRADE = """
from itertools import count

calls = count(1)


def grade(case, text):
    return {"score": next(calls) * 0.6180339887498949 % 1.0}
"""


def cases(n: int) -> list[dict[str, str]]:
    """Return cases of a task with one text before all of them."""
    chance = random.Random(0)
    drawn = [chance.sample(WORDS, chance.randint(12, 22)) for _ in range(n)]
    return [
        {"id": f"c{place}", "prompt": TASK + ", ".join(words), "reference": ", ".join(sorted(words))}
        for place, words in enumerate(drawn)
    ]


def make_shape(name: str, folder: Path, dtype: str) -> Path:
    """Write a folder of random weights with a vocabulary of bytes and fillers."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.utils import _get_classes
    from tokenizers import pre_tokenizers

    from tests.tools.evaluation.worlds import make_model

    config = SHAPES[name]
    make_model(folder)
    size = int(config["vocab_size"])
    made = json.loads((folder / "tokenizer.json").read_text())
    known = made["model"]["vocab"]
    # Words of the task are one token each, or a prompt would be as long as its text.
    known |= {f"\u0120{word}": len(known) + place for place, word in enumerate(sorted({*TASK.split(), *WORDS}))}
    known |= {f"<f{number}>": number for number in range(len(known), size)}
    made["model"]["merges"] = []
    made["model"]["ignore_merges"] = True
    made["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    assert pre_tokenizers
    (folder / "tokenizer.json").write_text(json.dumps(made))
    ends = [1, *range(400, size, ENDS_EVERY)]
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": ends}))
    kind, arguments = _get_classes(config)
    mx.random.seed(0)
    model = kind(arguments.from_dict(config))
    model.set_dtype(getattr(mx, dtype))
    # Of the scale at which random layers say something else at each place.
    weights = {key: (part if part.ndim == 1 else part * 1.5) for key, part in tree_flatten(model.parameters())}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


def adapt(model: Any, rank: int) -> None:
    """Put adapters on all linear layers, with deltas of the size that training makes."""
    import mlx.core as mx
    from mlx.utils import tree_map_with_path
    from mlx_lm.tuner.utils import linear_to_lora_layers

    model.freeze()
    linear_to_lora_layers(model, len(model.layers), {"rank": rank, "scale": 2.0, "dropout": 0.0})
    model.update(
        tree_map_with_path(
            lambda path, part: 0.003 * mx.random.normal(part.shape) if "lora_b" in path else part,
            model.trainable_parameters(),
        )
    )
    model.eval()
    mx.eval(model.parameters())


def before(
    model: Any, tokenizer: Any, prompts: Sequence[Any], max_tokens: int, batch_size: int
) -> Iterator[tuple[str, list[int]]]:
    """Yield tokens as Vigil made them until d6f2c95: mlx-lm's BatchGenerator, eight joining at a time."""
    from mlx_lm.generate import BatchGenerator

    batch = BatchGenerator(
        model,
        stop_tokens=[[token] for token in sorted(tokenizer.eos_token_ids)],
        completion_batch_size=batch_size,
        prefill_batch_size=min(8, batch_size),
    )
    ordered = sorted(prompts, key=lambda prompt: -len(prompt.tokens))
    uids = batch.insert([prompt.tokens for prompt in ordered], max_tokens=[max_tokens] * len(ordered))
    names = {uid: prompt.name for uid, prompt in zip(uids, ordered, strict=True)}
    tokens: dict[int, list[int]] = {uid: [] for uid in uids}
    while responses := batch.next_generated():
        for response in responses:
            tokens[response.uid].append(int(response.token))
            if response.finish_reason is not None:
                yield names[response.uid], tokens.pop(response.uid)
    batch.close()


def bare(model: Any, prompts: Sequence[Sequence[int]], max_tokens: int) -> tuple[float, float]:
    """Sample with nothing around it: rows of one length, no end looked at; return seconds of reading and writing."""
    import mlx.core as mx
    from mlx_lm.models.cache import KVCache

    width = min(map(len, prompts))
    caches = [KVCache() for _ in model.layers]
    rows = mx.array([prompt[:width] for prompt in prompts])
    started = time.perf_counter()
    for at in range(0, width - 1, 512):
        model(rows[:, at : min(at + 512, width - 1)], cache=caches)
        mx.eval([cache.state for cache in caches])
    read = time.perf_counter()
    tokens = rows[:, -1]
    for _ in range(max_tokens):
        tokens = mx.random.categorical(model(tokens[:, None], cache=caches)[:, -1].astype(mx.float32))
        mx.async_eval(tokens)  # type: ignore[no-untyped-call]
    mx.eval(tokens)
    return read - started, time.perf_counter() - read


class Bench:
    """One model and its cases.

    Args:
        options: As asked on the command line.
        folder: To write into.
    """

    def __init__(self, options: Any, folder: Path) -> None:
        import mlx.core as mx

        from tools.models.load import load_tokenizer

        self.options = options
        self.folder = folder
        self.model_folder = (
            Path(options.model) if options.model else make_shape(options.shape, folder / "m", options.dtype)
        )
        self.tokenizer = load_tokenizer(self.model_folder)
        self.rows = cases(options.n)
        self.is_gpu = mx.default_device().type == mx.gpu

    def model(self) -> Any:
        """Return the weights with their adapter, the same each time."""
        import mlx.core as mx
        from mlx import nn

        from tools.models.load import load_model

        model, _ = load_model(self.model_folder, None, self.options.dtype)
        if self.options.bits:
            nn.quantize(model, group_size=64, bits=self.options.bits)
        if self.options.adapter:
            mx.random.seed(1)
            adapt(model, self.options.adapter)
        return model

    def evaluation(self) -> None:
        """Print tokens per second of both ways."""
        from tools.evaluation import generation
        from tools.evaluation.adapters import merged_adapters
        from tools.evaluation.generation import Decoding, Prompt, generate
        from tools.evaluation.prompts import render_prompt

        options = self.options
        prompts = [
            Prompt(row["id"], render_prompt(self.tokenizer, row), len(self.tokenizer.encode(row["reference"])))
            for row in self.rows
        ]
        shared, total = generation.shared_beginning([p.tokens for p in prompts]), sum(len(p.tokens) for p in prompts)
        print(
            f"evaluation: {len(prompts)} cases, {total:,} prompt tokens, {shared} of {total / len(prompts):.0f} shared"
        )
        model = self.model()
        forms: list[str] = []

        def ours(some: Sequence[Any], *, is_merged: bool) -> list[tuple[str, list[int]]]:
            def answer() -> list[tuple[str, list[int]]]:
                decoding = Decoding(options.max_tokens)
                outputs = generate(model, self.tokenizer, some, decoding, batch_size=options.batch_size)
                return [(out.name, [*out.tokens, *([] if out.end is None else [out.end])]) for out in outputs]

            if not is_merged:
                return answer()
            with merged_adapters(model, "benchmark") as form:
                forms.append(form)
                return answer()

        ways: dict[str, Callable[[Sequence[Any]], list[tuple[str, list[int]]]]] = {
            "before": lambda some: list(before(model, self.tokenizer, some, options.max_tokens, options.batch_size)),
            "now": lambda some: ours(some, is_merged=True),
            **({"now, adapter apart": lambda some: ours(some, is_merged=False)} if options.adapter else {}),
        }
        found: dict[str, dict[str, list[int]]] = {}
        speeds: dict[str, float] = {}
        for way, answer in ways.items():
            # On a GPU what is not timed is the whole, so that kernels of all shapes are there.
            answer(prompts if self.is_gpu else prompts[:2])
            started, used = time.perf_counter(), time.process_time()
            found[way] = dict(answer(prompts))
            wall_s, cpu_s = time.perf_counter() - started, time.process_time() - used
            n_tokens = sum(map(len, found[way].values()))
            speeds[way] = n_tokens / (wall_s if self.is_gpu else cpu_s)
            same = sum(found[way][name] == tokens for name, tokens in found["before"].items())
            _told(
                f"{way:<20} {wall_s:8.2f} s  {cpu_s:8.2f} s CPU  {n_tokens:7,} tokens"
                f"  {n_tokens / wall_s:9,.0f} tokens/s"
                f"  {speeds[way] / speeds['before']:5.2f} x before  {same} of {len(prompts)} answers the same"
            )
        _told(f"adapter: {forms[-1]}")

    def rollouts(self) -> None:
        """Print sampled tokens per second, ours against a bare loop."""
        import mlx.core as mx

        from tools.evaluation.adapters import merged_adapters
        from tools.evaluation.prompts import render_prompt
        from tools.training.rollouts import Task, roll_out

        options = self.options
        model, n = self.model(), options.rollouts
        n_prompts = max(1, n // options.group_size)
        tasks = [Task(row, render_prompt(self.tokenizer, row), 16) for row in self.rows[:n_prompts]]

        class Endless:
            """The tokenizer, of an end that no answer has: both ways sample as many tokens."""

            eos_token_ids = frozenset({1 << 24})
            detokenizer = property(lambda _: self.tokenizer.detokenizer)

        def ours(max_tokens: int) -> float:
            started = time.perf_counter()
            found = roll_out(
                model,
                Endless(),
                tasks,
                group_size=options.group_size,
                max_tokens=max_tokens,
                temperature=1.0,
                seed=0,
                update=1,
                concurrency=n,
            )
            assert found is not None
            assert sum(rollout.tokens for rollout in found) == max_tokens * len(found)
            return time.perf_counter() - started

        rows = [task.prompt for task in tasks for _ in range(options.group_size)]
        n_tokens = len(rows) * options.new_tokens
        print(f"rollouts: {len(rows)} in flight, {options.new_tokens} tokens each")
        with merged_adapters(model):
            bare(model, rows, options.new_tokens if self.is_gpu else 2)
            read_s, write_s = bare(model, rows, options.new_tokens)
        _told(
            f"{'bare loop':<20} {write_s:8.2f} s, without reading ({read_s:.2f} s)  {n_tokens / write_s:9,.0f} tokens/s"
        )
        ours(options.new_tokens if self.is_gpu else 2)
        whole_s = ours(options.new_tokens)
        _told(
            f"{'now':<20} {whole_s:8.2f} s, whole                      {n_tokens / whole_s:9,.0f} tokens/s"
            f"  {write_s / whole_s:5.2f} of the bare loop, {(read_s + write_s) / whole_s:5.2f} with its reading"
        )
        mx.clear_cache()

    def updates(self) -> None:
        """Print seconds of whole updates by the training worker: sampling, grading, scoring, learning."""
        options = self.options
        beside = self.folder / "job"
        beside.mkdir()
        (beside / "grade.py").write_text(GRADE)
        (beside / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        from tools.models.identity import weights_hash

        job = beside / "job"
        job.mkdir()
        recipe = {
            "iters": options.updates, "batch_size": max(1, options.rollouts // options.group_size),
            "group_size": options.group_size, "max_completion_length": options.new_tokens,
            "rollout_concurrency": options.rollouts, "max_seq_length": 1024,
            "steps_per_report": 1, "steps_per_eval": 10_000, "save_every": 10_000, "num_layers": -1,
            "lora_parameters": {"rank": options.adapter or 16, "scale": 2.0, "dropout": 0.0}, "learning_rate": 1e-5,
            "reward_weights": {"score": 1.0}, "truncation_penalty": 0.0, "kl_ceiling": None, "entropy_floor": None,
            "length_jump": None,
        }  # fmt: skip
        inputs = {
            "model": str(self.model_folder), "dtype": options.dtype, "parent_adapter": None, "instrument": "grpo",
            "expect_weights": weights_hash(self.model_folder), "recipe": recipe, "system": None,
            "data": {"rollouts": str(beside / "cases.jsonl")}, "grader": {"file": str(beside / "grade.py")},
            "reward": {"score": 1.0}, "held_out": None,
        }  # fmt: skip
        (job / "job.json").write_text(json.dumps({"key": "job", "kind": "training", "input": inputs}))
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "tools.training.worker", str(job)], check=True, cwd=ROOT)
        whole_s = time.perf_counter() - started
        rows = [json.loads(line) for line in (job / "metrics.jsonl").read_text().splitlines()]
        told = [row for row in rows if "generation_tokens_per_s" in row]
        result = json.loads((job / "result.json").read_text())
        # The first update is the kernels', and not counted.
        seconds = [later["t"] - earlier["t"] for earlier, later in pairwise(told)]
        print(
            f"updates: {recipe['batch_size']} prompts x {options.group_size} rollouts, {len(told)} updates,"
            f" {whole_s:.1f} s with the start"
        )
        _told(f"an update, the median of all but the first: {float(np.median(seconds)):.2f} s")
        for name in (
            "generation_tokens_per_s",
            "scoring_tokens_per_s",
            "grading_per_s",
            "tokens_per_s",
            "sampler_ratio_spread",
        ):
            values = [row[name] for row in told[1:] if name in row]
            if values:
                _told(f"{name}: {float(np.median(values)):,.4g}")
        _told(f"all updates: {result['steps_s']:.1f} s of steps")


def _told(line: str) -> None:
    print(f"  {line}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is asked for in a child that OpenBLAS was preloaded into."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="folder; random weights of --shape where left out")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="tiny")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--adapter", type=int, default=16, help="rank; 0 for none")
    parser.add_argument("--bits", type=int, default=0, help="quantize the base, all parts but updates; 0: as it is")
    parser.add_argument("--n", type=int, default=586, help="evaluation cases")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rollouts", type=int, default=256, help="in flight")
    parser.add_argument("--group-size", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=96, help="of each rollout")
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--only", default="evaluation,rollouts,updates")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = [*(sys.argv[1:] if argv is None else argv)]
    options = parser.parse_args(given)
    if not options.inside:
        command = [sys.executable, "-m", "tests.benchmarks.answering", "--inside", *given]
        return subprocess.run(command, env=os.environ | worker_env(), cwd=ROOT, check=False).returncode
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        for part in options.only.split(","):
            getattr(bench, part)()
    return 0


if __name__ == "__main__":
    sys.exit(main())
