"""Which cases belong to selection and which to confirmation; the two never share a case."""

import hashlib
from pathlib import Path

from state.errors import ConfigError
from state.goal import Goal
from state.records import Json, SplitUse
from tools.tracks.formats import iter_split

_BUCKETS = 1 << 32


def is_confirmation(case_id: str, share: float) -> bool:
    """Say on which side a case of a shared file falls; it depends on the case alone, so adding cases moves none.

    Args:
        case_id: The case's id.
        share: Share of cases for confirmation, (0, 1).
    """
    digest = hashlib.sha256(case_id.encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * _BUCKETS


def split_inputs(goal: Goal, folder: Path, use: SplitUse) -> list[Json]:
    """Return the worker's description of each split for one use.

    Args:
        goal: The campaign.
        folder: Folder of the campaign file.
        use: selection or confirmation.

    Returns:
        Rows `{"name", "use", "file", "case_ids"}`; `case_ids` is None when the whole file counts.

    Raises:
        ConfigError: A file that is shared by both uses leaves one of them empty.
    """
    rows: list[Json] = []
    for name, split in goal.evaluation.splits.items():
        own = split.selection if use == "selection" else split.confirmation
        if split.file is None:
            rows.append({"name": name, "use": use, "file": str((folder / str(own)).resolve()), "case_ids": None})
            continue
        path = (folder / split.file).resolve()
        wanted = use == "confirmation"
        ids = [
            str(case["id"])
            for case in iter_split(path)
            if is_confirmation(str(case["id"]), split.confirmation_share) is wanted
        ]
        if not ids:
            raise ConfigError(
                f"{path}: none of its cases falls into {use}; add cases, or name one file for each use.",
                what=f"evaluation.splits.{name}",
                where=str(path),
            )
        rows.append({"name": name, "use": use, "file": str(path), "case_ids": ids})
    return rows


def all_split_inputs(goal: Goal, folder: Path) -> list[Json]:
    """Return both uses of each split, selection first."""
    return [*split_inputs(goal, folder, "selection"), *split_inputs(goal, folder, "confirmation")]
