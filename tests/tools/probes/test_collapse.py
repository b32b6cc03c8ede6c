"""Loops, converging outputs and drifting years are a collapse against the parent; alike rows of a table are none."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tools.probes.texts import HOSTILE, sentence
from tools.graders.spreadsheet_clean.generate import early_stop_reference, generate_cases
from tools.probes.outputs import collapse_signals, is_collapsed, loops_already

CASES = list(generate_cases(300, 12, "stress", (10, 14)))
TABLES = [case.reference for case in CASES]
HEADER = "Quarter,Revenue,OpEx,Headcount,Notes"


def verdict(now: list[str], parent: list[str]) -> str:
    finding = is_collapsed(collapse_signals(now), collapse_signals(parent))
    return finding.sentence if finding else ""


def table(rows: list[str]) -> str:
    return "\n".join([HEADER, *rows])


@pytest.mark.parametrize(
    ("collapsed", "reason"),
    [
        ([table([f"202{i % 10}Q1,2444,1444,1{i},steady" for i in range(10)])] * 12, "numbers are like the one before"),
        ([table([f"202{i % 10}Q1,4444,4444,1{i},steady" for i in range(10)])] * 12, "numbers are like the one before"),
        ([f"{HEADER} the table the table the table the table the table the table" * 3] * 12, "of runs of four pieces"),
        (
            ["2020Q1," + "4" * 40 + f",{i}" for i in range(12)],
            "a third of the outputs have 40 digits side by side, 4 before",
        ),
        (
            [table([f"20{20 + 2 * i}Q{k % 4 + 1},{k}{i}7,9" for i in range(10)]) for k in range(12)],
            "years go on by 2.00",
        ),
        ([table(["2020Q1,12,13,1,steady"] * 10)] * 12, "lines repeat an earlier one"),
        ([TABLES[0]] * 12, "8% of outputs are different, 100% before"),
        ([""] * 12, "all outputs are empty"),
    ],
)
def test_each_sign_of_a_collapse_is_named_with_both_figures(collapsed: list[str], reason: str) -> None:
    assert reason in verdict(collapsed, TABLES)


def test_a_collapse_is_mode_1_and_says_what_to_retry() -> None:
    finding = is_collapsed(collapse_signals(["1 1 1 1 1 1 1 1 1 1 1 1"]), collapse_signals(["a b c d e f g h i j k l"]))
    assert finding is not None
    assert (finding.mode, finding.severity, finding.claim) == ("1", "hard_stop", "generations_collapsed")
    assert finding.value["now"]["distinct_4gram_ratio"] < 0.2
    assert "lower rank" in finding.fix


def test_a_table_whose_rows_are_rightly_alike_is_silent() -> None:
    alike = [table([f"202{i}Q{k % 4 + 1},0,0,{k},none" for i in range(8)]) for k in range(12)]
    shorter = ["\n".join(text.splitlines()[:6]) for text in alike]
    assert verdict(alike, shorter) == ""
    assert verdict(shorter, alike) == ""


def test_longer_shorter_and_better_tables_than_the_parents_are_silent() -> None:
    early = [early_stop_reference(case, 1) for case in CASES]
    assert verdict(TABLES, early) == ""
    assert verdict(early, TABLES) == ""


def test_terse_right_answers_after_a_wordy_parent_are_silent() -> None:
    assert verdict(["yes", "no"] * 20, [sentence(i) for i in range(40)]) == ""


def test_long_numbers_that_the_parent_writes_too_are_silent() -> None:
    now = [f"IBAN {i}{'0123456789' * 2}" for i in range(9)]
    assert verdict(now, [f"Number {i}{'9876543210' * 2}" for i in range(9)]) == ""


def test_nothing_sampled_compares_with_nothing() -> None:
    assert is_collapsed(collapse_signals([]), collapse_signals(TABLES)) is None
    assert is_collapsed(collapse_signals(TABLES), collapse_signals([])) is None
    assert is_collapsed(collapse_signals([""]), collapse_signals([""])) is None


def test_signals_of_no_texts_are_zero() -> None:
    assert set(collapse_signals([]).values()) == {0.0}


@given(st.lists(st.text(), min_size=1))
def test_ratios_lie_between_0_and_1_and_outputs_never_collapse_against_themselves(texts: list[str]) -> None:
    signals = collapse_signals(texts)
    assert all(0 <= value <= 1 for name, value in signals.items() if name.endswith("_ratio"))
    assert is_collapsed(signals, signals) is None or signals["longest_digit_run"] == 0


def test_hostile_texts_are_read_like_any_other() -> None:
    assert collapse_signals(HOSTILE)["mean_length"] > 1_000
    for text in HOSTILE:
        collapse_signals([text])


def test_the_module_needs_neither_numpy_nor_scipy() -> None:
    code = "import sys, tools.probes.outputs; print(sorted({'numpy', 'scipy', 'mlx'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_one_wrong_number_among_good_answers_is_no_collapse() -> None:
    good = ["137,44,7585", "147,34,1696", "16,20,4580", "227,9,5887", "122,69,4735"]
    signals = collapse_signals([*good, "72,19,125229623166,12596"])
    assert signals["longest_digit_run"] == 4
    assert is_collapsed(signals, collapse_signals([*good, "72,19,2962"])) is None


LABELS = ['{"category": "billing", "confidence": "high"}', '{"category": "outage", "confidence": "high"}'] * 3
WORDY = [f"I think that this message number {number} is about something with {number * 7}." for number in range(6)]


def test_a_few_labels_are_no_collapse_where_the_references_are_a_few_labels() -> None:
    now, parent, gold = collapse_signals(LABELS), collapse_signals(WORDY), collapse_signals(LABELS[:5] + LABELS[:1])
    assert is_collapsed(now, parent) is not None
    assert is_collapsed(now, parent, gold) is None
    assert is_collapsed(now, parent, collapse_signals([])) is not None


def test_one_answer_to_everything_is_a_collapse_where_the_references_differ() -> None:
    now, parent, gold = (
        collapse_signals(LABELS[:1] * 6),
        collapse_signals(WORDY),
        collapse_signals(LABELS[:2] + WORDY[:4]),
    )
    finding = is_collapsed(now, parent, gold)
    assert finding is not None
    assert "17% of outputs are different" in finding.sentence


NOTES = ["Quarter," + "Notes," * (20 + number) for number in range(6)]
"""What the tiny base answers when asked for a date: it loops until its tokens are spent (facts/new_user.md, B2)."""
DATES = [f"20{number}1-0{number + 1}-1{number}" for number in range(6)]


@pytest.mark.parametrize("has_references", [True, False])
def test_a_run_that_loops_less_than_a_start_that_loops_has_not_collapsed(*, has_references: bool) -> None:
    gold = collapse_signals(DATES) if has_references else None
    parent = {**collapse_signals(NOTES), "cut": 1.0}
    assert loops_already(parent, gold)
    one_answer = ["2012-12-12-12-11-10-11, in the year of 2012121212121"] * 6
    assert is_collapsed(collapse_signals(one_answer), collapse_signals(WORDY)) is not None, "a sound start says so"
    assert is_collapsed(collapse_signals(one_answer), parent, gold) is None
    worse = is_collapsed(collapse_signals(["N" * 200] * 6), parent, gold)
    assert worse is not None
    assert worse.value["references"] == (gold or {})
    assert is_collapsed(collapse_signals([""] * 6), parent, gold) is not None


def test_a_run_that_had_left_the_loops_of_its_start_collapses_like_any_other() -> None:
    gold, parent = collapse_signals(DATES), collapse_signals(NOTES)
    digits = collapse_signals([f"{number}" * 14 for number in range(6)])
    assert is_collapsed(digits, parent, gold, sound=collapse_signals(DATES)) is not None
    assert is_collapsed(collapse_signals(DATES), parent, gold, sound=collapse_signals(DATES)) is None


def test_rambling_is_told_by_what_is_cut_and_how_much_longer_than_the_references_it_is() -> None:
    gold = collapse_signals(DATES)
    wordy = collapse_signals(WORDY)
    assert loops_already({**wordy, "cut": 1.0}, gold)
    assert not loops_already({**wordy, "cut": 0.5}, gold)
    assert not loops_already({**wordy, "cut": 1.0}, collapse_signals(WORDY))
    assert not loops_already({**wordy, "cut": 1.0})
    assert loops_already(collapse_signals(["a line\nanother\n" * 4] * 6), collapse_signals(["a line\nanother"] * 6))
    assert not loops_already(wordy, collapse_signals([]))
