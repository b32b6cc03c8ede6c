"""Batched generation with mlx-lm's BatchGenerator. Imports MLX when called: worker processes only.

Greedy outputs do not depend on what else is in the batch, except where two tokens tie within rounding; sampled ones
draw from a key of their own per case, so neither order nor batch size nor a restart changes them.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

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


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen and when they end."""

    max_tokens: int
    temperature: float = 0.0
    """0 is greedy."""
    seed: int = 0
    """Without meaning when greedy."""


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


Sampler = Callable[[Any], Any]
"""Log-probabilities, shape (rows, vocabulary), to tokens, shape (rows,)."""


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    *,
    batch_size: int,
    should_stop: Callable[[], bool] = lambda: False,
    sampler: Sampler | None = None,
) -> Iterator[Generation]:
    """Yield the outputs as they finish; long prompts start first, so that lack of memory shows at once.

    Args:
        model: mlx-lm model.
        tokenizer: mlx-lm tokenizer wrapper.
        prompts: What to answer.
        decoding: How.
        batch_size: Outputs decoded together, at most.
        should_stop: Asked between decoding steps; when true, unfinished outputs are dropped.
        sampler: One for all, asked once for a whole batch, which is faster; outputs then depend on what else is asked.
            By default each has one of its own, as `decoding` says. A prompt that is asked several times is then read
            once.
    """
    ordered = sorted(prompts, key=lambda prompt: -len(prompt.tokens))
    if not ordered:
        return
    if not _can_batch(model):
        yield from one_by_one(model, tokenizer, ordered, decoding, should_stop, sampler)
        return
    from mlx_lm.generate import BatchGenerator

    read = _Shared(model, ordered) if sampler is not None else None
    batch = BatchGenerator(
        model,
        stop_tokens=[[token] for token in sorted(tokenizer.eos_token_ids)],
        completion_batch_size=batch_size,
        # What is left of prompts that were read before is one token each.
        prefill_batch_size=batch_size if read else min(_PREFILL_BATCH, batch_size),
    )
    try:
        uids = batch.insert(
            [read.rest(prompt.tokens) if read else prompt.tokens for prompt in ordered],
            max_tokens=[decoding.max_tokens] * len(ordered),
            caches=[read.cache(prompt.tokens) for prompt in ordered] if read else None,
            all_tokens=[read.start(prompt.tokens) for prompt in ordered] if read else None,
            samplers=[sampler or _sampler(decoding, prompt.name) for prompt in ordered],
        )
        names = {uid: prompt.name for uid, prompt in zip(uids, ordered, strict=True)}
        tokens: dict[int, list[int]] = {uid: [] for uid in uids}
        while not should_stop() and (responses := batch.next_generated()):
            for response in responses:
                tokens[response.uid].append(int(response.token))
                if response.finish_reason is not None:
                    yield _finished(tokenizer, names[response.uid], tokens.pop(response.uid), response.finish_reason)
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


def one_by_one(  # noqa: PLR0917 - as `generate`, in its order
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    should_stop: Callable[[], bool] = lambda: False,
    sampler: Sampler | None = None,
) -> Iterator[Generation]:
    """Yield the outputs of `mlx_lm.stream_generate`: the reference for batches, and the way for models without them."""
    from mlx_lm import stream_generate

    for prompt in prompts:
        if should_stop():
            return
        tokens: list[int] = []
        reason: str = "length"
        own = sampler or _sampler(decoding, prompt.name)
        for response in stream_generate(model, tokenizer, prompt.tokens, max_tokens=decoding.max_tokens, sampler=own):
            if response.finish_reason is not None:
                reason = response.finish_reason
            tokens.append(int(response.token))
        yield _finished(tokenizer, prompt.name, tokens, reason)


def _finished(tokenizer: Any, name: str, spent: list[int], reason: str) -> Generation:
    is_ended = reason == "stop"
    tokens = spent[:-1] if is_ended else spent
    return Generation(
        name=name,
        tokens=tuple(tokens),
        text=decode(tokenizer, tokens),
        finish_reason="stop" if is_ended else "length",
        output_tokens=len(spent),
        end=spent[-1] if is_ended else None,
    )


def _can_batch(model: Any) -> bool:
    """Say whether the model's caches can be merged; some architectures have caches for one sequence only."""
    from mlx_lm.models.cache import make_prompt_cache

    return all(hasattr(cache, "merge") for cache in make_prompt_cache(model))


def _sampler(decoding: Decoding, name: str) -> Callable[[Any], Any] | None:
    """Return a sampler whose random stream belongs to one case; None is greedy."""
    if decoding.temperature == 0.0:
        return None
    import mlx.core as mx

    digest = hashlib.sha256(f"{decoding.seed}:{name}".encode()).digest()
    key = mx.random.key(int.from_bytes(digest[:8], "little"))

    def sample(logprobs: Any) -> Any:
        nonlocal key
        key, now = mx.random.split(key)
        return mx.random.categorical(logprobs / decoding.temperature, key=now)

    return sample
