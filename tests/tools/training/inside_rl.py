"""Child process: rollouts stopped at every place where a stop can be asked for, and what exactly is learned."""

import json
import shutil
import sys
from contextlib import ExitStack, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten, tree_map, tree_map_with_path
from mlx_lm.models.cache import RotatingKVCache
from mlx_lm.tuner.lora import LoRALinear

from tests.tools.training.inside import fresh
from tests.tools.training.jobs import RECIPE
from tools.evaluation.adapters import merged_adapters, no_room, used_as
from tools.models.load import load_model
from tools.training.data import Row, answers, answers_after, shape_of
from tools.training.instruments import Setting, build
from tools.training.loop import Training, build_optimizer, prepare
from tools.training.losses import can_share, logits_after, logits_at, rollout_loss, token_scores
from tools.training.recipe import validate_recipe
from tools.training.rollouts import Task, group_advantages, roll_out

# As in the test.
REWARDS = (1.0, 0.8, 0.5, 0.2, 0.0, 0.0)
BANDIT_BETA, GROUP, BANDIT_UPDATES = 0.5, 256, 600

_STRIDE = 7
"""Every so many questions the stop is asked for at."""


class _Stop:
    def __init__(self, at: int) -> None:
        self.at = at
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        return 0 < self.at <= self.asked


def _train(inputs: dict[str, Any], out: Path, stop: _Stop) -> tuple[int, str, int]:
    """Return the step that was reached, a hash of the weights and the save gone on from."""
    recipe = validate_recipe(inputs["recipe"], "grpo")
    model, tokenizer = load_model(Path(inputs["model"]), None, "float32")
    with ExitStack() as resources:
        built = build(
            Setting(
                inputs=inputs,
                recipe=recipe,
                model=model,
                tokenizer=tokenizer,
                weights="w",
                out=out,
                emit=lambda _row: None,
                resources=resources,
                should_stop=stop,
            )
        )
        prepare(model, recipe, None)
        training = Training(
            model=model,
            optimizer=build_optimizer(recipe),
            recipe=recipe,
            objective=built.objective,
            folder=out / "saves",
            emit=lambda _row: None,
            should_stop=stop,
        )
        training.saves.mkdir(parents=True, exist_ok=True)
        outcome = training.run()
    digest = sha256()
    weights: Any = mx.load(str(max((out / "saves").glob("*/adapters.safetensors")))) if outcome.progress.step else {}
    for name in sorted(weights):
        digest.update(np.array(weights[name]).tobytes())
    return outcome.progress.step, digest.hexdigest(), outcome.resumed_from


def stops(job: Path, folder: Path) -> None:
    """Stop a run at every place, go on, and print what came of it."""
    inputs = json.loads((job / "job.json").read_text())["input"]
    never = _Stop(0)
    (folder / "whole").mkdir()
    _, whole, _ = _train(inputs, folder / "whole", never)
    found = []
    for at in range(1, never.asked + 1, _STRIDE):
        out = folder / f"stopped{at}"
        out.mkdir()
        step, _, _ = _train(inputs, out, _Stop(at))
        last, weights, resumed = _train(inputs, out, _Stop(0))
        assert (last, resumed) == (inputs["recipe"]["iters"], step), (at, last, resumed, step)
        found.append({"at": step, "bytes": weights})
        shutil.rmtree(out)
    print(json.dumps({"whole": whole, "asked": never.asked, "stopped": found}))


def exact(folder: Path, _out: Path) -> None:
    """Compare what generation saw with what an update scores."""
    model = fresh(folder, lora_parameters={"rank": 2, "scale": 2.0, "dropout": 0.3})
    # An end that comes now and then: twice the others' chance is too seldom for a test.
    model.model.norm.weight = model.model.norm.weight * 0.5
    _, tokenizer = load_model(folder, None, "float32")
    tasks = [Task({"id": str(n)}, prompt, 1) for n, prompt in enumerate(([3, 70, 71, 4], [3, 72, 4], [3, 80, 81, 82]))]
    settings: dict[str, Any] = {"group_size": 8, "max_tokens": 60, "temperature": 0.8, "seed": 5}
    rollouts, again, alone, other = (
        roll_out(model, tokenizer, tasks, update=update, concurrency=concurrency, **settings)
        for update, concurrency in ((1, 32), (1, 32), (1, 3), (2, 32))
    )
    assert rollouts is not None
    assert again is not None
    assert alone is not None
    assert other is not None
    model.eval()
    *sampled, mask = answers([rollout.row for rollout in rollouts])
    logps = np.array(token_scores(model, *(mx.array(part) for part in sampled), temperature=0.8)[0])
    away = logps[mask == 1] - np.concatenate([rollout.logps for rollout in rollouts])
    ended = [rollout for rollout in rollouts if not rollout.is_cut]
    print(
        json.dumps(
            {
                "rows": len(rollouts),
                "ended": len(ended),
                "ends": sorted({str(rollout.row.tokens[-1]) for rollout in ended}),
                "difference": float(np.abs(away).max()),
                "alone": [r.row for r in alone] == [r.row for r in rollouts],
                "again": [r.row for r in again] == [r.row for r in rollouts],
                "other": [r.row for r in other] == [r.row for r in rollouts],
            }
        )
    )


def merged(folder: Path, _out: Path) -> None:
    """Compare what adapters give while answers are generated with what they give while it is learned."""
    found: dict[str, Any] = {}
    tokens = mx.array([[3, 70, 71, 4, 80, 81, 82, 4]])
    for name, kind, dtype in (
        ("float32", "lora", mx.float32),
        ("bfloat16", "lora", mx.bfloat16),
        ("quantized", "lora", mx.float32),
        ("dora", "dora", mx.float32),
    ):
        model, _ = load_model(folder, None, "float32")
        model.set_dtype(dtype)
        if name == "quantized":
            nn.quantize(model, group_size=32, bits=4)
        prepare(
            model,
            validate_recipe(RECIPE | {"fine_tune_type": kind, "lora_parameters": {"rank": 2, "scale": 3.0}}),
            None,
        )
        bare = model(tokens).astype(mx.float32)
        model.update(
            tree_map_with_path(
                lambda path, part: (
                    0.1 * mx.random.normal(part.shape, key=mx.random.key(1)) if "lora_b" in path else part
                ),
                model.trainable_parameters(),
            )
        )
        model.eval()
        before, weights = dict(model.named_modules()), dict(tree_flatten(model.parameters()))
        learned = model(tokens)
        with merged_adapters(model, "a") as form:
            decoded = model(tokens)
        with suppress(ZeroDivisionError), merged_adapters(model):
            _ = 1 / 0
        with used_as(model, "apart") as apart:
            beside = mx.array_equal(model(tokens), learned).item()
        with used_as(model, "fused") as whole:
            is_plain = not any("scales" in part or "lora_a" in part for part in model.modules())
            fused = model(tokens)
        same, moved, away = ((learned - other).astype(mx.float32) for other in (decoded, bare, fused))
        full = sum(part.nbytes for _, part in tree_flatten(model.parameters())) if name == "quantized" else 0
        room = []
        for free in (0, 2 * full, 10**12):
            with patch("tools.evaluation.adapters.free_memory", lambda free=free: free):
                room += [no_room(model, "fused"), no_room(model, "apart")]
        found[name] = {
            "form": form,
            "room": room,
            "forms": [apart, whole, beside, is_plain],
            "fused": float(mx.abs(away).max()),
            "dtype": str(decoded.dtype),
            "difference": float(mx.abs(same).max()),
            "moved": float(mx.abs(moved).max()),
            "is_put_back": all(part is before[path] for path, part in model.named_modules())
            and all(part is weights[path] for path, part in tree_flatten(model.parameters())),
            "trainable": len(tree_flatten(model.trainable_parameters())),
        }
    # So small a delta that the nearest bfloat16 is nearly always the weight itself.
    layer = LoRALinear.from_base(nn.Linear(256, 256, bias=False), r=2, scale=1.0)
    layer.linear.weight = mx.full((256, 256), 0.05).astype(mx.bfloat16)
    layer.lora_a, layer.lora_b = mx.full((256, 2), 1e-3), mx.full((2, 256), 1e-2)
    box = nn.Module()
    box.layer = layer
    for way, chance in (("nearest", None), ("random", "a"), ("again", "a"), ("other", "b")):
        with merged_adapters(box, chance):
            arrived = box.layer.weight.astype(mx.float32) - layer.linear.weight.astype(mx.float32)
        found[way] = {"kept": float(arrived.mean()) / 2e-5, "first": arrived[0, :64].tolist()}
    with patch("tools.evaluation.adapters.free_memory", lambda: 0), merged_adapters(box) as form:
        found["no memory"] = {"form": form, "is_lean": type(box.layer).__name__ == "Lean"}
    print(json.dumps(found))


def shared(folder: Path, _out: Path) -> None:
    """Compare updates whose prompt is computed once, and those of rounded widths, with those of each row on its own."""
    chance = np.random.default_rng(0)
    prompt = [3, *map(int, chance.integers(30, 120, 40)), 4]
    rows = [Row([*prompt, *map(int, chance.integers(30, 120, n)), 1], len(prompt)) for n in (1, 5, 19, 30)]
    advantages = mx.array([1.0, -0.5, 0.3, -1.0])
    found: dict[str, Any] = {}
    for kind in ("lora", "dora", "full"):
        model = fresh(folder, fine_tune_type=kind, lora_parameters={"rank": 2, "scale": 2.0})
        sides = []
        wide = shape_of([len(row.tokens) for row in rows], [row.targets for row in rows]).rounded(32)
        rounded = partial(answers, known=[wide])
        for made, logits_of in ((answers, logits_at), (answers_after, logits_after), (rounded, logits_at)):
            *sampled, mask = map(mx.array, made(rows))
            loss = rollout_loss(
                "bnpo",
                beta=0.1,
                clip=(0.9, 1.1),
                temperature=0.9,
                most_tokens=32,
                is_on_policy=False,
                logits_of=logits_of,
            )
            logps = mx.stop_gradient(token_scores(model, *sampled, temperature=0.9, logits_of=logits_of)[0])
            (value, figures), gradient = nn.value_and_grad(model, loss)(
                model, *sampled, mask, advantages, logps + 0.05, logps - 0.1
            )
            sides.append((float(value), np.array(figures), dict(tree_flatten(gradient))))
        one, two, three = sides
        found[kind] = {
            "loss": [one[0], two[0], three[0]],
            "figures": max(float(np.abs(one[1] - other[1]).max()) for other in (two, three)),
            "gradient": max(
                float(mx.abs(one[2][name] - each[2][name]).max()) for name in one[2] for each in (two, three)
            ),
            "width": [wide.width, wide.answers],
            "largest": max(float(mx.abs(part).max()) for part in one[2].values()),
            "tokens": [int(np.prod(answers(rows)[0].shape)), sum(int(part.size) for part in answers_after(rows)[:2])],
        }
    model = fresh(folder)
    found["can"] = can_share(model, prompt), can_share(model, [3, 4])
    plain = type(model).__call__
    # One that does not see what its caches hold gives other logits.

    def deaf(self: Any, tokens: Any, cache: Any = None) -> Any:
        del cache
        return plain(self, tokens)

    type(model).__call__ = deaf
    found["deaf"] = can_share(model, prompt)
    type(model).__call__ = plain
    model.make_cache = lambda: [RotatingKVCache(max_size=8) for _ in model.layers]
    found["rotating"] = can_share(model, prompt)
    print(json.dumps(found))


class _Table(nn.Module):  # type: ignore[misc]
    """A policy of one token: its scores, whatever came before."""

    def __init__(self, scores: Any) -> None:
        super().__init__()
        self.scores = scores

    def __call__(self, tokens: Any) -> Any:
        return mx.broadcast_to(self.scores, (*tokens.shape, self.scores.size))


def bandit(_folder: Path, _out: Path) -> None:
    """Train a policy of one token against its parent, and print where it ends."""
    chance = np.random.default_rng(1)
    first = chance.normal(0, 1, len(REWARDS)).astype(np.float32)
    policy = _Table(mx.array(first))
    optimizer = optim.Adam(learning_rate=optim.cosine_decay(0.1, BANDIT_UPDATES), bias_correction=True)
    loss = rollout_loss("dr_grpo", beta=BANDIT_BETA, clip=(0.8, 1.2), temperature=1.0, most_tokens=1, is_on_policy=True)
    step = nn.value_and_grad(policy, loss)
    every, start = mx.arange(len(REWARDS))[:, None], mx.zeros((len(REWARDS), 1), mx.int32)
    parent = np.array(token_scores(_Table(mx.array(first)), start, start, every, temperature=1.0)[0])
    mask, start = mx.ones((GROUP, 1)), mx.zeros((GROUP, 1), mx.int32)
    for _ in range(BANDIT_UPDATES):
        shares = np.array(mx.softmax(policy.scores))
        drawn = chance.choice(len(REWARDS), GROUP, p=shares / shares.sum())
        advantages = group_advantages([REWARDS[a] for a in drawn], is_scaled=False) or [0.0] * GROUP
        batch = [start, start, mx.array(drawn[:, None]), mask, mx.array(advantages), mask, mx.array(parent[drawn])]
        (_, _), gradient = step(policy, *batch)
        optimizer.update(policy, tree_map(lambda part: part / GROUP, gradient))
        mx.eval(policy.parameters(), optimizer.state)
    shares = np.array(mx.softmax(policy.scores)).astype(float)
    print(json.dumps({"parent": np.exp(parent.ravel()).tolist(), "shares": shares.tolist()}))


if __name__ == "__main__":
    if sys.argv[1] == "exact":
        exact(Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1] == "bandit":
        bandit(Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1] == "shared":
        shared(Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1] == "merged":
        merged(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        stops(Path(sys.argv[1]), Path(sys.argv[2]))
