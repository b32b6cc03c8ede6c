"""Evaluations of a project: whether their files are there, what a perfect model could score, and what a score can say.

P1 (a decode budget that cuts the golds), 4 (more asked than there is room for) and P5 (a margin finer than the cases).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from state.records import Json
from tools.probes.audit.configs import Loc
from tools.probes.audit.discovery import Project
from tools.probes.audit.places import Place, place_of
from tools.probes.audit.report import Report
from tools.probes.audit.rows import DataFile, Features, answer_text, text_of
from tools.probes.audit.settings import Evaluation

_GOLD_FIELDS = ("reference", "gold", "completion", "answer", "expected", "chosen")
_EPSILON = 1e-9
_ALPHA = 0.05
MOST_CASES = 100_000
"""Cases of one evaluation that are looked at."""


@dataclass(frozen=True)
class Gold:
    """One case as evaluation has it."""

    line: int
    data: Json
    answer: str | None
    """The reference answer; None where the row has none."""


@dataclass(frozen=True)
class Stated:
    """An evaluation as `vigil-audit.yaml` states it.

    Args:
        project: What lies here.
        file: The file that states it.
        evaluation: What it states.
        loc: Its key path there.
        lines: Line of each key path of the file.
    """

    project: Project
    file: Path
    evaluation: Evaluation
    loc: Loc
    lines: dict[Loc, int]

    @property
    def subject(self) -> str:
        """What findings about it are about."""
        return f"evaluation:{self.evaluation.name}"

    def where(self, *keys: str) -> Json:
        """Return `file` and `line` of one of its keys, as evidence."""
        for length in range(len(keys), -1, -1):
            if (line := self.lines.get((*self.loc, *keys[:length]))) is not None:
                return {"file": self.project.name(self.file), "line": line}
        return {"file": self.project.name(self.file), "line": 1}

    @cached_property
    def place(self) -> Place:
        """Where its data lie."""
        return place_of(self.project, self.file.parent, self.evaluation.data)

    @cached_property
    def path(self) -> Path | None:
        """Its data file inside the project."""
        path = self.place.path
        return path if path is not None and path.is_file() else None

    @cached_property
    def golds(self) -> list[Gold]:
        """Its cases; nothing where the file may not be opened."""
        if self.path is None:
            return []
        rows = DataFile(self.path, Features()).objects(MOST_CASES)
        return [Gold(line, data, gold_of(data, self.evaluation.gold_field)) for line, data in rows]


def gold_of(data: Json, field: str | None) -> str | None:
    """Return the reference answer of a case, None where it has none.

    Args:
        data: The row.
        field: Its key; the usual ones, then the last assistant's message, where nothing is said.
    """
    names = (field,) if field is not None else _GOLD_FIELDS
    for name in names:
        value = data.get(name)
        if isinstance(value, str | list) and (field is not None or value):
            return answer_text(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
    messages = data.get("messages")
    if field is None and isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        return text_of(messages[-1]) if messages[-1].get("role") == "assistant" else None
    return None


def check_files(stated: Sequence[Stated], report: Report) -> None:
    """Report data that are not there, and cases without the answer that was named."""
    for one in stated:
        written = one.evaluation.data
        report.look("8")
        if one.place.kind == "outside":
            report.skip(
                ("8", "P1", "P5", "P7", "P11"),
                f"{one.subject}: its data lead outside the project and are not opened; audit the folder above both",
            )
        elif one.path is None:
            report.add(
                "8",
                one.subject,
                f"The data of {one.evaluation.name}, {written}, are no file here.",
                "hard_stop",
                "Correct `data`: a file of JSON lines, relative to vigil-audit.yaml.",
                check="evaluation_data",
                **one.where("data"),
            )
        elif not one.golds:
            report.add(
                "8",
                one.subject,
                f"{written}, the data of {one.evaluation.name}, hold no case: "
                f"{DataFile(one.path).scan.unread or 'no line is a JSON object'}.",
                "hard_stop",
                "Name a file of JSON lines, one case each.",
                check="evaluation_data",
                **one.where("data"),
            )
        else:
            _check_fields(one, report)


def _check_fields(one: Stated, report: Report) -> None:
    evaluation = one.evaluation
    lacking = [gold.line for gold in one.golds if gold.answer is None]
    if evaluation.gold_field is not None and lacking:
        report.add(
            "8",
            one.subject,
            f"{len(lacking)} of {len(one.golds)} cases of {evaluation.name} have no `{evaluation.gold_field}` "
            f"(first: line {lacking[0]}).",
            "hard_stop",
            "Correct `gold_field`, or give these cases their reference answer.",
            check="gold_field",
            cases=len(one.golds),
            lacking=len(lacking),
            **one.where("gold_field"),
        )


def check_ceilings(stated: Sequence[Stated], counted: dict[Path, list[int]], report: Report) -> None:
    """Report gates that a perfect model could not meet: its answers are cut by the decode budget (P1).

    Args:
        stated: The evaluations.
        counted: Tokens of each reference answer by data file, without end token, as the model's tokenizer has them.
        report: Where findings go.
    """
    for one in stated:
        if not one.golds:
            continue
        sizes = _sizes(one, counted)
        if sizes is not None:
            report.look("P1")
            _ceiling(one, sizes, report)
        elif one.evaluation.tokens_field is None:
            why = "has no tokenizer's count" if counted else "needs --model or `tokens_field` to count its answers"
            no_gold = all(gold.answer is None for gold in one.golds)
            report.skip(("P1",), f"{one.subject} {'has no reference answers' if no_gold else why}")


@dataclass(frozen=True)
class _Sizes:
    """What each answer needs of the decode budget until a grader can count all of it."""

    needs: list[int]
    how: str


def _sizes(one: Stated, counted: dict[Path, list[int]]) -> _Sizes | None:
    field = one.evaluation.tokens_field
    if field is not None:
        return _sizes_by_field(one, field)
    if one.path is None or not counted.get(one.path):
        return None
    how = "counted by the model's tokenizer without the final newline and the end token"
    return _Sizes(counted[one.path], how)


def _sizes_by_field(one: Stated, field: str) -> _Sizes | None:
    values = [gold.data.get(field) for gold in one.golds]
    numbers = [value for value in values if isinstance(value, int) and not isinstance(value, bool) and value > 0]
    if len(numbers) < len(values):
        return None
    # The newline that ends an answer is a token of its own in nearly all of them, and no grader misses it.
    how = f"counted as `{field}` - 1 of each case: without the final newline and the end token"
    return _Sizes([max(1, number - 1) for number in numbers], how)


def check_token_fields(stated: Sequence[Stated], report: Report) -> None:
    """Report cases that lack the count of tokens that was named."""
    for one in stated:
        field = one.evaluation.tokens_field
        if field is None or not one.golds or _sizes_by_field(one, field) is not None:
            continue
        report.add(
            "8",
            one.subject,
            f"Not every case of {one.evaluation.name} has a whole number above 0 under `{field}`.",
            "hard_stop",
            "Correct `tokens_field`, or leave it out and give --model.",
            check="tokens_field",
            **one.where("tokens_field"),
        )
        report.skip(("P1",), f"{one.subject} lacks `{field}` in some cases")


def _ceiling(one: Stated, sizes: _Sizes, report: Report) -> None:
    evaluation, needs = one.evaluation, sorted(sizes.needs)
    n, budget = len(needs), evaluation.max_tokens
    whole = sum(need <= budget for need in needs)
    wanted = _wanted(evaluation)
    ceiling = whole / n
    best = sum(min(1.0, budget / need) for need in needs) / n if evaluation.score == "share" else ceiling
    if wanted is None or best >= wanted - _EPSILON:
        if whole < n:
            _cut(one, sizes, whole, report)
        return
    least = max(1, math.ceil(wanted * n - _EPSILON))
    enough = needs[least - 1]
    said = f"{whole}/{n} = {ceiling:.4g}" if evaluation.score == "whole" else f"about {best:.4g}"
    report.add(
        "P1",
        one.subject,
        f"The gate of {evaluation.name} asks for at least {wanted:.4g}, and with max_tokens {budget} the gold answers "
        f"themselves score {said}: {n - whole} of {n} are cut. No training can meet it. The smallest max_tokens that "
        f"makes it reachable is {enough} ({least} of {n} golds whole), {sizes.how}.",
        "hard_stop",
        f"Set max_tokens to {needs[-1] + 2}, which shows every gold with its final newline and end token; {enough} is "
        f"the least for {wanted:.4g}.",
        check="ceiling",
        ceiling=round(best, 6),
        whole=whole,
        cases=n,
        gate=wanted,
        max_tokens=budget,
        smallest_max_tokens=enough,
        whole_at_smallest=least,
        counted=sizes.how,
        **one.where("max_tokens"),
    )


def _cut(one: Stated, sizes: _Sizes, whole: int, report: Report) -> None:
    """Note golds that are cut where the gate is reachable all the same, or where none is known."""
    n, budget = len(sizes.needs), one.evaluation.max_tokens
    gate = "the gate is within reach" if one.evaluation.gate else "no gate is stated"
    report.add(
        "P1",
        one.subject,
        f"With max_tokens {budget}, {n - whole} of {n} gold answers of {one.evaluation.name} are cut "
        f"(longest {max(sizes.needs)} tokens, {sizes.how}); {gate}.",
        "warning" if whole < n / 2 else "note",
        f"Set max_tokens to {max(sizes.needs) + 2}: a cut answer is scored as if the model had failed.",
        check="cut_golds",
        whole=whole,
        cases=n,
        max_tokens=budget,
        longest=max(sizes.needs),
        **one.where("max_tokens"),
    )


def _wanted(evaluation: Evaluation) -> float | None:
    """Return the least score that the gate asks for."""
    gate = evaluation.gate
    if gate is None:
        return None
    asked = [gate.min] if gate.min is not None else []
    if gate.gain is not None and gate.base is not None and gate.base + gate.gain <= 1 + _EPSILON:
        asked.append(gate.base + gate.gain)
    return max(asked, default=None)


def check_gates(stated: Sequence[Stated], report: Report) -> None:
    """Report gains for which there is no room (4), and gates that so few cases cannot decide (P5)."""
    for one in stated:
        gate, n = one.evaluation.gate, len(one.golds)
        if gate is None:
            continue
        if gate.gain is not None and gate.base is not None:
            report.look("4")
            _check_room(one, gate.base, gate.gain, report)
        if n and (gate.min is not None or gate.gain is not None):
            report.look("P5")
            _check_ruler(one, n, report)


def _check_room(one: Stated, base: float, gain: float, report: Report) -> None:
    room = 1 - base
    if gain <= room + _EPSILON:
        return
    report.add(
        "4",
        one.subject,
        f"The gate of {one.evaluation.name} asks for a gain of {gain:.4g} over a base of {base:.4g}; the room to 1 is "
        f"{room:.4g}.",
        "hard_stop",
        f"Ask for at most {room:.4g}, or for a value.",
        check="room",
        base=base,
        gain=gain,
        room=round(room, 6),
        **one.where("gate"),
    )


def _check_ruler(one: Stated, n: int, report: Report) -> None:
    """Say what n cases cannot tell: a perfect score from one below the gate, or a gain from luck."""
    from scipy.stats import binomtest

    gate, name = one.evaluation.gate, one.evaluation.name
    if gate is None or one.evaluation.score == "share":
        return
    if gate.min is not None:
        low = float(binomtest(n, n).proportion_ci(1 - 2 * _ALPHA).low)
        if low < gate.min <= 1 - _EPSILON:
            needed = math.ceil(math.log(_ALPHA) / math.log(gate.min))
            report.add(
                "P5",
                one.subject,
                f"{n} cases cannot show {gate.min:.4g} for {name}: even {n} of {n} right is compatible with a true "
                f"score of {low:.3f}.",
                "warning",
                f"Evaluate on {needed:,} cases or more, or ask for {low:.2f} at most.",
                check="ruler",
                cases=n,
                gate=gate.min,
                bound=round(low, 4),
                cases_needed=needed,
                **one.where("gate"),
            )
    if gate.gain is not None:
        _check_gain(one, n, gate.gain, report)


def _check_gain(one: Stated, n: int, gain: float, report: Report) -> None:
    from scipy.stats import binomtest

    won = max(1, math.ceil(gain * n - _EPSILON))
    p = float(binomtest(won, won, alternative="greater").pvalue)
    if gain * n >= 1 - _EPSILON and p <= _ALPHA:
        return
    least = next(count for count in range(1, 64) if binomtest(count, count, alternative="greater").pvalue <= _ALPHA)
    report.add(
        "P5",
        one.subject,
        f"A gain of {gain:.4g} on the {n} cases of {one.evaluation.name} is {gain * n:.3g} cases; won without a loss, "
        f"{won} are luck with p = {p:.2g}.",
        "warning",
        f"Ask for {least / n:.3g} at least, evaluate on {math.ceil(least / gain):,} cases, or use a denser score.",
        check="gain",
        cases=n,
        gain=gain,
        p=round(p, 4),
        cases_needed=math.ceil(least / gain),
        **one.where("gate"),
    )
