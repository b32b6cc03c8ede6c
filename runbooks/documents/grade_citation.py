"""Grader of cited paragraphs: each claim that a source supports carries that source's number, and nothing is made up.

Each claim's source was planted, so accuracy, inventions and lost claims are counted and no judge is asked. Weights and
the cap are those of the lab behind this task: 0.25 present, 0.30 accurate, 0.30 no invention, 0.15 argument kept.
"""

import re
from typing import Any

WEIGHTS = {"present": 0.25, "accurate": 0.30, "grounded": 0.30, "argument": 0.15}
UNCITED_CAP, INVENTED_CAP = 0.2, 0.85
_MARKER = re.compile(r"\[(\d+)\]")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SENTENCE = re.compile(r"[^.!?]+[.!?]?(?:\s*\[\d+\])*")
_UNSUPPORTED = "[no source]"


def grade(case: dict[str, Any], text: str) -> dict[str, float | None]:
    """Return scores, all [0, 1]: composite, present, accurate, grounded, argument, strict."""
    sentences = [part.strip() for part in _SENTENCE.findall(text) if re.search(r"\w", part)]
    supported = [claim for claim in case["claims"] if claim["source"]]
    markers = _MARKER.findall(text)
    right = sum(_is_cited(claim, sentences) for claim in supported)
    cited = sum(bool(_MARKER.search(sentence)) for sentence in sentences)
    scores = {
        "present": min(1.0, cited / len(supported)),
        "accurate": right / max(len(supported), cited) if cited else 0.0,
        "grounded": 1 - _made_up(case, text, sentences) if sentences else 0.0,
        "argument": sum(_sentence_of(claim, sentences) is not None for claim in case["claims"]) / len(case["claims"]),
    }
    composite = sum(WEIGHTS[name] * score for name, score in scores.items())
    if not markers:
        composite = min(composite, UNCITED_CAP)
    if scores["grounded"] < 1:
        composite = min(composite, INVENTED_CAP)
    return {**scores, "composite": round(composite, 3), "strict": float(all(score == 1 for score in scores.values()))}


def _sentence_of(claim: dict[str, Any], sentences: list[str]) -> str | None:
    """Return the sentence that makes a claim: all its anchors, in any order; None where it was lost."""
    for sentence in sentences:
        if all(re.search(rf"(?<!\w){re.escape(anchor)}(?!\w)", sentence, re.IGNORECASE) for anchor in claim["anchors"]):
            return sentence
    return None


def _is_cited(claim: dict[str, Any], sentences: list[str]) -> bool:
    sentence = _sentence_of(claim, sentences)
    return sentence is not None and set(_MARKER.findall(sentence)) == {str(claim["source"])}


def _made_up(case: dict[str, Any], text: str, sentences: list[str]) -> float:
    """Return the share of statements without ground: none of the claims, figures or sources that are none, support."""
    given = set(_NUMBER.findall(case["prompt"]))
    faults = sum(number not in given for number in _NUMBER.findall(_MARKER.sub("", text)))
    faults += sum(int(number) not in range(1, case["sources"] + 1) for number in _MARKER.findall(text))
    faults += sum(all(_sentence_of(claim, [sentence]) is None for claim in case["claims"]) for sentence in sentences)
    for claim in case["claims"]:
        sentence = _sentence_of(claim, sentences)
        faults += claim["source"] is None and sentence is not None and _UNSUPPORTED not in sentence
    return min(1.0, faults / len(case["claims"]))
