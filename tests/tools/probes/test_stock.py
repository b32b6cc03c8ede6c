"""What mlx-lm makes of rows, on small templates: each kind fires on a row of its own and is silent on a plain one."""

from pathlib import Path
from typing import Any

import pytest

from tests.faults.campaign.world import BASE
from tests.faults.failure_modes.projects import rows_of, write_config, write_rows
from tests.tools.evaluation.fake_tokenizer import FakeTokenizer
from tests.tools.probes.looks import look, of, project, settings
from tools.data.rows import Form, Row, answer_text, text_of
from tools.probes.evaluations import gold_of
from tools.probes.stock import StockRows, stock_findings

PLAIN = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TOOLS = (
    "{% if tools %}<|tools|>{% for t in tools %}{{ t.function.name }}{% endfor %}{% endif %}{% for m in messages %}"
    "<|{{ m.role }}|>{{ m.content or '' }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
THREE_ROLES = PLAIN.replace(
    "{% for m in messages %}", "{% for m in messages if m.role in ['system', 'user', 'assistant'] %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + PLAIN
OPENS = PLAIN.replace("<|assistant|>{% endif %}", "<|assistant|><think>{% endif %}")
OPENS_LONG = PLAIN.replace("<|assistant|>{% endif %}", f"<|assistant|>{'think ' * 20}{{% endif %}}")
DROPS_THOUGHT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

ASKED = {"role": "user", "content": "how many?"}
ANSWER = {"role": "assistant", "content": "82 units"}
DECLARED = [{"type": "function", "function": {"name": "count", "parameters": {}}}]


def chat(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


def call(arguments: Any, name: str = "count") -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}


PARTS = {"role": "user", "content": [{"type": "text", "text": "how many?"}]}
THOUGHT = {"role": "assistant", "content": "<think>\nI add.\n</think>\n82 units"}


def kinds_of(
    template: str | None, row: dict[str, Any], *, masks: bool = False, form: Form = "chat", **special: Any
) -> dict[str, Any]:
    """Return what is told of one row."""
    tokenizer = FakeTokenizer(template)
    for name, value in special.items():
        setattr(tokenizer, name, value)
    stock = StockRows(tokenizer, masks_prompt=masks)
    stock.render([Row(7, form, row)])
    return dict(stock.told()["kinds"])


@pytest.mark.parametrize(
    ("kind", "template", "row"),
    [
        ("refused:System role not supported", NO_SYSTEM, chat({"role": "system", "content": "s"}, ASKED, ANSWER)),
        ("gone:developer", THREE_ROLES, chat({"role": "developer", "content": "in words"}, ASKED, ANSWER)),
        ("thinking_gone", PLAIN, chat(ASKED, {**ANSWER, "reasoning_content": "I add the two."})),
        ("thinking_gone", DROPS_THOUGHT, chat(ASKED, THOUGHT)),
        ("earlier_thinking_gone", DROPS_THOUGHT, chat(ASKED, THOUGHT, ASKED, ANSWER)),
        ("python", PLAIN, chat(PARTS, ANSWER)),
        ("python", PLAIN, chat(ASKED, {"role": "assistant", "content": {"units": 82}})),
        ("null_printed", PLAIN, chat(ASKED, call({"a": 1}), ASKED, ANSWER, tools=DECLARED)),
        ("calls_gone", PLAIN, chat(ASKED, call({"a": 1}), ASKED, ANSWER, tools=DECLARED)),
        ("tools_gone", PLAIN, chat(ASKED, ANSWER, tools=DECLARED)),
        ("escaped", TOOLS, chat(ASKED, call('{"a": 1}'), tools=DECLARED)),
        ("undeclared", TOOLS, chat(ASKED, call({"a": 1}, "other"), tools=DECLARED)),
        ("no_prefix", OPENS, chat(ASKED, ANSWER)),
        ("no_template", None, chat(ASKED, ANSWER)),
    ],
)
def test_what_a_template_does_to_a_row_is_told_with_its_line(
    kind: str, template: str | None, row: dict[str, Any]
) -> None:
    found = kinds_of(template, row)
    assert kind in found, found
    assert found[kind]["lines"] == [7]


@pytest.mark.parametrize(
    ("template", "row"),
    [
        (PLAIN, chat({"role": "system", "content": " s\n"}, ASKED, ANSWER)),
        (THREE_ROLES, chat(ASKED, ANSWER)),
        (NO_SYSTEM, chat(ASKED, ANSWER)),
        (PLAIN, chat(ASKED, THOUGHT)),
        (TOOLS, chat(ASKED, call({"a": 1}), tools=DECLARED)),
        (TOOLS, chat(ASKED, ANSWER, tools=DECLARED)),
    ],
)
def test_a_row_that_stands_whole_is_not_spoken_of(template: str, row: dict[str, Any]) -> None:
    assert kinds_of(template, row, masks=True) == {}


def test_the_mask_is_as_long_as_the_prompt_that_is_opened_for_generation() -> None:
    assert kinds_of(PLAIN, chat(ASKED, ANSWER), masks=True) == {}
    # 7 pieces of `<think>` are counted as prompt, of the 9 that `82 units` and its end take.
    assert kinds_of(OPENS, chat(ASKED, ANSWER), masks=True)["part_masked"]["times"] == pytest.approx(7 / 9)
    assert "all_masked" in kinds_of(OPENS_LONG, chat(ASKED, ANSWER), masks=True)
    two = kinds_of(PLAIN, chat(ASKED, ANSWER, ASKED, ANSWER), masks=True)
    assert two["earlier_answers"]["times"] == 1
    assert "earlier_answers" not in kinds_of(PLAIN, chat(ASKED, ANSWER, ASKED, ANSWER))


def test_special_tokens_in_texts_and_doubled_ones_are_counted() -> None:
    special: dict[str, Any] = {"all_special_tokens": ["<|end|>", "<think>"]}
    typed = chat({"role": "user", "content": "stop<|end|>"}, THOUGHT)
    assert kinds_of(PLAIN, typed, **special)["typed"]["times"] == 1
    assert kinds_of(PLAIN, chat(ASKED, THOUGHT), **special) == {}
    begun = {"text": "<|s|><|s|>how many?"}
    assert "double_begin" in kinds_of(PLAIN, begun, form="text", bos_token_id=1)
    assert "double_end" in kinds_of(PLAIN, {"text": "82<|end|><|end|>"}, form="text")
    assert kinds_of(PLAIN, {"text": "<|s|>82<|end|>"}, form="text", bos_token_id=1) == {}


def test_text_rows_that_stock_cannot_end_are_told() -> None:
    assert "no_end_token" in kinds_of(PLAIN, {"text": "82"}, form="text", eos_token_id=None)
    assert "no_tokens" in kinds_of(PLAIN, {"text": ""}, form="text")
    assert kinds_of(PLAIN, {"text": "82"}, form="text") == {}


def test_thinking_in_some_rows_only_is_told() -> None:
    stock = StockRows(FakeTokenizer(PLAIN), masks_prompt=False)
    stock.render([Row(1, "chat", chat(ASKED, THOUGHT)), Row(2, "chat", chat(ASKED, ANSWER))])
    assert stock.told()["kinds"]["thinking_in_some"] == {"rows": 1, "times": 1, "lines": [2]}


@pytest.mark.parametrize(
    ("template", "row", "fix"),
    [
        (NO_SYSTEM, chat({"role": "system", "content": "s"}, ASKED, ANSWER), "first user turn"),
        (TOOLS.replace("| tojson", ".items()"), chat(ASKED, call('{"a": 1}'), tools=DECLARED), "as an object"),
        ("{{ tools[0].function.name }}" + PLAIN, chat(ASKED, ANSWER, tools='[{"function": {"name": "f"}}]'), "`tools`"),
        (PLAIN.replace("m.content", "m.content.strip()"), chat(ASKED, {**ANSWER, "content": None}), "empty string"),
        (PLAIN.replace("m.content", "m.content.strip()"), chat(PARTS, ANSWER), "one string"),
        (PLAIN.replace("m.content", "m.content[0].text.strip()"), chat(ASKED, ANSWER), "list of parts"),
        ("{{ raise_exception('never') }}", chat(ASKED, ANSWER), "mend `chat_template`"),
    ],
)
def test_the_fix_of_a_refused_row_is_one_that_was_tried(template: str, row: dict[str, Any], fix: str) -> None:
    (one,) = [found for kind, found in kinds_of(template, row).items() if kind.startswith("refused:")]
    assert fix in one["fix"]


def test_every_kind_is_said_in_one_sentence() -> None:
    rows = [
        (NO_SYSTEM, chat({"role": "system", "content": "s"}, ASKED, ANSWER)),
        (OPENS, chat(ASKED, ANSWER)),
        (PLAIN, chat(PARTS, ANSWER, ASKED, ANSWER)),
        (THREE_ROLES, chat({"role": "developer", "content": "in words"}, ASKED, ANSWER)),
    ]
    for template, row in rows:
        stock = StockRows(FakeTokenizer(template), masks_prompt=True)
        stock.render([Row(3, "chat", row)])
        found = stock_findings("data/train.jsonl", stock.told())
        assert found
        for finding in found:
            assert "1 of " in finding.sentence
            assert "{" not in finding.sentence.replace("[{'type'", "")
            assert finding.value["line"] == 3


def test_an_audit_says_which_rows_a_template_refuses(tmp_path: Path) -> None:
    taught = rows_of("train", 20)
    taught[4] = {"messages": [*taught[4]["messages"], {"role": "narrator", "content": "and so on"}]}
    write_rows(tmp_path / "p" / "data" / "train.jsonl", taught)
    write_config(tmp_path / "p" / "lora.yaml", iters=20)
    base = tmp_path / "base"
    base.mkdir()
    for file in BASE.iterdir():
        (base / file.name).symlink_to(file)
    (base / "chat_template.jinja").write_text(
        "{% for m in messages if m.role == 'narrator' %}{{ raise_exception('no narrator') }}{% endfor %}" + PLAIN
    )
    (found,) = of(look(tmp_path / "p", base), "6")
    assert (found.severity, found.value["lines"], found.value["count"]) == ("hard_stop", [5], 1)
    assert "no narrator" in found.sentence


@pytest.mark.parametrize(
    ("content", "fix"),
    [
        ('{"conversations": [{"from": "human", "value": "q"}]}\n', "gpt to assistant"),
        ('{"instruction": "q", "output": "a"}\n', "Alpaca"),
        ('{"question": "q", "answer": "a"}\n', "prompt_feature: question"),
        ('[\n{"prompt": "q", "completion": "a"}\n]\n', "one object a line"),
        ('{\n"prompt": "q",\n"completion": "a"\n}\n', "line of its own"),
        ('{"prompt": "q", "completion": "a"},\n', "Remove the comma"),
        ('{"prompt": "q", "completion": {"a": 1}}\n', "JSON string"),
        ('{"prompt": "q", "chosen": "a", "rejected": ["b", "c"]}\n', "one pair a row"),
        ('{"messages": [{"role": "human", "content": "q"}, {"role": "gpt", "content": "a"}]}\n', "human is user"),
        (b'{"prompt": "St\xfcck", "completion": "a"}\n', "UTF-8"),
        (b"\x1f\x8b\x08\x00\x00", "unpack"),
        (b"PAR1\x00\x00", "Parquet"),
    ],
)
def test_a_file_of_another_form_is_named_with_what_makes_rows_of_it(
    tmp_path: Path, content: str | bytes, fix: str
) -> None:
    (found,) = of(look(project(tmp_path / "p", data__train_jsonl=content)), "8")
    assert (found.severity, fix in found.fix) == ("hard_stop", True), found.fix


def test_what_is_no_string_is_never_an_empty_text() -> None:
    assert answer_text({"from": "gpt", "value": "82 units"}) == "82 units"
    assert answer_text({"units": 82}) == '{"units": 82}'
    assert answer_text(82) == "82"
    assert answer_text([{"role": "assistant", "content": "82"}]) == "82"
    assert "count" in text_of(call({"a": 1}))
    assert text_of({"role": "user", "content": None}) == ""
    assert gold_of({"reference": {"units": 82}}, "reference") == '{"units": 82}'


def test_rows_under_another_name_and_a_system_column_are_named(tmp_path: Path) -> None:
    rows = [{"prompt": f"q {n}", "completion": "a", "system": "Be brief."} for n in range(9)]
    found = look(project(tmp_path / "p", data__train_jsonl=rows, data__val_jsonl=rows[:2]))
    assert {"data_name", "system_column"} <= {finding.claim for finding in found.report.findings}
    plain = [{"prompt": f"q {n}", "completion": "a"} for n in range(9)]
    silent = look(project(tmp_path / "s", data__train_jsonl=plain, data__valid_jsonl=[{**plain[0], "prompt": "v"}]))
    assert not {"data_name", "system_column"} & {finding.claim for finding in silent.report.findings}


def test_outputs_that_are_empty_unfinished_or_leak_are_counted(tmp_path: Path) -> None:
    def claims(output: str, finish: str = "stop") -> set[str]:
        cases = [{"prompt": f"q {n}", "reference": f"answer {n}"} for n in range(20)]
        outputs = [{"output": output.replace("#", str(n)), "finish_reason": finish} for n in range(20)]
        folder = project(tmp_path / (finish + output[:4].strip("<#|")), cases_jsonl=cases, out_jsonl=outputs)
        stated = {"name": "e", "data": "cases.jsonl", "max_tokens": 9, "outputs": "out.jsonl", "output_field": "output"}
        return {finding.claim for finding in look(settings(folder, evaluations=[stated])).report.findings}

    assert "empty_outputs" in claims("")
    assert "unfinished_thinking" in claims("<think>so # and")
    assert "leaked_tokens" in claims("plain # <|im_end|>")
    assert "cut_outputs" in claims("answer #", "length")
    assert not {"empty_outputs", "unfinished_thinking", "leaked_tokens", "cut_outputs"} & claims("answer #")


@pytest.mark.parametrize(
    ("row", "mode", "said", "fix"),
    [
        (
            {"prompt": [ASKED], "chosen": [ANSWER], "rejected": [ANSWER]},
            "dpo",
            "takes `prompt` as a string, and the rows of data/train.jsonl have messages",
            "Write strings",
        ),
        ({"chosen": [ASKED, ANSWER], "rejected": [ASKED, ANSWER]}, "dpo", "reads `prompt`", "Write what is asked as"),
        (
            {"conversations": [{"from": "human", "value": "q"}], "chosen": {"value": "a"}, "rejected": {"value": "b"}},
            "dpo",
            "reads `prompt`",
            "LLaMA-Factory",
        ),
        ({"instruction": "q", "chosen": "a", "rejected": "b"}, "dpo", "reads `prompt`", "Rename `instruction`"),
        ({"prompt": "q"}, "grpo", "reads `answer`", "Add a column `answer`"),
        ({"prompt": "q", "solution": "a"}, "grpo", "reads `answer`", "`answer_feature: solution`"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "dpo", "", ""),
        ({"prompt": "q", "answer": "a"}, "grpo", "", ""),
    ],
)
def test_preference_rows_that_the_trainer_does_not_take_stop(
    tmp_path: Path, row: dict[str, Any], mode: str, said: str, fix: str
) -> None:
    folder = project(tmp_path / "p", data__train_jsonl=[row] * 12)
    write_config(folder / "lora.yaml", iters=6, train_mode=mode, mask_prompt=None)
    found = [finding for finding in of(look(folder), "6") if finding.severity == "hard_stop"]
    assert any(said in finding.sentence and fix in finding.fix for finding in found) is bool(said)
