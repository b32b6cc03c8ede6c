"""Static batches: prompts that begin alike are read once, and rows that ended are dropped; worker processes only.

All rows of a batch stand in the same slots: what they share, padding, the rest of their own prompt, their answers.
Padding in the middle lets a shared beginning be read for one row and stand for all; a row's positions go on without it.
Whether tokens end an answer is looked at every few steps only: a GPU that is asked for each token waits for the host.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache
from numpy.typing import NDArray

from tools.evaluation.adapters import free_memory

STEP = 256
"""Slots are added by so many: the arrays keep their shape meanwhile."""

_READ_WIDTH = 2048
"""Prompt tokens of a row in one forward pass."""

_READ_SCORES, _SHORT = {mx.cpu: 1 << 20, mx.gpu: 1 << 22}, 512
"""Attention scores per head in one forward pass, rows counted as so long at least: that bounds the tokens too."""

_BATCH_SLOTS = {mx.cpu: 1 << 15, mx.gpu: 1 << 24}
"""Slots of a batch, of all rows together: where each takes its time, something is to be answered now and then."""

LOOK = {mx.cpu: 1, mx.gpu: 8}
"""Steps between two looks at what ended; on a CPU the wasted rows cost more than the wait."""

AHEAD = {mx.cpu: 0, mx.gpu: 1}
"""Looks that the steps run ahead of: a GPU computes the next ones while the host reads the latest."""

DROP = {mx.cpu: 0.9, mx.gpu: 0.5}
"""Share of the rows still to be answered at which the others are dropped: a copy of what is kept, and new shapes."""

_MEMORY_SHARE = 0.4
"""Of the memory that is free, for keys and values."""

_TRIED = (8, 6)
"""Tokens that two rows share and that one has of its own, by which a model is tried."""

_SLOT_BYTES = "_slot_bytes"
"""Where a model is told that it was tried."""

_ALIKE = {mx.float32: 1e-4}
_ALIKE_IN_HALF = 0.05
"""Largest difference of a logit, as a share of the largest one, at which two ways to compute it say the same."""


@dataclass
class Layout:
    """What the caches of all layers have in common.

    Args:
        shared: Slots at the beginning that hold the same in every row.
        gaps: shape (rows,), slots of padding after those; None where no row has any.
        filled: Slots in use.
        offset: Position of the next token; shape (rows,) where rows differ.
        is_reading: Prompts are read, and slots added as they come; else they are there.
    """

    shared: Any = 0
    gaps: mx.array | None = None
    filled: int = 0
    offset: Any = 0
    is_reading: bool = True

    def mask(self, n: int, window: int | None, *, as_array: bool) -> Any:
        """Return what the next n positions may see, as mlx-lm's caches do."""
        width = self.filled + n
        if self.gaps is None and (window is None or width <= window):
            return None if n == 1 else create_causal_mask(n, self.filled) if as_array else "causal"
        keys = mx.arange(width)
        queries = mx.arange(self.filled, width)[:, None]
        seen = keys <= queries
        if self.gaps is None:
            return seen & (queries - keys < window) if window else seen
        gaps = self.gaps[:, None, None, None]
        is_shared = keys < self.shared
        # A query in the padding sees itself, or it would see nothing and be no number.
        seen = seen & (is_shared | (keys >= self.shared + gaps) | (keys == queries))
        return seen & (queries - keys - mx.where(is_shared, gaps, 0) < window) if window else seen


class Slots:
    """One layer's keys and values, in place of mlx-lm's cache.

    Args:
        layout: Of all layers.
        window: Positions that the layer looks back; None for all.
        keys: Shape (rows, heads, slots, width).
        values: Likewise.
    """

    def __init__(
        self, layout: Layout, window: int | None, keys: mx.array | None = None, values: mx.array | None = None
    ) -> None:
        self.layout = layout
        self.window = window
        self.keys = keys
        self.values = values

    @property
    def offset(self) -> Any:
        """Position of the next token."""
        return self.layout.offset

    @property
    def sides(self) -> list[mx.array]:
        """Keys and values, once there are any."""
        return [side for side in (self.keys, self.values) if side is not None]

    def keep(self, sides: Sequence[mx.array]) -> None:
        """Put other keys and values in place; at once, so that what they are made of is not held for all layers."""
        self.keys, self.values = sides
        mx.eval(sides)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Add tokens; return what is attended to, shape (rows, heads, slots, width)."""
        layout = self.layout
        if self.keys is None or self.values is None:
            self.keys, self.values = keys, values
        elif layout.is_reading:
            self.keys, self.values = _behind(self.keys, keys), _behind(self.values, values)
        else:
            end = layout.filled + keys.shape[2]
            self.keys[..., layout.filled : end, :] = keys
            self.values[..., layout.filled : end, :] = values
            return self.keys[..., :end, :], self.values[..., :end, :]
        return self.keys, self.values

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> Any:  # noqa: FBT001, FBT002 - as mlx-lm's caches have it
        """Return the mask of the next n positions."""
        return self.layout.mask(n, window_size or self.window, as_array=return_array)


def _behind(before: mx.array, new: mx.array) -> mx.array:
    return mx.concatenate([mx.broadcast_to(before, (new.shape[0], *before.shape[1:])), new], axis=2)


def can_batch(model: Any, prompt: Sequence[int]) -> int:
    """Return the bytes of a slot where a model's answers come out the same this way, else 0; tried once, on a prompt.

    Args:
        model: Its layers keep keys and values, of all positions or of a window, or it cannot.
        prompt: Any; repeated where it is short.
    """
    if (known := vars(model).get(_SLOT_BYTES)) is not None:
        return int(known)
    before, behind = _TRIED
    tokens = (list(prompt) * (before + behind))[: before + behind]
    rows = [tokens, tokens[:-2]]
    try:
        beginning = read_beginning(model, tokens[:before])
        if beginning is None:
            return 0
        whole = [model(mx.array([row]))[0, -1] for row in rows]
        slots = Read(model, beginning, rows).batch([0, 1], STEP)
        ours = model(mx.array([[row[-1]] for row in rows]), cache=slots)[:, -1]
        apart = mx.abs((ours - mx.stack(whole)).astype(mx.float32)).max()
        largest = mx.abs(ours.astype(mx.float32)).max()
        is_alike = float(apart) <= _ALIKE.get(ours.dtype, _ALIKE_IN_HALF) * float(largest)
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
        # A model that asks its caches for something else.
        return 0
    if not is_alike:
        return 0
    found = sum(side.nbytes // (side.shape[0] * side.shape[2]) for each in slots for side in each.sides)
    vars(model)[_SLOT_BYTES] = found
    return found


def read_beginning(model: Any, tokens: Sequence[int]) -> list[Slots] | None:
    """Return caches that hold how prompts begin, None where a layer keeps something else than keys and values."""
    caches = make_prompt_cache(model)
    if any(type(cache) not in {KVCache, RotatingKVCache} or getattr(cache, "keep", 0) for cache in caches):
        return None
    layout = Layout()
    fresh = [Slots(layout, getattr(cache, "max_size", None)) for cache in caches]
    return _forward(model, fresh, [tokens]) if tokens else fresh


class Read:
    """Prompts that were read, all but their last token.

    Args:
        model: mlx-lm model.
        beginning: Caches of how all of them begin; left as they are.
        prompts: None of them twice, and longer than that.
        should_stop: Asked between forward passes; when true the rest is not read, and nothing may be asked of it.
    """

    def __init__(
        self,
        model: Any,
        beginning: list[Slots],
        prompts: Sequence[Sequence[int]],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._shared = beginning
        before = beginning[0].layout.filled
        self._own = [list(prompt[before:-1]) for prompt in prompts]
        # Where nothing is shared and prompts are one token, a slot of padding says what keys look like.
        self.width = max([0 if before else 1, *map(len, self._own)])
        self.slots = before + self.width
        self._parts: list[list[list[mx.array]]] = []
        self.is_whole = False
        for some in self._portions():
            if should_stop():
                return
            is_empty = before and not any(some)
            slots = beginning if is_empty else _forward(model, [copy(each) for each in beginning], some)
            self._parts.append([self._own_part(each, len(some)) for each in slots])
        self.is_whole = True

    def _portions(self) -> Iterator[list[list[int]]]:
        """Yield prompts that are read together, in their order."""
        some: list[list[int]] = []
        before = self._shared[0].layout.filled
        for own in self._own:
            width = max(map(len, [*some, own]))
            scores = (len(some) + 1) * width * max(_SHORT, before + width)
            if some and scores > _READ_SCORES[mx.default_device().type]:
                yield some
                some = []
            some.append(own)
        yield some

    def _own_part(self, slots: Slots, rows: int) -> list[mx.array]:
        """Return keys and values behind the shared slots, as wide as those of the longest prompt."""
        found = []
        for side in slots.sides:
            own = side[:, :, self._shared[0].layout.filled :, :]
            wide = mx.pad(own, [(0, 0), (0, 0), (self.width - own.shape[2], 0), (0, 0)])
            found.append(mx.broadcast_to(wide, (rows, *wide.shape[1:])))
        return found

    def batch(self, rows: Sequence[int], room: int) -> list[Slots]:
        """Return caches of some prompts, each as often as it is named, with room for answers.

        Args:
            rows: Places of the prompts.
            room: Slots behind the prompts, at least.
        """
        first = self._shared[0].layout.filled
        gaps = [self.width - len(self._own[row]) for row in rows]
        ends = [self.slots - gap for gap in gaps]
        is_even = len(set(ends)) == 1
        layout = Layout(
            shared=first,
            gaps=mx.array(gaps) if any(gaps) else None,
            filled=self.slots,
            offset=ends[0] if is_even else mx.array(ends),
            is_reading=False,
        )
        capacity = -(-(self.slots + room) // STEP) * STEP
        chosen = mx.array([*rows])
        found = []
        for place, shared in enumerate(self._shared):
            slots = Slots(layout, shared.window)
            sides = []
            for side in (0, 1):
                own = mx.concatenate([part[place][side] for part in self._parts])[chosen]
                end = mx.zeros((len(rows), own.shape[1], capacity - self.slots, own.shape[3]), own.dtype)
                begin = (
                    [mx.broadcast_to(shared.sides[side], (len(rows), *shared.sides[side].shape[1:]))] if first else []
                )
                sides.append(mx.concatenate([*begin, own, end], axis=2))
            slots.keep(sides)
            found.append(slots)
        return found


def _forward(model: Any, slots: list[Slots], rows: Sequence[Sequence[int]]) -> list[Slots]:
    """Read rows after what the caches hold, padded on the left; return the caches."""
    width = max([1, *map(len, rows)])
    before = slots[0].layout.filled
    gaps = [width - len(row) for row in rows]
    layout = Layout(
        shared=before,
        gaps=mx.array(gaps) if any(gaps) else None,
        filled=before,
        offset=mx.array([before - gap for gap in gaps]) if any(gaps) else before,
    )
    for each in slots:
        each.layout = layout
    tokens = mx.array([[0] * gap + list(row) for gap, row in zip(gaps, rows, strict=True)])
    for start in range(0, width, _READ_WIDTH):
        part = tokens[:, start : start + _READ_WIDTH]
        # Its logits are never looked at, so they are never computed.
        model(part, cache=slots)
        layout.filled += part.shape[1]
        layout.offset = layout.offset + part.shape[1]
        mx.eval([(each.keys, each.values) for each in slots])
    return slots


@dataclass
class Answer:
    """One finished row.

    Args:
        row: Its place among what was asked.
        tokens: The end token included, where there is one.
        is_ended: Whether that ended it, and not the budget.
        logps: Log-probability of each token as it was sampled, nats; empty when greedy.
    """

    row: int
    tokens: list[int]
    is_ended: bool
    logps: NDArray[np.float32]


@dataclass(frozen=True)
class Asked:
    """What one batch is to answer.

    Args:
        read: Its prompts.
        rows: Their places in `read`.
        last: Last token of each.
        keys: Random keys, shape (rows, 2); None is greedy.
    """

    read: Read
    rows: list[int]
    last: list[int]
    keys: mx.array | None


def draw(logits: mx.array, keys: mx.array, temperature: float) -> tuple[mx.array, mx.array, mx.array]:
    """Sample a token of each row by its own key, so that no other row changes it.

    Args:
        logits: shape (rows, vocabulary).
        keys: shape (rows, 2).
        temperature: Above 0.

    Returns:
        Tokens, their log-probabilities at that temperature (nats), and the keys of the next draw.
    """
    # In float32: half precision would round the sum of many small probabilities.
    scaled = logits.astype(mx.float32) / temperature
    both = mx.vmap(mx.random.split)(keys)
    chance = mx.vmap(lambda key: mx.random.uniform(shape=(1,), key=key))(both[:, 1])
    # One number for each row, where noise on each logit would be one for each word of the vocabulary.
    below = mx.cumsum(mx.softmax(scaled, axis=-1), axis=-1)
    passed = (below <= chance * below[:, -1:]).sum(axis=-1)
    tokens = mx.minimum(passed, logits.shape[-1] - 1).astype(mx.uint32)
    chosen = mx.take_along_axis(scaled, tokens[:, None], axis=-1)[:, 0]
    return tokens, chosen - mx.logsumexp(scaled, axis=-1), both[:, 0]


class Decoder:
    """Answers one batch.

    Args:
        model: mlx-lm model.
        asked: The batch.
        temperature: 0 is greedy.
        ends: End tokens.
        max_tokens: Budget of each answer.
        should_stop: Asked between steps; when true, what is unfinished is dropped.
    """

    def __init__(
        self,
        model: Any,
        asked: Asked,
        *,
        temperature: float,
        ends: Sequence[int],
        max_tokens: int,
        should_stop: Callable[[], bool],
    ) -> None:
        self._model = model
        self._temperature = temperature
        self._ends: NDArray[np.int64] = np.array(sorted(ends))
        self._max_tokens = max_tokens
        self._should_stop = should_stop
        n = len(asked.rows)
        self._slots = asked.read.batch(asked.rows, min(max_tokens, STEP))
        self._tokens = mx.array(asked.last)
        self._keys = asked.keys
        self._rows = np.arange(n)
        self._is_done = np.zeros(n, dtype=bool)
        self._said = np.zeros((n, max_tokens), dtype=np.int32)
        self._logps = np.zeros((n, 0 if asked.keys is None else max_tokens), dtype=np.float32)

    def answers(self) -> Iterator[Answer]:
        """Yield answers as they are seen to be finished."""
        device = mx.default_device().type
        unseen: deque[tuple[NDArray[np.int64], list[list[mx.array]], int]] = deque()
        taken = 0
        while not self._is_done.all():
            while taken < self._max_tokens and len(unseen) <= AHEAD[device]:
                block = []
                for _ in range(min(LOOK[device], self._max_tokens - taken)):
                    if self._should_stop():
                        return
                    block.append(self._next())
                    mx.async_eval(block[-1])  # type: ignore[no-untyped-call]  # MLX says none
                unseen.append((self._rows, block, taken))
                taken += len(block)
            yield from self._seen(*unseen.popleft())
            self._drop()

    def _next(self) -> list[mx.array]:
        """Take one step; return its tokens, and their log-probabilities where they are sampled."""
        if self._slots[0].layout.filled == self._slots[0].sides[0].shape[2]:
            for each in self._slots:
                each.keep([mx.pad(side, [(0, 0), (0, 0), (0, STEP), (0, 0)]) for side in each.sides])
        logits = self._model(self._tokens[:, None], cache=self._slots)[:, -1]
        layout = self._slots[0].layout
        layout.filled += 1
        layout.offset = layout.offset + 1
        if self._keys is None:
            self._tokens = mx.argmax(logits, axis=-1)
            return [self._tokens]
        self._tokens, logps, self._keys = draw(logits, self._keys, self._temperature)
        return [self._tokens, logps]

    def _seen(self, rows: NDArray[np.int64], taken: list[list[mx.array]], done: int) -> Iterator[Answer]:
        """Yield the rows that some steps finished.

        Args:
            rows: As the batch held them when the steps were taken.
            taken: What they gave.
            done: Steps before them.
        """
        block: NDArray[np.int64] = np.array(mx.stack([tokens for tokens, *_ in taken], axis=1))
        span = slice(done, done + len(taken))
        self._said[rows, span] = block
        if self._keys is not None:
            self._logps[rows, span] = np.array(mx.stack([logps for _, logps in taken], axis=1))
        is_end: NDArray[np.bool_] = np.isin(block, self._ends)
        has_ended = np.logical_or.reduce(is_end, axis=1)
        is_last = done + len(taken) == self._max_tokens
        lengths = np.where(has_ended, done + is_end.argmax(axis=1) + 1, self._max_tokens)
        for place in np.flatnonzero(~self._is_done[rows] & (has_ended | is_last)):
            row, length = int(rows[place]), int(lengths[place])
            self._is_done[row] = True
            said = self._said[row, :length].tolist()
            yield Answer(row, said, bool(has_ended[place]), self._logps[row, :length].copy())

    def _drop(self) -> None:
        """Drop rows that are done, where enough of them are."""
        kept = np.flatnonzero(~self._is_done[self._rows])
        if not len(kept) or len(kept) > len(self._rows) * DROP[mx.default_device().type]:
            return
        self._rows = self._rows[kept]
        places = mx.array(kept)
        self._tokens = self._tokens[places]
        self._keys = None if self._keys is None else self._keys[places]
        layout = self._slots[0].layout
        layout.gaps = None if layout.gaps is None else layout.gaps[places]
        if isinstance(layout.offset, mx.array):
            layout.offset = layout.offset[places]
        for each in self._slots:
            each.keep([side[places] for side in each.sides])


def batches(
    prompts: Sequence[Sequence[int]], lengths: Sequence[int], batch_size: int, order: int = 0
) -> Iterator[list[list[int]]]:
    """Yield groups of prompts that begin alike, each as batches of like length, longest first.

    Args:
        prompts: Tokens.
        lengths: Of prompt and expected answer: rows of a batch are to end together.
        batch_size: Rows of a batch, at most.
        order: Other than 0: shuffled by it instead.
    """
    for group in _alike(prompts, [*range(len(prompts))]):
        ordered = sorted(group, key=lambda place: (-lengths[place], tuple(prompts[place])))
        if order:
            ordered = [ordered[place] for place in np.random.default_rng(order).permutation(len(ordered))]
        yield [ordered[at : at + batch_size] for at in range(0, len(ordered), batch_size)]


_MANY, _LONG = 8, 16
"""Different prompts, and tokens they share beyond what all do, from which on a group is read by itself: one
conversation with a system text of its own must not keep the others from sharing theirs."""


def _alike(prompts: Sequence[Sequence[int]], group: list[int]) -> Iterator[list[int]]:
    """Yield a group's parts that begin alike for long, and what is left of it."""
    shared = shared_beginning([prompts[place] for place in group])
    by_next: dict[Any, list[int]] = defaultdict(list)
    for place in group:
        by_next[tuple(prompts[place][shared : shared + 1])].append(place)
    parts = [part for part in by_next.values() if len({tuple(prompts[place]) for place in part}) >= _MANY]
    alone = [
        part
        for part in parts
        if len(part) < len(group) and shared_beginning([prompts[place] for place in part]) >= shared + _LONG
    ]
    for part in alone:
        yield from _alike(prompts, part)
    apart = {place for part in alone for place in part}
    if rest := [place for place in group if place not in apart]:
        yield rest


def shared_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many tokens all prompts begin with, shorter than each of them; 0 for one prompt."""
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
    if first == last:
        return 0
    both = zip(first, last, strict=False)
    same = next((at for at, (one, other) in enumerate(both) if one != other), min(len(first), len(last)))
    return min(same, min(map(len, prompts)) - 1)


def most_rows(slots: int, bytes_a_slot: int) -> int:
    """Return how many rows of so many slots fit into memory and time."""
    by_memory = int(free_memory() * _MEMORY_SHARE) // (slots * bytes_a_slot)
    return max(1, min(by_memory, _BATCH_SLOTS[mx.default_device().type] // slots))
