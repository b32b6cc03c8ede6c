"""Evaluations as vigil-audit.yaml states them: are their files there (8), is there room (4), can n cases tell (P5)?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from policies.cases import Mean
from policies.checks import beyond_cases, beyond_reach
from policies.significance import sign_p
from state.goal import Condition, Gate
from state.records import Json
from tools.probes.audit.configs import Loc
from tools.probes.audit.discovery import Project
from tools.probes.audit.places import Place, place_of
from tools.probes.audit.reading import shown
from tools.probes.audit.report import Report
from tools.probes.audit.rows import DataFile, Features, answer_text, text_of
from tools.probes.audit.settings import Evaluation

_GOLD_FIELDS = ("reference", "gold", "completion", "answer", "expected", "chosen")
_OUTPUT_FIELDS = ("output", "response", "prediction", "generated", "text", "completion")
_MOST_OUTPUTS = 2_000
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


def check_outputs(stated: Sequence[Stated], report: Report) -> None:
    """Report generations that loop or drift where the reference answers do not (1)."""
    from tools.probes.rows.collapse import collapse_signals, is_collapsed

    for one in stated:
        written = one.evaluation.outputs
        if written is None:
            continue
        place = place_of(one.project, one.file.parent, written)
        if place.kind == "outside":
            report.skip(("1",), f"{one.subject}: its outputs lead outside the project and are not opened")
            continue
        texts = _texts(place.path, one.evaluation.output_field) if place.path is not None else []
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
                f"answers: {reasons.replace(' before', ' in the references')}.",
                "hard_stop",
                found.fix,
                check="collapsed",
                outputs=found.value["now"],
                references=found.value["parent"],
                **one.where("outputs"),
            )


def _texts(path: Path, field: str | None) -> list[str]:
    names = (field,) if field is not None else _OUTPUT_FIELDS
    texts = []
    for _, data in DataFile(path).objects(_MOST_OUTPUTS):
        value = next((data[name] for name in names if data.get(name)), None)
        text = answer_text(value) if value is not None else gold_of(data, None) if field is None else None
        if text is not None:
            texts.append(text)
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
    won = max(1, math.ceil(gain * n - _EPSILON))
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
