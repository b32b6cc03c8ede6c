import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.errors import ConfigError
from tools.data.cases import (
    DataSummary,
    SplitSummary,
    case_messages,
    check_data,
    check_split,
    iter_data,
    iter_split,
    read_split,
    user_prompt,
)
from tools.data.rows import TRAINED, form_of

CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
COMPLETIONS = {"prompt": "q", "completion": "a"}


def _file(folder: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    """Write rows: strings and bytes as they are, anything else as JSON."""
    lines = [
        row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode() for row in rows
    ]
    path = folder / name
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("row", "form"),
    [(CHAT, "chat"), (COMPLETIONS, "completions"), ({"text": "q"}, "text"), (CHAT | COMPLETIONS, "completions")],
)
def test_a_data_file_has_the_format_of_its_first_row(row: dict[str, Any], form: Any, tmp_path: Path) -> None:
    assert check_data(_file(tmp_path, row, row)) == DataSummary(form, 2)


@given(st.sets(st.sampled_from(["prompt", "completion", "messages", "text", "chosen", "rejected", "x"])))
def test_formats_are_told_apart_as_mlx_lm_does(keys: set[str]) -> None:
    form = form_of(dict.fromkeys(keys), TRAINED)
    if {"prompt", "completion"} <= keys:
        assert form == "completions"
    elif "messages" in keys:
        assert form == "chat"
    else:
        assert (form == "text") == ("text" in keys)


def test_rows_give_the_conversation_that_mlx_lm_would_build(tmp_path: Path) -> None:
    chat, completions = (next(iter_data(_file(tmp_path, row))) for row in (CHAT, COMPLETIONS))
    assert chat.messages == completions.messages == CHAT["messages"]
    assert next(iter_data(_file(tmp_path, {"text": "q"}))).messages == []


@pytest.mark.parametrize(
    ("rows", "line", "fault"),
    [
        ([CHAT, "{broken"], 2, "not JSON"),
        ([CHAT, ""], 2, "empty"),
        ([CHAT, "[1]"], 2, "a list, not an object"),
        ([CHAT, "null"], 2, "null, not an object"),
        ([CHAT, "17"], 2, "a number, not an object"),
        ([CHAT, b'{"text": "\xff"}'], 2, "not UTF-8 at byte 11"),
        ([CHAT, '{"text": NaN}'], 2, "NaN is no JSON value"),
        ([CHAT, '{"text": "\\ud800"}'], 2, "half of a pair of characters"),
        ([CHAT, '{"text": "q"'], 2, "not JSON: Expecting ',' delimiter at column 13"),
        ([CHAT, "[" * 100_000], 2, "not JSON"),
        ([b"\xef\xbb\xbf" + json.dumps(CHAT).encode()], 1, "byte order mark"),
        ([{"question": "q"}], 1, "the row has question"),
        ([{}], 1, "nothing"),
        ([{"prompt": "q", "chosen": "a", "rejected": "b"}], 1, "`data.pairs`"),
        ([{"instruction": "q", "output": "a"}], 1, "This is Alpaca's form"),
        ([CHAT, COMPLETIONS], 2, "`messages` is missing; the first row has it"),
        ([{"messages": [{"role": "human", "content": "q"}]}], 1, "the role `human`"),
        ([{"messages": [{"role": "user", "content": []}]}], 1, "in parts; write it as one string"),
        ([COMPLETIONS, {"prompt": "q"}], 2, "`completion` is missing"),
        ([COMPLETIONS, {"prompt": 3, "completion": "a"}], 2, "`prompt` is a number"),
        ([COMPLETIONS, {"prompt": "q", "completion": None}], 2, "`completion` is null"),
        ([{"text": "a"}, {"text": "  "}], 2, "`text` is blank"),
        ([{"messages": []}], 1, "at least one message"),
        ([{"messages": "q"}], 1, "not a list"),
        ([{"messages": ["q"]}], 1, "message 1"),
        ([{"messages": [{"content": "q"}]}], 1, "`role`"),
        ([{"messages": [{"role": "user", "content": 1}]}], 1, r"message 1 \(user\)"),
        ([{"messages": CHAT["messages"][:1]}], 1, "no answer to learn"),
    ],
)
def test_a_bad_data_row_is_named_by_file_and_line(rows: list[Any], line: int, fault: str, tmp_path: Path) -> None:
    path = _file(tmp_path, *rows)
    with pytest.raises(ConfigError, match=fault) as caught:
        check_data(path)
    assert caught.value.where == f"{path}:{line}"
    assert caught.value.sentence.startswith(f"{path}:{line}: ")
    assert "\n" not in caught.value.sentence


def test_rows_before_a_bad_one_are_delivered_because_files_are_streamed(tmp_path: Path) -> None:
    rows = iter_data(_file(tmp_path, CHAT, "{broken"))
    assert next(rows).line == 1
    with pytest.raises(ConfigError):
        next(rows)


def test_missing_empty_and_wrong_kinds_of_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        check_data(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="is a folder"):
        check_split(tmp_path)
    with pytest.raises(ConfigError, match="is empty"):
        check_data(_file(tmp_path))


def test_a_file_that_cannot_be_read_is_the_user_s_to_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file(tmp_path, CHAT)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("state.files.os.open", refuse)
    with pytest.raises(ConfigError, match="permission denied"):
        check_data(path)


def test_a_text_file_has_no_prompt_to_mask(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mask_prompt"):
        check_data(_file(tmp_path, {"text": "q"}), mask_prompt=True)
    assert check_data(_file(tmp_path, CHAT), mask_prompt=True).rows == 1


def test_an_empty_answer_and_a_tool_call_are_rows_one_can_learn_from(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"type": "function"}]}
    assert check_data(_file(tmp_path, {"prompt": "q", "completion": ""})).rows == 1
    assert check_data(_file(tmp_path, {"messages": [CHAT["messages"][0], call]})).rows == 1


def test_a_split_is_read_whole_with_its_extra_fields(tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": "p", "reference": "r", "rows": 4}, {"id": 7, "messages": CHAT["messages"][:1]}]
    cases = read_split(_file(tmp_path, *rows))
    assert cases == [rows[0], rows[1] | {"id": "7"}]
    assert check_split(_file(tmp_path, *rows)) == SplitSummary(cases=2, references=1)


def test_a_case_without_an_id_is_named_after_its_line(tmp_path: Path) -> None:
    assert [case["id"] for case in iter_split(_file(tmp_path, {"prompt": "a"}, {"prompt": "b"}))] == [
        "line-1",
        "line-2",
    ]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"id": "b"}, "neither `prompt` nor `messages`"),
        ({"id": "b", "prompt": ""}, "`prompt` is blank"),
        ({"id": "b", "prompt": ["p"]}, "`prompt` is a list"),
        ({"id": "b", "prompt": "p", **CHAT}, "both `prompt` and `messages`"),
        ({"id": "b", **CHAT}, "move it to `reference`"),
        ({"id": "b", "prompt": "p", "reference": 3}, "`reference` is a number"),
        ({"id": "a", "prompt": "p"}, "that of line 1 too"),
        ({"id": "", "prompt": "p"}, "`id` is blank"),
        ({"id": True, "prompt": "p"}, "`id` is true or false"),
        ({"id": None, "prompt": "p"}, "`id` is null"),
    ],
)
def test_a_bad_case_is_named_by_file_and_line(row: dict[str, Any], fault: str, tmp_path: Path) -> None:
    path = _file(tmp_path, {"id": "a", "prompt": "p"}, row)
    with pytest.raises(ConfigError, match=fault) as caught:
        check_split(path)
    assert caught.value.where == f"{path}:2"


def test_a_case_becomes_a_conversation_up_to_the_model_s_turn() -> None:
    user = {"role": "user", "content": "q"}
    system = {"role": "system", "content": "s"}
    assert case_messages({"prompt": "q"}) == case_messages({"messages": [user]}) == [user]
    assert case_messages({"prompt": "q"}, "s") == [system, user]
    assert case_messages({"messages": [system, user]}, "other") == [system, user]


def test_the_user_s_last_words_are_found_in_every_format() -> None:
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}, {"role": "user", "content": "3"}]
    assert user_prompt({"messages": turns}) == "3"
    assert user_prompt(COMPLETIONS) == "q"
    assert user_prompt({"text": "t"}) == "t"
    assert user_prompt({"messages": turns[1:2]}) == ""


def test_a_line_beyond_what_any_model_reads_is_refused_by_file_and_line_without_being_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.data.rows.MOST_LINE_BYTES", 100)
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "a"}\n{"text": "' + "a" * 87 + '"}\n{"text": "' + "a" * 200 + '"}\n')
    with pytest.raises(ConfigError, match=r"train\.jsonl:3: the line has more than"):
        check_data(path)
