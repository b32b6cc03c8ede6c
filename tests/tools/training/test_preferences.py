from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.errors import ConfigError
from tests.tools.evaluation.fake_tokenizer import FakeTokenizer
from tests.tools.evaluation.worlds import write_lines
from tools.evaluation.rendered import Source
from tools.training.data import Cursor, Row
from tools.training.preferences import (
    Pair,
    Preferences,
    collate_pairs,
    length_statistics,
    read_pairs,
    reference_key,
)
from tools.training.recipe import PreferenceRecipe, validate_recipe

PAIR = {"prompt": "ask", "chosen": "xyz", "rejected": "x"}
"""<|user|> a s k <|end|> <|assistant|> x y z <|end|>: 10 tokens, 4 of them the answer; and 8 with 2."""


def read(folder: Path, *rows: dict[str, Any], **options: Any) -> list[Pair]:
    plain = {"max_seq_length": 64, "truncate": False}
    source = Source(write_lines(folder / "pairs.jsonl", list(rows)), options.pop("system", None))
    return read_pairs(source, FakeTokenizer(), **(plain | options))


def recipe(**keys: Any) -> PreferenceRecipe:
    found = validate_recipe(keys, "dpo")
    assert isinstance(found, PreferenceRecipe)
    return found


NONE = np.zeros((0, 2), np.float32)


def shaped(*shapes: tuple[int, int]) -> list[Pair]:
    """Return pairs of the given lengths, with a prompt of two tokens; each pair's tokens are its own."""
    return [
        Pair(Row([place + 10] * (2 + one), 2), Row([place + 10] * 2 + [place + 60] * two, 2))
        for place, (one, two) in enumerate(shapes)
    ]


def test_both_sides_begin_with_the_prompt_and_learn_the_answer_with_its_end(tmp_path: Path) -> None:
    (pair,) = read(tmp_path, PAIR)
    assert (len(pair.chosen.tokens), pair.chosen.targets) == (10, 4)
    assert (len(pair.rejected.tokens), pair.rejected.targets) == (8, 2)
    assert pair.chosen.tokens[:6] == pair.rejected.tokens[:6]
    assert pair.length == 10


def test_system_text_is_part_of_both_prompts(tmp_path: Path) -> None:
    (pair,) = read(tmp_path, PAIR, system="be brief")
    assert (len(pair.chosen.tokens), pair.chosen.targets, len(pair.rejected.tokens)) == (20, 4, 18)


def test_a_side_too_long_is_refused_by_its_name_unless_it_may_be_cut(tmp_path: Path) -> None:
    long = PAIR | {"rejected": "b" * 20}
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, PAIR, long, max_seq_length=16)
    assert caught.value.sentence == (
        f"{tmp_path / 'pairs.jsonl'}:2: the rejected side has 27 tokens and recipe.max_seq_length is 16; raise it, "
        "remove the row, or set recipe.truncate: true."
    )
    pair = read(tmp_path, PAIR, long, max_seq_length=16, truncate=True)[1]
    assert (len(pair.rejected.tokens), pair.rejected.is_cut, pair.chosen.is_cut) == (16, True, False)


def test_a_prompt_that_fills_the_window_and_sides_that_differ_only_beyond_it_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r":1: nothing is left to learn, the prompt alone has 6 tokens"):
        read(tmp_path, PAIR, max_seq_length=6, truncate=True)
    late = PAIR | {"chosen": "b" * 20, "rejected": "b" * 20 + "c"}
    with pytest.raises(ConfigError, match=r":1: cut to 16 tokens, both sides are the same"):
        read(tmp_path, late, max_seq_length=16, truncate=True)


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=8))
def test_a_batch_holds_the_chosen_sides_then_the_rejected_ones_each_with_its_reference(
    shapes: list[tuple[int, int]],
) -> None:
    pairs = shaped(*shapes)
    reference = np.arange(2 * len(pairs), dtype=np.float32).reshape(-1, 2)
    batch = collate_pairs(pairs, reference)
    inputs, _, targets, mask, flat = batch.arrays
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    for place, row in enumerate(rows):
        assert targets[place][mask[place] == 1].tolist() == row.tokens[row.learned_from :]
        assert flat[place] == reference[place % len(pairs), place // len(pairs)]
    assert (batch.weight, batch.rows) == (len(pairs), len(pairs))
    assert batch.learned_tokens == sum(map(sum, shapes))
    assert batch.real_tokens <= batch.padded_tokens == inputs.size + len(rows)


def test_every_pair_is_seen_once_an_epoch_and_pairs_of_like_longer_side_share_a_batch() -> None:
    pairs = shaped(*((1 + place, 40 - place) for place in range(37)))
    objective = Preferences(recipe(batch_size=4, seed=3), pairs, np.zeros((37, 2), np.float32), [], NONE)
    seen: list[int] = []
    widths = []
    for batch, after in objective.batches(Cursor()):
        seen += [int(row[0]) - 10 for row in batch.arrays[0][: batch.rows]]
        widths.append(batch.arrays[0].shape[1])
        if after.position == 10:
            break
    assert sorted(seen) == list(range(37))
    assert min(widths) < 32 <= max(widths)
    assert objective.validation() == []


def test_validation_is_every_pair_in_batches_of_like_length() -> None:
    pairs = shaped((9, 1), (1, 1), (1, 30), (2, 2), (12, 3))
    reference = np.arange(10, dtype=np.float32).reshape(-1, 2)
    objective = Preferences(recipe(batch_size=2), pairs, reference, pairs, reference)
    batches = objective.validation()
    assert [int(row[0]) - 10 for batch in batches for row in batch.arrays[0][: batch.rows]] == [1, 3, 0, 4, 2]
    assert batches[-1].arrays[-1].tolist() == [4.0, 5.0]


def test_accuracy_counts_pairs_and_a_tie_is_not_right() -> None:
    objective = Preferences(recipe(), [], NONE, [], NONE)
    # Three of four pairs are right although the mean margin is far below zero.
    rewards = np.array([[1.0, 0.5], [0.2, 0.1], [3.0, 2.9], [-50.0, 50.0]])
    figures = np.concatenate([rewards, np.full((4, 2), -7.0), np.full((4, 2), 9.0)], axis=1)
    found = objective.report(figures)
    assert (found["accuracy"], found["margin"]) == (0.75, pytest.approx(-24.825))
    assert (found["chosen_reward"], found["chosen_logp"], found["rejected_tokens"]) == (-11.45, -7.0, 9.0)
    assert objective.report(np.zeros((2, 6)))["accuracy"] == 0.0


def test_pairs_are_separated_when_the_loss_is_near_its_least_and_every_pair_is_right() -> None:
    right, wrong = np.array([[9.0, 0, 0, 0, 1, 1]]), np.array([[-9.0, 0, 0, 0, 1, 1]])
    plain, smoothed = (Preferences(recipe(**keys), [], NONE, [], NONE) for keys in ({}, {"label_smoothing": 0.1}))
    assert plain.is_separated(0.009, right)
    assert not plain.is_separated(0.009, wrong)
    assert not plain.is_separated(0.011, right)
    # With smoothing 0.1 no loss is below the entropy of one in ten, 0.325.
    assert smoothed.is_separated(0.33, right)
    assert not smoothed.is_separated(0.34, right)


def test_lengths_of_both_sides_are_told() -> None:
    found = length_statistics(shaped((4, 2), (6, 8), (9, 1)))
    assert found["chosen_length"]["mean"] == pytest.approx(19 / 3)
    assert found["rejected_length"] == {
        "mean": pytest.approx(11 / 3),
        "std": pytest.approx(3.0912, 1e-4),
        "min": 1,
        "max": 8,
    }
    assert found["chosen_longer_share"] == pytest.approx(2 / 3)


def test_a_cached_reference_is_that_of_these_weights_tokens_and_settings() -> None:
    pairs = shaped((3, 2), (1, 4))
    key = reference_key("a" * 64, pairs, {"dtype": "float32"})
    assert key == reference_key("a" * 64, shaped((3, 2), (1, 4)), {"dtype": "float32"})
    others = [
        reference_key("b" * 64, pairs, {"dtype": "float32"}),
        reference_key("a" * 64, pairs[::-1], {"dtype": "float32"}),
        reference_key("a" * 64, pairs, {"dtype": "float16"}),
        reference_key(
            "a" * 64, [Pair(pairs[0].chosen, Row(pairs[0].rejected.tokens, 1)), pairs[1]], {"dtype": "float32"}
        ),
    ]
    assert len({key, *others}) == 5
