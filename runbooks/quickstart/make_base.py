"""Make the tiny base from nothing: tokenizer, training, and the measurement of what it can and cannot do.

    python runbooks/quickstart/make_base.py train      # one NVIDIA GPU with mlx[cuda13]: five minutes
    python runbooks/quickstart/make_base.py measure    # any machine: greedy answers on the held-out splits

The base is a real Llama of 1.33 M parameters that cleans short tables well and wraps long ones up early: three of
four training tables are short and answered in full, the fourth is long and its answer stops part-way. That is the
fault the quickstart mends. The loss counts answer tokens alone.
"""

import argparse
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from state.files import write_atomic, write_json
from state.hashing import hash_file
from tools.graders.spreadsheet_clean.generate import Case, Kind, early_stop_reference, generate_case

HERE = Path(__file__).parent
PAD, END, SYSTEM, USER, ASSISTANT = SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MODEL_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "vocab_size": 416,
    "pad_token_id": SPECIAL.index(PAD),
    "eos_token_id": SPECIAL.index(END),
    "dtype": "float16",
}
_LENGTH_STEP = 32


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the machine's arithmetic."""

    seed: int = 11
    """Seed of the tables, their order and the first weights; no split of the quickstart uses it."""
    steps: int = 1600
    batch_size: int = 256
    """Tables a step."""
    micro_batches: int = 4
    """Parts a step is cut into, sorted by length, so that short tables are not padded to long ones."""
    learning_rate: float = 2e-3
    """Peak; linear warm-up before it, a cosine to zero after."""
    warmup_steps: int = 60
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    long_share: float = 0.25
    """Share of long tables, whose answers stop early."""
    short_stress_share: float = 0.15
    """Share of stress noise among the short tables."""
    preservation_share: float = 0.5
    """Share of the other short tables with duplicates and blank lines, the noise that is learned last."""
    long_stress_share: float = 0.8
    """Share of stress noise among the long tables."""
    short_rows: tuple[int, int] = (3, 9)
    long_rows: tuple[int, int] = (10, 18)
    stop_share: tuple[float, float] = (0.50, 0.85)
    """Share of a long table's rows after which its answer ends."""
    dtype: str = "float32"
    """Type of the arithmetic; the trained weights and the optimizer are float32 either way."""


def _short_regular(recipe: Recipe, index: int, rng: random.Random) -> Case:
    # Every four cases hold each noise kind once, so the wanted kind stands among them.
    block = (generate_case(recipe.seed, 4 * index + i, "regular", recipe.short_rows) for i in range(4))
    is_wanted = rng.random() < recipe.preservation_share
    candidates = [case for case in block if (case.dimension == "preservation") == is_wanted]
    return rng.choice(candidates)


def dialogue(recipe: Recipe, index: int) -> tuple[str, str]:
    """Return prompt and answer of one training table; a function of the seed and the index alone."""
    rng = random.Random(f"{recipe.seed}:{index}")
    if rng.random() < recipe.long_share:
        kind: Kind = "stress" if rng.random() < recipe.long_stress_share else "regular"
        case = generate_case(recipe.seed, index, kind, recipe.long_rows)
        return case.prompt, early_stop_reference(case, recipe.seed, recipe.stop_share)
    if rng.random() < recipe.short_stress_share:
        case = generate_case(recipe.seed, index, "stress", recipe.short_rows)
    else:
        case = _short_regular(recipe, index, rng)
    return case.prompt, case.reference


def train_tokenizer(recipe: Recipe, n_tables: int = 4000) -> Tokenizer:
    """Return a byte-level BPE in which every digit is a token of its own, so that amounts are copied digit by digit."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MODEL_CONFIG["vocab_size"],
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chain.from_iterable(dialogue(recipe, i) for i in range(n_tables)), trainer)
    return tokenizer


def write_model_files(tokenizer: Tokenizer, folder: Path) -> None:
    """Write all of a model folder but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", MODEL_CONFIG)
    end, pad = MODEL_CONFIG["eos_token_id"], MODEL_CONFIG["pad_token_id"]
    write_json(folder / "generation_config.json", {"eos_token_id": end, "pad_token_id": pad, "do_sample": False})
    write_atomic(folder / "tokenizer.json", tokenizer.to_str(pretty=False) + "\n")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": [SYSTEM, USER, ASSISTANT],
        "clean_up_tokenization_spaces": False,
        "model_max_length": MODEL_CONFIG["max_position_embeddings"],
    }
    write_json(folder / "tokenizer_config.json", settings)


@dataclass(frozen=True)
class Rows:
    """Tokenised training tables, one after the other."""

    tokens: np.ndarray
    """All tokens, uint16."""
    starts: np.ndarray
    """Where each table begins in `tokens`, one more entry than tables."""
    prompts: np.ndarray
    """Prompt tokens of each table."""


def _tokenised(recipe: Recipe, tokenizer_json: str, held_out: frozenset[str], span: range) -> tuple[np.ndarray, ...]:
    tokenizer = Tokenizer.from_str(tokenizer_json)
    pairs = [pair for pair in (dialogue(recipe, index) for index in span) if pair[0] not in held_out]
    prompts = [item.ids for item in tokenizer.encode_batch([f"{USER}{prompt}{END}{ASSISTANT}" for prompt, _ in pairs])]
    answers = [item.ids for item in tokenizer.encode_batch([f"{answer}{END}" for _, answer in pairs])]
    tokens = np.fromiter(chain.from_iterable(chain.from_iterable(zip(prompts, answers, strict=True))), dtype=np.uint16)
    n_prompt, n_answer = np.array([len(ids) for ids in prompts]), np.array([len(ids) for ids in answers])
    return tokens, n_prompt, n_prompt + n_answer


def held_out_prompts(folder: Path = HERE / "data") -> frozenset[str]:
    """Return the prompts of every held-out split; the base never sees them."""
    files = [*folder.glob("*_selection.jsonl"), *folder.glob("*_confirmation.jsonl")]
    return frozenset(json.loads(line)["prompt"] for file in files for line in file.read_text().splitlines())


def training_rows(recipe: Recipe, tokenizer: Tokenizer, workers: int) -> Rows:
    """Return the tables of all steps, made by several processes, in the order of their index."""
    n_tables = recipe.steps * recipe.batch_size
    spans = [range(first, min(first + 2048, n_tables)) for first in range(0, n_tables, 2048)]
    make = partial(_tokenised, recipe, tokenizer.to_str(), held_out_prompts())
    # Fresh processes: a fork after MLX has opened the GPU inherits locks that nobody will release.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        tokens, prompts, lengths = (np.concatenate(parts) for parts in zip(*pool.map(make, spans), strict=True))
    return Rows(tokens, np.concatenate([[0], np.cumsum(lengths)]), prompts)


def micro_batches(rows: Rows, recipe: Recipe, step: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield a step's parts: tokens of shape (tables, length), prompt tokens and all tokens of each table."""
    n_rows = len(rows.prompts)
    chosen = np.arange(step * recipe.batch_size, (step + 1) * recipe.batch_size) % n_rows
    lengths = rows.starts[chosen + 1] - rows.starts[chosen]
    for part in np.array_split(np.argsort(lengths, kind="stable"), recipe.micro_batches):
        width = math.ceil((lengths[part[-1]] - 1) / _LENGTH_STEP) * _LENGTH_STEP + 1
        tokens = np.full((len(part), width), MODEL_CONFIG["pad_token_id"], dtype=np.int32)
        for line, row in zip(tokens, chosen[part], strict=True):
            line[: rows.starts[row + 1] - rows.starts[row]] = rows.tokens[rows.starts[row] : rows.starts[row + 1]]
        yield tokens, rows.prompts[chosen[part]], lengths[part]


class Log:
    """The training's record: printed and kept, without any path of the machine."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        """Add one line."""
        self.lines.append(line)
        print(line, flush=True)


def _gradient(model: Any, dtype: Any) -> Callable[..., Any]:
    """Return the compiled function from weights and a micro-batch to (summed loss, nats; gradient)."""
    import mlx.core as mx
    from mlx import nn
    from mlx.utils import tree_map

    def loss_sum(weights: Any, tokens: Any, prompts: Any, lengths: Any) -> Any:
        model.update(tree_map(lambda weight: weight.astype(dtype), weights))
        logits = model(tokens[:, :-1]).astype(mx.float32)
        # Target t is token t + 1: the first answer token has index `prompts`, the end token index `lengths` - 1.
        position = mx.arange(1, tokens.shape[1])
        counted = (position >= prompts[:, None]) & (position < lengths[:, None])
        return (nn.losses.cross_entropy(logits, tokens[:, 1:]) * counted).sum()

    compiled: Callable[..., Any] = mx.compile(mx.value_and_grad(loss_sum))
    return compiled


def _optimizer(recipe: Recipe) -> Any:
    from mlx import optimizers

    peak, warmup = recipe.learning_rate, recipe.warmup_steps
    rise = optimizers.linear_schedule(peak / warmup, peak, warmup)
    schedule = optimizers.join_schedules([rise, optimizers.cosine_decay(peak, max(1, recipe.steps - warmup))], [warmup])
    return optimizers.AdamW(schedule, betas=[0.9, 0.95], weight_decay=recipe.weight_decay, bias_correction=True)


def fit(recipe: Recipe, rows: Rows, log: Log) -> dict[str, Any]:
    """Train from first weights to last; return the weights by name, float32."""
    import mlx.core as mx
    from mlx import optimizers
    from mlx.utils import tree_flatten, tree_map
    from mlx_lm.models.llama import Model, ModelArgs

    mx.random.seed(recipe.seed)
    model = Model(ModelArgs.from_dict(MODEL_CONFIG))
    # Embeddings are tied, so they start small enough for the logits to start near zero.
    model.model.embed_tokens.weight = 0.02 * mx.random.normal(model.model.embed_tokens.weight.shape)
    weights = model.parameters()
    log(f"parameters: {sum(weight.size for _, weight in tree_flatten(weights)):,}")
    gradient, optimizer = _gradient(model, getattr(mx, recipe.dtype)), _optimizer(recipe)
    optimizer.init(weights)

    @partial(mx.compile, inputs=optimizer.state, outputs=optimizer.state)
    def update(weights: Any, total: Any, n_answer: Any) -> Any:
        mean, norm = optimizers.clip_grad_norm(tree_map(lambda part: part / n_answer, total), recipe.clip_norm)
        return optimizer.apply_gradients(mean, weights), norm

    began, n_tokens, losses = time.perf_counter(), 0, []
    for step in range(recipe.steps):
        total, loss, n_answer = None, mx.array(0.0), 0
        for tokens, prompts, lengths in micro_batches(rows, recipe, step):
            part, grads = gradient(weights, mx.array(tokens), mx.array(prompts), mx.array(lengths))
            total = grads if total is None else tree_map(mx.add, total, grads)
            loss, n_answer, n_tokens = loss + part, n_answer + int((lengths - prompts).sum()), n_tokens + lengths.sum()
            mx.async_eval(total, loss)  # type: ignore[no-untyped-call]
        weights, norm = update(weights, total, mx.array(float(n_answer)))
        mx.eval(weights, optimizer.state, norm)
        losses.append(float(np.asarray(loss)) / n_answer)
        if not math.isfinite(losses[-1]):
            sys.exit(f"The loss is {losses[-1]} at step {step + 1}; lower the learning rate.")
        if (step + 1) % max(1, recipe.steps // 24) == 0:
            recent, passed = losses[-recipe.steps // 24 :], time.perf_counter() - began
            log(
                f"step {step + 1:5d}  loss {sum(recent) / len(recent):.4f} nats/token  norm {norm.item():.3f}"
                f"  rate {optimizer.learning_rate.item():.2e}  {n_tokens / passed:,.0f} tokens/s  {passed:.1f} s"
            )
    passed = time.perf_counter() - began
    log(f"trained on {n_tokens:,} tokens in {passed:.0f} s; peak memory {mx.get_peak_memory() / 1e9:.1f} GB")
    return dict(tree_flatten(weights))


def save_weights(weights: dict[str, Any], folder: Path) -> None:
    """Write the weights as float16; the format note lets other libraries open the file as well."""
    import mlx.core as mx

    half = {name: weight.astype(mx.float16) for name, weight in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), half, metadata={"format": "pt"})


def weights_line(folder: Path) -> str:
    """Return the line by which the log names the weights it speaks of."""
    return f"weights sha256 {hash_file(folder / 'model.safetensors')}"


def train(recipe: Recipe, folder: Path, workers: int, log: Log) -> None:
    """Make a whole model folder."""
    from importlib.metadata import version

    import mlx.core as mx

    packages = ("mlx", "mlx-lm", "tokenizers")
    log(" ".join(f"{name} {version(name)}" for name in packages) + f" on {mx.device_info().get('device_name', 'CPU')}")
    log(json.dumps(asdict(recipe)))
    began = time.perf_counter()
    tokenizer = train_tokenizer(recipe)
    write_model_files(tokenizer, folder)
    rows = training_rows(recipe, tokenizer, workers)
    log(
        f"vocabulary {tokenizer.get_vocab_size()}; {len(rows.prompts):,} tables of {len(rows.tokens):,} tokens, longest"
        f" {int(np.diff(rows.starts).max())}, made in {time.perf_counter() - began:.0f} s"
    )
    save_weights(fit(recipe, rows, log), folder)
    log(weights_line(folder))


def answers_of(folder: Path, prompts: list[str], max_tokens: int) -> tuple[list[str], list[str], list[int]]:
    """Return greedy answers, why each ended and its tokens, with the weights in float32."""
    import mlx.core as mx
    from mlx_lm import load
    from mlx_lm.generate import BatchGenerator

    model, tokenizer = load(str(folder))[:2]
    model.set_dtype(mx.float32)
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    queue = [tokenizer.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
    generator = BatchGenerator(model, stop_tokens=[[token] for token in tokenizer.eos_token_ids])
    place = {uid: position for position, uid in enumerate(generator.insert(queue, [max_tokens] * len(queue)))}
    ids: list[list[int]] = [[] for _ in prompts]
    ends = [""] * len(prompts)
    while responses := generator.next_generated():
        for response in responses:
            ends[place[response.uid]] = response.finish_reason or ""
            if response.finish_reason != "stop":
                ids[place[response.uid]].append(response.token)
    generator.close()
    return [tokenizer.decode(tokens) for tokens in ids], ends, [len(tokens) for tokens in ids]


def measure(folder: Path, split: Path, log: Log, max_tokens: int, n_cases: int | None = None) -> dict[str, float]:
    """Return the track's mean scores on one split and the share of answers that ended by themselves."""
    from tools.graders.spreadsheet_clean.grade import grade

    cases = [json.loads(line) for line in split.read_text().splitlines()][:n_cases]
    began = time.perf_counter()
    texts, ends, n_tokens = answers_of(folder, [case["prompt"] for case in cases], max_tokens)
    passed = time.perf_counter() - began
    grades = [grade(case, text) for case, text in zip(cases, texts, strict=True)]
    means = {name: sum(scores[name] or 0.0 for scores in grades) / len(grades) for name in grades[0]}
    means["ended_by_itself"] = ends.count("stop") / len(ends)
    shown = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
    log(f"{split.stem}: {len(cases)} cases  {shown}  {sum(n_tokens) / len(cases):.0f} tokens an answer  {passed:.0f} s")
    return means


def main() -> None:
    """Train or measure, and keep the log."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("train", "measure"))
    parser.add_argument("--model", type=Path, default=HERE / "base", help="model folder to write or measure")
    parser.add_argument("--log", type=Path, default=HERE / "make_base.log", help="training starts it, measuring adds")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--batch-size", type=int, default=Recipe.batch_size)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=Recipe.dtype)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that make the tables")
    parser.add_argument("--max-tokens", type=int, default=512, help="longest answer when measuring")
    parser.add_argument("--cases", type=int, help="first cases of each split to measure (default: all)")
    arguments = parser.parse_args()
    log = Log()
    if arguments.command == "train":
        recipe = Recipe(steps=arguments.steps, batch_size=arguments.batch_size, dtype=arguments.dtype)
        train(recipe, arguments.model, arguments.workers, log)
        earlier = ""
    else:
        earlier = arguments.log.read_text() if arguments.log.exists() else ""
        log(weights_line(arguments.model))
        for name in ("selection", "confirmation"):
            for split in sorted((HERE / "data").glob(f"*_{name}.jsonl")):
                measure(arguments.model, split, log, arguments.max_tokens, arguments.cases)
    write_atomic(arguments.log, earlier + "\n".join(log.lines) + "\n")


if __name__ == "__main__":
    main()
