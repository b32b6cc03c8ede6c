"""The ledger of cases and a campaign: what it knows of the confirmation cases, what is added, what is shown.

Reads the files of cases and rows, and joins the ledger (`state/ledger.py`) with the arithmetic (`policies/ledger.py`).
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from agent.campaign import LoadedCampaign
from agent.inputs import split_inputs
from agent.render.words import clock, count
from agent.requests import me
from agent.session import Session
from policies.history import LEDGER
from policies.ledger import Opening, Recorded, Spending, counting, goal_of, is_more, missing
from state.errors import ConfigError, NotFoundError
from state.goal import Goal
from state.hashing import canonical_json, hash_json
from state.journal import HeadFile
from state.ledger import CaseSet, Entry, Ledger, case_hash, open_ledger, reset
from state.paths import CampaignPaths
from state.reading import open_reader
from state.records import Action, Belief, Decision, Evidence, Json, SplitUse
from tools.data.cases import iter_data, iter_pairs, iter_split
from tools.jobs.locks import machine_paths

View = dict[str, Any]


def ledger_of(paths: CampaignPaths, *, is_example: bool) -> Path:
    """Return the ledger that counts for a campaign: this user's on this machine, or an example's own."""
    return paths.ledger if is_example else machine_paths().ledger


@contextmanager
def opened(is_example: bool, paths: CampaignPaths, *, is_writing: bool = False) -> Iterator[Ledger]:  # noqa: FBT001 - which of two
    """Open the ledger that counts for a campaign; what its home saw of it before must be in it.

    Raises:
        CorruptError: It is damaged, or gone though the home has seen rows in it.

    Side effects: writing, notes beside the campaigns what is in it, so that its loss is noticed.
    """
    seen = None if is_example else HeadFile.read(paths.seen_ledger)
    place = ledger_of(paths, is_example=is_example)
    with open_ledger(place, [seen] if seen else (), is_writing=is_writing) as ledger:
        yield ledger
        if is_writing and not is_example:
            note = HeadFile(paths.seen_ledger, place)
            note.write(ledger.head)
            note.close()


def entries_of(ledger: Ledger) -> View:
    """Return what stands in a ledger, for people and programs: openings, uses of cases, and resets."""
    rows = ledger.entries()
    kinds = {"openings": "opening", "uses": "used"}
    told = {name: [{"at": row.at, **row.body} for row in rows if row.kind == kind] for name, kind in kinds.items()}
    return {**told, "resets": [{"at": row.at, **row.body} for row in ledger.resets()]}


def format_ledger(path: Path, entries: View) -> Iterator[str]:
    """Yield what stands in a ledger as lines."""
    openings, uses = entries["openings"], entries["uses"]
    yield f"{path}: {count(len(openings), 'opening')} of confirmation cases, {count(len(uses), 'set')} of cases used."
    for row in openings:
        who = f"{row['campaign']} ({row['home']})"
        yield f"{clock(row['at'])} {who} opened them for {row['run']} at alpha {row['alpha']:.4f}."
    for row in uses:
        yield f"{clock(row['at'])} {row['campaign']} ({row['home']}) {row['what']} {row['file']}."
    for row in entries["resets"]:
        yield f"{clock(row['at'])} {row['by']} reset it: {row['reason']}"


def reset_ledger(paths: CampaignPaths, reason: str, *, is_example: bool) -> str:
    """Let everything in a ledger no longer count, on record, and say what was done.

    Raises:
        ConfigError: No reason is given.
    """
    if not reason.strip():
        raise ConfigError("Resetting the ledger needs --reason WHY, for the record.", what="reason")
    by, path = me(), ledger_of(paths, is_example=is_example)
    seen = None if is_example else HeadFile.read(paths.seen_ledger)
    entry = Entry(time.time(), "reset", "", {"by": by, "reason": reason.strip(), "home": str(paths.home)})
    kind, moved = reset(path, [seen] if seen else (), entry, str(paths.home))
    what = "what was opened and used before no longer counts" if kind == "reset" else "what was lost no longer counts"
    aside = f" The damaged files are in {moved}." if moved is not None else ""
    return f"On record: {by} reset {path}; {what}.{aside}"


_RUNBOOK = "runbooks/campaign_file.md#ledger"


def _is_example(goal: Goal) -> bool:
    return goal.gate.ledger == "example"


# Which cases there are


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return canonical_json(content)


def _turns(row: Mapping[str, Any], *, is_bare: bool = False) -> list[str]:
    """Return what is said in a case, calls of tools too; bare: without the system's words."""
    messages = row.get("messages") or [{"role": "user", "content": row.get("prompt")}]
    return [
        f"{_text(each.get('content'))}{_text(each.get('tool_calls'))}"
        for each in messages
        if not (is_bare and each.get("role") == "system")
    ]


_NO_CONTENT = frozenset({"id", "prompt", "messages", "reference"})


def _case(row: Mapping[str, Any], *, is_bare: bool) -> bytes:
    """Return the identity of a case; without a reference, what else its row holds is what a grader asks for."""
    reference = row.get("reference")
    others = {name: value for name, value in row.items() if name not in _NO_CONTENT}
    asked = canonical_json(others) if reference is None and others else _text(reference)
    return case_hash(_turns(row, is_bare=is_bare), asked)


def _system(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(_text(each.get("content")) for each in row.get("messages") or () if each.get("role") == "system")


def _cases(path: Path, ids: Iterable[str] | None) -> list[tuple[int, bytes]]:
    """Return line and identity of the cases of a file, or of those with some ids.

    What the system says in every case alike is the campaign's, which may change it; what differs is the case's own.
    """
    wanted = None if ids is None else set(ids)
    found, systems = [], set()
    for line, row in enumerate(iter_split(path), start=1):
        said = _system(row)
        systems.add(said)
        if wanted is None or row["id"] in wanted:
            bare = _case(row, is_bare=True)
            found.append((line, bare, _case(row, is_bare=False) if said else bare))
    return [(line, bare if len(systems) == 1 else own) for line, bare, own in found]


def _rows(name: str, path: Path) -> Iterator[bytes]:
    """Yield the identities of what a file of training or validation data teaches: prompt and answer.

    With and without the system's words: a case may say them itself, or leave them to the campaign.
    """
    for is_bare in (True, False):
        if name.endswith("pairs"):
            for pair in iter_pairs(path):
                yield case_hash(_turns({"messages": pair.messages}, is_bare=is_bare), pair.sides[0])
        elif name.endswith("rollouts"):
            yield from (_case(row, is_bare=is_bare) for row in iter_split(path))
        else:
            for row in iter_data(path):
                turns = _turns({"messages": row.messages}, is_bare=is_bare) or [""]
                yield case_hash(turns[:-1], turns[-1]) if row.messages else case_hash([row.prompt], "")


def _confirmation(goal: Goal, folder: Path) -> dict[str, list[tuple[int, bytes, Path]]]:
    """Return split -> line, identity and file of each confirmation case."""
    return {
        str(split["name"]): [
            (line, case, Path(split["file"])) for line, case in _cases(Path(split["file"]), split["case_ids"])
        ]
        for split in split_inputs(goal, folder, "confirmation")
    }


def confirmation_cases(session: Session) -> Mapping[str, CaseSet]:
    """Return split -> its confirmation cases; read again only where a file or the split of it changed."""
    splits = session.goal.evaluation.splits
    files = {
        name: [session.cache_hash(str(session.loaded.resolve(path))) for path in (each.file, each.confirmation) if path]
        for name, each in splits.items()
    }
    key = hash_json([files, {name: each.confirmation_share for name, each in splits.items()}])
    if session.case_sets[0] != key:
        found = _confirmation(session.goal, session.loaded.folder)
        sets = {name: CaseSet.of(case for _, case, _ in rows) for name, rows in found.items()}
        session.case_sets = (key, sets)
    return session.case_sets[1]


def _name_of(sets: Mapping[str, CaseSet]) -> str:
    """Return the name of a set of confirmation cases: what all its splits hold together."""
    return CaseSet.of(case for each in sets.values() for case in each).digest


# What the ledger says


class _Rows(NamedTuple):
    """What a ledger says about some cases."""

    written: tuple[Opening, ...]
    """All openings in it."""
    against: tuple[Opening, ...]
    """Those that count against the cases."""
    since: float
    """When a person reset it last."""

    def counting(self, actions: Iterable[Action], campaign: str) -> tuple[Opening, ...]:
        """Return what counts: by the ledger, and by a campaign's own record beside it."""
        return (*self.against, *missing(_own(actions, campaign), self.written, self.since))


def _rows_about(ledger: Ledger, sets: Mapping[str, CaseSet]) -> _Rows:
    rows = [entry for entry in ledger.entries() if entry.kind == "opening"]
    opened = [{case for digest in row.body["sets"].values() for case in ledger.cases(digest)} for row in rows]
    written = tuple(
        Opening(
            key=row.key,
            cases=CaseSet.of(cases).digest,
            at=row.at,
            **{name: row.body[name] for name in ("alpha", "candidate", "goal", "campaign", "home")},
        )
        for row, cases in zip(rows, opened, strict=True)
    )
    since = max((row.at for row in ledger.resets()), default=float("-inf"))
    against = counting({name: frozenset(each) for name, each in sets.items()}, opened)
    return _Rows(written, tuple(written[place] for place in against), since)


def _own(actions: Iterable[Action], campaign: str) -> Iterator[Opening]:
    """Yield the acts of a record that opened cases at a level; of acts of an older Vigil the planner knows."""
    for action in actions:
        inputs = action.inputs
        if action.kind == "confirm" and "alpha" in inputs:
            yield Opening(
                key=action.key,
                cases=str(inputs["case_set"]),
                at=action.created_at,
                campaign=campaign,
                **{name: inputs[name] for name in ("alpha", "candidate", "goal")},
            )


def read_openings(session: Session) -> None:
    """Form the belief on what of alpha is spent on the confirmation cases as they are now.

    Raises:
        CorruptError: The ledger is damaged, or gone though this or another campaign of the home has seen rows in it.
    """
    sets, place = confirmation_cases(session), ledger_of(session.paths, is_example=_is_example(session.goal))
    with opened(_is_example(session.goal), session.paths) as ledger:
        key = (place, ledger.head, tuple(each.digest for each in sets.values()))
        if session.openings_read[0] != key:
            session.openings_read = (key, _rows_about(ledger, sets))
        openings = session.openings_read[1].counting(session.store.read.actions(), session.goal.campaign)
        resets = ledger.resets()
    spending = _spending(session.goal, sets, openings)
    recorded = Recorded(cases=spending.cases, openings=openings)
    session.store.knowing.believe(
        Belief(
            subject=LEDGER[0],
            claim=LEDGER[1],
            statement=f"{spending.sentence}{_whose(session.goal)}{_reset(resets)}",
            value={
                **recorded.model_dump(mode="json"),
                "alpha": spending.alpha,
                "spent": spending.spent,
                "left": spending.left,
                "openings_left": spending.openings_left,
                "next_alpha": spending.next_alpha,
            },
            tag="confirmed",
            evidence=(Evidence(kind="file", ref=str(place), summary="Read now, its chain checked."),),
            formed_at=session.clock.now(),
        )
    )


def _spending(goal: Goal, sets: Mapping[str, CaseSet], openings: tuple[Opening, ...]) -> Spending:
    gate = goal.gate
    return Spending(alpha=gate.alpha, most=gate.max_confirmations, openings=openings, cases=_name_of(sets))


def _whose(goal: Goal) -> str:
    return " The ledger is this example's own: what other campaigns opened does not count." if _is_example(goal) else ""


def _reset(resets: list[Entry]) -> str:
    if not resets:
        return ""
    body = resets[-1].body
    return f" {body['by']} reset the ledger: {body['reason']}"


# What the campaign adds


def record_opening(session: Session, decision: Decision) -> bool:
    """Record that the confirmation cases are opened, before they are; say whether they may be.

    Not twice: under the key of the act, or for answers that were put to these cases before. Not at a level that is no
    longer left, since another campaign opened them meanwhile.
    """
    inputs, sets = decision.action_inputs, confirmation_cases(session)
    with opened(_is_example(session.goal), session.paths, is_writing=True) as ledger, ledger.writing():
        spending = _spending(session.goal, sets, _rows_about(ledger, sets).against)
        # An act that an older Vigil began names no level.
        alpha = float(inputs.get("alpha", session.goal.gate.confirmation_alpha))
        candidate, goal = (
            str(inputs.get("candidate", inputs["weights"])),
            str(inputs.get("goal", goal_of(session.goal.gate))),
        )
        if spending.recorded(candidate, goal) is not None:
            return True
        # One that was begun has its job: what is left now cannot undo it.
        is_begun = any(action.key == decision.action_key for action in session.store.read.actions())
        if not is_begun and (not spending.next_alpha or is_more(alpha, spending.next_alpha)):
            return False
        body = {"alpha": alpha, "candidate": candidate, "goal": goal, "run": decision.run, **_who(session)}
        ledger.add(Entry(session.clock.now(), "opening", decision.action_key, body), sets, str(session.paths.root))
    return True


def _who(session: Session) -> Json:
    return {"campaign": session.goal.campaign, "home": str(session.paths.home)}


def note_use(session: Session, decision: Decision) -> None:
    """Record which cases a training is about to learn from, or an evaluation to compare runs on; each set once."""
    for what, name, path, ids in _uses(session, decision):
        key = hash_json([_who(session), what, session.cache_hash(str(path)), ids])[:24]
        if key in session.noted:
            continue
        with opened(_is_example(session.goal), session.paths, is_writing=True) as ledger:
            if all((entry.kind, entry.key) != ("used", key) for entry in ledger.entries()):
                hashes = [case for _, case in _cases(path, ids)] if what == _COMPARED else _rows(name, path)
                cases, body = CaseSet.of(hashes), {"what": what, "file": str(path), **_who(session)}
                with ledger.writing():
                    ledger.add(Entry(session.clock.now(), "used", key, body), {name: cases}, str(session.paths.root))
        session.noted.add(key)


_COMPARED = "compared runs on"
_LEARNED = "trained on"
_WATCHED = "watched trainings on"


def _uses(session: Session, decision: Decision) -> Iterator[tuple[str, str, Path, list[str] | None]]:
    """Yield how a decision uses cases: what it does, under which name, the file, and which of its cases."""
    goal, folder = session.goal, session.loaded.folder
    if decision.action == "train":
        for name, written in goal.data.files.items():
            if written:
                yield (_WATCHED if name.startswith("valid") else _LEARNED), name, session.loaded.resolve(written), None
    elif decision.action == "evaluate" and decision.action_inputs.get("use") != "confirmation":
        use: SplitUse = "selection"
        for split in split_inputs(goal, folder, use):
            yield _COMPARED, str(split["name"]), Path(split["file"]), split["case_ids"]


# What is refused


def refuse_used(loaded: LoadedCampaign, paths: CampaignPaths) -> None:
    """Refuse confirmation cases that stand there twice, or that a campaign of this machine trained or compared runs on.

    Those that stand in two files of this very campaign are for the probe of leakage, which names both.

    Raises:
        ConfigError: There are some; count, first lines, who used them how, and the fix are named.
        CorruptError: The ledger is damaged or lost.
    """
    confirmation = _confirmation(loaded.goal, loaded.folder)
    for name, rows in confirmation.items():
        _refuse_copies(loaded, name, rows)
    with opened(_is_example(loaded.goal), paths) as ledger:
        uses = [entry for entry in ledger.entries() if entry.kind == "used"]
        digests = {digest: entry for entry in reversed(uses) for digest in entry.body["sets"].values()}
        ours = {case for rows in confirmation.values() for _, case, _ in rows}
        used = {digest: ours.intersection(ledger.cases(digest)) for digest in digests}
    if not any(used.values()):
        return
    own = _own_cases(loaded)
    for name, rows in confirmation.items():
        for digest, entry in digests.items():
            if left := [each for each in rows if each[1] in used[digest] and each[1] not in own]:
                raise _used(loaded, name, entry, left)


def _refuse_copies(loaded: LoadedCampaign, name: str, rows: list[tuple[int, bytes, Path]]) -> None:
    """Refuse cases that stand in one confirmation part twice: a copy says nothing new, and counts as a case."""
    first: dict[bytes, int] = {}
    copies = [(line, first[case]) for line, case, _ in rows if first.setdefault(case, line) != line]
    if copies:
        where = _at_split(loaded, name)
        lines = ", ".join(f"{line} of {other}" for line, other in copies[:_MOST_LINES])
        raise ConfigError(
            f"{where}: {len(copies)} of {len(rows)} confirmation cases of {name} are copies, with the prompt and"
            f" reference of another (in {rows[0][2].name} line {lines}{', …' if len(copies) > _MOST_LINES else ''}), so"
            f" only {len(first)} count as evidence: leave the copies out.",
            what=f"evaluation.splits.{name}",
            where=where,
            runbook=_RUNBOOK,
        )


def _at_split(loaded: LoadedCampaign, name: str) -> str:
    key = "confirmation_share" if loaded.goal.evaluation.splits[name].file else "confirmation"
    return loaded.where("evaluation", "splits", name, key)


def check_openings(loaded: LoadedCampaign, paths: CampaignPaths) -> Iterator[str]:
    """Refuse what `refuse_used` does, and say what of alpha is spent already.

    Raises:
        ConfigError, CorruptError: As `refuse_used`.
    """
    refuse_used(loaded, paths)
    sets = {
        name: CaseSet.of(case for _, case, _ in rows)
        for name, rows in _confirmation(loaded.goal, loaded.folder).items()
    }
    with opened(_is_example(loaded.goal), paths) as ledger:
        openings = _rows_about(ledger, sets).counting(_acts(paths), loaded.goal.campaign)
    yield _spending(loaded.goal, sets, openings).sentence + _whose(loaded.goal)


def _acts(paths: CampaignPaths) -> list[Action]:
    """Return what the campaign did so far, by its record; nothing where it has none."""
    try:
        with open_reader(paths) as reader:
            return [Action.model_validate(row) for row in reader.actions()]
    except NotFoundError:
        return []


def _own_cases(loaded: LoadedCampaign) -> set[bytes]:
    """Return the cases that a training file or a selection part of the campaign holds as it is now."""
    own: set[bytes] = set()
    for name, written in loaded.goal.data.files.items():
        if written:
            own.update(_rows(name, loaded.resolve(written)))
    for split in split_inputs(loaded.goal, loaded.folder, "selection"):
        own.update(case for _, case in _cases(Path(split["file"]), split["case_ids"]))
    return own


_MOST_LINES = 5


def _used(loaded: LoadedCampaign, name: str, entry: Entry, used: list[tuple[int, bytes, Path]]) -> ConfigError:
    split = loaded.goal.evaluation.splits[name]
    where = _at_split(loaded, name)
    lines = ", ".join(str(line) for line, _, _ in used[:_MOST_LINES]) + (", …" if len(used) > _MOST_LINES else "")
    who = f"the campaign {entry.body['campaign']} ({entry.body['home']})"
    fix = "put `confirmation_share` back to what it was, or take new cases" if split.file else "take new cases"
    return ConfigError(
        f"{where}: {len(used)} confirmation cases of {name} are no longer unseen: {who} {entry.body['what']} them (line"
        f"{'s' if len(used) > 1 else ''} {lines} of {used[0][2].name}). A case that was trained or compared on confirms"
        f" nothing: {fix}.",
        what=f"evaluation.splits.{name}",
        where=where,
        runbook=_RUNBOOK,
    )
