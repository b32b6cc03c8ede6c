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

IS_COMPILED = {mx.cpu: False, mx.gpu: True}
"""Whether a decoding step is compiled once for all; it then attends to empty slots too, which a CPU would pay for."""

_FEWEST = 16
"""Rows of the smallest compiled step; fewer are hardly quicker."""

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
    slot: mx.array | None = None
    """Where the next token goes, shape (1,), in a step that is compiled once for all; the whole width is attended to
    there, and `filled` is not looked at."""

    def mask(self, n: int, window: int | None, capacity: int, *, as_array: bool) -> Any:
        """Return what the next n positions may see, as mlx-lm's caches do."""
        if self.slot is not None:
            after = self.slot
            width = capacity
        else:
            after = mx.array([self.filled])
            width = self.filled + n
            if self.gaps is None and (window is None or width <= window):
                return None if n == 1 else create_causal_mask(n, self.filled) if as_array else "causal"
        keys = mx.arange(width)
        queries = (mx.arange(n) + after)[:, None]
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
        elif layout.slot is not None:
            self.keys = mx.slice_update(self.keys, keys, layout.slot, axes=[2])
            self.values = mx.slice_update(self.values, values, layout.slot, axes=[2])
        else:
            end = layout.filled + keys.shape[2]
            self.keys[..., layout.filled : end, :] = keys
            self.values[..., layout.filled : end, :] = values
            return self.keys[..., :end, :], self.values[..., :end, :]
        return self.keys, self.values

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> Any:  # noqa: FBT001, FBT002 - as mlx-lm's caches have it
        """Return the mask of the next n positions."""
        capacity = 0 if self.keys is None else self.keys.shape[2]
        return self.layout.mask(n, window_size or self.window, capacity, as_array=return_array)


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


class Step:
    """One decoding step of a model, compiled once for each shape where that pays.

    Args:
        model: mlx-lm model.
        temperature: 0 is greedy.
    """

    def __init__(self, model: Any, temperature: float) -> None:
        self._model = model
        self._temperature = temperature
        self._windows: list[int | None] = []
        self.is_compiled = IS_COMPILED[mx.default_device().type]
        self._compiled: Any = mx.compile(self._by_arrays)

    def close(self) -> None:
        """Let go of what was compiled: it holds the weights it was traced with, and this step holds it."""
        self._compiled = None

    def __call__(self, tokens: mx.array, keys: list[mx.array], slots: list[Slots]) -> tuple[list[mx.array], Any]:
        """Return the next tokens, with their log-probabilities where they are sampled, and the next keys.

        Args:
            tokens: The latest, shape (rows,).
            keys: One array of random keys; empty when greedy.
            slots: Of all layers; they hold the tokens after the call.
        """
        layout = slots[0].layout
        if not self.is_compiled:
            found, keys = self._choose(self._model(tokens[:, None], cache=slots)[:, -1], keys)
            layout.offset = layout.offset + 1
        else:
            if layout.slot is None:
                layout.slot, layout.shared = mx.array([layout.filled]), mx.array(layout.shared)
                layout.offset = mx.broadcast_to(mx.array(layout.offset), tokens.shape)
            self._windows = [each.window for each in slots]
            sides = [each.sides for each in slots]
            state = layout.slot, layout.offset, layout.shared, layout.gaps
            found, keys, sides, layout.slot, layout.offset = self._compiled(tokens, keys, sides, *state)
            for each, (keys_now, values_now) in zip(slots, sides, strict=True):
                each.keys, each.values = keys_now, values_now
        layout.filled += 1
        return found, keys

    def _by_arrays(self, tokens: Any, keys: Any, sides: Any, *state: Any) -> Any:
        """Take a step as a function of arrays alone."""
        slot, offset, shared, gaps = state
        layout = Layout(shared, gaps, 0, offset, is_reading=False, slot=slot)
        slots = [Slots(layout, window, *both) for window, both in zip(self._windows, sides, strict=True)]
        found, keys = self._choose(self._model(tokens[:, None], cache=slots)[:, -1], keys)
        return found, keys, [each.sides for each in slots], slot + 1, offset + 1

    def _choose(self, logits: mx.array, keys: list[mx.array]) -> tuple[list[mx.array], list[mx.array]]:
        if not keys:
            return [mx.argmax(logits, axis=-1)], []
        tokens, logps, after = draw(logits, keys[0], self._temperature)
        return [tokens, logps], [after]


class Decoder:
    """Answers one batch.

    Args:
        step: Of the model.
        asked: The batch.
        ends: End tokens.
        max_tokens: Budget of each answer.
        most: Rows that may be computed together; a smaller batch is filled up to a power of two no larger.
        should_stop: Asked between steps; when true, what is unfinished is dropped.
    """

    def __init__(
        self,
        step: Step,
        asked: Asked,
        *,
        ends: Sequence[int],
        max_tokens: int,
        most: int,
        should_stop: Callable[[], bool],
    ) -> None:
        self._step = step
        self._fewest = min(_FEWEST, 1 << (most.bit_length() - 1))
        self._ends: NDArray[np.int64] = np.array(sorted(ends))
        self._max_tokens = max_tokens
        self._should_stop = should_stop
        n = len(asked.rows)
        places = np.minimum(np.arange(self._size(n)), n - 1)
        self._slots = asked.read.batch([asked.rows[place] for place in places], min(max_tokens, STEP))
        self._tokens = mx.array([asked.last[place] for place in places])
        self._keys = [] if asked.keys is None else [asked.keys[mx.array(places)]]
        # Rows that only fill up are done before they begin; what they say is left in a row of their own.
        self._rows = np.minimum(np.arange(len(places)), n)
        self._is_done = np.arange(n + 1) == n
        self._said = np.zeros((n + 1, max_tokens), dtype=np.int32)
        self._logps = np.zeros((n + 1, max_tokens if self._keys else 0), dtype=np.float32)

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

    def _size(self, n: int) -> int:
        """Return how many rows n are computed as: few different numbers where each is another shape to compile for."""
        return max(self._fewest, 1 << (n - 1).bit_length()) if self._step.is_compiled else n

    def _next(self) -> list[mx.array]:
        """Take one step; return its tokens, and their log-probabilities where they are sampled."""
        if self._slots[0].layout.filled == self._slots[0].sides[0].shape[2]:
            for each in self._slots:
                each.keep([mx.pad(side, [(0, 0), (0, 0), (0, STEP), (0, 0)]) for side in each.sides])
        found, self._keys = self._step(self._tokens, self._keys, self._slots)
        self._tokens = found[0]
        return found

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
        if self._keys:
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
        is_done = self._is_done[self._rows]
        rows, alive = len(self._rows), np.flatnonzero(~is_done)
        if not len(alive) or (wanted := self._size(len(alive))) > rows * DROP[mx.default_device().type]:
            return
        kept = np.concatenate([alive, np.flatnonzero(is_done)[: wanted - len(alive)]])
        self._rows = self._rows[kept]
        places = mx.array(kept)
        self._tokens = self._tokens[places]
        self._keys = [keys[places] for keys in self._keys]
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
    """Return how many rows of so many slots fit into memory and time: a power of two, as compiled steps have them."""
    by_memory = int(free_memory() * _MEMORY_SHARE) // (slots * bytes_a_slot)
    fitting = max(1, min(by_memory, _BATCH_SLOTS[mx.default_device().type] // slots))
    return 1 << (fitting.bit_length() - 1)
