"""What tells chosen from rejected is found, named and stopped at; what the task itself makes differ is not."""

import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.records import EXAMPLES
from tests.tools.probes.texts import HOSTILE, sentence
from tools.graders.spreadsheet_clean.generate import generate_cases
from tools.probes.pairs import FEATURES, Candidates, Pair, check_pairs, differ_by_content_left_out, first_difference


def natural(n: int = 60) -> list[Pair]:
    """Return pairs of unlike answers of all lengths, made the same way on both sides."""
    dice = random.Random(5)
    return [
        (sentence(f"p{i}", 12), sentence(f"c{i}", dice.randint(5, 40)), sentence(f"r{i}", dice.randint(5, 40)))
        for i in range(n)
    ]


def marked(mark: Callable[[str], str], n: int = 60) -> list[Pair]:
    return [(prompt, chosen, mark(rejected)) for prompt, chosen, rejected in natural(n)]


def rows_removed(line_end: str, n: int = 80) -> Iterator[Pair]:
    """Yield pairs as the lab made them: gold, and gold with 30-70 % of its rows left out."""
    dice = random.Random(600)
    for case in generate_cases(600, n, "stress", (15, 25)):
        header, *rows = case.reference.split("\n")
        count = round(len(rows) * dice.uniform(0.3, 0.7))
        start = len(rows) - count if dice.random() < 0.5 else dice.randrange(len(rows) - count)
        kept = rows[:start] + rows[start + count :]
        yield case.prompt, case.reference, line_end.join([header, *kept])


def claims(pairs: list[Pair]) -> dict[str, str]:
    return {finding.claim: finding.severity for finding in check_pairs(pairs)}


def features_of(pairs: list[Pair]) -> list[str]:
    [finding] = [row for row in check_pairs(pairs) if row.claim == "pairs_separable"]
    return [row["feature"] for row in finding.value["features"]]


def test_answers_written_the_same_way_are_silent() -> None:
    assert check_pairs(natural()) == []


def test_no_pairs_are_silent() -> None:
    assert check_pairs([]) == []


def test_the_labs_line_ends_are_a_hard_stop_in_80_of_80_pairs() -> None:
    stop, length = check_pairs(rows_removed("\r\n"))
    assert (stop.mode, stop.severity, stop.claim) == ("P3", "hard_stop", "pairs_separable")
    assert "CRLF line ends" in stop.sentence
    assert "in 80 of 80 pairs" in stop.sentence
    assert stop.value["features"][0]["p_value"] < 1e-20
    assert (length.severity, length.claim) == ("warning", "pairs_separable_by_length")


def test_rows_left_out_are_a_warning_about_length_and_nothing_else() -> None:
    [finding] = check_pairs(rows_removed("\n"))
    assert (finding.severity, finding.claim) == ("warning", "pairs_separable_by_length")
    assert finding.value["left_out"] == 80
    assert [row["feature"] for row in finding.value["features"]] == ["more characters"]
    assert 0.9 < finding.value["length_threshold_accuracy"] < 1


@pytest.mark.parametrize(
    ("feature", "mark"),
    [
        ("a trailing newline", lambda text: f"{text}\n"),
        ("leading white space", lambda text: f" {text}"),
        ("trailing white space", lambda text: f"{text} "),
        ("no text at all", lambda _text: ""),
        ("small letters only", str.lower),
        ("capital letters only", str.upper),
        ("a capital first letter", lambda text: text[:1].lower() + text[1:]),
        ("non-ASCII characters", lambda text: text.replace(" ", " \u2013 ", 1)),
        ("template glitches", lambda text: f"{text} It is the the end"),
        ("character", lambda text: text.replace(" ", " ~", 1)),
        ("first word", lambda text: f"Certainly! {text}"),
        ("last word", lambda text: f"{text} Cheers"),
        ("line", lambda text: f"{text}\nI hope this helps"),
        ("word", lambda text: " ".join([*text.split()[:3], "frankly", *text.split()[3:]])),
        ("first differing character", lambda text: f"#{text}"),
    ],
)
def test_each_surface_feature_on_one_side_is_a_hard_stop_that_names_it(
    feature: str, mark: Callable[[str], str]
) -> None:
    assert feature in features_of(marked(mark))


def test_carriage_returns_alone_are_a_newline_style_too() -> None:
    pairs = [(p, c.replace(" ", "\n"), r.replace(" ", "\r")) for p, c, r in natural()]
    assert features_of(pairs)[0] == "CR line ends"


def test_a_single_line_has_no_newline_style_to_differ_in() -> None:
    pairs = [(p, c.replace(" ", "\r\n", 2), r) for p, c, r in natural()]
    assert check_pairs(pairs) == []


def test_a_sign_that_the_prompt_holds_is_the_tasks_own() -> None:
    pairs = [(f"{p} Write ~ before it.", c, r.replace(" ", " ~", 1)) for p, c, r in natural()]
    assert check_pairs(pairs) == []


def test_words_that_come_with_much_greater_length_are_a_warning() -> None:
    pairs = [
        (p, f"{sentence(i, 15)} frankly {sentence(f'more{i}', 15)}", r[:12]) for i, (p, _, r) in enumerate(natural())
    ]
    [finding] = check_pairs(pairs)
    assert (finding.severity, finding.claim) == ("warning", "pairs_separable_by_length")
    assert "word" in [row["feature"] for row in finding.value["features"]]


def test_digits_alone_are_a_warning() -> None:
    digits = str.maketrans("abcdefghij", "0123456789")
    [finding] = check_pairs(marked(lambda text: f"{text[:10]}{text[10:].translate(digits)}"))
    assert (finding.severity, finding.claim) == ("warning", "pairs_separable_by_content")


def test_a_feature_in_most_but_not_nearly_all_pairs_is_silent() -> None:
    pairs = natural()
    assert check_pairs([*marked(lambda text: f"{text}\n")[:50], *pairs[50:]]) == []


@pytest.mark.parametrize(("n", "expected"), [(9, {}), (10, {"pairs_separable": "hard_stop"})])
def test_a_perfect_rule_over_nine_pairs_is_an_accident_and_over_ten_is_none(n: int, expected: dict[str, str]) -> None:
    pairs = marked(lambda text: f" {text}", n)
    assert {claim: severity for claim, severity in claims(pairs).items() if claim == "pairs_separable"} == expected


def test_a_few_identical_pairs_are_a_warning_and_half_of_them_a_stop() -> None:
    pairs = natural(20)
    same = [(p, c, c) for p, c, _ in pairs]
    assert claims([*same[:2], *pairs[2:]]) == {"pairs_identical": "warning"}
    assert claims([*same[:10], *pairs[10:]]) == {"pairs_identical": "hard_stop"}


def test_pairs_that_differ_in_white_space_only_are_found() -> None:
    pairs = natural(20)
    spaced = [(p, c, c.replace(" ", "  ", 1)) for p, c, _ in pairs]
    assert claims([*spaced[:3], *pairs[3:]]) == {"pairs_differ_in_white_space_only": "warning"}
    assert claims(spaced) == {"pairs_differ_in_white_space_only": "hard_stop"}


def test_two_of_eighty_pairs_with_a_glitch_on_one_side_are_a_warning_with_their_number() -> None:
    pairs = natural(80)
    for place in (3, 40):
        prompt, chosen, rejected = pairs[place]
        pairs[place] = (prompt, chosen, f"{rejected} It is the the end")
    [finding] = check_pairs(pairs)
    assert (finding.mode, finding.severity) == ("7", "warning")
    assert (finding.value["chosen"], finding.value["rejected"]) == (0, 2)
    assert finding.value[EXAMPLES] == ["the the", "the the"]


def test_sentences_repeat_no_text_of_the_rows() -> None:
    pairs = [(p, c, f"CANARY {r} CANARY") for p, c, r in natural()]
    assert all("CANARY" not in finding.sentence + finding.fix for finding in check_pairs(pairs))


def test_hostile_texts_are_read_like_any_other() -> None:
    check_pairs((chosen[:9], chosen, rejected) for chosen in HOSTILE for rejected in HOSTILE)


def test_an_answer_cut_short_is_content_left_out_and_a_lost_full_stop_is_not() -> None:
    assert differ_by_content_left_out("a long answer in one line", "a long answer")
    assert not differ_by_content_left_out("a long answer.", "a long answer")
    assert not differ_by_content_left_out("a\nb", "b\na")


@given(st.text(max_size=40), st.text(max_size=40))
def test_the_first_difference_is_where_the_common_beginning_ends(one: str, other: str) -> None:
    common = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    assert first_difference(one, other) == (one[common : common + 1], other[common : common + 1])


@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12)), max_size=30))
def test_turning_the_sides_round_finds_the_same_features(pairs: list[Pair]) -> None:
    turned = [(prompt, rejected, chosen) for prompt, chosen, rejected in pairs]
    assert [(f.claim, f.severity) for f in check_pairs(pairs)] == [(f.claim, f.severity) for f in check_pairs(turned)]


def test_feature_names_are_unique() -> None:
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)


def test_a_string_in_nearly_all_pairs_outlives_a_hundred_thousand_others() -> None:
    found = Candidates()
    for pair in range(150):
        found.cast([f"only{pair}-{place}" for place in range(1_000)], ["mark"], pair + 1)
    assert found.best() == ("mark", -150)
    assert found.tried > 100_000
