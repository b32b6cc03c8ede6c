"""Guards: stop conditions as data, judged on what the worker reported and the supervisor saw. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from state.records import Guard

Counters = dict[int, int]
"""Position of a guard in the job's list -> observations in a row that met its condition."""


@dataclass(frozen=True)
class Fired:
    """A guard whose condition held for as long as its patience asks."""

    position: int
    guard: Guard
    value: float
    """The observation that completed the row."""
    step: int | None
    """Step of the row it came with; None for a signal of the supervisor."""

    def to_json(self) -> dict[str, Any]:
        """Return the form of the exit record; NaN and infinities as words, since JSON has none."""
        value = self.value if math.isfinite(self.value) else str(self.value)
        return {**self.guard.model_dump(), "value": value, "step": self.step}

    def sentence(self) -> str:
        """Say what was seen and what the bound was."""
        at = "" if self.step is None else f" at step {self.step}"
        bound = "not finite" if self.guard.op == "non_finite" else f"{self.guard.op} {self.guard.threshold:g}"
        times = f" {self.guard.patience} times in a row" if self.guard.patience > 1 else ""
        return f"{self.guard.signal} was {self.value:.6g}{at}, {bound}{times}."


def is_met(guard: Guard, value: float) -> bool:
    """Tell whether one observation meets a guard's condition."""
    if guard.op == "non_finite":
        return not math.isfinite(value)
    return value > guard.threshold if guard.op == ">" else value < guard.threshold


def evaluate(
    guards: Sequence[Guard],
    rows: Iterable[Mapping[str, Any]],
    signals: Mapping[str, float],
    counters: Mapping[int, int],
) -> tuple[list[Fired], Counters]:
    """Judge new observations.

    A row or a set of signals without a guard's field is no observation: it neither meets the condition nor breaks a
    row of ones that did.

    Args:
        guards: The job's guards, always in one order.
        rows: Rows of metrics.jsonl since the last call, oldest first.
        signals: What the supervisor sampled at this moment.
        counters: What the last call returned; empty at first.

    Returns:
        The guards that fired, in the order they did, each at most once a call; and the new counters.
    """
    state: Counters = dict(counters)
    fired: dict[int, Fired] = {}
    for observation in [*rows, signals]:
        step = observation.get("step")
        for position, guard in enumerate(guards):
            value = observation.get(guard.signal)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            state[position] = state.get(position, 0) + 1 if is_met(guard, value) else 0
            if state[position] >= guard.patience and position not in fired:
                fired[position] = Fired(position, guard, float(value), step if isinstance(step, int) else None)
    return list(fired.values()), state
