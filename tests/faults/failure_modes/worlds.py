"""Campaigns that nothing is wrong with, as data to be changed in one place before they are written and run.

The task: a list of made-up words is to be written in capitals, one to a line behind a dash. `score` is the share of
right lines, `exact` whether all of them are, `form` the share of lines with a dash.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.faults.campaign.world import BASE, ROOT

TRAINS = (
    pytest.mark.mlx,
    pytest.mark.skipif(
        "VIGIL_MLX_MODES" not in os.environ, reason="minutes of training: run by make faults, and by make bench"
    ),
)
"""Marks of tests in which a whole campaign trains for real, several times over."""
NAME = "shop"
STUDENT = "tests.faults.failure_modes.student"
REAL = {"training": "tools.training.worker", "evaluation": "tools.evaluation.worker"}
WORKERS = {"census": "tools.evaluation.census", "evaluation": STUDENT, "training": STUDENT}
QUICKSTART = ROOT / "runbooks" / "quickstart"

GRADER = '''"""Lines in capitals."""


def grade(case, text):
    wanted = [line.removeprefix("- ") for line in (case.get("reference") or case["wanted"]).splitlines()]
    lines = text.splitlines()
    said = [line.removeprefix("- ") for line in lines]
    right = sum(one == other for one, other in zip(wanted, said))
    return {
        "score": right / max(len(wanted), len(said)),
        "exact": float(wanted == said),
        "form": sum(line.startswith("- ") for line in lines) / max(1, len(lines)),
    }
'''

_START = (
    "b",
    "br",
    "c",
    "cr",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "k",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "r",
    "s",
    "st",
    "t",
)
_MIDDLE = ("a", "e", "i", "o", "u", "ai", "ea", "io", "ou")


def words(seed: str, count: int) -> list[str]:
    """Return made-up words; another seed gives others."""
    rng = random.Random(seed)
    return [
        "".join(rng.choice(_START) + rng.choice(_MIDDLE) for _ in range(2)) + rng.choice("lmnrst") for _ in range(count)
    ]


def asked(given: list[str]) -> str:
    """Return the prompt about some words."""
    return f"In capitals, one to a line: {' '.join(given)}"


def answered(given: list[str]) -> str:
    """Return the right answer."""
    return "\n".join(f"- {word.upper()}" for word in given)


def chat(prompt: str, answer: str, *before: dict[str, str]) -> dict[str, Any]:
    """Return a training row in mlx-lm's chat form."""
    return {"messages": [*before, {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def _rows(count: int = 40) -> list[dict[str, Any]]:
    given = [words(f"train {place}", 6) for place in range(count)]
    return [chat(asked(row), answered(row)) for row in given]


def cases(use: str, count: int = 40, length: int = 6) -> list[dict[str, Any]]:
    """Return evaluation cases."""
    given = [words(f"{use} {place}", length) for place in range(count)]
    return [{"id": f"{use}-{n}", "prompt": asked(row), "reference": answered(row)} for n, row in enumerate(given)]


def _spec() -> dict[str, Any]:
    return {
        "campaign": NAME,
        "model": {"path": "base", "dtype": "float32"},
        "track": {"grader": "grade.py"},
        "data": {"train": "train.jsonl"},
        "evaluation": {
            "max_tokens": 96,
            "control": "main.form",
            "splits": {"main": {"selection": "selection.jsonl", "confirmation": "confirmation.jsonl"}},
        },
        "gate": {"max_confirmations": 2, "conditions": [{"id": "score", "metric": "main.score", "min": 0.75}]},
        "recipe": {"batch_size": 4, "iters": 20, "max_seq_length": 160, "learning_rate": 0.001},
        "budget": {"runs": 2},
        "approvals": {"promotion": {"mode": "auto"}},
    }


@dataclass
class World:
    """A campaign before it is written.

    Args:
        files: Name -> bytes, text, or rows to be written as JSON lines.
        spec: The campaign file.
        student: What kind of model it is about; see `student`.
        workers: Kind of job -> module.
        after: What happens to the folder once all is written.
    """

    files: dict[str, Any] = field(
        default_factory=lambda: {
            "train.jsonl": _rows(),
            "selection.jsonl": cases("selection"),
            "confirmation.jsonl": cases("confirmation"),
            "grade.py": GRADER,
        }
    )
    spec: dict[str, Any] = field(default_factory=_spec)
    student: dict[str, Any] = field(default_factory=dict)
    workers: dict[str, str] = field(default_factory=lambda: dict(WORKERS))
    after: list[Callable[[Path], None]] = field(default_factory=list)

    @property
    def gate(self) -> list[dict[str, Any]]:
        """The conditions of the gate, to be changed in place."""
        conditions: list[dict[str, Any]] = self.spec["gate"]["conditions"]
        return conditions

    def write(self, folder: Path) -> Path:
        """Write everything and return the campaign file."""
        folder.mkdir(parents=True)
        shutil.copytree(BASE, folder / "base")
        for name, content in self.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(_bytes(content))
        if self.student:
            (folder / "student.json").write_text(json.dumps(self.student))
        self.spec["gate"].setdefault("ledger", "example")
        path = folder / "campaign.yaml"
        path.write_text(json.dumps(self.spec, indent=1))
        for change in self.after:
            change(folder)
        return path


def _bytes(content: Any) -> bytes:
    if isinstance(content, bytes):
        return content
    return (content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)).encode()
