"""What a part of the fault harness is: so many faults of one kind, in batches that each stand alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Batch:
    """What one batch did.

    Args:
        faults: How many hit; a kill of a process that had ended is none.
        violations: Sentences on what must not be; empty is what is asked for.
        figures: Further counts, summed over batches.
    """

    faults: int
    violations: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One line of the table.

    Args:
        name: One word.
        what: What is done, and what must hold, as a sentence.
        full: Faults of `make faults`.
        batch: Does one batch: (seed, an empty folder, most faults) -> what it did.
        why_not: Says why it cannot be done here; empty where it can.
    """

    name: str
    what: str
    full: int
    batch: Callable[[int, Path, int], Batch]
    why_not: Callable[[], str] = lambda: ""
