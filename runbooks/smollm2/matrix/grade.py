"""Grader of changed matrices: are all lines right, and how many numbers stand where they belong."""

from typing import Any


def grade(case: dict[str, Any], text: str) -> dict[str, float | None]:
    """Return whether the matrix is right, and the share of numbers at their place; both [0, 1]."""
    wanted = [line.split() for line in case["reference"].splitlines()]
    given = [line.split() for line in text.strip().splitlines()]
    right = sum(
        a == b
        for wanted_row, given_row in zip(wanted, given, strict=False)
        for a, b in zip(wanted_row, given_row, strict=False)
    )
    # Over the larger matrix, so that more numbers than asked for never pay.
    return {"exact": float(given == wanted), "cells": right / max(sum(map(len, wanted)), sum(map(len, given)))}
