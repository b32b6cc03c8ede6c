"""Evaluations as vigil-audit.yaml states them: are their files there (8), is there room (4), can n cases tell (P5)?

What a perfect model could score under a decode budget (P1), from the tokens of the reference answers.

The counts come from the rows themselves, from a model's tokenizer, or from a harness file: JSON with `max_tokens`,
`gate` and `cases`, each with `gold_tokens`.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from policies.checks import beyond_cases, beyond_reach
from policies.comparison import Mean
from policies.significance import EPSILON, sign_p
from state.files import UnreadableError
from state.goal import Condition, Gate
from state.records import Json
from tools.data.rows import (
    DataFile,
    Features,
    answer_text,
    kind_of,
    read_head,
    read_value,
    shown,
    text_of,
)
from tools.probes.configs import Loc
from tools.probes.folder import Evaluation, Place, Project, Report, place_of

_GOLD_FIELDS = ("reference", "gold", "completion", "answer", "expected", "chosen")
_OUTPUT_FIELDS = ("output", "response", "prediction", "generated", "text", "completion")
_MOST_OUTPUTS = 2_000
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
        if isinstance(value, str | list | dict) and (field is not None or value):
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
                f"{one.subject}: its data lead outside the project, or may not be read, and are not opened",
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
    field = evaluation.gold_field or "reference"
    objects = [gold.line for gold in one.golds if isinstance(gold.data.get(field), dict | list)]
    if objects:
        report.add(
            "8",
            one.subject,
            f"`{field}` of {len(objects)} of {len(one.golds)} cases of {evaluation.name} is "
            f"{kind_of(next(gold.data[field] for gold in one.golds if gold.line == objects[0]))}, no text (first: line "
            f"{objects[0]}): its JSON is what is counted here.",
            "note",
            "Write it as a string in the form that the grader compares; a campaign takes no other.",
            check="gold_kind",
            cases=len(one.golds),
            objects=len(objects),
            **one.where("gold_field"),
        )


def check_outputs(stated: Sequence[Stated], report: Report) -> None:
    """Report generations that loop or drift where the reference answers do not (1)."""
    from tools.probes.outputs import collapse_signals, is_collapsed

    for one in stated:
        written = one.evaluation.outputs
        if written is None:
            continue
        place = place_of(one.project, one.file.parent, written)
        if place.kind == "outside":
            report.skip(("1",), f"{one.subject}: its outputs lead outside the project and are not opened")
            continue
        said = _texts(place.path, one.evaluation.output_field) if place.path is not None else []
        texts = [text for text, _ in said]
        if not texts:
            report.add(
                "8",
                one.subject,
                f"{shown(written)[:200]}, the outputs of {one.evaluation.name}, hold no text.",
                "hard_stop",
                "Correct `outputs` and `output_field`: a file of JSON lines, one output each.",
                check="outputs",
                **one.where("outputs"),
            )
            continue
        _check_texts(one, said, report)
        answers = [gold.answer for gold in one.golds[:_MOST_OUTPUTS] if gold.answer]
        if not answers:
            report.skip(("1",), f"{one.subject}: there are no reference answers to hold its outputs against")
            continue
        report.look("1")
        found = is_collapsed(collapse_signals(texts), collapse_signals(answers))
        if found is not None:
            reasons = "; ".join(found.value["reasons"])
            report.add(
                "1",
                one.subject,
                f"{len(texts)} outputs of {one.evaluation.name} have collapsed beside the {len(answers)} reference "
                f"answers: {_IN_REFERENCES.sub(' in the references', reasons)}.",
                "hard_stop",
                "Look whether generation stops: name the end token in generation_config.json and close each training "
                f"answer with it. If it does: {found.fix}",
                check="collapsed",
                outputs=found.value["now"],
                references=found.value["parent"],
                **one.where("outputs"),
            )


_IN_REFERENCES = re.compile(r" before(?=;|$)")
_LEAKED = re.compile(
    r"<\|(?:im_(?:start|end)|end(?:oftext)?|eot_id|user|assistant|system)\|>|</?s>|<(?:start|end)_of_turn>"
)
_LEAST_ODD = 0.05


def _check_texts(one: Stated, outputs: Sequence[tuple[str, bool]], report: Report) -> None:
    """Report outputs that are empty, cut by the budget, end while thinking, or hold the template's tokens."""
    report.look("1")
    texts = [text for text, _ in outputs]
    thinking = sum("<think>" in text and "</think>" not in text for text in texts)
    counts = (
        (
            sum(is_cut for _, is_cut in outputs),
            "were cut when the budget was spent (`finish_reason: length`)",
            "cut_outputs",
            "Look whether the model writes its end token; if it does, raise max_tokens to what its answers need.",
        ),
        (thinking, "end while they think", "unfinished_thinking", "Raise max_tokens, or ask without thinking."),
        (
            sum(not text.strip() for text in texts),
            "are empty",
            "empty_outputs",
            "Look at what the model writes before its end token, and whether rows teach an empty answer.",
        ),
        (
            sum(_LEAKED.search(text) is not None for text in texts),
            "hold special tokens as text",
            "leaked_tokens",
            "Name the model's end tokens in generation_config.json, and use its own template for the prompts.",
        ),
    )
    for count, said, check, fix in counts:
        if count >= max(1, _LEAST_ODD * len(texts)):
            report.add(
                "1",
                one.subject,
                f"{count:,} of {len(texts):,} outputs of {one.evaluation.name} {said}: they are scored as wrong.",
                "warning",
                fix,
                check=check,
                count=count,
                outputs=len(texts),
                **one.where("outputs"),
            )


def _texts(path: Path, field: str | None) -> list[tuple[str, bool]]:
    """Return what was said, and whether the budget cut it where the row tells."""
    names = (field,) if field is not None else _OUTPUT_FIELDS
    texts = []
    for _, data in DataFile(path).objects(_MOST_OUTPUTS):
        value = next((data[name] for name in names if data.get(name) is not None), None)
        text = answer_text(value) if value is not None else gold_of(data, None) if field is None else None
        if text is not None:
            texts.append((text, data.get("finish_reason") == "length"))
    return texts


def check_gates(stated: Sequence[Stated], report: Report) -> None:
    """Report gains for which there is no room (4), and gates that so few cases cannot decide (P5)."""
    for one in stated:
        gate, n = one.evaluation.gate, len(one.golds)
        if gate is None:
            continue
        has_room = True
        if gate.gain is not None and gate.base is not None:
            report.look("4")
            has_room = _has_room(one, gate.base, gate.gain, report)
        if n and (gate.min is not None or gate.gain is not None):
            report.look("P5")
            _check_ruler(one, n, report, has_room=has_room)


SCORE = "cases.score"
"""What an evaluation's score is called where the campaign's own checks judge its gate."""


def _has_room(one: Stated, base: float, gain: float, report: Report) -> bool:
    asked = Gate(conditions=(Condition(metric=SCORE, min=gain, against="base"),))
    beyond = beyond_reach(asked, {}, {SCORE: Mean(mean=base, n=max(1, len(one.golds)))})
    for found in beyond:
        room = found.value["room"]
        report.add(
            found.mode,
            one.subject,
            f"The gate of {one.evaluation.name} asks for a gain of {gain:.4g} over a base of {base:.4g}; the room to 1 "
            f"is {room:.4g}.",
            found.severity,
            f"Ask for at most {room:.4g}, or for a value.",
            check="room",
            base=base,
            gain=gain,
            room=round(room, 6),
            **one.where("gate"),
        )
    return not beyond


def _check_ruler(one: Stated, n: int, report: Report, *, has_room: bool) -> None:
    """Say what n cases cannot tell: a perfect score from one below the gate, or a gain from luck."""
    gate, name = one.evaluation.gate, one.evaluation.name
    if gate is None or one.evaluation.score == "share":
        return
    start = {SCORE: Mean(mean=gate.base or 0.0, n=n)}
    if gate.min is not None:
        for found in beyond_cases(Gate(conditions=(Condition(metric=SCORE, min=gate.min),)), start, _ALPHA):
            low, needed = found.value["bound"], found.value["cases_needed"]
            more = f"Evaluate on {needed:,} cases or more, or ask" if needed else "Ask"
            report.add(
                found.mode,
                one.subject,
                f"{n} cases cannot show {gate.min:.4g} for {name}: even {n} of {n} right is compatible with a true "
                f"score of {low:.3f}.",
                "warning",
                f"{more} for {low:.2f} at most.",
                check="ruler",
                cases=n,
                gate=gate.min,
                bound=round(low, 4),
                cases_needed=needed,
                **one.where("gate"),
            )
    if gate.gain is not None and has_room:
        _check_gain(one, n, gate.gain, start, report)


def _check_gain(one: Stated, n: int, gain: float, start: Mapping[str, Mean], report: Report) -> None:
    """Say that a gain of just what is asked would be luck, or that not even a perfect score shows it."""
    asked = Gate(conditions=(Condition(metric=SCORE, min=gain, against="base"),))
    won = max(1, math.ceil(gain * n - EPSILON))
    p = sign_p(won, 0)
    if not beyond_cases(asked, start, _ALPHA) and p <= _ALPHA:
        return
    least = next(count for count in range(1, 64) if sign_p(count, 0) <= _ALPHA)
    needed = math.ceil(least / gain)
    report.add(
        "P5",
        one.subject,
        f"A gain of {gain:.4g} on the {n} cases of {one.evaluation.name} is {gain * n:.3g} cases; won without a loss, "
        f"{won} are luck with p = {p:.2g}.",
        "warning",
        f"Ask for {least / n:.3g} at least, evaluate on {needed:,} cases, or use a denser score.",
        check="gain",
        cases=n,
        gain=gain,
        p=round(p, 4),
        cases_needed=needed,
        **one.where("gate"),
    )


_MOST_CUT = 0.1
"""Share of cut answers from which they are a warning where no gate says what they cost."""
_HARNESS_BYTES = 16 << 20
_MOST_HARNESSES = 200
_OWN_WORDS = "counted by the model's tokenizer without the final newline and the end token"


@dataclass(frozen=True)
class Budget:
    """An evaluation's decode budget and what its answers need.

    Args:
        name: Of the evaluation.
        subject: What findings about it are about.
        max_tokens: The budget.
        needs: Tokens of each answer, until a grader has seen all of it.
        how: How they were counted, in words.
        wanted: Least score that the gate asks for; None without a gate.
        score: whole: an answer is right or wrong; share: a part of it scores a part.
        graded: Answers that the evaluation's own grader counts in full under the budget, where it says so.
        begun: Answers that show all of their lines, the last perhaps cut, where somebody looked.
        where: `file` and `line` of the budget.
    """

    name: str
    subject: str
    max_tokens: int
    needs: Sequence[int]
    how: str
    wanted: float | None
    where: Json
    score: Literal["whole", "share"] = "whole"
    graded: int | None = None
    begun: int | None = None

    @property
    def n(self) -> int:
        """Number of answers."""
        return len(self.needs)

    def whole_at(self, max_tokens: int) -> int:
        """Return the answers that a budget shows whole."""
        return sum(need <= max_tokens for need in self.needs)

    def ceiling_at(self, max_tokens: int) -> float:
        """Return what a perfect model scores under a budget."""
        if self.score == "share":
            return sum(min(1.0, max_tokens / need) for need in self.needs) / self.n
        return self.whole_at(max_tokens) / self.n

    @property
    def smallest(self) -> int:
        """Least budget whose ceiling reaches the gate."""
        wanted = self.wanted or 0.0
        if self.score == "whole":
            return sorted(self.needs)[max(1, math.ceil(wanted * self.n - EPSILON)) - 1]
        low, high = 1, max(self.needs)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.ceiling_at(middle) >= wanted - EPSILON else (middle + 1, high)
        return low


def check_ceilings(budgets: Sequence[Budget], report: Report) -> None:
    """Report gates that a perfect model could not meet, since its answers are cut."""
    for one in budgets:
        report.look("P1")
        right = one.whole_at(one.max_tokens) if one.graded is None else one.graded
        ceiling = right / one.n if one.score == "whole" else one.ceiling_at(one.max_tokens)
        best = max(ceiling, (one.begun or 0) / one.n)
        asked = None if one.wanted is None else Gate(conditions=(Condition(metric=SCORE, min=one.wanted),))
        if asked is not None and beyond_reach(asked, {SCORE: best}, {}):
            _refuse(one, right, ceiling, report)
        elif one.whole_at(one.max_tokens) < one.n:
            _cut(one, report)


def _refuse(one: Budget, right: int, ceiling: float, report: Report) -> None:
    said = f"{right}/{one.n} = {ceiling:.4g}" if one.score == "whole" else f"about {ceiling:.4g}"
    if one.begun is not None and one.begun > right and one.score == "whole":
        said += f" ({one.begun}/{one.n} = {one.begun / one.n:.4g} where a last line that is cut short counts)"
    enough, all_of_them = one.smallest, max(one.needs)
    whole = one.whole_at(enough)
    report.add(
        "P1",
        one.subject,
        f"The gate of {one.name} asks for at least {one.wanted:.4g}, and with max_tokens {one.max_tokens} the gold "
        f"answers themselves score {said}. No training can meet it. The smallest max_tokens that makes it reachable is "
        f"{enough} ({whole} of {one.n} references whole), {one.how}.",
        "hard_stop",
        f"Set max_tokens to {all_of_them + 2}, which shows all of each reference, its end token too; {enough} "
        f"is the least for {one.wanted:.4g}.",
        check="ceiling",
        ceiling=round(ceiling, 6),
        whole=one.whole_at(one.max_tokens),
        cases=one.n,
        gate=one.wanted,
        max_tokens=one.max_tokens,
        smallest_max_tokens=enough,
        whole_at_smallest=whole,
        longest=all_of_them,
        counted=one.how,
        **one.where,
    )


def _cut(one: Budget, report: Report) -> None:
    """Tell of answers that are cut where the gate is within reach all the same, or where none is known."""
    cut = one.n - one.whole_at(one.max_tokens)
    most = one.n / 2 if one.wanted is not None else _MOST_CUT * one.n
    gate = "no gate is stated" if one.wanted is None else f"the gate, {one.wanted:.4g}, is within reach all the same"
    report.add(
        "P1",
        one.subject,
        f"With max_tokens {one.max_tokens}, {cut} of {one.n} reference answers of {one.name} are cut (longest "
        f"{max(one.needs)} tokens, {one.how}); {gate}.",
        "warning" if cut > most else "note",
        f"Set max_tokens to {max(one.needs) + 2}: a cut answer is scored as if the model had failed.",
        check="cut_golds",
        whole=one.n - cut,
        cases=one.n,
        max_tokens=one.max_tokens,
        longest=max(one.needs),
        **one.where,
    )


def stated_budgets(stated: Sequence[Stated], counted: Sequence[Json], why_not: str, report: Report) -> Iterator[Budget]:
    """Yield the budgets of evaluations whose answers were counted; of the others the reason goes into the report.

    Args:
        stated: The evaluations.
        counted: What the tokenizer said of each evaluation that has cases, in order; nothing where none was asked.
        why_not: Why it said nothing.
        report: Where reasons go.
    """
    said = iter(counted)
    for one in stated:
        if not one.golds:
            continue
        answer: Json = next(said, {"why": why_not})
        field = one.evaluation.tokens_field
        needs: list[int] = answer.get("needs") or []
        begun: int | None = answer.get("begun")
        how = _OWN_WORDS
        if field is not None:
            needs, begun = _by_field(one, field), None
            how = f"counted as `{field}` - 1 of each case: without the final newline and the end token"
            if not needs:
                _lacks(one, field, report)
                continue
        if needs:
            wanted = _wanted(one.evaluation)
            score, place = one.evaluation.score, one.where("max_tokens")
            yield Budget(
                one.evaluation.name,
                one.subject,
                one.evaluation.max_tokens,
                needs,
                how,
                wanted,
                place,
                score,
                None,
                begun,
            )
        elif all(gold.answer is None for gold in one.golds):
            report.skip(("P1",), f"{one.subject} has no reference answers")
        else:
            report.skip(("P1",), f"{one.subject}: {shown(str(answer.get('why', 'its answers could not be counted')))}")


def _by_field(one: Stated, field: str) -> list[int]:
    """Return the needs as the rows have them; nothing where one lacks its count.

    The newline that ends an answer is a token of its own in nearly all of them, and no grader misses it.
    """
    numbers = [number for gold in one.golds if (number := _positive(gold.data.get(field)))]
    return [max(1, number - 1) for number in numbers] if len(numbers) == len(one.golds) else []


def _positive(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _lacks(one: Stated, field: str, report: Report) -> None:
    report.look("8")
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


def _wanted(evaluation: Evaluation) -> float | None:
    """Return the least score that the gate asks for."""
    gate = evaluation.gate
    if gate is None:
        return None
    asked = [gate.min] if gate.min is not None else []
    if gate.gain is not None and gate.base is not None and gate.base + gate.gain <= 1 + EPSILON:
        asked.append(gate.base + gate.gain)
    return max(asked, default=None)


def harness_budgets(project: Project) -> Iterator[Budget]:
    """Yield the budgets of the project's harness files."""
    looked = 0
    for path in project.with_suffix(".json"):
        head = read_head(path, 1 << 16)
        if b'"max_tokens"' not in head or b'"cases"' not in head or looked >= _MOST_HARNESSES:
            continue
        looked += 1
        try:
            value = read_value(path, _HARNESS_BYTES)
        except UnreadableError:
            continue
        found = _harness(project.name(path), value)
        if found is not None:
            yield found


def _harness(name: str, value: Any) -> Budget | None:
    """Return what a harness file says; None where it is none."""
    if not isinstance(value, dict) or not isinstance(value.get("cases"), list):
        return None
    budget, cases, gate = _positive(value.get("max_tokens")), value["cases"], value.get("gate")
    rows = [case for case in cases if isinstance(case, dict) and _positive(case.get("gold_tokens"))]
    if not budget or not rows or len(rows) < len(cases):
        return None
    bare = "gold_tokens_without_last_newline"
    is_bare = all(_positive(case.get(bare)) for case in rows)
    needs = [case[bare] if is_bare else max(1, case["gold_tokens"] - 1) for case in rows]
    how = f"counted as `{bare}` of each case" if is_bare else "counted as `gold_tokens` - 1 of each case"
    least = gate.get("min") if isinstance(gate, dict) else None
    is_share = isinstance(least, int | float) and not isinstance(least, bool) and 0 <= least <= 1
    metric = gate.get("metric") if isinstance(gate, dict) else None
    return Budget(
        shown(metric)[:100] if isinstance(metric, str) else name,
        f"evaluation:{name}",
        budget,
        needs,
        f"{how}: without the final newline and the end token",
        float(least) if is_share and least is not None else None,
        {"file": name, "line": 1},
        graded=_graded(rows, budget),
    )


def _graded(rows: Sequence[Mapping[str, Any]], budget: int) -> int | None:
    """Return the golds that the harness's own grader counts in full, by rows, where each case says so."""
    seen = [(row.get(f"rows_counted_at_{budget}"), row.get("rows")) for row in rows]
    if not all(isinstance(counted, int) and isinstance(rows_, int) for counted, rows_ in seen):
        return None
    return sum(int(counted or 0) >= int(wanted or 0) for counted, wanted in seen)
