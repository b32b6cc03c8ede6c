"""Runs graders in child processes: a time-out per case, and nothing unusable ever becomes a zero.

A grader that raises, hangs, dies, omits a metric or answers with something that is no number costs that case only; the
child is replaced and the next case goes on. Not covered: a grader that is wrong in a steady way; that is what the gold
ceiling, the floor and the outputs that try to fool it (tools/probes/outputs.py) are for.
"""

import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from state.errors import ConfigError
from tools.graders.contract import Grade, GraderSpec
from tools.graders.pipe import ChildDiedError, ChildHungError, LineChild
from tools.jobs.worker import tick

Item = tuple[dict[str, Any], str, str]
"""(case, text, finish_reason), as a grader gets it."""

_CHILD = Path(__file__).with_name("child.py")
_START_TIMEOUT_S = 120.0
"""A grader file may import a large library before its first case."""
_MOST_VALUE = 1e100
"""Beyond it a sum of squares, of some thousand cases, is no number any more."""
_MOST_METRICS, _LONGEST_NAME, _LONGEST_SAID = 1_000, 200, 500
"""Metrics of a case, characters of a name, and of a grader's own words in a sentence: the record is for figures."""
_MOST_HANGS_IN_A_ROW = 5
"""Then the rest of the cases are not sent: each would cost the whole time-out again."""
_GOODBYE_S = 2.0
"""A grader that is not asked anything more may close its files."""
_METRIC = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
"""Names of metrics where case text is private: a grader must not hand out a text as a name."""


_UNREACHABLE = re.compile(r"[Nn]etwork is unreachable|name resolution|nodename nor servname")


@dataclass(frozen=True)
class Variation:
    """Two calls on the same answer that disagreed."""

    case_id: str
    metric: str
    """`error` when one call was usable and the other was not."""
    first: float | str | None
    second: float | str | None

    @property
    def sentence(self) -> str:
        """The variation in words."""
        return f"Case {self.case_id}: {self.metric} was {self.first} in one call and {self.second} in another."


class _Unusable(Exception):  # noqa: N818 - a private signal, carrying the sentence of one grade
    """This case got no answer."""


def case_id(case: dict[str, Any]) -> str:
    """Return a case's id as text."""
    return str(case.get("id", ""))


def _usable(raw: dict[str, Any], *, is_private: bool) -> tuple[dict[str, float | None], list[str]]:
    """Split a grader's metrics into what can be used and sentences about what cannot."""
    metrics: dict[str, float | None] = {}
    faults = []
    if len(raw) > _MOST_METRICS:
        raise _Unusable(f"the grader answered with {len(raw):,} metrics, more than {_MOST_METRICS:,}")
    if too_long := [name for name in raw if len(name) > _LONGEST_NAME]:
        raise _Unusable(f"the name of a metric has {len(too_long[0]):,} characters, more than {_LONGEST_NAME}")
    for name, value in raw.items():
        if is_private and not _METRIC.fullmatch(name):
            faults.append("the name of a metric is no plain word")
            continue
        number = _as_float(value)
        is_sized = number is not None and abs(number) <= _MOST_VALUE
        metrics[name] = number if is_sized else None
        if number is not None and not is_sized:
            faults.append(f"metric {name} is {number}")
        elif number is None and value is not None:
            faults.append(f"metric {name} is {'' if is_private else f'{str(value)[:60]!r}, '}not a number")
    return metrics, faults


def _as_float(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:
        return math.inf


def _with_all_metrics(grade: Grade, names: Sequence[str]) -> Grade:
    """Return the grade with a None and a sentence for each metric it lacks."""
    missing = [name for name in names if name not in grade.metrics]
    if not missing:
        return grade
    metrics = grade.metrics | dict.fromkeys(missing)
    if not grade.metrics:
        return replace(grade, metrics=metrics)
    sentence = f"the grader omitted {', '.join(missing)}"
    return replace(grade, metrics=metrics, error="; ".join(filter(None, (grade.error, sentence))))


class Grader:
    """A grader ready to be asked; use as a context manager.

    Args:
        spec: Where it lives and its limits.

    Raises:
        ConfigError: On entering: the file is missing, cannot be imported or has no `grade`; the command cannot start.
    """

    def __init__(self, spec: GraderSpec) -> None:
        self._spec = spec
        self._child: LineChild | None = None
        self._hangs_in_a_row = 0
        self._names: list[str] = list(spec.metrics or ())

    def __enter__(self) -> Self:
        self._spec.check()
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop(_GOODBYE_S)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics: as specified, else those seen in grades so far, in order of appearance."""
        return tuple(self._names)

    def forget_hangs(self) -> None:
        """Send cases again after it hung on several in a row: what comes now are other answers."""
        self._hangs_in_a_row = 0

    def grade(self, items: Iterable[Item]) -> list[Grade]:
        """Grade answers one by one; one Grade per item, in order.

        A grade whose `error` is not empty holds None for every metric that could not be used.
        """
        grades = [self._grade_one(*item) for item in items]
        if self._spec.metrics is None:
            self._learn(grades)
        return [_with_all_metrics(grade, self._names) for grade in grades]

    def repeat_check(self, items: Iterable[Item]) -> list[Variation]:
        """Grade the same answers again and return what differs: in the same process, in reverse, and in a new one.

        A counter or a cache shows in the first repetition, hash order and unseeded randomness in the second. Cases
        whose grade is unusable in the same way each time do not vary.
        """
        sample = list(items)
        first = self.grade(sample)
        again = self.grade(sample[::-1])[::-1]
        self._stop()
        anew = self.grade(sample)
        changes = [
            variation
            for other in (again, anew)
            for one, two in zip(first, other, strict=True)
            for variation in _variations(one, two)
        ]
        unique = {(variation.case_id, variation.metric): variation for variation in reversed(changes)}
        return list(unique.values())[::-1]

    def _learn(self, grades: Iterable[Grade]) -> None:
        for grade in grades:
            found = [name for name in grade.metrics if name not in self._names]
            self._names += found if len(self._names) + len(found) <= _MOST_METRICS else []

    def _grade_one(self, case: dict[str, Any], text: str, finish_reason: str) -> Grade:
        tick()
        name = case_id(case)
        try:
            answer = self._ask(self._request(case, text, finish_reason))
            metrics, faults = _usable(self._metrics_of(answer, name), is_private=self._spec.is_private)
        except _Unusable as fault:
            is_cut_off = not self._spec.network and _UNREACHABLE.search(str(fault))
            return Grade(name, error=f"{str(fault)[:_LONGEST_SAID]}{' (`track.network` is no)' if is_cut_off else ''}")
        if not metrics:
            faults.append("the grader returned no metric")
        return Grade(name, metrics, "; ".join(faults))

    def _request(self, case: dict[str, Any], text: str, finish_reason: str) -> dict[str, Any]:
        request = {"case": case, "text": text, "finish_reason": finish_reason}
        return request if self._spec.command else request | {"op": "grade"}

    def _metrics_of(self, answer: dict[str, Any], name: str) -> dict[str, Any]:
        if "error" in answer:
            raise _Unusable(self._error(answer))
        if self._spec.command and str(answer.get("case")) != name:
            # Out of step: whatever it says next would be about another case.
            self._stop()
            other = self._quoted(repr(answer.get("case")), "something else")
            raise _Unusable(f"the grader answered for case {other} instead")
        metrics = answer.get("metrics")
        if not isinstance(metrics, dict):
            raise _Unusable(f"the grader's metrics are {self._quoted(f'{str(metrics)[:60]!r}, ', '')}not an object")
        return metrics

    def _quoted(self, text: str, instead: str) -> str:
        """Return words of the grader's making, or what stands for them where case text is private."""
        return instead if self._spec.is_private else text

    def _error(self, answer: dict[str, Any]) -> str:
        """Return the sentence of an answer that is an error."""
        return self._quoted(str(answer["error"]), str(answer.get("bare", "the grader answered with an error")))

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request and return the answer.

        Raises:
            _Unusable: No usable answer came; the child is gone and the next request starts another.
        """
        if self._hangs_in_a_row >= _MOST_HANGS_IN_A_ROW:
            raise _Unusable(f"not sent: the grader hung on the {_MOST_HANGS_IN_A_ROW} cases before")
        child = self._ready_child()
        try:
            line = child.ask(json.dumps(request, ensure_ascii=True), self._spec.timeout_s)
        except ChildHungError:
            self._hangs_in_a_row += 1
            self._stop()
            hint = " (a command must flush each line)" if self._spec.command else ""
            raise _Unusable(f"the grader gave no answer within {self._spec.timeout_s:g} s{hint}") from None
        except ChildDiedError:
            words = child.ending() if self._spec.is_private else child.last_words()
            self._stop()
            raise _Unusable(f"the grader's process {words}") from None
        self._hangs_in_a_row = 0
        return self._decoded(line)

    def _decoded(self, line: str) -> dict[str, Any]:
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            self._stop()
            raise _Unusable(f"the grader wrote {self._quoted(f'{line[:60]!r}, which', 'what')} is no JSON object")
        return answer

    def _ready_child(self) -> LineChild:
        # A command that says more than it was asked is out of step; start over rather than shift every grade by one.
        if self._child is not None and self._child.has_unread_output:
            self._stop()
        return self._child or self._start()

    def _start(self) -> LineChild:
        path = self._spec.path
        argv = self._spec.command or (sys.executable, "-P", str(_CHILD), str(path))
        try:
            self._child = LineChild(argv, self._spec.folder, self._spec.environment(), self._spec.limits)
        except OSError as error:
            raise ConfigError(
                f"{self._spec.label} cannot be started: {error.strerror or error}.", what="grader", value=list(argv)
            ) from error
        if path is not None:
            self._greet(self._child, path)
        return self._child

    def _greet(self, child: LineChild, path: Path) -> None:
        """Wait until the child has imported the grader.

        Raises:
            ConfigError: It could not.
        """
        try:
            greeting = json.loads(child.ask("", _START_TIMEOUT_S))
        except ChildHungError:
            greeting = {"fatal": f"importing it took longer than {_START_TIMEOUT_S:g} s"}
        except ChildDiedError:
            words = child.ending() if self._spec.is_private else child.last_words()
            greeting = {"fatal": f"importing it ended its process, which {words}"}
        if "fatal" in greeting:
            self._stop()
            why = self._quoted(greeting["fatal"], greeting.get("bare", greeting["fatal"]))
            raise ConfigError(
                f"{self._spec.label} cannot be used: {why}.",
                what="grader.file",
                value=str(path),
                where=str(path),
                runbook="runbooks/your_task/README.md",
            )

    def _stop(self, grace_s: float = 0.0) -> None:
        if self._child is not None:
            self._child.close(grace_s)
            self._child = None


def _variations(one: Grade, two: Grade) -> list[Variation]:
    if bool(one.error) != bool(two.error):
        return [Variation(one.case_id, "error", one.error or "none", two.error or "none")]
    pairs = ((name, value, two.metrics.get(name)) for name, value in one.metrics.items())
    return [Variation(one.case_id, name, first, second) for name, first, second in pairs if first != second]


def repeat_check(spec: GraderSpec, items: Iterable[Item]) -> list[Variation]:
    """Open a grader, grade the items repeatedly and return what varies (see `Grader.repeat_check`).

    Raises:
        ConfigError: The grader cannot be used at all.
    """
    with Grader(spec) as grader:
        return grader.repeat_check(items)
