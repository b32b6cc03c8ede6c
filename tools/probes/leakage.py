"""One case in two sets (P11): equal texts by hash, nearly equal ones by similarity.

Equal means equal up to white space and capitals. Nearly equal means a Jaccard similarity of at least 0.8 over runs of
words (short texts: characters), counted beside the template that many rows share: a word edited, a sign or an id
changed. Rows that a program made from one template with other numbers are different rows. Not covered: translations and
paraphrases, texts below about twenty characters, and near duplicates inside one set.

Texts as sets of hashed pieces, and all pairs of texts that share most of theirs.

Long texts are compared by their runs of three words, short ones by their runs of five characters. What many texts share
is their template and is taken out first: only the rest can make two texts near duplicates. Hashes are 32 bits, so two
different pieces are taken for one once in four billion comparisons.
"""

import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import combinations, product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from state.records import Finding, Severity

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


Role = Literal["evaluation", "valid", "train"]

LEAST_SIMILARITY = 0.8
MANY_SHARE = 0.01
"""Near duplicates of more than this share of the cases halt; fewer are a warning."""
_MOST_COMPARED = 50_000
"""Distinct rows in which near duplicates are looked for: evaluation first, then valid, then train (2 to 6 kB each)."""
_WORDS_A_NUMBER = 12
"""Two short texts of this many words may differ in one number (an id); of fewer, a number makes them different."""
_MOST_EXAMPLES = 10


@dataclass
class _Set:
    """One set while it is read."""

    name: str
    n: int = 0
    labels: dict[bytes, str] = field(default_factory=dict)
    """Hash of a normalised text -> label of the first row that has it."""
    again: list[tuple[str, str]] = field(default_factory=list)
    """The first examples of a row and an earlier equal one."""
    n_again: int = 0

    @property
    def role(self) -> Role:
        """What the set is for, by its name."""
        if self.name.startswith("train"):
            return "train"
        return "valid" if self.name.startswith("valid") else "evaluation"

    def add(self, label: str, key: bytes) -> bool:
        """Record a row; return whether its text is new in this set."""
        self.n += 1
        if key not in self.labels:
            self.labels[key] = label
            return True
        self.n_again += 1
        if len(self.again) < _MOST_EXAMPLES:
            self.again.append((self.labels[key], label))
        return False


@dataclass
class _Sketches:
    """The distinct texts that near duplicates are looked for among."""

    rows: list[Sketch] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    """Index of the set of each row."""
    keys: list[bytes] = field(default_factory=list)
    left_out: int = 0

    def add(self, owner: int, key: bytes, text: str) -> None:
        if len(self.rows) >= _MOST_COMPARED:
            self.left_out += 1
            return
        self.rows.append(sketch(words_of(text)))
        self.owners.append(owner)
        self.keys.append(key)


def check_leakage(sets: Mapping[str, Iterable[tuple[str, str]]]) -> list[Finding]:
    """Report texts that stand in two sets, equal or nearly so, and texts that one set holds twice.

    Args:
        sets: Set name -> (row label such as `train:17`, text of the prompt). A name that begins with `train` or `valid`
            says what the set is for; every other set is an evaluation set. Rows without text are passed over.

    Returns:
        Hard stops first. Rows are named by their labels; no text is repeated.
    """
    read = [_Set(name) for name in sets]
    read.sort(key=lambda one: ("evaluation", "valid", "train").index(one.role))
    sketches = _Sketches()
    for owner, one in enumerate(read):
        for label, text in sets[one.name]:
            normal = " ".join(text.casefold().split())
            key = blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=12).digest()
            if normal and one.add(label, key) and not any(key in earlier.labels for earlier in read[:owner]):
                sketches.add(owner, key, normal)
    near = _near(sketches, read)
    found = [
        finding
        for first, second in combinations(range(len(read)), 2)
        for finding in _between(read[first], read[second], near.get((first, second), []))
    ]
    found += [_repeated(one) for one in read if one.n_again]
    if sketches.left_out:
        found.append(_not_compared(sketches))
    order: tuple[Severity, ...] = ("hard_stop", "warning", "note")
    return sorted(found, key=lambda finding: order.index(finding.severity))


def _near(sketches: _Sketches, read: list[_Set]) -> dict[tuple[int, int], list[tuple[str, str]]]:
    """Return, for each pair of sets, the labels of nearly equal rows."""
    template = templates(sketches.rows)
    rows = [distinctive(row, template) for row in sketches.rows]
    near: dict[tuple[int, int], list[tuple[str, str]]] = {}
    for one, other in sorted(set(_similar(rows, sketches.owners))):
        owners = sketches.owners[one], sketches.owners[other]
        labels = read[owners[0]].labels[sketches.keys[one]], read[owners[1]].labels[sketches.keys[other]]
        near.setdefault(owners, []).append(labels)
    return near


def _similar(rows: list[Distinctive], owners: list[int]) -> Iterator[tuple[int, int]]:
    yield from similar_pairs([row.runs for row in rows], owners, LEAST_SIMILARITY)
    for one, other in similar_pairs([row.chars for row in rows], owners, LEAST_SIMILARITY):
        if not _differ_by_numbers(rows[one].words, rows[other].words):
            yield one, other


def _differ_by_numbers(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Tell whether two short texts have other numbers: two or more, or one in few words."""
    numbers = [{word for word in words if any(map(str.isdigit, word))} for words in (one, other)]
    changed = max(len(numbers[0] - numbers[1]), len(numbers[1] - numbers[0]))
    return changed > min(len(one), len(other)) / _WORDS_A_NUMBER or changed > 1


def _between(one: _Set, other: _Set, near: list[tuple[str, str]]) -> Iterator[Finding]:
    """Yield what two sets share; `one` is the more precious of them."""
    equal = [(label, other.labels[key]) for key, label in one.labels.items() if key in other.labels]
    for kind, pairs in (("exact", equal), ("near", near)):
        if pairs:
            yield _shared(one, other, kind, pairs)


def _shared(one: _Set, other: _Set, kind: str, pairs: list[tuple[str, str]]) -> Finding:
    count = len({label for label, _ in pairs})
    share = count / one.n
    words = "also stand" if kind == "exact" else "stand almost unchanged"
    return Finding(
        mode="P11",
        severity=_severity(one.role, other.role, kind, share),
        claim="has_leakage" if kind == "exact" else "has_near_duplicates",
        sentence=(
            f"{count} of {one.n} rows of {one.name} {words} in {other.name} ({share:.1%}), "
            f"for example {pairs[0][0]} in {pairs[0][1]}."
        ),
        value={
            "kind": kind,
            "sets": [one.name, other.name],
            "count": count,
            "rows": one.n,
            "share": round(share, 4),
            "pairs": [list(pair) for pair in pairs[:_MOST_EXAMPLES]],
        },
        fix=f"Remove these rows from {other.name}, or give {one.name} cases of its own.",
    )


def _severity(one: Role, other: Role, kind: str, share: float) -> Severity:
    """Return what a shared row does: an evaluation that training or another evaluation has seen confirms nothing.

    A validation set steers a run but confirms nothing, so a few of its rows in training are a warning.
    """
    if one == "evaluation" and other != "valid":
        return "hard_stop" if kind == "exact" or share > MANY_SHARE else "warning"
    return "hard_stop" if other == "train" and kind == "exact" and share > MANY_SHARE else "warning"


def _repeated(one: _Set) -> Finding:
    first, again = one.again[0]
    return Finding(
        mode="P11",
        severity="note",
        claim="has_repeated_rows",
        sentence=(
            f"{one.n_again} of {one.n} rows of {one.name} repeat an earlier one ({one.n_again / one.n:.1%}), "
            f"for example {again} repeats {first}."
        ),
        value={"set": one.name, "count": one.n_again, "rows": one.n, "pairs": [list(pair) for pair in one.again]},
        fix=f"Keep each text once in {one.name}, unless the weight of the repeated ones is meant.",
    )


def _not_compared(sketches: _Sketches) -> Finding:
    return Finding(
        mode="P11",
        severity="note",
        claim="near_duplicates_not_checked",
        sentence=(
            f"Near duplicates were looked for in {len(sketches.rows)} distinct rows; {sketches.left_out} more were "
            "compared for equality only."
        ),
        value={"compared": len(sketches.rows), "left_out": sketches.left_out},
        fix="Check a smaller training set if near duplicates of the rest matter.",
    )
