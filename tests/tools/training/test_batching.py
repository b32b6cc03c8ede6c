from itertools import islice

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tools.training.batching import (
    PAD_TO,
    Cursor,
    batches_from,
    epoch_batches,
    padded_length,
    padding_share,
)

LENGTHS = st.lists(st.integers(2, 500), min_size=1, max_size=200)
SIZES = st.integers(1, 17)
SEEDS = st.integers(0, 2**32 - 1)


@given(LENGTHS, SIZES, SEEDS, st.integers(0, 5), st.booleans())
def test_every_row_stands_in_exactly_one_batch_of_each_epoch(
    lengths: list[int],
    size: int,
    seed: int,
    epoch: int,
    bucketing: bool,  # noqa: FBT001 - hypothesis fills it in
) -> None:
    batches = epoch_batches(lengths, size, seed, epoch, bucketing=bucketing)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert max(map(len, batches)) <= size
    short = [batch for batch in batches if len(batch) < size]
    assert len(short) <= 1, "only the tail is smaller"


@given(LENGTHS, SIZES, SEEDS, st.integers(0, 5))
def test_batches_follow_from_seed_and_epoch_alone(lengths: list[int], size: int, seed: int, epoch: int) -> None:
    assert epoch_batches(lengths, size, seed, epoch) == epoch_batches(list(lengths), size, seed, epoch)


def test_epochs_and_seeds_differ_in_order_and_in_company() -> None:
    lengths = list(range(2, 66))
    seen = {(seed, epoch): epoch_batches(lengths, 4, seed, epoch) for seed in range(3) for epoch in range(3)}
    assert len({str(batches) for batches in seen.values()}) == 9
    mixed = [40] * 64
    company = {frozenset(batch) for epoch in range(2) for batch in epoch_batches(mixed, 4, 0, epoch)}
    assert len(company) > 16, "another epoch puts other rows together"


@given(LENGTHS, SIZES, SEEDS, st.integers(0, 40))
def test_a_run_goes_on_from_any_cursor_as_if_it_had_not_stopped(
    lengths: list[int], size: int, seed: int, done: int
) -> None:
    whole = list(islice(batches_from(lengths, size, seed, Cursor()), done + 10))
    cursor = whole[done - 1][1] if done else Cursor()
    assert list(islice(batches_from(lengths, size, seed, cursor), 10)) == whole[done:]


@given(LENGTHS, SIZES, SEEDS)
def test_two_epochs_show_every_row_twice(lengths: list[int], size: int, seed: int) -> None:
    n_batches = len(epoch_batches(lengths, size, seed, 0))
    shown = [row for rows, _ in islice(batches_from(lengths, size, seed, Cursor()), 2 * n_batches) for row in rows]
    assert sorted(shown) == sorted(2 * list(range(len(lengths))))


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=9))
def test_a_batch_is_padded_by_less_than_one_step(lengths: list[int]) -> None:
    width = padded_length(lengths)
    assert width % PAD_TO == 0
    assert 0 <= width - max(lengths) < PAD_TO


def test_padding_share_is_told_by_hand() -> None:
    assert padding_share([8, 4, 16], [[0, 1], [2]]) == 1 - 28 / 32
    assert padding_share([8, 16], [[0], [1]]) == 0


def stock_batches(lengths: list[int], size: int) -> list[list[int]]:
    """Return the batches of mlx-lm 0.32.2: its sort key is the same for every row, and the tail is left out."""
    return [list(range(at, at + size)) for at in range(0, len(lengths) - size + 1, size)]


def stock_padding(lengths: list[int], batches: list[list[int]]) -> float:
    real = sum(lengths[row] for batch in batches for row in batch)
    padded = sum(len(batch) * (1 + 32 * -(-max(lengths[row] for row in batch) // 32)) for batch in batches)
    return 1 - real / padded


def test_rows_of_mixed_length_waste_less_than_half_of_what_stock_order_wastes() -> None:
    lengths = np.random.default_rng(0).integers(5, 500, 500).tolist()
    ours = padding_share(lengths, epoch_batches(lengths, 8, 0, 0))
    stock = stock_padding(lengths, stock_batches(lengths, 8))
    print(f"padding: ours {ours:.3f}, stock {stock:.3f}")
    assert ours < 0.10
    assert stock > 0.40


def test_without_bucketing_batches_are_shuffled_rows() -> None:
    lengths = np.random.default_rng(0).integers(5, 500, 200).tolist()
    batches = epoch_batches(lengths, 8, 0, 0, bucketing=False)
    assert padding_share(lengths, batches) > 0.30
    assert batches != stock_batches(lengths, 8)
