from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.errors import ConfigError
from tests.tools.evaluation.fake_tokenizer import FakeTokenizer
from tests.tools.evaluation.worlds import write_lines
from tests.tools.training.blocks import padded
from tools.evaluation.rendered import Source
from tools.training.data import Row, Shape, collate, read_rows


def read(folder: Path, *data: dict[str, Any], tokenizer: Any = None, **options: Any) -> list[Row]:
    plain = {"max_seq_length": 64, "mask_prompt": True, "truncate": False}
    path = write_lines(folder / "train.jsonl", list(data))
    return read_rows(Source(path, options.pop("system", None)), tokenizer or FakeTokenizer(), **(plain | options))


ROW = {"prompt": "ask", "completion": "x"}
"""<|user|> a s k <|end|> <|assistant|> x <|end|>: 8 tokens, 2 of them the completion."""


def test_a_completion_of_two_tokens_counts_two_targets_with_its_end(tmp_path: Path) -> None:
    (row,) = read(tmp_path, ROW)
    assert (len(row.tokens), row.learned_from, row.targets) == (8, 6, 2)
    assert row.tokens[-1] == FakeTokenizer().eos_token_id
    assert collate([row]).weight == 2


def test_without_a_mask_everything_but_the_first_token_is_learned(tmp_path: Path) -> None:
    (row,) = read(tmp_path, ROW, mask_prompt=False)
    assert (row.learned_from, row.targets) == (1, 7)


def test_a_text_row_has_no_prompt_and_is_learned_whole_with_its_end(tmp_path: Path) -> None:
    (row,) = read(tmp_path, {"text": "hello"})
    assert (len(row.tokens), row.targets) == (6, 5)


def test_system_text_is_part_of_the_prompt(tmp_path: Path) -> None:
    (row,) = read(tmp_path, ROW, system="be brief")
    assert (len(row.tokens), row.targets) == (18, 2)


@given(st.lists(st.tuples(st.integers(2, 40), st.integers(1, 39)), min_size=1, max_size=8), st.booleans())
def test_padding_is_never_a_target_and_every_answer_token_is(
    shapes: list[tuple[int, int]],
    is_known: bool,  # noqa: FBT001 - hypothesis fills it in
) -> None:
    rows = [Row(list(range(100, 100 + length)), min(start, length - 1)) for length, start in shapes]
    tokens, whole = padded(rows)
    known = [Shape(64, 48)] if is_known else []
    batch = collate(rows, known)
    inputs, places, targets, mask = batch.arrays
    assert inputs.shape[1] == (64 if is_known else whole.shape[1])
    assert np.all(np.diff(places) == 1), "no position is asked for twice"
    assert np.all(targets[mask == 1] != 0), "padding is 0"
    for place, row in enumerate(rows):
        learned = row.tokens[row.learned_from :]
        assert inputs[place, : len(row.tokens) - 1].tolist() == row.tokens[:-1]
        assert targets[place][mask[place] == 1].tolist() == learned
        assert tokens[place, 1:][whole[place] == 1].tolist() == learned
        before = inputs[place][places[place]][mask[place] == 1]
        assert before.tolist() == row.tokens[row.learned_from - 1 : -1]
    assert batch.padded_tokens == inputs.size + len(rows)
    assert batch.learned_tokens == batch.weight == sum(row.targets for row in rows)


def test_without_the_exact_mask_the_padding_after_a_row_is_learned_where_there_is_room_for_it(tmp_path: Path) -> None:
    longer = {"prompt": "ask", "completion": "xy"}
    exact = read(tmp_path, ROW, longer, max_seq_length=9, exact_mask=True)
    assert exact == read(tmp_path, ROW, longer, max_seq_length=9), "what is left out"
    loose = read(tmp_path, ROW, longer, max_seq_length=9, exact_mask=False)
    assert loose == [Row([*exact[0].tokens, 0], exact[0].learned_from), exact[1]]
    assert [row.targets for row in loose] == [3, 3]


def test_the_padding_that_may_be_learned_makes_no_row_too_long_and_no_empty_one_learnable(tmp_path: Path) -> None:
    (row,) = read(tmp_path, ROW, max_seq_length=8, exact_mask=False)
    assert (len(row.tokens), row.is_cut) == (8, False)
    with pytest.raises(ConfigError, match="nothing is left to learn"):
        read(tmp_path, {"prompt": "a" * 20, "completion": "b"}, max_seq_length=16, truncate=True, exact_mask=False)


def test_a_prompt_that_fills_the_window_is_refused_even_where_rows_may_be_cut(tmp_path: Path) -> None:
    for truncate in (False, True):
        with pytest.raises(ConfigError) as caught:
            read(tmp_path, ROW, {"prompt": "a" * 20, "completion": "b"}, max_seq_length=16, truncate=truncate)
        assert caught.value.sentence == (
            f"{tmp_path / 'train.jsonl'}:2: nothing is left to learn, the prompt alone has 23 tokens of "
            "max_seq_length 16; raise it or remove the row."
        )
        assert caught.value.where == f"{tmp_path / 'train.jsonl'}:2"


def test_a_row_too_long_is_refused_unless_it_may_be_cut(tmp_path: Path) -> None:
    long = {"prompt": "ask", "completion": "b" * 20}
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, long, max_seq_length=16)
    assert caught.value.sentence == (
        f"{tmp_path / 'train.jsonl'}:1: the row has 27 tokens and recipe.max_seq_length is 16; raise it, remove the "
        "row, or set recipe.truncate: true."
    )
    (row,) = read(tmp_path, long, max_seq_length=16, truncate=True)
    assert (len(row.tokens), row.targets) == (16, 10), "cut at the end, its prompt still no target"
