"""How a campaign ended, held against the truth."""

from dataclasses import dataclass
from typing import Self

from tests.simulation.priors import BUDGET_H, Kind
from tests.simulation.world import Weights, World


@dataclass(frozen=True)
class Outcome:
    """One player's end of one campaign.

    Args:
        kind: What was true.
        is_promoted: Whether an adapter was.
        is_wrong: Whether it does not truly meet the gate.
        is_missed: Whether some instrument would have met the gate and nothing was promoted.
        hours: Training and evaluation until the end.
        runs: Trainings.
        rule: What ended it.
    """

    kind: Kind
    is_promoted: bool
    is_wrong: bool
    is_missed: bool
    hours: float
    runs: int
    rule: str

    @property
    def is_right(self) -> bool:
        """Whether the verdict is the right one: the promotion deserved, or nothing there to promote."""
        return not (self.is_wrong or self.is_missed)

    @property
    def hours_to_verdict(self) -> float:
        """Hours to the right verdict; a wrong or a missing one costs the whole budget."""
        return self.hours if self.is_right else BUDGET_H

    @classmethod
    def of(cls, world: World, promoted: Weights | None, hours: float, runs: int, rule: str) -> Self:
        """Return how a campaign ended; a promotion of what does not deserve it is wrong even where none was missed."""
        return cls(
            kind=world.truth.kind,
            is_promoted=promoted is not None,
            is_wrong=promoted is not None and not world.deserves(promoted),
            is_missed=promoted is None and world.truth.is_promotable,
            hours=hours,
            runs=runs,
            rule=rule,
        )
