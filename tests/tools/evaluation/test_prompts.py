from collections.abc import Sequence

import pytest

from state.errors import ConfigError
from tests.tools.evaluation.fake_tokenizer import FakeTokenizer
from tools.evaluation.prompts import (
    answer_openings,
    decode,
    gold_tokens,
    render_prompt,
    render_training,
    row_messages,
    skeleton,
)

CASE = {"id": "a", "prompt": "hi", "reference": "yo"}
CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}
THINKS = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}<|think|>{% endif %}{{ m.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
OPENS_OTHERWISE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><|think|>{% endif %}"
)


def text(tokenizer: FakeTokenizer, tokens: Sequence[int]) -> str:
    return decode(tokenizer, tokens)


def test_a_prompt_and_a_conversation_of_it_render_the_same() -> None:
    tokenizer = FakeTokenizer()
    rendered = render_prompt(tokenizer, CASE)
    assert text(tokenizer, rendered) == "<|user|>hi<|end|><|assistant|>"
    assert rendered == render_prompt(tokenizer, {"id": "b", "messages": [{"role": "user", "content": "hi"}]})


def test_the_tracks_system_text_comes_first_unless_the_case_has_its_own() -> None:
    tokenizer = FakeTokenizer()
    assert text(tokenizer, render_prompt(tokenizer, CASE, "S")).startswith("<|system|>S<|end|><|user|>")
    own = {"messages": [{"role": "system", "content": "own"}, {"role": "user", "content": "hi"}]}
    assert text(tokenizer, render_prompt(tokenizer, own, "S")).startswith("<|system|>own<|end|><|user|>")


def test_without_a_template_prompts_are_plain_text() -> None:
    tokenizer = FakeTokenizer(template=None)
    assert text(tokenizer, render_prompt(tokenizer, CASE, "S")) == "S\n\nhi"
    rendered = render_training(tokenizer, CHAT, "S")
    assert text(tokenizer, rendered.tokens) == "S\n\nhiyo<|end|>"
    assert rendered.tokens[: rendered.prompt_length] == render_prompt(tokenizer, CASE, "S")


@pytest.mark.parametrize("row", [CHAT, {"prompt": "hi", "completion": "yo"}])
def test_a_training_row_begins_with_the_prompt_that_evaluation_renders(row: dict[str, object]) -> None:
    tokenizer = FakeTokenizer()
    rendered = render_training(tokenizer, row, "S")
    assert rendered.is_prefix
    assert rendered.tokens[: rendered.prompt_length] == render_prompt(tokenizer, CASE, "S")
    assert text(tokenizer, rendered.tokens[rendered.prompt_length :]) == "yo<|end|>"


def test_a_text_row_has_no_prompt_and_is_ended_once() -> None:
    tokenizer = FakeTokenizer()
    once = render_training(tokenizer, {"text": "abc"})
    twice = render_training(tokenizer, {"text": "abc<|end|>"})
    assert once == twice
    assert (text(tokenizer, once.tokens), once.prompt_length) == ("abc<|end|>", 0)
    assert row_messages({"text": "abc"}) is None


def test_a_row_of_no_known_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="has none of"):
        row_messages({"question": "?"})


def test_gold_tokens_end_before_the_end_token_and_hold_what_the_template_adds() -> None:
    assert len(gold_tokens(FakeTokenizer(), CASE)) == 2
    thinking = FakeTokenizer(THINKS)
    assert text(thinking, gold_tokens(thinking, CASE)) == "<|think|>yo"


def test_a_template_that_opens_answers_in_two_ways_is_seen_and_the_gold_is_the_plain_reference() -> None:
    tokenizer = FakeTokenizer(OPENS_OTHERWISE)
    rendered = render_training(tokenizer, CHAT)
    assert not rendered.is_prefix
    assert text(tokenizer, rendered.tokens[rendered.prompt_length :]) == "yo<|end|>"
    assert text(tokenizer, gold_tokens(tokenizer, CASE)) == "yo"
    assert answer_openings(tokenizer, CHAT["messages"]) == (
        "<|user|>hi<|end|><|assistant|>yo<|end|>",
        "<|user|>hi<|end|><|assistant|><|think|>",
    )
    assert answer_openings(FakeTokenizer(), CHAT["messages"]) is None


def test_a_template_that_refuses_a_system_text_is_a_sentence() -> None:
    tokenizer = FakeTokenizer("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}x")
    with pytest.raises(ConfigError, match="refuses a conversation of system, user: no system"):
        render_prompt(tokenizer, CASE, "S")


def test_a_refusal_that_the_template_puts_together_is_told_without_words_of_the_conversation() -> None:
    tokenizer = FakeTokenizer("{{ raise_exception('never ' + messages[0].content) }}")
    with pytest.raises(ConfigError, match=r"refuses a conversation of user: TemplateError\.$"):
        render_prompt(tokenizer, CASE)


def test_a_prompt_that_renders_to_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="prompt of case a is empty"):
        render_prompt(FakeTokenizer("{# nothing #}"), CASE)


def test_a_skeleton_holds_everything_but_the_users_words() -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "secret"}]
    assert skeleton(FakeTokenizer(), messages) == "<|system|>S<|end|><|user|>{prompt}<|end|><|assistant|>"
    assert skeleton(FakeTokenizer(template=None), messages) == "S\n\n{prompt}"


def test_a_conversation_without_an_answer_is_all_prompt_and_masks_nothing() -> None:
    tokenizer = FakeTokenizer()
    rendered = render_training(tokenizer, {"messages": CHAT["messages"][:1]})
    assert (text(tokenizer, rendered.tokens), rendered.prompt_length) == ("<|user|>hi<|end|>", 0)


def test_a_plain_prompt_that_its_tokenizer_ends_is_opened_again_for_the_answer() -> None:
    tokenizer = FakeTokenizer(template=None)
    row = {"prompt": "hi<|end|>", "completion": "yo"}
    assert text(tokenizer, render_training(tokenizer, row).tokens) == "hiyo<|end|>"
