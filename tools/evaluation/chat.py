"""Base and candidate answer prompts of a person's own: `python -m tools.evaluation.chat SPEC`; JSON lines in and out.

SPEC is `{"base", "model", "adapter", "dtype", "system", "max_tokens"}` as JSON, an input line `{"prompt"}`, an answer
`{"base", "candidate"}` with text and finish reason each, or `{"error"}`, after which it ends. The first line out is
`{"ready": true}`. Greedy, with the template and system text of the campaign's evaluation; nothing is written anywhere.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from state.errors import VigilError
from tools.evaluation.generation import Decoding, Prompt, generate
from tools.evaluation.prompts import render_prompt
from tools.jobs.privacy import stay_offline
from tools.models.load import load_model

Json = dict[str, Any]


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Have a model answer as its base while it holds: one copy of the weights serves both sides."""
    from mlx.utils import tree_unflatten

    adapted = [(name, part) for name, part in model.named_modules() if "lora_a" in part]
    plain = [(name, part.embedding if "embedding" in part else part.linear) for name, part in adapted]
    model.update_modules(tree_unflatten(plain))
    try:
        yield
    finally:
        model.update_modules(tree_unflatten(adapted))


def answers(spec: Json) -> Iterator[Json | None]:
    """Yield None once all is loaded, then an answer to each input line.

    Raises:
        VigilError: A model cannot be loaded, or its template refuses the prompt.
    """
    model, tokenizer = load_model(Path(spec["model"]), Path(spec["adapter"]), spec["dtype"])
    is_shared = spec["base"] == spec["model"] and any("lora_a" in part for part in model.modules())
    base = None if is_shared else load_model(Path(spec["base"]), None, spec["dtype"])[0]
    decoding = Decoding(int(spec["max_tokens"]))

    def answer(side: Any, tokens: list[int]) -> Json:
        found = next(generate(side, tokenizer, [Prompt("chat", tokens)], decoding, batch_size=1))
        return {"text": found.text, "finish_reason": found.finish_reason}

    yield None
    for line in sys.stdin:
        case = {"id": "chat", "prompt": json.loads(line)["prompt"]}
        tokens = render_prompt(tokenizer, case, spec["system"])
        candidate = answer(model, tokens)
        if base is not None:
            yield {"base": answer(base, tokens), "candidate": candidate}
            continue
        with without_adapter(model):
            plain = answer(model, tokens)
        yield {"base": plain, "candidate": candidate}


def _say(told: Json) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Answer until there are no more prompts."""
    stay_offline()
    try:
        for told in answers(json.loads(sys.argv[1])):
            _say(told or {"ready": True})
    except VigilError as error:
        _say({"error": error.sentence})
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
