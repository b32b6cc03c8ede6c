"""Learning from what the model itself generates, graded while it trains; worker processes only.

Every update samples `batch_size` prompts times `group_size` answers, has the track's grader score them, and makes those
more likely that did better than their group (GRPO, Shao et al. 2024), tied to the parent. The parent is the weights
that training starts from, a parent's adapter included: its trainable parameters are kept as they were and put in place
for one forward pass, which is exact for LoRA, DoRA and full training and costs no second model.

`out/rollouts.jsonl`: `update`, `case`, `sample`, `reward`, `advantage`, `metrics`, `grader_error`, `output_tokens`,
`finish_reason`, `characters`, `text`. `out/held_out.jsonl`: `step`, `case`, `reward`, `metrics`, `output_tokens`,
`finish_reason`; step 0 is the parent. Where texts are private they are empty.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from state.files import read_jsonl, write_atomic
from state.recipe import ROLLOUTS_TOGETHER
from state.records import Json
from tools.graders.host import Grader
from tools.jobs.worker import tell_phase
from tools.training.data import Batch, Cursor, Row, Shape, answers, answers_after, collate, shape_of
from tools.training.losses import ROLLOUT_COLUMNS, Logits, Loss, demonstration_loss, logits_at, rollout_loss
from tools.training.objective import Objective
from tools.training.recipe import RolloutRecipe
from tools.training.reinforcement_bounds import Bounds
from tools.training.rollouts import (
    UNTOLD_UPDATES,
    Rollout,
    Scheme,
    Scored,
    Task,
    grade_rollouts,
    group_advantages,
    require_rewards,
    reward_facts,
    roll_out,
    score,
    signal_facts,
    signal_prompts,
)


class RolloutLog:
    """The file of every rollout."""

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
        rows_of_step = [row for row in rows if row["step"] == step]
        if len(rows_of_step) != len(self._tasks):
            answered = self._answer(step)
            if answered is None:
                return None
            rows_of_step = answered
            self._write([*(row for row in rows if row["step"] < step), *rows_of_step])
        scores = {row["case"]: self._score(row["metrics"]) for row in rows_of_step}
        return {"step": step, **self._facts(rows_of_step)}, {
            name: each for name, each in scores.items() if each is not None
        }

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
        facts: Json = {f"held_out_{name}": mean for name, mean in known.items()}
        if known:
            facts["held_out_score"] = sum(self._signs[name] * mean for name, mean in known.items()) / len(known)
        reward = _mean([row["reward"] for row in rows])
        facts |= {} if reward is None else {"held_out_reward": reward}
        return facts | {
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


@dataclass
class _Counters:
    """What was sampled since the last report."""

    scored: list[Scored] = field(default_factory=list)
    rollouts: list[Rollout] = field(default_factory=list)
    groups: int = 0
    equal_groups: int = 0
    generation_s: float = 0.0
    grading_s: float = 0.0
    scoring_s: float = 0.0
    scored_tokens: int = 0
    off: float = 0.0
    """Squared distance from 1 of each token's probability in training over that in the sampler, summed."""
    off_tokens: int = 0


class Reinforcement(Objective):
    """Learning from graded rollouts.

    Args:
        recipe: For sampling, rewards and the loss.
        model: Sampled from; prepared for training when `begin` is called.
        tokenizer: mlx-lm tokenizer wrapper.
        tasks: What is answered.
        grader: The track's, opened.
        scheme: What an answer earns.
        log: Of every rollout.
        held_out: Cases never learned from; None for none.
        should_stop: Asked between decoding steps.
    """

    _shares_prompts = False
    """Whether each prompt is computed once for its answers; known when training begins."""

    def __init__(
        self,
        *,
        recipe: RolloutRecipe,
        model: Any,
        tokenizer: Any,
        tasks: Sequence[Task],
        grader: Grader,
        scheme: Scheme,
        log: RolloutLog,
        held_out: HeldOut | None,
        should_stop: Callable[[], bool],
    ) -> None:
        self.stride = recipe.updates_per_batch
        self._recipe = recipe
        self._model = model
        self._tokenizer = tokenizer
        self._tasks = tasks
        self._grader = grader
        self._scheme = scheme
        self._log = log
        self._held_out = held_out
        self._should_stop = should_stop
        self._parent: Any = None
        self._counters = _Counters()
        self._latest: list[list[Scored]] = []
        self._bounds = Bounds(recipe.kl_ceiling, recipe.entropy_floor, recipe.length_jump, scheme.scale)
        self._loss = self._loss_by(logits_at)
        is_cuda = _is_cuda()
        self._together = recipe.update_microbatch or ROLLOUTS_TOGETHER[is_cuda]
        self._step = _CUDA_STEP if is_cuda else None

    def _loss_by(self, logits_of: Logits) -> Loss:
        recipe = self._recipe
        return rollout_loss(
            recipe.loss_type,
            beta=recipe.beta,
            clip=recipe.clip,
            temperature=recipe.temperature,
            most_tokens=recipe.max_completion_length,
            is_on_policy=recipe.updates_per_batch == 1,
            logits_of=logits_of,
        )

    @property
    def fault(self) -> str:
        """See `Objective`: the bound that is broken."""
        return self._bounds.fault

    def begin(self) -> list[Json] | None:
        """See `Objective`: keep the parent, and measure it on the held-out cases."""
        self._parent = self._model.trainable_parameters()
        self._share_prompts()
        if self._held_out is not None:
            tell_phase("answering the held-out cases with what it starts from")
        return self._grade_held_out(0)

    def signal(self) -> Json | None:
        """Return what the start earns by the user's own reward; None where a stop was asked for meanwhile.

        A few prompts are answered as an update answers them, and as many again where no reward differs; see
        `signal_facts`. What the recipe charges for a cut answer is no part of the user's reward.
        """
        recipe = self._recipe
        scheme = replace(self._scheme, cut_cost=None if self._scheme.cut_cost is None else 0.0)
        size = signal_prompts(recipe.group_size)
        # The file may be sorted by length: every second one first.
        tasks = [*self._tasks[::2], *self._tasks[1::2]][: 2 * size]
        facts: Json = {}
        rollouts_so_far: list[Rollout] = []
        for at in range(0, len(tasks), size):
            rollouts = roll_out(
                self._model,
                self._tokenizer,
                tasks[at : at + size],
                group_size=recipe.group_size,
                max_tokens=recipe.max_completion_length,
                temperature=recipe.temperature,
                seed=recipe.seed,
                # No update has a number below 1: these random numbers are nobody else's.
                update=-at,
                concurrency=recipe.rollout_concurrency,
                should_stop=self._should_stop,
            )
            if rollouts is None:
                return None
            rollouts_so_far += rollouts
            scored = score(self._grader, scheme, rollouts_so_far)
            facts = signal_facts(scheme, rollouts_so_far, scored, recipe.group_size)
            if facts["groups_that_differ"]:
                break
        return facts

    def _share_prompts(self) -> None:
        """Compute each prompt once for its answers where they are computed together and the model can.

        Not where layers are computed twice for the gradient: their keys and values are gone by then.
        """
        from tools.training.losses import can_share, logits_after

        recipe = self._recipe
        is_together = self._together <= recipe.group_size and not recipe.grad_checkpoint
        has_two = all(len(task.prompt) > 1 for task in self._tasks)
        self._shares_prompts = is_together and has_two and can_share(self._model, self._tasks[0].prompt)
        if self._shares_prompts:
            self._loss = self._loss_by(logits_after)

    def batches(self, cursor: Cursor) -> Iterator[tuple[Batch, Cursor]]:
        """See `Objective`; a cursor's position counts updates; a save stands only where new rollouts are due."""
        done = cursor.position
        self._log.rewind(done)
        if self._held_out is not None:
            self._held_out.rewind(done)
        stride, per_epoch = self.stride, max(1, len(self._tasks) // self._recipe.batch_size)
        for number in count(done // stride):
            epoch, place = divmod(number, per_epoch)
            batch = self._sampled(self._drawn(epoch, place), number * stride + 1)
            if batch is None:
                return
            for use in range(1, stride + 1):
                yield batch, Cursor((number + 1) // per_epoch, number * stride + use)
                # Learned from again: the same rollouts, and no more of the data.
                batch = replace(batch, rows=0, real_tokens=0, padded_tokens=0)

    def _drawn(self, epoch: int, place: int) -> list[Task]:
        """Return the prompts of a place in an epoch, in an order of its own.

        Always as many as the recipe asks for: what an epoch has left over stands elsewhere in the next one's order.
        """
        size = self._recipe.batch_size
        order = np.random.default_rng([self._recipe.seed, epoch]).permutation(len(self._tasks))
        return [self._tasks[int(each)] for each in np.resize(order[place * size :], size)]

    def validation(self) -> list[Batch]:
        """Return nothing: the held-out cases are graded instead."""
        return []

    def loss(self, model: Any, *arrays: Any) -> tuple[Any, Any]:
        """See `Objective`."""
        return self._loss(model, *arrays)

    def probe(self, cursor: Cursor) -> tuple[Loss, Batch]:
        """See `Objective`: the likelihood of a few prompts; to sample anew would cost as much as an update."""
        del cursor
        tasks = self._tasks[:_PROBED]
        prompts = [task.prompt if len(task.prompt) > 1 else task.prompt * 2 for task in tasks]
        return demonstration_loss, collate([Row(prompt, 1) for prompt in prompts])

    def notes(self) -> Json:
        """See `Objective`."""
        return dict(self._bounds.notes)

    def recall(self, notes: Json) -> None:
        """See `Objective`."""
        self._bounds.notes = dict(notes)

    def learned(self, figures: NDArray[np.float64]) -> None:
        """See `Objective`."""
        if len(figures):
            per_token = _per_token(figures)
            self._bounds.learned(per_token["kl"], per_token["entropy"])

    def watch(self, step: int, *, is_due: bool) -> list[Json]:
        """See `Objective`: the held-out cases."""
        return (self._grade_held_out(step) or []) if is_due else []

    def report(self, figures: NDArray[np.float64]) -> Json:
        """Return rewards by dimension, lengths, how far the policy went, and the speed of each part.

        Returns:
            See `reward_facts`; `kl`, `entropy` (nats per token) and `clip_share` over learned tokens;
            `zero_variance_share` of the groups, nothing to compare in them; `completion_length` with `_min`, `_max`,
            and `completion_length_ended` of those that ended by themselves; `truncated_share`; `rollouts` sampled and
            `learned_rollouts`; `prompts_shared` 1 where each prompt is computed once; `entropy_share` and
            `length_ratio` (see `Bounds`); `sampler_ratio_spread`, root mean square distance from 1 of a token's
            probability in training over that in the sampler, before the update; `ratio_spread`, the same over that of
            the policy that the rollouts were taken from, where they are learned from again; `generation_tokens_per_s`,
            `grading_per_s` (rollouts) and `scoring_tokens_per_s` (log-probabilities under the parent).
        """
        facts: Json = {"learned_rollouts": len(figures), **({"prompts_shared": 1} if self._shares_prompts else {})}
        counters, self._counters = self._counters, _Counters()
        if len(figures):
            per_token = _per_token(figures)
            facts |= {"kl": per_token["kl"], "entropy": per_token["entropy"], "clip_share": per_token["clipped"]}
            # Where rollouts are learned from again, `old` is the policy's own, and what the sampler said was set
            # against that when they were sampled.
            off = per_token["off"] if self.stride == 1 else counters.off / max(1, counters.off_tokens)
            facts |= {"sampler_ratio_spread": math.sqrt(off)} if self.stride == 1 or counters.off_tokens else {}
            facts |= {"ratio_spread": math.sqrt(per_token["off"])} if self.stride > 1 else {}
        bounds = self._bounds.row()
        if counters.rollouts:
            return facts | bounds | _sampling_facts(self._scheme, counters)
        # The same rollouts again are no second observation of their lengths: a guard would count them as one.
        bounds.pop("length_ratio", None)
        return facts | bounds

    def _grade_held_out(self, step: int) -> list[Json] | None:
        if self._held_out is None:
            return []
        taken = self._held_out.take(step)
        if taken is None:
            return None
        row, scores = taken
        return [row | self._bounds.held_out(scores)]

    def _sampled(self, tasks: Sequence[Task], update: int) -> Batch | None:
        """Return what an update learns from; None where a stop was asked for meanwhile."""
        recipe, counters = self._recipe, self._counters
        if not self._latest:
            tell_phase(f"first update: {len(tasks) * recipe.group_size:,} answers to {len(tasks):,} prompts")
        started = time.monotonic()
        rollouts = roll_out(
            self._model,
            self._tokenizer,
            tasks,
            group_size=recipe.group_size,
            max_tokens=recipe.max_completion_length,
            temperature=recipe.temperature,
            seed=recipe.seed,
            update=update,
            concurrency=recipe.rollout_concurrency,
            should_stop=self._should_stop,
        )
        if rollouts is None:
            return None
        generated = time.monotonic()
        scored = score(self._grader, self._scheme, rollouts)
        graded = time.monotonic()
        self._latest = [*self._latest, scored][-UNTOLD_UPDATES:]
        require_rewards(self._latest)
        size = recipe.group_size
        rewards = [each.reward for each in scored]
        groups = [rewards[at : at + size] for at in range(0, len(rewards), size)]
        compared = [group_advantages(group, is_scaled=recipe.scale_rewards) for group in groups]
        advantages = [each for of_group in compared for each in (of_group or [0.0] * size)]
        self._log.add(update, rollouts, scored, advantages)
        self._note(rollouts, groups)
        kept = [
            (rollout, advantage)
            for place, (rollout, advantage) in enumerate(zip(rollouts, advantages, strict=True))
            if compared[place // size] is not None and rewards[place] is not None
        ]
        batch = self._collated(kept, rollouts, tasks)
        counters.scored += scored
        counters.rollouts += rollouts
        counters.groups += len(groups)
        counters.equal_groups += sum(of_group is None for of_group in compared)
        counters.generation_s += generated - started
        counters.grading_s += graded - generated
        counters.scoring_s += time.monotonic() - graded
        counters.scored_tokens += batch.learned_tokens
        return batch

    def _note(self, rollouts: Sequence[Rollout], groups: Sequence[Sequence[float | None]]) -> None:
        known = [[reward for reward in group if reward is not None] for group in groups]
        self._bounds.sampled(
            float(np.mean([rollout.tokens / rollout.task.usual for rollout in rollouts])),
            [float(np.mean(group)) for group in known if group],
            has_references=all(task.case.get("reference") is not None for task in self._tasks),
        )

    def _collated(self, kept: list[tuple[Rollout, float]], rollouts: Sequence[Rollout], tasks: Sequence[Task]) -> Batch:
        """Return the batch of what is learned from: those to one prompt together, or those of like length."""
        ordered = sorted(kept, key=lambda each: len(each[0].row.tokens))
        if self._shares_prompts:
            # Few prompts may be drawn twice for one update.
            drawn = {id(task): task for task in tasks}.values()
            together = [[each for each in ordered if each[0].task is task] for task in drawn]
        else:
            together = [ordered]
        size = self._together
        sampled = [rollout.row for rollout, _ in kept]
        known: list[Shape] = []
        if self._step is not None and sampled:
            own = shape_of([len(row.tokens) for row in sampled], [row.targets for row in sampled])
            known = [own.rounded(self._step)]
        parts = [self._part(rows[at : at + size], known) for rows in together for at in range(0, len(rows), size)]
        learned = sum(rollout.tokens for rollout, _ in kept)
        real = sum(len(rollout.row.tokens) for rollout in rollouts)
        longest = max(len(rollout.row.tokens) for rollout in rollouts)
        return Batch(
            arrays=parts[0] if parts else (),
            weight=learned if self._recipe.loss_type == "bnpo" else len(kept),
            rows=len(tasks),
            learned_tokens=learned,
            real_tokens=real,
            padded_tokens=longest * len(rollouts),
            more=tuple(parts[1:]),
        )

    def _part(self, kept: Sequence[tuple[Rollout, float]], known: Sequence[Shape]) -> tuple[NDArray[Any], ...]:
        rows = [rollout.row for rollout, _ in kept]
        *sampled, mask = answers_after(rows) if self._shares_prompts else answers(rows, known)
        advantages = np.array([advantage for _, advantage in kept], dtype=np.float32)
        parent = self._logps(sampled, self._parent)
        part = np.zeros_like(mask)
        part[mask == 1] = np.concatenate([rollout.logps for rollout, _ in kept])
        # Where rollouts serve one update the policy that sampled them is the one that learns from them.
        old = self._logps(sampled, None) if self.stride > 1 else part
        self._counters.off += float((np.square(np.exp(old - part) - 1) * mask).sum())
        self._counters.off_tokens += int(mask.sum())
        return *sampled, mask, advantages, old, parent

    def _logps(self, sampled: Sequence[NDArray[Any]], parameters: Any) -> NDArray[Any]:
        """Return each sampled token's log-probability, with other parameters in place for it where they are given.

        Args:
            sampled: Inputs, places and targets of `data.answers` or `data.answers_after`.
            parameters: Trainable ones; None: as they are.
        """
        import mlx.core as mx

        from tools.training.losses import logits_after, token_scores

        now = self._model.trainable_parameters()
        was_training = self._model.training
        self._model.eval()
        if parameters is not None:
            self._model.update(parameters)
        logps, _ = token_scores(
            self._model,
            *(mx.array(part) for part in sampled),
            temperature=self._recipe.temperature,
            logits_of=logits_after if self._shares_prompts else logits_at,
        )
        values = np.array(logps)
        self._model.update(now)
        self._model.train(was_training)
        return values


_PROBED = 8
"""Prompts whose likelihood tells weights apart, on any machine alike."""

_CUDA_STEP = 32
"""What widths are rounded up to with CUDA: a new shape costs kernels and plans, a padded token costs little."""


def _is_cuda() -> bool:
    import mlx.core as mx

    return bool(mx.default_device().type == mx.DeviceType.gpu and mx.cuda.is_available())


def _per_token(figures: NDArray[np.float64]) -> dict[str, float]:
    """Return the means over tokens by the names of their columns."""
    columns = dict(zip(ROLLOUT_COLUMNS, figures.sum(axis=0), strict=True))
    return {name: float(total / columns["tokens"]) for name, total in columns.items()}


def _sampling_facts(scheme: Scheme, counters: _Counters) -> Json:
    lengths = [rollout.tokens for rollout in counters.rollouts]
    ended = [rollout.tokens for rollout in counters.rollouts if not rollout.is_cut]
    return {
        "rollouts": len(lengths),
        **{name: value for name, value in reward_facts(scheme, counters.scored).items() if value is not None},
        "zero_variance_share": counters.equal_groups / counters.groups,
        "completion_length": sum(lengths) / len(lengths),
        "completion_length_min": min(lengths),
        "completion_length_max": max(lengths),
        **({"completion_length_ended": sum(ended) / len(ended)} if ended else {}),
        "truncated_share": 1 - len(ended) / len(lengths),
        "generation_tokens_per_s": sum(lengths) / max(1e-9, counters.generation_s),
        "grading_per_s": len(lengths) / max(1e-9, counters.grading_s),
        "scoring_tokens_per_s": counters.scored_tokens / max(1e-9, counters.scoring_s),
    }
