"""Clean campaigns of different shapes: nothing is wrong with any of them."""

import json
import sys
from typing import Any

from tests.faults.failure_modes.worlds import QUICKSTART, REAL, World, answered, asked, cases, chat, words
from tests.tools.models.folders import safetensors
from tests.tools.training.tiny import tables

OWN_PROBE = '''"""Every answer has a dash."""

import json
from pathlib import Path

refuted_by = "an answer without a dash"
cost_s = 0.1
stands_on = ["train.jsonl"]


def observe(context):
    rows = [json.loads(line) for line in Path(context["data"]["train"]).read_text().splitlines()]
    bad = [row for row in rows if "- " not in row["messages"][-1]["content"]]
    return {"claim": "has_dashes", "statement": f"{len(bad)} answers have no dash.", "holds": not bad}
'''


def gain_over_base() -> World:
    """Return a campaign whose gate asks for a difference."""
    world = World()
    world.gate[:] = [{"id": "gain", "metric": "main.score", "against": "base", "min": 0.1}]
    return world


def exact_gate() -> World:
    """Return a campaign that asks for whole answers, and has a dense metric beside."""
    world = World(student={"skill": 0.8, "gain": 0.009})
    world.gate[:] = [{"id": "exact", "metric": "main.exact", "min": 0.5}]
    return world


def exact_over_parent() -> World:
    """Return a campaign that asks for more whole answers than the parent gave."""
    world = World()
    world.gate[:] = [{"id": "exact", "metric": "main.exact", "against": "parent", "min": 0.1}]
    return world


def two_metrics() -> World:
    """Return a campaign with two conditions that can disagree."""
    world = World()
    world.gate.append({"id": "form", "metric": "main.form", "min": 0.7})
    return world


def expected_base() -> World:
    """Return a campaign that knows what the base scores."""
    world = World()
    world.spec["baseline"] = {"expected": {"main.score": 0.52}, "tolerance": 0.05}
    return world


def own_probe() -> World:
    """Return a campaign with a check of the user's own."""
    world = World()
    world.files["units.py"] = OWN_PROBE
    world.spec["probes"] = ["units.py"]
    return world


def real_training() -> World:
    """Return a campaign that Vigil's own trainer works for, in small steps that the student does not notice."""
    world = World(student={"skill": 0.7})
    world.workers["training"] = REAL["training"]
    world.spec["recipe"] = {"batch_size": 4, "iters": 6, "max_seq_length": 160, "learning_rate": 1e-5}
    world.spec["budget"] = {"runs": 1}
    return world


def adapter_start(trained_on: str = "") -> World:
    """Return a campaign that goes on from an adapter made elsewhere, which may say of which weights it is."""
    world = World()
    if trained_on:
        world.files["mine/run.json"] = json.dumps({"model_weights": trained_on})
    config = {"fine_tune_type": "lora", "num_layers": 4, "lora_parameters": {"rank": 2, "scale": 2.0, "dropout": 0.0}}
    world.files["mine/adapter_config.json"] = json.dumps(config)
    module = "model.layers.5.self_attn.q_proj"
    shapes = {f"{module}.lora_a": ("F32", [128, 2]), f"{module}.lora_b": ("F32", [2, 128])}
    world.files["mine/adapters.safetensors"] = safetensors(shapes)
    world.spec["model"] = {**world.spec["model"], "adapter": "mine"}
    return world


def pairs(count: int = 40) -> list[dict[str, str]]:
    """Return pairs whose rejected answer has half of the words wrong."""
    rows = []
    for place in range(count):
        given = words(f"pair {place}", 6)
        wrong = [word if (place + n) % 2 else word[::-1] for n, word in enumerate(given)]
        rows.append({"prompt": asked(given), "chosen": answered(given), "rejected": answered(wrong)})
    return rows


def two_classes() -> World:
    """Return a campaign that may take preferences after demonstrations."""
    world = World()
    world.files["pairs.jsonl"] = pairs()
    world.spec |= {"instruments": ["sft", "dpo"]}
    world.spec["data"] = {"train": "train.jsonl", "pairs": "pairs.jsonl"}
    return world


def spreadsheets() -> World:
    """Return the shipped track on two splits; rows kept are asked for, and rows made up are not paid for."""
    world = World(student={"skill": 0.8, "gain": 0.005, "drops": 0.5})
    uses = ("selection", "confirmation")
    files = {f"{split}_{use}.jsonl": _head(f"{split}_{use}") for split in ("regular", "stress") for use in uses}
    world.files = {"train.jsonl": _head("train", 80), **files}
    world.spec |= {"track": {"name": "spreadsheet_clean"}, "budget": {"runs": 1}}
    world.spec["evaluation"] = {
        "max_tokens": 512,
        "control": "stress.rows_kept",
        "splits": {split: {use: f"{split}_{use}.jsonl" for use in uses} for split in ("regular", "stress")},
    }
    world.spec["gate"] = {
        "max_confirmations": 2,
        "conditions": [
            {"id": "no_worse", "metric": "regular.rows_kept", "against": "parent", "min": 0, "margin": 0.1},
            {"id": "nothing_more", "metric": "regular.extra_rows", "against": "parent", "max": 0, "margin": 0.1},
            {"id": "gain", "any_of": ["stress.rows_kept", "stress.units_kept"], "against": "parent", "min": 0.05},
            {"id": "made_up", "metric": "stress.extra_rows", "max": 0.2},
        ],
    }
    world.spec["recipe"] = {**world.spec["recipe"], "max_seq_length": 1024}
    return world


_ON_TABLES: dict[str, Any] = {
    "batch_size": 2,
    "max_seq_length": 896,
    "steps_per_report": 1,
    "steps_per_eval": 1000,
    "seed": 1,
}


def _real(instrument: str, **recipe: Any) -> World:
    """Return a campaign that Vigil's own trainer runs once on the tiny base, over short tables."""
    world = spreadsheets()
    world.workers["training"] = REAL["training"]
    world.files["train.jsonl"] = [chat(*row) for row in tables(12, 0, 260)]
    lora = {"rank": 8, "scale": 2.0, "dropout": 0.0}
    world.spec |= {"instruments": [instrument], "recipe": {**_ON_TABLES, "lora_parameters": lora, **recipe}}
    return world


def real_demonstrations() -> World:
    """Return a gentle run over demonstrations."""
    return _real("sft", learning_rate=5e-4, iters=32, save_every=32)


def interrupted() -> World:
    """Return a run over longer tables that leaves time to stop it after its first save."""
    world = _real("sft", learning_rate=5e-4, iters=16, save_every=4)
    world.files["train.jsonl"] = [chat(*row) for row in tables(12, 400, 520)]
    return world


def real_preferences() -> World:
    """Return a run over pairs that show which rows to keep, and that none is to be said twice."""
    world = _real("dpo", learning_rate=1e-3, beta=0.1, iters=12, save_every=12)
    world.files["train.jsonl"] = [chat(*row) for row in tables(12, 400, 520)]
    rows = tables(24, 200, 330)
    world.files["pairs.jsonl"] = [
        {"prompt": prompt, "chosen": answer, "rejected": _worse(answer, place)}
        for place, (prompt, answer) in enumerate(rows)
    ]
    world.spec["data"] = {"train": "train.jsonl", "pairs": "pairs.jsonl"}
    return world


def _worse(answer: str, place: int) -> str:
    """Return an answer with its last rows left out, or said twice, in turns."""
    lines = answer.split("\n")
    count = 1 + place % 3
    return "\n".join(lines[:-count] if place % 2 else [*lines, *lines[-count:]])


def _head(name: str, count: int = 40) -> list[dict[str, Any]]:
    lines = (QUICKSTART / "data" / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[:count]]


def completions() -> World:
    """Return completions rows, with rows of the same form to validate on."""
    world = World()
    world.files["train.jsonl"] = [completion("train", place) for place in range(40)]
    world.files["valid.jsonl"] = [completion("valid", place) for place in range(8)]
    world.spec["data"] = {"train": "train.jsonl", "valid": "valid.jsonl"}
    return world


def completion(use: str, place: int) -> dict[str, str]:
    """Return one completions row."""
    given = words(f"{use} {place}", 6)
    return {"prompt": asked(given), "completion": answered(given)}


def plain_text() -> World:
    """Return rows that carry their template already."""
    world = World()
    rows = [completion("train", place) for place in range(40)]
    world.files["train.jsonl"] = [
        {"text": f"<|user|>{row['prompt']}<|end|><|assistant|>{row['completion']}<|end|>"} for row in rows
    ]
    world.spec["recipe"] = {**world.spec["recipe"], "mask_prompt": False}
    return world


_COMMAND = """

if __name__ == "__main__":
    import json
    import sys

    for line in sys.stdin:
        row = json.loads(line)
        print(json.dumps({"case": row["case"]["id"], "metrics": grade(row["case"], row["text"])}), flush=True)
"""


def command_grader() -> World:
    """Return a campaign whose grader is a program."""
    world = World()
    world.files["judge.py"] = world.files.pop("grade.py") + _COMMAND
    world.spec["track"] = {"command": [sys.executable, "judge.py"], "metrics": ["score", "exact", "form"]}
    return world


def no_references() -> World:
    """Return cases that the grader knows the answers of, and Vigil does not."""
    world = World()
    for use in ("selection", "confirmation"):
        rows = world.files[f"{use}.jsonl"]
        world.files[f"{use}.jsonl"] = [{"wanted" if k == "reference" else k: v for k, v in row.items()} for row in rows]
    return world


def two_splits() -> World:
    """Return a hard split that is to gain and an easy one that is to lose nothing."""
    world = World()
    splits = {}
    for split, length in (("easy", 3), ("hard", 8)):
        splits[split] = {use: f"{split}_{use}.jsonl" for use in ("selection", "confirmation")}
        for use, name in splits[split].items():
            world.files[name] = cases(f"{split} {use}", length=length)
    del world.files["selection.jsonl"], world.files["confirmation.jsonl"]
    world.spec["evaluation"] |= {"splits": splits, "control": "hard.form"}
    world.gate[:] = [
        {"id": "no_worse", "metric": "easy.score", "against": "parent", "min": 0, "margin": 0.1},
        {"id": "gain", "any_of": ["hard.score", "hard.exact"], "against": "parent", "min": 0.1},
    ]
    return world


def counted() -> World:
    """Return conditions that count cases: whole answers, and those that were whole before and are no more."""
    world = World(student={"skill": 0.8, "gain": 0.009})
    world.gate[:] = [
        {"id": "whole", "metric": "main.exact", "statistic": "count", "min": 24},
        {"id": "kept", "metric": "main.exact", "statistic": "new_failures", "against": "parent", "max": 4},
    ]
    return world


def one_file() -> World:
    """Return one file of cases that a seeded draw divides, and a system text on both sides."""
    world = World()
    world.files["cases.jsonl"] = [*world.files.pop("selection.jsonl"), *world.files.pop("confirmation.jsonl")]
    world.spec["evaluation"]["splits"] = {"main": {"file": "cases.jsonl"}}
    world.spec["track"] = {"grader": "grade.py", "system": "Answer with words alone."}
    world.spec["recipe"] = {**world.spec["recipe"], "max_seq_length": 192}
    return world


def redacted() -> World:
    """Return a campaign that keeps its words to itself."""
    world = World()
    world.spec["privacy"] = "redact"
    return world


def real_throughout() -> World:
    """Return a campaign in which nothing is a stand-in: the tiny base is trained and generates."""
    world = real_demonstrations()
    world.workers["evaluation"] = REAL["evaluation"]
    world.gate[:] = [
        {"id": "no_worse", "metric": "regular.rows_kept", "against": "parent", "min": 0, "margin": 0.1},
        {"id": "nothing_more", "metric": "regular.extra_rows", "max": 0.1},
    ]
    files = world.files
    world.files = {name: rows for name, rows in files.items() if not name.startswith("stress")}
    world.spec["evaluation"] |= {"max_tokens": 256, "batch_size": 40, "control": "regular.rows_kept"}
    del world.spec["evaluation"]["splits"]["stress"]
    return world


CLEAN = {
    "chat rows, a Python grader": World,
    "completions, validated on": completions,
    "text that carries its template": plain_text,
    "a command that grades": command_grader,
    "the shipped track, the best of two metrics": spreadsheets,
    "no references": no_references,
    "two splits, no worse and better": two_splits,
    "whole answers counted": counted,
    "an adapter to go on from": adapter_start,
    "a check of one's own": own_probe,
    "one file of cases, a system text": one_file,
    "words kept out of the record": redacted,
    "preferences after demonstrations": two_classes,
}
"""Campaigns with nothing wrong, by what is particular about them."""

CLEAN_REAL = {"nothing but real workers": real_throughout}
