"""The training loop: one for all objectives; worker processes only.

Every step is a function of (weights, optimizer, step number): data order follows from (seed, epoch), dropout from
(seed, step). So a run that was killed and resumed computes the same bits as one that was not.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten, tree_map

from state.errors import ConfigError
from state.records import Json
from tools.training import saves
from tools.training.batching import Cursor, batches_from, padded_length
from tools.training.data import Row, collate
from tools.training.environment import environment
from tools.training.losses import arrays, demonstration_loss, mean_loss
from tools.training.recipe import Recipe
from tools.training.saves import Progress

_PROBE_TOLERANCE = 1e-3
"""Relative difference of the probe loss that other hardware may cause; a fresh start differs by far more (mode 12)."""


class _DivergedError(Exception):
    """A loss or gradient is not finite."""


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Args:
        progress: Where it stood at its end.
        verdict: Empty, or `diverged`: a loss or gradient was not finite, and the model holds the last weights that
            gave a finite loss.
        is_stopped: A stop was asked for; the newest save is whole.
        resumed_from: Step of the save it went on from, 0 for a fresh start.
        tokens_per_s: Learned tokens per second of this process.
    """

    progress: Progress
    verdict: str
    is_stopped: bool
    resumed_from: int
    tokens_per_s: float


class Training:
    """One run of the loop over one model.

    Args:
        model: Prepared by `preparation.prepare`.
        optimizer: From `preparation.build_optimizer`.
        recipe: What to do.
        train: Training rows.
        valid: Validation rows; may be empty.
        folder: Where saves go.
        emit: Takes a report row.
        should_stop: Whether a stop was asked for.
        data: Hash of the training file.
    """

    def __init__(
        self,
        *,
        model: Any,
        optimizer: Any,
        recipe: Recipe,
        train: list[Row],
        valid: list[Row],
        folder: Path,
        emit: Callable[[Json], None],
        should_stop: Callable[[], bool],
        data: str = "",
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.recipe = recipe
        self.train = train
        self.saves = folder
        self.emit = emit
        self.should_stop = should_stop
        self.progress = Progress(environment=environment(), data=data)
        self._lengths = [len(row.tokens) for row in train]
        self._valid = self._validation_batches(valid)
        self._loss_and_grad = nn.value_and_grad(model, demonstration_loss)
        self._gradient: Any = None
        self._gradient_tokens = 0
        self._healthy = model.trainable_parameters()
        self._saved_step = 0

    def run(self) -> Outcome:
        """Train to the last iteration, a stop or a divergence.

        Raises:
            ConfigError: The newest save does not load as what was saved.
        """
        resumed_from = self._resume()
        tokens_before = self.progress.trained_tokens
        self._healthy = self.model.trainable_parameters()
        started = time.monotonic()
        verdict, is_stopped = "", False
        try:
            if self.progress.step == 0:
                self.optimizer.init(self.model.trainable_parameters())
                self._validate()
            is_stopped = self._steps()
        except _DivergedError:
            verdict = "diverged"
            self.model.update(self._healthy)
        tokens = self.progress.trained_tokens - tokens_before
        tokens_per_s = tokens / max(1e-9, time.monotonic() - started)
        return Outcome(self.progress, verdict, is_stopped, resumed_from, tokens_per_s)

    def _steps(self) -> bool:
        """Do what is left; return whether a stop was asked for.

        Raises:
            _DivergedError: A loss or gradient is not finite.
        """
        window = _Window()
        for rows, after in self._batches():
            if self.progress.step >= self.recipe.iters:
                break
            started = time.monotonic()
            loss = self._step(rows)
            seconds = time.monotonic() - started
            self.progress.steps_s += seconds
            self._advance(rows, after)
            window.add(loss, sum(self.train[row].targets for row in rows), seconds)
            self._report(window)
            if self._is_between_updates():
                continue
            if self._is_due(self.recipe.steps_per_eval):
                self._validate()
            if self._is_due(self.recipe.save_every):
                self._save()
            if self.should_stop():
                self._save()
                return True
        return False

    def _batches(self) -> Iterator[tuple[list[int], Cursor]]:
        return batches_from(
            self._lengths,
            self.recipe.batch_size,
            self.recipe.seed,
            self.progress.cursor,
            bucketing=self.recipe.length_bucketing,
        )

    def _step(self, rows: list[int]) -> float:
        """Do one micro-step and, when due, the update; return the mean loss.

        Raises:
            _DivergedError: The loss or the gradient is not finite; the weights are as they were.
        """
        # Dropout depends on (seed, step) alone, so a resumed run draws what an uninterrupted one draws.
        mx.random.seed(self.recipe.seed * 1_000_003 + self.progress.step)
        batch = collate([self.train[row] for row in rows])
        loss, gradient = self._loss_and_grad(self.model, *arrays(batch))
        if self._gradient is not None:
            gradient = tree_map(lambda one, two: one + two, self._gradient, gradient)
        tokens = self._gradient_tokens + batch.targets
        mx.eval(loss, gradient)
        mean = float(loss) / batch.targets
        self._require_finite(mean)
        self._healthy = self.model.trainable_parameters()
        step = self.progress.step + 1
        if step % self.recipe.grad_accumulation_steps and step < self.recipe.iters:
            self._gradient, self._gradient_tokens = gradient, tokens
            return mean
        self._update(tree_map(lambda part: part / tokens, gradient))
        self._gradient, self._gradient_tokens = None, 0
        return mean

    def _require_finite(self, value: float) -> None:
        if not math.isfinite(value):
            self.emit({"step": self.progress.step + 1, "train_loss": float("nan"), "note": "update not applied"})
            raise _DivergedError

    def _update(self, gradient: Any) -> None:
        """Apply one update, unless the gradient is not finite."""
        squares = [mx.square(part.astype(mx.float32)).sum() for _, part in tree_flatten(gradient)]
        norm = mx.sqrt(mx.stack(squares).sum())
        self._require_finite(float(norm))
        if self.recipe.max_grad_norm is not None:
            factor = mx.minimum(self.recipe.max_grad_norm / (norm + 1e-6), 1.0)
            gradient = tree_map(lambda part: part * factor.astype(part.dtype), gradient)
        self.optimizer.update(self.model, gradient)
        mx.eval(self.model.trainable_parameters(), self.optimizer.state)
        if self.recipe.clear_cache_threshold and mx.get_cache_memory() > self.recipe.clear_cache_threshold:
            mx.clear_cache()

    def _advance(self, rows: list[int], after: Cursor) -> None:
        done = self.progress
        width = padded_length([self._lengths[row] for row in rows])
        done.seen_rows += len(rows) if done.cursor.epoch == 0 else 0
        done.step += 1
        done.cursor = after
        done.trained_tokens += sum(self.train[row].targets for row in rows)
        done.padded_tokens += len(rows) * width

    def _is_due(self, every: int) -> bool:
        """Whether something done every so many steps is due: at the first update boundary at or after it."""
        stride = self.recipe.grad_accumulation_steps
        step = self.progress.step
        return step == self.recipe.iters or step // every > max(0, step - stride) // every

    def _is_between_updates(self) -> bool:
        return self._gradient is not None

    def _report(self, window: "_Window") -> None:
        step = self.progress.step
        if step % self.recipe.steps_per_report and step != self.recipe.iters:
            return
        self.progress.train_loss = window.loss
        rate = self.optimizer.learning_rate
        self.emit(
            {
                "step": step,
                "train_loss": window.loss,
                "learning_rate": float(rate.item() if hasattr(rate, "item") else rate),
                "tokens_per_s": window.tokens_per_s,
                "iterations_per_second": window.iterations_per_s,
                "trained_tokens": self.progress.trained_tokens,
                "peak_memory_gb": mx.get_peak_memory() / 1e9,
            }
        )
        window.reset()

    def _validation_batches(self, rows: list[Row]) -> list[Any]:
        """Return the whole set in batches of like length, the tail included; or a few from short to long if asked."""
        ordered = sorted(rows, key=lambda row: len(row.tokens))
        size = self.recipe.batch_size
        batches = [collate(ordered[at : at + size]) for at in range(0, len(ordered), size)]
        wanted = len(batches) if self.recipe.val_batches < 0 else min(self.recipe.val_batches, len(batches))
        return [batches[(2 * place + 1) * len(batches) // (2 * wanted)] for place in range(wanted)]

    def _validate(self) -> None:
        if not self._valid:
            return
        started = time.monotonic()
        loss = mean_loss(self.model, self._valid)
        self.emit({"step": self.progress.step, "val_loss": loss, "val_time_s": time.monotonic() - started})
        if not math.isfinite(loss):
            raise _DivergedError
        self.progress.val_losses.append((self.progress.step, loss))

    def _save(self) -> None:
        """Save, unless this step is saved already.

        Raises:
            _DivergedError: The weights give no finite loss: nothing to go on from.
        """
        if self._saved_step == self.progress.step:
            return
        probe = self._probe()
        self._require_finite(probe)
        self._saved_step, self.progress.probe_loss = self.progress.step, probe
        saves.save(self.saves, self.model, self.optimizer, self.recipe.adapter_config(), self.progress)

    def _probe(self) -> float:
        rows, _ = next(self._batches())
        return mean_loss(self.model, [collate([self.train[row] for row in rows])])

    def _resume(self) -> int:
        """Go on from the newest save, if there is one that loads as what was saved."""
        found = saves.newest(self.saves)
        if found is None:
            return 0
        folder, progress = found
        now = self.progress.environment
        if progress.data != self.progress.data:
            raise ConfigError(
                f"The training file changed since the save at step {progress.step}, so the place in it is lost; "
                "restore the file, or remove the job's saves to begin the run anew.",
                what="data",
                value=self.progress.data,
                limit=progress.data,
                where=str(folder),
            )
        try:
            saves.restore(folder, self.model, self.optimizer)
        except ValueError as error:
            raise ConfigError(str(error), what="saves", where=str(folder)) from error
        self.progress, self._saved_step = progress, progress.step
        probe = self._probe()
        expected = progress.probe_loss
        if expected is not None and abs(probe - expected) > _PROBE_TOLERANCE * max(1.0, abs(expected)):
            raise ConfigError(
                f"The save at step {progress.step} gives a loss of {probe:.4f} where {expected:.4f} was saved: what "
                "was written is not what loads. Remove the job's saves to begin the run anew.",
                what="probe_loss",
                value=probe,
                limit=expected,
                where=str(folder),
                runbook="runbooks/resume_after_crash.md",
            )
        row: Json = {
            "step": progress.step,
            "resumed_from": progress.step,
            "probe_loss": probe,
            "expected_loss": expected,
        }
        if progress.environment != now:
            changed = sorted(name for name in now if progress.environment.get(name) != now[name])
            row["warning"] = f"{', '.join(changed)} changed since the save; bits may differ from an uninterrupted run"
            self.progress.environment = now
        self.emit(row)
        return progress.step


class _Window:
    """Losses and speed since the last report; validation and saves take no part in the speed."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._loss = 0.0
        self._tokens = 0
        self._steps = 0
        self._seconds = 0.0

    def add(self, loss: float, tokens: int, seconds: float) -> None:
        self._loss += loss * tokens
        self._tokens += tokens
        self._steps += 1
        self._seconds += seconds

    @property
    def loss(self) -> float:
        """Mean per learned token, nats."""
        return self._loss / self._tokens

    @property
    def tokens_per_s(self) -> float:
        return self._tokens / max(1e-9, self._seconds)

    @property
    def iterations_per_s(self) -> float:
        return self._steps / max(1e-9, self._seconds)
