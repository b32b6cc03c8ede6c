"""What an audit says: findings, modes looked for, and modes not looked for with the reason."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from state.records import Finding, Severity
from tools.probes.catalogue import AUDITED, CATALOGUE

_RANK: tuple[Severity, ...] = ("hard_stop", "warning", "note")
_ORDER = tuple(mode.id for mode in CATALOGUE)
_MOST_REASONS = 50
"""Reasons named for one mode; of more, their number is told."""

_NEEDS_A_CAMPAIGN = {
    "10": "no step was timed: an audit runs nothing",
    "11": "one run or several verdicts are needed; a folder has none",
    "12": "no training was resumed: an audit runs nothing",
    "13": "verdicts of several runs are needed",
    "14": "no training was watched: an audit runs nothing",
    "15": "verdicts of several runs are needed",
    "P4": "scores of the base are needed",
    "P6": "a folder has no probes",
    "P9": "scores of the base are needed",
    "P10": "no grader is ever run by an audit",
    "P12": "nothing was measured: an audit runs no evaluation",
}
_NOTHING_THERE = {
    "1": "no configuration whose training rows lie here was found",
    "2": "no fused model beside its base and adapter was found",
    "3": "no model folder and no weight file was found",
    "4": "no evaluation in vigil-audit.yaml names a `base` and a `gain`",
    "5": "no prompts with answers were found",
    "6": "no configuration was found",
    "7": "no answers were found",
    "8": "nothing that other files are named in was found",
    "9": "no adapter that says how long it was to be trained was found",
    "P1": "nothing says how an evaluation decodes: no vigil-audit.yaml with `evaluations`, no harness file",
    "P2": "no adapter was found that says what it was trained on and what it is used on",
    "P3": "no preference pairs were found",
    "P5": "no evaluation with a gate was found",
    "P7": "no training data and evaluation to compare were found",
    "P8": "no configuration whose training rows lie here was found",
    "P11": "no two sets of rows that belong together were found",
}


@dataclass
class Report:
    """What is found while looking; each check writes here."""

    findings: list[Finding] = field(default_factory=list)
    looked: set[str] = field(default_factory=set)
    """Modes that something was looked at for."""
    skipped: dict[str, dict[str, None]] = field(default_factory=dict)
    """Mode -> reasons why something was not looked at."""

    def add(
        self, mode: str, subject: str, sentence: str, severity: Severity, fix: str, *, check: str, **value: Any
    ) -> None:
        """Record a finding; `check` is its claim."""
        self.findings.append(
            Finding(mode=mode, severity=severity, subject=subject, claim=check, sentence=sentence, value=value, fix=fix)
        )

    def look(self, *modes: str) -> None:
        """Record that something was looked at."""
        self.looked.update(modes)

    def skip(self, modes: Iterable[str], why: str) -> None:
        """Record that something was not looked at; the modes are no longer among the checked ones."""
        for mode in modes:
            self.skipped.setdefault(mode, {})[why] = None

    @property
    def checked(self) -> list[str]:
        """Modes that everything here was looked at for."""
        return [mode for mode in AUDITED if mode in self.looked and mode not in self.skipped]

    @property
    def not_checked(self) -> list[tuple[str, str]]:
        """(mode, reason) of every other mode of the catalogue."""
        checked = set(self.checked)
        return [(mode, self._why(mode)) for mode in _ORDER if mode not in checked]

    def _why(self, mode: str) -> str:
        reasons = list(self.skipped.get(mode, ()))
        if not reasons:
            return _NEEDS_A_CAMPAIGN.get(mode) or _NOTHING_THERE[mode]
        more = len(reasons) - _MOST_REASONS
        return "; ".join(reasons[:_MOST_REASONS]) + (f"; and {more} more" if more > 0 else "")

    @property
    def sorted_findings(self) -> list[Finding]:
        """Findings, the gravest first, each thing once."""
        unique = {(row.mode, row.subject, row.sentence): row for row in self.findings}
        return sorted(unique.values(), key=lambda row: (_RANK.index(row.severity), _ORDER.index(row.mode), row.subject))

    @property
    def has_hard_stop(self) -> bool:
        """Whether anything found forbids spending."""
        return any(row.severity == "hard_stop" for row in self.findings)
