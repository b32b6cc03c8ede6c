"""Groups of training rows, and a copy of a file in which some groups stand several times."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from state.errors import ConfigError
from state.files import write_atomic
from tools.data.cases import iter_data


def group_of(row: Mapping[str, Any], key: str) -> str:
    """Return the group that a row names under a key; empty where it names none."""
    value = row.get(key)
    return "" if value is None else str(value)


def count_groups(rows: Iterable[Mapping[str, Any]], key: str) -> dict[str, int]:
    """Return how many rows each group has, the largest first."""
    return dict(Counter(group_of(row, key) for row in rows).most_common())


def write_balanced(source: Path, target: Path, key: str, times: Mapping[str, int]) -> None:
    """Write a file of training rows in which each row stands as often as its group is asked for.

    The copies follow the whole file, so that no two of one row stand side by side.

    Args:
        source: A training file in one of mlx-lm's forms.
        target: Where to write; nothing is written where it stands already.
        key: What names a row's group.
        times: Group -> how often; once where left out.

    Raises:
        ConfigError: As `iter_data`; or a group has no row.
    """
    if target.is_file():
        return
    rows = [item.data for item in iter_data(source)]
    groups = [group_of(row, key) for row in rows]
    if missing := sorted(set(times) - set(groups)):
        raise ConfigError(
            f"{source}: no row has {key} {missing[0]!r}, which a run is to see {times[missing[0]]} times; put the rows "
            "back or take the run out.",
            what=key,
            where=str(source),
        )
    most = max(times.values(), default=1)
    again = [row for turn in range(most) for row, group in zip(rows, groups, strict=True) if turn < times.get(group, 1)]
    write_atomic(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in again))
