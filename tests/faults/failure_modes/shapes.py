"""Clean campaigns of different shapes: nothing is wrong with any of them."""

import json
from typing import Any

from ruamel.yaml import YAML

from tests.faults.failure_modes.worlds import QUICKSTART, REAL, World, answered, asked, words

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
    """Return a campaign that Vigil's own trainer works for: two steps, which leave the student as it was."""
    world = World(student={"skill": 0.9})
    world.workers["training"] = REAL["training"]
    world.spec["recipe"] = {"batch_size": 2, "iters": 20, "max_seq_length": 160, "learning_rate": 1e-5}
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
    """Return the shipped track on two splits, with five conditions of which one takes the best of two."""
    world = World(student={"skill": 0.8, "gain": 0.005})
    splits = [f"{split}_{use}" for split in ("regular", "stress") for use in ("selection", "confirmation")]
    world.files = {"train.jsonl": _head("train", 80), **{f"{name}.jsonl": _head(name) for name in splits}}
    shipped = YAML(typ="safe").load(QUICKSTART / "campaign.yaml")
    world.spec |= {"track": shipped["track"], "gate": shipped["gate"], "budget": {"runs": 1}}
    world.spec["evaluation"] = {
        "max_tokens": shipped["evaluation"]["max_tokens"],
        "control": shipped["evaluation"]["control"],
        "splits": {
            split: {use: f"{split}_{use}.jsonl" for use in ("selection", "confirmation")}
            for split in ("regular", "stress")
        },
    }
    world.spec["recipe"] = {**world.spec["recipe"], "max_seq_length": 1024}
    return world


def _head(name: str, count: int = 40) -> list[dict[str, Any]]:
    lines = (QUICKSTART / "data" / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[:count]]
