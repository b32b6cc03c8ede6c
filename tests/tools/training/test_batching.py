from collections.abc import Sequence
from itertools import accumulate, combinations, islice, pairwise
from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from state.recipe import PAD_TO
from tests.benchmarks.training import padding_share
from tools.training import data
from tools.training.data import (
    MOST_SHAPES,
    Cursor,
    Shape,
    batches_from,
    buckets,
    epoch_batches,
    fitting,
    shape_of,
    shapes,
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


@given(st.lists(st.integers(2, 5000), min_size=1, max_size=9))
def test_a_batch_of_its_own_shape_is_padded_by_less_than_one_step(lengths: list[int]) -> None:
    shape = shape_of(lengths, [1])
    assert shape.width % PAD_TO == 0
    assert 0 <= shape.width - (max(lengths) - 1) < PAD_TO
    assert shape.answers == PAD_TO


@given(LENGTHS, SIZES, SEEDS, st.integers(0, 3), st.booleans())
def test_a_data_set_has_few_shapes_whatever_the_epoch_and_every_row_fits(
    lengths: list[int],
    size: int,
    seed: int,
    epoch: int,
    bucketing: bool,  # noqa: FBT001 - hypothesis fills it in
) -> None:
    targets = [1 + (7 * length) % (length - 1) for length in lengths]
    known = shapes(lengths, targets, size)
    assert len(known) <= MOST_SHAPES
    assert sorted(known, key=lambda shape: shape.width) == known
    for batch in epoch_batches(lengths, size, seed, epoch, bucketing=bucketing):
        shape = fitting(known, [lengths[row] for row in batch], [targets[row] for row in batch])
        assert shape in known
        assert all(lengths[row] - 1 <= shape.width and targets[row] <= shape.answers for row in batch)


@given(st.lists(st.integers(2, 120), min_size=1, max_size=9), st.integers(1, 2), st.integers(1, 4))
def test_parts_are_whole_batches_and_none_cut_elsewhere_pads_less(lengths: list[int], size: int, most: int) -> None:
    with patch.object(data, "MOST_SHAPES", most):
        parts = buckets(lengths, size)
    ordered = sorted(lengths)

    def cost(ends: Sequence[int]) -> int:
        return sum((end - start) * shape_of([ordered[end - 1]], [1]).width for start, end in pairwise([0, *ends]))

    ends = [*accumulate(len(part) for part in parts)]
    inner = [*range(size, len(lengths), size)]
    ways = [[*cut, len(lengths)] for n in range(most) for cut in combinations(inner, n)]
    assert ends in ways
    assert cost(ends) == min(map(cost, ways))


def test_no_rows_need_no_shape() -> None:
    assert shapes([], [], 4) == []


def test_padding_share_is_told_by_hand() -> None:
    assert padding_share([9, 5, 17], [[0, 1], [2]]) == 1 - 31 / 35
    assert padding_share([9, 17], [[0], [1]]) == 0
    assert padding_share([9, 17], [[0], [1]], [Shape(16, 8)]) == 1 - 26 / 34


def test_mixed_lengths_leave_little_padding_in_few_shapes() -> None:
    lengths = np.random.default_rng(0).integers(100, 900, 2000).tolist()
    known = shapes(lengths, [1] * len(lengths), 16)
    batches = epoch_batches(lengths, 16, 0, 0)
    assert padding_share(lengths, batches, known) < 0.09
    widths = {fitting(known, [lengths[row] for row in batch], [1]) for batch in batches}
    assert len(widths) == MOST_SHAPES


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
