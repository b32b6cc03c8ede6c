"""Losses, each a function of model and arrays, with logits only where they are asked for; worker processes only.

A vocabulary of 150,000 tokens makes the output layer a quarter of a small model's work, and its logits in float32 the
largest arrays of a step.

Each returns (sum, figures): the summed loss, a sum so that accumulated micro-batches are divided by their weight
together and each token or pair weighs the same whichever batch it is in; and what the report is made of,
shape (rows, columns).

The answers of a group begin with one prompt, mostly longer than they are. Its keys and values serve all of them, and
what each answer says of them adds up in their gradient: the same loss and gradient as row by row, up to rounding. With
dropout the answers share one draw over the prompt.
"""

from collections.abc import Callable, Iterable
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import KVCache, make_prompt_cache
from numpy.typing import NDArray

from tools.jobs.worker import tick
from tools.training.data import Batch

_PLACES = "_places"


def logits_at(model: Any, inputs: mx.array, places: mx.array) -> mx.array:
    """Return a model's logits at some positions of each row, shape (rows, places, vocabulary).

    What comes after the model's layers (norms aside) works on each position alone: the output layer, a scale, a cap. So
    the layers' output is cut to the wanted positions before the model goes on with it. A model that is built otherwise
    gives all logits, and the wanted ones are taken from them.

    Args:
        model: Called with tokens, gives logits.
        inputs: shape (rows, width).
        places: shape (rows, places), positions of each row; fewer than `width`, or all in order.
    """
    if places.shape[1] == inputs.shape[1]:
        every: mx.array = model(inputs)
        return every
    body = getattr(model, "model", None)
    if isinstance(body, nn.Module):
        _let_cut(type(body))
        vars(body)[_PLACES] = places
    try:
        logits: mx.array = model(inputs)
    finally:
        if isinstance(body, nn.Module):
            del vars(body)[_PLACES]
    return logits if logits.shape[1] == places.shape[1] else _cut(logits, places)


def _cut(values: mx.array, places: mx.array) -> mx.array:
    return mx.take_along_axis(values, places[..., None], axis=1)


def _let_cut(kind: Any) -> None:
    """Have a class cut its output to the positions that an instance is told to.

    Side effects: changes the class, in this process for good; once, whoever asks again.
    """
    plain = kind.__call__
    if hasattr(plain, "whole"):
        return

    def cut(body: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = plain(body, *args, **kwargs)
        places = vars(body).get(_PLACES)
        return outputs if places is None or not isinstance(outputs, mx.array) else _cut(outputs, places)

    cut.whole = plain  # type: ignore[attr-defined]
    kind.__call__ = cut


Loss = Callable[..., tuple[mx.array, mx.array]]

Logits = Callable[[Any, mx.array, mx.array], mx.array]
"""Model, inputs and places to logits, shape (rows, answers, vocabulary): `logits_at`, or `prompt_once.logits_after`,
whose inputs are the prompt and whose places are the rest."""

PREFERENCE_COLUMNS = (
    "chosen_reward", "rejected_reward", "chosen_logp", "rejected_logp", "chosen_tokens", "rejected_tokens",
)  # fmt: skip
"""Of a pair: implicit rewards beta * (policy - reference), log-probabilities in nats, learned tokens."""


def demonstration_loss(
    model: Any, inputs: mx.array, places: mx.array, targets: mx.array, mask: mx.array
) -> tuple[mx.array, mx.array]:
    """Return the summed negative log-likelihood of the learned tokens, nats; it has no figures.

    Args:
        model: Called with tokens, gives logits.
        inputs: See `data.answers`, as the rest.
        places: Where something may be learned.
        targets: The tokens after those places.
        mask: Where it is.
    """
    losses = -_logps(model, inputs, places, targets) * mask
    return losses.sum(), mx.zeros((inputs.shape[0], 0))


def answer_logps(model: Any, inputs: mx.array, places: mx.array, targets: mx.array, mask: mx.array) -> mx.array:
    """Return the log-probability of each row's learned tokens together: shape (rows,), nats."""
    logps: mx.array = (_logps(model, inputs, places, targets) * mask).sum(axis=-1)
    return logps


def _logps(model: Any, inputs: mx.array, places: mx.array, targets: mx.array) -> mx.array:
    logits = logits_at(model, inputs, places).astype(mx.float32)
    logps: mx.array = -nn.losses.cross_entropy(logits, targets)
    return logps


def _sigmoid(margin: mx.array, beta: float, smoothing: float) -> mx.array:
    right, wrong = nn.log_sigmoid(beta * margin), nn.log_sigmoid(-beta * margin)
    losses: mx.array = -((1 - smoothing) * right + smoothing * wrong)
    return losses


def _ipo(margin: mx.array, beta: float, _: float) -> mx.array:
    return mx.square(margin - 1 / (2 * beta))


def _hinge(margin: mx.array, beta: float, _: float) -> mx.array:
    return mx.maximum(1 - beta * margin, 0)


_OF_MARGIN = {"sigmoid": _sigmoid, "ipo": _ipo, "hinge": _hinge}


def preference_loss(beta: float, kind: str, label_smoothing: float) -> Loss:
    """Return a loss over pairs, whose chosen sides are the first half of the rows and rejected sides the second.

    With h the policy's log-ratio of chosen to rejected less the reference's: `sigmoid` is
    -(1 - s) log sigma(beta h) - s log sigma(-beta h) with label smoothing s (Rafailov et al. 2023, eq. 7; Mitchell
    2023); `hinge` is max(0, 1 - beta h) (Zhao et al. 2023); `ipo` is (h - 1 / (2 beta))^2 (Azar et al. 2023, eq. 17)
    with log-probabilities per token, as TRL and mlx-lm-lora have it: summed, the longer answer would set the scale.

    Args:
        beta: Strength of the tie to the reference, above 0.
        kind: sigmoid, ipo or hinge.
        label_smoothing: Share of pairs taken to be labelled the wrong way round, [0, 0.5); sigmoid only.
    """
    of_margin = _OF_MARGIN[kind]

    def loss(  # noqa: PLR0917 - the arrays of a batch, in their order
        model: Any, inputs: mx.array, places: mx.array, targets: mx.array, mask: mx.array, reference: mx.array
    ) -> tuple[mx.array, mx.array]:
        logps = answer_logps(model, inputs, places, targets, mask)
        lengths = mask.sum(axis=-1)
        ratios = logps - reference
        chosen, rejected = mx.split(ratios / lengths if kind == "ipo" else ratios, 2)
        losses = of_margin(chosen - rejected, beta, label_smoothing)
        sides = [*mx.split(beta * ratios, 2), *mx.split(logps, 2), *mx.split(lengths, 2)]
        return losses.sum(), mx.stack([mx.stop_gradient(side) for side in sides], axis=-1)

    return loss


ROLLOUT_COLUMNS = ("kl", "entropy", "clipped", "off", "tokens", "logp")
"""Of a rollout, summed over its tokens: divergence from the parent (k3) and entropy in nats, tokens whose ratio earns
no more, squared distance from 1 of the probability over that of `old`, tokens, log-probability."""


def token_scores(
    model: Any,
    inputs: mx.array,
    places: mx.array,
    targets: mx.array,
    *,
    temperature: float,
    logits_of: Logits = logits_at,
) -> tuple[mx.array, mx.array]:
    """Return each target's log-probability and the entropy before it, nats, shape (rows, answers).

    Args:
        model: Called with tokens, gives logits.
        inputs: See `data.answers`, as the next two.
        places: Where something was sampled.
        targets: The tokens after those places.
        temperature: Of the sampling: it belongs to the policy.
        logits_of: How inputs and places give logits.
    """
    logits = logits_of(model, inputs, places).astype(mx.float32) / temperature
    total = mx.logsumexp(logits, axis=-1)
    logps = mx.take_along_axis(logits, targets[..., None], axis=-1).squeeze(-1) - total
    fixed, top = mx.stop_gradient(logits), mx.stop_gradient(total)
    entropy = top - (mx.exp(fixed - top[..., None]) * fixed).sum(axis=-1)
    return logps, entropy


def rollout_loss(
    kind: str,
    *,
    beta: float,
    clip: tuple[float, float],
    temperature: float,
    most_tokens: int,
    is_on_policy: bool,
    logits_of: Logits = logits_at,
) -> Loss:
    """Return a loss over rollouts: clipped policy gradient plus the divergence from the parent.

    With r a token's probability over the one it was sampled with, A its rollout's advantage and d the parent's
    log-probability less the policy's, a token costs -min(r A, clip(r) A) + beta (exp(d) - d - 1) (Shao et al. 2024,
    eq. 3 and 4). `grpo` sums means over each rollout's tokens; `bnpo` sums tokens; `dr_grpo` sums tokens over the
    decode budget (Liu et al. 2025). Divided by the batch's weight: rollouts, or for bnpo tokens.

    Args:
        kind: grpo, bnpo or dr_grpo.
        beta: Weight of the divergence.
        clip: Bounds of r.
        temperature: Of the sampling.
        most_tokens: Decode budget.
        is_on_policy: Rollouts serve one update, so that r is 1 and only its slope counts; `old` is what the sampler
            said, and only the figure of how far that is off is made of it.
        logits_of: How a batch's inputs and places give logits.
    """
    low, high = clip

    def loss(  # noqa: PLR0917 - the arrays of a batch, in their order
        model: Any,
        inputs: mx.array,
        places: mx.array,
        targets: mx.array,
        mask: mx.array,
        advantages: mx.array,
        old: mx.array,
        parent: mx.array,
    ) -> tuple[mx.array, mx.array]:
        logps, entropy = token_scores(model, inputs, places, targets, temperature=temperature, logits_of=logits_of)
        # Padding has log-probabilities too, and exp() of their differences may overflow into 0 x inf.
        ratio = mx.exp((logps - (mx.stop_gradient(logps) if is_on_policy else old)) * mask)
        gain = advantages[:, None]
        earned = mx.minimum(ratio * gain, mx.clip(ratio, low, high) * gain)
        difference = (parent - logps) * mask
        divergence = mx.exp(difference) - difference - 1
        each = (beta * divergence - earned) * mask
        lengths = mask.sum(axis=-1)
        rows = each.sum(axis=-1)
        if kind == "grpo":
            rows = rows / lengths
        elif kind == "dr_grpo":
            rows = rows / most_tokens
        clipped = ((ratio < low) & (gain < 0)) | ((ratio > high) & (gain > 0))
        off = mx.square(mx.exp((logps - old) * mask) - 1)
        sums = [(part * mask).sum(axis=-1) for part in (divergence, entropy, clipped, off)]
        figures = [*sums, lengths, (logps * mask).sum(axis=-1)]
        return rows.sum(), mx.stack([mx.stop_gradient(part) for part in figures], axis=-1)

    return loss


def arrays(batch: Batch) -> list[mx.array]:
    """Return a batch's arrays on the device."""
    return [mx.array(part) for part in batch.arrays]


def measure(model: Any, loss: Loss, batches: Iterable[Batch]) -> tuple[float, NDArray[np.float64]]:
    """Return the mean loss and the figures over whole batches; dropout off.

    Side effects: leaves the model in the mode it was in.
    """
    was_training = model.training
    model.eval()
    total, weight = 0.0, 0
    losses = []
    for batch in batches:
        tick()
        for part in batch.parts:
            value, figures = loss(model, *map(mx.array, part))
            total += float(value)
            losses.append(np.array(figures, dtype=np.float64))
        weight += batch.weight
    model.train(was_training)
    return total / weight, np.concatenate(losses)


_LOOK = (24, 8)
"""Tokens of the prompt and of the answer by which a model is looked at."""

_ALIKE = {mx.float32: 1e-4}
_ALIKE_IN_HALF = 0.05
"""Largest difference of a logit, as a share of the largest one, at which both ways say the same."""


class _Prompt:
    """One layer's keys and values: the prompt's, kept, and for each call after it those of answers behind them."""

    def __init__(self) -> None:
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self.offset = 0

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Return what is attended to, shape (rows, heads, positions, width)."""
        if self.keys is None or self.values is None:
            self.keys, self.values, self.offset = keys, values, keys.shape[2]
            return keys, values
        return _behind(self.keys, keys), _behind(self.values, values)

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> Any:  # noqa: FBT001, FBT002 - as mlx-lm's caches have it
        """Return the mask of the next n positions, as mlx-lm's caches do."""
        if return_array or window_size is not None:
            return create_causal_mask(n, self.offset, window_size=window_size)
        return "causal" if n > 1 else None


def _behind(prompt: mx.array, answers: mx.array) -> mx.array:
    return mx.concatenate([mx.broadcast_to(prompt, (answers.shape[0], *prompt.shape[1:])), answers], axis=2)


def logits_after(model: Any, prompt: mx.array, inputs: mx.array) -> mx.array:
    """Return the logits at each position of answers to one prompt, shape (rows, width, vocabulary).

    Args:
        model: Called with tokens and caches, gives logits.
        prompt: shape (1, tokens), all of it but its last token.
        inputs: shape (rows, width), that token and the answer's but its last.
    """
    caches = [_Prompt() for _ in make_prompt_cache(model)]
    # Its logits are never looked at, so they are never computed.
    model(prompt, cache=caches)
    logits: mx.array = model(inputs, cache=caches)
    return logits


def can_share(model: Any, prompt: list[int]) -> bool:
    """Say whether a model gives the same logits this way as row by row, tried on a prompt.

    Args:
        model: Its layers keep keys and values of all positions, or it cannot.
        prompt: Any; repeated where it is short.
    """
    if any(type(cache) is not KVCache for cache in make_prompt_cache(model)):
        return False
    before, behind = _LOOK
    tokens = (prompt * (before + behind))[: before + behind + 1]
    was_training = model.training
    model.eval()
    try:
        rows = mx.array([tokens[before:-1], tokens[before:-1][::-1]])
        ours = logits_after(model, mx.array([tokens[:before]]), rows)
        whole = mx.concatenate([mx.broadcast_to(mx.array([tokens[:before]]), (2, before)), rows], axis=1)
        theirs = logits_at(model, whole, mx.broadcast_to(mx.arange(before, before + rows.shape[1]), rows.shape))
        apart, largest = (float(mx.abs(part.astype(mx.float32)).max()) for part in (ours - theirs, theirs))
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        # A model that asks its caches for something else.
        return False
    finally:
        model.train(was_training)
    return apart <= _ALIKE.get(ours.dtype, _ALIKE_IN_HALF) * largest
