from pathlib import Path
from typing import Any

import pytest

from state.errors import ConfigError
from tests.tools.evaluation.worlds import write_lines
from tools.data.cases import iter_pairs
from tools.data.rows import Row

ASK = {"role": "user", "content": "ask"}
ANSWER = {"role": "assistant", "content": "a"}
PLAIN: dict[str, Any] = {"prompt": "ask", "chosen": "good", "rejected": "bad"}


def read(folder: Path, *rows: dict[str, Any]) -> list[Row]:
    return list(iter_pairs(write_lines(folder / "pairs.jsonl", list(rows))))


def test_strings_and_messages_say_the_same(tmp_path: Path) -> None:
    messages = {
        "prompt": [ASK],
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": "bad"}],
    }
    one, two = read(tmp_path, PLAIN, messages)
    assert (one.line, one.messages, one.prompt, one.sides) == (1, [ASK], "ask", ("good", "bad"))
    assert (two.line, two.messages, two.prompt, two.sides) == (2, [ASK], "ask", ("good", "bad"))
    assert one.plain[0] == {"messages": [ASK, {"role": "assistant", "content": "good"}]}


@pytest.mark.parametrize("prompt", [{}, {"prompt": "ask"}, {"prompt": [ASK]}])
def test_two_whole_conversations_are_a_pair_with_the_turns_that_they_share(
    tmp_path: Path, prompt: dict[str, Any]
) -> None:
    said = {
        key: [ASK, {"role": "assistant", "content": text}] for key, text in (("chosen", "good"), ("rejected", "bad"))
    }
    [one] = read(tmp_path, prompt | said)
    assert (one.messages, one.sides) == ([ASK], ("good", "bad"))


def test_a_rows_own_system_text_and_tools_are_kept_and_other_keys_left_alone(tmp_path: Path) -> None:
    brief = {"role": "system", "content": "be brief"}
    with_system, with_both, with_tools = read(
        tmp_path,
        PLAIN | {"system": "be brief", "score": 3},
        PLAIN | {"system": "ignored", "prompt": [brief, ASK]},
        PLAIN | {"tools": [{"name": "look"}], "rejected": ""},
    )
    assert with_system.messages == with_both.messages == [brief, ASK]
    assert with_tools.plain[1]["tools"] == [{"name": "look"}]
    assert with_tools.sides[1] == "", "saying nothing is an answer"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"chosen": None}, "`chosen` is null, not a string or a list of messages"),
        ({"rejected": []}, "`rejected` is not a list with at least one message"),
        ({"rejected": ["bad", "worse"]}, "`rejected` is a list of answers"),
        ({"prompt": " "}, "`prompt` is blank"),
        ({"prompt": ["ask"]}, "message 1 of `prompt` is not an object with a `role`"),
        ({"prompt": [ASK, {"role": "user"}]}, "message 2 of `prompt` (user) has no text in `content`"),
        (
            {"prompt": [ASK, {"role": "assistant", "content": "good"}]},
            "`prompt` ends with the assistant's answer, which belongs to `chosen` and `rejected`",
        ),
        ({"chosen": [ASK]}, "the last message of `chosen` is from `user`: there is no answer to learn"),
        (
            {"chosen": [{**ASK, "content": "other"}, ANSWER]},
            "`chosen` is a conversation of user, assistant; it must be one message of the assistant",
        ),
        (
            {key: [{**ASK, "content": "other"}, ANSWER] for key in ("chosen", "rejected")},
            "`chosen` and `rejected` answer another turn than `prompt`",
        ),
        ({"rejected": "good"}, "`chosen` and `rejected` are the same text, so there is nothing to prefer"),
        ({"system": 3}, "`system` is a number, not a string"),
    ],
)
def test_a_row_that_is_no_pair_is_refused_by_its_line(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, PLAIN, PLAIN | change)
    assert caught.value.sentence == f"{tmp_path / 'pairs.jsonl'}:2: {fault}."


@pytest.mark.parametrize(
    ("row", "fix"),
    [
        ({"instruction": "ask", "chosen": "a", "rejected": "b"}, "Rename `instruction` to `prompt`"),
        ({"conversations": [{"from": "human"}], "chosen": {"value": "a"}, "rejected": {}}, "LLaMA-Factory's form"),
    ],
)
def test_pairs_of_other_tools_are_refused_with_what_makes_ours_of_them(
    tmp_path: Path, row: dict[str, Any], fix: str
) -> None:
    with pytest.raises(ConfigError, match=fix):
        read(tmp_path, row)


def test_a_missing_key_is_named_and_a_broken_line_is_that_of_any_data_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`rejected` is missing; a pair has `prompt`, `chosen` and `rejected`"):
        read(tmp_path, {"prompt": "ask", "chosen": "good"})
    with pytest.raises(ConfigError, match="does not exist"):
        list(iter_pairs(tmp_path / "none.jsonl"))
