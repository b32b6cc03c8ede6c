"""What reference answers do to each row of the table or list in their prompt (mode 5).

A model that sees odd rows only ever removed learns to remove what is odd. The lab's golds held 147 deletions and not
one row preserved and converted; on long tables of odd but real rows its models were judged for dropping them. Rows are
followed by their text and their first cell, so a gold that says rows in other words, or all of them in one line, is
passed over. Not covered: whether an ordinary row should have been kept.

Prompts that hold a table or a list: their rows, and what is odd about each.

A table is three or more lines with the same number of cells, separated by comma, tab, bar or semicolon; a list is three
or more lines with a bullet or a number before them. Odd is what differs from the column's majority. Prose is neither.

Marks that a template left in text: words said twice in a row, and two articles side by side (mode 7).

English only, and only what is almost never meant: `had had` and names of two equal words pass. Not covered: wrong
grammar without such a mark, and other languages, where equal or article-like words may stand side by side.

Metrics that only say all or nothing, and whether another metric shows the progress they hide (P9).
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from state.records import EXAMPLES, Finding

Oddity = Literal["unit", "marker", "blank", "kind", "width", "duplicate", "annotation", "separator"]
"""unit: an amount with a unit where most are plain, or inside words; marker: `n/a`, `?`, …; blank: an empty cell where
most are filled; kind: words where most cells are numbers; width: a cell too many or too few; duplicate: equal to an
earlier row; annotation: a line among the rows that is none; separator: a line without letters and digits."""

_LINE_END = re.compile(r"\r\n|\r|\n")
_DELIMITERS = (",", "\t", "|", ";")
_BULLET = re.compile(r"\s*(?:[-*•+]|\d{1,4}[.)])\s+")
_WORD_RUN = re.compile(r"\w+")
_NUMBER = re.compile(r"[-+]?\d[\d.,' ]*")
_AMOUNT = re.compile(r"[$€£¥]\s?\d|\d\s?(?:[$€£¥%]|[kmbKMB]n?\b)")
_MARKERS = frozenset(
    {"n/a", "na", "nan", "null", "none", "tbd", "tba", "?", "??", "-", "--", "unknown", "missing", "#n/a"}
)
_ODD_KINDS: dict[str, Oddity] = {"blank": "blank", "marker": "marker", "amount": "unit"}
"""Kind of cell -> oddity of a row that has one where the column's majority is another kind."""
_LEAST_ROWS = 3
_MOST_LINES = 2_000
_MOST_LINE_CHARS = 5_000
"""A longer line is no row of a table that someone reads."""


@dataclass(frozen=True)
class Row:
    """One line of a table or list."""

    cells: tuple[str, ...]
    """Without white space at the edges."""
    oddities: frozenset[Oddity]
    words: tuple[str, ...]
    """Letters and digits of the line in small letters."""

    @property
    def is_data(self) -> bool:
        """Whether the line is a row at all, first of its kind."""
        return not self.oddities & {"duplicate", "annotation", "separator"}


def lines_of(text: str) -> list[str]:
    """Return the lines with something in them, the first 2,000; none of a text with a line of over 5,000 characters."""
    lines = [line for line in _LINE_END.split(text) if line.strip()][:_MOST_LINES]
    return [] if any(len(line) > _MOST_LINE_CHARS for line in lines) else lines


def words_of(line: str) -> tuple[str, ...]:
    """Return the runs of letters and digits of a line in small letters."""
    return tuple(_WORD_RUN.findall(line.casefold()))


def rows_of(text: str) -> list[Row]:
    """Return the rows of the table or list in a text, without its header; nothing when there is none."""
    lines = lines_of(text)
    split = _cells_of_table(lines) or _cells_of_list(lines)
    if split is None:
        return []
    cells, width = split
    data = [row for row in cells if len(row) == width]
    if _is_header(data[0], data[1:]):
        data = data[1:]
        first = next(place for place, row in enumerate(cells) if len(row) == width)
        cells = cells[first + 1 :]
    columns = [Counter(map(_kind, column)).most_common(1)[0][0] for column in zip(*data, strict=True)]
    seen: set[tuple[str, ...]] = set()
    rows = []
    for row in cells:
        oddities = _line_oddities(row, width, seen) or _cell_oddities(row, columns)
        seen.add(row)
        rows.append(Row(row, oddities, words_of(" ".join(row))))
    return rows


def _cells_of_table(lines: Sequence[str]) -> tuple[list[tuple[str, ...]], int] | None:
    """Return the cells of the lines from the first row to the last, and how many cells a row has."""
    counts = {
        delimiter: max(Counter(line.count(delimiter) for line in lines if delimiter in line).values(), default=0)
        for delimiter in _DELIMITERS
    }
    delimiter = max(counts, key=counts.__getitem__)
    if counts[delimiter] < _LEAST_ROWS:
        return None
    cells = [_split(line, delimiter) for line in lines]
    # Quotes and outer bars can leave one cell of a line that holds delimiters.
    widths = Counter(len(row) for row in cells if len(row) > 1)
    width = max(widths, key=widths.__getitem__, default=0)
    places = [place for place, row in enumerate(cells) if len(row) == width]
    return (cells[places[0] : places[-1] + 1], width) if len(places) >= _LEAST_ROWS else None


def _cells_of_list(lines: Sequence[str]) -> tuple[list[tuple[str, ...]], int] | None:
    items: list[tuple[str, ...]] = [(line[match.end() :].strip(),) for line in lines if (match := _BULLET.match(line))]
    return (items, 1) if len(items) >= _LEAST_ROWS else None


def _split(line: str, delimiter: str) -> tuple[str, ...]:
    cells = next(csv.reader([line], delimiter=delimiter)) if '"' in line else line.split(delimiter)
    if delimiter == "|" and len(cells) > 2 and not cells[0].strip() and not cells[-1].strip():  # noqa: PLR2004 - two edges
        cells = cells[1:-1]
    return tuple(cell.strip() for cell in cells)


def _is_header(first: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> bool:
    return not any(_has_digit(cell) for cell in first) and any(_has_digit(cell) for row in others for cell in row)


def _has_digit(text: str) -> bool:
    return any(map(str.isdigit, text))


def _kind(cell: str) -> str:
    if not cell:
        return "blank"
    if cell.casefold() in _MARKERS:
        return "marker"
    if _NUMBER.fullmatch(cell):
        return "number"
    return "amount" if _AMOUNT.search(cell) else "words"


def _line_oddities(row: tuple[str, ...], width: int, seen: set[tuple[str, ...]]) -> frozenset[Oddity]:
    if not any(map(str.isalnum, "".join(row))):
        return frozenset({"separator"})
    if abs(len(row) - width) > 1 or (len(row) != width and len(row) == 1):
        return frozenset({"annotation"})
    if row in seen:
        return frozenset({"duplicate"})
    return frozenset({"width"}) if len(row) != width else frozenset()


def _cell_oddities(row: tuple[str, ...], columns: Sequence[str]) -> frozenset[Oddity]:
    found: set[Oddity] = set()
    for cell, usual in zip(row, columns, strict=True):
        kind = _kind(cell)
        if kind != usual and kind in _ODD_KINDS:
            found.add(_ODD_KINDS[kind])
        elif kind == "words" and usual == "number":
            found.add("kind")
    return frozenset(found)


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


Values = Sequence[float | None]

_LEAST_CASES = 8
"""Fewer cases cannot tell a metric that has only two values from one that happened to."""
_LEAST_BETWEEN_SHARE = 0.1
_ALPHA = 0.05
_LEAST_ON_A_SIDE = 3
"""With fewer cases on one side no test can show anything; there the two sides must not overlap."""


def check_all_or_nothing(values: Mapping[str, Values]) -> list[Finding]:
    """Report metrics that take 0 and 1 alone.

    A companion is another metric of the same outputs that lies strictly between its own extremes, and between 0 and 1,
    in a tenth of the cases or more, and is higher (or, for a metric of which less is better, lower) where the strict
    one is 1 than where it is 0 (Mann-Whitney, two-sided 0.05 over all candidates). For a metric that is 0 in every case
    nothing can go along: a dense metric is then named as what shows more, without that proof.

    Args:
        values: Metric -> value per case, in the same order for all metrics.

    Returns:
        A warning for each such metric without a companion, a note that names it for each one with; nothing for a metric
        that is 1 in every case, which hides nothing, or one that is 0 in every case while no other says more.
    """
    dense = [name for name, row in values.items() if _is_dense(row)]
    found = []
    for name, row in values.items():
        seen = {value for value in row if value is not None}
        n = sum(value is not None for value in row)
        if n < _LEAST_CASES or not seen <= {0, 1} or 0 not in seen:
            continue
        passed = sum(value == 1 for value in row)
        if not passed:
            found += [_never(name, n, dense)] if dense else []
            continue
        companions = [other for other in dense if _goes_along(row, values[other], len(dense))]
        found.append(_with(name, passed, n, companions) if companions else _without(name, passed, n))
    return sorted(found, key=lambda finding: finding.severity != "warning")


def _is_dense(row: Values) -> bool:
    known = [value for value in row if value is not None]
    between = sum(0 < value < 1 for value in known)
    return len(known) >= _LEAST_CASES and len(set(known)) > 1 and between >= _LEAST_BETWEEN_SHARE * len(known)


def _goes_along(strict: Values, dense: Values, candidates: int) -> bool:
    from scipy.stats import mannwhitneyu

    pairs = [(one, two) for one, two in zip(strict, dense, strict=False) if one is not None and two is not None]
    passed = [two for one, two in pairs if one == 1]
    failed = [two for one, two in pairs if one == 0]
    if not passed or not failed or len({*passed, *failed}) == 1:
        return False
    if min(len(passed), len(failed)) < _LEAST_ON_A_SIDE:
        return min(passed) >= max(failed) or max(passed) <= min(failed)
    return float(mannwhitneyu(passed, failed).pvalue) * candidates <= _ALPHA


def _with(name: str, passed: int, n: int, companions: list[str]) -> Finding:
    return Finding(
        mode="P9",
        severity="note",
        claim="is_all_or_nothing",
        sentence=(
            f"{name} says all or nothing ({passed} of {n} cases are 1, the rest 0); {', '.join(companions)} shows what "
            "lies between and goes along with it."
        ),
        value={"metric": name, "passed": passed, "cases": n, "companions": companions},
        fix=f"Plan by {companions[0]}; judge by {name}.",
    )


def _never(name: str, n: int, dense: list[str]) -> Finding:
    return Finding(
        mode="P9",
        severity="note",
        claim="is_all_or_nothing",
        sentence=f"{name} is 0 in all {n} cases and tells none from another; {', '.join(dense)} takes values between.",
        value={"metric": name, "passed": 0, "cases": n, "companions": dense},
        fix=f"Plan by {dense[0]} until {name} passes somewhere.",
    )


def _without(name: str, passed: int, n: int) -> Finding:
    return Finding(
        mode="P9",
        severity="warning",
        claim="is_all_or_nothing",
        sentence=(
            f"{name} says all or nothing ({passed} of {n} cases are 1, the rest 0), and no other metric of the same "
            "outputs shows what lies between: progress short of all of it stays unseen."
        ),
        value={"metric": name, "passed": passed, "cases": n, "companions": []},
        fix=f"Let the grader return the share of {name} as well: rows kept, fields right, tests passed.",
    )


Fate = Literal["kept", "stripped", "converted", "deleted"]
"""kept: the same words; stripped: some of its words left out; converted: with other words; deleted: not there."""

_DATA_KINDS: tuple[Oddity, ...] = ("unit", "marker", "blank", "kind", "width")
"""Oddities of rows that are rows: they could be kept, or kept and converted."""
_WORDS: dict[Oddity, str] = {
    "unit": "an amount with a unit",
    "marker": "a marker such as n/a",
    "blank": "an empty cell",
    "kind": "words in a column of numbers",
    "width": "a cell too many or too few",
}
_SAME_ROW = 0.5
"""Share of the shorter side's words that an input row and a gold line must have in common to be one row. Low, because
the line is one that no row equals: taking it for an edited row is the careful side."""
_MOST_LINES_OF_A_WORD = 50
_MOST_COMPARED = 8
"""Gold lines that are compared in full with one row: those that share most of its words."""
_LEAST_ORDINARY_KEPT = 0.5
"""A gold that keeps fewer of the ordinary rows is no edited copy of its prompt; it says nothing about policy."""
_LEAST_DELETED = 10
_LEAST_PROMPTS = 5
_MOST_SURVIVING_SHARE = 0.02
_LEAST_REMOVED_IN_ALL = 20
_LEAST_REMOVED_OF_A_KIND = 5
_LEAST_KINDS = 2


@dataclass
class PolicyCensus:
    """Counts over all golds."""

    golds: int = 0
    """Prompts with a table or list whose gold is an edited copy of it."""
    ordinary: Counter[Fate] = field(default_factory=Counter)
    odd: dict[Oddity, Counter[Fate]] = field(default_factory=dict)
    """Oddity -> fate -> rows; a row with two oddities counts under both."""
    prompts: Counter[Oddity] = field(default_factory=Counter)
    """Oddity -> golds that delete a row with it."""

    def survived(self, kind: Oddity) -> int:
        """Return the rows with an oddity that are in the gold, in whatever form."""
        fates = self.odd.get(kind, Counter())
        return fates.total() - fates["deleted"]

    def deleted(self, kind: Oddity) -> int:
        """Return the rows with an oddity that are not in the gold."""
        return self.odd.get(kind, Counter())["deleted"]


def policy_census(rows: Iterable[tuple[str, str]]) -> PolicyCensus:
    """Count what golds do to the rows of their prompts.

    Args:
        rows: (prompt, gold).
    """
    census = PolicyCensus()
    for prompt, gold in rows:
        lines = rows_of(prompt)
        if lines:
            _count(census, lines, _fates(lines, gold))
    return census


def check_gold_policy(rows: Iterable[tuple[str, str]]) -> list[Finding]:
    """Report references that only ever remove what is odd.

    Fires when rows with one oddity (a unit, a marker, an empty cell, …) are always deleted, or when odd lines of
    several kinds, duplicates or rows among them, are removed and no row at all is kept with a change.

    Args:
        rows: (prompt, gold).

    Returns:
        Nothing, or one warning with the counts.
    """
    census = policy_census(rows)
    one_sided = [kind for kind in _DATA_KINDS if _is_always_deleted(census, kind)]
    if one_sided:
        reasons = " and ".join(
            f"rows with {_WORDS[kind]} are deleted {census.deleted(kind)} times and kept {census.survived(kind)} times"
            for kind in one_sided
        )
        return [_finding(census, reasons)]
    return [_finding(census, _removal_in_words(census))] if _is_all_removal(census) else []


def _count(census: PolicyCensus, rows: Sequence[Row], fates: Sequence[Fate]) -> None:
    ordinary = [fate for row, fate in zip(rows, fates, strict=True) if not row.oddities]
    kept = len(ordinary) - ordinary.count("deleted")
    if not kept or kept < _LEAST_ORDINARY_KEPT * len(ordinary):
        return
    census.golds += 1
    census.ordinary.update(ordinary)
    deleted: set[Oddity] = set()
    for row, fate in zip(rows, fates, strict=True):
        for kind in row.oddities:
            census.odd.setdefault(kind, Counter())[fate] += 1
            if fate == "deleted":
                deleted.add(kind)
    census.prompts.update(deleted)


def _fates(rows: Sequence[Row], gold: str) -> list[Fate]:
    """Return what a gold does to each row; each gold line stands for one row at most."""
    lines = [words for line in lines_of(gold) if (words := words_of(line))]
    whole = Counter(lines)
    fates: list[Fate] = []
    for row in rows:
        is_kept = whole[row.words] > 0
        whole[row.words] -= is_kept
        fates.append("kept" if is_kept else "deleted")
    left = _Lines(list((+whole).elements()))
    for place, row in enumerate(rows):
        if fates[place] == "deleted" and row.is_data:
            line = left.take(row)
            if line is not None:
                fates[place] = _edit(row.words, line)
    return fates


class _Lines:
    """Gold lines that no row equals, found by the words in them."""

    def __init__(self, lines: Sequence[tuple[str, ...]]) -> None:
        self._lines = dict(enumerate(lines))
        self._places: dict[str, list[int]] = {}
        for place, line in self._lines.items():
            for word in set(line):
                self._places.setdefault(word, []).append(place)

    def take(self, row: Row) -> tuple[str, ...] | None:
        """Take out the line that is this row, edited; None when there is none."""
        near: Counter[int] = Counter()
        for word in set(row.words):
            places = self._places.get(word, [])
            # A word in many lines tells nothing, and following it would make large tables slow.
            near.update(place for place in places[:_MOST_LINES_OF_A_WORD] if place in self._lines)
        scores = {place: _likeness(row, self._lines[place]) for place, _ in near.most_common(_MOST_COMPARED)}
        best = max(scores, key=scores.__getitem__, default=-1)
        return self._lines.pop(best) if scores.get(best, 0.0) >= _SAME_ROW else None


def _likeness(row: Row, line: tuple[str, ...]) -> float:
    """Return how much an input row and a gold line share, in [0, 2]; an equal first cell weighs as much as the rest."""
    shared = (Counter(row.words) & Counter(line)).total() / max(1, min(len(row.words), len(line)))
    key = words_of(row.cells[0])
    return shared + float(len(row.cells) > 1 and bool(key) and line[: len(key)] == key)


def _edit(row: tuple[str, ...], line: tuple[str, ...]) -> Fate:
    return "stripped" if Counter(line) <= Counter(row) else "converted"


def _is_always_deleted(census: PolicyCensus, kind: Oddity) -> bool:
    deleted, survived = census.deleted(kind), census.survived(kind)
    is_often = deleted >= _LEAST_DELETED and census.prompts[kind] >= _LEAST_PROMPTS
    return is_often and survived <= _MOST_SURVIVING_SHARE * (deleted + survived)


def _is_all_removal(census: PolicyCensus) -> bool:
    kinds: list[Oddity] = [kind for kind in census.odd if census.deleted(kind) >= _LEAST_REMOVED_OF_A_KIND]
    removed = sum(map(census.deleted, kinds))
    survived = sum(map(census.survived, _DATA_KINDS))
    changed = sum(fates["stripped"] + fates["converted"] for fates in (census.ordinary, *census.odd.values()))
    has_rows = any(kind == "duplicate" or kind in _DATA_KINDS for kind in kinds)
    return removed >= _LEAST_REMOVED_IN_ALL and len(kinds) >= _LEAST_KINDS and has_rows and not survived + changed


def _removal_in_words(census: PolicyCensus) -> str:
    counts = sorted(((census.deleted(kind), kind) for kind in census.odd), reverse=True)
    listed = ", ".join(f"{count} {kind}" for count, kind in counts if count)
    return (
        f"odd lines are deleted {sum(count for count, _ in counts)} times ({listed}) and no row is kept with a change"
    )


def _finding(census: PolicyCensus, reasons: str) -> Finding:
    return Finding(
        mode="5",
        severity="warning",
        claim="gold_teaches_removal_only",
        sentence=(
            f"In {census.golds} reference answers {reasons}: what is odd is only ever removed, never preserved and"
            " converted."
        ),
        value={
            "golds": census.golds,
            "ordinary": dict(census.ordinary),
            "odd": {kind: dict(fates) for kind, fates in sorted(census.odd.items())},
        },
        fix="Add rows whose reference keeps the odd lines and converts them, as many as those that remove some.",
    )
