"""Write the data of the three campaigns, from problems that `reasoning-gym` makes.

    python3 -m venv /tmp/gym && /tmp/gym/bin/pip install reasoning-gym==0.1.25
    /tmp/gym/bin/python runbooks/smollm2/make_data.py

reasoning-gym 0.1.25 is Apache-2.0 (its word list is Jules Verne's "In the Year 2889", public domain); the problems are
its own, the prompts are put shorter here. Row i of seed s is its row i-1 of seed s+1, so the seeds of two files lie far
apart, and no prompt stands in two files.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import reasoning_gym
from reasoning_gym.algorithmic.word_sorting import TextTransformation

HERE = Path(__file__).parent
FILES = {
    "train": (1_000_000, 3000),
    "valid": (2_000_000, 48),
    "selection": (3_000_000, 120),
    "confirmation": (4_000_000, 160),
    "gpu_selection": (5_000_000, 400),
    "gpu_confirmation": (6_000_000, 600),
    "rollouts": (7_000_000, 256),
}
"""File -> seed and rows; two are for the GPU form, the last for sorting by rollouts alone."""
_MOST_DRAWN = 60_000
"""Problems drawn for one file at most; some are left out, or stood in an earlier file."""
_OPERATIONS = {
    "hmirror": "flip upside down",
    "vmirror": "flip left to right",
    "dmirror": "swap rows and columns",
    "rotate": "rotate by {degrees} degrees",
}
"""Operations of `manipulate_matrix` that are kept, and how they are asked for."""

Row = tuple[str, str]
"""Prompt and answer."""


def sorting(seed: int) -> Iterator[Row]:
    """Yield three or four words, and the same in the order asked for."""
    problems = _problems(
        "word_sorting",
        seed,
        min_words=3,
        max_words=4,
        max_word_length=7,
        transformation=TextTransformation.LOWERCASE,
    )
    for problem in problems:
        facts = problem["metadata"]
        words: list[str] = facts["transformed_words"]
        if len(set(words)) == len(words):
            yield f"{facts['direction']}: {', '.join(words)}", ", ".join(facts["sorted_words"])


def legs(seed: int) -> Iterator[Row]:
    """Yield some animals, and the number of their legs."""
    for problem in _problems("leg_counting", seed, min_animals=1, max_animals=2, min_instances=1, max_instances=9):
        animals = problem["question"].rpartition("if you have ")[2].strip().removesuffix("?")
        yield animals, problem["answer"]


def matrix(seed: int) -> Iterator[Row]:
    """Yield a matrix of two or three rows with what is to be done, and the lines of the result."""
    problems = _problems(
        "manipulate_matrix", seed, min_rows=2, max_rows=3, min_cols=2, max_cols=3, min_transforms=1, max_transforms=1
    )
    for problem in problems:
        facts = problem["metadata"]
        operation = facts["operations"][-1]
        if operation["transform"] in _OPERATIONS:
            asked = _OPERATIONS[operation["transform"]].format(degrees=operation.get("degrees"))
            lines = "\n".join(" ".join(map(str, row)) for row in facts["matrix"])
            yield f"{asked}\n{lines}", problem["answer"]


def _problems(name: str, seed: int, **settings: Any) -> Iterator[dict[str, Any]]:
    yield from reasoning_gym.create_dataset(name, seed=seed, size=_MOST_DRAWN, **settings)


TASKS: dict[str, Callable[[int], Iterator[Row]]] = {"sorting": sorting, "legs": legs, "matrix": matrix}


def main() -> None:
    """Write the files of each campaign: rows in mlx-lm's completions form, and evaluation cases."""
    for task, made in TASKS.items():
        taken: set[str] = set()
        for name, (seed, wanted) in FILES.items():
            if name == "rollouts" and task != "sorting":
                continue
            rows: list[dict[str, str]] = []
            for prompt, answer in made(seed):
                if len(rows) == wanted:
                    break
                if prompt not in taken:
                    taken.add(prompt)
                    is_case = name.endswith(("selection", "confirmation", "rollouts"))
                    named = {"id": f"{name}-{len(rows)}", "prompt": prompt, "reference": answer}
                    rows.append(named if is_case else {"prompt": prompt, "completion": answer})
            path = HERE / task / "data" / f"{name}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            print(f"{path.relative_to(HERE)}: {len(rows)} rows")


if __name__ == "__main__":
    main()
