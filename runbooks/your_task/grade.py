"""Grader of the example: how many of the wanted numbers stand where they belong."""

from typing import Any


def grade(case: dict[str, Any], text: str) -> dict[str, float | None]:
    """Return the share of right numbers, and whether the whole answer is right; both [0, 1]."""
    wanted = [line.split(",") for line in case["reference"].splitlines()]
    got = [[cell.strip() for cell in line.split(",")] for line in text.strip().splitlines()]
    pairs = [
        (number, got[row][column] if row < len(got) and column < len(got[row]) else "")
        for row, numbers in enumerate(wanted)
        for column, number in enumerate(numbers)
    ]
    return {"numbers": sum(right == given for right, given in pairs) / len(pairs), "exact": float(got == wanted)}
