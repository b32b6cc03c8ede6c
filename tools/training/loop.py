"""The training loop: one for all objectives, with what is trained, its optimizer and its step; workers only.

Every step is a function of (weights, optimizer, step number): data order follows from (seed, epoch), dropout from
(seed, step). So a run that was killed and resumed computes the same bits as one that was not.

Where an objective allows it, the next step is begun before the last one is looked at, so that a GPU need not wait for
the host; whatever is due at a step (a report, a save, validation, a sample, a stop) waits for that step.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten, tree_map
from numpy.typing import NDArray

from state.errors import ConfigError
from state.hashing import hash_bytes
from state.log import log_info
from state.records import Json
from tools.jobs.worker import tell_phase
from tools.training import saves
from tools.training.data import Batch, Cursor
from tools.training.losses import Loss, measure
from tools.training.objective import Objective
from tools.training.progress import Progress, damaged_steps, is_sealed, newest, set_damaged_aside
from tools.training.recipe import Recipe
from tools.training.reinforcement import Interim
from tools.training.samples import Sampler
from tools.training.saves import environment

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
            step: Step = self._run(arrays, gradient, weighing, is_update)
        except (RuntimeError, TypeError, ValueError) as error:
            # What was traced halfway holds placeholders.
            self._model.update(parameters)
            self._optimizer.state = state
            self._run, self._untried = self._step, set()
            self._tell(str(error).splitlines()[0])
            mx.random.seed(seed)
            return self._step(arrays, gradient, weighing, is_update)
        self._untried.discard(is_update)
        return step

    def _step(self, arrays: list[mx.array], gradient: Any, weight: mx.array, is_update: bool) -> Step:  # noqa: FBT001 - MLX traces by position
        (loss, figures), gradients = self._loss_and_grad(self._model, *arrays)
        if gradient is not None:
            gradients = tree_map(lambda one, two: one + two, gradient, gradients)
        reported = figures if figures.size else None
        if not is_update:
            return loss, reported, gradients, None
        gradients = tree_map(lambda part: (part / weight).astype(part.dtype), gradients)
        norm = mx.sqrt(
            mx.stack([mx.square(part.astype(mx.float32)).sum() for _, part in tree_flatten(gradients)]).sum()
        )
        if self._max_grad_norm is not None:
            factor = mx.minimum(self._max_grad_norm / (norm + 1e-6), 1.0)
            gradients = tree_map(lambda part: part * factor.astype(part.dtype), gradients)
        self._optimizer.update(self._model, gradients)
        return loss, reported, None, norm


_BIAS_CORRECTED = frozenset({"adam", "adamw"})
_DRAWS = "_draws"


def prepare(model: Any, recipe: Recipe, parent_adapter: Path | None) -> None:
    """Make exactly the wanted parameters trainable.

    Args:
        model: As loaded; with a parent's adapter its layers are in place already.
        recipe: What to train.
        parent_adapter: Adapter folder that was loaded onto the model, whose weights are trained on.

    Raises:
        ConfigError: The recipe's keys match no layer of the model, or a layer that mlx-lm cannot adapt.
    """
    mx.random.seed(recipe.seed)
    model.freeze()
    if recipe.fine_tune_type == "full":
        for layer in _top_layers(model, recipe):
            layer.unfreeze()
    elif parent_adapter is None:
        _add_adapter(model, recipe)
    else:
        model.apply_to_modules(_unfreeze_adapter)
    if not tree_flatten(model.trainable_parameters()):
        raise _nothing_to_train(model, recipe)
    if recipe.grad_checkpoint:
        for layer in model.layers:
            vars(layer)[_DRAWS] = draws_while_checkpointing(recipe)
            _checkpoint_gradients(type(layer))
    model.train()


def _top_layers(model: Any, recipe: Recipe) -> list[Any]:
    return list(model.layers[-max(recipe.num_layers, 0) :])


def _add_adapter(model: Any, recipe: Recipe) -> None:
    from mlx_lm.tuner.utils import linear_to_lora_layers

    parameters = recipe.adapter_config()["lora_parameters"]
    try:
        linear_to_lora_layers(model, recipe.num_layers, parameters, use_dora=recipe.fine_tune_type == "dora")
    except ValueError as error:
        raise ConfigError(
            f"`recipe.lora_parameters.keys`: {error}.", what="recipe.lora_parameters.keys", value=parameters.get("keys")
        ) from error


def _nothing_to_train(model: Any, recipe: Recipe) -> ConfigError:
    from mlx import nn

    keys = recipe.lora_parameters.keys
    linear = (nn.Linear, nn.QuantizedLinear)
    known = sorted({name for layer in model.layers for name, part in layer.named_modules() if isinstance(part, linear)})
    return ConfigError(
        f"`recipe.lora_parameters.keys` {list(keys or ())} match no layer of the model; it has {', '.join(known)}.",
        what="recipe.lora_parameters.keys",
        value=keys,
    )


def _unfreeze_adapter(_: str, module: Any) -> None:
    keys = [name for name in ("lora_a", "lora_b", "m") if name in module]
    if keys:
        module.unfreeze(keys=keys, recurse=False)


def draws_while_checkpointing(recipe: Recipe) -> bool:
    """Say whether layers that are computed twice draw random numbers; such a step cannot be traced."""
    return recipe.grad_checkpoint and recipe.lora_parameters.dropout > 0


def _checkpoint_gradients(kind: Any) -> None:
    """Have layers of a class compute their inner values again for the gradient instead of keeping them.

    With dropout each call draws from a seed of its own, the same when it computes again: mlx-lm's version draws another
    dropout mask then, so that the gradient belongs to another function than the loss.

    Side effects: changes the class, in this process for good; once, whoever asks again.
    """
    plain = kind.__call__
    if hasattr(plain, "inner"):
        return

    def checkpointed(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if not layer.training:
            return plain(layer, *args, **kwargs)
        inside, after = _two_seeds() if vars(layer).get(_DRAWS) else (None, None)

        def compute(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            layer.update(parameters)
            if inside is not None:
                mx.random.seed(inside)
            return plain(layer, *args, **kwargs)

        result = mx.checkpoint(compute)(layer.trainable_parameters(), *args, **kwargs)
        if after is not None:
            mx.random.seed(after)
        return result

    checkpointed.inner = plain  # type: ignore[attr-defined]
    kind.__call__ = checkpointed


def _two_seeds() -> list[int]:
    """Return two seeds that follow from the random state; MLX's state can be read, but only a seed sets it."""
    state: Any = mx.random.state
    keys: Any = mx.random.split(state[0]).tolist()
    return [(high << 32) | low for high, low in keys]


def build_optimizer(recipe: Recipe) -> Any:
    """Return the recipe's optimizer.

    Two defaults differ from the stock trainer, each switched back by its own key. Adam's bias correction is on: without
    it the first steps are up to 6.5 times too large (facts/mlx_training.md 2.5). Adafactor's `relative_step` is off:
    with it the recipe's learning rate is not used at all.

    Raises:
        ConfigError: An option has a value that the optimizer or schedule does not take.
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
    options = dict(recipe.optimizer_config.get(recipe.optimizer, {}))
    if recipe.optimizer in _BIAS_CORRECTED:
        options.setdefault("bias_correction", True)
    if recipe.optimizer == "adafactor":
        options.setdefault("relative_step", False)
    try:
        rate = build_schedule(schedule.model_dump()) if schedule is not None else recipe.learning_rate
        return kinds[recipe.optimizer](learning_rate=rate, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"`recipe.optimizer_config` or `recipe.lr_schedule`: {error}.", what="recipe.optimizer_config"
        ) from error


_PROBE_TOLERANCE = 1e-3
"""Relative difference of the probe loss that other hardware may cause; a fresh start differs by far more (mode 12)."""


EARLY_SHARE = 0.2
"""Share of the steps within which a loss that leaves nothing to learn is suspicious (mode 14)."""

_SEPARATED_STEPS = 2
"""Micro-steps in a row that must say so: one batch of easy pairs says nothing."""


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


@dataclass(frozen=True)
class _Flight:
    """A step that is begun and not looked at.

    Args:
        batch: What it learns from.
        after: The cursor after it.
        losses: Summed, of each part.
        figures: Of each part that has any.
        grad_norm: Of its update, None where it is none.
        before: The weights it began with.
        drawn_at: Monotonic seconds when its batch was asked for.
        begun_at: And when it was begun.
    """

    batch: Batch
    after: Cursor
    losses: list[mx.array]
    figures: list[mx.array]
    grad_norm: mx.array | None
    before: Any
    drawn_at: float
    begun_at: float


class Training:
    """One run of the loop over one model.

    Args:
        model: Prepared by `preparation.prepare`.
        optimizer: From `preparation.build_optimizer`.
        recipe: What to do.
        objective: What is learned, and from what.
        folder: Where saves go.
        emit: Takes a report row.
        should_stop: Whether a stop was asked for.
        data: Hash of the training file.
        sampler: Generates at some steps, so that a collapse shows; None for none.
        interim: Looks at the held-out score where validation is due; None for none.
    """

    def __init__(
        self,
        *,
        model: Any,
        optimizer: Any,
        recipe: Recipe,
        objective: Objective,
        folder: Path,
        emit: Callable[[Json], None],
        should_stop: Callable[[], bool],
        data: str = "",
        sampler: Sampler | None = None,
        interim: Interim | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.recipe = recipe
        self.objective = objective
        self.saves = folder
        self.emit = emit
        self.should_stop = should_stop
        self.sampler = sampler
        self.interim = interim
        self.progress = Progress(environment=environment(), data=data)
        self._valid = objective.validation()
        self._gradient: Any = None
        self._gradient_weight = 0
        self._grad_norm = 0.0
        self._landed_at = 0.0
        self.first_landed_at: float | None = None
        """Monotonic seconds when this process had done its first step, kernels included."""
        self._is_sample_healthy = True
        self._healthy = model.trainable_parameters()
        self._saved_step = 0

    def run(self) -> Outcome:
        """Train to the last iteration, a stop or a divergence.

        Raises:
            ConfigError: The newest save does not load as what was saved.
        """
        if self.sampler is not None:
            # Before a save is put in place: these are the parent's own outputs.
            tell_phase("answering a few prompts with what it starts from")
            first = self.sampler.begin()
            if first is None:
                return Outcome(self.progress, "", is_stopped=True, resumed_from=0, tokens_per_s=0.0)
            self.emit(first)
        if self.interim is not None:
            tell_phase("answering the cases that it is looked at by, with what it starts from")
            first = self.interim.begin()
            if first is None:
                return Outcome(self.progress, "", is_stopped=True, resumed_from=0, tokens_per_s=0.0)
            self.emit(first)
        looked = self.objective.begin()
        if looked is None:
            return Outcome(self.progress, "", is_stopped=True, resumed_from=0, tokens_per_s=0.0)
        for row in looked:
            self.emit(row)
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
        stepper = Stepper(
            self.model,
            self.optimizer,
            self.objective.loss,
            max_grad_norm=self.recipe.max_grad_norm,
            is_compiled=self.objective.is_steady and not draws_while_checkpointing(self.recipe),
            tell=lambda why: self.emit({"step": self.progress.step, "note": f"steps are not compiled: {why}"}),
        )
        window = _Window()
        batches = self.objective.batches(self.progress.cursor)
        flying: _Flight | None = None
        while (step := self.progress.step + (flying is not None) + 1) <= self.recipe.iters:
            drawn_at = time.monotonic()
            drawn = next(batches, None)
            if drawn is None:
                if self.progress.step:
                    self._save()
                return True
            if flying is None and self.first_landed_at is None:
                made = ", compiled on the way" if stepper.is_compiled else ""
                tell_phase(f"first step, {drawn[0].padded_tokens:,} tokens{made}")
            begun = self._begin(stepper, step, drawn, drawn_at)
            if flying is not None:
                self._land(flying, window)
            flying = begun
            if self._may_fly(step):
                continue
            self._land(begun, window)
            flying = None
            if self._is_between_updates():
                continue
            is_due = self._is_due(self.recipe.steps_per_eval, step)
            if is_due:
                self._validate()
            signals = [*self._sampled(), *self.objective.watch(step, is_due=is_due)]
            signals += self.interim.take(step) if self.interim is not None and is_due else []
            self.progress.is_healthy = self._is_sample_healthy and not self.objective.fault
            if self._is_due(self.recipe.save_every, step):
                self._save()
            # After the save: a guard that stops the run on these finds it on disk.
            for row in signals:
                self.emit(row)
            if self.should_stop():
                self._save()
                return True
        return False

    def _begin(self, stepper: Stepper, step: int, drawn: tuple[Batch, Cursor], drawn_at: float) -> _Flight:
        """Begin a micro-step and, when due, the update."""
        batch, after = drawn
        begun_at = time.monotonic()
        before = self.model.trainable_parameters()
        is_due = step % self.recipe.grad_accumulation_steps == 0 or step == self.recipe.iters
        losses, reported, norm = [], [], None
        if batch.parts:
            self._gradient_weight += batch.weight
        for place, part in enumerate(batch.parts, 1):
            is_last = place == len(batch.parts)
            # Dropout depends on (seed, step) alone, so a resumed run draws what an uninterrupted one draws.
            seed = self.recipe.seed * 1_000_003 + step - 1 + ((place - 1) << 44)
            arrays = [mx.array(values) for values in part]
            loss, figures, self._gradient, norm = stepper(
                arrays, self._gradient, self._gradient_weight, seed, is_update=is_last and is_due
            )
            losses.append(loss)
            reported += [] if figures is None else [figures]
            if not is_last:
                # Part by part, or memory holds them all.
                mx.eval(loss, figures, self._gradient)
        if norm is not None:
            self._gradient_weight = 0
        weights = self.model.trainable_parameters()
        mx.async_eval(  # type: ignore[no-untyped-call]
            losses, reported, norm, self._gradient, weights, self.optimizer.state
        )
        return _Flight(batch, after, losses, reported, norm, before, drawn_at, begun_at)

    def _may_fly(self, step: int) -> bool:
        """Whether nothing is due at a step that needs its weights or figures at once."""
        everies = [self.recipe.steps_per_report, self.recipe.steps_per_eval, self.recipe.save_every]
        if self.sampler is not None:
            everies.append(self.sampler.every)
        return (
            self.objective.is_steady
            and not self._is_early(step)
            and not self.should_stop()
            and not any(self._is_due(every, step) for every in everies)
        )

    def _land(self, flight: _Flight, window: "_Window") -> None:
        """Wait for a step and take note of it.

        Raises:
            _DivergedError: The loss or the gradient is not finite; the weights of this step are not the healthy ones.
        """
        loss, figures = 0.0, np.zeros((0, 0))
        if flight.losses:
            loss = sum(float(part) for part in flight.losses) / flight.batch.weight
            self._require_finite(loss)
            self._healthy = flight.before
            arrays = [np.array(part, dtype=np.float64) for part in flight.figures]
            figures = np.concatenate(arrays) if arrays else figures
        if flight.grad_norm is not None:
            self._grad_norm = float(flight.grad_norm)
            self._require_finite(self._grad_norm)
        if self.recipe.clear_cache_threshold and mx.get_cache_memory() > self.recipe.clear_cache_threshold:
            mx.clear_cache()
        ended = time.monotonic()
        # Of two steps at once each counts from where the other ended.
        learning_s, step_s = (ended - max(self._landed_at, at) for at in (flight.begun_at, flight.drawn_at))
        self._landed_at = ended
        if self.first_landed_at is None:
            self.first_landed_at = ended
            tell_phase(f"first step done in {step_s:,.1f} s, told every {self.recipe.steps_per_report:,} steps")
        self.progress.steps_s += step_s
        self._advance(flight.batch, flight.after)
        window.add(loss, flight.batch, figures, learning_s, step_s)
        self.objective.learned(figures)
        self._report(window)
        self._count_separated(loss, figures)

    def _require_finite(self, value: float) -> None:
        if not math.isfinite(value):
            self.emit({"step": self.progress.step + 1, "train_loss": float("nan"), "note": "update not applied"})
            raise _DivergedError

    def _advance(self, batch: Batch, after: Cursor) -> None:
        done = self.progress
        done.seen_rows += batch.rows if done.cursor.epoch == 0 else 0
        done.step += 1
        done.cursor = after
        done.trained_tokens += batch.learned_tokens
        done.real_tokens += batch.real_tokens
        done.padded_tokens += batch.padded_tokens

    def _count_separated(self, loss: float, figures: NDArray[np.float64]) -> None:
        is_separated = self.objective.is_separated(loss, figures)
        self.progress.separated = self.progress.separated + 1 if is_separated else 0

    def _sampled(self) -> list[Json]:
        """Generate where it is due; return the rows that say what was seen."""
        done = self.progress
        is_early = done.separated >= _SEPARATED_STEPS and self._is_early(done.step)
        wants_judgement = is_early and not done.is_looked_at
        done.is_looked_at |= is_early
        early: Json = {"step": done.step, "loss_collapsed": 1.0}
        is_due = self.sampler is not None and (wants_judgement or self._is_due(self.sampler.every, done.step))
        signals = self.sampler.take(done.step) if self.sampler is not None and is_due else None
        if signals is None:
            return [early] if wants_judgement else []
        if signals["sample_collapsed"] and self.progress.is_still_learning(self.recipe.iters):
            signals |= {"sample_collapsed": 0.0, "sample_doubted": 1.0}
        self._is_sample_healthy = not signals["sample_collapsed"]
        return [signals, early | {"early_moved": signals["sample_moved"]}] if wants_judgement else [signals]

    def _is_early(self, step: int) -> bool:
        return step <= EARLY_SHARE * self.recipe.iters

    def _is_due(self, every: int, step: int) -> bool:
        """Whether something done every so many steps is due: at the first update boundary at or after it."""
        stride = max(self.recipe.grad_accumulation_steps, self.objective.stride)
        return step == self.recipe.iters or step // every > max(0, step - stride) // every

    def _is_between_updates(self) -> bool:
        """Whether the run cannot be saved here: a gradient is not applied yet, or a sample not used up."""
        step = self.progress.step
        return self._gradient is not None or bool(step % self.objective.stride and step < self.recipe.iters)

    def _report(self, window: "_Window") -> None:
        step = self.progress.step
        if step % self.recipe.steps_per_report and step != self.recipe.iters:
            return
        learned: Json = {}
        if window.has_learned:
            self.progress.train_loss = window.loss
            learned = {"train_loss": window.loss, "grad_norm": self._grad_norm}
        rate = self.optimizer.learning_rate
        self.emit(
            {
                "step": step,
                **learned,
                "learning_rate": float(rate.item() if hasattr(rate, "item") else rate),
                "tokens_per_s": window.tokens_per_s,
                "iterations_per_second": window.iterations_per_s,
                "trained_tokens": self.progress.trained_tokens,
                "peak_memory_gb": mx.get_peak_memory() / 1e9,
                **self.objective.report(window.figures),
            }
        )
        window.reset()

    def _validate(self) -> None:
        if not self._valid:
            return
        started = time.monotonic()
        if self.first_landed_at is None:
            tell_phase(f"validation before the first step, {len(self._valid):,} batches")
        loss, figures = measure(self.model, self.objective.loss, self._valid)
        reported = {f"val_{name}": value for name, value in self.objective.report(figures).items()}
        seconds = time.monotonic() - started
        self.emit({"step": self.progress.step, "val_loss": loss, "val_time_s": seconds, **reported})
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
        probe, self.progress.probed = self._probe()
        self._require_finite(probe)
        self._saved_step, self.progress.probe_loss = self.progress.step, probe
        self.progress.notes = self.objective.notes()
        saves.save(self.saves, self.model, self.optimizer, self.recipe.adapter_config(), self.progress)
        log_info("save", step=self.progress.step)

    def _probe(self) -> tuple[float, str]:
        """Return the loss that tells these weights apart, and the hash of the tokens that it was measured on."""
        loss, batch = self.objective.probe(self.progress.cursor)
        # What is computed, like a reference's likelihood, may differ in its last bits elsewhere.
        tokens = (part for parts in batch.parts for part in parts if part.dtype.kind in "iu")
        return measure(self.model, loss, [batch])[0], hash_bytes(b"".join(part.tobytes() for part in tokens))

    def _resume(self) -> int:
        """Go on from the newest save, if there is one that loads as what was saved."""
        set_damaged_aside(self.saves)
        damaged = damaged_steps(self.saves)
        save = newest(self.saves)
        if damaged:
            at = f"the one at step {save[1].step}" if save else "the beginning"
            steps = ", ".join(map(str, damaged))
            sentence = f"damaged saves at step {steps}; {at} is gone on from"
            self.emit({"step": save[1].step if save else 0, "damaged_saves": damaged, "warning": sentence})
        if save is None:
            return 0
        folder, progress = save
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
        self.objective.recall(progress.notes)
        self._is_sample_healthy = progress.is_healthy or bool(self.objective.fault)
        if self.sampler is not None:
            self.sampler.rewind(progress.step)
        if self.interim is not None:
            self.interim.rewind(progress.step)
        probe, probed = self._probe()
        expected = progress.probe_loss
        # An older Vigil probed other rows and did not say which; the hashes of its files were checked all the same.
        is_alike = probed == progress.probed or (not progress.probed and not is_sealed(folder))
        is_off = expected is not None and abs(probe - expected) > _PROBE_TOLERANCE * max(1.0, abs(expected))
        if is_off and is_alike:
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
        if is_off:
            sentence = (
                "the save does not say on which rows its loss was measured, or on others than now: it is not compared"
            )
            row["warning"] = "; ".join(filter(None, [row.get("warning"), sentence]))
        self.emit(row)
        return progress.step


class _Window:
    """Losses, figures and speed since the last report; validation, samples and saves take no part in the speed."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._loss = 0.0
        self._weight = 0
        self._tokens = 0
        self._learning_s = 0.0
        self._step_s = 0.0
        self._steps = 0
        self._figures: list[NDArray[np.float64]] = []

    def add(self, loss: float, batch: Batch, figures: NDArray[np.float64], learning_s: float, step_s: float) -> None:
        self._loss += loss * batch.weight
        self._weight += batch.weight
        self._tokens += batch.learned_tokens
        self._learning_s += learning_s
        self._step_s += step_s
        self._steps += 1
        self._figures += [figures] if len(figures) else []

    @property
    def has_learned(self) -> bool:
        """Whether anything was learned from; rollouts that all earn the same teach nothing."""
        return self._weight > 0

    @property
    def loss(self) -> float:
        """Mean per learned token (nats), pair or rollout."""
        return self._loss / self._weight

    @property
    def figures(self) -> NDArray[np.float64]:
        return np.concatenate(self._figures) if self._figures else np.zeros((0, 0))

    @property
    def tokens_per_s(self) -> float:
        return self._tokens / max(1e-9, self._learning_s)

    @property
    def iterations_per_s(self) -> float:
        return self._steps / max(1e-9, self._step_s)
