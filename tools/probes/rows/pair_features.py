"""What is looked at in a preference pair, and when a difference is the task's own and no artefact.

A pair in which one answer is the other with whole lines left out, or cut short, differs in *what is kept*: that is what
such pairs teach. Characters, words, case and first difference then follow from the missing lines and have no vote;
newline style, trailing newline and white space at the edges do not follow from them and always have one. A character or
word that stands in the prompt is taken from the task and has no vote either.
"""

import math
import re
import unicodedata
from collections import Counter

from tools.probes.rows.glitches import glitches
from tools.probes.rows.separation import Feature

LENGTH = "more characters"
_LINE_END = re.compile(r"\r\n|\r|\n")
_WORD = re.compile(r"\w{1,32}")
_LEAST_CUT_CHARS = 8
"""A shorter tail that one side lacks is a mark (a full stop, a newline), not content."""
_MOST_CHARS = 200_000
"""Characters of a text in which words and single characters are looked for."""


def _share(part: str, text: str) -> float:
    ends = len(_LINE_END.findall(text))
    # Not a number beside a text without line ends: such a text has no newline style to compare.
    return len(re.findall(part, text)) / ends if ends else math.nan


def _first_cased(text: str) -> str:
    return next((char for char in text[:_MOST_CHARS] if char.isupper() or char.islower()), "")


def _has_cases(text: str, only: str) -> float:
    return float(text == only and text.lower() != text.upper())


def _digits(text: str) -> float:
    return sum(map(str.isdigit, text)) / max(1, length(text))


def length(text: str) -> int:
    """Return the number of characters that are not white space; white space has features of its own."""
    return sum(map(len, text.split()))


FEATURES = (
    Feature("CRLF line ends", lambda text: _share("\r\n", text)),
    Feature("CR line ends", lambda text: _share(r"\r(?!\n)", text)),
    Feature("a trailing newline", lambda text: float(text.endswith(("\n", "\r")))),
    Feature("leading white space", lambda text: float(text[:1].isspace())),
    Feature("trailing white space", lambda text: float(text.rstrip("\r\n")[-1:].isspace())),
    Feature("no text at all", lambda text: float(not text.strip())),
    Feature("a capital first letter", lambda text: float(_first_cased(text).isupper()), follows_lines=True),
    Feature("small letters only", lambda text: _has_cases(text, text.lower()), follows_lines=True),
    Feature("capital letters only", lambda text: _has_cases(text, text.upper()), follows_lines=True),
    Feature("non-ASCII characters", lambda text: float(not text.isascii()), follows_lines=True),
    Feature("template glitches", lambda text: float(len(glitches(text)))),
    Feature(LENGTH, length, weight="content"),
    Feature("a greater share of digits", _digits, weight="content", follows_lines=True),
)
"""Features that are numbers; characters, words, lines and first differences are found on the way."""


def lines_of(text: str) -> list[str]:
    """Return the lines of a text, whatever ends them; white space at a line's end and empty lines do not count."""
    return [line.rstrip() for line in _LINE_END.split(text) if line.strip()]


def differ_by_content_left_out(one: str, other: str) -> bool:
    """Tell whether one text is the other with whole lines left out, or cut short."""
    short, long = sorted((one, other), key=len)
    short_lines, long_lines = Counter(lines_of(short)), Counter(lines_of(long))
    if len(long_lines) > 1 and short_lines != long_lines and (short_lines <= long_lines or long_lines <= short_lines):
        return True
    return long.startswith(short.rstrip()) and len(long) - len(short) > _LEAST_CUT_CHARS


def marks(text: str, prompt: str) -> set[str]:
    """Return the characters of a text, letters and digits aside, that its prompt does not have."""
    return {char for char in set(text[:_MOST_CHARS]).difference(prompt) if not char.isalnum()} - {"\n", "\r"}


def words(text: str) -> set[str]:
    """Return the words of a text as written, each cut to 32 characters."""
    return set(_WORD.findall(text[:_MOST_CHARS]))


def first_word(text: str) -> str:
    """Return the first white-space separated piece of a text, cut to 32 characters."""
    return next(iter(text[:_MOST_CHARS].split(maxsplit=1)), "")[:32]


def last_word(text: str) -> str:
    """Return the last white-space separated piece of a text, cut to its last 32 characters."""
    return next(iter(text[-_MOST_CHARS:].rsplit(maxsplit=1)[-1:]), "")[-32:]


def first_difference(one: str, other: str) -> tuple[str, str]:
    """Return the first characters in which two texts differ; empty where one of them has ended."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return one[low : low + 1], other[low : low + 1]


def name_of(char: str) -> str:
    """Return a character's name in words."""
    return unicodedata.name(char, f"U+{ord(char):04X}").lower()
