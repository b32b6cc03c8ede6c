"""How long training steps took on this machine, remembered for campaigns to come.

One small file of the user's state folder: weights -> what each job was timed at. A broken file is begun anew, and two
campaigns that write at once may forget each other's last job: the next estimate is a little wider, nothing else.
"""

from typing import Any

from state.files import read_json, write_json
from state.paths import MachinePaths

LEAST_S = 60.0
"""Shorter trainings are compiling and loading more than training."""

MOST_JOBS = 32
"""Jobs remembered of one model, the latest."""

_KEYS = ("instrument", "batch_size", "padded_tokens", "seconds")


def remember(paths: MachinePaths, weights: str, job: str, row: dict[str, Any], trained_s: float) -> None:
    """Remember one training.

    Args:
        paths: The machine's.
        weights: Hash of the base weights.
        job: Key of the action; the same job twice is remembered once.
        row: `instrument`, `batch_size`, `padded_tokens` (per row) and `seconds` (per step).
        trained_s: Seconds of its steps together; too few are not worth remembering.

    Side effects: rewrites the machine's file of steps.
    """
    if trained_s < LEAST_S:
        return
    known = _read(paths)
    rows = known.get(weights, [])
    if any(each["job"] == job for each in rows):
        return
    added = {"job": job, **{key: row[key] for key in _KEYS}}
    write_json(paths.steps, {**known, weights: [*rows, added][-MOST_JOBS:]})


def remembered(paths: MachinePaths, weights: str, but: frozenset[str] = frozenset()) -> dict[str, list[dict[str, Any]]]:
    """Return instrument -> what trainings of these weights were timed at, the jobs in `but` left out."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for row in _read(paths).get(weights, []):
        if row["job"] not in but:
            sample = {key: row[key] for key in _KEYS if key != "instrument"}
            by_kind.setdefault(str(row["instrument"]), []).append(sample)
    return by_kind


def _read(paths: MachinePaths) -> dict[str, list[dict[str, Any]]]:
    try:
        known = read_json(paths.steps)
    except (ValueError, OSError):
        return {}
    wanted = {"job", *_KEYS}
    is_whole = isinstance(known, dict) and all(
        isinstance(rows, list) and all(isinstance(row, dict) and wanted == row.keys() for row in rows)
        for rows in known.values()
    )
    return known if is_whole and isinstance(known, dict) else {}
