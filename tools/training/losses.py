"""Objectives, each a function of model and batch; worker processes only.

One today: the cross-entropy of demonstrations. Preferences and rollouts join here, under the same loop.
"""

from typing import Any

import mlx.core as mx
from mlx import nn

from tools.training.data import Batch


def demonstration_loss(model: Any, tokens: mx.array, mask: mx.array) -> mx.array:
    """Return the summed negative log-likelihood of the learned tokens, nats.

    A sum, not a mean: accumulated micro-batches are divided by their tokens together, so that each token weighs the
    same whichever batch it is in.

    Args:
        model: Called with tokens, gives logits.
        tokens: shape (rows, length).
        mask: shape (rows, length - 1).
    """
    logits = model(tokens[:, :-1]).astype(mx.float32)
    losses: mx.array = nn.losses.cross_entropy(logits, tokens[:, 1:]) * mask
    return losses.sum()


def arrays(batch: Batch) -> tuple[mx.array, mx.array]:
    """Return a batch's tokens and mask on the device."""
    return mx.array(batch.tokens), mx.array(batch.mask)


def mean_loss(model: Any, batches: list[Batch]) -> float:
    """Return the mean loss per learned token over whole batches, nats; dropout off.

    Side effects: leaves the model in the mode it was in.
    """
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for batch in batches:
        loss = demonstration_loss(model, *arrays(batch))
        total += float(loss)
        count += batch.targets
    if was_training:
        model.train()
    return total / count
