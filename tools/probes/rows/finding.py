"""What a row check found, as data; a probe or the auditor turns it into an observation."""

from dataclasses import dataclass

from state.records import Json, Severity

EXAMPLES = "examples"
"""Key of `detail` under which pieces of the rows' own text stand; whoever must not show case text leaves it out."""


@dataclass(frozen=True)
class RowFinding:
    """One thing found in rows.

    Args:
        mode: Row of the failure catalogue.
        severity: What it does to whoever wants to spend on these rows.
        claim: Short stable name.
        sentence: What was seen, in English with numbers; no text of a single row.
        detail: Machine-readable figures; text of rows only under `examples`.
        fix: What to do.
    """

    mode: str
    severity: Severity
    claim: str
    sentence: str
    detail: Json
    fix: str
