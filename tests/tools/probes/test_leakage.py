"""A case in two sets is found, equal or nearly so; rows that share no more than a template are different rows."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.records import Finding
from tests.tools.probes.texts import HOSTILE, sentence, shipped, shipped_folders, words
from tools.probes import leakage
from tools.probes.leakage import MOST_PIECES, check_leakage, similar_pairs, similarity, sketch, words_of


def labelled(name: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    return [(f"{name}:{number}", text) for number, text in enumerate(texts, 1)]


def found(train: Sequence[str], cases: Sequence[str], name: str = "stress") -> list[Finding]:
    return check_leakage({"train": labelled("train", train), name: labelled(name, cases)})


def notes(n: int, length: int = 40, name: str = "note") -> list[str]:
    return [sentence(f"{name}{i}", length) for i in range(n)]


def test_sets_of_different_texts_are_silent() -> None:
    assert found(notes(200), notes(50, name="case")) == []


def test_no_sets_and_sets_without_text_are_silent() -> None:
    assert check_leakage({}) == []
    assert found(["", " "], ["", "\n"]) == []


def test_the_shipped_data_are_silent() -> None:
    for folder in shipped_folders():
        sets = {
            path.stem: labelled(path.stem, [prompt for prompt, _ in shipped(path)]) for path in folder.glob("*.jsonl")
        }
        assert len(sets) >= 3
        assert check_leakage(sets) == []


def test_one_equal_text_is_a_hard_stop_that_names_both_rows() -> None:
    train = notes(100)
    [finding] = found(train, [*notes(9, name="case"), f"  {train[16].upper()}\n"])
    assert (finding.mode, finding.severity, finding.claim) == ("P11", "hard_stop", "has_leakage")
    assert "1 of 10 rows of stress also stand in train (10.0%), for example stress:10 in train:17" in finding.sentence
    assert finding.value["pairs"] == [["stress:10", "train:17"]]


@pytest.mark.parametrize("length", [18, 30, 45, 70, 120, 600])
@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace(text.split()[9], "unlike", 1),
        lambda text: text.replace(" ", ", ", 3).replace(".", "!"),
        lambda text: text.replace("Case 4711", "Case 4712"),
    ],
    ids=["one word edited", "punctuation changed", "id changed"],
)
def test_a_natural_text_with_a_small_change_is_a_near_duplicate(length: int, edit: object) -> None:
    assert callable(edit)
    train = [f"Case 4711. {text}" if i == 7 else text for i, text in enumerate(notes(100, length))]
    [finding] = found(train, [*notes(49, length, name="case"), edit(train[7])])
    assert (finding.severity, finding.claim) == ("hard_stop", "has_near_duplicates")
    assert finding.value["pairs"] == [["stress:50", "train:8"]]


def test_a_near_duplicate_in_a_text_of_512_pieces_and_more_is_found_by_its_sketch() -> None:
    long = words("long", 3_000)
    [finding] = found([" ".join(long)], [" ".join([*long[:50], "unlike", *long[51:]])])
    assert finding.claim == "has_near_duplicates"


def test_few_near_duplicates_are_a_warning_and_more_than_one_in_a_hundred_a_stop() -> None:
    train = notes(20)
    near = [text.replace(text.split()[5], "unlike", 1) for text in train]
    cases = notes(400, name="case")
    assert [row.severity for row in found(train, [*cases, *near[:2]])] == ["warning"]
    assert [row.severity for row in found(train, [*cases, *near[:5]])] == ["hard_stop"]


@pytest.mark.parametrize("rows", [12, 40, 600])
@pytest.mark.parametrize(
    "template",
    [
        "Read the note and answer with the fields tier, valence and topic as JSON, nothing else at all. Note: {note}",
        "What is {a} plus {b}?",
        "{name} has {a} apples and buys {b} more at the market. How many apples does {name} have in the end?",
        "date,amount,units\n2024-01-{d},{a},{b}\n2024-02-{d},{b},{c}\n2024-03-{d},{c},{a}",
        "Write a letter to {name} about order {c}, say that {a} pieces are late by {d} days, and offer {b} in return.",
        "Translate into French: {note}",
    ],
)
def test_rows_of_one_template_with_other_values_are_different_rows(rows: int, template: str) -> None:
    dice = random.Random(rows)

    def row(place: int) -> str:
        a, b, c = (dice.randint(2, 9_999) for _ in range(3))
        name = words(f"{rows}.{place}", 1)[0].capitalize()
        return template.format(name=name, note=sentence(f"{rows}-{place}", 20), a=a, b=b, c=c, d=dice.randint(10, 28))

    texts = list(dict.fromkeys(row(place) for place in range(rows)))
    assert found(texts[: rows * 2 // 3], texts[rows * 2 // 3 :]) == []


def test_a_near_duplicate_behind_a_long_template_is_found() -> None:
    template = " ".join(words("template", 120))
    train = [f"{template} Input: {text}" for text in notes(100, 30)]
    cases = [f"{template} Input: {text}" for text in notes(20, 30, name="case")]
    assert found(train, cases) == []
    edited = train[3].replace(train[3].split()[-9], "unlike", 1)
    [finding] = found(train, [*cases, edited])
    assert finding.value["pairs"] == [["stress:21", "train:4"]]


def test_texts_without_spaces_between_words_are_compared_by_character() -> None:
    dice = random.Random(3)
    texts = ["".join(chr(dice.randint(0x4E00, 0x9000)) for _ in range(90)) for _ in range(30)]
    edited = f"{texts[4][:40]}\u6f22{texts[4][41:]}"
    [finding] = found(texts, [edited])
    assert finding.value["pairs"] == [["stress:1", "train:5"]]


def test_a_text_in_two_evaluation_sets_is_a_hard_stop() -> None:
    text = sentence("both")
    [finding] = check_leakage({"selection": [("selection:1", text)], "confirmation": [("confirmation:4", text)]})
    assert finding.severity == "hard_stop"
    assert finding.value["sets"] == ["selection", "confirmation"]


@pytest.mark.parametrize(
    ("n_valid", "in_train", "in_cases", "severities"),
    [(40, 1, 0, ["hard_stop"]), (200, 1, 0, ["warning"]), (40, 0, 1, ["warning"])],
)
def test_a_validation_set_steers_only_so_little_of_it_elsewhere_is_a_warning(
    n_valid: int, in_train: int, in_cases: int, severities: list[str]
) -> None:
    valid = notes(n_valid, name="valid")
    train = [*notes(30), *valid[:in_train]]
    cases = [*notes(30, name="case"), *valid[:in_cases]]
    sets = {"train": train, "valid": valid, "test": cases}
    assert [f.severity for f in check_leakage({k: labelled(k, v) for k, v in sets.items()})] == severities


def test_nearly_equal_rows_of_valid_and_train_are_a_warning() -> None:
    train = notes(10)
    [finding] = found(train, [text.replace(text.split()[5], "unlike", 1) for text in train], name="valid")
    assert (finding.severity, finding.value["count"]) == ("warning", 10)


def test_repeated_rows_inside_train_are_a_note_with_their_number() -> None:
    train = notes(10)
    [finding] = found([*train, train[2], train[2], train[5]], notes(5, name="case"))
    assert (finding.severity, finding.claim) == ("note", "has_repeated_rows")
    assert finding.value["count"] == 3
    assert finding.value["pairs"][0] == ["train:3", "train:11"]


def test_rows_beyond_the_bound_are_compared_for_equality_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leakage, "_MOST_COMPARED", 20)
    train, cases = notes(30), notes(10, name="case")
    leak, said = found([*train, cases[3]], cases)
    assert leak.claim == "has_leakage"
    assert (said.severity, said.claim) == ("note", "near_duplicates_not_checked")
    assert said.value == {"compared": 20, "left_out": 20}


def test_a_piece_that_more_than_64_texts_share_proposes_no_pair() -> None:
    row = sketch(words_of(sentence("same", 60))).pieces
    assert list(similar_pairs([row] * 64, range(64), 0.8))
    assert list(similar_pairs([row] * 65, range(65), 0.8)) == []


def test_templates_are_looked_for_in_a_sample_of_a_large_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leakage, "_SAMPLE", 20)
    train = [f"{' '.join(words('t', 60))} {text}" for text in notes(90, 12)]
    assert found(train, [f"{' '.join(words('t', 60))} {text}" for text in notes(9, 12, name="case")]) == []


def test_labels_name_rows_and_no_text_is_repeated() -> None:
    texts = [f"CANARY {text}" for text in notes(10)]
    findings = found(texts, texts[:3])
    assert findings
    assert "CANARY" not in repr(findings)


def test_hostile_texts_are_read_like_any_other() -> None:
    findings = found(HOSTILE, HOSTILE)
    assert findings[0].value["count"] == len([text for text in HOSTILE if text.split()])


@given(st.sets(st.integers(0, 60), min_size=8), st.sets(st.integers(0, 60), min_size=8))
def test_no_pair_above_the_bound_is_missed_and_none_below_is_given(one: set[int], other: set[int]) -> None:
    rows = [np.array(sorted(row), dtype=np.uint32) for row in (one, other)]
    jaccard = len(one & other) / len(one | other)
    assert similarity(*rows) == pytest.approx(jaccard)
    assert bool(list(similar_pairs(rows, [0, 1], 0.8))) == (jaccard >= 0.8)


def test_similarity_of_cut_sketches_is_near_the_true_one() -> None:
    dice = random.Random(2)
    shared, one, other = (sketch([f"{dice.random()}" for _ in range(n)]).pieces for n in (1, 2_000, 2_000))
    assert len(one) == len(other) == MOST_PIECES
    assert similarity(one, one) == 1
    assert similarity(one, other) == 0
    assert len(shared) == 0
    texts = [f"w{i}" for i in range(4_000)]
    first, second = sketch(texts[:3_600]).pieces, sketch(texts[400:]).pieces
    assert similarity(first, second) == pytest.approx(0.8, abs=0.08)


@pytest.mark.parametrize(("other", "n_found"), [("4711 and 82", 0), ("4712 and 81", 1), ("4712 and 82", 0)])
def test_a_short_text_may_differ_in_one_number_but_not_in_two_or_in_few_words(other: str, n_found: int) -> None:
    text = "Please look into order 4711 and 81 because the parcel has still not arrived at our house in Springfield."
    is_short = other == "4711 and 82"
    pair = [text if not is_short else "The incomparably troublesome orders: 4711 and 81"]
    assert len(found(pair, [pair[0].replace("4711 and 81", other)])) == n_found


def test_of_many_repeated_rows_ten_are_named() -> None:
    train = notes(20)
    [finding] = found([*train, *train], notes(5, name="case"))
    assert (finding.value["count"], len(finding.value["pairs"])) == (20, 10)
