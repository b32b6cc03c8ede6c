import json
from collections import Counter
from pathlib import Path

import pytest

from state.errors import ConfigError
from tools.data.balance import count_groups, write_balanced

ROWS = [{"text": f"row {n}", **({"kind": "rare"} if n == 3 else {"kind": 7} if n < 3 else {})} for n in range(6)]


def file_of(folder: Path) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_groups_are_counted_the_largest_first_and_rows_without_one_together() -> None:
    assert list(count_groups(ROWS, "kind").items()) == [("7", 3), ("", 2), ("rare", 1)]


def test_a_row_stands_as_often_as_its_group_is_asked_for_and_never_beside_itself(tmp_path: Path) -> None:
    target = tmp_path / "made" / "balanced.jsonl"
    write_balanced(file_of(tmp_path), target, "kind", {"rare": 3, "": 2})
    texts = [json.loads(line)["text"] for line in target.read_text().splitlines()]
    assert Counter(texts) == {"row 0": 1, "row 1": 1, "row 2": 1, "row 3": 3, "row 4": 2, "row 5": 2}
    assert texts[:6] == [row["text"] for row in ROWS], "the file as it is comes first"
    written = target.stat().st_mtime_ns
    write_balanced(file_of(tmp_path), target, "kind", {"rare": 2})
    assert target.stat().st_mtime_ns == written, "what a run was given stays"


def test_a_group_that_is_gone_is_named_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no row has kind 'lost'"):
        write_balanced(file_of(tmp_path), tmp_path / "out.jsonl", "kind", {"lost": 2})
