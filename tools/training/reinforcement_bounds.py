"""What a run of rollouts must stay within, as numbers that guards can be held against; no MLX.

Each signal is relative to the run's own first updates. Not covered: a reward that is wrong on the held-out cases too;
that is for adversarial outputs to find before a run (P10).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pvariance
from typing import Any

from state.records import Json

FIRST_UPDATES = 5
"""Updates that the later ones are compared with; one update of few prompts is mostly chance."""

CERTAIN = 2.0
"""Standard errors by which a reward must have risen to count as risen."""

LEAST_GAIN = 0.02
"""Of a perfect answer's reward; a smaller rise is no reason to stop."""

HELD_OUT_SHARE = 0.25
"""Share of the reward's gain that the held-out score must show."""


@dataclass
class Bounds:
    """The bounds and where a run stands in them.

    Args:
        kl_ceiling: Divergence from the parent, nats per token; None for none.
        entropy_floor: Share of the first updates' entropy; None for none.
        length_jump: Factor on the first updates' length, either way; None for none.
        scale: What a perfect answer earns.
        notes: What the signals are made of, as JSON: a save keeps it.
    """

    kl_ceiling: float | None
    entropy_floor: float | None
    length_jump: float | None
    scale: float
    notes: Json = field(default_factory=dict)

    @property
    def fault(self) -> str:
        """The word of the first bound that is broken now, in the words of the guards; empty where none is."""
        observed = self.notes
        ratio = observed.get("length_ratio", 1.0)
        is_broken = {
            "kl_runaway": self.kl_ceiling is not None and observed.get("kl", 0.0) > self.kl_ceiling,
            "entropy_collapsed": self.entropy_floor is not None
            and observed.get("entropy_share", 1.0) < self.entropy_floor,
            "length_drift": self.length_jump is not None and not 1 / self.length_jump <= ratio <= self.length_jump,
            "reward_hacking": observed.get("reward_gap", 0.0) > 0,
        }
        return next((word for word, broken in is_broken.items() if broken), "")

    def learned(self, kl: float, entropy: float) -> None:
        """Take note of an update: divergence and entropy, nats per token."""
        first = self._first("entropy", entropy)
        self.notes |= {"kl": kl, "entropy_share": entropy / first if first > 0 else 1.0}

    def sampled(self, length: float, rewards: Sequence[float], *, has_references: bool = False) -> None:
        """Take note of rollouts.

        Answers on their way from the first updates' length to that of the references have not drifted (ratio 1), nor
        have those that get shorter while the reward rises for certain.

        Args:
            length: Mean length over what is usual for each case.
            rewards: Mean of each group.
            has_references: Whether what is usual is each case's reference, so that 1 is where answers should be.
        """
        first = self._first("length", length)
        low, high = (min(first, 1.0), max(first, 1.0)) if has_references else (first, first)
        ratio = length / min(max(length, low), high)
        early = self.notes.setdefault("early_rewards", [])
        if len(early) < FIRST_UPDATES:
            early.append(list(rewards))
        self.notes["late_rewards"] = [*self.notes.get("late_rewards", []), list(rewards)][-FIRST_UPDATES:]
        self.notes["updates"] = self.notes.get("updates", 0) + 1
        self.notes["length_ratio"] = max(1.0, ratio) if self._has_risen() else ratio

    def held_out(self, scores: Mapping[str, float]) -> Json:
        """Take note of the held-out cases' scores, [-1, 1] each; return the signals of a metrics row.

        Returns:
            `reward_gain`, the rollouts' reward over its first updates as a share of a perfect answer's;
            `held_out_gain`, the score over the parent's on the same cases, left out where none was measured twice;
            `reward_gap`, 1 where the first rose for certain and the second, a standard error added, shows less than a
            quarter of it.
        """
        first = self.notes.setdefault("held_out_first", dict(scores))
        changes = [scores[case] - first[case] for case in scores.keys() & first.keys()]
        gain, _ = self._reward_gain()
        self.notes["reward_gap"] = 0.0
        if not changes:
            return {"reward_gain": gain, "reward_gap": 0.0}
        held, unsure = fmean(changes), (pvariance(changes) / len(changes)) ** 0.5
        self.notes["reward_gap"] = float(self._has_risen() and held + unsure < HELD_OUT_SHARE * gain)
        return {"reward_gain": gain, "held_out_gain": held, "reward_gap": self.notes["reward_gap"]}

    def row(self) -> Json:
        """Return the signals of a metrics row that follow from updates."""
        return {name: self.notes[name] for name in ("entropy_share", "length_ratio") if name in self.notes}

    def _first(self, name: str, value: float) -> float:
        """Return the mean over the first updates, this one among them while they last."""
        values: list[float] = self.notes.setdefault(f"first_{name}", [])
        if len(values) < FIRST_UPDATES:
            values.append(value)
        return fmean(values)

    def _has_risen(self) -> bool:
        """Say whether the reward rose for certain over the first updates'."""
        gain, error = self._reward_gain()
        return self.notes.get("updates", 0) >= 2 * FIRST_UPDATES and gain > max(LEAST_GAIN, CERTAIN * error)

    def _reward_gain(self) -> tuple[float, float]:
        """Return how far the reward rose and the standard error of that, as shares of a perfect answer's."""
        early, late = ([each for row in self.notes.get(name, []) for each in row] for name in _REWARDS)
        if not early or not late:
            return 0.0, 0.0
        error: Any = (pvariance(early) / len(early) + pvariance(late) / len(late)) ** 0.5
        return (fmean(late) - fmean(early)) / self.scale, float(error) / self.scale


_REWARDS = ("early_rewards", "late_rewards")
