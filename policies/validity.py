"""Which beliefs no longer stand, and what a refuted one takes down with it.

A decision names its premises, an action its decision, a belief its job and the beliefs it was reasoned from: the chain
is walked over these. What was measured and judged again on sound premises counts again.
"""

from collections.abc import Iterable, Mapping, Sequence

from state.records import Action, ActionKind, Belief, Decision, Fingerprint, Record, Run, Staleness


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
    stale = {belief.id: verdict for belief in known if (verdict := _changed(belief, current)) is not None}
    fallen = {belief.id for belief in rows if belief.status in {"stale", "refuted", "contradicted"}} | set(stale)
    stale |= {belief.id: _fell_with(belief, fallen_by, rows) for belief, fallen_by in _contaminated(fresh, fallen)}
    return [stale[belief.id] for belief in known if belief.id in stale]


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
    reached: list[tuple[Belief, str]] = []
    while True:
        step = [
            (belief, next(premise for premise in belief.premises if premise in down))
            for belief in beliefs
            if belief.id not in down and down.intersection(belief.premises)
        ]
        if not step:
            return reached
        reached += step
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


GROUND_OF_TRAINING = ("data:", "model:")
"""Refuted, these make an adapter worthless; other premises of a launch only made it look worthwhile."""

MEASURING: frozenset[ActionKind] = frozenset({"census", "evaluate", "confirm"})
SPENDING: frozenset[ActionKind] = MEASURING | {"train", "pace"}
"""Acts that cost time."""
_STAND = MEASURING | {"train", "judge", "promote"}
"""Kinds of decisions that stand on beliefs; an end only reports."""

NOTED = "evidence.refuted"
"""Rule of the decision that records a contamination; it names what fell and does not stand on it."""


class Contamination(Record):
    """What no longer counts."""

    refuted: frozenset[str] = frozenset()
    """Beliefs whose refutation takes something down."""
    beliefs: frozenset[str] = frozenset()
    """Refuted and contradicted ones, and all that were reasoned from them."""
    decisions: frozenset[str] = frozenset()
    evaluations: frozenset[str] = frozenset()
    """Keys of censuses and evaluations whose figures do not count."""
    trainings: frozenset[str] = frozenset()
    """Runs whose adapter was trained on what is refuted."""
    verdicts: frozenset[str] = frozenset()
    """Runs whose verdict does not count: neither as progress, nor toward exhaustion, nor for a promotion."""


def contamination(beliefs: Sequence[Belief], decisions: Iterable[Decision], actions: Sequence[Action]) -> Contamination:
    """Return what stands on refuted beliefs, over any number of steps.

    Args:
        beliefs: All of them, superseded ones too.
        decisions: All of them.
        actions: All of them.
    """
    refuted = {belief.id for belief in beliefs if belief.status in {"refuted", "contradicted"}}
    if not refuted:
        return Contamination()
    rows = [row for row in decisions if row.rule != NOTED and row.action in _STAND]
    fallen = _with_all_reasoned(beliefs, refuted)
    launched = {row.id for row in rows if _stands_on(row, fallen)}
    denied = {e.ref for b in beliefs if _is_denied(b) for e in b.evidence if e.kind == "job"}
    invalidated = {a.key for a in actions if a.kind in MEASURING and (a.decision in launched or a.key in denied)}
    # A census counts many things: denied one, the others stand. An evaluation is one measurement.
    whole = invalidated - {a.key for a in actions if a.kind == "census"}
    measured = {b.id for b in beliefs if any(each.kind == "job" and each.ref in whole for each in b.evidence)}
    fallen = _with_all_reasoned(beliefs, fallen | measured)
    bad = {row.id for row in rows if _stands_on(row, fallen)}
    trainings = {row.run for row in rows if row.action == "train" and _on_its_ground(row, fallen)}
    newest = {row.run: row.id for row in rows if row.bucket is not None}
    used = {premise.belief for row in rows for premise in row.premises}
    return Contamination(
        refuted=frozenset(b.id for b in beliefs if b.id in refuted and (b.id in used or _is_denied(b))),
        beliefs=frozenset(fallen),
        decisions=frozenset(bad),
        evaluations=frozenset(invalidated),
        trainings=frozenset(trainings),
        verdicts=frozenset(run for run, decision in newest.items() if decision in bad or run in trainings),
    )


def with_replaced_weights(fallen: Contamination, runs: Sequence[Run], weights: str, start: str) -> Contamination:
    """Return what no longer counts, with the runs whose adapter was trained on weights that were replaced since.

    Args:
        fallen: What fell with refuted beliefs.
        runs: All of them.
        weights: Hash of the base as it is, empty while that is not known.
        start: Hash of what runs start from as it is; the base's where the campaign names no adapter.
    """
    if not weights:
        return fallen
    known = {run.id: run for run in runs}
    gone = set()
    for run in runs:
        root = run
        while root.parent in known:
            root = known[root.parent]
        if root.parent_hash != (weights if root.parent == "base" else start):
            gone.add(run.id)
    return fallen.model_copy(update={"trainings": fallen.trainings | gone, "verdicts": fallen.verdicts | gone})


def _is_denied(belief: Belief) -> bool:
    """Say whether a person denied what a job had measured; what a job itself found false is its result."""
    return belief.status == "refuted" and any(each.kind == "person" for each in belief.evidence)


def _with_all_reasoned(beliefs: Sequence[Belief], fallen: set[str]) -> set[str]:
    return fallen | set(contaminated(beliefs, fallen))


def _stands_on(decision: Decision, fallen: set[str]) -> bool:
    return any(premise.belief in fallen for premise in decision.premises)


def _on_its_ground(decision: Decision, fallen: set[str]) -> bool:
    return any(p.belief in fallen and p.subject.startswith(GROUND_OF_TRAINING) for p in decision.premises)
