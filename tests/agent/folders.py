"""A small campaign on disk that passes every check, to be broken one place at a time."""

import json
from pathlib import Path
from typing import Any

BASE = Path(__file__).resolve().parents[2] / "runbooks" / "quickstart" / "base"
"""The shipped tiny model."""

GRADER = """
def grade(case, text):
    return {"exact": float(text == case["reference"]), "close": float(case["reference"] in text)}
"""

CAMPAIGN = """campaign: small
model:
  path: {model}
track:
  grader: grade.py
data:
  train: train.jsonl
  valid: valid.jsonl
evaluation:
  max_tokens: 64
  splits:
    words: {{file: cases.jsonl}}
gate:
  conditions:
    - metric: words.exact
      min: 0.5
recipe:
  learning_rate: 1e-5
  iters: 20
budget:
  hours: 2
"""


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a JSON-lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def training_rows(n: int, word: str = "echo") -> list[dict[str, Any]]:
    """Return rows in mlx-lm's chat form."""
    return [
        {"messages": [{"role": "user", "content": f"{word} {i}"}, {"role": "assistant", "content": f"{i}"}]}
        for i in range(n)
    ]


def make(folder: Path) -> Path:
    """Write the campaign and its files; return the campaign file."""
    write_rows(folder / "train.jsonl", training_rows(12))
    write_rows(folder / "valid.jsonl", training_rows(4, "valid"))
    write_rows(folder / "cases.jsonl", [{"id": f"c{i}", "prompt": f"say {i}", "reference": f"{i}"} for i in range(20)])
    (folder / "grade.py").write_text(GRADER)
    file = folder / "campaign.yaml"
    file.write_text(CAMPAIGN.format(model=BASE))
    return file


def edit(file: Path, old: str, new: str) -> None:
    """Change one place of the campaign file."""
    text = file.read_text()
    assert old in text, old
    file.write_text(text.replace(old, new))
