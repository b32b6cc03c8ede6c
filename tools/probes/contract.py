"""What a probe is: a cost, what it stands on, and an observation.

A probe measures; policies judge; the knowing node joins the two. Probes listed here run inside the agent and
therefore read files only, or start a short child process; whatever needs a tokenizer or weights is a job.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from state.goal import Goal
from state.hashing import HashCache
from state.records import ActionKind, Evidence, Fingerprint, Severity, Staleness, Tag

SPENDING: frozenset[ActionKind] = frozenset({"census", "evaluate", "train", "confirm", "pace"})
"""Acts that cost time."""

RUNNING: frozenset[ActionKind] = SPENDING - {"census"}
"""Acts that run weights."""


@dataclass(frozen=True)
class ProbeContext:
    """What a probe may look at.

    Args:
        goal: The campaign as understood.
        folder: Folder of the campaign file; relative paths are resolved against it.
        model: Folder of the model's files, or None while a hub id is not on this disk.
        home: The campaign's own folder, whose disk fills up.
        cache: Known content hashes.
        environment: Variables that worker processes get.
        trainer: Module that trains; probes of Vigil's own trainer say nothing about another.
    """

    goal: Goal
    folder: Path
    model: Path | None
    home: Path
    cache: HashCache
    environment: Mapping[str, str] = field(default_factory=dict)
    trainer: str = "tools.training.worker"

    def path(self, name: str) -> Path:
        """Return a campaign path as an absolute one."""
        return (self.folder / name).resolve()


@dataclass(frozen=True)
class Observation:
    """What a probe saw about one claim.

    Args:
        subject: `family:name`.
        claim: Short stable name.
        statement: The claim as seen, as an English sentence with numbers.
        holds: False when the claim is refuted.
        value: JSON value.
        evidence: Where it was seen.
        tag: confirmed unless the probe only inferred it.
        severity: What a refuted claim does.
        mode: Row of the failure catalogue it guards against.
        fix: What to do when refuted.
    """

    subject: str
    claim: str
    statement: str
    holds: bool = True
    value: Any = None
    evidence: tuple[Evidence, ...] = ()
    tag: Tag = "confirmed"
    severity: Severity = "note"
    mode: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Probe:
    """One row of the table.

    Args:
        id: Stable name.
        cost_s: Expected seconds.
        refuted_by: What outcome would refute the claim; a probe without one proves nothing.
        stands_on: Computes the fingerprints the claim stands on, cheaply.
        observe: Looks.
        staleness: What kind of change makes it stale.
        before: Kinds of action that stand on it; it is asked only when one of them is next.
        is_volatile: True when no fingerprint can tell a change (free disk): looked at before every spending.
    """

    id: str
    cost_s: float
    refuted_by: str
    stands_on: Callable[[ProbeContext], tuple[Fingerprint, ...]]
    observe: Callable[[ProbeContext], tuple[Observation, ...]]
    staleness: Staleness = "world"
    is_volatile: bool = False
    before: frozenset[ActionKind] = SPENDING
