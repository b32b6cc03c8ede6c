"""The ledger of cases as people see and reset it, and where it is. Standard library only, for `vigil status`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.asking import me
from agent.reading.words import clock, count
from state.errors import ConfigError
from state.ledger import Entry, Ledger, open_ledger, reset
from state.paths import CampaignPaths
from state.verify import HeadFile
from tools.jobs.accelerator import machine_paths

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
