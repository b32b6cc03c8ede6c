"""What a run of rollouts leaves beside its weights: every rollout, and the held-out cases as the gate grades them.

`out/rollouts.jsonl`: `update`, `case`, `sample`, `reward`, `advantage`, `metrics`, `grader_error`, `output_tokens`,
`finish_reason`, `characters`, `text`. `out/held_out.jsonl`: `step`, `case`, `reward`, `metrics`, `output_tokens`,
`finish_reason`; step 0 is the parent. Where texts are private they are empty.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from state.files import read_jsonl, write_atomic
from state.records import Json
from tools.tracks.host import Grader
from tools.training.rewards import Scheme, Scored, grade_rollouts
from tools.training.rollouts import Rollout, Task, roll_out


class RolloutLog:
    """The file of every rollout.

    Args:
        path: Of the file.
        is_private: Leave the texts out.
    """

    def __init__(self, path: Path, *, is_private: bool) -> None:
        self._path = path
        self._is_private = is_private

    def rewind(self, update: int) -> None:
        """Forget rollouts of later updates than one: they will be sampled again."""
        if not self._path.exists():
            return
        # A kill may have torn the last line, also where it looks whole: behind the brace that closes its metrics.
        rows = [row for row in read_jsonl(self._path) if row["update"] <= update]
        write_atomic(self._path, "".join(json.dumps(row) + "\n" for row in rows))

    def add(
        self, update: int, rollouts: Sequence[Rollout], scored: Sequence[Scored], advantages: Sequence[float]
    ) -> None:
        """Append the rollouts of an update."""
        rows = zip(rollouts, scored, advantages, strict=True)
        text = "".join(json.dumps(self._row(update, *row)) + "\n" for row in rows)
        with self._path.open("a", encoding="ascii") as stream:
            stream.write(text)

    def _row(self, update: int, rollout: Rollout, scored: Scored, advantage: float) -> Json:
        return {
            "update": update,
            "case": str(rollout.task.case["id"]),
            "sample": rollout.sample,
            "reward": scored.reward,
            "advantage": advantage,
            "metrics": dict(scored.metrics),
            "grader_error": scored.error,
            "output_tokens": rollout.tokens,
            "finish_reason": rollout.finish_reason,
            "characters": len(rollout.text),
            "text": "" if self._is_private else rollout.text,
        }


class HeldOut:
    """Cases that are never learned from, graded by the metrics of the gate.

    Answered as rollouts are, at their temperature and always with the same random numbers: a policy that only grows
    surer of itself earns more by sampling and says the same greedily, which must not look like a reward that is hacked.

    Args:
        model: The model in training; as the parent left it when `begin` is called.
        tokenizer: mlx-lm tokenizer wrapper.
        tasks: The cases.
        grader: The track's.
        scheme: What rollouts earn, for comparison.
        signs: Metric of the gate -> +1 where more is better, -1 where less is.
        max_tokens: Decode budget of each.
        temperature: Of the rollouts.
        seed: Of the run.
        batch_size: Answers decoded together.
        path: File of the scores.
        should_stop: Asked between decoding steps.
    """

    def __init__(
        self,
        *,
        model: Any,
        tokenizer: Any,
        tasks: Sequence[Task],
        grader: Grader,
        scheme: Scheme,
        signs: Mapping[str, int],
        max_tokens: int,
        temperature: float,
        seed: int,
        batch_size: int,
        path: Path,
        should_stop: Callable[[], bool],
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._tasks = tasks
        self._grader = grader
        self._scheme = scheme
        self._signs = signs
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._seed = seed
        self._batch_size = batch_size
        self._path = path
        self._should_stop = should_stop

    def take(self, step: int) -> tuple[Json, dict[str, float]] | None:
        """Answer and grade now, unless that was done; None where a stop was asked for meanwhile.

        Returns:
            A metrics row, and the score of each case that has one. In the row: `held_out_score`, the mean of the gate's
            metrics, [-1, 1]; each as `held_out_METRIC`; `held_out_reward`, by the rollouts' own scheme;
            `held_out_tokens` and `held_out_cut`, mean length and share that the budget cut. A metric that no case has
            is left out.
        """
        rows = read_jsonl(self._path)
        found = [row for row in rows if row["step"] == step]
        if len(found) != len(self._tasks):
            answered = self._answer(step)
            if answered is None:
                return None
            found = answered
            self._write([*(row for row in rows if row["step"] < step), *found])
        scores = {row["case"]: self._score(row["metrics"]) for row in found}
        return {"step": step, **self._facts(found)}, {name: each for name, each in scores.items() if each is not None}

    def rewind(self, step: int) -> None:
        """Forget what was measured after a step that the run goes on from."""
        self._write([row for row in read_jsonl(self._path) if row["step"] <= step])

    def _answer(self, step: int) -> list[Json] | None:
        rollouts = roll_out(
            self._model,
            self._tokenizer,
            self._tasks,
            group_size=1,
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            seed=self._seed,
            update=0,
            concurrency=self._batch_size,
            should_stop=self._should_stop,
        )
        if rollouts is None:
            return None
        grades = grade_rollouts(self._grader, rollouts)
        return [
            {
                "step": step,
                "case": str(rollout.task.case["id"]),
                "reward": self._scheme.reward(grade.metrics, is_cut=rollout.is_cut),
                "metrics": grade.metrics,
                "output_tokens": rollout.tokens,
                "finish_reason": rollout.finish_reason,
            }
            for rollout, grade in zip(rollouts, grades, strict=True)
        ]

    def _score(self, metrics: Mapping[str, float | None]) -> float | None:
        """Return a case's mean over the gate's metrics, or None where one was not measured."""
        values = [(sign, metrics.get(name)) for name, sign in self._signs.items()]
        known = [sign * value for sign, value in values if value is not None]
        return sum(known) / len(known) if len(known) == len(values) else None

    def _facts(self, rows: Sequence[Json]) -> Json:
        means = {name: _mean([row["metrics"].get(name) for row in rows]) for name in self._signs}
        known = {name: mean for name, mean in means.items() if mean is not None}
        found: Json = {f"held_out_{name}": mean for name, mean in known.items()}
        if known:
            found["held_out_score"] = sum(self._signs[name] * mean for name, mean in known.items()) / len(known)
        reward = _mean([row["reward"] for row in rows])
        found |= {} if reward is None else {"held_out_reward": reward}
        return found | {
            "held_out_tokens": sum(row["output_tokens"] for row in rows) / len(rows),
            "held_out_cut": sum(row["finish_reason"] == "length" for row in rows) / len(rows),
        }

    def _write(self, rows: Sequence[Json]) -> None:
        write_atomic(self._path, "".join(json.dumps(row) + "\n" for row in rows))


LOST_P = 0.005
"""One-sided level of the sign test by which an early look says that a run has lost what its start could do."""


class Interim:
    """Early looks at a run: its answers to a part of the selection cases, held against those of its start.

    Args:
        held_out: The cases.
        first: Step from which on it is looked at.
    """

    def __init__(self, held_out: HeldOut, first: int) -> None:
        self._held_out = held_out
        self._first = first
        self._start: dict[str, float] = {}

    def begin(self) -> Json | None:
        """Take the start's answers; return a metrics row, None where a stop was asked for meanwhile."""
        taken = self._held_out.take(0)
        if taken is None:
            return None
        row, self._start = taken
        return row

    def rewind(self, step: int) -> None:
        """Forget what was seen after a step that the run goes on from."""
        self._held_out.rewind(step)

    def take(self, step: int) -> list[Json]:
        """Look now; return a metrics row, none before the first step and where a stop was asked for meanwhile.

        Returns:
            As `HeldOut.take`, with `interim_better` and `interim_worse`, cases that score otherwise than the start's,
            and `interim_lost`, 1 where more are worse for certain.
        """
        taken = self._held_out.take(step) if step >= self._first else None
        if taken is None:
            return []
        row, scores = taken
        better, worse = (
            sum(sign * (score - self._start[case]) > 0 for case, score in scores.items() if case in self._start)
            for sign in (1, -1)
        )
        changed = better + worse
        chance = sum(math.comb(changed, lost) for lost in range(worse, changed + 1)) / 2**changed
        is_lost = chance <= LOST_P
        return [{**row, "interim_better": better, "interim_worse": worse, "interim_lost": float(is_lost)}]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
