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
import mlx.optimizers as optim
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

_BIAS_CORRECTED = frozenset({"adam", "adamw"})


def prepare(model: Any, recipe: Recipe, parent_adapter: Path | None) -> None:
    """Make exactly the wanted parameters trainable.

    Args:
        model: As loaded; with a parent's adapter its layers are in place already.
        recipe: What to train.
        parent_adapter: Adapter folder that was loaded onto the model, whose weights are trained on.
    """
    from mlx_lm.tuner.trainer import grad_checkpoint
    from mlx_lm.tuner.utils import linear_to_lora_layers

    mx.random.seed(recipe.seed)
    model.freeze()
    if recipe.fine_tune_type == "full":
        for layer in model.layers[-max(recipe.num_layers, 0) :]:
            layer.unfreeze()
    elif parent_adapter is None:
        parameters = recipe.adapter_config()["lora_parameters"]
        linear_to_lora_layers(model, recipe.num_layers, parameters, use_dora=recipe.fine_tune_type == "dora")
    else:
        model.apply_to_modules(_unfreeze_adapter)
    if recipe.grad_checkpoint:
        grad_checkpoint(model.layers[0])
    model.train()


def _unfreeze_adapter(_: str, module: Any) -> None:
    keys = [name for name in ("lora_a", "lora_b", "m") if name in module]
    if keys:
        module.unfreeze(keys=keys, recurse=False)


def build_optimizer(recipe: Recipe) -> Any:
    """Return the recipe's optimizer.

    Adam's bias correction is on unless switched off: without it the first steps are up to 6.5 times too large
    (facts/mlx_training.md 2.5).
    """
    from mlx_lm.tuner.utils import build_schedule

    kinds = {
        "adam": optim.Adam,
        "adamw": optim.AdamW,
        "muon": optim.Muon,
        "sgd": optim.SGD,
        "adafactor": optim.Adafactor,
    }
    schedule = recipe.lr_schedule
    rate = build_schedule(schedule.model_dump()) if schedule is not None else recipe.learning_rate
    options = dict(recipe.optimizer_config.get(recipe.optimizer, {}))
    if recipe.optimizer in _BIAS_CORRECTED:
        options.setdefault("bias_correction", True)
    return kinds[recipe.optimizer](learning_rate=rate, **options)


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Args:
        progress: Where it stood at its end.
        verdict: Empty, or `diverged`: a loss or gradient was not finite, and the update was not applied.
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
        model: Prepared by `prepare`.
        optimizer: From `build_optimizer`.
        recipe: What to do.
        train: Training rows.
        valid: Validation rows; may be empty.
        folder: Where saves go.
        emit: Takes a report row.
        should_stop: Whether a stop was asked for.
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
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.recipe = recipe
        self.train = train
        self.saves = folder
        self.emit = emit
        self.should_stop = should_stop
        self.progress = Progress(environment=environment())
        self._lengths = [len(row.tokens) for row in train]
        self._valid = self._validation_batches(valid)
        self._loss_and_grad = nn.value_and_grad(model, demonstration_loss)
        self._gradient: Any = None
        self._gradient_tokens = 0
        self._tokens_at_start = 0

    def run(self) -> Outcome:
        """Train to the last iteration, a stop or a divergence.

        Raises:
            ConfigError: The newest save does not load as what was saved.
        """
        resumed_from = self._resume()
        self._tokens_at_start = self.progress.trained_tokens
        started = time.monotonic()
        if self.progress.step == 0:
            self.optimizer.init(self.model.trainable_parameters())
            self._validate()
        verdict, is_stopped = self._steps()
        elapsed_s = time.monotonic() - started
        tokens = self.progress.trained_tokens - self._tokens_at_start
        return Outcome(self.progress, verdict, is_stopped, resumed_from, tokens / elapsed_s if elapsed_s > 0 else 0.0)

    def _steps(self) -> tuple[str, bool]:
        """Do what is left; return the verdict and whether a stop was asked for."""
        window = _Window()
        for rows, after in self._batches():
            if self.progress.step >= self.recipe.iters:
                return "", False
            loss = self._step(rows)
            if loss is None:
                self.emit({"step": self.progress.step + 1, "train_loss": float("nan"), "note": "update not applied"})
                return "diverged", False
            self._advance(rows, after)
            window.add(loss, sum(self.train[row].targets for row in rows))
            self._report(window)
            if self._is_between_updates():
                continue
            if self._is_due(self.recipe.steps_per_eval):
                self._validate()
            if self._is_due(self.recipe.save_every):
                self._save()
            if self.should_stop():
                self._save()
                return "", True
        return "", False  # pragma: no cover - batches never end

    def _batches(self) -> Iterator[tuple[list[int], Cursor]]:
        return batches_from(
            self._lengths,
            self.recipe.batch_size,
            self.recipe.seed,
            self.progress.cursor,
            bucketing=self.recipe.length_bucketing,
        )

    def _step(self, rows: list[int]) -> float | None:
        """Do one micro-step and, when due, the update; return the mean loss, or None where it is not finite."""
        # Dropout depends on (seed, step) alone, so a resumed run draws what an uninterrupted one draws.
        mx.random.seed(self.recipe.seed * 1_000_003 + self.progress.step)
        batch = collate([self.train[row] for row in rows])
        loss, gradient = self._loss_and_grad(self.model, *arrays(batch))
        if self._gradient is not None:
            gradient = tree_map(lambda one, two: one + two, self._gradient, gradient)
        tokens = self._gradient_tokens + batch.targets
        mx.eval(loss, gradient)
        mean = float(loss) / batch.targets
        if not math.isfinite(mean):
            return None
        if (
            self.progress.step + 1
        ) % self.recipe.grad_accumulation_steps and self.progress.step + 1 < self.recipe.iters:
            self._gradient, self._gradient_tokens = gradient, tokens
            return mean
        if not self._update(tree_map(lambda part: part / tokens, gradient)):
            return None
        self._gradient, self._gradient_tokens = None, 0
        return mean

    def _update(self, gradient: Any) -> bool:
        """Apply one update; return False, and leave the weights alone, where the gradient is not finite."""
        squares = [mx.square(part.astype(mx.float32)).sum() for _, part in tree_flatten(gradient)]
        norm = mx.sqrt(mx.stack(squares).sum())
        if not math.isfinite(float(norm)):
            return False
        if self.recipe.max_grad_norm is not None:
            factor = mx.minimum(self.recipe.max_grad_norm / (norm + 1e-6), 1.0)
            gradient = tree_map(lambda part: part * factor.astype(part.dtype), gradient)
        self.optimizer.update(self.model, gradient)
        mx.eval(self.model.trainable_parameters(), self.optimizer.state)
        if self.recipe.clear_cache_threshold and mx.get_cache_memory() > self.recipe.clear_cache_threshold:
            mx.clear_cache()
        return True

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
        """Return the whole set in batches of like length, the tail included; or the first few if asked."""
        ordered = sorted(rows, key=lambda row: len(row.tokens))
        size = self.recipe.batch_size
        batches = [collate(ordered[at : at + size]) for at in range(0, len(ordered), size)]
        return batches if self.recipe.val_batches < 0 else batches[: self.recipe.val_batches]

    def _validate(self) -> None:
        if not self._valid:
            return
        started = time.monotonic()
        loss = mean_loss(self.model, self._valid)
        self.progress.val_losses.append((self.progress.step, loss))
        self.emit({"step": self.progress.step, "val_loss": loss, "val_time_s": time.monotonic() - started})

    def _save(self) -> None:
        self.progress.probe_loss = self._probe()
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
        try:
            saves.restore(folder, self.model, self.optimizer)
        except ValueError as error:
            raise ConfigError(str(error), what="saves", where=str(folder)) from error
        self.progress = progress
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
    """Losses and speed since the last report."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._loss = 0.0
        self._tokens = 0
        self._steps = 0
        self._started = time.monotonic()

    def add(self, loss: float, tokens: int) -> None:
        self._loss += loss * tokens
        self._tokens += tokens
        self._steps += 1

    @property
    def loss(self) -> float:
        """Mean per learned token, nats."""
        return self._loss / self._tokens

    @property
    def tokens_per_s(self) -> float:
        return self._tokens / max(1e-9, time.monotonic() - self._started)

    @property
    def iterations_per_s(self) -> float:
        return self._steps / max(1e-9, time.monotonic() - self._started)
