"""Grader of counted legs: is the number right, and how near is it."""

import re
from typing import Any

_MOST_DIGITS = 6


def grade(case: dict[str, Any], text: str) -> dict[str, float | None]:
    """Return whether the answer is the number, and its nearness; both [0, 1]. Anything but a number earns nothing."""
    wanted = int(case["reference"])
    if not re.fullmatch(rf"\d{{1,{_MOST_DIGITS}}}", text.strip(), re.ASCII):
        return {"exact": 0.0, "near": 0.0}
    off = abs(int(text) - wanted)
    return {"exact": float(off == 0), "near": max(0.0, 1 - off / max(1, wanted))}
