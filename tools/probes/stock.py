"""What mlx-lm itself makes of each training row, held against the row: what it refuses, drops, masks or doubles.

Rows are rendered and masked as `mlx_lm/tuner/datasets.py` does (mlx-lm 0.32.2): the whole conversation, and the prompt
with the assistant's opening, whose number of tokens is the mask's offset whether or not the row begins with it.
`StockRows` runs in the process that has the tokenizer; it returns counts and line numbers, never a row's words.
`stock_findings` makes sentences of them, for the audit, for `run --check` and for the census. Not covered: the data
sets of mlx-lm-lora.
"""

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from state.records import Finding, Json, Severity
from tools.data.rows import Row, shown
from tools.evaluation.prompts import Rendered, encode, render_training, with_system
from tools.evaluation.rendered import Numbered
from tools.machine.sandbox import OverLimitError, held

_MOST_LINES = 20
_MOST_NULLS = 50
"""Rows with a turn that has no content that are rendered once more, to see whether its absence is printed."""
_LEAST_THINKING, _MOST_THINKING = 0.02, 0.98
_REASONS = ("reasoning_content", "reasoning", "thinking")
_MOST_ROLE_CHARS = 20


def _calls_of(message: Mapping[str, Any]) -> list[Json]:
    """Return the functions that a turn calls."""
    calls = message.get("tool_calls")
    found = [call.get("function", call) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    return [call for call in found if isinstance(call, dict)]


def _declared(tools: Any) -> set[str]:
    if not isinstance(tools, list):
        return set()
    functions = [tool.get("function", tool) for tool in tools if isinstance(tool, dict)]
    return {str(one.get("name")) for one in functions if isinstance(one, dict)}


class Told:
    """Counts by kind, with the first lines of each."""

    def __init__(self) -> None:
        self.kinds: dict[str, Json] = {}

    def add(self, kind: str, line: int, times: float = 1, **more: Any) -> None:
        """Count a row once, and what of it is concerned `times`."""
        one = self.kinds.setdefault(kind, {"rows": 0, "times": 0, "lines": [], **more})
        one["rows"] += 1
        one["times"] += times
        if len(one["lines"]) < _MOST_LINES:
            one["lines"].append(line)


class StockRows:
    """Renders rows as mlx-lm does and counts what becomes of them.

    Args:
        tokenizer: mlx-lm's wrapper.
        masks_prompt: Whether the configuration learns answers alone.
        system: Text that a campaign puts before rows that bring none; mlx-lm has no such thing.
    """

    def __init__(self, tokenizer: Any, *, masks_prompt: bool, system: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._masks = masks_prompt
        self._system = system
        self._told = Told()
        self._nulls = 0
        self._rows = self._answers = self._thinking = 0
        self._bare: list[int] = []
        """Rows that do not think."""

    def render(self, rows: Iterable[Row]) -> list[Numbered]:
        """Return the rows that can be rendered, as the census counts them."""
        found = []
        for row in rows:
            self._rows += 1
            found += [Numbered(row.line, one) for one in self._rendered(row)]
        return found

    def told(self) -> Json:
        """Return {kind: {rows, times, lines, …}}, with `rows` and `answers` of all."""
        thinks = self._thinking / self._rows if self._rows else 0
        if _LEAST_THINKING < thinks < _MOST_THINKING:
            self._told.kinds["thinking_in_some"] = {
                "rows": self._thinking, "times": self._thinking, "lines": self._bare,
            }  # fmt: skip
        return {"rows": self._rows, "answers": self._answers, "thinking": self._thinking, "kinds": self._told.kinds}

    def _rendered(self, row: Row) -> list[Rendered]:
        if row.form in {"pairs", "prompts"}:
            return [render_training(self._tokenizer, plain) for plain in row.plain]
        if row.form == "text":
            return self._text_row(row)
        if not self._tokenizer.has_chat_template:
            self._told.add("no_template", row.line)
            return [render_training(self._tokenizer, row.plain[0])]
        return self._conversation(row)

    def _text_row(self, row: Row) -> list[Rendered]:
        tokens = encode(self._tokenizer, str(row.data[row.features.text]))
        end = self._tokenizer.eos_token_id
        if end is None:
            self._told.add("no_end_token", row.line)
        elif not tokens:
            self._told.add("no_tokens", row.line)
        elif tokens[-1] != end:
            tokens = [*tokens, end]
        self._ends(row.line, tokens)
        return [Rendered(tokens, 0, is_prefix=True)]

    def _ends(self, line: int, tokens: list[int]) -> None:
        begin, end = getattr(self._tokenizer, "bos_token_id", None), self._tokenizer.eos_token_id
        if begin is not None and begin != end and tokens[:2] == [begin, begin]:
            self._told.add("double_begin", line)
        if end is not None and tokens[-2:] == [end, end]:
            self._told.add("double_end", line)

    def _conversation(self, row: Row) -> list[Rendered]:
        messages, tools = with_system(row.messages, self._system), row.data.get("tools")
        text = self._whole(row.line, messages, tools)
        if text is None:
            return []
        tokens = encode(self._tokenizer, text, add_special_tokens=False)
        self._ends(row.line, tokens)
        self._compare(row.line, messages, tools, text)
        if messages[-1].get("role") != "assistant":
            return [Rendered(tokens, 0, is_prefix=True)]
        try:
            asked = self._text(messages[:-1], tools, opens=True)
        except OverLimitError:
            raise
        except Exception as error:  # noqa: BLE001 - a stranger's template raises anything
            if self._masks:
                self._refused(row.line, error, messages, tools)
            return [Rendered(tokens, 0, is_prefix=True)]
        prompt = encode(self._tokenizer, asked, add_special_tokens=False)
        pairs = enumerate(zip(prompt, tokens, strict=False))
        shared = next((at for at, (one, two) in pairs if one != two), min(len(prompt), len(tokens)))
        self._mask(row.line, messages, (len(prompt), shared, len(tokens)))
        return [Rendered(tokens, shared, is_prefix=shared == len(prompt))]

    def _mask(self, line: int, messages: list[Json], sizes: tuple[int, int, int]) -> None:
        """Count what stock's offset keeps from being learned; sizes: offset, where the prompt parts, all tokens."""
        offset, shared, whole = sizes
        answers = sum(turn.get("role") == "assistant" for turn in messages)
        self._answers += answers
        if not self._masks:
            if shared < offset:
                self._told.add("no_prefix", line)
            return
        if answers > 1:
            self._told.add("earlier_answers", line, answers - 1)
        if offset >= whole:
            self._told.add("all_masked", line)
        elif shared < offset:
            self._told.add("part_masked", line, (offset - shared) / (whole - shared))

    def _text(self, messages: list[Json], tools: Any, *, opens: bool = False) -> str:
        with held("The model's chat template"):
            # Stock leaves the key out for a whole conversation; some templates are functions that ask.
            options = {"add_generation_prompt": True} if opens else {}
            return str(self._tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, **options))

    def _whole(self, line: int, messages: list[Json], tools: Any) -> str | None:
        try:
            return self._text(messages, tools)
        except OverLimitError:
            raise
        except Exception as error:  # noqa: BLE001 - a stranger's template raises anything
            self._refused(line, error, messages, tools)
            return None

    def _refused(self, line: int, error: Exception, messages: list[Json], tools: Any) -> None:
        known = str(getattr(self._tokenizer, "chat_template", ""))
        # The template's own words only: what it puts together may quote the conversation.
        said = str(error) if str(error) and str(error) in known else type(error).__name__
        kind = f"refused:{said}"
        if kind in self._told.kinds:
            self._told.add(kind, line)
        else:
            self._told.add(kind, line, said=said, fix=self._mend(messages, tools))

    def _mend(self, messages: list[Json], tools: Any) -> str:
        """Return the first change after which the template takes the row; what helps was tried."""
        for words, change in _CHANGES:
            changed, declared = change(copy.deepcopy(messages), tools)
            if (changed, declared) == (messages, tools):
                continue
            try:
                self._text(changed, declared)
            except OverLimitError:
                raise
            except Exception:  # noqa: BLE001, S112 - the next change is tried
                continue
            return words
        return "Change these rows to what the template takes, or mend `chat_template` in the model folder."

    @cached_property
    def _typed(self) -> re.Pattern[str] | None:
        named = map(str, getattr(self._tokenizer, "all_special_tokens", ()))
        # Reasoning and calls are typed on purpose where the template has no place for them.
        tokens = [token for token in named if token.strip() and not ("think" in token or "tool" in token)]
        return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))) if tokens else None

    def _compare(self, line: int, messages: list[Json], tools: Any, text: str) -> None:
        """Hold what was rendered against the row."""
        kinds: dict[str, int] = {}
        known, called = _declared(tools), set()
        thinks = False
        for place, message in enumerate(messages):
            is_last = place == len(messages) - 1
            for kind in (*_lost_content(message, text, is_last=is_last), *_lost_calls(message, text)):
                kinds[kind] = kinds.get(kind, 0) + 1
            called |= {str(call.get("name")) for call in _calls_of(message)}
            content = message.get("content")
            if isinstance(content, str):
                if self._typed is not None and self._typed.search(content):
                    kinds["typed"] = kinds.get("typed", 0) + 1
                thinks |= is_last and "</think>" in content
            thinks |= is_last and any(message.get(key) for key in _REASONS)
        if called - known:
            kinds["undeclared"] = len(called - known)
        if known and not any(name in text for name in known):
            kinds["tools_gone"] = 1
        if self._prints_null(messages, tools, text):
            kinds["null_printed"] = 1
        for kind, times in kinds.items():
            self._told.add(kind, line, times)
        self._thinking += thinks
        if not thinks and len(self._bare) < _MOST_LINES:
            self._bare.append(line)

    def _prints_null(self, messages: list[Json], tools: Any, text: str) -> bool:
        """Say whether the template writes None where a turn has no content."""
        has_null = any(message.get("content", "") is None for message in messages)
        if not has_null or "None" not in text or self._nulls >= _MOST_NULLS:
            return False
        self._nulls += 1
        filled = [{**message, "content": message.get("content") or ""} for message in messages]
        try:
            return self._text(filled, tools).count("None") < text.count("None")
        except OverLimitError:
            raise
        except Exception:  # noqa: BLE001 - it prints nothing then
            return False


def _stands(part: str, text: str) -> bool:
    """Say whether a part of a row is in what was rendered, white space and JSON's escapes aside."""
    part = part.strip()
    if not part or part in text or json.dumps(part, ensure_ascii=False)[1:-1] in text:
        return True
    return json.dumps(part)[1:-1] in text or "".join(part.split()) in "".join(text.split())


def _lost_content(message: Mapping[str, Any], text: str, *, is_last: bool) -> list[str]:
    """Return what becomes of a turn's content, by kind; nothing where all of it stands."""
    content, role = message.get("content"), str(message.get("role"))[:_MOST_ROLE_CHARS]
    thought = "thinking_gone" if is_last else "earlier_thinking_gone"
    found = [thought for key in _REASONS if isinstance(message.get(key), str) and not _stands(message[key], text)][:1]
    if isinstance(content, str):
        if not _stands(content, text):
            answer = content.rpartition("</think>")[2]
            is_thought = answer != content and answer.strip() and _stands(answer, text)
            found.append(thought if is_thought else f"gone:{role}")
    elif isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        if str(content) in text:
            found.append("python")
        elif any(not _stands(part, text) for part in parts if isinstance(part, str)):
            found.append(f"gone:{role}")
        elif any(not isinstance(part, str) for part in parts):
            found.append("other_parts")
    elif content is not None and str(content) in text:
        found.append("python")
    return found


def _lost_calls(message: Mapping[str, Any], text: str) -> list[str]:
    found: dict[str, None] = {}
    for call in _calls_of(message):
        name, arguments = call.get("name"), call.get("arguments")
        keys = [str(key) for key in arguments] if isinstance(arguments, dict) else []
        if not _stands(str(name), text) or not all(_stands(key, text) for key in keys):
            found["calls_gone"] = None
        elif isinstance(arguments, str) and '"' in arguments:
            is_twice = json.dumps(arguments) in text or json.dumps(arguments, ensure_ascii=False) in text
            kind = "escaped" if is_twice else "" if _stands(arguments, text) else "calls_gone"
            found |= {kind: None} if kind else {}
    return list(found)


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


Change = Callable[[list[Json], Any], tuple[list[Json], Any]]


def _with_objects(messages: list[Json], tools: Any) -> tuple[list[Json], Any]:
    for message in messages:
        for call in _calls_of(message):
            call["arguments"] = _parsed(call.get("arguments"))
    return messages, tools


def _with_system_moved(messages: list[Json], tools: Any) -> tuple[list[Json], Any]:
    system = [str(message.get("content")) for message in messages if message.get("role") in {"system", "developer"}]
    rest = [message for message in messages if message.get("role") not in {"system", "developer"}]
    if system and rest:
        rest[0] = {**rest[0], "content": "\n\n".join([*system, str(rest[0].get("content"))])}
    return rest, tools


def _joined(messages: list[Json], tools: Any) -> tuple[list[Json], Any]:
    joined: list[Json] = []
    for message in messages:
        if joined and joined[-1].get("role") == message.get("role"):
            joined[-1] = {**joined[-1], "content": f"{joined[-1].get('content')}\n\n{message.get('content')}"}
        else:
            joined.append(message)
    return joined, tools


def _as_strings(messages: list[Json], tools: Any) -> tuple[list[Json], Any]:
    for message in messages:
        if isinstance(message.get("content"), list):
            parts = [part.get("text", "") for part in message["content"] if isinstance(part, dict)]
            message["content"] = "".join(map(str, parts))
    return messages, tools


def _as_parts(messages: list[Json], tools: Any) -> tuple[list[Json], Any]:
    for message in messages:
        if isinstance(message.get("content"), str):
            message["content"] = [{"type": "text", "text": message["content"]}]
    return messages, tools


def _without_null(messages: list[Json], tools: Any) -> tuple[list[Json], Any]:
    return [
        message if message.get("content") is not None else {**message, "content": ""} for message in messages
    ], tools


_CHANGES: tuple[tuple[str, Change], ...] = (
    ("Write `arguments` of each tool call as an object, not as JSON in a string.", _with_objects),
    ("Write `tools` as a list of objects, not as JSON in a string.", lambda m, t: (m, _parsed(t))),
    ("Put the system text into the first user turn.", _with_system_moved),
    ("Write an empty string where `content` is null or missing.", _without_null),
    ("Write `content` as one string, not as a list of parts.", _as_strings),
    ('Write `content` as a list of parts, such as {"type": "text", "text": …}.', _as_parts),
    ("Join turns of one role that follow each other, so that user and assistant take turns.", _joined),
    ("Remove `tools` from these rows, or take a model whose template has tools.", lambda m, _: (m, None)),
)  # fmt: skip
"""What may be wrong with a row that a template refuses, each with the change that would show it."""


class _Words(NamedTuple):
    """How a kind is told; `{rows}`, `{all}`, `{times}` and `{name}` are filled in."""

    mode: str
    severity: Severity
    sentence: str
    fix: str


_KINDS: Mapping[str, _Words] = {
    "refused": _Words(
        "6",
        "hard_stop",
        "The chat template refuses {rows} of {all} rows of {name} ({said}): mlx-lm stops at the first of them",
        "{fix}",
    ),
    "no_template": _Words(
        "6",
        "hard_stop",
        "The tokenizer has no chat template that mlx-lm reads, and the {all} rows of {name} are conversations: mlx-lm "
        "stops at the first",
        "Write the template as `chat_template` into tokenizer_config.json or as chat_template.jinja, or train on "
        "text rows.",
    ),
    "no_end_token": _Words(
        "6",
        "hard_stop",
        "The tokenizer has no end token, and mlx-lm ends each of the {all} text rows of {name} with it: it stops at "
        "the first (TypeError)",
        "Name `eos_token` in tokenizer_config.json.",
    ),
    "no_tokens": _Words(
        "6",
        "hard_stop",
        "{rows} of {all} rows of {name} have no token: mlx-lm stops at the first (IndexError)",
        "Remove these lines.",
    ),
    "all_masked": _Words(
        "P8",
        "hard_stop",
        "mask_prompt masks the whole answer in {rows} of {all} rows of {name}: the prompt as the template opens it for "
        "generation is as long as the whole row, and mlx-lm counts its tokens. A batch of such rows has the loss NaN",
        "Set mask_prompt to false, or mend `chat_template` so that the generation prompt is the beginning of the row.",
    ),
    "part_masked": _Words(
        "P8",
        "warning",
        "mask_prompt keeps {share:.0%} of each answer from being learned in {rows} of {all} rows of {name}: the "
        "template opens an answer for generation with more than the row has, and mlx-lm counts its tokens as prompt",
        "Set mask_prompt to false, write into the answers what the generation prompt adds, or mend `chat_template`.",
    ),
    "no_prefix": _Words(
        "P7",
        "warning",
        "{rows} of {all} rows of {name} do not begin with the prompt that the template opens for generation: the model "
        "is asked in another form than it is taught",
        "Write into the answers what the generation prompt adds, or mend `chat_template`.",
    ),
    "earlier_answers": _Words(
        "P8",
        "warning",
        "With mask_prompt mlx-lm learns the last answer of a conversation alone: {learned} of {answers} answers of "
        "{name}",
        "Write a row for each answer that is to be learned, or set mask_prompt to false.",
    ),
    "gone": _Words(
        "P8",
        "warning",
        "The template drops {times} texts of the role {said} in {rows} of {all} rows of {name}: the model never sees "
        "them",
        "Use a role that the template has (system, user, assistant), or mend `chat_template`.",
    ),
    "thinking_gone": _Words(
        "P8",
        "warning",
        "The template drops the reasoning of the last answer in {rows} of {all} rows of {name}: it is not learned",
        "Write the reasoning into `content` between <think> and </think>, or take a template that has it.",
    ),
    "earlier_thinking_gone": _Words(
        "P8",
        "note",
        "The template drops the reasoning of answers before the last one in {rows} of {all} rows of {name}, as many "
        "templates of thinking models do",
        "Write a row for each answer whose reasoning is to be learned.",
    ),
    "python": _Words(
        "P8",
        "warning",
        "The template prints `content` as Python in {rows} of {all} rows of {name} (such as [{{'type': 'text', …}}]): "
        "that is what is learned",
        "Write `content` as one string.",
    ),
    "other_parts": _Words(
        "P8",
        "warning",
        "{rows} of {all} rows of {name} have parts that are no text, which a text model is not shown",
        "Write `content` as text alone.",
    ),
    "null_printed": _Words(
        "P8",
        "warning",
        "The template writes None where `content` is null, in {rows} of {all} rows of {name}: that is what is learned",
        "Write an empty string in its place.",
    ),
    "calls_gone": _Words(
        "P8",
        "warning",
        "The template drops tool calls, or their arguments, in {rows} of {all} rows of {name}: they are not learned",
        "Write the call into `content`, or take a model whose template has tool calls.",
    ),
    "escaped": _Words(
        "P8",
        "warning",
        "The arguments of tool calls are escaped twice in {rows} of {all} rows of {name}, a string in a string: the "
        "model learns the backslashes",
        "Write `arguments` as an object, not as JSON in a string.",
    ),
    "tools_gone": _Words(
        "P8",
        "warning",
        "The template drops `tools` in {rows} of {all} rows of {name}: the model is not shown what it may call",
        "Take a model whose template has tools, or describe them in the system text.",
    ),
    "undeclared": _Words(
        "P8",
        "warning",
        "{rows} of {all} rows of {name} call a tool that their `tools` do not declare",
        "Declare in `tools` what is called.",
    ),
    "typed": _Words(
        "P8",
        "warning",
        "{times} texts in {rows} of {all} rows of {name} hold special tokens of the tokenizer as text: they become the "
        "tokens themselves, and end or open turns where none does",
        "Remove them from the texts.",
    ),
    "double_begin": _Words(
        "P8",
        "warning",
        "{rows} of {all} rows of {name} begin with two begin tokens: the text has one and the tokenizer adds another",
        "Remove the begin token from the texts.",
    ),
    "double_end": _Words(
        "P8",
        "warning",
        "{rows} of {all} rows of {name} end with two end tokens",
        "Remove the end token from the texts.",
    ),
    "thinking_in_some": _Words(
        "P8",
        "warning",
        "{rows} of {all} rows of {name} think before they answer and the others do not: the model is taught both "
        "without a sign which is wanted",
        "Give all rows their reasoning or none, or mark which is which in the system text.",
    ),
}  # fmt: skip


_STOCK_ALONE = frozenset({
    "all_masked", "earlier_answers", "no_end_token", "no_prefix", "no_template", "no_tokens", "part_masked",
})  # fmt: skip
"""Kinds by which mlx-lm trains otherwise than Vigil, whose masks begin where a row and its prompt part."""


def stock_findings(name: str, told: Json, *, subject: str = "data:train", is_ours: bool = False) -> list[Finding]:
    """Return what becomes of the rows of one file, in words.

    Args:
        name: The file, as people read it.
        told: What `StockRows.told` returned.
        subject: What findings are about.
        is_ours: Whether Vigil trains on them, not mlx-lm.
    """
    found = []
    for kind, one in told["kinds"].items():
        family, _, said = kind.partition(":")
        if is_ours and family in _STOCK_ALONE:
            continue
        words = _KINDS[family]
        figures = {
            "rows": f"{one['rows']:,}",
            "all": f"{told['rows']:,}",
            "times": f"{one['times']:,.0f}",
            "share": one["times"] / one["rows"],
            "answers": f"{told['answers']:,}",
            "learned": f"{told['answers'] - one['times']:,.0f}",
            "name": name,
            "said": shown(said)[:200],
            "fix": one.get("fix", ""),
        }
        which = ", ".join(map(str, one["lines"][:3]))
        lines = f"lines {which}{', …' if one['rows'] > 3 else ''}"  # noqa: PLR2004 - as many as are named
        found.append(
            Finding(
                mode=words.mode,
                severity=words.severity,
                subject=subject,
                claim=f"stock_{family}",
                sentence=f"{words.sentence.format(**figures)} ({lines}).",
                value={
                    "rows": told["rows"],
                    "count": one["rows"],
                    "lines": one["lines"],
                    "file": name,
                    "line": one["lines"][0] if one["lines"] else 1,
                },
                fix=words.fix.format(**figures),
            )
        )
    return found
