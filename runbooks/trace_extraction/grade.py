"""Grader of trace records: is each of the nine fields what the note says, and nothing else.

A record is one JSON object. Strict is 1 where all fields are right; dense is the mean over the fields, so that a record
with one wrong tier is nearer than one that is no JSON. Advice that the note does not hold costs the summary.
"""

import json
import re
from typing import Any

FIELDS = (
    "content_summary",
    "memory_tier",
    "emotional_valence",
    "stated_intent",
    "topic_cluster",
    "timestamp",
    "source",
    "source_id",
    "channel",
)
_COPIED = ("topic_cluster", "timestamp", "source", "source_id", "channel")
_SAME_WORDS = 0.6
"""F1 of words from which two texts say the same; the generator's paraphrases of one note stay above it."""
_ADVICE = re.compile(
    r"\b(should|could try|try to|consider|recommend|suggest|remember to|make sure|why not|well done|keep it up)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[a-z0-9]+")


def grade(case: dict[str, Any], text: str) -> dict[str, float | None]:
    """Return scores, all [0, 1]: strict, dense, parses, tier, valence, intent, topic, copied, summary, no_advice."""
    wanted = json.loads(case["reference"])
    told = _record(text)
    if told is None:
        return dict.fromkeys(
            ("strict", "dense", "parses", "tier", "valence", "intent", "topic", "copied", "summary", "no_advice"), 0.0
        )
    intent = _intent(wanted["stated_intent"], told.get("stated_intent"))
    summary = _agreement(wanted["content_summary"], told.get("content_summary"))
    scores = {
        "parses": float(set(told) == set(FIELDS)),
        "tier": float(told.get("memory_tier") == wanted["memory_tier"]),
        "valence": float(told.get("emotional_valence") == wanted["emotional_valence"]),
        "intent": intent,
        "topic": float(told.get("topic_cluster") == wanted["topic_cluster"]),
        "copied": sum(told.get(field) == wanted[field] for field in _COPIED) / len(_COPIED),
        "no_advice": float(not _advises(case["prompt"], told)),
        "summary": summary,
    }
    whole = all(scores[name] == 1.0 for name in ("parses", "tier", "valence", "topic", "copied", "no_advice"))
    whole = whole and intent >= _SAME_WORDS and summary >= _SAME_WORDS
    return {**scores, "strict": float(whole), "dense": sum(scores.values()) / len(scores)}


def _record(text: str) -> dict[str, Any] | None:
    """Return the one object that an answer is, fenced or not; None where it is none, or holds a key twice."""
    bare = re.sub(r"\A\s*```(?:json)?\s*|\s*```\s*\Z", "", text)
    try:
        told = json.loads(bare, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _intent(wanted: str | None, told: object) -> float:
    """Return how near a stated intent is; null where there is none is right, and an invented or lost one is wrong."""
    if wanted is None or told is None:
        return float(wanted is told)
    return _agreement(wanted, told)


def _agreement(wanted: str, told: object) -> float:
    """Return the F1 of the words of two texts, [0, 1]."""
    if not isinstance(told, str):
        return 0.0
    one, other = _WORD.findall(wanted.lower()), _WORD.findall(told.lower())
    left = list(other)
    shared = 0
    for word in one:
        if word in left:
            left.remove(word)
            shared += 1
    return 2 * shared / (len(one) + len(other)) if one or other else 1.0


def _advises(note: str, told: dict[str, Any]) -> bool:
    """Say whether summary or intent holds words of advice that the note does not."""
    said = {word.lower() for word in _ADVICE.findall(note)}
    texts = " ".join(str(told.get(field) or "") for field in ("content_summary", "stated_intent"))
    return any(word.lower() not in said for word in _ADVICE.findall(texts))
