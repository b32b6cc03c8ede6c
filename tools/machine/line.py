"""One line of `vigil doctor`: a belief about the machine, and what a night makes of it."""

from dataclasses import dataclass, field
from typing import Any, Literal

from state.records import Belief, Evidence, Severity

Outcome = Literal["good", "warn", "bad", "not_told"]
"""bad: a night would fail. not_told: the system does not say, which is never good."""

_SEVERITY: dict[Outcome, Severity] = {"good": "note", "warn": "warning", "bad": "hard_stop", "not_told": "note"}


@dataclass(frozen=True)
class Line:
    """What was seen about one subject.

    Args:
        subject: `family:name`.
        claim: Short stable name of what a night needs.
        statement: What was seen, as an English sentence with numbers.
        outcome: What it means for a night.
        value: JSON value.
        asked: Program, file or function that told.
        seen: What it told, where the statement does not say it all.
        fix: What to do; empty where there is nothing to do.
        is_inferred: The claim was reasoned from what was told, not told.
    """

    subject: str
    claim: str
    statement: str
    outcome: Outcome
    value: Any = None
    asked: str = ""
    seen: str = ""
    fix: str = ""
    is_inferred: bool = False
    detail: dict[str, Any] = field(default_factory=dict)

    def belief(self, number: int, now: float) -> Belief:
        """Return the line as a belief; one that nobody told stays assumed, and one that does not hold is refuted.

        Args:
            number: Place in the list, from 1.
            now: When it was formed, Unix seconds.
        """
        is_told = self.outcome != "not_told"
        evidence = Evidence(kind="probe", ref=self.asked, summary=self.seen or self.statement, detail=self.detail)
        return Belief(
            id=f"M{number}",
            subject=self.subject,
            claim=self.claim,
            statement=self.statement,
            value=self.value,
            tag="assumed" if not is_told else "inferred" if self.is_inferred else "confirmed",
            status="refuted" if self.outcome in {"warn", "bad"} else "fresh",
            severity=_SEVERITY[self.outcome],
            evidence=(evidence,) if self.asked else (),
            fix=self.fix,
            runbook="runbooks/night.md",
            formed_at=now,
        )


def not_told(subject: str, claim: str, why: str, *, fix: str = "", asked: str = "") -> Line:
    """Return a line about which the system does not say anything."""
    return Line(subject, claim, f"Not told: {why}", "not_told", asked=asked, fix=fix)
