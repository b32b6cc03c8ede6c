"""What the model in training answers to the prompts that it learns from, and what that earns; worker processes only.

All rollouts of an update are decoded together, with adapters in the weights, each by random numbers that follow from
(seed, update, its place): the same weights sample the same tokens again, so a run that was interrupted needs no rollout
on disk to go on bit for bit.

The grader runs in a child process with a time-out (tools/graders/host.py). A rollout whose reward it could not tell is
left out of its group; nothing unusable ever becomes a zero.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from state.errors import ConfigError
from state.records import Json
from tools.data.cases import iter_split
from tools.evaluation.adapters import merged_adapters
from tools.evaluation.generation import Decoding, Prompt, generate
from tools.evaluation.prompts import gold_tokens, render_prompt
from tools.graders.contract import Grade
from tools.graders.host import Grader
from tools.training.data import Row


@dataclass(frozen=True)
class Task:
    """A case to answer.

    Args:
        case: As the grader gets it.
        prompt: Its tokens, as evaluation renders them.
        usual: Tokens of its reference, or of its prompt where it has none: what lengths are compared with.
    """

    case: Json
    prompt: list[int]
    usual: int


@dataclass(frozen=True)
class Rollout:
    """One sampled answer.

    Args:
        task: What it answers.
        sample: Its place in its group.
        row: Prompt and exactly the tokens that were sampled, the end token included.
        text: The answer without its end token.
        is_cut: Whether the decode budget ended it.
        logps: Log-probability of each token as the sampler had it, nats; empty when greedy. Nothing is learned from
            them: they are those of merged weights, which round otherwise.
    """

    task: Task
    sample: int
    row: Row
    text: str
    is_cut: bool
    logps: tuple[float, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens sampled."""
        return self.row.targets

    @property
    def finish_reason(self) -> str:
        """As evaluation says it."""
        return "length" if self.is_cut else "stop"


def read_tasks(path: Path, tokenizer: Any, system: str | None, *, longest: int) -> list[Task]:
    """Return the cases of a file in the form of evaluation cases.

    Args:
        path: JSON lines.
        tokenizer: mlx-lm tokenizer wrapper.
        system: The track's system text.
        longest: Most tokens that a prompt may have.

    Raises:
        ConfigError: As `iter_split` and `render_prompt`; or a prompt is longer than that.
    """
    tasks = []
    for case in iter_split(path):
        prompt = render_prompt(tokenizer, case, system)
        if len(prompt) > longest:
            raise ConfigError(
                f"{path}: the prompt of case {case['id']} has {len(prompt)} tokens, and recipe.max_seq_length less "
                f"recipe.max_completion_length leaves {longest}; raise the first or remove the case.",
                what="recipe.max_seq_length",
                value=len(prompt),
                limit=longest,
                where=str(path),
            )
        gold = len(gold_tokens(tokenizer, case, system)) if case.get("reference") is not None else 0
        tasks.append(Task(case, prompt, max(1, gold or len(prompt))))
    return tasks


def roll_out(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[Task],
    *,
    group_size: int,
    max_tokens: int,
    temperature: float,
    seed: int,
    update: int,
    concurrency: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Rollout] | None:
    """Return rollouts group by group, or None where a stop was asked for meanwhile.

    Args:
        model: In training.
        tokenizer: mlx-lm tokenizer wrapper.
        tasks: One group each.
        group_size: Rollouts of each.
        max_tokens: Decode budget of each.
        temperature: 0 is greedy, and then a group holds one and the same answer.
        seed: Of the run.
        update: Number of the update they are sampled for.
        concurrency: Decoded together, at most.
        should_stop: Asked between decoding steps.

    Side effects: leaves the model in the mode it was in.
    """
    places = {
        f"rollouts.{update}.{place:06d}.{sample:06d}": (place, sample)
        for place in range(len(tasks))
        for sample in range(group_size)
    }
    was_training = model.training
    model.eval()
    with merged_adapters(model, f"{seed}:{update}"):
        outputs = generate(
            model,
            tokenizer,
            [Prompt(name, tasks[place].prompt, tasks[place].usual) for name, (place, _) in places.items()],
            Decoding(max_tokens, temperature, seed),
            batch_size=concurrency,
            should_stop=should_stop,
        )
        generations = sorted(outputs, key=lambda output: output.name)
    model.train(was_training)
    if len(generations) != len(places):
        return None
    rollouts = []
    for output in generations:
        place, sample = places[output.name]
        task = tasks[place]
        end = [] if output.end is None else [output.end]
        row = Row([*task.prompt, *output.tokens, *end], len(task.prompt))
        rollouts.append(Rollout(task, sample, row, output.text, output.finish_reason == "length", output.logps))
    return rollouts


_SPREAD_FLOOR = 1e-4
"""Added to a group's standard deviation, so that a hair's breadth between rollouts does not count as a whole one."""


UNTOLD_UPDATES = 3
"""Updates in a row of whose rollouts a grader may tell nothing."""


SIGNAL_ROLLOUTS = 128
"""Answers that tell whether rewards differ, and as many again where they do not: an answer that earns something else
one time in twenty is missed by 256 once in 500,000 times."""

_LEAST_ASKED = 8
"""Prompts that are asked, however large a group is."""


@dataclass(frozen=True)
class Scored:
    """What a rollout earned.

    Args:
        reward: None: left out, the grader could not tell or the budget cut it (`truncated: mask`).
        metrics: What the grader said.
        error: Why the grader could not tell, in a sentence.
    """

    reward: float | None
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Scheme:
    """How metrics become one reward.

    Args:
        weights: Metric -> what full marks are worth.
        penalties: Metric -> what it costs at 1.
        cut_cost: What it costs to be cut by the budget; None: a cut rollout has no reward.
        ranges: Metric -> its least and largest score, where that is not a share: both are put on 0 to 1.
    """

    weights: Mapping[str, float]
    penalties: Mapping[str, float]
    cut_cost: float | None
    ranges: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def scale(self) -> float:
        """What a perfect answer earns."""
        return sum(self.weights.values())

    def reward(self, metrics: Mapping[str, float | None], *, is_cut: bool = False) -> float | None:
        """Return what metrics are worth together, or None where one that counts was not measured."""
        signed = [*self.weights.items(), *((name, -cost) for name, cost in self.penalties.items())]
        parts = [(weight, self._share(name, metrics.get(name))) for name, weight in signed if weight]
        known = [weight * value for weight, value in parts if value is not None]
        if len(known) < len(parts) or (is_cut and self.cut_cost is None):
            return None
        return sum(known) - (self.cut_cost or 0.0 if is_cut else 0.0)

    def _share(self, name: str, value: float | None) -> float | None:
        low, high = self.ranges.get(name, (0.0, 1.0))
        return None if value is None else (value - low) / (high - low)


def score(grader: Grader, scheme: Scheme, rollouts: Sequence[Rollout]) -> list[Scored]:
    """Grade rollouts, in order.

    Raises:
        ConfigError: The grader does not have a metric that the reward is made of.
    """
    grades = grade_rollouts(grader, rollouts)
    scored = [
        Scored(scheme.reward(grade.metrics, is_cut=rollout.is_cut), grade.metrics, grade.error)
        for grade, rollout in zip(grades, rollouts, strict=True)
    ]
    _require_metrics(grader, scheme, scored)
    return scored


def grade_rollouts(grader: Grader, rollouts: Sequence[Rollout]) -> list[Grade]:
    """Ask the grader about rollouts; return its grades in their order.

    One of each group after the other: a group's answers are to one case, and a grader that hangs on that case would
    otherwise count as one that hangs on several, and not be asked again.
    """
    grader.forget_hangs()
    order = sorted(range(len(rollouts)), key=lambda place: rollouts[place].sample)
    answers = ((rollout.task.case, rollout.text, rollout.finish_reason) for rollout in map(rollouts.__getitem__, order))
    grades = dict(zip(order, grader.grade(answers), strict=True))
    return [grades[place] for place in range(len(rollouts))]


def require_rewards(scored: Sequence[Sequence[Scored]]) -> None:
    """Refuse to go on where no rollout of several updates has a reward: nothing is learned.

    Raises:
        ConfigError: None has one.
    """
    latest = [each for update in scored[-UNTOLD_UPDATES:] for each in update]
    if len(scored) < UNTOLD_UPDATES or any(each.reward is not None for each in latest):
        return
    word = next((each.error.rstrip(".") for each in latest if each.error), "")
    why = (
        f"The grader could tell nothing of any of {len(latest)} rollouts in {UNTOLD_UPDATES} updates: {word}; repair it"
        if word
        else f"None of {len(latest)} rollouts in {UNTOLD_UPDATES} updates has a reward: the decode budget cut them and "
        "`truncated: mask` leaves such out, or the grader answers None to a metric that the reward is made of; raise "
        "recipe.max_completion_length or repair the grader"
    )
    raise ConfigError(f"{why}, there is no reward to learn from.", what="grader")


def _require_metrics(grader: Grader, scheme: Scheme, scored: Sequence[Scored]) -> None:
    known = set(grader.metrics)
    missing = sorted({*scheme.weights, *scheme.penalties} - known)
    if known and missing and any(not grade.error for grade in scored):
        raise ConfigError(
            f"The reward is made of {', '.join(missing)}, and the grader answers with {', '.join(sorted(known))}; "
            "correct recipe.reward_weights or recipe.reward_penalties.",
            what="recipe.reward_weights",
            value=missing,
        )


def group_advantages(rewards: Sequence[float | None], *, is_scaled: bool) -> list[float] | None:
    """Return how much better each rollout of a group did than the group, or None where nothing can be compared.

    Args:
        rewards: Of one group; None is left out, and gets 0.
        is_scaled: Divide by the group's standard deviation (of the population).
    """
    known = [reward for reward in rewards if reward is not None]
    if len(known) < 2 or max(known) == min(known):  # noqa: PLR2004 - one rollout has nothing to be compared with
        return None
    mean = sum(known) / len(known)
    spread = math.sqrt(sum((reward - mean) ** 2 for reward in known) / len(known)) + _SPREAD_FLOOR
    return [0.0 if reward is None else (reward - mean) / (spread if is_scaled else 1.0) for reward in rewards]


def reward_facts(scheme: Scheme, scored: Sequence[Scored]) -> Json:
    """Return what a metrics row says of rewards: each dimension's mean and standard deviation, and what is missing.

    Where the recipe charges anything, `reward_earned` and `reward_charged` tell the reward and the penalties apart.
    """
    facts = _moments("reward", [grade.reward for grade in scored])
    if scheme.penalties or scheme.cut_cost:
        plain = Scheme(scheme.weights, {}, cut_cost=0.0)
        pairs = [(plain.reward(grade.metrics), grade.reward) for grade in scored]
        known = [(earned, reward) for earned, reward in pairs if earned is not None and reward is not None]
        facts |= _moments("reward_earned", [earned for earned, _ in known])
        facts |= _moments("reward_charged", [earned - reward for earned, reward in known])
    for name in (*scheme.weights, *scheme.penalties):
        facts |= _moments(f"reward_{name}", [grade.metrics.get(name) for grade in scored])
    return facts | {
        "rewards_missing": sum(grade.reward is None for grade in scored),
        "grader_errors": sum(bool(grade.error) for grade in scored),
    }


def signal_prompts(group_size: int) -> int:
    """Return how many prompts are answered by a group each before it is said whether rewards differ."""
    return max(_LEAST_ASKED, -(-SIGNAL_ROLLOUTS // group_size))


def signal_facts(scheme: Scheme, rollouts: Sequence[Rollout], scored: Sequence[Scored], group_size: int) -> Json:
    """Return what answers earn before anything is learned, group by group, by the user's own reward.

    Returns:
        `prompts`, `samples` (of each) and `answers`; `right`, how many earn the full reward, `pass_at_1` its share and
        `pass_at_k` the share of prompts with one that does; `reward` and `reward_spread`, the mean and the mean
        standard deviation within a group, both left out where nothing has a reward; `groups_that_differ`; `cut` by the
        budget and `missing`, without a reward for any reason; `denser`, of the metrics that the reward leaves out the
        one that differs in most groups, `denser_groups`, or an empty text and 0.
    """
    places = range(0, len(scored), group_size)
    groups = [[each.reward for each in scored[at : at + group_size] if each.reward is not None] for at in places]
    is_right = [[reward >= scheme.scale for reward in group] for group in groups]
    spread = [statistics.pstdev(group) for group in groups if group]
    facts: Json = {
        "prompts": len(groups),
        "samples": group_size,
        "answers": len(scored),
        "right": sum(map(sum, is_right)),
        "pass_at_1": sum(map(sum, is_right)) / len(scored),
        "pass_at_k": sum(map(any, is_right)) / len(groups),
        "groups_that_differ": sum(len(set(group)) > 1 for group in groups),
        "cut": sum(rollout.is_cut for rollout in rollouts),
        "missing": sum(each.reward is None for each in scored),
    }
    if spread:
        known = [reward for group in groups for reward in group]
        facts |= {"reward": statistics.fmean(known), "reward_spread": statistics.fmean(spread)}
    others = {name for each in scored for name in each.metrics} - {*scheme.weights, *scheme.penalties}
    differs = {
        name: sum(len({each.metrics.get(name) for each in scored[at : at + group_size]} - {None}) > 1 for at in places)
        for name in sorted(others)
    }
    best = max(differs, key=differs.__getitem__, default="")
    denser = best if differs.get(best) else ""
    return {**facts, "denser": denser, "denser_groups": differs.get(denser, 0)}


def _moments(name: str, values: Sequence[float | None]) -> Json:
    known = [value for value in values if value is not None]
    if not known:
        return {name: None, f"{name}_std": None}
    mean = sum(known) / len(known)
    return {name: mean, f"{name}_std": math.sqrt(sum((value - mean) ** 2 for value in known) / len(known))}
