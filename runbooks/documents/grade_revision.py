"""Grader of revised reports: active voice, short enough, and every planted fact kept, none lost and none made up.

The generator plants the facts, so kept, lost and invented ones are counted and no judge is asked. Weights and caps are
those of the lab behind this task (0.30 instruction, 0.30 faithfulness, 0.20 over-editing, 0.20 quality); quality there
was a judge's, and is here the share of filler phrases that are gone.
"""

import re
from typing import Any

WEIGHTS = {"instruction": 0.30, "faithful": 0.30, "restraint": 0.20, "quality": 0.20}
HARD_FAIL_CAP, INVENTED_CAP = 0.3, 0.85
_PASSIVE_DOMINANT = 0.5
_KEPT_LENGTH, _HALF_AGAIN = 1.5, 2.0
"""Length of an answer against the report up to which nothing, and up to which half of the restraint is lost."""
_TOO_LONG = 1.2
"""Share of the word limit beyond which an answer fails hard."""
_PASSIVE = re.compile(
    r"\b(?:is|are|was|were|been|being|be)\b\s+(?:\w+ly\s+)?(?:\w+ed|built|sent|sold|found|made|bought|held)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[^.!?]+[.!?]?")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def grade(case: dict[str, Any], text: str) -> dict[str, float | None]:
    """Return scores, all [0, 1]: composite, instruction, faithful, restraint, quality, kept, invented, strict.

    `invented` is the share of what the answer states that the report does not.
    """
    sentences = [part.strip() for part in _SENTENCE.findall(text) if re.search(r"\w", part)]
    words, limit = len(text.split()), int(case["word_limit"])
    passive = sum(bool(_PASSIVE.search(sentence)) for sentence in sentences) / len(sentences) if sentences else 1.0
    kept = [_states(fact, sentences) for fact in case["facts"]]
    invented = _invented(case, text, sentences)
    share = sum(kept) / len(kept)
    ratio = words / max(1, len(case["report"].split()))
    scores = {
        "instruction": (max(0.0, min(1.0, 1 - (words / limit - 1) / 0.5)) + 1 - passive) / 2 if sentences else 0.0,
        "faithful": share * (1 - invented),
        "restraint": 0.0 if not sentences else 1.0 if ratio <= _KEPT_LENGTH else 0.5 if ratio <= _HALF_AGAIN else 0.0,
        "quality": _without_fillers(case, text) * share,
    }
    composite = sum(WEIGHTS[name] * score for name, score in scores.items())
    if not sentences or passive > _PASSIVE_DOMINANT or words > _TOO_LONG * limit:
        composite = min(composite, HARD_FAIL_CAP)
    if invented:
        composite = min(composite, INVENTED_CAP)
    strict = share == 1 and invented == 0 and passive == 0 and words <= limit and scores["quality"] == 1
    return {**scores, "composite": round(composite, 3), "kept": share, "invented": invented, "strict": float(strict)}


def _states(fact: dict[str, str], sentences: list[str]) -> bool:
    """Say whether one sentence holds all that a fact says: who, how many, of what, and when."""
    return any(all(_holds(sentence, part) for part in fact.values()) for sentence in sentences)


def _holds(sentence: str, part: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", sentence, re.IGNORECASE) is not None


def _invented(case: dict[str, Any], text: str, sentences: list[str]) -> float:
    """Return the share of what is stated without ground.

    That is a sentence without a fact's number, a number that the report does not hold, and one that stands with the
    doer or the thing of another fact.
    """
    known, facts = set(_NUMBER.findall(case["report"])), case["facts"]
    wrong = sum(number not in known for number in _NUMBER.findall(text))
    for sentence in sentences:
        stated = [fact for fact in facts if _holds(sentence, fact["number"])]
        wrong += not stated and not _NUMBER.search(sentence)
        for fact in stated:
            others = [other for other in facts if other not in stated]
            is_whole = _states(fact, [sentence])
            wrong += not is_whole and any(_holds(sentence, each[part]) for each in others for part in ("who", "thing"))
    return min(1.0, wrong / len(sentences)) if sentences else 0.0


def _without_fillers(case: dict[str, Any], text: str) -> float:
    """Return the share of the report's filler phrases that the answer does without."""
    fillers = case["fillers"]
    return 1 - sum(_holds(text, filler) for filler in fillers) / len(fillers) if fillers else 1.0
