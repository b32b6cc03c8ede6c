"""A tokenizer of single characters with mlx-lm's wrapper interface; special tokens are `<|name|>`."""

import re
from typing import Any

import jinja2

from tests.tools.evaluation.worlds import TEMPLATE

_PIECE = re.compile(r"<\|\w+\|>|.", re.DOTALL)


class FakeDetokenizer:
    def __init__(self, vocabulary: list[str]) -> None:
        self._vocabulary = vocabulary
        self.text = ""

    def add_token(self, token: int) -> None:
        self.text += self._vocabulary[token]

    def finalize(self) -> None:
        """Nothing is held back."""


class FakeTokenizer:
    def __init__(self, template: str | None = TEMPLATE) -> None:
        self._template = template
        self.chat_template = template
        self._vocabulary = ["<|end|>"]
        self.has_chat_template = template is not None
        self.eos_token_id = 0
        self.eos_token_ids = {0}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        tokens = []
        for piece in _PIECE.findall(text):
            if piece not in self._vocabulary:
                self._vocabulary.append(piece)
            tokens.append(self._vocabulary.index(piece))
        return tokens

    def apply_chat_template(self, messages: list[dict[str, Any]], *, tokenize: bool = True, **options: Any) -> Any:
        environment = jinja2.Environment(autoescape=False)  # noqa: S701 - prompts, not web pages
        environment.globals["raise_exception"] = _refuse
        text = environment.from_string(self._template or "").render(messages=messages, **options)
        return self.encode(text) if tokenize else text

    @property
    def detokenizer(self) -> FakeDetokenizer:
        return FakeDetokenizer(self._vocabulary)


def _refuse(reason: str) -> None:
    raise jinja2.TemplateError(reason)
