"""Write the data of trace extraction: notes, and the record that each note holds.

    python runbooks/trace_extraction/make_data.py     # data/: rows, pairs and cases, the same bytes each time

A note is drawn from a seed: a header that is copied into the record, then one or two sentences whose situation decides
tier and valence. The boundary rule is in the situations: a plan, a deadline, somebody who was told, or a direction that
one has committed oneself to makes a note prospective, however hedged; a wish alone stays semantic. Notes of two files
never share their text. `gold.jsonl` is twelve notes in words of our own, none of which the generator can draw.
"""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TIERS = ("episodic", "semantic", "procedural", "prospective")
FILES = {"train": (10_000, 100), "valid": (20_000, 6), "selection": (30_000, 30), "confirmation": (40_000, 50)}
"""File -> seed and notes of each tier."""
PAIR_SHARES = {"flattened": 25, "coaching": 25, "mixture": 25, "conditional": 8, "drift": 7}
"""Family of rejected records -> pairs, of 90."""
Json = dict[str, Any]
Topic = dict[str, list[str]]

_TOPICS: dict[str, dict[str, list[str]]] = {
    "work": {
        "good": ["closed the oldest ticket", "got the contract", "finished the audit"],
        "bad": ["missed the release", "lost the client", "argued with the auditor"],
        "plain": ["sorted the archive", "moved to the other desk"],
        "habits": ["write best before noon", "lose focus in open offices", "plan on paper", "answer mail in one block"],
        "ways": [
            "a rebase goes smoothly when I squash first",
            "meetings end early when the agenda goes out a day before",
        ],
        "plans": ["send the draft contract", "hand in the tax forms", "review the new branch", "call the supplier"],
        "wishes": ["run a studio of my own", "work four days a week"],
    },
    "health": {
        "good": ["ran the lake loop without a stop", "slept nine hours", "passed the eye test"],
        "bad": ["pulled a muscle", "slept three hours", "skipped physiotherapy"],
        "plain": ["saw the dentist", "bought new insoles"],
        "habits": ["sleep badly after coffee", "need a walk after lunch", "catch colds in March", "eat too late"],
        "ways": ["my back stays quiet when I stretch before sitting down", "I fall asleep fast when the room is cool"],
        "plans": [
            "book the blood test",
            "start the knee exercises",
            "stop taking sugar in tea",
            "renew the prescription",
        ],
        "wishes": ["finish a marathon", "breathe like a swimmer"],
    },
    "learning": {
        "good": ["understood the proof", "passed the oral exam", "finished the chapter on waves"],
        "bad": ["failed the mock exam", "lost my lecture notes", "mixed up two formulas"],
        "plain": ["copied the word list", "changed seats in class"],
        "habits": ["remember what I draw", "read slowly in French", "learn by teaching", "forget names at once"],
        "ways": ["vocabulary sticks when I say each word aloud", "proofs get shorter when I start from the end"],
        "plans": ["register for the course", "return the library books", "write the abstract", "practise the scales"],
        "wishes": ["speak Italian", "understand music theory"],
    },
    "family": {
        "good": ["cooked with my father", "heard my niece sing", "made up with my brother"],
        "bad": ["forgot the recital of the twins", "quarrelled with my brother", "missed a call from my aunt"],
        "plain": ["visited my aunt", "sorted the old photographs"],
        "habits": [
            "am patient with children",
            "avoid long calls",
            "miss my cousins in winter",
            "tell the same stories",
        ],
        "ways": ["the baby calms down when I hum low", "homework gets done when I sit beside her"],
        "plans": ["phone my grandmother", "plan the reunion", "pick up my niece", "write to my cousin"],
        "wishes": ["live near the sea with everyone", "know all my ancestors"],
    },
    "home": {
        "good": ["repaired the tap", "finished painting the hall", "found the spare key"],
        "bad": ["broke the blue lamp", "flooded the kitchen", "burned the bread"],
        "plain": ["moved the shelf", "changed the bulbs"],
        "habits": ["keep too many jars", "clean when I am nervous", "like bare walls", "never close drawers"],
        "ways": [
            "dough rises evenly when the bowl stands in warm water",
            "screws hold in old plaster when I soak the plug in glue",
        ],
        "plans": ["order the shelves", "fix the gutter", "clear the cellar", "meet the plumber"],
        "wishes": ["own a garden", "cook as my grandmother did"],
    },
    "money": {
        "good": ["paid off the car", "won back the deposit", "got the refund"],
        "bad": ["lost a deposit", "overdrew the account", "paid the bill twice"],
        "plain": ["changed the bank card", "filed the receipts"],
        "habits": ["spend most in airports", "save without noticing", "hate haggling", "check prices twice"],
        "ways": ["bills stay small when I read the meter each Sunday", "I buy less when the card stays at home"],
        "plans": ["cancel the second phone line", "move the savings", "pay the deposit", "compare the insurers"],
        "wishes": ["retire at fifty", "owe nothing to anyone"],
    },
    "community": {
        "good": ["won the street quiz", "met the new neighbours", "opened the reading room"],
        "bad": ["missed the vote", "lost the match", "let the committee down"],
        "plain": ["stacked the chairs", "put up the posters"],
        "habits": [
            "stay quiet in meetings",
            "help before I am asked",
            "know every dog in the street",
            "leave parties early",
        ],
        "ways": [
            "volunteers come back when I thank each by name",
            "the hall is warm in time when the vents open at noon",
        ],
        "plans": ["bring the chairs", "print the leaflets", "open the hall", "count the votes"],
        "wishes": ["start a choir", "live where everybody knows everybody"],
    },
    "craft": {
        "good": ["finished the walnut box", "sold the first bowl", "matched the glaze"],
        "bad": ["cracked the big vase", "cut the board too short", "spoiled the batch"],
        "plain": ["sharpened the chisels", "swept the workshop"],
        "habits": ["measure too often", "work faster with the radio on", "keep every offcut", "dislike sanding"],
        "ways": [
            "glaze stays smooth when I wipe the pot with a damp cloth",
            "joints stay tight when the glue dries overnight",
        ],
        "plans": ["sand the table", "fire the kiln", "order the veneer", "oil the bench"],
        "wishes": ["build a boat", "throw pots as thin as paper"],
    },
}
_FEELINGS = {
    "positive": ["I felt proud", "it was a relief", "I was delighted"],
    "negative": ["I felt ashamed", "it left me sad", "I was angry with myself"],
    "neutral": ["nothing more to say", "it took an hour", "as on most days"],
    "mixed": ["I laughed and worried at once", "half relieved, half sad", "I could not say whether to smile or cry"],
}
_PEOPLE = ["Mira", "Jonas", "the coach", "my sister", "Dr. Okoye", "the tenants"]
_DATES = ["on Friday", "by the 14th", "before Monday noon", "on 3 May", "by the end of June"]
_SOURCES = {"journal": "j", "voice": "v", "chat": "c", "mail": "m"}
_CHANNELS = ("text", "audio", "scan")
_ASIDES = [
    "Written on the train.",
    "Quick one.",
    "Rain all day.",
    "Before I forget:",
    "Late, so short.",
    "At the kitchen table.",
    "From the waiting room.",
    "Second coffee.",
    "Battery nearly empty.",
    "Typed with gloves on.",
    "No news otherwise.",
    "For the record:",
]
"""What a note begins with and its record leaves out."""
_CONDITIONS = ["if the rain stops", "if the loan comes through", "once the cast is off", "provided Jonas agrees"]

_ADVICE = ("should set a reminder", "consider asking for help", "well done")

Parts = tuple[str, str, str | None, str]
"""Sentences of a note, its summary, the stated intent, its valence."""


def _happened(rng: random.Random, topic: Topic) -> tuple[str, str, str]:
    """Return an event, its valence and a feeling that fits both."""
    mixed = rng.choice(["good", "bad"])
    kinds = {"positive": "good", "negative": "bad", "neutral": "plain", "mixed": mixed}
    valence = rng.choice(list(kinds))
    return rng.choice(topic[kinds[valence]]), valence, rng.choice(_FEELINGS[valence])


def _event(rng: random.Random, topic: Topic) -> Parts:
    event, valence, feeling = _happened(rng, topic)
    when = rng.choice(["Today", "Yesterday", "This morning", "Last night"])
    return f"{when} I {event}; {feeling}.", f"{event}; {feeling}", None, valence


def _habit(rng: random.Random, topic: Topic) -> Parts:
    habit, how = (
        rng.choice(topic["habits"]),
        rng.choice(["I notice again that I", "It is simply so: I", "All my life I"]),
    )
    return f"{how} {habit}.", f"{habit}", None, "neutral"


def _wish(rng: random.Random, topic: Topic) -> Parts:
    wish, how = (
        rng.choice(topic["wishes"]),
        rng.choice(["One day I would love to", "I dream that I could", "How I would like to"]),
    )
    return f"{how} {wish}. No plan, only the wish.", f"wishes to {wish}", None, "positive"


def _technique(rng: random.Random, topic: Topic) -> Parts:
    way, how = rng.choice(topic["ways"]), rng.choice(["Found out that", "Learned today:", "Note to keep:"])
    often = rng.choice(["it worked three times in a row", "it has not failed since", "the old way never did"])
    return f"{how} {way}; {often}.", f"{way}; {often}", None, "neutral"


def _deadline(rng: random.Random, topic: Topic) -> Parts:
    plan, date = rng.choice(topic["plans"]), rng.choice(_DATES)
    return f"I have to {plan} {date}, the date is theirs.", f"has to {plan} {date}", f"{plan} {date}", "neutral"


def _promise(rng: random.Random, topic: Topic) -> Parts:
    plan, date, who = rng.choice(topic["plans"]), rng.choice(_DATES), rng.choice(_PEOPLE)
    return f"Told {who} that I will {plan} {date}.", f"promised {who} to {plan} {date}", f"{plan} {date}", "neutral"


def _deferred(rng: random.Random, topic: Topic) -> Parts:
    plan, valence = rng.choice(topic["plans"]), "negative"
    often = rng.choice(["a third time", "again", "for weeks"])
    note = f"Put it off {often}, and it nags me. Next week I will probably {plan} after all."
    return note, f"put off {often}; will probably {plan} next week", f"{plan} next week", valence


def _conditional(rng: random.Random, topic: Topic) -> Parts:
    plan, condition = rng.choice(topic["plans"]), rng.choice(_CONDITIONS)
    note = f"{condition.capitalize()}, I am going to {plan}; that is settled."
    return note, f"going to {plan} {condition}", f"{plan} {condition}", "neutral"


def _open_promise(rng: random.Random, topic: Topic) -> Parts:
    (event, valence, feeling), plan, who = _happened(rng, topic), rng.choice(topic["plans"]), rng.choice(_PEOPLE)
    note = f"I {event}; {feeling}. On the way out I said to {who} that I would {plan}."
    return note, f"{event}; {feeling}; told {who} would {plan}", f"{plan}", valence


def _own_rule(rng: random.Random, topic: Topic) -> Parts:
    plan, date = rng.choice(topic["plans"]), rng.choice(["from Monday on", "from 1 March on", "starting tomorrow"])
    return (
        f"New rule, {date}: each week I {plan}.",
        f"own rule {date}: {plan} each week",
        f"{plan} each week {date}",
        "neutral",
    )


Situation = Callable[[random.Random, Topic], Parts]
SITUATIONS: dict[str, tuple[Situation, ...]] = {
    "episodic": (_event,),
    "semantic": (_habit, _wish),
    "procedural": (_technique,),
    "prospective": (_deadline, _promise, _deferred, _conditional, _open_promise, _own_rule),
}


def draw(rng: random.Random, tier: str, situation: Situation | None = None) -> tuple[str, Json]:
    """Return a note of a tier, and its record."""
    topic = rng.choice(list(_TOPICS))
    text, summary, intent, valence = (situation or rng.choice(SITUATIONS[tier]))(rng, _TOPICS[topic])
    source = rng.choice(list(_SOURCES))
    record = {
        "content_summary": summary,
        "memory_tier": tier,
        "emotional_valence": valence,
        "stated_intent": intent,
        "topic_cluster": topic,
        "timestamp": f"2026-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}",
        "source": source,
        "source_id": f"{_SOURCES[source]}-{rng.randint(100, 999)}",
        "channel": rng.choice(_CHANNELS),
    }
    head = " ".join(record[field] for field in ("timestamp", "source", "source_id", "channel"))
    return f"[{head}] {rng.choice(_ASIDES)} {text}", record


def notes(seed: int, each: int, taken: set[str]) -> Iterator[tuple[str, Json]]:
    """Yield as many notes of each tier, shuffled, none of whose sentences were taken; take theirs."""
    rng = random.Random(seed)
    drawn = []
    for tier in TIERS:
        left = each
        while left:
            note, record = draw(rng, tier)
            if (said := note.partition("] ")[2]) not in taken:
                taken.add(said)
                drawn.append((note, record))
                left -= 1
    rng.shuffle(drawn)
    yield from drawn


def pairs(seed: int, of_90: int, taken: set[str]) -> Iterator[Json]:
    """Yield preference pairs of the five families in their shares of 90: the record, and what is written instead."""
    rng = random.Random(seed)
    for family, share in PAIR_SHARES.items():
        left = max(1, round(share * of_90 / 90))
        while left:
            note, record, wrong = _pair(rng, family)
            if (said := note.partition("] ")[2]) not in taken:
                taken.add(said)
                yield {"prompt": note, "chosen": _text(record), "rejected": _text(wrong), "family": family}
                left -= 1


def _pair(rng: random.Random, family: str) -> tuple[str, Json, Json]:
    situation = {"mixture": _open_promise, "conditional": _conditional}.get(family)
    note, record = draw(rng, rng.choice(TIERS) if family == "drift" else "prospective", situation)
    summary = record["content_summary"]
    wrong = {
        "flattened": {"memory_tier": "semantic", "stated_intent": None},
        "coaching": {"content_summary": f"{summary}; {rng.choice(_ADVICE)}"},
        "mixture": {"memory_tier": "episodic", "stated_intent": None},
        "conditional": {"memory_tier": "semantic", "stated_intent": None},
        "drift": {"memory_tier": rng.choice([tier for tier in TIERS if tier != record["memory_tier"]])},
    }[family]
    if family == "drift" and rng.choice([True, False]):
        return note, record, {key.removeprefix("memory_"): value for key, value in record.items()}
    return note, record, {**record, **wrong}


def _text(record: Json) -> str:
    return json.dumps(record, ensure_ascii=False)


def main() -> None:
    """Write all files."""
    folder, own = HERE / "data", (HERE / "gold.jsonl").read_text()
    taken = {json.loads(row)["prompt"].partition("] ")[2] for row in own.splitlines()}
    folder.mkdir(exist_ok=True)
    made: dict[str, list[Json]] = {}
    for name in ("confirmation", "selection", "valid", "train"):
        seed, each = FILES[name]
        drawn = list(notes(seed, each, taken))
        if name in {"train", "valid"}:
            made[name] = [{"prompt": note, "completion": _text(record)} for note, record in drawn]
        else:
            made[name] = [
                {
                    "id": f"{name}-{number:03d}",
                    "prompt": note,
                    "reference": _text(record),
                    "tier": record["memory_tier"],
                }
                for number, (note, record) in enumerate(drawn, 1)
            ]
    made["pairs"] = list(pairs(50_000, 90, taken))
    made["valid_pairs"] = list(pairs(60_000, 12, taken))
    for name, rows in made.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    main()
