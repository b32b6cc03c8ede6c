"""Write the data of two document tasks: reports to revise, and paragraphs to cite.

    python runbooks/documents/make_data.py        # data/: rows and cases of both, the same bytes each time

Facts are planted, so a grader counts which an answer keeps, loses or invents. A report is passive sentences with
filler; its reference says the same actively. A paragraph makes claims of which numbered sources support all but some.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Json = dict[str, Any]
REVISE = "Revise the report: active voice, no filler, at most {limit} words. Keep every fact and add none."
CITE = "Rewrite the paragraph: put [n] behind each claim that source n supports, and [no source] behind the others."
FILES = {"train": (1, 400), "valid": (2, 24), "selection": (3, 120), "confirmation": (4, 200)}
"""File -> seed and rows."""

_WHO = [
    "the harbour office",
    "the night shift",
    "the north team",
    "the survey crew",
    "the archive",
    "the rail depot",
    "the water board",
    "the clinic",
]
_DONE = [
    ("repaired", "pumps"),
    ("built", "benches"),
    ("sent", "parcels"),
    ("inspected", "bridges"),
    ("sold", "permits"),
    ("counted", "trees"),
    ("tested", "valves"),
    ("closed", "cases"),
    ("painted", "doors"),
    ("bought", "lamps"),
]
_WHEN = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
_FILLERS = [
    "It should be noted that",
    "As a matter of fact,",
    "It is important to mention that",
    "In this regard,",
    "Needless to say,",
]
_EFFECTS = [
    "waiting times",
    "water losses",
    "repair costs",
    "visitor numbers",
    "sick days",
    "delays",
    "noise complaints",
    "energy use",
]
_PLACES = ["Aldern", "Brixby", "Corvale", "Dunmere", "Eastholm", "Farrow", "Glenby", "Harwick"]
_MOVES = ["fell by", "rose by", "changed by"]


def report(rng: random.Random) -> Json:
    """Return a report, the facts in it, and the same said actively."""
    count = rng.randint(3, 5)
    whos, done = rng.sample(_WHO, count), rng.sample(_DONE, count)
    numbers, months = rng.sample(range(11, 99), count), rng.sample(_WHEN, count)
    facts, passive, active, fillers = [], [], [], []
    for who, (verb, thing), number, month in zip(whos, done, numbers, months, strict=True):
        facts.append({"who": who, "number": str(number), "thing": thing, "when": month})
        said = f"{number} {thing} were {verb} by {who} in {month}."
        if rng.choice([True, False]):
            fillers.append(rng.choice(_FILLERS))
            said = f"{fillers[-1]} {said}"
        passive.append(said)
        active.append(f"{who.capitalize()} {verb} {number} {thing} in {month}.")
    reference, told = " ".join(active), " ".join(passive)
    limit = len(reference.split()) + 5
    prompt = f"{REVISE.format(limit=limit)}\n\n{told}"
    return {
        "prompt": prompt,
        "reference": reference,
        "report": told,
        "facts": facts,
        "fillers": sorted({each.rstrip(",") for each in fillers}),
        "word_limit": limit,
    }


def paragraph(rng: random.Random) -> Json:
    """Return sources and a paragraph whose claims they support but for some, and the same cited."""
    count = rng.randint(2, 4)
    places, effects = rng.sample(_PLACES, count), rng.sample(_EFFECTS, count)
    numbers = rng.sample(range(11, 89), count)
    said = [
        (place, effect, rng.choice(_MOVES), number)
        for place, effect, number in zip(places, effects, numbers, strict=True)
    ]
    supported = sorted(rng.sample(range(count), rng.randint(max(1, count - 1), count)))
    order = rng.sample(supported, len(supported))
    sources = [
        f"[{n}] A count in {said[i][0]}: {said[i][1]} {said[i][2]} {said[i][3]} percent."
        for n, i in enumerate(order, 1)
    ]
    claims, cited, bare = [], [], []
    for i, (place, effect, move, number) in enumerate(said):
        source = order.index(i) + 1 if i in order else None
        claims.append({"anchors": [place, effect, str(number)], "source": source})
        sentence = f"In {place}, {effect} {move} {number} percent"
        bare.append(f"{sentence}.")
        cited.append(f"{sentence} {f'[{source}]' if source else '[no source]'}.")
    prompt = "\n".join([CITE, "", *sources, "", " ".join(bare)])
    return {"prompt": prompt, "reference": " ".join(cited), "claims": claims, "sources": len(sources)}


TASKS: dict[str, Callable[[random.Random], Json]] = {"revision": report, "citation": paragraph}


def main() -> None:
    """Write all files; no prompt stands in two."""
    (HERE / "data").mkdir(exist_ok=True)
    for task, make in TASKS.items():
        taken: set[str] = set()
        for name, (seed, count) in FILES.items():
            rng, rows = random.Random(f"{task} {seed}"), []
            while len(rows) < count:
                made = make(rng)
                if made["prompt"] in taken:
                    continue
                taken.add(made["prompt"])
                is_row = name in {"train", "valid"}
                rows.append(
                    {"prompt": made["prompt"], "completion": made["reference"]}
                    if is_row
                    else {"id": f"{task}-{name}-{len(rows) + 1:03d}", **made}
                )
            path = HERE / "data" / f"{task}_{name}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
