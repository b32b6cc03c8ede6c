"""What may still be spent (a time of day, hours, runs, disk), how long training takes, and what it takes in memory.

Failure mode 10: the lab planned by steps and was off by a factor of five, in both directions. Until steps of this
machine are known the figure is *assumed* and says so.

The peak of a step is weights, adapter and optimizer, and what the gradient needs of the forward pass. Its coefficients
were fitted on 41 single steps of random Llamas in MLX 0.32 on Linux CPU, which they meet within 9 %: hidden 128 to 512,
3 to 12 layers, vocabulary 512 to 32,000, 64 to 1,024 positions, 1 to 8 rows, both precisions, with and without gradient
checkpoints, adapters of rank 1 to 64 and full training. Attention is counted quadratic, since its gradient is not fused
there. Not measured: Metal and CUDA, whose compiled kernels keep less. What the first runs took corrects the estimate.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from state.goal import Budget, Goal
from state.recipe import PAD_TO, ROLLOUTS_TOGETHER, setting
from state.records import (
    CLASSES,
    Action,
    Belief,
    Evidence,
    Instrument,
    InstrumentClass,
    Json,
    Record,
    Run,
    TrainResult,
    runbook_of,
)

_DAY_S = 86_400.0


class Spent(Record):
    """What a campaign has used; time follows from when it started."""

    runs: int = 0
    disk_gb: float = 0.0
    queued_s: float = 0.0
    """Seconds its jobs waited for other campaigns on the machine; `hours` does not count them, `until` does."""


class Estimate(Record):
    """What an action is expected to use."""

    seconds: float = 0.0
    runs: int = 0
    disk_gb: float = 0.0


def queued_s(actions: Iterable[Action]) -> float:
    """Return the seconds that the jobs of finished actions waited for their turn."""
    return sum(action.exit.queued_s for action in actions)


class BudgetVerdict(Record):
    """Whether an action fits, and what is left before it."""

    is_affordable: bool
    limit: str
    """`until`, `hours`, `runs`, `disk_gb` or `class_hours`: the first limit it would break; empty when it fits."""
    left_s: float | None
    """Seconds until the nearer of both time limits, reserve taken off; None: not limited."""
    left_runs: int | None
    left_disk_gb: float | None
    deadline_at: float | None
    """Unix seconds of `until`."""
    sentence: str
    class_left_s: float | None = None
    """Seconds left of the hours of the class that was asked for; None: not limited."""

    @property
    def nearest_s(self) -> float | None:
        """Seconds until the first limit on time, the class's own among them."""
        return min((left for left in (self.left_s, self.class_left_s) if left is not None), default=None)


def deadline_at(until: str | None, started: float, utc_offset_s: float = 0.0) -> float | None:
    """Return the first moment after the start at which local clocks show `until`, Unix seconds.

    Args:
        until: `HH:MM` local time.
        started: Unix seconds the count starts from.
        utc_offset_s: Local time minus UTC.
    """
    if until is None:
        return None
    hours, minutes = until.split(":")
    local = started + utc_offset_s
    midnight = local - local % _DAY_S
    moment = midnight + int(hours) * 3600 + int(minutes) * 60
    return (moment if moment > local else moment + _DAY_S) - utc_offset_s


def affordable(
    budget: Budget,
    spent: Spent,
    estimate: Estimate,
    now: float,
    started: float,
    *,
    utc_offset_s: float = 0.0,
    use_reserve: bool = False,
) -> BudgetVerdict:
    """Return whether an action fits into what is left.

    Args:
        budget: The campaign's limits.
        spent: Used so far.
        estimate: What the action would use.
        now: Unix seconds.
        started: Unix seconds of the campaign's start.
        utc_offset_s: Local time minus UTC, for `until`.
        use_reserve: The action is one the reserve is kept for (confirmation, promotion, report).
    """
    reserve_s = 0.0 if use_reserve else budget.reserve_min * 60
    deadline = deadline_at(budget.until, started, utc_offset_s)
    hours_end = None if budget.hours is None else started + budget.hours * 3600 + spent.queued_s
    ends = {"until": deadline, "hours": hours_end}
    left = {name: end - now - reserve_s for name, end in ends.items() if end is not None}
    left_runs = None if budget.runs is None else budget.runs - spent.runs
    left_disk_gb = None if budget.disk_gb is None else budget.disk_gb - spent.disk_gb
    broken = [name for name in left if estimate.seconds > left[name] or left[name] <= 0]
    broken += ["runs"] if left_runs is not None and estimate.runs > left_runs else []
    broken += ["disk_gb"] if left_disk_gb is not None and estimate.disk_gb > left_disk_gb else []
    left_s = min(left.values()) if left else None
    return BudgetVerdict(
        is_affordable=not broken,
        limit=broken[0] if broken else "",
        left_s=left_s,
        left_runs=left_runs,
        left_disk_gb=left_disk_gb,
        deadline_at=deadline,
        sentence=_sentence(budget, estimate, broken, left, left_runs, left_disk_gb),
    )


def within_class(verdict: BudgetVerdict, name: str, hours: float, spent_s: float, seconds: float) -> BudgetVerdict:
    """Return a verdict that holds an act against the hours of its class too.

    Args:
        verdict: Of the campaign's limits.
        name: Of the class's instrument.
        hours: The class's.
        spent_s: What its runs took so far.
        seconds: What the act would take.
    """
    left_s = hours * 3600 - spent_s
    if not verdict.is_affordable or (seconds <= left_s and left_s > 0):
        return verdict.model_copy(update={"class_left_s": left_s})
    sentence = (
        f"It would take {minutes(seconds)} and {minutes(max(0.0, left_s))} are left of the {hours:g} hours that "
        f"budget.class_hours gives {name}."
    )
    return verdict.model_copy(
        update={"is_affordable": False, "limit": "class_hours", "class_left_s": left_s, "sentence": sentence}
    )


def _sentence(  # noqa: PLR0917 - the figures of one sentence
    budget: Budget,
    estimate: Estimate,
    broken: list[str],
    left: dict[str, float],
    left_runs: int | None,
    left_disk_gb: float | None,
) -> str:
    if broken and broken[0] in left:
        limit = f"until {budget.until}" if broken[0] == "until" else f"{budget.hours:g} hours"
        return (
            f"It would take {minutes(estimate.seconds)} and {minutes(max(0.0, left[broken[0]]))} are left "
            f"of the budget ({limit})."
        )
    if broken and broken[0] == "runs":
        return f"{left_runs} of {budget.runs} runs are left."
    if broken:
        return f"It would take {estimate.disk_gb:.2f} GB and {left_disk_gb or 0:.2f} of {budget.disk_gb:g} GB are left."
    if not left:
        return f"It would take {minutes(estimate.seconds)}; no time limit is set."
    return f"It would take {minutes(estimate.seconds)} of the {minutes(min(left.values()))} left."


def minutes(seconds: float) -> str:
    """Return a duration as people say it: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:  # noqa: PLR2004 - where seconds stop being read
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


PRIOR_TOKENS_PER_S = 1400.0
"""Training tokens per second of the tiny base on two cores with OpenBLAS (issue 2); an assumption anywhere else. Nearly
all of it is what a step costs whatever the model's size."""

FLOPS_OF_A_TOKEN = 6.0
"""Floating-point operations that a parameter costs for a token, forward and backward (Kaplan et al. 2020, section
2.1). Adapters need less, by up to a third; checkpointing costs more."""

ACCELERATOR_FLOPS = 5e12
"""Operations per second of a GPU whose speed nobody measured; assumed, between a small Mac and a server's GPU."""

ASSUMED_ERROR = 4.0
"""Factor by which an assumed estimate may be off; the lab's were off by 4 to 5."""


STEP_COST: Mapping[InstrumentClass, float] = {"demonstration": 1.0, "preference": 1.5, "rollout": 1.5}
"""Time of a row against one of demonstrations, until one was timed: a side of a pair has a reference too, a rollout
is decoded before it is learned from. Assumed."""


def rows_together(recipe: Mapping[str, Any], instrument: Instrument) -> int:
    """Return the rows of a step: both sides of each pair, the rollouts of each prompt, or rows of the data."""
    each = 2 if CLASSES[instrument] == "preference" else int(recipe.get("group_size", 1))
    return int(recipe["batch_size"]) * each


Source = Literal["measured", "remembered", "timed", "assumed"]
"""measured: on this campaign's own runs. remembered: on those of earlier campaigns with the same weights on this
machine. timed: on a few steps that were trained for nothing else. assumed: none of these."""

REMEMBERED_ERROR = 1.5
"""Factor by which a remembered or timed estimate may be off: other rows, another load, another adapter."""


class StepSample(Record):
    """One timed training step, or the mean of several of one length."""

    batch_size: int
    padded_tokens: float
    """Per row."""
    seconds: float


def timed_step(left: TrainResult, size: int) -> StepSample | None:
    """Return the mean step of a training, None where its steps were not timed.

    Args:
        left: What it left.
        size: Rows of a step.
    """
    if not (left.padded_tokens and left.steps_s and left.iters):
        return None
    return StepSample(
        batch_size=size, padded_tokens=left.padded_tokens / left.iters / size, seconds=left.steps_s / left.iters
    )


class StepTime(Record):
    """Seconds of one step: constant + linear x batch x length + quadratic x batch x length²."""

    constant_s: float
    linear_s: float
    quadratic_s: float
    error: float
    """Factor: the true time lies between estimate / error and estimate x error, most of the time."""
    samples: int
    source: Source

    def seconds(self, batch_size: int, padded_tokens: float) -> float:
        """Return the expected time of one step."""
        rows = batch_size * padded_tokens
        return self.constant_s + self.linear_s * rows + self.quadratic_s * rows * padded_tokens


class RunEstimate(Record):
    """Expected wall time of a run."""

    seconds: float
    low_s: float
    high_s: float
    step_s: float
    """Mean of one iteration."""
    fixed_s: float
    """Part of it that does not depend on iterations."""
    source: Source
    sentence: str


def prior(parameters: int | None = None, flops: float | None = None) -> StepTime:
    """Return a step time of which no step was timed.

    Args:
        parameters: Of the model; None where they are not known, which leaves the time of a tiny one.
        flops: Of a matrix product on the processor that trains, per second; None where a GPU does.
    """
    computing_s = FLOPS_OF_A_TOKEN * (parameters or 0) / (flops or ACCELERATOR_FLOPS)
    return StepTime(
        constant_s=0.0,
        linear_s=1 / PRIOR_TOKENS_PER_S + computing_s,
        quadratic_s=0.0,
        # A GPU that nobody measured may be a notebook's or a server's.
        error=ASSUMED_ERROR if flops or not parameters else ASSUMED_ERROR**2,
        samples=0,
        source="assumed",
    )


def fit(samples: Sequence[StepSample], before: StepTime | None = None) -> StepTime:
    """Return the step time that fits measured steps; the prior without any.

    Non-negative least squares on relative errors, so that short steps count as much as long ones. With fewer than three
    distinct lengths the three terms cannot be told apart, and the prior is scaled instead.
    """
    start = before or prior()
    if not samples:
        return start
    seconds = np.array([sample.seconds for sample in samples])
    if len({(sample.batch_size, sample.padded_tokens) for sample in samples}) < 3:  # noqa: PLR2004 - three terms
        expected = np.array([start.seconds(sample.batch_size, sample.padded_tokens) for sample in samples])
        factor = float(np.exp(np.mean(np.log(seconds / expected))))
        terms = np.array([start.constant_s, start.linear_s, start.quadratic_s]) * factor
    else:
        from scipy.optimize import nnls

        design = np.array([_terms(sample) for sample in samples])
        terms, _ = nnls(design / seconds[:, None], np.ones(len(samples)))
    fitted = StepTime(
        constant_s=float(terms[0]),
        linear_s=float(terms[1]),
        quadratic_s=float(terms[2]),
        error=1.0,
        samples=len(samples),
        source="measured",
    )
    return fitted.model_copy(update={"error": _error(fitted, samples)})


def step_time(
    samples: Mapping[Instrument, Sequence[StepSample]],
    instrument: Instrument,
    remembered: Mapping[Instrument, Sequence[StepSample]] | None = None,
    timed: Mapping[Instrument, Sequence[StepSample]] | None = None,
    before: StepTime | None = None,
) -> StepTime:
    """Return the step time of an instrument: fitted on its own runs, else remembered or timed ones, else on another's.

    Args:
        samples: Timed steps of each instrument in this campaign.
        instrument: Whose time is asked for.
        remembered: The same of earlier campaigns on this machine.
        timed: The same of steps that were trained to be timed.
        before: What is assumed where no step was timed; the tiny base's when left out.
    """
    if samples.get(instrument):
        return fit(samples[instrument], before)
    others: dict[Source, Mapping[Instrument, Sequence[StepSample]]] = {
        "remembered": remembered or {},
        "timed": timed or {},
    }
    for source, fitted in others.items():
        if fitted.get(instrument):
            known = fit(fitted[instrument], before)
            return known.model_copy(update={"error": max(REMEMBERED_ERROR, known.error), "source": source})
    name, own = next(((name, own) for name, own in {**(timed or {}), **samples}.items() if own), ("sft", ()))
    other = fit(own, before)
    ratio = STEP_COST[CLASSES[instrument]] / STEP_COST[CLASSES[name]]
    terms = {key: getattr(other, key) * ratio for key in ("constant_s", "linear_s", "quadratic_s")}
    error = ASSUMED_ERROR if own else other.error
    return other.model_copy(update={**terms, "error": error, "samples": 0, "source": "assumed"})


def _terms(sample: StepSample) -> tuple[float, float, float]:
    rows = sample.batch_size * sample.padded_tokens
    return 1.0, rows, rows * sample.padded_tokens


def _error(fitted: StepTime, samples: Sequence[StepSample]) -> float:
    """Return twice the scatter of the fit as a factor, and never less than 1.2: load on a machine varies."""
    logs = [math.log(sample.seconds / fitted.seconds(sample.batch_size, sample.padded_tokens)) for sample in samples]
    scatter = math.sqrt(sum(value * value for value in logs) / len(logs))
    return max(1.2, math.exp(2 * scatter))


def padded_batches(lengths: Sequence[int], batch_size: int, max_seq_length: int) -> list[int]:
    """Return the padded length of each batch when rows are sorted into batches by length."""
    cut = sorted(min(length, max_seq_length) for length in lengths)
    tops = [cut[min(start + batch_size, len(cut)) - 1] for start in range(0, len(cut), batch_size)]
    # The last token of a row is never read, only learned.
    return [math.ceil(max(1, top - 1) / PAD_TO) * PAD_TO for top in tops]


def lengths_from_quantiles(p50: float, p95: float, longest: float) -> list[int]:
    """Return twenty lengths with a given median, 95th percentile and maximum, where only those are known."""
    lower = [p50 * (0.6 + 0.4 * place / 9) for place in range(10)]
    upper = [p50 + (p95 - p50) * place / 9 for place in range(1, 10)]
    return [max(1, round(length)) for length in (*lower, *upper, longest)]


def estimate_run_s(
    step: StepTime, lengths: Sequence[int], recipe: Mapping[str, object], fixed_s: float = 0.0
) -> RunEstimate:
    """Return how long a training run takes.

    Args:
        step: Fitted or assumed step time.
        lengths: Token lengths of training rows, all or a fair sample.
        recipe: mlx-lm keys; `iters`, `batch_size` and `max_seq_length` count.
        fixed_s: Loading, validation and saving, seconds.
    """
    iters, batch_size = _integer(recipe, "iters"), _integer(recipe, "batch_size")
    tops = padded_batches(lengths, batch_size, _integer(recipe, "max_seq_length"))
    step_s = sum(step.seconds(batch_size, top) for top in tops) / len(tops)
    seconds = fixed_s + iters * step_s
    low, high = fixed_s + iters * step_s / step.error, fixed_s + iters * step_s * step.error
    runs = "1 run" if step.samples == 1 else f"{step.samples} runs"
    known = {
        "measured": f"measured on {runs}",
        "remembered": f"remembered from {runs} of earlier campaigns on this machine",
        "timed": "timed in a few steps on this machine",
        "assumed": "assumed, no step was timed here",
    }[step.source]
    sentence = f"{iters} iterations of {step_s:.2f} s, {seconds:.0f} s in all ({low:.0f} to {high:.0f}); {known}."
    return RunEstimate(
        seconds=seconds,
        low_s=low,
        high_s=high,
        step_s=step_s,
        fixed_s=fixed_s,
        source=step.source,
        sentence=sentence,
    )


def _integer(recipe: Mapping[str, object], key: str) -> int:
    return int(str(recipe[key]))


LEAST_ITERS = 20
"""Fewer iterations than this teach nothing."""

CUT_SPREAD = 1.2
"""What a cut run is left beyond its expected time: a machine's speed varies by so much when nothing is wrong."""

LEAST_SHARE = 0.5
"""A run cut to fewer of its iterations than this is another experiment than the one that was meant."""


def cut_to_time(recipe: Json, estimate: RunEstimate, left_s: float, least_iters: int = LEAST_ITERS) -> Json | None:
    """Return the recipe with as many iterations as fit at the expected speed, or None when not the least number does.

    One that takes longer than expected ends with the budget, and its last healthy save is judged.
    """
    if estimate.seconds <= left_s:
        return recipe
    step_s = CUT_SPREAD * (estimate.seconds - estimate.fixed_s) / _integer(recipe, "iters")
    fitting = int((left_s - estimate.fixed_s) / step_s)
    return {**recipe, "iters": fitting} if fitting >= least_iters else None


def least_iters(recipe: Mapping[str, object]) -> int:
    """Return the fewest iterations at which a cut run is still the experiment that was meant."""
    return max(LEAST_ITERS, math.ceil(LEAST_SHARE * _integer(recipe, "iters")))


_GB = 1e9
_VALUE_BYTES = 4

_PER_HIDDEN, _PER_ATTENTION, _PER_KEY, _PER_INTERMEDIATE = 3.2, 3.0, 2.3, 4.8
"""Values kept per position and trained layer, of each width."""
_PER_SCORE = 1.15
"""Values kept per head and pair of positions."""
_EDGE = 6.5
"""Values of hidden and intermediate width per position in flight, once; and one layer's scores."""
_PER_WORD = {4: 4.0, 2: 4.85}
"""Values per learned position and word of the vocabulary, once: logits, twice their softmax, their gradient.

Measured again with logits at the answers alone: 98 MB of logits less were 393 MB less at the peak.
"""
_HALF = 0.8
"""Share of a layer's values in half precision: adapters compute in float32."""
_CHECKPOINTED, _RECOMPUTED, _BESIDE_WORDS = 2.1, 2.55, 0.6
"""With gradient checkpoints: values of hidden width kept per position and layer; layers held whole while one is
computed again, and while the logits are there, which is before."""
_KINDS = {"lora": 1.0, "dora": 1.37, "full": 1.1}
"""What a layer keeps beside one with a plain adapter."""
_OPTIMIZER = {"adam": 2.0, "adamw": 2.0, "sgd": 1.0, "muon": 1.0, "adafactor": 0.1}
"""Values of optimizer state per trained value."""
OVERHEAD_GB = 0.3
"""Python and MLX's libraries."""
TOLERANCE = 1.25
"""Largest ratio of what was taken to what was estimated that is no finding."""

_CLAIM = "fits_in_memory"
_TAKEN = "took_the_planned_memory"


class Shape(Record):
    """Sizes of a model (`tools/models/shape.py`)."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    attention: int
    kv: int
    vocab: int
    value_bytes: int
    weights_gb: float


class MemoryEstimate(Record):
    """What a step takes at its peak, 1e9 bytes."""

    rows: int
    """Computed together."""
    length: int
    """Positions of the longest row, padded."""
    weights_gb: float
    adapter_gb: float
    """Trained values on top of the weights, and their gradient."""
    optimizer_gb: float
    activations_gb: float

    @property
    def total_gb(self) -> float:
        """The sum, without the interpreter."""
        return self.weights_gb + self.adapter_gb + self.optimizer_gb + self.activations_gb


def estimate(
    shape: Shape,
    recipe: Json,
    instrument: Instrument,
    longest: int,
    answer: int | None = None,
    *,
    together: int = ROLLOUTS_TOGETHER[False],
) -> MemoryEstimate:
    """Return what training by a recipe takes.

    Args:
        shape: The model.
        recipe: mlx-lm keys; what is left out has mlx-lm's value.
        instrument: What is learned from decides the rows of a step.
        longest: Tokens of the longest row, before max_seq_length cuts it.
        answer: Tokens of the longest answer, where logits are asked for nowhere else; None: at every position.
        together: Rollouts computed together in an update where the recipe does not say.
    """
    most = int(setting(recipe, "max_seq_length"))
    length = -(-min(longest, most) // PAD_TO) * PAD_TO
    rows = _rows(recipe, instrument, together)
    trained = int(setting(recipe, "num_layers"))
    layers = shape.layers if trained < 0 else min(trained, shape.layers)
    n_trained = _trained_values(shape, recipe, layers)
    is_full = recipe.get("fine_tune_type") == "full"
    trained_gb = n_trained * (shape.value_bytes if is_full else _VALUE_BYTES) / _GB
    learned = length
    if answer is not None and setting(recipe, "mask_prompt"):
        learned = min(length, -(-answer // PAD_TO) * PAD_TO)
    values = _activations(shape, recipe, rows, length, layers, learned)
    activations_gb = values * _VALUE_BYTES / _GB
    if CLASSES[instrument] == "rollout":
        activations_gb = max(activations_gb, _decoding_gb(shape, recipe, length))
    return MemoryEstimate(
        rows=rows,
        length=length,
        weights_gb=shape.weights_gb,
        adapter_gb=trained_gb * (1 if is_full else 2),
        optimizer_gb=trained_gb * _OPTIMIZER[str(setting(recipe, "optimizer"))],
        activations_gb=activations_gb,
    )


def _rows(recipe: Json, instrument: Instrument, together: int) -> int:
    """Return the rows of one forward pass with a gradient: a pair has two, an update of rollouts is cut in parts."""
    size = int(setting(recipe, "batch_size"))
    if CLASSES[instrument] == "rollout":
        return min(int(recipe.get("update_microbatch") or together), size * int(setting(recipe, "group_size")))
    return 2 * size if CLASSES[instrument] == "preference" else size


def _trained_values(shape: Shape, recipe: Json, layers: int) -> float:
    h, f, a, kv = shape.hidden, shape.intermediate, shape.attention, shape.kv
    sides = {
        "q_proj": (h, a), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (a, h),
        "gate_proj": (h, f), "up_proj": (h, f), "down_proj": (f, h),
    }  # fmt: skip
    parameters = recipe.get("lora_parameters") or {}
    named = {str(key).rpartition(".")[2] for key in parameters.get("keys") or sides}
    chosen = [sides[name] for name in named if name in sides] or list(sides.values())
    if recipe.get("fine_tune_type") == "full":
        return layers * float(sum(one * other for one, other in sides.values()))
    return layers * float(sum(one + other for one, other in chosen)) * int(parameters.get("rank", 8))


def _activations(  # noqa: PLR0917 - sizes
    shape: Shape, recipe: Json, rows: int, length: int, layers: int, learned: int
) -> float:
    """Return the values that a step holds beside weights and optimizer."""
    positions = rows * length
    share = 1.0 if shape.value_bytes == _VALUE_BYTES else _HALF
    words = _PER_WORD[_VALUE_BYTES if shape.value_bytes == _VALUE_BYTES else 2] * shape.vocab * rows * learned
    widths = _PER_HIDDEN * shape.hidden + _PER_ATTENTION * shape.attention + _PER_KEY * shape.kv
    layer = positions * (widths + _PER_INTERMEDIATE * shape.intermediate + _PER_SCORE * shape.heads * length)
    layer *= _KINDS[str(setting(recipe, "fine_tune_type"))]
    if recipe.get("grad_checkpoint"):
        kept = share * layers * _CHECKPOINTED * shape.hidden * positions
        return kept + max(words + share * _BESIDE_WORDS * layer, share * _RECOMPUTED * layer)
    edge = positions * (_EDGE * (shape.hidden + shape.intermediate) + shape.heads * length)
    return words + share * (layers * layer + edge)


def _decoding_gb(shape: Shape, recipe: Json, length: int) -> float:
    """Return what the keys and values of rollouts decoded together take."""
    rollouts = int(setting(recipe, "batch_size")) * int(setting(recipe, "group_size"))
    together = min(int(setting(recipe, "rollout_concurrency")), rollouts)
    return together * length * shape.layers * 2 * shape.kv * shape.value_bytes / _GB


def memory_beliefs(goal: Goal, beliefs: Iterable[Belief]) -> list[Belief]:
    """Return whether each instrument of a campaign fits into memory, as far as model and rows are known.

    What stood and cannot be said any more comes back stale.

    Args:
        goal: The campaign.
        beliefs: What stands: the model's sizes and the machine's limit by probe, the longest row by census.
    """
    known = list(beliefs)
    made = _made(goal, known)
    subjects = {belief.subject for belief in made}
    gone = [b for b in known if b.claim == _CLAIM and b.subject not in subjects and b.status in {"fresh", "refuted"}]
    return [*made, *(_outdated(belief) for belief in gone)]


def _outdated(belief: Belief) -> Belief:
    why = f"Not known now, since what it stood on has changed: {belief.statement}"
    evidence = Evidence(kind="record", ref=belief.id, summary=f"{belief.id} stood on what is gone.")
    changed = {"id": "", "status": "stale", "statement": why, "evidence": (evidence,), "premises": ()}
    return belief.model_copy(update=changed)


def _standing(beliefs: Iterable[Belief], subject: str, claim: str) -> Belief | None:
    return next((b for b in beliefs if (b.subject, b.claim) == (subject, claim) and b.status != "stale"), None)


def _made(goal: Goal, beliefs: list[Belief]) -> list[Belief]:
    # What an instrument's own recipe leaves open is as in the first one's: the same rows under the same adapter.
    recipes = ((name, {**goal.first_recipe, **goal.recipe_of(name)}) for name in goal.instruments)
    needs = ((instrument, recipe, _need(beliefs, instrument, recipe)) for instrument, recipe in recipes)
    return [_belief(instrument, recipe, need) for instrument, recipe, need in needs if need is not None]


def _correction(beliefs: Iterable[Belief], instrument: Instrument) -> float:
    """Return what runs of an instrument took beside their estimate, at most; 1 before there was one."""
    taken = [b.value for b in beliefs if b.claim == _TAKEN and isinstance(b.value, dict)]
    return max([1.0, *(float(row["ratio"]) for row in taken if row["instrument"] == instrument)])


@dataclass(frozen=True)
class _Need:
    """What a recipe needs beside what a job may hold."""

    shape: Shape
    parts: MemoryEstimate
    correction: float
    limit_gb: float
    stands_on: tuple[Belief, Belief]
    answer: int | None
    """Tokens of the longest answer, where that is known and matters."""
    together: int
    """Rollouts computed together on this machine where the recipe does not say."""

    @property
    def gb(self) -> float:
        """All of it, as far as it is known."""
        return self.parts.total_gb * self.correction + OVERHEAD_GB

    @property
    def fits(self) -> bool:
        return self.gb <= self.limit_gb

    def sentence(self, what: str) -> str:
        """Say it with its parts."""
        parts = self.parts
        corrected = f", times {self.correction:.2f} as earlier runs took" if self.correction > 1 else ""
        return (
            f"{what} needs about {self.gb:.2f} GB: weights {parts.weights_gb:.2f}, adapter and optimizer "
            f"{parts.adapter_gb + parts.optimizer_gb:.2f}, activations {parts.activations_gb:.2f} "
            f"({parts.rows} rows of at most {parts.length:,} positions), interpreter {OVERHEAD_GB:g}{corrected}; "
            f"jobs may hold {self.limit_gb:.2f} GB."
        )


def _need(beliefs: list[Belief], instrument: Instrument, recipe: Json) -> _Need | None:
    """Return what a recipe needs, None before model, machine and rows are known."""
    model = _standing(beliefs, "machine:memory", "fits_the_model")
    rows = _standing(beliefs, "data:train", "fits_sequence")
    if model is None or rows is None or not (model.value or {}).get("shape"):
        return None
    shape = Shape.model_validate(model.value["shape"])
    most = int(setting(recipe, "max_seq_length"))
    # Training rows are counted; pairs and rollouts may be as long as they are allowed to be.
    counted: Json = (rows.value or {}) if CLASSES[instrument] == "demonstration" else {}
    # What was sampled is at most the decode budget.
    answer = setting(recipe, "max_completion_length") if CLASSES[instrument] == "rollout" else counted.get("max_answer")
    together = int(model.value.get("rollouts_together") or ROLLOUTS_TOGETHER[False])
    parts = estimate(shape, recipe, instrument, int(counted.get("max_tokens") or most), answer, together=together)
    limit, grown = float(model.value["limit_gb"]), _correction(beliefs, instrument)
    return _Need(shape, parts, grown, limit, (model, rows), answer, together)


def refusal(beliefs: Iterable[Belief], instrument: Instrument, recipe: Json) -> str:
    """Return why a recipe is not to be run here, empty where it fits or nothing is known."""
    need = _need(list(beliefs), instrument, recipe)
    return "" if need is None or need.fits else need.sentence("It")


def _belief(instrument: Instrument, recipe: Json, need: _Need) -> Belief:
    model, rows = need.stands_on
    return Belief(
        subject=f"instrument:{instrument}",
        claim=_CLAIM,
        statement=need.sentence(instrument),
        value={**need.parts.model_dump(), "needed_gb": round(need.gb, 3), "limit_gb": need.limit_gb},
        tag="inferred",
        status="fresh" if need.fits else "refuted",
        severity="hard_stop",
        evidence=(Evidence(kind="record", ref=f"{model.id}, {rows.id}", summary="Model, machine and longest row."),),
        premises=tuple(b.id for b in (model, rows) if b.id),
        fix="" if need.fits else _fix(need, recipe, instrument),
        runbook=f"{runbook_of('')}#claim-memory",
    )


def _fix(need: _Need, recipe: Json, instrument: Instrument) -> str:
    """Return what to change, with what each change would take."""
    key = "update_microbatch" if CLASSES[instrument] == "rollout" else "batch_size"
    changes: list[Json] = [] if recipe.get("grad_checkpoint") else [{"grad_checkpoint": True}]
    if need.parts.rows > 1:
        changes.append({key: 1})
    smaller = dict(recipe)
    advice: list[str] = []
    for change in changes:
        smaller |= change
        parts = estimate(need.shape, smaller, instrument, need.parts.length, need.answer, together=need.together)
        gb = replace(need, parts=parts).gb
        [(name, value)] = change.items()
        advice.append(f"with {'also ' if advice else ''}recipe.{name}: {str(value).lower()} it would need {gb:.2f} GB")
    start = f"Change the recipe ({'; '.join(advice)}); or" if advice else "Change the recipe:"
    return f"{start} lower recipe.max_seq_length or num_layers, or choose a smaller or a quantized model."


class MemoryLimits(NamedTuple):
    """What a job may hold, decimal gigabytes: as MLX counts its arrays, and as the system counts the process.

    Where a GPU has memory of its own, each is bounded by its own; one says nothing of the other.
    """

    arrays_gb: float
    resident_gb: float


def memory_limits(beliefs: Iterable[Belief]) -> MemoryLimits | None:
    """Return what a job may hold on this machine, None before it was looked at."""
    model = _standing(beliefs, "machine:memory", "fits_the_model")
    value = (model.value or {}) if model else {}
    if value.get("limit_gb") is None:
        return None
    # An older Vigil knew one for both.
    return MemoryLimits(float(value["limit_gb"]), float(value.get("resident_gb") or value["limit_gb"]))


def taken(beliefs: Iterable[Belief], run: Run, action: Action) -> Belief | None:
    """Hold what a run took against the estimate; None where one of both is not known.

    Args:
        beliefs: What stands.
        run: The run.
        action: Its training, which left `peak_memory_gb`, MLX's own count, and the exit record's `peak_rss_gb`.
    """
    need, peak = _need(list(beliefs), run.instrument, run.recipe), action.made.peak_memory_gb
    if need is None or not peak:
        return None
    parts = need.parts
    ratio, whole_gb = peak / parts.total_gb, action.exit.peak_rss_gb
    process = f", the whole process {whole_gb:.2f} GB" if whole_gb else ""
    sentence = f"{run.id} took {peak:.2f} GB at its peak{process}; {parts.total_gb:.2f} GB were estimated"
    is_fine = ratio <= TOLERANCE
    return Belief(
        subject=f"run:{run.id}",
        claim=_TAKEN,
        statement=f"{sentence}." if is_fine else f"{sentence}: it took {ratio:.2f} times the estimate.",
        value={
            "instrument": run.instrument,
            "estimate_gb": round(parts.total_gb, 3),
            "peak_gb": round(peak, 3),
            "ratio": round(ratio, 3),
        },
        tag="inferred",
        status="fresh" if is_fine else "refuted",
        severity="note" if is_fine else "warning",
        evidence=(
            Evidence(kind="record", ref=run.id, summary=f"Estimated for {parts.rows} x {parts.length:,} positions."),
        ),
        fix="" if is_fine else "Nothing to do: later estimates are corrected by what was measured here.",
        runbook="" if is_fine else runbook_of(""),
    )
