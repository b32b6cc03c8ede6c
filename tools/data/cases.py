"""Reads evaluation splits, mlx-lm's data files and pairs, row by row, and refuses the first line that is wrong.

What a row is and what is wrong with it is said by `rows`, as to the audit. No token is counted and no template applied
here; that needs the model's tokenizer, in a worker.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from state.errors import ConfigError
from state.files import UnreadableError
from tools.data.rows import (
    TRAINED,
    FaultKind,
    Features,
    Form,
    Row,
    fault_of,
    fault_of_messages,
    fault_of_text,
    foreign_fix,
    form_of,
    iter_lines,
    kind_of,
)
from tools.jobs.worker import tick

_FIXES: dict[FaultKind, str] = {
    "empty": ", so remove it",
    "too_long": ", and no model reads that much at once; split or remove it",
    "half_character": "; write the whole character",
}
_RUNBOOK = "runbooks/your_task/README.md"


@dataclass(frozen=True)
class DataSummary:
    """What a data file holds."""

    format: Form
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
            number, row, fault = line
            if fault is not None:
                _refuse(path, number, fault.sentence + _FIXES.get(fault.kind, ""))
            if row is not None:
                yield number, row
    except UnreadableError as error:
        raise ConfigError(f"The data file {path} cannot be read: {error}.", where=str(path)) from error
    if not number:
        raise ConfigError(f"The data file {path} is empty; it needs at least one row.", what="data", where=str(path))


def iter_data(path: Path, features: Features = TRAINED) -> Iterator[Row]:
    """Yield the checked rows of a training or validation file in mlx-lm's formats.

    Args:
        path: The file.
        features: Keys of its columns.

    Raises:
        ConfigError: As `iter_rows`; or a row does not fit the format of the first one.
    """
    yield from _checked(path, features, ("chat", "completions", "text"))


def iter_pairs(path: Path) -> Iterator[Row]:
    """Yield the checked pairs of a file: a prompt, and two answers that differ, each a string or messages.

    Keys other than prompt, chosen, rejected, system, tools and id are left alone, as mlx-lm-lora and TRL do.

    Raises:
        ConfigError: As `iter_rows`; or a key is missing, empty or of another kind, or both answers are the same.
    """
    yield from _checked(path, Features(), ("pairs",))


def _checked(path: Path, features: Features, forms: tuple[Form, ...]) -> Iterator[Row]:
    form: Form | None = forms[0] if len(forms) == 1 else None
    for line, data in iter_rows(path):
        form = form or form_of(data, features)
        if form not in forms:
            more = ". Name a file of pairs under `data.pairs`" if form == "pairs" else _mended(data)
            keys = ", ".join(data) or "nothing"
            _refuse(
                path, line, f"the row has {keys}; mlx-lm needs `messages`, `prompt` and `completion`, or `text`{more}"
            )
        if fault := fault_of(data, form, features, is_strict=True):
            _refuse(path, line, fault[0] + (_mended(data) if form == "pairs" and "prompt" not in data else ""))
        yield Row(line, form, data, features)


def _mended(data: Mapping[str, Any]) -> str:
    """Return what makes a row of another tool one of mlx-lm's, as the end of a sentence."""
    fix = foreign_fix(data).removesuffix(".")
    return f". {fix}" if fix else ""


def check_data(path: Path, *, mask_prompt: bool = False) -> DataSummary:
    """Read a whole data file and return what it holds.

    Args:
        path: The JSON-lines file.
        mask_prompt: Whether the recipe masks prompts, which the text format cannot.

    Raises:
        ConfigError: As `iter_data`; or prompts of a text file are to be masked.
    """
    rows = 0
    form: Form = "text"
    for item in iter_data(path):
        rows, form = item.line, item.form
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
        if found := fault_of_text(row, "prompt"):
            _refuse(path, line, found[0], row["prompt"])
        return
    if "prompt" in row:
        _refuse(path, line, "the case has both `prompt` and `messages`; keep one")
    if found := fault_of_messages(row["messages"], "messages", is_prompt=True, is_strict=True):
        _refuse(path, line, found[0])
    if row["messages"][-1]["role"] == "assistant":
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
        if not isinstance(case.get("reference"), str | None):
            _refuse(path, line, f"`reference` is {kind_of(case['reference'])}, not a string", case["reference"])
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
