"""What the model in training answers to the prompts that it learns from; worker processes only.

All rollouts of an update are decoded together, with adapters in the weights, each by random numbers that follow from
(seed, update, its place): the same weights sample the same tokens again, so a run that was interrupted needs no rollout
on disk to go on bit for bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from state.errors import ConfigError
from state.records import Json
from tools.evaluation.adapters import merged_adapters
from tools.evaluation.generation import Decoding, Prompt, generate
from tools.evaluation.prompts import gold_tokens, render_prompt
from tools.tracks.formats import iter_split
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
    found = []
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
        found.append(Task(case, prompt, max(1, gold or len(prompt))))
    return found


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
        found = sorted(outputs, key=lambda output: output.name)
    model.train(was_training)
    if len(found) != len(places):
        return None
    rollouts = []
    for output in found:
        place, sample = places[output.name]
        task = tasks[place]
        end = [] if output.end is None else [output.end]
        row = Row([*task.prompt, *output.tokens, *end], len(task.prompt))
        rollouts.append(Rollout(task, sample, row, output.text, output.finish_reason == "length", output.logps))
    return rollouts
