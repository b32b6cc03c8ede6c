import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.errors import ConfigError
from state.hashing import hash_json
from tools.graders.spreadsheet_clean.generate import (
    INSTRUCTION,
    LAB_REGULAR_ROWS,
    LAB_STRESS_ROWS,
    TINY_REGULAR_ROWS,
    TINY_STRESS_ROWS,
    Case,
    Kind,
    chat_row,
    early_stop_reference,
    eval_row,
    generate_case,
    generate_cases,
    main,
)
from tools.graders.spreadsheet_clean.noise import COLUMNS

LAB_SEED_300_ROWS = [
    24, 17, 25, 16, 24, 20, 18, 15, 23, 24, 15, 22, 24, 23, 16, 25, 25, 17, 23, 19,
    22, 24, 21, 16, 20, 22, 17, 21, 24, 25, 19, 17, 22, 16, 22, 25, 24, 22, 22, 20,
]  # fmt: skip
"""Rows per stress table of the lab's seed 300 (facts/lab_harness.json)."""

kinds: st.SearchStrategy[Kind] = st.sampled_from(["regular", "stress"])
seeds = st.integers(0, 2**32 - 1)
indices = st.integers(0, 5000)
ranges = st.tuples(st.integers(1, 12), st.integers(0, 20)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def _lines(case: Case) -> tuple[list[str], list[str]]:
    """Return (messy lines without the header, gold rows)."""
    return case.prompt.split("\n")[2:], case.reference.split("\n")[1:]


def test_the_stress_split_of_seed_300_has_the_lab_s_row_counts() -> None:
    assert [case.rows for case in generate_cases(300, 40, "stress", LAB_STRESS_ROWS)] == LAB_SEED_300_ROWS


def test_a_fixed_seed_gives_the_same_bytes_on_every_machine() -> None:
    cases = [
        *generate_cases(200, 60, "regular", TINY_REGULAR_ROWS),
        *generate_cases(300, 40, "stress", TINY_STRESS_ROWS),
        *generate_cases(200, 60, "regular", LAB_REGULAR_ROWS),
    ]
    digest = hash_json([eval_row(case) for case in cases])
    # A change of this value makes every shipped split, base and published score stale.
    assert digest == "d7119d3935bc15642f6d7bb745459fd402b4cd790d53d1710a7cf05b4cb25c1f"


@given(seeds, indices, kinds, ranges)
def test_a_case_depends_on_its_arguments_alone(seed: int, index: int, kind: Kind, rows: tuple[int, int]) -> None:
    case = generate_case(seed, index, kind, rows)
    assert case == generate_case(seed, index, kind, rows)
    assert case.rows == len(case.reference.split("\n")) - 1
    assert rows[0] <= case.rows <= rows[1]
    assert case.prompt.startswith(INSTRUCTION + "\nQuarter,")


@given(seeds, indices, kinds, ranges)
def test_gold_is_a_clean_table_with_one_row_per_quarter(
    seed: int, index: int, kind: Kind, rows: tuple[int, int]
) -> None:
    case = generate_case(seed, index, kind, rows)
    header, *gold = case.reference.split("\n")
    assert header == ",".join(COLUMNS)
    cells = [row.split(",") for row in gold]
    assert len({row[0] for row in cells}) == case.rows
    for _quarter, revenue, opex, headcount, note in cells:
        assert revenue.isdigit()
        assert opex.isdigit()
        assert headcount.isdigit() or headcount == ""
        assert "$" not in note
    assert "\r" not in case.reference


@given(seeds, indices, ranges)
def test_every_line_of_a_stress_table_is_a_real_row_in_order(seed: int, index: int, rows: tuple[int, int]) -> None:
    messy, gold = _lines(generate_case(seed, index, "stress", rows))
    assert [line.split(",")[0] for line in messy] == [row.split(",")[0] for row in gold]


@given(seeds, indices, ranges)
def test_no_real_row_is_missing_from_a_regular_table(seed: int, index: int, rows: tuple[int, int]) -> None:
    messy, gold = _lines(generate_case(seed, index, "regular", rows))
    quarters = {line.split(",")[0].strip() for line in messy}
    assert {row.split(",")[0] for row in gold} <= quarters


def test_a_split_keeps_its_cases_when_it_grows() -> None:
    short = list(generate_cases(7, 10, "regular", (3, 9)))
    assert list(generate_cases(7, 30, "regular", (3, 9)))[:10] == short
    assert list(generate_cases(7, 5, "regular", (3, 9), start=5)) == short[5:]


def test_regular_splits_hold_each_noise_kind_equally_and_difficulties_in_the_lab_s_mix() -> None:
    cases = list(generate_cases(100, 2000, "regular", LAB_REGULAR_ROWS))
    assert Counter(case.dimension for case in cases) == dict.fromkeys(
        ("preservation", "units", "format", "completeness"), 500
    )
    difficulty = Counter(case.difficulty for case in cases)
    assert difficulty["easy"] / 2000 == pytest.approx(0.4, abs=0.04)
    assert difficulty["medium"] / 2000 == pytest.approx(0.4, abs=0.04)


@pytest.mark.parametrize(("difficulty", "low", "high"), [("easy", 6, 10), ("medium", 8, 14), ("hard", 10, 18)])
def test_the_lab_s_row_ranges_follow_from_the_whole_range(difficulty: str, low: int, high: int) -> None:
    cases = generate_cases(100, 2000, "regular", LAB_REGULAR_ROWS)
    rows = {case.rows for case in cases if case.difficulty == difficulty}
    assert rows == set(range(low, high + 1))


@pytest.mark.parametrize(
    ("dimension", "difficulty", "sign"),
    [
        ("preservation", "hard", "projected"),
        ("preservation", "easy", "\n\n"),
        ("units", "easy", " M,"),
        ("units", "hard", "M\n"),
        ("format", "medium", " , "),
        ("format", "hard", "---,---"),
        ("completeness", "medium", "Region"),
        ("completeness", "hard", "Comments"),
    ],
)
def test_each_noise_kind_leaves_its_sign(dimension: str, difficulty: str, sign: str) -> None:
    cases = generate_cases(5, 200, "regular", LAB_REGULAR_ROWS)
    mine = [case for case in cases if (case.dimension, case.difficulty) == (dimension, difficulty)]
    assert any(sign in case.prompt for case in mine)
    assert not any(sign in case.reference for case in mine)


def test_hard_and_medium_preservation_tables_repeat_rows_that_gold_holds_once() -> None:
    for case in generate_cases(5, 400, "regular", LAB_REGULAR_ROWS):
        messy, gold = _lines(case)
        repeated = sum(count - 1 for line, count in Counter(messy).items() if line in gold)
        is_primary = case.dimension == "preservation"
        assert repeated == ({"easy": 0, "medium": 1, "hard": 2}[case.difficulty] if is_primary else 0)


def test_stress_tables_have_the_lab_s_shares_of_odd_rows() -> None:
    messy = [line for case in generate_cases(1, 300, "stress", LAB_STRESS_ROWS) for line in _lines(case)[0]]
    share = len(messy)
    assert sum(" M," in line for line in messy) / share == pytest.approx(0.35, abs=0.02)
    assert sum("K," in line for line in messy) / share == pytest.approx(0.65 * 0.10, abs=0.01)
    assert sum(line.endswith(",") for line in messy) / share == pytest.approx(0.20, abs=0.02)
    assert sum(line.split(",")[3] == "" for line in messy) / share == pytest.approx(0.08, abs=0.01)


def test_training_and_held_out_splits_share_no_prompt() -> None:
    held_out = {case.prompt for seed in (200, 201) for case in generate_cases(seed, 200, "regular", (3, 9))}
    assert len(held_out) == 400
    assert not held_out & {case.prompt for case in generate_cases(100, 2000, "regular", (3, 9))}


@given(seeds, indices)
def test_an_early_stop_ends_on_a_row_after_half_to_most_of_the_rows(seed: int, index: int) -> None:
    case = generate_case(seed, index, "stress", (12, 18))
    answer = early_stop_reference(case, seed)
    assert answer == early_stop_reference(case, seed)
    assert case.reference.startswith(answer + "\n")
    kept = len(answer.split("\n")) - 1
    assert 0.5 * case.rows - 1 <= kept <= 0.85 * case.rows


def test_a_chat_row_is_one_question_and_one_answer() -> None:
    case = generate_case(1, 2, "regular", (3, 9))
    assert chat_row(case)["messages"] == [
        {"role": "user", "content": case.prompt},
        {"role": "assistant", "content": case.reference},
    ]
    assert chat_row(case, "short")["messages"][1]["content"] == "short"


def test_an_empty_row_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="9-3"):
        generate_case(1, 1, "regular", (9, 3))


def test_the_command_writes_a_split(tmp_path: Path) -> None:
    out = tmp_path / "eval.jsonl"
    command = ["--kind", "regular", "--rows", "3-9", "--n", "8", "--seed", "200", "--out"]
    subprocess.run(
        [sys.executable, "-m", "tools.graders.spreadsheet_clean.generate", *command, str(out)],
        check=True,
        cwd=Path(__file__).parents[3],
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows == [eval_row(case) for case in generate_cases(200, 8, "regular", (3, 9))]


def test_the_command_mixes_regular_and_stress_tables_for_training(tmp_path: Path) -> None:
    out = tmp_path / "train.jsonl"
    options = "--kind mixed --rows 3-9 --stress-rows 12-18 --stress-share 0.25 --n 40 --seed 1 --format chat --out"
    assert main([*options.split(), str(out)]) == 0
    answers = [json.loads(line)["messages"][1]["content"] for line in out.read_text().splitlines()]
    n_long = [answer.count("\n") >= 12 for answer in answers]
    assert (len(answers), sum(n_long)) == (40, 10)
    assert not all(n_long[:10])


@pytest.mark.parametrize("options", ["--rows 9-3 --n 4", "--rows 3-9 --n 0"])
def test_the_command_refuses_what_makes_no_table(
    options: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "none.jsonl"
    assert main(["--kind", "regular", "--seed", "1", "--out", str(out), *options.split()]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not out.exists()
