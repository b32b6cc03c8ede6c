"""Marks that a template left in text: words said twice in a row, and two articles side by side (mode 7).

English only, and only what is almost never meant: `had had` and names of two equal words pass. Not covered: wrong
grammar without such a mark, and other languages, where equal or article-like words may stand side by side.
"""

import re
from collections import Counter
from collections.abc import Iterable

from state.records import EXAMPLES, Finding

_TWICE = re.compile(r"(?<![\w'.-])([A-Za-z]{2,24})[ \t]+\1(?![\w'-])", re.IGNORECASE)
_ARTICLES = re.compile(
    r"(?<![\w'.-])(?:the[ \t]+an?|an?[ \t]+the|an[ \t]+a|a[ \t]+an)[ \t]+"
    r"(?!priori|posteriori|cappella|la\b)[a-z]{2,24}(?![\w'-])"
)
_WORD = re.compile(r"\w+")

_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by for from has have he his if in into it its of on or our she the their them then "
        "these they this those to was we were which will with would your",
    )
)
"""Words that a writer does not say twice."""
_MEANT = frozenset(
    re.findall(
        r"\w+",
        "aye blah boo bye cha choo chop dear double dum had ha hear her here hip ho hush is knock la long many more "
        "much my never night no not nom now oh okay out pay please quite really she sing so some that there too tut up "
        "very well woof ya yada yes you yum",
    )
)
"""Words that people, songs and programs do say twice (`that that`, `long long`, `very very`)."""
_SHORTEST_OTHER_WORD = 4
"""A content word said twice counts from this many letters on; shorter ones are often sounds, tags or names."""
_SEQUENCE_SHARE = 0.1
"""A text with more than this share of its words said twice is a sequence by design (labels, moves, a song)."""
_LEAST_WORDS_OF_A_SEQUENCE = 10
_LEAST_TEXTS = 2
_LEAST_SHARE = 0.005
"""People make the slip in about one text of a thousand; templates in one of fifty (the lab: 2 of 80 pairs)."""
_MOST_EXAMPLES = 5
_LONGEST_SCAN_CHARS = 200_000


def glitches(text: str) -> list[str]:
    """Return the glitches of one text, in lower case, in order; the first 200,000 characters are read."""
    text = text[:_LONGEST_SCAN_CHARS]
    found = [match.group().lower() for match in _TWICE.finditer(text) if _is_slip(match)]
    if found and _is_sequence(text, len(found)):
        return []
    return [" ".join(words.split()) for words in (*found, *(m.group().lower() for m in _ARTICLES.finditer(text)))]


def check_glitches(texts: Iterable[str]) -> list[Finding]:
    """Report repeated words and clashing articles when more texts have them than people's slips explain.

    Returns:
        Nothing, or one warning. Whether they tell chosen from rejected is `check_pairs`' question.
    """
    counts: Counter[str] = Counter()
    n_texts = n_glitched = 0
    for text in texts:
        n_texts += 1
        found = glitches(text)
        n_glitched += bool(found)
        counts.update(found)
    if n_glitched < max(_LEAST_TEXTS, _LEAST_SHARE * n_texts):
        return []
    return [
        Finding(
            mode="7",
            severity="warning",
            claim="has_template_glitches",
            sentence=(
                f"{n_glitched} of {n_texts} texts say a word twice in a row or set two articles side by side, "
                f"{counts.total()} times in all: marks of a template, and a free signal for a model."
            ),
            value={
                "texts": n_texts,
                "glitched": n_glitched,
                "glitches": counts.total(),
                EXAMPLES: [f"{words} ({count})" for words, count in counts.most_common(_MOST_EXAMPLES)],
            },
            fix="Repair the template that made these texts and generate them again.",
        )
    ]


def _is_slip(match: re.Match[str]) -> bool:
    first, second = match.group().split()
    word = first.lower()
    if word in _MEANT:
        return False
    if word in _FUNCTION_WORDS:
        # `IT it` and `US us` are a name and a word.
        return not (first.isupper() ^ second.isupper())
    return len(word) >= _SHORTEST_OTHER_WORD and first.islower() and second.islower()


def _is_sequence(text: str, repeats: int) -> bool:
    """Tell whether a text is no prose: no function word in it, or too much of it said twice."""
    words = _WORD.findall(text.lower())
    is_dense = len(words) >= _LEAST_WORDS_OF_A_SEQUENCE and repeats > _SEQUENCE_SHARE * len(words)
    return is_dense or _FUNCTION_WORDS.isdisjoint(words)
