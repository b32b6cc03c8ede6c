"""How long training takes: a step time fitted on measured steps, linear and quadratic in padded length.

Failure mode 10: the lab planned by steps and was off by a factor of five, in both directions. Until steps of this
machine are known the figure is *assumed* and says so.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from state.recipe import PAD_TO
from state.records import Instrument, Json, Record

PRIOR_TOKENS_PER_S = 1400.0
"""Training tokens per second of the tiny base on two cores with OpenBLAS (issue 2); an assumption anywhere else."""

ASSUMED_ERROR = 4.0
"""Factor by which an assumed estimate may be off; the lab's were off by 4 to 5."""


STEP_COST: Mapping[Instrument, float] = {"sft": 1.0, "dpo": 1.5, "grpo": 1.5}
"""Time of a row against one of SFT, until one was timed: a side of a pair has a reference too, a rollout is decoded
before it is learned from. Assumed."""


def rows_at_once(recipe: Mapping[str, Any], instrument: Instrument) -> int:
    """Return the rows of a step: both sides of each pair, the rollouts of each prompt, or rows of the data."""
    each = 2 if instrument == "dpo" else int(recipe.get("group_size", 1))
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


def prior(tokens_per_s: float = PRIOR_TOKENS_PER_S) -> StepTime:
    """Return a step time from a throughput alone."""
    return StepTime(
        constant_s=0.0, linear_s=1 / tokens_per_s, quadratic_s=0.0, error=ASSUMED_ERROR, samples=0, source="assumed"
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
) -> StepTime:
    """Return the step time of an instrument: fitted on its own runs, else remembered or timed ones, else on another's.

    Args:
        samples: Timed steps of each instrument in this campaign.
        instrument: Whose time is asked for.
        remembered: The same of earlier campaigns on this machine.
        timed: The same of steps that were trained to be timed.
    """
    if samples.get(instrument):
        return fit(samples[instrument])
    others: dict[Source, Mapping[Instrument, Sequence[StepSample]]] = {
        "remembered": remembered or {},
        "timed": timed or {},
    }
    for source, found in others.items():
        if found.get(instrument):
            known = fit(found[instrument])
            return known.model_copy(update={"error": max(REMEMBERED_ERROR, known.error), "source": source})
    name, own = next(((name, own) for name, own in {**(timed or {}), **samples}.items() if own), ("sft", ()))
    other = fit(own)
    ratio = STEP_COST[instrument] / STEP_COST[name]
    terms = {key: getattr(other, key) * ratio for key in ("constant_s", "linear_s", "quadratic_s")}
    return other.model_copy(update={**terms, "error": ASSUMED_ERROR, "samples": 0, "source": "assumed"})


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
