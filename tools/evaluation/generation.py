"""Batched generation, in static batches (batches.py) where the model can. Imports MLX when called: workers only.

Greedy outputs do not depend on what else is in the batch, except where two tokens tie within rounding; sampled ones
draw from a key of their own per case, so neither order nor batch size nor a restart changes them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

from tools.evaluation.adapters import random_key
from tools.evaluation.prompts import decode

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
    from tools.evaluation import batches

    way = _Way(model, tokenizer, decoding, batch_size, should_stop)
    slot_bytes = batches.can_batch(model, prompts[0].tokens)
    if not slot_bytes:
        yield from _joining(way, prompts)
        return
    yield from _batched(way, slot_bytes, prompts)


def _batched(way: _Way, slot_bytes: int, prompts: Sequence[Prompt]) -> Iterator[Generation]:
    """Yield the outputs of static batches, those to one beginning together."""
    from tools.evaluation import batches

    tokens = [prompt.tokens for prompt in prompts]
    lengths = [len(prompt.tokens) + prompt.expected for prompt in prompts]
    for group in batches.batches(tokens, lengths, way.batch_size, way.decoding.order):
        shared = batches.shared_beginning([tokens[place] for rows in group for place in rows])
        beginning = batches.read_beginning(way.model, tokens[group[0][0]][:shared])
        for rows in group:
            longest = max(len(tokens[place]) for place in rows)
            most = min(way.batch_size, batches.most_rows(longest + way.decoding.max_tokens, slot_bytes))
            for at in range(0, len(rows), most):
                some = [prompts[place] for place in rows[at : at + most]]
                for answer in _answers(way, beginning, some):
                    yield _finished(way.tokenizer, some[answer.row].name, answer.tokens, answer.is_ended, answer.logps)
                if way.should_stop():
                    return


def _answers(way: _Way, beginning: Any, prompts: Sequence[Prompt]) -> Iterator[Any]:
    """Yield the finished rows of one batch."""
    import mlx.core as mx

    from tools.evaluation import batches

    places = {tokens: place for place, tokens in enumerate(dict.fromkeys(tuple(prompt.tokens) for prompt in prompts))}
    keys = [random_key(f"{way.decoding.seed}:{prompt.name}") for prompt in prompts]
    read = batches.Read(way.model, beginning, [*places], way.should_stop)
    if not read.is_whole:
        return iter(())
    asked = batches.Asked(
        read=read,
        rows=[places[tuple(prompt.tokens)] for prompt in prompts],
        last=[prompt.tokens[-1] for prompt in prompts],
        keys=mx.stack(keys) if way.decoding.temperature else None,
    )
    decoder = batches.Decoder(
        way.model,
        asked,
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
        asked = {uid: (prompt.name, sampler) for uid, prompt, sampler in zip(uids, ordered, samplers, strict=True)}
        tokens: dict[int, list[int]] = {uid: [] for uid in uids}
        while not way.should_stop() and (responses := batch.next_generated()):
            for response in responses:
                tokens[response.uid].append(int(response.token))
                if response.finish_reason is not None:
                    name, sampler = asked[response.uid]
                    said = tokens.pop(response.uid)
                    is_ended = response.finish_reason == "stop"
                    yield _finished(way.tokenizer, name, said, is_ended, sampler.logps[: len(said)])
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
        from tools.evaluation import batches

        if not self._decoding.temperature:
            return logprobs.argmax(axis=-1)
        if self._keys is None:
            self._keys = random_key(f"{self._decoding.seed}:{self._name}")[None]
        tokens, logps, self._keys = batches.draw(logprobs, self._keys, self._decoding.temperature)
        self.logps.append(logps)
        return tokens
