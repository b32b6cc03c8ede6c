"""A model that is a few numbers: evaluation and training in the real job protocol, by the data, without MLX.

What it answers is graded by the campaign's own grader, and what it learns is what the rows show: a row whose answer
changes the words of its prompt teaches the task (`skill`), a row whose answer only puts a dash before each line teaches
no more than that (`form`). A pair teaches the task where the chosen answer does and the rejected one does not. Time
goes by a clock of its own, of so many padded tokens a second, so that a busy machine changes nothing.

Beside the data may lie `student.json`, what kind of model this is:

    skill, form      what the base gets right, line by line
    drops            how many of the lines it gets wrong it leaves out; it spells the others backwards
    gain             what an iteration adds to either
    tokens_per_s     how fast it trains
    step_s           how long a step takes on the wall besides
    dies_at          the step at which each process of a training is killed, a half-trained adapter in its folder

Run as `python -m tests.faults.failure_modes.student JOB`.
"""

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from state.files import read_json, write_atomic, write_json
from state.hashing import hash_tree
from tools.data.cases import iter_data, iter_pairs, read_split, user_prompt
from tools.evaluation.harness import harness_hash, harness_parts
from tools.graders.contract import GraderSpec
from tools.graders.host import Grader
from tools.jobs.worker import WorkerContext, begin
from tools.models.identity import weights_hash

NATURE: dict[str, Any] = {
    "skill": 0.5,
    "form": 0.5,
    "drops": 0.0,
    "gain": 0.02,
    "tokens_per_s": 1400.0,
    "step_s": 0.0,
    "dies_at": None,
}
_DASH = "- "


def main() -> int:
    """Do the job named on the command line."""
    context = begin(sys.argv[1])
    context.folder.out.mkdir(parents=True, exist_ok=True)
    kind = (read_json(context.folder.spec) or {})["kind"]
    {"evaluation": _evaluate, "training": _train}[kind](context)
    return 0


def _nature(beside: str) -> dict[str, Any]:
    return NATURE | (read_json(Path(beside).parent / "student.json") or {})


def _learned(adapter: str | None) -> dict[str, float]:
    """Return what an adapter added; nothing for one that was not trained here."""
    config = (read_json(Path(adapter) / "adapter_config.json") or {}) if adapter else {}
    return {name: float(config.get("learned", {}).get(name, 0.0)) for name in ("skill", "form")}


def _evaluate(context: WorkerContext) -> None:
    """Answer all cases and have them graded."""
    inputs = context.input
    weights = weights_hash(inputs["model"], inputs.get("adapter"))
    if inputs.get("adapter") and not (Path(inputs["adapter"]) / "adapters.safetensors").is_file():
        context.fail(f"The adapter {inputs['adapter']} is not there; train it again or restore it.")
    learned = _learned(inputs.get("adapter"))
    nature = _nature(inputs["splits"][0]["file"])
    rows = []
    with Grader(GraderSpec.model_validate(inputs["grader"])) as grader:
        for split in inputs["splits"]:
            # Not the worker's own reader: with it comes MLX, a second of the processor for each of hundreds of jobs.
            of_file = read_split(Path(split["file"]))
            cases = [case for case in of_file if case["id"] in (split.get("case_ids") or [case["id"]])]
            knows = nature | {name: nature[name] + learned[name] for name in learned}
            said = [_answer(case, knows) for case in cases]
            items = zip(cases, said, ["stop"] * len(said), strict=True)
            for case, text, grade in zip(cases, said, grader.grade(items), strict=True):
                made = _row(split["name"], split["use"], str(case["id"]), text, grade, is_private=context.is_private)
                rows.append(made)
                context.emit({"step": len(rows)})
    write_atomic(context.folder.out / "cases.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    parts = harness_parts(inputs)
    context.finish(
        {
            "weights": weights,
            "harness": harness_hash(parts),
            "harness_parts": parts,
            "cases": len(rows),
            "means": _means(rows),
        }
    )


def _row(split: str, use: str, case: str, text: str, grade: Any, *, is_private: bool) -> dict[str, Any]:
    return {
        "split": split,
        "use": use,
        "case": case,
        "prompt_tokens": 20,
        "output_tokens": len(text.split()),
        "finish_reason": "stop",
        "characters": len(text),
        "text": "" if is_private else text,
        "metrics": grade.metrics,
        "grader_error": grade.error,
    }


def _means(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        place = found.setdefault(f"{row['split']}.{row['use']}", {})
        for name, value in row["metrics"].items():
            place.setdefault(name, []).extend([] if value is None else [value])
    return {where: {n: sum(v) / len(v) for n, v in metrics.items() if v} for where, metrics in found.items()}


def _answer(case: dict[str, Any], knows: dict[str, float]) -> str:
    """Return the wanted answer, with those lines wrong, and those dashes missing, that the model does not know."""
    wanted = str(case.get("reference") or case.get("wanted") or user_prompt(case))
    lines = []
    for place, line in enumerate(wanted.splitlines()):
        dash, words = (_DASH, line.removeprefix(_DASH)) if line.startswith(_DASH) else ("", line)
        is_right = _draw(case["id"], place, "skill") < knows["skill"]
        has_dash = _draw(case["id"], place, "form") < knows["form"]
        if not is_right and _draw(case["id"], place, "drops") < knows["drops"]:
            continue
        lines.append((dash if has_dash else "") + (words if is_right else words.swapcase()[::-1]))
    return "\n".join(lines)


def _draw(*what: Any) -> float:
    """Return a number in [0, 1) that is the same for the same line, so that to know more never loses a line."""
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:6], "big") / 2**48


def _train(context: WorkerContext) -> None:
    """Learn what the rows show."""
    # Numpy comes with it, which evaluations do without.
    from policies.cost import padded_batches

    inputs, recipe = context.input, context.input["recipe"]
    iters, size = int(recipe["iters"]), int(recipe["batch_size"])
    nature = _nature(inputs["data"]["train"])
    shown = _pairs(inputs) if inputs["instrument"] == "dpo" else _rows(inputs)
    adapter = context.folder.out / "adapter"
    learned = _learned(inputs.get("parent_adapter"))
    for step in range(1, iters + 1):
        time.sleep(nature["step_s"])
        context.emit({"step": step, "train_loss": 1.0 / step})
        if step == nature["dies_at"]:
            _write(adapter, inputs, learned, step)
            os.kill(os.getpid(), signal.SIGKILL)
        if context.should_stop:
            context.leave_stopped()
    for name in learned:
        share = sum(name in row[1] for row in shown) / len(shown)
        learned[name] += nature["gain"] * iters * share
    _write(adapter, inputs, learned, iters)
    tops = padded_batches([row[0] for row in shown], size, int(recipe["max_seq_length"]))
    padded = iters * size * sum(tops) / len(tops)
    seconds = padded / nature["tokens_per_s"]
    context.finish(
        {
            "adapter": "out/adapter",
            "adapter_hash": hash_tree(adapter),
            "weights": weights_hash(inputs["model"], adapter),
            "iters": iters,
            "trained_tokens": int(padded / 2),
            "padded_tokens": int(padded),
            "steps_s": seconds,
            "wall_s": seconds,
            "train_loss": 1.0 / iters,
            "val_loss": 1.0 / iters,
            "val_losses": [1.0, 1.0 / iters],
            "tokens_per_s": nature["tokens_per_s"] / 2,
            "verdict": "",
        }
    )


def _write(adapter: Path, inputs: dict[str, Any], learned: dict[str, float], step: int) -> None:
    config = {"fine_tune_type": "lora", "learned": learned, "trained_for": step, "seed": inputs["recipe"].get("seed")}
    write_json(adapter / "adapter_config.json", config)
    write_atomic(adapter / "adapters.safetensors", json.dumps(config).encode())


def _rows(inputs: dict[str, Any]) -> list[tuple[int, set[str]]]:
    """Return (tokens, what it teaches) of each training row."""
    tokenizer = _tokenizer(inputs)
    found = []
    for row in iter_data(Path(inputs["data"]["train"])):
        prompt, answer = (row.prompt, row.answer) if row.answer is not None else _parts(row.prompt)
        texts = [str(turn["content"]) for turn in row.messages] or [row.prompt]
        texts += [inputs["system"]] if inputs.get("system") else []
        found.append((_length(tokenizer, texts), _teaches(prompt, answer)))
    return found


def _parts(text: str) -> tuple[str, str]:
    prompt, _, answer = text.rpartition("<|assistant|>")
    return prompt, answer.removesuffix("<|end|>")


def _pairs(inputs: dict[str, Any]) -> list[tuple[int, set[str]]]:
    tokenizer = _tokenizer(inputs)
    found = []
    for pair in iter_pairs(Path(inputs["data"]["pairs"])):
        chosen, rejected = pair.sides
        taught = _teaches(pair.prompt, chosen)
        taught -= {"skill"} if "skill" in _teaches(pair.prompt, rejected) else set()
        found.append((_length(tokenizer, [pair.prompt, chosen]), taught))
    return found


def _teaches(prompt: str, answer: str) -> set[str]:
    """Return what an answer shows: the task where it says more than the prompt's own words."""
    words = {line.removeprefix(_DASH).strip() for line in answer.splitlines()}
    taught = {"skill"} if not words <= {*prompt.split(), *prompt.splitlines()} else set()
    return taught | ({"form"} if answer.startswith(_DASH) else set())


def _tokenizer(inputs: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_file(str(Path(inputs["model"]) / "tokenizer.json"))


def _length(tokenizer: Tokenizer, texts: Iterable[str]) -> int:
    """Return a row's tokens: each turn between its role and its end."""
    return sum(2 + len(tokenizer.encode(text).ids) for text in texts)


if __name__ == "__main__":
    sys.exit(main())
