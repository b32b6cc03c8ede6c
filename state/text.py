"""Text of strangers as text: nothing in it moves a cursor, turns a line, hides, or cannot be written.

Rows, outputs, file names, keys, metric names and words of a grader are anyone's. All that is printed, in terminals,
pages, JSON, SARIF and notices, goes through `shown` or `one_line`.
"""

import json
import re
from typing import Any

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u2064\u2066-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd"
    "\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]"
)
"""Unicode's controls, formats, surrogates and separators of lines (Cc, Cf, Cs, Zl, Zp), as one class since a line may
have 10 MB; without tab, line feed, and the two joiners that writing systems and emoji need and that move nothing."""

_BREAKS = re.compile("[\t-\r\x1c-\x1f\x85\u2028\u2029]")
_PLANE = 0xFFFF

LONGEST_LINE = 10_000
"""Characters of a line that is printed for people."""


def shown(text: str) -> str:
    """Return a text in which what would act, or be invisible, stands as its number; lines and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return _HIDDEN.sub(_as_number, text)


def one_line(text: str) -> str:
    """Return a text as one line, as `shown`, and no longer than anyone reads."""
    line = shown(_BREAKS.sub(" ", text[: LONGEST_LINE + 1]))
    return line if len(text) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}… ({len(text):,} characters)"


def as_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON in which nothing hidden stands as it is, and every other character does."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    return _HIDDEN.sub(lambda match: json.dumps(match[0])[1:-1], text)


def every(value: Any) -> Any:
    """Return a JSON value with each text in it, and each key, as `shown`."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {shown(str(name)): every(part) for name, part in value.items()}
    return [every(part) for part in value] if isinstance(value, list | tuple) else value


def _as_number(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\u{code:04x}" if code <= _PLANE else f"\\U{code:08x}"
