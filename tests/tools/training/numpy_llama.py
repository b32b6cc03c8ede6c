"""The random model and the losses over pairs once more, in float64 and without MLX: what ours is held against."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
HEADS, EPS, LAYERS = 2, 1e-5, 2
CLOSE = 1e-5
STEP = 1e-5


@dataclass
class Llama:
    """A model with LoRA factors.

    Args:
        weights: By mlx-lm's names; LoRA layers have `linear.weight`, `lora_a`, `lora_b`.
        scale: Of the adapters.
    """

    weights: dict[str, Array]
    scale: float

    def logps(self, tokens: list[int]) -> Array:
        """Return the log-probability of each token after the first."""
        logits = self.logits(tokens)
        top = logits.max(axis=-1, keepdims=True)
        normalized = logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
        found: Array = normalized[np.arange(len(tokens) - 1), tokens[1:]]
        return found

    def logits(self, tokens: list[int]) -> Array:
        """Return the scores of what may follow each token but the last, shape (tokens - 1, vocabulary)."""
        hidden = self.weights["model.embed_tokens.weight"][tokens[:-1]]
        for layer in range(LAYERS):
            stem = f"model.layers.{layer}"
            hidden = hidden + self._attention(f"{stem}.self_attn", self._norm(f"{stem}.input_layernorm", hidden))
            inner = self._norm(f"{stem}.post_attention_layernorm", hidden)
            gate = self._linear(f"{stem}.mlp.gate_proj", inner)
            up = self._linear(f"{stem}.mlp.up_proj", inner)
            hidden = hidden + self._linear(f"{stem}.mlp.down_proj", gate / (1 + np.exp(-gate)) * up)
        found: Array = self._norm("model.norm", hidden) @ self.weights["model.embed_tokens.weight"].T
        return found

    def _linear(self, name: str, values: Array) -> Array:
        if f"{name}.lora_a" not in self.weights:
            found: Array = values @ self.weights[f"{name}.weight"].T
            return found
        plain = values @ self.weights[f"{name}.linear.weight"].T
        adapted: Array = plain + self.scale * (values @ self.weights[f"{name}.lora_a"]) @ self.weights[f"{name}.lora_b"]
        return adapted

    def _norm(self, name: str, values: Array) -> Array:
        size = np.sqrt((values**2).mean(axis=-1, keepdims=True) + EPS)
        return np.asarray(values / size * self.weights[f"{name}.weight"])

    def _attention(self, stem: str, values: Array) -> Array:
        length, width = values.shape
        size = width // HEADS
        queries, keys, contents = (
            self._linear(f"{stem}.{name}_proj", values).reshape(length, HEADS, size).transpose(1, 0, 2)
            for name in "qkv"
        )
        scores = _rotated(queries) @ _rotated(keys).transpose(0, 2, 1) / np.sqrt(size)
        scores = np.where(np.tril(np.ones((length, length), dtype=bool)), scores, -np.inf)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = shares / shares.sum(axis=-1, keepdims=True) @ contents
        return self._linear(f"{stem}.o_proj", mixed.transpose(1, 0, 2).reshape(length, width))


def _rotated(values: Array) -> Array:
    half = values.shape[-1] // 2
    angles = np.outer(np.arange(values.shape[1]), 10_000.0 ** (-np.arange(half) / half))
    one, two = values[..., :half], values[..., half:]
    turned = (one * np.cos(angles) - two * np.sin(angles), one * np.sin(angles) + two * np.cos(angles))
    return np.concatenate(turned, axis=-1)


def answer_logp(model: Llama, row: tuple[list[int], int]) -> float:
    """Return the log-probability of a row's answer, which begins at the given position."""
    tokens, start = row
    return float(model.logps(tokens)[start - 1 :].sum())


def preference_loss(
    model: Llama, pairs: list[Any], reference: Array, *, beta: float, kind: str, smoothing: float
) -> float:
    """Return the summed loss of pairs ((tokens, start) chosen, (tokens, start) rejected), by the papers' formulas."""
    total = 0.0
    for (chosen, rejected), (before_chosen, before_rejected) in zip(pairs, reference, strict=True):
        one = answer_logp(model, chosen) - before_chosen
        two = answer_logp(model, rejected) - before_rejected
        if kind == "ipo":
            margin = one / (len(chosen[0]) - chosen[1]) - two / (len(rejected[0]) - rejected[1])
            total += float((margin - 1 / (2 * beta)) ** 2)
        elif kind == "hinge":
            total += float(max(0.0, 1 - beta * (one - two)))
        else:
            odds = beta * (one - two)
            total += (1 - smoothing) * float(np.log1p(np.exp(-odds))) + smoothing * float(np.log1p(np.exp(odds)))
    return total


def assert_is_slope(loss: Callable[[Llama], float], llama: Llama, found: dict[str, Any], name: str) -> None:
    """Assert that a gradient is the slope of a loss: at three places of each factor, and along the gradient itself.

    Args:
        loss: The formula, of a policy.
        llama: The policy.
        found: What the child process wrote; the gradient under `NAME.gradient.`.
        name: Of the loss.
    """
    stem = f"{name}.gradient."
    gradient = {key.removeprefix(stem): value for key, value in found.items() if key.startswith(stem)}
    assert len(gradient) == 28, "two layers, seven matrices each, two factors"
    largest = max(float(np.abs(part).max()) for part in gradient.values())
    assert largest > 0.01
    chance = np.random.default_rng(0)
    for key, part in gradient.items():
        for place in zip(*(chance.integers(0, size, 3) for size in part.shape), strict=True):
            one = np.zeros_like(part)
            one[place] = 1.0
            assert abs(_slope(loss, llama, {key: one}) - part[place]) < CLOSE * largest, (key, place)
    # And all of them at once, along the gradient itself: its slope there is its own length.
    length = float(np.sqrt(sum((part**2).sum() for part in gradient.values())))
    along = {key: part / length for key, part in gradient.items()}
    assert abs(_slope(loss, llama, along) - length) < CLOSE * length


def _slope(loss: Callable[[Llama], float], llama: Llama, along: dict[str, Array]) -> float:
    moved = (
        replace(llama, weights=llama.weights | {key: llama.weights[key] + step * part for key, part in along.items()})
        for step in (STEP, -STEP)
    )
    up, down = map(loss, moved)
    return (up - down) / (2 * STEP)
