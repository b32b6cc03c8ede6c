"""Preference pairs: `prompt`, `chosen` and `rejected`, each a string or messages, one JSON object per line.

No token is counted here; that needs the model's tokenizer, in a worker.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from state.errors import ConfigError
from tools.tracks.formats import iter_rows

_KEYS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class PairRow:
    """One pair.

    Args:
        line: From 1.
        messages: The conversation up to the answer.
        chosen: The better answer.
        rejected: The worse answer.
        tools: As the chat template takes them.
    """

    line: int
    messages: list[dict[str, Any]]
    chosen: str
    rejected: str
    tools: Any = None

    def conversation(self, answer: str) -> dict[str, Any]:
        """Return the pair's prompt with one of its answers as a chat row."""
        row = {"messages": [*self.messages, {"role": "assistant", "content": answer}]}
        return row | ({"tools": self.tools} if self.tools is not None else {})


def iter_pairs(path: Path) -> Iterator[PairRow]:
    """Yield the checked pairs of a file.

    Keys other than prompt, chosen, rejected, system, tools and id are left alone, as mlx-lm-lora and TRL do.

    Raises:
        ConfigError: As `iter_rows`; or a key is missing, empty or of another kind, or both answers are the same.
    """
    for line, row in iter_rows(path):
        yield _pair(row, line, f"{path}:{line}")


def _pair(row: dict[str, Any], line: int, where: str) -> PairRow:
    if missing := [key for key in _KEYS if key not in row]:
        raise _refusal(where, f"`{missing[0]}` is missing; a pair has `prompt`, `chosen` and `rejected`", sorted(row))
    messages = _prompt(row["prompt"], where)
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise _refusal(where, "`system` is not a string", system)
    if system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    chosen, rejected = (_answer(row[key], key, where) for key in ("chosen", "rejected"))
    if chosen == rejected:
        raise _refusal(where, "`chosen` and `rejected` are the same text, so there is nothing to prefer", chosen)
    return PairRow(line, messages, chosen, rejected, row.get("tools"))


def _prompt(value: Any, where: str) -> list[dict[str, Any]]:
    if isinstance(value, str):
        if not value.strip():
            raise _refusal(where, "`prompt` is blank", value)
        return [{"role": "user", "content": value}]
    messages = _messages(value, "prompt", where)
    if messages[-1]["role"] == "assistant":
        raise _refusal(where, "`prompt` ends with the assistant's answer, which belongs to `chosen` and `rejected`")
    return messages


def _answer(value: Any, key: str, where: str) -> str:
    """Return an answer's text; an empty one is an answer too."""
    if isinstance(value, str):
        return value
    messages = _messages(value, key, where)
    if len(messages) > 1 or messages[0]["role"] != "assistant":
        roles = ", ".join(message["role"] for message in messages)
        raise _refusal(where, f"`{key}` is a conversation of {roles}; it must be one message of the assistant")
    return str(messages[0]["content"])


def _messages(value: Any, key: str, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise _refusal(where, f"`{key}` is neither a string nor a list of messages", value)
    for place, message in enumerate(value, start=1):
        is_message = isinstance(message, dict) and isinstance(message.get("role"), str)
        if not is_message or not isinstance(message.get("content"), str):
            raise _refusal(where, f"message {place} of `{key}` has no `role` and `content`", message)
    return value


def _refusal(where: str, fault: str, value: object = None) -> ConfigError:
    return ConfigError(f"{where}: {fault}.", what="pair", value=value, where=where)
