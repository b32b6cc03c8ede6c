"""Rows of files, however broken: each line once, as a row or as what is wrong with it.

`iter_lines` is the one reader. Strict callers (`cases.iter_rows`) raise its first fault, the audit (`DataFile.scan`)
goes on and counts: what mlx-lm and mlx-lm-lora would make of each line. What these refuse themselves, or train on
wrongly, is fatal; what is merely strange is not.

Regular files only, bounded, and nothing is imported or unpickled: strangers wrote them.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from state.files import UnreadableError, open_regular, read_bounded, whole_number
from state.records import Json
from state.text import one_line
from tools.models.identity import LFS_POINTER, NOT_FETCHED

MOST_LINE_BYTES = 16 << 20
"""A longer line is no row that anything trains on; its rest is passed over."""

FaultKind = Literal[
    "too_long", "byte_order_mark", "empty", "not_utf8", "not_json", "not_finite", "not_object", "half_character", "row"
]
"""not_finite: NaN or Infinity, which Python's own reader takes and JSON has not. half_character: text that no tokenizer
takes. row: JSON, but not as its form asks."""

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Fault:
    """What is wrong with a line."""

    line: int
    """From 1."""
    sentence: str
    """Without the place and without the row's words."""
    is_fatal: bool = True
    kind: FaultKind = "row"


class Line(NamedTuple):
    """One line of a file: its row, or what is wrong with it; both where only Python takes it for JSON."""

    number: int
    """From 1."""
    row: Json | None
    fault: Fault | None = None


def is_inside(root: Path, path: Path) -> bool:
    """Say whether a path, links followed, lies in a folder."""
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError, ValueError):
        return False


def is_there(path: Path) -> bool | None:
    """Say whether a path leads to something; None where that may not be looked at."""
    try:
        path.stat()
    except PermissionError:
        return None
    except (OSError, ValueError):
        return False
    return True


def read_head(path: Path, limit: int) -> bytes:
    """Return the first bytes of a file, nothing where it cannot be read."""
    try:
        with open_regular(path) as stream:
            return stream.read(limit)
    except (UnreadableError, OSError):
        return b""


def is_not_fetched(path: Path) -> bool:
    """Say whether a file is what Git leaves in its place until it is fetched."""
    return read_head(path, len(LFS_POINTER)) == LFS_POINTER


def read_value(path: Path, limit: int) -> Any:
    """Return the value of a JSON file.

    Raises:
        UnreadableError: As `read_bounded`; or it is no JSON.
    """
    return parse_json(read_bounded(path, limit))


class _EndlessNumberError(ValueError):
    pass


def _whole_number(digits: str) -> int | str:
    # Python reads no longer one, and so does no trainer.
    if len(digits) > sys.int_info.default_max_str_digits:
        raise _EndlessNumberError(f"a number of {len(digits):,} digits")
    return whole_number(digits)


def parse_json(raw: bytes) -> Any:
    """Return a JSON value.

    Raises:
        UnreadableError: It is none; the text says why.
    """
    try:
        return json.loads(raw.decode(), parse_int=_whole_number)
    except UnicodeDecodeError as error:
        raise UnreadableError(f"not UTF-8 at byte {error.start + 1}", "not_utf8") from error
    except json.JSONDecodeError as error:
        if raw.rstrip().endswith(b"},"):
            raise UnreadableError("not JSON: a comma follows the object") from error
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise UnreadableError(f"not JSON: {error.msg} at {place}", "not_json") from error
    except _EndlessNumberError as error:
        raise UnreadableError(f"not JSON: {error}, which no reader of JSON takes", "not_json") from error
    except RecursionError as error:
        raise UnreadableError("not JSON: nested too deeply", "not_json") from error
    except ValueError as error:
        raise UnreadableError(f"not JSON: {str(error).split(';')[0]}", "not_json") from error


def read_mapping(path: Path, limit: int) -> dict[str, Any]:
    """Return the object of a JSON file; empty where it is none or cannot be read."""
    try:
        value = read_value(path, limit)
    except UnreadableError:
        return {}
    return value if isinstance(value, dict) else {}


def iter_lines(path: Path, most_bytes: int = 1 << 60) -> Iterator[Line]:
    """Yield every line of a file of rows, one in memory at a time.

    Args:
        path: A file.
        most_bytes: Where to stop.

    Raises:
        UnreadableError: As `open_regular`; or the file is no text, or was not fetched.
    """
    number = done = 0
    with open_regular(path) as stream:
        try:
            while done < most_bytes and (raw := stream.readline(MOST_LINE_BYTES + 1)):
                number += 1
                done += len(raw)
                if number == 1 and raw.startswith(LFS_POINTER):
                    raise UnreadableError(NOT_FETCHED)
                if raw.find(0, 0, _BINARY_HEAD) >= 0:
                    raise UnreadableError(f"line {number} holds zero bytes: this is no text", "binary")
                yield _line(number, raw)
                if len(raw) > MOST_LINE_BYTES and not raw.endswith(b"\n"):
                    while done < most_bytes and (rest := stream.readline(_CHUNK)):
                        done += len(rest)
                        if rest.endswith(b"\n"):
                            break
        except OSError as error:
            raise UnreadableError(str(error.strerror or error).lower()) from error


def _no_constant(name: str) -> None:
    raise ValueError(name)


_STRICT = json.JSONDecoder(parse_constant=_no_constant)


def _line(number: int, raw: bytes) -> Line:
    if len(raw) <= MOST_LINE_BYTES and (b"\\u" not in raw or _HALF.search(raw) is None):
        try:
            text = raw.decode()
            value, end = _STRICT.raw_decode(text)
        except (ValueError, RecursionError):
            return _odd_line(number, raw)
        if type(value) is dict and not text[end:].strip(" \t\r\n"):
            return Line(number, value)
    return _odd_line(number, raw)


def _wrong(number: int, kind: FaultKind, sentence: str, row: Json | None = None) -> Line:
    return Line(number, row, Fault(number, sentence, row is None, kind))


def _odd_line(number: int, raw: bytes) -> Line:
    """Return a line that is no plain row, looked at more slowly."""
    if len(raw) > MOST_LINE_BYTES:
        return _wrong(number, "too_long", f"the line has more than {MOST_LINE_BYTES >> 20} MB")
    try:
        # Without the line end: what is missing at the end of the line is missing in this one.
        value = parse_json(raw.rstrip(b"\r\n"))
    except UnreadableError as error:
        if raw.startswith(_BYTE_ORDER_MARK):
            where = "the file starts" if number == 1 else "the line starts"
            return _wrong(number, "byte_order_mark", f"{where} with a byte order mark; save it as UTF-8 without one")
        if not raw.strip():
            return _wrong(number, "empty", "the line is empty; mlx-lm reads every line as JSON")
        return _wrong(number, "not_utf8" if error.kind == "not_utf8" else "not_json", str(error))
    if not isinstance(value, dict):
        return _wrong(number, "not_object", f"the row is {kind_of(value)}, not an object")
    if _is_half(raw, value):
        return _wrong(
            number,
            "half_character",
            "it holds half of a pair of characters, such as `\\ud800` alone, which no tokenizer takes",
        )
    if (constant := _constant_in(raw)) is not None:
        return _wrong(number, "not_finite", f"not JSON: {constant} is no JSON value", value)
    return Line(number, value)


def _is_half(raw: bytes, value: Json) -> bool:
    """Say whether a row's text cannot be encoded: JSON may write one half of a pair without the other."""
    if _HALF.search(raw) is None:
        return False
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _constant_in(raw: bytes) -> str | None:
    """Return the first number of a line that is none in JSON, None where there is none."""
    found: list[str] = []
    if b"NaN" in raw or b"Infinity" in raw:
        json.loads(raw, parse_constant=found.append)
    return found[0] if found else None


def shown(name: str) -> str:
    """Return a name, or a stranger's words, as a part of a sentence."""
    return one_line(name)


_HALF = re.compile(rb"\\u[dD][89a-fA-F]")

Form = Literal["chat", "completions", "text", "pairs", "prompts", "other"]
"""chat, completions and text as mlx-lm has them; pairs: chosen and rejected; prompts: a prompt alone, for rollouts."""


class Bounds(NamedTuple):
    """How much of one file is looked at: time and memory of an audit are bounded by it."""

    read_bytes: int
    """Whose lines are looked at."""
    content_bytes: int
    """Whose content is judged, as far as these rows go."""
    content_rows: int

    @property
    def content(self) -> str:
        """What is judged, in words."""
        return f"its first {self.content_rows:,} rows or {self.content_bytes >> 20} MB"


BOUNDS = Bounds(1 << 30, 256 << 20, 20_000)
"""An ordinary project in seconds."""
WHOLE = Bounds(1 << 60, 1 << 30, 1_000_000)
"""Every line, and as much content as memory holds."""
_MOST_FAULTS = 20
_BINARY_HEAD = 1 << 16
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LEAST_SHOWN_KEYS = 6


@dataclass(frozen=True)
class Features:
    """Keys that the columns have; mlx-lm lets a configuration rename them."""

    prompt: str = "prompt"
    completion: str = "completion"
    text: str = "text"
    chat: str = "messages"
    chosen: str = "chosen"
    rejected: str = "rejected"
    prefers_pairs: bool = True
    """Whether rows that are pairs and something else are taken for pairs; mlx-lm itself knows none."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Features":
        """Return the keys as a configuration has them."""
        names = [name for name in cls.__dataclass_fields__ if name != "prefers_pairs"]
        named = {name: config.get(f"{name}_feature") for name in names}
        given = {name: value for name, value in named.items() if isinstance(value, str)}
        return cls(**given, prefers_pairs=config.get("train_mode", "sft") != "sft")


TRAINED = Features(prefers_pairs=False)
"""Keys of a campaign's own training files: mlx-lm's, which it tells apart in its own order."""


@dataclass(frozen=True)
class Row:
    """One usable row."""

    line: int
    form: Form
    data: Json
    features: Features = Features()

    @property
    def messages(self) -> list[Json]:
        """The conversation that is trained on; of a pair, that before the answers; empty for text rows."""
        features = self.features
        if self.form == "chat":
            return list(self.data[features.chat])
        if self.form == "completions":
            answer = {"role": "assistant", "content": self.data[features.completion]}
            return [{"role": "user", "content": self.data[features.prompt]}, answer]
        if self.form == "pairs":
            return _with_system(self.data, _asked(self.data, features))
        return _with_system(self.data, _as_messages(self.data[features.prompt])) if self.form == "prompts" else []

    @property
    def prompt(self) -> str:
        """What the user says last; of a text row, all of it."""
        if self.form == "text":
            return str(self.data[self.features.text])
        turns = [text_of(turn) for turn in self.messages if turn.get("role") == "user"]
        return turns[-1] if turns else ""

    @property
    def answer(self) -> str | None:
        """What is learned to be said last; None where the row has no turns or ends with the user."""
        if self.form not in {"chat", "completions"}:
            return None
        last = self.messages[-1]
        return text_of(last) if last.get("role") == "assistant" else None

    @property
    def system(self) -> str | None:
        """The system text before everything; None without one."""
        turns = self.messages
        return text_of(turns[0]) if turns and turns[0].get("role") == "system" else None

    @property
    def sides(self) -> tuple[str, str]:
        """The chosen and the rejected answer of a pair."""
        return answer_text(self.data[self.features.chosen]), answer_text(self.data[self.features.rejected])

    @property
    def plain(self) -> tuple[Json, ...]:
        """The row as mlx-lm's own three forms have it; a pair is two conversations, the chosen one first."""
        if self.form == "text":
            return ({"text": self.data[self.features.text]},)
        tools = {"tools": self.data["tools"]} if self.data.get("tools") else {}
        if self.form != "pairs":
            return ({"messages": self.messages, **tools},)
        asked = self.messages
        return tuple({"messages": [*asked, {"role": "assistant", "content": side}], **tools} for side in self.sides)


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message, its parts joined where it has parts."""
    content = message.get("content", message.get("value"))
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) if isinstance(part, dict) else str(part) for part in content)
    if content is None or content == "":
        return _as_json(message["tool_calls"]) if message.get("tool_calls") else ""
    return content if isinstance(content, str) else _as_json(content)


def _as_json(value: Any) -> str:
    """Return a value that is no text as the text that a person would write for it."""
    return json.dumps(value, ensure_ascii=False)


def answer_text(value: Any) -> str:
    """Return the text of one side of a pair: a string, a message, or messages that end with it."""
    if isinstance(value, dict):
        if "messages" in value:
            return answer_text(value["messages"])
        is_message = bool({"content", "value", "role", "from", "tool_calls"} & value.keys())
        return text_of(value) if is_message else _as_json(value)
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        return answer_text(value[-1])
    if isinstance(value, str):
        return value
    return "" if value is None or value == [] else _as_json(value)


def _as_messages(value: Any) -> list[Json]:
    if isinstance(value, list):
        return [turn for turn in value if isinstance(turn, dict)]
    return [{"role": "user", "content": value if isinstance(value, str) else ""}]


def _with_system(data: Json, messages: list[Json]) -> list[Json]:
    system = data.get("system")
    if not isinstance(system, str) or (messages and messages[0].get("role") == "system"):
        return messages
    return [{"role": "system", "content": system}, *messages]


def _asked(data: Mapping[str, Any], features: Features) -> list[Json]:
    """Return the turns before a pair's answers: its prompt, or where both sides are whole conversations their turns.

    Such conversations are how the hub's sets of pairs are written, with the prompt beside them or without.
    """
    sides = [data[key] for key in (features.chosen, features.rejected)]
    sides = [side["messages"] if isinstance(side, dict) and "messages" in side else side for side in sides]
    begun = [side[:-1] for side in sides if isinstance(side, list)]
    if len(begun) == len(sides) and begun[0] and begun[0] == begun[1]:
        return _as_messages(begun[0])
    return _as_messages(data.get(features.prompt, ""))


def form_of(data: Mapping[str, Any], features: Features) -> Form:
    """Return the form that a file has by its first row: mlx-lm's own in its order, beside those of mlx-lm-lora."""
    is_pair = features.chosen in data and features.rejected in data
    if is_pair and features.prefers_pairs:
        return "pairs"
    if features.prompt in data and features.completion in data:
        return "completions"
    if features.chat in data:
        return "chat"
    if features.text in data:
        return "text"
    if is_pair:
        return "pairs"
    return "prompts" if features.prompt in data else "other"


@dataclass
class Scan:
    """What a data file holds."""

    form: Form = "other"
    rows: int = 0
    """Usable ones."""
    faults: list[Fault] = field(default_factory=list)
    """The first of them."""
    n_fatal: int = 0
    n_strange: int = 0
    keys: tuple[str, ...] = ()
    """Keys of the first row."""
    unread: str = ""
    """Why the file was not read; empty when it was."""
    rest: str = ""
    """What of it was not read, and how to have it read; empty when all of it was."""
    is_binary: bool = False

    def add(self, fault: Fault) -> None:
        """Count a fault, and keep it when it is among the first."""
        self.n_fatal += fault.is_fatal
        self.n_strange += not fault.is_fatal
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(fault)


@dataclass(frozen=True)
class DataFile:
    """A file of rows."""

    path: Path
    features: Features = Features()
    bounds: Bounds = BOUNDS

    @cached_property
    def scan(self) -> Scan:
        """Look at every line once."""
        scan = Scan()
        try:
            for line in iter_lines(self.path, self.bounds.read_bytes):
                if not scan.keys and line.row is not None:
                    scan.keys, scan.form = tuple(map(str, line.row)), form_of(line.row, self.features)
                fault = self._fault(line, scan.form)
                if fault is not None:
                    scan.add(fault)
                scan.rows += fault is None or not fault.is_fatal
        except UnreadableError as error:
            scan.unread, scan.is_binary = str(error), error.kind == "binary"
            return scan
        if self.size > self.bounds.read_bytes:
            scan.rest = f"what follows its first {self.bounds.read_bytes >> 30} GB; --whole reads it"
        return scan

    def _fault(self, line: Line, form: Form) -> Fault | None:
        """Return what a trainer would mind; none minds NaN, for they read with Python's own reader."""
        if line.row is None:
            return line.fault
        said = fault_of(line.row, form, self.features)
        return Fault(line.number, *said) if said else None

    def objects(self, most: int | None = None) -> Iterator[tuple[int, Json]]:
        """Yield (line, row) of the first rows, whatever keys they have; None as many as are judged."""
        most = self.bounds.content_rows if most is None else most
        done = 0
        try:
            for number, row, _ in iter_lines(self.path, self.bounds.content_bytes):
                if row is None:
                    continue
                yield number, row
                done += 1
                if done >= most:
                    return
        except UnreadableError:
            return

    def rows(self, most: int | None = None) -> Iterator[Row]:
        """Yield the usable rows among the first ones."""
        form = self.scan.form
        for number, row in self.objects(most):
            fault = fault_of(row, form, self.features)
            if not (fault and fault[1]):
                yield Row(number, form, row, self.features)

    def is_judged_whole(self) -> bool:
        """Say whether `rows` yields every usable row."""
        return self.scan.rows <= self.bounds.content_rows and self.size <= self.bounds.content_bytes

    @cached_property
    def size(self) -> int:
        """Bytes; 0 where it cannot be told."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0


def kind_of(value: object) -> str:
    """Return JSON's own word for a value's type."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


_FOREIGN = {
    "conversations chosen rejected": "This is LLaMA-Factory's form of pairs: write the text of the last turn of "
    "`conversations` as `prompt`, and the `value` of `chosen` and of `rejected` as strings.",
    "instruction chosen rejected": "Rename `instruction` to `prompt`, with the text of `input`, where there is one, "
    "behind it.",
    "question chosen rejected": "Rename `question` to `prompt`.",
    "conversations": "This is ShareGPT's form, which naming a column does not change: rename `conversations` to "
    "`messages`, `from` to `role`, `value` to `content`, human to user and gpt to assistant.",
    "instruction": "This is Alpaca's form: write `instruction` and `input` as `prompt`, and `output` as `completion`.",
    "question answer": "Name the columns in the configuration: `prompt_feature: question` and "
    "`completion_feature: answer` (mlx-lm-lora: `answer_feature: answer`).",
}
"""Keys that tell the form of another tool, with what makes mlx-lm's of it; the first that fits counts."""
_OF_FAULT = (
    ("a comma follows", "Remove the comma at the end of each line."),
    ("not UTF-8", "Save the file as UTF-8."),
    ("is a list of answers", "Write one pair a row: each rejected answer as a row of its own, with prompt and chosen."),
    ("the role `", "Write the roles as user and assistant: human is user; gpt and bot are assistant."),
    ("is an object", "Write the object as a JSON string: mlx-lm trains on Python's form of an object."),
)
"""Part of a fault's sentence, with what mends it."""


def foreign_fix(keys: Iterable[str]) -> str:
    """Return what makes mlx-lm's form of a row with such keys, empty where no other tool's form is told by them."""
    there = set(keys)
    return next((fix for known, fix in _FOREIGN.items() if there.issuperset(known.split())), "")


def fix_of(path: Path, scan: "Scan") -> str:
    """Return what makes good rows of a file's, empty where only a person can tell."""
    head = read_head(path, 64).lstrip()
    if head.startswith(b"["):
        return "This is one JSON array: write one object a line, without brackets and commas."
    if head.startswith((b"{\n", b"{\r")):
        return "This is pretty-printed JSON: write each object on a line of its own."
    if head.startswith(b"\x1f\x8b"):
        return "This is a gzip file: unpack it."
    if head.startswith(b"(\xb5/\xfd"):
        return "This is a Zstandard file: unpack it."
    if head.startswith(b"PAR1"):
        return "This is Parquet: save it as JSON lines, or name it under `hf_dataset`."
    known = foreign_fix(scan.keys) if scan.form == "other" else ""
    said = next((fault.sentence for fault in scan.faults if fault.is_fatal), "")
    return known or next((fix for part, fix in _OF_FAULT if part in said), "")


_FOREIGN_ROLES = frozenset({"human", "gpt", "chatgpt", "bot", "ai"})
"""Roles of other tools; templates print them as they are, and the model learns turns that nobody asks for."""

Found = tuple[str, bool]
"""What is wrong with a row, without its words, and whether a trainer stops there or trains on something else."""


def fault_of(data: Mapping[str, Any], form: Form, features: Features, *, is_strict: bool = False) -> Found | None:
    """Return what is wrong with a row; None where nothing is.

    Args:
        data: The row.
        form: That of its file.
        features: Keys of its columns.
        is_strict: Whether what a template or mlx-lm-lora would take all the same, and nobody means, is a fault too.
    """
    if form == "other":
        keys = ", ".join(list(map(str, data))[:_LEAST_SHOWN_KEYS]) or "no keys"
        return f"the row has {keys[:120]}; none of messages, prompt with completion, text, chosen with rejected", True
    if form == "chat" and features.chat in data:
        return fault_of_messages(data[features.chat], features.chat, is_strict=is_strict)
    if form == "pairs":
        return _fault_of_pair(data, features, is_strict=is_strict)
    keys_of = {
        "completions": (features.prompt, features.completion),
        "text": (features.text,),
        "chat": (features.chat,),
    }
    for key in keys_of.get(form, (features.prompt,)):
        if form == "prompts" and isinstance(data.get(key), list):
            return fault_of_messages(data[key], key, is_prompt=True, is_strict=is_strict)
        if found := fault_of_text(data, key):
            # An answer may be that there is none.
            return None if is_strict and key == features.completion and not found[1] else found
    return None


def fault_of_text(data: Mapping[str, Any], key: str) -> Found | None:
    """Return what is wrong with a text of a row; a blank one is strange."""
    if key not in data:
        return f"`{key}` is missing; the first row has it", True
    if not isinstance(data[key], str):
        return f"`{key}` is {kind_of(data[key])}, not a string", True
    return None if data[key].strip() else (f"`{key}` is blank", False)


def fault_of_messages(
    messages: object, key: str, *, is_prompt: bool = False, is_strict: bool = False, of: str = ""
) -> Found | None:
    """Return what is wrong with a conversation.

    Args:
        messages: What stands in its place.
        key: Where.
        is_prompt: Whether it ends before the answer.
        is_strict: As for `fault_of`.
        of: Said behind a message's number.
    """
    if not isinstance(messages, list) or not messages:
        return f"`{key}` is not a list with at least one message", True
    strange = None
    for place, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return f"message {place}{of} is not an object with a `role`", True
        role, content = message["role"], message.get("content")
        if role in _FOREIGN_ROLES:
            return f"message {place}{of} has the role `{role}`, which no template knows", True
        if is_strict and isinstance(content, list):
            return f"message {place}{of} ({role[:20]}) has `content` in parts; write it as one string", True
        # A tool call has no text of its own; every other turn must.
        if not isinstance(content, str | list) and not message.get("tool_calls") and strange is None:
            strange = (f"message {place}{of} ({role[:20]}) has no text in `content`", False)
    if strange is None and not is_prompt and messages[-1]["role"] != "assistant":
        strange = (f"the last message{of} is from `{messages[-1]['role'][:20]}`: there is no answer to learn", False)
    return strange


def _fault_of_pair(data: Mapping[str, Any], features: Features, *, is_strict: bool) -> Found | None:
    answers = (features.chosen, features.rejected)
    for key in answers:
        if key not in data:
            return f"`{key}` is missing; a pair has `prompt`, `chosen` and `rejected`", True
        if found := _fault_of_side(data[key], key, is_strict=is_strict):
            return found
    prompt, asked = data.get(features.prompt), _asked(data, features)
    if prompt is not None and not isinstance(prompt, str | list):
        return f"`{features.prompt}` is {kind_of(prompt)}, not a string", True
    if not is_strict:
        return None
    return _fault_of_asked(data, asked, features) or _fault_of_sides(data, answers, asked)


def _fault_of_side(side: object, key: str, *, is_strict: bool) -> Found | None:
    if isinstance(side, list):
        if side and all(isinstance(one, str) for one in side):
            return f"`{key}` is a list of answers", True
        return fault_of_messages(side, key, is_strict=is_strict, of=f" of `{key}`")
    if not isinstance(side, str | dict) or (is_strict and not isinstance(side, str)):
        return f"`{key}` is {kind_of(side)}, not a string" + " or a list of messages" * is_strict, True
    return None


def _fault_of_asked(data: Mapping[str, Any], asked: list[Json], features: Features) -> Found | None:
    """Return what is wrong with the turns before a pair's answers."""
    key, prompt, system = features.prompt, data.get(features.prompt), data.get("system")
    if prompt is None and not any(text_of(turn) for turn in asked):
        return f"`{key}` is missing; a pair has `prompt`, `chosen` and `rejected`", True
    if isinstance(prompt, str) and not prompt.strip():
        return f"`{key}` is blank", True
    if isinstance(prompt, list) and (found := fault_of_messages(prompt, key, is_prompt=True, of=f" of `{key}`")):
        return found
    if isinstance(prompt, list) and prompt[-1]["role"] == "assistant":
        return f"`{key}` ends with the assistant's answer, which belongs to `chosen` and `rejected`", True
    last = text_of(prompt[-1]) if isinstance(prompt, list) else prompt
    if last is not None and last not in map(text_of, asked):
        return f"`{features.chosen}` and `{features.rejected}` answer another turn than `{key}`", True
    return (f"`system` is {kind_of(system)}, not a string", True) if not isinstance(system, str | None) else None


def _fault_of_sides(data: Mapping[str, Any], answers: tuple[str, str], asked: list[Json]) -> Found | None:
    """Return what is wrong with a pair's answers: each is one message of the assistant, and they differ."""
    for key in answers:
        turns = data[key]
        if isinstance(turns, list) and len(turns) > 1 and turns[:-1] != asked:
            roles = ", ".join(str(turn["role"]) for turn in turns)
            return f"`{key}` is a conversation of {roles}; it must be one message of the assistant", True
    if answer_text(data[answers[0]]) == answer_text(data[answers[1]]):
        return f"`{answers[0]}` and `{answers[1]}` are the same text, so there is nothing to prefer", True
    return None
