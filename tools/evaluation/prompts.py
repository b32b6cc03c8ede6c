"""The one place where text becomes tokens: prompts of evaluation cases, training rows, gold answers.

Training, evaluation and the census share it, so that a model is asked as it was taught (failure mode P7). The
tokenizer is always mlx-lm's wrapper; nothing here imports it. Without a chat template texts are joined plainly.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from state.errors import ConfigError
from tools.data.cases import case_messages
from tools.data.rows import TRAINED, Row, form_of
from tools.jobs.worker import tick
from tools.machine.sandbox import MOST_CHARS, TEXT_S, OverLimitError, held

Messages = list[dict[str, Any]]

Tokens = Sequence[int]
"""Of one row; an array of int32 where it was read from a file of kept rows."""

_CHARS_PER_S = 200_000
"""A third of what a tokenizer was measured to read in a processor second (8 M characters in 12 s)."""

PLACEHOLDER = "{prompt}"
"""Stands for the user's text in a skeleton."""


@dataclass(frozen=True)
class Rendered:
    """A training row as tokens."""

    tokens: Tokens
    prompt_length: int
    """Leading tokens that belong to the prompt; 0 when the row has no prompt (text rows)."""
    is_prefix: bool
    """Whether the prompt as evaluation would render it is exactly the row's beginning."""


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Put the row or case at the head of what a template refuses or breaks."""
    try:
        yield
    except ConfigError as error:
        raise type(error)(
            f"{where}: {error.sentence}", what=error.what, value=error.value, limit=error.limit, where=where
        ) from error


def with_system(messages: Messages, system: str | None) -> Messages:
    """Put the track's system text first, unless the conversation brings its own."""
    if system is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


def render_messages(tokenizer: Any, messages: Messages, tools: Any = None) -> list[int]:
    """Return the tokens of a conversation up to the point where the assistant is to answer."""
    if not tokenizer.has_chat_template:
        return encode(tokenizer, plain_text(messages))
    return list(_template(tokenizer, messages, tools=tools, add_generation_prompt=True, tokenize=True))


def render_prompt(tokenizer: Any, case: dict[str, Any], system: str | None = None) -> list[int]:
    """Return the prompt tokens of an evaluation case.

    Raises:
        ConfigError: The template refuses the conversation, or it renders to nothing.
    """
    with naming(f"Case {case.get('id', '?')}"):
        tokens = render_messages(tokenizer, case_messages(case, system), case.get("tools"))
    if not tokens:
        raise ConfigError(f"The prompt of case {case.get('id', '?')} is empty.", what="prompt")
    return tokens


def plain_text(messages: Messages) -> str:
    """Join a conversation where there is no template: contents with an empty line between."""
    return "\n\n".join(str(message.get("content") or "") for message in messages)


def _template(tokenizer: Any, messages: Messages, *, tokenize: bool, **options: Any) -> Any:
    """Apply the chat template.

    Raises:
        ConfigError: The template refuses the conversation (a system message, an order of roles).
    """
    from jinja2 import TemplateError

    tick()
    try:
        with held("The model's chat template"):
            text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except TemplateError as error:
        roles = ", ".join(str(message["role"]) for message in messages)
        # The template's own words only: what it puts together may quote the conversation.
        known = str(getattr(tokenizer, "chat_template", ""))
        why = str(error) if str(error) in known else type(error).__name__
        raise ConfigError(
            f"The model's chat template refuses a conversation of {roles}: {why}.", what="chat_template"
        ) from error
    if not tokenize:
        return text
    return encode(tokenizer, text, add_special_tokens=False)


def encode(tokenizer: Any, text: str, **options: Any) -> list[int]:
    """Return a text as tokens.

    Raises:
        OverLimitError: It is longer than anything that a model reads, as a template that grows makes it.
    """
    if len(text) > MOST_CHARS:
        raise OverLimitError(
            f"It makes a text of {len(text):,} characters, and no model reads more than {MOST_CHARS:,}; shorten or "
            "split it, or mend `chat_template` in the model folder.",
            what="text",
            value=len(text),
            limit=MOST_CHARS,
        )
    with held("The model's tokenizer", TEXT_S + len(text) / _CHARS_PER_S):
        return list(tokenizer.encode(text, **options))


def row_messages(row: dict[str, Any], system: str | None = None) -> Messages | None:
    """Return a training row as a conversation, or None for a text row; mlx-lm's three formats.

    Raises:
        ConfigError: The row has none of the three formats.
    """
    form = form_of(row, TRAINED)
    if form not in {"chat", "completions", "text"}:
        raise ConfigError(
            "A training row has none of `messages`, `prompt` with `completion`, and `text`.", what="data", value=[*row]
        )
    return None if form == "text" else with_system(Row(0, form, row, TRAINED).messages, system)


def render_training(tokenizer: Any, row: dict[str, Any], system: str | None = None) -> Rendered:
    """Return the tokens of a training row and where its answer begins.

    Raises:
        ConfigError: The row has no known format, or the template refuses it.
    """
    messages = row_messages(row, system)
    if messages is None:
        return Rendered(_ended(encode(tokenizer, row["text"]), tokenizer), 0, is_prefix=True)
    is_answered = messages[-1]["role"] == "assistant" and len(messages) > 1
    question = messages[:-1] if is_answered else messages
    if not tokenizer.has_chat_template:
        return _plain_training(tokenizer, question, messages[-1] if is_answered else None)
    tokens = list(_template(tokenizer, messages, tools=row.get("tools"), tokenize=True))
    if not is_answered:
        return Rendered(tokens, 0, is_prefix=True)
    prompt = render_messages(tokenizer, question, row.get("tools"))
    shared = _shared(prompt, tokens)
    return Rendered(tokens, shared, is_prefix=shared == len(prompt))


def _plain_training(tokenizer: Any, question: Messages, answer: dict[str, Any] | None) -> Rendered:
    """Encode prompt and answer apart, so that the prompt's tokens are the same with and without the answer."""
    prompt = encode(tokenizer, plain_text(question))
    # Some tokenizers end every text; an end before the answer would teach that the prompt is all there is.
    while len(prompt) > 1 and prompt[-1] in tokenizer.eos_token_ids:
        prompt.pop()
    text = str(answer.get("content") or "") if answer else ""
    completion = encode(tokenizer, text, add_special_tokens=False)
    return Rendered(_ended(prompt + completion, tokenizer), len(prompt) if answer else 0, is_prefix=True)


def _ended(tokens: list[int], tokenizer: Any) -> list[int]:
    if tokens and tokens[-1] in tokenizer.eos_token_ids:
        return tokens
    return [*tokens, tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else tokens


def _shared(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Return how many leading tokens (or characters) two sequences share."""
    for position, (one, two) in enumerate(zip(first, second, strict=False)):
        if one != two:
            return position
    return min(len(first), len(second))


def gold_tokens(tokenizer: Any, case: dict[str, Any], system: str | None = None) -> list[int]:
    """Return the tokens a perfect model would generate for a case before its end token.

    They are taken from the training form of case plus reference, so that whatever the template adds to an answer (an
    empty thinking block) counts against the decode budget as it does in life.
    """
    answer = {"role": "assistant", "content": case["reference"]}
    row = {"messages": [*case_messages(case, system), answer], "tools": case.get("tools")}
    with naming(f"Case {case.get('id', '?')}"):
        rendered = render_training(tokenizer, row)
    if not rendered.is_prefix:
        return encode(tokenizer, case["reference"], add_special_tokens=False)
    tokens = rendered.tokens[rendered.prompt_length :]
    ends = [position for position, token in enumerate(tokens) if token in tokenizer.eos_token_ids]
    return list(tokens[: ends[0]] if ends else tokens)


def decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Return the text of generated tokens, exactly as mlx-lm streams it."""
    detokenizer = tokenizer.detokenizer
    for token in tokens:
        detokenizer.add_token(token)
    detokenizer.finalize()
    return str(detokenizer.text)


def skeleton(tokenizer: Any, messages: Messages, tools: Any = None) -> str:
    """Return the prompt's text around the user's own words: system text, template, the assistant's opening.

    Conversations of several turns are compared by their first: later ones follow from the same template.
    """
    first = [message for message in messages if message["role"] == "system"][:1]
    shape = [*first, {"role": "user", "content": PLACEHOLDER}]
    if not tokenizer.has_chat_template:
        return plain_text(shape)
    return str(_template(tokenizer, shape, tools=tools, add_generation_prompt=True, tokenize=False))


def answer_openings(tokenizer: Any, messages: Messages, tools: Any = None) -> tuple[str, str] | None:
    """Return how an answer opens in training and in evaluation, where the two part; None where they agree.

    A template may open the assistant's turn one way for generation and another in a finished conversation.
    """
    if not tokenizer.has_chat_template or messages[-1]["role"] != "assistant" or len(messages) == 1:
        return None
    taught = str(_template(tokenizer, messages, tools=tools, tokenize=False))
    question = str(_template(tokenizer, messages[:-1], tools=tools, add_generation_prompt=True, tokenize=False))
    if taught.startswith(question):
        return None
    shared = _shared(taught, question)
    start = max(0, shared - 40)
    return taught[start : shared + 40], question[start : shared + 40]
