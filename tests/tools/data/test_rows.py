"""Rows of every form that mlx-lm and mlx-lm-lora take, however broken."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.audit import audit
from state.files import UnreadableError
from tests.faults.failure_modes.projects import rows_of, write_rows
from tests.tools.probes.looks import look, of, only, project, settings, why_not
from tools.data.rows import Bounds, DataFile, Features, Row, fault_of, form_of, iter_lines, text_of

F = Features()
USER = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("data", "form"),
    [
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, "pairs"),
        ({"prompt": "p", "completion": "c"}, "completions"),
        ({"messages": []}, "chat"),
        ({"text": "t"}, "text"),
        ({"prompt": "p", "answer": "a"}, "prompts"),
        ({"question": "q"}, "other"),
    ],
)
def test_a_form_is_told_by_the_keys_of_the_first_row(data: dict[str, Any], form: str) -> None:
    assert form_of(data, F) == form


@pytest.mark.parametrize(
    ("form", "data", "said", "is_fatal"),
    [
        ("completions", {"prompt": "p"}, "`completion` is missing", True),
        ("completions", {"prompt": " ", "completion": "c"}, "`prompt` is blank", False),
        ("text", {"text": ["t"]}, "`text` is a list, not a string", True),
        ("text", {"text": {"a": 1}}, "`text` is an object", True),
        ("text", {"text": True}, "`text` is true or false", True),
        ("text", {"text": 7}, "`text` is a number", True),
        ("chat", {}, "`messages` is missing", True),
        ("chat", {"messages": []}, "not a list with at least one message", True),
        ("chat", {"messages": ["q"]}, "message 1 is not an object", True),
        ("chat", {"messages": [{"role": "user"}, ANSWER]}, "message 1 (user) has no text", False),
        ("chat", {"messages": [USER]}, "there is no answer to learn", False),
        ("pairs", {"chosen": "c"}, "`rejected` is missing", True),
        ("pairs", {"chosen": "c", "rejected": 7}, "`rejected` is a number", True),
        ("pairs", {"chosen": [], "rejected": "r"}, "`chosen` is not a list", True),
        ("pairs", {"chosen": "c", "rejected": "r", "prompt": 7}, "`prompt` is a number", True),
        ("prompts", {"answer": "a"}, "`prompt` is missing", True),
        ("prompts", {"prompt": ["q"]}, "message 1 is not an object", True),
        ("other", {"q": 1}, "the row has q; none of messages", True),
        ("other", {}, "the row has no keys", True),
    ],
)
def test_what_is_wrong_with_a_row_is_said_without_its_words(
    form: Any, data: dict[str, Any], said: str, *, is_fatal: bool
) -> None:
    fault = fault_of(data, form, F)
    assert fault is not None
    assert (said in fault[0], fault[1]) == (True, is_fatal)


@pytest.mark.parametrize(
    ("form", "data"),
    [
        ("chat", {"messages": [USER, ANSWER]}),
        (
            "chat",
            {"messages": [USER, {"role": "assistant", "tool_calls": [{}]}, {"role": "tool", "content": ""}, ANSWER]},
        ),
        ("pairs", {"chosen": [USER, ANSWER], "rejected": {"content": "r"}}),
        ("prompts", {"prompt": [USER]}),
    ],
)
def test_good_rows_have_no_fault(form: Any, data: dict[str, Any]) -> None:
    assert fault_of(data, form, F) is None


def test_a_row_tells_its_prompt_answer_and_system_text() -> None:
    chat = Row(1, "chat", {"messages": [{"role": "system", "content": "s"}, USER, ANSWER], "tools": [{"type": "f"}]})
    assert (chat.prompt, chat.answer, chat.system) == ("q", "a", "s")
    assert set(chat.plain[0]) == {"messages", "tools"}
    open_ = Row(1, "chat", {"messages": [USER]})
    assert (open_.answer, open_.system) == (None, None)
    text = Row(1, "text", {"body": "t"}, Features(text="body"))
    assert (text.prompt, text.answer, text.system, text.plain) == ("t", None, None, ({"text": "t"},))
    pair = Row(1, "pairs", {"prompt": [USER], "chosen": [ANSWER], "rejected": {"messages": [ANSWER]}, "system": "s"})
    assert (pair.prompt, *pair.sides) == ("q", "a", "a")
    assert pair.system == "s"
    own = Row(1, "prompts", {"prompt": [{"role": "system", "content": "o"}, USER], "system": "s"})
    assert own.system == "o"
    bare = Row(1, "pairs", {"chosen": 7, "rejected": []})
    assert (bare.prompt, *bare.sides) == ("", "7", "")
    assert text_of({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, "c"]}) == "abc"


def test_columns_can_be_renamed_and_names_that_are_no_text_are_passed_over() -> None:
    assert Features.of({"prompt_feature": "q", "chat_feature": 7}) == Features(prompt="q", prefers_pairs=False)
    both = {"messages": [USER, ANSWER], "chosen": "c", "rejected": "r"}
    assert [form_of(both, Features.of(config)) for config in ({}, {"train_mode": "dpo"})] == ["chat", "pairs"]


def test_rows_that_teach_nothing_are_a_warning(tmp_path: Path) -> None:
    rows = [*rows_of("t", 20), {"messages": [USER]}]
    found = only(look(project(tmp_path / "p", data__train_jsonl=rows)), "8")
    assert (found.severity, found.value["lines"]) == ("warning", [21])
    assert "there is no answer to learn" in found.sentence


def test_a_stray_file_of_rows_is_named_only_where_it_is_broken(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", logs__metrics_jsonl=[{"step": 1}], notes_jsonl=[{"text": "t"}])
    assert look(folder).report.findings == []
    with (folder / "notes.jsonl").open("a") as stream:
        stream.write("{\n")
    found = only(look(folder), "8")
    assert (found.severity, found.subject) == ("warning", "data:notes.jsonl")


def test_only_so_many_faults_are_kept_and_all_are_counted(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("x\n" * 30 + json.dumps({"text": " "}) + "\n")
    scan = DataFile(tmp_path / "train.jsonl").scan
    assert (len(scan.faults), scan.n_fatal, scan.n_strange) == (20, 30, 1)
    assert DataFile(tmp_path / "gone.jsonl").size == 0
    assert list(DataFile(tmp_path / "gone.jsonl").objects()) == []


def test_a_file_that_is_too_long_is_judged_by_its_first_rows_and_whole_where_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.audit.BOUNDS", Bounds(1 << 30, 1 << 20, 20))
    folder = project(tmp_path / "p", data__train_jsonl=rows_of("t", 40), data__valid_jsonl=rows_of("v", 8))
    found = look(folder)
    for mode in ("5", "7", "P11"):
        assert "only its first 20 rows or 1 MB were" in why_not(found, mode)
        assert "--whole looks at more" in why_not(found, mode)
    assert {"5", "7", "P11"} <= set(audit(folder, is_whole=True).report.checked)
    monkeypatch.setattr("tools.probes.data._MOST_FOLDERS", 0)
    assert "more than 0 data folders" in why_not(look(tmp_path / "p"), "5")


def test_a_case_in_two_sets_is_told_by_line_and_never_by_its_words(tmp_path: Path) -> None:
    rows = rows_of("train", 60)
    folder = project(tmp_path / "p", data__train_jsonl=rows, data__test_jsonl=[*rows_of("test", 20), rows[4]])
    found = only(look(folder), "P11")
    assert found.severity == "hard_stop"
    assert "test:21 in train:5" in found.sentence
    settings(folder, evaluations=[{"name": "e", "data": "data/test.jsonl", "max_tokens": 9}])
    assert "e:21 in train:5" in only(look(folder), "P11").sentence
    settings(folder, evaluations=[{"name": "e", "data": "data/train.jsonl", "max_tokens": 9}])
    assert any("60 of 60" in row.sentence for row in of(look(folder), "P11"))


def test_evaluations_without_training_data_are_compared_with_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    rows = [{"question": f"what is {n} and {n * 7}, said in words?", "answer": "x"} for n in range(30)]
    project(folder, a_jsonl=rows, b_jsonl=[*rows[:3], {"input": "something else entirely"}])
    settings(folder, evaluations=[{"name": n, "data": f"{n}.jsonl", "max_tokens": 9} for n in ("a", "b")])
    assert any("3 of" in row.sentence for row in of(look(folder), "P11"))


def test_text_rows_are_compared_whole(tmp_path: Path) -> None:
    rows = [{"text": f"a longer text about number {n}, and about {n * 31 % 17}"} for n in range(30)]
    folder = project(tmp_path / "p", data__train_jsonl=rows, data__valid_jsonl=rows[:8])
    assert only(look(folder), "P11").severity == "hard_stop"
    settings(folder, evaluations=[{"name": "e", "data": "data/valid.jsonl", "max_tokens": 9}])
    assert only(look(folder), "P11").severity == "hard_stop"
    write_rows(folder / "data" / "valid.jsonl", [{"prompt": [USER, {"role": "user", "content": "and more of it"}]}])
    assert of(look(folder), "P11") == []


def test_rows_in_a_form_that_no_trainer_knows_are_told_with_the_forms_that_do(tmp_path: Path) -> None:
    rows = [{"ask": "say", "say": f"{place}"} for place in range(9)]
    found = only(look(project(tmp_path / "p", data__train_jsonl=rows)), "8")
    assert "9 of 9 lines of data/train.jsonl are no good rows" in found.sentence
    assert "prompt and completion, as messages, or as text" in found.fix


def test_a_file_that_git_has_not_fetched_is_not_checked_and_no_failure(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n"
    found = look(project(tmp_path / "p", data__train_jsonl=pointer, data__valid_jsonl=rows_of("v", 8)))
    assert found.report.findings == []
    assert "data/train.jsonl: a Git LFS pointer, not the file; run git lfs pull" in why_not(found, "8")


def test_a_case_of_an_evaluation_may_stand_in_test_and_not_in_train_or_valid(tmp_path: Path) -> None:
    rows = {name: rows_of(name, 40) for name in ("train", "valid", "test")}
    folder = project(tmp_path / "p", **{f"data__{name}_jsonl": part for name, part in rows.items()})
    settings(folder, evaluations=[{"name": "e", "data": "e.jsonl", "max_tokens": 9}])
    write_rows(folder / "e.jsonl", rows["test"][:20])
    assert of(look(folder), "P11") == []
    write_rows(folder / "e.jsonl", [*rows["test"][:20], rows["valid"][0]])
    assert "evaluation e also stand in valid" in only(look(folder), "P11").sentence
    write_rows(folder / "data" / "test.jsonl", [*rows["test"], rows["train"][0]])
    assert any("rows of test also stand in train" in row.sentence for row in of(look(folder), "P11"))


def test_a_path_of_windows_is_one_of_another_machine(tmp_path: Path) -> None:
    config = {"model": "C:\\models\\qwen", "train": True, "data": "D:/data", "iters": 9, "adapter_path": "a"}
    found = look(project(tmp_path / "p", lora_json=config, data__train_jsonl=rows_of("t", 20)))
    assert of(found, "8") == []
    assert "`data` leads outside the project" in why_not(found, "8")


def test_every_line_is_a_row_or_says_what_it_is_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.data.rows.MOST_LINE_BYTES", 40)
    lines = [b'\xef\xbb\xbf{"a": 1}', b'{"a": 1}', b" ", b'{"a": "\xff"}', b'{"a": 1', b"[1]", b'{"a": "\\ud800"}',
             b'{"a": -Infinity}', b'{"a": "NaN"}', b"x" * 3_000, b'{"b": 2}']  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    found = list(iter_lines(path))
    assert [line.number for line in found] == list(range(1, 12))
    assert [line.fault.kind if line.fault else line.row for line in found] == [
        "byte_order_mark", {"a": 1}, "empty", "not_utf8", "not_json", "not_object", "half_character",
        "not_finite", {"a": "NaN"}, "too_long", {"b": 2},
    ]  # fmt: skip
    # Python's own reader, which trainers use, takes what JSON has not: strict callers refuse it, the audit does not.
    assert found[7].row == {"a": float("-inf")}
    path.write_bytes(b'{"text": "a", "loss": NaN}')
    assert (DataFile(path).scan.rows, DataFile(path).scan.faults) == (1, [])
    path.write_bytes(b'{"a": 1}\n\0')
    with pytest.raises(UnreadableError, match="line 2 holds zero bytes"):
        list(iter_lines(path))
