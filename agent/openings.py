"""The ledger of cases and a campaign: what it knows of the confirmation cases, what is added, what is shown.

Reads the files of cases and rows, and joins the ledger (`state/ledger.py`) with the arithmetic (`policies/ledger.py`).
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from agent.campaign import LoadedCampaign
from agent.inputs import all_split_inputs, split_inputs
from agent.render.words import clock, count
from agent.requests import me
from agent.session import Session
from policies.ledger import LEDGER, Opening, Recorded, Spending, counting, goal_of, is_more, missing
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
    head = None if is_example else HeadFile.read(paths.known_ledger)
    place = ledger_of(paths, is_example=is_example)
    with open_ledger(place, [head] if head else (), is_writing=is_writing) as ledger:
        yield ledger
        if is_writing and not is_example:
            note = HeadFile(paths.known_ledger, place)
            note.write(ledger.head)
            note.close()


def entries_of(ledger: Ledger) -> View:
    """Return what stands in a ledger, for people and programs: openings, uses of cases, and resets."""
    rows = ledger.entries()
    kinds = {"openings": "opening", "uses": "used"}
    entries = {name: [{"at": row.at, **row.body} for row in rows if row.kind == kind] for name, kind in kinds.items()}
    return {**entries, "resets": [{"at": row.at, **row.body} for row in ledger.resets()]}


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
    head = None if is_example else HeadFile.read(paths.known_ledger)
    entry = Entry(time.time(), "reset", "", {"by": by, "reason": reason.strip(), "home": str(paths.home)})
    kind, moved = reset(path, [head] if head else (), entry, str(paths.home))
    what = "what was opened and used before no longer counts" if kind == "reset" else "what was lost no longer counts"
    aside = f" The damaged files are in {moved}." if moved is not None else ""
    return f"On record: {by} reset {path}; {what}.{aside}"


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
    question = canonical_json(others) if reference is None and others else _text(reference)
    return case_hash(_turns(row, is_bare=is_bare), question)


def _system(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(_text(each.get("content")) for each in row.get("messages") or () if each.get("role") == "system")


class CasePart(NamedTuple):
    """One use of a split: its file, and line and identity of each of its cases."""

    name: str
    use: SplitUse
    file: Path
    rows: list[tuple[int, bytes]]


def case_parts(goal: Goal, folder: Path) -> list[CasePart]:
    """Return both uses of each split, selection first; a file that they share is read for its cases once."""
    read: dict[Path, list[tuple[int, str, bytes]]] = {}
    parts = []
    for split in all_split_inputs(goal, folder):
        path, ids = Path(split["file"]), split["case_ids"]
        if path not in read:
            read[path] = _identified(path)
        parts.append(CasePart(split["name"], split["use"], path, _of_ids(read[path], ids)))
    return parts


def _of_ids(found: list[tuple[int, str, bytes]], ids: Iterable[str] | None) -> list[tuple[int, bytes]]:
    wanted = None if ids is None else set(ids)
    return [(line, case) for line, name, case in found if wanted is None or name in wanted]


def _identified(path: Path) -> list[tuple[int, str, bytes]]:
    """Return line, id and identity of the cases of a file.

    What the system says in every case alike is the campaign's, which may change it; what differs is the case's own.
    """
    found, systems = [], set()
    for line, row in enumerate(iter_split(path), start=1):
        said = _system(row)
        systems.add(said)
        bare = _case(row, is_bare=True)
        found.append((line, row["id"], bare, _case(row, is_bare=False) if said else bare))
    return [(line, name, bare if len(systems) == 1 else own) for line, name, bare, own in found]


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


def confirmation_cases(session: Session) -> Mapping[str, CaseSet]:
    """Return split -> its confirmation cases; read again only where a file or the split of it changed."""
    splits = session.goal.evaluation.splits
    files = {
        name: [session.cache_hash(str(session.loaded.resolve(path))) for path in (each.file, each.confirmation) if path]
        for name, each in splits.items()
    }
    key = hash_json([files, {name: each.confirmation_share for name, each in splits.items()}])
    if session.case_sets[0] != key:
        session.case_sets = (key, _kept(case_parts(session.goal, session.loaded.folder)))
    return session.case_sets[1]


def _kept(parts: Iterable[CasePart]) -> dict[str, CaseSet]:
    """Return split -> its confirmation cases."""
    return {part.name: CaseSet.of(case for _, case in part.rows) for part in parts if part.use == "confirmation"}


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
    opened = [{case for case_set in row.body["sets"].values() for case in ledger.cases(case_set)} for row in rows]
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
                is_compared = what == _COMPARED
                hashes = (case for _, case in _of_ids(_identified(path), ids)) if is_compared else _rows(name, path)
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


def refuse_copies(loaded: LoadedCampaign, parts: Iterable[CasePart]) -> None:
    """Refuse cases that stand in one file twice: a copy says nothing new, and one that runs are compared on is seen.

    Those that stand in two files of this very campaign are for the probe of leakage, which names both.

    Raises:
        ConfigError: There are some; count, first lines and the fix are named.
    """
    seen: dict[tuple[str, Path], dict[bytes, tuple[int, SplitUse]]] = {}
    for part in parts:
        known = seen.setdefault((part.name, part.file), {})
        firsts = [(line, *known.setdefault(case, (line, part.use))) for line, case in part.rows]
        copies = [f"{line} of {first}" for line, first, _ in firsts if line != first]
        if copies:
            is_seen = any(use != part.use for _, _, use in firsts)
            why = "what runs are compared on confirms nothing" if is_seen else "a copy counts as no evidence of its own"
            raise _refusal(
                loaded,
                part.name,
                f"{len(copies)} of {len(part.rows)} {part.use} cases of {part.name} are copies, with the prompt and"
                f" reference of another (in {part.file.name} line {_first_of(copies)}); {why}: leave the copies out.",
            )


def _refusal(loaded: LoadedCampaign, name: str, sentence: str) -> ConfigError:
    key = "confirmation_share" if loaded.goal.evaluation.splits[name].file else "confirmation"
    return loaded.refusal(sentence, "evaluation", "splits", name, key, part="#ledger")


_MOST_LINES = 5


def _first_of(lines: Sequence[object]) -> str:
    return ", ".join(map(str, lines[:_MOST_LINES])) + (", …" if len(lines) > _MOST_LINES else "")


def check_openings(
    loaded: LoadedCampaign, paths: CampaignPaths, parts: list[CasePart], *, has_record: bool
) -> tuple[Spending, str]:
    """Refuse confirmation cases that a campaign of this machine trained or compared runs on, and say what is spent.

    Args:
        loaded: The campaign.
        paths: Its folder, or where it will be.
        parts: Its cases.
        has_record: Count what its own record tells of openings, beside the ledger.

    Raises:
        ConfigError: Such cases; count, first lines, who used them how, and the fix are named.
        CorruptError: The ledger is damaged or lost, or the record is.
    """
    sets = _kept(parts)
    with opened(_is_example(loaded.goal), paths) as ledger:
        _refuse_used(loaded, ledger, parts)
        acts = _acts(paths) if has_record else []
        openings = _rows_about(ledger, sets).counting(acts, loaded.goal.campaign)
    spending = _spending(loaded.goal, sets, openings)
    return spending, spending.sentence + _whose(loaded.goal)


def _refuse_used(loaded: LoadedCampaign, ledger: Ledger, parts: list[CasePart]) -> None:
    uses = [entry for entry in ledger.entries() if entry.kind == "used"]
    digests = {digest: entry for entry in reversed(uses) for digest in entry.body["sets"].values()}
    ours = {case for part in parts if part.use == "confirmation" for _, case in part.rows}
    used = {digest: ours.intersection(ledger.cases(digest)) for digest in digests}
    if not any(used.values()):
        return
    own = _own_cases(loaded, parts)
    for part in parts:
        for digest, entry in digests.items():
            unseen = used[digest] - own if part.use == "confirmation" else ()
            if left := [line for line, case in part.rows if case in unseen]:
                raise _used(loaded, part, entry, left)


def _acts(paths: CampaignPaths) -> list[Action]:
    """Return what the campaign did so far, by its record; nothing where it has none."""
    try:
        with open_reader(paths) as reader:
            return [Action.model_validate(row) for row in reader.actions()]
    except NotFoundError:
        return []


def _own_cases(loaded: LoadedCampaign, parts: Iterable[CasePart]) -> set[bytes]:
    """Return the cases that a training file or a selection part of the campaign holds as it is now."""
    own = {case for part in parts if part.use == "selection" for _, case in part.rows}
    for name, written in loaded.goal.data.files.items():
        if written:
            own.update(_rows(name, loaded.resolve(written)))
    return own


def _used(loaded: LoadedCampaign, part: CasePart, entry: Entry, used: list[int]) -> ConfigError:
    who = f"the campaign {entry.body['campaign']} ({entry.body['home']})"
    is_shared = loaded.goal.evaluation.splits[part.name].file
    fix = "put `confirmation_share` back to what it was, or take new cases" if is_shared else "take new cases"
    return _refusal(
        loaded,
        part.name,
        f"{len(used)} confirmation cases of {part.name} are no longer unseen: {who} {entry.body['what']} them (line"
        f"{'s' if len(used) > 1 else ''} {_first_of(used)} of {part.file.name}). A case that was trained or compared on"
        f" confirms nothing: {fix}.",
    )
