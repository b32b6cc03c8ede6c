"""What the model in training generates, against what its parent generated; worker processes only.

Greedy, so that it draws no random number: a run that samples trains the bits of one that does not. The texts are kept
in `out/samples.jsonl` (`step`, `prompt` by its place, `characters`, `text`, `finish_reason`, `output_tokens`); step 0
is the parent. Where texts are private they are empty there, and the parent is asked again after a restart.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from state.errors import ConfigError
from state.files import read_jsonl, write_atomic
from state.records import Json
from tools.evaluation.adapters import merged_adapters
from tools.evaluation.generation import Decoding, Prompt, generate
from tools.evaluation.prompts import render_prompt
from tools.probes.outputs import collapse_signals, is_collapsed, loops_already

_DISTINCT = "distinct_4gram_ratio"
_SHORT = {
    _DISTINCT: "distinct",
    "repeated_line_ratio": "repeated_lines",
    "longest_digit_run": "longest_digits",
    "distinct_text_ratio": "distinct_texts",
    "alike_number_ratio": "alike_numbers",
    "mean_length": "length",
}
"""The names that metrics rows have for the signals."""

_BATCH = 8
"""Outputs decoded together: sampling must not need more memory than training."""


def render_samples(tokenizer: Any, prompts: Sequence[Any], system: str | None) -> list[list[int]]:
    """Return sample prompts as tokens, exactly as evaluation renders a case.

    Args:
        tokenizer: mlx-lm tokenizer wrapper.
        prompts: Each a string, a list of messages, an evaluation case, or a list of token ids, taken as they are.
        system: The track's system text.

    Raises:
        ConfigError: One is none of these, or renders to nothing.
    """
    return [_rendered(tokenizer, prompt, place, system) for place, prompt in enumerate(prompts)]


def _rendered(tokenizer: Any, prompt: Any, place: int, system: str | None) -> list[int]:
    if isinstance(prompt, str):
        prompt = {"prompt": prompt}
    if isinstance(prompt, list) and prompt and all(isinstance(token, int) for token in prompt):
        return list(prompt)
    if isinstance(prompt, list) and prompt and all(isinstance(message, dict) for message in prompt):
        prompt = {"messages": prompt}
    if isinstance(prompt, dict) and ("prompt" in prompt or prompt.get("messages")):
        return render_prompt(tokenizer, prompt, system)
    raise ConfigError(
        f"`samples.prompts` {place} is neither a text, nor messages, a case or token ids.",
        what="samples.prompts",
        value=prompt,
    )


class Sampler:
    """Generates for a few fixed prompts and compares with the parent.

    Args:
        model: The model in training; as the parent left it when `begin` is called.
        tokenizer: mlx-lm tokenizer wrapper.
        prompts: Tokens of each prompt.
        max_tokens: Decode budget of each.
        every: Micro-steps between two samples.
        path: File of the texts.
        should_stop: Asked between decoding steps.
        is_private: Keep the texts in memory alone.
        references: Reference answers of the prompts; empty where one has none.
    """

    def __init__(
        self,
        *,
        model: Any,
        tokenizer: Any,
        prompts: Sequence[list[int]],
        max_tokens: int,
        every: int,
        path: Path,
        should_stop: Callable[[], bool] = lambda: False,
        is_private: bool = False,
        references: Sequence[str] = (),
    ) -> None:
        self.every = every
        self._gold = collapse_signals(references) if references else None
        self._is_private = is_private
        self._model = model
        self._tokenizer = tokenizer
        self._prompts = [Prompt(f"{place:06d}", list(tokens)) for place, tokens in enumerate(prompts)]
        self._decoding = Decoding(max_tokens)
        self._path = path
        self._should_stop = should_stop
        self._rows: list[Json] = []
        self.collapse: Json | None = None
        """The figures of the newest sample where it had collapsed."""

    def begin(self) -> Json | None:
        """Take the parent's own outputs, or those taken before the run was interrupted.

        Returns:
            A metrics row of their signals, and as `reference_NAME` those of the references; None where a stop was asked
            for meanwhile.
        """
        self._rows = read_jsonl(self._path)
        if len(self._parent) != len(self._prompts) or self._is_private:
            parent = self._generate(0)
            if len(parent) != len(self._prompts):
                return None
            self._rows = [*parent, *(row for row in self._rows if row["step"] > 0 and self._is_private)]
            self._write()
        references = {f"reference_{_name(name)}": value for name, value in (self._gold or {}).items()}
        return {"step": 0, **_named(_signals(self._parent)), **references}

    def rewind(self, step: int) -> None:
        """Forget what was sampled after a step that the run goes on from."""
        self._rows = [row for row in self._rows if row["step"] <= step]
        self._write()

    def take(self, step: int) -> Json | None:
        """Generate now; return a metrics row, or None where a stop was asked for meanwhile.

        Returns:
            Each signal of the outputs as `sample_NAME` and its difference from the parent's as `sample_NAME_change`;
            `sample_distinct_drop`, the share of the parent's distinct n-grams that is lost; `sample_moved`, the share
            of prompts that the model no longer answers as the parent did, [0, 1]; `sample_collapsed`, 1 or 0, and
            where it is 1 `collapse`, what was seen, and `collapse_figures`, the signals now, of the parent and of the
            references.
        """
        outputs = self._generate(step)
        if len(outputs) != len(self._prompts):
            return None
        self._rows = [*(row for row in self._rows if row["step"] != step), *outputs]
        self._write()
        parent, now = _signals(self._parent), _signals(outputs)
        pairs = zip(self._parent, outputs, strict=True)
        collapse = is_collapsed(now, parent, self._gold, self._sound(step))
        self.collapse = collapse.value if collapse else None
        return {
            "step": step,
            **_named(now),
            **_named({f"{_name(name)}_change": now[name] - parent[name] for name in now}),
            "sample_distinct_drop": parent[_DISTINCT] - now[_DISTINCT],
            "sample_moved": sum(then["text"] != row["text"] for then, row in pairs) / len(outputs),
            "sample_collapsed": float(collapse is not None),
            **({"collapse": collapse.sentence, "collapse_figures": collapse.value} if collapse else {}),
        }

    def _sound(self, step: int) -> dict[str, float] | None:
        """Return the signals of the most varied of the run's earlier outputs that did not loop; None without any."""
        steps = sorted({row["step"] for row in self._rows if 0 < row["step"] < step})
        signals_of_steps = [_signals([row for row in self._rows if row["step"] == each]) for each in steps]
        sound = [signals for signals in signals_of_steps if not loops_already(signals, self._gold)]
        return max(sound, key=lambda signals: signals[_DISTINCT], default=None)

    @property
    def _parent(self) -> list[Json]:
        return [row for row in self._rows if row["step"] == 0]

    def _generate(self, step: int) -> list[Json]:
        was_training = self._model.training
        self._model.eval()
        with merged_adapters(self._model, "samples"):
            outputs = generate(
                self._model,
                self._tokenizer,
                self._prompts,
                self._decoding,
                batch_size=_BATCH,
                should_stop=self._should_stop,
            )
            ordered = sorted(outputs, key=lambda output: output.name)
        self._model.train(was_training)
        return [
            {
                "step": step,
                "prompt": int(output.name),
                "characters": len(output.text),
                "text": output.text,
                "finish_reason": output.finish_reason,
                "output_tokens": output.output_tokens,
            }
            for output in ordered
        ]

    def _write(self) -> None:
        rows = [row | {"text": ""} for row in self._rows] if self._is_private else self._rows
        # All ASCII: a model may write any character, also the ones that readers take for line ends.
        write_atomic(self._path, "".join(json.dumps(row) + "\n" for row in rows))


def _signals(rows: list[Json]) -> dict[str, float]:
    """Return the signals of outputs: those of their texts, how long they are and how many the budget cut."""
    return {
        **collapse_signals([row["text"] for row in rows]),
        "tokens": sum(row["output_tokens"] for row in rows) / len(rows),
        "cut": sum(row["finish_reason"] == "length" for row in rows) / len(rows),
    }


def _named(signals: dict[str, float]) -> dict[str, float]:
    return {f"sample_{_name(name)}": value for name, value in signals.items()}


def _name(signal: str) -> str:
    return _SHORT.get(signal, signal)
