"""Batched generation in worker processes: prompts that begin alike are read once, and rows that ended are dropped.

All rows of a batch stand in the same slots: what they share, padding, the rest of their own prompt, their answers.
Padding in the middle lets a shared beginning be read for one row and stand for all; a row's positions go on without it.
Whether tokens end an answer is looked at every few steps only: a GPU that is asked for each token waits for the host.

Greedy outputs do not depend on what else is in the batch, except where two tokens tie within rounding; sampled ones
draw from a key of their own per case, so neither order nor batch size nor a restart changes them.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import numpy as np
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache
from numpy.typing import NDArray

from tools.evaluation.adapters import free_memory, random_key
from tools.evaluation.prompts import decode

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

_BLOCK = 1024
"""Words of the vocabulary that are summed together when one is drawn."""

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
        visible = keys <= queries
        if self.gaps is None:
            return visible & (queries - keys < window) if window else visible
        gaps = self.gaps[:, None, None, None]
        is_shared = keys < self.shared
        # A query in the padding sees itself, or it would see nothing and be no number.
        visible = visible & (is_shared | (keys >= self.shared + gaps) | (keys == queries))
        return visible & (queries - keys - mx.where(is_shared, gaps, 0) < window) if window else visible


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
    per_position = sum(side.nbytes // (side.shape[0] * side.shape[2]) for each in slots for side in each.sides)
    vars(model)[_SLOT_BYTES] = per_position
    return per_position


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
        parts = []
        for side in slots.sides:
            own = side[:, :, self._shared[0].layout.filled :, :]
            wide = mx.pad(own, [(0, 0), (0, 0), (self.width - own.shape[2], 0), (0, 0)])
            parts.append(mx.broadcast_to(wide, (rows, *wide.shape[1:])))
        return parts

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
        layers = []
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
            layers.append(slots)
        return layers


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
class Batch:
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
    # Two numbers for each row, where noise on each logit would be one for each word of the vocabulary.
    chance = mx.vmap(lambda key: mx.random.uniform(shape=(2,), key=key))(both[:, 1])
    rows, words = logits.shape
    chances = mx.softmax(scaled, axis=-1, precise=True)
    blocks = mx.pad(chances, [(0, 0), (0, -words % _BLOCK)]).reshape(rows, -1, _BLOCK)
    # First a block, then a word of it: in one long sum the rounding of the whole is larger than a rare word's chance.
    block = _drawn(blocks.sum(axis=-1), chance[:, :1])
    word = _drawn(mx.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0], chance[:, 1:])
    tokens = mx.minimum(block * _BLOCK + word, words - 1).astype(mx.uint32)
    chosen = mx.take_along_axis(scaled, tokens[:, None], axis=-1)[:, 0]
    return tokens, chosen - mx.logsumexp(scaled, axis=-1), both[:, 0]


def _drawn(shares: mx.array, chance: mx.array) -> mx.array:
    """Return a place in each row, drawn by the row's shares: shape (rows, places), each share at least 0."""
    below = mx.cumsum(shares, axis=-1)
    return mx.minimum((below <= chance * below[:, -1:]).sum(axis=-1), shares.shape[-1] - 1)


class Decoder:
    """Answers one batch.

    Args:
        model: mlx-lm model.
        batch: The batch.
        temperature: 0 is greedy.
        ends: End tokens.
        max_tokens: Budget of each answer.
        should_stop: Asked between steps; when true, what is unfinished is dropped.
    """

    def __init__(
        self,
        model: Any,
        batch: Batch,
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
        n = len(batch.rows)
        self._slots = batch.read.batch(batch.rows, min(max_tokens, STEP))
        self._tokens = mx.array(batch.last)
        self._keys = batch.keys
        self._rows = np.arange(n)
        self._is_done = np.zeros(n, dtype=bool)
        self._taken = np.zeros((n, max_tokens), dtype=np.int32)
        self._logps = np.zeros((n, 0 if batch.keys is None else max_tokens), dtype=np.float32)

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
            yield from self._finished(*unseen.popleft())
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

    def _finished(self, rows: NDArray[np.int64], taken: list[list[mx.array]], done: int) -> Iterator[Answer]:
        """Yield the rows that some steps finished.

        Args:
            rows: As the batch held them when the steps were taken.
            taken: What they gave.
            done: Steps before them.
        """
        block: NDArray[np.int64] = np.array(mx.stack([tokens for tokens, *_ in taken], axis=1))
        span = slice(done, done + len(taken))
        self._taken[rows, span] = block
        if self._keys is not None:
            self._logps[rows, span] = np.array(mx.stack([logps for _, logps in taken], axis=1))
        is_end: NDArray[np.bool_] = np.isin(block, self._ends)
        has_ended = np.logical_or.reduce(is_end, axis=1)
        is_last = done + len(taken) == self._max_tokens
        lengths = np.where(has_ended, done + is_end.argmax(axis=1) + 1, self._max_tokens)
        for place in np.flatnonzero(~self._is_done[rows] & (has_ended | is_last)):
            row, length = int(rows[place]), int(lengths[place])
            self._is_done[row] = True
            answer = self._taken[row, :length].tolist()
            yield Answer(row, answer, bool(has_ended[place]), self._logps[row, :length].copy())

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


_PREFILL_BATCH = 8
"""Prompts processed together; more only raises peak memory."""

_PREFILL_STEP = 2048
"""Tokens of one prompt processed together."""


@dataclass(frozen=True)
class Prompt:
    """One prompt as tokens, under a name that is unique in its batch."""

    name: str
    tokens: list[int]
    expected: int = 0
    """Tokens of the answer that is expected, where that is known: outputs of like length are decoded together."""


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen and when they end."""

    max_tokens: int
    temperature: float = 0.0
    """0 is greedy."""
    seed: int = 0
    """Without meaning when greedy."""
    order: int = 0
    """0: outputs of like length are decoded together; else they are shuffled, each number in its own way. In float32
    without meaning too; in half precision other rows in a batch round otherwise."""


@dataclass(frozen=True)
class Generation:
    """One finished output."""

    name: str
    tokens: tuple[int, ...]
    """Without the end token."""
    text: str
    finish_reason: Literal["stop", "length"]
    output_tokens: int
    """Tokens spent, the end token included: what the decode budget is compared with."""
    end: int | None = None
    """The end token, of several that a model may have; None where the budget ended it."""
    logps: tuple[float, ...] = ()
    """Log-probability of each token spent as it was sampled, at the temperature, nats; empty when greedy."""


@dataclass(frozen=True)
class _Way:
    """What all ways of generating are given beside the prompts; see `generate`."""

    model: Any
    tokenizer: Any
    decoding: Decoding
    batch_size: int
    should_stop: Callable[[], bool]


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    *,
    batch_size: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Generation]:
    """Yield the outputs as they finish; long prompts start first, so that lack of memory shows at once.

    Args:
        model: mlx-lm model.
        tokenizer: mlx-lm tokenizer wrapper.
        prompts: What to answer.
        decoding: How.
        batch_size: Outputs decoded together, at most; fewer where their keys and values would not fit into memory.
        should_stop: Asked between decoding steps; when true, unfinished outputs are dropped.
    """
    if not prompts:
        return

    way = _Way(model, tokenizer, decoding, batch_size, should_stop)
    slot_bytes = can_batch(model, prompts[0].tokens)
    if not slot_bytes:
        yield from _joining(way, prompts)
        return
    yield from _batched(way, slot_bytes, prompts)


def _batched(way: _Way, slot_bytes: int, prompts: Sequence[Prompt]) -> Iterator[Generation]:
    """Yield the outputs of static batches, those to one beginning together."""
    tokens = [prompt.tokens for prompt in prompts]
    lengths = [len(prompt.tokens) + prompt.expected for prompt in prompts]
    for group in batches(tokens, lengths, way.batch_size, way.decoding.order):
        shared = shared_beginning([tokens[place] for rows in group for place in rows])
        beginning = read_beginning(way.model, tokens[group[0][0]][:shared])
        for rows in group:
            longest = max(len(tokens[place]) for place in rows)
            most = min(way.batch_size, most_rows(longest + way.decoding.max_tokens, slot_bytes))
            for at in range(0, len(rows), most):
                some = [prompts[place] for place in rows[at : at + most]]
                for answer in _answers(way, beginning, some):
                    yield _finished(way.tokenizer, some[answer.row].name, answer.tokens, answer.is_ended, answer.logps)
                if way.should_stop():
                    return


def _answers(way: _Way, beginning: Any, prompts: Sequence[Prompt]) -> Iterator[Any]:
    """Yield the finished rows of one batch."""
    import mlx.core as mx

    places = {tokens: place for place, tokens in enumerate(dict.fromkeys(tuple(prompt.tokens) for prompt in prompts))}
    keys = [random_key(f"{way.decoding.seed}:{prompt.name}") for prompt in prompts]
    read = Read(way.model, beginning, [*places], way.should_stop)
    if not read.is_whole:
        return iter(())
    requested = Batch(
        read=read,
        rows=[places[tuple(prompt.tokens)] for prompt in prompts],
        last=[prompt.tokens[-1] for prompt in prompts],
        keys=mx.stack(keys) if way.decoding.temperature else None,
    )
    decoder = Decoder(
        way.model,
        requested,
        temperature=way.decoding.temperature,
        ends=way.tokenizer.eos_token_ids,
        max_tokens=way.decoding.max_tokens,
        should_stop=way.should_stop,
    )
    return decoder.answers()


def _joining(way: _Way, prompts: Sequence[Prompt]) -> Iterator[Generation]:
    """Yield the outputs of mlx-lm's BatchGenerator: for models whose layers keep more than keys and values."""
    ordered = sorted(prompts, key=lambda prompt: -len(prompt.tokens))
    if not _can_join(way.model):
        yield from one_by_one(way.model, way.tokenizer, ordered, way.decoding, way.should_stop)
        return
    from mlx_lm.generate import BatchGenerator

    read = _Shared(way.model, ordered)
    batch = BatchGenerator(
        way.model,
        stop_tokens=[[token] for token in sorted(way.tokenizer.eos_token_ids)],
        completion_batch_size=way.batch_size,
        # What is left of prompts that were read before is one token each.
        prefill_batch_size=way.batch_size if read else min(_PREFILL_BATCH, way.batch_size),
    )
    try:
        samplers = [_Sampler(way.decoding, prompt.name) for prompt in ordered]
        uids = batch.insert(
            [read.rest(prompt.tokens) for prompt in ordered],
            max_tokens=[way.decoding.max_tokens] * len(ordered),
            caches=[read.cache(prompt.tokens) for prompt in ordered] if read else None,
            all_tokens=[read.start(prompt.tokens) for prompt in ordered] if read else None,
            samplers=samplers,
        )
        by_uid = {uid: (prompt.name, sampler) for uid, prompt, sampler in zip(uids, ordered, samplers, strict=True)}
        tokens: dict[int, list[int]] = {uid: [] for uid in uids}
        while not way.should_stop() and (responses := batch.next_generated()):
            for response in responses:
                tokens[response.uid].append(int(response.token))
                if response.finish_reason is not None:
                    name, sampler = by_uid[response.uid]
                    answer = tokens.pop(response.uid)
                    is_ended = response.finish_reason == "stop"
                    yield _finished(way.tokenizer, name, answer, is_ended, sampler.logps[: len(answer)])
    finally:
        batch.close()


class _Shared:
    """Prompts read once each, all but their last token, for all that are to be answered several times.

    Args:
        model: mlx-lm model.
        prompts: Equal ones share what was read.
    """

    def __init__(self, model: Any, prompts: Sequence[Prompt]) -> None:
        wanted = Counter(tuple(prompt.tokens) for prompt in prompts)
        self._read = {
            tokens: _read(model, tokens[:-1]) for tokens, times in wanted.items() if times > 1 and len(tokens) > 1
        }

    def __bool__(self) -> bool:
        return bool(self._read)

    def cache(self, tokens: Sequence[int]) -> list[Any] | None:
        """Return a cache of its own that begins with what was read; None where nothing was."""
        import mlx.core as mx
        from mlx.utils import tree_map

        known = self._read.get(tuple(tokens))
        if known is None:
            return None
        own = [copy(part) for part in known]
        for part, read in zip(own, known, strict=True):
            # Views: what is written into one of them later is written into an array of its own.
            part.state = tree_map(lambda each: each[...] if isinstance(each, mx.array) else each, read.state)
        return own

    def start(self, tokens: list[int]) -> list[int]:
        """Return what was read of a prompt."""
        return tokens[:-1] if tuple(tokens) in self._read else []

    def rest(self, tokens: list[int]) -> list[int]:
        """Return what was not."""
        return tokens[-1:] if tuple(tokens) in self._read else tokens


def _read(model: Any, tokens: Sequence[int]) -> list[Any]:
    """Return the caches after some tokens."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    caches: list[Any] = make_prompt_cache(model)
    for start in range(0, len(tokens), _PREFILL_STEP):
        model(mx.array([tokens[start : start + _PREFILL_STEP]]), cache=caches)
        mx.eval([cache.state for cache in caches])
    return caches


def one_by_one(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Generation]:
    """Yield the outputs of `mlx_lm.stream_generate`: the reference for batches, and the way for models without them."""
    from mlx_lm import stream_generate

    for prompt in prompts:
        if should_stop():
            return
        tokens: list[int] = []
        reason: str | None = None
        own = _Sampler(decoding, prompt.name)
        for response in stream_generate(model, tokenizer, prompt.tokens, max_tokens=decoding.max_tokens, sampler=own):
            reason = response.finish_reason
            tokens.append(int(response.token))
        yield _finished(tokenizer, prompt.name, tokens, reason == "stop", own.logps[: len(tokens)])


def _finished(tokenizer: Any, name: str, spent: Sequence[int], is_ended: bool, logps: Sequence[float]) -> Generation:  # noqa: FBT001 - as it is told
    tokens = spent[:-1] if is_ended else spent
    return Generation(
        name=name,
        tokens=tuple(tokens),
        text=decode(tokenizer, tokens),
        finish_reason="stop" if is_ended else "length",
        output_tokens=len(spent),
        end=spent[-1] if is_ended else None,
        logps=tuple(map(float, logps)),
    )


def _can_join(model: Any) -> bool:
    """Say whether the model's caches can be merged; some architectures have caches for one sequence only."""
    from mlx_lm.models.cache import make_prompt_cache

    return all(hasattr(cache, "merge") for cache in make_prompt_cache(model))


class _Sampler:
    """Chooses tokens of one case, from a random stream of its own.

    Args:
        decoding: How.
        name: Of the case.
    """

    def __init__(self, decoding: Decoding, name: str) -> None:
        self._decoding = decoding
        self._name = name
        self._keys: Any = None
        self.logps: list[Any] = []
        """Of the tokens sampled so far; the generator may be a step ahead."""

    def __call__(self, logprobs: Any) -> Any:
        """Return the token, shape (1,), of log-probabilities, shape (1, vocabulary)."""
        if not self._decoding.temperature:
            return logprobs.argmax(axis=-1)
        if self._keys is None:
            self._keys = random_key(f"{self._decoding.seed}:{self._name}")[None]
        tokens, logps, self._keys = draw(logprobs, self._keys, self._decoding.temperature)
        self.logps.append(logps)
        return tokens
