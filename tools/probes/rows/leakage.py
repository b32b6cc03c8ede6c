"""One case in two sets (P11): equal texts by hash, nearly equal ones by similarity.

Equal means equal up to white space and capitals. Nearly equal means a Jaccard similarity of at least 0.8 over runs of
words (short texts: characters), counted beside the template that many rows share: a word edited, a sign or an id
changed. Rows that a program made from one template with other numbers are different rows. Not covered: translations and
paraphrases, texts below about twenty characters, and near duplicates inside one set.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import combinations
from typing import Literal

from state.records import Finding, Severity
from tools.probes.rows.shingles import (
    Distinctive,
    Sketch,
    distinctive,
    similar_pairs,
    sketch,
    templates,
    words_of,
)

__all__ = ["check_leakage"]

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
