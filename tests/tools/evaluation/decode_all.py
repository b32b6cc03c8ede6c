"""Child process of test_generation: generates the same prompts in several ways and prints the outputs as JSON.

A way may ask for less memory, for the step as a GPU has it, for looks and drops as there, for windows of a few
positions, and for what a model without batches gets; `read` counts the tokens that went through the model.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import KVCache, RotatingKVCache

from tools.evaluation import generation
from tools.evaluation.generation import Decoding, Prompt, generate, one_by_one
from tools.models.load import load_model


def main(argv: list[str]) -> None:
    """Print `{way: {name: output}}` for each way asked for."""
    spec: dict[str, Any] = json.loads(argv[0])
    adapter = Path(spec["adapter"]) if spec.get("adapter") else None
    model, tokenizer = load_model(Path(spec["model"]), adapter, "float32")
    prompts = [Prompt(name, tokenizer.encode(text)) for name, text in spec["prompts"].items()]
    outputs: dict[str, Any] = {}
    read: dict[str, int] = {}
    can_batch, can_join, most_rows = generation.can_batch, generation._can_join, generation.most_rows
    plain, n_tokens = type(model).__call__, [0]

    def counted(self: Any, tokens: Any, *args: Any, **kwargs: Any) -> Any:
        n_tokens[0] += tokens.size
        return plain(self, tokens, *args, **kwargs)

    type(model).__call__ = counted
    for way in spec["ways"]:
        n_tokens[0] = 0
        decoding = Decoding(
            spec["max_tokens"], way.get("temperature", 0.0), way.get("seed", 0), order=way.get("order", 0)
        )
        given = list(reversed(prompts)) if way.get("reversed") else prompts
        generation.LOOK[mx.cpu], generation.DROP[mx.cpu] = way.get("look", 1), way.get("drop", 0.9)
        generation.AHEAD[mx.cpu] = way.get("ahead", 0)
        without = way.get("without", "")
        changed: Any = generation, generation
        changed[0].can_batch = _never if without else can_batch
        changed[0]._READ_WIDTH = way.get("width", 2048)
        changed[0]._READ_SCORES[mx.cpu] = 512 * way.get("portion", 2048)
        changed[0].most_rows = (lambda *_asked: 2) if way.get("is_small") else most_rows
        model.make_cache = lambda way=way: [
            RotatingKVCache(max_size=way["window"]) if "window" in way else KVCache() for _ in model.layers
        ]
        changed[1]._can_join = _never if without == "batches and joining" else can_join
        if "times" in way:
            given = [Prompt(f"{p.name}#{n}", p.tokens) for p in given for n in range(way["times"])]
            found = generate(model, tokenizer, given, decoding, batch_size=way["batch_size"])
        elif "batch_size" in way:
            found = generate(model, tokenizer, given, decoding, batch_size=way["batch_size"])
        else:
            found = one_by_one(model, tokenizer, given, decoding)
        outputs[json.dumps(way)] = {output.name: asdict(output) for output in found}
        read[json.dumps(way)] = n_tokens[0]
    print(json.dumps({"outputs": outputs, "read": read, "drawn": drawn(20_000) if spec.get("draws") else None}))


def drawn(n: int) -> dict[str, Any]:
    """Return how often each of five tokens was drawn in n rows, and what each draw says of its own chance."""
    chances = mx.array([0.5, 0.0, 0.3, 0.15, 0.05])
    logits = mx.broadcast_to(mx.log(chances) * 0.7, (n, 5))
    keys = mx.stack([mx.random.key(place) for place in range(n)])
    tokens, logps, after = generation.draw(logits, keys, 0.7)
    told = {str(int(token)): float(logp) for token, logp in zip(np.array(tokens), np.array(logps), strict=True)}
    again = generation.draw(logits[:7], keys[:7], 0.7)[0]
    return {
        "counts": [int((tokens == token).sum()) for token in range(5)],
        "logps": told,
        "is_alone_the_same": bool((again == tokens[:7]).all()),
        "is_next_another": bool((after != keys).any(axis=1).all()),
        "rare": sum(rare(part) for part in range(15)),
    }


def rare(part: int) -> int:
    """Return how many of 100 rows draw one of 150,000 words that share 0.6 % between them."""
    n_words = 150_000
    chances = mx.concatenate([mx.array([0.994]), mx.full((n_words - 1,), 0.006 / (n_words - 1))])
    keys = mx.stack([mx.random.key(100 * part + place) for place in range(100)])
    tokens = generation.draw(mx.broadcast_to(mx.log(chances), (100, n_words)), keys, 1.0)[0]
    return int((tokens > 0).sum())


def _never(*_asked: Any) -> int:
    return 0


if __name__ == "__main__":
    main(sys.argv[1:])
