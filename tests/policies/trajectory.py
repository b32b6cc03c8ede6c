"""A published log in the shape of the lab's, written compactly from its figures, and the harness file beside it."""

import copy
from typing import Any

from policies.replay.published import PublishedCycle, PublishedHarness, published_trajectory
from policies.replay.records import Cycle, Replay, ReplayedCycle, ReplayFinding, Trajectory
from policies.replay.verdicts import replay

Json = dict[str, Any]

MODEL = "base-3b-4bit"
"""What the log calls the untouched model."""

ROWS: tuple[int, ...] = (24, 17, 25, 16, 24, 20, 18, 15, 23, 24, 15, 22, 24, 23, 16, 25, 25, 17, 23, 19)
ROWS += (22, 24, 21, 16, 20, 22, 17, 21, 24, 25, 19, 17, 22, 16, 22, 25, 24, 22, 22, 20)
"""Rows of the 40 stress tables; ten have 17 or fewer."""


def regular(composite: float, preservation: float, unit: float, completeness: float = 1.0) -> Json:
    """Return one column of the regular table, 80 cases."""
    return {
        "n": 80,
        "composite": composite,
        "hard_fail_rate": 0.0,
        "data_preservation": preservation,
        "format_validity": 1.0,
        "unit_consistency": unit,
        "completeness": completeness,
        "rh_like": round(80 * (1 - preservation)),
    }


def stress(composite: float, preservation: float, unit: float) -> Json:
    """Return one column of the stress table, 40 cases."""
    column = regular(composite, preservation, unit)
    return {**column, "n": 40, "rh_like": round(40 * (1 - preservation))}


BASE = {"regular": regular(0.9569, 0.975, 0.8625), "stress": stress(0.645, 0.2, 0.7)}
_EARLIER_BASE = {**BASE, "stress": stress(0.6512, 0.2, 0.725)}


def condition(name: str, op: str, threshold: float, value: float | None, passed: bool | None) -> Json:  # noqa: FBT001 - columns of a table
    """Return one recorded condition."""
    return {"name": name, "op": op, "threshold": threshold, "value": value, "passed": passed}


def gate(*rows: tuple[str, str, float, float | None, bool | None]) -> Json:
    """Return a recorded gate."""
    said = [row[4] for row in rows]
    return {
        "name": "gate",
        "conditions": [condition(*row) for row in rows],
        "passed": None if None in said else all(said),
    }


def gate_v1(values: tuple[float, ...], passed: str) -> Json:
    """Return the lab's five conditions; `passed` has one letter each, P or F."""
    asked = (
        ("composite_delta", ">=", -0.005),
        ("data_preservation_delta", ">=", 0.0),
        ("rh_like_delta", "<=", 0),
        ("best_of_unit_format_completeness_delta", ">=", 0.02),
        ("stress_data_preservation_mean", ">=", 0.85),
    )
    rows = [(*row, value, letter == "P") for row, value, letter in zip(asked, values, passed, strict=True)]
    return gate(*rows)


def _trace(correct: int, prospective: int, partial: int) -> Json:
    return {
        "n": 12,
        "overall_correct": correct,
        "prospective": [prospective, 6],
        "parse_errors": 0,
        "partial_parses": partial,
    }


LOG: list[Json] = [
    {"id": "trace_base", "track": "A", "instrument": "none", "regular": _trace(0, 0, 12), "base": None, "gate": None},
    {
        "id": "trace_sft",
        "track": "A",
        "instrument": "sft",
        "regular": _trace(9, 3, 0),
        "base": {"regular": _trace(0, 0, 12), "stress": None},
        "gate": None,
        "train": {"wall_minutes": 4},
    },
    {
        "id": "trace_dpo_v0",
        "track": "A",
        "instrument": "dpo",
        "regular": None,
        "base": {"expected_correct": 9, "measured_fused_baseline_correct": 0},
        "gate": {
            **gate(("fused_baseline", "abs_delta<=", 1, 9, False), ("tier_accuracy>=9/12", ">=", 9, None, None)),
            "passed": False,
        },
        "train": {"loss_curve": [{"iter": 1, "train_loss": 0.693}, {"iter": None, "train_loss": 0.001}]},
        "artifact_bytes": {"base_4bit": 1736293090, "fused_no_dequantize": 1736292896, "adapter": 26631752},
    },
    {
        "id": "trace_dpo_v1",
        "track": "A",
        "instrument": "dpo",
        "regular": _trace(12, 6, 0),
        "base": {"regular": _trace(9, 3, 0), "stress": None},
        "gate": gate(
            ("fused_baseline", "abs_delta<=", 1, 0, True),
            ("tier_accuracy", ">=", 9, 12, True),
            ("prospective_and_flip", ">=", 4, 6, True),
            ("parse_errors", "==", 0, 0, True),
            ("regressions", "==", 0, 0, True),
        ),
        "bucket": "A",
        "train": {
            "loss_curve": [{"iter": 1, "val_loss": 0.693}, {"iter": 150, "train_loss": 0.003}],
            "wall_minutes": 6.92,
        },
    },
    {
        "id": "collab_base",
        "track": "B",
        "instrument": "none",
        "recipe": {"model": MODEL},
        **BASE,
        "base": None,
        "gate": gate(("composite_mean", ">=", 0.3, 0.9569, True), ("hard_fail_rate", "<=", 0.4, 0.0, True)),
    },
    {
        "id": "collab_sft_v0",
        "track": "B",
        "instrument": "sft",
        "recipe": {"model": MODEL, "rank": 8, "epochs_approx": 16, "iters": 1000, "batch_size": None},
        "regular": {**regular(0.911, 0.75, 1.0, 0.99)},
        "stress": None,
        "base": BASE,
        "gate": gate(
            ("composite_delta", ">=", 0.1, -0.0459, False),
            ("hard_fail_delta", "<=", 0, 0, True),
            ("format_validity_delta", ">=", 0, 0, True),
            ("rh_like_delta", "<=", 0, 18, False),
        ),
        "train": {"wall_minutes": None},
    },
    {
        "id": "collab_sft_v1",
        "track": "B",
        "instrument": "sft",
        "recipe": {"model": MODEL, "rank": 4, "iters": 200},
        "data": {"total": 320, "deletion_events": 147, "deletion_ratio_regular": 0.612},
        "regular": regular(0.9956, 0.9875, 1.0),
        "stress": stress(0.7375, 0.25, 1.0),
        "base": _EARLIER_BASE,
        "gate": gate_v1((0.0387, 0.0125, -1, 0.1375, 0.25), "PPPPF"),
        "train": {"s_per_iter": 2.4},
    },
    {
        "id": "collab_sft_v2",
        "track": "B",
        "instrument": "sft",
        "recipe": {"model": MODEL, "rank": 4, "iters": 300},
        "data": {"total": 480},
        "regular": regular(0.9912, 0.975, 1.0),
        "stress": stress(0.7375, 0.25, 1.0),
        "base": BASE,
        "gate": gate_v1((0.0343, 0, 0, 0.1375, 0.25), "PPPPF"),
        "bucket": "C",
        "train": {"wall_minutes": 61, "estimated_wall_before_run_minutes": [10, 15]},
    },
    {
        "id": "collab_sft_v3",
        "track": "B",
        "instrument": "sft_curriculum",
        "recipe": {"model": MODEL, "rank": 4},
        "data": {"total": 480, "phases": 2},
        "regular": regular(0.9912, 0.975, 1.0),
        "stress": stress(0.7375, 0.25, 1.0),
        "base": BASE,
        "gate": gate_v1((0.0343, 0, 0, 0.1375, 0.25), "PPPPF"),
        "bucket": "D",
        "train": {
            "wall_minutes": None,
            "wall_minutes_by_phase": [35, 28],
            "resume_check": {"phase2_iter1_val": 0.388, "fresh_start_val": 1.109},
        },
    },
    {
        "id": "collab_dpo_v0",
        "track": "B",
        "instrument": "dpo",
        "recipe": {"model": "fused third run", "rank": 8},
        "data": {"train_pairs": 80, "drop_fraction": [0.3, 0.7]},
        "regular": regular(0.9506, 0.975, 0.8375),
        "stress": stress(0.6325, 0.2, 0.65),
        "base": BASE,
        "eval_base_model_reported": MODEL,
        "gate": gate_v1((-0.0063, 0, 0, 0.0, 0.2), "FPPFF"),
        "bucket": "D",
        "train": {
            "loss_curve": [
                {"iter": 1, "val_loss": 0.693},
                {"iter": 10, "train_loss": 0.467},
                {"iter": 50, "train_loss": 0.002},
                {"iter": 150, "train_loss": 0.001},
            ],
            "wall_minutes": 23,
            "estimated_wall_before_run_minutes": [80, 120],
        },
    },
]

HARNESS: Json = {
    "max_tokens": 512,
    "gate": {"metric": "stress.data_preservation", "min": 0.85},
    "measured": {"base": 0.2, "collab_sft_v1": 0.25},
    "cases": [{"rows": rows, "gold_tokens": 30 * rows, "rows_counted_at_512": min(rows, 17)} for rows in ROWS],
}


def log(**changes: Json) -> list[Json]:
    """Return the log with some cycles changed, by id."""
    return [copy.deepcopy({**entry, **changes.get(entry["id"], {})}) for entry in LOG]


def trajectory(entries: list[Json], harness: Json | None = None) -> Trajectory:
    """Return entries as a trajectory."""
    known = None if harness is None else PublishedHarness.model_validate(harness)
    return published_trajectory([PublishedCycle.model_validate(entry) for entry in entries], known)


def cycle(entry: Json) -> Cycle:
    """Return one entry as a cycle."""
    return trajectory([entry]).cycles[0]


def replayed(entries: list[Json], harness: Json | None = None) -> Replay:
    """Return entries, judged again."""
    return replay(trajectory(entries, harness))


def one(found: Replay, name: str) -> ReplayedCycle:
    """Return one cycle of a replay."""
    return next(row for row in found.cycles if row.id == name)


def finding(row: ReplayedCycle, mode: str, claim: str = "") -> ReplayFinding | None:
    """Return a cycle's first finding of a mode."""
    return next((f for f in row.findings if f.mode == mode and claim in {"", f.claim}), None)
