"""One micro-step as one function of arrays: loss, gradient and, where it is due, the update; worker processes only."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten, tree_map

from tools.training.losses import Loss

Step = tuple[mx.array, mx.array | None, Any, mx.array | None]
"""Summed loss; figures, None where the loss has none; gradient summed so far, None after an update; the update's
gradient norm, None where there was none."""


class Stepper:
    """Micro-steps over one model.

    Nothing is computed before it is evaluated, so that the caller decides what to wait for.

    Args:
        model: Prepared; its state is looked up once, as is the optimizer's: made after a save is put in place.
        optimizer: Its state is initialised.
        loss: Of a batch's arrays.
        max_grad_norm: Largest norm of an update's gradient; None clips nothing.
        is_compiled: Whether a step is traced once for each shape and its small operations are fused. Where MLX cannot
            trace one, or `MLX_DISABLE_COMPILE` is set, the same operations run one by one.
        tell: Takes the reason where MLX cannot.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        loss: Loss,
        *,
        max_grad_norm: float | None,
        is_compiled: bool,
        tell: Callable[[str], None],
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._max_grad_norm = max_grad_norm
        self._tell = tell
        self._loss_and_grad = nn.value_and_grad(model, loss)
        self._run: Any = self._step
        self._untried = {False, True} if is_compiled else set()
        self.is_compiled = is_compiled and not os.environ.get("MLX_DISABLE_COMPILE")
        """Whether its first call on each shape takes long."""
        if is_compiled:
            state = [model.state, optimizer.state, mx.random.state]
            self._run = partial(mx.compile, inputs=state, outputs=state)(self._step)

    def __call__(self, arrays: list[mx.array], gradient: Any, weight: int, seed: int, *, is_update: bool) -> Step:
        """Return what a batch gives, and apply the update where it is due.

        Args:
            arrays: Of a batch.
            gradient: Summed before, None where there is none.
            weight: What the summed gradient is divided by at an update.
            seed: Dropout depends on it alone, so that a resumed run draws what an uninterrupted one draws.
            is_update: Whether one is due.
        """
        # An array: a number would be a constant of the trace, and each of its values another trace.
        weighing = mx.array(weight, dtype=mx.float32)
        mx.random.seed(seed)
        if is_update not in self._untried:
            return self._run(arrays, gradient, weighing, is_update)  # type: ignore[no-any-return]
        parameters, state = self._model.parameters(), tree_map(lambda part: part, self._optimizer.state)
        try:
            found: Step = self._run(arrays, gradient, weighing, is_update)
        except (RuntimeError, TypeError, ValueError) as error:
            # What was traced halfway holds placeholders.
            self._model.update(parameters)
            self._optimizer.state = state
            self._run, self._untried = self._step, set()
            self._tell(str(error).splitlines()[0])
            mx.random.seed(seed)
            return self._step(arrays, gradient, weighing, is_update)
        self._untried.discard(is_update)
        return found

    def _step(self, arrays: list[mx.array], gradient: Any, weight: mx.array, is_update: bool) -> Step:  # noqa: FBT001 - MLX traces by position
        (loss, figures), found = self._loss_and_grad(self._model, *arrays)
        if gradient is not None:
            found = tree_map(lambda one, two: one + two, gradient, found)
        told = figures if figures.size else None
        if not is_update:
            return loss, told, found, None
        found = tree_map(lambda part: (part / weight).astype(part.dtype), found)
        norm = mx.sqrt(mx.stack([mx.square(part.astype(mx.float32)).sum() for _, part in tree_flatten(found)]).sum())
        if self._max_grad_norm is not None:
            factor = mx.minimum(self._max_grad_norm / (norm + 1e-6), 1.0)
            found = tree_map(lambda part: part * factor.astype(part.dtype), found)
        self._optimizer.update(self._model, found)
        return loss, told, None, norm
