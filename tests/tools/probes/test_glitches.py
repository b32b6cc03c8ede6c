"""A template's slips are counted; what people say twice on purpose, and labels in a row, are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.records import EXAMPLES
from tests.tools.probes.texts import HOSTILE, sentence, shipped, shipped_folders
from tools.probes.golds import check_glitches, glitches


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("We met the the team.", ["the the"]),
        ("The the end", ["the the"]),
        ("a report for  for you", ["for for"]),
        ("he bought an a bicycle", ["an a bicycle"]),
        ("this is the an answer", ["the an answer"]),
        ("their revenue revenue grew", ["revenue revenue"]),
    ],
)
def test_words_said_twice_and_articles_that_clash_are_found(text: str, found: list[str]) -> None:
    assert glitches(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "He had had enough, and that that was clear.",
        "long long x; bye bye, no no, very very good",
        "the a priori belief",
        "We toured Baden Baden and Walla Walla.",
        "Ask IT it they know.",
        "O O O B-PER I-PER O O",
        "noun noun verb noun noun noun verb verb noun noun noun adjective adjective",
        "steady,steady\nsteady\nsteady",
        "the\nthe",
        "baba kerhal kerhal nosver",
        "x.the the-end",
        "1 1 22 22",
    ],
)
def test_what_is_meant_is_no_glitch(text: str) -> None:
    assert glitches(text) == []


def test_two_texts_of_eighty_are_a_warning_with_count_and_example() -> None:
    texts = [f"{sentence(i)} That is it." for i in range(78)] + [
        "It is the the end.",
        "It is the the end, the the last.",
    ]
    [finding] = check_glitches(texts)
    assert (finding.mode, finding.severity, finding.claim) == ("7", "warning", "has_template_glitches")
    assert "2 of 80 texts" in finding.sentence
    assert finding.value["glitches"] == 3
    assert finding.value[EXAMPLES] == ["the the (3)"]


def test_one_slip_and_rare_slips_are_silent() -> None:
    assert check_glitches([sentence(1), "It is the the end."]) == []
    assert check_glitches(["It is the the end."] * 2 + [sentence(i, 5) for i in range(600)]) == []


def test_the_shipped_data_are_silent() -> None:
    for folder in shipped_folders():
        for path in folder.glob("*.jsonl"):
            assert check_glitches(text for row in shipped(path) for text in row) == []


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert isinstance(glitches(text), list)


def test_hostile_texts_are_read() -> None:
    assert check_glitches(HOSTILE) == []
