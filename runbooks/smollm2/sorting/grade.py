"""Grader of word sorting: is the list right, and how many words stand where they belong."""

from typing import Any


def grade(case: dict[str, Any], text: str) -> dict[str, float | None]:
    """Return whether the whole list is right, and the share of words at their place; both [0, 1]."""
    wanted = case["reference"].split(", ")
    given = [word.strip() for word in text.strip().split(",")]
    # Over the longer list, so that adding words or leaving some out never pays.
    placed = sum(a == b for a, b in zip(wanted, given, strict=False)) / max(len(wanted), len(given))
    return {"exact": float(given == wanted), "placed": placed}
