"""Which beliefs no longer stand: a fingerprint changed, or a belief they were reasoned from fell."""

from collections.abc import Iterable, Mapping

from state.records import Belief, Fingerprint, Record, Staleness


class StaleBelief(Record):
    """A belief that no longer stands, and why."""

    belief: str
    """Id."""
    kind: Staleness
    because: Fingerprint | None
    """The first fingerprint that no longer matches; None where a premise fell."""
    now: str | None
    """Its present value; None: it could not be read."""
    premise: str
    """Id of the fallen premise, or empty."""
    sentence: str


def stale_beliefs(beliefs: Iterable[Belief], current: Mapping[tuple[str, str], str]) -> list[StaleBelief]:
    """Return the beliefs that do not hold in the present world, in the order given.

    Args:
        beliefs: Beliefs of any status. Fresh ones become stale with what they stand on; refuted ones too, when a
            fingerprint changed: what was false of another world is not known of this one. Stale, refuted and
            contradicted ones make others fall.
        current: (fingerprint kind, name) -> present value. A fingerprint that is missing here could not be read, and a
            belief that stands on it is stale: unknown means no.
    """
    rows = list(beliefs)
    fresh = [belief for belief in rows if belief.status == "fresh"]
    known = [belief for belief in rows if belief.status in {"fresh", "refuted"}]
    found = {belief.id: verdict for belief in known if (verdict := _changed(belief, current)) is not None}
    fallen = {belief.id for belief in rows if belief.status in {"stale", "refuted", "contradicted"}} | set(found)
    found |= {belief.id: _fell_with(belief, fallen_by, rows) for belief, fallen_by in _contaminated(fresh, fallen)}
    return [found[belief.id] for belief in known if belief.id in found]


def contaminated(beliefs: Iterable[Belief], refuted: Iterable[str]) -> list[str]:
    """Return the ids of all beliefs that stand, over any number of steps, on refuted ones."""
    return [belief.id for belief, _ in _contaminated(list(beliefs), set(refuted))]


def _changed(belief: Belief, current: Mapping[tuple[str, str], str]) -> StaleBelief | None:
    for fingerprint in belief.stands_on:
        now = current.get((fingerprint.kind, fingerprint.name))
        if now == fingerprint.value:
            continue
        what = f"{fingerprint.kind} {fingerprint.name}"
        change = "could not be read" if now is None else f"was {fingerprint.value[:12]} and is {now[:12]}"
        return StaleBelief(
            belief=belief.id,
            kind="goal" if fingerprint.kind == "goal" else belief.staleness,
            because=fingerprint,
            now=now,
            premise="",
            sentence=f"{belief.id} ({belief.subject}, {belief.claim}) is stale: {what} {change}.",
        )
    return None


def _contaminated(beliefs: list[Belief], fallen: set[str]) -> list[tuple[Belief, str]]:
    """Return (belief, fallen premise) for everything that falls with `fallen`, nearest first."""
    down = set(fallen)
    found: list[tuple[Belief, str]] = []
    while True:
        step = [
            (belief, next(premise for premise in belief.premises if premise in down))
            for belief in beliefs
            if belief.id not in down and down.intersection(belief.premises)
        ]
        if not step:
            return found
        found += step
        down |= {belief.id for belief, _ in step}


def _fell_with(belief: Belief, premise: str, rows: list[Belief]) -> StaleBelief:
    statement = next((row.statement for row in rows if row.id == premise), "")
    return StaleBelief(
        belief=belief.id,
        kind=belief.staleness,
        because=None,
        now=None,
        premise=premise,
        sentence=f"{belief.id} ({belief.subject}, {belief.claim}) fell with {premise}: {statement}",
    )
