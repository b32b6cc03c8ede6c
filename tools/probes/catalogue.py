"""The 27 failure modes: whose failure each is, what a look costs, what refutes it, and which command looks.

One table for everything that names a mode. What to do about each stands in runbooks/hard_stops.md, under `anchor`.

What a probe is: a cost, what it stands on, and an observation.

A probe measures; policies judge; the knowing node joins the two. Probes listed here run inside the agent and
therefore read files only, or start a short child process; whatever needs a tokenizer or weights is a job.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from policies.validity import SPENDING
from state.goal import Goal
from state.hashing import HashCache
from state.records import ActionKind, Evidence, Fingerprint, Severity, Staleness, Tag

Domain = Literal["knowing", "doing", "deciding"]
"""Whose failure it is: a belief that was not verified, an act that did not do what it said, a decision."""

Command = Literal["run", "audit"]
"""`vigil run` looks during a campaign, `vigil audit` at a folder that no campaign knows."""


@dataclass(frozen=True)
class Mode:
    """One row.

    Args:
        id: 1 to 15, P1 to P12.
        domain: Whose failure it is.
        title: What goes wrong, in a few words.
        cost_s: Seconds of the cheapest look, on data of the quickstart's size; 0 where it is arithmetic on what has
            been measured anyway.
        refuted_by: What outcome shows that the failure is not there.
        severity: What finding it does, unless the finding says otherwise.
        fired_by: Commands that can find it.
    """

    id: str
    domain: Domain
    title: str
    cost_s: float
    refuted_by: str
    severity: Severity
    fired_by: tuple[Command, ...]

    @property
    def anchor(self) -> str:
        """Where the runbook speaks of it."""
        return f"runbooks/hard_stops.md#mode-{self.id.lower()}"


_RUN: tuple[Command, ...] = ("run",)
_BOTH: tuple[Command, ...] = ("run", "audit")

CATALOGUE: tuple[Mode, ...] = (
    Mode(
        "1",
        "knowing",
        "generations collapse in training",
        2.0,
        "generations as varied as the parent's; an ordinary dose of training",
        "warning",
        _BOTH,
    ),
    Mode(
        "2",
        "knowing",
        "fusing loses the adapter",
        3.0,
        "fused weights that answer as base and adapter do",
        "hard_stop",
        _BOTH,
    ),
    Mode(
        "3",
        "knowing",
        "old weights beside new ones",
        0.01,
        "a folder whose files are the index's, of one save",
        "hard_stop",
        _BOTH,
    ),
    Mode("4", "deciding", "gate out of reach from the base", 0.0, "room as large as what is asked", "hard_stop", _BOTH),
    Mode(
        "5",
        "knowing",
        "references teach one policy",
        1.0,
        "odd rows of each kind that survive in more than 2 % of their places",
        "warning",
        _BOTH,
    ),
    Mode("6", "deciding", "tool cannot do what is asked of it", 3.0, "steps that run to their end", "hard_stop", _BOTH),
    Mode("7", "knowing", "glitches of a template", 0.3, "fewer than two such texts, or under 0.5 %", "warning", _BOTH),
    Mode(
        "8",
        "deciding",
        "file that is not there, or cannot be read",
        0.05,
        "a file that is there and reads",
        "hard_stop",
        _BOTH,
    ),
    Mode("9", "doing", "unfinished job taken for done", 0.01, "a last save at the last iteration", "hard_stop", _BOTH),
    Mode("10", "doing", "wall time guessed", 0.0, "a time within the span that was planned", "warning", _RUN),
    Mode("11", "knowing", "more data, no movement", 0.0, "a target that moves", "warning", _RUN),
    Mode("12", "doing", "saved is not what loads", 3.0, "equal losses before and after", "hard_stop", _RUN),
    Mode("13", "deciding", "class is exhausted", 0.0, "a run that makes progress", "warning", _RUN),
    Mode(
        "14",
        "deciding",
        "pairs told apart, nothing learned",
        2.0,
        "generations that change as the loss falls",
        "warning",
        _RUN,
    ),
    Mode("15", "deciding", "both supervised classes exhausted", 0.0, "a run that makes progress", "warning", _RUN),
    Mode(
        "P1",
        "knowing",
        "evaluator cannot show the answer",
        7.0,
        "references that fit into the decode budget, enough of them for the gate",
        "hard_stop",
        _BOTH,
    ),
    Mode("P2", "knowing", "judged on other weights than trained on", 0.01, "equal hashes or names", "hard_stop", _BOTH),
    Mode(
        "P3",
        "knowing",
        "surface tells pairs apart",
        1.0,
        "a best one-feature rule that errs in more than 5 % of the pairs",
        "hard_stop",
        _BOTH,
    ),
    Mode("P4", "deciding", "two conditions, one measurement", 0.0, "one case off the line", "warning", _RUN),
    Mode(
        "P5",
        "deciding",
        "margin finer than the ruler",
        0.0,
        "a perfect candidate that passes, by a margin of more than one case",
        "hard_stop",
        _BOTH,
    ),
    Mode(
        "P6", "knowing", "check that proves nothing", 0.0, "an outcome, written down before the look", "warning", _RUN
    ),
    Mode(
        "P7",
        "knowing",
        "prompts differ between training and evaluation",
        7.0,
        "every form of evaluation standing in training too",
        "hard_stop",
        _BOTH,
    ),
    Mode("P8", "knowing", "training rows are cut", 7.0, "rows that fit into max_seq_length", "hard_stop", _BOTH),
    Mode("P9", "knowing", "score hides progress", 0.0, "a denser metric that goes along", "warning", _RUN),
    Mode(
        "P10",
        "knowing",
        "grader fails, or pays for the wrong thing",
        7.0,
        "a lower score for each bad output than for the reference",
        "hard_stop",
        _RUN,
    ),
    Mode("P11", "knowing", "one case in two sets", 1.0, "sets that share no row", "hard_stop", _BOTH),
    Mode(
        "P12",
        "knowing",
        "baseline inherited, not measured",
        0.0,
        "a score within the tolerance, and equal numbers",
        "hard_stop",
        _RUN,
    ),
)
"""All rows, in the catalogue's order."""

MODES: Mapping[str, Mode] = {mode.id: mode for mode in CATALOGUE}
"""Id -> row."""

AUDITED: tuple[str, ...] = tuple(mode.id for mode in CATALOGUE if "audit" in mode.fired_by)
"""Ids that `vigil audit` looks for."""


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
