from typing import Any

import pytest

from tests.tools.evaluation.fake_tokenizer import FakeTokenizer
from tests.tools.evaluation.test_prompts import OPENS_OTHERWISE
from tools.data.rows import Row
from tools.evaluation.census import Gold, GoldCuts, prompt_parity, summary, token_census
from tools.evaluation.prompts import render_training
from tools.evaluation.rendered import Numbered
from tools.evaluation.worker import Split
from tools.graders.contract import Grade


def cuts(lengths: list[int], asked: list[int] | None = None) -> GoldCuts:
    """Return golds of given lengths, scored by the share of their characters that survive."""
    tokenizer = FakeTokenizer()

    def grade(items: list[Any]) -> list[Grade]:
        if asked is not None:
            asked.append(len(items))
        return [Grade(case["id"], {"share": len(text) / case["length"]}) for case, text, _ in items]

    golds = [Gold({"id": str(n), "length": n}, tokenizer.encode("x" * n)) for n in lengths]
    return GoldCuts(golds, tokenizer, grade)


def test_a_gold_answer_needs_its_end_token_too() -> None:
    golds = cuts([3])
    assert golds.output(golds.golds[0], 4) == ("xxx", "stop")
    assert golds.output(golds.golds[0], 3) == ("xxx", "length")
    assert golds.output(golds.golds[0], 2) == ("xx", "length")


def test_a_budget_curve_has_the_budget_in_force_and_ends_where_all_fit() -> None:
    assert cuts([1, 5, 9]).budgets(6) == [6, 10]
    assert cuts([1, 5, 9]).budgets(10) == [10]
    many = cuts(list(range(1, 200))).budgets(50)
    assert (many[0], many[-1], len(many)) == (50, 200, 8)
    assert many == sorted(set(many))


def test_equal_cuts_are_graded_once() -> None:
    asked: list[int] = []
    golds = cuts([1, 5, 9], asked)
    assert [row.metrics["share"] for row in golds.grades(6)] == [1.0, 1.0, 6 / 9]
    assert [row.metrics["share"] for row in golds.grades(10)] == [1.0, 1.0, 1.0]
    golds.grades(6)
    assert asked == [3, 1, 0]


def test_a_case_without_a_value_counts_neither_in_the_mean_nor_in_n() -> None:
    grades = [Grade("a", {"m": 1.0, "k": None}), Grade("b", {"m": None, "k": None}), Grade("c", error="raised")]
    assert summary(grades, 2) == {
        "m": {"mean": 1.0, "n": 1, "cases_whole": 2},
        "k": {"mean": None, "n": 0, "cases_whole": 2},
    }


def census(tokenizer: FakeTokenizer, max_seq_length: int, *answers: tuple[str, str]) -> dict[str, Any]:
    rows = [
        Numbered(line, render_training(tokenizer, {"prompt": prompt, "completion": answer}))
        for line, (prompt, answer) in enumerate(answers, start=1)
    ]
    return token_census(rows, tokenizer, max_seq_length)


def test_truncated_rows_are_named_by_line_and_lost_ones_are_counted_apart() -> None:
    # <|user|> p <|end|> <|assistant|> a <|end|>: four tokens around the two texts.
    found = census(FakeTokenizer(), 9, ("p", "a"), ("pp", "aaaa"), ("p" * 7, "a"), ("p" * 20, "a"), ("p", "aa"))
    assert (found["rows"], found["max_tokens"], found["truncated"], found["lines"]) == (5, 25, 3, [2, 3, 4])
    # Row 3 has 10 prompt tokens, so that nothing of its answer is left within 9.
    assert found["prompt_longer_than_max"] == 2
    assert (found["p50"], found["p95"], found["without_end"], found["prompt_mismatch"]) == (10, 25, 0, 0)


def test_rows_that_nothing_ends_are_counted() -> None:
    endless = FakeTokenizer("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert census(endless, 100, ("p", "a"))["without_end"] == 1


def split(*cases: dict[str, Any]) -> Split:
    return Split("s", "selection", tuple({"id": str(n)} | case for n, case in enumerate(cases)))


def chat(system: str | None, user: str = "u") -> Row:
    head = [{"role": "system", "content": system}] if system is not None else []
    turns = [*head, {"role": "user", "content": user}, {"role": "assistant", "content": "a"}]
    return Row(1, "chat", {"messages": turns})


def test_parity_is_silent_when_only_the_users_words_differ() -> None:
    found = prompt_parity([chat(None, "other words")], [split({"prompt": "p"})], FakeTokenizer(), "S")
    assert found["ok"]
    assert found["train_prefix"] == found["eval_prefix"] == "<|system|>S<|end|><|user|>{prompt}<|end|><|assistant|>"


def test_parity_is_silent_when_evaluation_is_one_of_the_forms_of_training() -> None:
    assert prompt_parity([chat("A"), chat("B")], [split({"prompt": "p"})], FakeTokenizer(), "B")["ok"]


def test_parity_fires_when_training_brings_a_system_text_that_evaluation_lacks() -> None:
    found = prompt_parity([chat("You are neat.")], [split({"prompt": "p"})], FakeTokenizer())
    assert not found["ok"]
    assert found["train_prefix"].startswith("<|system|>You are neat.")
    assert found["eval_prefix"].startswith("<|user|>{prompt}")


def test_parity_fires_when_one_case_of_many_brings_its_own_system_text() -> None:
    strange = {"messages": [{"role": "system", "content": "X"}, {"role": "user", "content": "u"}]}
    found = prompt_parity([chat(None)], [split({"prompt": "p"}, strange)], FakeTokenizer())
    assert (found["ok"], found["eval_prefix"][:11]) == (False, "<|system|>X")


def test_parity_fires_when_the_template_opens_answers_in_two_ways() -> None:
    found = prompt_parity([chat(None)], [split({"prompt": "p"})], FakeTokenizer(OPENS_OTHERWISE))
    assert not found["ok"]
    assert found["train_prefix"].endswith("<|assistant|>a<|end|>")
    assert found["eval_prefix"].endswith("<|assistant|><|think|>")


@pytest.mark.parametrize(("text", "ok"), [("<|user|>q<|end|><|assistant|>a", True), ("Question: q\nAnswer: a", False)])
def test_text_rows_must_hold_the_template_that_evaluation_uses(text: str, ok: bool) -> None:  # noqa: FBT001 - a parameter of the test
    found = prompt_parity([Row(1, "text", {"text": text})], [split({"prompt": "p"})], FakeTokenizer())
    assert found["ok"] is ok
