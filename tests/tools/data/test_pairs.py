from pathlib import Path
from typing import Any

import pytest

from state.errors import ConfigError
from tests.tools.evaluation.worlds import write_lines
from tools.data.pairs import PairRow, iter_pairs

ASK = {"role": "user", "content": "ask"}
PLAIN: dict[str, Any] = {"prompt": "ask", "chosen": "good", "rejected": "bad"}


def read(folder: Path, *rows: dict[str, Any]) -> list[PairRow]:
    return list(iter_pairs(write_lines(folder / "pairs.jsonl", list(rows))))


def test_strings_and_messages_say_the_same(tmp_path: Path) -> None:
    messages = {
        "prompt": [ASK],
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": "bad"}],
    }
    one, two = read(tmp_path, PLAIN, messages)
    assert one == PairRow(1, [ASK], "good", "bad")
    assert (two.messages, two.chosen, two.rejected, two.line) == (one.messages, one.chosen, one.rejected, 2)
    assert one.conversation(one.chosen) == {"messages": [ASK, {"role": "assistant", "content": "good"}]}


def test_a_rows_own_system_text_and_tools_are_kept_and_other_keys_left_alone(tmp_path: Path) -> None:
    brief = {"role": "system", "content": "be brief"}
    with_system, with_both, with_tools = read(
        tmp_path,
        PLAIN | {"system": "be brief", "score": 3},
        PLAIN | {"system": "ignored", "prompt": [brief, ASK]},
        PLAIN | {"tools": [{"name": "look"}], "rejected": ""},
    )
    assert with_system.messages == with_both.messages == [brief, ASK]
    assert with_tools.conversation("x")["tools"] == [{"name": "look"}]
    assert with_tools.rejected == "", "saying nothing is an answer"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"chosen": None}, "`chosen` is neither a string nor a list of messages"),
        ({"rejected": []}, "`rejected` is neither a string nor a list of messages"),
        ({"prompt": " "}, "`prompt` is blank"),
        ({"prompt": ["ask"]}, "message 1 of `prompt` has no `role` and `content`"),
        ({"prompt": [ASK, {"role": "user"}]}, "message 2 of `prompt` has no `role` and `content`"),
        (
            {"prompt": [ASK, {"role": "assistant", "content": "good"}]},
            "`prompt` ends with the assistant's answer, which belongs to `chosen` and `rejected`",
        ),
        ({"chosen": [ASK]}, "`chosen` is a conversation of user; it must be one message of the assistant"),
        ({"rejected": "good"}, "`chosen` and `rejected` are the same text, so there is nothing to prefer"),
        ({"system": 3}, "`system` is not a string"),
    ],
)
def test_a_row_that_is_no_pair_is_refused_by_its_line(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, PLAIN, PLAIN | change)
    assert caught.value.sentence == f"{tmp_path / 'pairs.jsonl'}:2: {fault}."


def test_a_missing_key_is_named_and_a_broken_line_is_that_of_any_data_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`rejected` is missing; a pair has `prompt`, `chosen` and `rejected`"):
        read(tmp_path, {"prompt": "ask", "chosen": "good"})
    with pytest.raises(ConfigError, match="does not exist"):
        list(iter_pairs(tmp_path / "none.jsonl"))
