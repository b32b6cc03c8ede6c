"""Reads evaluation splits and mlx-lm's data files, row by row, and says which line is wrong.

The three data formats and how they are told apart (by the first row) are mlx-lm's own (mlx_lm/tuner/datasets.py). No
token is counted and no template applied here; that needs the model's tokenizer, in a worker.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from state.errors import ConfigError
from tools.data.rows import Fault, FaultKind, Line, UnreadableError, iter_lines, kind_of
from tools.jobs.worker import tick

Format = Literal["completions", "chat", "text"]
"""completions: prompt and completion; chat: messages; text: one string, no prompt to mask."""

_FIXES: dict[FaultKind, str] = {
    "empty": ", so remove it",
    "too_long": ", and no model reads that much at once; split or remove it",
    "half_character": "; write the whole character",
}
_RUNBOOK = "runbooks/your_task/README.md"


@dataclass(frozen=True)
class DataRow:
    """One row of a training or validation file."""

    line: int
    """From 1."""
    format: Format
    row: dict[str, Any]
    """As it stands in the file."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation as mlx-lm builds it; empty for the text format, which has no turns."""
        if self.format == "completions":
            return [
                {"role": "user", "content": self.row["prompt"]},
                {"role": "assistant", "content": self.row["completion"]},
            ]
        return list(self.row["messages"]) if self.format == "chat" else []


@dataclass(frozen=True)
class DataSummary:
    """What a data file holds."""

    format: Format
    rows: int


@dataclass(frozen=True)
class SplitSummary:
    """What an evaluation split holds."""

    cases: int
    references: int
    """Cases with a reference answer; only these can have a ceiling."""


def _refuse(path: Path, line: int, fault: str, value: object = None) -> NoReturn:
    raise ConfigError(
        f"{path}:{line}: {fault}.", what="row", value=value, where=f"{path}:{line}", runbook=_RUNBOOK
    )  # fmt: skip


def iter_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, row) of a JSON-lines file, one line in memory at a time.

    Raises:
        ConfigError: The file is missing, cannot be read or is empty; a line is no JSON object (file and line named).
    """
    if not path.is_file():
        state = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise ConfigError(f"The data file {path} {state}.", what="data", value=str(path), where=str(path))
    number = 0
    try:
        for line in iter_lines(path):
            tick()
            match line:
                case Line(number, row, None) if row is not None:
                    yield number, row
                case Line(number, _, Fault(sentence=sentence, kind=kind)):
                    _refuse(path, number, sentence + _FIXES.get(kind, ""))
    except UnreadableError as error:
        raise ConfigError(f"The data file {path} cannot be read: {error}.", where=str(path)) from error
    if not number:
        raise ConfigError(f"The data file {path} is empty; it needs at least one row.", what="data", where=str(path))


def detect_format(row: Mapping[str, Any]) -> Format | None:
    """Return the format mlx-lm would choose from a file's first row, or None where it would refuse."""
    if "prompt" in row and "completion" in row:
        return "completions"
    if "messages" in row:
        return "chat"
    return "text" if "text" in row else None


def _require_text(path: Path, line: int, row: Mapping[str, Any], key: str, *, may_be_blank: bool = False) -> None:
    if key not in row:
        _refuse(path, line, f"`{key}` is missing")
    if not isinstance(row[key], str):
        _refuse(path, line, f"`{key}` is {kind_of(row[key])}, not a string", row[key])
    if not may_be_blank and not row[key].strip():
        _refuse(path, line, f"`{key}` is blank")


def _check_messages(path: Path, line: int, messages: object) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        _refuse(path, line, "`messages` is not a list with at least one message", messages)
    for position, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            _refuse(path, line, f"message {position} is not an object with a `role`", message)
        if isinstance(message.get("content"), list):
            _refuse(
                path, line, f"message {position} ({message['role']}) has `content` in parts; write it as one string"
            )
        # A tool call has no text of its own; every other turn must.
        if not isinstance(message.get("content"), str) and not message.get("tool_calls"):
            _refuse(path, line, f"message {position} ({message['role']}) has no text in `content`", message)
    return messages


def _check_data_row(path: Path, line: int, row: dict[str, Any], form: Format) -> None:
    if form == "completions":
        _require_text(path, line, row, "prompt")
        _require_text(path, line, row, "completion", may_be_blank=True)
    elif form == "text":
        _require_text(path, line, row, "text")
    else:
        if "messages" not in row:
            _refuse(path, line, "`messages` is missing; the first row made this a chat file")
        role = _check_messages(path, line, row["messages"])[-1]["role"]
        if role != "assistant":
            _refuse(path, line, f"the last message is from `{role}`, not `assistant`: there is no answer to learn")


def iter_data(path: Path) -> Iterator[DataRow]:
    """Yield the checked rows of a training or validation file in mlx-lm's formats.

    Raises:
        ConfigError: As `iter_rows`; or a row does not fit the format of the first one.
    """
    form: Format | None = None
    for line, row in iter_rows(path):
        form = form or detect_format(row)
        if form is None:
            keys = ", ".join(row) or "nothing"
            _refuse(path, line, f"the row has {keys}; mlx-lm needs `messages`, `prompt` and `completion`, or `text`")
        _check_data_row(path, line, row, form)
        yield DataRow(line, form, row)


def check_data(path: Path, *, mask_prompt: bool = False) -> DataSummary:
    """Read a whole data file and return what it holds.

    Args:
        path: The JSON-lines file.
        mask_prompt: Whether the recipe masks prompts, which the text format cannot.

    Raises:
        ConfigError: As `iter_data`; or prompts of a text file are to be masked.
    """
    rows = 0
    form: Format = "text"
    for item in iter_data(path):
        rows, form = item.line, item.format
        if mask_prompt and form == "text":
            raise ConfigError(
                f"{path} is in the text format, which has no prompt to mask; set mask_prompt to false.",
                what="mask_prompt",
                value=mask_prompt,
                where=str(path),
            )
    return DataSummary(form, rows)


def _check_prompt(path: Path, line: int, row: dict[str, Any]) -> None:
    if "messages" not in row:
        if "prompt" not in row:
            _refuse(path, line, "the case has neither `prompt` nor `messages`")
        _require_text(path, line, row, "prompt")
        return
    if "prompt" in row:
        _refuse(path, line, "the case has both `prompt` and `messages`; keep one")
    if _check_messages(path, line, row["messages"])[-1]["role"] == "assistant":
        _refuse(path, line, "the messages end with the assistant's answer; move it to `reference`")


def _identified(path: Path, line: int, row: dict[str, Any]) -> dict[str, Any]:
    """Return the case with its id as text; without one it is named after its line."""
    name = row.get("id", f"line-{line}")
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
        _refuse(path, line, f"`id` is {kind_of(name) if name != '' else 'blank'}, not a name", name)
    return row | {"id": str(name)}


def iter_split(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the checked cases of an evaluation split, each with an `id`.

    Raises:
        ConfigError: As `iter_rows`; or a case has no prompt, a reference that is no string, or an id seen before.
    """
    lines: dict[str, int] = {}
    for line, row in iter_rows(path):
        case = _identified(path, line, row)
        _check_prompt(path, line, case)
        if case.get("reference") is not None:
            _require_text(path, line, case, "reference", may_be_blank=True)
        if case["id"] in lines:
            _refuse(path, line, f"the id {case['id']!r} is that of line {lines[case['id']]} too", case["id"])
        lines[case["id"]] = line
        yield case


def read_split(path: Path) -> list[dict[str, Any]]:
    """Return all cases of an evaluation split.

    Raises:
        ConfigError: As `iter_split`.
    """
    return list(iter_split(path))


def check_split(path: Path) -> SplitSummary:
    """Read a whole split and return what it holds.

    Raises:
        ConfigError: As `iter_split`.
    """
    cases = references = 0
    for case in iter_split(path):
        cases += 1
        references += case.get("reference") is not None
    return SplitSummary(cases, references)


def case_messages(case: Mapping[str, Any], system: str | None = None) -> list[dict[str, Any]]:
    """Return a case as a conversation up to the model's turn; `system` is put first where the case has none."""
    messages = case.get("messages") or [{"role": "user", "content": case["prompt"]}]
    if system is not None and messages[0]["role"] != "system":
        return [{"role": "system", "content": system}, *messages]
    return list(messages)


def user_prompt(row: Mapping[str, Any]) -> str:
    """Return what the user says last in a case or data row: for finding the same prompt in two files, or echoing it.

    A text row has no turns; its whole text is returned.
    """
    if isinstance(row.get("prompt"), str):
        return str(row["prompt"])
    turns = [message.get("content") for message in row.get("messages", ()) if message.get("role") == "user"]
    return str(turns[-1] or "") if turns else str(row.get("text", ""))
