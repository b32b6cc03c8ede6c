"""Texts as sets of hashed pieces, and all pairs of texts that share most of theirs.

Long texts are compared by their runs of three words, short ones by their runs of five characters. What many texts share
is their template and is taken out first: only the rest can make two texts near duplicates. Hashes are 32 bits, so two
different pieces are taken for one once in four billion comparisons.
"""

import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint32]
"""Sorted hashes, each once."""

# Chinese, Japanese and Korean do not put spaces between words; there, each character is one.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{1,64}")
_WORDS_A_PIECE = 3
_CHARS_A_PIECE = 5
_SHORT_WORDS = 40
"""Texts of fewer distinctive words than this are compared by characters: one word is too much of them. Up to twice as
many, both ways are taken, so that two texts on either side of the border still meet."""
_MOST_WORDS_KEPT = 400
"""Texts of up to this many words are kept as they are, for the case that little but template is in them."""
_MOST_WORDS = 20_000
"""Words of a text that are looked at; what follows is not compared."""
MOST_PIECES = 512
"""Pieces kept of a text, those with the smallest hashes: the same ones of equal texts. Beyond it a similarity has a
standard error of at most 0.02."""
_LEAST_PIECES = 8
"""Texts with fewer distinctive pieces are too short to be *nearly* equal."""
_SAMPLE = 5_000
"""Texts among which a template is looked for."""
_TEMPLATE_SHARE = 0.05
_TEMPLATE_TEXTS = (4, 20)
"""A piece in more texts than 5 % of the sample, at least 4 and at most 20, is template."""
_SHARED = 3
"""Pieces that two texts must share among their smallest before they are compared."""
_LARGEST_GROUP = 64
"""A piece that more texts share than this proposes no pair; beside the sample's templates."""
_NOTHING: Hashes = np.empty(0, dtype=np.uint32)


@dataclass(frozen=True)
class Sketch:
    """What is kept of one text."""

    runs: Hashes
    """Hashes of its runs of words: in order, of a text that is kept; else the smallest."""
    words: str
    """The words with spaces between, unless there are many; else empty."""

    @property
    def pieces(self) -> Hashes:
        """The smallest hashes, sorted, each once."""
        return _smallest(self.runs)


@dataclass(frozen=True)
class Distinctive:
    """What a text has beside its template."""

    runs: Hashes
    """Runs of three words; empty for a short text."""
    chars: Hashes
    """Runs of five characters; empty for a long text."""
    words: tuple[str, ...]
    """The words of a short text; empty for a long one."""


def words_of(text: str) -> list[str]:
    """Return the words of a text as written, without punctuation; very long ones come in chunks."""
    return [match.group() for match, _ in zip(_WORD.finditer(text), range(_MOST_WORDS), strict=False)]


def sketch(words: Sequence[str]) -> Sketch:
    """Return the sketch of a text's words."""
    runs = _hashes([" ".join(words[at : at + _WORDS_A_PIECE]) for at in range(len(words) - _WORDS_A_PIECE + 1)])
    if len(words) > _MOST_WORDS_KEPT:
        return Sketch(_smallest(runs), "")
    return Sketch(runs, " ".join(words))


def templates(sketches: Sequence[Sketch]) -> Hashes:
    """Return the runs of words that many texts share."""
    step = max(1, -(-len(sketches) // _SAMPLE))
    sample = sketches[::step]
    if not sample:
        return _NOTHING
    pieces, counts = np.unique(np.concatenate([row.pieces for row in sample]), return_counts=True)
    least, most = _TEMPLATE_TEXTS
    return pieces[counts > min(max(least, round(_TEMPLATE_SHARE * len(sample))), most)]


def distinctive(row: Sketch, template: Hashes) -> Distinctive:
    """Return what is left of a text without its template."""
    is_template = _is_among(row.runs, template)
    pieces = _smallest(row.runs[~is_template])
    words = _outside(is_template, row.words.split(" ")) if row.words else []
    if not row.words or len(words) >= 2 * _SHORT_WORDS:
        return Distinctive(pieces, _NOTHING, ())
    text = " ".join(words)
    runs = [text[at : at + _CHARS_A_PIECE] for at in range(len(text) - _CHARS_A_PIECE + 1)]
    chars = _smallest(_hashes(runs))
    return Distinctive(pieces if len(words) >= _SHORT_WORDS else _NOTHING, chars, tuple(words))


def similarity(one: Hashes, other: Hashes) -> float:
    """Return the Jaccard similarity of two sets in [0, 1]; an estimate where one of them was cut to its smallest."""
    limits = [row[-1] for row in (one, other) if len(row) >= MOST_PIECES]
    if limits:
        one, other = (row[: np.searchsorted(row, min(limits), side="right")] for row in (one, other))
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / max(1, len(one) + len(other) - shared)


def similar_pairs(rows: Sequence[Hashes], groups: Sequence[int], least: float) -> Iterator[tuple[int, int]]:
    """Yield the index pairs of different groups whose similarity is at least `least`, each once.

    Two sets that similar share three of their `(1 - least) * size + 3` smallest hashes, so only pairs that do are
    compared; none is missed, up to pieces that more than 64 texts share.
    """
    sizes = [len(row) - math.ceil(least * len(row)) + _SHARED if len(row) >= _LEAST_PIECES else 0 for row in rows]
    heads = np.concatenate([_NOTHING, *(row[:size] for row, size in zip(rows, sizes, strict=True))])
    owners = np.repeat(np.arange(len(rows)), sizes)
    order = np.lexsort((owners, heads))
    shared: Counter[tuple[int, int]] = Counter()
    for members in _equal_runs(heads[order], owners[order]):
        for pair in _across(members, groups):
            shared[pair] += 1
            if shared[pair] == _SHARED and similarity(rows[pair[0]], rows[pair[1]]) >= least:
                yield pair


def _across(members: Sequence[int], groups: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of members of different groups; most members are of one."""
    by_group: dict[int, list[int]] = {}
    for member in members:
        by_group.setdefault(groups[member], []).append(member)
    for one, other in combinations(by_group.values(), 2):
        yield from product(one, other)


def _equal_runs(keys: Hashes, owners: NDArray[np.intp]) -> Iterator[list[int]]:
    """Yield the owners of each key that 2 to 64 of them share, in order."""
    starts = np.flatnonzero(np.diff(keys, prepend=keys[:1] + 1)) if len(keys) else np.empty(0, dtype=np.intp)
    lengths = np.diff(starts, append=len(keys))
    is_shared = (lengths > 1) & (lengths <= _LARGEST_GROUP)
    for start, length in zip(starts[is_shared].tolist(), lengths[is_shared].tolist(), strict=True):
        yield owners[start : start + length].tolist()


def _hashes(pieces: Sequence[str]) -> Hashes:
    # The text may hold lone surrogates, which only this error handler encodes.
    return np.array([zlib.crc32(piece.encode("utf-8", "surrogatepass")) for piece in pieces], dtype=np.uint32)


def _smallest(hashes: Hashes) -> Hashes:
    return np.unique(hashes)[:MOST_PIECES]


def _is_among(hashes: Hashes, sorted_hashes: Hashes) -> NDArray[np.bool_]:
    """Return, for each hash, whether it is among the sorted ones; numpy's own test sorts them each time."""
    if not len(sorted_hashes):
        return np.zeros(len(hashes), dtype=np.bool_)
    places = np.minimum(np.searchsorted(sorted_hashes, hashes), len(sorted_hashes) - 1)
    return np.asarray(sorted_hashes[places] == hashes)


def _outside(is_template: NDArray[np.bool_], words: Sequence[str]) -> list[str]:
    """Return the words that are in no run of the template."""
    is_covered = np.zeros(len(words), dtype=np.bool_)
    for at in np.flatnonzero(is_template).tolist():
        is_covered[at : at + _WORDS_A_PIECE] = True
    return [word for word, is_shared in zip(words, is_covered.tolist(), strict=True) if not is_shared]
