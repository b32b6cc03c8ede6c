"""The lab's published figures (facts/lab.md sections 3.4 and 3.5), and tables made of scores."""

from collections.abc import Mapping, Sequence

from policies.comparison import CaseTable, Mean
from state.goal import Condition, Gate
from state.records import Side, SplitUse

REASON = "the lab compared bare numbers"

GATE = Gate(
    primary="5",
    conditions=(
        Condition(id="1", metric="regular.composite", against="parent", min=-0.005, test="plain", reason=REASON),
        Condition(id="2", metric="regular.data_preservation", against="parent", min=0, test="plain", reason=REASON),
        Condition(id="3", metric="regular.rh", statistic="count", against="parent", max=0, test="plain", reason=REASON),
        Condition(
            id="4",
            any_of=("regular.unit", "regular.format", "regular.completeness"),
            against="parent",
            min=0.02,
            test="plain",
            reason=REASON,
        ),
        Condition(id="5", metric="stress.data_preservation", min=0.85, test="plain", reason=REASON),
    ),
)
"""The lab's gate v1."""


def figures(composite: float, preservation: float, unit: float, stress: float) -> dict[str, Mean]:
    """Return one column of the lab's tables; 80 regular cases and 40 stress cases."""
    regular = {
        "composite": composite,
        "data_preservation": preservation,
        "rh": 1 - preservation,
        "unit": unit,
        "format": 1.0,
        "completeness": 1.0,
    }
    means = {f"regular.{name}": Mean(mean=mean, n=80) for name, mean in regular.items()}
    return {**means, "stress.data_preservation": Mean(mean=stress, n=40)}


BASE = figures(0.9569, 0.975, 0.8625, 0.20)
CYCLES = {
    "v1": figures(0.9956, 0.9875, 1.0, 0.25),
    "v2": figures(0.9912, 0.975, 1.0, 0.25),
    "v3": figures(0.9912, 0.975, 1.0, 0.25),
    "dpo_v0": figures(0.9506, 0.975, 0.8375, 0.20),
}


def lab_table(cycle: str) -> CaseTable:
    """Return one cycle beside the base; the lab published no cases."""
    return CaseTable(means={"parent": BASE, "base": BASE, "candidate": CYCLES[cycle]})


USES: tuple[SplitUse, ...] = ("confirmation", "selection")


def table(**sides: Mapping[str, Sequence[float | None]]) -> CaseTable:
    """Return a table from side -> `split.metric` -> one score per case, the same on both uses."""
    cells: dict[Side, dict[str, dict[SplitUse, dict[str, dict[str, float | None]]]]] = {}
    names: dict[str, Side] = {"base": "base", "parent": "parent", "candidate": "candidate"}
    for side, metrics in sides.items():
        for metric, scores in metrics.items():
            split, _, name = metric.partition(".")
            for use in USES:
                rows = cells.setdefault(names[side], {}).setdefault(split, {}).setdefault(use, {})
                for index, score in enumerate(scores):
                    rows.setdefault(f"case_{index:03d}", {})[name] = score
    return CaseTable(cells=cells)


def ones(passed: int, n: int) -> Sequence[float]:
    """Return 0/1 scores, the passed cases first."""
    return [float(index < passed) for index in range(n)]
