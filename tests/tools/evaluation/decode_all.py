"""Child process of test_generation: generates the same prompts in several ways and prints the outputs as JSON."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx

from tools.evaluation import batches, generation
from tools.evaluation.generation import Decoding, Prompt, generate, one_by_one
from tools.models.load import load_model


def main(argv: list[str]) -> None:
    """Print `{way: {name: output}}` for each way asked for."""
    spec: dict[str, Any] = json.loads(argv[0])
    adapter = Path(spec["adapter"]) if spec.get("adapter") else None
    model, tokenizer = load_model(Path(spec["model"]), adapter, "float32")
    prompts = [Prompt(name, tokenizer.encode(text)) for name, text in spec["prompts"].items()]
    outputs: dict[str, Any] = {}
    can_batch, can_join = batches.can_batch, generation._can_join
    for way in spec["ways"]:
        decoding = Decoding(spec["max_tokens"], way.get("temperature", 0.0), way.get("seed", 0))
        given = list(reversed(prompts)) if way.get("reversed") else prompts
        batches.IS_COMPILED[mx.cpu] = bool(way.get("as_compiled"))
        batches._LOOK[mx.cpu], batches._DROP[mx.cpu] = way.get("look", 1), way.get("drop", 0.9)
        without = way.get("without", "")
        changed: Any = batches, generation
        changed[0].can_batch = _never if without else can_batch
        changed[1]._can_join = _never if without == "batches and joining" else can_join
        if "times" in way:
            given = [Prompt(f"{p.name}#{n}", p.tokens) for p in given for n in range(way["times"])]
            found = generate(model, tokenizer, given, decoding, batch_size=way["batch_size"])
        elif "batch_size" in way:
            found = generate(model, tokenizer, given, decoding, batch_size=way["batch_size"])
        else:
            found = one_by_one(model, tokenizer, given, decoding)
        outputs[json.dumps(way)] = {output.name: asdict(output) for output in found}
    print(json.dumps(outputs))


def _never(*_asked: Any) -> int:
    return 0


if __name__ == "__main__":
    main(sys.argv[1:])
